//! One agent, one process: what surrounds a car that boots.
//!
//! Called by the command line. The order matters: the lock before anything is read, the guard before anything could run.

use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kerbside_core::clock::Clock;
use kerbside_link::SystemClock;
use kerbside_link::client;
use kerbside_link::open_files;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::boot::{self, BootError, Parts};
use crate::config::{Car, ConfigError};
use crate::control;
use crate::directory::Directory;
use crate::forget;
use crate::guard::{Contained, Guard};
use crate::identity;
use crate::images::Images;
use crate::page;
use crate::runtime::Runtimes;
use crate::runtime::cri::{self, Cri, Settings};
use crate::runtime::wasm::Wasm;
use crate::runtime::wasm::compiler::Compiler;
use crate::signals::broker::{self, Broker};
use crate::signals::memory::WithMemory;
use crate::signals::scenario::{Scenario, ScenarioError};
use crate::signals::{Signals, Silent};
use crate::uplink::Uplink;

/// An agent that cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its directory cannot be used.
    #[error("failed to open directory {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is another one.
    #[error("failed to start: another agent runs in {0}")]
    Running(PathBuf),
    /// The car is nobody.
    #[error("failed to start")]
    Identity(#[from] identity::ReadError),
    /// What the maker says cannot be read.
    #[error("failed to configure the car")]
    Config(#[from] ConfigError),
    /// The scenario cannot be played.
    #[error("failed to start")]
    Scenario(#[from] ScenarioError),
    /// The car's signals cannot be listened to.
    #[error("failed to listen to the car's signals: {0}")]
    Signals(String),
    /// There is nobody to end this agent if it gets stuck.
    #[error("failed to start the guard, {path}")]
    Guard {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its parts do not come together.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// Nobody judges the car any more.
    #[error("the loop that judges the car has ended by itself, so the agent does: start it again")]
    Ended,
    /// It was to forget its owner.
    #[error("failed to forget the owner; the next start tries again")]
    Forget(#[source] io::Error),
    /// The system does not give what is needed.
    #[error("failed to start")]
    System(#[from] io::Error),
}

/// What `run` is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The agent's directory.
    pub directory: PathBuf,
    /// The adapter.
    pub link: String,
    /// Simulated signals.
    pub scenario: Option<PathBuf>,
    /// Registries that speak plain HTTP.
    pub registry_http: Vec<String>,
}

/// Runs until a signal ends it.
pub async fn run(options: Options) -> Result<(), AgentError> {
    if let Err(error) = open_files::raise_limit() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let directory = open(&options.directory)?;
    let _lock = lock(&directory, LOCK_PATIENCE).await?;
    let car = Car::read(&directory.car())?;
    // Whether this car has containers is known only now; nothing is started before the guard knows what to end.
    let engine = car.containers.clone().map(Settings::from);
    if engine.is_some() {
        // Of an agent that was killed together with its guard.
        Cri::sweep(directory.root())?;
    }
    let guard = guard(engine.as_ref().map(|_| Contained {
        group: cri::group_of(directory.root()),
        lock: directory.lock(),
    }))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let identity = identity::read(&directory)?;
    let source: Box<dyn Signals> = match options.scenario {
        Some(path) => Box::new(Scenario::open(path)?),
        None => source_of(&car, &clock)?,
    };
    let source = WithMemory::new(source, car.parked.memory_full_percent_max);
    let cache_bytes = u64::try_from(car.cache_bytes.units()).unwrap_or(0);
    let images = Images::open(&directory.cache(), options.registry_http, cache_bytes)?;
    let uplink = Uplink::open(&car, &directory, &clock);
    images.count_by(&uplink);
    let vehicle = identity.vehicle().clone();
    let page = car.page.clone();
    let (requests, requested) = mpsc::channel(4);
    let parts = Parts {
        directory: directory.clone(),
        link: options.link,
        network: uplink.tcp(),
        clock: Arc::clone(&clock),
        identity,
        car,
        images,
        signals: Box::new(source),
        requests: requested,
        uplink,
    };
    let compiled = directory.cache().join("compiled");
    let mut containers = None;
    let mut running = boot::boot(parts, |given| {
        let wasm = Arc::new(Wasm::new(&compiled, Compiler::own(), given.brake.clone()));
        containers = engine.map(|engine| {
            let (images, proxies) = (given.images.clone(), given.proxies);
            Cri::new(&engine, directory.root(), images, proxies, given.brake)
        });
        Runtimes {
            wasm,
            containers: containers.clone(),
        }
    })
    .await?;
    running.watch(Arc::clone(&clock))?;
    tokio::spawn(guard.keep(running.fence()));
    let outlook = running.outlook();
    let open =
        |settings: crate::config::Page| page::open(&settings, directory.clone(), clock, requests.clone(), outlook);
    let door = page.map(open);
    tokio::spawn(control::serve(control::listen(&directory.socket())?, requests, door));
    tracing::info!(vehicle.id = %vehicle, directory = %options.directory.display(), "agent runs");

    let owes = running.owes();
    let (forgets, result) = tokio::select! {
        ended = end_signal() => (false, ended.map_err(AgentError::from)),
        () = forget::due(&directory, &owes) => (true, Ok(())),
        // The cluster would believe what it said last, and the owner would hear nothing.
        () = running.ended() => (false, Err(AgentError::Ended)),
    };
    tracing::info!(forgets, "agent ends");
    running.end().await;
    let _ = std::fs::remove_file(directory.socket());
    if forgets {
        if let Some(containers) = containers {
            forget_images(&containers).await;
        }
        if forget::finish(&directory).map_err(AgentError::Forget)? {
            tracing::warn!("the car has forgotten its owner; it has to be enrolled anew");
        } else {
            tracing::error!("nothing says any more that the car is to forget its owner, so nothing is deleted");
        }
    }
    result
}

/// The images that the car gave its engine go, too, if the engine is there to be asked: nothing else waits for it.
async fn forget_images(containers: &Cri) {
    match timeout(ENGINE_PATIENCE, containers.forget_images()).await {
        Ok(Ok(0)) => {}
        Ok(Ok(left)) => tracing::warn!(left, "the container engine keeps images of this car"),
        Ok(Err(error)) => tracing::warn!(%error, "the container engine may keep images of this car"),
        Err(_) => tracing::warn!("the container engine does not answer, and may keep images of this car"),
    }
}

/// Where the car's own signals come from.
fn source_of(car: &Car, clock: &Arc<dyn Clock>) -> Result<Box<dyn Signals>, AgentError> {
    let Some(source) = &car.signals else {
        return Ok(Box::new(Silent));
    };
    let terms = Arc::new(car.terms());
    let broker =
        broker::Settings::try_from(source).and_then(|settings| Broker::listen(&settings, terms, Arc::clone(clock)));
    Ok(Box::new(broker.map_err(AgentError::Signals)?))
}

/// Trades a token for an identity and keeps it.
pub async fn enrol(path: &std::path::Path, link: &str, token: &str) -> Result<String, EnrolError> {
    let directory = open(path)?;
    let somebody = identity::exists(&directory);
    // What is enrolled now would be forgotten in the next moment, or not be told apart from what is to be.
    if forget::is_pending(&directory) {
        return Err(EnrolError::Forgetting { somebody });
    }
    if somebody {
        return Err(EnrolError::Already(directory.identity()));
    }
    let token = token.parse().map_err(|e| EnrolError::Token(format!("{e}")))?;
    let enrolled = client::enrol(link, &token).await.map_err(EnrolError::Link)?;
    identity::write(&directory, &enrolled).map_err(EnrolError::Write)?;
    // A car that is somebody new has another owner, whose stays are not those of the one before.
    let _ = std::fs::remove_file(directory.stays());
    Ok(enrolled.vehicle().to_string())
}

/// A car that cannot enrol.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// It is somebody already.
    #[error("failed to enrol: the car has an identity in {0}; remove it to enrol anew under a new name")]
    Already(PathBuf),
    /// It has not forgotten yet whose it was.
    #[error("failed to enrol: {}", forget::MEANWHILE)]
    Forgetting {
        /// It still is who it was.
        somebody: bool,
    },
    /// The token is none.
    #[error("failed to enrol: {0}")]
    Token(String),
    /// The adapter said no, or is not there.
    #[error(transparent)]
    Link(client::EnrolError),
    /// The identity cannot be kept; the token is used up.
    #[error("failed to write identity; the token is used up, make a new one")]
    Write(#[source] io::Error),
}

fn guard(contained: Option<Contained>) -> Result<Guard, AgentError> {
    let path = Guard::program()?;
    if std::process::id() == 1 {
        // The kernel lets nobody end the first process of a namespace from inside it.
        tracing::warn!(
            "the agent is the first process of its container, where its guard cannot end it; give the container an init"
        );
    }
    Guard::start(&path, contained).map_err(|source| AgentError::Guard { path, source })
}

fn open(path: &std::path::Path) -> Result<Directory, AgentError> {
    Directory::open(path).map_err(|source| AgentError::Directory {
        path: path.to_owned(),
        source,
    })
}

/// A process that was killed holds its files until the last of its threads has gone, which on a busy machine is after whoever waited
/// for its end has started the next one.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(50);
/// To remove an image takes an engine a moment, and there may be many.
const ENGINE_PATIENCE: Duration = Duration::from_secs(30);

/// The lock of the directory for a command that must not find an agent running; `None`: one runs.
pub fn lock_if_free(directory: &Directory) -> io::Result<Option<Flock<std::fs::File>>> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(false)
        .open(directory.lock())?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// The lock of the directory, for as long as it is held; waits up to `patience` for an agent that is just ending.
async fn lock(directory: &Directory, patience: Duration) -> Result<Flock<std::fs::File>, AgentError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(directory.lock())?;
    let until = Instant::now() + patience;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EWOULDBLOCK)) if Instant::now() < until => file = same,
            Err((_, Errno::EWOULDBLOCK)) => return Err(AgentError::Running(directory.lock())),
            Err((_, errno)) => return Err(AgentError::System(errno.into())),
        }
        sleep(LOCK_RETRY).await;
    }
}

async fn end_signal() -> io::Result<()> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, Directory) {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        (temp, directory)
    }

    #[tokio::test(start_paused = true)]
    async fn agent_that_is_started_again_waits_for_the_last_of_the_one_that_was_killed() {
        let (_temp, directory) = directory();
        let old = lock(&directory, Duration::ZERO).await.unwrap();
        let new = lock(&directory, LOCK_PATIENCE);
        let ends = async {
            sleep(LOCK_PATIENCE / 2).await;
            drop(old);
        };
        let (new, ()) = tokio::join!(new, ends);
        assert!(new.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn second_agent_of_a_car_says_that_there_is_one() {
        let (_temp, directory) = directory();
        let _first = lock(&directory, Duration::ZERO).await.unwrap();
        let text = lock(&directory, LOCK_PATIENCE).await.unwrap_err().to_string();
        assert!(text.contains("another agent runs"), "{text}");
    }
}
