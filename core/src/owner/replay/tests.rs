//! Recorded days, and what came of them.

use super::*;
use crate::parked::signals::path;

/// The rules of Berlin, without asking the machine for them.
pub(in crate::owner) fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn document(terms: &str) -> Document {
    let text = format!(
        "
consent: {{givenAt: 2026-01-01T00:00:00Z, classes: [inference]}}
requirePluggedIn: true
chargeFloorPercent: 50
resumeWithin: 10m
timeZone: Europe/Berlin
{terms}
"
    );
    serde_saphyr::from_str::<Document>(&text).unwrap().check().unwrap()
}

fn recording(text: &str) -> Recording {
    let text = text.replace("CHARGE", path::CHARGE).replace(
        "CABLE",
        &format!("{}AnyPosition.IsChargingCableConnected", path::CHARGING_PORTS),
    );
    serde_saphyr::from_str::<Recording>(&text).unwrap().check().unwrap()
}

fn played(text: &str, terms: &str) -> Day {
    let zone = berlin();
    let document = document(terms);
    let car = Car {
        document: &document,
        terms: &Terms::default(),
        zone: Some(&zone),
        milliwatts: None,
    };
    replay(&recording(text), car).unwrap()
}

fn table(text: &str, terms: &str) -> String {
    played(text, terms).table(&berlin())
}

/// A Monday of somebody who plugs in at home, drives to work, eats lunch elsewhere, and fetches something from the car in the evening.
const MONDAY: &str = "
startsAt: 2026-11-02T00:00:00+01:00[Europe/Berlin]
preset: parked
steps:
- {at: 6h40m, preset: driverReturns}
- {at: 6h41m, preset: driving}
- {at: 7h10m, preset: parked, set: {CHARGE: 74, CABLE: false}}
- {at: 12h, preset: driving, set: {CHARGE: 74}}
- {at: 12h45m, preset: parked, set: {CHARGE: 71, CABLE: false}}
- {at: 13h30m, set: {CABLE: true}}
- {at: 17h, preset: driving, set: {CHARGE: 71}}
- {at: 17h30m, preset: parked, set: {CHARGE: 49}}
- {at: 18h, set: {CHARGE: 54}}
- {at: 19h, set: {CHARGE: 60}}
- {at: 20h, set: {Vehicle.Cabin.Door.Row1.DriverSide.IsLocked: false}}
- {at: 20h2m, set: {Vehicle.Cabin.Door.Row1.DriverSide.IsLocked: true}}
- {at: 21h, set: {Vehicle.Connectivity.IsConnectivityAvailable: false}}
- {at: 21h30m, set: {Vehicle.Connectivity.IsConnectivityAvailable: true}}
- {at: 22h, owner: pause}
- {at: 22h5m, owner: resume}
- {at: 22h30m, forget: [Vehicle.Speed]}
- {at: 22h45m, set: {Vehicle.Speed: 0}}
- {at: 23h30m, owner: withdraw}
- {at: 23h40m, owner: resume}
";

#[test]
fn monday_is_as_it_would_have_been() {
    let text = table(MONDAY, "quietHours: [{from: '13:00', to: '14:00'}]");
    assert_eq!(
        text,
        "\
from          to            for       standing  why not
Mon 00:00:00  Mon 00:02:00  2m        away      the car has not been parked for 2m yet
Mon 00:02:00  Mon 06:40:00  6h38m     works
Mon 06:40:00  Mon 06:41:00  1m        paused    a door is not locked
Mon 06:41:00  Mon 07:10:00  29m       away      the car moves
Mon 07:10:00  Mon 12:00:00  4h50m     away      the owner wants the car plugged in, and it is not
Mon 12:00:00  Mon 12:45:00  45m       away      the car moves
Mon 12:45:00  Mon 13:00:00  15m       away      the owner wants the car plugged in, and it is not
Mon 13:00:00  Mon 14:00:00  1h        away      the owner keeps quiet hours
Mon 14:00:00  Mon 17:00:00  3h        works
Mon 17:00:00  Mon 17:30:00  30m       away      the car moves
Mon 17:30:00  Mon 19:00:00  1h30m     away      the charge is below what the owner keeps for driving
Mon 19:00:00  Mon 20:00:00  1h        works
Mon 20:00:00  Mon 20:02:00  2m        paused    a door is not locked
Mon 20:02:00  Mon 20:04:00  2m        paused    the car has not been parked for 2m yet
Mon 20:04:00  Mon 22:00:00  1h56m     works
Mon 22:00:00  Mon 22:05:00  5m        paused    the owner has paused the car
Mon 22:05:00  Mon 22:30:00  25m       works
Mon 22:30:00  Mon 22:40:00  10m       paused    it is not known whether the car stands still
Mon 22:40:00  Mon 22:45:00  5m        away      it is not known whether the car stands still
Mon 22:45:00  Mon 22:47:00  2m        away      the car has not been parked for 2m yet
Mon 22:47:00  Mon 23:30:00  43m       works
Mon 23:30:00  Tue 00:00:00  30m       away      the owner has withdrawn the consent

works for 13h42m of 24h
not for 5h5m      the owner wants the car plugged in, and it is not
not for 1h44m     the car moves
not for 1h30m     the charge is below what the owner keeps for driving
not for 1h        the owner keeps quiet hours
not for 30m       the owner has withdrawn the consent
not for 15m       it is not known whether the car stands still
not for 6m        the car has not been parked for 2m yet
not for 5m        the owner has paused the car
not for 3m        a door is not locked
"
    );
}

