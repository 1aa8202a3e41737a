//! What the owner of a job may do with it, and what it does by itself when it is over.

use anyhow::{Context, Result, ensure};
use kerbside_core::names::reason;
use kerbside_testbed::fleet::car::Signals;
use kerbside_testbed::world::{self, jobs};
use kerbside_testbed::{http, wait};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::support;

#[tokio::test]
async fn suspended_job_makes_no_attempt_until_it_is_resumed_and_goes_when_its_time_is_over() -> Result<()> {
    world::run("suspend", async |world| {
        world.cars(1).await?;
        let seen = world.record();
        let mut job = world.example("hello/fleetjob.yaml")?;
        job["spec"]["suspend"] = true.into();
        job["spec"]["ttlSecondsAfterFinished"] = 1.into();
        world.apply(&job).await?;
        world
            .job("hello", "the job to be suspended", |_, s| {
                jobs::has(s, "Suspended").then_some(())
            })
            .await?;
        ensure!(
            seen.attempts().is_empty(),
            "a suspended job makes no attempt: {:?}",
            seen.attempts()
        );
        let resume = Patch::Merge(json!({"spec": {"suspend": false}}));
        let resumed = world.jobs().patch("hello", &PatchParams::default(), &resume).await;
        resumed.context("failed to resume the job")?;
        // Its end may be gone before anybody has seen it: what counts is that all was done and that it went.
        wait::object(
            &world.jobs(),
            "hello",
            "the job to be deleted by its ttl",
            world::DEADLINE,
            |job| job.is_none().then_some(()),
        )
        .await?;
        let done = seen
            .attempts()
            .iter()
            .filter(|p| world::phase(p) == "Succeeded")
            .count();
        ensure!(done == 3 && seen.repeated().is_empty(), "{done} of 3 indexes were done");
        world
            .wait_pods("its Pods to go with it", |pods| pods.is_empty().then_some(()))
            .await
    })
    .await
}

#[tokio::test]
async fn index_that_is_disrupted_too_often_fails_with_its_job_and_says_so() -> Result<()> {
    world::run("maxdisrupt", async |world| {
        let car = world.cars(1).await?.remove(0);
        let mut job = support::first_share(world, 12)?;
        job["spec"]["maxDisruptionsPerIndex"] = 0.into();
        world.apply(&job).await?;
        world.running_on(&car).await?;
        car.signals(Signals::DrivesOff)?;
        let (message, status) = world
            .job("digits", "the job to have failed", |_, s| {
                let failed = s
                    .conditions
                    .iter()
                    .find(|c| c.type_ == "Failed" && c.status == "True")?;
                Some((failed.message.clone(), s.clone()))
            })
            .await?;
        ensure!(message.contains("disrupted 1 time"), "{message}");
        ensure!(
            status.failed == 0 && status.failed_indexes == "0",
            "a disruption is no failure of the program: {status:?}"
        );
        ensure!(
            status.disruptions.get(reason::VEHICLE_DEPARTED) == Some(&1),
            "{status:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn programs_tell_what_they_do_in_events_and_metrics() -> Result<()> {
    world::run("tell", async |world| {
        world.cars(1).await?;
        world.apply(&world.example("hello/fleetjob.yaml")?).await?;
        world.complete("hello", world::DEADLINE).await?;
        world.event("hello", "SuccessfulCreate", "3 Pods").await?;
        world.event("hello", "Completed", "").await?;
        let operator = http::get(&world.bed.endpoints.operator, "/metrics").await?;
        ensure!(operator.contains("kerbside_fleetjob_"), "{operator}");
        let adapter = http::get(&world.bed.endpoints.adapter, "/metrics").await?;
        ensure!(adapter.contains("kerbside_kubelet_node_writes_total"), "{adapter}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn examples_pool_is_accepted_as_it_is() -> Result<()> {
    world::run("pool", async |world| {
        let mut pool = world.example("digits/pool.yaml")?;
        // Pools belong to no namespace.
        pool["metadata"].as_object_mut().map(|m| m.remove("namespace"));
        let text = serde_json::to_string(&pool).context("failed to render JSON")?;
        let args = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        let said = world.kubectl().run(&args, &text).await?;
        ensure!(said.contains("demo"), "{said}");
        Ok(())
    })
    .await
}
