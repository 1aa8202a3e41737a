//! `kubectl fleet why`: what keeps a job from running, counted, in the words of whoever keeps it.

use anyhow::{Result, ensure};
use kerbside_testbed::world::{self, World};

use crate::{refusals, support};

/// What `kubectl fleet why` prints about a job of the test.
async fn why(world: &World, job: &str) -> Result<String> {
    world.bed.plugin.run(&["why", "-n", &world.name, job], "").await
}

/// The sum of the counts in those lines about `about` that contain `words`.
fn count(printed: &str, about: &str, words: &str) -> usize {
    let counted = |line: &str| {
        let (count, text) = line.strip_prefix(about)?.trim_start().split_once("  ")?;
        text.contains(words).then_some(count)?.parse::<usize>().ok()
    };
    printed.lines().filter_map(counted).sum()
}

#[tokio::test]
async fn job_of_a_class_that_no_owner_accepts_is_counted_by_vehicle_and_by_attempt() -> Result<()> {
    world::run("whyclass", async |world| {
        world.cars(2).await?;
        let mut job = world.example("hello/fleetjob.yaml")?;
        job["spec"]["class"] = "video".into();
        world.apply(&job).await?;
        world.pods_unplaced(3).await?;
        let said = why(world, "hello").await?;
        let unwilling = count(&said, "vehicles", "its owner does not accept the class 'video'");
        ensure!(unwilling == 2, "{unwilling} unwilling vehicles of 2:\n{said}");
        // In the scheduler's words, which count the Nodes of all tests and so may differ between Pods.
        let unplaced = count(&said, "attempts", "not placed: 0/");
        ensure!(unplaced == 3, "{unplaced} attempts without a place of 3:\n{said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn job_that_every_car_refuses_is_counted_by_reason() -> Result<()> {
    world::run("whyrefused", async |world| {
        world.cars(2).await?;
        world.apply(&refusals::refused_job(world)?).await?;
        refusals::nobody_accepts(world, "hello").await?;
        let said = why(world, "hello").await?;
        ensure!(
            count(&said, "job", "NotTrusted: 2") == 1,
            "the reason with how many cars gave it:\n{said}"
        );
        let refused = count(&said, "job", "refused: attempts that a car declined");
        ensure!(refused >= 2, "{refused} refused attempts, of at least 2:\n{said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn job_that_runs_is_counted_as_running_and_then_as_done() -> Result<()> {
    world::run("whyfine", async |world| {
        let car = world.cars(1).await?.remove(0);
        world.apply(&support::first_share(world, 12)?).await?;
        world.running_on(&car).await?;
        let said = why(world, "digits").await?;
        ensure!(
            count(&said, "attempts", "running") == 1,
            "the one attempt runs:\n{said}"
        );
        ensure!(
            count(&said, "vehicles", "available for this class") == 1,
            "the one vehicle takes the job:\n{said}"
        );
        ensure!(
            !said.contains("refused") && !said.contains("not placed"),
            "nothing is amiss:\n{said}"
        );
        world.complete("digits", world::DEADLINE).await?;
        let said = why(world, "digits").await?;
        ensure!(
            count(&said, "job", "of 1 indexes have an accepted result") == 1,
            "the one index is done:\n{said}"
        );
        ensure!(count(&said, "job", "Complete: ") == 1, "the job is over:\n{said}");
        Ok(())
    })
    .await
}
