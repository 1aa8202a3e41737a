//! The supervisor and its actors with a fake cluster and a fake runtime, real files and a real journal.

use std::time::Duration;

use kerbside_core::consent::Consents;
use kerbside_core::names::reason;
use kerbside_core::owner::{ClockTrust, Command};
use kerbside_core::parked::signals::path;
use kerbside_core::parked::{Cause, Snapshot, State, Terms, Value};
use kerbside_core::quantity::Quantity;
use kerbside_core::receipt::{Consent, digest};
use kerbside_link::proto::container_status::State as ContainerState;
use serde_json::{Value as Json, json};

use super::*;
use crate::config::Car;
use crate::journal::testing::Faulty;
use crate::logs::writer::Stream;
use crate::pod::tests::{pod_json, run_of};
use crate::runtime::Runtime;
use crate::testing::{FakeCluster, FakeProcess, FakeRuntime, OWNER, SetClock, TokioClock, identity, owner};

mod departure;
mod energy;
mod hung;
mod power;
mod publishers;
mod receipts;
mod sidecars;
mod tunnels;
mod wall;

struct Fixture {
    temp: tempfile::TempDir,
    clock: Arc<dyn Clock>,
    cluster: FakeCluster,
    runtime: FakeRuntime,
    outlook: watch::Sender<Outlook>,
    events: mpsc::Sender<Event>,
    live: watch::Receiver<usize>,
    fence: watch::Receiver<Option<Boottime>>,
    supervisor: tokio::task::JoinHandle<()>,
    receipts: Receipts,
    energy: Energy,
    living: Living,
    visits: watch::Receiver<Vec<Visit>>,
}

fn outlook(clock: &dyn Clock, state: State) -> Outlook {
    let mut snapshot = Snapshot::default();
    let port = format!("{}AnyPosition.IsChargingCableConnected", path::CHARGING_PORTS);
    snapshot.set(path::CHARGE, Value::Number(80.0), clock.boottime());
    snapshot.set(&port, Value::Bool(true), clock.boottime());
    let allocatable = [
        ("cpu", Quantity::from_millis(1200)),
        ("memory", Quantity::from_bytes(1 << 30)),
        ("ephemeral-storage", Quantity::from_bytes(1 << 30)),
        ("pods", Quantity::from_units(8)),
    ];
    Outlook {
        state,
        document: Some(Arc::new(owner())),
        consent: Some(Consent {
            given_at: owner().consent.given_at,
            document_sha256: digest(OWNER.as_bytes()),
            record: None,
        }),
        consents: Arc::new(Consents::as_if_given(&owner().consent.classes, Timestamp::UNIX_EPOCH)),
        consented: Arc::new(owner().consent.classes.into_iter().collect()),
        held_off: Arc::default(),
        unpaid: false,
        forgetting: false,
        command: Command::None,
        snapshot: Arc::new(snapshot),
        // Nothing says the signals again here.
        terms: Arc::new(Terms {
            stale_after: Duration::from_secs(30),
            ..Terms::default()
        }),
        allocatable: Resources(allocatable.map(|(name, amount)| (name.to_owned(), amount)).into()),
        trust: ClockTrust::default(),
        energy: None,
        uplink: kerbside_core::owner::Uplink::free(),
    }
}

fn available() -> State {
    State::Available {
        parked_since: Boottime::default(),
    }
}

/// A heartbeat that was sent at `sent` is acknowledged.
fn heard(sent: Boottime, proven: bool) -> Event {
    let mut heard = Heard::default();
    heard.acknowledged(sent, proven);
    Event::Heard(heard)
}

