//! The attacker on a small fleet: what it had decides how well it does, and a limit on what is kept lowers its score.

use super::fell::{Fall, Level, fell};
use super::held::{Held, SOURCES, source};
use super::score::Score;
use super::seen::{Change, Seen, seen};
use super::*;
use crate::traces::What;

/// Some 250 departures: a share of them is right to three in a hundred.
const CARS: u32 = 60;

/// By how much two shares may differ by chance.
const CHANCE: f64 = 0.05;

fn score(rows: &[Row], name: &str) -> Score {
    rows.iter().find(|row| row.source.name == name).unwrap().score
}

#[test]
fn what_is_kept_decides_how_well_a_regular_cars_departure_is_known() {
    let sources: Vec<Source> = SOURCES.into_iter().filter(|source| !source.kind.has_falls()).collect();
    let rows = try_all(&fleet(11, 0.7), CARS, false, &sources);
    let share = |name| score(&rows, name).within_half_an_hour;
    let published = share("published");
    let close = |name| (share(name) - published).abs() < 1e-9;
    assert!(score(&rows, "published").days > 150, "{rows:#?}");
    assert!((0.05..0.30).contains(&published), "{rows:#?}");

    // Who watched knows; of a look, an hour or a day no habit can be read.
    assert!((0.40..0.85).contains(&share("changes28d")), "{rows:#?}");
    assert!(
        close("objects") && close("changes1h") && close("changes1d"),
        "{rows:#?}"
    );
    // The longer it is kept, the more is known.
    assert!(share("changes7d") > published + 0.03, "{rows:#?}");
    assert!(share("changes28d") > share("changes7d") + 0.03, "{rows:#?}");
    // Five minutes hide nothing.
    assert!(
        (share("changes28d5m") - share("changes28d")).abs() < CHANCE,
        "{rows:#?}"
    );
    // Receipts tell it too, and limits on them help.
    assert!(share("receipts") > published + 0.10, "{rows:#?}");
    assert!(share("receipts7d") < share("receipts") - 0.03, "{rows:#?}");
    assert!(close("receipts1d") && close("attempts1d"), "{rows:#?}");
    for source in sources {
        assert!(share(source.name) <= share("truth") + CHANCE, "{rows:#?}");
    }
    let error = |name| score(&rows, name).mean_error_minutes;
    assert!(error("changes28d") < error("published"), "{rows:#?}");
}

/// Some cars only: each makes thousands of forecasts.
#[test]
fn bands_fall_when_a_slot_begins_and_are_made_of_nothing_that_is_to_come() {
    let fleet = fleet(11, 0.7);
    let longer = Fleet {
        days: fleet.days + super::fell::LEARNT,
        ..fleet.clone()
    };
    let end = DAY * u32::from(WATCHED);
    let mut falls = 0;
    for index in 0..4 {
        let (trace, learnt) = (fleet.trace(index), longer.trace(index));
        let fell = fell(&trace, &learnt);
        falls += fell.len();
        for one in &fell {
            assert!(one.at < end && one.at.as_secs() % 3600 < 300, "{one:?}");
            let standing = trace.stays.iter().any(|stay| stay.during.contains(one.at));
            assert!(standing, "{one:?}");
        }
        // Another third and fourth week, and what fell before them is the same.
        let mut other = trace.clone();
        let half = end / 2;
        other.stays.retain(|stay| stay.during.until < half);
        let before: Vec<Fall> = super::fell::fell(&other, &learnt);
        let known = other.stays.last().unwrap().during.until;
        let same: Vec<Fall> = fell.into_iter().filter(|fall| fall.at < known).collect();
        assert_eq!(before, same);
    }
    assert!(falls > 100, "{falls}");
}

#[test]
fn what_a_car_says_of_its_stay_is_tried_by_the_attacker() {
    let sources = ["published", "freeForLook", "freeFor28d"].map(|name| source(name).unwrap());
    let rows = try_all(&fleet(11, 0.7), 4, false, &sources);
    assert_ne!(score(&rows, "freeFor28d"), score(&rows, "published"));
}

/// The control: where there is nothing to be learned, nothing is.
#[test]
fn car_without_habits_keeps_its_hour_from_everybody() {
    let sources = [source("published").unwrap(), source("changes28d").unwrap()];
    let rows = try_all(&fleet(11, 0.0), CARS, false, &sources);
    let share = |name| score(&rows, name).within_half_an_hour;
    assert!(share("changes28d") < share("published") + 2.0 * CHANCE, "{rows:#?}");
}

#[test]
fn two_runs_of_one_seed_agree() {
    let sources = [source("receipts").unwrap(), source("changes7d").unwrap()];
    let run = || try_all(&fleet(3, 0.7), 4, true, &sources);
    assert_eq!(run(), run());
}

#[test]
fn nothing_of_the_days_to_come_is_held() {
    let fleet = fleet(5, 0.7);
    let end = DAY * u32::from(WATCHED);
    for trace in fleet.traces(6) {
        let seen = seen(&trace, false);
        assert!(seen.iter().any(|seen| seen.at >= end));
        let fell = [end.saturating_sub(DAY), end.saturating_sub(DAY / 24), end].map(|at| Fall {
            at,
            level: Level::P50,
            from: 60,
        });
        for source in SOURCES {
            let held = Held::of(&source, &trace, &seen, &fell, fleet.seed);
            assert!(held.changes.iter().all(|seen| seen.at < end), "{}", source.name);
            assert!(held.fell.iter().all(|fall| fall.at < end), "{}", source.name);
            assert_eq!(
                held.fell.is_empty(),
                !source.kind.has_falls() || source.name.contains("Label")
            );
        }
    }
}

#[test]
fn car_is_seen_to_leave_before_it_moves_and_not_to_be_free_while_it_drives() {
    let fleet = fleet(5, 0.0);
    let mut departures = 0;
    for trace in fleet.traces(10).filter(|trace| trace.unreachable.is_empty()) {
        let seen = seen(&trace, false);
        let standing = |at: Duration| {
            let before = seen.partition_point(|seen| seen.at <= at);
            let last = before.checked_sub(1).and_then(|last| seen.get(last));
            last.map(|seen: &Seen| seen.change)
        };
        for event in &trace.events {
            if matches!(event.what, What::DrivesOff { .. }) {
                departures += 1;
                assert_ne!(standing(event.at), Some(Change::Available));
            }
        }
        for trip in &trace.trips {
            let under_way = trip.during.from + trip.during.length() / 2;
            assert_ne!(standing(under_way), Some(Change::Available));
        }
    }
    assert!(departures > 200, "{departures}");
}

#[test]
fn car_that_no_network_reaches_shows_nothing_but_that() {
    let fleet = fleet(5, 0.0);
    let hidden = fleet.traces(200).find(|trace| !trace.unreachable.is_empty()).unwrap();
    for change in seen(&hidden, false) {
        let reached = hidden.is_reachable_at(change.at);
        assert_eq!(change.change == Change::Unheard, !reached, "{change:?}");
    }
}
