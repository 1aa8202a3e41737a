//! Other people's Pods on cars that leave: each controller sees what it understands, in the order in which it must come, and goes on
//! elsewhere.
//!
//! `staying` has the cars that only seem to leave.

#[path = "others/film.rs"]
pub(crate) mod film;
#[path = "others/staying.rs"]
mod staying;
#[path = "others/way.rs"]
pub(crate) mod way;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use kerbside_core::names::{condition, reason, taint};
use kerbside_testbed::fleet::car::{Car, Plan, Signals};
use kerbside_testbed::wait;
use kerbside_testbed::world::{self, World, on, phase};
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::watcher;
use serde_json::{Value, json};

use self::film::{Film, Frame, Step, check_end, containers, grace, is_stopped, ready_on, story};
use self::way::Way;
use crate::support;

/// Far more than any notice, so that what binds is the notice.
const PATIENT: u64 = 600;

/// The example that runs until it is stopped, once, as a workload of this kind.
fn ticker(world: &World, kind: &str) -> Result<Value> {
    let mut manifest = world.example("deployment/deployment.yaml")?;
    manifest["kind"] = kind.into();
    manifest["spec"]["replicas"] = 1.into();
    manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = PATIENT.into();
    if kind == "StatefulSet" {
        manifest["spec"]["serviceName"] = "ticker".into();
    }
    Ok(manifest)
}

fn readiness(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready")
}

/// Since when the Node says that its vehicle is leaving, if it does.
fn leaving_since(node: &Node) -> Option<Timestamp> {
    let ready = readiness(node)?;
    let says = ready.status == "False" && ready.reason.as_deref() == Some(reason::VEHICLE_LEAVING);
    let since = ready.last_transition_time.as_ref()?.0;
    (says && world::tainted(node, taint::LEAVING)).then_some(since)
}

/// Waits until the Lease of the car's Node has been renewed after `since`.
async fn renewed_after(world: &World, car: &Car, since: Timestamp) -> Result<()> {
    let api: Api<Lease> = Api::namespaced(world.client(), "kube-node-lease");
    let what = "the Lease of a car that left to be renewed";
    wait::object(&api, car.id.as_str(), what, world::DEADLINE, |lease| {
        let renewed = lease?.spec.as_ref()?.renew_time.as_ref()?.0;
        (renewed > since).then_some(())
    })
    .await
}

