//! What a program is asked by the network: gRPC probes, hooks by HTTP; and the hook that only waits.

use std::time::Duration;

use anyhow::{Result, ensure};
use kerbside_testbed::world::phase;
use serde_json::json;
use tokio::time::Instant;

use super::life::shared;
use super::{container, log, pod, run, running, status, until};

#[tokio::test]
async fn program_is_asked_by_grpc_for_the_service_that_its_probe_names() -> Result<()> {
    run("engine-grpc", async |world, _| {
        let mut pod = shared(world, "grpc", &[("well", "grpc 9000"), ("ill", "grpc 9001")]);
        for (container, port, service) in [(0, 9000, "work"), (1, 9001, "broken")] {
            pod["spec"]["containers"][container]["readinessProbe"] =
                json!({"grpc": {"port": port, "service": service}, "periodSeconds": 1});
        }
        world.apply(&pod).await?;
        let well = |pod: &_| status(pod, "well").is_some_and(|status| status.ready).then_some(());
        until(world, "grpc", "the one that is well to be ready", well).await?;
        let words = "Readiness probe failed: the service says NOT_SERVING";
        world.event("grpc", "Unhealthy", words).await?;
        let seen = until(world, "grpc", "to run", |pod| {
            (phase(pod) == "Running").then(|| pod.clone())
        })
        .await?;
        ensure!(
            status(&seen, "ill").is_some_and(|status| !status.ready),
            "{:?}",
            seen.status
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn hooks_ask_by_http_and_wait() -> Result<()> {
    run("engine-asked", async |world, car| {
        let mut pod = pod(world, "asked", "wait");
        // Who answers is there before: a hook is asked once, at the start, when the program itself may not listen yet.
        let mut beside = container(world, "beside", "serve 8080");
        beside["restartPolicy"] = "Always".into();
        beside["startupProbe"] = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
        pod["spec"]["initContainers"] = json!([beside]);
        pod["spec"]["containers"][0]["lifecycle"] = json!({
            "postStart": {"httpGet": {"port": 8080, "path": "/begun"}},
            "preStop": {"sleep": {"seconds": 3}},
        });
        pod["spec"]["terminationGracePeriodSeconds"] = 30.into();
        world.apply(&pod).await?;
        running(world, "asked").await?;
        let said = log(world, "asked", "beside").await?;
        ensure!(
            said.contains("asked /begun by kube-lifecycle") || said.contains("asked /begun by kube-probe"),
            "{said}"
        );
        let begin = Instant::now();
        let delete = ["delete", "pod", "-n", &world.name, "asked", "--wait=true"];
        world.kubectl().run(&delete, "").await?;
        let took = begin.elapsed();
        ensure!(
            took >= Duration::from_secs(3) && took < Duration::from_secs(25),
            "{took:?}"
        );
        crate::support::idle(car).await
    })
    .await
}