/// A Pod of its own: other uid, otherwise as in `pod_json`, without image volumes.
fn run(uid: &str, change: impl FnOnce(&mut Json)) -> Run {
    let mut pod = pod_json();
    pod["metadata"]["uid"] = json!(uid);
    pod["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    pod["spec"]["containers"][0]["image"] = json!("registry:5000/digits:v1");
    change(&mut pod);
    Run {
        uid: uid.to_owned(),
        ..run_of(&pod)
    }
}

impl Fixture {
    fn new() -> Self {
        Self::with(FakeRuntime::new())
    }

    fn with(runtime: FakeRuntime) -> Self {
        Self::start(tempfile::tempdir().unwrap(), runtime)
    }

    /// With images from this registry, without TLS.
    fn pulling(registry: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        let images = Images::open(&directory.cache(), vec![registry.to_owned()], 1 << 30).unwrap();
        let journal = Journal::open(&directory.journal()).unwrap();
        let receipts = Receipts::open(&directory, &identity()).unwrap();
        let clock = Arc::new(TokioClock::new());
        Self::made(temp, FakeRuntime::new(), clock, journal, (receipts, images))
    }

    fn start(temp: tempfile::TempDir, runtime: FakeRuntime) -> Self {
        let directory = Directory::open(temp.path()).unwrap();
        let journal = Journal::open(&directory.journal()).unwrap();
        Self::of(temp, runtime, Arc::new(TokioClock::new()), journal)
    }

    /// With a journal on this disk.
    fn on(disk: &Faulty) -> Self {
        let journal = Journal::on(disk.clone()).unwrap();
        let (temp, clock) = (tempfile::tempdir().unwrap(), TokioClock::new());
        Self::of(temp, FakeRuntime::new(), Arc::new(clock), journal)
    }

    fn of(
        temp: tempfile::TempDir,
        runtime: FakeRuntime,
        clock: Arc<dyn Clock>,
        journal: (Journal, Vec<Recovered>),
    ) -> Self {
        let directory = Directory::open(temp.path()).unwrap();
        let receipts = Receipts::open(&directory, &identity()).unwrap();
        Self::signing(temp, runtime, clock, journal, receipts)
    }

    /// With these receipts.
    fn signing(
        temp: tempfile::TempDir,
        runtime: FakeRuntime,
        clock: Arc<dyn Clock>,
        journal: (Journal, Vec<Recovered>),
        receipts: Receipts,
    ) -> Self {
        let directory = Directory::open(temp.path()).unwrap();
        let images = Images::open(&directory.cache(), Vec::new(), 1 << 30).unwrap();
        images.seed("registry:5000/digits:v1");
        Self::made(temp, runtime, clock, journal, (receipts, images))
    }

    fn made(
        temp: tempfile::TempDir,
        runtime: FakeRuntime,
        clock: Arc<dyn Clock>,
        (journal, recovered): (Journal, Vec<Recovered>),
        (receipts, images): (Receipts, Images),
    ) -> Self {
        let directory = Directory::open(temp.path()).unwrap();
        let cluster = FakeCluster::new();
        let (outlook, seen) = watch::channel(outlook(&*clock, available()));
        let (live, lives) = watch::channel(0);
        let (notes, to_note) = mpsc::unbounded_channel();
        let (mut revived, statuses) = revive(recovered, &*clock);
        settle(&mut revived, &directory, &receipts);
        for status in statuses {
            cluster.set_status(status);
        }
        let living = Living::default();
        // None, unless the test has written a document of the car.
        let energy = Energy::open(&Car::read(&directory.car()).unwrap(), &directory, &clock);
        let context = Arc::new(Context {
            directory,
            clock: Arc::clone(&clock),
            journal,
            receipts: receipts.clone(),
            cluster: cluster.clone(),
            runtimes: (Arc::new(runtime.clone()) as Arc<dyn Runtime>).into(),
            images,
            outlook: seen,
            living: living.clone(),
            energy: energy.clone(),
            notes,
        });
        let (events, link) = mpsc::channel(1);
        // A car that is given work has just been greeted.
        events.try_send(heard(clock.boottime(), true)).unwrap();
        let supervisor = Supervisor::new(context, to_note, revived, live);
        let (fence, visits) = (supervisor.fence(), supervisor.visits());
        let supervisor = tokio::spawn(supervisor.run(link));
        Self {
            temp,
            clock,
            cluster,
            runtime,
            outlook,
            events,
            live: lives,
            fence,
            supervisor,
            receipts,
            energy,
            living,
            visits,
        }
    }

    /// As if the agent had been killed.
    async fn end(self) -> tempfile::TempDir {
        self.supervisor.abort();
        let _ = self.supervisor.await;
        self.receipts.close();
        self.temp
    }

    /// As if the agent had been killed and started again.
    async fn restart(self) -> Self {
        Self::start(self.end().await, FakeRuntime::new())
    }

    async fn link(&self, event: Event) {
        self.events.send(event).await.unwrap();
    }

    /// A heartbeat that is sent now is acknowledged at once.
    async fn heard(&self) -> Boottime {
        let sent = self.clock.boottime();
        self.link(heard(sent, true)).await;
        sent
    }

    fn car(&self, state: State) {
        self.outlook.send_replace(outlook(&*self.clock, state));
    }

    async fn phase(&self, uid: &str, phase: AttemptPhase) -> AttemptStatus {
        self.cluster
            .status(|status| status.uid == uid && status.phase() == phase)
            .await
    }

    async fn running(&self, uid: &str) -> FakeProcess {
        self.running_as(uid, |_| {}).await
    }

    async fn running_as(&self, uid: &str, change: impl FnOnce(&mut Json)) -> FakeProcess {
        let n = self.runtime.count();
        self.link(Event::Run(run(uid, change))).await;
        let process = self.runtime.started(n).await;
        self.phase(uid, AttemptPhase::Running).await;
        process
    }

    async fn wait_live(&self, live: usize) {
        self.live.clone().wait_for(|known| *known == live).await.unwrap();
    }

    /// Waits until the guard would be told this fence.
    async fn wait_fence(&self, fence: Option<Boottime>) {
        let mut wait = self.fence.clone();
        let found = tokio::time::timeout(
            std::time::Duration::from_secs(20),
            wait.wait_for(|known| *known == fence),
        );
        assert!(found.await.is_ok(), "not {fence:?} but {:?}", *self.fence.borrow());
    }

    fn read_logs(request_id: &str, uid: &str) -> ReadLogs {
        ReadLogs {
            request_id: request_id.to_owned(),
            uid: uid.to_owned(),
            container: "classify".to_owned(),
            ..ReadLogs::default()
        }
    }
}

fn terminated(status: &AttemptStatus) -> &kerbside_link::proto::Terminated {
    match &status.containers[0].state {
        Some(ContainerState::Terminated(terminated)) => terminated,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn attempt_runs_and_succeeds_once_its_output_and_log_are_stored() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    assert_eq!(
        (&*process.spec.command, &*process.spec.args),
        (
            &["classify".to_owned()][..],
            &["--index".to_owned(), "3".to_owned()][..]
        )
    );
    assert_eq!(
        (process.spec.memory_limit, process.spec.cpu_limit),
        (128 << 20, Some(1000))
    );
    fixture.wait_live(1).await;
    std::fs::write(process.path("/kerbside/out", "result.txt"), "7\n").unwrap();
    std::fs::write(process.path("/", "dev/termination-log"), "all good").unwrap();
    process.spec.log.write(Stream::Stdout, b"classified\n").unwrap();
    process.exits(0);
    let status = fixture.phase("u-1", AttemptPhase::Succeeded).await;
    assert!(status.stopped);
    assert_eq!(
        (terminated(&status).exit_code, terminated(&status).message.as_str()),
        (0, "all good")
    );
    assert_eq!(
        status.usage,
        Some(kerbside_link::proto::Usage {
            cpu_ms: 7,
            memory_peak_bytes: 11
        })
    );
    assert!(
        status.containers[0]
            .image_id
            .starts_with("registry:5000/digits@sha256:")
    );
    let sealed = fixture.cluster.sealed();
    assert_eq!(
        (sealed[0].0[0].path.as_str(), sealed[0].1[0].path.as_str()),
        ("result.txt", "classify")
    );
    assert_eq!(fixture.cluster.file("result.txt").unwrap(), b"7\n");
    assert_eq!(fixture.cluster.file("classify").unwrap(), b"classified\n");
    let revisions: Vec<u64> = fixture
        .cluster
        .statuses()
        .iter()
        .map(|status| status.revision)
        .collect();
    assert!(revisions.is_sorted_by(|a, b| a < b), "{revisions:?}");
    fixture.wait_live(0).await;
}

#[tokio::test]
async fn attempt_asked_for_twice_runs_once() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    fixture.link(Event::Run(run("u-1", |_| {}))).await;
    process.exits(0);
    fixture.phase("u-1", AttemptPhase::Succeeded).await;
    fixture.link(Event::Run(run("u-1", |_| {}))).await;
    let uid: PodUid = "u-1".parse().unwrap();
    fixture.link(Event::Forget(uid.clone())).await;
    fixture.cluster.forgotten(&uid).await;
    fixture.link(Event::Run(run("u-1", |_| {}))).await;
    // Something later that must come through tells that the one before was looked at.
    fixture.running("u-2").await;
    assert_eq!(fixture.runtime.count(), 2);
}

#[tokio::test]
async fn attempt_freezes_with_the_car_and_goes_on() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    let cause = Cause::Owner;
    fixture.car(State::Paused {
        since: Boottime::default(),
        parked_since: None,
        cause,
    });
    let status = fixture.phase("u-1", AttemptPhase::Frozen).await;
    assert!(process.is_frozen() && !status.containers[0].ready);
    assert_eq!(status.reason, reason::VEHICLE_PAUSED);
    fixture.car(available());
    let revision = status.revision;
    fixture
        .cluster
        .status(|status| status.revision > revision && status.phase() == AttemptPhase::Running)
        .await;
    assert!(!process.is_frozen());
}

