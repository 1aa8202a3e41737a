//! What is left in somebody's hands, at the end of four weeks, of what the cluster has seen of a car.
//!
//! Called once per car and source. A [`Source`] is a place where times are kept, and the limits on it: how far back, to which precision. What
//! must never happen: something of the days that are to be predicted is in it.

use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

use super::WATCHED;
use super::fell::{Fall, Level};
use super::seen::{Change, Seen};
use crate::traces::{DAY, Trace};

const HOUR: Duration = Duration::from_hours(1);

/// What somebody has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Source {
    /// Names the row of the table, and the value in the figures.
    pub name: &'static str,
    /// In words.
    pub says: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// What a source holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Nothing: what is published of cars in general.
    Nothing,
    /// One look at the objects as they are: the newest change of each kind, with its `lastTransitionTime`.
    Objects,
    /// Every change of the newest span: Events, an audit log, a watcher's own notes, metrics with a label for each vehicle.
    Changes {
        /// How far back.
        kept: Duration,
        /// Times are rounded down to multiples of this; zero: as they are.
        rounded: Duration,
    },
    /// The ends of the attempts that a departure disrupted: receipts, Pods that have ended.
    Attempts {
        /// How far back.
        kept: Duration,
        /// Times are rounded down to multiples of this; zero: as they are.
        rounded: Duration,
        /// The share of departures at which an attempt runs in the car.
        busy: f64,
    },
    /// One look at the objects as they are: when each band of what the car says of its stay fell last, which the managers of their fields tell.
    FellLast,
    /// Every fall of those bands in the newest span: an audit log, a watcher's own notes, metrics with the label of a Node.
    Fell {
        /// How far back.
        kept: Duration,
        /// Only the label of the Node, which is the one with a confidence of 90 %.
        label_only: bool,
        /// Together with every change of that span.
        with_changes: bool,
    },
    /// Every departure, as only the car knows it: the most that an attacker of this kind can do.
    Truth,
}

impl Kind {
    /// Whether it holds what cars say of their stays.
    pub fn has_falls(self) -> bool {
        matches!(self, Self::FellLast | Self::Fell { .. })
    }
}

/// No limit.
const FOR_GOOD: Duration = Duration::MAX;
const EXACT: Duration = Duration::ZERO;
/// Half of the departures find an attempt: a fleet that is neither idle nor full.
const BUSY: f64 = 0.5;

/// The rows of the table, in its order.
pub const SOURCES: [Source; 22] = [
    row("published", "nothing of the car: what is published", Kind::Nothing),
    row("objects", "one look at all objects", Kind::Objects),
    row(
        "changes1h",
        "Events, kept 1 h (Kubernetes' default)",
        changes(HOUR, EXACT),
    ),
    row("changes1d", "every change of 1 day", changes(DAY, EXACT)),
    row("changes7d", "every change of 7 days", changes(days(7), EXACT)),
    row(
        "changes28d",
        "every change of 28 days: an audit log kept 30 d, or who watched",
        changes(days(28), EXACT),
    ),
    row(
        "changes28d5m",
        "the same, rounded to 5 min as a Vehicle's times are",
        changes(days(28), minutes(5)),
    ),
    row("changes28d1h", "the same, rounded to 1 h", changes(days(28), HOUR)),
    row(
        "attempts1d",
        "Pods of disrupted attempts, kept 1 day",
        attempts(DAY, EXACT, BUSY),
    ),
    row(
        "receipts",
        "receipts, kept for good, to the millisecond",
        attempts(FOR_GOOD, EXACT, BUSY),
    ),
    row("receipts7d", "receipts, kept 7 days", attempts(days(7), EXACT, BUSY)),
    row("receipts1h", "receipts, rounded to 1 h", attempts(FOR_GOOD, HOUR, BUSY)),
    row(
        "receipts1d",
        "receipts, rounded to 1 day",
        attempts(FOR_GOOD, DAY, BUSY),
    ),
    row(
        "freeForLook",
        "free for, one look: when its bands fell last",
        Kind::FellLast,
    ),
    row("freeFor1d", "free for, 1 day", fell(DAY, false, false)),
    row("freeFor7d", "free for, 7 days", fell(days(7), false, false)),
    row("freeFor28d", "free for, 28 days", fell(days(28), false, false)),
    row(
        "freeForLabel28d",
        "free for, only the label of the Node, 28 days",
        fell(days(28), true, false),
    ),
    row(
        "changesAndFreeFor1d",
        "every change and free for, 1 day",
        fell(DAY, false, true),
    ),
    row(
        "changesAndFreeFor7d",
        "every change and free for, 7 days",
        fell(days(7), false, true),
    ),
    row(
        "changesAndFreeFor28d",
        "every change and free for, 28 days",
        fell(days(28), false, true),
    ),
    row("truth", "every departure, as only the car knows it", Kind::Truth),
];

