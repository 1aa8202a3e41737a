//! A replica and half of its cars die together, under a kube-controller-manager that loses patience before anybody can adopt them and while
//! other Nodes are well: it gives the Node up and evicts what it may. What is on hold stays until its adapter's successor says so.

use super::*;

use k8s_openapi::api::core::v1::{Node, Pod};
use kerbside_core::names::{condition, reason};
use kerbside_testbed::process::Program;
use kerbside_testbed::{http, wait};
use kube::ResourceExt;
use serde_json::json;

use super::replicas::{ADAPTER_2, FIRST, SECOND, check_writers, owned_by, untouched, with_two};
use crate::others::film::{Film, Frame, Step, story};
use crate::others::way::Way;

const CONTROLLER: &str = "kube-controller-manager";
/// Its timers, shortened.
const IMPATIENT: [&str; 4] = [
    "--node-monitor-period=1s",
    // More than an adapter lets pass between two renewals of a Node's Lease; see [`OLD`].
    "--node-monitor-grace-period=25s",
    "--node-eviction-rate=10",
    // PodGC takes what has ended as soon as it looks.
    "--terminated-pod-gc-threshold=1",
];
/// So old is the Lease of a Node, in seconds, whose adapter dies here: the Node is given up before another adapter can adopt its vehicle.
const OLD: std::ops::RangeInclusive<i64> = 12..=17;
/// Work that may run once only, and work that may run twice.
const ONCE: &str = "once";
const TWICE: &str = "twice";
/// Work of the car that survives.
const GOES_ON: &str = "goes-on";
/// What may be evicted.
const BYSTANDER: &str = "bystander";

/// Ends kube-controller-manager and starts `program` as it.
async fn controller(world: &World, program: &Program) -> Result<()> {
    let layout = &world.bed.layout;
    let old = process::find(layout, CONTROLLER);
    process::end(layout, old.as_slice(), Duration::from_secs(10)).await?;
    let record = process::start(layout, program)?;
    let port = program.args.iter().find_map(|a| a.strip_prefix("--secure-port="));
    let base = format!("https://127.0.0.1:{}", port.context("it is told its port")?);
    process::ready(&record, Duration::from_secs(60), || async {
        http::get(&base, "/healthz").await.map(drop)
    })
    .await
}

/// The attempts of a job, which are named after it.
fn of<'a>(frames: &'a [Frame<Pod>], job: &str) -> Vec<&'a Frame<Pod>> {
    let prefix = format!("{job}-");
    let named = |f: &&Frame<Pod>| f.object.name_any().starts_with(&prefix);
    frames.iter().filter(named).collect()
}

fn uids(frames: &[&Frame<Pod>]) -> Vec<String> {
    let mut uids = Vec::new();
    for uid in frames.iter().filter_map(|f| f.object.uid()) {
        if !uids.contains(&uid) {
            uids.push(uid);
        }
    }
    uids
}

/// A plain Pod that waits for a second on a Node that is given up.
fn bystander(world: &World) -> Result<serde_json::Value> {
    let mut pod = support::plain_pod(world, "deployment/deployment.yaml", BYSTANDER)?;
    let tolerations = pod["spec"]["tolerations"].as_array_mut();
    tolerations.context("the example tolerates something")?.push(json!({
        "key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1,
    }));
    Ok(pod)
}

/// Waits until the Lease of the car's Node is [`OLD`], by the operator's own, which is renewed every two seconds.
async fn lease_is_old(world: &World, car: &Car) -> Result<()> {
    let age = async || {
        let renewed = async |namespace: &str, name: &str| {
            let api: Api<Lease> = Api::namespaced(world.client(), namespace);
            let lease = api.get(name).await.context("failed to read a Lease")?;
            let at = lease.spec.and_then(|s| s.renew_time);
            Ok::<_, anyhow::Error>(at.context("a Lease says when it was renewed")?.0)
        };
        let own = renewed("kube-node-lease", car.id.as_str()).await?;
        let now = renewed(SYSTEM_NAMESPACE, "kerbside-operator").await?;
        Ok(OLD.contains(&now.duration_since(own).as_secs()).then_some(()))
    };
    wait::until("the Lease of a Node to grow old", world::DEADLINE, age).await
}

async fn all_run(world: &World, count: usize) -> Result<()> {
    world
        .wait_pods(&format!("{count} Pods to run"), |pods| {
            (pods.len() == count && pods.iter().all(untouched)).then_some(())
        })
        .await
}

/// Tainted for eviction: its Pods may stay for as long as they tolerate it.
fn evicts(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref());
    let mut taints = taints.unwrap_or_default().iter();
    taints.any(|t| t.key == "node.kubernetes.io/unreachable" && t.effect == "NoExecute")
}

/// Waits until kube-controller-manager has given the Node up and has evicted what it may.
async fn evicted(nodes: &Film<Node>, pods: &Film<Pod>) -> Result<()> {
    let marked = |frames: &[Frame<Node>]| frames.iter().any(|f| evicts(&f.object)).then_some(());
    nodes.until("the Node to be tainted for eviction", marked).await?;
    let evicted = |f: &Frame<Pod>| {
        let target = world::condition(&f.object, condition::DISRUPTION_TARGET);
        f.object.name_any() == BYSTANDER && target == Some(("True", "DeletionByTaintManager"))
    };
    let seen = |frames: &[Frame<Pod>]| frames.iter().any(evicted).then_some(());
    pods.until("what does not tolerate it to be evicted", seen).await
}