#[tokio::test]
async fn attempt_is_refused_before_anything_starts() {
    let fixture = Fixture::new();
    let changed = |change: &dyn Fn(&mut Outlook)| {
        let mut new = outlook(&*fixture.clock, available());
        change(&mut new);
        fixture.outlook.send_replace(new);
    };
    let refused = async |uid: &str, run: Run| {
        fixture.link(Event::Run(run)).await;
        let status = fixture.phase(uid, AttemptPhase::Refused).await;
        assert!(status.stopped && !status.message.is_empty());
        status.reason
    };
    changed(&|outlook| outlook.document = None);
    assert_eq!(refused("u-1", run("u-1", |_| {})).await, reason::OWNER_CONSENT_MISSING);
    changed(&|outlook| outlook.command = Command::Pause);
    assert_eq!(refused("u-2", run("u-2", |_| {})).await, reason::OWNER_PAUSED);
    changed(&|outlook| outlook.state = State::initial());
    assert_eq!(refused("u-3", run("u-3", |_| {})).await, reason::NOT_PARKED);
    changed(&|_| {});
    let other_class = Run {
        class: "video".to_owned(),
        ..run("u-4", |_| {})
    };
    assert_eq!(refused("u-4", other_class).await, reason::CLASS_NOT_ACCEPTED);
    let privileged = run("u-5", |pod| pod["spec"]["hostNetwork"] = json!(true));
    assert_eq!(refused("u-5", privileged).await, reason::NOT_SUPPORTED);
    let container = run("u-6", |pod| pod["spec"]["runtimeClassName"] = Json::Null);
    assert_eq!(refused("u-6", container).await, reason::RUNTIME_MISSING);
    assert_eq!(fixture.runtime.count(), 0);
}

