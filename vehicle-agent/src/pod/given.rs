//! What a Pod refers to and its JSON does not hold: ConfigMaps, Secrets, tokens, what the cluster says of its host and of Services; and what
//! of the Pod changes while it runs.
//!
//! The adapter gives it, and again whenever it changes. It is kept in memory only.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::EphemeralContainer;
use kerbside_core::attempt::NotReady;
use kerbside_link::proto::{ObjectKind, Provide};

/// A container that cannot start for what its Pod says or refers to: as the kubelet says it, and tried again when that has changed.
pub fn config_error(message: String) -> NotReady {
    NotReady {
        reason: "CreateContainerConfigError".to_owned(),
        meanwhile: None,
        message,
        retry: true,
    }
}

/// Which kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl Kind {
    /// In the kubelet's words.
    fn word(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }
}

/// The values of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data {
    /// Values that may be variables and files.
    pub text: BTreeMap<String, Vec<u8>>,
    /// Values that are files only.
    pub binary: BTreeMap<String, Vec<u8>>,
}

impl Data {
    /// Every value, as files.
    pub fn files(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.text.iter().chain(&self.binary)
    }
}

/// Why an object is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Missing {
    why: String,
    /// It does not exist, which may be well.
    absent: bool,
}

/// All of it, as it is now. Debug shows no content.
#[derive(Clone, Default, PartialEq)]
pub struct Given {
    objects: BTreeMap<(Kind, String), Result<Data, Missing>>,
    tokens: BTreeMap<(String, i64), Result<String, String>>,
    /// The address of the Pod's host, as the cluster sees it.
    pub host_ip: String,
    /// The variables that tell of Services.
    pub services: BTreeMap<String, String>,
    /// What its images are fetched with, by registry and repository.
    pulls: BTreeMap<String, Result<String, String>>,
    /// The containers that were added to the Pod to look at it.
    pub ephemeral: Vec<EphemeralContainer>,
    /// The Pod's labels and annotations, if they are not those that it came with.
    pub metadata: Option<Metadata>,
}

/// What of a Pod changes while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given")
            .field("objects", &self.objects.keys())
            .finish_non_exhaustive()
    }
}

impl From<Provide> for Given {
    fn from(provide: Provide) -> Self {
        let or = |missing: String| if missing.is_empty() { None } else { Some(missing) };
        let objects = provide.objects.into_iter().filter_map(|object| {
            let kind = match object.kind() {
                ObjectKind::ConfigMap => Kind::ConfigMap,
                ObjectKind::Secret => Kind::Secret,
                // Of a newer adapter; whoever needs it misses it by name.
                ObjectKind::Unspecified => return None,
            };
            let bytes = |values: BTreeMap<String, bytes::Bytes>| {
                values.into_iter().map(|(key, value)| (key, value.to_vec())).collect()
            };
            let absent = object.absent;
            let read = match or(object.missing) {
                Some(why) => Err(Missing { why, absent }),
                None => Ok(Data {
                    text: bytes(object.data.into_iter().collect()),
                    binary: bytes(object.binary_data.into_iter().collect()),
                }),
            };
            Some(((kind, object.name), read))
        });
        let tokens = provide.tokens.into_iter().map(|token| {
            let key = (token.audience, token.expiration_seconds);
            (key, or(token.missing).map_or(Ok(token.token), Err))
        });
        let pulls = provide.pull_tokens.into_iter().map(|pull| {
            let key = format!("{}/{}", pull.registry, pull.repository);
            (key, or(pull.missing).map_or(Ok(pull.token), Err))
        });
        Self {
            objects: objects.collect(),
            tokens: tokens.collect(),
            host_ip: provide.host_ip,
            services: provide.services.into_iter().collect(),
            pulls: pulls.collect(),
            ephemeral: ephemeral(&provide.ephemeral_containers_json),
            metadata: provide.metadata.map(|metadata| Metadata {
                labels: metadata.labels.into_iter().collect(),
                annotations: metadata.annotations.into_iter().collect(),
            }),
        }
    }
}

/// The Pod itself is not in doubt: what cannot be read was written by a newer cluster, and is not begun.
fn ephemeral(json: &[u8]) -> Vec<EphemeralContainer> {
    if json.is_empty() {
        return Vec::new();
    }
    serde_json::from_slice(json).unwrap_or_else(|error| {
        tracing::warn!(%error, "containers that were added to a Pod cannot be read");
        Vec::new()
    })
}

impl Given {
    /// The data of an object; `Ok(None)`: it may be missing, and is. `Err`: why it is missing, in the kubelet's words.
    pub fn object(&self, kind: Kind, name: &str, optional: bool) -> Result<Option<&Data>, String> {
        match self.objects.get(&(kind, name.to_owned())) {
            Some(Ok(data)) => Ok(Some(data)),
            Some(Err(missing)) if optional && missing.absent => Ok(None),
            Some(Err(missing)) => Err(missing.why.clone()),
            None => Err(format!("{} \"{name}\" not found", kind.word())),
        }
    }

