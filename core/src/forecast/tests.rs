use std::time::Duration;

use jiff::civil::DateTime;
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::clock::Boottime;
use crate::parked::Tri;

/// Central Europe's, without a database of zones.
fn zone() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn shown(text: &str) -> Minute {
    Minute::try_from(text.parse::<DateTime>().unwrap()).unwrap()
}

fn stay(from: &str, until: &str) -> Stay {
    Stay {
        from: shown(from),
        until: shown(until),
        plugged_after: None,
        planned_for: None,
        early: None,
    }
}

const HOUR: i64 = 60;
const DAY: i64 = 24 * HOUR;

/// So many weeks up to this midnight of a Monday: home from 18:00 to 07:00 before a weekday, all weekend from Friday 18:00 to Monday 07:00,
/// at work from 07:30 to 17:30. Each a few minutes off, so that no two are alike.
fn commuter(weeks: i64, monday: &str) -> History {
    let monday = shown(monday);
    let mut history = History::default();
    for day in -7 * weeks..0 {
        let off = (day * 7).rem_euclid(13) - 6;
        let midnight = monday.after(day * DAY);
        let stay = |from: i64, until: i64| Stay {
            from: midnight.after(from),
            until: midnight.after(until),
            plugged_after: None,
            planned_for: None,
            early: None,
        };
        if midnight.weekday() < 5 {
            history.depart(stay(7 * HOUR + 30 + off, 17 * HOUR + 30 - off));
            let morning = if midnight.weekday() == 4 { 3 } else { 1 };
            history.depart(stay(18 * HOUR - off, morning * DAY + 7 * HOUR + off));
        }
    }
    history
}

fn parked(hours: u64) -> Situation {
    Situation {
        parked_for: Duration::from_hours(hours),
        ..Situation::default()
    }
}

/// A Monday.
const MONDAY: &str = "2027-02-15T00:00:00";

#[rstest]
#[case::evening("2027-02-16T20:00:00Z", 3, 10 * HOUR)]
#[case::early_morning("2027-02-17T05:00:00Z", 12, HOUR)]
#[case::at_work("2027-02-16T10:30:00Z", 4, 6 * HOUR)]
#[case::friday_night("2027-02-19T20:00:00Z", 3, 58 * HOUR)]
#[case::sunday_night("2027-02-21T20:00:00Z", 51, 10 * HOUR)]
fn car_of_habits_is_promised_to_stay_until_it_always_leaves(#[case] now: &str, #[case] hours: u64, #[case] stays: i64) {
    let history = commuter(20, MONDAY);
    let Forecast { p50, p90 } = forecast(&history, at(now), &zone(), &parked(hours));
    let (p50, p90) = (i64::from(p50), i64::from(p90));
    assert!(p90 <= p50);
    assert!((p50 - stays).abs() < 15, "{p50}, not {stays}");
    // The shortest of the days that are alike, and not one of the others.
    assert!((p90 - stays).abs() < 25, "{p90}, not {stays}");
}

#[test]
fn nothing_is_promised_before_there_is_enough_to_go_by() {
    let now = at("2027-02-16T20:00:00Z");
    for weeks in [0, 1] {
        let forecast = forecast(&commuter(weeks, MONDAY), now, &zone(), &parked(3));
        assert_eq!(forecast, Forecast::default(), "{weeks} weeks");
    }
    assert!(forecast(&commuter(5, MONDAY), now, &zone(), &parked(3)).p90 > 400);
}

#[test]
fn history_that_is_half_a_year_old_says_nothing() {
    let history = commuter(20, MONDAY);
    let later = forecast(&history, at("2027-09-16T20:00:00Z"), &zone(), &parked(3));
    assert_eq!(later, Forecast::default());
}

#[test]
fn car_that_does_now_what_it_never_did_is_judged_by_what_is_least_unlike() {
    // At home on a Tuesday noon, where it has never been.
    let forecast = forecast(&commuter(20, MONDAY), at("2027-02-16T11:00:00Z"), &zone(), &parked(17));
    assert!(forecast.p90 < 8 * 60, "{forecast:?}");
}