#[tokio::test]
async fn attempt_beyond_what_the_car_gives_is_refused_and_fits_when_another_has_ended() {
    let fixture = Fixture::new();
    let first = fixture.running("u-1").await;
    let _second = fixture.running("u-2").await;
    fixture.link(Event::Run(run("u-3", |_| {}))).await;
    assert_eq!(fixture.phase("u-3", AttemptPhase::Refused).await.reason, "OutOfcpu");
    first.exits(0);
    fixture.wait_live(1).await;
    fixture.running("u-4").await;
}

#[tokio::test]
async fn stop_of_the_cluster_disrupts_and_of_something_unknown_takes_its_uid() {
    let fixture = Fixture::new();
    fixture.running("u-1").await;
    let stop = |uid: &str| {
        Event::Stop(Stop {
            uid: uid.to_owned(),
            grace_ms: 0,
            reason: "Deleted".to_owned(),
        })
    };
    fixture.link(stop("u-1")).await;
    assert_eq!(fixture.phase("u-1", AttemptPhase::Disrupted).await.reason, "Deleted");
    fixture.link(stop("u-2")).await;
    assert!(fixture.phase("u-2", AttemptPhase::Disrupted).await.stopped);
    fixture.link(Event::Run(run("u-2", |_| {}))).await;
    fixture.running("u-3").await;
    assert_eq!(fixture.runtime.count(), 2);
}

