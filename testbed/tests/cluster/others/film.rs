//! Every version of objects, in the order in which the API server told of them, and what each version of a Pod says of its end.
//!
//! Called by tests that ask in which order something was said. A wait for a state alone may never see one that is over soon.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod};
use kerbside_core::names::{condition, reason};
use kerbside_testbed::fleet::car::Car;
use kerbside_testbed::wait;
use kerbside_testbed::world::{self, World, ending, on, phase};
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// One version of an object.
#[derive(Debug, Clone)]
pub(crate) struct Frame<K> {
    pub(crate) object: K,
    /// When the test heard of it.
    pub(crate) at: Instant,
    /// The object was gone then; this is how it was last.
    gone: bool,
}

/// Every version from the beginning of the film on.
pub(crate) struct Film<K> {
    seen: watch::Receiver<Vec<Frame<K>>>,
    task: AbortHandle,
}

impl<K> Film<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    fn begin(api: Api<K>, config: watcher::Config) -> Self {
        let (send, seen) = watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            let mut stream = std::pin::pin!(watcher(api, config));
            while let Some(event) = stream.next().await {
                let (object, gone) = match event {
                    Ok(Event::Apply(object) | Event::InitApply(object)) => (object, false),
                    Ok(Event::Delete(object)) => (object, true),
                    // The watch mends itself after an error.
                    Ok(Event::Init | Event::InitDone) | Err(_) => continue,
                };
                send.send_modify(|all: &mut Vec<Frame<K>>| all.push(Frame::new(object, gone)));
            }
        });
        Self {
            seen,
            task: task.abort_handle(),
        }
    }

    /// All versions so far.
    pub(crate) fn frames(&self) -> Vec<Frame<K>> {
        self.seen.borrow().clone()
    }

    /// Waits until `condition` over all versions so far gives something.
    pub(crate) async fn until<T>(&self, what: &str, condition: impl Fn(&[Frame<K>]) -> Option<T>) -> Result<T> {
        wait::seen(&self.seen, what, world::DEADLINE, |all| condition(all)).await
    }
}

impl<K> Drop for Film<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Film<Node> {
    /// Of the car's Node.
    pub(crate) fn of_node(world: &World, car: &Car) -> Self {
        let field = format!("metadata.name={}", car.id);
        Self::begin(Api::all(world.client()), watcher::Config::default().fields(&field))
    }
}

impl Film<Pod> {
    /// Of all Pods of the test.
    pub(crate) fn of_pods(world: &World) -> Self {
        Self::begin(world.pods(), watcher::Config::default())
    }

    /// Waits until the Pod is gone; every version of it.
    pub(crate) async fn life(&self, uid: &str) -> Result<Vec<Frame<Pod>>> {
        self.until(&format!("Pod {uid} to be gone"), |frames| {
            let own: Vec<_> = frames.iter().filter(|f| f.is(uid)).cloned().collect();
            own.last()?.gone.then_some(own)
        })
        .await
    }
}

/// How far the end of a Pod has come, in the order in which it must come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Nobody speaks of an end.
    Untouched,
    /// `DisruptionTarget` is True.
    Announced,
    /// It has a deletionTimestamp, and may still run.
    Deleted,
    /// `kerbside.dev/Stopped` is True.
    Stopped,
    /// It is no longer in the API.
    Gone,
}

impl<K: Resource> Frame<K> {
    fn new(object: K, gone: bool) -> Self {
        let at = Instant::now();
        Self { object, at, gone }
    }

    /// Its place among all writes to the cluster, of whatever kind: the revision of the one store behind it.
    pub(crate) fn revision(&self) -> Result<u64> {
        let version = self.object.meta().resource_version.as_deref().unwrap_or_default();
        version
            .parse()
            .with_context(|| format!("'{version}' is no revision of the store"))
    }
}

impl Frame<Pod> {
    /// Whether it is of this Pod.
    pub(crate) fn is(&self, uid: &str) -> bool {
        self.object.metadata.uid.as_deref() == Some(uid)
    }

