//! Minutes of the car's local civil time: what habits go by.
//!
//! A [`Minute`] has no time zone. What a car remembers stays true for the clock on the wall where it stood: a driver who leaves at seven
//! leaves at seven on both sides of a change to summer time, and a car that has moved to another zone still remembers hours of the day
//! and no shifted ones. What must never happen: an age or a time-out counted in these.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use serde::{Deserialize, Serialize};

/// Of a day.
pub(super) const DAY: i64 = 24 * 60;
/// Of a week.
pub(super) const WEEK: i64 = 7 * DAY;

/// A minute of local civil time; in files as `2026-11-01T18:22:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "DateTime", into = "DateTime")]
pub struct Minute(i64);

/// What people do on a day depends on its kind. Holidays are none: a car does not know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DayKind {
    /// Monday to Friday.
    Weekday,
    Saturday,
    Sunday,
}

impl Minute {
    /// The minute that a clock in this zone shows then.
    pub fn of(at: Timestamp, zone: &TimeZone) -> Self {
        let shown = at.as_second().saturating_add(i64::from(zone.to_offset(at).seconds()));
        Self(shown.div_euclid(60))
    }

    /// So many minutes later on that clock, if nobody sets it.
    pub(super) fn after(self, minutes: i64) -> Self {
        Self(self.0.saturating_add(minutes))
    }

    /// Minutes since another one on the same clock; negative if that comes after.
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Minutes since midnight.
    pub(super) fn of_day(self) -> i64 {
        self.0.rem_euclid(DAY)
    }

    /// 0 is Monday.
    pub(super) fn weekday(self) -> i64 {
        // 1 January 1970 was a Thursday.
        (self.0.div_euclid(DAY) + 3).rem_euclid(7)
    }

    pub(super) fn kind(self) -> DayKind {
        match self.weekday() {
            5 => DayKind::Saturday,
            6 => DayKind::Sunday,
            _ => DayKind::Weekday,
        }
    }

    /// The first minute from this one on with this time of day.
    pub(super) fn next_at(self, of_day: i64) -> Self {
        self.after((of_day - self.of_day()).rem_euclid(DAY))
    }
}

impl TryFrom<DateTime> for Minute {
    type Error = jiff::Error;

    fn try_from(shown: DateTime) -> Result<Self, jiff::Error> {
        Ok(Self(Offset::UTC.to_timestamp(shown)?.as_second().div_euclid(60)))
    }
}

impl From<Minute> for DateTime {
    fn from(minute: Minute) -> Self {
        let at = Timestamp::from_second(minute.0.saturating_mul(60));
        at.map_or(Self::MIN, |at| Offset::UTC.to_datetime(at))
    }
}

/// How far ahead, in minutes of real time, the clock in this zone will have gone on by so many of its own: one less than it seems in the
/// night that loses an hour. Never negative.
pub(super) fn real_minutes(now: Timestamp, zone: &TimeZone, civil: i64) -> i64 {
    let then = now.as_second().saturating_add(civil.saturating_mul(60));
    let then = Timestamp::from_second(then).unwrap_or(Timestamp::MAX);
    let lost = zone.to_offset(then).seconds() - zone.to_offset(now).seconds();
    (civil - i64::from(lost).div_euclid(60)).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central Europe's, without a database of zones.
    fn zone() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn shown(text: &str) -> Minute {
        Minute::try_from(text.parse::<DateTime>().unwrap()).unwrap()
    }

    #[test]
    fn minute_is_what_a_clock_in_the_zone_shows() {
        let summer: Timestamp = "2026-07-01T05:04:59Z".parse().unwrap();
        let winter: Timestamp = "2026-12-01T06:04:59Z".parse().unwrap();
        assert_eq!(Minute::of(summer, &zone()), shown("2026-07-01T07:04:00"));
        assert_eq!(Minute::of(winter, &zone()), shown("2026-12-01T07:04:00"));
        assert_eq!(Minute::of(winter, &zone()).of_day(), 7 * 60 + 4);
    }

    #[test]
    fn minute_knows_its_weekday_and_the_next_time_of_day() {
        let friday = shown("2026-11-27T22:30:00");
        assert_eq!((friday.weekday(), friday.kind()), (4, DayKind::Weekday));
        let next = friday.next_at(60);
        assert_eq!(next, shown("2026-11-28T01:00:00"));
        assert_eq!(
            (next.kind(), next.after(DAY).kind()),
            (DayKind::Saturday, DayKind::Sunday)
        );
        assert_eq!(friday.next_at(22 * 60 + 30), friday);
    }

    #[test]
    fn minute_in_a_file_is_read_as_it_was_written() {
        let minute = shown("2026-11-27T22:30:00");
        let text = serde_json::to_string(&minute).unwrap();
        assert_eq!(text, "\"2026-11-27T22:30:00\"");
        assert_eq!(serde_json::from_str::<Minute>(&text).unwrap(), minute);
    }

    #[test]
    fn night_that_loses_or_gains_an_hour_is_as_much_shorter_or_longer() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let nine_hours = 9 * 60;
        // From ten in the evening to seven in the morning.
        assert_eq!(real_minutes(at("2027-03-27T21:00:00Z"), &zone(), nine_hours), 8 * 60);
        assert_eq!(real_minutes(at("2026-10-24T20:00:00Z"), &zone(), nine_hours), 10 * 60);
        assert_eq!(
            real_minutes(at("2026-11-24T21:00:00Z"), &zone(), nine_hours),
            nine_hours
        );
        // 02:30 does not exist: nothing is promised up to it.
        assert_eq!(real_minutes(at("2027-03-28T00:30:00Z"), &zone(), 60), 0);
    }
}