#[tokio::test]
async fn forgotten_attempt_leaves_nothing() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    let uid: PodUid = "u-1".parse().unwrap();
    fixture.link(Event::Forget(uid.clone())).await;
    fixture.cluster.forgotten(&uid).await;
    fixture.wait_live(0).await;
    assert!(!process.path("/", "").exists());
    let again = fixture.restart().await;
    assert!(again.cluster.statuses().is_empty());
}

#[tokio::test]
async fn run_of_an_attempt_that_was_forgotten_is_answered_and_not_run() {
    let fixture = Fixture::new();
    fixture.running("u-1").await;
    let uid: PodUid = "u-1".parse().unwrap();
    fixture.link(Event::Forget(uid.clone())).await;
    fixture.cluster.forgotten(&uid).await;
    fixture.wait_live(0).await;
    fixture.link(Event::Run(run("u-1", |_| {}))).await;
    let answer = fixture.phase("u-1", AttemptPhase::Disrupted).await;
    assert_eq!((answer.reason.as_str(), answer.stopped), ("NotInVehicle", true));
    assert_eq!(fixture.runtime.count(), 1);
}

#[tokio::test]
async fn restarted_agent_says_that_what_ran_was_disrupted() {
    let fixture = Fixture::new();
    fixture.running("u-1").await;
    let last = fixture.cluster.statuses().pop().unwrap().revision;
    let again = fixture.restart().await;
    let status = again.phase("u-1", AttemptPhase::Disrupted).await;
    assert_eq!((status.reason.as_str(), status.stopped), ("AgentRestarted", true));
    assert!(status.revision > last);
    assert_eq!(terminated(&status).exit_code, 137);
    again.link(Event::Run(run("u-1", |_| {}))).await;
    again.running("u-2").await;
    assert_eq!(again.runtime.count(), 1, "what was disrupted is not run again");
}

#[tokio::test]
async fn restarted_agent_sends_an_output_that_was_not_sent() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    fixture.cluster.set_reachable(false);
    std::fs::write(process.path("/kerbside/out", "result.txt"), "7\n").unwrap();
    process.spec.log.write(Stream::Stdout, b"said\n").unwrap();
    process.exits(0);
    fixture
        .cluster
        .status(|status| status.reason == "UploadingOutput" && status.stopped)
        .await;
    let again = fixture.restart().await;
    again.phase("u-1", AttemptPhase::Succeeded).await;
    assert_eq!(again.cluster.file("result.txt").unwrap(), b"7\n");
    assert_eq!(again.cluster.file("classify").unwrap(), b"said\n");
    let third = again.restart().await;
    third.phase("u-1", AttemptPhase::Succeeded).await;
    assert!(third.cluster.sealed().is_empty(), "what was sealed is only told again");
}

#[tokio::test]
async fn output_waits_for_the_cluster() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    fixture.cluster.set_reachable(false);
    process.exits(0);
    let waiting = fixture
        .cluster
        .status(|status| status.reason == "UploadingOutput")
        .await;
    assert_eq!(waiting.phase(), AttemptPhase::Running);
    fixture.car(State::initial());
    fixture.cluster.set_reachable(true);
    fixture.phase("u-1", AttemptPhase::Succeeded).await;
}

#[tokio::test]
async fn output_that_is_too_large_fails_the_attempt() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    std::fs::write(process.path("/kerbside/out", "x"), [0; 1001]).unwrap();
    process.exits(0);
    let status = fixture.phase("u-1", AttemptPhase::Failed).await;
    assert_eq!(status.reason, reason::OUTPUT_TOO_LARGE);
    assert!(fixture.cluster.sealed().iter().all(|(files, _)| files.is_empty()));
}

#[tokio::test]
async fn program_that_fills_the_disk_is_ended_while_it_runs() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    std::fs::write(process.path("/kerbside/out", "x"), [0; 1001]).unwrap();
    let status = fixture.phase("u-1", AttemptPhase::Failed).await;
    assert_eq!(status.reason, reason::OUTPUT_TOO_LARGE);
    assert!(process.was_killed(), "it gets no time to write more");
}

