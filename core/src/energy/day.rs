//! How much energy work has had today, over restarts and lost power.
//!
//! Owned by the agent, which writes what is to be kept and says when that is on the disk. A day is one of the owner's calendar. What must
//! never happen: a restart after which a day has more left than it had. So the disk holds more than was used, by up to [`MARGIN`], and what
//! lies between is lost with the power; what cannot be read, or does not get onto the disk, counts as a day that is used up.
//!
//! | what is found on the disk | today |
//! |---|---|
//! | nothing | nothing was used: a new car, or one whose owner took the file away |
//! | a count of today | so much was used |
//! | a count of an earlier day | nothing was used |
//! | a count of a later day: somebody has set the clock | so much was used, until that day is over |
//! | [`ALL`] of a day | all was used, until that day is over |
//! | anything else: a file that is cut off, or another one | all was used, until the day is over: [`ALL`] is written over it |

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::{JOULES_PER_KWH, MICRO};

/// What is written ahead, in microjoules: a hundredth of a kilowatt-hour.
pub const MARGIN: u64 = JOULES_PER_KWH * MICRO / 100;
/// The count of a day that was lost: it stays so over restarts, and ends with its day also if the car is off by then.
pub const ALL: u64 = u64::MAX;

/// What the disk holds. Its JSON is a file format: fields may be added, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// The day, by the owner's calendar.
    pub date: Date,
    /// Work has had at most so much on that day.
    pub microjoules: u64,
    /// What that cost, in billionths of the unit of the tariff's currency.
    #[serde(default)]
    pub cost_nanos: u64,
}

/// What was found on the disk at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No file.
    Nothing,
    /// A count.
    Count(Kept),
    /// A file that is none.
    Unreadable,
}

impl From<&[u8]> for Found {
    fn from(file: &[u8]) -> Self {
        serde_json::from_slice(file).map_or(Self::Unreadable, Self::Count)
    }
}

/// What a day has had: what the owner's terms are held against.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// How much.
    pub microjoules: u64,
    /// What it cost, in billionths of the unit of the tariff's currency.
    pub cost_nanos: u64,
    /// It is not known, or would not be after a restart: it may be all.
    pub lost: bool,
}

impl Used {
    /// Whether nothing is left of so much.
    pub fn up(&self, most_microjoules: u64) -> bool {
        self.lost || self.microjoules >= most_microjoules
    }
}

/// The count of today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Today {
    /// `None`: no day has been seen yet.
    date: Option<Date>,
    used: Used,
    /// What the disk says of this day.
    kept: u64,
    /// The disk has what cannot be read, of a day that is over.
    stale: bool,
    /// Something was used since the agent started: else each start would write ahead of the one before it.
    spent: bool,
}

impl Today {
    /// Goes on from what was found.
    pub fn new(found: Found) -> Self {
        match found {
            Found::Nothing => Self {
                date: None,
                used: Used::default(),
                kept: 0,
                stale: false,
                spent: false,
            },
            Found::Count(Kept {
                date, microjoules: ALL, ..
            }) => Self {
                date: Some(date),
                kept: ALL,
                ..Self::new(Found::Unreadable)
            },
            Found::Count(Kept {
                date,
                microjoules,
                cost_nanos,
            }) => Self {
                date: Some(date),
                used: Used {
                    microjoules,
                    cost_nanos,
                    lost: false,
                },
                kept: microjoules,
                stale: false,
                spent: false,
            },
            Found::Unreadable => Self {
                date: None,
                used: Used {
                    lost: true,
                    ..Used::default()
                },
                kept: 0,
                stale: false,
                spent: false,
            },
        }
    }

    /// It is this day now, by a clock that can be believed. Only a later day begins anew.
    pub fn is(&mut self, date: Date) {
        match self.date {
            None => self.date = Some(date),
            Some(known) if date > known => {
                *self = Self {
                    date: Some(date),
                    used: Used::default(),
                    kept: 0,
                    // Else the next start would take this day for one that is used up, too.
                    stale: self.stale || self.is_untold(),
                    spent: false,
                };
            }
            Some(_) => {}
        }
    }

    /// Work has had so much more, at this price of a kilowatt-hour in billionths.
    pub fn spend(&mut self, microjoules: u64, nanos_per_kwh: u64) {
        self.spent |= microjoules > 0;
        let cost = u128::from(microjoules) * u128::from(nanos_per_kwh) / u128::from(JOULES_PER_KWH * MICRO);
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        self.used.microjoules = self.used.microjoules.saturating_add(microjoules);
        self.used.cost_nanos = self.used.cost_nanos.saturating_add(cost);
    }

    /// What today has had. A count that the disk has not taken for long is one that a restart would forget.
    pub fn used(&self) -> Used {
        let behind = self.used.microjoules > self.kept.saturating_add(MARGIN);
        Used {
            lost: self.used.lost || behind,
            ..self.used
        }
    }

    /// What is to be written now, if anything is: before what the disk holds is used.
    pub fn to_keep(&self) -> Option<Kept> {
        let near = self.used.microjoules.saturating_add(MARGIN / 2) > self.kept;
        let is_due = !self.used.lost && near && self.spent;
        (is_due || self.stale || self.is_untold())
            .then(|| self.keep(MARGIN))
            .flatten()
    }

    /// What is to be written when the agent ends: nothing more is used.
    pub fn at_the_end(&self) -> Option<Kept> {
        let is_due = !self.used.lost && self.used.microjoules > 0;
        (is_due || self.is_untold()).then(|| self.keep(0)).flatten()
    }

    /// The day is lost, and the disk does not say of which one that is so.
    fn is_untold(&self) -> bool {
        self.used.lost && self.kept < ALL
    }

    fn keep(&self, ahead: u64) -> Option<Kept> {
        // Which day is lost is not known before the clock is believed.
        let date = self.date?;
        if self.used.lost {
            return Some(Kept {
                date,
                microjoules: ALL,
                cost_nanos: 0,
            });
        }
        Some(Kept {
            date,
            microjoules: self.used.microjoules.saturating_add(ahead),
            cost_nanos: self.used.cost_nanos,
        })
    }

    /// The disk has it.
    pub fn kept(&mut self, kept: Kept) {
        if self.date == Some(kept.date) {
            self.kept = kept.microjoules;
            self.stale = false;
        }
    }
}