#[test]
fn terms_about_time_act_at_their_moment() {
    let terms = "workHours: [{from: '06:00', to: '08:00'}]\npauseUntil: 2026-11-02T05:30:10Z";
    let text = table(
        "{startsAt: 2026-11-02T05:00:00+01:00, lasts: 4h, preset: parked}",
        terms,
    );
    assert_eq!(
        text,
        "\
from          to            for       standing  why not
Mon 05:00:00  Mon 06:30:10  1h30m10s  away      the owner has paused the car until some later time
Mon 06:30:10  Mon 08:00:00  1h29m50s  works
Mon 08:00:00  Mon 09:00:00  1h        away      it is not within the owner's work hours

works for 1h29m50s of 4h
not for 1h30m10s  the owner has paused the car until some later time
not for 1h        it is not within the owner's work hours
"
    );
}

/// In Berlin the hour from two to three is there twice on 25 October 2026, and not at all on 29 March.
#[test]
fn night_in_which_the_clock_is_set_has_the_hours_that_the_clock_shows() {
    let worked = |from: &str| {
        let text = format!("{{startsAt: {from}, lasts: 6h, preset: parked}}");
        played(&text, "workHours: [{from: '01:00', to: '04:00'}]").worked
    };
    assert_eq!(worked("2026-10-25T00:00:00+02:00"), Duration::from_hours(4));
    assert_eq!(worked("2026-03-29T00:00:00+01:00"), Duration::from_hours(2));
    assert_eq!(worked("2026-11-01T00:00:00+01:00"), Duration::from_hours(3));
}

#[test]
fn consent_that_ends_and_charge_that_falls_end_work() {
    let text = "
startsAt: 2026-11-02T12:00:00Z
lasts: 3h
preset: parked
steps:
- {at: 1h, set: {CHARGE: 49.9}}
- {at: 1h30m, set: {CHARGE: 54.9}}
- {at: 2h, set: {CHARGE: 55}}
";
    let day = played(text, "");
    assert_eq!(day.worked, Duration::from_mins(58 + 60));
    let mut document = document("");
    document.consent.expires_at = Some("2026-11-02T12:30:00.5Z".parse().unwrap());
    let car = Car {
        document: &document,
        terms: &Terms::default(),
        zone: None,
        milliwatts: None,
    };
    let day = replay(&recording(text), car).unwrap();
    assert_eq!(day.worked, Duration::from_millis(28 * 60_000 + 500));
}

#[test]
fn values_that_are_said_too_seldom_are_unknown_in_between() {
    let text = "{startsAt: 2026-11-02T12:00:00Z, lasts: 10m, refresh: 40s, preset: parked}";
    let day = played(text, "");
    assert_eq!(day.worked, Duration::ZERO);
    let unknown = "it is not known whether the car stands still";
    assert!(day.not.iter().any(|not| not.why_not == unknown), "{:?}", day.not);
}

#[test]
fn hours_whose_zone_is_not_known_are_never() {
    let document = document("workHours: [{from: '00:00', to: '00:00'}]");
    let car = Car {
        document: &document,
        terms: &Terms::default(),
        zone: None,
        milliwatts: None,
    };
    let text = "{startsAt: 2026-11-02T12:00:00Z, preset: parked}";
    assert_eq!(replay(&recording(text), car).unwrap().worked, Duration::ZERO);
}