#[test]
fn night_that_loses_an_hour_is_promised_an_hour_less() {
    // Summer time began on 28 March. A week that works on Saturdays and Sundays, too.
    let mut history = History::default();
    for day in -60..0 {
        let midnight = shown("2027-03-27T00:00:00").after(day * DAY);
        let off = day.rem_euclid(5);
        history.depart(Stay {
            from: midnight.after(18 * HOUR + off),
            until: midnight.after(DAY + 7 * HOUR + off),
            plugged_after: None,
            planned_for: None,
            early: None,
        });
    }
    let long = |now: &str| i64::from(forecast(&history, at(now), &zone(), &parked(4)).p50);
    let (before, that) = (long("2027-03-26T21:00:00Z"), long("2027-03-27T21:00:00Z"));
    assert!(
        (before - 9 * HOUR).abs() < 6 && (that - 8 * HOUR).abs() < 6,
        "{before}, {that}"
    );
}

#[test]
fn habits_of_another_zone_hold_by_the_clock_on_the_wall() {
    // The car has moved with its owner to Tokyo and is as punctual there; at 20:00 there, it is noon where it was.
    let tokyo = TimeZone::fixed(jiff::tz::offset(9));
    let history = commuter(20, MONDAY);
    let there = forecast(&history, at("2027-02-16T12:00:00Z"), &tokyo, &parked(3));
    let here = forecast(&history, at("2027-02-16T20:00:00Z"), &zone(), &parked(3));
    assert!((i64::from(there.p50) - 10 * HOUR).abs() < 15, "{there:?}");
    assert_eq!(there, here);
}

#[test]
fn departure_that_is_set_makes_the_promise_shorter_and_an_unusual_one_too() {
    let history = commuter(20, MONDAY);
    let now = at("2027-02-16T20:00:00Z");
    let with = |departure: &str| {
        let situation = Situation {
            departure: Some(at(departure)),
            ..parked(3)
        };
        forecast(&history, now, &zone(), &situation)
    };
    // To the airport at three.
    let early = with("2027-02-17T02:00:00Z");
    assert_eq!((early.p50, early.p90), (6 * 60 - 10, 5 * 60));
    // Not before noon, says the owner; the car has no record of that.
    let late = with("2027-02-17T11:00:00Z");
    assert_eq!(late, forecast(&history, now, &zone(), &parked(3)));
    let due = with("2027-02-16T19:50:00Z");
    assert_eq!(due, Forecast::default(), "whoever is due may come any moment");
    let forgotten = with("2027-02-16T07:00:00Z");
    assert_eq!(forgotten, late, "whoever is twelve hours late has other plans");
}

#[test]
fn owner_who_keeps_to_what_was_set_is_believed_and_one_who_does_not_is_not() {
    let now = at("2027-02-16T20:00:00Z");
    let with = |early: fn(i64) -> i32| {
        let mut history = commuter(20, MONDAY);
        for day in -25..0 {
            let midnight = shown(MONDAY).after(day * DAY);
            history.depart(Stay {
                early: Some(early(day)),
                from: midnight.after(HOUR),
                until: midnight.after(2 * HOUR),
                plugged_after: None,
                planned_for: None,
            });
        }
        let situation = Situation {
            departure: Some(at("2027-02-17T11:00:00Z")),
            ..parked(3)
        };
        forecast(&history, now, &zone(), &situation)
    };
    let kept = with(|day| i32::try_from(day.rem_euclid(10)).unwrap() - 4);
    assert_eq!((kept.p50, kept.p90), (15 * 60 - 1, 15 * 60 - 5));
    let not_kept = with(|day| if day % 5 == 0 { 300 } else { 0 });
    assert!(not_kept.p50 < 11 * 60, "{not_kept:?}");
}

#[test]
fn end_of_the_owners_terms_is_certain() {
    let history = commuter(20, MONDAY);
    let situation = Situation {
        ends: Some(at("2027-02-16T21:00:00Z")),
        ..parked(3)
    };
    let until = forecast(&history, at("2027-02-16T20:00:00Z"), &zone(), &situation);
    assert_eq!((until.p50, until.p90), (60, 60));
    let over = forecast(&history, at("2027-02-16T21:30:00Z"), &zone(), &situation);
    assert_eq!(over, Forecast::default());
}