    /// How far its end has come.
    pub(crate) fn step(&self) -> Step {
        let is = |type_: &str| world::condition(&self.object, type_).is_some_and(|c| c.0 == "True");
        if self.gone {
            Step::Gone
        } else if is(condition::STOPPED) {
            Step::Stopped
        } else if ending(&self.object) {
            Step::Deleted
        } else if is(condition::DISRUPTION_TARGET) {
            Step::Announced
        } else {
            Step::Untouched
        }
    }
}

/// What versions of Pods say, for whoever reads why a test failed.
pub(crate) fn story(frames: &[Frame<Pod>]) -> String {
    let lines = frames.iter().map(|frame| {
        let pod = &frame.object;
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let conditions = conditions.map(|c| format!("{}={}/{}", c.type_, c.status, c.reason.as_deref().unwrap_or("-")));
        format!(
            "{} {:?} {} {}",
            pod.name_any(),
            frame.step(),
            phase(pod),
            conditions.collect::<Vec<_>>().join(" ")
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A Pod that is ready: what stays as it is for as long as nothing of it is started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AtWork {
    pub(crate) uid: String,
    pub(crate) restarts: i32,
    started: Option<Timestamp>,
}

impl AtWork {
    fn of(pod: &Pod) -> Option<Self> {
        let ready = world::condition(pod, "Ready").is_some_and(|c| c.0 == "True") && !ending(pod);
        let container = containers(pod).next().filter(|_| ready)?;
        let running = container.state.as_ref()?.running.as_ref()?;
        Some(Self {
            uid: pod.uid()?,
            restarts: container.restart_count,
            started: running.started_at.as_ref().map(|t| t.0),
        })
    }
}

/// The statuses of the Pod's containers.
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten())
}

/// Waits until a Pod is ready on `car`.
pub(crate) async fn ready_on(world: &World, car: &Car) -> Result<AtWork> {
    let node = car.id.as_str();
    world
        .wait_pods(&format!("a Pod to be ready on {node}"), |pods| {
            pods.iter().filter(|p| on(p, node)).find_map(AtWork::of)
        })
        .await
}

/// Everything was said of the Pod in its order, and each time all that belongs to it. `notice` is the car's.
pub(crate) fn check_end(life: &[Frame<Pod>], notice: Duration) -> Result<()> {
    let mut steps: Vec<Step> = life.iter().map(Frame::step).collect();
    steps.dedup();
    let all = [
        Step::Untouched,
        Step::Announced,
        Step::Deleted,
        Step::Stopped,
        Step::Gone,
    ];
    ensure!(steps == all, "announced, deleted, stopped, gone:\n{}", story(life));
    for frame in life {
        let pod = &frame.object;
        let says = |type_: &str| world::condition(pod, type_);
        let departed = says(condition::DISRUPTION_TARGET) == Some(("True", reason::VEHICLE_DEPARTED));
        let leaving = departed && says("Ready") == Some(("False", reason::VEHICLE_LEAVING)) && phase(pod) == "Running";
        let well = match frame.step() {
            Step::Untouched | Step::Gone => true,
            Step::Announced => leaving,
            Step::Deleted => leaving && grace(pod).is_some_and(|g| g <= notice),
            Step::Stopped => departed && is_stopped(pod),
        };
        ensure!(
            well,
            "{:?}, with grace {:?} of a notice of {notice:?}:\n{}",
            frame.step(),
            grace(pod),
            story(life)
        );
    }
    Ok(())
}

/// What the deletion gives it.
pub(crate) fn grace(pod: &Pod) -> Option<Duration> {
    let seconds = u64::try_from(pod.metadata.deletion_grace_period_seconds?);
    Some(Duration::from_secs(seconds.unwrap_or(u64::MAX)))
}

/// Failed because its car departed, by the car's own word that nothing of it is alive.
pub(crate) fn is_stopped(pod: &Pod) -> bool {
    let why = pod.status.as_ref().and_then(|s| s.reason.as_deref());
    let ended = |c: &ContainerStatus| c.state.as_ref().is_some_and(|s| s.terminated.is_some());
    phase(pod) == "Failed"
        && why == Some(reason::VEHICLE_DEPARTED)
        && world::condition(pod, condition::STOPPED) == Some(("True", reason::REPORTED))
        && containers(pod).all(ended)
}
