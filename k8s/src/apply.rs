//! Writes to the API server: server-side apply, status with a precondition, JSON patch, deletes with a UID.
//!
//! Every write goes through here so that each has a field manager and a precondition where a stale cache could do harm. An
//! answer that means "this object is not what you thought" is a value ([`Written::Stale`]), not an error: its caller looks
//! again and never repeats the same write.

use std::fmt::Debug;

use kube::Resource;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What became of a write that carried a precondition.
#[derive(Debug, Clone, PartialEq)]
pub enum Written<K> {
    /// The server has it; this is the object as it is now.
    Done(Box<K>),
    /// The object has changed, is another one of the same name, or is gone: look again.
    Stale,
}

impl<K> Written<K> {
    /// The object, where the write was done.
    pub fn done(self) -> Option<K> {
        match self {
            Self::Done(k) => Some(*k),
            Self::Stale => None,
        }
    }

    /// The precondition did not hold.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Stale)
    }
}

/// Whether `error` says that a precondition did not hold: 404, 409, or the 422 that a patch with another UID gets.
pub fn is_stale(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(s) => s.is_not_found() || s.is_conflict() || (s.is_invalid() && says_uid(&s.message)),
        _ => false,
    }
}

/// The API server answers a patch that carries another `metadata.uid` with 422 and "field is immutable" on `metadata.uid`.
fn says_uid(message: &str) -> bool {
    message.contains("metadata.uid")
}

/// The API server (1.37, seen) answers a JSON patch that does not apply, by a failed `test` or a missing path, with a 422 that says
/// nothing at all; one whose *result* is invalid names the object and the field.
fn does_not_apply(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(s) => {
            let details = s.details.as_ref();
            s.is_invalid() && details.is_none_or(|d| d.name.is_empty() && d.causes.is_empty())
        }
        _ => false,
    }
}

fn stale_or<K>(result: Result<K, kube::Error>) -> Result<Written<K>, kube::Error> {
    match result {
        Ok(k) => Ok(Written::Done(Box::new(k))),
        Err(e) if is_stale(&e) => Ok(Written::Stale),
        Err(e) => Err(e),
    }
}

/// Server-side apply of `object` (only the fields that `manager` owns), taking over fields from others.
///
/// `object` must be sparse: a whole typed object would take ownership of every defaulted field.
pub async fn apply<K, T>(api: &Api<K>, name: &str, manager: &str, object: &T) -> Result<K, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
    T: Serialize + Debug + Sync,
{
    api.patch(name, &PatchParams::apply(manager).force(), &Patch::Apply(object))
        .await
}

/// Merge patch of `status` for the object with this `uid`, optionally only if nobody wrote since `resource_version`.
///
/// The UID is a precondition for built-in kinds only: the API server ignores it in the status of custom resources, where
/// `resource_version` is what keeps a write from an object of the same name.
pub async fn merge_status<K>(
    api: &Api<K>,
    name: &str,
    uid: &str,
    resource_version: Option<&str>,
    manager: &str,
    status: Value,
) -> Result<Written<K>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut metadata = json!({ "uid": uid });
    if let (Some(rv), Some(m)) = (resource_version, metadata.as_object_mut()) {
        m.insert("resourceVersion".into(), rv.into());
    }
    let patch = json!({ "metadata": metadata, "status": status });
    let params = PatchParams {
        field_manager: Some(manager.to_owned()),
        ..PatchParams::default()
    };
    stale_or(api.patch_status(name, &params, &Patch::Merge(patch)).await)
}

/// Strategic merge patch of `status` for the object with this `uid`: conditions and container statuses merge by their keys, so
/// that conditions of other writers stay.
pub async fn strategic_status<K>(
    api: &Api<K>,
    name: &str,
    uid: &str,
    manager: &str,
    status: Value,
) -> Result<Written<K>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let patch = json!({ "metadata": { "uid": uid }, "status": status });
    let params = PatchParams {
        field_manager: Some(manager.to_owned()),
        ..PatchParams::default()
    };
    stale_or(api.patch_status(name, &params, &Patch::Strategic(patch)).await)
}

