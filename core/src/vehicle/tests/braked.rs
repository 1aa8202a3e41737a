//! A car that the brake holds: its attempts are given up at their fences and not before, and it takes nothing new.

use super::*;

/// A car with a running attempt whose stream ends at 1 s, while the brake holds; the fence is 30 s and its margin.
fn held() -> Car {
    let mut car = Car::connected();
    car.running("a");
    car.facts.step(Event::Braked(true), at(1.0));
    car.at(1.0).on(Event::Closed(1));
    car
}

#[test]
fn held_car_takes_nothing_new_and_its_attempt_is_not_given_up() {
    let mut car = held();
    assert!(car.facts.held() && !car.facts.suspected());
    let node = car.node();
    assert_eq!((node.taints, node.heard), (vec![taint::SUSPECT], Some(Hearing::Held)));
    let pod = car.pod("a");
    assert_eq!((pod.phase, pod.unheard, pod.unready), (PodPhase::Running, None, None));
    assert!(car.at(30.0).facts.held());
    assert_eq!(car.pod("a").unheard, None);
    assert_eq!(car.desired().phase, Phase::Available);
}

#[test]
fn held_car_that_returns_was_never_suspected() {
    let mut car = held();
    car.at(20.0)
        .connect(2, vec![report("a", 1, AttemptPhase::Running, false)]);
    assert!(!car.facts.held() && !car.facts.suspected());
    let pod = car.pod("a");
    assert_eq!((pod.unheard, pod.unready, pod.disruption), (None, None, None));
    assert_eq!(car.take_sent(), vec![Command::Run(uid("a"))], "once, at the very first");
    assert!(car.at(21.0).node().taints.is_empty());
}

#[test]
fn held_car_is_given_up_at_its_certain_fence() {
    let mut car = held();
    let fence = fence_with_margin(Duration::from_secs(30));
    assert!(car.desired().wake_at.is_some_and(|at| at <= Boottime(fence)));
    car.now = Boottime(fence);
    car.turn();
    assert!(!car.facts.held() && car.facts.suspected());
    let end = car.pod("a");
    assert_eq!((end.phase, end.stopped), (PodPhase::Failed, Some(StoppedBy::Fenced)));
}

#[test]
fn attempts_of_a_held_car_are_given_up_one_by_one() {
    let mut car = Car::connected();
    car.running("a");
    car.running("b");
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Running,
        fence: Some(Duration::from_mins(40)),
        ..pod("b")
    }));
    car.facts.step(Event::Braked(true), at(1.0));
    car.at(1.0).on(Event::Closed(1));
    car.at(60.0);
    assert_eq!(car.pod("a").stopped, Some(StoppedBy::Fenced));
    assert!(car.facts.held(), "the other one goes on");
    assert_eq!((car.pod("b").phase, car.pod("b").unheard), (PodPhase::Running, None));
}

#[test]
fn brake_that_lets_go_makes_suspect() {
    let mut car = held();
    car.on(Event::Braked(false));
    assert!(car.facts.suspected() && !car.facts.held());
    assert_eq!(car.pod("a").unheard, Some(true));
    car.on(Event::Braked(true));
    assert!(car.facts.suspected(), "what was concluded stays concluded");
}

#[rstest::rstest]
#[case::idle(false)]
#[case::with_an_attempt_without_a_fence(true)]
fn car_with_nothing_at_stake_is_not_held(#[case] works: bool) {
    let mut car = Car::connected();
    if works {
        car.running("a");
        car.on(Event::Pod(PodFacts {
            phase: PodPhase::Running,
            fence: None,
            ..pod("a")
        }));
    }
    car.facts.step(Event::Braked(true), at(1.0));
    car.at(1.0).on(Event::Closed(1));
    assert!(car.facts.suspected() && !car.facts.held());
    let quiet = car.facts.quiet(at(1.0)).unwrap();
    assert!(quiet.silent && !quiet.at_stake);
}

#[test]
fn pod_that_comes_to_a_held_car_is_given_back() {
    let mut car = held();
    car.bound("b");
    let refused = car.pod("b");
    assert_eq!(
        refused.refused.map(|r| r.reason),
        Some(reason::VEHICLE_UNHEARD.to_owned())
    );
}

#[test]
fn car_that_is_leaving_is_never_held() {
    let mut car = Car::connected();
    car.running("a");
    car.on(Event::Braked(true));
    car.on(Event::State(Standing::Leaving {
        notice: Duration::from_secs(8),
    }));
    car.at(1.0).on(Event::Closed(1));
    assert_eq!(car.facts.quiet(at(1.0)), None, "it said that it would go");
    assert!(!car.facts.held());
}

#[test]
fn car_at_work_counts_as_soon_as_its_heartbeat_is_late() {
    let mut car = Car::connected();
    car.running("a");
    assert_eq!(car.desired().wake_at, Some(at(0.0) + HEARTBEAT_LATE));
    assert_eq!(car.at(4.9).facts.quiet(at(4.9)), None);
    let late = car.at(5.0).facts.quiet(at(5.0)).unwrap();
    assert!(!late.silent && late.at_stake);
    assert!(!car.facts.held(), "it is not silent");
    assert!(HEARTBEAT_BUSY < HEARTBEAT_LATE);
    assert!(
        HEARTBEAT_LATE + HEARTBEAT_BUSY < terms().suspect_after,
        "all of a wave are late before the first is silent"
    );
}
