//! Hours of the week in the owner's words: those in which work may be, and those in which it may not.
//!
//! Read with the owner's document, asked by [`super::willing`] at every look. The clock of the document's time zone decides, and nothing
//! else: in the night in which an hour is there twice it counts both times, and in the night in which an hour is missing, what lies
//! within that hour is no time at all.

use jiff::civil::{DateTime, Time, Weekday};
use serde::{Deserialize, Deserializer};

/// From one time of day to another, on some days of the week or on all.
///
/// A window over midnight belongs to the day on which it begins. One that ends when it begins lasts for 24 hours.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hours {
    /// The first minute.
    #[serde(deserialize_with = "time_of_day")]
    pub from: Time,
    /// The first minute that does not belong to it any more.
    #[serde(deserialize_with = "time_of_day")]
    pub to: Time,
    /// The days on which it begins; without them all.
    #[serde(default, deserialize_with = "super::document::said")]
    pub days: Option<Vec<Day>>,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "everybody knows them")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    /// As the owner writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mon => "Mon",
            Self::Tue => "Tue",
            Self::Wed => "Wed",
            Self::Thu => "Thu",
            Self::Fri => "Fri",
            Self::Sat => "Sat",
            Self::Sun => "Sun",
        }
    }

    fn is(self, weekday: Weekday) -> bool {
        let same = match self {
            Self::Mon => Weekday::Monday,
            Self::Tue => Weekday::Tuesday,
            Self::Wed => Weekday::Wednesday,
            Self::Thu => Weekday::Thursday,
            Self::Fri => Weekday::Friday,
            Self::Sat => Weekday::Saturday,
            Self::Sun => Weekday::Sunday,
        };
        same == weekday
    }
}

impl Hours {
    /// Whether this moment of the calendar lies within.
    pub fn contain(&self, at: DateTime) -> bool {
        let (time, today) = (at.time(), at.weekday());
        if self.from < self.to {
            self.begin_on(today) && (self.from..self.to).contains(&time)
        } else {
            time >= self.from && self.begin_on(today) || time < self.to && self.begin_on(today.previous())
        }
    }

    fn begin_on(&self, weekday: Weekday) -> bool {
        self.days
            .as_ref()
            .is_none_or(|days| days.iter().any(|day| day.is(weekday)))
    }
}

pub(super) fn time_of_day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
    let text = String::deserialize(deserializer)?;
    let refuse = || serde::de::Error::custom(format!("'{text}' is not a time of day such as 22:30"));
    let (hour, minute) = text.split_once(':').ok_or_else(refuse)?;
    let two_digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !two_digits(hour) || !two_digits(minute) {
        return Err(refuse());
    }
    let (hour, minute) = (
        hour.parse().map_err(|_| refuse())?,
        minute.parse().map_err(|_| refuse())?,
    );
    Time::new(hour, minute, 0, 0).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use jiff::civil::datetime;
    use jiff::tz::TimeZone;

    use super::*;

    fn hours(yaml: &str) -> Hours {
        serde_saphyr::from_str(yaml).unwrap()
    }

    /// In the week of Monday, 2 November 2026.
    fn at(day: i8, hour: i8, minute: i8) -> DateTime {
        datetime(2026, 11, 1 + day, hour, minute, 0, 0)
    }

    #[test]
    fn hours_over_midnight_hold_on_both_sides() {
        let hours = hours("{from: '22:00', to: '06:30'}");
        let said =
            [(21, 59), (22, 0), (0, 0), (6, 29), (6, 30)].map(|(hour, minute)| hours.contain(at(3, hour, minute)));
        assert_eq!(said, [false, true, true, true, false]);
    }

    #[test]
    fn hours_over_midnight_belong_to_the_day_on_which_they_begin() {
        let hours = hours("{from: '22:00', to: '06:00', days: [Fri]}");
        assert!(hours.contain(at(5, 23, 0)) && hours.contain(at(6, 5, 59)));
        assert!(!hours.contain(at(5, 5, 59)) && !hours.contain(at(6, 23, 0)));
        // Sunday's go into Monday.
        let sunday = Hours {
            days: Some(vec![Day::Sun]),
            ..hours
        };
        assert!(sunday.contain(at(7, 22, 0)) && sunday.contain(at(1, 3, 0)));
        assert!(!sunday.contain(at(7, 3, 0)));
    }

    #[test]
    fn hours_that_end_when_they_begin_last_for_24_hours() {
        let always = hours("{from: '07:00', to: '07:00'}");
        assert!((0..24).all(|hour| always.contain(at(2, hour, 30))));
        let weekend = hours("{from: '00:00', to: '00:00', days: [Sat, Sun]}");
        let said = [(5, 23), (6, 0), (7, 23), (8, 0)].map(|(day, hour)| weekend.contain(at(day, hour, 0)));
        assert_eq!(said, [false, true, true, false]);
        let from_noon = hours("{from: '12:00', to: '12:00', days: [Sat]}");
        let said = [(6, 11), (6, 12), (7, 11), (7, 12)].map(|(day, hour)| from_noon.contain(at(day, hour, 0)));
        assert_eq!(said, [false, true, true, false]);
    }

    /// By the rules of Berlin: on 25 October 2026 the hour from two to three is there twice, on 29 March it is missing.
    #[test]
    fn hour_that_is_there_twice_counts_twice_and_one_that_is_missing_never() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let hours = hours("{from: '02:00', to: '03:00'}");
        let minutes = |first: &str| {
            let first: Timestamp = first.parse().unwrap();
            (0..24 * 60)
                .map(|minute| first + jiff::SignedDuration::from_mins(minute))
                .filter(|moment| hours.contain(berlin.to_datetime(*moment)))
                .count()
        };
        assert_eq!(minutes("2026-10-24T12:00:00Z"), 120);
        assert_eq!(minutes("2026-03-28T12:00:00Z"), 0);
        assert_eq!(minutes("2026-11-01T12:00:00Z"), 60);
    }

    #[rstest::rstest]
    #[case("{from: '25:00', to: '06:00'}", "time of day")]
    #[case("{from: '24:00', to: '06:00'}", "time of day")]
    #[case("{from: '+1:00', to: '06:00'}", "time of day")]
    #[case("{from: '7:00', to: '08:00'}", "time of day")]
    #[case("{from: '07:00:00', to: '08:00'}", "time of day")]
    #[case("{from: '07:00'}", "to")]
    #[case("{from: '07:00', to: '08:00', days: [Monday]}", "Monday")]
    #[case("{from: '07:00', to: '08:00', days: [mon]}", "mon")]
    #[case("{from: '07:00', to: '08:00', days: null}", "null")]
    #[case("{from: '07:00', to: '08:00', day: [Mon]}", "day")]
    fn hours_that_are_none_are_refused_with_the_place(#[case] yaml: &str, #[case] says: &str) {
        let message = serde_saphyr::from_str::<Hours>(yaml).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
}
