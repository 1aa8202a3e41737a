//! Ordinary containers in cars, with a real container engine: what a Pod is under a kubelet, it is here.
//!
//! The program in them is the testbed's actor, which does what the test tells it. The engine is the one that KERBSIDE_TEST_ENGINE names,
//! the pinned one if nothing is set; the most telling stories are told on Debian's too, always (`debian`). Where containers cannot run
//! (without root), these tests say so and end; in CI that is a failure.

#[path = "engine/anew.rs"]
mod anew;
#[path = "engine/asked.rs"]
mod asked;
#[path = "engine/config.rs"]
pub(crate) mod config;
#[path = "engine/debian.rs"]
mod debian;
#[path = "engine/egress.rs"]
mod egress;
#[path = "engine/fence.rs"]
pub(crate) mod fence;
#[path = "engine/first.rs"]
mod first;
#[path = "engine/life.rs"]
pub(crate) mod life;
#[path = "engine/look.rs"]
mod look;
#[path = "engine/pull.rs"]
mod pull;
#[path = "engine/restarts.rs"]
mod restarts;
#[path = "engine/security.rs"]
mod security;
#[path = "engine/streams.rs"]
pub(crate) mod streams;
#[path = "engine/unheard.rs"]
mod unheard;
#[path = "engine/volumes.rs"]
mod volumes;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Node, Pod};
use kerbside_testbed::engine::{self, Kind};
use kerbside_testbed::fleet::car::{Car, Plan};
use kerbside_testbed::programs;
use kerbside_testbed::wait;
use kerbside_testbed::world::{self, DEADLINE, World};
use serde_json::{Value, json};

/// Names the engine that the tests run on, by its word.
const VARIABLE: &str = "KERBSIDE_TEST_ENGINE";

/// The engine that the tests run on.
pub(crate) fn kind() -> Result<Kind> {
    std::env::var(VARIABLE).map_or(Ok(Kind::Pinned), |word| {
        word.parse().with_context(|| format!("{VARIABLE} names no engine"))
    })
}

/// Runs a test in a world with one car that has a container engine.
pub(crate) async fn run<F>(name: &str, test: F) -> Result<()>
where
    F: AsyncFnOnce(&mut World, &Car) -> Result<()>,
{
    run_on(kind()?, name, test).await
}

/// Likewise, whatever the environment says.
pub(crate) async fn run_on<F>(kind: Kind, name: &str, test: F) -> Result<()>
where
    F: AsyncFnOnce(&mut World, &Car) -> Result<()>,
{
    // One test may run on both at the same time.
    let name = match kind {
        Kind::Pinned => name.to_owned(),
        Kind::Debian => format!("d-{name}"),
    };
    world::run(&name, async |world| {
        if !is_there(world, kind)? {
            return Ok(());
        }
        let car = world.car(&plan(kind)).await?;
        world.node(&car, "a Node that offers containers", offers).await?;
        test(world, &car).await
    })
    .await
}

/// Whether the testbed has this engine. Without it nothing is tested, which is said; in CI that is an error.
pub(crate) fn is_there(world: &World, kind: Kind) -> Result<bool> {
    if let Err(why) = world.bed.endpoints.engine(kind) {
        let said = engine::untested(why, std::env::var_os("CI").as_deref())?;
        eprintln!("{said}");
        return Ok(false);
    }
    Ok(true)
}

/// A car with this container engine.
pub(crate) fn plan(kind: Kind) -> Plan {
    Plan {
        containers: Some(kind),
        ..Plan::default()
    }
}

/// Whether the car takes Pods for containers.
pub(crate) fn offers(node: Option<&Node>) -> Option<()> {
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

/// Waits until the Pod's container `main` runs and is ready.
pub(crate) async fn running(world: &World, name: &str) -> Result<Pod> {
    until(world, name, "to run", |pod| {
        status(pod, "main")?.ready.then(|| pod.clone())
    })
    .await
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

/// Changes the owner's document of a car, and waits until its agent has read it.
pub(crate) async fn amend(world: &World, car: &Car, edit: impl FnOnce(&mut Value)) -> Result<()> {
    let log = world.bed.layout.path(&format!("logs/car-{}.log", car.name));
    let read = || {
        let said = std::fs::read_to_string(&log).context("the car has a log")?;
        anyhow::Ok(said.matches("owner's document read").count())
    };
    let before = read()?;
    let path = car.dir().join("owner.yaml");
    let text = std::fs::read_to_string(&path).context("the car has an owner's document")?;
    let mut document: Value = serde_json::from_str(&text)?;
    edit(&mut document);
    std::fs::write(&path, document.to_string())?;
    wait::until("the document to be read", DEADLINE, async || {
        Ok((read()? > before).then_some(()))
    })
    .await
}

/// What an engine knows of the test's Pods: the ids of sandboxes and containers, or only of those that `filter` selects.
pub(crate) async fn known(world: &World, kind: Kind, filter: &str) -> Result<String> {
    let mut of_test = format!("labels.\"io.kubernetes.pod.namespace\"==\"{}\"", world.name);
    if !filter.is_empty() {
        of_test.extend([",", filter]);
    }
    let ids = engine::ctr(&world.bed.layout, kind, &["containers", "ls", "-q", &of_test]).await?;
    Ok(ids.trim().to_owned())
}

/// Waits until an engine knows nothing of the test's Pods any more.
pub(crate) async fn forgotten(world: &World, kind: Kind) -> Result<()> {
    wait::until("the engine to know nothing of it", world::DEADLINE, async || {
        Ok(known(world, kind, "").await?.is_empty().then_some(()))
    })
    .await
}

/// How often a container was started again.
pub(crate) fn restarts(pod: &Pod, container: &str) -> i32 {
    status(pod, container).map_or(0, |status| status.restart_count)
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
