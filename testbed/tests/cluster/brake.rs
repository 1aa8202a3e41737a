//! So many cars of a pool fall silent at once that the fault may be ours: their attempts are held, the pool says so, and nothing is
//! replaced before they return or their fences pass.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kerbside_api::v1alpha1::VehiclePool;
use kerbside_core::names::{condition, reason};
use kerbside_testbed::fleet::car::Car;
use kerbside_testbed::world::jobs::Record;
use kerbside_testbed::world::{self, World, index, phase};
use kerbside_testbed::{http, wait};
use kube::ResourceExt;
use kube::api::Api;
use serde_json::{Value, json};

use crate::{loss, support};

/// How many fall silent together: as many as the pool's brake needs.
const MANY: usize = 3;

/// Suspected as by default, and held when three of them go at once.
fn cautious(pool: &mut Value) {
    pool["spec"]["loss"] =
        json!({"suspectAfter": "10s", "keepNodeFor": "1m", "brake": {"share": 20, "atLeast": MANY, "window": "30s"}});
}

/// As many endless attempts as there are cars, each of which leaves no room for another.
fn one_for_each(world: &World) -> Result<Value> {
    let mut job = world.example("hello/fleetjob.yaml")?;
    let ticker = world.example("deployment/deployment.yaml")?["spec"]["template"]["spec"].take();
    job["spec"]["completions"] = MANY.into();
    job["spec"]["parallelism"] = MANY.into();
    job["spec"]
        .as_object_mut()
        .context("a job has a spec")?
        .remove("output");
    let container = &mut job["spec"]["template"]["spec"]["containers"][0];
    *container = ticker["containers"][0].clone();
    let resources = json!({"cpu": "700m", "memory": "32Mi"});
    container["resources"] = json!({"requests": resources, "limits": resources});
    Ok(job)
}

/// Three cars at work, a fourth that could take the work of one, and every attempt on record.
async fn at_work(world: &mut World, edit: impl FnOnce(&mut Value)) -> Result<(Vec<Car>, Car, Record)> {
    world.pool(cautious).await?;
    let cars = world.cars(MANY).await?;
    let seen = world.record();
    let mut job = one_for_each(world)?;
    edit(&mut job);
    world.apply(&job).await?;
    for car in &cars {
        world.running_on(car).await?;
    }
    let spare = world.cars(1).await?.remove(0);
    Ok((cars, spare, seen))
}

/// Waits until the pool says of its attempts that they are held, or that they are not.
async fn pool_says(world: &World, held: bool) -> Result<Condition> {
    let status = if held { "True" } else { "False" };
    let api: Api<VehiclePool> = Api::all(world.client());
    let what = format!("the pool's condition LossHeld to be {status}");
    wait::object(&api, &world.name, &what, world::DEADLINE, |pool| {
        let conditions = &pool?.status.as_ref()?.conditions;
        let says = |c: &&Condition| c.type_ == condition::LOSS_HELD && c.status == status;
        conditions.iter().find(says).cloned()
    })
    .await
}

/// Waits until the adapter's metrics say whether the brake is engaged, and how many vehicles are held.
async fn metrics_say(world: &World, engaged: bool, held: usize) -> Result<()> {
    let pool = format!("{{pool=\"{}\"}}", world.name);
    let wanted = [
        format!("kerbside_kubelet_brake_engaged{pool} {}", u8::from(engaged)),
        format!("kerbside_kubelet_vehicles_held{pool} {held}"),
    ];
    wait::until_ok(&format!("the metrics {wanted:?}"), world::DEADLINE, async || {
        let metrics = http::get(&world.bed.endpoints.adapter, "/metrics").await?;
        for line in &wanted {
            ensure!(metrics.lines().any(|l| l == line), "no line '{line}'");
        }
        Ok(())
    })
    .await
}

/// Waits for an Event about the test's pool, which belongs to no namespace.
async fn told_of_the_pool(world: &World, reason: &str) -> Result<()> {
    let api: Api<Event> = Api::namespaced(world.client(), "default");
    let config = kube::runtime::watcher::Config::default();
    let what = format!("the Event {reason} about the pool");
    wait::objects(&api, config, &what, world::DEADLINE, |events| {
        let about = |e: &Event| e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(world.name.as_str());
        events
            .iter()
            .any(|e| about(e) && e.reason.as_deref() == Some(reason))
            .then_some(())
    })
    .await
}

