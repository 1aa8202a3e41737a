//! How soon a car's work stands still when its driver returns: `make bench-return`.
//!
//! One car with a databroker runs two programs that compute without a pause and never look whether they should stop, one as WebAssembly and
//! one in a container. Each prints what time it is, again and again: its last word is when it last had a processor. Counted from just
//! before the broker is told of the driver; in every other stretch the cluster is unreachable, as the car itself says. Then the broker itself
//! stands still. What must never happen: a sample that is left out because it was slow, or one that is taken for a stop although the car
//! does not say that it stands still. A program that had no processor at the moment of the return counts with the length of a tick, and is
//! counted.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kerbside_core::clock::Clock as _;
use kerbside_databroker::proto::value::TypedValue;
use kerbside_databroker::vss::{DRIVERS_DOOR, Release};
use kerbside_link::SystemClock;
use kerbside_simulator::traces::Fleet;
use kube::ResourceExt;
use kube::api::Api;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::saved::{self, Terms};
use super::{DEADLINE, NAME, apply, begin, offers_containers, on_a_testbed, percentile};
use crate::bed::Bed;
use crate::databroker::{Databroker, Provider, Way};
use crate::engine::Kind;
use crate::fleet::car::{Car, Plan};
use crate::fleet::name;
use crate::layout::Layout;
use crate::registry::artifact::Artifact;
use crate::registry::push::push;
use crate::{process, programs, wait};

/// The programs say what time it is so often: a last word may be so old when the program stops.
const TICK: Duration = Duration::from_millis(2);
/// A program that has said nothing for so long stands still: what the machine does to others is shorter.
const STILL: Duration = Duration::from_millis(700);
/// Returns without a break while the cluster is unreachable: far less than it takes a Node to be given up.
const STRETCH: u32 = 10;
/// How often the broker itself stands still.
const SILENCES: u32 = 5;
/// The traces of which it is computed how much freezing saves.
const FLEET: (u32, u16) = (300, 28);

/// How much.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The testbed's directory
    #[arg(long, default_value = "out/bench")]
    pub dir: PathBuf,
    /// How many returns
    #[arg(long, default_value_t = 200)]
    pub samples: u32,
}

/// Runs the benchmark on a testbed of its own, and takes it down again.
pub async fn command(options: &Options) -> Result<()> {
    ensure!(options.samples > 0, "at least one return is needed");
    let layout = Layout::create(&options.dir)?;
    on_a_testbed(&layout, Box::pin(run(&layout, options))).await
}

async fn run(layout: &Layout, options: &Options) -> Result<Value> {
    let bed = Bed::open(layout.clone()).await?;
    begin(&bed).await?;
    let broker = Databroker::start(layout, NAME, Release::V6, Way::Unix).await?;
    let provider = broker.provide().await?;
    let plan = Plan {
        // A whole processor for each: one that is held back by its share would have stopped before.
        cpu: "2",
        containers: Some(Kind::Pinned),
        databroker: Some(broker.signals()),
        ..Plan::default()
    };
    let car = bed.car("bench", NAME, &plan).await?;
    car.start()?;
    offers_containers(&bed, &car).await?;
    let registry = &bed.endpoints.registry;
    let module = push(registry, "ticks", "1", &Artifact::wasm(TICKS.to_vec())?).await?;
    let actor = format!("{registry}/{}:{}", programs::ACTOR, programs::TAG);
    let wasm = program(&bed, &car, ("wasm", "kerbside-wasm"), &module, &[]).await?;
    let container = program(&bed, &car, ("container", "kerbside-container"), &actor, &["ticks"]).await?;
    let mut measure = Measure {
        logs: [wasm, container],
        stops: [Vec::new(), Vec::new()],
        idle: [0, 0],
        car: &car,
    };
    let adapter = process::find(layout, name::ADAPTER).context("the adapter runs")?;
    let returns = returns();
    let mut unreachable = 0;
    for sample in 0..options.samples {
        let cut = (sample / STRETCH) % 2 == 1;
        if sample % STRETCH == 0 {
            adapter.signal(if cut { Signal::SIGSTOP } else { Signal::SIGCONT });
            says(&car, if cut { "not connected" } else { "link      connected" }).await?;
        }
        unreachable += u32::from(cut);
        let (path, comes, goes) = returns[sample as usize % returns.len()].clone();
        let measured = measure.driver(&provider, &path, comes, goes).await;
        measured.with_context(|| format!("return {sample}, by {path}"))?;
    }
    adapter.signal(Signal::SIGCONT);
    let (stops, idle) = (std::mem::take(&mut measure.stops), measure.idle);
    for silence in 0..SILENCES {
        measure
            .silence(&broker)
            .await
            .with_context(|| format!("silence {silence}"))?;
    }
    car.stop().await?;
    drop(provider);
    broker.end().await?;
    let [wasm, container] = stops;
    let silent = measure.stops.concat();
    let longest = |stops: &[Duration]| percentile(stops, 100);
    Ok(json!({
        "figure": "bench-return", "samples": options.samples, "samples_cluster_unreachable": unreachable,
        "wasm_stop_p50_ms": percentile(&wasm, 50), "wasm_stop_p99_ms": percentile(&wasm, 99), "wasm_stop_max_ms": longest(&wasm),
        "container_stop_p50_ms": percentile(&container, 50), "container_stop_p99_ms": percentile(&container, 99),
        "container_stop_max_ms": longest(&container),
        "wasm_idle_at_return": idle[0], "container_idle_at_return": idle[1],
        "silent_broker_samples": SILENCES, "silent_broker_stop_max_ms": longest(&silent),
        "work_saved_by_freezing_share": shares()["1"],
        "work_saved_by_freezing_share_by_visits_per_day": shares(),
    }))
}