#[test]
fn spans_follow_each_other_and_times_add_up() {
    let day = played(MONDAY, "");
    assert_eq!(day.lasts, Duration::from_hours(24));
    assert_eq!(
        day.worked + day.not.iter().map(|not| not.time).sum::<Duration>(),
        day.lasts
    );
    assert!(day.spans.iter().is_sorted_by(|a, b| a.to == b.from && a.from < b.from));
    assert!(day.spans.iter().all(|span| span.works == span.why_not.is_none()));
    let json = serde_json::to_value(&day).unwrap();
    assert_eq!(json["spans"][1]["from"], "2026-11-01T23:02:00Z");
    assert_eq!(
        (&json["spans"][1]["works"], &json["spans"][1]["standing"]),
        (&true.into(), &"available".into())
    );
    assert_eq!(json["lasts"], "24h");
}

/// 1 kW: a kilowatt-hour a day is an hour of work, counted anew from midnight by the owner's clock.
#[test]
fn energy_of_a_day_ends_work_until_the_next_day() {
    let text = "{startsAt: 2026-11-02T12:00:00+01:00, lasts: 24h, preset: parked}";
    let (zone, document) = (berlin(), document("maxKWhPerDay: 1"));
    let car = Car {
        document: &document,
        terms: &Terms::default(),
        zone: Some(&zone),
        milliwatts: Some(1_000_000),
    };
    let day = replay(&recording(text), car).unwrap();
    let worked: Vec<_> = day.spans.iter().filter(|span| span.works).collect();
    let minutes = |from: Timestamp| (from.as_second() - day.from.as_second()) / 60;
    let spans: Vec<_> = worked
        .iter()
        .map(|span| (minutes(span.from), minutes(span.to)))
        .collect();
    // After the dwell of two minutes; and the car stays parked over night.
    assert_eq!(spans, [(2, 62), (12 * 60, 13 * 60)]);
    let used_up = "the energy that the owner gives for today is used up";
    assert!(day.not.iter().any(|not| not.why_not == used_up), "{:?}", day.not);
    let unknown = replay(
        &recording(text),
        Car {
            milliwatts: None,
            ..car
        },
    )
    .unwrap();
    assert_eq!(unknown.worked, Duration::ZERO);
}

#[test]
fn recording_that_cannot_be_played_is_refused_with_the_reason() {
    let document = document("");
    let car = Car {
        document: &document,
        terms: &Terms::default(),
        zone: None,
        milliwatts: None,
    };
    for (text, says) in [
        ("{preset: parked}", "startsAt"),
        (
            "{preset: parked, startsAt: 2026-11-02T12:00:00Z, lasts: 745h}",
            "744h is the longest",
        ),
        (
            "{preset: parked, startsAt: 2026-11-02T12:00:00Z, steps: [{at: 24h}]}",
            "step at 24h, and ends after 24h",
        ),
    ] {
        let message = replay(&recording(text), car).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
    for (text, says) in [
        ("preset: flying", "flying"),
        ("{preset: parked, startsAt: today}", "not a moment"),
        ("{preset: parked, startsAt: 2026-11-02T12:00:00}", "not a moment"),
        ("{preset: parked, steps: [{at: 5s}, {at: 1s}]}", "order"),
        ("{preset: parked, refresh: 1ms}", "100ms"),
        ("{preset: parked, stepz: []}", "stepz"),
    ] {
        let read = serde_saphyr::from_str::<Recording>(text).map_err(|e| e.to_string());
        let message = read
            .and_then(|read| read.check().map_err(|e| e.to_string()))
            .unwrap_err();
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn start_is_a_moment_and_perhaps_the_zone_of_a_clock() {
    let start = |text: &str| {
        recording(&format!("{{preset: parked, startsAt: '{text}'}}"))
            .starts_at
            .unwrap()
    };
    let at = "2026-11-01T23:00:00Z".parse().unwrap();
    for (text, zone) in [
        ("2026-11-02T00:00:00+01:00[Europe/Berlin]", Some("Europe/Berlin")),
        ("2026-11-02T00:00:00+01:00", None),
        ("2026-11-01T23:00:00Z", None),
    ] {
        let zone = zone.map(str::to_owned);
        assert_eq!(start(text), Start { at, zone });
    }
}
