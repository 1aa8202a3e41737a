//! The images of one attempt by digest: each reference is resolved once, and before anything of the attempt begins all of them have a
//! signature that counts, if the owner wants any.
//!
//! Asked when a container is made ready. What must never happen: a container that runs from another digest than the one whose signature was
//! found, or a program of an attempt that begins while one of its images may still be refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use kerbside_core::attempt::{NotReady, Role};
use kerbside_core::names::reason;
use kerbside_core::owner::{Publisher, Refusal};
use tokio::sync::Mutex;

use crate::images::{ImageError, Images, Wanted};
use crate::pod::{Engine, VolumeWork, Work};

/// Why a container is not made ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unprepared {
    /// Something is not there.
    NotReady(NotReady),
    /// The owner's terms say no.
    Declined(Refusal),
}

impl From<NotReady> for Unprepared {
    fn from(why: NotReady) -> Self {
        Self::NotReady(why)
    }
}

impl From<ImageError> for Unprepared {
    fn from(error: ImageError) -> Self {
        let declined = matches!(error, ImageError::Unsigned(_));
        let why = NotReady::from(error);
        if declined {
            Self::Declined(Refusal::new(&why.reason, why.message))
        } else {
            Self::NotReady(why)
        }
    }
}

/// What the references of an attempt's images mean in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Pins(Arc<Mutex<Pinned>>);

#[derive(Debug, Default)]
struct Pinned {
    /// Whose signatures they were found by.
    publishers: Vec<Publisher>,
    references: References,
}

/// What references mean, for a container engine and for others: an index may have something else for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct References(BTreeMap<(String, bool), String>);

impl References {
    /// By what an image may be fetched. An error means that nobody has asked whether it is signed.
    pub(super) fn of(&self, reference: &str, engine: bool) -> Result<String, NotReady> {
        let unknown = || NotReady {
            reason: "ErrImagePull".to_owned(),
            meanwhile: Some("ImagePullBackOff".to_owned()),
            message: format!("it is not known whether {reference} is signed"),
            retry: true,
        };
        self.0.get(&(reference.to_owned(), engine)).cloned().ok_or_else(unknown)
    }
}

impl Pins {
    /// The images that a container needs, and before it begins those of all others of its Pod, by what they may be fetched by. `Err`: which
    /// of them is not there, and why.
    pub(super) async fn of(
        &self,
        (work, index): (&Work, usize),
        images: &Images,
        publishers: &[Publisher],
        credentials: &BTreeMap<String, String>,
    ) -> Result<References, (String, Unprepared)> {
        // Several containers are made ready side by side: the first to come asks for all.
        let mut pinned = self.0.lock().await;
        if pinned.publishers != publishers {
            *pinned = Pinned {
                publishers: publishers.to_vec(),
                references: References::default(),
            };
        }
        for wanted in wanted(work, index) {
            let pinned = pin(&mut pinned, wanted, images, credentials).await;
            pinned.map_err(|error| (wanted.reference.to_owned(), Unprepared::from(error)))?;
        }
        Ok(pinned.references.clone())
    }
}

/// Whether an attempt need not begin since one of its images is known to have no signature that counts.
pub(super) fn admit(work: &Work, images: &Images, publishers: &[Publisher]) -> Result<(), Refusal> {
    // One that somebody has added waits by itself, and keeps no attempt from beginning.
    let first = work
        .containers
        .iter()
        .position(|container| container.role != Role::Ephemeral);
    let each = first.map(|index| wanted(work, index)).unwrap_or_default();
    let mut known = each
        .into_iter()
        .filter_map(|wanted| images.known_unsigned(wanted, publishers));
    match known.next() {
        Some(why) => Err(Refusal::new(reason::SIGNATURE_VALIDATION_FAILED, why)),
        None => Ok(()),
    }
}

async fn pin(
    pinned: &mut Pinned,
    wanted: Wanted<'_>,
    images: &Images,
    credentials: &BTreeMap<String, String>,
) -> Result<(), ImageError> {
    let key = (wanted.reference.to_owned(), wanted.engine);
    if !pinned.references.0.contains_key(&key) {
        let signed = images.signed(wanted, credentials, &pinned.publishers).await?;
        pinned.references.0.insert(key, signed);
    }
    Ok(())
}

/// The images of a container that somebody has added; of any other, those of the whole Pod but of such.
fn wanted(work: &Work, index: usize) -> Vec<Wanted<'_>> {
    let added = |role: Role| role == Role::Ephemeral;
    let alone = work
        .containers
        .get(index)
        .is_some_and(|container| added(container.role));
    let each = work.containers.iter().enumerate();
    let each = each.filter(|(at, container)| if alone { *at == index } else { !added(container.role) });
    let mut wanted = Vec::new();
    for (_, container) in each {
        wanted.push(Wanted {
            reference: &container.image,
            policy: container.pull,
            engine: work.engine == Engine::Container,
        });
        for mount in &container.mounts {
            if let Some(VolumeWork::Image { reference, pull }) = work.volumes.get(&mount.volume) {
                wanted.push(Wanted {
                    reference,
                    policy: *pull,
                    engine: false,
                });
            }
        }
    }
    wanted
}

#[cfg(test)]
mod tests;
