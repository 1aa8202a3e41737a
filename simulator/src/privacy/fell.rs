//! When what a car says of its stay fell: the band of its forecast, as the cluster sees it (docs/forecast.md).
//!
//! Called once per trace. Forecast and slots are the agent's own (`kerbside_core::forecast`), by a history of fourteen weeks: a longer trace of the
//! same car has the days for it, behind those of the shorter one, and they count as lived before. What must never happen: a forecast is made
//! by days that are still to come.
//!
//! A band that falls is the newest word of a car's own count of its departures, and comes at a moment that somebody can see: the label of the Node,
//! the offer of the Vehicle, and in both the times of their fields' managers.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use kerbside_core::forecast::{FreeFor, History, Published, STANDS_FOR, Situation, Stay, forecast};

use super::WATCHED;
use crate::traces::{self, DAY, Trace};

/// So many days the car has lived before.
pub const LEARNT: u16 = 14 * 7;
/// When traces begin, in seconds of Unix time: the midnight of Monday, 2 November 2026.
const BEGINS: i64 = 1_793_577_600;

/// With which confidence it was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// 50 %: a Vehicle's offer has it.
    P50,
    /// 90 %: the label of a Node, and a Vehicle's offer.
    P90,
}

/// A band fell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fall {
    /// Since the start of the trace.
    pub at: Duration,
    /// Of which confidence.
    pub level: Level,
    /// From so many minutes.
    pub from: u32,
}

/// Every time that a band fell in the days that are watched, in their order. `longer`: a trace of the same car that goes on for [`LEARNT`] days more.
pub fn fell(trace: &Trace, longer: &Trace) -> Vec<Fall> {
    let mut history = History::default();
    let learnt = BEGINS.saturating_sub(seconds(longer.length));
    for stay in whole(longer).filter(|stay| stay.during.from >= trace.length) {
        history.depart(written(learnt, stay));
    }
    let mut fell = Vec::new();
    let end = DAY * u32::from(WATCHED);
    for stay in trace.stays.iter().filter(|stay| stay.during.from < end) {
        let until = stay.during.until.min(end);
        fall_in(&history, stay.during.from, until, &mut fell);
        // When the car came before the trace began, nobody knows.
        if !stay.during.from.is_zero() {
            history.depart(written(BEGINS, stay));
        }
    }
    fell
}

/// What falls in a stay that begins then, up to a moment.
fn fall_in(history: &History, from: Duration, until: Duration, fell: &mut Vec<Fall>) {
    let mut published = Published::default();
    let mut at = from;
    while at < until {
        let wall = wall(BEGINS, at);
        // What falls within a slot, because a forecast becomes less than was to be expected, is left out: twelve times as many forecasts.
        if published.is_due(wall) {
            let situation = Situation {
                parked_for: at.saturating_sub(from),
                ..Situation::default()
            };
            let before = published.free_for();
            published.hear(forecast(history, wall, &TimeZone::UTC, &situation), wall);
            fell.extend(falls(at, before, published.free_for()));
        }
        at = at.saturating_add(STANDS_FOR);
    }
}

fn falls(at: Duration, before: FreeFor, now: FreeFor) -> impl Iterator<Item = Fall> {
    let both = [(Level::P50, before.p50, now.p50), (Level::P90, before.p90, now.p90)];
    let fell = both.into_iter().filter(|(_, from, to)| to < from);
    fell.map(move |(level, from, _)| Fall { at, level, from })
}

/// The stays whose beginning and end are both seen.
fn whole(trace: &Trace) -> impl Iterator<Item = &traces::Stay> {
    let seen = move |stay: &&traces::Stay| !stay.during.from.is_zero() && stay.during.until < trace.length;
    trace.stays.iter().filter(seen)
}

/// As the agent writes it down, without the cable.
fn written(begins: i64, stay: &traces::Stay) -> Stay {
    let [from, until] = [stay.during.from, stay.during.until].map(|at| wall(begins, at));
    Stay::between(from, until, &TimeZone::UTC)
}

fn wall(begins: i64, at: Duration) -> Timestamp {
    Timestamp::from_second(begins.saturating_add(seconds(at))).unwrap_or(Timestamp::MAX)
}

fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}
