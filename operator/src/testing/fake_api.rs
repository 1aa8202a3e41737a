//! An API server of a few hundred lines: the handful of endpoints that the operator uses, in memory, with the behaviour that
//! matters here (resourceVersion and UID preconditions, finalizers, dry-run, status subresources), and a switch that lets the
//! caller die after its n-th write.
//!
//! Never: a request that is not understood answered with success; it fails the test.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// Where an object is kept: plural, namespace (empty for cluster-scoped ones), name.
pub(crate) type Key = (String, String, String);

/// Which writes a caller lives through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// All of them.
    Lives,
    /// It dies before its write number `n` (from 0) reaches the server.
    DiesBefore(usize),
    /// Its write number `n` is done, but it dies before the answer comes.
    DiesAfter(usize),
}

/// The server's memory and the caller's fate.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) objects: BTreeMap<Key, Value>,
    /// Notes of the Events that were published: reason and note.
    pub(crate) events: Vec<(String, String)>,
    /// Method and path of each write that was done, Events and reviews left out.
    pub(crate) writes: Vec<String>,
    /// What a dry-run create of a Pod is refused with.
    pub(crate) refuse_pods: Option<String>,
    /// Names of objects of which no patch is let in.
    pub(crate) refuse_patches: BTreeSet<String>,
    /// Token → user, for TokenReviews.
    pub(crate) tokens: BTreeMap<String, String>,
    /// Users that SubjectAccessReviews allow.
    pub(crate) allowed: Vec<String>,
    /// Reviews that were made.
    pub(crate) reviews: usize,
    /// What SubjectAccessReviews were about.
    pub(crate) asked: Vec<Value>,
    /// Every other request is refused for now, the first one to begin with.
    pub(crate) busy: bool,
    /// What somebody else writes just before each of the next writes, the last one first: plural and object.
    pub(crate) just_before: Vec<(String, Value)>,
    refused_last: bool,
    fate: Fate,
    lived_through: usize,
    dead: bool,
    version: u64,
    uids: u64,
}

/// A handle to the fake. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FakeApi(Arc<Mutex<World>>);

/// An answer: status and body.
type Answer = (StatusCode, Value);

impl FakeApi {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(World {
            objects: BTreeMap::new(),
            events: vec![],
            writes: vec![],
            refuse_pods: None,
            refuse_patches: BTreeSet::new(),
            tokens: BTreeMap::new(),
            allowed: vec![],
            reviews: 0,
            asked: vec![],
            busy: false,
            just_before: vec![],
            refused_last: false,
            fate: Fate::Lives,
            lived_through: 0,
            dead: false,
            version: 100,
            uids: 0,
        })))
    }

    /// Works on the server's memory.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }

    /// A new caller with this fate.
    pub(crate) fn client(&self, fate: Fate) -> Client {
        self.with(|w| {
            w.fate = fate;
            w.lived_through = 0;
            w.dead = false;
        });
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Whether the caller died.
    pub(crate) fn died(&self) -> bool {
        self.with(|w| w.dead)
    }

    /// Stores an object as somebody else would create it.
    pub(crate) fn put(&self, plural: &str, object: Value) {
        self.with(|w| w.insert(plural, object));
    }

    /// All objects of a kind.
    pub(crate) fn all<K: serde::de::DeserializeOwned>(&self, plural: &str) -> Vec<K> {
        self.with(|w| {
            let of_kind = w.objects.iter().filter(|((p, _, _), _)| p == plural);
            of_kind
                .map(|(_, o)| serde_json::from_value(o.clone()).unwrap())
                .collect()
        })
    }

    /// One object; it must be there.
    pub(crate) fn get<K: serde::de::DeserializeOwned>(&self, plural: &str, namespace: &str, name: &str) -> K {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        serde_json::from_value(self.with(|w| w.objects.get(&key).cloned()).unwrap()).unwrap()
    }

    /// Changes an object as another writer would.
    pub(crate) fn change(&self, key: &Key, change: impl FnOnce(&mut Value)) {
        self.with(|w| {
            let mut object = w.objects.get(key).cloned().unwrap();
            change(&mut object);
            w.store(key, object);
        });
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let query: Vec<(String, String)> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap()
        };
        let content_type = parts
            .headers
            .get("content-type")
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let dry_run = query.iter().any(|(k, v)| k == "dryRun" && v == "All");
        let (status, answer) = self.with(|w| w.request(&parts.method, parts.uri.path(), content_type, body, dry_run));
        Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(Body::from(serde_json::to_vec(&answer).unwrap()))
            .unwrap()
    }
}

/// The parts of a request's path.
struct Target {
    plural: String,
    namespace: String,
    name: Option<String>,
    subresource: Option<String>,
}