/// JSON patch; put a `test` first. A patch that does not apply, for its test fails or its path is gone, is [`Written::Stale`].
pub async fn json_patch<K>(
    api: &Api<K>,
    name: &str,
    manager: &str,
    operations: Vec<Value>,
) -> Result<Written<K>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let patch: Patch<()> = match serde_json::from_value(Value::Array(operations)) {
        Ok(p) => Patch::Json(p),
        Err(e) => return Err(kube::Error::SerdeError(e)),
    };
    let params = PatchParams {
        field_manager: Some(manager.to_owned()),
        ..PatchParams::default()
    };
    match api.patch(name, &params, &patch).await {
        Err(e) if does_not_apply(&e) => Ok(Written::Stale),
        other => stale_or(other),
    }
}

/// DELETE of the object with this `uid` and no other; [`Written::Stale`] if it is already gone or replaced.
///
/// `grace_seconds` of `None` leaves the object's own grace.
pub async fn delete<K>(
    api: &Api<K>,
    name: &str,
    uid: &str,
    grace_seconds: Option<u32>,
) -> Result<Written<()>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let params = DeleteParams {
        grace_period_seconds: grace_seconds,
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    stale_or(api.delete(name, &params).await.map(drop))
}

/// DELETE of the object as it was read, and of no later version; [`Written::Stale`] if it is gone, replaced or written since.
pub async fn delete_as_read<K>(api: &Api<K>, object: &K) -> Result<Written<()>, kube::Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let metadata = object.meta();
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: metadata.uid.clone(),
            resource_version: metadata.resource_version.clone(),
        }),
        ..DeleteParams::default()
    };
    let name = metadata.name.as_deref().unwrap_or_default();
    stale_or(api.delete(name, &params).await.map(drop))
}

/// Takes `finalizer` off the object with this `uid`; done also if it was not there.
///
/// `current` are the finalizers as the caller last saw them: the patch tests them, so that a finalizer which somebody added
/// in between is never lost.
pub async fn remove_finalizer<K>(
    api: &Api<K>,
    name: &str,
    uid: &str,
    current: &[String],
    finalizer: &str,
    manager: &str,
) -> Result<Written<()>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let Some(position) = current.iter().position(|f| f == finalizer) else {
        return Ok(Written::Done(Box::new(())));
    };
    let path = format!("/metadata/finalizers/{position}");
    let operations = vec![
        json!({ "op": "test", "path": "/metadata/uid", "value": uid }),
        json!({ "op": "test", "path": path, "value": finalizer }),
        json!({ "op": "remove", "path": path }),
    ];
    Ok(match json_patch(api, name, manager, operations).await? {
        Written::Done(_) => Written::Done(Box::new(())),
        Written::Stale => Written::Stale,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As kube-apiserver 1.37 answered.
    fn answer(code: u16, reason: &str, message: &str, details: &Value) -> kube::Error {
        let status = json!({
            "status": "Failure", "code": code, "reason": reason, "message": message, "details": details,
        });
        kube::Error::Api(Box::new(serde_json::from_value(status).expect("it is a Status")))
    }

    const GENERIC: &str = "the server rejected our request due to an error in our request";

    #[test]
    fn json_patch_whose_test_fails_does_not_apply() {
        assert!(does_not_apply(&answer(422, "Invalid", GENERIC, &json!({}))));
    }

    #[test]
    fn json_patch_whose_result_is_invalid_is_an_error() {
        let details = json!({ "name": "p", "kind": "Pod", "causes": [{ "field": "metadata.labels" }] });
        let error = answer(
            422,
            "Invalid",
            "Pod \"p\" is invalid: metadata.labels: Invalid value",
            &details,
        );
        assert!(!does_not_apply(&error) && !is_stale(&error));
    }

    #[rstest::rstest]
    #[case(404, "NotFound", "pods \"p\" not found")]
    #[case(409, "Conflict", "the object has been modified")]
    #[case(
        422,
        "Invalid",
        "Pod \"p\" is invalid: metadata.uid: Invalid value: \"u\": field is immutable"
    )]
    fn answer_that_the_object_is_another_is_stale(#[case] code: u16, #[case] reason: &str, #[case] message: &str) {
        assert!(is_stale(&answer(code, reason, message, &json!({ "name": "p" }))));
    }
}
