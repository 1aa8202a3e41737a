//! Somebody comes to a car that stands, opens it, and goes away again: fetches a bag, loads the shopping, looks for a letter.
//!
//! No statistics count these, so they are no part of a trace: whoever wants them says how many a day, and says so with the result. What a
//! visit is to the car's work: frozen at its first sign, and going on when it is over.

use std::time::Duration;

use super::random::{Key, Purpose};
use super::{Fleet, Interval, Trace, WARM_UP, moment};

/// The hours in which people go to their cars.
const WAKING: std::ops::Range<u8> = 7..22;
/// From the first door to the car being locked again, in seconds: from a bag that is fetched to shopping that is carried in.
const LENGTH: (f64, f64) = (20.0, 240.0);
/// As far from the driver's coming and going as this a visit is one of its own.
const APART: Duration = Duration::from_mins(5);

impl Fleet {
    /// The visits to the car of this trace, in their order, when there are so many a day on average (0 to 15) while it stands.
    pub fn visits(&self, trace: &Trace, per_day: f64) -> Vec<Interval> {
        let days = 0..self.days;
        days.flat_map(|day| self.visits_of(trace, day, per_day)).collect()
    }

    fn visits_of(&self, trace: &Trace, day: u16, per_day: f64) -> Vec<Interval> {
        let key = Key {
            seed: self.seed,
            car: trace.car.index,
            day: day.saturating_add(WARM_UP),
            leg: 0,
        };
        let draws = &mut key.draws(Purpose::Visit);
        let mut visits = Vec::new();
        for hour in WAKING {
            // All are drawn, whether it comes to a visit or not: how many there are moves none of them.
            let comes = draws.unit() < per_day / f64::from(WAKING.end - WAKING.start);
            // Within the hour, so that no two meet.
            let start = f64::from(day) * 24.0 + f64::from(hour) + draws.between(0.0, 0.9);
            let length = draws.between(LENGTH.0, LENGTH.1);
            let visit = Interval {
                from: moment(start),
                until: moment(start + length / 3600.0),
            };
            let stands = trace
                .parked_at(visit.from)
                .is_some_and(|stay| stay.during.from + APART <= visit.from && visit.until + APART <= stay.during.until);
            if comes && stands {
                visits.push(visit);
            }
        }
        visits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(per_day: f64) -> Vec<(Trace, Vec<Interval>)> {
        let fleet = Fleet {
            seed: 7,
            days: 28,
            ..Fleet::default()
        };
        let visited = |trace: Trace| {
            let visits = fleet.visits(&trace, per_day);
            (trace, visits)
        };
        fleet.traces(40).map(visited).collect()
    }

    #[test]
    fn visit_is_to_a_car_that_stands_and_does_not_meet_another() {
        for (trace, visits) in all(3.0) {
            for visit in &visits {
                let stay = trace.parked_at(visit.from).unwrap();
                assert!(stay.during.contains(visit.until));
            }
            assert!(visits.windows(2).all(|pair| pair[0].until < pair[1].from));
        }
    }

    #[test]
    fn there_are_as_many_as_was_said_but_for_the_time_on_the_road() {
        for per_day in [0.3, 1.0, 3.0] {
            let count: usize = all(per_day).iter().map(|(_, visits)| visits.len()).sum();
            #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
            let each = count as f64 / (40.0 * 28.0);
            assert!((0.8..1.05).contains(&(each / per_day)), "{each} of {per_day}");
        }
        assert!(all(0.0).iter().all(|(_, visits)| visits.is_empty()));
    }

    #[test]
    fn more_visits_leave_those_that_there_were() {
        for ((_, few), (_, many)) in all(0.5).iter().zip(&all(2.0)) {
            assert!(few.iter().all(|visit| many.contains(visit)));
        }
    }
}