/// Running and ready, started once, and never said to be unheard or disrupted.
fn untouched(pod: &Pod) -> bool {
    let ready = world::condition(pod, "Ready").is_some_and(|c| c.0 == "True");
    let doubted = [condition::UNHEARD, condition::DISRUPTION_TARGET];
    let undoubted = doubted.iter().all(|c| world::condition(pod, c).is_none());
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref());
    let once = statuses.is_some_and(|all| all.iter().all(|c| c.restart_count == 0));
    phase(pod) == "Running" && ready && undoubted && once
}

#[tokio::test]
async fn many_cars_that_fall_silent_together_are_held_and_nothing_is_replaced_when_they_return() -> Result<()> {
    world::run("brake", async |world| {
        let (cars, _spare, seen) = at_work(world, |_| {}).await?;
        pool_says(world, false).await?;
        for car in &cars {
            car.freeze()?;
        }
        let held = pool_says(world, true).await?;
        ensure!(held.reason == "ManyVehiclesUnheard", "{held:?}");
        metrics_say(world, true, MANY).await?;
        told_of_the_pool(world, "ManyVehiclesUnheard").await?;
        for car in &cars {
            let what = "the Node of a held car to take nothing new";
            world.node(car, what, loss::suspected).await?;
        }
        // By the default terms, what falls silent alone is replaced after twelve seconds.
        let replaced_by = held.last_transition_time.0 + Duration::from_secs(15);
        support::past(world, replaced_by, "the time in which one that is lost is replaced").await?;
        pool_says(world, true).await?;
        let attempts = seen.attempts();
        ensure!(attempts.len() == MANY, "nothing is replaced: {attempts:?}");
        ensure!(attempts.iter().all(untouched), "{attempts:?}");

        for car in &cars {
            car.thaw()?;
        }
        pool_says(world, false).await?;
        metrics_say(world, false, 0).await?;
        told_of_the_pool(world, "LossReleased").await?;
        for car in &cars {
            let heard = |n: Option<&_>| loss::suspected(n).is_none().then_some(());
            world.node(car, "the car to take work again", heard).await?;
            ensure!(support::at_work(car).await? == 1, "its program was never stopped");
        }
        let attempts = seen.attempts();
        ensure!(attempts.len() == MANY, "nothing was replaced: {attempts:?}");
        ensure!(attempts.iter().all(untouched), "{attempts:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn many_cars_that_are_lost_together_are_replaced_at_their_fences_and_not_before() -> Result<()> {
    world::run("brakelost", async |world| {
        let short =
            |job: &mut Value| job["spec"]["onLoss"] = json!({"replace": "WhenSuspected", "runUnheardFor": "30s"});
        let (cars, spare, _seen) = at_work(world, short).await?;
        futures::future::try_join_all(cars.iter().map(Car::crash)).await?;
        pool_says(world, true).await?;
        metrics_say(world, true, MANY).await?;
        let first = world
            .wait_pods("a lost attempt to be given up", |pods| {
                let stopped = |p: &Pod| world::condition(p, condition::STOPPED).map(|c| c.1.to_owned());
                let ends: Vec<_> = pods.iter().filter_map(stopped).collect();
                let unheard = pods
                    .iter()
                    .any(|p| world::condition(p, condition::UNHEARD).is_some_and(|c| c.0 == "True"));
                let gave_up = unheard && ends.is_empty();
                (gave_up || !ends.is_empty() || pods.len() > MANY).then_some((pods.len(), ends))
            })
            .await?;
        ensure!(
            first == (MANY, vec![reason::FENCED.to_owned()]),
            "alone until fenced: {first:?}"
        );
        let replaced = world
            .wait_pods("each index to have an attempt that is not fenced", |pods| {
                let alive = |p: &&Pod| world::condition(p, condition::STOPPED).is_none();
                let mut indexes: Vec<_> = pods.iter().filter(alive).filter_map(index).collect();
                indexes.sort_unstable();
                (indexes == [0, 1, 2]).then(|| pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>())
            })
            .await?;
        world
            .running_on(&spare)
            .await
            .with_context(|| format!("of {replaced:?} one runs on the spare car"))?;
        pool_says(world, false).await?;
        metrics_say(world, false, 0).await?;
        Ok(())
    })
    .await
}
