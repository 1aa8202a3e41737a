//! The guard's own process: waits for the agent's word, its end, or the clock, and carries out what [`kerbside_core::guard`] decides.
//!
//! Called by the program `kerbside-guard` alone, which has nothing else in it: it must fit in two megabytes and stay when memory is
//! short, so there is one thread, no runtime and hardly an allocation. It holds the agent by a file descriptor, so it can never end
//! another process that was given the same number.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use kerbside_core::clock::Boottime;
use kerbside_core::guard::{Effect, Event, Guard, Now, step};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use super::waker::{FROZEN, THAWED};
use crate::cgroup::Cgroup;

/// While there is a fence it looks this often, so it runs as soon as the machine does after a sleep.
const LOOK: Duration = Duration::from_secs(1);
/// How often, and how far apart, it looks for containers of an agent that has just ended. Together shorter than the next agent needs until
/// it starts one: that one's are not for this guard to end.
const LAST_LOOKS: u32 = 3;
const LAST_LOOK: Duration = Duration::from_millis(50);
/// And after that, as long as there is no next agent: an engine that is busy brings up late what the agent had asked for.
const LATE_LOOKS: u32 = 60;
const LATE_LOOK: Duration = Duration::from_millis(500);
/// No line is longer.
const LINE: usize = 64;

/// A guard that cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Nobody to guard.
    #[error("started by process {0:?}, not by the agent that it is for; kerbside-agent starts it")]
    NotMine(Option<i32>),
    /// The number is none.
    #[error("needs the number of the agent's process, not '{0}'; kerbside-agent starts it")]
    NotANumber(String),
    /// What the agent says is not understood.
    #[error("the agent said '{0}'")]
    Unintelligible(String),
    /// The system does not give what is needed.
    #[error("failed to watch the agent")]
    System(#[from] io::Error),
}

impl From<Errno> for GuardError {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

/// Where the guard takes its time from.
pub trait Clocks {
    /// Both clocks.
    fn now(&self) -> Now;
}

/// The kernel's.
#[derive(Debug)]
pub struct SystemClocks;

impl Clocks for SystemClocks {
    fn now(&self) -> Now {
        let read = |id| {
            let time = clock_gettime(id);
            Duration::new(
                u64::try_from(time.tv_sec).unwrap_or(0),
                u32::try_from(time.tv_nsec).unwrap_or(0),
            )
        };
        // In this order: a sleep between both looks like one that was longer, never like none.
        let awake = read(ClockId::Monotonic);
        Now {
            boot: Boottime(read(ClockId::Boottime)),
            awake,
        }
    }
}

/// What the agent writes.
pub fn line(fence: Option<Boottime>) -> String {
    fence.map_or_else(|| "none\n".to_owned(), |at| format!("{}\n", at.0.as_nanos()))
}

fn read_line(line: &[u8]) -> Result<Option<Boottime>, GuardError> {
    let text = String::from_utf8_lossy(line);
    if text == "none" {
        return Ok(None);
    }
    let nanoseconds: u64 = text
        .parse()
        .map_err(|_| GuardError::Unintelligible(text.clone().into_owned()))?;
    Ok(Some(Boottime(Duration::from_nanos(nanoseconds))))
}

/// What is guarded.
#[derive(Debug)]
pub struct Guarded {
    /// The agent.
    pub process: OwnedFd,
    /// Its containers, which do not end with it by themselves.
    pub group: Option<Cgroup>,
    /// The file that an agent of the same car has locked as long as it lives.
    pub lock: Option<PathBuf>,
}

impl Guarded {
    /// Ends the containers. Nobody is left who could be told that it failed but whoever reads the agent's log.
    fn kill_group(&self) {
        if let Some(Err(error)) = self.group.as_ref().map(Cgroup::kill) {
            eprintln!("kerbside-guard: {error}");
        }
    }

    /// Ends the containers of an agent that has ended, also those that its engine is just starting.
    fn kill_what_is_left(&self) {
        if self.group.is_none() {
            return;
        }
        for _ in 0..LAST_LOOKS {
            self.kill_group();
            std::thread::sleep(LAST_LOOK);
        }
        // One whose directory is gone has no car any more.
        let Some(Ok(lock)) = self.lock.as_ref().map(File::open) else {
            return;
        };
        for _ in 0..LATE_LOOKS {
            std::thread::sleep(LATE_LOOK);
            self.kill_group_of_nobody(&lock);
        }
    }

    /// Ends the containers unless there is an agent, whose they are. As long as this holds the lock none can begin.
    fn kill_group_of_nobody(&self, lock: &File) {
        if flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            self.kill_group();
            if let Err(error) = flock(lock, FlockOperation::Unlock) {
                // It ends with this process at the latest.
                eprintln!("kerbside-guard: {error}");
            }
        }
    }

