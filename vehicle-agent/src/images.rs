//! Images: programs and data from OCI registries, in a cache by digest.
//!
//! Called by the actors of attempts when they make a container ready. Nothing is given out whose bytes do not have the digest of the
//! manifest, and a manifest not the one of the reference. Several attempts that want the same image wait for one download.

mod container;
mod declined;
mod door;
pub mod manifest;
mod registry;
mod signature;
mod signed;
mod unpack;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kerbside_core::attempt::NotReady;
use kerbside_core::names::reason;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use oci_client::Reference;
use serde::{Deserialize, Serialize};
use tokio::fs;

pub use self::container::{ContainerImage, EngineImages};
use self::declined::Declined;
use self::door::Door;
use self::manifest::Manifest;
use self::registry::{Registry, digest_of, hex_of};
pub(crate) use self::signature::is_usable;
pub use self::signed::Wanted;
use self::unpack::{Bounds, UnpackError};
use crate::directory;
use crate::pod::PullPolicy;
use crate::uplink::Uplink;

/// No module of a program is larger.
const MODULE_MAX: u64 = 256 << 20;
/// No artefact of data is larger, packed or unpacked.
const FILES_MAX: Bounds = Bounds {
    bytes: 8 << 30,
    files: 200_000,
};

/// An image that is not there.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference cannot name an image.
    #[error("'{reference}' is not an image reference: {message}")]
    Name {
        /// The reference.
        reference: String,
        /// Why.
        message: String,
    },
    /// The policy forbids to fetch it.
    #[error("{0} is not in the vehicle, and its pull policy is Never")]
    Never(String),
    /// The registry did not give it, or gave something else.
    #[error("failed to pull image: {0}")]
    Pull(String),
    /// Nobody has signed it whom the owner trusts.
    #[error("{0}")]
    Unsigned(String),
    /// The container engine does not answer.
    #[error("failed to reach the container engine: {0}")]
    Engine(String),
    /// The container engine cannot be let in.
    #[error("failed to open a way for the container engine to pull")]
    Door(#[source] io::Error),
    /// Its layers are not unpacked.
    #[error("failed to pull image")]
    Unpack(#[from] UnpackError),
    /// The disk does not take it.
    #[error("failed to store image")]
    Disk(#[source] io::Error),
}

impl From<ImageError> for NotReady {
    fn from(error: ImageError) -> Self {
        let cause = std::error::Error::source(&error)
            .map(|cause| format!(": {cause}"))
            .unwrap_or_default();
        let message = format!("{error}{cause}");
        let (reason, meanwhile, retry) = match error {
            ImageError::Name { .. } => ("InvalidImageName", None, false),
            ImageError::Never(_) => ("ErrImageNeverPull", None, true),
            ImageError::Unsigned(_) => (reason::SIGNATURE_VALIDATION_FAILED, None, false),
            ImageError::Pull(_)
            | ImageError::Engine(_)
            | ImageError::Door(_)
            | ImageError::Unpack(_)
            | ImageError::Disk(_) => ("ErrImagePull", Some("ImagePullBackOff".to_owned()), true),
        };
        Self {
            reason: reason.to_owned(),
            meanwhile,
            message,
            retry,
        }
    }
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The image with the digest of its manifest.
    pub image_id: String,
    /// The module's file.
    pub path: PathBuf,
}

/// Data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The directory with its files. Nothing may be written into it.
    pub path: PathBuf,
}

/// Which digest a reference had when it was last resolved.
#[derive(Debug, Serialize, Deserialize)]
struct Resolved {
    reference: String,
    digest: String,
}

/// The images of the car.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    registry: Registry,
    door: Door,
    declined: Declined,
    limit: u64,
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Images {
    /// The cache in `root`, of about `limit` bytes. Plain HTTP is spoken only with the registries in `plain_http`.
    pub fn open(root: &Path, plain_http: Vec<String>, limit: u64) -> io::Result<Self> {
        for directory in ["blobs", "containers", "references", "signed", "trees"] {
            directory::make_private(&root.join(directory))?;
        }
        let registry = Registry::new(plain_http);
        let inner = Inner {
            root: root.to_owned(),
            registry,
            door: Door::default(),
            declined: Declined::default(),
            limit,
            busy: Mutex::new(HashMap::new()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What is fetched counts by this way to the world, and only while its owner lets it. Said once.
    pub fn count_by(&self, uplink: &Uplink) {
        self.inner.registry.count_by(uplink.clone());
    }

    /// The module of a program.
    pub async fn module(
        &self,
        reference: &str,
        policy: PullPolicy,
        credentials: &BTreeMap<String, String>,
    ) -> Result<Module, ImageError> {
        let image = parse(reference)?;
        let _alone = self.alone(reference).await;
        let (manifest, digest) = self.resolve(&image, policy, credentials).await?;
        let wrong = |message: String| ImageError::Pull(format!("{reference}: {message}"));
        let module = manifest.module().map_err(wrong)?;
        if module.size > MODULE_MAX {
            return Err(wrong(format!(
                "its module has {} bytes; a vehicle takes {MODULE_MAX}",
                module.size
            )));
        }
        let path = self
            .inner
            .registry
            .blob(&image, module, &self.blobs(), credentials)
            .await?;
        used(&path);
        Ok(Module {
            image_id: id(&image, &digest),
            path,
        })
    }

    /// The files of an artefact.
    pub async fn files(
        &self,
        reference: &str,
        policy: PullPolicy,
        credentials: &BTreeMap<String, String>,
    ) -> Result<Files, ImageError> {
        let image = parse(reference)?;
        let _alone = self.alone(reference).await;
        let (manifest, digest) = self.resolve(&image, policy, credentials).await?;
        let tree = self.inner.root.join("trees").join(hex_of(&digest)?);
        if fs::try_exists(&tree).await.map_err(ImageError::Disk)? {
            used(&tree);
            return Ok(Files { path: tree });
        }
        let layers = manifest
            .files()
            .map_err(|message| ImageError::Pull(format!("{reference}: {message}")))?;
        let packed = layers
            .iter()
            .try_fold(0_u64, |sum, (layer, _)| sum.checked_add(layer.size));
        if packed.is_none_or(|packed| packed > FILES_MAX.bytes) {
            return Err(UnpackError::TooLarge(format!("{} bytes", FILES_MAX.bytes)).into());
        }
        let mut blobs = Vec::new();
        for (layer, packing) in layers {
            blobs.push((
                self.inner
                    .registry
                    .blob(&image, layer, &self.blobs(), credentials)
                    .await?,
                packing,
            ));
        }
        let target = tree.clone();
        tokio::task::spawn_blocking(move || unpack_into(&blobs, &target))
            .await
            .map_err(|e| ImageError::Disk(io::Error::other(e)))??;
        Ok(Files { path: tree })
    }

    fn blobs(&self) -> PathBuf {
        self.inner.root.join("blobs")
    }

    /// One download per reference at a time.
    async fn alone(&self, reference: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut busy = self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner);
            busy.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(busy.entry(reference.to_owned()).or_default())
        };
        turn.lock_owned().await
    }

    /// The manifest of a reference and its digest, following an index.
    async fn resolve(
        &self,
        image: &Reference,
        policy: PullPolicy,
        credentials: &BTreeMap<String, String>,
    ) -> Result<(Manifest, String), ImageError> {
        let whole = image.whole();
        let remembered = self
            .inner
            .root
            .join("references")
            .join(hex_of(&digest_of(whole.as_bytes()))?);
        // A digest names the same bytes for ever, so there is nothing to ask again.
        let may_remember = policy != PullPolicy::Always || image.digest().is_some();
        if may_remember && let Some(found) = self.remembered(&remembered, &whole).await {
            return Ok(found);
        }
        if policy == PullPolicy::Never {
            return Err(ImageError::Never(whole));
        }
        let (mut bytes, mut digest) = self.inner.registry.manifest(image, credentials).await?;
        let wrong = |message: String| ImageError::Pull(format!("{whole}: {message}"));
        let mut manifest = Manifest::parse(&bytes).map_err(wrong)?;
        if let Some(chosen) = manifest.chosen().map_err(wrong)? {
            let inner = image.clone_with_digest(chosen.digest.clone());
            (bytes, digest) = self.inner.registry.manifest(&inner, credentials).await?;
            manifest = Manifest::parse(&bytes).map_err(wrong)?;
        }
        let resolved = Resolved {
            reference: whole.clone(),
            digest: digest.clone(),
        };
        let text = serde_json::to_vec(&resolved).map_err(|e| ImageError::Disk(e.into()))?;
        directory::replace(&self.blobs().join(hex_of(&digest)?), &bytes).map_err(ImageError::Disk)?;
        directory::replace(&remembered, &text).map_err(ImageError::Disk)?;
        Ok((manifest, digest))
    }

    /// What the reference was resolved to before, if its manifest is still there and whole.
    async fn remembered(&self, path: &Path, reference: &str) -> Option<(Manifest, String)> {
        let resolved: Resolved = serde_json::from_slice(&fs::read(path).await.ok()?).ok()?;
        if resolved.reference != reference {
            return None;
        }
        let bytes = fs::read(self.blobs().join(hex_of(&resolved.digest).ok()?)).await.ok()?;
        if digest_of(&bytes) != resolved.digest {
            return None;
        }
        Some((Manifest::parse(&bytes).ok()?, resolved.digest))
    }

    /// Deletes what was used longest ago until the cache is below its limit. Only called while no attempt uses anything.
    pub async fn collect(&self) -> io::Result<()> {
        let (root, limit) = (self.inner.root.clone(), self.inner.limit);
        tokio::task::spawn_blocking(move || collect(&root, limit))
            .await
            .map_err(io::Error::other)?
    }
}

fn parse(reference: &str) -> Result<Reference, ImageError> {
    let refuse = |message: String| ImageError::Name {
        reference: reference.to_owned(),
        message,
    };
    reference.parse::<Reference>().map_err(|e| refuse(e.to_string()))
}

/// By what a token is known that reads the repository of a reference; `None` for what is no reference.
pub fn key(reference: &str) -> Option<String> {
    parse(reference).ok().map(|image| registry::key_of(&image))
}

fn id(image: &Reference, digest: &str) -> String {
    format!("{}@{digest}", registry::key_of(image))
}

/// Unpacks beside the target and renames, so that a tree is there whole or not at all.
fn unpack_into(blobs: &[(PathBuf, manifest::Packing)], target: &Path) -> Result<(), ImageError> {
    let partial = target.with_extension(format!("{:016x}.part", rand::random::<u64>()));
    std::fs::create_dir(&partial).map_err(ImageError::Disk)?;
    let unpacked = unpack::unpack(blobs, &partial, FILES_MAX)
        .map_err(ImageError::from)
        .and_then(|()| {
            match std::fs::rename(&partial, target) {
                // Another reference with the same digest was faster.
                Err(_) if target.is_dir() => std::fs::remove_dir_all(&partial),
                renamed => renamed,
            }
            .map_err(ImageError::Disk)
        });
    if unpacked.is_err() {
        let _ = std::fs::remove_dir_all(&partial);
    }
    // The layers are not needed beside the tree: a repeated pull of the same digest finds the tree.
    for (blob, _) in blobs.iter().filter(|_| unpacked.is_ok()) {
        let _ = std::fs::remove_file(blob);
    }
    unpacked
}

fn collect(root: &Path, limit: u64) -> io::Result<()> {
    let mut items = Vec::new();
    let mut total = 0;
    for directory in ["blobs", "signed", "trees"] {
        for entry in std::fs::read_dir(root.join(directory))? {
            let path = entry?.path();
            // What a killed agent left half done.
            if path.extension().is_some_and(|extension| extension == "part") {
                remove(&path)?;
                continue;
            }
            let size = size_of(&path)?;
            let used = std::fs::symlink_metadata(&path)?;
            total += size;
            items.push((std::os::unix::fs::MetadataExt::mtime(&used), size, path));
        }
    }
    items.sort();
    let mut removed = BTreeSet::new();
    for (_, size, path) in items {
        if total <= limit {
            break;
        }
        remove(&path)?;
        removed.insert(path);
        total = total.saturating_sub(size);
    }
    if !removed.is_empty() {
        tracing::info!(
            items = removed.len(),
            bytes = total,
            "removed the oldest images from the cache"
        );
    }
    Ok(())
}

/// Notes that something in the cache is used, in its time of modification. If that fails it only goes earlier.
fn used(path: &Path) {
    let _ = utimensat(
        AT_FDCWD,
        path,
        &TimeSpec::UTIME_NOW,
        &TimeSpec::UTIME_NOW,
        UtimensatFlags::NoFollowSymlink,
    );
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    }
}

/// Bytes of a file or of everything in a directory; links are not followed.
pub fn size_of(path: &Path) -> io::Result<u64> {
    let metadata = path.symlink_metadata()?;
    if !metadata.is_dir() {
        // A file with holes takes less than it seems to be long.
        let taken = std::os::unix::fs::MetadataExt::blocks(&metadata).saturating_mul(512);
        return Ok(metadata.len().min(taken));
    }
    std::fs::read_dir(path)?.try_fold(0_u64, |sum, entry| match size_of(&entry?.path()) {
        // Removed in between.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(sum),
        size => Ok(sum.saturating_add(size?)),
    })
}

#[cfg(test)]
pub(crate) mod tests;
