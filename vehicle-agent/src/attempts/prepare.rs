//! Everything that must be there before a container can start: its image, the images of its volumes, its program loaded.

use std::sync::Arc;

use kerbside_core::attempt::NotReady;
use kerbside_core::names::reason::OWNER_CONSENT_MISSING;
use kerbside_core::owner::Document;
use tokio::sync::watch;

use super::pins::{Pins, References, Unprepared};
use super::volumes::Volumes;

use crate::cgroup::Most;
use crate::directory::AttemptDirectory;
use crate::images::{self, Files, Images};
use crate::pod::{Around, Engine, Given, VolumeWork, Work, config_error};
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

/// What a container is made ready with.
#[derive(Clone)]
pub(super) struct Means {
    pub(super) images: Images,
    pub(super) runtimes: Runtimes,
    pub(super) directory: AttemptDirectory,
    /// What the attempt may use.
    pub(super) most: Most,
    pub(super) volumes: Volumes,
    /// What the references of its images mean.
    pub(super) pins: Pins,
    /// The owner's terms; without them nothing is made ready.
    pub(super) document: Option<Arc<Document>>,
    /// What the Pod refers to, and whether any of it has come.
    pub(super) given: watch::Receiver<Arc<Given>>,
    pub(super) told: bool,
}

/// Fetches and loads. Dropping the future gives up; what was fetched stays in the cache.
pub(super) async fn prepare(work: &Arc<Work>, index: usize, mut means: Means) -> Result<Prepared, Unprepared> {
    let container = &work.containers[index];
    if let Some(why) = &container.refused {
        return Err(Unprepared::NotReady(NotReady {
            retry: false,
            ..config_error(why.clone())
        }));
    }
    if work.refers() && !means.told {
        // The adapter sends it behind the Run. An error means that the attempt is over.
        let _ = means.given.changed().await;
    }
    // Before anything is fetched for a container that cannot start.
    let now = means.given.borrow_and_update().clone();
    check(work, index, &now)?;
    let document = means.document.as_deref();
    let pinned = pinned((work.as_ref(), index), &means.images, &means.pins, document, &now).await?;
    let Means {
        images,
        runtimes,
        directory,
        most,
        volumes: filled,
        given,
        ..
    } = means;
    let credentials = now.credentials();
    let mut volumes = Vec::new();
    for mount in &container.mounts {
        let fetched = volumes.iter().any(|(name, _)| *name == mount.volume);
        if let Some(VolumeWork::Image { reference, pull }) = work.volumes.get(&mount.volume).filter(|_| !fetched) {
            let by_digest = pinned.of(reference, false)?;
            let files = images.files(&by_digest, *pull, &credentials).await;
            let files = files.map_err(|error| {
                let why = explained(NotReady::from(error), &now, reference);
                NotReady {
                    message: format!("volume {}: {}", mount.volume, why.message),
                    ..why
                }
            })?;
            volumes.push((mount.volume.clone(), files));
        }
    }
    let image = pinned.of(&container.image, work.engine == Engine::Container)?;
    let (image_id, program) = match work.engine {
        Engine::Wasm => {
            let module = images
                .module(&image, container.pull, &credentials)
                .await
                .map_err(|error| explained(NotReady::from(error), &now, &container.image))?;
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
            let made = (work, index, image.as_str());
            let prepared = containers.prepare(made, &directory, most, &credentials).await;
            let (image_id, program) = prepared.map_err(|why| explained(why, &now, &container.image))?;
            (image_id, Ok(program))
        }
    };
    let address = program.as_ref().ok().and_then(|program| program.address());
    let work = Arc::clone(work);
    tokio::task::spawn_blocking(move || filled.write(&work, index, &given, address))
        .await
        .map_err(|e| config_error(e.to_string()))?
        .map_err(|e| config_error(e.to_string()))?;
    Ok(Prepared {
        image_id,
        program,
        volumes,
    })
}

/// What the references of the images mean, once all that must be signed are.
async fn pinned(
    of: (&Work, usize),
    images: &Images,
    pins: &Pins,
    document: Option<&Document>,
    given: &Given,
) -> Result<References, Unprepared> {
    let document = document.ok_or_else(|| NotReady {
        reason: OWNER_CONSENT_MISSING.to_owned(),
        meanwhile: None,
        message: "the car has no valid owner's document".to_owned(),
        retry: true,
    })?;
    let credentials = given.credentials();
    let pinned = pins.of(of, images, document.publishers(), &credentials).await;
    pinned.map_err(|(image, why)| match why {
        Unprepared::NotReady(why) => Unprepared::NotReady(explained(why, given, &image)),
        declined @ Unprepared::Declined(_) => declined,
    })
}

/// With a word on the token that an image may lack, if it was not fetched.
fn explained(why: NotReady, given: &Given, reference: &str) -> NotReady {
    let key = images::key(reference);
    match key.and_then(|key| given.pull_trouble(&key).map(str::to_owned)) {
        Some(trouble) if why.reason == "ErrImagePull" => NotReady {
            message: format!("{} ({trouble})", why.message),
            ..why
        },
        _ => why,
    }
}

/// That nothing mandatory is missing of what the container refers to.
fn check(work: &Work, index: usize, given: &Given) -> Result<(), NotReady> {
    let around = Around {
        pod: &work.pod,
        given,
        address: None,
    };
    let container = &work.containers[index];
    container.env.resolve(around).map_err(config_error)?;
    for mount in &container.mounts {
        if let Some(volume) = work.volumes.get(&mount.volume) {
            volume
                .files(around)
                .map_err(|m| config_error(format!("volume {}: {m}", mount.volume)))?;
        }
    }
    Ok(())
}
