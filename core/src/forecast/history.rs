//! What a car remembers of its stays, and how far its forecasts have held.
//!
//! Kept by the agent in `stays.json`, written at each arrival and departure, read at start. It is the owner's diary in all but name: it
//! never leaves the car, and forgets after 26 weeks. What must never happen: a wrong clock that costs the history. A clock may be wrong for
//! some stays, so nothing is thrown away because one stay disagrees with it.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::civil::{DAY, Minute, WEEK};
use super::comparable::{Here, Sample, WEEKS};

/// Of the file's form. One of another version is not read.
const VERSION: u32 = 1;
/// More than a car has in half a year, unless it is a parcel service's.
const MOST: usize = 1500;
/// Minutes; a shorter stay is a stop.
const SHORTEST: i64 = 5;
/// Minutes; a longer one is a car that is laid up, or an agent that was away while somebody drove.
const LONGEST: i64 = 8 * WEEK;
/// The newest stays, whose median says what time it is. Two of them may be wrong.
const WITNESSES: usize = 5;
/// With fewer moments that are comparable nothing is promised at all.
const FEWEST: f64 = 9.0;
/// Set departures that are remembered.
const RECORD: usize = 50;

/// A stay is checked at this age, in minutes, and then again and again.
const FIRST_CHECK: i64 = 30;
const CHECK_EVERY: i64 = 60;
/// A stay is checked up to this age: one that lasts for weeks is not to weigh more than all others.
const CHECKED_UP_TO: i64 = 3 * DAY;
/// By how much a promise that was not held moves the chance that is asked for, in millionths.
const STEP: i64 = 500;

/// Chances to fall short of the two promises, in millionths.
const AIM: Levels = Levels {
    p50: 500_000,
    p90: 100_000,
};
const WHOLE: u32 = 1_000_000;
/// Between these, what is asked of the history may move.
const P50_WITHIN: (u32, u32) = (200_000, 800_000);
const P90_WITHIN: (u32, u32) = (20_000, 250_000);
/// How much a day that is not like this one may count, where those that are like it are too few.
const OTHER_DAYS: [f64; 3] = [0.01, 0.1, 0.5];

/// A stay that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stay {
    /// When the car came, on its own clock of that time and place.
    pub from: Minute,
    /// When it left, likewise.
    pub until: Minute,
    /// Minutes after it came, the cable was plugged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugged_after: Option<u32>,
    /// Minutes after it came, the charging plan was to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned_for: Option<u32>,
    /// How many minutes before the departure that was set it left; negative after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early: Option<i32>,
}

impl Stay {
    /// A stay of which nothing else is known.
    pub fn between(from: Timestamp, until: Timestamp, zone: &TimeZone) -> Self {
        Self {
            from: Minute::of(from, zone),
            until: Minute::of(until, zone),
            plugged_after: None,
            planned_for: None,
            early: None,
        }
    }

    /// Minutes on the wall's clock.
    pub fn minutes(&self) -> i64 {
        self.until.since(self.from)
    }

    fn counts(&self) -> bool {
        (SHORTEST..=LONGEST).contains(&self.minutes())
    }
}

/// What chance to fall short is asked of the history, so that the promises are fallen short of as often as they say.
///
/// The history answers exactly if the days to come are like those that were. They are not quite; so after each stay the car looks at what
/// it would have promised in it, and asks for a little less or more (adaptive conformal inference, Gibbs and Candès 2021). In
/// millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Levels {
    p50: u32,
    p90: u32,
}

/// Minutes on the wall's clock that a stay goes on for, each with its confidence; `None`: nothing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Habit {
    pub(super) p50: Option<i64>,
    pub(super) p90: Option<i64>,
}

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It is no history, or a part of one.
    #[error("failed to parse the history of stays")]
    Parse(#[from] serde_json::Error),
    /// Another agent wrote it.
    #[error("failed to read the history of stays: it has version {0}, and this agent reads {VERSION}")]
    Version(u32),
}

/// What a car remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct History {
    version: u32,
    /// When the car came to where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    arrived: Option<Timestamp>,
    levels: Levels,
    /// In the order in which they ended, whatever the clock said.
    stays: Vec<Stay>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            version: VERSION,
            arrived: None,
            levels: AIM,
            stays: Vec::new(),
        }
    }
}

