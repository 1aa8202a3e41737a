//! How much data work has moved this month, over restarts and lost power.
//!
//! Owned by the agent, which counts bytes as they pass, writes what is to be kept and says when that is on the disk. A month is one of the
//! owner's calendar. As with the energy of a day, a restart must never leave a month with more than it had: the disk holds more than was
//! moved, by up to [`MARGIN`], and what cannot be read, or does not get onto the disk, counts as a month that is used up.
//!
//! | what is found on the disk | this month |
//! |---|---|
//! | nothing | nothing was moved: a new car, or one whose owner took the file away |
//! | a count of this month | so much was moved |
//! | a count of an earlier month | nothing was moved |
//! | a count of a later month: somebody has set the clock | so much was moved, until that month is over |
//! | [`ALL`] of a month | all was moved, until that month is over |
//! | anything else: a file that is cut off, or another one | all was moved, until the month is over: [`ALL`] is written over it |

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

/// What is written ahead, in bytes.
pub const MARGIN: u64 = 16 << 20;
/// So much may be moved beyond what the disk has: some seconds of the fastest network, for a disk that is busy. Beyond that it hangs.
pub const BEHIND: u64 = 16 * MARGIN;
/// The count of a month that was lost: it stays so over restarts, and ends with its month also if the car is off by then.
pub const ALL: u64 = u64::MAX;

/// What the disk holds. Its JSON is a file format: fields may be added, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// The first day of the month, by the owner's calendar.
    pub month: Date,
    /// At most so many bytes were moved in it.
    pub bytes: u64,
    /// At most so many of them by a network that costs by the byte.
    pub metered_bytes: u64,
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

/// What a month has had: what the owner's terms are held against.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes both ways.
    pub bytes: u64,
    /// Those of them that went by a network that costs by the byte, or by one of which that is not known.
    pub metered_bytes: u64,
    /// It is not known, or would not be after a restart: it may be all.
    pub lost: bool,
}

/// The count of this month.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Month {
    /// Its first day; `None`: no month has been seen yet.
    first: Option<Date>,
    moved: Moved,
    /// What the disk says of this month: bytes, and metered ones.
    kept: (u64, u64),
    /// The disk has what cannot be read, of a month that is over.
    stale: bool,
    /// Something was moved since the agent started: else each start would write ahead of the one before it.
    counted: bool,
    /// The disk did not take the last count.
    refused: bool,
}

impl Month {
    /// Goes on from what was found.
    pub fn new(found: Found) -> Self {
        match found {
            Found::Nothing => Self::default(),
            Found::Count(Kept { month, bytes: ALL, .. }) => Self {
                first: Some(month),
                kept: (ALL, ALL),
                ..Self::new(Found::Unreadable)
            },
            Found::Count(Kept {
                month,
                bytes,
                metered_bytes,
            }) => Self {
                first: Some(month),
                moved: Moved {
                    bytes,
                    metered_bytes,
                    lost: false,
                },
                kept: (bytes, metered_bytes),
                ..Self::default()
            },
            Found::Unreadable => Self {
                moved: Moved {
                    lost: true,
                    ..Moved::default()
                },
                ..Self::default()
            },
        }
    }

    /// It is this day now, by a clock that can be believed. Only a later month begins anew.
    pub fn is(&mut self, day: Date) {
        let month = day.first_of_month();
        match self.first {
            None => self.first = Some(month),
            Some(known) if month > known => {
                *self = Self {
                    first: Some(month),
                    // Else the next start would take this month for one that is used up, too.
                    stale: self.stale || self.is_untold(),
                    ..Self::default()
                };
            }
            Some(_) => {}
        }
    }

    /// So many bytes more have passed.
    pub fn count(&mut self, bytes: u64, metered: bool) {
        self.counted |= bytes > 0;
        self.moved.bytes = self.moved.bytes.saturating_add(bytes);
        if metered {
            self.moved.metered_bytes = self.moved.metered_bytes.saturating_add(bytes);
        }
    }

    /// What this month has had. A count that the disk does not take, or has not taken for long, is one that a restart would forget.
    pub fn moved(&self) -> Moved {
        let (bytes, metered) = self.kept;
        let is_ahead_by = |most: u64| {
            self.moved.bytes > bytes.saturating_add(most) || self.moved.metered_bytes > metered.saturating_add(most)
        };
        Moved {
            lost: self.moved.lost || (self.refused && is_ahead_by(0)) || is_ahead_by(BEHIND),
            ..self.moved
        }
    }

    /// What is to be written now, if anything is: before what the disk holds is used.
    pub fn to_keep(&self) -> Option<Kept> {
        let (bytes, metered) = self.kept;
        let near = |moved: u64, kept: u64| moved.saturating_add(MARGIN / 2) > kept;
        let is_near =
            near(self.moved.bytes, bytes) || (self.moved.metered_bytes > 0 && near(self.moved.metered_bytes, metered));
        let is_due = !self.moved.lost && is_near && self.counted;
        (is_due || self.stale || self.is_untold())
            .then(|| self.keep(MARGIN))
            .flatten()
    }

    /// What is to be written when the agent ends: nothing more is moved.
    pub fn at_the_end(&self) -> Option<Kept> {
        let is_due = !self.moved.lost && self.moved.bytes > 0;
        (is_due || self.is_untold()).then(|| self.keep(0)).flatten()
    }

