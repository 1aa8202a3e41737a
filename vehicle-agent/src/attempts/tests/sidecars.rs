//! Containers that stay beside the work, and what is done at the ends of their lives.

use tokio::time::Instant;

use super::*;

/// How long the hook of the sidecar takes.
const HOOK: Duration = Duration::from_secs(1);

/// The work, and a sidecar before it that sleeps before it ends.
fn with_a_sidecar(pod: &mut Json) {
    let mut sidecar = pod["spec"]["containers"][0].clone();
    sidecar["name"] = json!("sidecar");
    sidecar["restartPolicy"] = json!("Always");
    sidecar["lifecycle"] = json!({"preStop": {"sleep": {"seconds": HOOK.as_secs()}}});
    pod["spec"]["initContainers"] = json!([sidecar]);
}

#[tokio::test]
async fn sidecar_runs_beside_the_work_and_ends_after_it_with_its_hook() {
    let fixture = Fixture::new();
    fixture.link(Event::Run(run("u-1", with_a_sidecar))).await;
    let sidecar = fixture.runtime.started(0).await;
    let work = fixture.runtime.started(1).await;
    let began = Instant::now();
    work.exits(0);
    fixture.phase("u-1", AttemptPhase::Succeeded).await;
    assert!(sidecar.was_told_to_stop());
    assert!(began.elapsed() >= HOOK, "its hook came first");
}

#[tokio::test]
async fn sidecar_that_ends_by_itself_is_started_again_beside_the_work() {
    let fixture = Fixture::new();
    fixture.link(Event::Run(run("u-1", with_a_sidecar))).await;
    let sidecar = fixture.runtime.started(0).await;
    let work = fixture.runtime.started(1).await;
    sidecar.exits(1);
    fixture.runtime.started(2).await;
    assert!(!work.was_told_to_stop());
}

#[tokio::test]
async fn hook_runs_in_a_car_that_leaves_as_its_notice_has_room_for_it() {
    let fixture = Fixture::new();
    fixture.link(Event::Run(run("u-1", with_a_sidecar))).await;
    fixture.runtime.started(0).await;
    fixture.runtime.started(1).await;
    let began = Instant::now();
    fixture.car(State::Leaving {
        until: fixture.clock.boottime() + Duration::from_secs(20),
        cause: Cause::Owner,
    });
    fixture.phase("u-1", AttemptPhase::Disrupted).await;
    assert!(began.elapsed() >= HOOK, "{:?}", began.elapsed());
}