/// The first attempt of the job was ended by its vehicle's adapter and by nobody else, and has one successor.
fn check_lost(frames: &[Frame<Pod>], job: &str) -> Result<()> {
    let own = of(frames, job);
    let all = uids(&own);
    ensure!(all.len() == 2, "one replacement in {job}:\n{}", story(frames));
    for frame in own.iter().filter(|f| f.is(&all[0])) {
        let target = world::condition(&frame.object, condition::DISRUPTION_TARGET);
        let by_us = target.is_none_or(|t| t == ("True", reason::VEHICLE_LOST));
        // Not only deleted: also said to have stopped.
        ensure!(
            by_us && frame.step() != Step::Deleted,
            "{job} was ended by somebody else:\n{}",
            story(frames)
        );
    }
    let fenced = |f: &&&Frame<Pod>| world::condition(&f.object, condition::STOPPED) == Some(("True", reason::FENCED));
    let fenced = own.iter().find(fenced);
    let fenced = fenced.with_context(|| format!("nobody gave {job} up:\n{}", story(frames)))?;
    let second = own.iter().find(|f| f.is(&all[1])).context("there are two")?;
    ensure!(
        job != ONCE || fenced.revision()? < second.revision()?,
        "alone until fenced:\n{}",
        story(frames)
    );
    Ok(())
}

/// By the job's own account.
async fn check_counted(world: &World, job: &str, lost: bool) -> Result<()> {
    let status = world.job(job, "the job's status", |_, s| Some(s.clone())).await?;
    let counted = status.disruptions.get(reason::VEHICLE_LOST).copied();
    ensure!(
        counted == lost.then_some(1) && status.failed == 0 && status.disruptions.len() <= 1,
        "{job}: {status:?}"
    );
    Ok(())
}

async fn half_of_the_cars(world: &mut World, way: &Way, second: &str) -> Result<()> {
    world
        .pool(|pool| {
            loss::impatient(pool);
            pool["spec"]["loss"]["keepNodeFor"] = "10s".into();
        })
        .await?;
    let pods = Film::of_pods(world);
    way.leads_to(second);
    let lost = way.car(world).await?;
    for (name, replace) in [(ONCE, "WhenFenced"), (TWICE, "WhenSuspected")] {
        let mut job = support::endless(world)?;
        job["metadata"]["name"] = name.into();
        job["spec"]["onLoss"] = json!({"replace": replace, "runUnheardFor": "15s"});
        world.apply(&job).await?;
    }
    world.apply(&bystander(world)?).await?;
    all_run(world, 3).await?;
    world.kubectl().run(&["cordon", lost.id.as_str()], "").await?;
    let survives = way.car(world).await?;
    let mut job = support::endless(world)?;
    job["metadata"]["name"] = GOES_ON.into();
    world.apply(&job).await?;
    all_run(world, 4).await?;
    // Where what is lost can be made again.
    world.cars(2).await?;
    for car in [&lost, &survives] {
        owned_by(world, car, SECOND).await?;
    }
    let nodes = Film::of_node(world, &lost);

    lease_is_old(world, &lost).await?;
    world.bed.crash(ADAPTER_2).await?;
    lost.crash().await?;
    way.leads_to_the_adapter(&world.bed)?;
    evicted(&nodes, &pods).await?;
    let on_hold = pods.frames();
    for job in [ONCE, TWICE] {
        let untouched = of(&on_hold, job).iter().all(|f| f.step() == Step::Untouched);
        ensure!(untouched, "{job} is on hold:\n{}", story(&on_hold));
    }
    for car in [&survives, &lost] {
        owned_by(world, car, FIRST).await?;
    }
    world
        .node(&lost, "the Node of the lost car to go", |n| n.is_none().then_some(()))
        .await?;
    all_run(world, 3).await?;

    let frames = pods.frames();
    for job in [ONCE, TWICE] {
        check_lost(&frames, job)?;
        check_counted(world, job, true).await?;
    }
    let kept = of(&frames, GOES_ON);
    let undisturbed = |f: &&&Frame<Pod>| f.step() == Step::Untouched;
    ensure!(
        uids(&kept).len() == 1 && kept.iter().filter(undisturbed).count() == kept.len(),
        "the car that survived goes on with its work:\n{}",
        story(&frames)
    );
    check_counted(world, GOES_ON, false).await?;
    for car in [&lost, &survives] {
        check_writers(world, car, &[FIRST, SECOND])?;
    }
    Ok(())
}

#[tokio::test]
async fn replica_and_half_of_its_cars_that_die_together_are_lost_once_and_by_nobody_but_the_other_replica() -> Result<()>
{
    with_two("half", async |world, way, second| {
        let patient = fleet::running(&world.bed.layout, CONTROLLER)?.program;
        controller(world, &patient.clone().args(IMPATIENT)).await?;
        let result = half_of_the_cars(world, way, second).await;
        controller(world, &patient).await?;
        result
    })
    .await
}
