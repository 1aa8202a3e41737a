//! One run of one container: made, started, watched, ended, removed.
//!
//! A task per run owns it. Everybody else reaches it through its [`Handle`]: wishes that the task fulfils, and the [`Cage`], which acts at
//! once. What must never happen: a start after it was killed, an end that is told while a process of it lives, or an end that waits for
//! an engine that does not answer.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kerbside_core::attempt::NotReady;
use kerbside_link::proto::Streams;
use rustix::process::Pid;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::cage::Cage;
use super::client::CallError;
use super::sandbox::Sandbox;
use super::{Inner, config, network, proto, streaming};
use crate::egress::Proxy;
use crate::logs;
use crate::pod::Work;
use crate::runtime::{Ended as Told, Ending, Executed, Process, Program, Running, Session, Spec, SpecDirectory, Usage};

/// Between two tries of a call to an engine that is away.
const RETRY: Duration = Duration::from_millis(500);
/// How long an engine may take to say how a container ended that has been killed.
const LAST_WORD: Duration = Duration::from_millis(500);
/// Between two looks at a brake while a container starts.
const HOLD: Duration = Duration::from_millis(10);
/// Between two looks at how long a log is, and at what has been used.
const LOOK: Duration = Duration::from_millis(250);
/// Longer than any grace: the agent itself ends what does not end in time.
const NEVER_S: i64 = 7 * 24 * 3600;
/// Of what a command printed, so much is told.
const PRINTED: usize = 10 << 10;
/// Where every container has its hosts file.
const HOSTS: &str = "/etc/hosts";
const KILLED: i32 = 137;
/// As of a program that cannot be started.
const NO_START: i32 = 128;

/// A container that is ready to start.
pub(super) struct Loaded {
    pub(super) inner: Arc<Inner>,
    pub(super) work: Arc<Work>,
    pub(super) sandbox: Arc<Sandbox>,
    /// As the engine calls it.
    pub(super) image: String,
}

#[derive(Debug, Clone, Copy, Default)]
struct Wish {
    stop: bool,
    kill: bool,
}

impl Program for Loaded {
    fn address(&self) -> Option<IpAddr> {
        self.sandbox.address
    }

    fn proxy(&self) -> Option<SocketAddr> {
        self.sandbox.proxy.as_ref().map(Proxy::address)
    }

    fn start(&self, spec: Spec) -> io::Result<Running> {
        let cage = Arc::new(Cage::new(spec.name.clone()));
        self.inner.cages.add(&cage);
        // Only now: a brake that is pulled in between acts on what it finds there.
        self.inner.cages.follow(&self.inner.brake);
        let (wishes, seen) = watch::channel(Wish::default());
        let (tell_started, started) = oneshot::channel();
        let (tell, ended) = oneshot::channel();
        let (id, known) = watch::channel(None);
        let run = Run {
            inner: Arc::clone(&self.inner),
            work: Arc::clone(&self.work),
            sandbox: Arc::clone(&self.sandbox),
            image: self.image.clone(),
            spec,
            cage: Arc::clone(&cage),
            wished: seen,
            id,
        };
        tokio::spawn(async move {
            let ending = run.live(tell_started).await;
            // An attempt that was forgotten hears nothing any more.
            let _ = tell.send(ending);
        });
        let handle = Handle {
            inner: Arc::clone(&self.inner),
            cage,
            wishes,
            id: known,
            address: self.sandbox.address,
        };
        Ok(Running {
            process: Box::new(handle),
            started: Some(started),
            ended,
        })
    }
}

/// The way to a run. Whoever drops it ends the run.
struct Handle {
    inner: Arc<Inner>,
    cage: Arc<Cage>,
    wishes: watch::Sender<Wish>,
    id: watch::Receiver<Option<String>>,
    address: Option<IpAddr>,
}

impl Process for Handle {
    fn freeze(&self) {
        self.cage.freeze(true);
    }

    fn thaw(&self) {
        self.cage.freeze(false);
    }

    fn leave(&self) {
        self.cage.end();
    }

    fn stop(&self) {
        // What stands still can do nothing about its end.
        self.cage.end();
        self.wishes.send_modify(|wish| wish.stop = true);
    }

