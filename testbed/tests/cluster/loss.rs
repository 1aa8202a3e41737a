//! A car falls silent without a word, and may come back: nothing is lost, nothing counts twice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kerbside_core::names::{condition, reason, taint};
use kerbside_testbed::world::{self, World, index, phase};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::support;

/// A pool that gives up hope sooner than the default, so that a test is short.
pub(crate) fn impatient(pool: &mut Value) {
    pool["spec"]["loss"] =
        json!({"suspectAfter": "5s", "keepNodeFor": "1m", "brake": {"share": 100, "atLeast": 5, "window": "30s"}});
}

/// Work that may run once only, and is given up ten seconds after it was last heard.
pub(crate) fn once_only(job: &mut Value) {
    job["spec"]["onLoss"] = json!({"replace": "WhenFenced", "runUnheardFor": "10s"});
}

pub(crate) fn suspected(node: Option<&Node>) -> Option<()> {
    world::tainted(node?, taint::SUSPECT).then_some(())
}

/// One long index: both cars could do it.
fn long_job(world: &World) -> Result<Value> {
    // A twentieth of all images in the one share: long enough to fall silent in the middle of it.
    support::first_share(world, 20)
}

#[tokio::test]
async fn car_that_comes_back_beside_its_replacement_leaves_one_result() -> Result<()> {
    world::run("comeback", async |world| {
        world.pool(impatient).await?;
        let cars = world.cars(2).await?;
        let seen = world.record();
        world.apply(&long_job(world)?).await?;
        let (first, silent) = world.running_on_one_of(&cars).await?;
        silent.freeze()?;
        world.node(silent, "the silent car to be suspected", suspected).await?;
        world
            .wait_pods("the first attempt to be unheard, and a second beside it", |pods| {
                let old = pods.iter().find(|p| p.uid() == first.uid())?;
                let unheard = world::condition(old, condition::UNHEARD).is_some_and(|c| c.0 == "True");
                let second = pods.iter().find(|p| p.uid() != first.uid() && phase(p) == "Running")?;
                (unheard && index(second) == index(old)).then_some(())
            })
            .await?;
        // Both are alive now; the race is theirs. `alone` has the case in which both finish.
        silent.thaw()?;
        let status = world.complete("digits", Duration::from_mins(5)).await?;
        ensure!(
            status.succeeded == 1 && status.completed_indexes == "0" && status.failed == 0,
            "{status:?}"
        );
        let results = world.results("digits").await?;
        let files = std::fs::read_dir(results.join("0"))
            .context("index 0 left results")?
            .count();
        ensure!(files == 1, "one attempt's one file, not {files}");
        let attempts = seen.attempts();
        ensure!(attempts.len() == 2, "one replacement, not {}", attempts.len() - 1);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn car_that_is_silent_for_a_while_is_adopted_with_its_work() -> Result<()> {
    world::run("tunnel", async |world| {
        world.pool(impatient).await?;
        let car = world.cars(1).await?.remove(0);
        let seen = world.record();
        let mut job = long_job(world)?;
        // The replacement does not fit beside it: else which of the two is done first would be a matter of luck.
        let resources = &mut job["spec"]["template"]["spec"]["containers"][0]["resources"];
        resources["requests"]["cpu"] = "600m".into();
        resources["limits"]["cpu"] = "1".into();
        world.apply(&job).await?;
        let pod = world.running_on(&car).await?;
        car.freeze()?;
        world.node(&car, "the silent car to be suspected", suspected).await?;
        car.thaw()?;
        world
            .node(&car, "the car to be heard again", |n| {
                suspected(n).is_none().then_some(())
            })
            .await?;
        let status = world.complete("digits", Duration::from_mins(5)).await?;
        ensure!(status.succeeded == 1 && status.failed == 0, "{status:?}");
        let attempts = seen.attempts();
        let same = attempts
            .iter()
            .find(|p| p.uid() == pod.uid())
            .context("the first attempt is on record")?;
        ensure!(
            phase(same) == "Succeeded",
            "the attempt went on and was not made again: {same:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn work_that_may_run_once_only_is_replaced_after_its_fence_and_not_before() -> Result<()> {
    world::run("fence", async |world| {
        world.pool(impatient).await?;
        let cars = world.cars(2).await?;
        let seen = world.record();
        let mut job = long_job(world)?;
        once_only(&mut job);
        world.apply(&job).await?;
        let (first, lost) = world.running_on_one_of(&cars).await?;
        lost.crash().await?;
        let fenced = world
            .wait_pods("the lost attempt to be fenced", |pods| {
                let pod = pods.iter().find(|p| p.uid() == first.uid())?;
                let alone = pods.len() == 1;
                let stopped = world::condition(pod, condition::STOPPED)?;
                Some((alone, stopped.0.to_owned(), stopped.1.to_owned()))
            })
            .await?;
        ensure!(
            fenced == (true, "True".into(), reason::FENCED.into()),
            "alone until fenced: {fenced:?}"
        );
        let status = world.complete("digits", Duration::from_mins(5)).await?;
        ensure!(status.succeeded == 1 && status.failed == 0, "{status:?}");
        let lost = status.disruptions.get(reason::VEHICLE_LOST).copied();
        ensure!(lost == Some(1), "a loss is a disruption: {status:?}");
        ensure!(seen.attempts().len() == 2, "one replacement");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn car_that_lost_power_forgets_nothing_that_it_had_finished() -> Result<()> {
    world::run("power", async |world| {
        let car = world.cars(1).await?.remove(0);
        let seen = world.record();
        world.apply(&world.example("hello/fleetjob.yaml")?).await?;
        world
            .job("hello", "an index to be complete", |_, s| {
                (s.succeeded > 0).then_some(())
            })
            .await?;
        car.crash().await?;
        car.start()?;
        let status = world.complete("hello", Duration::from_mins(3)).await?;
        ensure!(status.succeeded == 3 && status.failed == 0, "{status:?}");
        ensure!(
            seen.repeated().is_empty(),
            "indexes that ran again after success: {:?}",
            seen.repeated()
        );
        Ok(())
    })
    .await
}
