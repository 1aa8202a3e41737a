//! Somebody beside a car: a machine of its own, on a wire with the machine that the cars are on.
//!
//! Used by tests of what a car's programs reach. A network namespace that lives as long as the process in it: all of it goes when that is
//! ended, the wire, the addresses and the routes too. No packet leaves the machine. Needs root, and `ip`, `unshare` and `nsenter`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};

use crate::layout::Layout;
use crate::{programs, wait};

const DEADLINE: Duration = Duration::from_secs(20);

/// One, with a server for `http` and one for `https`.
#[derive(Debug)]
pub struct Peer {
    /// The machine's own address on the wire.
    pub near: String,
    /// The peer's address on the wire, a private one.
    pub private: String,
    /// An address that the registries of IANA call public, and that leads to the peer: one of the project that answers for addresses
    /// that nobody has (AS112, RFC 7534).
    pub public: String,
    log: PathBuf,
    // Ended when they are dropped.
    _servers: [Child; 2],
}

impl Peer {
    /// Starts the peer of this number, which no other has at the time.
    pub async fn start(layout: &Layout, number: u8) -> Result<Self> {
        let peer = format!("kbpeer{number}");
        let (near, private) = (format!("10.97.{number}.1"), format!("10.97.{number}.2"));
        let public = format!("192.175.48.{number}");
        let actor = layout.path("programs").join(programs::ACTOR);
        let log = layout.dir("logs")?.join(format!("{peer}.log"));
        let output = || {
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(&log)
                .context("failed to open a log")
        };

        let mut first = Command::new("unshare");
        first.arg("--net").arg(&actor).args(["serve", "80"]);
        let first = run(first, output()?)?;
        let pid = first.id().context("the peer runs")?.to_string();
        let space = format!("/proc/{pid}/ns/net");
        let own = std::fs::read_link("/proc/self/ns/net").context("this process has a network")?;
        // It becomes the program once it has a network of its own.
        wait::until("the peer to have a network of its own", DEADLINE, async || {
            Ok(std::fs::read_link(&space).ok().filter(|space| *space != own))
        })
        .await?;
        ip(
            None,
            &[
                "link", "add", &peer, "type", "veth", "peer", "name", "eth0", "netns", &pid,
            ],
        )
        .await?;
        ip(None, &["address", "add", &format!("{near}/30"), "dev", &peer]).await?;
        ip(None, &["link", "set", &peer, "up"]).await?;
        let within = Some(Path::new(&space));
        ip(within, &["address", "add", &format!("{private}/30"), "dev", "eth0"]).await?;
        ip(within, &["address", "add", &format!("{public}/32"), "dev", "lo"]).await?;
        for device in ["lo", "eth0"] {
            ip(within, &["link", "set", device, "up"]).await?;
        }
        ip(None, &["route", "add", &format!("{public}/32"), "via", &private]).await?;

        let mut second = Command::new("nsenter");
        second.arg(format!("--net={space}")).arg(&actor).args(["tls", "443"]);
        let second = run(second, output()?)?;
        for port in [80, 443] {
            wait::until_ok("the peer to answer", DEADLINE, async || {
                let connected = tokio::net::TcpStream::connect((private.as_str(), port)).await;
                connected.map(drop).context("it does not answer yet")
            })
            .await?;
        }
        Ok(Self {
            near,
            private,
            public,
            log,
            _servers: [first, second],
        })
    }

    /// What its servers have said.
    pub fn said(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).context("failed to read what the peer has said")
    }
}

fn run(mut program: Command, log: std::fs::File) -> Result<Child> {
    program
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .kill_on_drop(true);
    program.spawn().context("failed to start the peer")
}

async fn ip(within: Option<&Path>, arguments: &[&str]) -> Result<()> {
    let mut command = match within {
        Some(space) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", space.display())).arg("ip");
            command
        }
        None => Command::new("ip"),
    };
    let output = command.args(arguments).output().await.context("failed to run ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "ip {} failed: {}",
        arguments.join(" "),
        said.trim()
    );
    Ok(())
}