#[rstest]
#[case::nothing(0, 19, 0)]
#[case::least(0, 22, 15)]
#[case::hovers_below(15, 66, 15)]
#[case::clearly_above(15, 71, 60)]
#[case::falls_at_once(60, 64, 15)]
#[case::stays(60, 65, 60)]
#[case::rises_over_several(0, 100_000, 480)]
#[case::rises_as_far_as_is_clear(0, 130, 60)]
#[case::falls_over_several(480, 4, 0)]
fn band_falls_at_once_and_rises_when_it_is_clear(#[case] before: u32, #[case] minutes: u32, #[case] after: u32) {
    let forecast = Forecast {
        p50: u32::MAX,
        p90: minutes,
    };
    let before = FreeFor { p50: 480, p90: before };
    assert_eq!(before.then(forecast, STANDS_FOR), FreeFor { p50: 480, p90: after });
}

// === What is kept ===

#[test]
fn file_is_read_as_it_was_written() {
    let mut history = commuter(4, MONDAY);
    history.arrive(Some(at("2027-02-15T06:30:00Z")));
    let again = History::parse(&history.print()).unwrap();
    assert_eq!(again, history);
    assert_eq!(again.arrived(), Some(at("2027-02-15T06:30:00Z")));
}

#[test]
fn file_that_is_cut_off_anywhere_is_no_history_and_no_panic() {
    let mut history = commuter(1, MONDAY);
    history.arrive(Some(at("2027-02-15T06:30:00Z")));
    let whole = history.print();
    for length in 0..whole.len() {
        assert!(History::parse(&whole[..length]).is_err(), "{length} of {}", whole.len());
    }
}

#[test]
fn file_of_another_version_is_not_read_and_says_so() {
    let text = String::from_utf8(commuter(1, MONDAY).print()).unwrap();
    let other = text.replacen("\"version\":1", "\"version\":2", 1);
    let error = History::parse(other.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("version 2"), "{error}");
}

