//! A car comes back from where nobody heard it, and its work has ended meanwhile, there or elsewhere: one result is accepted, whichever was
//! first, and the car takes new work only when nothing that was superseded is alive in it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kerbside_core::names::{condition, reason};
use kerbside_testbed::world::{self, World, phase};
use kube::ResourceExt;
use serde_json::json;

use crate::loss::{impatient, suspected};
use crate::others::film::{Film, Frame, Step, story};
use crate::others::way;
use crate::support;

/// The job of [`support::sleeping`].
const JOB: &str = "hello";
/// Long enough to fall silent in the middle, shorter than any fence.
const NAP: Duration = Duration::from_secs(8);
/// The shortest fence that a car honours.
const FENCE: &str = "15s";

/// Waits until the car's Node takes work again after it was suspected; at which revision.
async fn takes_work_again(nodes: &Film<Node>) -> Result<u64> {
    let again = |frames: &[Frame<Node>]| {
        let is = |f: &Frame<Node>| suspected(Some(&f.object)).is_some();
        let was = frames.iter().position(is)?;
        Some(frames[was..].iter().find(|f| !is(f))?.revision())
    };
    nodes.until("the car that is back to take work again", again).await?
}

/// The attempt was said to have stopped, for this reason, before the car took work again.
fn check_stopped_before(pods: &Film<Pod>, uid: &str, why: &str, again: u64) -> Result<()> {
    let frames = pods.frames();
    let stopped = frames.iter().find(|f| f.is(uid) && f.step() == Step::Stopped);
    let stopped = stopped.with_context(|| format!("nobody said that it has stopped:\n{}", story(&frames)))?;
    ensure!(
        world::condition(&stopped.object, condition::STOPPED) == Some(("True", why)),
        "for another reason than {why}:\n{}",
        story(&frames)
    );
    let at = stopped.revision()?;
    ensure!(
        at < again,
        "the car took work at revision {again}, and what was superseded had stopped at {at}:\n{}",
        story(&frames)
    );
    Ok(())
}

/// One success, nothing failed; the result is this attempt's.
async fn check_result(world: &World, job: &str, uid: &str) -> Result<()> {
    let status = world.complete(job, Duration::from_mins(5)).await?;
    ensure!(
        status.succeeded == 1 && status.completed_indexes == "0" && status.failed == 0,
        "{status:?}"
    );
    let accepted = support::accepted(world, job).await?;
    ensure!(accepted == uid, "the result is {accepted}'s, not {uid}'s");
    Ok(())
}

/// Waits until another attempt than `old` has succeeded, and somebody has asked for the old one to go.
async fn superseded(pods: &Film<Pod>, old: &str) -> Result<String> {
    let done = |frames: &[Frame<Pod>]| {
        let done = frames.iter().find(|f| !f.is(old) && phase(&f.object) == "Succeeded")?;
        let deleted = |f: &&Frame<Pod>| f.is(old) && f.step() == Step::Deleted;
        frames.iter().find(deleted)?;
        done.object.uid()
    };
    pods.until("the replacement to have superseded the first attempt", done)
        .await
}

#[tokio::test]
async fn attempt_that_was_superseded_stops_before_its_car_takes_work_again() -> Result<()> {
    world::run("stopped", async |world| {
        world.pool(impatient).await?;
        let cars = world.cars(2).await?;
        let pods = Film::of_pods(world);
        // It computes, and has not ended when it goes on after the silence.
        world.apply(&support::first_share(world, 20)?).await?;
        let (first, silent) = world.running_on_one_of(&cars).await?;
        let nodes = Film::of_node(world, silent);
        let first = first.uid().context("a Pod has a UID")?;
        silent.freeze()?;
        let second = superseded(&pods, &first).await?;
        silent.thaw()?;
        let again = takes_work_again(&nodes).await?;
        check_stopped_before(&pods, &first, reason::REPORTED, again)?;
        support::idle(silent).await?;
        check_result(world, "digits", &second).await
    })
    .await
}

