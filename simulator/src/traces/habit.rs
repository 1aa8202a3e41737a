//! The hour at which a car leaves on most days, because its owner does.
//!
//! Published tables tell how a fleet spreads over the hours, and nothing of how one car spreads over the days. Whoever asks what a car's past
//! tells of its future says how regular cars are, and says so with the result. The fleet as a whole leaves as before: each car's hour is
//! drawn from the same table. What must never happen: a habit moves a trace of a fleet that has none.

use super::DayKind;
use super::car::{Archetype, Car};
use super::random::{Key, Purpose};
use super::tables;

/// How far from its hour a car leaves, in hours to either side. A guess.
const SPREAD: f64 = 1.0 / 3.0;

/// When the first trip of this day begins, if it goes by habit: hours after midnight. `key` is the day's.
pub(super) fn departs(regularity: f64, car: &Car, key: Key, kind: DayKind) -> Option<f64> {
    let draws = &mut key.draws(Purpose::Habit);
    if !draws.chance(regularity) {
        return None;
    }
    let hours = match (car.archetype, kind) {
        (Archetype::Commuter, DayKind::Weekday) => &tables::TO_WORK,
        _ => &tables::FIRST,
    };
    // Another leg than that of the days, so that no day shares its stream.
    let own = Key {
        day: kind as u16,
        leg: 0,
        ..key
    };
    let hour = own.draws(Purpose::Habit).hour(hours);
    Some((hour + draws.between(-SPREAD, SPREAD)).max(0.0))
}

#[cfg(test)]
mod tests {
    use crate::traces::{Archetype, DAY, DayKind, Fleet, Trace};

    fn fleet(regularity: f64) -> Fleet {
        Fleet {
            seed: 7,
            days: 28,
            regularity,
            ..Fleet::default()
        }
    }

    /// Between the earliest and the latest first departure of a weekday, in hours; none if there are fewer than five.
    fn spread(fleet: &Fleet, trace: &Trace) -> Option<f64> {
        let weekdays = (0..fleet.days).filter(|day| fleet.day_kind(*day) == DayKind::Weekday);
        let hours: Vec<f64> = weekdays
            .filter_map(|day| {
                let midnight = DAY * u32::from(day);
                let first = trace
                    .trips
                    .iter()
                    .map(|trip| trip.during.from)
                    .find(|at| *at >= midnight)?;
                (first < midnight + DAY).then(|| first.abs_diff(midnight).as_secs_f64() / 3600.0)
            })
            .collect();
        let least = hours.iter().copied().fold(f64::INFINITY, f64::min);
        let most = hours.iter().copied().fold(0.0, f64::max);
        (hours.len() >= 5).then_some(most - least)
    }

    #[test]
    fn car_that_is_wholly_regular_leaves_at_its_hour_and_no_two_cars_have_the_same() {
        let fleet = fleet(1.0);
        let commuters: Vec<Trace> = fleet
            .traces(60)
            .filter(|trace| trace.car.archetype == Archetype::Commuter)
            .collect();
        let spreads: Vec<f64> = commuters.iter().filter_map(|trace| spread(&fleet, trace)).collect();
        assert!(spreads.len() > 20, "{spreads:?}");
        assert!(
            spreads.iter().all(|hours| *hours < 2.0 * super::SPREAD + 0.01),
            "{spreads:?}"
        );
        let first = |trace: &Trace| trace.trips.first().map(|trip| trip.during.from.as_secs() / 60);
        assert!(commuters.windows(2).any(|pair| first(&pair[0]) != first(&pair[1])));
    }

    #[test]
    fn car_without_habits_leaves_at_all_hours() {
        let fleet = fleet(0.0);
        let spreads: Vec<f64> = fleet.traces(60).filter_map(|trace| spread(&fleet, &trace)).collect();
        let wide = spreads.iter().filter(|hours| **hours > 2.0).count();
        assert!(wide * 10 > spreads.len() * 8, "{spreads:?}");
    }

    #[test]
    fn habits_move_no_day_of_a_fleet_that_has_none() {
        let other = Fleet {
            regularity: 0.0,
            ..fleet(1.0)
        };
        assert_eq!(other.trace(3), fleet(0.0).trace(3));
        assert_ne!(fleet(1.0).trace(3), fleet(0.0).trace(3));
    }
}
