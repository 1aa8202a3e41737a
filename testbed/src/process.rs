//! Processes that outlive whoever started them, each with a record on disk by which anybody finds, ends or restarts it.
//!
//! Called by everything that starts a program. A process is known by its id *and* the kernel's start time of it, so that an id
//! which the kernel gave to somebody else in the meantime is never signalled. Each has a process group of its own: the Ctrl-C
//! that ends a demo's view does not end what it shows.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::layout::{Layout, read_json, write_json};
use crate::wait;

/// What is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Names the record and the log.
    pub name: String,
    /// Absolute path.
    pub binary: PathBuf,
    /// Arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment, on top of PATH and HOME; nothing else is inherited, so that a user's KUBECONFIG cannot leak in.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

impl Program {
    /// A program without arguments.
    pub fn new(name: &str, binary: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            binary,
            args: Vec::new(),
            env: BTreeMap::new(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets variables of the environment.
    #[must_use]
    pub fn envs(mut self, variables: &BTreeMap<String, String>) -> Self {
        self.env.extend(variables.clone());
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }
}

/// A process that was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// What it runs.
    pub program: Program,
    /// Its id.
    pub pid: i32,
    /// When it was started, in clock ticks since boot: with the id, its identity.
    pub started: u64,
    /// Where its output goes.
    pub log: PathBuf,
}

/// Starts `program` in the background; its output goes to `logs/<name>.log` of the testbed.
pub fn start(layout: &Layout, program: &Program) -> Result<Record> {
    let log = layout.dir("logs")?.join(format!("{}.log", program.name));
    if let Some(old) = find(layout, &program.name)
        && old.alive()
    {
        bail!("{} already runs (process {}); end it first", program.name, old.pid);
    }
    let output = open_log(&log)?;
    let errors = output.try_clone().context("failed to share a log file")?;
    let mut command = Command::new(&program.binary);
    command
        .args(&program.args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0);
    for name in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    // Colours are for terminals; these logs are files.
    command
        .env("NO_COLOR", "1")
        .envs(&program.env)
        .current_dir(layout.root());
    let child = command
        .spawn()
        .with_context(|| format!("failed to start {}", program.binary.display()))?;
    let pid = i32::try_from(child.id()).context("a process id fits in 31 bits")?;
    let started = stat(pid).map_or(0, |s| s.started);
    let record = Record {
        program: program.clone(),
        pid,
        started,
        log,
    };
    write_json(&record_path(layout, &program.name)?, &record)?;
    Ok(record)
}

/// The record of `name`, whether it still runs or not.
pub fn find(layout: &Layout, name: &str) -> Option<Record> {
    read_json(&record_path(layout, name).ok()?).ok()
}

/// Every record, sorted by name.
pub fn all(layout: &Layout) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for entry in std::fs::read_dir(layout.dir("processes")?).context("failed to list the records of processes")? {
        records.push(read_json::<Record>(
            &entry.context("failed to list the records of processes")?.path(),
        )?);
    }
    records.sort_by(|a, b| a.program.name.cmp(&b.program.name));
    Ok(records)
}