#[test]
fn file_that_says_what_cannot_be_is_read_without_it() {
    let file = r#"{"version":1,"levels":{"p50":7000000,"p90":1},"stays":[
        {"from":"2027-02-01T18:00:00","until":"2027-02-02T07:00:00"},
        {"from":"2027-02-03T18:00:00","until":"2027-02-03T07:00:00"},
        {"from":"1970-02-03T18:00:00","until":"2027-02-03T19:00:00"}]}"#;
    let history = History::parse(file.as_bytes()).unwrap();
    assert_eq!(history.len(), 1);
    let printed = String::from_utf8(history.print()).unwrap();
    assert!(printed.contains(r#""levels":{"p50":800000,"p90":20000}"#), "{printed}");
}

#[test]
fn history_is_bounded_in_time_and_in_number() {
    assert!(commuter(60, MONDAY).len() <= 27 * 10);
    let mut history = History::default();
    let first = shown(MONDAY);
    for number in 0..3000 {
        history.depart(Stay {
            from: first.after(number * 20),
            until: first.after(number * 20 + 10),
            plugged_after: None,
            planned_for: None,
            early: None,
        });
    }
    assert_eq!(history.len(), 1500);
    assert!(history.print().len() < 120_000);
}

#[test]
fn wrong_clock_costs_no_history_and_its_stays_go_in_time() {
    let whole = commuter(10, MONDAY);
    for wrong in ["1970-01-01T00:10:00", "2040-05-05T12:00:00"] {
        let mut history = whole.clone();
        for number in 0..2 {
            let from = shown(wrong).after(number * 100);
            history.depart(Stay {
                from,
                until: from.after(90),
                plugged_after: None,
                planned_for: None,
                early: None,
            });
        }
        assert_eq!(history.len(), whole.len() + 2, "{wrong}");
        let now = at("2027-02-16T20:00:00Z");
        let (then, before) = (
            forecast(&history, now, &zone(), &parked(3)),
            forecast(&whole, now, &zone(), &parked(3)),
        );
        assert!(then.p90.abs_diff(before.p90) < 10, "{then:?}, {before:?}");
        for day in 15..20 {
            history.depart(stay(
                &format!("2027-02-{day}T07:30:00"),
                &format!("2027-02-{day}T17:30:00"),
            ));
        }
        assert_eq!(history.len(), whole.len() + 5, "{wrong}: they are gone");
    }
}

#[test]
fn car_that_leaves_earlier_than_it_used_to_promises_less_than_its_history_says() {
    // For ten weeks at seven; then at a different hour each day. What is asked of the history has moved.
    let mut history = commuter(10, MONDAY);
    let level = |history: &History| {
        let text = String::from_utf8(history.print()).unwrap();
        let from = text.find("\"p90\":").unwrap() + 6;
        text[from..].split('}').next().unwrap().parse::<u32>().unwrap()
    };
    let before = level(&history);
    for day in 0..14 {
        let midnight = shown(MONDAY).after(day * DAY);
        history.depart(Stay {
            from: midnight.after(18 * HOUR),
            until: midnight.after(21 * HOUR + 10 * (day % 3)),
            plugged_after: None,
            planned_for: None,
            early: None,
        });
    }
    assert!(level(&history) < before, "{} {before}", level(&history));
}

// === From signals to stays ===

fn boot(minutes: u64) -> Boottime {
    Boottime(Duration::from_mins(1000 + minutes))
}

/// Comes at 18:00, leaves thirteen hours later, the wall clock off by so much from four in the morning on.
fn night(clock: jiff::SignedDuration) -> Stay {
    let came = at("2027-02-16T17:00:00Z");
    let mut presence = Presence::default();
    assert_eq!(presence.see(Motion::Driving, boot(0), came, &zone()), None);
    assert_eq!(
        presence.see(Motion::Standing, boot(0), came, &zone()),
        Some(Change::Arrived(came))
    );
    for minute in 1..13 * 60 {
        let motion = if minute % 7 == 0 {
            Motion::Unknown
        } else {
            Motion::Standing
        };
        let wall = came + Duration::from_mins(minute);
        let wall = if minute > 600 { wall + clock } else { wall };
        assert_eq!(presence.see(motion, boot(minute), wall, &zone()), None);
        let here = presence.here(boot(minute)).unwrap();
        assert_eq!(here.parked_for, Duration::from_mins(minute));
    }
    let left = came + Duration::from_mins(13 * 60) + clock;
    let Some(Change::Departed(stay)) = presence.see(Motion::Driving, boot(13 * 60), left, &zone()) else {
        panic!("it has left");
    };
    assert_eq!(presence.here(boot(13 * 60)), None);
    stay
}

#[test]
fn stay_is_as_long_as_it_was_whatever_the_wall_clock_does_meanwhile() {
    let right = night(jiff::SignedDuration::ZERO);
    assert_eq!(right, stay("2027-02-16T18:00:00", "2027-02-17T07:00:00"));
    for hours in [-8736, -24, -1, 1, 24, 8736] {
        let stay = night(jiff::SignedDuration::from_hours(hours));
        assert_eq!(stay.minutes(), 13 * HOUR, "{hours}");
        // Where the clock was wrong to the last, so is the stay.
        assert_eq!(stay.until.since(right.until), hours * HOUR, "{hours}");
    }
}

#[test]
fn stay_goes_on_over_a_restart_of_the_agent() {
    let mut history = History::default();
    history.arrive(Some(at("2027-02-16T17:00:00Z")));
    let morning = at("2027-02-17T05:55:00Z");
    let mut presence = Presence::resume(&history, boot(0), morning);
    assert_eq!(presence.here(boot(0)), None, "nobody has seen it stand");
    assert_eq!(presence.see(Motion::Unknown, boot(0), morning, &zone()), None);
    assert_eq!(presence.see(Motion::Standing, boot(0), morning, &zone()), None);
    assert_eq!(
        presence.here(boot(0)).unwrap().parked_for,
        Duration::from_mins(12 * 60 + 55)
    );
    let change = presence.see(Motion::Driving, boot(5), at("2027-02-17T06:00:00Z"), &zone());
    assert_eq!(
        change,
        Some(Change::Departed(stay("2027-02-16T18:00:00", "2027-02-17T07:00:00")))
    );
}

#[test]
fn stay_whose_end_nobody_saw_is_given_up() {
    let mut history = History::default();
    history.arrive(Some(at("2027-02-16T17:00:00Z")));
    let mut presence = Presence::resume(&history, boot(0), at("2027-02-17T06:10:00Z"));
    let change = presence.see(Motion::Driving, boot(0), at("2027-02-17T06:10:00Z"), &zone());
    assert_eq!(change, Some(Change::Forgotten));
    // Nor is one believed that lies ahead, or that is as old as no stay.
    for wall in ["2027-02-16T16:00:00Z", "2028-02-16T16:00:00Z"] {
        let mut presence = Presence::resume(&history, boot(0), at(wall));
        let change = presence.see(Motion::Standing, boot(0), at(wall), &zone());
        assert_eq!(change, Some(Change::Arrived(at(wall))));
    }
}

#[test]
fn plans_are_remembered_until_the_car_says_otherwise_or_leaves() {
    let came = at("2027-02-16T17:00:00Z");
    let mut presence = Presence::default();
    presence.hear(Tri::Yes, Hints::default(), boot(0));
    presence.see(Motion::Standing, boot(0), came, &zone());
    let departure = at("2027-02-17T06:30:00Z");
    let plan = at("2027-02-16T21:00:00Z");
    let hints = Hints {
        departure: Some(Some(departure)),
        charging_until: Some(Some(plan)),
    };
    presence.hear(Tri::Yes, hints, boot(30));
    presence.hear(Tri::Unknown, Hints::default(), boot(60));
    let here = presence.here(boot(60)).unwrap();
    assert_eq!(
        (here.departure, here.charging_until, here.plugged),
        (Some(departure), Some(plan), true)
    );
    let Some(Change::Departed(stay)) = presence.see(Motion::Driving, boot(780), at("2027-02-17T06:00:00Z"), &zone())
    else {
        panic!("it has left");
    };
    assert_eq!(
        (stay.plugged_after, stay.planned_for, stay.early),
        (Some(30), Some(240), Some(30))
    );
    presence.see(Motion::Standing, boot(800), at("2027-02-17T06:20:00Z"), &zone());
    assert_eq!(presence.here(boot(800)).unwrap().departure, None);
    presence.hear(Tri::No, hints, boot(801));
    let none = Hints {
        departure: Some(None),
        charging_until: Some(None),
    };
    presence.hear(Tri::No, none, boot(802));
    let here = presence.here(boot(802)).unwrap();
    assert_eq!((here.departure, here.charging_until, here.plugged), (None, None, false));
}

fn stays() -> impl Strategy<Value = Vec<(i64, i64, Option<u32>, Option<i32>)>> {
    prop::collection::vec(
        (
            -400_000i64..400_000,
            -10i64..100_000,
            any::<Option<u32>>(),
            any::<Option<i32>>(),
        ),
        0..80,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    /// Whatever was written down by whatever clocks: no panic, a promise that is none of too much, and a file that is read again.
    #[test]
    fn any_history_is_kept_and_promises_no_more_than_it_may(
        stays in stays(),
        (now, age) in (-400_000i64..400_000, 0u64..2_000_000),
        (departure, ends) in (any::<Option<i32>>(), any::<Option<i32>>()),
    ) {
        let origin = at("2027-02-15T00:00:00Z");
        let mut history = History::default();
        for (from, minutes, number, early) in stays {
            let from = shown(MONDAY).after(from);
            history.depart(Stay { from, until: from.after(minutes), plugged_after: number, planned_for: number, early });
        }
        let now = origin + jiff::SignedDuration::from_mins(now);
        let near = |seconds: Option<i32>| seconds.map(|s| now + jiff::SignedDuration::from_secs(i64::from(s)));
        let situation = Situation {
            parked_for: Duration::from_secs(age),
            plugged: age % 2 == 0,
            charging_until: near(departure),
            departure: near(departure),
            ends: near(ends),
        };
        let forecast = forecast(&history, now, &zone(), &situation);
        prop_assert!(forecast.p90 <= forecast.p50);
        let band = FreeFor::default().then(forecast, STANDS_FOR);
        prop_assert!(band.p90 <= forecast.p90 && band.p50 <= forecast.p50 && BANDS.contains(&band.p90));
        if let Some(ends) = situation.ends {
            prop_assert!(i64::from(forecast.p50) <= (ends.duration_since(now).as_secs() / 60).max(0));
        }
        prop_assert_eq!(History::parse(&history.print()).unwrap(), history);
    }
}
