//! The programs that everybody shares are killed in the middle. nextest runs each of these with nothing beside it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kerbside_testbed::endpoints::SYSTEM_NAMESPACE;
use kerbside_testbed::fleet::car::Car;
use kerbside_testbed::fleet::name::{ADAPTER, OPERATOR};
use kerbside_testbed::process::Record;
use kerbside_testbed::world::{self, World, jobs, phase};
use kerbside_testbed::{digits, fleet, ports, process, tools};
use kube::api::Api;

use crate::{loss, support};

#[path = "alone/chaos.rs"]
mod chaos;
#[path = "alone/cloud.rs"]
mod cloud;
#[path = "alone/engine.rs"]
mod engine;
#[path = "alone/eviction.rs"]
mod eviction;
#[path = "alone/night.rs"]
mod night;
#[path = "alone/outage.rs"]
mod outage;
#[path = "alone/partition.rs"]
mod partition;
#[path = "alone/replicas.rs"]
mod replicas;
#[path = "alone/rolling.rs"]
mod rolling;

/// The option by which operator and adapter are told where their own HTTP port is.
const LISTEN: &str = "--listen";

/// Waits until operator or adapter is ready, whichever this is.
async fn at_work(record: &Record) -> Result<()> {
    let mut args = record.program.args.iter().skip_while(|a| *a != LISTEN).skip(1);
    let address = args.next().context("the program is told where to listen")?;
    fleet::ready(record, &format!("http://{address}")).await
}

/// Two cars that have done a third of the indexes.
async fn third_of_a_job(world: &mut World) -> Result<(Vec<Car>, jobs::Record)> {
    let cars = world.cars(2).await?;
    let seen = world.record();
    world.apply(&support::short_digits(world)?).await?;
    world
        .job("digits", "a third of the indexes", |_, s| {
            (usize::try_from(s.succeeded).ok()? >= support::SHORT / 3).then_some(())
        })
        .await?;
    Ok((cars, seen))
}

/// Kills `name` when a third of the indexes is complete, starts it again, and checks the end.
async fn killed_mid_job(world: &mut World, name: &str) -> Result<()> {
    let (_cars, seen) = third_of_a_job(world).await?;
    world.bed.crash(name).await?;
    world.bed.restart(name).await?;
    check_end(world, &seen).await
}

async fn check_end(world: &World, seen: &jobs::Record) -> Result<()> {
    let status = world.complete("digits", Duration::from_mins(10)).await?;
    let all = format!("0-{}", support::SHORT - 1);
    ensure!(status.completed_indexes == all && status.failed == 0, "{status:?}");
    ensure!(
        seen.repeated().is_empty(),
        "indexes that ran again after success: {:?}",
        seen.repeated()
    );
    let verdict = digits::compare_first(&tools::checkout()?, &world.results("digits").await?, support::SHORT)?;
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
        world
            .wait_pods("an attempt to run", |pods| {
                // The attempts of this job are short: one that is over was running too.
                pods.iter()
                    .any(|p| matches!(phase(p), "Running" | "Succeeded"))
                    .then_some(())
            })
            .await?;
        world.bed.crash(ADAPTER).await?;
        support::idle(&car).await?;
        world.bed.restart(ADAPTER).await?;
        let status = world.complete("hello", world::DEADLINE).await?;
        ensure!(status.succeeded == 3 && status.failed == 0, "{status:?}");
        ensure!(seen.repeated().is_empty(), "{:?}", seen.repeated());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pod_deleted_by_force_while_the_adapter_is_away_is_stopped_when_it_is_back() -> Result<()> {
    world::run("byforce", async |world| {
        let car = world.cars(1).await?.remove(0);
        let pod = support::plain_pod(world, "deployment/deployment.yaml", "ticker")?;
        world.apply(&pod).await?;
        world.running_on(&car).await?;
        world.bed.crash(ADAPTER).await?;
        let args = [
            "delete",
            "pod",
            "-n",
            &world.name,
            "ticker",
            "--grace-period=0",
            "--force",
            "--wait=false",
        ];
        world.kubectl().run(&args, "").await?;
        world
            .wait_pods("the Pod to be gone from the API", |pods| pods.is_empty().then_some(()))
            .await?;
        ensure!(support::at_work(&car).await? == 1, "nobody could tell the car");
        world.bed.restart(ADAPTER).await?;
        support::idle(&car).await
    })
    .await
}

/// Two attempts of one index run at the same time, and nobody is there to choose until both have finished.
#[tokio::test]
async fn two_attempts_of_one_index_that_both_finish_give_one_result() -> Result<()> {
    world::run("twofinish", async |world| {
        world.pool(loss::impatient).await?;
        let cars = world.cars(2).await?;
        world.apply(&support::first_share(world, 12)?).await?;
        let (_, silent) = world.running_on_one_of(&cars).await?;
        silent.freeze()?;
        world
            .node(silent, "the silent car to be suspected", loss::suspected)
            .await?;
        world
            .wait_pods("a second attempt to run beside the first", |pods| {
                (pods.len() == 2 && pods.iter().all(|p| phase(p) == "Running")).then_some(())
            })
            .await?;
        world.bed.crash(OPERATOR).await?;
        silent.thaw()?;
        world
            .wait_pods("both attempts to succeed", |pods| {
                (pods.len() == 2 && pods.iter().all(|p| phase(p) == "Succeeded")).then_some(())
            })
            .await?;
        world.bed.restart(OPERATOR).await?;
        let status = world.complete("digits", world::DEADLINE).await?;
        ensure!(
            status.succeeded == 1 && status.completed_indexes == "0" && status.failed == 0,
            "{status:?}"
        );
        let results = world.results("digits").await?;
        let files = std::fs::read_dir(results.join("0"))
            .context("index 0 left results")?
            .count();
        ensure!(files == 1, "one attempt's one file, not {files}");
        Ok(())
    })
    .await
}

/// The store's directory, with a file in its place until this is dropped.
struct StoreDown {
    store: PathBuf,
    aside: PathBuf,
}

impl StoreDown {
    fn new(world: &World) -> Result<Self> {
        let down = Self {
            store: world.bed.endpoints.store.directory.clone(),
            aside: world.bed.layout.path("store.aside"),
        };
        std::fs::rename(&down.store, &down.aside).context("failed to put the store aside")?;
        std::fs::write(&down.store, "").context("failed to put a file in the store's place")?;
        Ok(down)
    }
}

impl Drop for StoreDown {
    /// Whatever the test's end, the next one has its store.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.store);
        let _ = std::fs::rename(&self.aside, &self.store);
    }
}

