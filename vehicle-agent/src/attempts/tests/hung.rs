//! An attempt hangs on the disk; the others do not.

use std::time::Duration;

use super::*;

/// A supervisor with an attempt that hangs in a write, and another one that has a fence.
struct Hung {
    disk: Faulty,
    fixture: Fixture,
}

const LIMIT: Duration = Duration::from_mins(10);

impl Hung {
    async fn new() -> Self {
        let disk = Faulty::new();
        let fixture = Fixture::on(&disk);
        let small = |pod: &mut Json| pod["spec"]["containers"][0]["resources"] = json!({});
        let first = fixture.running_as("u-1", small).await;
        let fenced = Run {
            run_unheard_for_ms: u64::try_from(LIMIT.as_millis()).unwrap(),
            ..run("u-2", small)
        };
        fixture.link(Event::Run(fenced)).await;
        fixture.phase("u-2", AttemptPhase::Running).await;
        let writes = disk.writes();
        disk.hang();
        first.exits(0);
        disk.reaches(writes + 1).await;
        Self { disk, fixture }
    }

    /// Sends it, and waits until the supervisor has taken it.
    async fn link(&self, event: Event) {
        let taken = async {
            self.fixture.link(event).await;
            drop(self.fixture.events.reserve().await.unwrap());
        };
        let taken = tokio::time::timeout(Duration::from_secs(10), taken).await;
        assert!(taken.is_ok(), "the supervisor waits for an attempt");
    }

    async fn fence_of_the_other_moves(&self) {
        let heard = self.fixture.heard().await;
        self.fixture.wait_fence(Some(heard + LIMIT)).await;
    }
}

#[tokio::test]
async fn log_of_an_attempt_that_hangs_holds_up_no_fence_of_another() {
    let hung = Hung::new().await;
    hung.link(Event::ReadLogs(Fixture::read_logs("a", "u-1"))).await;
    hung.fence_of_the_other_moves().await;
    // Others are answered meanwhile, and it is when it goes on.
    hung.link(Event::ReadLogs(Fixture::read_logs("b", "u-2"))).await;
    hung.fixture.cluster.log("b").await.unwrap();
    hung.disk.restarted();
    hung.fixture.cluster.log("a").await.unwrap();
}

#[tokio::test]
async fn any_number_of_stops_for_an_attempt_that_hangs_holds_up_no_fence_of_another() {
    let hung = Hung::new().await;
    for grace_ms in (0..100).rev() {
        let stop = Stop {
            uid: "u-1".to_owned(),
            grace_ms,
            reason: "Deleted".to_owned(),
        };
        hung.link(Event::Stop(stop)).await;
    }
    let uid: PodUid = "u-1".parse().unwrap();
    hung.link(Event::Forget(uid.clone())).await;
    hung.fence_of_the_other_moves().await;
    hung.disk.restarted();
    hung.fixture.cluster.forgotten(&uid).await;
}

#[tokio::test]
async fn stop_that_comes_again_shortens_the_grace_and_no_more() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    process.becomes_obstinate();
    let began = fixture.clock.boottime();
    for grace_ms in [600_000, 300, 900_000] {
        fixture
            .link(Event::Stop(Stop {
                uid: "u-1".to_owned(),
                grace_ms,
                reason: "Deleted".to_owned(),
            }))
            .await;
    }
    fixture.phase("u-1", AttemptPhase::Disrupted).await;
    let took = fixture.clock.boottime().since(began);
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_mins(1),
        "{took:?}"
    );
}

/// The car goes on, and its owner agrees to no class of work any more.
fn taken_back(fixture: &Fixture) -> Outlook {
    Outlook {
        consented: Arc::default(),
        ..outlook(&*fixture.clock, available())
    }
}

#[tokio::test]
async fn program_of_a_class_that_is_taken_back_is_ended_though_its_actor_hangs() {
    let disk = Faulty::new();
    let fixture = Fixture::on(&disk);
    let two = |pod: &mut Json| {
        pod["spec"]["containers"][0]["resources"] = json!({});
        let mut other = pod["spec"]["containers"][0].clone();
        other["name"] = json!("other");
        pod["spec"]["containers"].as_array_mut().unwrap().push(other);
    };
    fixture.running_as("u-1", two).await;
    let named = |name: &'static str| fixture.runtime.starts(move |process| process.spec.name == name);
    let (first, other) = (named("classify").await, named("other").await);
    let writes = disk.writes();
    disk.hang();
    first.exits(0);
    disk.reaches(writes + 1).await;
    let outlook = taken_back(&fixture);
    fixture.outlook.send_replace(outlook.clone());
    assert!(!other.was_killed(), "its actor hangs");
    fixture.living.end(&outlook);
    assert!(other.was_killed());
    disk.restarted();
    let status = fixture.phase("u-1", AttemptPhase::Disrupted).await;
    assert_eq!(status.reason, reason::OWNER_CONSENT_MISSING);
}

#[tokio::test]
async fn program_that_was_ended_for_its_owner_is_told_so_whatever_its_actor_hears_first() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    // The actor does not hear of the outlook at all.
    fixture.living.end(&taken_back(&fixture));
    assert!(process.was_killed());
    let status = fixture.phase("u-1", AttemptPhase::Disrupted).await;
    assert_eq!(status.reason, reason::OWNER_CONSENT_MISSING);
}

/// Its consent holds: that is not what it ends for.
#[tokio::test]
async fn program_of_a_class_for_which_a_term_of_the_owner_is_not_met_ends_for_that() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    let held_off = Outlook {
        held_off: Arc::new(owner().consent.classes.into_iter().collect()),
        ..taken_back(&fixture)
    };
    fixture.outlook.send_replace(held_off.clone());
    fixture.living.end(&held_off);
    assert!(process.was_killed());
    let status = fixture.phase("u-1", AttemptPhase::Disrupted).await;
    assert_eq!(status.reason, reason::OWNER_TERMS);
}

#[tokio::test]
async fn program_that_starts_while_its_class_is_taken_back_does_not_run_and_one_in_a_car_that_leaves_has_its_turn() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    let leaves = State::Leaving {
        until: fixture.clock.boottime() + LIMIT,
        cause: Cause::Owner,
    };
    fixture.living.end(&Outlook {
        state: leaves,
        ..taken_back(&fixture)
    });
    assert!(!process.was_killed(), "its brake is on, and work ends in its order");
    let started: Arc<dyn crate::runtime::Process> = Arc::new(process.clone());
    let uid = "u-2".parse().unwrap();
    fixture
        .living
        .add(&uid, "inference", &started, &outlook(&*fixture.clock, available()));
    assert!(!process.was_killed());
    fixture.living.add(&uid, "inference", &started, &taken_back(&fixture));
    assert!(process.was_killed() && fixture.living.has_ended(&uid));
}
