//! A third process, smaller yet: wakes the agent if the guard is killed between freezing and thawing it.
//!
//! Started by the guard, from the same program, and held to it by a pipe. The guard says on it when it is about to freeze the agent and
//! when it has thawed it; the end of the pipe is the end of the guard. What must never happen: an agent that stays frozen with nobody
//! left to thaw it; nor is one woken that somebody else has stopped.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

/// What the program is told that is to be a waker.
pub const WAKER: &str = "waker";

/// The agent is frozen from here on.
pub(super) const FROZEN: u8 = b'f';
/// It is not any more.
pub(super) const THAWED: u8 = b't';

/// Starts one for the process behind `agent`; what it is told goes there. A guard without one is better than none.
pub fn start(agent: &OwnedFd) -> Box<dyn Write> {
    match spawn(agent) {
        Ok(orders) => orders,
        Err(error) => {
            eprintln!("kerbside-guard: {error}: nobody would wake a frozen agent if its guard were killed");
            Box::new(io::sink())
        }
    }
}

fn spawn(agent: &OwnedFd) -> io::Result<Box<dyn Write>> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg(WAKER)
        .stdin(Stdio::piped())
        // The agent itself, and not its number, which might be another's by then.
        .stdout(Stdio::from(agent.try_clone()?))
        // What ends the guard's group does not end it as well.
        .process_group(0)
        .spawn()?;
    let orders = child
        .stdin
        .take()
        .ok_or_else(|| io::Error::other("no way to the waker"))?;
    Ok(Box::new(orders))
}

/// Waits for the end of the guard, and wakes the agent if that was frozen then.
pub fn wait(agent: impl AsFd, mut guard: impl Read) -> io::Result<()> {
    let (mut frozen, mut said) = (false, [0]);
    while guard.read(&mut said)? > 0 {
        frozen = said == [FROZEN];
    }
    if frozen {
        match pidfd_send_signal(agent, Signal::CONT) {
            // It has ended meanwhile.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Child;

    use rustix::process::{Pid, PidfdFlags, WaitOptions, kill_process, pidfd_open, waitpid};

    use super::*;

    /// A process that was stopped, and a guard of it that was killed after it had said this.
    fn stopped(said: &[u8]) -> Child {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let agent = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped());
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(said).unwrap();
        drop(writer);
        wait(agent, reader).unwrap();
        child
    }

    /// Whether the process was woken.
    fn woken(mut child: Child) -> bool {
        let pid = Pid::from_child(&child);
        let status = waitpid(Some(pid), WaitOptions::CONTINUED | WaitOptions::NOHANG).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        status.is_some_and(|(_, status)| status.continued())
    }

    #[test]
    fn agent_whose_guard_was_killed_while_it_was_frozen_is_woken() {
        assert!(woken(stopped(&[FROZEN])));
        assert!(woken(stopped(&[FROZEN, THAWED, FROZEN])));
    }

    #[test]
    fn agent_that_somebody_else_has_stopped_is_left_so() {
        assert!(!woken(stopped(&[])));
        assert!(!woken(stopped(&[FROZEN, THAWED])));
    }
}