#[tokio::test]
async fn store_that_is_down_delays_a_job_says_so_and_loses_nothing() -> Result<()> {
    world::run("nostore", async |world| {
        let car = world.cars(1).await?.remove(0);
        let seen = world.record();
        let down = StoreDown::new(world)?;
        world.apply(&world.example("hello/fleetjob.yaml")?).await?;
        world
            .wait_pods("all attempts to run", |pods| {
                (pods.len() == 3 && pods.iter().all(|p| phase(p) == "Running")).then_some(())
            })
            .await?;
        support::idle(&car).await?;
        // The outputs wait in the car: no attempt has succeeded without its output, and none has failed for it.
        let early = world.job("hello", "its status", |_, s| Some(s.clone())).await?;
        ensure!(early.succeeded == 0 && early.failed == 0, "{early:?}");
        // Now the store takes outputs, but no result of this job.
        let results = down.aside.join(&world.name).join("results");
        std::fs::create_dir_all(down.aside.join(&world.name)).context("failed to make the namespace in the store")?;
        std::fs::write(&results, "").context("failed to put a file in the results' place")?;
        let results = down.store.join(&world.name).join("results");
        drop(down);
        world
            .job("hello", "the job to say that the store is down", |_, s| {
                jobs::has(s, "StoreUnavailable").then_some(())
            })
            .await?;
        std::fs::remove_file(&results).context("failed to free the results' place")?;
        let status = world.complete("hello", world::DEADLINE).await?;
        ensure!(
            status.succeeded == 3 && status.failed == 0 && status.disruptions.is_empty(),
            "{status:?}"
        );
        ensure!(!jobs::has(&status, "StoreUnavailable"), "it is over: {status:?}");
        ensure!(seen.attempts().len() == 3, "nothing was done twice");
        let files = world.results("hello").await?;
        ensure!(files.join("2/hello.txt").is_file(), "the results are there");
        Ok(())
    })
    .await
}

/// Who leads the operators.
async fn leader(world: &World) -> Result<Option<String>> {
    let api: Api<Lease> = Api::namespaced(world.client(), SYSTEM_NAMESPACE);
    let lease = api
        .get("kerbside-operator")
        .await
        .context("failed to read the operators' Lease")?;
    Ok(lease.spec.and_then(|s| s.holder_identity))
}

/// Starts an operator beside the one that there is, as a second replica of the chart's Deployment would.
async fn second_operator(world: &World) -> Result<Record> {
    let mut program = world.bed.operator()?.program;
    program.name = "operator-2".into();
    let listen = program.args.iter().position(|a| a == LISTEN);
    let listen = listen.and_then(|at| program.args.get_mut(at + 1));
    listen
        .context("the operator is told where to listen")?
        .clone_from(&format!("127.0.0.1:{}", ports::free()?));
    let record = process::start(&world.bed.layout, &program)?;
    at_work(&record).await?;
    Ok(record)
}

#[tokio::test]
async fn second_operator_waits_for_the_first_and_takes_over_when_it_is_killed() -> Result<()> {
    world::run("takeover", async |world| {
        world.cars(1).await?;
        let second = second_operator(world).await?;
        let taken_over = take_over(world).await;
        // The first stands for election again; the second, which is ended in good order, gives the Lease back.
        let ended = process::end(&world.bed.layout, &[second], Duration::from_secs(15)).await;
        if world.bed.operator().is_err() {
            world.bed.restart(OPERATOR).await?;
        }
        taken_over.and(ended)?;
        run_hello(world, "after").await
    })
    .await
}

async fn take_over(world: &World) -> Result<()> {
    let first = leader(world).await?;
    run_hello(world, "before").await?;
    ensure!(
        leader(world).await? == first,
        "a second operator does not take what is held"
    );
    world.bed.crash(OPERATOR).await?;
    run_hello(world, "meanwhile").await?;
    ensure!(leader(world).await? != first, "the second operator leads");
    Ok(())
}

async fn run_hello(world: &World, name: &str) -> Result<()> {
    let mut job = world.example("hello/fleetjob.yaml")?;
    job["metadata"]["name"] = name.into();
    world.apply(&job).await?;
    let status = world.complete(name, world::DEADLINE).await?;
    ensure!(status.succeeded == 3 && status.failed == 0, "{name}: {status:?}");
    Ok(())
}
