//! Beside the node lifecycle controller of a cloud, whose machines cars are not: it deletes none of their Nodes if its provider fails on a
//! foreign providerID, and if the provider says that there is no such machine, nothing but the Node is lost.
//!
//! The controller is Kubernetes' own, `hack/tools/cloud-node-lifecycle`. It looks at Nodes that are not Ready, which a car's Node is only
//! while the car leaves, and it sees those of its test's pool alone: other tests run beside it.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kerbside_api::v1alpha1::VehiclePhase;
use kerbside_core::names::{condition, label, reason, taint};
use kerbside_testbed::fleet::car::{Car, Plan, Signals};
use kerbside_testbed::process::{self, Program, Record};
use kerbside_testbed::world::{self, World, phase};
use kerbside_testbed::{fleet, http, ports, tools, wait};
use kube::ResourceExt;
use serde_json::json;
use tokio::time::Instant;

use crate::others::way::{self, Way};
use crate::support::endless;

/// The group of hack/tools, and its program.
const PROGRAM: &str = "cloud-node-lifecycle";
/// The Node of a car that is there is back within that.
const BACK: Duration = Duration::from_secs(5);
/// So many times the provider is asked before a test believes that nothing follows.
const LOOKS: usize = 20;
/// So many times a Node is deleted and made again.
const DELETIONS: usize = 3;

/// What a cloud's provider says of a providerID that is not its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// It fails.
    Error,
    /// There is no such machine.
    Missing,
}

/// A cloud's node lifecycle controller at work.
pub(crate) struct Cloud {
    record: Record,
    base: String,
}

/// Runs a test beside a cloud that sees the Nodes of the test's pool; whatever comes of the test, the cloud ends with it.
pub(crate) async fn beside<F>(world: &mut World, foreign: Foreign, test: F) -> Result<()>
where
    F: AsyncFnOnce(&mut World, &Cloud) -> Result<()>,
{
    let layout = world.bed.layout.clone();
    let cloud = Cloud::start(world, foreign)?;
    let result = match fleet::ready(&cloud.record, &cloud.base).await {
        Ok(()) => test(world, &cloud).await,
        Err(error) => Err(error),
    };
    result.and(process::end(&layout, &[cloud.record], Duration::from_secs(5)).await)
}

impl Cloud {
    fn start(world: &World, foreign: Foreign) -> Result<Self> {
        let address = format!("127.0.0.1:{}", ports::free()?);
        let foreign = match foreign {
            Foreign::Error => "error",
            Foreign::Missing => "missing",
        };
        let program = Program::new(&format!("cloud-{}", world.name), tools::pinned(PROGRAM, PROGRAM)?)
            .args(["-foreign", foreign, "-listen", &address])
            .args([
                "-selector".to_owned(),
                format!("{}={}", label::POOL, world.name),
                "-kubeconfig".to_owned(),
                world.bed.endpoints.kubeconfig.display().to_string(),
            ]);
        Ok(Self {
            record: process::start(&world.bed.layout, &program)?,
            base: format!("http://{address}"),
        })
    }

    /// How many times the provider was asked about the car's Node.
    async fn asked(&self, car: &Car) -> Result<usize> {
        let count = http::get(&self.base, &format!("/asked/{}", car.id)).await?;
        count.trim().parse().context("the count of questions is a number")
    }
}

pub(crate) fn ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    conditions.any(|c| c.type_ == "Ready" && c.status == "True")
}

/// The UID of the car's Node, which is there.
pub(crate) async fn node_uid(world: &World, car: &Car) -> Result<String> {
    world.node(car, "the Node to be there", |n| n?.uid()).await
}

/// How long it takes from now until the car has a Node that is Ready; at most [`BACK`].
pub(crate) async fn back(world: &World, car: &Car) -> Result<Duration> {
    let since = Instant::now();
    world
        .node(car, "the Node to be back", |n| ready(n?).then_some(()))
        .await?;
    let took = since.elapsed();
    ensure!(took <= BACK, "the Node of {} was back after {took:?}", car.name);
    Ok(took)
}

/// A car with so much notice that it still leaves when everything has been seen.
async fn car(world: &mut World, way: &Way) -> Result<Car> {
    let plan = Plan {
        notice: Duration::from_secs(40),
        ..Plan::default()
    };
    way.car_as(world, &plan).await
}

/// The car says that it leaves and is cut off before its next word: until its notice is over, that is all the cluster knows.
async fn leave_unheard(world: &World, way: &Way, car: &Car) -> Result<()> {
    way.slow();
    car.signals(Signals::Driving)?;
    world
        .node(car, "the car to leave", |n| {
            // Or a cloud has already deleted the Node for it.
            n.is_none_or(|n| world::tainted(n, taint::LEAVING)).then_some(())
        })
        .await?;
    way.cut();
    Ok(())
}

/// The car is reached again, and is heard to have left.
async fn has_left(world: &World, way: &Way, car: &Car) -> Result<()> {
    way.free();
    world.phase(car, VehiclePhase::Away).await
}

/// The car comes back to where it can work; how long it took from then until its Node was there.
async fn come_back(world: &World, car: &Car) -> Result<Duration> {
    car.signals(Signals::Parked)?;
    world.phase(car, VehiclePhase::Available).await?;
    back(world, car).await
}