    /// The month is lost, and the disk does not say of which one that is so.
    fn is_untold(&self) -> bool {
        self.moved.lost && self.kept.0 < ALL
    }

    fn keep(&self, ahead: u64) -> Option<Kept> {
        // Which month is lost is not known before the clock is believed.
        let month = self.first?;
        if self.moved.lost {
            return Some(Kept {
                month,
                bytes: ALL,
                metered_bytes: ALL,
            });
        }
        let metered = self.moved.metered_bytes;
        Some(Kept {
            month,
            bytes: self.moved.bytes.saturating_add(ahead),
            // Where none is metered none is to be expected.
            metered_bytes: if metered > 0 { metered.saturating_add(ahead) } else { 0 },
        })
    }

    /// The disk has it.
    pub fn kept(&mut self, kept: Kept) {
        if self.first == Some(kept.month) {
            self.kept = (kept.bytes, kept.metered_bytes);
            self.stale = false;
        }
        self.refused = false;
    }

    /// The disk did not take it.
    pub fn not_kept(&mut self) {
        self.refused = true;
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn november() -> Month {
        let mut month = Month::new(Found::Nothing);
        month.is(date(2026, 11, 28));
        month
    }

    fn all_of_november() -> Kept {
        Kept {
            month: date(2026, 11, 1),
            bytes: ALL,
            metered_bytes: ALL,
        }
    }

    /// What a car finds after its power was cut.
    fn again(kept: Kept) -> Month {
        let file = serde_json::to_vec(&kept).unwrap();
        Month::new(Found::from(&file[..]))
    }

    #[test]
    fn restart_never_leaves_more_than_there_was() {
        let mut month = november();
        assert_eq!(month.to_keep(), None, "nothing was moved");
        month.count(100, true);
        let kept = month.to_keep().unwrap();
        month.kept(kept);
        month.count(5, false);
        assert_eq!(month.to_keep(), None, "the disk has more than that");
        let after = again(kept).moved();
        assert!(after.bytes >= month.moved().bytes && after.metered_bytes >= 100);
        let in_order = again(month.at_the_end().unwrap()).moved();
        assert_eq!((in_order.bytes, in_order.metered_bytes), (105, 100));
    }

    #[test]
    fn only_a_later_month_begins_anew() {
        let mut month = november();
        month.count(100, false);
        month.is(date(2026, 11, 30));
        month.is(date(2026, 10, 31));
        assert_eq!(month.moved().bytes, 100, "a clock that is set back gives nothing back");
        month.is(date(2026, 12, 1));
        assert_eq!(month.moved(), Moved::default());
    }

    #[test]
    fn file_that_is_cut_off_is_a_month_that_is_used_up_also_after_a_restart() {
        let mut month = Month::new(Found::from(&b"{\"month\":\"2026-1"[..]));
        assert_eq!(month.to_keep(), None, "nobody knows which month it is");
        month.is(date(2026, 11, 28));
        month.count(1, true);
        let kept = month.to_keep().unwrap();
        assert_eq!((kept, Some(kept)), (all_of_november(), month.at_the_end()));
        month.kept(kept);
        month.count(MARGIN, true);
        assert_eq!((month.to_keep(), month.at_the_end()), (None, None), "the disk says so");
        let mut after = again(kept);
        after.is(date(2026, 11, 30));
        assert!(month.moved().lost && after.moved().lost);
        assert_eq!((after.to_keep(), after.at_the_end()), (None, None));
    }

    /// Else a car that is off when the month turns would never know that it has.
    #[test]
    fn month_that_is_lost_is_over_with_its_month_also_in_a_car_that_is_off_by_then() {
        let mut month = again(all_of_november());
        month.is(date(2026, 12, 1));
        assert_eq!((month.moved(), month.to_keep()), (Moved::default(), None));
        month.count(1, false);
        assert_eq!(month.to_keep().unwrap().month, date(2026, 12, 1));
    }

    #[test]
    fn month_that_is_lost_and_turns_before_the_disk_hears_of_it_is_over_too() {
        let mut month = Month::new(Found::Unreadable);
        month.is(date(2026, 11, 28));
        month.not_kept();
        month.is(date(2026, 12, 1));
        assert!(!month.moved().lost);
        assert_eq!(month.to_keep().unwrap().month, date(2026, 12, 1));
    }

    /// It says neither yes nor no, and what is moved meanwhile a restart would forget.
    #[test]
    fn month_does_not_run_ahead_of_a_disk_that_hangs() {
        for metered in [false, true] {
            let mut month = november();
            month.kept(Kept {
                month: date(2026, 11, 1),
                bytes: if metered { 1 << 40 } else { MARGIN },
                metered_bytes: MARGIN,
            });
            month.count(MARGIN + BEHIND, metered);
            assert!(!month.moved().lost, "it may be busy");
            month.count(1, metered);
            assert!(month.moved().lost);
            month.kept(month.to_keep().unwrap());
            assert!(!month.moved().lost, "it has it now");
        }
    }

    #[test]
    fn count_that_the_disk_does_not_take_is_lost_until_it_does() {
        let mut month = november();
        month.count(100, false);
        month.not_kept();
        assert!(month.moved().lost);
        month.kept(month.to_keep().unwrap());
        assert!(!month.moved().lost);
    }
}
