//! A car that is back takes new work only when nothing is alive in it that was given up, and when all know that it is back; by whatever
//! way it is heard again.

use super::*;

fn takes_work(car: &Car) -> bool {
    !car.node().taints.contains(&taint::SUSPECT)
}

/// It runs an attempt, and nothing is heard of it until it is suspected. No connection breaks.
fn silent() -> Car {
    let mut car = Car::connected();
    car.running("a");
    car.at(20.0);
    assert!(!takes_work(&car));
    car
}

#[test]
fn car_that_is_heard_again_without_connecting_anew_first_stops_what_was_given_up() {
    let mut car = silent();
    let superseded = PodFacts {
        deletion: Some(Duration::from_secs(30)),
        phase: PodPhase::Running,
        unheard: true,
        ..pod("a")
    };
    car.on(Event::Pod(superseded.clone()));
    car.at(30.0).on(Event::Heard);
    assert!(!takes_work(&car), "it still runs");
    assert_eq!(car.desired().heard, Some(Hearing::Heard), "the car itself is heard");
    car.on(Event::Report(report("a", 2, AttemptPhase::Disrupted, true)));
    assert!(!takes_work(&car), "the Node must not say so before the Pod does");
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Failed,
        stopped: true,
        ..superseded
    }));
    assert!(takes_work(&car), "nothing is left of it");
}

#[test]
fn car_that_is_back_takes_work_when_the_pod_that_was_given_up_is_gone() {
    let mut car = silent();
    car.at(30.0).on(Event::Heard);
    car.at(31.0).on(Event::PodGone(uid("a")));
    assert!(!takes_work(&car), "it still runs");
    car.on(Event::Report(report("a", 2, AttemptPhase::Disrupted, true)));
    assert!(takes_work(&car), "there is nothing to say it of");
}

#[test]
fn car_that_is_heard_again_without_connecting_anew_takes_nothing_before_the_replacement_can_be_withdrawn() {
    let mut car = silent();
    car.at(30.0).on(Event::Heard);
    assert!(!takes_work(&car));
    assert_eq!(car.desired().wake_at, Some(at(30.0) + RETURN_HOLD));
    assert!(takes_work(car.at(31.0)));
}

#[test]
fn car_that_is_back_with_what_it_has_finished_takes_nothing_before_the_replacement_can_be_withdrawn() {
    let mut car = silent();
    let again = [
        Event::Heard,
        Event::Report(report("a", 2, AttemptPhase::Running, true)),
        Event::Report(report("a", 3, AttemptPhase::Succeeded, true)),
        Event::Recorded(uid("a"), 3),
        Event::Pod(PodFacts {
            phase: PodPhase::Succeeded,
            stopped: true,
            ..pod("a")
        }),
    ];
    car.at(30.0);
    for event in again {
        car.on(event.clone());
        assert!(!takes_work(&car), "{event:?}");
    }
    assert!(takes_work(car.at(31.0)));
}
