//! Volumes and where they are mounted.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Volume};
use kerbside_core::quantity::Quantity;

use super::path::{absolute, check_name, inside};
use super::pull::{PullPolicy, pull_policy};
use super::{Engine, bytes, env};

/// A volume at a place in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Which volume.
    pub volume: String,
    /// Where, absolute.
    pub path: String,
    /// No writing.
    pub read_only: bool,
    /// A directory in the volume.
    pub sub_path: Option<String>,
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
    },
}

/// Reads a volume. `Err`: what of it a vehicle does not have.
pub(super) fn volume(volume: &Volume, engine: Engine) -> Result<VolumeWork, String> {
    check_name(&volume.name)?;
    if let Some(image) = &volume.image {
        let reference = image.reference.clone().unwrap_or_default();
        return Ok(VolumeWork::Image {
            pull: pull_policy(image.pull_policy.as_deref(), &reference),
            reference,
        });
    }
    if let Some(empty) = &volume.empty_dir {
        match (empty.medium.as_deref(), engine) {
            (None | Some(""), _) => {}
            (Some(medium), _) => return Err(format!("emptyDir.medium {medium} is not possible in a vehicle yet")),
        }
        let size_limit = empty
            .size_limit
            .as_ref()
            .map(|q| q.0.parse::<Quantity>().map_err(|e| e.to_string()));
        return Ok(VolumeWork::EmptyDir {
            size_limit: size_limit.transpose()?.map(bytes),
        });
    }
    let kinds = serde_json::to_value(volume).unwrap_or_default();
    let kind = kinds
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .find(|key| *key != "name");
    Err(format!(
        "{} volumes are not supported yet; a vehicle has image and emptyDir",
        kind.unwrap_or("such")
    ))
}

/// Where a container has its volumes. `Err`: which of the paths is none.
pub(super) fn mounts(container: &Container, known: &BTreeMap<String, String>) -> Result<Vec<Mount>, String> {
    let mounts = container.volume_mounts.iter().flatten().map(|mount| {
        let expanded = mount.sub_path_expr.as_deref().map(|path| env::expand(path, known));
        let sub_path = mount.sub_path.clone().or(expanded).filter(|path| !path.is_empty());
        Ok(Mount {
            volume: mount.name.clone(),
            path: absolute(&mount.mount_path)?,
            read_only: mount.read_only == Some(true),
            sub_path: sub_path.map(|path| inside(&path)).transpose()?,
        })
    });
    mounts.collect()
}
