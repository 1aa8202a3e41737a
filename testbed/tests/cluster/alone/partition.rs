//! A partition between one of our programs and the API server, in the middle of a job: packets are swallowed and no connection breaks. Cars
//! work on, nothing runs twice, and whoever was cut off catches up.

use super::*;

use kerbside_api::v1alpha1::FleetJobStatus;
use kerbside_core::names::reason;
use kerbside_testbed::process::Program;
use kerbside_testbed::{layout, wait};
use serde_json::{Value, json};

use crate::others::way::Way;

/// Longer than a call of the adapter waits for its answer, twice, and than its own Lease may be without a renewal unnoticed.
const CUT_OFF: Duration = Duration::from_secs(12);
/// An operator that cannot renew its Lease gives it up after ten seconds.
const GIVES_UP: Duration = Duration::from_secs(30);
/// For how long the attempts of two jobs may run unheard.
const FENCE: Duration = Duration::from_secs(15);

/// A way to the API server of the testbed.
pub(super) async fn way() -> Result<Way> {
    let bed = kerbside_testbed::bed::Bed::from_environment().await?;
    let config: Value = layout::read_json(&bed.endpoints.kubeconfig)?;
    let server = config["clusters"][0]["cluster"]["server"].as_str();
    let address = server.and_then(|s| s.strip_prefix("https://"));
    Way::to(address.context("the API server has an https address")?).await
}

/// The program as one that knows no other way to the API server.
pub(super) fn reached_by(world: &World, mut program: Program, way: &Way) -> Result<Program> {
    let known = program.env.get("KUBECONFIG");
    let known = known.with_context(|| format!("{} is told its cluster", program.name))?;
    let mut config: Value = layout::read_json(known.as_ref())?;
    config["clusters"][0]["cluster"]["server"] = way.url().into();
    let path = world.bed.layout.dir("kubeconfigs")?.join("by-a-way.kubeconfig");
    layout::write_json(&path, &config)?;
    program = program.env("KUBECONFIG", path.display().to_string());
    Ok(program)
}

/// Ends what runs by this name, in good order, and starts `program` in its place.
async fn exchange(world: &World, program: &Program) -> Result<Record> {
    let layout = &world.bed.layout;
    let old = process::find(layout, &program.name);
    process::end(layout, old.as_slice(), Duration::from_secs(15)).await?;
    let record = process::start(layout, program)?;
    at_work(&record).await?;
    Ok(record)
}

/// Runs `test` while `name` reaches the API server by a way only, and as before in the end, whatever came of it.
async fn with_a_way<F>(world: &mut World, name: &str, test: F) -> Result<()>
where
    F: AsyncFnOnce(&mut World, &Way) -> Result<()>,
{
    let straight = fleet::running(&world.bed.layout, name)?.program;
    let way = way().await?;
    let result = match exchange(world, &reached_by(world, straight.clone(), &way)?).await {
        Ok(_) => test(world, &way).await,
        Err(error) => Err(error),
    };
    way.free();
    let ended = exchange(world, &straight).await.map(drop);
    result.and(ended)
}

/// Every index was done once, by its first attempt, and nothing was lost.
async fn check_undisturbed(world: &World, seen: &jobs::Record) -> Result<()> {
    check_end(world, seen).await?;
    let status = world.job("digits", "the job's status", |_, s| Some(s.clone())).await?;
    let attempts = seen.attempts().len();
    ensure!(
        status.disruptions.is_empty() && attempts == support::SHORT,
        "a partition costs no attempt: {:?}, {attempts} attempts",
        status.disruptions
    );
    Ok(())
}

#[tokio::test]
async fn adapter_that_is_cut_off_from_the_api_server_mid_job_loses_no_index_and_repeats_none() -> Result<()> {
    world::run("cutad", async |world| {
        with_a_way(world, ADAPTER, async |world, way| {
            let (cars, seen) = third_of_a_job(world).await?;
            way.hold();
            let lasted = support::for_as_long_as(world, CUT_OFF, "the partition to have lasted");
            let idle = async {
                for car in &cars {
                    support::idle(car).await?;
                }
                Ok(())
            };
            let (lasted, idle) = futures::join!(lasted, idle);
            lasted.and(idle)?;
            way.free();
            check_undisturbed(world, &seen).await
        })
        .await
    })
    .await
}

/// Waits until as many attempts are at work in the car, by its own account.
async fn working(car: &Car, count: usize) -> Result<()> {
    wait::until_ok(&format!("{count} attempts at work"), world::DEADLINE, async || {
        let found = support::at_work(car).await?;
        ensure!(found == count, "{found} attempts run");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn adapter_that_is_cut_off_keeps_what_may_run_twice_and_not_what_may_run_once_only() -> Result<()> {
    world::run("cutonce", async |world| {
        with_a_way(world, ADAPTER, async |world, way| {
            let car = world.cars(1).await?.remove(0);
            for (name, replace) in [("once", "WhenFenced"), ("twice", "WhenSuspected")] {
                let mut job = support::endless(world)?;
                job["metadata"]["name"] = name.into();
                job["spec"]["onLoss"] = json!({"replace": replace, "runUnheardFor": format!("{}s", FENCE.as_secs())});
                world.apply(&job).await?;
            }
            working(&car, 2).await?;
            way.hold();
            // No other adapter can have taken over for the first seconds; then the fence runs, though the car is heard and answered.
            working(&car, 1).await?;
            // Both have the same fence: what still runs a moment later has outlived it.
            support::for_as_long_as(world, FENCE / 3, "the other to end, if it were to").await?;
            working(&car, 1).await?;
            way.free();
            let lost = |s: &FleetJobStatus| s.disruptions.get(reason::VEHICLE_LOST).copied();
            let once = world.job("once", "its end to be told", |_, s| lost(s)).await?;
            let twice = world.job("twice", "its status", |_, s| Some(lost(s))).await?;
            ensure!(once == 1 && twice.is_none(), "disruptions: {once}, {twice:?}");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn operator_that_is_cut_off_from_the_api_server_mid_job_gives_up_and_who_follows_repeats_no_index() -> Result<()>
{
    world::run("cutop", async |world| {
        with_a_way(world, OPERATOR, async |world, way| {
            let (cars, seen) = third_of_a_job(world).await?;
            let operator = world.bed.operator()?;
            way.hold();
            wait::until("an operator that cannot renew its claim to end", GIVES_UP, async || {
                Ok((!operator.alive()).then_some(()))
            })
            .await?;
            for car in &cars {
                support::idle(car).await?;
            }
            way.free();
            // As its Deployment would.
            world.bed.restart(OPERATOR).await?;
            check_undisturbed(world, &seen).await
        })
        .await
    })
    .await
}
