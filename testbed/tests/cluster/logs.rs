//! Logs: from the car through the kubelet port while an attempt is there, from the store when it has ended.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kerbside_testbed::control_plane::kubeconfig;
use kerbside_testbed::world::{self, World, phase};
use kube::ResourceExt;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use crate::support;

/// A Pod that prints a line each second, on a car.
async fn ticker(world: &mut World) -> Result<Pod> {
    world.cars(1).await?;
    let mut deployment = world.example("deployment/deployment.yaml")?;
    deployment["spec"]["replicas"] = 1.into();
    world.apply(&deployment).await?;
    world
        .wait_pods("the ticker to run", |p| {
            p.iter().find(|p| phase(p) == "Running").cloned()
        })
        .await
}

#[tokio::test]
async fn kubectl_logs_of_a_running_pod_takes_tail_since_timestamps_and_container() -> Result<()> {
    world::run("logs", async |world| {
        let pod = ticker(world).await?.name_any();
        let logs = async |more: &[&str]| {
            let args = [&["logs", "-n", world.name.as_str(), pod.as_str()], more].concat();
            world.kubectl().run(&args, "").await
        };
        let three = kerbside_testbed::wait::until("three lines of log", world::DEADLINE, async || {
            let text = logs(&[]).await?;
            Ok((text.lines().count() >= 3).then_some(text))
        })
        .await?;
        ensure!(
            logs(&["--tail=2"]).await?.lines().count() == 2,
            "--tail=2 gives two lines"
        );
        let stamped = logs(&["--timestamps", "--tail=1"]).await?;
        let (stamp, line) = stamped.trim().split_once(' ').context("a timestamp and a line")?;
        stamp
            .parse::<jiff::Timestamp>()
            .with_context(|| format!("'{stamp}' is not a timestamp"))?;
        ensure!(!line.is_empty(), "the line follows its timestamp: {stamped}");
        ensure!(
            logs(&["-c", "ticker", "--tail=1"]).await?.lines().count() == 1,
            "-c names the container"
        );
        ensure!(
            logs(&["--since=1h"]).await?.lines().count() >= three.lines().count(),
            "--since=1h gives all"
        );
        ensure!(
            logs(&["--since=1s"]).await?.lines().count() < three.lines().count(),
            "--since=1s gives the last second only"
        );
        let wrong = logs(&["-c", "nothing"])
            .await
            .err()
            .context("there is no such container")?;
        ensure!(wrong.to_string().contains("nothing"), "{wrong}");
        let before = logs(&["-p"]).await.err().context("it never ran before")?;
        ensure!(before.to_string().contains("previous"), "{before}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn kubectl_logs_previous_of_a_restarted_container_is_what_it_said_before() -> Result<()> {
    world::run("previous", async |world| {
        world.cars(1).await?;
        // Outside of an Indexed Job the program does not know its index, says so, and fails.
        let mut pod = support::plain_pod(world, "batch-job/job.yaml", "again")?;
        pod["spec"]["restartPolicy"] = "OnFailure".into();
        world.apply(&pod).await?;
        world
            .wait_pods("the container to be started again", |pods| {
                let status = pods.first()?.status.as_ref()?.container_statuses.as_ref()?.first()?;
                (status.restart_count > 0).then_some(())
            })
            .await?;
        let text = kerbside_testbed::wait::until_ok("the log of the run before", world::DEADLINE, async || {
            let args = ["logs", "-n", world.name.as_str(), "-p", "again"];
            let text = world.kubectl().run(&args, "").await?;
            ensure!(!text.is_empty(), "the log is empty");
            Ok(text)
        })
        .await?;
        ensure!(text.contains("JOB_COMPLETION_INDEX is not set"), "{text}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn kubectl_logs_follow_streams_lines_as_they_come() -> Result<()> {
    world::run("follow", async |world| {
        let pod = ticker(world).await?.name_any();
        let args = ["logs", "-n", world.name.as_str(), "-f", "--tail=0", pod.as_str()];
        let mut child = world.kubectl().stream(&args)?;
        let mut lines = BufReader::new(child.stdout.take().context("its output is a pipe")?).lines();
        for _ in 0..3 {
            let line = timeout(Duration::from_secs(30), lines.next_line())
                .await
                .context("no line within 30 s")??;
            ensure!(line.is_some(), "the stream ended while the program runs");
        }
        child.kill().await.context("failed to end kubectl")
    })
    .await
}

#[tokio::test]
async fn logs_of_an_index_that_has_ended_come_from_the_store() -> Result<()> {
    world::run("oldlogs", async |world| {
        world.cars(1).await?;
        world.apply(&world.example("hello/fleetjob.yaml")?).await?;
        world.complete("hello", world::DEADLINE).await?;
        let args = [
            "logs",
            "-n",
            &world.name,
            "hello",
            "--index",
            "1",
            "--operator",
            &world.bed.endpoints.operator,
        ];
        let text = world.bed.plugin.run(&args, "").await?;
        ensure!(text.contains("hello from index 1"), "{text}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn kubelet_port_wants_to_know_who_asks_and_whether_they_may() -> Result<()> {
    world::run("kubeletport", async |world| {
        let pod = ticker(world).await?;
        let node = pod
            .spec
            .as_ref()
            .and_then(|s| s.node_name.clone())
            .context("a Pod that runs is bound")?;
        let port = kubelet_port(world, &node).await?;
        let path = format!("/containerLogs/{}/{}/ticker", world.name, pod.name_any());
        let server = format!("https://127.0.0.1:{port}");
        let stranger = ask(world, &server, None, &path)
            .await
            .err()
            .context("a stranger got logs")?;
        ensure!(format!("{stranger:#}").contains("401"), "{stranger:#}");
        // Somebody whom the cluster knows, without a right to it.
        let token = world
            .kubectl()
            .run(&["create", "token", "-n", &world.name, "default"], "")
            .await?;
        let nobody = ask(world, &server, Some(token.trim()), &path)
            .await
            .err()
            .context("everybody got logs")?;
        ensure!(format!("{nobody:#}").contains("403"), "{nobody:#}");
        Ok(())
    })
    .await
}

async fn kubelet_port(world: &World, node: &str) -> Result<i32> {
    let node = kube::Api::<Node>::all(world.client())
        .get(node)
        .await
        .context("failed to read the Node")?;
    let endpoint = node
        .status
        .and_then(|s| s.daemon_endpoints)
        .and_then(|d| d.kubelet_endpoint);
    endpoint.map(|e| e.port).context("the Node names no kubelet port")
}

async fn ask(world: &World, server: &str, token: Option<&str>, path: &str) -> Result<String> {
    let user = token.map_or_else(|| json!({}), |t| json!({ "token": t }));
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
        "users": [{"name": "c", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    let file = world
        .bed
        .layout
        .dir("kubeconfigs")?
        .join(format!("{}.json", world.name));
    kerbside_testbed::layout::write_json(&file, &config)?;
    let client = kubeconfig::client(&file).await?;
    let request = http::Request::get(path)
        .body(Vec::new())
        .context("failed to build a request")?;
    client.request_text(request).await.map_err(|e| match e {
        kube::Error::Api(status) => anyhow::anyhow!("{} {}", status.code, status.message),
        other => other.into(),
    })
}
