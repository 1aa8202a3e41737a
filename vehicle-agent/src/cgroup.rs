//! Control groups: the kernel's own handle on everything that runs in containers, whatever the container engine does.
//!
//! Used by the container runtime for each attempt, and by the guard for all of a car. Both versions: the first, where each controller has a
//! tree of its own, and the second, where there is one. What must never happen: a process outside the group that is signalled, or one
//! inside that is left after [`Cgroup::kill`] said it was done.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::runtime::Usage;

/// Where the kernel shows them.
pub const MOUNT: &str = "/sys/fs/cgroup";

/// The controllers of the first version that a group of ours is made in.
const CONTROLLERS: [&str; 6] = ["freezer", "pids", "memory", "cpu", "cpuacct", "blkio"];
/// Between two looks for what is left, and how often.
const LOOK: Duration = Duration::from_millis(2);
const LOOKS: u32 = 1000;

/// A control group, made or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    mount: PathBuf,
    /// Below the mount, or below each controller's: without a leading slash.
    path: PathBuf,
    unified: bool,
}

/// What everything in a group may use together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Most {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub cpu: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes read from each disk per second, and as many written. By [`Cgroup::bound_disks`], which is told which disks.
    pub disk: Option<u64>,
}

impl Cgroup {
    /// The group of this name, such as `/kerbside/1a2b`, below a mount.
    pub fn at(mount: &Path, name: &str) -> Self {
        Self {
            mount: mount.to_owned(),
            path: PathBuf::from(name.trim_start_matches('/')),
            unified: mount.join("cgroup.controllers").exists(),
        }
    }

