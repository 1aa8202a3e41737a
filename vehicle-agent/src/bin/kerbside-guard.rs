//! `kerbside-guard AGENT [GROUP LOCK]`: ends the agent if a fence passes and it does not act. Started by `kerbside-agent`; starts `kerbside-guard waker`.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kerbside_vehicle_agent::cgroup::{self, Cgroup};
use kerbside_vehicle_agent::guard::process::{GuardError, Guarded, SystemClocks, open, watch};
use kerbside_vehicle_agent::guard::waker;

fn main() -> ExitCode {
    let result = run();
    if let Err(error) = &result {
        let source = std::error::Error::source(error).map(|source| format!(": {source}"));
        eprintln!("kerbside-guard: {error}{}", source.unwrap_or_default());
    }
    ExitCode::from(u8::from(result.is_err()))
}

fn run() -> Result<(), GuardError> {
    let number = std::env::args().nth(1).unwrap_or_default();
    if number == waker::WAKER {
        waker::wait(std::io::stdout(), std::io::stdin())?;
        return Ok(());
    }
    let (group, lock) = (std::env::args().nth(2), std::env::args_os().nth(3));
    let agent = Guarded {
        process: open(&number)?,
        group: group.map(|name| Cgroup::at(Path::new(cgroup::MOUNT), &name)),
        lock: lock.map(PathBuf::from),
    };
    // Read as it comes: what a buffer holds, no poll tells of.
    let orders = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    watch(&agent, orders, waker::start(&agent.process), &SystemClocks)
}
