//! Nothing of a container outlives what it may: its agent, its fence, the car's stay.

use std::io::Read as _;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kerbside_core::names::{condition, reason};
use kerbside_testbed::engine::Kind;
use kerbside_testbed::fleet::car::{Car, Signals};
use kerbside_testbed::world::World;
use kerbside_testbed::{wait, world};
use kerbside_vehicle_agent::cgroup::Cgroup;
use kerbside_vehicle_agent::runtime::cri;
use kube::ResourceExt;
use serde_json::json;

use super::life::shared;
use super::{container, forgotten, kind, known, pod, run, run_on, running, until};
use crate::loss::{impatient, once_only};

/// Everything that runs in containers in the car.
pub(crate) fn group(car: &Car) -> Cgroup {
    cri::group_of(&car.dir())
}

fn processes(car: &Car) -> Result<usize> {
    Ok(group(car).pids().context("control groups can be read")?.len())
}

pub(crate) async fn nothing_runs(car: &Car) -> Result<()> {
    wait::until("nothing to run in the car", world::DEADLINE, async || {
        Ok((processes(car)? == 0).then_some(()))
    })
    .await
}

/// Waits until each of the test's Pods is gone, or told as one whose car has left.
pub(crate) async fn departed(world: &World) -> Result<()> {
    world
        .wait_pods("the Pods to be gone, or told as departed", |pods| {
            let told = |pod: &Pod| {
                let why = pod.status.as_ref().and_then(|status| status.reason.clone());
                why.as_deref() == Some(reason::VEHICLE_DEPARTED)
            };
            pods.iter().all(told).then_some(())
        })
        .await
}

#[tokio::test]
async fn agent_that_is_killed_takes_its_containers_with_it_and_the_next_one_clears_away() -> Result<()> {
    killed(kind()?).await
}

pub(super) async fn killed(kind: Kind) -> Result<()> {
    run_on(kind, "engine-killed", async |world, car| {
        world.apply(&pod(world, "lives", "stay")).await?;
        running(world, "lives").await?;
        ensure!(processes(car)? >= 2, "the program and its sandbox");
        car.crash().await?;
        nothing_runs(car).await?;
        ensure!(
            !known(world, kind, "").await?.is_empty(),
            "the engine still knows the sandbox"
        );
        car.start()?;
        until(world, "lives", "its end", |pod| {
            (world::phase(pod) == "Failed").then_some(())
        })
        .await?;
        forgotten(world, kind).await?;
        // And it works on.
        let next = super::played(world, &pod(world, "next", "say hello")).await?;
        ensure!(world::phase(&next) == "Succeeded", "{:?}", next.status);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn container_in_a_car_that_leaves_runs_its_hook_is_asked_and_gone_within_the_notice() -> Result<()> {
    run("engine-leaves", async |world, car| {
        // Its own grace is longer than the car's notice; it does not listen.
        let mut deaf = pod(world, "deaf", "stay");
        deaf["spec"]["terminationGracePeriodSeconds"] = 600.into();
        world.apply(&deaf).await?;
        let mut polite = pod(world, "polite", "wait");
        polite["spec"]["terminationGracePeriodSeconds"] = 600.into();
        world.apply(&polite).await?;
        // It does not listen either, so what its hook writes is there until the notice is over.
        let mut hooked = shared(world, "hooked", &[("main", "stay")]);
        hooked["spec"]["terminationGracePeriodSeconds"] = 600.into();
        let hook = json!({"exec": {"command": ["/actor", "write", "/work/word", "leave"]}});
        hooked["spec"]["containers"][0]["lifecycle"] = json!({"preStop": hook});
        world.apply(&hooked).await?;
        for name in ["deaf", "polite"] {
            running(world, name).await?;
        }
        let uid = running(world, "hooked").await?.uid().context("a Pod has a UID")?;
        let word = car.dir().join("attempts").join(uid).join("volumes/work/word");
        let began = tokio::time::Instant::now();
        car.signals(Signals::Spent)?;
        wait::until(
            "the hook to have run in the car that leaves",
            world::DEADLINE,
            async || Ok(word.exists().then_some(())),
        )
        .await?;
        nothing_runs(car).await?;
        let took = began.elapsed();
        // The car of these tests gives notice of 5 s.
        ensure!(took.as_secs() < 9, "it took {took:?}");
        departed(world).await
    })
    .await
}

#[tokio::test]
async fn container_in_a_car_that_drives_off_is_killed_at_once_and_runs_no_hook() -> Result<()> {
    run("engine-drives", async |world, car| {
        let mut hooked = shared(world, "hooked", &[("main", "wait ; write /work/word asked")]);
        hooked["spec"]["terminationGracePeriodSeconds"] = 600.into();
        let hook = json!({"exec": {"command": ["/actor", "write", "/work/word", "leave"]}});
        hooked["spec"]["containers"][0]["lifecycle"] = json!({"preStop": hook});
        world.apply(&hooked).await?;
        let uid = running(world, "hooked").await?.uid().context("a Pod has a UID")?;
        // It goes with the attempt; what is written to it before is seen here.
        let word = car.dir().join("attempts").join(uid).join("volumes/work/word");
        std::fs::write(&word, "").context("the volume is there")?;
        let mut word = std::fs::File::open(word).context("the file is there")?;
        let began = tokio::time::Instant::now();
        car.signals(Signals::Driving)?;
        nothing_runs(car).await?;
        let took = began.elapsed();
        // Far less than the notice of 5 s, which such a car does not take.
        ensure!(took.as_millis() < 3_500, "it took {took:?}");
        departed(world).await?;
        let mut written = String::new();
        word.read_to_string(&mut written).context("the file can be read")?;
        ensure!(
            written.is_empty(),
            "neither its hook nor the program does anything more: {written}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn guard_ends_the_containers_of_an_agent_that_stands_still_at_its_fence() -> Result<()> {
    run("engine-fence", async |world, car| {
        world.pool(impatient).await?;
        let mut job = world.example("hello/fleetjob.yaml")?;
        job["spec"]["completions"] = 1.into();
        job["spec"]["parallelism"] = 1.into();
        once_only(&mut job);
        let template = &mut job["spec"]["template"]["spec"];
        template["runtimeClassName"] = "kerbside-container".into();
        template["containers"] = json!([container(world, "main", "stay")]);
        world.apply(&job).await?;
        let first = world.running_on(car).await?;
        ensure!(processes(car)? >= 2, "the program and its sandbox");
        car.freeze()?;
        let left = world
            .wait_pods("the stuck agent's attempt to be given up", |pods| {
                let pod = pods.iter().find(|p| p.uid() == first.uid())?;
                world::condition(pod, condition::STOPPED)?;
                Some(processes(car))
            })
            .await??;
        ensure!(left == 0, "{left} processes run after the fence");
        Ok(())
    })
    .await
}
