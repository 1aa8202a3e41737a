//! What runs the programs of attempts.
//!
//! Called by the actor of an attempt. A program is made ready once and started as often as it is told; a process can be frozen,
//! thawed and ended at any time, whatever the program does, and says exactly once how it ended. [`wasm`] runs WebAssembly in the agent
//! itself; [`cri`] runs OCI containers in a container engine beside it.

pub mod cri;
pub mod wasm;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kerbside_core::attempt::NotReady;
use kerbside_link::proto::{Streams, TunnelPart};
use tokio::sync::{mpsc, oneshot};

use crate::logs::writer::LogWriter;

/// Something that runs programs.
pub trait Runtime: Send + Sync {
    /// Makes a program ready to start. `Err`: a sentence that says why it never can be.
    fn load(&self, module: PathBuf) -> BoxFuture<'static, Result<Arc<dyn Program>, String>>;
}

/// What a car runs programs with.
#[derive(Clone)]
pub struct Runtimes {
    /// WebAssembly.
    pub wasm: Arc<dyn Runtime>,
    /// Containers, where the car has an engine for them.
    pub containers: Option<cri::Cri>,
}

impl From<Arc<dyn Runtime>> for Runtimes {
    fn from(wasm: Arc<dyn Runtime>) -> Self {
        Self { wasm, containers: None }
    }
}

/// A program that is ready to start.
pub trait Program: Send + Sync {
    /// Starts it. The error is the car's, not the program's.
    fn start(&self, spec: Spec) -> io::Result<Running>;
    /// Its address in the car, if it has one.
    fn address(&self) -> Option<IpAddr> {
        None
    }
    /// Where it finds its way to what the owner lets it reach, if there is one: an HTTP proxy.
    fn proxy(&self) -> Option<SocketAddr> {
        None
    }
}

/// How a program is started.
#[derive(Debug, Clone)]
pub struct Spec {
    /// For messages and thread names.
    pub name: String,
    /// Of which attempt it is: the Pod's uid.
    pub attempt: String,
    /// Which run of the container: how often it was started before.
    pub restarts: u32,
    /// Its name, and arguments; empty: what its image says.
    pub command: Vec<String>,
    /// More arguments.
    pub args: Vec<String>,
    /// It sees the processes of this other container of its Pod.
    pub target: Option<String>,
    /// Its environment, in order.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub working_dir: Option<String>,
    /// Its directories and files, outer ones first.
    pub directories: Vec<SpecDirectory>,
    /// Bytes of memory.
    pub memory_limit: u64,
    /// Thousandths of a processor; without it as much as it gets.
    pub cpu_limit: Option<u64>,
    /// Thousandths of a processor that it gets when others want them too.
    pub cpu_request: u64,
    /// Who it is, and what it may.
    pub security: Security,
    /// Whether somebody may type in it, and how.
    pub terminal: Terminal,
    /// What it prints.
    pub log: LogWriter,
    /// Filled in where the files that it writes beside its volumes are not in one of its directories.
    pub layer: Layer,
}

/// Where a container engine puts what a program writes into its image's files.
#[derive(Debug, Clone, Default)]
pub struct Layer(Arc<OnceLock<PathBuf>>);

impl Layer {
    /// It is known now.
    pub fn set(&self, path: PathBuf) {
        // The first one stays: a run has one.
        let _ = self.0.set(path);
    }

    /// Where, if it is known.
    pub fn get(&self) -> Option<&PathBuf> {
        self.0.get()
    }
}

/// A directory, or a file, that a program sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecDirectory {
    /// Where it is in the car.
    pub host: PathBuf,
    /// Where the program sees it.
    pub guest: String,
    /// It cannot write there.
    pub read_only: bool,
}

/// Who a program is, and what it may do, as of `securityContext`. A WebAssembly program is nobody and may do nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// Its user; without one, the image's.
    pub user: Option<i64>,
    /// Its first group; without one, the user's.
    pub group: Option<i64>,
    /// More groups.
    pub groups: Vec<i64>,
    /// It must not be root.
    pub non_root: bool,
    /// It cannot write to its image's files.
    pub read_only_root: bool,
    /// Capabilities beyond a vehicle's few, without `CAP_`.
    pub add: Vec<String>,
    /// Capabilities that it does without, or `ALL`.
    pub drop: Vec<String>,
}

