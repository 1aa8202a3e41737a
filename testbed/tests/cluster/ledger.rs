//! What cars have signed for, what is accepted of it, and what it is worth: from a FleetJob to `kubectl fleet ledger sum`.
//!
//! The ledger is of the whole cluster: a test asks after its own cars only.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kerbside_api::v1alpha1::VehiclePhase;
use kerbside_core::names::condition;
use kerbside_testbed::fleet::car::{Car, Signals};
use kerbside_testbed::wait;
use kerbside_testbed::world::{self, World};
use serde_json::{Value, json};

use crate::support;

/// A price at which a second of one core is worth a thousandth of a unit.
fn priced(pool: &mut Value) {
    pool["spec"]["terms"] =
        json!({"currency": "EUR", "perCPUHour": "3.6", "perKWh": "0.30", "unaccepted": "EnergyOnly"});
}

/// `kubectl fleet ledger VERB` of one car: whether it succeeded, and what it printed.
pub(crate) async fn ledger(world: &World, car: &Car, verb: &[&str]) -> Result<(bool, String, String)> {
    let operator = &world.bed.endpoints.operator;
    let args = ["ledger"].iter().chain(verb).copied();
    let args: Vec<&str> = args
        .chain(["--vehicle", car.id.as_str(), "--operator", operator])
        .collect();
    let output = world.bed.plugin.attempt(&args, "").await?;
    Ok((output.success, output.stdout, output.stderr))
}

/// The sums of a car's ledger.
async fn sums(world: &World, car: &Car) -> Result<Value> {
    let (good, text, error) = ledger(world, car, &["sum", "-o", "json"]).await?;
    ensure!(good, "{error}");
    serde_json::from_str(&text).context("sums are JSON")
}

/// The same, once it has so many lines and none waits.
pub(crate) async fn settled(world: &World, car: &Car, attempts: u64) -> Result<Value> {
    wait::until_ok("the car's receipts to be settled", world::DEADLINE, async || {
        let sums = sums(world, car).await?;
        let lines: u64 = sums["sums"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|sum| sum["attempts"].as_u64())
            .sum();
        ensure!(lines >= attempts && sums["unsettled"] == 0, "{sums}");
        Ok(sums)
    })
    .await
}

/// What the car itself says that its attempts used.
pub(crate) async fn receipts(car: &Car) -> Result<Vec<Value>> {
    let text = car.agent(&["receipts", "list", "--json"]).await?.stdout;
    let receipt = |line| serde_json::from_str(line).context("a receipt is JSON");
    text.lines().map(receipt).collect()
}

