//! How long a Pod takes from being bound to running in a car, for images that are there: `make bench-pods`.
//!
//! One run brings a testbed of its own up with one car, and starts Pods one after the other: WebAssembly, a container, and what the
//! container engine alone needs for the same image, in turn, so that all three meet the same machine. By one watch's clock: from the
//! event that shows the binding to the one that shows Running. The last line is one JSON object.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kerbside_core::clock::Clock as _;
use kerbside_link::SystemClock;
use kerbside_vehicle_agent::runtime::cri::measure::start_alone;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::bed::Bed;
use crate::engine::Kind;
use crate::fleet::car::{Car, Plan};
use crate::layout::{Layout, read_json};
use crate::{programs, wait};

use super::{DEADLINE, NAME, apply, begin, offers_containers, on_a_testbed, percentile};

/// Started before anything is measured.
const WARM: u32 = 3;
/// Of the log whose reading is measured: less than a log holds.
const LOG_BYTES: u32 = 8_000_000;

/// How much.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The testbed's directory
    #[arg(long, default_value = "out/bench")]
    pub dir: PathBuf,
    /// How many Pods of each kind
    #[arg(long, default_value_t = 50)]
    pub pods: u32,
}

/// Runs the benchmark on a testbed of its own, and takes it down again.
pub async fn command(options: &Options) -> Result<()> {
    let layout = Layout::create(&options.dir)?;
    on_a_testbed(&layout, Box::pin(run(&layout, options))).await
}

/// When a Pod was seen to be bound, and to run.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    bound: Option<(Instant, Timestamp)>,
    runs: Option<(Instant, Timestamp)>,
}

type Sight = watch::Receiver<HashMap<String, Seen>>;

fn watched(api: Api<Pod>) -> (Sight, tokio::task::AbortHandle) {
    let (tell, sight) = watch::channel(HashMap::<String, Seen>::new());
    let task = tokio::spawn(async move {
        let mut events = watcher(api, watcher::Config::default()).boxed();
        while let Ok(Some(event)) = events.try_next().await {
            let (Event::Apply(pod) | Event::InitApply(pod)) = event else {
                continue;
            };
            let at = (Instant::now(), SystemClock.wall());
            let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            let runs = crate::world::phase(&pod) == "Running";
            tell.send_modify(|all| {
                let seen = all.entry(pod.name_any()).or_default();
                seen.bound = seen.bound.or_else(|| bound.then_some(at));
                seen.runs = seen.runs.or_else(|| runs.then_some(at));
            });
        }
    });
    (sight, task.abort_handle())
}

async fn run(layout: &Layout, options: &Options) -> Result<Value> {
    let bed = Bed::open(layout.clone()).await?;
    let socket = bed
        .endpoints
        .engine(Kind::Pinned)
        .map_err(|why| anyhow!("{why}"))?
        .to_owned();
    begin(&bed).await?;
    let plan = Plan {
        containers: Some(Kind::Pinned),
        ..Plan::default()
    };
    let car = bed.car("bench", NAME, &plan).await?;
    car.start()?;
    offers_containers(&bed, &car).await?;
    let (sight, task) = watched(Api::namespaced(bed.client.clone(), NAME));
    let mut measure = Measure {
        bed: &bed,
        car: &car,
        sight,
        wasm: Vec::new(),
        containers: Vec::new(),
        alone: Vec::new(),
    };
    let logs = layout.dir("alone")?;
    for round in 0..WARM + options.pods {
        let counts = round >= WARM;
        let wasm = measure.pod(&format!("wasm-{round}"), false).await?;
        let container = measure.pod(&format!("container-{round}"), true).await?;
        let image = engine_image(&car)?;
        let args = ["sleep".to_owned(), "1h".to_owned()];
        let alone = start_alone(&socket, &image, &args, round, logs.clone()).await;
        let alone = alone.map_err(anyhow::Error::msg)?;
        if counts {
            measure.wasm.push(wasm);
            measure.containers.push(container);
            measure.alone.push(alone);
        }
    }
    let log_mb_per_s = measure.log().await?;
    task.abort();
    let figures = measure.figures(options.pods, log_mb_per_s);
    car.stop().await?;
    Ok(figures)
}

/// The engine's own name of the image that the car's containers are of.
fn engine_image(car: &Car) -> Result<String> {
    let places = std::fs::read_dir(car.dir().join("cache/containers")).context("the car has pulled an image")?;
    let place = places.flatten().next().context("the car has pulled an image")?;
    let pulled: Value = read_json(&place.path())?;
    pulled["engine"]
        .as_str()
        .map(str::to_owned)
        .context("an image has a name in the engine")
}

/// How long one start took, and its parts: until the car had it, in the car, until the watch showed it.
#[derive(Debug, Clone, Copy)]
struct Start {
    whole: Duration,
    parts: [Duration; 3],
}

struct Measure<'a> {
    bed: &'a Bed,
    car: &'a Car,
    sight: Sight,
    wasm: Vec<Start>,
    containers: Vec<Start>,
    alone: Vec<Duration>,
}

