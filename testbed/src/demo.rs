//! The demo: eight cars, one job of 60 parts, two interruptions, and a comparison of every line with what it has to be.
//!
//! Called by `make demo`. It does what a user would do, with the same programs; it looks on through watches, and it interrupts when
//! something has been reached, never after a time. The last line it prints is one JSON object with what was measured.

pub mod board;
pub mod cast;
mod figures;
mod paid;
mod screen;
pub mod script;
mod watches;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use futures::future::join_all;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout_at};

use crate::bed::Bed;
use crate::control_plane::{self, kubeconfig};
use crate::databroker::played;
use crate::digits;
use crate::install::documents;
use crate::install::footprint::{Footprint, Object};
use crate::layout::{Layout, write_json};
use crate::up::{self, Request, Scope};
use crate::{store, tools};
use board::Board;
use cast::{Actor, CAST, Role};
use figures::{Figures, Memory};
use paid::Paid;
use screen::Screen;
use script::{Act, Script};

/// The job and where it lives.
const JOB: &str = "digits";
const NAMESPACE: &str = "default";
const POOL: &str = "demo";
/// Their manifests, as users find them.
const JOB_FILE: &str = "examples/digits/fleetjob.yaml";
const POOL_FILE: &str = "examples/digits/pool.yaml";
/// A job that takes longer than this is stuck: on two cores it takes two to four minutes.
const DEADLINE: Duration = Duration::from_mins(20);
/// Between two looks at the memory of the programs.
const SAMPLE: Duration = Duration::from_secs(2);

/// What the demo is asked for.
#[derive(Debug, Args)]
pub struct Options {
    /// The demo's directory: logs, results, raw data
    #[arg(long, default_value = "out/demo")]
    dir: PathBuf,
    /// Use this cluster instead of starting a control plane
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Runs the demo. Everything stays up; an error means that it did not give what it had to.
pub async fn run(options: &Options) -> Result<()> {
    let layout = Layout::create(&options.dir)?;
    let mut screen = Screen::new();
    if up::end(&layout).await? > 0 {
        screen.news("ended the demo that still ran");
    }
    let cluster = options.kubeconfig.as_deref().map(std::fs::canonicalize).transpose();
    let cluster = cluster.context("the file that --kubeconfig names is not there")?;
    if let Some(file) = &cluster {
        let client = kubeconfig::client(file).await?;
        for file in [POOL_FILE, JOB_FILE] {
            Footprint::open(&layout)?
                .refuse_others(&client, &documents(&read(file)?)?)
                .await?;
        }
    }
    let request = Request {
        scope: Scope::Kerbside,
        control_plane: control_plane::Options::default(),
        store: store::Kind::default(),
        engines: &[],
        compiled: false,
        cluster,
    };
    up::up(&layout, &request, &mut |text| screen.news(text)).await?;

    let bed = Bed::open(layout).await?;
    screen.news("starting a databroker for each of eight cars: VSS 4, 5 and 6");
    played::start(&bed.layout, &cast::listeners()).await?;
    screen.news("enrolling eight cars");
    apply(&bed, POOL_FILE).await?;
    // All of them, also when one fails: a car that was stopped on its way in would have a Vehicle that nobody knows of.
    let entered = join_all(CAST.iter().map(|role| Actor::enter(&bed, POOL, role))).await;
    let actors = entered.into_iter().collect::<Result<Vec<_>>>()?;
    let show = Show::play(&bed, actors, &mut screen).await?;
    screen.clear();
    conclude(&bed, &show).await
}

/// Reads a file of the checkout.
fn read(file: &str) -> Result<String> {
    let path = tools::checkout()?.join(file);
    std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
}

/// Applies an example as a user does: with the registry's name put in. What somebody else made is never touched.
async fn apply(bed: &Bed, file: &str) -> Result<()> {
    let text = read(file)?.replace("${REGISTRY}", &bed.endpoints.registry);
    let documents: Vec<Value> = documents(&text)?;
    let mut footprint = Footprint::open(&bed.layout)?;
    footprint.refuse_others(&bed.client, &documents).await?;
    for document in &documents {
        footprint.add(Object::of(document)?)?;
    }
    bed.kubectl.run(&["apply", "-f", "-"], &text).await.map(drop)
}

/// What was seen from the first car's start to the job's end.
struct Show {
    board: Board,
    memory: Memory,
    /// So many cars know by a databroker how they stand.
    heard: usize,
    /// What one of them says of itself.
    account: String,
    seconds: f64,
}

impl Show {
    async fn play(bed: &Bed, actors: Vec<Actor>, screen: &mut Screen) -> Result<Self> {
        let (send, mut seen) = mpsc::channel(256);
        let watching = watches::start(&bed.client, NAMESPACE, JOB, POOL, &send);
        let mut board = Board::new(actors.iter().map(|a| (a.car.id.to_string(), a.role)).collect());
        let mut script = Script::default();
        let mut memory = Memory::create(&bed.layout)?;
        let mut ticks = interval(SAMPLE);
        let end = Instant::now() + DEADLINE;
        let mut log = Log::create(&bed.layout.path("events.jsonl"))?;
        let mut applied: Option<Instant> = None;
        while !board.over() {
            let event = tokio::select! {
                event = timeout_at(end, seen.recv()) => match event {
                    Ok(event) => event.context("the watches ended")?,
                    Err(_) => bail!("the job was not done after {} min; {}", DEADLINE.as_secs() / 60, board.summary()),
                },
                _ = ticks.tick() => {
                    memory.sample(&bed.layout)?;
                    continue;
                }
            };
            for line in board.see(event) {
                log.write("seen", &line)?;
                screen.news(&line);
            }
            screen.show(&board);
            while let Some(act) = script.next(&board) {
                log.write("done", act.text())?;
                screen.news(act.text());
                if act == Act::Apply {
                    apply(bed, JOB_FILE).await?;
                    applied = Some(Instant::now());
                } else {
                    cast::perform(act, &actors).await?;
                }
            }
        }
        memory.sample(&bed.layout)?;
        drop(watching);
        let seconds = applied.map_or(0.0, |a| a.elapsed().as_secs_f64());
        Ok(Self {
            board,
            memory,
            heard: cast::heard(&actors).await,
            account: cast::account(&actors).await?,
            seconds,
        })
    }
}

/// The run's own diary: one JSON object per line.
struct Log {
    file: std::fs::File,
    started: Instant,
}

impl Log {
    fn create(path: &Path) -> Result<Self> {
        let file = std::fs::File::create(path).with_context(|| format!("failed to create {}", path.display()))?;
        Ok(Self {
            file,
            started: Instant::now(),
        })
    }

