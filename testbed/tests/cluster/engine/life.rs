//! The life of a Pod in a car as under a kubelet: order, restarts, probes, hooks, graces, deadlines.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kerbside_testbed::engine::Kind;
use kerbside_testbed::world::{self, World, condition, phase};
use serde_json::json;

use super::{container, end, kind, log, played, pod, restarts, run, run_on, running, status, until};

/// An emptyDir that all its containers see at /work.
pub(crate) fn shared(world: &World, name: &str, containers: &[(&str, &str)]) -> serde_json::Value {
    let mut pod = pod(world, name, "say nothing");
    let containers = containers.iter().map(|(name, acts)| {
        let mut container = container(world, name, acts);
        container["volumeMounts"] = json!([{"name": "work", "mountPath": "/work"}]);
        container
    });
    pod["spec"]["containers"] = containers.collect();
    pod["spec"]["volumes"] = json!([{"name": "work", "emptyDir": {}}]);
    pod
}

#[tokio::test]
async fn init_container_ends_before_a_sidecar_starts_and_that_before_the_work() -> Result<()> {
    run("engine-order", async |world, _| {
        let mut pod = shared(world, "order", &[("main", "append /work/story main ; cat /work/story")]);
        let stages = shared(
            world,
            "stages",
            &[
                (
                    "first",
                    "append /work/story first ; sleep 1s ; append /work/story first-ends",
                ),
                (
                    "beside",
                    "append /work/story beside ; wait ; append /work/story beside-ends ; cat /work/story",
                ),
            ],
        );
        let mut inits = stages["spec"]["containers"].clone();
        inits[1]["restartPolicy"] = "Always".into();
        // The work comes after it has said that it is there.
        inits[1]["startupProbe"] = json!({"exec": {"command": ["/actor", "cat", "/work/story"]}, "periodSeconds": 1});
        pod["spec"]["initContainers"] = inits;
        let ended = played(world, &pod).await?;
        ensure!(phase(&ended) == "Succeeded", "{:?}", ended.status);
        let story = log(world, "order", "main").await?;
        ensure!(story == "first\nfirst-ends\nbeside\nmain\n", "{story}");
        let last = log(world, "order", "beside").await?;
        ensure!(
            last.ends_with("got terminated\nfirst\nfirst-ends\nbeside\nmain\nbeside-ends\n"),
            "{last}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn container_that_fails_is_started_again_after_a_back_off() -> Result<()> {
    run("engine-again", async |world, _| {
        let mut pod = pod(world, "again", "say run ; exit 3");
        pod["spec"]["restartPolicy"] = "Always".into();
        world.apply(&pod).await?;
        // The first time at once, as under a kubelet, the second time after 10 s.
        until(world, "again", "its back-off", |pod| {
            let waiting = status(pod, "main")?.state.as_ref()?.waiting.as_ref()?;
            (waiting.reason.as_deref() == Some("CrashLoopBackOff") && restarts(pod, "main") == 1).then_some(())
        })
        .await?;
        let since = tokio::time::Instant::now();
        let last = until(world, "again", "its third run", |pod| {
            let last = status(pod, "main")?.last_state.as_ref()?.terminated.clone()?;
            (restarts(pod, "main") == 2).then_some(last)
        })
        .await?;
        ensure!(since.elapsed() >= Duration::from_secs(8), "the back-off is 10 s");
        ensure!(
            (last.exit_code, last.reason.as_deref()) == (3, Some("Error")),
            "{last:?}"
        );
        let before = world
            .kubectl()
            .run(&["logs", "-n", &world.name, "-p", "again"], "")
            .await?;
        ensure!(before == "run\n", "{before}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn container_that_fails_its_liveness_probe_is_ended_and_started_again() -> Result<()> {
    run("engine-liveness", async |world, _| {
        let mut pod = shared(world, "alive", &[("main", "append /work/runs x ; serve 8080")]);
        pod["spec"]["restartPolicy"] = "OnFailure".into();
        pod["spec"]["terminationGracePeriodSeconds"] = 1.into();
        let container = &mut pod["spec"]["containers"][0];
        // It redirects within the server, to what says 500.
        container["livenessProbe"] =
            json!({"httpGet": {"port": 8080, "path": "/away"}, "periodSeconds": 1, "failureThreshold": 2});
        world.apply(&pod).await?;
        // Before the program listens the probe fails in other words.
        let words = "Liveness probe failed: HTTP probe failed with statuscode: 500: broken on purpose";
        world.event("alive", "Unhealthy", words).await?;
        // Asked to end it ends well; a program that was ended for a probe is started again all the same.
        until(world, "alive", "its second run", |pod| {
            (restarts(pod, "main") >= 1).then_some(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn probes_of_each_kind_ask_the_program_in_its_own_network() -> Result<()> {
    probes(kind()?).await
}

pub(super) async fn probes(kind: Kind) -> Result<()> {
    run_on(kind, "engine-probes", async |world, _| {
        let mut pod = shared(
            world,
            "probes",
            &[("web", "serve 8080"), ("secure", "tls 8443"), ("quiet", "wait")],
        );
        let web = &mut pod["spec"]["containers"][0];
        web["ports"] = json!([{"name": "web", "containerPort": 8080}]);
        web["startupProbe"] = json!({"tcpSocket": {"port": "web"}, "periodSeconds": 1});
        web["readinessProbe"] = json!({
            "httpGet": {"port": "web", "path": "/file/work/ready", "httpHeaders": [{"name": "X-Test", "value": "yes"}]}, "periodSeconds": 1,
        });
        pod["spec"]["containers"][1]["readinessProbe"] =
            json!({"httpGet": {"port": 8443, "scheme": "HTTPS"}, "periodSeconds": 1});
        // Nobody speaks gRPC there.
        pod["spec"]["containers"][2]["readinessProbe"] = json!({"grpc": {"port": 8080}, "periodSeconds": 1});
        world.apply(&pod).await?;
        let ready = |pod: &Pod, container: &str| status(pod, container).is_some_and(|status| status.ready);
        until(world, "probes", "the server with TLS to be ready", |pod| ready(pod, "secure").then_some(())).await?;
        world.event("probes", "Unhealthy", "Readiness probe failed").await?;
        let seen = until(world, "probes", "to run", |pod| (phase(pod) == "Running").then(|| pod.clone())).await?;
        ensure!(!ready(&seen, "web") && !ready(&seen, "quiet"), "{:?}", seen.status);
        ensure!(condition(&seen, "Ready").is_some_and(|(status, _)| status == "False"), "{:?}", seen.status);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn hooks_run_in_the_container_and_the_last_one_before_the_signal() -> Result<()> {
    hooks(kind()?).await
}

pub(super) async fn hooks(kind: Kind) -> Result<()> {
    run_on(kind, "engine-hooks", async |world, car| {
        let mut pod = shared(
            world,
            "hooks",
            &[("main", "wait ; append /work/story asked ; cat /work/story")],
        );
        pod["spec"]["containers"][0]["lifecycle"] = json!({
            "postStart": {"exec": {"command": ["/actor", "append", "/work/story", "begun"]}},
            "preStop": {"exec": {"command": ["/actor", "append", "/work/story", "ending", ";", "sleep", "1s"]}},
        });
        pod["spec"]["terminationGracePeriodSeconds"] = 20.into();
        world.apply(&pod).await?;
        running(world, "hooks").await?;
        let follow = world.kubectl().stream(&["logs", "-n", &world.name, "-f", "hooks"])?;
        world
            .kubectl()
            .run(&["delete", "pod", "-n", &world.name, "hooks", "--wait=true"], "")
            .await?;
        let said = follow.wait_with_output().await.context("kubectl ends with the log")?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        ensure!(said == "got terminated\nbegun\nending\nasked\n", "{said}");
        crate::support::idle(car).await
    })
    .await
}

#[tokio::test]
async fn program_that_does_not_end_is_killed_after_its_grace() -> Result<()> {
    run("engine-grace", async |world, car| {
        let mut pod = pod(world, "stays", "stay");
        pod["spec"]["terminationGracePeriodSeconds"] = 3.into();
        world.apply(&pod).await?;
        running(world, "stays").await?;
        let began = tokio::time::Instant::now();
        world
            .kubectl()
            .run(&["delete", "pod", "-n", &world.name, "stays", "--wait=true"], "")
            .await?;
        let took = began.elapsed();
        ensure!(
            took >= Duration::from_secs(3) && took < Duration::from_secs(15),
            "it took {took:?}"
        );
        crate::support::idle(car).await
    })
    .await
}

#[tokio::test]
async fn deadline_of_the_pod_ends_it() -> Result<()> {
    run("engine-deadline", async |world, _| {
        let mut pod = pod(world, "late", "sleep 1h");
        pod["spec"]["activeDeadlineSeconds"] = 2.into();
        pod["spec"]["terminationGracePeriodSeconds"] = 0.into();
        let ended = played(world, &pod).await?;
        let reason = ended.status.as_ref().and_then(|status| status.reason.clone());
        ensure!(
            phase(&ended) == "Failed" && reason.as_deref() == Some("DeadlineExceeded"),
            "{:?}",
            ended.status
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn program_that_takes_more_memory_than_its_limit_is_oom_killed_and_more_disk_evicted() -> Result<()> {
    limits(kind()?).await
}

pub(super) async fn limits(kind: Kind) -> Result<()> {
    run_on(kind, "engine-limits", async |world, _| {
        let hungry = pod(world, "hungry", "hog 200000000 ; say never");
        let ended = played(world, &hungry).await?;
        let how = end(&ended, "main").context("it has ended")?;
        ensure!(
            (how.exit_code, how.reason.as_deref()) == (137, Some("OOMKilled")),
            "{how:?}"
        );
        let mut full = shared(world, "full", &[("main", "fill /work/big 30000000 ; sleep 1h")]);
        full["spec"]["volumes"][0]["emptyDir"]["sizeLimit"] = "10M".into();
        let ended = played(world, &full).await?;
        let status = ended.status.as_ref().context("it has a status")?;
        ensure!(status.reason.as_deref() == Some("Evicted"), "{status:?}");
        let slow = pod(world, "slow", "spin 2s");
        let ended = played(world, &slow).await?;
        ensure!(phase(&ended) == "Succeeded", "{:?}", ended.status);
        // No more than half a processor. How much of it a program gets is a matter of what else the machine does.
        let said = log(world, "slow", "main").await?;
        let used: u64 = said
            .split_whitespace()
            .nth(1)
            .and_then(|word| word.parse().ok())
            .with_context(|| format!("it says what it used: {said}"))?;
        ensure!(
            (1..1500).contains(&used),
            "of 2,000 ms a limit of 500m gives at most about 1,000: {said}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn driver_who_opens_the_door_freezes_a_container_and_its_program_goes_on_after() -> Result<()> {
    run("engine-freeze", async |world, car| {
        let pod = shared(world, "counts", &[("main", "count /work/n")]);
        world.apply(&pod).await?;
        let uid = running(world, "counts")
            .await?
            .metadata
            .uid
            .context("a Pod has a UID")?;
        let file = car.dir().join("attempts").join(&uid).join("volumes/work/n");
        let read = || {
            std::fs::read_to_string(&file)
                .ok()
                .and_then(|text| text.parse::<u64>().ok())
                .unwrap_or(0)
        };
        kerbside_testbed::wait::until("it to count", world::DEADLINE, async || Ok((read() > 5).then_some(()))).await?;
        car.owner("pause").await?;
        world
            .wait_pods("the Pod to be paused", |pods| {
                let pod = pods.first()?;
                (condition(pod, "Ready")?.0 == "False").then_some(())
            })
            .await?;
        let stands = read();
        crate::support::for_as_long_as(world, Duration::from_secs(2), "it to stand still").await?;
        ensure!(read() == stands, "it counted from {stands} to {}", read());
        car.owner("resume").await?;
        kerbside_testbed::wait::until("it to go on", world::DEADLINE, async || {
            Ok((read() > stands).then_some(()))
        })
        .await?;
        let pod = until(world, "counts", "to be ready again", |pod| {
            status(pod, "main")?.ready.then(|| pod.clone())
        })
        .await?;
        ensure!(restarts(&pod, "main") == 0, "it was not started anew");
        Ok(())
    })
    .await
}
