//! Predicts when a car leaves first on a day, from what is held of it.
//!
//! It knows how a fleet behaves as a whole (that is published), the kind of each day, and of a car what is in [`Held`]. For each past day it takes
//! the first end of availability that was no visit; for a day to come, the middle of the densest hour among those of the same kind of day. Where
//! there are too few, or they do not agree, it says what it would say of any car. What must never happen: it looks at the day that it predicts.
//!
//! What a car says of its stay is counted by the car itself: where bands fell, one day is enough. How long after a fall cars leave is known of the fleet
//! ([`Lags`]), whatever the car rounds off, and what a day's falls say is one hour.
//!
//! It is no upper bound. Somebody who also knows the streets, the weather or the person does better.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fell::{Fall, Level};
use super::held::Held;
use super::seen::Change;
use super::{WATCHED, departure, hours};
use crate::traces::{DAY, DayKind, Fleet, Trace};

/// Half of the window in which departures count as one habit, in hours.
const HALF: f64 = 0.5;
/// So many departures must agree before the attacker believes in a habit. Two of any car agree by chance.
const AGREE: usize = 3;
/// Whose car is free again within this was visited, and did not leave.
const VISIT: Duration = Duration::from_mins(10);
/// Times that are coarser than this tell no hour.
const COARSEST: Duration = Duration::from_hours(6);

const KINDS: [DayKind; 3] = [DayKind::Weekday, DayKind::Saturday, DayKind::Sunday];

/// What the attacker expects: an hour after midnight for each kind of day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Habits([f64; 3]);

impl Habits {
    /// When the car leaves first on such a day, if it does.
    pub fn expects(&self, kind: DayKind) -> f64 {
        let [weekday, saturday, sunday] = self.0;
        match kind {
            DayKind::Weekday => weekday,
            DayKind::Saturday => saturday,
            DayKind::Sunday => sunday,
        }
    }

    /// From what is held of a car.
    pub fn learn(fleet: &Fleet, held: &Held, published: &Self, lags: &Lags) -> Self {
        if held.rounded > COARSEST {
            return *published;
        }
        let (first, told) = (ends(held), lags.departures(&held.fell));
        Self(KINDS.map(|kind| {
            let days = (0..WATCHED).filter(|day| fleet.day_kind(*day) == kind);
            let mut own: Vec<f64> = days.filter_map(|day| first_of(&first, day)).collect();
            // What fell in the last night says something of the morning after it.
            let days = (0..=WATCHED).filter(|day| fleet.day_kind(*day) == kind);
            let of_bands: Vec<f64> = days.filter_map(|day| told_of(&told, day)).collect();
            let enough = if of_bands.is_empty() { AGREE } else { 1 };
            own.extend(of_bands);
            densest(&own)
                .filter(|(agree, _)| *agree >= enough)
                .map_or_else(|| published.expects(kind), |(_, hour)| hour)
        }))
    }
}

/// How long after a fall cars leave: the median of a fleet, for each confidence and each band that was fallen from. Whoever has some cars of their own,
/// or the code, knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lags(BTreeMap<(Level, u32), Duration>);

impl Lags {
    /// From cars, each with its falls.
    pub fn of<'a>(cars: impl Iterator<Item = (&'a Trace, &'a [Fall])>) -> Self {
        let end = DAY * u32::from(WATCHED);
        let mut all: BTreeMap<_, Vec<Duration>> = BTreeMap::new();
        for (trace, fell) in cars {
            for one in fell {
                let next = trace.trips.partition_point(|trip| trip.during.from <= one.at);
                let left = trace.trips.get(next).map(|trip| trip.during.from);
                if let Some(left) = left.filter(|left| *left < end) {
                    let lags = all.entry((one.level, one.from)).or_default();
                    lags.push(left.saturating_sub(one.at));
                }
            }
        }
        let median = |(of, mut lags): (_, Vec<Duration>)| {
            lags.sort_unstable();
            Some((of, *lags.get(lags.len() / 2)?))
        };
        Self(all.into_iter().filter_map(median).collect())
    }

    /// When the car leaves by each of these, in their order; by those of 50 %, if there are any, for they say when half of its departures are over.
    fn departures(&self, fell: &[Fall]) -> Vec<Duration> {
        let level = if fell.iter().any(|fall| fall.level == Level::P50) {
            Level::P50
        } else {
            Level::P90
        };
        let of = |fall: &Fall| Some(fall.at.saturating_add(*self.0.get(&(fall.level, fall.from))?));
        let mut departures: Vec<Duration> = fell.iter().filter(|fall| fall.level == level).filter_map(of).collect();
        departures.sort_unstable();
        departures
    }
}

