//! The agent's side of the guard: starts it, tells it which fence comes first, and starts another one if it ends.
//!
//! Begun by `agent`. The guard is a program of its own, `kerbside-guard`, beside the agent's. What must never happen: a program starts
//! whose fence the guard was not told; the supervisor publishes a fence when an attempt is admitted, long before anything starts.

pub mod process;
pub mod waker;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kerbside_core::clock::Boottime;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::cgroup::Cgroup;

/// A guard that does not take a line for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries to start one.
const RETRY: Duration = Duration::from_secs(1);

/// What does not end with an agent by itself.
#[derive(Debug, Clone)]
pub struct Contained {
    /// Where its containers are.
    pub group: Cgroup,
    /// The file that it has locked as long as it lives.
    pub lock: PathBuf,
}

/// A guard that runs.
pub struct Guard {
    program: PathBuf,
    contained: Option<Contained>,
    child: Child,
    orders: ChildStdin,
}

impl Guard {
    /// The guard's program: beside the one that runs.
    pub fn program() -> io::Result<PathBuf> {
        Ok(std::env::current_exe()?.with_file_name("kerbside-guard"))
    }

    /// Starts a guard of this process, and of what runs in its containers.
    pub fn start(program: &Path, contained: Option<Contained>) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg(std::process::id().to_string());
        if let Some(contained) = &contained {
            command.arg(contained.group.name()).arg(&contained.lock);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // What ends the agent from a terminal does not end its guard before it.
            .process_group(0)
            .spawn()?;
        let orders = child
            .stdin
            .take()
            .ok_or_else(|| io::Error::other("the guard has no input"))?;
        Ok(Self {
            program: program.to_owned(),
            contained,
            child,
            orders,
        })
    }

    /// Tells the guard every change of the first fence, and keeps one running, until nobody publishes fences any more.
    pub async fn keep(mut self, mut fence: watch::Receiver<Option<Boottime>>) {
        loop {
            let first = *fence.borrow_and_update();
            if let Err(error) = self.tell(first).await {
                tracing::error!(%error, "the guard cannot be told of a fence");
                self = self.another().await;
                continue;
            }
            tokio::select! {
                changed = fence.changed() => if changed.is_err() {
                    return;
                },
                ended = self.child.wait() => {
                    tracing::error!(?ended, "the guard ended");
                    self = self.another().await;
                }
            }
        }
    }

    async fn tell(&mut self, fence: Option<Boottime>) -> io::Result<()> {
        let line = process::line(fence);
        timeout(PATIENCE, self.orders.write_all(line.as_bytes()))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Another guard in the place of this one.
    async fn another(mut self) -> Self {
        // It may have ended already.
        let _ = self.child.start_kill();
        // And have left them frozen.
        if let Some(Err(error)) = self.contained.as_ref().map(|contained| contained.group.thaw())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(%error, "containers may stand still for good");
        }
        loop {
            sleep(RETRY).await;
            match Self::start(&self.program, self.contained.clone()) {
                Ok(guard) => return guard,
                Err(error) => tracing::error!(%error, "no guard can be started; will be tried again"),
            }
        }
    }
}
