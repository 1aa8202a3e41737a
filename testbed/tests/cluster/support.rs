//! What several subjects need: Pods and jobs made from the examples, programs of the tests' own, what a car says of its own work, the
//! cluster's time, and where figures go.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kerbside_core::names;
use kerbside_testbed::endpoints::SYSTEM_NAMESPACE;
use kerbside_testbed::fleet::car::Car;
use kerbside_testbed::registry::artifact::Artifact;
use kerbside_testbed::registry::push::push;
use kerbside_testbed::world::{self, World};
use kerbside_testbed::{layout, wait};
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

/// A FleetJob of one attempt that runs until it is stopped.
pub(crate) fn endless(world: &World) -> Result<Value> {
    let mut job = world.example("hello/fleetjob.yaml")?;
    let ticker = world.example("deployment/deployment.yaml")?["spec"]["template"]["spec"].take();
    one_index(&mut job);
    job["spec"]
        .as_object_mut()
        .context("a job has a spec")?
        .remove("output");
    job["spec"]["template"]["spec"]["containers"] = ticker["containers"].clone();
    Ok(job)
}

fn one_index(job: &mut Value) {
    job["spec"]["completions"] = 1.into();
    job["spec"]["parallelism"] = 1.into();
}

/// A program that waits for as long as this and has succeeded: it can be found at work, and nobody computes meanwhile. Gives its image.
pub(crate) async fn sleeper(world: &World, nap: Duration) -> Result<String> {
    // WASI's `poll_oneoff` takes a subscription of 48 bytes: at 16 the clock, here the monotonic one, at 24 the time in nanoseconds.
    let text = format!(
        "(module
          (import \"wasi_snapshot_preview1\" \"poll_oneoff\" (func $poll (param i32 i32 i32 i32) (result i32)))
          (memory (export \"memory\") 1)
          (func (export \"_start\")
            (i32.store (i32.const 16) (i32.const 1))
            (i64.store (i32.const 24) (i64.const {}))
            (if (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)) (then unreachable))))",
        nap.as_nanos()
    );
    let module = wat::parse_str(text).context("the test's program is valid text")?;
    let name = format!("sleeper-{}", nap.as_secs());
    push(&world.bed.endpoints.registry, &name, "1", &Artifact::wasm(module)?).await
}

/// A FleetJob of one index that sleeps, and whose output is empty.
pub(crate) async fn sleeping(world: &World, nap: Duration) -> Result<Value> {
    let mut job = world.example("hello/fleetjob.yaml")?;
    one_index(&mut job);
    let container = &mut job["spec"]["template"]["spec"]["containers"][0];
    container["image"] = sleeper(world, nap).await?.into();
    container["args"] = json!([]);
    Ok(job)
}

/// The UID of the attempt whose result was accepted for index 0 of the job, by what the store has on record.
pub(crate) async fn accepted(world: &World, job: &str) -> Result<String> {
    let uid = world.job(job, "the job's UID", |j, _| j.metadata.uid.clone()).await?;
    let place = world
        .bed
        .endpoints
        .store
        .directory
        .join(names::store::result(&world.name, &uid, 0));
    let record: Value = layout::read_json(&place)?;
    let uid = record["uid"].as_str();
    Ok(uid.context("a result names its attempt")?.to_owned())
}

/// Keeps a figure that the test has measured: beside the logs, where `make nightly` takes it from.
pub(crate) fn keep(world: &World, figure: &str, mut values: Value) -> Result<()> {
    values["figure"] = figure.into();
    println!("{values}");
    let path = world.bed.layout.dir("logs")?.join("figures.jsonl");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    // In one write, for tests run beside each other.
    file.write_all(format!("{values}\n").as_bytes())
        .with_context(|| format!("failed to write to {}", path.display()))
}

/// Waits until it is past `end`, by what the API server has on record: the operator renews its Lease every two seconds.
pub(crate) async fn past(world: &World, end: Timestamp, what: &str) -> Result<()> {
    let api: Api<Lease> = Api::namespaced(world.client(), SYSTEM_NAMESPACE);
    wait::object(&api, OPERATOR, what, world::DEADLINE, |lease| {
        (renewed(lease)? >= end).then_some(())
    })
    .await
}

/// Waits until this time has passed, by the same record.
pub(crate) async fn for_as_long_as(world: &World, time: Duration, what: &str) -> Result<()> {
    let api: Api<Lease> = Api::namespaced(world.client(), SYSTEM_NAMESPACE);
    let begin = wait::object(&api, OPERATOR, what, world::DEADLINE, renewed).await?;
    wait::object(&api, OPERATOR, what, time + world::DEADLINE, |lease| {
        let since = renewed(lease)?.duration_since(begin);
        (Duration::try_from(since).ok()? >= time).then_some(())
    })
    .await
}

/// The operator's Lease.
const OPERATOR: &str = "kerbside-operator";

fn renewed(lease: Option<&Lease>) -> Option<Timestamp> {
    Some(lease?.spec.as_ref()?.renew_time.as_ref()?.0)
}