    /// A group within this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self {
            path: self.path.join(name),
            ..self.clone()
        }
    }

    /// As an engine is told of it.
    pub fn name(&self) -> String {
        format!("/{}", self.path.display())
    }

    /// Whether this is the second version.
    pub fn is_unified(&self) -> bool {
        self.unified
    }

    fn directory(&self, controller: &str) -> PathBuf {
        if self.unified {
            self.mount.join(&self.path)
        } else {
            self.mount.join(controller).join(&self.path)
        }
    }

    /// Every directory of the group.
    fn directories(&self) -> Vec<PathBuf> {
        if self.unified {
            return vec![self.directory("")];
        }
        let there = CONTROLLERS.iter().filter(|name| self.mount.join(name).is_dir());
        there.map(|name| self.directory(name)).collect()
    }

    /// Makes it where it is missing, and bounds it. A bound that the kernel has no controller for is an error.
    pub fn make(&self, most: Most) -> io::Result<()> {
        for directory in self.directories() {
            fs::create_dir_all(directory)?;
        }
        if self.unified {
            self.delegate()?;
        }
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let quota = most.cpu.map(quota_us);
        let bounds = if self.unified {
            [
                ("memory", "memory.max", number(most.memory)),
                ("cpu", "cpu.max", quota.map(|quota| format!("{quota} {PERIOD_US}"))),
                ("pids", "pids.max", number(most.pids)),
            ]
        } else {
            [
                ("memory", "memory.limit_in_bytes", number(most.memory)),
                ("cpu", "cpu.cfs_quota_us", number(quota)),
                ("pids", "pids.max", number(most.pids)),
            ]
        };
        for (controller, file, bound) in bounds {
            if let Some(bound) = bound {
                let path = self.directory(controller).join(file);
                let written = fs::write(&path, bound);
                written.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
            }
        }
        Ok(())
    }

    /// Bounds how many bytes per second it reads from each of these disks, and writes to them; a disk is named by its numbers, such as `254:0`.
    /// Of the first version this bounds direct access alone, for the kernel does not know whose a page is that it writes later, and it
    /// holds for this group alone and not for those within it.
    pub fn bound_disks<'a>(&self, rate: u64, disks: impl IntoIterator<Item = &'a String>) -> io::Result<()> {
        let directory = self.directory("blkio");
        fs::create_dir_all(&directory)?;
        let write = |file: &str, text: String| {
            let path = directory.join(file);
            fs::write(&path, text).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
        };
        for disk in disks {
            if self.unified {
                write("io.max", format!("{disk} rbps={rate} wbps={rate}"))?;
            } else {
                write("blkio.throttle.read_bps_device", format!("{disk} {rate}"))?;
                write("blkio.throttle.write_bps_device", format!("{disk} {rate}"))?;
            }
        }
        Ok(())
    }

    /// Lets groups within each group on the way have the controllers.
    fn delegate(&self) -> io::Result<()> {
        let mut directory = self.mount.clone();
        for part in self.path.components() {
            for controller in ["cpu", "memory", "pids", "io"] {
                // One that is missing is missed when its bound is written.
                let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            directory.push(part);
        }
        fs::metadata(directory).map(|_| ())
    }

    /// Takes the processor from everything in it.
    pub fn freeze(&self) -> io::Result<()> {
        self.set_frozen(true)
    }

    /// Gives it back, unless a group around it is frozen.
    pub fn thaw(&self) -> io::Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        if self.unified {
            fs::write(self.directory("").join("cgroup.freeze"), if frozen { "1" } else { "0" })
        } else {
            let state = if frozen { "FROZEN" } else { "THAWED" };
            fs::write(self.directory("freezer").join("freezer.state"), state)
        }
    }

    /// Whether everything in it stands still.
    pub fn is_frozen(&self) -> io::Result<bool> {
        if self.unified {
            let events = fs::read_to_string(self.directory("").join("cgroup.events"))?;
            return Ok(events.lines().any(|line| line == "frozen 1"));
        }
        let state = fs::read_to_string(self.directory("freezer").join("freezer.state"))?;
        Ok(state.trim() == "FROZEN")
    }

    /// Ends every process in it and in the groups within it, frozen or not, and waits until none is left. One that is not there is empty.
    pub fn kill(&self) -> io::Result<()> {
        for look in 0..LOOKS {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            if look == 0 && self.unified && fs::write(self.directory("").join("cgroup.kill"), "1").is_ok() {
                continue;
            }
            // What stands still cannot end, nor start another meanwhile: it is told first, and then let go to its end.
            let _ = self.freeze();
            for pid in self.pids()? {
                // It has ended already.
                let _ = kill_process(pid, Signal::KILL);
            }
            self.thaw_all()?;
            sleep(LOOK);
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("processes of {} do not end", self.name()),
        ))
    }

    fn thaw_all(&self) -> io::Result<()> {
        for directory in self.tree()? {
            let (file, word) = if self.unified {
                ("cgroup.freeze", "0")
            } else {
                ("freezer.state", "THAWED")
            };
            match fs::write(directory.join(file), word) {
                Err(e) if !gone(&e) => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Every process in it and in the groups within it.
    pub fn pids(&self) -> io::Result<Vec<Pid>> {
        let mut pids = Vec::new();
        for directory in self.tree()? {
            match fs::read_to_string(directory.join("cgroup.procs")) {
                // Zero stands for a process that cannot be seen from here.
                Ok(text) => pids.extend(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?))),
                Err(e) if gone(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(pids)
    }

    /// Its directory and those within it, outer ones first; none if it is not there.
    fn tree(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        walk(&self.directory("freezer"), &mut found)?;
        Ok(found)
    }

    /// What everything in it has used, also what has ended.
    pub fn usage(&self) -> Usage {
        let number = |controller: &str, file: &str| -> Option<u64> {
            fs::read_to_string(self.directory(controller).join(file))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        if self.unified {
            let stat = fs::read_to_string(self.directory("").join("cpu.stat")).unwrap_or_default();
            let micros = stat
                .lines()
                .find_map(|line| line.strip_prefix("usage_usec ")?.parse::<u64>().ok());
            return Usage {
                cpu_ms: micros.unwrap_or(0) / 1000,
                memory_peak: number("", "memory.peak").unwrap_or(0),
            };
        }
        Usage {
            cpu_ms: number("cpuacct", "cpuacct.usage").unwrap_or(0) / 1_000_000,
            memory_peak: number("memory", "memory.max_usage_in_bytes").unwrap_or(0),
        }
    }

    /// Removes it and the groups within it. They must be empty.
    pub fn remove(&self) -> io::Result<()> {
        // Also where the engine has made it, in controllers that we do not know.
        let everywhere = if self.unified {
            self.directories()
        } else {
            let mounts = fs::read_dir(&self.mount)?
                .flatten()
                .map(|entry| entry.path().join(&self.path));
            mounts.collect()
        };
        for directory in everywhere {
            let mut tree = Vec::new();
            walk(&directory, &mut tree)?;
            for directory in tree.iter().rev() {
                match fs::remove_dir(directory) {
                    Err(e) if !gone(&e) => return Err(e),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Of a processor's time, in microseconds: the kernel's own default, so that a limit holds over short times.
pub const PERIOD_US: u64 = 100_000;
/// The least that the kernel takes.
const LEAST_QUOTA_US: u64 = 1000;

/// How much of each period so many thousandths of a processor are, in microseconds.
pub fn quota_us(cpu: u64) -> u64 {
    (cpu * PERIOD_US / 1000).max(LEAST_QUOTA_US)
}

/// A group ends with its last process, if its engine removes it.
fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if gone(&e) => return Ok(()),
        Err(e) => return Err(e),
    };
    found.push(directory.to_owned());
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
