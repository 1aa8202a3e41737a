//! What the owner took back while the chain could not be gone on with: in a file beside it, that counts as soon as the chain can be read again.
//!
//! Written by [`super::Book`], read with the chain. A chain may be whole again without a word of the owner's: a file that comes back, a notice
//! that is mended. The next entry of the chain takes it in, and a chain that begins anew has nothing that it could be of. What must never happen:
//! a purpose in force that the owner took back in the meantime.

use std::collections::BTreeMap;
use std::io;

use jiff::Timestamp;
use kerbside_core::consent::{Ended, Known};
use serde::{Deserialize, Serialize};

use crate::directory::{self, Directory};

/// What was taken back, and when. Its JSON is a file format: fields may be added, never changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Withdrawn {
    /// Everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    all: Option<Timestamp>,
    /// Single purposes.
    #[serde(default)]
    purposes: BTreeMap<String, Timestamp>,
}

/// It counts no more.
pub(super) fn remove(directory: &Directory) -> io::Result<()> {
    match std::fs::remove_file(directory.consents_withdrawn()) {
        Ok(()) => directory::sync_directory(&directory.consents()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Withdrawn {
    /// The owner takes these back, or all, at this moment.
    pub(super) fn add(&mut self, purposes: Option<&[String]>, now: Timestamp) {
        match purposes {
            None => self.all = Some(now),
            Some(purposes) => self
                .purposes
                .extend(purposes.iter().map(|purpose| (purpose.clone(), now))),
        }
    }

    /// Makes it durable.
    pub(super) fn write(&self, directory: &Directory) -> io::Result<()> {
        directory::replace(&directory.consents_withdrawn(), &serde_json::to_vec(self)?)
    }

    /// When this purpose was taken back, if it was.
    pub(super) fn of(&self, purpose: &str) -> Option<Timestamp> {
        self.all.max(self.purposes.get(purpose).copied())
    }

    /// Of what a chain shows, this has ended.
    pub(super) fn end(&self, known: &mut Known) {
        for (purpose, held) in &mut known.held {
            if let (None, Some(at)) = (held.ended, self.of(purpose)) {
                held.ended = Some(Ended::Withdrawn(at));
            }
        }
    }
}
