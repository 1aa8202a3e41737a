//! What work takes of cars whose makers state their figures: in receipts and in the ledger, against the owner's price, and by the day.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kerbside_api::v1alpha1::VehiclePhase;
use kerbside_core::names::{condition, reason};
use kerbside_testbed::fleet::car::{Car, Plan, Signals};
use kerbside_testbed::wait;
use kerbside_testbed::world::{self, World};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::ledger::{ledger, receipts, settled};
use crate::support;

/// A car whose maker says that it takes so many watts to be awake, and 9 for a core.
fn metered(wake_watts: u32) -> Plan {
    Plan {
        energy: Some(json!({"model": {"wakeWatts": wake_watts, "wattsPerCore": 9, "errorPermille": 300}})),
        ..Plan::default()
    }
}

/// Prices at which a second of one core is worth a thousandth of a unit, and a joule a millionth: nothing is rounded.
fn priced(pool: &mut Value) {
    pool["spec"]["terms"] =
        json!({"currency": "EUR", "perCPUHour": "3.6", "perKWh": "3.6", "unaccepted": "EnergyOnly"});
}

/// The one receipt's joules, and the one row of the ledger, once it is settled. They agree, and every signature and amount holds.
async fn settled_energy(world: &World, car: &Car) -> Result<Value> {
    let sums = settled(world, car, 1).await?;
    let (row, receipts) = (&sums["sums"][0], receipts(car).await?);
    let [receipt] = &*receipts else {
        bail!("one attempt, one receipt: {receipts:?}");
    };
    let energy = &receipt["energy"];
    let (claimed, counts) = (energy["joules"].as_u64(), row["joules"].as_u64());
    ensure!(
        energy["method"] == "model" && energy["errorPermille"] == 300 && claimed > Some(0),
        "{receipt}"
    );
    ensure!(counts > Some(0) && counts <= claimed, "{receipt}; {sums}");
    ensure!(row["attempts"] == 1 && row["currency"] == "EUR", "{sums}");
    let (good, text, error) = ledger(world, car, &["verify"]).await?;
    ensure!(good, "{text}{error}");
    Ok(row.clone())
}

fn number(row: &Value, field: &str) -> Result<u64> {
    row[field]
        .as_u64()
        .with_context(|| format!("a sum has '{field}': {row}"))
}

#[tokio::test]
async fn accepted_work_is_paid_its_processor_time_and_its_energy_to_the_last_unit() -> Result<()> {
    world::run("energy", async |world| {
        world.pool(priced).await?;
        let car = world.car(&metered(120)).await?;
        let job = support::sleeping(world, Duration::from_secs(3)).await?;
        world.apply(&job).await?;
        let name = job["metadata"]["name"].as_str().context("a job has a name")?;
        world.complete(name, world::DEADLINE).await?;
        let row = settled_energy(world, &car).await?;
        let worth = number(&row, "cpuMs")? + number(&row, "joules")?;
        ensure!(row["accepted"] == 1 && number(&row, "amountMicro")? == worth, "{row}");
        let status = car.owner("status").await?.stdout;
        ensure!(status.contains("kWh for work today; known by model"), "{status}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn work_that_a_driver_ends_is_paid_its_energy_to_the_last_unit() -> Result<()> {
    world::run("energyleft", async |world| {
        world.pool(priced).await?;
        let car = world.car(&metered(120)).await?;
        world.apply(&support::endless(world)?).await?;
        world.running_on(&car).await?;
        // By what it has had when the driver comes it is seen to have had something.
        wait::until_ok("the work to have had energy", world::DEADLINE, async || {
            let status = car.owner("status").await?.stdout;
            let line = status.lines().find(|line| line.starts_with("energy"));
            ensure!(line.is_some_and(|line| !line.contains(" 0 kWh")), "{status}");
            Ok(())
        })
        .await?;
        car.signals(Signals::DrivesOff)?;
        world.phase(&car, VehiclePhase::Away).await?;
        // The Pod of an attempt whose replacement was made on the notice is held until its index is over, and settled then.
        let deleted = world.jobs().delete("hello", &DeleteParams::default()).await;
        deleted.context("failed to delete the job")?;
        let row = settled_energy(world, &car).await?;
        ensure!(
            row["accepted"] == 0 && number(&row, "amountMicro")? == number(&row, "joules")?,
            "energy, and no processor time: {row}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn work_that_pays_less_than_the_owner_wants_is_refused_with_the_numbers() -> Result<()> {
    world::run("energyfloor", async |world| {
        world
            .pool(|pool| {
                pool["spec"]["terms"] =
                    json!({"currency": "EUR", "perCPUHour": "0.02", "perKWh": "0.3", "unaccepted": "EnergyOnly"});
            })
            .await?;
        let plan = Plan {
            terms: json!({"tariff": {"currency": "EUR", "perKWh": "0.4"}, "priceFloorPerCPUHour": "0.01"}),
            ..metered(120)
        };
        let car = world.car(&plan).await?;
        // A tenth of a core bears all that the car takes to be awake: a core hour of it is 1.209 kWh.
        world.apply(&world.example("hello/fleetjob.yaml")?).await?;
        let message = world
            .wait_pods("a Pod that is refused for its pay", |pods| {
                let all = pods.iter().filter_map(|pod| pod.status.as_ref()?.conditions.as_ref());
                let found = all
                    .flatten()
                    .find(|c| c.type_ == condition::REFUSED && c.reason.as_deref() == Some(reason::PAY_BELOW_FLOOR));
                Some(found?.message.clone().unwrap_or_default())
            })
            .await?;
        let numbers = "it pays 0.3827 EUR per core hour, energy costs 0.4836 at the tariff of now, and the owner wants 0.01 EUR per core hour \
                       after the cost of energy";
        ensure!(message.contains(numbers), "{message}");
        let status = car.owner("status").await?.stdout;
        ensure!(
            status.contains("energy    0 kWh for work today") && status.contains("a kWh costs 0.4 EUR now"),
            "{status}"
        );
        ensure!(receipts(&car).await?.is_empty(), "nothing has run");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn day_whose_energy_is_used_up_ends_work_and_lets_none_begin() -> Result<()> {
    world::run("energyday", async |world| {
        let plan = Plan {
            // Four seconds at 900 W.
            terms: json!({"timeZone": "UTC", "maxKWhPerDay": "1m"}),
            ..metered(900)
        };
        let car = world.car(&plan).await?;
        world.apply(&support::endless(world)?).await?;
        world.running_on(&car).await?;
        world.phase(&car, VehiclePhase::Away).await?;
        let status = car.owner("status").await?.stdout;
        ensure!(
            status.contains("the energy that the owner gives for today is used up")
                && status.contains("kWh for work today, of at most 0.001"),
            "{status}"
        );
        world
            .wait_pods("what comes in its place to find nobody", |pods| {
                let unplaced = |pod| world::condition(pod, "PodScheduled") == Some(("False", "Unschedulable"));
                pods.iter().any(unplaced).then_some(())
            })
            .await
    })
    .await
}
