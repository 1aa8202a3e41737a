//! Volumes and where they are mounted.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIVolumeFile, KeyToPath, Pod, SecretProjection, Volume, VolumeProjection,
};
use kerbside_core::quantity::{Quantity, Resources};

use super::env::{self, Around, Value, of_field, of_resource};
use super::given::Kind;
use super::path::{absolute, check_name, inside};
use super::pull::{PullPolicy, pull_policy};
use super::{Engine, bytes};

/// The mode of files that do not say it.
const MODE: i32 = 0o644;
/// How long a token is good for that does not say it, as by the API.
const EXPIRATION: i64 = 3600;

/// A volume at a place in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Which volume.
    pub volume: String,
    /// Where, absolute.
    pub path: String,
    /// No writing.
    pub read_only: bool,
    /// A directory or a file in the volume.
    pub sub_path: Option<SubPath>,
}

/// A part of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubPath {
    /// As the Pod says it.
    Plain(String),
    /// With `$(NAME)` in it.
    Expression(String),
}

impl Mount {
    /// The part of the volume, for a container with this environment. `Err`: it leads out of the volume.
    pub fn part(&self, known: &BTreeMap<String, String>) -> Result<String, String> {
        match &self.sub_path {
            None => Ok(String::new()),
            Some(SubPath::Plain(path)) => Ok(path.clone()),
            Some(SubPath::Expression(path)) => {
                inside(&env::expand(path, known)).map_err(|m| format!("subPathExpr: {m}"))
            }
        }
    }
}

/// Where a volume comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeWork {
    /// The files of an OCI artefact, read-only.
    Image {
        /// Which.
        reference: String,
        /// When it is fetched.
        pull: PullPolicy,
    },
    /// An empty directory that ends with the attempt.
    EmptyDir {
        /// Bytes.
        size_limit: Option<u64>,
        /// In memory only.
        memory: bool,
    },
    /// Files that the cluster gives, read-only: of ConfigMaps, Secrets, the Pod itself, tokens.
    Files(Vec<Source>),
}

/// Where files of a volume come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Values of an object.
    Object {
        /// Of which kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// Which values, as which files; `None`: each under its own name.
        items: Option<Vec<Item>>,
        /// It may be missing, and so may its values.
        optional: bool,
        /// The mode of files without one.
        mode: u32,
    },
    /// One value.
    Value {
        /// Which.
        value: Value,
        /// As which file.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// A token of the Pod's ServiceAccount.
    Token {
        /// For whom; empty: the API server.
        audience: String,
        /// For how long it is good.
        expiration_seconds: i64,
        /// As which file.
        path: String,
        /// Its mode.
        mode: u32,
    },
}

/// One value of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    key: String,
    path: String,
    mode: Option<u32>,
}

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Who may read it.
    pub mode: u32,
}

impl VolumeWork {
    /// Whether it must never be on a disk.
    pub fn is_in_memory(&self) -> bool {
        match self {
            Self::EmptyDir { memory, .. } => *memory,
            Self::Files(sources) => sources
                .iter()
                .any(|source| matches!(source, Source::Token { .. } | Source::Object { kind: Kind::Secret, .. })),
            Self::Image { .. } => false,
        }
    }

    /// Its files as they are now, by path; `None` for a volume of another kind. `Err`: what is missing.
    pub fn files(&self, around: Around<'_>) -> Result<Option<BTreeMap<String, File>>, String> {
        let Self::Files(sources) = self else { return Ok(None) };
        let mut files = BTreeMap::new();
        for source in sources {
            source.add(around, &mut files)?;
        }
        Ok(Some(files))
    }
}

impl Source {
    fn add(&self, around: Around<'_>, files: &mut BTreeMap<String, File>) -> Result<(), String> {
        match self {
            Self::Object {
                kind,
                name,
                items,
                optional,
                mode,
            } => {
                let Some(data) = around.given.object(*kind, name, *optional)? else {
                    return Ok(());
                };
                let Some(items) = items else {
                    files.extend(data.files().map(|(key, bytes)| {
                        let file = File {
                            bytes: bytes.clone(),
                            mode: *mode,
                        };
                        (key.clone(), file)
                    }));
                    return Ok(());
                };
                for item in items {
                    if let Some(bytes) = around.given.file(*kind, name, &item.key, *optional)? {
                        let file = File {
                            bytes: bytes.to_vec(),
                            mode: item.mode.unwrap_or(*mode),
                        };
                        files.insert(item.path.clone(), file);
                    }
                }
            }
            Self::Value { value, path, mode } => {
                let bytes = value.resolve(around)?.unwrap_or_default();
                files.insert(path.clone(), File { bytes, mode: *mode });
            }
            Self::Token {
                audience,
                expiration_seconds,
                path,
                mode,
            } => {
                let bytes = around.given.token(audience, *expiration_seconds)?.as_bytes().to_vec();
                files.insert(path.clone(), File { bytes, mode: *mode });
            }
        }
        Ok(())
    }
}

