//! What the containers of one attempt share: namespaces, an address, `/etc/hosts`, a control group.
//!
//! Made when the first of them is made ready, removed when none of them will run any more.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kerbside_core::ids::PodUid;
use rustix::process::Pid;
use tokio::sync::OnceCell;

use super::cage::Cage;
use super::client::{CallError, Engine};
use super::{config, isolation, network, proto};
use crate::cgroup::{Cgroup, Most};
use crate::directory::{self, AttemptDirectory};
use crate::egress::{Proxies, Proxy};
use crate::pod::Work;
use crate::runtime::Usage;

/// A sandbox that is there.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) config: proto::PodSandboxConfig,
    /// Where the car reaches it, and nobody else.
    pub(super) address: Option<IpAddr>,
    /// The way out, if the owner let Pods reach anything when it was made.
    pub(super) proxy: Option<Proxy>,
    /// Of the attempt: the sandbox and all its containers are in it.
    pub(super) group: Cgroup,
    /// The file that is `/etc/hosts` in its containers.
    pub(super) hosts: PathBuf,
    /// Where the logs of its containers are.
    pub(super) logs: PathBuf,
    used: Mutex<Counted>,
    /// What the engine calls the containers that run, by their names.
    running: Mutex<HashMap<String, String>>,
    /// It has ended by itself: another one is needed.
    lost: AtomicBool,
    disk: DiskRate,
}

/// Whose sandbox is made, and by which of the engine's runtimes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Maker<'a> {
    pub(super) car: &'a str,
    pub(super) handler: &'a str,
    /// How many were made for the attempt before.
    pub(super) attempt: u32,
    /// Where its containers write.
    pub(super) disks: &'a BTreeSet<String>,
    /// What lets them reach what the owner allows.
    pub(super) proxies: &'a Proxies,
}

/// How fast containers may read and write, and where.
#[derive(Debug, Default)]
struct DiskRate {
    disks: BTreeSet<String>,
    rate: u64,
}

/// Who used what.
#[derive(Debug, Default)]
struct Counted {
    /// Containers that run.
    live: Vec<Arc<Cage>>,
    /// What those that have ended used, milliseconds of processor time.
    ended_ms: u64,
}

