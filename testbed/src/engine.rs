//! Real container engines for cars that run containers: containerd with runc, and a network for Pods that leads nowhere.
//!
//! Called by `up`, and by tests that kill an engine. One engine of a kind serves all cars of a testbed that are to have it; each car's
//! containers are in a control group of its own. Pods get an address on a bridge that has none itself: nothing of the machine is reached
//! from it, no packet leaves it. Needs root.

mod config;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};
use futures::future::try_join_all;
use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use self::config::Places;
use crate::layout::{Layout, write_json};
use crate::process::{self, Program, Record};
use crate::tools;

const READY: Duration = Duration::from_secs(60);

/// Which engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The containerd whose version the checkout says, from its Go module.
    Pinned,
    /// The one that Debian has, 1.6 in its release of 2023: it does not tell of its containers.
    Debian,
}

impl Kind {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Pinned, Self::Debian];

    /// The name of the process, of its record and of its log.
    pub const fn process(self) -> &'static str {
        match self {
            Self::Pinned => "containerd",
            Self::Debian => "containerd-debian",
        }
    }

    /// The kind whose process has this name.
    pub fn of_process(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.process() == name)
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Debian => "debian",
        }
    }

    /// Its directory in a testbed.
    const fn directory(self) -> &'static str {
        match self {
            Self::Pinned => "engine",
            Self::Debian => "engine-debian",
        }
    }

    fn socket(self, layout: &Layout) -> PathBuf {
        layout.path(self.directory()).join("engine.sock")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|kind| kind.word() == text);
        found.with_context(|| {
            let all = Self::ALL.map(Self::word).join(", ");
            format!("there is no container engine '{text}'; the engines are: {all}")
        })
    }
}

/// The sockets of the engines; `Err`: there is none, for the reason given.
pub type Engines = BTreeMap<Kind, Result<PathBuf, String>>;

/// Why there can be none here; `None`: there can.
fn lacks() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("a container engine needs root");
    }
    let controllers = ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/freezer"];
    if !controllers.iter().any(|path| Path::new(path).exists()) {
        return Some("a container engine needs control groups, mounted at /sys/fs/cgroup");
    }
    None
}

/// What becomes of a test whose engine is not there, for the reason `why`: what is said loudly in place of the test, or, where `ci` (the
/// variable CI) is set, a failure.
pub fn untested(why: &str, ci: Option<&OsStr>) -> Result<String> {
    ensure!(ci.is_none(), "containers cannot run here, and CI must run them: {why}");
    Ok(format!("NOT TESTED: containers cannot run here: {why}"))
}

/// Starts these engines beside each other.
pub async fn start(layout: &Layout, kinds: &[Kind]) -> Result<Engines> {
    if let Some(lacks) = lacks() {
        return Ok(kinds.iter().map(|kind| (*kind, Err(lacks.to_owned()))).collect());
    }
    let runc = script("runc.sh", &[]).await?;
    let each = kinds.iter().map(|kind| one(layout, *kind, &runc));
    let (started, pause) = tokio::try_join!(try_join_all(each), pause(layout))?;
    let engines: Engines = kinds.iter().copied().zip(started).collect();
    for (kind, socket) in &engines {
        if socket.is_ok() {
            ctr(layout, *kind, &["images", "import", &pause]).await?;
        }
    }
    Ok(engines)
}

/// Starts one; its socket. `Ok(Err)`: it cannot be had here. One that is there and does not start is an error.
async fn one(layout: &Layout, kind: Kind, runc: &Path) -> Result<Result<PathBuf, String>> {
    let bin = match programs(kind).await {
        Ok(bin) => bin,
        // Not every machine gets Debian's packages.
        Err(error) if kind == Kind::Debian => return Ok(Err(format!("{error:#}"))),
        Err(error) => return Err(error),
    };
    let dir = layout.dir(kind.directory())?;
    let socket = kind.socket(layout);
    let cni = tools::pinned("cni", "bridge")?;
    let places = Places {
        dir: &dir,
        socket: &socket,
        cni: cni.parent().context("a program lies in a directory")?,
        runc,
    };
    let network = config::network(kind, &bridge(layout, kind), &dir);
    write_json(
        &layout
            .dir(&format!("{}/net.d", kind.directory()))?
            .join("10-vehicle.conflist"),
        &network,
    )?;
    let config = dir.join("config.toml");
    std::fs::write(&config, config::configuration(kind, places))
        .with_context(|| format!("failed to write {}", config.display()))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let program = Program::new(kind.process(), bin.join("containerd"))
        .args(["--config".to_owned(), config.display().to_string()])
        // It looks for its shim there.
        .env("PATH", format!("{}:{}:{path}", bin.display(), runc.display()));
    answers(layout, kind, &process::start(layout, &program)?).await?;
    Ok(Ok(socket))
}

async fn answers(layout: &Layout, kind: Kind, record: &Record) -> Result<()> {
    process::ready(record, READY, || async {
        ctr(layout, kind, &["version"]).await.map(drop)
    })
    .await
}

/// Starts one that was killed as it was started before, and waits until it answers.
pub async fn restart(layout: &Layout, kind: Kind) -> Result<()> {
    answers(layout, kind, &process::restart(layout, kind.process())?).await
}

/// Starts those again that were killed and are away: only they know what they have left.
pub async fn revive(layout: &Layout) -> Result<()> {
    for kind in Kind::ALL {
        if process::find(layout, kind.process()).is_some_and(|record| !record.alive()) {
            restart(layout, kind).await?;
        }
    }
    Ok(())
}

