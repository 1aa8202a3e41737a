//! The programs that everybody shares are killed in the middle. nextest runs each of these with nothing beside it.

use std::time::Duration;

use anyhow::{Result, ensure};
use kerbside_testbed::fleet::name::{ADAPTER, OPERATOR};
use kerbside_testbed::world::{self, World, jobs};
use kerbside_testbed::{digits, tools};

/// Kills `name` when a third of the indexes is complete, starts it again, and checks the end.
async fn killed_mid_job(world: &mut World, name: &str) -> Result<()> {
    world.cars(2).await?;
    let seen = world.record();
    world.apply(&world.example("digits/fleetjob.yaml")?).await?;
    world
        .job("digits", "a third of the indexes", |_, s| {
            (s.succeeded >= 20).then_some(())
        })
        .await?;
    world.bed.crash(name).await?;
    world.bed.restart(name).await?;
    check_end(world, &seen).await
}

async fn check_end(world: &World, seen: &jobs::Record) -> Result<()> {
    let status = world.complete("digits", Duration::from_mins(10)).await?;
    ensure!(
        status.succeeded == 60 && status.completed_indexes == "0-59" && status.failed == 0,
        "{status:?}"
    );
    ensure!(
        seen.repeated().is_empty(),
        "indexes that ran again after success: {:?}",
        seen.repeated()
    );
    let verdict = digits::compare(&tools::checkout()?, &world.results("digits").await?)?;
    ensure!(verdict.exact(), "{:?}", verdict.differences);
    Ok(())
}

#[tokio::test]
async fn operator_killed_mid_job_loses_no_index_and_repeats_none() -> Result<()> {
    world::run("killop", async |world| killed_mid_job(world, OPERATOR).await).await
}

#[tokio::test]
async fn adapter_killed_mid_job_loses_no_index_and_repeats_none() -> Result<()> {
    world::run("killad", async |world| {
        killed_mid_job(world, ADAPTER).await?;
        let status = world.job("digits", "the job's status", |_, s| Some(s.clone())).await?;
        ensure!(
            status.disruptions.is_empty(),
            "cars go on while the adapter is away: {:?}",
            status.disruptions
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn attempts_that_end_while_the_adapter_is_away_are_taken_when_it_is_back() -> Result<()> {
    world::run("adaway", async |world| {
        let car = world.cars(1).await?.remove(0);
        let seen = world.record();
        world.apply(&world.example("hello/fleetjob.yaml")?).await?;
        world.running_on(&car).await.map(drop).or_else(|e| {
            // The attempts of this job are short: one that is over already was running too.
            if seen.attempts().iter().any(|p| world::phase(p) == "Succeeded") {
                Ok(())
            } else {
                Err(e)
            }
        })?;
        world.bed.crash(ADAPTER).await?;
        world.bed.restart(ADAPTER).await?;
        let status = world.complete("hello", world::DEADLINE).await?;
        ensure!(status.succeeded == 3 && status.failed == 0, "{status:?}");
        ensure!(seen.repeated().is_empty(), "{:?}", seen.repeated());
        Ok(())
    })
    .await
}