#[tokio::test]
async fn program_that_cannot_start_fails_with_the_reason() {
    let fixture = Fixture::with(FakeRuntime::broken("the module is not WebAssembly"));
    fixture.link(Event::Run(run("u-1", |_| {}))).await;
    let status = fixture.phase("u-1", AttemptPhase::Failed).await;
    let end = terminated(&status);
    assert_eq!(
        (end.exit_code, end.reason.as_str(), end.message.as_str()),
        (128, "StartError", "the module is not WebAssembly")
    );
}

#[tokio::test]
async fn image_that_is_not_there_is_told_as_the_kubelet_does() {
    let fixture = Fixture::new();
    let none = run("u-1", |pod| {
        pod["spec"]["containers"][0]["image"] = json!("registry:5000/none:v1");
        pod["spec"]["containers"][0]["imagePullPolicy"] = json!("Never");
    });
    fixture.link(Event::Run(none)).await;
    let waiting = |status: &AttemptStatus| match &status.containers[0].state {
        Some(ContainerState::Waiting(waiting)) => waiting.reason.clone(),
        _ => String::new(),
    };
    let status = fixture
        .cluster
        .status(|status| waiting(status) == "ErrImageNeverPull")
        .await;
    assert_eq!(status.phase(), AttemptPhase::Pending);
    fixture
        .link(Event::Stop(Stop {
            uid: "u-1".to_owned(),
            grace_ms: 0,
            reason: "Deleted".to_owned(),
        }))
        .await;
    fixture.phase("u-1", AttemptPhase::Disrupted).await;
}

