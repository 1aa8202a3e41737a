//! Work that no car takes: told with its reasons, and without a flood of Pods.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kerbside_api::v1alpha1::FleetJobStatus;
use kerbside_testbed::world::{self, World, phase};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::support;

/// A pool lets no Secret into a car unless it says so.
fn with_secret(spec: &mut Value) {
    spec["volumes"] = json!([{"name": "keys", "secret": {"secretName": "keys"}}]);
}

/// The hello job, as no car takes it.
pub(crate) fn refused_job(world: &World) -> Result<Value> {
    let mut job = world.example("hello/fleetjob.yaml")?;
    with_secret(&mut job["spec"]["template"]["spec"]);
    Ok(job)
}

/// Waits until the job says that two cars refused it and nobody takes it; gives its words, and its status then.
pub(crate) async fn nobody_accepts(world: &World, job: &str) -> Result<(String, FleetJobStatus)> {
    world
        .job(job, "the job to say that nobody takes it", |_, s| {
            let wanted = |c: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
                c.type_ == "NoVehicleAccepts" && c.status == "True"
            };
            let found = s.conditions.iter().find(wanted)?;
            // Whoever refused is counted when the ends of the Pods are on record.
            (s.refused >= 2).then(|| (found.message.clone(), s.clone()))
        })
        .await
}

/// Waits until a minute has passed since the first of the test's Pods.
async fn minute_after_the_first_pod(world: &World) -> Result<()> {
    let first = world
        .wait_pods("a first Pod", |pods| {
            pods.iter()
                .filter_map(ResourceExt::creation_timestamp)
                .map(|t| t.0)
                .min()
        })
        .await?;
    let end = first
        .checked_add(Duration::from_mins(1))
        .context("a time of today has a next minute")?;
    support::past(world, end, "a minute to pass").await
}

#[tokio::test]
async fn deployment_that_every_car_refuses_makes_fewer_than_ten_pods_in_a_minute() -> Result<()> {
    world::run("refdeploy", async |world| {
        world.cars(2).await?;
        let seen = world.record();
        let mut deployment = world.example("deployment/deployment.yaml")?;
        deployment["spec"]["replicas"] = 3.into();
        with_secret(&mut deployment["spec"]["template"]["spec"]);
        world.apply(&deployment).await?;
        minute_after_the_first_pod(world).await?;
        let pods = seen.attempts();
        ensure!((3..10).contains(&pods.len()), "{} Pods", pods.len());
        ensure!(
            pods.iter().all(|p| matches!(phase(p), "Pending" | "Failed")),
            "a refused Pod started: {pods:?}"
        );
        let refused = pods
            .iter()
            .filter(|p| world::condition(p, kerbside_core::names::condition::REFUSED) == Some(("True", "NotTrusted")));
        ensure!(refused.count() >= 3, "the Pods say why: {pods:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn job_that_every_car_refuses_says_so_with_a_count_per_reason() -> Result<()> {
    world::run("refjob", async |world| {
        world.cars(2).await?;
        let seen = world.record();
        world.apply(&refused_job(world)?).await?;
        let (message, status) = nobody_accepts(world, "hello").await?;
        ensure!(message.contains("NotTrusted: 2"), "{message}");
        ensure!(
            status.failed == 0 && status.failed_indexes.is_empty() && status.disruptions.is_empty(),
            "a refusal is no failure: {status:?}"
        );
        ensure!(seen.attempts().len() < 10, "{} attempts", seen.attempts().len());
        Ok(())
    })
    .await
}
