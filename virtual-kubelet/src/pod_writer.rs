//! The two writes to a Pod: its status, and its deletion. Both name the UID, so that a Pod made again under the same name is never
//! touched.
//!
//! Called by the actor's jobs. An answer that says "not the Pod you mean" (404, 409, 422 on the UID) is [`Written::Stale`]: the write is
//! dropped.

use k8s_openapi::api::core::v1::Pod;
use kerbside_core::ids::PodUid;
use kerbside_k8s::apply::{self, Written, is_stale};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::context::MANAGER;

/// Which Pod, and from which version of it the write was computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodRef {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: PodUid,
    /// The write holds only for this version: an end must not be written over another end.
    pub(crate) version: Option<String>,
}

impl PodRef {
    /// The Pod as it is read; None for an object without a name or UID.
    pub(crate) fn of(pod: &Pod) -> Option<Self> {
        Some(Self {
            namespace: pod.metadata.namespace.clone()?,
            name: pod.metadata.name.clone()?,
            uid: pod.metadata.uid.as_ref()?.parse().ok()?,
            version: None,
        })
    }

    /// Only this version of it.
    pub(crate) fn at_version_of(self, pod: &Pod) -> Self {
        Self {
            version: pod.metadata.resource_version.clone(),
            ..self
        }
    }
}

/// Merges `status` into the Pod's.
pub(crate) async fn write_status(client: &Client, pod: &PodRef, status: Value) -> Result<Written<Pod>, kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let mut metadata = json!({ "uid": pod.uid });
    if let (Some(version), Some(m)) = (&pod.version, metadata.as_object_mut()) {
        m.insert("resourceVersion".into(), json!(version));
    }
    let patch = json!({ "metadata": metadata, "status": status });
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match api.patch_status(&pod.name, &params, &Patch::Strategic(patch)).await {
        Ok(pod) => Ok(Written::Done(Box::new(pod))),
        Err(error) if is_stale(&error) => Ok(Written::Stale),
        Err(error) => Err(error),
    }
}

/// Deletes the Pod with this grace; with 0 it confirms that nothing of it is alive.
pub(crate) async fn delete(client: &Client, pod: &PodRef, grace_seconds: u32) -> Result<Written<()>, kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    apply::delete(&api, &pod.name, pod.uid.as_str(), Some(grace_seconds)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{client, respond};

    fn pod() -> PodRef {
        PodRef {
            namespace: "ns".into(),
            name: "p".into(),
            uid: "u-1".parse().unwrap(),
            version: None,
        }
    }

    fn refusal(code: u16, reason: &str, message: &str) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
    }

    #[tokio::test]
    async fn status_write_names_uid_and_version() {
        let (client, mut server) = client();
        let found = json!({"metadata": {"name": "p", "uid": "u-1"}});
        let about = PodRef {
            version: Some("7".into()),
            ..pod()
        };
        let write = write_status(&client, &about, json!({"phase": "Failed"}));
        let (written, (method, path, body)) = futures::join!(write, respond(&mut server, 200, found));
        assert!(!written.unwrap().is_stale());
        assert_eq!(
            (method.as_str(), path.as_str()),
            ("PATCH", "/api/v1/namespaces/ns/pods/p/status")
        );
        assert_eq!(
            body,
            json!({"metadata": {"uid": "u-1", "resourceVersion": "7"}, "status": {"phase": "Failed"}})
        );
    }

    #[rstest::rstest]
    #[case::gone(404, "NotFound", "pods \"p\" not found")]
    #[case::conflict(409, "Conflict", "the UID in the precondition does not match")]
    #[case::another(
        422,
        "Invalid",
        "Pod \"p\" is invalid: metadata.uid: Invalid value: \"u-1\": field is immutable"
    )]
    #[tokio::test]
    async fn status_write_of_another_pod_of_the_same_name_is_dropped(
        #[case] code: u16,
        #[case] reason: &str,
        #[case] message: &str,
    ) {
        let (client, mut server) = client();
        let (pod, refusal) = (pod(), refusal(code, reason, message));
        let (written, _) = futures::join!(
            write_status(&client, &pod, json!({})),
            respond(&mut server, code, refusal)
        );
        assert!(written.unwrap().is_stale());
    }

    #[tokio::test]
    async fn status_write_that_is_forbidden_is_an_error() {
        let (client, mut server) = client();
        let (pod, refusal) = (pod(), refusal(403, "Forbidden", "no"));
        let (written, _) = futures::join!(
            write_status(&client, &pod, json!({})),
            respond(&mut server, 403, refusal)
        );
        assert!(written.is_err());
    }

    #[tokio::test]
    async fn delete_carries_grace_and_uid() {
        let (client, mut server) = client();
        let (pod, success) = (
            pod(),
            json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
        );
        let (deleted, (method, _, body)) = futures::join!(delete(&client, &pod, 0), respond(&mut server, 200, success));
        assert!(!deleted.unwrap().is_stale());
        assert_eq!(method, "DELETE");
        assert_eq!(
            (&body["gracePeriodSeconds"], &body["preconditions"]["uid"]),
            (&json!(0), &json!("u-1"))
        );
    }
}
