//! What the tests of several modules need: clocks, a cluster, a runtime, documents.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::ids::PodUid;
use kerbside_core::owner::Document;
use kerbside_link::client::UploadError;
use kerbside_link::fault::Fault;
use kerbside_link::identity::{Ca, Identity, VEHICLE_VALIDITY, new_key_and_csr};
use kerbside_link::proto::{AttemptStatus, CarState, OutputFile, Streams, TunnelPart};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::cluster::{Cluster, TunnelEnds};
use crate::consents::{Book, Giving};
use crate::directory::Directory;
use crate::runtime::{Ended, Ending, Process, Program, Running, Runtime, Session, Spec, Usage};

fn start_of_time() -> Timestamp {
    "2026-11-22T10:00:00Z".parse().expect("a valid time")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A clock that stands still.
#[derive(Debug, Default)]
pub(crate) struct ManualClock;

impl Clock for ManualClock {
    fn boottime(&self) -> Boottime {
        Boottime(Duration::from_secs(1000))
    }

    fn wall(&self) -> Timestamp {
        start_of_time()
    }
}

/// A clock that goes as tokio's does: tests that pause that one have paused this one.
#[derive(Debug)]
pub(crate) struct TokioClock(Instant);

impl TokioClock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for TokioClock {
    fn boottime(&self) -> Boottime {
        Boottime(Duration::from_secs(1000) + self.0.elapsed())
    }

    fn wall(&self) -> Timestamp {
        start_of_time() + self.0.elapsed()
    }
}

/// The same, with a wall clock that somebody sets.
#[derive(Debug)]
pub(crate) struct SetClock {
    time: TokioClock,
    ahead_ms: AtomicI64,
}

impl SetClock {
    pub(crate) fn new() -> Self {
        Self {
            time: TokioClock::new(),
            ahead_ms: AtomicI64::new(0),
        }
    }

    /// From now on the wall clock is so many milliseconds ahead of what it should be.
    pub(crate) fn set(&self, ahead_ms: i64) {
        self.ahead_ms.store(ahead_ms, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn boottime(&self) -> Boottime {
        self.time.boottime()
    }

    fn wall(&self) -> Timestamp {
        self.time.wall() + jiff::SignedDuration::from_millis(self.ahead_ms.load(Ordering::SeqCst))
    }
}

/// An owner who accepts class inference, above 50 % and plugged in.
pub(crate) const OWNER: &str = "
consent: {givenAt: 2026-11-01T10:00:00Z, classes: [inference]}
requirePluggedIn: true
chargeFloorPercent: 50
resumeWithin: 10m
";

pub(crate) fn owner() -> Document {
    serde_saphyr::from_str(OWNER).expect("a valid document")
}

/// An identity of one car, with a new key each time.
pub(crate) fn identity() -> Identity {
    identity_of("car-aaaaaaaaaaaaaaaa")
}

/// An identity of this car, with a new key each time.
pub(crate) fn identity_of(id: &str) -> Identity {
    let ca = Ca::generate(start_of_time()).expect("a CA can be made");
    let made = new_key_and_csr(&[]).expect("a key can be made");
    let id = id.parse().expect("a valid id");
    let chain = ca.sign_vehicle(&made.csr_der, &id, "acme", VEHICLE_VALIDITY, start_of_time());
    let chain = chain.expect("a certificate can be signed");
    Identity::from_pem(&made.key_pem, &chain, &ca.certificate_pem()).expect("they belong together")
}

/// Has an owner agree to work of these classes, as the command does, and makes the car somebody if it is nobody.
pub(crate) fn consented(directory: &Directory, purposes: &[&str], now: Timestamp) {
    if !crate::identity::exists(directory) {
        crate::identity::write(directory, &identity()).expect("an identity can be written");
    }
    let purposes: Vec<_> = purposes.iter().map(|purpose| (*purpose).to_owned()).collect();
    let giving = Giving {
        purposes: &purposes,
        lasts: None,
        method: "a test",
    };
    let mut book = Book::open(directory, true).expect("the consents can be opened");
    book.give(giving, now).expect("a consent can be given");
}

/// A cluster that remembers what it is told.
#[derive(Clone)]
pub(crate) struct FakeCluster {
    inner: Arc<FakeClusterInner>,
}

struct FakeClusterInner {
    states: watch::Sender<Vec<CarState>>,
    statuses: watch::Sender<Vec<AttemptStatus>>,
    forgotten: watch::Sender<Vec<PodUid>>,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    sealed: Mutex<Vec<(Vec<OutputFile>, Vec<OutputFile>)>>,
    logs: watch::Sender<BTreeMap<String, Result<String, String>>>,
    receipts: watch::Sender<Vec<(Bytes, String)>>,
    /// What it says of the next receipts, before it stores any.
    receipt_faults: Mutex<VecDeque<Fault>>,
    /// Whether an upload arrives.
    reachable: watch::Sender<bool>,
    /// The other ends of tunnels that nobody has taken yet.
    tunnels: watch::Sender<BTreeMap<String, Arc<Mutex<Option<FarEnds>>>>>,
    refused_tunnels: watch::Sender<BTreeMap<String, Fault>>,
}

/// A tunnel as the cluster has it: what it says, and what it hears.
pub(crate) type FarEnds = (mpsc::Sender<TunnelPart>, mpsc::Receiver<TunnelPart>);

impl FakeCluster {
    pub(crate) fn new() -> Self {
        let inner = FakeClusterInner {
            states: watch::Sender::new(Vec::new()),
            statuses: watch::Sender::new(Vec::new()),
            forgotten: watch::Sender::new(Vec::new()),
            files: Mutex::default(),
            sealed: Mutex::default(),
            logs: watch::Sender::new(BTreeMap::new()),
            receipts: watch::Sender::new(Vec::new()),
            receipt_faults: Mutex::default(),
            reachable: watch::Sender::new(true),
            tunnels: watch::Sender::new(BTreeMap::new()),
            refused_tunnels: watch::Sender::new(BTreeMap::new()),
        };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn states(&self) -> Vec<CarState> {
        self.inner.states.borrow().clone()
    }

    pub(crate) fn statuses(&self) -> Vec<AttemptStatus> {
        self.inner.statuses.borrow().clone()
    }

    pub(crate) fn set_reachable(&self, reachable: bool) {
        self.inner.reachable.send_replace(reachable);
    }

    pub(crate) fn sealed(&self) -> Vec<(Vec<OutputFile>, Vec<OutputFile>)> {
        lock(&self.inner.sealed).clone()
    }

    pub(crate) fn file(&self, path: &str) -> Option<Vec<u8>> {
        lock(&self.inner.files).get(path).cloned()
    }

    /// The first status that is as wanted, now or within a while.
    pub(crate) async fn status(&self, wanted: impl Fn(&AttemptStatus) -> bool) -> AttemptStatus {
        let mut statuses = self.inner.statuses.subscribe();
        let found = statuses.wait_for(|statuses| statuses.iter().any(&wanted));
        let found = tokio::time::timeout(Duration::from_secs(20), found).await;
        let Ok(Ok(statuses)) = found else {
            panic!("no such status among {:#?}", self.statuses())
        };
        statuses
            .iter()
            .find(|status| wanted(status))
            .cloned()
            .expect("it was just found")
    }

    /// The next receipt gets this answer instead.
    pub(crate) fn refuse_receipt(&self, fault: Fault) {
        lock(&self.inner.receipt_faults).push_back(fault);
    }

    /// As many receipts as that, with their certificates, when they are stored.
    pub(crate) async fn receipts(&self, count: usize) -> Vec<(Bytes, String)> {
        let mut receipts = self.inner.receipts.subscribe();
        let stored = receipts.wait_for(|receipts| receipts.len() >= count);
        let stored = tokio::time::timeout(Duration::from_secs(20), stored).await;
        stored
            .expect("receipts are stored")
            .expect("the cluster is there")
            .clone()
    }

    pub(crate) async fn forgotten(&self, uid: &PodUid) {
        let mut forgotten = self.inner.forgotten.subscribe();
        forgotten
            .wait_for(|forgotten| forgotten.contains(uid))
            .await
            .expect("the cluster is there");
    }

    pub(crate) async fn log(&self, request: &str) -> Result<String, String> {
        let mut logs = self.inner.logs.subscribe();
        let logs = logs
            .wait_for(|logs| logs.contains_key(request))
            .await
            .expect("the cluster is there");
        logs[request].clone()
    }

    /// The other ends of the tunnel that answers this request, once.
    pub(crate) async fn opened(&self, request: &str) -> FarEnds {
        let mut tunnels = self.inner.tunnels.subscribe();
        let opened = tunnels.wait_for(|tunnels| tunnels.contains_key(request));
        let opened = tokio::time::timeout(Duration::from_secs(20), opened).await;
        let ends = opened.expect("a tunnel is opened").expect("the cluster is there")[request].clone();
        lock(&ends).take().expect("nobody has taken it")
    }

    /// Why there is no tunnel for this request, when that is said.
    pub(crate) async fn refused(&self, request: &str) -> Fault {
        let mut refused = self.inner.refused_tunnels.subscribe();
        let said = refused.wait_for(|refused| refused.contains_key(request));
        let said = tokio::time::timeout(Duration::from_secs(20), said).await;
        said.expect("a tunnel is refused").expect("the cluster is there")[request].clone()
    }
}

impl Cluster for FakeCluster {
    fn set_state(&self, state: CarState) {
        self.inner.states.send_modify(|states| states.push(state));
    }

    fn set_status(&self, status: AttemptStatus) {
        self.inner.statuses.send_modify(|statuses| statuses.push(status));
    }

    fn forget(&self, uid: &PodUid) {
        self.inner
            .forgotten
            .send_modify(|forgotten| forgotten.push(uid.clone()));
    }

    async fn upload(&self, _uid: &PodUid, file: &OutputFile, path: &Path) -> Result<(), UploadError> {
        let mut reachable = self.inner.reachable.subscribe();
        reachable
            .wait_for(|reachable| *reachable)
            .await
            .expect("the cluster is there");
        let bytes = std::fs::read(path).map_err(UploadError::Read)?;
        lock(&self.inner.files).insert(file.path.clone(), bytes);
        Ok(())
    }

    async fn seal(&self, _uid: &PodUid, files: Vec<OutputFile>, logs: Vec<OutputFile>) -> Result<(), Fault> {
        lock(&self.inner.sealed).push((files, logs));
        Ok(())
    }

    async fn put_receipt(&self, envelope: Bytes, chain_pem: String, newest: bool) -> Result<(), Fault> {
        if let Some(fault) = lock(&self.inner.receipt_faults).pop_front() {
            return Err(fault);
        }
        self.inner.receipts.send_if_modified(|receipts| {
            let known = receipts.iter().position(|(line, _)| *line == envelope);
            if newest && known.is_some_and(|at| at + 1 == receipts.len()) {
                return false;
            }
            receipts.push((envelope, chain_pem));
            true
        });
        Ok(())
    }

    async fn send_logs(
        &self,
        request_id: &str,
        mut chunks: BoxStream<'static, Result<Bytes, String>>,
    ) -> Result<(), Fault> {
        let mut text = Ok(String::new());
        while let (Some(chunk), Ok(so_far)) = (chunks.next().await, &mut text) {
            match chunk {
                Ok(bytes) => so_far.push_str(&String::from_utf8_lossy(&bytes)),
                Err(error) => text = Err(error),
            }
        }
        self.inner.logs.send_modify(|logs| {
            logs.insert(request_id.to_owned(), text);
        });
        Ok(())
    }

    async fn tunnel(&self, request_id: &str) -> Result<TunnelEnds, Fault> {
        let (says, said) = mpsc::channel(4);
        let (to, hears) = mpsc::channel(4);
        let ends = Arc::new(Mutex::new(Some((says, hears))));
        self.inner.tunnels.send_modify(|tunnels| {
            tunnels.insert(request_id.to_owned(), ends);
        });
        let from = futures::stream::unfold(
            said,
            |mut said| async move { said.recv().await.map(|part| (part, said)) },
        );
        Ok((from.boxed(), to))
    }

    async fn refuse_tunnel(&self, request_id: &str, why: Fault) -> Result<(), Fault> {
        self.inner.refused_tunnels.send_modify(|refused| {
            refused.insert(request_id.to_owned(), why);
        });
        Ok(())
    }
}

/// A runtime whose programs do what a test tells them.
#[derive(Clone)]
pub(crate) struct FakeRuntime {
    started: watch::Sender<Vec<FakeProcess>>,
    /// Every program is one that can never start.
    broken: Option<&'static str>,
}

#[derive(Clone)]
pub(crate) struct FakeProcess {
    pub(crate) spec: Spec,
    state: Arc<Mutex<FakeState>>,
}

#[derive(Default)]
struct FakeState {
    tell: Option<oneshot::Sender<Ended>>,
    frozen: bool,
    told_to_stop: bool,
    killed: bool,
    obstinate: bool,
    sessions: Vec<(Option<Vec<String>>, Streams)>,
}

impl FakeRuntime {
    pub(crate) fn new() -> Self {
        Self {
            started: watch::Sender::new(Vec::new()),
            broken: None,
        }
    }

    /// A runtime in which no program can ever start.
    pub(crate) fn broken(why: &'static str) -> Self {
        Self {
            broken: Some(why),
            ..Self::new()
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.started.borrow().len()
    }

    pub(crate) fn all(&self) -> Vec<FakeProcess> {
        self.started.borrow().clone()
    }

    /// A program that is as wanted, when it is started.
    pub(crate) async fn starts(&self, wanted: impl Fn(&FakeProcess) -> bool) -> FakeProcess {
        let mut started = self.started.subscribe();
        let found = started.wait_for(|started| started.iter().any(&wanted)).await;
        let started = found.expect("the runtime is there");
        started
            .iter()
            .find(|process| wanted(process))
            .cloned()
            .expect("it was just found")
    }

    /// The n-th program that was started, when it is.
    pub(crate) async fn started(&self, n: usize) -> FakeProcess {
        let mut started = self.started.subscribe();
        let wait = tokio::time::timeout(Duration::from_secs(20), started.wait_for(|started| started.len() > n));
        wait.await.expect("a program is started").expect("the runtime is there")[n].clone()
    }
}

impl FakeProcess {
    pub(crate) fn exits(&self, code: i32) {
        self.spec.log.finish().expect("the log can be written");
        let reason = if code == 0 { "Completed" } else { "Error" };
        let usage = Usage {
            cpu_ms: 7,
            memory_peak: 11,
        };
        if let Some(tell) = lock(&self.state).tell.take() {
            let _ = tell.send(Ok(Ending {
                code,
                reason,
                message: String::new(),
                usage,
            }));
        }
    }

    pub(crate) fn is_frozen(&self) -> bool {
        lock(&self.state).frozen
    }

    pub(crate) fn was_told_to_stop(&self) -> bool {
        lock(&self.state).told_to_stop
    }

    pub(crate) fn was_killed(&self) -> bool {
        lock(&self.state).killed
    }

    /// What people have begun in it.
    pub(crate) fn sessions(&self) -> Vec<(Option<Vec<String>>, Streams)> {
        lock(&self.state).sessions.clone()
    }

    /// From now on only a kill ends it.
    pub(crate) fn becomes_obstinate(&self) {
        lock(&self.state).obstinate = true;
    }

    /// Where the program's path is in the car.
    pub(crate) fn path(&self, guest: &str, file: &str) -> PathBuf {
        let directory = self.spec.directories.iter().find(|directory| directory.guest == guest);
        directory.expect("the program has the directory").host.join(file)
    }
}

impl Process for FakeProcess {
    fn freeze(&self) {
        lock(&self.state).frozen = true;
    }

    fn thaw(&self) {
        lock(&self.state).frozen = false;
    }

    fn stop(&self) {
        lock(&self.state).told_to_stop = true;
        if !lock(&self.state).obstinate {
            self.exits(137);
        }
    }

    fn kill(&self) {
        lock(&self.state).killed = true;
        self.exits(137);
    }

    fn usage(&self) -> Usage {
        Usage {
            cpu_ms: 5,
            memory_peak: 10,
        }
    }

    /// Says back what it hears, until whoever types has gone.
    fn session(&self, command: Option<Vec<String>>, streams: Streams) -> BoxFuture<'static, Result<Session, String>> {
        lock(&self.state).sessions.push((command, streams));
        let (to, mut typed) = mpsc::channel::<TunnelPart>(4);
        let (prints, from) = mpsc::channel(4);
        tokio::spawn(async move {
            while let Some(part) = typed.recv().await {
                let said = TunnelPart { channel: 1, ..part };
                if prints.send(said).await.is_err() {
                    return;
                }
            }
        });
        std::future::ready(Ok(Session { to, from })).boxed()
    }
}

impl Runtime for FakeRuntime {
    fn load(&self, _module: PathBuf) -> BoxFuture<'static, Result<Arc<dyn Program>, String>> {
        let loaded = self.broken.map_or_else(
            || Ok(Arc::new(self.clone()) as Arc<dyn Program>),
            |why| Err(why.to_owned()),
        );
        std::future::ready(loaded).boxed()
    }
}

impl Program for FakeRuntime {
    fn start(&self, spec: Spec) -> io::Result<Running> {
        let (tell, ended) = oneshot::channel();
        let state = Arc::new(Mutex::new(FakeState {
            tell: Some(tell),
            ..FakeState::default()
        }));
        let process = FakeProcess { spec, state };
        self.started.send_modify(|started| started.push(process.clone()));
        Ok(Running {
            started: None,
            process: Box::new(process),
            ended,
        })
    }
}