#[tokio::test]
async fn failure_without_a_message_takes_the_end_of_the_log_if_the_pod_wants_that() {
    let fixture = Fixture::new();
    let wanted = run("u-1", |pod| {
        pod["spec"]["containers"][0]["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    });
    fixture.link(Event::Run(wanted)).await;
    let process = fixture.runtime.started(0).await;
    process.spec.log.write(Stream::Stderr, b"no such model\n").unwrap();
    process.exits(3);
    let status = fixture.phase("u-1", AttemptPhase::Failed).await;
    assert_eq!(
        (terminated(&status).exit_code, terminated(&status).message.as_str()),
        (3, "no such model\n")
    );
    assert_eq!(
        fixture.cluster.file("classify").unwrap(),
        b"no such model\n",
        "the log of a failure is stored too"
    );
}

#[tokio::test]
async fn attempt_that_comes_to_a_car_long_unheard_waits_until_it_is_heard() {
    let fixture = Fixture::new();
    fixture.link(heard(Boottime::default(), true)).await;
    let fenced = Run {
        run_unheard_for_ms: 600_000,
        ..run("u-1", |_| {})
    };
    fixture.link(Event::Run(fenced)).await;
    let status = fixture.phase("u-1", AttemptPhase::Pending).await;
    assert_eq!(status.revision, 1, "the cluster knows that the car has it");
    assert_eq!(*fixture.live.borrow(), 1, "the car sends the quick heartbeat");
    fixture.heard().await;
    fixture.runtime.started(0).await.exits(0);
    fixture.phase("u-1", AttemptPhase::Succeeded).await;
}

#[tokio::test]
async fn attempt_that_waits_to_be_heard_never_begins_if_a_stop_comes_before_the_acknowledgement() {
    let fixture = Fixture::new();
    fixture.link(heard(Boottime::default(), true)).await;
    let fenced = Run {
        run_unheard_for_ms: 600_000,
        ..run("u-1", |_| {})
    };
    fixture.link(Event::Run(fenced)).await;
    fixture.phase("u-1", AttemptPhase::Pending).await;
    fixture
        .link(Event::Stop(Stop {
            uid: "u-1".to_owned(),
            grace_ms: 0,
            reason: "Deleted".to_owned(),
        }))
        .await;
    fixture.heard().await;
    fixture.phase("u-1", AttemptPhase::Disrupted).await;
    fixture.running("u-2").await;
    assert_eq!(fixture.runtime.count(), 1);
}

#[tokio::test]
async fn unproven_acknowledgements_keep_what_may_run_twice_and_not_what_may_run_once_only() {
    let fixture = Fixture::new();
    let mut programs = Vec::new();
    for (n, uid, once) in [(0, "u-1", false), (1, "u-2", true)] {
        fixture.heard().await;
        let fenced = Run {
            run_unheard_for_ms: 2_000,
            once,
            ..run(uid, |_| {})
        };
        fixture.link(Event::Run(fenced)).await;
        programs.push(fixture.runtime.started(n).await);
    }
    let unproven = async {
        loop {
            fixture.link(heard(fixture.clock.boottime(), false)).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let story = async {
        let status = fixture.phase("u-2", AttemptPhase::Disrupted).await;
        assert_eq!(status.reason, reason::VEHICLE_LOST);
        programs[0].exits(0);
        fixture.phase("u-1", AttemptPhase::Succeeded).await;
    };
    tokio::select! {
        () = story => {}
        () = unproven => unreachable!("an adapter acknowledges for ever"),
    }
}

#[tokio::test]
async fn unheard_attempt_ends_by_itself() {
    let fixture = Fixture::new();
    fixture.heard().await;
    let fenced = Run {
        run_unheard_for_ms: 400,
        ..run("u-1", |_| {})
    };
    fixture.link(Event::Run(fenced)).await;
    let status = fixture.phase("u-1", AttemptPhase::Disrupted).await;
    assert_eq!(status.reason, reason::VEHICLE_LOST);
}

#[tokio::test]
async fn container_that_is_always_restarted_is_started_again_and_its_former_log_can_be_read() {
    let fixture = Fixture::new();
    let plain = run("u-1", |pod| pod["spec"]["restartPolicy"] = json!("Always"));
    fixture.link(Event::Run(Run { output: None, ..plain })).await;
    let first = fixture.runtime.started(0).await;
    first.spec.log.write(Stream::Stdout, b"first\n").unwrap();
    first.exits(1);
    let second = fixture.runtime.started(1).await;
    second.spec.log.write(Stream::Stdout, b"second\n").unwrap();
    let status = fixture
        .cluster
        .status(|status| status.containers[0].restart_count == 1)
        .await;
    assert_eq!(status.phase(), AttemptPhase::Running);
    fixture.link(Event::ReadLogs(Fixture::read_logs("now", "u-1"))).await;
    assert_eq!(fixture.cluster.log("now").await, Ok("second\n".to_owned()));
    let previous = ReadLogs {
        previous: true,
        ..Fixture::read_logs("before", "u-1")
    };
    fixture.link(Event::ReadLogs(previous)).await;
    assert_eq!(fixture.cluster.log("before").await, Ok("first\n".to_owned()));
}

#[tokio::test]
async fn log_is_followed_to_its_end() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    let follow = ReadLogs {
        follow: true,
        ..Fixture::read_logs("f", "u-1")
    };
    fixture.link(Event::ReadLogs(follow)).await;
    process.spec.log.write(Stream::Stdout, b"one\n").unwrap();
    process.spec.log.write(Stream::Stdout, b"two\n").unwrap();
    process.exits(0);
    assert_eq!(fixture.cluster.log("f").await, Ok("one\ntwo\n".to_owned()));
}

#[tokio::test]
async fn log_that_cannot_be_read_says_why() {
    let fixture = Fixture::new();
    fixture.running("u-1").await;
    let ask = async |id: &str, request: ReadLogs| {
        fixture.link(Event::ReadLogs(request)).await;
        fixture.cluster.log(id).await.unwrap_err()
    };
    assert!(
        ask("a", Fixture::read_logs("a", "u-9"))
            .await
            .contains("does not know the attempt")
    );
    let other = ReadLogs {
        container: "sidecar".to_owned(),
        ..Fixture::read_logs("b", "u-1")
    };
    assert!(ask("b", other).await.contains("\"sidecar\""));
    let previous = ReadLogs {
        previous: true,
        ..Fixture::read_logs("c", "u-1")
    };
    assert!(ask("c", previous).await.contains("previous terminated container"));
}

#[test]
fn newest_of_two_starts_of_a_log_counts() {
    let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    let request = ReadLogs {
        since_ms: Some(60_000),
        since_time_ms: Some(now.as_millisecond() - 30_000),
        tail_lines: Some(-1),
        ..ReadLogs::default()
    };
    let wanted = wanted(&request, now);
    assert_eq!(wanted.since, Some("2026-11-22T09:59:30Z".parse().unwrap()));
    assert_eq!(wanted.tail_lines, None);
}
