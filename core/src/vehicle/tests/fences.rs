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
fn attempt_that_its_car_ended_at_its_fence_was_lost_and_has_not_departed() {
    let ended = |name: &str, why: &str| Report {
        reason: why.to_owned(),
        ..report(name, 2, AttemptPhase::Disrupted, true)
    };
    let mut car = Car::connected();
    for (name, why) in [("a", reason::VEHICLE_LOST), ("b", reason::VEHICLE_DEPARTED)] {
        car.running(name);
        car.on(Event::Report(ended(name, why)));
        assert_eq!(car.pod(name).disruption, Some(why));
    }
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

fn suspect_node(car: &Car) -> bool {
    match car.desired().node {
        NodeWish::Present(state) | NodeWish::Keep(state) => state.taints.contains(&taint::SUSPECT),
        NodeWish::Absent => panic!("a car that works has a Node"),
    }
}

/// The car comes back with an attempt that has been given up.
fn back_with_what_was_given_up(in_the_api: Option<PodFacts>) -> Car {
    let mut car = Car::connected();
    car.running("a");
    car.at(2.0).on(Event::Closed(1));
    assert!(suspect_node(&car));
    match in_the_api {
        Some(pod) => car.on(Event::Pod(pod)),
        None => car.on(Event::PodGone(uid("a"))),
    };
    car.at(60.0)
        .connect(2, vec![report("a", 1, AttemptPhase::Running, false)]);
    car
}

#[test]
fn what_was_given_up_is_stopped_before_anything_new_may_come() {
    let ended = PodFacts {
        phase: PodPhase::Failed,
        stopped: true,
        ..pod("a")
    };
    let deleted = PodFacts {
        deletion: Some(Duration::from_secs(30)),
        phase: PodPhase::Running,
        ..pod("a")
    };
    // By PodGC, which knows nothing of the car.
    let failed = PodFacts {
        stopped: false,
        ..ended.clone()
    };
    for in_the_api in [Some(ended.clone()), Some(deleted), Some(failed), None] {
        let mut car = back_with_what_was_given_up(in_the_api.clone());
        assert!(
            matches!(car.sent.last(), Some(Command::Stop { uid: stopped, .. }) if *stopped == uid("a")),
            "{in_the_api:?}: {:?}",
            car.sent
        );
        assert!(suspect_node(&car), "{in_the_api:?}: it still runs");
        assert_eq!(car.desired().heard, Some(Hearing::Heard), "the car itself is heard");
        car.on(Event::Report(report("a", 2, AttemptPhase::Disrupted, true)));
        if in_the_api.as_ref().is_some_and(|pod| !pod.stopped) {
            assert!(suspect_node(&car), "{in_the_api:?}: the API does not say so yet");
            car.on(Event::Pod(ended.clone()));
        }
        assert!(!suspect_node(&car), "{in_the_api:?}: nothing is left of it");
    }
}

#[test]
fn car_that_never_says_that_it_stopped_is_not_kept_from_work_for_ever() {
    let mut car = back_with_what_was_given_up(None);
    car.at(69.0).on(Event::Heard);
    car.at(78.0).on(Event::Heard);
    car.at(87.0).on(Event::Heard);
    assert!(suspect_node(&car));
    assert_eq!(car.desired().wake_at, Some(at(60.0) + RUN_PATIENCE));
    assert!(!suspect_node(car.at(90.0)));
}

#[test]
fn car_that_is_back_with_its_attempt_takes_nothing_new_before_the_replacement_can_be_withdrawn() {
    let mut car = Car::connected();
    car.running("a");
    car.at(2.0).on(Event::Closed(1));
    car.at(8.0)
        .connect(2, vec![report("a", 1, AttemptPhase::Running, false)]);
    assert!(suspect_node(&car));
    assert_eq!(car.pod("a").unready, None, "the attempt itself is heard at once");
    assert_eq!(car.desired().wake_at, Some(at(8.0) + RETURN_HOLD));
    car.at(8.3).on(Event::Closed(2));
    car.at(8.5)
        .connect(3, vec![report("a", 1, AttemptPhase::Running, false)]);
    assert!(suspect_node(&car), "a second connection ends no hold");
    assert!(!suspect_node(car.at(9.5)));
}

#[test]
fn hold_of_a_car_that_is_back_counts_from_its_greeting() {
    let mut car = Car::connected();
    car.running("a");
    car.at(2.0).on(Event::Closed(1));
    let running = vec![report("a", 1, AttemptPhase::Running, false)];
    car.at(8.0).connect(2, running.clone());
    car.at(12.0).on(Event::Greeted);
    assert!(suspect_node(&car));
    assert_eq!(car.desired().wake_at, Some(at(12.0) + RETURN_HOLD));
    assert!(!suspect_node(car.at(13.0)));
    car.connect(3, running);
    car.on(Event::Greeted);
    assert!(!suspect_node(&car), "it was not away");
}

#[test]
fn pod_that_is_deleted_while_its_car_is_there_keeps_nobody_away() {
    let mut car = Car::connected();
    car.running("a");
    car.on(Event::Pod(PodFacts {
        deletion: Some(Duration::from_secs(30)),
        phase: PodPhase::Running,
        ..pod("a")
    }));
    car.at(8.0).on(Event::Heard);
    assert!(!suspect_node(&car));
}

#[test]
fn hello_that_was_long_on_its_way_ends_nothing() {
    let mut car = Car::connected();
    car.running("a");
    // Its car has left that connection again, has another one and got the attempt over that.
    car.at(2.0).connect(2, Vec::new());
    assert_eq!(car.pod("a").stopped, None);
    car.at(2.1).on(Event::Closed(2));
    assert_eq!((car.pod("a").stopped, car.pod("a").unheard), (None, Some(true)));
    car.at(3.0).connect(3, Vec::new());
    let lost = car.at(3.1).on(Event::Heard).pod("a");
    assert_eq!(
        lost.stopped,
        Some(StoppedBy::Reported),
        "a car that was welcomed does not know it"
    );
}

#[test]
fn connection_that_says_nothing_any_more_ends_nothing_that_was_begun_over_another() {
    let mut car = Car::connected();
    car.at(5.0).on(Event::Heard);
    // The car is with another adapter, and this one has not seen that yet.
    car.at(8.0).on(Event::Pod(PodFacts {
        phase: PodPhase::Running,
        ..pod("a")
    }));
    assert_eq!(car.pod("a").stopped, None);
    car.connect(4, vec![report("a", 2, AttemptPhase::Running, false)]);
    assert_eq!((car.pod("a").phase, car.pod("a").stopped), (PodPhase::Running, None));
}

#[test]
fn hello_that_was_long_on_its_way_refuses_nothing() {
    let mut car = Car {
        facts: Facts::new(Standing::Available, false, at(0.0)),
        now: at(0.0),
        sent: Vec::new(),
    };
    car.on(Event::Terms(terms()));
    // An adapter before this one may have sent it.
    car.on(Event::Pod(pod("a")));
    car.on(Event::PodsSynced);
    car.at(2.0).connect(2, Vec::new());
    car.at(2.1).on(Event::Closed(2));
    assert_eq!((car.pod("a").phase, car.pod("a").refused), (PodPhase::Pending, None));
}

#[test]
fn car_that_leaves_promises_nothing_of_what_it_is_not_known_to_have() {
    let mut car = Car::connected();
    car.at(20.0).bound("a");
    // The Run is on its way when the car says that it leaves; it may arrive when the car is back, and nobody may hear of that.
    let notice = Duration::from_secs(5);
    car.at(20.5).on(Event::State(Standing::Leaving { notice }));
    car.at(21.0).on(Event::Closed(1));
    assert_eq!(car.at(50.0).pod("a").stopped, None);
    assert_eq!(car.at(56.0).pod("a").stopped, Some(StoppedBy::Fenced));

    let mut car = Car::connected();
    car.at(20.0).running("a");
    car.at(20.5).on(Event::State(Standing::Leaving { notice }));
    car.at(21.0).on(Event::Closed(1));
    let end = car.at(30.5).pod("a");
    assert_eq!(
        end.stopped,
        Some(StoppedBy::Fenced),
        "it has promised to end what it has"
    );
}
