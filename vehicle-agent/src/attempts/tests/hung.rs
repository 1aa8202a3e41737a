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
