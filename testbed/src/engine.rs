//! A real container engine for cars that run containers: containerd with runc, and a network for Pods that leads nowhere.
//!
//! Called by `up`. One engine serves all cars of a testbed; each car's containers are in a control group of its own. Pods get an address on
//! a bridge that has none itself: nothing of the machine is reached from it, no packet leaves it. Needs root.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, umount2};
use serde_json::json;
use tokio::process::Command;

use crate::layout::{Layout, write_json};
use crate::process::{self, Program};
use crate::tools;

/// The name of the process, of its record and of its log.
pub const NAME: &str = "containerd";
/// What holds the network of a Pod.
const PAUSE: &str = "localhost/kerbside/pause:1";
const READY: Duration = Duration::from_secs(60);

/// Why there can be none here; `None`: there can.
pub fn lacks() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("a container engine needs root");
    }
    let controllers = ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/freezer"];
    if !controllers.iter().any(|path| Path::new(path).exists()) {
        return Some("a container engine needs control groups, mounted at /sys/fs/cgroup");
    }
    None
}

/// Starts the engine; its socket.
pub async fn start(layout: &Layout) -> Result<PathBuf> {
    let dir = layout.dir("engine")?;
    let socket = dir.join("engine.sock");
    let bin = tools::pinned("containerd", "containerd")?;
    let bin = bin.parent().context("a program lies in a directory")?;
    let runc = runc().await?;
    network(layout)?;
    let config = dir.join("config.toml");
    std::fs::write(&config, configuration(layout, &socket, &runc)?)
        .with_context(|| format!("failed to write {}", config.display()))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let program = Program::new(NAME, bin.join("containerd"))
        .args(["--config".to_owned(), config.display().to_string()])
        // It looks for its shim there.
        .env("PATH", format!("{}:{}:{path}", bin.display(), runc.display()));
    let record = process::start(layout, &program)?;
    process::ready(&record, READY, || async { ctr(layout, &["version"]).await.map(drop) }).await?;
    pause(layout).await?;
    Ok(socket)
}

/// Ends every container of the engine, so that runc takes its control groups away. The engine itself ends as all programs do.
pub async fn end(layout: &Layout) -> Result<()> {
    if !process::find(layout, NAME).is_some_and(|record| record.alive()) {
        return Ok(());
    }
    let tasks = ctr(layout, &["tasks", "ls", "-q"]).await?;
    for task in tasks.split_whitespace() {
        // One that has ended meanwhile is not there.
        let _ = ctr(layout, &["tasks", "rm", "--force", task]).await;
    }
    Ok(())
}

/// Takes away what the engine and the cars' agents have mounted below the testbed's directory, after they have ended, and the bridge.
pub async fn clear(layout: &Layout) -> Result<()> {
    unmount(layout)?;
    if !layout.path("engine/net.d").exists() {
        return Ok(());
    }
    let output = Command::new("ip")
        .args(["link", "delete", &bridge(layout)])
        .output()
        .await
        .context("failed to run ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() || said.contains("Cannot find device"),
        "failed to remove the bridge: {}",
        said.trim()
    );
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

/// `ctr` on the engine of this testbed.
pub async fn ctr(layout: &Layout, arguments: &[&str]) -> Result<String> {
    let output = Command::new(tools::pinned("containerd", "ctr")?)
        .arg("--address")
        .arg(layout.path("engine/engine.sock"))
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

async fn runc() -> Result<PathBuf> {
    let script = tools::checkout()?.join("hack/tools/runc.sh");
    let output = Command::new("bash")
        .arg(&script)
        .output()
        .await
        .with_context(|| format!("failed to run {}", script.display()))?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Short enough for the name of a network device, and of this testbed alone.
fn bridge(layout: &Layout) -> String {
    let digest = crate::registry::artifact::digest(layout.root().as_os_str().as_encoded_bytes());
    format!(
        "kb{}",
        digest.trim_start_matches("sha256:").get(..8).unwrap_or_default()
    )
}

fn network(layout: &Layout) -> Result<()> {
    let plugin = json!({
        "type": "bridge", "bridge": bridge(layout), "isGateway": false, "portIsolation": true,
        "ipam": {
            "type": "host-local", "dataDir": layout.path("engine/addresses"),
            "ranges": [[{"subnet": "10.98.0.0/16"}]],
        },
    });
    let list = json!({"cniVersion": "1.0.0", "name": "vehicle", "plugins": [plugin]});
    write_json(&layout.dir("engine/net.d")?.join("10-vehicle.conflist"), &list)
}

fn configuration(layout: &Layout, socket: &Path, runc: &Path) -> Result<String> {
    let cni = tools::pinned("cni", "bridge")?;
    let cni = cni.parent().context("a program lies in a directory")?;
    let dir = layout.path("engine");
    // Without restrict_oom_score_adj runc cannot start a sandbox where the machine itself is confined.
    Ok(format!(
        "version = 3
root = '{dir}/root'
state = '{dir}/state'
[grpc]
address = '{socket}'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{PAUSE}'
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['{cni}']
conf_dir = '{dir}/net.d'
[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = 'runc'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = '{runc}/runc'
SystemdCgroup = false
",
        dir = dir.display(),
        socket = socket.display(),
        cni = cni.display(),
        runc = runc.display(),
    ))
}

async fn pause(layout: &Layout) -> Result<()> {
    let out = layout.dir("engine/images")?;
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
    ctr(
        layout,
        &[
            "images",
            "import",
            archive.to_str().context("a testbed's path is text")?,
        ],
    )
    .await?;
    Ok(())
}
