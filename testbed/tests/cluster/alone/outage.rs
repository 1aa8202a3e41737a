//! The control plane, or the way to it, is gone for a while: cars work on, nothing runs twice, and all catch up.

use super::*;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use kerbside_core::names::{condition, taint};
use kerbside_testbed::wait;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::replicas::{ADAPTER_2, untouched, with_two};
use crate::others::film::Film;

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

/// Whether kube-controller-manager has given the Node up for its silence. When every Node of the cluster is silent, none is tainted for
/// eviction, for the controller suspects itself: `eviction` has the other case.
fn given_up(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref());
    let unknown = |c: &NodeCondition| c.type_ == "Ready" && c.status == "Unknown";
    conditions.is_some_and(|all| all.iter().any(unknown)) && world::tainted(node, "node.kubernetes.io/unreachable")
}

/// Whether Kerbside says that the car is not heard.
fn unheard(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref());
    let says = |c: &NodeCondition| c.type_ == condition::HEARD && c.status == "False";
    conditions.is_some_and(|all| all.iter().any(says))
}

/// Whether anybody but Kerbside says anything against the Node, or Kerbside that it is suspect.
fn spoken_against(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref());
    let against = |t: &Taint| t.key.starts_with("node.kubernetes.io/") || t.key == taint::SUSPECT;
    taints.unwrap_or_default().iter().any(against)
}

/// An attempt for each of three cars: two of them fill one.
fn one_each(world: &World) -> Result<Value> {
    let mut job = support::endless(world)?;
    job["spec"]["completions"] = 3.into();
    job["spec"]["parallelism"] = 3.into();
    let amount = json!({"cpu": "600m", "memory": "32Mi"});
    job["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": amount, "limits": amount});
    Ok(job)
}

async fn all_run(world: &World) -> Result<BTreeSet<String>> {
    world
        .wait_pods("three attempts to run undisturbed", |pods| {
            let all = pods.iter().all(untouched) && pods.len() == 3;
            all.then(|| pods.iter().filter_map(ResourceExt::uid).collect())
        })
        .await
}

/// Both adapters are away at least so long, and for longer than kube-controller-manager waits for a Node: it marks the Nodes, taints them
/// and says that their Pods are not ready. Under the terms that a pool and a job have by default attempts stay where they are, every car
/// is adopted with them, and all that was said is taken back.
pub(super) async fn all_adapters_away(name: &str, at_least: Duration) -> Result<()> {
    with_two(name, async |world, way, second| {
        // Three cars at work and one that waits; half of them with each adapter.
        let mut cars = world.cars(2).await?;
        way.leads_to(second);
        cars.extend([way.car(world).await?, way.car(world).await?]);
        let seen = world.record();
        world.apply(&one_each(world)?).await?;
        let attempts = all_run(world).await?;
        let nodes: Vec<_> = cars.iter().map(|car| Film::of_node(world, car)).collect();
        world.bed.crash(ADAPTER).await?;
        world.bed.crash(ADAPTER_2).await?;
        let away = away(world, &cars, at_least).await;
        // Whatever came of it: the other tests need an adapter.
        world.bed.restart(ADAPTER).await?;
        away?;
        at_work(&process::restart(&world.bed.layout, ADAPTER_2)?).await?;
        let after = all_run(world).await?;
        ensure!(after == attempts, "the same attempts: {attempts:?}, then {after:?}");
        for car in &cars {
            wait::until_ok("a car to be connected", world::DEADLINE, async || {
                let status = car.owner("status").await?.stdout;
                ensure!(!status.contains("not connected"), "{status}");
                Ok(())
            })
            .await?;
            let well = |n: Option<&Node>| (!spoken_against(n?)).then_some(());
            world
                .node(car, "the Node to be free of what was said meanwhile", well)
                .await?;
        }
        for film in &nodes {
            let frames = film.frames();
            let uids: BTreeSet<_> = frames.iter().map(|f| f.object.uid()).collect();
            ensure!(uids.len() == 1, "a Node was made again: {uids:?}");
            // The taint alone only keeps new work away from a car that has just come back.
            let suspect = frames.iter().any(|f| unheard(&f.object));
            ensure!(!suspect, "a car was suspected for our own silence");
        }
        let made = seen.attempts();
        ensure!(made.len() == 3, "no replacement: {made:?}");
        let mut at_work = 0;
        for car in &cars {
            at_work += support::at_work(car).await?;
        }
        ensure!(at_work == 3, "{at_work} programs run");
        Ok(())
    })
    .await
}

/// What kube-controller-manager does meanwhile.
async fn away(world: &World, cars: &[Car], at_least: Duration) -> Result<()> {
    let lasted = support::for_as_long_as(world, at_least, "the outage to have lasted");
    let given_up = nodes_given_up(world, cars);
    let (lasted, given_up) = futures::join!(lasted, given_up);
    lasted.and(given_up)?;
    world
        .wait_pods("the attempts to be evicted by nobody", |pods| {
            (pods.len() == 3 && !pods.iter().any(world::ending)).then_some(())
        })
        .await
}

async fn nodes_given_up(world: &World, cars: &[Car]) -> Result<()> {
    for car in cars {
        let marked = |n: Option<&Node>| given_up(n?).then_some(());
        world
            .node(car, "the Node to be given up by kube-controller-manager", marked)
            .await?;
    }
    let unready = |pod: &Pod| world::condition(pod, "Ready").is_some_and(|c| c.0 != "True");
    world
        .wait_pods("the attempts to be marked as not ready", |pods| {
            pods.iter().all(unready).then_some(())
        })
        .await
}

#[tokio::test]
async fn adapters_away_for_longer_than_a_node_may_be_silent_end_no_attempt_and_adopt_every_car() -> Result<()> {
    all_adapters_away("kcm", Duration::ZERO).await
}
