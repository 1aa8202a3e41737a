//! Cars that are needed for a moment, or not heard for one, and stay: whoever waits for their Pods sees it, and nothing is done anew.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kerbside_core::names::{condition, reason, taint};
use kerbside_testbed::fleet::car::Signals;
use kerbside_testbed::wait;
use kerbside_testbed::world::{self, World, phase};
use kube::api::Api;
use kube::runtime::watcher;

use super::film::{Film, Frame, Step, ready_on, story};
use super::{ticker, way};
use crate::support;

/// Waits until the ReplicaSet has seen that so many of its Pods are ready; it counts its one Pod in any case.
async fn counted(world: &World, ready: i32) -> Result<()> {
    let api: Api<ReplicaSet> = Api::namespaced(world.client(), &world.name);
    let what = format!("the ReplicaSet to count one Pod, and {ready} ready");
    wait::objects(&api, watcher::Config::default(), &what, world::DEADLINE, |sets| {
        let status = sets.first()?.status.as_ref()?;
        (status.replicas == 1 && status.ready_replicas.unwrap_or_default() == ready).then_some(())
    })
    .await
}

/// Waits until the Pod is not ready for this reason.
async fn unready(world: &World, uid: &str, why: &str) -> Result<()> {
    world
        .wait_pods(&format!("the Pod not to be ready: {why}"), |pods| {
            let pod = pods.iter().find(|p| p.metadata.uid.as_deref() == Some(uid))?;
            (world::condition(pod, "Ready") == Some(("False", why))).then_some(())
        })
        .await
}

/// The one Pod was never replaced, and nobody ever spoke of its end.
fn check_untouched(frames: &[Frame<Pod>], uid: &str) -> Result<()> {
    ensure!(
        frames.iter().all(|f| f.is(uid)),
        "nothing was made in its place:\n{}",
        story(frames)
    );
    let untouched = |f: &Frame<Pod>| {
        f.step() == Step::Untouched
            && phase(&f.object) != "Failed"
            && world::condition(&f.object, condition::DISRUPTION_TARGET).is_none()
    };
    ensure!(
        frames.iter().all(untouched),
        "neither disruption, nor deletion, nor end:\n{}",
        story(frames)
    );
    Ok(())
}

/// Its Node is ready, and has our taint with this key.
fn ready_and_tainted(node: Option<&Node>, key: &str) -> Option<()> {
    let node = node?;
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    (ready && world::tainted(node, key)).then_some(())
}

#[tokio::test]
async fn deployments_pod_on_a_car_whose_door_is_opened_and_shut_again_waits_and_goes_on() -> Result<()> {
    world::run("opause", async |world| {
        let cars = world.cars(2).await?;
        let pods = Film::of_pods(world);
        world.apply(&ticker(world, "Deployment")?).await?;
        let (pod, car) = world.running_on_one_of(&cars).await?;
        let before = ready_on(world, car).await?;
        ensure!(pod.metadata.uid.as_ref() == Some(&before.uid), "there is one Pod");
        counted(world, 1).await?;
        car.signals(Signals::DriverReturns)?;
        unready(world, &before.uid, reason::VEHICLE_PAUSED).await?;
        world
            .node(car, "the Node to be ready, and tainted as paused", |n| {
                ready_and_tainted(n, taint::PAUSED)
            })
            .await?;
        counted(world, 0).await?;
        car.signals(Signals::Parked)?;
        let after = ready_on(world, car).await?;
        ensure!(
            after == before && after.restarts == 0,
            "the same run went on: {before:?}, then {after:?}"
        );
        counted(world, 1).await?;
        check_untouched(&pods.frames(), &before.uid)
    })
    .await
}

#[tokio::test]
async fn deployments_pod_on_a_car_that_was_unheard_for_a_while_is_ready_again_and_was_never_disrupted() -> Result<()> {
    way::run("oreturn", async |world, way| {
        let car = way.car(world).await?;
        let pods = Film::of_pods(world);
        world.apply(&ticker(world, "Deployment")?).await?;
        let before = ready_on(world, &car).await?;
        // Where a replacement could run.
        world.cars(1).await?;
        counted(world, 1).await?;
        way.cut();
        unready(world, &before.uid, reason::VEHICLE_UNHEARD).await?;
        world
            .node(&car, "the Node to be ready, and tainted as suspect", |n| {
                ready_and_tainted(n, taint::SUSPECT)
            })
            .await?;
        counted(world, 0).await?;
        world.link_says(&car, "not connected").await?;
        ensure!(
            support::at_work(&car).await? == 1,
            "the program goes on while its car is not heard"
        );
        way.free();
        let after = ready_on(world, &car).await?;
        ensure!(
            after == before && after.restarts == 0,
            "the same run went on: {before:?}, then {after:?}"
        );
        counted(world, 1).await?;
        let frames = pods
            .until("the Pod to be heard again and ready", |frames| {
                let last = &frames.last()?.object;
                let heard = world::condition(last, condition::UNHEARD)?.0 == "False";
                let ready = world::condition(last, "Ready")?.0 == "True";
                (heard && ready).then(|| frames.to_vec())
            })
            .await?;
        check_untouched(&frames, &before.uid)?;
        let unheard = |f: &&Frame<Pod>| world::condition(&f.object, condition::UNHEARD).is_some_and(|c| c.0 == "True");
        let first = frames.iter().find(unheard).context("it was said to be unheard")?;
        ensure!(
            world::condition(&first.object, condition::UNHEARD) == Some(("True", reason::VEHICLE_UNHEARD)),
            "with its reason:\n{}",
            story(&frames)
        );
        let ready = |f: &Frame<Pod>| world::condition(&f.object, "Ready").is_some_and(|c| c.0 == "True");
        ensure!(
            !frames.iter().filter(unheard).any(ready),
            "never unheard and ready at a time:\n{}",
            story(&frames)
        );
        Ok(())
    })
    .await
}