impl History {
    /// Reads a file. Whoever cannot starts with an empty one: then nothing is promised until there is something to promise by.
    pub fn parse(bytes: &[u8]) -> Result<Self, HistoryError> {
        /// What all versions have.
        #[derive(Deserialize)]
        struct Any {
            version: u32,
        }
        let Any { version } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(HistoryError::Version(version));
        }
        let mut history: Self = serde_json::from_slice(bytes)?;
        history.stays.retain(Stay::counts);
        history.levels = history.levels.within();
        history.forget();
        Ok(history)
    }

    /// What is written to the file.
    pub fn print(&self) -> Vec<u8> {
        // Numbers, text and times of civil dates: all can be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// When the car came to where it stands, if it stands.
    pub fn arrived(&self) -> Option<Timestamp> {
        self.arrived
    }

    /// How many stays are remembered.
    pub fn len(&self) -> usize {
        self.stays.len()
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.stays.is_empty()
    }

    /// The car came; or what was thought to be a stay is none any more.
    pub fn arrive(&mut self, at: Option<Timestamp>) {
        self.arrived = at;
    }

    /// The car left.
    pub fn depart(&mut self, stay: Stay) {
        self.arrived = None;
        if !stay.counts() {
            return;
        }
        self.learn(&stay);
        self.stays.push(stay);
        self.forget();
    }

    /// What stays that are like this one came to.
    pub(super) fn habit(&self, here: &Here) -> Habit {
        let mut samples = OTHER_DAYS.into_iter().map(|other| Sample::of(&self.stays, here, other));
        let Some(sample) = samples.find(|sample| sample.effective() >= FEWEST) else {
            return Habit::default();
        };
        let reached = |millionths: u32| sample.reached(f64::from(millionths) / f64::from(WHOLE));
        let (p50, p90) = (reached(self.levels.p50), reached(self.levels.p90));
        Habit { p50, p90: p90.min(p50) }
    }

    /// By how many minutes the car left before the departures that were set, the newest first.
    pub(super) fn early(&self) -> impl Iterator<Item = i32> {
        self.stays.iter().rev().filter_map(|stay| stay.early).take(RECORD)
    }

    /// Looks at what would have been promised during a stay by what was known when it began.
    fn learn(&mut self, stay: &Stay) {
        let (mut p50, mut p90) = (0, 0);
        let mut age = FIRST_CHECK;
        while age < stay.minutes().min(CHECKED_UP_TO) {
            let here = Here::in_stay(stay, age);
            let promised = self.habit(&here);
            let rest = stay.until.since(here.at);
            let moves = |promised: Option<i64>, aim: u32| match promised {
                None => 0,
                Some(promised) => {
                    let wanted = STEP * i64::from(aim) / i64::from(WHOLE);
                    if promised > rest { wanted - STEP } else { wanted }
                }
            };
            p50 += moves(promised.p50, AIM.p50);
            p90 += moves(promised.p90, AIM.p90);
            age += CHECK_EVERY;
        }
        self.levels = Levels {
            p50: self.levels.p50.saturating_add_signed(i32::try_from(p50).unwrap_or(0)),
            p90: self.levels.p90.saturating_add_signed(i32::try_from(p90).unwrap_or(0)),
        }
        .within();
    }

    /// Forgets what is too old, and what lies ahead of everything that came after it: a clock was wrong then.
    fn forget(&mut self) {
        let over = self.stays.len().saturating_sub(MOST);
        self.stays.drain(..over);
        let mut newest: Vec<Minute> = self.stays.iter().rev().take(WITNESSES).map(|stay| stay.until).collect();
        newest.sort_unstable();
        let (older, Some(today)) = (self.stays.len() - newest.len(), newest.get(newest.len() / 2)) else {
            return;
        };
        let mut number = 0;
        self.stays.retain(|stay| {
            number += 1;
            let told = today.since(stay.until) < WEEKS * WEEK && stay.from.since(*today) < DAY;
            number > older || told
        });
    }
}

impl Levels {
    fn within(self) -> Self {
        let (p50, p90) = (P50_WITHIN, P90_WITHIN);
        Self {
            p50: self.p50.clamp(p50.0, p50.1),
            p90: self.p90.clamp(p90.0, p90.1),
        }
    }
}