impl Sandbox {
    /// Makes one. The error is a sentence.
    pub(super) async fn make(
        engine: &Engine,
        work: &Work,
        maker: Maker<'_>,
        directory: &AttemptDirectory,
        group: Cgroup,
        most: Most,
    ) -> Result<Self, String> {
        let logs = directory.all_logs();
        directory::make_private(&logs).map_err(|e| format!("{}: {e}", logs.display()))?;
        group
            .make(most)
            .map_err(|e| format!("failed to make control group {}: {e}", group.name()))?;
        let disk = most.disk.map(|rate| DiskRate {
            disks: maker.disks.clone(),
            rate,
        });
        let disk = disk.unwrap_or_default();
        group.bound_disks(disk.rate, &disk.disks).map_err(|e| e.to_string())?;
        let config = config::sandbox(
            work,
            maker.car,
            maker.attempt,
            &group,
            logs.to_string_lossy().into_owned(),
        );
        let request = proto::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: maker.handler.to_owned(),
        };
        let id = match engine.run_pod_sandbox(request).await {
            Ok(answer) => answer.pod_sandbox_id,
            Err(error) => return Err(error.to_string()),
        };
        let hosts = directory.hosts();
        let furnished = async {
            let address = address(engine, &id).await.map_err(|e| e.to_string())?;
            let process = isolated(&group)?;
            write_hosts(&hosts, work, address).map_err(|e| format!("{}: {e}", hosts.display()))?;
            let proxy = way_out(process, work, maker.proxies).await?;
            // One that had ended before it was entered may have left its number to another.
            if !group.pids().is_ok_and(|pids| pids.contains(&process)) {
                return Err("the sandbox has ended".to_owned());
            }
            Ok((address, proxy))
        };
        match furnished.await {
            Ok((address, proxy)) => Ok(Self {
                id,
                config,
                address,
                proxy,
                group,
                hosts,
                logs,
                used: Mutex::default(),
                running: Mutex::default(),
                lost: AtomicBool::new(false),
                disk,
            }),
            Err(message) => {
                // Another one is made at the next try.
                if let Err(error) = remove(engine, &id).await {
                    tracing::warn!(%error, "a sandbox that failed is left");
                }
                Err(message)
            }
        }
    }

    /// The group of a container that is not there yet. Where a bound of the attempt's group does not hold for it, it has its own before anything
    /// runs in it.
    pub(super) fn bounded(&self, id: &str) -> io::Result<Cgroup> {
        let group = self.group.child(id);
        if !group.is_unified() {
            group.bound_disks(self.disk.rate, &self.disk.disks)?;
        }
        Ok(group)
    }

    /// A container runs, or does not any more.
    pub(super) fn runs(&self, name: &str, id: Option<&str>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match id {
            Some(id) => running.insert(name.to_owned(), id.to_owned()),
            None => running.remove(name),
        };
    }

    /// What the engine calls a container that runs.
    pub(super) fn running(&self, name: &str) -> Option<String> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(name).cloned()
    }

    /// It has ended by itself. Its containers have lost what they shared: they are ended, and begin in another one.
    pub(super) async fn lose(&self) {
        if self.lost.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(
            sandbox = self.id,
            "a Pod's sandbox has ended; its containers begin anew in another one"
        );
        self.close_proxy();
        let group = self.group.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || group.kill()).await {
            tracing::error!(%error, "processes of a sandbox that has ended do not end");
        }
    }

    /// Whether containers can be made in it. An engine that does not answer is asked again with the next call.
    pub(super) async fn stands(&self, engine: &Engine) -> bool {
        if self.lost.load(Ordering::Relaxed) {
            return false;
        }
        let request = proto::PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
            verbose: false,
        };
        match engine.pod_sandbox_status(request).await {
            Ok(answer) => answer
                .status
                .is_some_and(|status| status.state() == proto::PodSandboxState::SandboxReady),
            Err(error) => !error.is_not_found(),
        }
    }

    /// Programs that have ended still know the sandbox, and a network lives as long as somebody listens in it.
    fn close_proxy(&self) {
        if let Some(proxy) = &self.proxy {
            proxy.close();
        }
    }

    fn used(&self) -> MutexGuard<'_, Counted> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A container is about to run.
    pub(super) fn enter(&self, cage: &Arc<Cage>) {
        self.used().live.push(Arc::clone(cage));
    }

    /// What a container that has ended had used. All that the attempt has used and nobody else has is its own: so nothing that happened
    /// between two looks is lost, and nothing counts twice.
    pub(super) fn leave(&self, cage: &Arc<Cage>) -> Usage {
        let mut used = self.used();
        used.live.retain(|other| !Arc::ptr_eq(other, cage));
        let others: u64 = used.live.iter().map(|other| other.usage().cpu_ms).sum();
        let (all, own) = (self.group.usage(), cage.usage());
        let rest = all.cpu_ms.saturating_sub(used.ended_ms).saturating_sub(others);
        let cpu_ms = own.cpu_ms.max(rest);
        used.ended_ms += cpu_ms;
        let alone = used.live.is_empty();
        Usage {
            cpu_ms,
            memory_peak: if alone {
                own.memory_peak.max(all.memory_peak)
            } else {
                own.memory_peak
            },
        }
    }

    /// Ends and removes it, and its control group. What does not go now goes when the agent starts anew.
    pub(super) async fn remove(&self, engine: &Engine) {
        self.close_proxy();
        let group = self.group.clone();
        // Also without an engine: nothing of an attempt that is over may run.
        let killed = tokio::task::spawn_blocking(move || group.kill()).await;
        if let Ok(Err(error)) = killed {
            tracing::error!(%error, "an attempt's processes do not end");
        }
        if let Err(error) = remove(engine, &self.id).await {
            tracing::warn!(sandbox = self.id, %error, "a sandbox is left in the container engine");
        }
        if let Err(error) = self.group.remove() {
            tracing::debug!(%error, "a control group is left");
        }
    }
}

/// Ends and removes a sandbox and all in it; one that is not there is removed.
pub(super) async fn remove(engine: &Engine, id: &str) -> Result<(), CallError> {
    let known = |result: Result<(), CallError>| match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    };
    let pod_sandbox_id = id.to_owned();
    known(
        engine
            .stop_pod_sandbox(proto::StopPodSandboxRequest { pod_sandbox_id })
            .await
            .map(|_| ()),
    )?;
    let pod_sandbox_id = id.to_owned();
    known(
        engine
            .remove_pod_sandbox(proto::RemovePodSandboxRequest { pod_sandbox_id })
            .await
            .map(|_| ()),
    )
}

