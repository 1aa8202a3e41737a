//! Containers that are added to a Pod that is there, to look at it.

use super::*;

/// Somebody adds a container to a running Pod.
fn added(mut driver: Driver) -> (Driver, Vec<Effect>) {
    let look = ContainerPlan::new("look", Role::Ephemeral, Restart::Always);
    driver.plan.containers.push(look);
    let effects = driver.feed(Event::Amended);
    (driver, effects)
}

fn watched() -> Driver {
    let (mut driver, effects) = added(Driver::running(Plan { upload: false, ..one() }));
    assert_eq!(effects, [Effect::Prepare(1), Effect::WriteJournal, Effect::Report]);
    assert_eq!(driver.feed(prepared(1)), [Effect::WriteJournal, Effect::Start(1)]);
    driver.feed(Event::Started { container: 1 });
    driver
}

#[test]
fn container_that_is_added_runs_and_its_end_says_nothing_of_the_pod() {
    let mut driver = watched();
    assert_eq!(driver.feed(exited(1, 7)), [Effect::WriteJournal, Effect::Report]);
    assert_eq!(driver.attempt.state, State::Active);
    // Whatever the Pod's restartPolicy.
    assert!(matches!(&driver.attempt.containers[1].life, Life::Terminated(exit) if exit.code == 7));
    assert!(driver.after(1000, Event::Tick).is_empty());
    driver.feed(exited(0, 0));
    assert_eq!(driver.outcome(), (Kind::Succeeded, ""));
}

#[test]
fn pod_does_not_wait_for_a_container_that_was_added() {
    let mut driver = watched();
    let effects = driver.feed(exited(0, 0));
    assert!(effects.contains(&Effect::Ask(1)), "{effects:?}");
    driver.feed(exited(1, 143));
    assert_eq!(driver.outcome(), (Kind::Succeeded, ""));
}

#[test]
fn container_that_is_added_does_not_wait_for_init_containers() {
    let mut driver = Driver::admitted(Plan {
        containers: vec![
            ContainerPlan::new("init", Role::Init, Restart::OnFailure),
            ContainerPlan::new("main", Role::Main, Restart::OnFailure),
        ],
        ..one()
    });
    driver.feed(Event::Journaled);
    driver.feed(prepared(0));
    let (mut driver, effects) = added(driver);
    assert!(effects.contains(&Effect::Prepare(2)), "{effects:?}");
    assert_eq!(driver.waiting(1).0, "PodInitializing");
    driver.feed(Event::Started { container: 0 });
    let effects = driver.feed(exited(0, 0));
    assert!(
        effects.contains(&Effect::Prepare(1)),
        "the Pod's own goes on: {effects:?}"
    );
}

#[test]
fn container_that_is_added_to_a_paused_car_begins_when_it_goes_on() {
    let mut driver = Driver::running(one());
    driver.feed(Event::Freeze);
    let (mut driver, effects) = added(driver);
    assert_eq!(effects, [Effect::WriteJournal, Effect::Report]);
    assert!(driver.feed(Event::Thaw).contains(&Effect::Prepare(1)));
}

#[test]
fn container_that_is_added_to_an_attempt_that_is_ended_never_begins() {
    let mut driver = Driver::running(Plan { upload: false, ..one() });
    driver.feed(stop(5));
    let (mut driver, effects) = added(driver);
    assert!(effects.is_empty(), "{effects:?}");
    // A later stop looks at every container.
    driver.feed(stop(1));
    driver.feed(exited(0, 143));
    assert_eq!(driver.outcome(), (Kind::Disrupted, "Deleted"));
    let (mut driver, effects) = added(driver);
    assert!(effects.is_empty() && driver.after(100, Event::Tick).is_empty());
}

#[test]
fn container_that_cannot_be_made_ready_is_told_and_the_pod_goes_on() {
    let (mut driver, _) = added(Driver::running(one()));
    let why = NotReady {
        reason: "CreateContainerConfigError".to_owned(),
        meanwhile: None,
        message: "stdin is not possible in a vehicle yet".to_owned(),
        retry: false,
    };
    driver.feed(Event::NotReady { container: 1, why });
    assert_eq!(driver.waiting(1).0, "CreateContainerConfigError");
    assert!(driver.after(1000, Event::Tick).is_empty());
    assert!(driver.feed(exited(0, 0)).contains(&Effect::Upload));
}

#[test]
fn container_that_the_owner_does_not_let_begin_waits_and_the_pod_goes_on() {
    let (mut driver, _) = added(Driver::running(one()));
    assert_eq!(driver.feed(declined(1)), [Effect::WriteJournal, Effect::Report]);
    assert_eq!(driver.waiting(1).0, reason::SIGNATURE_VALIDATION_FAILED);
    assert!(driver.after(1000, Event::Tick).is_empty());
    assert!(driver.feed(exited(0, 0)).contains(&Effect::Upload));
}