/// What is published of a fleet: the densest hour of all departures.
pub fn published(fleet: &Fleet, traces: &[Trace]) -> Habits {
    Habits(KINDS.map(|kind| {
        let days: Vec<u16> = (0..WATCHED).filter(|day| fleet.day_kind(*day) == kind).collect();
        let of = |trace: &Trace| -> Vec<f64> { days.iter().filter_map(|day| departure(trace, *day)).collect() };
        let all: Vec<f64> = traces.iter().flat_map(of).collect();
        densest(&all).map_or(12.0, |(_, hour)| hour)
    }))
}

/// The moments at which the car was not free any more and did not become so again at once, in their order.
fn ends(held: &Held) -> Vec<Duration> {
    let mut ends = Vec::new();
    let mut changes = held.changes.iter().peekable();
    while let Some(change) = changes.next() {
        let back = changes.peek();
        let visit =
            back.is_some_and(|next| next.change == Change::Available && next.at.saturating_sub(change.at) < VISIT);
        if matches!(change.change, Change::Paused | Change::Away) && !visit {
            // In the middle of what was rounded away.
            ends.push(change.at.saturating_add(held.rounded / 2));
        }
    }
    ends
}

/// The first of the day, in hours after midnight.
fn first_of(ends: &[Duration], day: u16) -> Option<f64> {
    let midnight = DAY * u32::from(day);
    let at = ends.get(ends.partition_point(|at| *at < midnight))?;
    (*at < midnight + DAY).then(|| hours(at.saturating_sub(midnight)))
}

/// What falls say of the first departure of a day, in hours after midnight: the mean of those that are within an hour of the first.
fn told_of(departures: &[Duration], day: u16) -> Option<f64> {
    let first = first_of(departures, day)?;
    let midnight = DAY * u32::from(day);
    let after = departures.get(departures.partition_point(|at| *at < midnight)..)?;
    let said = after.iter().map(|at| hours(at.saturating_sub(midnight)));
    let said: Vec<f64> = said.take_while(|hour| *hour <= first + 2.0 * HALF).collect();
    Some(mean(&said))
}

/// The fullest window of an hour around one of them: how many are in it, and their mean.
fn densest(hours: &[f64]) -> Option<(usize, f64)> {
    let mut sorted = hours.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut best: Option<(usize, f64)> = None;
    for middle in &sorted {
        let from = sorted.partition_point(|hour| *hour < middle - HALF);
        let until = sorted.partition_point(|hour| *hour <= middle + HALF);
        let inside = sorted.get(from..until).unwrap_or_default();
        if best.is_none_or(|(most, _)| inside.len() > most) {
            best = Some((inside.len(), mean(inside)));
        }
    }
    best
}

