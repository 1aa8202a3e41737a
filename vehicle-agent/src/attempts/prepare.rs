//! Everything that must be there before a container can start: its image, the images of its volumes, its program loaded.

use std::sync::Arc;

use kerbside_core::attempt::NotReady;

use crate::images::{Files, Images};
use crate::pod::{VolumeWork, Work};
use crate::runtime::{Program, Runtime};

/// What a container is started from.
#[derive(Clone)]
pub(super) struct Prepared {
    pub(super) image_id: String,
    /// The program, or why it can never start: known now, told when it is started.
    pub(super) program: Result<Arc<dyn Program>, String>,
    /// The files of image volumes, by volume.
    pub(super) volumes: Vec<(String, Files)>,
}

/// Fetches and loads. Dropping the future gives up; what was fetched stays in the cache.
pub(super) async fn prepare(
    work: &Work,
    index: usize,
    images: &Images,
    runtime: &dyn Runtime,
) -> Result<Prepared, NotReady> {
    let container = &work.containers[index];
    let mut volumes = Vec::new();
    for mount in &container.mounts {
        let fetched = volumes.iter().any(|(name, _)| *name == mount.volume);
        if let Some(VolumeWork::Image { reference, pull }) = work.volumes.get(&mount.volume).filter(|_| !fetched) {
            let files = images
                .files(reference, *pull, &work.credentials)
                .await
                .map_err(|error| {
                    let why = NotReady::from(error);
                    NotReady {
                        message: format!("volume {}: {}", mount.volume, why.message),
                        ..why
                    }
                })?;
            volumes.push((mount.volume.clone(), files));
        }
    }
    let module = images
        .module(&container.image, container.pull, &work.credentials)
        .await?;
    let program = runtime.load(module.path).await;
    Ok(Prepared {
        image_id: module.image_id,
        program,
        volumes,
    })
}
