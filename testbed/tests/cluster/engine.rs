//! Ordinary containers in cars, with a real container engine: what a Pod is under a kubelet, it is here.
//!
//! The program in them is the testbed's actor, which does what the test tells it. Where containers cannot run (without root), these tests
//! say so and end; in CI that is a failure.

#[path = "engine/anew.rs"]
mod anew;
#[path = "engine/config.rs"]
pub(crate) mod config;
#[path = "engine/fence.rs"]
mod fence;
#[path = "engine/first.rs"]
mod first;
#[path = "engine/life.rs"]
mod life;
#[path = "engine/look.rs"]
mod look;
#[path = "engine/security.rs"]
mod security;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kerbside_testbed::fleet::car::{Car, Plan};
use kerbside_testbed::programs;
use kerbside_testbed::wait;
use kerbside_testbed::world::{self, DEADLINE, World};
use serde_json::{Value, json};

/// Runs a test in a world with one car that has a container engine.
pub(crate) async fn run<F>(name: &str, test: F) -> Result<()>
where
    F: AsyncFnOnce(&mut World, &Car) -> Result<()>,
{
    world::run(name, async |world| {
        if let Err(why) = &world.bed.endpoints.engine {
            if std::env::var_os("CI").is_some() {
                bail!("containers cannot run here, and CI must run them: {why}");
            }
            eprintln!("NOT TESTED: containers cannot run here: {why}");
            return Ok(());
        }
        let car = world.car(&plan()).await?;
        world.node(&car, "a Node that offers containers", offers).await?;
        test(world, &car).await
    })
    .await
}

/// A car with a container engine.
pub(crate) fn plan() -> Plan {
    Plan {
        containers: true,
        ..Plan::default()
    }
}

fn offers(node: Option<&k8s_openapi::api::core::v1::Node>) -> Option<()> {
    let labels = node?.metadata.labels.as_ref()?;
    (labels.get("kerbside.dev/runtime-container")? == "true").then_some(())
}

/// A Pod with one container, whose program does these acts: words, with `;` between two acts.
pub(crate) fn pod(world: &World, name: &str, acts: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": world.name, "labels": {"kerbside.dev/class": "inference"}},
        "spec": {
            "runtimeClassName": "kerbside-container",
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 5,
            // No other test's car.
            "nodeSelector": {"kerbside.dev/pool": world.name},
            "containers": [container(world, "main", acts)],
        },
    })
}

/// A container of such a Pod.
pub(crate) fn container(world: &World, name: &str, acts: &str) -> Value {
    json!({
        "name": name,
        "image": format!("{}/{}:{}", world.bed.endpoints.registry, programs::ACTOR, programs::TAG),
        "args": acts.split_whitespace().collect::<Vec<_>>(),
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}},
    })
}

/// Waits until the Pod is as wanted.
pub(crate) async fn until<T>(world: &World, name: &str, what: &str, is: impl Fn(&Pod) -> Option<T>) -> Result<T> {
    wait::object(&world.pods(), name, what, DEADLINE, |pod| is(pod?)).await
}

/// Applies the Pod and waits for its end.
pub(crate) async fn played(world: &World, pod: &Value) -> Result<Pod> {
    world.apply(pod).await?;
    let name = pod["metadata"]["name"].as_str().context("the Pod has a name")?;
    until(world, name, "the Pod to end", |pod| {
        matches!(world::phase(pod), "Succeeded" | "Failed").then(|| pod.clone())
    })
    .await
}

/// What a container has printed.
pub(crate) async fn log(world: &World, pod: &str, container: &str) -> Result<String> {
    world
        .kubectl()
        .run(&["logs", "-n", &world.name, pod, "-c", container], "")
        .await
}

/// The status of a container that is not an init container.
pub(crate) fn status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let all = pod.status.as_ref()?.container_statuses.as_ref()?;
    all.iter().find(|status| status.name == container)
}

/// How a container ended.
pub(crate) fn end<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStateTerminated> {
    status(pod, container)?.state.as_ref()?.terminated.as_ref()
}