/// Nothing was said of the attempt but that its car leaves.
fn only_leaves(pod: &Pod) -> bool {
    let stopped = world::condition(pod, condition::STOPPED);
    let target = world::condition(pod, condition::DISRUPTION_TARGET);
    phase(pod) == "Running" && stopped.is_none() && target.is_none_or(|t| t.1 == reason::VEHICLE_DEPARTED)
}

/// A job of one attempt that goes on until its car stops it, and has no replacement before.
fn once_at_a_time(world: &World) -> Result<serde_json::Value> {
    let mut job = endless(world)?;
    job["spec"]["onLoss"] = json!({"replace": "WhenFenced", "runUnheardFor": "10m"});
    Ok(job)
}

#[tokio::test]
async fn cloud_that_fails_on_a_foreign_machine_deletes_no_leaving_cars_node() -> Result<()> {
    way::run("cloudfails", async |world, way| {
        beside(world, Foreign::Error, async |world, cloud| {
            let car = car(world, way).await?;
            let node = node_uid(world, &car).await?;
            world.apply(&once_at_a_time(world)?).await?;
            let pod = world.running_on(&car).await?;
            ensure!(cloud.asked(&car).await? == 0, "nobody asks about a Node that is Ready");

            leave_unheard(world, way, &car).await?;
            wait::until("the provider to be asked again and again", world::DEADLINE, || async {
                Ok((cloud.asked(&car).await? >= LOOKS).then_some(()))
            })
            .await?;
            let there = world
                .node(&car, "the Node as it is now", |n| Some(n.map(|n| (n.uid(), ready(n)))))
                .await?;
            ensure!(there == Some((Some(node.clone()), false)), "the Node stays: {there:?}");
            let pods = world.wait_pods("the attempt", |pods| Some(pods.to_vec())).await?;
            ensure!(
                pods.len() == 1 && pods.iter().all(|p| p.uid() == pod.uid() && only_leaves(p)),
                "the attempt stays: {pods:?}"
            );

            has_left(world, way, &car).await?;
            come_back(world, &car).await?;
            ensure!(node_uid(world, &car).await? == node, "it was never deleted");
            Ok(())
        })
        .await
    })
    .await
}

/// Waits until the car's Node has been deleted and was back so many times; the longest time that it was not there.
async fn longest_absence(world: &World, car: &Car, times: usize) -> Result<Duration> {
    let seen = RefCell::new((None, Vec::new()));
    world
        .node(car, "the Node to be deleted and made again, and again", |node| {
            let (gone_since, absences) = &mut *seen.borrow_mut();
            match node {
                None => _ = gone_since.get_or_insert_with(Instant::now),
                Some(_) => absences.extend(gone_since.take().map(|since| since.elapsed())),
            }
            let longest = absences.iter().max().copied();
            longest.filter(|_| absences.len() >= times)
        })
        .await
}

/// A cloud that looks more seldom deletes last what it found not Ready, and nobody makes the Node of a car that has left again.
async fn delete_node(world: &World, car: &Car) -> Result<()> {
    let args = ["delete", "node", car.id.as_str(), "--ignore-not-found"];
    world.kubectl().run(&args, "").await?;
    world
        .node(car, "the Node to be gone", |n| n.is_none().then_some(()))
        .await
}

#[tokio::test]
async fn attempt_of_a_leaving_car_outlives_each_node_that_a_cloud_deletes_and_the_node_is_back_with_the_car()
-> Result<()> {
    way::run("cloudbusy", async |world, way| {
        beside(world, Foreign::Missing, async |world, cloud| {
            let car = car(world, way).await?;
            let seen = world.record();
            world.apply(&once_at_a_time(world)?).await?;
            let first = world.running_on(&car).await?;

            leave_unheard(world, way, &car).await?;
            let absent = longest_absence(world, &car, DELETIONS).await?;
            ensure!(absent <= BACK, "the Node of an attempt was away for {absent:?}");
            ensure!(cloud.asked(&car).await? >= DELETIONS, "it is the cloud that deletes");
            let attempts = seen.attempts();
            ensure!(
                attempts.len() == 1 && attempts.iter().all(|p| p.uid() == first.uid() && only_leaves(p)),
                "nothing of it ended: {attempts:?}"
            );

            has_left(world, way, &car).await?;
            let status = world
                .job("hello", "the departure to be counted", |_, s| {
                    (!s.disruptions.is_empty()).then(|| s.clone())
                })
                .await?;
            let departed = status.disruptions.get(reason::VEHICLE_DEPARTED).copied();
            ensure!(
                departed == Some(1) && status.disruptions.len() == 1 && status.failed == 0,
                "a departure and nothing else: {status:?}"
            );
            delete_node(world, &car).await?;
            let took = come_back(world, &car).await?;
            println!("the Node was away for {absent:?} at most, and there {took:?} after its car");
            let second = world.running_on(&car).await?;
            let attempts = seen.attempts();
            let ended = attempts.iter().find(|p| p.uid() == first.uid());
            let stopped = ended.and_then(|p| world::condition(p, condition::STOPPED));
            ensure!(
                stopped == Some(("True", reason::REPORTED)),
                "it ended by its car's word: {ended:?}"
            );
            ensure!(
                attempts.len() == 2 && second.uid() != first.uid(),
                "one replacement: {attempts:?}"
            );
            Ok(())
        })
        .await
    })
    .await
}
