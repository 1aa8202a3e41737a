//! What the brake does in the cases that its table names, and what it never does.

use proptest::prelude::*;

use super::*;

const TERMS: BrakeTerms = BrakeTerms {
    share: 20,
    at_least: 3,
    window: Duration::from_secs(30),
};

fn id(n: u8) -> VehicleId {
    VehicleId::from_random([n; 10])
}

fn at(seconds: f64) -> Boottime {
    Boottime(Duration::from_secs_f64(seconds))
}

/// A pool of ten cars, of which the ones that are named are not heard.
#[derive(Default)]
struct Pool(Brake);

impl Pool {
    fn quiet(&mut self, n: u8, since: f64, now: f64, silent: bool, at_stake: bool) -> Verdict {
        let quiet = Quiet {
            since: at(since),
            silent,
            at_stake,
        };
        self.0.quiet(&id(n), quiet, 10, TERMS, at(now))
    }

    fn late(&mut self, n: u8, since: f64) {
        assert_eq!(self.quiet(n, since, since, false, true), Verdict::Believe);
    }

    fn silent(&mut self, n: u8, since: f64, now: f64) -> Verdict {
        self.quiet(n, since, now, true, true)
    }

    /// Nothing of it is at stake: it is idle, or its fences have passed.
    fn spent(&mut self, n: u8, since: f64, now: f64) {
        assert_eq!(self.quiet(n, since, now, true, false), Verdict::Believe);
    }
}

fn held(now: f64) -> Verdict {
    Verdict::Hold(at(now) + LOOK)
}

#[test]
fn few_cars_are_believed_when_those_that_may_go_with_them_have_had_their_moment() {
    let mut pool = Pool::default();
    for n in 1..=2 {
        assert_eq!(pool.silent(n, 10.0, 10.0), Verdict::Wait(at(10.5)));
    }
    for n in 1..=2 {
        assert_eq!(pool.silent(n, 10.0, 10.5), Verdict::Believe);
    }
    assert!(!pool.0.is_engaged());
}

#[test]
fn pool_that_can_never_brake_waits_for_nothing() {
    let mut brake = Brake::default();
    let quiet = Quiet {
        since: at(10.0),
        silent: true,
        at_stake: true,
    };
    assert_eq!(brake.quiet(&id(1), quiet, 2, TERMS, at(10.0)), Verdict::Believe);
    let off = BrakeTerms { share: 100, ..TERMS };
    assert_eq!(brake.quiet(&id(1), quiet, 10, off, at(10.0)), Verdict::Believe);
}

#[test]
fn wave_is_held_from_its_first_car_on() {
    let mut pool = Pool::default();
    assert_eq!(pool.silent(1, 10.0, 10.0), Verdict::Wait(at(10.5)));
    assert_eq!(pool.silent(2, 10.1, 10.1), Verdict::Wait(at(10.6)));
    assert_eq!(pool.silent(3, 10.2, 10.2), held(10.2));
    for n in 1..=3 {
        assert_eq!(pool.silent(n, 10.0, 10.5), held(10.5));
    }
    assert_eq!(pool.0.held(), 3);
    assert_eq!(pool.silent(4, 20.0, 20.0), held(20.0), "the wave goes on");
    assert_eq!(
        pool.silent(1, 10.0, 2_000.0),
        held(2_000.0),
        "for as long as they are away"
    );
}

#[test]
fn late_heartbeats_show_a_wave_before_its_first_car_is_silent() {
    let mut pool = Pool::default();
    for n in 1..=3 {
        pool.late(n, 5.0 + f64::from(n));
    }
    assert!(pool.0.is_engaged());
    assert_eq!(pool.0.held(), 0, "nobody is silent yet");
    assert_eq!(pool.silent(1, 11.0, 11.0), held(11.0));
}

#[test]
fn car_known_to_be_late_is_believed_without_another_wait() {
    let mut pool = Pool::default();
    pool.late(1, 5.0);
    assert_eq!(pool.silent(1, 10.0, 10.0), Verdict::Believe);
}

#[test]
fn losses_far_apart_are_believed() {
    let mut pool = Pool::default();
    for n in 1..=6 {
        let now = f64::from(n) * 40.0;
        pool.silent(n, now, now);
        assert_eq!(pool.silent(n, now, now + 0.5), Verdict::Believe);
    }
}

#[test]
fn cars_heard_again_do_not_count() {
    let mut pool = Pool::default();
    for n in 1..=6 {
        pool.silent(n, 10.0, 10.0);
        pool.0.heard(&id(n));
    }
    assert!(!pool.0.is_engaged());
}

#[test]
fn idle_cars_count_and_are_not_held() {
    let mut pool = Pool::default();
    pool.spent(1, 10.0, 10.0);
    pool.spent(2, 10.0, 10.0);
    pool.spent(3, 10.0, 10.0);
    assert!(!pool.0.is_engaged(), "there is nothing to hold");
    assert_eq!(pool.silent(4, 10.0, 10.1), held(10.1));
    assert_eq!(pool.0.held(), 1);
}

