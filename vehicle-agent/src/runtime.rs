//! What runs the programs of attempts.
//!
//! Called by the actor of an attempt. A runtime loads a program once and starts it as often as it is told; a process can be frozen,
//! thawed and ended at any time, whatever the program does, and says exactly once how it ended. Today there is one for WebAssembly;
//! one for containers takes the same place.

pub mod wasm;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::oneshot;

use crate::logs::writer::LogWriter;

/// Something that runs programs.
pub trait Runtime: Send + Sync {
    /// Makes a program ready to start. `Err`: a sentence that says why it never can be.
    fn load(&self, module: PathBuf) -> BoxFuture<'static, Result<Arc<dyn Program>, String>>;
}

/// A program that is ready to start.
pub trait Program: Send + Sync {
    /// Starts it. The error is the car's, not the program's.
    fn start(&self, spec: Spec) -> io::Result<Running>;
}

/// How a program is started.
#[derive(Debug, Clone)]
pub struct Spec {
    /// For messages and thread names.
    pub name: String,
    /// Of which attempt it is: the Pod's uid.
    pub attempt: String,
    /// Its name and arguments.
    pub args: Vec<String>,
    /// Its environment, in order.
    pub env: Vec<(String, String)>,
    /// Where it starts.
    pub working_dir: Option<String>,
    /// Its directories; the first is `/`.
    pub directories: Vec<SpecDirectory>,
    /// Bytes of memory.
    pub memory_limit: u64,
    /// Thousandths of a processor; without it as much as it gets.
    pub cpu_limit: Option<u64>,
    /// What it prints.
    pub log: LogWriter,
}

/// A directory that a program sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecDirectory {
    /// Where it is in the car.
    pub host: PathBuf,
    /// Where the program sees it.
    pub guest: String,
    /// It cannot write there.
    pub read_only: bool,
}

/// A program that runs.
pub struct Running {
    /// The way to it.
    pub process: Box<dyn Process>,
    /// How it ended, once it has.
    pub ended: oneshot::Receiver<Ending>,
}

/// The way to a program that runs. Dropping it ends the program.
pub trait Process: Send + Sync {
    /// Takes the processor from it.
    fn freeze(&self);
    /// Gives it back.
    fn thaw(&self);
    /// Asks it to end, if there is a way to ask; else ends it.
    fn stop(&self);
    /// Ends it.
    fn kill(&self);
    /// What it has used so far.
    fn usage(&self) -> Usage;
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