const fn row(name: &'static str, says: &'static str, kind: Kind) -> Source {
    Source { name, says, kind }
}

const fn changes(kept: Duration, rounded: Duration) -> Kind {
    Kind::Changes { kept, rounded }
}

const fn attempts(kept: Duration, rounded: Duration, busy: f64) -> Kind {
    Kind::Attempts { kept, rounded, busy }
}

const fn fell(kept: Duration, label_only: bool, with_changes: bool) -> Kind {
    Kind::Fell {
        kept,
        label_only,
        with_changes,
    }
}

const fn days(days: u64) -> Duration {
    Duration::from_hours(24 * days)
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

/// The source of this name.
pub fn source(name: &str) -> Option<Source> {
    SOURCES.into_iter().find(|source| source.name == name)
}

/// What is held of one car.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Held {
    /// Changes, in their order; times as they are held.
    pub changes: Vec<Seen>,
    /// When bands fell, in their order.
    pub fell: Vec<Fall>,
    /// The times are multiples of this.
    pub rounded: Duration,
}

impl Held {
    /// What this source holds of a car; `chance` seeds which of its hours had work.
    pub fn of(source: &Source, trace: &Trace, seen: &[Seen], fell: &[Fall], chance: u64) -> Self {
        let now = DAY * u32::from(WATCHED);
        let fallen = || fell.iter().copied().filter(|fall| fall.at < now);
        let past = || seen.iter().copied().filter(|seen| seen.at < now);
        match source.kind {
            Kind::Nothing => Self::default(),
            Kind::Objects => Self {
                changes: newest(past()),
                ..Self::default()
            },
            Kind::Changes { kept, rounded } => Self {
                changes: since(past(), now, kept, rounded),
                rounded,
                ..Self::default()
            },
            Kind::Attempts { kept, rounded, busy } => Self {
                changes: since(disrupted(past(), busy, chance, trace.car.index), now, kept, rounded),
                rounded,
                ..Self::default()
            },
            Kind::FellLast => Self {
                fell: last(fallen()),
                ..Self::default()
            },
            Kind::Fell {
                kept,
                label_only,
                with_changes,
            } => {
                let oldest = now.saturating_sub(kept);
                let of_label = |fall: &Fall| !label_only || fall.level == Level::P90;
                Self {
                    changes: if with_changes {
                        since(past(), now, kept, EXACT)
                    } else {
                        Vec::new()
                    },
                    fell: fallen().filter(|fall| fall.at >= oldest && of_label(fall)).collect(),
                    rounded: EXACT,
                }
            }
            Kind::Truth => Self {
                changes: departures(trace, now),
                ..Self::default()
            },
        }
    }
}

/// The newest change of each kind: what conditions show.
fn newest(past: impl Iterator<Item = Seen>) -> Vec<Seen> {
    let mut newest: Vec<Seen> = Vec::new();
    for seen in past {
        newest.retain(|before| before.change != seen.change);
        newest.push(seen);
    }
    newest
}

/// The last fall of each confidence.
fn last(fallen: impl Iterator<Item = Fall>) -> Vec<Fall> {
    let mut last: Vec<Fall> = Vec::new();
    for fall in fallen {
        last.retain(|before| before.level != fall.level);
        last.push(fall);
    }
    last
}

fn since(past: impl Iterator<Item = Seen>, now: Duration, kept: Duration, rounded: Duration) -> Vec<Seen> {
    let oldest = now.saturating_sub(kept);
    past.filter(|seen| seen.at >= oldest)
        .map(|seen| Seen {
            at: floor(seen.at, rounded),
            ..seen
        })
        .collect()
}

fn floor(at: Duration, step: Duration) -> Duration {
    let step = step.as_millis();
    if step == 0 {
        return at;
    }
    Duration::from_millis(u64::try_from(at.as_millis() / step * step).unwrap_or(u64::MAX))
}

/// The departures at which an attempt ran; which ones, chance says, and the same in every run.
fn disrupted(past: impl Iterator<Item = Seen>, busy: f64, seed: u64, car: u32) -> impl Iterator<Item = Seen> {
    let mut chance = Xoshiro256PlusPlus::seed_from_u64(seed ^ (u64::from(car) << 32 | 0x7072_6976));
    let mut before = Change::Away;
    past.filter(move |seen| {
        let was = std::mem::replace(&mut before, seen.change);
        let leaves = seen.change == Change::Away && matches!(was, Change::Available | Change::Paused);
        leaves && unit(&mut chance) < busy
    })
}

/// From 0 up to and without 1.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
fn unit(of: &mut Xoshiro256PlusPlus) -> f64 {
    (of.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

fn departures(trace: &Trace, now: Duration) -> Vec<Seen> {
    let past = trace.trips.iter().map(|trip| trip.during.from).filter(|at| *at < now);
    past.map(|at| Seen {
        at,
        change: Change::Away,
    })
    .collect()
}