/// Ends all of `records` at once: SIGTERM, `grace` for them to go, SIGKILL. Done when none is alive.
pub async fn end(layout: &Layout, records: &[Record], grace: Duration) -> Result<()> {
    for record in records {
        record.signal(Signal::SIGTERM);
    }
    let gone = || async { Ok(records.iter().all(|r| !r.alive()).then_some(())) };
    if wait::until("processes to end", grace, gone).await.is_err() {
        for record in records {
            record.signal(Signal::SIGKILL);
        }
        wait::until("killed processes to end", Duration::from_secs(10), gone).await?;
    }
    for record in records {
        let path = record_path(layout, &record.program.name)?;
        if path.exists() {
            std::fs::remove_file(&path).with_context(|| format!("failed to remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Kills `name` as a power cut would and waits until it is gone; the record stays, for [`restart`].
pub async fn crash(layout: &Layout, name: &str) -> Result<Record> {
    let record = find(layout, name).with_context(|| format!("{name} was never started"))?;
    if !record.alive() {
        bail!(
            "{name} is not running: it ended by itself; its log: {}\n{}",
            record.log.display(),
            record.tail(15)
        );
    }
    record.signal(Signal::SIGKILL);
    wait::until(&format!("{name} to be gone"), Duration::from_secs(10), || async {
        Ok((!record.alive()).then_some(()))
    })
    .await?;
    Ok(record)
}

/// Starts `name` again as it was started before.
pub fn restart(layout: &Layout, name: &str) -> Result<Record> {
    let record = find(layout, name).with_context(|| format!("{name} was never started"))?;
    start(layout, &record.program)
}

/// Asks `probe` until it succeeds; fails at once, with the end of the log, when the process has ended.
pub async fn ready<F, Fut>(record: &Record, deadline: Duration, mut probe: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let name = &record.program.name;
    let last = std::cell::RefCell::new(None);
    let what = format!("{name} to be ready");
    let answered = wait::until(&what, deadline, || {
        let asked = probe();
        let last = &last;
        async move {
            if !record.alive() {
                bail!("{name} ended while starting");
            }
            match tokio::time::timeout(Duration::from_secs(5), asked).await {
                Ok(Ok(())) => Ok(Some(())),
                Ok(Err(e)) => {
                    *last.borrow_mut() = Some(format!("{e:#}"));
                    Ok(None)
                }
                Err(_) => Ok(None),
            }
        }
    });
    answered.await.map_err(|e| {
        let cause = last.borrow().as_ref().map_or_else(String::new, |c| format!(" ({c})"));
        anyhow::anyhow!("{e}{cause}; its log: {}\n{}", record.log.display(), record.tail(15))
    })
}

impl Record {
    /// Whether this very process still runs.
    pub fn alive(&self) -> bool {
        // A child of ours that has ended stays in the table until somebody asks for its end.
        let _ = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        stat(self.pid).is_some_and(|s| s.started == self.started && !s.dead)
    }

    /// Sends a signal, if it is still this very process.
    pub fn signal(&self, signal: Signal) {
        if self.alive() {
            // It may end between the look and the signal; then there is nothing to do.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// The last lines of the log.
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }

    /// Resident memory in kilobytes.
    pub fn rss_kb(&self) -> Option<u64> {
        field_kb(Path::new(&format!("/proc/{}/status", self.pid)), "VmRSS:")
    }

    /// Proportional share of memory in kilobytes: pages shared with other processes are counted in part.
    pub fn pss_kb(&self) -> Option<u64> {
        pss_kb_of(self.pid)
    }
}

/// Proportional share of memory in kilobytes of a process that has no record, such as a child of one that has.
pub fn pss_kb_of(pid: i32) -> Option<u64> {
    field_kb(Path::new(&format!("/proc/{pid}/smaps_rollup")), "Pss:")
}

/// The last `lines` lines of a file, or why there are none.
pub fn tail(log: &Path, lines: usize) -> String {
    match std::fs::read(log) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            let last = &all[all.len().saturating_sub(lines)..];
            last.iter().flat_map(|l| ["  | ", l, "\n"]).collect()
        }
        Err(e) => format!("  (no log: {e})\n"),
    }
}

fn record_path(layout: &Layout, name: &str) -> Result<PathBuf> {
    Ok(layout.dir("processes")?.join(format!("{name}.json")))
}

fn open_log(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("failed to open the log {}", path.display()))
}

fn field_kb(path: &Path, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines()
        .find_map(|l| l.strip_prefix(field))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

struct Stat {
    started: u64,
    dead: bool,
}

/// What the kernel says of a process, or nothing if there is none.
fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The program's name, in parentheses, may itself hold spaces and parentheses: fields count from behind the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Fields 3 (state), 20 (threads) and 22 (start time) of proc(5). A process whose first thread has ended is shown as a zombie while
    // others of its threads still hold its files and ports.
    let threads: u32 = fields.get(17)?.parse().ok()?;
    Some(Stat {
        dead: matches!(*fields.first()?, "Z" | "X") && threads <= 1,
        started: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(name: &str) -> Program {
        Program::new(name, "/bin/sleep".into()).args(["600"])
    }

    #[test]
    fn stat_of_a_program_with_parentheses_in_its_name_is_read() {
        let line = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 2 3";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.started, stat.dead), (4242, false));
        let ended = line.replace(" S ", " Z ");
        assert!(parse_stat(&ended).unwrap().dead);
        let ending = ended.replace(" 20 0 1 0 ", " 20 0 3 0 ");
        assert!(!parse_stat(&ending).unwrap().dead, "two of its threads have not ended");
    }

    #[tokio::test]
    async fn process_is_found_by_its_record_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        start(&layout, &sleeper("one")).unwrap();
        let records = all(&layout).unwrap();
        assert!(records.len() == 1 && records[0].alive());
        assert!(
            start(&layout, &sleeper("one"))
                .unwrap_err()
                .to_string()
                .contains("already runs")
        );
        end(&layout, &records, Duration::from_secs(5)).await.unwrap();
        assert!(!records[0].alive() && all(&layout).unwrap().is_empty());
    }

    #[tokio::test]
    async fn record_whose_id_went_to_another_process_signals_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let real = start(&layout, &sleeper("real")).unwrap();
        let stale = Record {
            started: real.started + 1,
            ..real.clone()
        };
        assert!(!stale.alive());
        stale.signal(Signal::SIGKILL);
        assert!(real.alive());
        end(&layout, &[real], Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn crashed_process_restarts_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let first = start(&layout, &sleeper("one")).unwrap();
        crash(&layout, "one").await.unwrap();
        let second = restart(&layout, "one").unwrap();
        assert!(second.alive() && second.pid != first.pid && second.program == first.program);
        end(&layout, &[second], Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn process_that_ends_while_starting_shows_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let program = Program::new("bad", "/bin/sh".into()).args(["-c", "echo no such flag >&2; exit 3"]);
        let record = start(&layout, &program).unwrap();
        let error = ready(&record, Duration::from_secs(20), || async { bail!("not yet") })
            .await
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("bad ended while starting") && text.contains("no such flag"),
            "{text}"
        );
    }

    #[test]
    fn memory_of_a_live_process_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let pid = i32::try_from(std::process::id()).unwrap();
        let record = Record {
            program: sleeper("me"),
            pid,
            started: 0,
            log,
        };
        assert!(record.rss_kb().unwrap() > 100 && record.pss_kb().unwrap() > 100);
    }
}