#[expect(clippy::cast_precision_loss, reason = "a few thousand")]
fn mean(of: &[f64]) -> f64 {
    of.iter().sum::<f64>() / of.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::seen::Seen;

    const MIDDAY: Habits = Habits([12.0; 3]);

    fn at(day: u64, hour: f64) -> Duration {
        Duration::from_hours(24 * day) + Duration::from_secs_f64(hour * 3600.0)
    }

    fn held(changes: &[(Duration, Change)]) -> Held {
        Held {
            changes: changes
                .iter()
                .map(|(at, change)| Seen {
                    at: *at,
                    change: *change,
                })
                .collect(),
            ..Held::default()
        }
    }

    fn weekday(held: &Held) -> f64 {
        let fleet = crate::privacy::fleet(1, 0.0);
        Habits::learn(&fleet, held, &MIDDAY, &lags()).expects(DayKind::Weekday)
    }

    /// Cars leave eight hours after the longest band falls, and four after the next.
    fn lags() -> Lags {
        let hours = |level, from, hours| ((level, from), Duration::from_hours(hours));
        Lags(BTreeMap::from([
            hours(Level::P50, 480, 8),
            hours(Level::P50, 240, 4),
            hours(Level::P90, 480, 9),
        ]))
    }

    fn fall(at: Duration, level: Level, from: u32) -> Fall {
        Fall { at, level, from }
    }

    #[test]
    fn one_band_that_fell_is_a_habit_and_those_of_a_half_go_before_those_of_nine_in_ten() {
        let fell = [
            fall(at(0, 0.0), Level::P50, 480),
            fall(at(0, 0.5), Level::P90, 480),
            fall(at(0, 4.5), Level::P50, 240),
            // In the afternoon.
            fall(at(0, 13.0), Level::P50, 240),
        ];
        let with = |fell: &[Fall]| Held {
            fell: fell.to_vec(),
            ..Held::default()
        };
        assert!((weekday(&with(&fell)) - 8.25).abs() < 0.01, "{}", weekday(&with(&fell)));
        assert!((weekday(&with(&fell[1..2])) - 9.5).abs() < 0.01);
        let unknown = [fall(at(0, 1.0), Level::P50, 60)];
        assert!((weekday(&with(&unknown)) - 12.0).abs() < f64::EPSILON);
    }

    #[test]
    fn lag_is_the_median_of_the_departures_after_falls_from_one_band() {
        let trace = crate::privacy::fleet(1, 0.7).trace(0);
        let left = trace.trips[0].during.from;
        let falls: Vec<Fall> = [9, 5, 1]
            .map(|minutes| fall(left.saturating_sub(Duration::from_mins(minutes)), Level::P90, 60))
            .to_vec();
        let lags = Lags::of(std::iter::once((&trace, falls.as_slice())));
        assert_eq!(lags, Lags(BTreeMap::from([((Level::P90, 60), Duration::from_mins(5))])));
    }

    #[test]
    fn car_that_left_thrice_at_one_hour_is_expected_then() {
        let past = held(&[
            (at(0, 7.4), Change::Paused),
            (at(0, 7.5), Change::Away),
            (at(1, 7.6), Change::Away),
            (at(1, 16.0), Change::Away),
            (at(2, 7.5), Change::Away),
            (at(3, 11.0), Change::Away),
        ]);
        assert!((weekday(&past) - 7.5).abs() < 0.01, "{}", weekday(&past));
    }

    #[test]
    fn car_of_which_too_little_is_held_is_expected_like_any_other() {
        let past = held(&[(at(0, 7.4), Change::Away), (at(1, 7.4), Change::Away)]);
        assert!((weekday(&past) - 12.0).abs() < f64::EPSILON);
        assert!((weekday(&Held::default()) - 12.0).abs() < f64::EPSILON);
    }

    #[test]
    fn visit_and_silence_are_no_departures() {
        let visit = |day| [(at(day, 7.0), Change::Paused), (at(day, 7.1), Change::Available)];
        let silence = |day| [(at(day, 6.0), Change::Unheard), (at(day, 9.0), Change::Away)];
        let past: Vec<_> = (0..4)
            .flat_map(|day| silence(day).into_iter().chain(visit(day)))
            .collect();
        let mut past = held(&past);
        past.changes.sort_by_key(|seen| seen.at);
        assert!((weekday(&past) - 9.0).abs() < 0.01, "{}", weekday(&past));
    }

    #[test]
    fn times_to_the_day_tell_no_hour() {
        let past = held(&[0, 1, 2, 3].map(|day| (at(day, 0.0), Change::Away)));
        let past = Held { rounded: DAY, ..past };
        assert!((weekday(&past) - 12.0).abs() < f64::EPSILON);
    }

    #[test]
    fn densest_hour_is_that_of_most() {
        let (agree, hour) = densest(&[7.0, 7.2, 7.4, 15.0, 15.1]).unwrap();
        assert_eq!(agree, 3);
        assert!((hour - 7.2).abs() < 1e-9);
        assert_eq!(densest(&[]), None);
    }
}