/// That the network of what is in a group, now the sandbox alone, leads nowhere. Gives a process in it.
fn isolated(group: &Cgroup) -> Result<Pid, String> {
    let pids = group.pids().map_err(|e| e.to_string())?;
    let process = pids.first().ok_or(
        "the sandbox has no process in its control group; does the engine make its control groups itself (cgroupfs)?",
    )?;
    isolation::check(*process)?;
    Ok(*process)
}

async fn way_out(process: Pid, work: &Work, proxies: &Proxies) -> Result<Option<Proxy>, String> {
    if !proxies.is_open() {
        return Ok(None);
    }
    let listener = network::listen(process).await?;
    let proxy = proxies.serve(work.uid.as_str(), listener);
    proxy
        .map(Some)
        .map_err(|e| format!("the Pod's proxy does not begin: {e}"))
}

async fn address(engine: &Engine, id: &str) -> Result<Option<IpAddr>, CallError> {
    let request = proto::PodSandboxStatusRequest {
        pod_sandbox_id: id.to_owned(),
        verbose: false,
    };
    let status = engine.pod_sandbox_status(request).await?.status.unwrap_or_default();
    Ok(status.network.and_then(|network| network.ip.parse().ok()))
}

/// As the kubelet writes it.
fn write_hosts(path: &Path, work: &Work, address: Option<IpAddr>) -> io::Result<()> {
    std::fs::write(path, hosts(&work.shared.hostname, &work.shared.host_aliases, address))
}

fn hosts(hostname: &str, aliases: &[(String, Vec<String>)], address: Option<IpAddr>) -> String {
    let mut text =
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
            .to_owned();
    if let Some(address) = address {
        writeln!(text, "{address}\t{hostname}").expect("writing to a String cannot fail");
    }
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for (address, names) in aliases {
            writeln!(text, "{address}\t{}", names.join("\t")).expect("writing to a String cannot fail");
        }
    }
    text
}

/// Where the sandbox of an attempt is, made or not.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) cell: OnceCell<Arc<Sandbox>>,
    made: AtomicU32,
}

impl Place {
    /// How often one was begun to be made before now.
    pub(super) fn begin(&self) -> u32 {
        self.made.fetch_add(1, Ordering::Relaxed)
    }
}

/// The sandboxes of a car, by attempt.
#[derive(Debug, Default)]
pub(super) struct Sandboxes(Mutex<HashMap<PodUid, Arc<Place>>>);

impl Sandboxes {
    /// The place for another one than the one at `old`, which has ended; the same for all who ask.
    pub(super) fn renew(&self, uid: &PodUid, old: &Arc<Place>) -> Arc<Place> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(uid.clone()).or_insert_with(|| Arc::clone(old));
        if Arc::ptr_eq(known, old) {
            *known = Arc::new(Place {
                cell: OnceCell::new(),
                made: AtomicU32::new(old.made.load(Ordering::Relaxed)),
            });
        }
        Arc::clone(known)
    }

    /// The one of an attempt, if it is made.
    pub(super) fn made(&self, uid: &str) -> Option<Arc<Sandbox>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, place) = all.iter().find(|(known, _)| known.as_str() == uid)?;
        place.cell.get().cloned()
    }

    /// The place of one, made or not.
    pub(super) fn of(&self, uid: &PodUid) -> Arc<Place> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(uid.clone()).or_default())
    }

    /// Whether an attempt of this uid has one, or is about to.
    pub(super) fn has(&self, uid: &str) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.keys().any(|known| known.as_str() == uid)
    }

    /// The place of one, which nobody finds here any more.
    pub(super) fn take(&self, uid: &PodUid) -> Option<Arc<Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_file_has_the_pod_itself_and_its_aliases() {
        let aliases = [(
            "192.0.2.7".to_owned(),
            vec!["depot".to_owned(), "depot.example".to_owned()],
        )];
        let text = hosts("work-1", &aliases, "10.98.0.2".parse().ok());
        assert!(text.contains("\n10.98.0.2\twork-1\n"), "{text}");
        assert!(
            text.ends_with("# Entries added by HostAliases.\n192.0.2.7\tdepot\tdepot.example\n"),
            "{text}"
        );
        assert!(!hosts("work-1", &[], None).contains("HostAliases"));
    }
}
