//! A night and a morning with faults: simulated cars by the hundred on a real control plane, and what came of it in figures.
//!
//! Called by the `chaos` command, which brings a testbed of its own up, and by the cluster test of the short form, on the shared one. The
//! parts, in their order: `idle` (what a parked fleet costs), `leaving` (cars that leave and cars that fall silent, how soon their work is
//! elsewhere), `night` (traces, a job, faults), `reconnect` (all cars lose their adapter at once). What the cluster says is in the
//! `book`, what really happened in the simulator's truth, who wrote what in the `audit` log; `score` holds them against each other. What must
//! never happen: a figure that is not computed from what is kept in `out/`.

mod book;
mod cars;
mod idle;
mod leaving;
mod night;
mod reconnect;
mod report;
pub mod score;
mod sockets;
mod work;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kerbside_api::v1alpha1::VehiclePool;
use kube::api::{Api, DeleteParams};
use serde_json::json;

use self::cars::Cars;
pub use self::report::Figures;
use crate::bed::Bed;
use crate::layout::Layout;
use crate::up::{self, Request, Scope};
use crate::{control_plane, fleet, store, wait};

/// The namespace of the jobs, and the pool of the cars.
const NAME: &str = "chaos";
/// The pool that has nothing to do with it.
const BYSTANDERS: &str = "bystanders";
/// Enrolments per second that the adapter of a chaos run lets through: the cars have to exist before they can be measured.
const ENROLMENTS: &str = "200";

/// How large, and which parts.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The testbed's directory
    #[arg(long, default_value = "out/chaos")]
    pub dir: PathBuf,
    /// How many cars
    #[arg(long, default_value_t = 1000)]
    pub cars: u32,
    /// How many of them leave within one second
    #[arg(long, default_value_t = 50)]
    pub leave: u32,
    /// How many of them lose their power
    #[arg(long, default_value_t = 20)]
    pub lose: u32,
    /// Completions of the night's job
    #[arg(long, default_value_t = 2000)]
    pub completions: u32,
    /// Attempts of it at a time
    #[arg(long, default_value_t = 120)]
    pub parallelism: u32,
    /// How long each completion works, in the time of the night
    #[arg(long, default_value = "40m", value_parser = kerbside_core::duration::parse)]
    pub work: Duration,
    /// The same seed gives the same night
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// How many times as fast as ours the night's time runs
    #[arg(long, default_value_t = 80.0)]
    pub pace: f64,
    /// When the night begins, in hours since the midnight before it
    #[arg(long, default_value_t = 20.0)]
    pub from: f64,
    /// When it ends, in hours since the midnight before it
    #[arg(long, default_value_t = 33.0)]
    pub until: f64,
    /// How long the idle fleet is watched
    #[arg(long, default_value = "2m", value_parser = kerbside_core::duration::parse)]
    pub idle: Duration,
    /// How many cars lose their adapter at once; `--parts` leaves that out
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    pub reconnect: u32,
    /// Which parts, with commas between; what is left out is null in the figures
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Idle, Part::Leaving, Part::Night, Part::Reconnect])]
    pub parts: Vec<Part>,
}

/// A part of a run. They go in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// What a parked fleet costs
    Idle,
    /// Cars that leave, and cars that lose their power
    Leaving,
    /// A night and a morning with faults
    Night,
    /// All cars lose their adapter at once
    Reconnect,
}

impl Options {
    /// The short form, a part of `make test`: the same parts, smaller, and no mass reconnect.
    pub fn short() -> Self {
        Self {
            dir: PathBuf::from("out/chaos"),
            cars: 60,
            leave: 10,
            lose: 3,
            completions: 120,
            parallelism: 20,
            work: Duration::from_mins(10),
            seed: 7,
            pace: 150.0,
            from: 29.25,
            until: 31.75,
            idle: Duration::from_secs(20),
            reconnect: 0,
            parts: vec![Part::Idle, Part::Leaving, Part::Night],
        }
    }
}

/// Brings a testbed up, runs everything, prints the table and, as the last line, the figures as one JSON object. Ends what it started,
/// whatever comes of it.
pub async fn command(options: &Options) -> Result<()> {
    let layout = Layout::create(&options.dir)?;
    let request = Request {
        scope: Scope::Kerbside,
        control_plane: control_plane::Options {
            audit: true,
            // By default it annotates twenty Nodes a second, and a fleet would not be idle for minutes.
            controller_manager_args: vec!["--kube-api-qps=300".to_owned(), "--kube-api-burst=600".to_owned()],
            ..control_plane::Options::default()
        },
        store: store::Kind::default(),
        engines: &[],
        compiled: false,
        cluster: None,
    };
    let mut said = |text: &str| println!("  {text}");
    up::up(&layout, &request, &mut said).await?;
    let ran = async {
        let bed = Bed::open(layout.clone()).await?;
        run(&bed, options).await
    };
    let ran = ran.await;
    let ended = up::end(&layout).await;
    let figures = ran?;
    ended?;
    print!("{}", figures.table());
    println!("{}", figures.json());
    figures.check()
}

