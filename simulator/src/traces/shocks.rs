//! What strikes many cars at once, and which of them.
//!
//! Whether a shock hits a car is drawn from the car's own stream for that shock, so adding a shock at the end of the list moves
//! nothing else.

use std::time::Duration;

use super::car::HomeNetwork;
use super::random::{Draws, Key, Purpose};
use super::{DAY, Fleet, Interval, Place, Stay, moment};

/// Something strikes many cars at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shock {
    /// When it begins, since the start of the traces.
    pub at: Duration,
    /// What it is.
    pub kind: ShockKind,
}

/// What strikes. A share is of all cars; above 1 is all, below 0 none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ShockKind {
    /// Cars leave home, each of those that are hit at an even chance within a span. For mornings: it is their first trip of the
    /// day, and the day must still have room to come home.
    Exodus {
        /// Of the cars.
        share: f64,
        /// All leave within this span.
        within: Duration,
    },
    /// Its day is a Sunday for everybody.
    Holiday,
    /// The mobile network fails in a city. Who stands at home on the owner's network stays reachable.
    Outage {
        /// How many of the cars belong to that city.
        share: f64,
        /// How long it lasts.
        lasts: Duration,
    },
    /// Our gateway restarts: every car loses its connection at once and comes back at an even chance within a span.
    Reconnect {
        /// All are back by then.
        within: Duration,
    },
}

impl Shock {
    /// On which day of the traces it begins.
    pub(super) fn day(&self) -> u16 {
        u16::try_from(self.at.as_secs() / DAY.as_secs()).unwrap_or(u16::MAX)
    }
}

/// The stream of a shock for a car. The number of the shock stands in the place of the day.
fn draws(fleet: &Fleet, car: u32, number: usize) -> Draws {
    let day = u16::try_from(number).unwrap_or(u16::MAX);
    Key {
        seed: fleet.seed,
        car,
        day,
        leg: 0,
    }
    .draws(Purpose::Shock)
}

/// At which hour an exodus makes this car leave on a day of the traces.
pub(super) fn exodus(fleet: &Fleet, car: u32, day: u16) -> Option<f64> {
    fleet.shocks.iter().enumerate().find_map(|(number, shock)| {
        let ShockKind::Exodus { share, within } = shock.kind else {
            return None;
        };
        let draws = &mut draws(fleet, car, number);
        let hit = shock.day() == day && draws.chance(share);
        let midnight = DAY * u32::from(day);
        hit.then(|| hours(shock.at.saturating_sub(midnight)) + draws.unit() * hours(within))
    })
}

fn hours(span: Duration) -> f64 {
    span.as_secs_f64() / 3600.0
}

/// When no network reaches a car that stands so: merged, in order, within the trace.
pub(super) fn unreachable(
    fleet: &Fleet,
    car: u32,
    at_home: HomeNetwork,
    stays: &[Stay],
    end: Duration,
) -> Vec<Interval> {
    let home = || {
        stays
            .iter()
            .filter(|stay| stay.place == Place::Home)
            .map(|stay| stay.during)
    };
    let mut gaps: Vec<Interval> = Vec::new();
    if at_home == HomeNetwork::None {
        gaps.extend(home());
    }
    for (number, shock) in fleet.shocks.iter().enumerate() {
        let draws = &mut draws(fleet, car, number);
        match shock.kind {
            ShockKind::Outage { share, lasts } if draws.chance(share) => {
                let outage = Interval {
                    from: shock.at,
                    until: shock.at.saturating_add(lasts),
                };
                if at_home == HomeNetwork::Wifi {
                    gaps.extend(without(outage, home()));
                } else {
                    gaps.push(outage);
                }
            }
            ShockKind::Reconnect { within } => {
                let until = shock.at.saturating_add(moment(draws.unit() * hours(within)));
                gaps.push(Interval { from: shock.at, until });
            }
            ShockKind::Outage { .. } | ShockKind::Exodus { .. } | ShockKind::Holiday => {}
        }
    }
    merged(gaps, end)
}

/// What is left of an interval when sorted, separate ones are taken out of it.
fn without(whole: Interval, holes: impl Iterator<Item = Interval>) -> Vec<Interval> {
    let mut left = Vec::new();
    let mut from = whole.from;
    for hole in holes.filter(|hole| hole.until > whole.from && hole.from < whole.until) {
        left.push(Interval { from, until: hole.from });
        from = hole.until;
    }
    left.push(Interval {
        from,
        until: whole.until,
    });
    left.retain(|interval| interval.from < interval.until);
    left
}

/// Sorted, apart from each other, and cut at the end.
fn merged(mut intervals: Vec<Interval>, end: Duration) -> Vec<Interval> {
    intervals.sort_by_key(|interval| interval.from);
    let mut merged: Vec<Interval> = Vec::new();
    for Interval { from, until } in intervals {
        let until = until.min(end);
        match merged.last_mut() {
            _ if from >= until => {}
            Some(last) if from <= last.until => last.until = last.until.max(until),
            _ => merged.push(Interval { from, until }),
        }
    }
    merged
}