    fn kill(&self) {
        self.wishes.send_modify(|wish| wish.kill = true);
    }

    fn usage(&self) -> Usage {
        self.cage.usage()
    }

    fn exec(&self, command: Vec<String>, limit: Duration) -> BoxFuture<'static, Result<Executed, String>> {
        let (engine, id) = (self.inner.engine.clone(), self.id.borrow().clone());
        async move {
            let container_id = id.ok_or("the container does not run")?;
            // The engine ends the command a moment after the caller has stopped waiting.
            let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX).saturating_add(1);
            let ran = engine.exec_sync(proto::ExecSyncRequest {
                container_id,
                cmd: command,
                timeout: seconds,
            });
            let answer = match timeout(limit, ran).await {
                Ok(answered) => answered.map_err(|e| e.to_string())?,
                Err(_) => return Err(format!("the command did not end within {} s", limit.as_secs_f32())),
            };
            let mut printed = answer.stdout;
            printed.extend(answer.stderr);
            printed.truncate(PRINTED);
            Ok(Executed {
                code: answer.exit_code,
                output: String::from_utf8_lossy(&printed).trim_end().to_owned(),
            })
        }
        .boxed()
    }

    fn connect(&self, port: u16, limit: Duration) -> BoxFuture<'static, Result<TcpStream, String>> {
        let (process, address) = (self.cage.process(), self.address);
        async move {
            let address = address.ok_or("the Pod has no address")?;
            let process = process.map_err(|e| e.to_string())?;
            network::connect(process, address, port, limit).await
        }
        .boxed()
    }

    fn forward(&self, port: u16, limit: Duration) -> BoxFuture<'static, Result<TcpStream, String>> {
        let process = self.cage.process();
        async move {
            let process = process.map_err(|e| e.to_string())?;
            network::connect(process, Ipv4Addr::LOCALHOST.into(), port, limit).await
        }
        .boxed()
    }

    fn session(&self, command: Option<Vec<String>>, streams: Streams) -> BoxFuture<'static, Result<Session, String>> {
        let (engine, id) = (self.inner.engine.clone(), self.id.borrow().clone());
        async move {
            let container = id.ok_or("the container does not run")?;
            streaming::session(&engine, container, command, streams).await
        }
        .boxed()
    }
}

/// What the task of a run owns.
struct Run {
    inner: Arc<Inner>,
    work: Arc<Work>,
    sandbox: Arc<Sandbox>,
    image: String,
    spec: Spec,
    cage: Arc<Cage>,
    wished: watch::Receiver<Wish>,
    id: watch::Sender<Option<String>>,
}

/// Why there is no container.
enum NotMade {
    /// It was not wanted any more.
    Ended(Ended),
    /// The engine did not make it: a sentence.
    NotReady(String),
}

/// The kubelet's word. Image, sandbox and volumes are looked at anew before the next try.
fn not_created(message: String) -> NotReady {
    NotReady {
        reason: "CreateContainerError".to_owned(),
        meanwhile: None,
        message,
        retry: true,
    }
}

/// How far a container came.
struct Ended {
    code: i32,
    reason: &'static str,
    message: String,
}

impl Ended {
    fn killed(message: &str) -> Self {
        Self {
            code: KILLED,
            reason: "Error",
            message: message.to_owned(),
        }
    }

    fn not_started(message: String) -> Self {
        Self {
            code: NO_START,
            reason: "StartError",
            message,
        }
    }
}

impl Run {
    async fn live(mut self, started: oneshot::Sender<()>) -> Told {
        let ended = self.run(started).await;
        let written = self.spec.log.finish();
        let ended = ended?;
        Ok(Ending {
            code: ended.code,
            reason: ended.reason,
            message: match written {
                Ok(()) => ended.message,
                Err(error) => format!("{} (log not written: {error})", ended.message),
            },
            usage: self.sandbox.leave(&self.cage),
        })
    }