    /// Stops the containers, or lets them go on. None may be there yet.
    fn freeze_group(&self, frozen: bool) {
        let told = self
            .group
            .as_ref()
            .map(|group| if frozen { group.freeze() } else { group.thaw() });
        if let Some(Err(error)) = told
            && error.kind() != io::ErrorKind::NotFound
        {
            eprintln!("kerbside-guard: {error}");
        }
    }
}

/// Opens the agent's process, which must be the one that started this one.
pub fn open(number: &str) -> Result<OwnedFd, GuardError> {
    let pid = number.parse().ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| GuardError::NotANumber(number.to_owned()))?;
    let agent = pidfd_open(pid, PidfdFlags::empty())?;
    // Only now: had the agent ended before, its number might be another's.
    let parent = getppid();
    if parent != Some(pid) {
        return Err(GuardError::NotMine(parent.map(Pid::as_raw_pid)));
    }
    Ok(agent)
}

/// Guards the agent until it ends, or has nothing to guard and says no more. The waker is told before the agent is frozen, and when it is
/// thawed.
pub fn watch(
    agent: &Guarded,
    mut orders: impl Read + AsFd,
    mut waker: impl Write,
    clocks: &impl Clocks,
) -> Result<(), GuardError> {
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let mut guard = Guard::new(clocks.now());
    let mut said = Vec::with_capacity(2 * LINE);
    let mut hears = true;
    loop {
        set(&timer, guard.deadline(), clocks.now())?;
        let [ended, spoke] = wait(&agent.process, hears.then_some(&orders), &timer)?;
        // Whatever woke it: after a sleep everything is frozen first.
        guard = take(agent, &mut waker, guard, Event::Tick, clocks)?;
        if ended {
            // Whatever ended it. Its containers have nobody any more who could freeze or end them.
            agent.kill_what_is_left();
            return Ok(());
        }
        if spoke {
            let mut bytes = [0; LINE];
            let count = orders.read(&mut bytes)?;
            hears = count > 0;
            said.extend_from_slice(&bytes[..count]);
            while let Some(end) = said.iter().position(|byte| *byte == b'\n') {
                let fence = read_line(&said[..end])?;
                said.drain(..=end);
                guard = take(agent, &mut waker, guard, Event::Told(fence), clocks)?;
            }
            if said.len() > LINE {
                return Err(GuardError::Unintelligible(String::from_utf8_lossy(&said).into_owned()));
            }
        }
        // An agent that ends closes its end first; one that lives on and closed it by mistake is guarded to the fence.
        if !hears && guard.deadline().is_none() {
            return Ok(());
        }
    }
}

fn take(
    agent: &Guarded,
    waker: &mut impl Write,
    guard: Guard,
    event: Event,
    clocks: &impl Clocks,
) -> Result<Guard, GuardError> {
    let (guard, effects) = step(guard, event, clocks.now());
    for effect in effects {
        let signal = match effect {
            Effect::Freeze => Signal::STOP,
            Effect::Thaw => Signal::CONT,
            Effect::Kill => Signal::KILL,
        };
        // One that has gone wakes nobody; that is no reason to let a program run after its fence.
        if effect == Effect::Freeze {
            let _ = waker.write_all(&[FROZEN]);
        }
        match effect {
            Effect::Freeze => agent.freeze_group(true),
            Effect::Thaw => agent.freeze_group(false),
            // The agent after them: it can do nothing about it.
            Effect::Kill => agent.kill_group(),
        }
        match pidfd_send_signal(&agent.process, signal) {
            // It has ended meanwhile.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
        if effect == Effect::Thaw {
            let _ = waker.write_all(&[THAWED]);
        }
        if effect == Effect::Kill {
            eprintln!("kerbside-guard: a fence passed and the agent did not act; it was ended");
        }
    }
    Ok(guard)
}

/// The next look: relative on the clock that goes on in a sleep, so a sleep that is longer ends with it.
fn set(timer: &OwnedFd, deadline: Option<Boottime>, now: Now) -> Result<(), Errno> {
    let after = deadline.map_or(Duration::ZERO, |at| {
        // Zero would switch it off.
        at.since(now.boot).clamp(Duration::from_millis(1), LOOK)
    });
    let spec = Itimerspec {
        it_interval: Timespec::default(),
        it_value: Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(0),
            tv_nsec: i64::from(after.subsec_nanos()),
        },
    };
    timerfd_settime(timer, TimerfdTimerFlags::empty(), &spec).map(|_| ())
}

/// Whether the agent has ended, and whether it has something to say.
fn wait(agent: &OwnedFd, orders: Option<&impl AsFd>, timer: &OwnedFd) -> Result<[bool; 2], Errno> {
    let mut fds = vec![PollFd::new(agent, PollFlags::IN), PollFd::new(timer, PollFlags::IN)];
    if let Some(orders) = orders {
        fds.push(PollFd::new(orders, PollFlags::IN));
    }
    loop {
        match poll(&mut fds, None) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    let woke = |n: usize| fds.get(n).is_some_and(|fd: &PollFd<'_>| !fd.revents().is_empty());
    Ok([woke(0), woke(2)])
}

#[cfg(test)]
mod tests;
