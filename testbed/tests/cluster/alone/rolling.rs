//! An adapter is replaced by another under load, as in a rolling update: it sends its cars away, looks after each until it has gone, and
//! nothing that runs is lost.

use kerbside_core::names::condition;
use kube::ResourceExt;

use super::replicas::{SECOND, another_adapter, owned_by, with_two};
use super::*;
use crate::others::way::Way;

const THIRD: &str = "testbed-2";

/// The Lease by which the others know that an adapter lives.
async fn lease_of(world: &World, replica: &str) -> Result<Option<Lease>> {
    let api: Api<Lease> = Api::namespaced(world.client(), SYSTEM_NAMESPACE);
    let lease = api.get_opt(&format!("kerbside-kubelet-{replica}")).await;
    lease.with_context(|| format!("failed to read the Lease of {replica}"))
}

/// Ends the second adapter in good order, with cars at work; the third one is there already, and new connections go to it.
async fn roll(world: &mut World, way: &Way, third: &str) -> Result<()> {
    let mut cars = Vec::new();
    for _ in 0..3 {
        cars.push(way.car(world).await?);
    }
    let seen = world.record();
    let mut job = support::short_digits(world)?;
    // It may run once only, and a car stops it ten seconds after the last word that was answered.
    loss::once_only(&mut job);
    world.apply(&job).await?;
    for car in &cars {
        owned_by(world, car, SECOND).await?;
        world.running_on(car).await?;
    }
    ensure!(lease_of(world, SECOND).await?.is_some(), "it shows that it lives");

    way.leads_to(third);
    let second = process::find(&world.bed.layout, "adapter-2").context("the second adapter was started")?;
    process::end(&world.bed.layout, &[second], Duration::from_secs(30)).await?;
    ensure!(
        lease_of(world, SECOND).await?.is_none(),
        "who ends in good order takes its Lease away"
    );
    for car in &cars {
        owned_by(world, car, THIRD).await?;
    }
    check_end(world, &seen).await?;
    let attempts = seen.attempts();
    ensure!(
        attempts.len() == support::SHORT,
        "no attempt is lost: {} for {} indexes",
        attempts.len(),
        support::SHORT
    );
    for pod in &attempts {
        let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref());
        let once = statuses.is_some_and(|all| all.iter().all(|c| c.restart_count == 0));
        let doubted = [condition::UNHEARD, condition::DISRUPTION_TARGET]
            .into_iter()
            .find(|c| world::condition(pod, c).is_some());
        ensure!(
            once && doubted.is_none(),
            "{} was started once and never doubted, not {doubted:?}",
            pod.name_any()
        );
    }
    Ok(())
}

#[tokio::test]
async fn adapter_that_is_replaced_under_load_loses_no_attempt_and_its_cars_move() -> Result<()> {
    with_two("rolling", async |world, way, second| {
        way.leads_to(second);
        let (third, link) = another_adapter(world, "adapter-3", THIRD).await?;
        let rolled = roll(world, way, &link).await;
        // The cars go back to the adapter that stays, before the last of their own is gone.
        way.leads_to_the_adapter(&world.bed)?;
        let ended = process::end(&world.bed.layout, &[third], Duration::from_secs(30)).await;
        rolled.and(ended)
    })
    .await
}