/// What a program's own streams are, for who joins it. A WebAssembly program has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terminal {
    /// It has an input.
    pub stdin: bool,
    /// Which ends when whoever joined it first has gone.
    pub stdin_once: bool,
    /// Its streams are a terminal.
    pub tty: bool,
}

impl Terminal {
    /// The streams of somebody who joins the program: it has a terminal or it has none, whatever they want, and one has no second stream.
    pub fn joined(self, streams: Streams) -> Streams {
        Streams {
            tty: self.tty,
            stderr: streams.stderr && !self.tty,
            ..streams
        }
    }
}

/// A program that runs, or is about to.
pub struct Running {
    /// The way to it.
    pub process: Box<dyn Process>,
    /// Heard once it runs, or never if it could not start. `None`: it runs already.
    pub started: Option<oneshot::Receiver<()>>,
    /// How it ended, once it has.
    pub ended: oneshot::Receiver<Ended>,
}

/// How a program ended; `Err`: nothing of it ran, for what it needs was not there, and another try may help.
pub type Ended = Result<Ending, NotReady>;

/// The way to a program that runs. Dropping it ends the program.
pub trait Process: Send + Sync {
    /// Takes the processor from it.
    fn freeze(&self);
    /// Gives it back.
    fn thaw(&self);
    /// It is to end soon. In a car that stands still it runs from now on, for long enough to do what is to be done before. A program that can
    /// do nothing before its end stands on.
    fn leave(&self) {}
    /// Asks it to end, if there is a way to ask; else ends it.
    fn stop(&self);
    /// Ends it.
    fn kill(&self);
    /// What it has used so far.
    fn usage(&self) -> Usage;
    /// Runs a command in it, for at most so long. The error says why that did not work.
    fn exec(&self, command: Vec<String>, limit: Duration) -> BoxFuture<'static, Result<Executed, String>> {
        let _ = (command, limit);
        std::future::ready(Err("nothing can be run in this program".to_owned())).boxed()
    }
    /// Connects to a port of it, from within its own network. The error says why that did not work.
    fn connect(&self, port: u16, limit: Duration) -> BoxFuture<'static, Result<TcpStream, String>> {
        let _ = (port, limit);
        std::future::ready(Err("this program listens nowhere".to_owned())).boxed()
    }
    /// Connects to a port that it listens on at its own loopback. The error says why that did not work.
    fn forward(&self, port: u16, limit: Duration) -> BoxFuture<'static, Result<TcpStream, String>> {
        let _ = (port, limit);
        std::future::ready(Err("this program listens nowhere".to_owned())).boxed()
    }
    /// Runs a command in it with these streams, or joins it without one. The error says why that did not work.
    fn session(&self, command: Option<Vec<String>>, streams: Streams) -> BoxFuture<'static, Result<Session, String>> {
        let _ = (command, streams);
        let why = "this program is WebAssembly: nothing can be run in it, and nobody can join it";
        std::future::ready(Err(why.to_owned())).boxed()
    }
}

/// What somebody types and reads, in the parts of a tunnel. Dropped: they have gone.
#[derive(Debug)]
pub struct Session {
    /// To the program: channels 0 and 4.
    pub to: mpsc::Sender<TunnelPart>,
    /// From it: channels 1, 2 and at last 3.
    pub from: mpsc::Receiver<TunnelPart>,
}

/// A command that was run beside a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// 0 is success.
    pub code: i32,
    /// What it printed, both streams, shortened.
    pub output: String,
}

/// What a program used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Milliseconds of processor time.
    pub cpu_ms: u64,
    /// Bytes, at most at one time.
    pub memory_peak: u64,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// As of a container: 0 is success, 137 killed, 134 aborted by a trap.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled` or `StartError`.
    pub reason: &'static str,
    /// What there is to say beyond the code.
    pub message: String,
    /// What it used.
    pub usage: Usage,
}

impl Usage {
    /// Of two runs, one after the other.
    #[must_use]
    pub fn then(self, other: Self) -> Self {
        Self {
            cpu_ms: self.cpu_ms.saturating_add(other.cpu_ms),
            memory_peak: self.memory_peak.max(other.memory_peak),
        }
    }
}