/// Reads a volume. `Err`: what of it a vehicle does not have.
pub(super) fn volume(
    volume: &Volume,
    pod: &Pod,
    engine: Engine,
    allocatable: &Resources,
) -> Result<VolumeWork, String> {
    check_name(&volume.name)?;
    if let Some(image) = &volume.image {
        let reference = image.reference.clone().unwrap_or_default();
        return Ok(VolumeWork::Image {
            pull: pull_policy(image.pull_policy.as_deref(), &reference),
            reference,
        });
    }
    if let Some(empty) = &volume.empty_dir {
        let memory = match empty.medium.as_deref() {
            None | Some("") => false,
            Some("Memory") if engine == Engine::Container => true,
            Some(other) => {
                return Err(format!(
                    "emptyDir.medium {other} is not possible with {}",
                    engine.runtime_class()
                ));
            }
        };
        let size_limit = empty
            .size_limit
            .as_ref()
            .map(|q| q.0.parse::<Quantity>().map_err(|e| e.to_string()));
        return Ok(VolumeWork::EmptyDir {
            size_limit: size_limit.transpose()?.map(bytes),
            memory,
        });
    }
    let own = Container::default();
    let read = Reading {
        pod,
        own: &own,
        allocatable,
    };
    if let Some(map) = &volume.config_map {
        let projection = ConfigMapProjection {
            name: map.name.clone(),
            items: map.items.clone(),
            optional: map.optional,
        };
        let mode = mode(map.default_mode, None);
        return Ok(VolumeWork::Files(vec![config_map(&projection, mode)?]));
    }
    if let Some(secret) = &volume.secret {
        let projection = SecretProjection {
            name: secret.secret_name.clone().unwrap_or_default(),
            items: secret.items.clone(),
            optional: secret.optional,
        };
        let mode = mode(secret.default_mode, None);
        return Ok(VolumeWork::Files(vec![self::secret(&projection, mode)?]));
    }
    if let Some(downward) = &volume.downward_api {
        let default = mode(downward.default_mode, None);
        let items = downward.items.iter().flatten().map(|item| read.downward(item, default));
        return Ok(VolumeWork::Files(items.collect::<Result<_, _>>()?));
    }
    if let Some(projected) = &volume.projected {
        let default = mode(projected.default_mode, None);
        let mut sources = Vec::new();
        for projection in projected.sources.iter().flatten() {
            sources.extend(read.projection(projection, default)?);
        }
        return Ok(VolumeWork::Files(sources));
    }
    let kinds = serde_json::to_value(volume).unwrap_or_default();
    let kind = kinds
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .find(|key| *key != "name");
    Err(format!(
        "{} volumes are not possible in a vehicle; it has emptyDir, image, configMap, secret, downwardAPI and projected",
        kind.unwrap_or("such")
    ))
}

struct Reading<'a> {
    pod: &'a Pod,
    own: &'a Container,
    allocatable: &'a Resources,
}

impl Reading<'_> {
    fn projection(&self, projection: &VolumeProjection, default: u32) -> Result<Vec<Source>, String> {
        if let Some(map) = &projection.config_map {
            return Ok(vec![config_map(map, default)?]);
        }
        if let Some(secret) = &projection.secret {
            return Ok(vec![self::secret(secret, default)?]);
        }
        if let Some(downward) = &projection.downward_api {
            let items = downward.items.iter().flatten();
            return items.map(|item| self.downward(item, default)).collect();
        }
        match &projection.service_account_token {
            Some(token) => Ok(vec![Source::Token {
                audience: token.audience.clone().unwrap_or_default(),
                expiration_seconds: token.expiration_seconds.unwrap_or(EXPIRATION),
                path: inside(&token.path)?,
                mode: default,
            }]),
            None => Err(
                "a projected volume in a vehicle has configMap, secret, downwardAPI and serviceAccountToken".to_owned(),
            ),
        }
    }

    fn downward(&self, file: &DownwardAPIVolumeFile, default: u32) -> Result<Source, String> {
        let value = match (&file.field_ref, &file.resource_field_ref) {
            (Some(field), _) => of_field(field)?,
            (None, Some(resource)) => of_resource(resource, self.own, self.pod, self.allocatable)?,
            (None, None) => return Err(format!("{} has neither fieldRef nor resourceFieldRef", file.path)),
        };
        Ok(Source::Value {
            value,
            path: inside(&file.path)?,
            mode: mode(file.mode, Some(default)),
        })
    }
}

fn config_map(map: &ConfigMapProjection, mode: u32) -> Result<Source, String> {
    Ok(Source::Object {
        kind: Kind::ConfigMap,
        name: map.name.clone(),
        items: items(map.items.as_deref())?,
        optional: map.optional == Some(true),
        mode,
    })
}

fn secret(secret: &SecretProjection, mode: u32) -> Result<Source, String> {
    Ok(Source::Object {
        kind: Kind::Secret,
        name: secret.name.clone(),
        items: items(secret.items.as_deref())?,
        optional: secret.optional == Some(true),
        mode,
    })
}