#[tokio::test]
async fn work_is_paid_by_the_terms_that_its_pod_was_made_with_to_the_last_unit() -> Result<()> {
    world::run("ledger", async |world| {
        world.pool(priced).await?;
        let car = world.cars(1).await?.remove(0);
        let seen = world.record();
        world.apply(&support::short_digits(world)?).await?;
        world.running_on(&car).await?;
        // What comes later is for Pods that are made later.
        world
            .pool(|pool| {
                priced(pool);
                pool["spec"]["terms"]["currency"] = "USD".into();
            })
            .await?;
        world.complete("digits", Duration::from_mins(10)).await?;
        let attempts = seen.attempts();
        let started = |pod| world::condition(pod, condition::STARTED).is_some_and(|(status, _)| status == "True");
        ensure!(
            attempts.iter().all(started),
            "every Pod says when it was first heard to run"
        );

        let sums = settled(world, &car, support::SHORT as u64).await?;
        ensure!(sums["findings"] == 0, "{sums}");
        let used = receipts(&car).await?;
        let total = |currency: &str, field: &str| -> u64 {
            let rows = sums["sums"].as_array().into_iter().flatten();
            rows.filter(|sum| sum["currency"] == currency && sum["part"].is_null())
                .filter_map(|sum| sum[field].as_u64())
                .sum()
        };
        let cpu: u64 = used.iter().filter_map(|receipt| receipt["cpuMs"].as_u64()).sum();
        ensure!(cpu > 0, "the car has used no processor: {used:?}");
        // A thousandth of a unit for a second is one millionth for a millisecond, so nothing is rounded.
        let (first, later) = (total("EUR", "amountMicro"), total("USD", "amountMicro"));
        ensure!(first + later == cpu && first > 0, "{cpu} ms in the car; {sums}");
        ensure!(
            total("EUR", "cpuMs") == first && total("USD", "cpuMs") == later,
            "{sums}"
        );

        let (good, text, error) = ledger(world, &car, &["verify"]).await?;
        ensure!(good && text.contains("findings: 0"), "{text}{error}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn work_that_a_departure_ends_is_in_the_ledger_and_earns_what_the_terms_say() -> Result<()> {
    world::run("ledgerleft", async |world| {
        world.pool(priced).await?;
        let car = world.cars(1).await?.remove(0);
        world.apply(&support::endless(world)?).await?;
        world.running_on(&car).await?;
        car.signals(Signals::DrivesOff)?;
        world.phase(&car, VehiclePhase::Away).await?;
        // Its replacement was made on the notice, so its Pod is held until its index is over; its receipt does not wait for that.
        let sums = settled(world, &car, 1).await?;
        let row = &sums["sums"][0];
        ensure!(
            row["attempts"] == 1 && row["accepted"] == 0 && row["amountMicro"] == 0 && row["currency"] == "EUR",
            "energy only, and none is measured yet: {sums}"
        );
        let (good, text, error) = ledger(world, &car, &["verify"]).await?;
        ensure!(good, "{text}{error}");
        Ok(())
    })
    .await
}

type Change = fn(&mut Value);

/// What somebody does to the export of a car with three attempts, and what is said of it.
const CHANGES: [(&str, Change, &str); 5] = [
    ("gap.json", |l| drop(half(l, "usage").remove(1)), "gap"),
    ("doubled.json", twice, "doubled"),
    ("reordered.json", |l| half(l, "usage").swap(1, 2), "out of order"),
    ("forged.json", forge, "forged"),
    ("another.json", |l| l["acceptances"][0] = l["usage"][0].clone(), "type"),
];

fn half<'a>(ledger: &'a mut Value, name: &str) -> &'a mut Vec<Value> {
    ledger[name].as_array_mut().expect("an export has both halves")
}

fn twice(ledger: &mut Value) {
    let line = ledger["acceptances"][0].clone();
    half(ledger, "acceptances").insert(1, line);
}

fn forge(ledger: &mut Value) {
    ledger["acceptances"][2]["signatures"] = ledger["acceptances"][1]["signatures"].clone();
}

#[tokio::test]
async fn ledger_that_was_changed_is_found_out_by_whoever_checks_it() -> Result<()> {
    world::run("ledgerforged", async |world| {
        world.pool(priced).await?;
        let car = world.cars(1).await?.remove(0);
        world.apply(&world.example("hello/fleetjob.yaml")?).await?;
        world.complete("hello", world::DEADLINE).await?;
        settled(world, &car, 3).await?;
        let (good, export, error) = ledger(world, &car, &["export"]).await?;
        ensure!(good, "{error}");
        let export: Value = serde_json::from_str(&export).context("an export is JSON")?;
        let dir = world.bed.layout.dir(&format!("ledgers/{}", world.name))?;
        let check = async |name: &str, change: Change| -> Result<(bool, String)> {
            let mut changed = export.clone();
            change(&mut changed["vehicles"][0]);
            let file = dir.join(name);
            std::fs::write(&file, changed.to_string())?;
            let file = file.to_str().context("a testbed's path is text")?;
            let output = world
                .bed
                .plugin
                .attempt(&["ledger", "verify", "--file", file], "")
                .await?;
            Ok((output.success, output.stdout))
        };
        let (good, text) = check("whole.json", |_| ()).await?;
        ensure!(good && text.contains("findings: 0"), "{text}");
        for (name, change, says) in CHANGES {
            let (good, text) = check(name, change).await?;
            ensure!(!good && text.contains(says), "{name}: {text}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn car_that_is_set_back_to_an_old_state_takes_no_more_work_and_says_why() -> Result<()> {
    world::run("ledgerback", async |world| {
        world.pool(priced).await?;
        let car = world.cars(1).await?.remove(0);
        let (dir, old) = (car.dir(), car.dir().with_extension("old"));
        car.stop().await?;
        copy(&dir.join("receipts"), &old)?;
        car.start()?;
        world.phase(&car, VehiclePhase::Available).await?;
        let mut job = support::sleeping(world, Duration::from_secs(1)).await?;
        world.apply(&job).await?;
        let name = job["metadata"]["name"].as_str().context("a job has a name")?.to_owned();
        world.complete(&name, world::DEADLINE).await?;
        settled(world, &car, 1).await?;

        car.stop().await?;
        std::fs::remove_dir_all(dir.join("receipts"))?;
        copy(&old, &dir.join("receipts"))?;
        car.start()?;
        world.phase(&car, VehiclePhase::Available).await?;
        job["metadata"]["name"] = "again".into();
        world.apply(&job).await?;
        let status = wait::until_ok("the car to say why it takes no work", world::DEADLINE, async || {
            let status = car.owner("status").await?.stdout;
            ensure!(status.contains("NO MORE WORK IS TAKEN"), "{status}");
            Ok(status)
        })
        .await?;
        ensure!(
            status.contains("another receipt is stored under number 1") && status.contains("ReceiptsRefused"),
            "{status}"
        );
        world.phase(&car, VehiclePhase::Away).await?;
        // What was earned before is kept as it was.
        let sums = sums(world, &car).await?;
        ensure!(sums["sums"][0]["accepted"] == 1, "{sums}");
        Ok(())
    })
    .await
}

/// Copies a directory of files and of directories of files.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &place)?;
        } else {
            std::fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}