/// Runs everything on a testbed that is up; gives the figures. Leaves no car and no object behind.
pub async fn run(bed: &Bed, options: &Options) -> Result<Figures> {
    let adapter = bed.adapter()?;
    // Of its own accord an adapter lets ten cars a second enrol.
    let quick = adapter.program.clone().args(["--enrolments-per-second", ENROLMENTS]);
    fleet::replace(bed, &adapter, &quick).await?;
    let ran = parts(bed, options).await;
    let cleared = clear(bed).await;
    let back = fleet::replace(bed, &bed.adapter()?, &adapter.program).await;
    let figures = ran?;
    cleared?;
    back?;
    Ok(figures)
}

async fn parts(bed: &Bed, options: &Options) -> Result<Figures> {
    // Cars of an earlier run have certificates of another CA.
    remove(&bed.layout.path("chaos"))?;
    let out = bed.layout.dir("chaos")?;
    let mut figures = Figures::default();
    for pool in [NAME, BYSTANDERS] {
        let manifest = json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "VehiclePool", "metadata": {"name": pool},
            "spec": {"allowedNamespaces": {"from": "All"}},
        });
        let api: Api<VehiclePool> = Api::all(bed.client.clone());
        kerbside_k8s::apply::apply(&api, pool, "kerbside-testbed", &manifest)
            .await
            .context("failed to apply a pool of the chaos")?;
    }
    bed.kubectl.run(&["create", "namespace", NAME], "").await?;
    say(&format!("enrolling {} cars", options.cars));
    let mut cars = Cars::enrol(bed, options, NAME, 0..options.cars).await?;
    let ran = async {
        cars.boot().await?;
        idle::there(bed, &cars).await?;
        for part in [Part::Idle, Part::Leaving, Part::Night, Part::Reconnect] {
            if !options.parts.contains(&part) {
                continue;
            }
            match part {
                Part::Idle => idle::measure(bed, options, &cars, &mut figures).await?,
                Part::Leaving => leaving::measure(bed, options, &mut cars, &out, &mut figures).await?,
                Part::Night => night::measure(bed, options, &mut cars, &out, &mut figures).await?,
                Part::Reconnect => reconnect::measure(bed, options, &mut cars, &mut figures).await?,
            }
        }
        anyhow::Ok(())
    };
    let ran = ran.await;
    if let Err(error) = &ran {
        say(&format!("failed: {error:#}"));
    }
    // While the cars are there and heard: a Pod whose car is gone waits for its fence.
    let rested = cars.rest().await;
    let emptied = empty(bed).await;
    cars.end().await;
    // Also of a run that has failed: what was measured before stays.
    figures.write(&out)?;
    ran.and(rested).and(emptied)?;
    Ok(figures)
}

/// Ends all work, and waits until its Pods are gone.
async fn empty(bed: &Bed) -> Result<()> {
    // The Pods too: the garbage collector, whose API server was killed a while ago, takes a minute to begin.
    for kind in ["fleetjobs", "deployments", "statefulsets", "pods"] {
        bed.kubectl
            .run(&["delete", kind, "--all", "-n", NAME, "--wait=false"], "")
            .await?;
    }
    let pods: Api<Pod> = Api::namespaced(bed.client.clone(), NAME);
    let all = kube::runtime::watcher::Config::default();
    wait::objects(
        &pods,
        all,
        "the Pods of the chaos to be gone",
        Duration::from_mins(2),
        |pods| pods.is_empty().then_some(()),
    )
    .await
}

/// Takes the objects away. The namespace is empty by now; its controller, too, takes its time after an outage of the API server.
async fn clear(bed: &Bed) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(bed.client.clone());
    if namespaces
        .get_opt(NAME)
        .await
        .context("failed to read the namespace")?
        .is_some()
    {
        let delete = namespaces.delete(NAME, &DeleteParams::background()).await;
        delete.context("failed to delete the namespace of the chaos")?;
    }
    for pool in [NAME, BYSTANDERS] {
        let label = format!("kerbside.dev/pool={pool}");
        bed.kubectl
            .run(&["delete", "vehicles", "-l", &label, "--wait=false"], "")
            .await?;
        bed.kubectl
            .run(
                &["delete", "vehiclepool", pool, "--ignore-not-found", "--wait=false"],
                "",
            )
            .await?;
    }
    Ok(())
}

fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("failed to remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// For whoever watches.
fn say(text: &str) {
    println!("  {text}");
}
