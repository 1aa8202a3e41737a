//! A car that keeps coming back: each time it is suspected a replacement is made in vain, so it is waited for a little longer each time.

use super::*;

/// Falls silent at `from` and comes back two minutes later, when it has certainly been suspected.
fn goes_and_comes(car: &mut Car, epoch: u64, from: f64) {
    car.at(from).on(Event::Closed(epoch - 1));
    assert!(car.at(from + 61.0).facts.suspected());
    car.at(from + 62.0)
        .connect(epoch, vec![report("a", 1, AttemptPhase::Running, false)]);
    assert!(!car.facts.suspected());
}

/// With an attempt whose fence is far away.
fn at_work() -> Car {
    let mut car = Car::connected();
    car.running("a");
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Running,
        fence: Some(Duration::from_mins(40)),
        ..pod("a")
    }));
    car
}

/// For how long a car whose stream has just ended is waited for.
fn patience(car: &mut Car, epoch: u64, from: f64) -> f64 {
    car.at(from).on(Event::Closed(epoch));
    let waited = car.facts.silent_from().since(at(from));
    if !waited.is_zero() {
        assert!(!car.facts.suspected());
        assert_eq!(car.node().taints, vec![taint::SUSPECT], "it takes nothing new");
        assert_eq!(car.pod("a").unheard, None);
        assert_eq!(car.desired().wake_at, Some(car.facts.silent_from()));
    }
    waited.as_secs_f64()
}

#[test]
fn car_that_keeps_coming_back_is_waited_for_longer_each_time() {
    let expected = [0.0, 0.0, 5.0, 10.0, 20.0, 40.0, 60.0, 60.0];
    for (times, expected) in expected.into_iter().enumerate() {
        let mut car = at_work();
        let mut now = 1.0;
        for n in 0..times {
            goes_and_comes(&mut car, u64::try_from(n).unwrap() + 2, now);
            now += 70.0;
        }
        let waited = patience(&mut car, u64::try_from(times).unwrap() + 1, now);
        assert!((waited - expected).abs() < 1e-9, "after {times} returns: {waited}");
        if waited > 0.0 {
            assert!(car.at(now + waited).facts.suspected(), "it is believed in the end");
        }
    }
}

#[test]
fn car_that_has_stayed_is_waited_for_no_longer_than_others() {
    let mut car = at_work();
    for (n, from) in [1.0, 71.0, 141.0].into_iter().enumerate() {
        goes_and_comes(&mut car, u64::try_from(n).unwrap() + 2, from);
    }
    for second in (205..520).step_by(5) {
        car.at(f64::from(second)).on(Event::Heard);
    }
    assert!(patience(&mut car, 4, 520.0).abs() < 1e-9);
}

#[test]
fn car_that_keeps_coming_back_is_never_waited_for_beyond_its_fence() {
    let mut car = at_work();
    for (n, from) in [1.0, 71.0, 141.0, 211.0, 281.0].into_iter().enumerate() {
        goes_and_comes(&mut car, u64::try_from(n).unwrap() + 2, from);
    }
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Running,
        fence: Some(Duration::from_secs(10)),
        ..pod("a")
    }));
    let fence = fence_with_margin(Duration::from_secs(10));
    car.at(345.0).on(Event::Closed(6));
    // It was last heard at 343 s.
    assert_eq!(car.facts.silent_from(), at(343.0) + fence);
    car.now = at(343.0) + fence;
    car.turn();
    assert_eq!(car.pod("a").stopped, Some(StoppedBy::Fenced));
}