fn items(items: Option<&[KeyToPath]>) -> Result<Option<Vec<Item>>, String> {
    let read = |item: &KeyToPath| {
        Ok(Item {
            key: item.key.clone(),
            path: inside(&item.path)?,
            mode: item.mode.map(|mode| self::mode(Some(mode), None)),
        })
    };
    items.map(|items| items.iter().map(read).collect()).transpose()
}

fn mode(mode: Option<i32>, default: Option<u32>) -> u32 {
    let otherwise = default.unwrap_or_else(|| u32::try_from(MODE).unwrap_or_default());
    mode.and_then(|mode| u32::try_from(mode).ok())
        .map_or(otherwise, |mode| mode & 0o777)
}

/// Where a container has its volumes. `Err`: which of the paths is none.
pub(super) fn mounts(container: &Container) -> Result<Vec<Mount>, String> {
    let some = |path: &Option<String>| path.clone().filter(|path| !path.is_empty());
    let mounts = container.volume_mounts.iter().flatten().map(|mount| {
        let sub_path = match (some(&mount.sub_path), some(&mount.sub_path_expr)) {
            (Some(path), _) => Some(SubPath::Plain(inside(&path)?)),
            (None, expression) => expression.map(SubPath::Expression),
        };
        Ok(Mount {
            volume: mount.name.clone(),
            path: absolute(&mount.mount_path)?,
            read_only: mount.read_only == Some(true),
            sub_path,
        })
    });
    mounts.collect()
}

#[cfg(test)]
mod tests {
    use kerbside_link::proto::{ObjectKind, Provide, ServiceAccountToken};
    use serde_json::{Value as Json, json};

    use super::super::given::Given;
    use super::super::given::tests::{absent, object};
    use super::*;

    #[expect(clippy::unwrap_in_result, reason = "the volume is written here")]
    fn read(mut json: Json) -> Result<VolumeWork, String> {
        json["name"] = "v".into();
        let pod = Pod::default();
        volume(
            &serde_json::from_value(json).unwrap(),
            &pod,
            Engine::Container,
            &Resources::default(),
        )
    }

    fn files(json: Json, given: &Given) -> Result<Vec<String>, String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"a": "1"}}}))
            .map_err(|e| e.to_string())?;
        let around = Around {
            pod: &pod,
            given,
            address: None,
        };
        let files = read(json)?.files(around)?.ok_or("it has no files")?;
        Ok(files
            .iter()
            .map(|(path, file)| format!("{path} {:o} {}", file.mode, String::from_utf8_lossy(&file.bytes)))
            .collect())
    }

    fn given() -> Given {
        Given::from(Provide {
            objects: vec![
                object(ObjectKind::ConfigMap, "c", &[("a", "1"), ("b", "2")]),
                object(ObjectKind::Secret, "s", &[("k", "hush")]),
                absent(ObjectKind::Secret, "none"),
            ],
            tokens: vec![ServiceAccountToken {
                audience: "vault".to_owned(),
                expiration_seconds: 7200,
                token: "t".to_owned(),
                missing: String::new(),
            }],
            ..Provide::default()
        })
    }

    #[test]
    fn values_are_files_under_their_own_names_or_as_the_volume_says() {
        let all = files(json!({"configMap": {"name": "c"}}), &given()).unwrap();
        assert_eq!(all, ["a 644 1", "b 644 2"]);
        let some = json!({"secret": {"secretName": "s", "defaultMode": 0o400, "items": [{"key": "k", "path": "deep/key", "mode": 0o600}]}});
        assert_eq!(files(some, &given()).unwrap(), ["deep/key 600 hush"]);
    }

    #[test]
    fn projected_volume_has_the_files_of_all_its_sources() {
        let all = json!({"projected": {"defaultMode": 0o440, "sources": [
            {"configMap": {"name": "c", "items": [{"key": "a", "path": "a"}]}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 7200}},
            {"secret": {"name": "none", "optional": true}},
        ]}});
        assert!(read(all.clone()).unwrap().is_in_memory());
        assert_eq!(
            files(all, &given()).unwrap(),
            ["a 440 1", "labels 440 a=\"1\"", "token 440 t"]
        );
    }

    #[test]
    fn what_is_missing_or_leads_out_of_the_volume_is_named() {
        for (json, says) in [
            (json!({"configMap": {"name": "none"}}), "configmap \"none\" not found"),
            (
                json!({"secret": {"secretName": "s", "items": [{"key": "x", "path": "x"}]}}),
                "couldn't find key x in secret s",
            ),
            (
                json!({"configMap": {"name": "c", "items": [{"key": "a", "path": "../a"}]}}),
                "..",
            ),
            (
                json!({"projected": {"sources": [{"clusterTrustBundle": {"path": "x"}}]}}),
                "serviceAccountToken",
            ),
            (json!({"hostPath": {"path": "/"}}), "hostPath"),
            (json!({"emptyDir": {"medium": "HugePages"}}), "HugePages"),
        ] {
            let message = files(json, &given()).unwrap_err();
            assert!(message.contains(says), "{message}");
        }
    }
}
