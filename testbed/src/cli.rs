//! The commands of `kerbside-testbed`.
//!
//! Called by `main`. Each command works on one directory (`--dir`), and only on what is recorded there.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use tokio::time::Instant;

use crate::databroker::played;
use crate::endpoints::Endpoints;
use crate::engine::Kind;
use crate::layout::Layout;
use crate::up::{self, Request, Scope};
use crate::{bench, chaos, control_plane, demo, process, programs, store};

/// A real control plane and a fleet on one machine.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a control plane, a registry and Kerbside, and leave them running
    Up(Up),
    /// End everything that runs from the directory, and nothing else
    Down(Place),
    /// Say what runs
    Status(Place),
    /// Build the examples' programs and push them, with their models and data, to a registry that speaks plain HTTP
    Publish(Publish),
    /// Run the demo: everything that `up` does, eight cars, one job, the comparison of its results
    Demo(demo::Options),
    /// Play cars' scenarios into their databrokers, until it is ended; the demo starts one
    #[command(hide = true)]
    Provide(played::Options),
    /// Measure how long Pods take from being bound to running in a car; the last line is one JSON object of figures
    BenchPods(bench::pods::Options),
    /// Measure how soon a car's work stands still when its driver returns; the last line is one JSON object of figures
    BenchReturn(bench::returns::Options),
    /// Let a test attacker guess when simulated cars leave; the last line is one JSON object of figures
    BenchPrivacy(bench::privacy::Options),
    /// Run a night and a morning with faults on simulated cars; the last line is one JSON object of figures
    Chaos(chaos::Options),
}

#[derive(Debug, Args)]
struct Place {
    /// The testbed's directory
    #[arg(long, default_value = "out/testbed")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
struct Up {
    #[command(flatten)]
    place: Place,
    /// Only etcd, kube-apiserver, kube-scheduler, kube-controller-manager and the registry
    #[arg(long)]
    control_plane_only: bool,
    /// What holds the results
    #[arg(long, value_enum, default_value_t)]
    store: store::Kind,
    /// Cars may have a container engine: the pinned containerd, or Debian's, and runc; needs root
    #[arg(long)]
    engine: bool,
    /// Cars come with the machine code of the examples' programs instead of compiling them
    #[arg(long)]
    compiled: bool,
    #[command(flatten)]
    control_plane: control_plane::Options,
}

#[derive(Debug, Args)]
struct Publish {
    #[command(flatten)]
    place: Place,
    /// The registry, host:port
    #[arg(long)]
    registry: String,
}

/// Runs one command.
pub async fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Up(up) => start(up).await,
        Command::Down(place) => down(&place.dir).await,
        Command::Status(place) => status(&place.dir),
        Command::Publish(publish) => {
            let layout = Layout::create(&publish.place.dir)?;
            for reference in programs::publish(&layout, &publish.registry).await? {
                println!("{reference}");
            }
            Ok(())
        }
        Command::Demo(options) => demo::run(&options).await,
        Command::Provide(options) => played::provide(&options).await,
        Command::BenchPods(options) => bench::pods::command(&options).await,
        Command::BenchReturn(options) => bench::returns::command(&options).await,
        Command::BenchPrivacy(options) => bench::privacy::command(&options),
        Command::Chaos(options) => chaos::command(&options).await,
    }
}

async fn start(arguments: Up) -> Result<()> {
    let layout = Layout::create(&arguments.place.dir)?;
    let scope = if arguments.control_plane_only {
        Scope::ControlPlane
    } else {
        Scope::Kerbside
    };
    let engines: &'static [Kind] = if arguments.engine && scope == Scope::Kerbside {
        &Kind::ALL
    } else {
        &[]
    };
    let request = Request {
        scope,
        control_plane: arguments.control_plane,
        store: arguments.store,
        engines,
        compiled: arguments.compiled,
        cluster: None,
    };
    let started = Instant::now();
    let mut said = |text: &str| println!("{:5.1} s  {text}", started.elapsed().as_secs_f32());
    up::up(&layout, &request, &mut said).await?;
    said("ready");
    for (kind, engine) in &Endpoints::read(&layout)?.engines {
        if let Err(why) = engine {
            println!("NO CONTAINER ENGINE ({kind}): {why}");
        }
    }
    println!("export KUBECONFIG={}", layout.kubeconfig().display());
    println!("export {}={}", crate::bed::VARIABLE, layout.root().display());
    Ok(())
}

async fn down(dir: &Path) -> Result<()> {
    let layout = Layout::open(dir)?;
    let count = up::end(&layout).await?;
    layout.remove_runtime()?;
    println!(
        "ended {count} processes; logs stay in {}",
        layout.path("logs").display()
    );
    Ok(())
}

fn status(dir: &Path) -> Result<()> {
    let layout = Layout::open(dir)?;
    for record in process::all(&layout)? {
        let state = if record.alive() { "runs" } else { "ended" };
        let memory = record
            .rss_kb()
            .filter(|_| record.alive())
            .map_or_else(String::new, |kb| format!("{} MB", kb / 1024));
        println!(
            "{:28} {:8} {state:6} {memory:>8}  {}",
            record.program.name,
            record.pid,
            record.log.display()
        );
    }
    Ok(())
}
