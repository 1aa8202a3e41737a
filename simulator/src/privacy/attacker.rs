//! Predicts when a car leaves first on a day, from what is held of it.
//!
//! It knows how a fleet behaves as a whole (that is published), the kind of each day, and of a car what is in [`Held`]. For each past day it takes
//! the first end of availability that was no visit; for a day to come, the middle of the densest hour among those of the same kind of day. Where
//! there are too few, or they do not agree, it says what it would say of any car. What must never happen: it looks at the day that it predicts.
//!
//! It is no upper bound. Somebody who also knows the streets, the weather or the person does better.

use std::time::Duration;

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
    pub fn learn(fleet: &Fleet, held: &Held, published: &Self) -> Self {
        if held.rounded > COARSEST {
            return *published;
        }
        let first = ends(held);
        Self(KINDS.map(|kind| {
            let days = (0..WATCHED).filter(|day| fleet.day_kind(*day) == kind);
            let own: Vec<f64> = days.filter_map(|day| first_of(&first, day)).collect();
            densest(&own)
                .filter(|(agree, _)| *agree >= AGREE)
                .map_or_else(|| published.expects(kind), |(_, hour)| hour)
        }))
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
            rounded: Duration::ZERO,
        }
    }

    fn weekday(held: &Held) -> f64 {
        let fleet = crate::privacy::fleet(1, 0.0);
        Habits::learn(&fleet, held, &MIDDAY).expects(DayKind::Weekday)
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
