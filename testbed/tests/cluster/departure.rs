//! A car leaves while it works: typed, counted apart, replaced at once, and nothing is done twice.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kerbside_api::v1alpha1::VehiclePhase;
use kerbside_core::names::{condition, reason, taint};
use kerbside_testbed::fleet::car::{Car, Signals};
use kerbside_testbed::world::{self, World, index, jobs, on, phase};
use kerbside_testbed::{digits, tools};
use kube::ResourceExt;

use crate::support;

fn paused(node: &Node) -> bool {
    world::tainted(node, taint::PAUSED)
}

#[tokio::test]
async fn car_that_drives_off_mid_job_costs_a_disruption_and_no_failure() -> Result<()> {
    world::run("driveoff", async |world| {
        let cars = world.cars(2).await?;
        let seen = world.record();
        world.apply(&support::short_digits(world)?).await?;
        let lost = world.running_on(&cars[0]).await?;
        cars[0].signals(Signals::DrivesOff)?;
        world.phase(&cars[0], VehiclePhase::Away).await?;
        let status = world.complete("digits", Duration::from_mins(10)).await?;
        let departed = status
            .disruptions
            .get(reason::VEHICLE_DEPARTED)
            .copied()
            .unwrap_or_default();
        ensure!(
            departed >= 1,
            "at least one attempt was disrupted by the departure: {status:?}"
        );
        ensure!(
            status.failed == 0 && status.refused == 0,
            "a departure is neither failure nor refusal: {status:?}"
        );
        let verdict = digits::compare_first(&tools::checkout()?, &world.results("digits").await?, support::SHORT)?;
        ensure!(verdict.exact(), "{:?}", verdict.differences);
        let attempts = seen.attempts();
        ensure!(
            seen.repeated().is_empty(),
            "indexes that ran again after success: {:?}",
            seen.repeated()
        );
        let first = attempts
            .iter()
            .find(|p| p.uid() == lost.uid())
            .expect("the record has what was seen running");
        let target = world::condition(first, condition::DISRUPTION_TARGET);
        ensure!(
            phase(first) == "Failed" && target.is_some_and(|t| t.0 == "True"),
            "how the attempt ended: {first:?}"
        );
        let stopped = world::condition(first, condition::STOPPED);
        ensure!(
            stopped.is_some_and(|t| t.0 == "True"),
            "the car said that nothing of it is alive: {first:?}"
        );
        let again = attempts
            .iter()
            .find(|p| index(p) == index(first) && p.uid() != first.uid());
        ensure!(
            again.is_some_and(|p| on(p, cars[1].id.as_str())),
            "the index went to the other car"
        );
        Ok(())
    })
    .await
}

/// Waits until the cluster has been told that `car` is paused, and `pod` on it with it.
async fn told_as_paused(world: &World, car: &Car, pod: &Pod) -> Result<()> {
    world
        .node(car, "the Node to be tainted as paused", |n| paused(n?).then_some(()))
        .await?;
    world
        .wait_pods("the Pod to be unready because the vehicle is paused", |pods| {
            let pod = pods.iter().find(|p| p.uid() == pod.uid())?;
            (world::condition(pod, "Ready") == Some(("False", reason::VEHICLE_PAUSED))).then_some(())
        })
        .await
}

#[tokio::test]
async fn owner_who_pauses_freezes_the_work_and_costs_nothing() -> Result<()> {
    world::run("pause", async |world| {
        let car = world.cars(1).await?.remove(0);
        let seen = world.record();
        world.apply(&world.example("digits/fleetjob.yaml")?).await?;
        let pod = world.running_on(&car).await?;
        car.owner("pause").await?;
        told_as_paused(world, &car, &pod).await?;
        car.owner("resume").await?;
        world
            .job("digits", "the job to go on", |_, status| {
                (status.succeeded > 0).then_some(())
            })
            .await?;
        let attempts = seen.attempts();
        let same = attempts
            .iter()
            .find(|p| p.uid() == pod.uid())
            .expect("the record has what was seen running");
        ensure!(phase(same) != "Failed", "the paused attempt went on: {same:?}");
        let status = world.job("digits", "the job's status", |_, s| Some(s.clone())).await?;
        ensure!(
            status.disruptions.is_empty() && status.failed == 0,
            "a pause costs nothing: {status:?}"
        );
        ensure!(!jobs::has(&status, "Failed"), "{status:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn driver_who_opens_the_door_and_goes_away_again_costs_nothing() -> Result<()> {
    world::run("door", async |world| {
        let car = world.cars(1).await?.remove(0);
        let seen = world.record();
        // A twelfth of all images: long enough for the door to find it at work.
        world.apply(&support::first_share(world, 12)?).await?;
        let pod = world.running_on(&car).await?;
        car.signals(Signals::DriverReturns)?;
        told_as_paused(world, &car, &pod).await?;
        car.signals(Signals::Parked)?;
        world
            .node(&car, "the Node to be free of the taint", |n| {
                (!paused(n?)).then_some(())
            })
            .await?;
        let status = world.complete("digits", world::DEADLINE).await?;
        ensure!(
            status.succeeded == 1 && status.disruptions.is_empty() && status.failed == 0,
            "a short visit costs nothing: {status:?}"
        );
        let attempts = seen.attempts();
        ensure!(
            attempts.len() == 1 && attempts.iter().all(|p| p.uid() == pod.uid()),
            "the paused attempt went on, and nothing replaced it: {attempts:?}"
        );
        let disrupted = attempts
            .iter()
            .filter(|p| world::condition(p, condition::DISRUPTION_TARGET).is_some());
        ensure!(disrupted.count() == 0, "nobody announced a disruption: {attempts:?}");
        Ok(())
    })
    .await
}
