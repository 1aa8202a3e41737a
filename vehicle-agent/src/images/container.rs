//! Images of containers: resolved and fetched by the agent, unpacked by the container engine.
//!
//! Called by the container runtime. The engine pulls from the agent's own [`door`](super::door), under a name that is good for one pull;
//! afterwards it is asked for the image by the id that it gave. So there is one place that speaks with registries, one that knows
//! credentials, and the engine needs no configuration for either.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use futures::future::BoxFuture;
use kerbside_core::names::RUNTIME_CLASS_WASM;
use oci_client::Reference;
use serde::{Deserialize, Serialize};
use tokio::fs;

use super::manifest::Manifest;
use super::registry::{digest_of, hex_of};
use super::{ImageError, Images, id, parse, used};
use crate::directory;
use crate::pod::PullPolicy;

/// What is needed of a container engine.
pub trait EngineImages: Sync {
    /// The size of an image in bytes, by the engine's id; `None`: it is not there.
    fn has<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<Option<u64>, String>>;
    /// Pulls an image by its name; its id.
    fn pull<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<String, String>>;
    /// Removes an image by its id.
    fn remove<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<(), String>>;
}

/// An image that the engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerImage {
    /// The image with the digest that its registry knows it by.
    pub image_id: String,
    /// The engine's id of it.
    pub engine: String,
}

/// What a reference was when it was last pulled.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Pulled {
    reference: String,
    digest: String,
    engine: String,
    bytes: u64,
}

impl Images {
    /// An image for the engine, pulled if the policy wants it.
    pub async fn container(
        &self,
        reference: &str,
        policy: PullPolicy,
        credentials: &BTreeMap<String, String>,
        engine: &dyn EngineImages,
    ) -> Result<ContainerImage, ImageError> {
        let image = parse(reference)?;
        let _alone = self.alone(reference).await;
        let whole = image.whole();
        let place = self.pulled(&whole)?;
        let known = match self.read_pulled(&place, &whole).await {
            Some(pulled) => {
                let has = engine.has(&pulled.engine).await.map_err(ImageError::Engine)?;
                has.map(|_| pulled)
            }
            None => None,
        };
        let found = |pulled: &Pulled| {
            used(&place);
            Ok(ContainerImage {
                image_id: id(&image, &pulled.digest),
                engine: pulled.engine.clone(),
            })
        };
        // A digest names the same bytes for ever, so there is nothing to ask again.
        let may_remember = policy != PullPolicy::Always || image.digest().is_some();
        match known {
            Some(pulled) if may_remember => found(&pulled),
            _ if policy == PullPolicy::Never => Err(ImageError::Never(whole)),
            known => {
                let (manifest, digest) = self.inner.registry.manifest(&image, credentials).await?;
                if Manifest::parse(&manifest).is_ok_and(|manifest| manifest.is_wasm()) {
                    return Err(ImageError::Pull(format!(
                        "{whole} is a WebAssembly artefact; set runtimeClassName: {RUNTIME_CLASS_WASM}"
                    )));
                }
                if let Some(pulled) = known.filter(|pulled| pulled.digest == digest) {
                    return found(&pulled);
                }
                let pulled = self.pull(&image, digest, credentials, engine).await?;
                let text = serde_json::to_vec(&pulled).map_err(|e| ImageError::Disk(e.into()))?;
                directory::replace(&place, &text).map_err(ImageError::Disk)?;
                found(&pulled)
            }
        }
    }

    async fn pull(
        &self,
        image: &Reference,
        digest: String,
        credentials: &BTreeMap<String, String>,
        engine: &dyn EngineImages,
    ) -> Result<Pulled, ImageError> {
        let ticket = self.admit(image.clone(), credentials.clone()).await?;
        let name = format!("{}@{digest}", ticket.name());
        let said = |message: String| {
            // The name at the door means nothing to whoever reads this.
            ImageError::Pull(
                message
                    .replace(&name, &image.whole())
                    .replace(ticket.name(), &image.whole()),
            )
        };
        let pulled = engine.pull(&name).await.map_err(said)?;
        let bytes = engine.has(&pulled).await.map_err(ImageError::Engine)?;
        Ok(Pulled {
            reference: image.whole(),
            digest,
            engine: pulled,
            bytes: bytes.unwrap_or(0),
        })
    }

    pub(super) fn pulled(&self, reference: &str) -> Result<PathBuf, ImageError> {
        let name = digest_of(reference.as_bytes());
        Ok(self.inner.root.join("containers").join(hex_of(&name)?))
    }

    pub(super) async fn read_pulled(&self, place: &std::path::Path, reference: &str) -> Option<Pulled> {
        let pulled: Pulled = serde_json::from_slice(&fs::read(place).await.ok()?).ok()?;
        (pulled.reference == reference).then_some(pulled)
    }

    /// Has the engine remove every image that it was given here and still has, for a car that forgets its owner. One that stays keeps no other; how
    /// many do.
    pub async fn remove_containers(&self, engine: &dyn EngineImages) -> io::Result<usize> {
        let mut left = 0;
        let mut entries = fs::read_dir(self.inner.root.join("containers")).await?;
        while let Some(entry) = entries.next_entry().await? {
            let read = fs::read(entry.path()).await?;
            let Ok(pulled) = serde_json::from_slice::<Pulled>(&read) else {
                continue;
            };
            match engine.remove(&pulled.engine).await {
                Ok(()) => fs::remove_file(entry.path()).await?,
                Err(error) => {
                    left += 1;
                    tracing::warn!(image = pulled.reference, error, "the container engine keeps an image");
                }
            }
        }
        Ok(left)
    }

    /// Has the engine remove the images that were used longest ago, until those that are left are below the cache's limit. Only called
    /// while no attempt uses anything.
    pub async fn collect_containers(&self, engine: &dyn EngineImages) -> io::Result<()> {
        let mut known = Vec::new();
        let mut entries = fs::read_dir(self.inner.root.join("containers")).await?;
        while let Some(entry) = entries.next_entry().await? {
            let read = fs::read(entry.path()).await?;
            let Ok(pulled) = serde_json::from_slice::<Pulled>(&read) else {
                // Of a replacement that was interrupted.
                fs::remove_file(entry.path()).await?;
                continue;
            };
            known.push((entry.metadata().await?.modified()?, entry.path(), pulled));
        }
        known.sort_by_key(|(used, ..)| *used);
        let mut total: u64 = known.iter().map(|(.., pulled)| pulled.bytes).sum();
        for (_, place, pulled) in known {
            if total <= self.inner.limit {
                break;
            }
            engine.remove(&pulled.engine).await.map_err(io::Error::other)?;
            fs::remove_file(place).await?;
            total = total.saturating_sub(pulled.bytes);
        }
        Ok(())
    }
}
