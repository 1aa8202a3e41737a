//! Traces on the calendar of a time zone: people go by the clock on the wall, and what is drawn is what that clock shows.
//!
//! What a seed gives is untouched by it: a trace is drawn in days of 24 hours, and [`Trace::on`] tells when that is. In a night that loses
//! an hour, what was to happen in it happens all at once at its end; in one that has an hour twice, in the first of the two.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use super::{Event, Interval, Session, Stay, Trace, Trip};

/// Where and when traces are.
#[derive(Debug, Clone, PartialEq)]
pub struct Calendar {
    /// What the clock shows at the start of a trace. Another time than midnight is for people who live by other hours.
    pub begins: DateTime,
    /// Whose clock.
    pub zone: TimeZone,
}

impl Calendar {
    /// The instant at which the clock shows this moment of a trace.
    pub fn instant(&self, at: Duration) -> Timestamp {
        let shown = SignedDuration::try_from(at).unwrap_or(SignedDuration::MAX);
        let shown = self.begins.saturating_add(shown);
        let instant = self.zone.to_ambiguous_timestamp(shown);
        let skipped = match instant.offset() {
            AmbiguousOffset::Gap { before, .. } => before.to_timestamp(shown).ok(),
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => None,
        };
        let jump = skipped.and_then(|within| {
            let later = within.checked_add(SignedDuration::from_secs(1)).ok()?;
            self.zone.preceding(later).next()
        });
        match jump {
            Some(jump) => jump.timestamp(),
            None => instant.compatible().unwrap_or(Timestamp::MAX),
        }
    }

    /// Real time from the start of the trace until the clock shows this moment of it.
    pub fn real(&self, at: Duration) -> Duration {
        let passed = self.instant(at).duration_since(self.instant(Duration::ZERO));
        Duration::try_from(passed).unwrap_or_default()
    }
}

impl Trace {
    /// The same life by this calendar, in real time.
    #[must_use]
    pub fn on(&self, calendar: &Calendar) -> Self {
        let real = |at: Duration| calendar.real(at);
        let during = |interval: &Interval| Interval {
            from: real(interval.from),
            until: real(interval.until),
        };
        Self {
            car: self.car.clone(),
            length: real(self.length),
            events: self
                .events
                .iter()
                .map(|event| Event {
                    at: real(event.at),
                    ..*event
                })
                .collect(),
            stays: self
                .stays
                .iter()
                .map(|stay| Stay {
                    during: during(&stay.during),
                    ..*stay
                })
                .collect(),
            trips: self
                .trips
                .iter()
                .map(|trip| Trip {
                    during: during(&trip.during),
                    ..*trip
                })
                .collect(),
            plugged: self
                .plugged
                .iter()
                .map(|session| Session {
                    during: during(&session.during),
                    ..*session
                })
                .collect(),
            unreachable: self.unreachable.iter().map(during).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::{DAY, Fleet};

    fn calendar(begins: &str) -> Calendar {
        Calendar {
            begins: begins.parse().unwrap(),
            zone: TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap(),
        }
    }

    fn hours(hours: u64) -> Duration {
        Duration::from_hours(hours)
    }

    #[test]
    fn day_that_loses_an_hour_has_23_and_one_that_gains_it_25() {
        for (begins, length) in [
            ("2027-03-27T00:00:00", 24),
            ("2027-03-28T00:00:00", 23),
            ("2026-10-25T00:00:00", 25),
        ] {
            assert_eq!(calendar(begins).real(DAY), hours(length), "{begins}");
        }
    }

    #[test]
    fn what_was_to_happen_in_the_hour_that_is_skipped_happens_at_its_end() {
        let spring = calendar("2027-03-28T00:00:00");
        let real = |minutes: u64| spring.real(Duration::from_mins(minutes)).as_secs() / 60;
        assert_eq!([119, 120, 150, 179, 180, 181].map(real), [119, 120, 120, 120, 120, 121]);
        let autumn = calendar("2026-10-25T00:00:00");
        let real = |minutes: u64| autumn.real(Duration::from_mins(minutes)).as_secs() / 60;
        assert_eq!([119, 120, 179, 180, 181].map(real), [119, 120, 179, 240, 241]);
    }

    #[test]
    fn trace_on_a_calendar_keeps_its_order_and_its_hours() {
        let fleet = Fleet {
            seed: 7,
            days: 21,
            ..Fleet::default()
        };
        let spring = calendar("2027-03-15T00:00:00");
        for trace in fleet.traces(40) {
            let real = trace.on(&spring);
            assert_eq!(real.length + hours(1), trace.length);
            assert!(real.events.is_sorted_by_key(|event| event.at));
            assert!(
                real.stays
                    .windows(2)
                    .all(|pair| pair[0].during.until <= pair[1].during.from)
            );
            for (drawn, real) in trace.stays.iter().zip(&real.stays) {
                let early = drawn.during.from < DAY * 13 + hours(2);
                assert_eq!(real.during.from == drawn.during.from, early);
                let shown = spring.instant(drawn.during.until);
                assert_eq!(shown, spring.instant(Duration::ZERO) + real.during.until);
            }
        }
    }

    #[test]
    fn zone_without_summer_time_changes_nothing() {
        let fleet = Fleet {
            seed: 7,
            days: 14,
            ..Fleet::default()
        };
        let plain = Calendar {
            zone: TimeZone::UTC,
            ..calendar("2027-03-15T00:00:00")
        };
        assert_eq!(fleet.trace(3).on(&plain), fleet.trace(3));
    }
}