fn target(path: &str) -> Target {
    let mut parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let skip = if parts.first() == Some(&"api") { 2 } else { 3 };
    parts.drain(..skip.min(parts.len()));
    let mut namespace = String::new();
    if parts.len() >= 3 && parts[0] == "namespaces" {
        namespace = parts[1].to_owned();
        parts.drain(..2);
    }
    let part = |n: usize| parts.get(n).map(|s| (*s).to_owned());
    Target {
        plural: part(0).unwrap_or_default(),
        namespace,
        name: part(1),
        subresource: part(2),
    }
}

impl World {
    fn request(&mut self, method: &Method, path: &str, content_type: &str, body: Value, dry_run: bool) -> Answer {
        let to = target(path);
        if self.dead {
            return refused(StatusCode::SERVICE_UNAVAILABLE, "Dead", "the caller is dead");
        }
        if self.busy {
            self.refused_last = !self.refused_last;
            if self.refused_last {
                return refused(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", "not now");
            }
        }
        match to.plural.as_str() {
            "events" => return self.event(&body),
            "tokenreviews" | "subjectaccessreviews" => return self.review(&to.plural, body),
            _ => {}
        }
        if *method == Method::GET {
            return self.read(&to);
        }
        if dry_run {
            return self.dry_run(body);
        }
        let number = self.lived_through;
        self.lived_through += 1;
        if self.fate == Fate::DiesBefore(number) {
            self.dead = true;
            return refused(
                StatusCode::SERVICE_UNAVAILABLE,
                "Dead",
                "the caller died before this write",
            );
        }
        if let Some((plural, object)) = self.just_before.pop() {
            self.insert(&plural, object);
        }
        let answer = match *method {
            Method::POST => self.create(&to, body),
            Method::PUT => self.replace(&to, body),
            Method::PATCH => self.patch(&to, content_type, &body),
            Method::DELETE => self.delete(&to, &body),
            _ => panic!("{method} {path} is not understood"),
        };
        if answer.0.is_success() {
            self.writes.push(format!("{method} {path}"));
        }
        if self.fate == Fate::DiesAfter(number) {
            self.dead = true;
            return refused(
                StatusCode::SERVICE_UNAVAILABLE,
                "Dead",
                "the caller died after this write",
            );
        }
        answer
    }

    fn event(&mut self, body: &Value) -> Answer {
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        self.events.push((text("reason"), text("note")));
        (StatusCode::CREATED, body.clone())
    }

    fn review(&mut self, plural: &str, mut body: Value) -> Answer {
        self.reviews += 1;
        body["status"] = if plural == "tokenreviews" {
            let token = body["spec"]["token"].as_str().unwrap_or_default();
            match self.tokens.get(token) {
                Some(user) => json!({ "authenticated": true, "user": { "username": user } }),
                None => json!({ "authenticated": false }),
            }
        } else {
            self.asked.push(body["spec"]["resourceAttributes"].clone());
            let user = body["spec"]["user"].as_str().unwrap_or_default();
            json!({ "allowed": self.allowed.iter().any(|u| u == user) })
        };
        (StatusCode::CREATED, body)
    }

    fn key(to: &Target) -> Key {
        (
            to.plural.clone(),
            to.namespace.clone(),
            to.name.clone().unwrap_or_default(),
        )
    }

    fn read(&mut self, to: &Target) -> Answer {
        if to.name.is_none() {
            let of_kind = self
                .objects
                .iter()
                .filter(|((p, ns, _), _)| *p == to.plural && (to.namespace.is_empty() || *ns == to.namespace));
            let items: Vec<Value> = of_kind.map(|(_, o)| o.clone()).collect();
            let list = json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": self.version.to_string() }, "items": items });
            return (StatusCode::OK, list);
        }
        match self.objects.get(&Self::key(to)) {
            Some(object) => (StatusCode::OK, object.clone()),
            None => not_found(to),
        }
    }

    fn dry_run(&mut self, body: Value) -> Answer {
        match &self.refuse_pods {
            Some(message) => refused(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message),
            None => (StatusCode::CREATED, body),
        }
    }

    fn create(&mut self, to: &Target, mut body: Value) -> Answer {
        if !to.namespace.is_empty() {
            body["metadata"]["namespace"] = to.namespace.clone().into();
        }
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = (to.plural.clone(), to.namespace.clone(), name.clone());
        if self.objects.contains_key(&key) {
            return refused(
                StatusCode::CONFLICT,
                "AlreadyExists",
                &format!("'{name}' already exists"),
            );
        }
        if let (Some(message), "pods") = (&self.refuse_pods, to.plural.as_str()) {
            return refused(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        }
        (StatusCode::CREATED, self.insert(&to.plural, body))
    }

    fn insert(&mut self, plural: &str, mut object: Value) -> Value {
        self.uids += 1;
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata
            .entry("uid")
            .or_insert_with(|| format!("uid-{}", self.uids).into());
        metadata
            .entry("creationTimestamp")
            .or_insert_with(|| "2026-11-23T10:00:00Z".into());
        let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = (plural.to_owned(), text("namespace"), text("name"));
        self.store(&key, object)
    }

    fn store(&mut self, key: &Key, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let metadata = &object["metadata"];
        let held = metadata["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        if metadata["deletionTimestamp"].is_string() && !held {
            self.objects.remove(key);
        } else {
            self.objects.insert(key.clone(), object.clone());
        }
        object
    }

    fn replace(&mut self, to: &Target, body: Value) -> Answer {
        let Some(old) = self.objects.get(&Self::key(to)).cloned() else {
            return not_found(to);
        };
        if body["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
            return refused(StatusCode::CONFLICT, "Conflict", "the object has been modified");
        }
        let new = match to.subresource.as_deref() {
            Some("status" | "approval") => {
                let mut new = old;
                new["status"] = body["status"].clone();
                new
            }
            Some(other) => panic!("subresource {other} is not understood"),
            None => body,
        };
        (StatusCode::OK, self.store(&Self::key(to), new))
    }

    fn patch(&mut self, to: &Target, content_type: &str, patch: &Value) -> Answer {
        let Some(old) = self.objects.get(&Self::key(to)).cloned() else {
            return not_found(to);
        };
        if to.name.as_ref().is_some_and(|name| self.refuse_patches.contains(name)) {
            return refused(StatusCode::FORBIDDEN, "Forbidden", "an admission policy says no");
        }
        let mut new = old.clone();
        if content_type == "application/json-patch+json" {
            if let Err(message) = json_patch(&mut new, patch) {
                // The real one says nothing more either.
                let _ = message;
                let message = "the server rejected our request due to an error in our request";
                return refused(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
            }
        } else {
            assert_eq!(content_type, "application/merge-patch+json", "patch of {}", to.plural);
            let uid = &patch["metadata"]["uid"];
            if uid.is_string() && *uid != old["metadata"]["uid"] {
                let message = "metadata.uid: Invalid value: field is immutable";
                return refused(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
            }
            let version = &patch["metadata"]["resourceVersion"];
            if version.is_string() && *version != old["metadata"]["resourceVersion"] {
                return refused(StatusCode::CONFLICT, "Conflict", "the object has been modified");
            }
            if to.subresource.as_deref() == Some("status") {
                merge(&mut new["status"], &patch["status"]);
            } else {
                merge(&mut new, patch);
            }
        }
        (StatusCode::OK, self.store(&Self::key(to), new))
    }

    fn delete(&mut self, to: &Target, options: &Value) -> Answer {
        let Some(mut object) = self.objects.get(&Self::key(to)).cloned() else {
            return not_found(to);
        };
        let uid = &options["preconditions"]["uid"];
        if uid.is_string() && *uid != object["metadata"]["uid"] {
            return refused(
                StatusCode::CONFLICT,
                "Conflict",
                "the UID in the precondition does not match",
            );
        }
        object["metadata"]["deletionTimestamp"] = "2026-11-23T11:00:00Z".into();
        (StatusCode::OK, self.store(&Self::key(to), object))
    }
}

fn refused(code: StatusCode, reason: &str, message: &str) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    });
    (code, status)
}

fn not_found(to: &Target) -> Answer {
    let message = format!("{} {:?} not found", to.plural, to.name);
    refused(StatusCode::NOT_FOUND, "NotFound", &message)
}

/// RFC 7386.
fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut into[key.as_str()], value);
        }
    }
}

/// `test` and `remove`, which is all that the operator uses.
fn json_patch(object: &mut Value, operations: &Value) -> Result<(), String> {
    for operation in operations.as_array().unwrap() {
        let path = operation["path"].as_str().unwrap();
        match operation["op"].as_str().unwrap() {
            "test" if object.pointer(path) == Some(&operation["value"]) => {}
            "test" => return Err(format!("testing value {path} failed")),
            "remove" => {
                let (parent, last) = path.rsplit_once('/').unwrap();
                match object.pointer_mut(parent) {
                    Some(Value::Array(items)) => drop(items.remove(last.parse::<usize>().map_err(|e| e.to_string())?)),
                    Some(Value::Object(fields)) => drop(fields.remove(last)),
                    _ => return Err(format!("{path} does not exist")),
                }
            }
            other => panic!("JSON patch {other} is not understood"),
        }
    }
    Ok(())
}