/// What a driver does who returns, in the order in which it is seen; each alone stops the work: the path, what it says then, and after.
fn returns() -> [(String, TypedValue, TypedValue); 4] {
    let text = |text: &str| TypedValue::String(text.to_owned());
    [
        (
            format!("{DRIVERS_DOOR}.IsLocked"),
            TypedValue::Bool(false),
            TypedValue::Bool(true),
        ),
        (
            format!("{DRIVERS_DOOR}.IsOpen"),
            TypedValue::Bool(true),
            TypedValue::Bool(false),
        ),
        (
            "Vehicle.Cabin.Seat.Row1.DriverSide.OccupancyStatus".to_owned(),
            text("OCCUPIED"),
            text("EMPTY"),
        ),
        (
            "Vehicle.Chassis.Brake.PedalPosition".to_owned(),
            TypedValue::Uint32(20),
            TypedValue::Uint32(0),
        ),
    ]
}

/// By visits to a car a day, which nobody has counted.
fn shares() -> Value {
    let fleet = Fleet {
        seed: 7,
        days: FLEET.1,
        ..Fleet::default()
    };
    let terms = Terms {
        dwell: kerbside_core::parked::Terms::default().dwell,
        // As an owner's document has it that does not say.
        resume_within: Duration::from_mins(2),
    };
    let share = |per_day: f64| (saved::share(&fleet, FLEET.0, per_day, terms) * 1_000.0).round() / 1_000.0;
    json!({"0.3": share(0.3), "1": share(1.0), "3": share(3.0)})
}

/// Starts a program, and gives its log in the car.
async fn program(bed: &Bed, car: &Car, (name, class): (&str, &str), image: &str, args: &[&str]) -> Result<PathBuf> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAME, "labels": {"kerbside.dev/class": "inference"}},
        "spec": {
            "runtimeClassName": class, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false, "enableServiceLinks": false,
            "containers": [{
                "name": "main", "image": image, "args": args,
                "resources": {"requests": {"cpu": "500m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}},
            }],
        },
    });
    apply(bed, &pod).await?;
    let api: Api<Pod> = Api::namespaced(bed.client.clone(), NAME);
    let uid = wait::object(&api, name, &format!("{name} to run"), DEADLINE, |pod| {
        let pod = pod?;
        (crate::world::phase(pod) == "Running").then(|| pod.uid()).flatten()
    })
    .await?;
    Ok(car.dir().join("attempts").join(uid).join("logs/main/0.log"))
}

/// Waits until the car's own account has these words.
async fn says(car: &Car, words: &str) -> Result<()> {
    wait::until_ok(&format!("the car to say '{words}'"), DEADLINE, async || {
        let status = car.owner("status").await?.stdout;
        ensure!(status.contains(words), "{status}");
        Ok(())
    })
    .await
}

