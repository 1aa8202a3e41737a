//! What several subjects need: Pods and jobs made from the examples, what a car says of its own work, and the cluster's time.

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kerbside_testbed::endpoints::SYSTEM_NAMESPACE;
use kerbside_testbed::fleet::car::Car;
use kerbside_testbed::wait;
use kerbside_testbed::world::{self, World};
use kube::api::Api;
use serde_json::{Value, json};

/// The Pod that an example makes, as a plain Pod for the cars of this test and no others.
pub(crate) fn plain_pod(world: &World, example: &str, name: &str) -> Result<Value> {
    let mut pod = world.example(example)?["spec"]["template"].take();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = name.into();
    pod["metadata"]["namespace"] = world.name.as_str().into();
    Ok(pod)
}

/// How many attempts have a live process, by the car's own account.
pub(crate) async fn at_work(car: &Car) -> Result<usize> {
    let status = car.owner("status").await?.stdout;
    let count = status.lines().find_map(|l| l.strip_prefix("attempts"));
    count
        .with_context(|| format!("the status counts no attempts: {status}"))?
        .trim()
        .parse()
        .context("the count of attempts is a number")
}

/// Waits until nothing runs in the car, by its own account.
pub(crate) async fn idle(car: &Car) -> Result<()> {
    wait::until_ok(
        &format!("nothing to run in {}", car.name),
        world::DEADLINE,
        async || {
            let count = at_work(car).await?;
            ensure!(count == 0, "{count} attempts run");
            Ok(())
        },
    )
    .await
}

/// How many of the digits example's 60 shares [`short_digits`] does: enough to be interrupted in the middle.
pub(crate) const SHORT: usize = 9;

/// The digits example, with its first [`SHORT`] shares only.
pub(crate) fn short_digits(world: &World) -> Result<Value> {
    let mut job = world.example("digits/fleetjob.yaml")?;
    job["spec"]["completions"] = SHORT.into();
    Ok(job)
}

/// The digits example as one index, which does the first of so many `shares` of the images. A car does a sixtieth in a few
/// seconds, a twelfth in some ten.
pub(crate) fn first_share(world: &World, shares: usize) -> Result<Value> {
    let mut job = world.example("digits/fleetjob.yaml")?;
    job["spec"]["completions"] = 1.into();
    job["spec"]["parallelism"] = 1.into();
    job["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "JOB_COMPLETIONS", "value": shares.to_string()}]);
    Ok(job)
}

/// Waits until it is past `end`, by what the API server has on record: the operator renews its Lease every two seconds.
pub(crate) async fn past(world: &World, end: Timestamp, what: &str) -> Result<()> {
    let api: Api<Lease> = Api::namespaced(world.client(), SYSTEM_NAMESPACE);
    wait::object(&api, "kerbside-operator", what, world::DEADLINE, |lease| {
        let renewed = lease?.spec.as_ref()?.renew_time.as_ref()?.0;
        (renewed >= end).then_some(())
    })
    .await
}