    async fn run(&mut self, started: oneshot::Sender<()>) -> Result<Ended, NotReady> {
        let id = match self.create().await {
            Ok(id) => id,
            Err(NotMade::Ended(ended)) => return Ok(ended),
            Err(NotMade::NotReady(message)) => return Err(not_created(message)),
        };
        let ended = self.start_and_watch(&id, started).await;
        self.sandbox.runs(&self.spec.name, None);
        // Nobody who waits for the end waits for this.
        tokio::spawn(remove(Arc::clone(&self.inner), id));
        Ok(ended)
    }

    /// The wish as it is now; whoever dropped the handle wants it ended.
    fn wish(&mut self) -> Wish {
        let gone = self.wished.has_changed().is_err();
        let wish = *self.wished.borrow_and_update();
        Wish {
            kill: wish.kill || gone,
            ..wish
        }
    }

    /// Has the engine make it, when the brake is off. What is asked to end before it is there never begins.
    async fn create(&mut self) -> Result<String, NotMade> {
        let log = self.spec.log.log().path;
        let log = log
            .strip_prefix(&self.sandbox.logs)
            .unwrap_or(&log)
            .to_string_lossy()
            .into_owned();
        let mut spec = self.spec.clone();
        if !spec.directories.iter().any(|mount| mount.guest == HOSTS) {
            spec.directories.push(SpecDirectory {
                host: self.sandbox.hosts.clone(),
                guest: HOSTS.to_owned(),
                read_only: false,
            });
        }
        let target = spec.target.as_ref().map(|name| {
            let id = self.sandbox.running(name);
            id.ok_or_else(|| NotMade::NotReady(format!("target container {name:?} does not run")))
        });
        let target = target.transpose()?;
        let request = proto::CreateContainerRequest {
            pod_sandbox_id: self.sandbox.id.clone(),
            config: Some(config::container(
                &self.work,
                &spec,
                &self.image,
                log,
                target.as_deref(),
            )),
            sandbox_config: Some(self.sandbox.config.clone()),
        };
        let mut brake = self.inner.brake.clone();
        loop {
            let wish = self.wish();
            if wish.kill || wish.stop {
                return Err(NotMade::Ended(Ended::killed("it was ended before it had begun")));
            }
            let made = async {
                // An error means that the car is gone, and with it whoever holds this.
                let _ = brake.wait_for(|braked| !braked).await;
                self.inner.engine.create_container(request.clone()).await
            };
            let made = tokio::select! {
                biased;
                _ = self.wished.changed() => continue,
                made = made => made,
            };
            match made {
                Ok(answer) => {
                    let bounded = self.sandbox.bounded(&answer.container_id);
                    self.cage.made(bounded.map_err(|e| NotMade::NotReady(e.to_string()))?);
                    self.id.send_replace(Some(answer.container_id.clone()));
                    return Ok(answer.container_id);
                }
                Err(error) => {
                    // It may be there all the same, if only the answer was lost, and hold the name that the next one needs.
                    self.remove_left().await;
                    if !error.is_transient() {
                        return Err(NotMade::NotReady(error.message().to_owned()));
                    }
                    tracing::debug!(container = self.spec.name, %error, "not created yet");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Removes what the engine knows of this container in its sandbox. None of it runs.
    async fn remove_left(&self) {
        let filter = proto::ContainerFilter {
            pod_sandbox_id: self.sandbox.id.clone(),
            label_selector: [(config::CONTAINER_NAME.to_owned(), self.spec.name.clone())].into(),
        };
        let request = proto::ListContainersRequest { filter: Some(filter) };
        match self.inner.engine.list_containers(request).await {
            Ok(left) => {
                for container in left.containers {
                    remove(Arc::clone(&self.inner), container.id).await;
                }
            }
            Err(error) => tracing::debug!(container = self.spec.name, %error, "what is left of it is not known"),
        }
    }

    async fn start_and_watch(&mut self, id: &str, started: oneshot::Sender<()>) -> Ended {
        let wish = self.wish();
        if wish.kill || wish.stop {
            return Ended::killed("it was ended before it had begun");
        }
        let inner = Arc::clone(&self.inner);
        let wake = inner.wakes.of(id);
        self.sandbox.enter(&self.cage);
        let mut wished = self.wished.clone();
        let cage = Arc::clone(&self.cage);
        // A brake that is pulled now finds no process yet, or one that the engine has not put into its group.
        let braking = async {
            loop {
                sleep(HOLD).await;
                if cage.should_stand() {
                    cage.settle();
                }
            }
        };
        let begun = tokio::select! {
            answer = self.start(id) => answer,
            never = braking => never,
            // An error means that nobody holds it any more. One whose brake is pulled just now does not begin, and is not waited for.
            () = async { drop(wished.wait_for(|wish| wish.kill).await) } => {
                self.kill().await;
                return self.last_word(id).await;
            }
        };
        if let Err(error) = begun {
            // It may have begun all the same, if only the answer was lost.
            self.kill().await;
            return Ended::not_started(error.message().to_owned());
        }
        // What was told before the program was there told nobody.
        self.cage.settle();
        self.sandbox.runs(&self.spec.name, Some(id));
        if let Some(layer) = self.cage.process().ok().and_then(layer_of) {
            self.spec.layer.set(layer);
        }
        // The attempt may be gone.
        let _ = started.send(());
        let mut asked: Option<BoxFuture<'static, ()>> = None;
        let mut begun_to_ask = false;
        let mut look = Instant::now() + LOOK;
        loop {
            let wish = self.wish();
            if wish.kill {
                self.kill().await;
                return self.last_word(id).await;
            }
            if wish.stop && !std::mem::replace(&mut begun_to_ask, true) {
                asked = Some(self.ask(id));
            }
            let asking = async {
                match &mut asked {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Its end closes the handle's side, which is seen above.
                _ = self.wished.changed() => continue,
                () = asking => asked = None,
                () = wake.news() => {}
                () = sleep_until(look) => {
                    look = Instant::now() + LOOK;
                    self.cage.look();
                    // An engine that does not answer holds up no kill.
                    let mut wished = self.wished.clone();
                    tokio::select! {
                        () = self.look(id) => {}
                        () = async { drop(wished.wait_for(|wish| wish.kill).await) } => {}
                    }
                    continue;
                }
            }
            let mut wished = self.wished.clone();
            let status = tokio::select! {
                status = self.status(id) => status,
                () = async { drop(wished.wait_for(|wish| wish.kill).await) } => continue,
            };
            match status {
                Ok(Some(ended)) => {
                    // Of a container that shares its processes with others, those that it has left behind.
                    self.kill().await;
                    return ended;
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(container = self.spec.name, error, "not looked at"),
            }
        }
    }

    /// Has the engine start it, when the brake is off. A start that nobody answered is asked after, and told again if it was not heard.
    async fn start(&self, id: &str) -> Result<(), CallError> {
        let request = proto::StartContainerRequest {
            container_id: id.to_owned(),
        };
        let mut brake = self.inner.brake.clone();
        loop {
            // An error means that the car is gone, and with it whoever holds this.
            let _ = brake.wait_for(|braked| !braked).await;
            match self.inner.engine.start_container(request.clone()).await {
                Err(error) if error.is_transient() => {
                    if self.has_begun(id).await {
                        return Ok(());
                    }
                }
                answer => return answer.map(|_| ()),
            }
        }
    }

    /// Whether a container has begun whose start was answered by nobody. Waits until the engine says it.
    async fn has_begun(&self, id: &str) -> bool {
        loop {
            sleep(RETRY).await;
            match self.ask_status(id).await {
                Ok(status) => return status.state() != proto::ContainerState::ContainerCreated,
                Err(error) if error.is_transient() => {
                    tracing::debug!(container = self.spec.name, %error, "not known whether it has begun");
                }
                // Who watches it next is told the same.
                Err(_) => return true,
            }
        }
    }

    /// Asks the program to end, by its image's signal.
    fn ask(&self, id: &str) -> BoxFuture<'static, ()> {
        let engine = self.inner.engine.clone();
        let request = proto::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: NEVER_S,
        };
        let name = self.spec.name.clone();
        async move {
            if let Err(error) = engine.stop_container(request).await {
                tracing::warn!(container = name, %error, "not asked to end; it will be killed");
            }
        }
        .boxed()
    }

    /// Ends every process of it. Returns when none is left: nobody is told of an end before.
    async fn kill(&self) {
        let name = &self.spec.name;
        loop {
            let cage = Arc::clone(&self.cage);
            match tokio::task::spawn_blocking(move || cage.kill()).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::error!(container = name, %error, "a container's processes do not end"),
                Err(error) => tracing::error!(container = name, %error, "a container was not killed"),
            }
            sleep(RETRY).await;
        }
    }

    /// How it ended that was killed: what the engine says, if it says it soon.
    async fn last_word(&self, id: &str) -> Ended {
        let asked = async {
            loop {
                if let Ok(Some(ended)) = self.status(id).await {
                    return ended;
                }
                sleep(LOOK / 10).await;
            }
        };
        let said = timeout(LAST_WORD, asked).await;
        // What the engine brought up a moment later.
        self.kill().await;
        said.unwrap_or_else(|_| Ended::killed("the container engine does not say how it ended"))
    }

    async fn ask_status(&self, id: &str) -> Result<proto::ContainerStatus, CallError> {
        let request = proto::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer = self.inner.engine.container_status(request).await?;
        Ok(answer.status.unwrap_or_default())
    }

    /// `None`: it lives.
    async fn status(&self, id: &str) -> Result<Option<Ended>, String> {
        let status = match self.ask_status(id).await {
            Ok(status) => status,
            Err(error) if error.is_not_found() => {
                return Ok(Some(Ended::killed("the container was removed from the engine")));
            }
            Err(error) => return Err(error.to_string()),
        };
        Ok(match status.state() {
            proto::ContainerState::ContainerCreated | proto::ContainerState::ContainerRunning => None,
            proto::ContainerState::ContainerUnknown => Some(Ended::killed(
                "the container engine does not know how the container stands",
            )),
            proto::ContainerState::ContainerExited => Some(Ended {
                code: status.exit_code,
                reason: match status.reason.as_str() {
                    "OOMKilled" => "OOMKilled",
                    "Completed" => "Completed",
                    "StartError" => "StartError",
                    _ if status.exit_code == 0 => "Completed",
                    _ => "Error",
                },
                message: status.message,
            }),
        })
    }

    /// Tells readers how long the log is, bounds it, and remembers what has been used.
    async fn look(&self, id: &str) {
        self.cage.usage();
        let log = &self.spec.log;
        let Ok(length) = log.look() else { return };
        if length < logs::HALF {
            return;
        }
        if let Err(error) = log.rotate() {
            tracing::warn!(container = self.spec.name, %error, "log not rotated");
            return;
        }
        let container_id = id.to_owned();
        let reopened = self
            .inner
            .engine
            .reopen_container_log(proto::ReopenContainerLogRequest { container_id });
        if let Err(error) = reopened.await {
            // The program has ended, or the engine is away: it writes on where it wrote.
            tracing::debug!(container = self.spec.name, %error, "log not opened again");
            if let Err(error) = log.take_back() {
                tracing::warn!(container = self.spec.name, %error, "log not taken back");
            }
        }
    }
}

/// Removes a container that has ended. It goes with its sandbox at the latest.
async fn remove(inner: Arc<Inner>, container_id: String) {
    let request = proto::RemoveContainerRequest { container_id };
    if let Err(error) = inner.engine.remove_container(request).await {
        tracing::debug!(%error, "a container is not removed yet");
    }
}

/// Where what a process writes to its root is kept, if that is an overlay, as engines make it.
fn layer_of(process: Pid) -> Option<PathBuf> {
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", process.as_raw_pid())).ok()?;
    upper(&mounts)
}

fn upper(mounts: &str) -> Option<PathBuf> {
    let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/"))?;
    let options = root.split(' ').nth(3)?;
    let upper = options.split(',').find_map(|option| option.strip_prefix("upperdir="))?;
    Some(PathBuf::from(upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_is_the_upper_directory_of_the_root_alone() {
        let mounts = "overlay / overlay rw,relatime,lowerdir=/a:/b,upperdir=/c/7/fs,workdir=/c/7/work 0 0\nproc /proc proc rw 0 0\n";
        assert_eq!(upper(mounts), Some(PathBuf::from("/c/7/fs")));
        assert_eq!(upper("/dev/vda / ext4 rw 0 0\n"), None);
    }
}
