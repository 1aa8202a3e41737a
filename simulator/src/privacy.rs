//! How well somebody who has the cluster's data knows when a car will leave: a test attacker, and what lowers its score.
//!
//! Called by the testbed's `bench-privacy`. All of it is pure: a fleet of traces lives for five weeks, [`seen`] is what the cluster sees of
//! a car, [`fell`] what it sees of the car's own forecasts, [`held`] what is left of that in somebody's hands after four weeks, [`attacker`]
//! predicts the departures of the fifth, and [`score`] holds them against the trace. What must never happen: the attacker is told anything
//! of a car that is not in what is held.

pub mod attacker;
pub mod fell;
pub mod held;
pub mod score;
pub mod seen;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::traces::{DAY, Fleet, Trace};
use attacker::{Habits, Lags};
use held::{Held, Source};
use score::{Score, Tally};

/// What is held is of so many days.
pub const WATCHED: u16 = 28;
/// What is predicted is the departures of so many days after that.
pub const PREDICTED: u16 = 7;

/// A fleet that lives long enough.
pub fn fleet(seed: u64, regularity: f64) -> Fleet {
    Fleet {
        seed,
        days: WATCHED + PREDICTED,
        regularity,
        ..Fleet::default()
    }
}

/// One row of the table: what the attacker had, and how well it did.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What it had.
    pub source: Source,
    /// How well it did.
    pub score: Score,
}

/// Lets the attacker try with each of the sources; `needs_cable`: the owners let their cars work only while plugged in.
pub fn try_all(fleet: &Fleet, cars: u32, needs_cable: bool, sources: &[Source]) -> Vec<Row> {
    let traces: Vec<Trace> = fleet.traces(cars).collect();
    let public = attacker::published(fleet, &traces);
    let seen: Vec<Vec<seen::Seen>> = traces.iter().map(|trace| seen::seen(trace, needs_cable)).collect();
    let asked = sources.iter().any(|source| source.kind.has_falls());
    let fell = if asked {
        falls(fleet, &traces)
    } else {
        vec![Vec::new(); traces.len()]
    };
    let lags = Lags::of(traces.iter().zip(fell.iter().map(Vec::as_slice)));
    let row = |source: &Source| {
        let mut tally = Tally::default();
        for ((trace, seen), fell) in traces.iter().zip(&seen).zip(&fell) {
            let held = Held::of(source, trace, seen, fell, fleet.seed);
            let habits = Habits::learn(fleet, &held, &public, &lags);
            tally.add(fleet, trace, &habits);
        }
        Row {
            source: *source,
            score: tally.score(),
        }
    };
    sources.iter().map(row).collect()
}

/// What falls of what each car says; the slowest part by far, for each car makes thousands of forecasts.
fn falls(fleet: &Fleet, traces: &[Trace]) -> Vec<Vec<fell::Fall>> {
    let longer = Fleet {
        days: fleet.days.saturating_add(fell::LEARNT),
        ..fleet.clone()
    };
    let of = |trace: &Trace| fell::fell(trace, &longer.trace(trace.car.index));
    traces.iter().map(of).collect()
}

/// The first departure of a day in the trace, in hours after midnight.
fn departure(trace: &Trace, day: u16) -> Option<f64> {
    let midnight = DAY * u32::from(day);
    let first = trace.trips.partition_point(|trip| trip.during.from < midnight);
    let at = trace.trips.get(first)?.during.from;
    (at < midnight + DAY).then(|| hours(at.saturating_sub(midnight)))
}

fn hours(span: Duration) -> f64 {
    span.as_secs_f64() / 3600.0
}
