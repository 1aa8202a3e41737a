//! What of the consents holds at a moment. Asked by [`crate::owner::Grounds`] for the car and for each attempt, and by the owner's status.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::record::Mark;
use crate::ids::VehicleId;
use crate::receipt::RecordRef;

/// A clock may be corrected by so much without anybody having set it; as in [`crate::owner::ClockTrust`].
const CORRECTION: Duration = Duration::from_secs(30);

/// What is known of a car's consents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consents {
    /// The chain is whole and the car's own.
    Known(Known),
    /// It is not, and allows nothing.
    Unusable(Unusable),
}

/// No is the default.
impl Default for Consents {
    fn default() -> Self {
        Self::Unusable(Unusable::NotRead)
    }
}

/// What a chain that is whole says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// The newest record of each purpose.
    pub held: BTreeMap<String, Held>,
    /// The latest time that is known to have been; a clock that shows less is wrong.
    pub seen: Option<Timestamp>,
}

/// The newest record of one purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// How a receipt names it.
    pub record: RecordRef,
    /// Since when.
    pub given_at: Timestamp,
    /// Until when; `None`: until it is withdrawn.
    pub expires_at: Option<Timestamp>,
    /// By an entry of the chain it is over.
    pub ended: Option<Ended>,
    /// It was given under the notice that is shown today.
    pub notice_is_current: bool,
}

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The owner took it back then.
    Withdrawn(Timestamp),
    /// Its time was over then.
    Expired(Timestamp),
}

/// Why a purpose has no consent that holds. For the owner: the cluster is told no more than that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// Nobody ever gave one.
    #[error("none was given")]
    Never,
    /// The owner took it back.
    #[error("it was withdrawn at {0}")]
    Withdrawn(Timestamp),
    /// Its time is over.
    #[error("it expired at {0}")]
    Expired(Timestamp),
    /// The clock shows a time before it was given.
    #[error("it was given at {0}, and the car's clock shows an earlier time")]
    NotYet(Timestamp),
    /// The notice has changed since.
    #[error("the notice has changed since it was given: read it and give a new one")]
    NewNotice,
    /// The clock goes wrong.
    #[error(
        "the car's clock shows an earlier time than it has shown before, {0}: set it, or give the consent anew if it is right now"
    )]
    ClockBehind(Timestamp),
    /// Nothing of the chain counts.
    #[error(transparent)]
    Unusable(#[from] Unusable),
}

/// Why nothing of a chain counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Nobody has looked yet.
    #[error("the consents have not been read yet")]
    NotRead,
    /// The system does not give it.
    #[error("the consents cannot be read: {0}")]
    Unreadable(String),
    /// Its end is missing: a word of the owner's that could have been a withdrawal.
    #[error("the file of the consents is cut off: what the owner said last is not known; give the consent anew")]
    CutOff,
    /// A line is not what the car has signed, or not in its place.
    #[error("line {line} of the consents does not verify: {why}; `kerbside-agent consent verify` says more")]
    Broken {
        /// Which, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// There was more.
    #[error(
        "the consents were set back to an old state: there were {known} entries, and there are {found}; give the consent anew"
    )]
    SetBack {
        /// So many there were.
        known: u64,
        /// So many there are.
        found: u64,
    },
    /// Other words stood in the same place.
    #[error("the consents are not those that the car had before: entry {0} is another one; give the consent anew")]
    Exchanged(u64),
    /// They are of the vehicle that the car was before.
    #[error("the consents were given for {0}, which this car is no more: give the consent anew")]
    OfAnother(VehicleId),
    /// How far they had come is not known.
    #[error("how far the consents had come cannot be read: {0}; give the consent anew")]
    Mark(String),
    /// What the owner has to be told cannot be read.
    #[error("the notice cannot be read: {0}")]
    Notice(String),
}

impl Consents {
    /// One that holds for each of these purposes, from this moment on, under no record: for a recording of a day, before which nobody has
    /// been asked, and nothing else.
    pub fn as_if_given<'a>(purposes: impl IntoIterator<Item = &'a String>, from: Timestamp) -> Self {
        let held = |purpose: &String| {
            let record = RecordRef {
                id: String::new(),
                sequence: 0,
                sha256: String::new(),
            };
            let held = Held {
                record,
                given_at: from,
                expires_at: None,
                ended: None,
                notice_is_current: true,
            };
            (purpose.clone(), held)
        };
        Self::Known(Known {
            held: purposes.into_iter().map(held).collect(),
            seen: None,
        })
    }

    /// The record by which work for this purpose may be done at this moment, or why there is none.
    pub fn of(&self, purpose: &str, wall: Timestamp) -> Result<&Held, Lack> {
        let known = match self {
            Self::Known(known) => known,
            Self::Unusable(why) => return Err(why.clone().into()),
        };
        let held = known.held.get(purpose).ok_or(Lack::Never)?;
        match held.ended {
            Some(Ended::Withdrawn(at)) => return Err(Lack::Withdrawn(at)),
            Some(Ended::Expired(at)) => return Err(Lack::Expired(at)),
            None => {}
        }
        if !held.notice_is_current {
            return Err(Lack::NewNotice);
        }
        if let Some(expires) = held.expires_at.filter(|expires| wall >= *expires) {
            return Err(Lack::Expired(expires));
        }
        if let Some(seen) = known.seen.filter(|seen| is_before(wall, *seen)) {
            return Err(Lack::ClockBehind(seen));
        }
        if is_before(wall, held.given_at) {
            return Err(Lack::NotYet(held.given_at));
        }
        Ok(held)
    }

    /// The purposes with a consent that holds at this moment.
    pub fn in_force(&self, wall: Timestamp) -> BTreeSet<String> {
        let Self::Known(known) = self else {
            return BTreeSet::new();
        };
        let purposes = known.held.keys();
        purposes
            .filter(|purpose| self.of(purpose, wall).is_ok())
            .cloned()
            .collect()
    }

    /// The purposes whose time is over, and whose chain does not say so yet.
    pub fn run_out(&self, wall: Timestamp) -> Vec<String> {
        let Self::Known(known) = self else { return Vec::new() };
        let over = |held: &Held| held.ended.is_none() && held.expires_at.is_some_and(|expires| wall >= expires);
        let held = known.held.iter().filter(|(_, held)| over(held));
        held.map(|(purpose, _)| purpose.clone()).collect()
    }
}

/// A clock that was corrected a little is not behind.
fn is_before(wall: Timestamp, known: Timestamp) -> bool {
    let behind = Duration::try_from(known.duration_since(wall)).unwrap_or(Duration::ZERO);
    behind > CORRECTION
}

/// Time alone is worth a write once in an hour.
const WORTH_A_WRITE: Duration = Duration::from_hours(1);

impl Mark {
    /// From where time is counted on: so late it was at least when this was written.
    pub fn counted_from(&self) -> Timestamp {
        self.counted.map_or(self.seen, |counted| counted.max(self.seen))
    }

    /// Whether so much more has been counted that it is worth a write.
    pub fn counts_more(&self, counted: Timestamp) -> bool {
        let on = Duration::try_from(counted.duration_since(self.counted_from()));
        on.is_ok_and(|on| on >= WORTH_A_WRITE)
    }

    /// What is kept after a moment at which a clock that can be believed shows this; `None`: no more than before.
    #[must_use]
    pub fn later(&self, wall: Timestamp) -> Option<Self> {
        let on = Duration::try_from(wall.duration_since(self.seen)).unwrap_or(Duration::ZERO);
        (on >= WORTH_A_WRITE).then(|| Self {
            seen: wall,
            ..self.clone()
        })
    }
}