#[tokio::test]
async fn output_that_was_finished_while_its_car_was_unheard_is_accepted_if_nothing_was_accepted_before() -> Result<()> {
    way::run("finished", async |world, way| {
        world.pool(impatient).await?;
        let car = way.car(world).await?;
        let (pods, nodes) = (Film::of_pods(world), Film::of_node(world, &car));
        world.apply(&support::sleeping(world, NAP).await?).await?;
        let first = world.running_on(&car).await?.uid().context("a Pod has a UID")?;
        way.hold();
        support::idle(&car).await?;
        // Nobody takes the replacement, and the only car is not heard.
        let waits = |pods: &[Pod]| pods.iter().any(|p| p.uid().as_deref() != Some(&first)).then_some(());
        world.wait_pods("a replacement to be made", waits).await?;
        way.free();
        check_result(world, JOB, &first).await?;
        takes_work_again(&nodes).await?;
        let frames = pods.frames();
        let began = |f: &&Frame<Pod>| !f.is(&first) && f.object.spec.as_ref().is_some_and(|s| s.node_name.is_some());
        ensure!(
            frames.iter().find(began).is_none(),
            "the replacement never came to a car:\n{}",
            story(&frames)
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn output_that_was_finished_while_its_car_was_unheard_is_not_accepted_after_another() -> Result<()> {
    way::run("toolate", async |world, way| {
        world.pool(impatient).await?;
        let car = way.car(world).await?;
        let (pods, nodes) = (Film::of_pods(world), Film::of_node(world, &car));
        world.apply(&support::sleeping(world, NAP).await?).await?;
        let first = world.running_on(&car).await?.uid().context("a Pod has a UID")?;
        way.hold();
        world.cars(1).await?;
        let second = superseded(&pods, &first).await?;
        support::idle(&car).await?;
        way.free();
        takes_work_again(&nodes).await?;
        let life = pods.life(&first).await?;
        let reported = |f: &Frame<Pod>| {
            let stopped = world::condition(&f.object, condition::STOPPED);
            let disrupted = world::condition(&f.object, condition::DISRUPTION_TARGET).is_some();
            stopped == Some(("True", reason::REPORTED)) && !disrupted
        };
        ensure!(
            life.last().is_some_and(reported),
            "what came too late was no disruption:\n{}",
            story(&life)
        );
        check_result(world, JOB, &second).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn output_of_an_attempt_that_was_given_up_is_not_accepted_and_its_car_takes_the_next_attempt() -> Result<()> {
    way::run("givenup", async |world, way| {
        world.pool(impatient).await?;
        let car = way.car(world).await?;
        let (pods, nodes) = (Film::of_pods(world), Film::of_node(world, &car));
        let mut job = support::sleeping(world, NAP).await?;
        job["spec"]["onLoss"] = json!({"replace": "WhenSuspected", "runUnheardFor": FENCE});
        world.apply(&job).await?;
        let first = world.running_on(&car).await?.uid().context("a Pod has a UID")?;
        way.hold();
        let lost = |f: &Frame<Pod>| {
            let target = world::condition(&f.object, condition::DISRUPTION_TARGET);
            f.is(&first) && phase(&f.object) == "Failed" && target == Some(("True", reason::VEHICLE_LOST))
        };
        let given_up = |frames: &[Frame<Pod>]| frames.iter().any(lost).then_some(());
        pods.until("the attempt to be given up as lost", given_up).await?;
        let left = support::at_work(&car).await?;
        ensure!(left == 0, "{left} attempts run in a car past its fence");
        way.free();
        let again = takes_work_again(&nodes).await?;
        check_stopped_before(&pods, &first, reason::FENCED, again)?;
        let second = world.running_on(&car).await?.uid().context("a Pod has a UID")?;
        ensure!(second != first, "what was given up is not run again");
        check_result(world, JOB, &second).await?;
        let status = world.job(JOB, "the job's status", |_, s| Some(s.clone())).await?;
        ensure!(
            status.disruptions.get(reason::VEHICLE_LOST) == Some(&1),
            "one disruption: {status:?}"
        );
        Ok(())
    })
    .await
}
