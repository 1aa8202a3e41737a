//! Everything that must be there before a container can start: its image, the images of its volumes, its program loaded.

use std::sync::Arc;

use kerbside_core::attempt::NotReady;

use crate::cgroup::Most;
use crate::directory::AttemptDirectory;
use crate::images::{Files, Images};
use crate::pod::{Engine, VolumeWork, Work};
use crate::runtime::{Program, Runtimes};

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
    work: &Arc<Work>,
    index: usize,
    images: &Images,
    runtimes: &Runtimes,
    directory: &AttemptDirectory,
    most: Most,
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
    let (image_id, program) = match work.engine {
        Engine::Wasm => {
            let module = images
                .module(&container.image, container.pull, &work.credentials)
                .await?;
            (module.image_id, runtimes.wasm.load(module.path).await)
        }
        Engine::Container => {
            // The Pod was admitted when there was one.
            let containers = runtimes.containers.as_ref().ok_or_else(|| NotReady {
                reason: "RuntimeUnavailable".to_owned(),
                meanwhile: None,
                message: "the vehicle has no engine for containers".to_owned(),
                retry: true,
            })?;
            let (image_id, program) = containers.prepare(work, index, directory, most).await?;
            (image_id, Ok(program))
        }
    };
    Ok(Prepared {
        image_id,
        program,
        volumes,
    })
}