    /// One value of an object, for a variable.
    pub fn key(&self, kind: Kind, name: &str, key: &str, optional: bool) -> Result<Option<&[u8]>, String> {
        let Some(data) = self.object(kind, name, optional)? else {
            return Ok(None);
        };
        one(data.text.get(key), kind, name, key, optional)
    }

    /// One value of an object, for a file.
    pub fn file(&self, kind: Kind, name: &str, key: &str, optional: bool) -> Result<Option<&[u8]>, String> {
        let Some(data) = self.object(kind, name, optional)? else {
            return Ok(None);
        };
        one(
            data.text.get(key).or_else(|| data.binary.get(key)),
            kind,
            name,
            key,
            optional,
        )
    }

    /// Tokens to fetch images with, by registry and repository.
    pub fn credentials(&self) -> BTreeMap<String, String> {
        let there = |(key, token): (&String, &Result<String, String>)| Some((key.clone(), token.clone().ok()?));
        self.pulls.iter().filter_map(there).collect()
    }

    /// Why there is none for an image of this name, if there should be one.
    pub fn pull_trouble(&self, key: &str) -> Option<&str> {
        self.pulls.get(key)?.as_ref().err().map(String::as_str)
    }

    /// A token.
    pub fn token(&self, audience: &str, expiration_seconds: i64) -> Result<&str, String> {
        match self.tokens.get(&(audience.to_owned(), expiration_seconds)) {
            Some(Ok(token)) => Ok(token),
            Some(Err(missing)) => Err(missing.clone()),
            None => Err("the cluster gave no token of the Pod's ServiceAccount".to_owned()),
        }
    }
}

fn one<'a>(
    value: Option<&'a Vec<u8>>,
    kind: Kind,
    name: &str,
    key: &str,
    optional: bool,
) -> Result<Option<&'a [u8]>, String> {
    match value {
        Some(value) => Ok(Some(value)),
        None if optional => Ok(None),
        None => Err(format!("couldn't find key {key} in {} {name}", kind.word())),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use kerbside_link::proto::{Object, ServiceAccountToken};

    use super::*;

    /// An object that is there.
    pub(crate) fn object(kind: ObjectKind, name: &str, data: &[(&str, &str)]) -> Object {
        Object {
            kind: kind.into(),
            name: name.to_owned(),
            data: data
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec().into()))
                .collect(),
            ..Object::default()
        }
    }

    /// An object that does not exist.
    pub(crate) fn absent(kind: ObjectKind, name: &str) -> Object {
        Object {
            missing: format!("\"{name}\" not found"),
            absent: true,
            ..object(kind, name, &[])
        }
    }

    #[test]
    fn what_is_missing_says_so_unless_it_may_be() {
        let gone = Object {
            missing: "configmap \"gone\" not found".to_owned(),
            absent: true,
            ..object(ObjectKind::ConfigMap, "gone", &[])
        };
        let barred = Object {
            missing: "it may not be read".to_owned(),
            ..object(ObjectKind::ConfigMap, "barred", &[])
        };
        let picture = Object {
            binary_data: [("png".to_owned(), vec![0, 1].into())].into(),
            ..object(ObjectKind::ConfigMap, "picture", &[])
        };
        let given = Given::from(Provide {
            objects: vec![object(ObjectKind::Secret, "s", &[("k", "v")]), gone, barred, picture],
            tokens: vec![ServiceAccountToken {
                token: "t".to_owned(),
                expiration_seconds: 3600,
                ..ServiceAccountToken::default()
            }],
            ..Provide::default()
        });
        assert_eq!(given.key(Kind::Secret, "s", "k", false), Ok(Some(b"v".as_slice())));
        assert_eq!(given.key(Kind::Secret, "s", "none", true), Ok(None));
        assert_eq!(
            given.key(Kind::Secret, "s", "none", false).unwrap_err(),
            "couldn't find key none in secret s"
        );
        assert_eq!(given.object(Kind::ConfigMap, "gone", true), Ok(None));
        for name in ["gone", "never"] {
            let message = given.object(Kind::ConfigMap, name, false).unwrap_err();
            assert_eq!(message, format!("configmap \"{name}\" not found"));
        }
        let barred = given.object(Kind::ConfigMap, "barred", true);
        assert_eq!(
            barred.unwrap_err(),
            "it may not be read",
            "only what does not exist may be missing"
        );
        assert_eq!(
            given.file(Kind::ConfigMap, "picture", "png", false),
            Ok(Some([0, 1].as_slice()))
        );
        assert!(
            given.key(Kind::ConfigMap, "picture", "png", false).is_err(),
            "it is no variable"
        );
        assert_eq!(given.token("", 3600), Ok("t"));
        assert!(given.token("other", 3600).is_err());
        assert!(!format!("{given:?}").contains("118"), "no content is shown");
    }
}
