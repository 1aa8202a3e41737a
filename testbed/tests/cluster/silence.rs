//! A car falls silent under the terms that a pool has by default: how long it takes to be suspected, and its work to be made elsewhere.
//!
//! The times are promises to users, so they are the real ones, and each is kept as a figure. The car itself lives on, as in a dead spot:
//! nothing that it sends arrives, and no connection breaks, unless the test says so.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kerbside_core::names::{condition, reason};
use kerbside_testbed::fleet::car::Car;
use kerbside_testbed::world::{self, World};
use serde_json::json;
use tokio::time::Instant;

use crate::others::film::{Film, Frame, Step, ready_on, story};
use crate::others::way;
use crate::{loss, support};

/// A car with an attempt is suspected so long after it fell silent.
const SUSPECTED: Duration = Duration::from_secs(10);
/// One whose connection closes, at once: a turn of the adapter and a write.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Work that may run twice is bound to another car so long after the silence began.
const REPLACED: Duration = Duration::from_secs(12);
/// From the moment at which something may be done to its being bound: what is left of [`REPLACED`].
const BOUND: Duration = Duration::from_secs(2);
/// For how long work that may run once only goes on unheard, where its job does not say.
const FENCE: Duration = Duration::from_secs(30);
/// A car at work is heard so often.
const HEARTBEAT: Duration = Duration::from_secs(4);
/// On top of what is promised, for what these tests share the machine with: four of them run at a time on two processors, and some compile
/// programs and compute. On a machine that does nothing else, nothing of it is needed.
const MARGIN: Duration = Duration::from_millis(2500);

/// When the cluster first said that the car is suspected.
async fn suspected(nodes: &Film<Node>) -> Result<Instant> {
    let says = |frames: &[Frame<Node>]| {
        let mut frames = frames.iter();
        frames
            .find(|f| loss::suspected(Some(&f.object)).is_some())
            .map(|f| f.at)
    };
    nodes.until("the silent car to be suspected", says).await
}

/// When another Pod than `old` was first seen bound to a car.
async fn bound(pods: &Film<Pod>, old: &str) -> Result<Instant> {
    let is = |f: &&Frame<Pod>| !f.is(old) && f.object.spec.as_ref().is_some_and(|s| s.node_name.is_some());
    pods.until("the replacement to be bound", |frames| {
        frames.iter().find(is).map(|f| f.at)
    })
    .await
}

/// Both moments after `since`, kept under this name.
fn times(world: &World, figure: &str, since: Instant, [suspected, bound]: [Instant; 2]) -> Result<[Duration; 2]> {
    let [suspected, bound] = [suspected, bound].map(|at| at.duration_since(since));
    let values = json!({"suspected_ms": millis(suspected), "replaced_ms": millis(bound)});
    support::keep(world, figure, values)?;
    Ok([suspected, bound])
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn within(what: &str, time: Duration, promise: Duration) -> Result<()> {
    ensure!(
        time <= promise + MARGIN,
        "{what} took {time:?}; {promise:?} are promised, and {MARGIN:?} are for the machine"
    );
    Ok(())
}

/// The work goes on in a car that nobody hears.
async fn still_at_work(car: &Car) -> Result<()> {
    let count = support::at_work(car).await?;
    ensure!(count == 1, "{count} attempts run in a car that only is not heard");
    Ok(())
}

#[tokio::test]
async fn car_at_work_that_falls_silent_is_suspected_within_ten_seconds_and_its_work_made_elsewhere_within_twelve()
-> Result<()> {
    way::run("silence", async |world, way| {
        let silent = way.car(world).await?;
        let (pods, nodes) = (Film::of_pods(world), Film::of_node(world, &silent));
        world.apply(&support::endless(world)?).await?;
        let old = ready_on(world, &silent).await?.uid;
        world.cars(1).await?;
        let since = Instant::now();
        way.hold();
        let moments = [suspected(&nodes).await?, bound(&pods, &old).await?];
        let [suspected, bound] = times(world, "loss_silence", since, moments)?;
        within("suspecting a silent car", suspected, SUSPECTED)?;
        within("replacing the work of a silent car", bound, REPLACED)?;
        ensure!(
            suspected + HEARTBEAT >= SUSPECTED,
            "suspected after {suspected:?}, though heard {HEARTBEAT:?} before that at the earliest"
        );
        still_at_work(&silent).await
    })
    .await
}

#[tokio::test]
async fn car_at_work_whose_connection_closes_is_suspected_at_once_and_its_work_made_elsewhere_within_twelve_seconds()
-> Result<()> {
    way::run("closed", async |world, way| {
        let silent = way.car(world).await?;
        let (pods, nodes) = (Film::of_pods(world), Film::of_node(world, &silent));
        world.apply(&support::endless(world)?).await?;
        let old = ready_on(world, &silent).await?.uid;
        world.cars(1).await?;
        let since = Instant::now();
        way.cut();
        let moments = [suspected(&nodes).await?, bound(&pods, &old).await?];
        let [suspected, bound] = times(world, "loss_closed", since, moments)?;
        within("suspecting a car whose connection closed", suspected, AT_ONCE)?;
        within("replacing its work", bound, AT_ONCE + BOUND)?;
        still_at_work(&silent).await
    })
    .await
}

#[tokio::test]
async fn work_that_may_run_once_only_is_made_elsewhere_after_the_silent_car_has_stopped_it_and_soon_after() -> Result<()>
{
    way::run("fenced", async |world, way| {
        let silent = way.car(world).await?;
        let (pods, nodes) = (Film::of_pods(world), Film::of_node(world, &silent));
        let mut job = support::endless(world)?;
        job["spec"]["onLoss"] = json!({"replace": "WhenFenced"});
        world.apply(&job).await?;
        let old = ready_on(world, &silent).await?.uid;
        world.cars(1).await?;
        let since = Instant::now();
        way.hold();
        let suspected = suspected(&nodes).await?;
        still_at_work(&silent).await?;
        let stopped = |frames: &[Frame<Pod>]| {
            let frame = frames.iter().find(|f| f.is(&old) && f.step() == Step::Stopped)?;
            let why = world::condition(&frame.object, condition::STOPPED)?.1.to_owned();
            Some((frame.at, frame.revision(), why))
        };
        let (fenced, given_up, why) = pods.until("the attempt to be given up", stopped).await?;
        let left = support::at_work(&silent).await?;
        ensure!(
            left == 0 && why == reason::FENCED,
            "the car had stopped it by itself: {left} run, {why}"
        );
        let bound = bound(&pods, &old).await?;
        let [suspected, bound] = times(world, "loss_fenced", since, [suspected, bound])?;
        within("suspecting a silent car", suspected, SUSPECTED)?;
        let fenced = fenced.duration_since(since);
        ensure!(fenced > FENCE, "given up after {fenced:?}, before the car had to stop");
        let certain = kerbside_core::vehicle::fence_with_margin(FENCE);
        within("replacing work that may run once only", bound, certain + BOUND)?;
        let frames = pods.frames();
        let second = frames.iter().find(|f| !f.is(&old)).context("there is a replacement")?;
        ensure!(
            second.revision()? > given_up?,
            "nothing is made in its place before:\n{}",
            story(&frames)
        );
        Ok(())
    })
    .await
}