struct Measure<'a> {
    /// Of both programs.
    logs: [PathBuf; 2],
    stops: [Vec<Duration>; 2],
    /// How often a program had said nothing since the driver came.
    idle: [u32; 2],
    car: &'a Car,
}

impl Measure<'_> {
    /// The driver comes, and goes away again.
    async fn driver(&mut self, provider: &Provider, path: &str, comes: TypedValue, goes: TypedValue) -> Result<()> {
        self.compute().await?;
        let since = SystemClock.wall();
        provider.set(path, comes).await?;
        self.stop(since).await?;
        provider.set(path, goes).await
    }

    /// The broker says nothing more, and goes on later.
    async fn silence(&mut self, broker: &Databroker) -> Result<()> {
        self.compute().await?;
        let since = SystemClock.wall();
        broker.freeze()?;
        let stopped = self.stop(since).await;
        broker.thaw()?;
        stopped
    }

    /// Waits until both programs compute.
    async fn compute(&self) -> Result<()> {
        for log in &self.logs {
            let what = format!("{} to go on", log.display());
            let begin = SystemClock.wall();
            wait::until_ok(&what, DEADLINE, async || {
                let last = last(log)?;
                ensure!(last > begin, "its last word is of {last}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until both programs stand still, and notes how long after `since` each had a processor last.
    async fn stop(&mut self, since: Timestamp) -> Result<()> {
        let begin = Instant::now();
        loop {
            // A log that is being changed for a new one says nothing for a moment.
            let stood: Vec<_> = self.logs.iter().filter_map(|log| last(log).ok()).collect();
            let silent =
                |last: &Timestamp| Duration::try_from(SystemClock.wall().duration_since(*last)).unwrap_or_default();
            if stood.len() == self.logs.len() && stood.iter().all(|last| silent(last) >= STILL) {
                // Silence alone could be a busy machine's.
                says(self.car, "standing  paused").await?;
                for (program, last) in stood.iter().enumerate() {
                    let after = Duration::try_from(last.duration_since(since)).ok();
                    self.idle[program] += u32::from(after.is_none());
                    self.stops[program].push(after.unwrap_or_default() + TICK);
                }
                return Ok(());
            }
            if begin.elapsed() > DEADLINE {
                bail!("the programs compute although the driver is there");
            }
            sleep(TICK * 10).await;
        }
    }
}

/// The last few lines: whoever measures must not take the processor that is measured.
fn end_of(log: &Path) -> std::io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(512)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

/// The last time that a program has said.
fn last(log: &Path) -> Result<Timestamp> {
    let text = end_of(log).with_context(|| format!("failed to read {}", log.display()))?;
    let nanoseconds = text.lines().rev().find_map(|line| {
        let (_, word) = line.rsplit_once(' ')?;
        // The last line may be there in part only.
        (word.len() == 19).then(|| word.parse::<i128>().ok()).flatten()
    });
    let nanoseconds = nanoseconds.with_context(|| format!("{} says no time yet", log.display()))?;
    Timestamp::from_nanosecond(nanoseconds).context("a program says what time it is")
}

/// Computes without a pause, and says what time it is every 2 ms, in nanoseconds: `ticks.wat`, compiled.
const TICKS: &[u8] = include_bytes!("ticks.wasm");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_word_is_the_last_whole_one() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("0.log");
        std::fs::write(&log, "").unwrap();
        assert!(last(&log).unwrap_err().to_string().contains("no time yet"));
        let lines = "2026-11-22T10:00:00.1Z stdout F 1800000000000000000\n2026-11-22T10:00:00.2Z stdout F 1800000001000000000\n2026-11-22T10:00:00.3Z stdout F 18000";
        std::fs::write(&log, lines).unwrap();
        assert_eq!(last(&log).unwrap(), Timestamp::from_second(1_800_000_001).unwrap());
    }

    #[test]
    fn program_is_what_its_text_says() {
        let module = wat::parse_str(include_str!("ticks.wat")).unwrap();
        if std::env::var_os("MAKE").is_some() {
            let place = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench/ticks.wasm");
            std::fs::write(place, &module).unwrap();
        }
        assert!(module == TICKS, "run this test with MAKE=1, and once more");
    }
}
