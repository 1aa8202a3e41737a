//! Programs that misbehave: each ends as a Kubernetes user knows it, and the car goes on.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kerbside_core::names::reason;
use kerbside_testbed::registry::artifact::Artifact;
use kerbside_testbed::registry::push::push;
use kerbside_testbed::world::{self, World, phase};
use serde_json::{Value, json};

/// Asks for page after page, and uses each, until somebody ends it.
const HOG: &str = "(module (memory (export \"memory\") 1) (func (export \"_start\") (local i32)
  (loop (local.set 0 (memory.grow (i32.const 1)))
    (if (i32.eq (local.get 0) (i32.const -1)) (then unreachable))
    (i32.store (i32.mul (local.get 0) (i32.const 65536)) (i32.const 1)) (br 0))))";
/// Does something that WebAssembly forbids.
const TRAP: &str = "(module (memory (export \"memory\") 1) (func (export \"_start\") unreachable))";
/// Never ends, and never calls anything.
const SPIN: &str = "(module (memory (export \"memory\") 1) (func (export \"_start\") (loop (br 0))))";

/// Pushes a program and gives the hello job with it: one index, one try.
async fn job(world: &World, name: &str, program: &str) -> Result<Value> {
    let module = wat::parse_str(program).context("the test's program is valid text")?;
    let image = push(&world.bed.endpoints.registry, name, "1", &Artifact::wasm(module)?).await?;
    let mut job = world.example("hello/fleetjob.yaml")?;
    job["spec"]["completions"] = 1.into();
    job["spec"]["backoffLimitPerIndex"] = 0.into();
    job["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    Ok(job)
}

/// Waits for the end of the one container that there is.
async fn end(world: &World) -> Result<ContainerStateTerminated> {
    let ended = |p: &Pod| {
        p.status
            .as_ref()?
            .container_statuses
            .as_ref()?
            .first()?
            .state
            .as_ref()?
            .terminated
            .clone()
    };
    world
        .wait_pods("the container to end", |pods| pods.iter().find_map(ended))
        .await
}

/// A good job runs on the same car: nothing else was harmed.
async fn car_goes_on(world: &World) -> Result<()> {
    let mut good = world.example("hello/fleetjob.yaml")?;
    good["metadata"]["name"] = "after".into();
    world.apply(&good).await?;
    world.complete("after", world::DEADLINE).await.map(drop)
}

#[tokio::test]
async fn program_that_traps_fails_with_the_trap_and_is_tried_again_as_often_as_allowed() -> Result<()> {
    world::run("trap", async |world| {
        world.cars(1).await?;
        let mut job = job(world, "trap", TRAP).await?;
        job["spec"]["backoffLimitPerIndex"] = 1.into();
        world.apply(&job).await?;
        let end = end(world).await?;
        ensure!(end.exit_code != 0 && end.reason.as_deref() == Some("Error"), "{end:?}");
        ensure!(
            end.message.as_deref().is_some_and(|m| m.contains("unreachable")),
            "{end:?}"
        );
        let failed = world
            .complete("hello", world::DEADLINE)
            .await
            .err()
            .context("the job must fail")?;
        ensure!(format!("{failed:#}").contains("failed"), "{failed:#}");
        let status = world.job("hello", "its status", |_, s| Some(s.clone())).await?;
        ensure!(
            status.failed == 2 && status.failed_indexes == "0",
            "one try and one more: {status:?}"
        );
        car_goes_on(world).await
    })
    .await
}

#[tokio::test]
async fn program_that_wants_more_memory_than_its_limit_is_oom_killed() -> Result<()> {
    world::run("oom", async |world| {
        world.cars(1).await?;
        world.apply(&job(world, "hog", HOG).await?).await?;
        let end = end(world).await?;
        ensure!(
            end.reason.as_deref() == Some("OOMKilled") && end.exit_code == 137,
            "{end:?}"
        );
        car_goes_on(world).await
    })
    .await
}

#[tokio::test]
async fn program_that_never_ends_is_ended_by_the_jobs_deadline() -> Result<()> {
    world::run("spin", async |world| {
        let car = world.cars(1).await?.remove(0);
        let mut job = job(world, "spin", SPIN).await?;
        job["spec"]["activeDeadlineSeconds"] = 5.into();
        world.apply(&job).await?;
        world.running_on(&car).await?;
        let failed = world
            .complete("hello", world::DEADLINE)
            .await
            .err()
            .context("the job must fail")?;
        let reason = world
            .job("hello", "its reason", |_, s| {
                s.conditions
                    .iter()
                    .find(|c| c.type_ == "Failed")
                    .map(|c| c.reason.clone())
            })
            .await?;
        ensure!(reason == "DeadlineExceeded", "{reason}: {failed:#}");
        world
            .wait_pods("nothing to run", |p| {
                p.iter().all(|p| phase(p) != "Running").then_some(())
            })
            .await?;
        car_goes_on(world).await
    })
    .await
}

#[tokio::test]
async fn output_larger_than_the_job_allows_is_a_failure_that_says_so() -> Result<()> {
    world::run("toolarge", async |world| {
        world.cars(1).await?;
        let mut job = world.example("hello/fleetjob.yaml")?;
        job["spec"]["completions"] = 1.into();
        job["spec"]["backoffLimitPerIndex"] = 0.into();
        job["spec"]["output"]["maxBytes"] = json!("1");
        world.apply(&job).await?;
        world
            .wait_pods("the Pod to fail for its output", |pods| {
                let status = pods.iter().find(|p| phase(p) == "Failed")?.status.as_ref()?;
                (status.reason.as_deref() == Some(reason::OUTPUT_TOO_LARGE)).then_some(())
            })
            .await?;
        world
            .complete("hello", world::DEADLINE)
            .await
            .err()
            .context("the job must fail")?;
        car_goes_on(world).await
    })
    .await
}

#[tokio::test]
async fn module_that_is_not_webassembly_does_not_start_and_says_so() -> Result<()> {
    world::run("notwasm", async |world| {
        world.cars(1).await?;
        let artifact = Artifact::wasm(b"#!/bin/sh\necho hello\n".to_vec())?;
        let image = push(&world.bed.endpoints.registry, "notwasm", "1", &artifact).await?;
        let mut job = job(world, "trap", TRAP).await?;
        job["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
        world.apply(&job).await?;
        let end = end(world).await?;
        ensure!(end.reason.as_deref() == Some("StartError"), "{end:?}");
        ensure!(
            end.message.as_deref().is_some_and(|m| m.contains("WebAssembly")),
            "{end:?}"
        );
        car_goes_on(world).await
    })
    .await
}