impl Measure<'_> {
    fn manifest(&self, name: &str, container: bool, args: &[&str]) -> Value {
        let registry = &self.bed.endpoints.registry;
        let (class, image) = if container {
            ("kerbside-container", programs::ACTOR)
        } else {
            ("kerbside-wasm", "ticker")
        };
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": NAME, "labels": {"kerbside.dev/class": "inference"}},
            "spec": {
                "runtimeClassName": class, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false, "enableServiceLinks": false,
                "containers": [{
                    "name": "main", "image": format!("{registry}/{image}:{}", programs::TAG), "args": args,
                    "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
                }],
            },
        })
    }

    /// Starts a Pod, measures, and takes it away again.
    async fn pod(&mut self, name: &str, container: bool) -> Result<Start> {
        let args: &[&str] = if container { &["sleep", "1h"] } else { &[] };
        apply(self.bed, &self.manifest(name, container, args)).await?;
        let (bound, runs) = wait::seen(&self.sight, &format!("{name} to run"), DEADLINE, |all| {
            let seen = all.get(name)?;
            Some((seen.bound?, seen.runs?))
        })
        .await?;
        let api: Api<Pod> = Api::namespaced(self.bed.client.clone(), NAME);
        let uid = api
            .get(name)
            .await
            .context("the Pod is there")?
            .uid()
            .unwrap_or_default();
        let (taken, ran) = in_the_car(self.car, &uid)?;
        self.bed
            .kubectl
            .run(&["delete", "pod", "-n", NAME, name, "--wait=true"], "")
            .await?;
        let between = |from: Timestamp, to: Timestamp| Duration::try_from(to.duration_since(from)).unwrap_or_default();
        Ok(Start {
            whole: runs.0.duration_since(bound.0),
            parts: [between(bound.1, taken), between(taken, ran), between(ran, runs.1)],
        })
    }

    /// How fast a log of a container is read: megabytes per second.
    async fn log(&self) -> Result<f64> {
        let name = "log";
        let bytes = LOG_BYTES.to_string();
        apply(
            self.bed,
            &self.manifest(name, true, &["flood", &bytes, ";", "sleep", "1h"]),
        )
        .await?;
        let read = async || {
            let since = Instant::now();
            let text = self.bed.kubectl.run(&["logs", "-n", NAME, name], "").await?;
            anyhow::Ok((text.len(), since.elapsed()))
        };
        let whole = usize::try_from(LOG_BYTES).context("a log's length is a number")?;
        let (length, took) = wait::until_ok("the whole log", DEADLINE, async || {
            let (length, took) = read().await?;
            ensure!(length >= whole, "{length} bytes are there");
            Ok((length, took))
        })
        .await?;
        #[expect(clippy::cast_precision_loss, reason = "a log is far smaller than 2^52 bytes")]
        let megabytes = length as f64 / 1e6;
        Ok(megabytes / took.as_secs_f64())
    }

    fn figures(&self, pods: u32, log_mb_per_s: f64) -> Value {
        let whole = |starts: &[Start]| starts.iter().map(|start| start.whole).collect::<Vec<_>>();
        for (what, starts) in [("wasm", &self.wasm), ("container", &self.containers)] {
            let part = |index: usize| {
                let all: Vec<_> = starts.iter().map(|start| start.parts[index]).collect();
                format!("{:5.1} / {:5.1}", percentile(&all, 50), percentile(&all, 99))
            };
            println!(
                "{what:9}  p50 / p99 in ms: adapter and link {}, in the car {}, back to the watch {}",
                part(0),
                part(1),
                part(2)
            );
        }
        let (wasm, containers) = (whole(&self.wasm), whole(&self.containers));
        json!({
            "figure": "bench-pods", "pods": pods,
            "wasm_start_p50_ms": percentile(&wasm, 50), "wasm_start_p99_ms": percentile(&wasm, 99),
            "container_start_p50_ms": percentile(&containers, 50), "container_start_p99_ms": percentile(&containers, 99),
            "cri_start_p50_ms": percentile(&self.alone, 50), "cri_start_p99_ms": percentile(&self.alone, 99),
            "log_mb_per_s": (log_mb_per_s * 10.0).round() / 10.0,
        })
    }
}

/// When the car had taken the attempt, and when it ran there, by the agent's own log.
fn in_the_car(car: &Car, uid: &str) -> Result<(Timestamp, Timestamp)> {
    let log = car.process()?.log;
    let text = std::fs::read_to_string(&log).with_context(|| format!("failed to read {}", log.display()))?;
    let lines = || text.lines().filter(|line| line.contains(uid));
    let at = |word: &str| {
        let line = lines().find(|line| line.contains(word));
        let line = line.with_context(|| format!("the car's log says {word} of {uid}"))?;
        let time = line.split_whitespace().next().unwrap_or_default();
        time.parse::<Timestamp>()
            .with_context(|| format!("a line begins with its time: {line}"))
    };
    Ok((at("ATTEMPT_PHASE_PENDING")?, at("ATTEMPT_PHASE_RUNNING")?))
}
