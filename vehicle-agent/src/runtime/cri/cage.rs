//! What holds one container: its control group, and whether it may have the processor.
//!
//! Shared by the container's task, by the actor of its attempt and by the car's brake, each of which acts on the kernel directly and waits
//! for nobody. What must never happen: a container that runs while the brake is on or its attempt is frozen, but for the seconds in which
//! one that is asked to end then takes its leave.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::cgroup::Cgroup;
use crate::runtime::Usage;

/// Who is asked to end in a car in which nothing may run, runs no longer than this to take its leave.
const LEAVE: Duration = Duration::from_secs(10);

/// One container's.
#[derive(Debug)]
pub(super) struct Cage {
    name: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Once the engine has made it.
    group: Option<Cgroup>,
    frozen: bool,
    braked: bool,
    /// It was asked to end while it stood still, and runs until then to do what it has to do before.
    leave_until: Option<Instant>,
    /// It is being killed: what stands still cannot end.
    killed: bool,
    /// What the kernel was told.
    stands: bool,
    /// What it had used when it was looked at last: the group goes with the container.
    used: Usage,
}

impl State {
    fn should_stand(&self) -> bool {
        let leaves = self.leave_until.is_some_and(|until| Instant::now() < until);
        (self.frozen || self.braked) && !leaves && !self.killed
    }
}

impl Cage {
    /// Of a container that is not there yet.
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine has made the container, in this group.
    pub(super) fn made(&self, group: Cgroup) {
        self.change(|state| state.group = Some(group));
    }

    pub(super) fn freeze(&self, frozen: bool) {
        self.change(|state| state.frozen = frozen);
    }

    fn brake(&self, braked: bool) {
        self.change(|state| state.braked = braked);
    }

    /// It is asked to end. What stands still could do nothing about it, so it runs, but not for long: somebody may sit in the car. Who is
    /// stopped after it was asked stands still like all others.
    pub(super) fn end(&self) {
        self.change(|state| {
            if state.leave_until.is_none() && (state.frozen || state.braked) {
                state.leave_until = Some(Instant::now() + LEAVE);
            }
        });
    }

    /// Looks whether its time is over.
    pub(super) fn look(&self) {
        let over = self.lock().leave_until.is_some_and(|until| until <= Instant::now());
        if over {
            self.change(|_| {});
        }
    }

    /// Whether it should stand still.
    pub(super) fn should_stand(&self) -> bool {
        self.lock().should_stand()
    }

    /// Tells the kernel again: what was told before a process was there told nobody.
    pub(super) fn settle(&self) {
        self.change(|state| state.stands = false);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let stands = state.should_stand();
        let Some(group) = state.group.as_ref().filter(|_| stands != state.stands) else {
            return;
        };
        let done = if stands { group.freeze() } else { group.thaw() };
        match done {
            Ok(()) => state.stands = stands,
            // Not there yet, or not any more.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::error!(container = self.name, %error, "a container cannot be frozen or thawed; it is ended");
                let group = group.clone();
                std::thread::spawn(move || group.kill());
            }
        }
    }

    /// Ends every process of it, and waits until none is left. Blocks for milliseconds.
    pub(super) fn kill(&self) -> io::Result<()> {
        let group = {
            let mut state = self.lock();
            state.killed = true;
            state.group.clone()
        };
        group.map_or(Ok(()), |group| group.kill())
    }

    /// What it has used so far.
    pub(super) fn usage(&self) -> Usage {
        let mut state = self.lock();
        if let Some(now) = state.group.as_ref().map(Cgroup::usage) {
            // Nothing is used less after a while: a group that is gone shows nothing.
            state.used = Usage {
                cpu_ms: state.used.cpu_ms.max(now.cpu_ms),
                memory_peak: state.used.memory_peak.max(now.memory_peak),
            };
        }
        state.used
    }

    /// A process of it that lives.
    pub(super) fn process(&self) -> io::Result<rustix::process::Pid> {
        let group = self.lock().group.clone();
        let pids = group.map_or_else(|| Ok(Vec::new()), |group| group.pids())?;
        pids.first()
            .copied()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the container does not run"))
    }
}

/// Every container of a car, for its brake.
#[derive(Debug, Clone, Default)]
pub(super) struct Cages(Arc<Mutex<Vec<std::sync::Weak<Cage>>>>);

impl Cages {
    pub(super) fn add(&self, cage: &Arc<Cage>) {
        let mut cages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cages.retain(|cage| cage.strong_count() > 0);
        cages.push(Arc::downgrade(cage));
    }

    /// Has every container do as the car's brake says now. One caller at a time, so that of two the later has the newer word: a brake that was
    /// just released must not stay on for who read it a moment before.
    pub(super) fn follow(&self, brake: &watch::Receiver<bool>) {
        let cages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Where nobody holds it any more the car is gone.
        let braked = brake.has_changed().is_err() || *brake.borrow();
        for cage in cages.iter().filter_map(std::sync::Weak::upgrade) {
            cage.brake(braked);
        }
    }
}

#[cfg(test)]
mod tests;