/// Ends every container of an engine, so that runc takes its control groups away. The engine itself ends as all programs do.
pub async fn end(layout: &Layout, kind: Kind) -> Result<()> {
    if !process::find(layout, kind.process()).is_some_and(|record| record.alive()) {
        return Ok(());
    }
    let tasks = ctr(layout, kind, &["tasks", "ls", "-q"]).await?;
    for task in tasks.split_whitespace() {
        // One that has ended meanwhile is not there.
        let _ = ctr(layout, kind, &["tasks", "rm", "--force", task]).await;
    }
    Ok(())
}

/// Takes away what the engines and the cars' agents have mounted below the testbed's directory, after they have ended, and the bridges.
pub async fn clear(layout: &Layout) -> Result<()> {
    unmount(layout)?;
    for kind in Kind::ALL {
        if !layout.path(kind.directory()).join("net.d").exists() {
            continue;
        }
        let output = Command::new("ip")
            .args(["link", "delete", &bridge(layout, kind)])
            .output()
            .await
            .context("failed to run ip")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() || said.contains("Cannot find device"),
            "failed to remove the bridge: {}",
            said.trim()
        );
    }
    Ok(())
}

fn unmount(layout: &Layout) -> Result<()> {
    let text = std::fs::read_to_string("/proc/self/mounts").context("failed to read mounts")?;
    let places = text.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    let ours: Vec<_> = places.filter(|place| place.starts_with(layout.root())).collect();
    // The innermost first.
    for place in ours.iter().rev() {
        umount2(*place, MntFlags::MNT_DETACH).with_context(|| format!("failed to unmount {}", place.display()))?;
    }
    Ok(())
}

/// `ctr` on an engine of this testbed, of that engine's own version.
pub async fn ctr(layout: &Layout, kind: Kind, arguments: &[&str]) -> Result<String> {
    let output = Command::new(programs(kind).await?.join("ctr"))
        .arg("--address")
        .arg(kind.socket(layout))
        .args(["--namespace", "k8s.io"])
        .args(arguments)
        .output()
        .await
        .context("failed to run ctr")?;
    if !output.status.success() {
        bail!(
            "ctr {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The folder of an engine's programs.
async fn programs(kind: Kind) -> Result<PathBuf> {
    match kind {
        Kind::Pinned => {
            let program = tools::pinned("containerd", "containerd")?;
            let bin = program.parent().context("a program lies in a directory")?;
            Ok(bin.to_owned())
        }
        Kind::Debian => script("debian.sh", &["containerd", "containerd"]).await,
    }
}

/// Runs a script of the tools that prints a folder.
async fn script(name: &str, arguments: &[&str]) -> Result<PathBuf> {
    let script = tools::checkout()?.join("hack/tools").join(name);
    let output = Command::new("bash")
        .arg(&script)
        .args(arguments)
        .output()
        .await
        .with_context(|| format!("failed to run {}", script.display()))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Short enough for the name of a network device, and of this testbed's engine alone.
fn bridge(layout: &Layout, kind: Kind) -> String {
    let digest = crate::registry::artifact::digest(layout.root().as_os_str().as_encoded_bytes());
    let prefix = match kind {
        Kind::Pinned => "kb",
        Kind::Debian => "kd",
    };
    let testbed = digest.trim_start_matches("sha256:").get(..8).unwrap_or_default();
    format!("{prefix}{testbed}")
}

/// Builds what holds the network of a Pod; the archive.
async fn pause(layout: &Layout) -> Result<String> {
    let out = layout.dir("images")?;
    let script = tools::checkout()?.join("hack/images/build.sh");
    let output = Command::new("bash")
        .arg(&script)
        .arg("--out")
        .arg(&out)
        .args(["--tag", "1", "pause"])
        .output()
        .await
        .with_context(|| format!("failed to run {}", script.display()))?;
    if !output.status.success() {
        bail!(
            "failed to build the pause image: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let archive = out.join("pause.tar");
    Ok(archive.to_str().context("a testbed's path is text")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_without_its_engine_is_said_loudly_and_fails_in_ci() {
        let said = untested("a container engine needs root", None).unwrap();
        assert_eq!(
            said,
            "NOT TESTED: containers cannot run here: a container engine needs root"
        );
        // Whatever its value.
        for ci in ["true", "1", ""] {
            let failure = untested("a container engine needs root", Some(OsStr::new(ci))).unwrap_err();
            let text = failure.to_string();
            assert!(
                text.contains("CI must run them") && text.contains("needs root"),
                "{text}"
            );
        }
    }

    #[test]
    fn engine_is_known_by_its_word_and_by_its_process() {
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse::<Kind>().unwrap(), kind);
            assert_eq!(Kind::of_process(kind.process()), Some(kind));
        }
        assert_eq!(Kind::of_process("kube-apiserver"), None);
        let text = "docker".parse::<Kind>().unwrap_err().to_string();
        assert!(text.contains("'docker'") && text.contains("pinned, debian"), "{text}");
    }

    #[test]
    fn engines_of_one_testbed_share_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let [one, other] = Kind::ALL;
        assert_ne!(one.socket(&layout), other.socket(&layout));
        assert_ne!(bridge(&layout, one), bridge(&layout, other));
        // The kernel's longest name of a device.
        assert!(Kind::ALL.iter().all(|kind| bridge(&layout, *kind).len() <= 15));
    }

    #[test]
    fn engines_are_told_in_a_file_and_read_from_it() {
        let engines: Engines = [
            (Kind::Pinned, Ok("/bed/engine/engine.sock".into())),
            (Kind::Debian, Err("no apt-get".to_owned())),
        ]
        .into();
        let text = serde_json::to_string(&engines).unwrap();
        assert_eq!(serde_json::from_str::<Engines>(&text).unwrap(), engines);
    }
}
