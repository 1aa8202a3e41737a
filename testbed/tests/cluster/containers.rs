//! Several containers in one Pod, as under a kubelet.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kerbside_testbed::world::{self, phase};
use serde_json::json;

use crate::others::film::{Film, story};
use crate::support;

/// How long the work takes.
const NAP: Duration = Duration::from_secs(2);

/// Where the container stands that the Pod's status has first, among the init containers or among the others.
fn first(pod: &Pod, init: bool) -> Option<&ContainerState> {
    let status = pod.status.as_ref()?;
    let all = if init {
        &status.init_container_statuses
    } else {
        &status.container_statuses
    };
    all.as_ref()?.first()?.state.as_ref()
}

#[tokio::test]
async fn sidecar_starts_before_the_work_stays_beside_it_and_ends_after_it() -> Result<()> {
    world::run("sidecar", async |world| {
        world.cars(1).await?;
        let pods = Film::of_pods(world);
        let mut job = support::sleeping(world, NAP).await?;
        let mut ticker =
            world.example("deployment/deployment.yaml")?["spec"]["template"]["spec"]["containers"][0].take();
        ticker["restartPolicy"] = "Always".into();
        ticker["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 1}}});
        job["spec"]["template"]["spec"]["initContainers"] = json!([ticker]);
        world.apply(&job).await?;
        let status = world.complete("hello", world::DEADLINE).await?;
        ensure!(
            status.succeeded == 1 && status.failed == 0,
            "how a sidecar ends counts for nothing: {status:?}"
        );
        let frames = pods.frames();
        let running = |state: Option<&ContainerState>| state.is_some_and(|state| state.running.is_some());
        let beside = frames
            .iter()
            .position(|f| running(first(&f.object, true)) && running(first(&f.object, false)));
        ensure!(beside.is_some(), "both run at a time:\n{}", story(&frames));
        let alone = frames
            .iter()
            .find(|f| running(first(&f.object, false)) && !running(first(&f.object, true)));
        ensure!(alone.is_none(), "the work ran without its sidecar:\n{}", story(&frames));
        let end = frames
            .iter()
            .find(|f| phase(&f.object) == "Succeeded")
            .context("the Pod succeeded")?;
        let ended = |init| {
            let state = first(&end.object, init)?;
            state.terminated.as_ref()?.finished_at.clone()
        };
        let (sidecar, work) = (ended(true), ended(false));
        ensure!(
            sidecar.is_some() && sidecar >= work,
            "the sidecar ended {sidecar:?}, the work {work:?}"
        );
        Ok(())
    })
    .await
}
