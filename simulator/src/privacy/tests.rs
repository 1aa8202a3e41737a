//! The attacker on a small fleet: what it had decides how well it does, and a limit on what is kept lowers its score.

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
    let rows = try_all(&fleet(11, 0.7), CARS, false, &SOURCES);
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
    for source in SOURCES {
        assert!(share(source.name) <= share("truth") + CHANCE, "{rows:#?}");
    }
    let error = |name| score(&rows, name).mean_error_minutes;
    assert!(error("changes28d") < error("published"), "{rows:#?}");
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
        for source in SOURCES {
            let held = Held::of(&source, &trace, &seen, fleet.seed);
            assert!(held.changes.iter().all(|seen| seen.at < end), "{}", source.name);
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
