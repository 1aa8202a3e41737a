//! The aims of the forecast, on seeds that it was not tuned on.

use super::*;

/// Fast by default; a nightly run, which sets `PROPTEST_CASES`, has as many cars as `make forecast`.
fn cars() -> u32 {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse::<u32>().ok());
    if cases.is_some_and(|cases| cases >= 1000) {
        100
    } else {
        12
    }
}

#[test]
fn simulation_of_cars_that_nobody_tuned_on_holds_nine_offers_in_ten() {
    let measured: Vec<(Slice, Tally)> = slices(cars())
        .into_iter()
        .filter(|slice| slice.pooled)
        .map(|slice| {
            let tally = slice.measure();
            (slice, tally)
        })
        .collect();
    println!("{}", report(&measured, 0.0));
    let all = pooled(&measured).held_percent();
    assert!((88.0..=92.0).contains(&all), "{all}");
    for (slice, tally) in &measured {
        assert!(tally.offers > tally.asked / 2, "{}: {tally:?}", slice.name);
        assert!(tally.held_percent() >= 85.0, "{}: {}", slice.name, tally.held_percent());
        assert!(
            tally.bands_held_percent() >= tally.held_percent(),
            "{}: what is published promises no more",
            slice.name
        );
    }
}

#[test]
fn same_seed_gives_the_same_tally() {
    let slice = || slices(4).swap_remove(5);
    assert_eq!(slice().measure(), slice().measure());
}

#[test]
fn window_of_the_spring_is_an_hour_shorter_and_the_autumns_longer() {
    let hours = |name: &str| {
        let slice = slices(1).into_iter().find(|slice| slice.name == name).unwrap();
        passed(slice.window().start, slice.window().end).as_secs() / 3600
    };
    assert_eq!(hours("summer time begins"), 8 * 24 - 1);
    assert_eq!(hours("summer time ends"), 8 * 24 + 1);
    assert_eq!(hours("as tuned"), 28 * 24);
}

#[test]
fn slice_has_the_mix_that_it_says() {
    let commuters = |name: &str| {
        let slice = slices(20).into_iter().find(|slice| slice.name == name).unwrap();
        let cars: Vec<_> = slice.cars().collect();
        let of = |life: &Life| life.trace.car.archetype == crate::traces::Archetype::Commuter;
        (cars.len(), cars.iter().filter(|lives| lives.iter().all(of)).count())
    };
    assert_eq!(commuters("as tuned"), (20, 12));
    assert_eq!(commuters("two in ten commute"), (20, 4));
    assert_eq!(commuters("free only"), (20, 0));
}
