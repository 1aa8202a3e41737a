//! The control plane, or the way to it, is gone for a while: cars work on, nothing runs twice, and all catch up.

use super::*;

use kerbside_core::names::condition;
use kerbside_testbed::wait;
use kube::ResourceExt;
use serde_json::json;

const API_SERVER: &str = "kube-apiserver";
const ETCD: &str = "etcd";

/// Kills a part of the control plane when a third of the indexes is complete, starts it again, and checks the end.
async fn control_plane_killed_mid_job(world: &mut World, name: &str) -> Result<()> {
    let (cars, seen) = third_of_a_job(world).await?;
    world.bed.crash(name).await?;
    process::restart(&world.bed.layout, name)?;
    wait::until_ok("the API server to answer again", world::DEADLINE, async || {
        Ok(world.client().apiserver_version().await?)
    })
    .await?;
    check_end(world, &seen).await?;
    let status = world.job("digits", "the job's status", |_, s| Some(s.clone())).await?;
    ensure!(
        status.disruptions.is_empty(),
        "cars do not need the control plane: {:?}",
        status.disruptions
    );
    ensure!(cars.len() == 2, "both cars are there");
    Ok(())
}

#[tokio::test]
async fn api_server_killed_mid_job_loses_no_index_and_repeats_none() -> Result<()> {
    world::run("killapi", async |world| {
        control_plane_killed_mid_job(world, API_SERVER).await
    })
    .await
}

#[tokio::test]
async fn etcd_killed_mid_job_loses_no_index_and_repeats_none() -> Result<()> {
    world::run("killetcd", async |world| {
        control_plane_killed_mid_job(world, ETCD).await
    })
    .await
}

/// A FleetJob of one attempt that runs until it is stopped.
pub(crate) fn endless(world: &World) -> Result<serde_json::Value> {
    let mut job = world.example("hello/fleetjob.yaml")?;
    let ticker = world.example("deployment/deployment.yaml")?["spec"]["template"]["spec"].take();
    job["spec"]["completions"] = json!(1);
    job["spec"]["parallelism"] = json!(1);
    job["spec"]
        .as_object_mut()
        .context("a job has a spec")?
        .remove("output");
    job["spec"]["template"]["spec"]["containers"] = ticker["containers"].clone();
    Ok(job)
}

/// No adapter for longer than kube-controller-manager waits for a Node: it marks the Node, taints it and says that its Pods are not ready.
/// Attempts on hold stay where they are, and all that was said is taken back.
#[tokio::test]
async fn adapter_away_for_longer_than_a_node_may_be_silent_ends_no_attempt() -> Result<()> {
    world::run("kcm", async |world| {
        let car = world.cars(1).await?.remove(0);
        let seen = world.record();
        world.apply(&endless(world)?).await?;
        let pod = world.running_on(&car).await?;
        world.bed.crash(ADAPTER).await?;
        let marked = world
            .node(&car, "the Node to be given up by kube-controller-manager", |n| {
                let node = n?;
                let conditions = node.status.as_ref()?.conditions.as_deref()?;
                let unknown = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "Unknown");
                // Every Node of the cluster is unknown now, so none is tainted for eviction: the controller suspects itself.
                (unknown && world::tainted(node, "node.kubernetes.io/unreachable")).then_some(())
            })
            .await;
        let unready = match marked {
            Ok(()) => {
                world
                    .wait_pods("the attempt to be marked as not ready", |pods| {
                        let pod = pods.iter().find(|p| p.uid() == pod.uid())?;
                        let unready = world::condition(pod, "Ready").is_some_and(|c| c.0 != "True");
                        unready.then_some(pod.metadata.deletion_timestamp.is_none())
                    })
                    .await
            }
            Err(error) => Err(error),
        };
        // Whatever came of it: the other tests need an adapter.
        world.bed.restart(ADAPTER).await?;
        ensure!(unready?, "an attempt on hold is evicted by nobody");
        ensure!(support::at_work(&car).await? == 1, "the car worked on");
        world
            .wait_pods("the attempt to be ready again", |pods| {
                let pod = pods.iter().find(|p| p.uid() == pod.uid())?;
                (world::condition(pod, "Ready").is_some_and(|c| c.0 == "True")).then_some(())
            })
            .await?;
        world
            .node(&car, "the Node to be free of what was said meanwhile", |n| {
                let taints = n?.spec.as_ref()?.taints.as_deref().unwrap_or_default();
                let marks = taints.iter().any(|t| t.key.starts_with("node.kubernetes.io/"));
                (!marks).then_some(())
            })
            .await?;
        let attempts = seen.attempts();
        ensure!(attempts.len() == 1, "no replacement: {attempts:?}");
        let same = attempts.first().context("the attempt is on record")?;
        let target = world::condition(same, condition::DISRUPTION_TARGET);
        ensure!(
            same.uid() == pod.uid() && phase(same) == "Running" && target.is_none(),
            "the attempt went on: {same:?}"
        );
        let restarts = same.status.as_ref().and_then(|s| s.container_statuses.as_deref());
        ensure!(
            restarts.is_some_and(|all| all.iter().all(|c| c.restart_count == 0)),
            "nothing was started again: {same:?}"
        );
        Ok(())
    })
    .await
}