#[tokio::test]
async fn deployments_pod_on_a_car_that_leaves_is_announced_deleted_stopped_and_made_elsewhere() -> Result<()> {
    way::run("odeploy", async |world, way| {
        let leaving = way.car(world).await?;
        let (pods, nodes) = (Film::of_pods(world), Film::of_node(world, &leaving));
        world.apply(&ticker(world, "Deployment")?).await?;
        let old = ready_on(world, &leaving).await?.uid;
        let staying = world.car(&Plan::default()).await?;
        way.slow();
        leaving.signals(Signals::Spent)?;
        let since = nodes
            .until("the Node to say that its vehicle is leaving", |frames| {
                frames.iter().find_map(|f| leaving_since(&f.object))
            })
            .await?;
        let new = ready_on(world, &staying).await?.uid;
        check_end(&pods.life(&old).await?, Plan::default().notice)?;
        let frames = pods.frames();
        let made = frames.iter().position(|f| f.is(&new));
        let stopped = frames.iter().position(|f| f.is(&old) && f.step() == Step::Stopped);
        ensure!(
            made.is_some() && made < stopped,
            "a ReplicaSet makes another at the deletion, and does not wait for the end:\n{}",
            story(&frames)
        );
        renewed_after(world, &leaving, since).await?;
        let unknown = |f: &Frame<Node>| readiness(&f.object).is_some_and(|c| c.status == "Unknown");
        ensure!(!nodes.frames().iter().any(unknown), "nobody gave the Node up");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn statefulsets_pod_on_a_car_that_leaves_is_made_elsewhere_after_it_has_stopped_and_is_gone() -> Result<()> {
    way::run("oset", async |world, way| {
        let leaving = way.car(world).await?;
        let pods = Film::of_pods(world);
        world.apply(&ticker(world, "StatefulSet")?).await?;
        let old = ready_on(world, &leaving).await?.uid;
        let staying = world.car(&Plan::default()).await?;
        way.slow();
        leaving.signals(Signals::Spent)?;
        let new = ready_on(world, &staying).await?.uid;
        // With the car's word that it has stopped before it is gone.
        check_end(&pods.life(&old).await?, Plan::default().notice)?;
        let frames = pods
            .until("the new Pod", |frames| {
                frames.iter().any(|f| f.is(&new)).then(|| frames.to_vec())
            })
            .await?;
        let gone = frames.iter().position(|f| f.is(&old) && f.step() == Step::Gone);
        let made = frames.iter().position(|f| !f.is(&old));
        ensure!(
            gone.is_some() && gone < made,
            "nothing is made before the old one is gone:\n{}",
            story(&frames)
        );
        let others: Vec<_> = frames.iter().filter(|f| !f.is(&old)).collect();
        ensure!(
            others.iter().all(|f| f.is(&new) && f.object.name_any() == "ticker-0"),
            "one Pod takes its place, and has its name:\n{}",
            story(&frames)
        );
        Ok(())
    })
    .await
}

/// Long enough to be found at work.
const NAP: Duration = Duration::from_secs(15);

/// The example's Job, of one index that sleeps and may never fail.
async fn sleeper(world: &World) -> Result<Value> {
    let image = support::sleeper(world, NAP).await?;
    let mut job = world.example("batch-job/job.yaml")?;
    job["metadata"]["name"] = "sleeper".into();
    for (field, value) in [("completions", 1), ("parallelism", 1), ("backoffLimit", 0)] {
        job["spec"][field] = value.into();
    }
    job["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    let rule = &job["spec"]["podFailurePolicy"]["rules"][0];
    ensure!(
        rule["action"] == "Ignore" && rule["onPodConditions"][0]["type"] == condition::DISRUPTION_TARGET,
        "the example ignores disruptions: {rule}"
    );
    Ok(job)
}

#[tokio::test]
async fn job_that_ignores_disruptions_and_may_never_fail_survives_a_departure() -> Result<()> {
    world::run("ojob", async |world| {
        let cars = world.cars(2).await?;
        let pods = Film::of_pods(world);
        world.apply(&sleeper(world).await?).await?;
        let (pod, leaving) = world.running_on_one_of(&cars).await?;
        let first = pod.uid().context("a Pod has a UID")?;
        leaving.signals(Signals::Driving)?;
        let api: Api<Job> = Api::namespaced(world.client(), &world.name);
        let status = wait::object(&api, "sleeper", "the Job to be over", world::DEADLINE, |job| {
            let status = job?.status.as_ref()?;
            let mut conditions = status.conditions.iter().flatten();
            let over = conditions.any(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True");
            over.then(|| status.clone())
        })
        .await?;
        let frames = pods.frames();
        let complete = status.conditions.iter().flatten().any(|c| c.type_ == "Complete");
        ensure!(
            complete && status.succeeded == Some(1) && status.failed.unwrap_or_default() == 0,
            "what is ignored counts neither as a failure nor against backoffLimit: {status:?}\n{}",
            story(&frames)
        );
        let second = |f: &&Frame<Pod>| !f.is(&first);
        let frames = pods
            .until("the second Pod to have succeeded", |frames| {
                let done = |f: &Frame<Pod>| phase(&f.object) == "Succeeded";
                frames.iter().filter(second).any(done).then(|| frames.to_vec())
            })
            .await?;
        let disrupted = |f: &Frame<Pod>| {
            let target = world::condition(&f.object, condition::DISRUPTION_TARGET);
            target == Some(("True", reason::VEHICLE_DEPARTED)) && is_stopped(&f.object)
        };
        ensure!(
            frames.iter().any(|f| f.is(&first) && disrupted(f)),
            "the first was disrupted by the departure:\n{}",
            story(&frames)
        );
        let staying = cars.iter().find(|c| c.id != leaving.id).context("there are two cars")?;
        // Before it is bound it is on no car.
        let bound = |f: &&Frame<Pod>| f.object.spec.as_ref().is_some_and(|s| s.node_name.is_some());
        ensure!(
            frames
                .iter()
                .filter(second)
                .filter(bound)
                .all(|f| on(&f.object, staying.id.as_str())),
            "on the car that stays:\n{}",
            story(&frames)
        );
        Ok(())
    })
    .await
}

/// From the signal on: time to read it, to tell of the end, and to write it beside other tests.
const MARGIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn pod_that_may_take_ten_minutes_to_end_is_gone_within_the_notice_of_three_seconds() -> Result<()> {
    world::run("onotice", async |world| {
        let plan = Plan {
            notice: Duration::from_secs(3),
            ..Plan::default()
        };
        let car = world.car(&plan).await?;
        let pods = Film::of_pods(world);
        let mut pod = support::plain_pod(world, "deployment/deployment.yaml", "patient")?;
        pod["spec"]["terminationGracePeriodSeconds"] = PATIENT.into();
        world.apply(&pod).await?;
        let uid = ready_on(world, &car).await?.uid;
        car.signals(Signals::Spent)?;
        let within = plan.notice + MARGIN;
        wait::objects(
            &world.pods(),
            watcher::Config::default(),
            "the Pod to be gone within the notice",
            within,
            |pods| pods.is_empty().then_some(()),
        )
        .await?;
        let left = support::at_work(&car).await?;
        ensure!(left == 0, "{left} attempts are alive in a car that has left");
        let life = pods.life(&uid).await?;
        ensure!(
            life.iter().any(|f| f.step() == Step::Stopped && is_stopped(&f.object)),
            "the car said that it had stopped, before the Pod went:\n{}",
            story(&life)
        );
        ensure!(
            life.iter().filter_map(|f| grace(&f.object)).all(|g| g <= plan.notice),
            "no deletion gave it more than the notice:\n{}",
            story(&life)
        );
        Ok(())
    })
    .await
}

/// Priority classes of the test's own; nobody is preempted for them.
async fn priority_class(world: &World, name: &str, value: i32) -> Result<String> {
    let name = format!("{}-{name}", world.name);
    let class = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
        "value": value, "preemptionPolicy": "Never",
    });
    world.apply(&class).await?;
    Ok(name)
}

/// A Pod of this class with so many containers.
fn of_class(world: &World, name: &str, class: &str, count: usize) -> Result<Value> {
    let mut pod = support::plain_pod(world, "deployment/deployment.yaml", name)?;
    pod["spec"]["priorityClassName"] = class.into();
    let container = pod["spec"]["containers"][0].take();
    let containers = (0..count).map(|n| {
        let mut container = container.clone();
        container["name"] = format!("ticker-{n}").into();
        container
    });
    pod["spec"]["containers"] = containers.collect();
    Ok(pod)
}

/// The last end of a container of the Pod, and the first, in whole seconds.
fn ends(pod: &Pod) -> Option<(Timestamp, Timestamp)> {
    let ended = containers(pod).filter_map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0));
    let ended: Vec<_> = ended.collect();
    Some((*ended.iter().max()?, *ended.iter().min()?))
}

/// The lower one has much to end and the higher one little: ended at the same time, the higher one would be over first.
async fn lower_stops_first(world: &mut World, way: &Way, (low, high): (&str, &str)) -> Result<()> {
    let car = way.car(world).await?;
    let pods = Film::of_pods(world);
    world.apply(&of_class(world, "high", high, 1)?).await?;
    world.apply(&of_class(world, "low", low, 5)?).await?;
    world
        .wait_pods("both Pods to be ready", |pods| {
            let ready = |p: &&Pod| world::condition(p, "Ready").is_some_and(|c| c.0 == "True");
            (pods.iter().filter(ready).count() == 2).then_some(())
        })
        .await?;
    way.slow();
    car.signals(Signals::Spent)?;
    let (at, over) = pods
        .until("both Pods to be stopped", |frames| {
            let stopped = |name: &str| {
                let is = |f: &Frame<Pod>| f.object.name_any() == name && f.step() == Step::Stopped;
                frames.iter().position(is)
            };
            let at = [stopped("low")?, stopped("high")?];
            Some((at, at.map(|n| ends(&frames[n].object))))
        })
        .await?;
    let frames = pods.frames();
    ensure!(
        at[0] < at[1],
        "the Pod of the lower priority stops first:\n{}",
        story(&frames)
    );
    let [Some((low_ended, _)), Some((_, high_ended))] = over else {
        anyhow::bail!("a stopped Pod says when its containers ended:\n{}", story(&frames));
    };
    ensure!(
        low_ended <= high_ended,
        "the lower one ended at {low_ended}, the higher one at {high_ended}"
    );
    Ok(())
}

#[tokio::test]
async fn pod_of_the_higher_priority_on_a_car_that_leaves_stops_last() -> Result<()> {
    way::run("oprio", async |world, way| {
        let low = priority_class(world, "low", 100).await?;
        let high = priority_class(world, "high", 1_000_000).await?;
        let result = lower_stops_first(world, way, (low.as_str(), high.as_str())).await;
        // They belong to no namespace that would take them along.
        let deleted = world.kubectl().run(&["delete", "priorityclass", &low, &high], "").await;
        result.and_then(|()| deleted.map(drop))
    })
    .await
}
