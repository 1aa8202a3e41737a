//! How a running agent follows the files: looked at again and again, read when they have changed.
//!
//! Owned by the policy loop, and read by its thread for the disk. A file that has changed is read when it has stayed as it is for a moment, as the owner's document is, or at once when
//! a command has said that it is written. What must never happen: a withdrawal that is on disk and not seen.

use kerbside_core::consent::{Consents, Mark, Place};
use kerbside_core::ids::VehicleId;

use super::CHAIN;
use super::gathered::{self, Gathered};
use crate::directory::Directory;
use crate::stamp::Stamp;

/// What is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    None,
    /// Something that may be about to change again.
    Settling,
    /// This.
    Read(Consents),
}

/// Follows the files of one car.
pub struct Reader {
    directory: Directory,
    vehicle: VehicleId,
    /// What the receipts named when the agent began.
    named: Option<Place>,
    /// The files as they were read last.
    seen: Option<[Stamp; 4]>,
    /// Other ones, that may be about to change again.
    changing: Option<[Stamp; 4]>,
    /// How far the chain had come by the mark that was read last.
    mark: Option<Mark>,
}

impl Reader {
    /// Has read nothing yet.
    pub fn new(directory: &Directory, vehicle: &VehicleId) -> Self {
        Self {
            directory: directory.clone(),
            vehicle: vehicle.clone(),
            named: gathered::named(directory, vehicle),
            seen: None,
            changing: None,
            mark: None,
        }
    }

    /// Looks whether there is something new. `now`: a command says that there is.
    pub fn look(&mut self, now: bool) -> News {
        let stamps = [
            self.directory.consents().join(CHAIN),
            self.directory.consents_mark(),
            self.directory.notice(),
            self.directory.consents_withdrawn(),
        ]
        .map(|path| Stamp::of(&path));
        if self.seen.as_ref() == Some(&stamps) {
            self.changing = None;
            return News::None;
        }
        // Somebody may be writing at this moment.
        if !now && self.seen.is_some() && self.changing.as_ref() != Some(&stamps) {
            self.changing = Some(stamps);
            return News::Settling;
        }
        self.changing = None;
        let gathered = Gathered::of(&self.directory, &self.vehicle, self.named.clone());
        // What a disk does not give now it may give at the next look, and no file would have changed by then.
        self.seen = gathered.is_ok().then_some(stamps);
        self.mark = gathered.as_ref().ok().and_then(|gathered| gathered.mark.clone());
        News::Read(gathered.map_or_else(Consents::Unusable, |gathered| gathered.consents()))
    }

    /// How far the chain had come, by the mark that was read last.
    pub fn mark(&self) -> Option<&Mark> {
        self.mark.as_ref()
    }
}
