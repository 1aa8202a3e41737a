//! Fences: when an attempt is given up, and what the car and the Pod are told then.

use super::*;

#[test]
fn attempt_is_fenced_after_its_fence_and_margin_and_not_before() {
    let mut car = Car::connected();
    car.running("a");
    car.at(4.0).on(Event::Heard);
    assert_eq!(car.at(39.0).pod("a").phase, PodPhase::Running);
    let end = car.at(39.04).pod("a");
    assert_eq!((end.phase, end.stopped), (PodPhase::Failed, Some(StoppedBy::Fenced)));
    assert_eq!(end.disruption, Some(reason::VEHICLE_LOST));
    car.connect(2, vec![report("a", 9, AttemptPhase::Succeeded, true)]);
    assert_eq!(
        car.pod("a"),
        PodReport {
            revision: Some(9),
            ..end
        },
        "output finished after the fence is never accepted"
    );
}

#[test]
fn attempt_that_is_given_up_is_stopped_before_the_api_has_its_end() {
    let mut car = Car::connected();
    car.running("a");
    car.take_sent();
    assert_eq!(car.at(36.0).pod("a").stopped, Some(StoppedBy::Fenced));
    let sent = car.take_sent();
    assert!(
        matches!(sent.as_slice(), [Command::Stop { uid: stopped, .. }] if *stopped == uid("a")),
        "the car, if it still listens, must not begin or go on: {sent:?}"
    );
}

#[test]
fn fence_of_an_attempt_that_was_just_sent_counts_from_then() {
    let mut car = Car::connected();
    car.at(20.0).bound("a");
    assert!(car.at(24.0).facts.suspected(), "it does not answer");
    assert_eq!(
        car.at(50.0).pod("a").stopped,
        None,
        "an idle car had been silent before it was asked"
    );
    assert_eq!(car.at(56.0).pod("a").stopped, Some(StoppedBy::Fenced));
}

#[test]
fn car_that_is_only_awaited_is_not_heard_again() {
    let mut car = Car {
        facts: Facts::new(Standing::Available, false, at(0.0)),
        now: at(0.0),
        sent: Vec::new(),
    };
    car.on(Event::Terms(terms()));
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Running,
        unheard: true,
        ..pod("a")
    }));
    car.on(Event::PodsSynced);
    let said = car.pod("a");
    assert_eq!((said.unheard, said.unready), (None, Some(reason::VEHICLE_UNHEARD)));
    car.connect(2, vec![report("a", 1, AttemptPhase::Running, false)]);
    let said = car.pod("a");
    assert_eq!((said.unheard, said.unready), (Some(false), None));
}