    fn write(&mut self, kind: &str, text: &str) -> Result<()> {
        let line = serde_json::json!({"seconds": self.started.elapsed().as_secs_f64(), "kind": kind, "text": text});
        writeln!(self.file, "{line}").context("failed to write the diary")
    }
}

/// Collects, compares, measures, tells.
async fn conclude(bed: &Bed, show: &Show) -> Result<()> {
    if let Some(why) = show.board.failed() {
        bail!("the job failed: {why}");
    }
    let results = bed.layout.path("results");
    if results.exists() {
        std::fs::remove_dir_all(&results).with_context(|| format!("failed to remove {}", results.display()))?;
    }
    std::fs::create_dir_all(&results).with_context(|| format!("failed to create {}", results.display()))?;
    bed.results(NAMESPACE, JOB, &results).await?;
    let verdict = digits::compare(&tools::checkout()?, &results)?;
    let paid = Paid::read(bed, NAMESPACE, JOB, u64::from(show.board.completed())).await?;
    let figures = Figures::of(&show.board, &verdict, &show.memory, &paid, show.heard, show.seconds);
    for kind in ["fleetjobs", "vehicles", "nodes", "events"] {
        let objects = bed.kubectl.run(&["get", kind, "-A", "-o", "json"], "").await?;
        std::fs::write(bed.layout.path(&format!("{kind}.json")), objects).context("failed to write raw data")?;
    }
    write_json(&bed.layout.path("attempts.json"), &show.board.attempts())?;
    write_json(&bed.layout.path("figures.json"), &figures)?;
    tell(bed, show, &verdict, &paid, &figures)?;
    let missing = figures.missing();
    ensure!(
        missing.is_empty(),
        "the demo did not give what it had to: {}",
        missing.join("; ")
    );
    Ok(())
}

fn tell(bed: &Bed, show: &Show, verdict: &digits::Verdict, paid: &Paid, figures: &Figures) -> Result<()> {
    let kubectl = tools::pinned("kubernetes", "kubectl")?;
    println!();
    if verdict.exact() {
        println!(
            "All {} lines equal examples/digits/expected.csv, which a Python script made on its own.",
            verdict.expected
        );
    } else {
        println!("The results differ from examples/digits/expected.csv:");
        for difference in &verdict.differences {
            println!("  {difference}");
        }
    }
    println!(
        "Accuracy on the {} images that training never saw: {:.2} %.",
        verdict.held_back,
        100.0 * verdict.accuracy
    );
    println!("{}", show.board.summary());
    println!("{}", figures.about_owners());
    println!("{}", figures.about_signals());
    println!("{}", paid.text());
    println!("\n{}", show.account);
    println!("\nLook around (it all stays up until `make demo-down`):");
    println!("  export KUBECONFIG={}", bed.endpoints.kubeconfig.display());
    println!("  alias kubectl={}", kubectl.display());
    println!("  kubectl get vehicles,nodes,fleetjobs");
    println!("  kubectl explain fleetjob.spec");
    println!(
        "  {}/kubectl-fleet ledger sum --by vehicle --operator {}",
        own_dir()?.display(),
        bed.endpoints.operator
    );
    println!(
        "  {}/kerbside-agent status --dir {}",
        own_dir()?.display(),
        bed.layout.path("cars/ada").display()
    );
    println!("Raw data: {}\n", bed.layout.root().display());
    println!("{}", figures.line()?);
    Ok(())
}

fn own_dir() -> Result<PathBuf> {
    let agent = tools::own("kerbside-agent")?;
    agent
        .parent()
        .map(Path::to_path_buf)
        .context("a program lies in a directory")
}

impl Role {
    /// Whether somebody at home expects this car to be of use.
    pub fn works(self) -> bool {
        matches!(self, Self::Parked | Self::DrivesOff | Self::Pauses)
    }
}
