//! When a car came and left, from what its signals say: what makes a stay of a row of judgements.
//!
//! Owned by the agent's policy loop, which shows it every judgement. A stay is from standing to driving: somebody who fetches a bag ends
//! none, nor does an owner who pauses work, nor a car that is too hot to work. Unknown is no answer: neither has the car come then, nor
//! left. Ages are counted by the clock that nobody sets; over a restart there is only the wall clock to count by.
//!
//! | state | standing | driving | unknown |
//! |---|---|---|---|
//! | nowhere | the stay begins | | |
//! | remembered | it goes on | it is given up: the agent was away when it ended | |
//! | here | | it is over | |

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::hints::Hints;
use super::history::{History, Stay};
use crate::clock::Boottime;
use crate::parked::{Factor, Judgement, Tri};

/// Beyond this a remembered stay is not believed.
const REMEMBERED: Duration = Duration::from_secs(8 * 7 * 24 * 3600);

/// What a car does, as far as stays go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// It stands, and is not about to drive.
    Standing,
    /// It drives, or is about to.
    Driving,
    /// Nobody knows.
    Unknown,
}

impl From<&Judgement> for Motion {
    fn from(judgement: &Judgement) -> Self {
        let needed = [Factor::Stationary, Factor::NotReadyToDrive, Factor::HeldInPlace];
        match Tri::all(needed.map(|factor| judgement.of(factor))) {
            Tri::Yes => Self::Standing,
            Tri::No => Self::Driving,
            Tri::Unknown => Self::Unknown,
        }
    }
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The car came, then.
    Arrived(Timestamp),
    /// It left.
    Departed(Stay),
    /// What was thought to be a stay is none.
    Forgotten,
}

/// The stay that is under way.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Current {
    /// How old it was at `counted_from`.
    before: Duration,
    counted_from: Boottime,
    /// The car was seen standing since the agent began.
    seen: bool,
    plugged_after: Option<Duration>,
    charging_until: Option<Timestamp>,
    departure: Option<Timestamp>,
}

/// Where the car is in its stays.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Presence(Option<Current>);

/// What is known of the stay under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Here {
    /// How long it has lasted.
    pub parked_for: Duration,
    /// The cable has been plugged in during it.
    pub plugged: bool,
    /// When the charging plan ends, as it was said last.
    pub charging_until: Option<Timestamp>,
    /// The departure that is set, as it was said last.
    pub departure: Option<Timestamp>,
}

impl Presence {
    /// What an agent that begins knows: a stay that an earlier one wrote down, if it can be.
    pub fn resume(history: &History, now: Boottime, wall: Timestamp) -> Self {
        let age = history.arrived().map(|arrived| wall.duration_since(arrived));
        let age = age.and_then(|age| Duration::try_from(age).ok());
        Self(
            age.filter(|age| *age < REMEMBERED)
                .map(|before| Current::new(before, now, false)),
        )
    }

    /// Looks at what the car does.
    pub fn see(&mut self, motion: Motion, now: Boottime, wall: Timestamp, zone: &TimeZone) -> Option<Change> {
        match (motion, &mut self.0) {
            (Motion::Standing, None) => {
                self.0 = Some(Current::new(Duration::ZERO, now, true));
                Some(Change::Arrived(wall))
            }
            (Motion::Standing, Some(current)) => {
                current.seen = true;
                None
            }
            (Motion::Driving, Some(current)) => {
                let change = if current.seen {
                    Change::Departed(current.stay(now, wall, zone))
                } else {
                    Change::Forgotten
                };
                self.0 = None;
                Some(change)
            }
            (Motion::Driving, None) | (Motion::Unknown, _) => None,
        }
    }

    /// Takes what the car says of its owner's plans. What it says no more of still holds, until it says otherwise or leaves.
    pub fn hear(&mut self, plugged: Tri, hints: Hints, now: Boottime) {
        let Some(current) = &mut self.0 else { return };
        if plugged.is_yes() && current.plugged_after.is_none() {
            current.plugged_after = Some(current.age(now));
        }
        if let Some(departure) = hints.departure {
            current.departure = departure;
        }
        if let Some(until) = hints.charging_until {
            current.charging_until = until;
        }
    }

    /// The stay under way, if the car has been seen to stand.
    pub fn here(&self, now: Boottime) -> Option<Here> {
        let current = self.0.as_ref().filter(|current| current.seen)?;
        Some(Here {
            parked_for: current.age(now),
            plugged: current.plugged_after.is_some(),
            charging_until: current.charging_until,
            departure: current.departure,
        })
    }
}

impl Current {
    fn new(before: Duration, counted_from: Boottime, seen: bool) -> Self {
        Self {
            before,
            counted_from,
            seen,
            plugged_after: None,
            charging_until: None,
            departure: None,
        }
    }

    fn age(&self, now: Boottime) -> Duration {
        self.before.saturating_add(now.since(self.counted_from))
    }

    fn stay(&self, now: Boottime, wall: Timestamp, zone: &TimeZone) -> Stay {
        let age = self.age(now);
        // By the clock as it is now: of two that differ, the later one is the likelier to be right.
        let came = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
        let came = Timestamp::from_second(wall.as_second().saturating_sub(came)).unwrap_or(Timestamp::MIN);
        let left = |until: Timestamp| until.duration_since(wall).as_secs() / 60;
        Stay {
            plugged_after: self.plugged_after.and_then(|after| u32::try_from(minutes(after)).ok()),
            planned_for: self
                .charging_until
                .and_then(|until| u32::try_from(minutes(age).saturating_add(left(until))).ok()),
            early: self.departure.and_then(|set| i32::try_from(left(set)).ok()),
            ..Stay::between(came, wall, zone)
        }
    }
}

fn minutes(span: Duration) -> i64 {
    i64::try_from(span.as_secs() / 60).unwrap_or(i64::MAX)
}
