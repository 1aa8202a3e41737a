//! The logs of containers: written as programs print, read when somebody asks.
//!
//! One file per run of a container, in the format of the container runtime interface, so that every tool that reads a kubelet's logs
//! reads these. A log never grows beyond its bound; the oldest half of it goes first.

pub mod reader;
pub mod writer;

use std::path::{Path, PathBuf};

use tokio::sync::watch;

/// Half of what a log may hold: the current file, and the one before it.
pub const HALF: u64 = 5 << 20;

/// How far a log has come; readers that follow it wait here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes written so far.
    pub written: u64,
    /// Nothing more will come.
    pub closed: bool,
}

/// A log that is being written.
#[derive(Debug, Clone)]
pub struct Log {
    /// The current file.
    pub path: PathBuf,
    /// Its progress.
    pub progress: watch::Receiver<Progress>,
}

impl Log {
    /// A log that is complete.
    pub fn closed(path: PathBuf) -> Self {
        let (_, progress) = watch::channel(Progress {
            written: 0,
            closed: true,
        });
        Self { path, progress }
    }
}

/// The file before the current one.
fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}
