//! What a car's signals say of its owner's plans: a departure that is set, and how long the car is to charge.
//!
//! Read by the agent's policy loop. All of it is optional: a car that says none of it is a car of habits. Two signals name a departure:
//! charging that is to be finished by a time, and conditioning of the battery for driving; the earlier one counts.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::clock::Boottime;
use crate::parked::signals::path;
use crate::parked::{Snapshot, Tri, View};

/// Plans are not said each second, and are not what work stops by.
const AGE: Duration = Duration::from_mins(10);
/// A plan further away is a mistake, or none.
const FURTHEST: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What is said. The outer `None`: nothing; the inner one: that there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hints {
    /// When the owner means to leave.
    pub departure: Option<Option<Timestamp>>,
    /// When the car will have been charged.
    pub charging_until: Option<Option<Timestamp>>,
}

impl Hints {
    /// Reads them. A time without a zone is one of the car's own.
    pub fn read(snapshot: &Snapshot, now: Boottime, wall: Timestamp, zone: &TimeZone) -> Self {
        let view = View::new(snapshot, now, AGE);
        let near = |at: &Timestamp| at.duration_since(wall).abs() <= FURTHEST;
        let when = |path: &str| time(view.text(path)?, zone).filter(near);
        let timer = view.text(path::CHARGING_TIMER_MODE).map(|mode| {
            let by = mode.eq_ignore_ascii_case("END_TIME");
            by.then(|| when(path::CHARGING_TIMER_TIME)).flatten()
        });
        let conditioning = view.text(path::CONDITIONING_MODE).map(|mode| {
            let drives = mode.eq_ignore_ascii_case("DRIVING_PREPARATION");
            drives.then(|| when(path::CONDITIONING_TIME)).flatten()
        });
        let departure = match (timer, conditioning) {
            (None, None) => None,
            (timer, conditioning) => Some([timer, conditioning].into_iter().flatten().flatten().min()),
        };
        let charging_until = match view.bool(path::IS_CHARGING) {
            Tri::Unknown => None,
            Tri::No => Some(None),
            // Nought means done, or nothing planned.
            Tri::Yes => view.number(path::TIME_TO_COMPLETE).map(|seconds| {
                let left = Duration::try_from_secs_f64(seconds).ok().filter(|left| !left.is_zero());
                left.and_then(|left| wall.saturating_add(left).ok()).filter(near)
            }),
        };
        Self {
            departure,
            charging_until,
        }
    }
}

fn time(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    let text = text.trim();
    text.parse()
        .ok()
        .or_else(|| zone.to_timestamp(text.parse::<DateTime>().ok()?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parked::Value;

    const NOW: Boottime = Boottime(Duration::from_secs(10_000));

    fn read(signals: &[(&str, Value)]) -> Hints {
        let mut snapshot = Snapshot::default();
        for (path, value) in signals {
            snapshot.set(path, value.clone(), NOW);
        }
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        Hints::read(&snapshot, NOW, at("2026-11-27T20:00:00Z"), &zone)
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn car_that_says_nothing_of_plans_says_nothing() {
        assert_eq!(read(&[]), Hints::default());
        assert_eq!(
            read(&[(path::CHARGING_TIMER_TIME, text("2026-11-28T06:00:00Z"))]),
            Hints::default()
        );
    }

    #[test]
    fn charging_that_is_to_end_by_a_time_is_a_departure_and_one_that_begins_then_is_none() {
        let with = |mode: &str, time: &str| {
            read(&[
                (path::CHARGING_TIMER_MODE, text(mode)),
                (path::CHARGING_TIMER_TIME, text(time)),
            ])
            .departure
        };
        let seven = Some(Some(at("2026-11-28T06:00:00Z")));
        assert_eq!(with("END_TIME", "2026-11-28T06:00:00Z"), seven);
        assert_eq!(
            with("end_time", "2026-11-28T07:00:00"),
            seven,
            "without a zone: the car's own"
        );
        assert_eq!(with("START_TIME", "2026-11-28T06:00:00Z"), Some(None));
        assert_eq!(with("INACTIVE", "2026-11-28T06:00:00Z"), Some(None));
        assert_eq!(with("END_TIME", "soon"), Some(None));
        assert_eq!(
            with("END_TIME", "2027-11-28T06:00:00Z"),
            Some(None),
            "next year is a mistake"
        );
    }

    #[test]
    fn earlier_of_two_departures_counts() {
        let hints = read(&[
            (path::CHARGING_TIMER_MODE, text("END_TIME")),
            (path::CHARGING_TIMER_TIME, text("2026-11-28T06:00:00Z")),
            (path::CONDITIONING_MODE, text("DRIVING_PREPARATION")),
            (path::CONDITIONING_TIME, text("2026-11-28T05:30:00Z")),
        ]);
        assert_eq!(hints.departure, Some(Some(at("2026-11-28T05:30:00Z"))));
    }

    #[test]
    fn charging_plan_ends_when_the_car_says_that_it_will_be_charged() {
        let with = |charging: bool, seconds: f64| {
            let signals = [
                (path::IS_CHARGING, Value::Bool(charging)),
                (path::TIME_TO_COMPLETE, Value::Number(seconds)),
            ];
            read(&signals).charging_until
        };
        assert_eq!(with(true, 5400.0), Some(Some(at("2026-11-27T21:30:00Z"))));
        assert_eq!(with(true, 0.0), Some(None));
        assert_eq!(with(true, -1.0), Some(None));
        assert_eq!(with(true, 1e300), Some(None));
        assert_eq!(with(false, 5400.0), Some(None));
    }
}