#[test]
fn brake_is_released_when_all_are_heard_again() {
    let mut pool = Pool::default();
    for n in 1..=3 {
        pool.silent(n, 10.0, 10.0);
    }
    for n in 1..=3 {
        assert!(pool.0.is_engaged());
        pool.0.heard(&id(n));
    }
    assert!(!pool.0.is_engaged());
}

#[test]
fn few_that_stay_away_when_the_others_are_back_are_believed_after_a_window() {
    let mut pool = Pool::default();
    for n in 1..=4 {
        pool.silent(n, 10.0, 10.0);
    }
    for n in 2..=4 {
        pool.0.heard(&id(n));
    }
    assert_eq!(pool.silent(1, 10.0, 60.0), held(60.0), "the others came back just now");
    assert_eq!(pool.silent(1, 10.0, 89.0), held(89.0));
    assert_eq!(pool.silent(1, 10.0, 90.0), Verdict::Believe);
    assert!(!pool.0.is_engaged());
}

#[test]
fn wave_that_grows_again_is_held_for_another_window() {
    let mut pool = Pool::default();
    for n in 1..=3 {
        pool.silent(n, 10.0, 10.0);
    }
    pool.0.heard(&id(3));
    assert_eq!(pool.silent(1, 10.0, 60.0), held(60.0));
    pool.silent(3, 80.0, 80.0);
    assert_eq!(pool.silent(1, 10.0, 95.0), held(95.0), "no calm since");
}

#[test]
fn brake_is_released_when_the_last_fence_is_certain() {
    let mut pool = Pool::default();
    for n in 1..=3 {
        pool.silent(n, 10.0, 10.0);
    }
    pool.spent(1, 10.0, 45.0);
    pool.spent(2, 10.0, 45.0);
    assert_eq!(
        pool.silent(3, 10.0, 45.0),
        held(45.0),
        "the three are still away together"
    );
    assert_eq!(pool.0.held(), 1);
    pool.spent(3, 10.0, 75.0);
    assert!(!pool.0.is_engaged());
    assert_eq!(
        pool.silent(4, 80.0, 80.0),
        Verdict::Wait(at(80.5)),
        "another loss is another wave"
    );
}

proptest! {
    /// Cars fall silent, return and reach their fences in any order, each asking again every second while it is held.
    #[test]
    fn brake_holds_nobody_in_vain(
        steps in prop::collection::vec((0..8_u8, 0..4_u8, 0..20_000_u64), 1..80),
        cars in 1..12_usize,
    ) {
        let mut brake = Brake::default();
        let mut now = Boottime::default();
        let mut silent: BTreeMap<u8, (Boottime, bool)> = BTreeMap::new();
        for (n, what, wait) in steps {
            now = now + Duration::from_millis(wait);
            match what {
                0 => {
                    silent.remove(&n);
                    brake.heard(&id(n));
                }
                1 => if let Some(car) = silent.get_mut(&n) { car.1 = false },
                _ => { silent.entry(n).or_insert((now, true)); }
            }
            let quiet = |(since, at_stake)| Quiet { since, silent: true, at_stake };
            let verdicts: Vec<_> = silent
                .iter()
                .map(|(n, car)| (car.1, brake.quiet(&id(*n), quiet(*car), cars, TERMS, now)))
                .collect();
            for (at_stake, verdict) in &verdicts {
                match verdict {
                    Verdict::Hold(again) | Verdict::Wait(again) => {
                        prop_assert!(*at_stake, "only what is at stake is held");
                        prop_assert!(*again > now, "it never asks in the past");
                    }
                    Verdict::Believe => {}
                }
            }
            let at_stake = verdicts.iter().filter(|(at_stake, _)| *at_stake).count();
            prop_assert!(!brake.is_engaged() || at_stake > 0, "engaged for nobody");
            prop_assert!(brake.held() <= at_stake);
        }
        // Nobody falls silent any more, and those who are away stay away: too many are held to their fences, few for one window.
        now = now + TERMS.window;
        let settle = |brake: &mut Brake, now| {
            for (n, (since, at_stake)) in &silent {
                let quiet = Quiet { since: *since, silent: true, at_stake: *at_stake };
                brake.quiet(&id(*n), quiet, cars, TERMS, now);
            }
        };
        settle(&mut brake, now);
        now = now + TERMS.window;
        settle(&mut brake, now);
        if !TERMS.exceeded_by(silent.len(), cars) {
            prop_assert!(!brake.is_engaged(), "few are believed in the end");
        }
        for n in silent.keys() {
            brake.heard(&id(*n));
        }
        prop_assert!(!brake.is_engaged(), "all are back");
    }
}
