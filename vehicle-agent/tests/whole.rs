//! The agent as it is installed: the real program, the real link, a real program in WebAssembly; only the cluster is a test.
//!
//! What each part does in every case is tested beside the part. This is the path through all of them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    reason = "a test: what is unexpected fails it"
)]

#[path = "whole/adapter.rs"]
mod adapter;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kerbside_link::proto::{AttemptPhase, AttemptStatus, OutputRequest, ReadLogs, Run, Standing};
use kerbside_link::server::SessionHandle;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use self::adapter::{Cluster, Wire, registry};

/// A busy machine may be slow; what never comes is found out all the same.
const SOON: Duration = Duration::from_secs(60);

const OWNER: &str = "
consent: {givenAt: 2026-01-01T00:00:00Z, classes: [inference, video]}
requirePluggedIn: true
chargeFloorPercent: 50
";
const CAR: &str = "parked: {dwell: 200ms, notice: 2s}";

/// Says its greeting, writes it to the output, and ends.
const HELLO: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "hello.txt")
  (data (i32.const 512) "hello from a car\0a")
  (func (export "_start")
    (drop (call $open (i32.const 4) (i32.const 0) (i32.const 64) (i32.const 9)
      (i32.const 9) (i64.const 64) (i64.const 64) (i32.const 0) (i32.const 0)))
    (i32.store (i32.const 16) (i32.const 512))
    (i32.store (i32.const 20) (i32.const 17))
    (drop (call $write (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 32)))
    (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 32)))))"#;
const ENDLESS: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#;

struct Car {
    temp: tempfile::TempDir,
    url: String,
    registry: SocketAddr,
    cluster: Arc<Cluster>,
    wire: Wire,
    agent: Option<Child>,
}

impl Car {
    /// An enrolled car whose owner is willing; its agent runs.
    async fn enrolled() -> Self {
        let (cluster, url) = Cluster::start().await;
        let (wire, url) = Wire::to(&url).await;
        let registry = registry(&[("hello", HELLO), ("endless", ENDLESS)]).await;
        let mut car = Self {
            temp: tempfile::tempdir().unwrap(),
            url,
            registry,
            cluster,
            wire,
            agent: None,
        };
        let token = car.cluster.token.to_string();
        let output = car.agent(&["enrol", "--link", &car.url, "--token", &token]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let output = car
            .agent(&[
                "consent",
                "give",
                "--agree",
                "--purpose",
                "inference",
                "--purpose",
                "video",
            ])
            .await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(car.path("owner.yaml"), OWNER).unwrap();
        std::fs::write(car.path("car.yaml"), CAR).unwrap();
        car.plays("preset: parked");
        car.start();
        car
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("car")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    fn plays(&self, scenario: &str) {
        let new = self.path("scenario.new");
        std::fs::write(&new, scenario).unwrap();
        std::fs::rename(new, self.path("scenario.yaml")).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kerbside-agent"));
        command
            .args(arguments)
            .arg("--dir")
            .arg(self.dir())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn agent(&self, arguments: &[&str]) -> Output {
        timeout(SOON, self.command(arguments).output()).await.unwrap().unwrap()
    }

    fn start(&mut self) {
        let (link, scenario) = (self.url.clone(), self.path("scenario.yaml"));
        let registry = self.registry.to_string();
        let arguments = [
            "run",
            "--link",
            &link,
            "--scenario",
            scenario.to_str().unwrap(),
            "--registry-http",
            &registry,
        ];
        self.agent = Some(self.command(&arguments).spawn().unwrap());
    }

    async fn kill(&mut self) {
        self.agent.take().unwrap().kill().await.unwrap();
    }

    /// Asks the agent, as the owner would, until its answer holds all of `words`; the answer.
    async fn says(&self, words: &[&str]) -> String {
        let asked = async {
            loop {
                let status = text(&self.agent(&["status"]).await);
                if words.iter().all(|word| status.contains(word)) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SOON, asked)
            .await
            .unwrap_or_else(|_| panic!("the agent never says {words:?}"))
    }

    async fn standing(&self, standing: Standing) {
        let mut states = self.cluster.states.subscribe();
        let there = states.wait_for(|states| states.last().is_some_and(|state| state.standing() == standing));
        timeout(SOON, there)
            .await
            .unwrap_or_else(|_| panic!("the car is never {standing:?}"))
            .unwrap();
    }

    async fn session(&self) -> SessionHandle {
        let mut session = self.cluster.session.subscribe();
        let session = session.wait_for(|session| session.as_ref().is_some_and(|session| !session.is_closed()));
        timeout(SOON, session).await.unwrap().unwrap().clone().unwrap()
    }

    async fn run(&self, uid: &str, program: &str) {
        let pod = json!({
            "metadata": {"name": uid, "namespace": "default", "uid": uid},
            "spec": {
                "restartPolicy": "Never",
                "runtimeClassName": "kerbside-wasm",
                "containers": [{"name": "main", "image": format!("{}/{program}:v1", self.registry)}],
            },
        });
        self.session().await.run(Run {
            uid: uid.to_owned(),
            pod_json: serde_json::to_vec(&pod).unwrap().into(),
            class: "inference".to_owned(),
            pool: "overnight".to_owned(),
            output: Some(OutputRequest {
                path: "/kerbside/out".to_owned(),
                max_bytes: 1 << 20,
            }),
            ..Run::default()
        });
    }

    async fn phase(&self, uid: &str, phase: AttemptPhase) -> AttemptStatus {
        let mut statuses = self.cluster.statuses.subscribe();
        let wanted = |status: &&AttemptStatus| status.uid == uid && status.phase() == phase;
        let there = timeout(SOON, statuses.wait_for(|statuses| statuses.iter().any(|s| wanted(&s)))).await;
        let Ok(Ok(statuses)) = there else {
            panic!("{:#?}", self.cluster.statuses.borrow())
        };
        statuses.iter().find(wanted).cloned().unwrap()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrolled_car_runs_a_program_and_its_output_and_log_arrive() {
    let car = Car::enrolled().await;
    car.standing(Standing::Available).await;
    car.run("u-1", "hello").await;
    let status = car.phase("u-1", AttemptPhase::Succeeded).await;
    assert!(status.stopped);
    let stored = |path: &str| String::from_utf8(car.cluster.files.lock().unwrap()[path].clone()).unwrap();
    assert_eq!(
        (stored("hello.txt").as_str(), stored("main").as_str()),
        ("hello from a car\n", "hello from a car\n")
    );
    let mut receipts = car.cluster.receipts.subscribe();
    let receipts = timeout(SOON, receipts.wait_for(|receipts| !receipts.is_empty()))
        .await
        .unwrap()
        .unwrap()
        .clone();
    let envelope = kerbside_core::receipt::Envelope::parse(&receipts[0].envelope).unwrap();
    let usage: kerbside_core::receipt::Usage = serde_json::from_slice(&envelope.payload().unwrap()).unwrap();
    assert_eq!((usage.sequence, usage.claim.pod_uid.as_str()), (1, "u-1"));
    assert_eq!(usage.claim.output_bytes, 17);
    assert!(receipts[0].chain_pem.contains("BEGIN CERTIFICATE"));
    car.says(&["receipts  1, the newest is 1\n"]).await;

    car.session().await.read_logs(ReadLogs {
        request_id: "r-1".to_owned(),
        uid: "u-1".to_owned(),
        container: "main".to_owned(),
        ..ReadLogs::default()
    });
    let mut logs = car.cluster.logs.subscribe();
    let logs = timeout(SOON, logs.wait_for(|logs| logs.contains_key("r-1")))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(logs["r-1"], "hello from a car\n");

    let second = car.agent(&["run", "--link", &car.url]).await;
    assert!(String::from_utf8_lossy(&second.stderr).contains("another agent runs"));
    let again = car
        .agent(&["enrol", "--link", &car.url, "--token", &car.cluster.token.to_string()])
        .await;
    assert!(String::from_utf8_lossy(&again.stderr).contains("has an identity"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owner_pauses_resumes_and_withdraws_with_the_program_at_hand() {
    let car = Car::enrolled().await;
    car.standing(Standing::Available).await;
    car.run("u-1", "endless").await;
    car.phase("u-1", AttemptPhase::Running).await;
    assert!(text(&car.agent(&["pause"]).await).starts_with("paused"));
    car.standing(Standing::Paused).await;
    car.phase("u-1", AttemptPhase::Frozen).await;
    let status = text(&car.agent(&["status"]).await);
    assert!(
        status.contains("OwnerPaused") && status.contains("connected"),
        "{status}"
    );
    car.agent(&["resume"]).await;
    car.standing(Standing::Available).await;
    assert!(text(&car.agent(&["withdraw"]).await).starts_with("withdrawn"));
    let status = car.phase("u-1", AttemptPhase::Disrupted).await;
    assert!(status.stopped && status.reason == "VehicleDeparted", "{status:?}");
    car.standing(Standing::Away).await;
    car.run("u-2", "hello").await;
    assert_eq!(
        car.phase("u-2", AttemptPhase::Refused).await.reason,
        "OwnerConsentMissing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owner_pauses_resumes_and_withdraws_while_no_cluster_is_reached() {
    let car = Car::enrolled().await;
    car.standing(Standing::Available).await;
    car.run("u-1", "endless").await;
    car.phase("u-1", AttemptPhase::Running).await;
    car.wire.cut();
    let status = car.says(&["not connected", "  default/u-1  class inference  "]).await;
    assert!(status.contains("endless:v1  Running"), "{status}");

    // The command is answered after the brake is on: nothing is waited for here.
    assert!(text(&car.agent(&["pause"]).await).starts_with("paused"));
    let status = text(&car.agent(&["status"]).await);
    assert!(
        status.contains("standing  paused") && status.contains("OwnerPaused"),
        "{status}"
    );
    car.says(&["not connected", "endless:v1  Frozen", "attempts  1"]).await;

    assert!(text(&car.agent(&["resume"]).await).starts_with("resumed"));
    car.says(&["not connected", "standing  available", "endless:v1  Running"])
        .await;

    assert!(text(&car.agent(&["withdraw"]).await).starts_with("withdrawn"));
    let status = text(&car.agent(&["status"]).await);
    assert!(!status.contains("standing  available"), "{status}");
    car.says(&[
        "not connected",
        "standing  away",
        "endless:v1  Disrupted",
        "attempts  0",
    ])
    .await;
    let told = car.cluster.statuses.borrow();
    assert!(
        told.iter().all(|status| status.phase() != AttemptPhase::Frozen),
        "the cluster cannot have had a part in it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owner_takes_one_consent_back_while_no_cluster_is_reached() {
    let car = Car::enrolled().await;
    car.standing(Standing::Available).await;
    car.run("u-1", "endless").await;
    car.phase("u-1", AttemptPhase::Running).await;
    car.wire.cut();
    car.says(&["not connected", "endless:v1  Running"]).await;
    let said = text(&car.agent(&["consent", "withdraw", "--purpose", "inference"]).await);
    assert!(said.starts_with("withdrawn: inference"), "{said}");
    // The car stays, for work of the other class.
    let status = car
        .says(&["standing  available", "endless:v1  Disrupted", "attempts  0"])
        .await;
    assert!(status.contains("NOT inference: it was withdrawn"), "{status}");
    assert!(status.contains("video until you withdraw it"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn car_that_is_to_forget_delivers_what_was_earned_and_then_is_nobody() {
    let mut car = Car::enrolled().await;
    car.standing(Standing::Available).await;
    car.run("u-1", "endless").await;
    car.phase("u-1", AttemptPhase::Running).await;
    let mut agent = car.agent.take().unwrap();
    let said = text(&car.agent(&["forget", "--yes"]).await);
    assert!(said.contains("then the agent ends"), "{said}");
    assert!(timeout(SOON, agent.wait()).await.unwrap().unwrap().success());
    let receipts = car.cluster.receipts.borrow().len();
    assert!(receipts >= 1, "what was earned is delivered first");
    for gone in ["owner.yaml", "identity", "receipts", "journal", "attempts"] {
        assert!(!car.path(gone).exists(), "{gone}");
    }
    assert!(car.path("consents/sealed.jsonl").exists() && car.path("car.yaml").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn car_that_drives_off_ends_its_work_and_comes_back() {
    let car = Car::enrolled().await;
    car.standing(Standing::Available).await;
    car.run("u-1", "endless").await;
    car.phase("u-1", AttemptPhase::Running).await;
    car.plays("preset: driving");
    let status = car.phase("u-1", AttemptPhase::Disrupted).await;
    assert!(status.stopped && status.reason == "VehicleDeparted", "{status:?}");
    car.standing(Standing::Away).await;
    car.plays("preset: parked");
    car.standing(Standing::Available).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_that_was_killed_says_what_it_ran_when_it_is_back() {
    let mut car = Car::enrolled().await;
    car.standing(Standing::Available).await;
    car.run("u-1", "endless").await;
    let before = car.phase("u-1", AttemptPhase::Running).await;
    car.kill().await;
    car.start();
    let status = car.phase("u-1", AttemptPhase::Disrupted).await;
    assert_eq!((status.reason.as_str(), status.stopped), ("AgentRestarted", true));
    assert!(status.revision > before.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_that_is_told_to_end_ends_its_work_first() {
    let mut car = Car::enrolled().await;
    car.standing(Standing::Available).await;
    car.run("u-1", "endless").await;
    car.phase("u-1", AttemptPhase::Running).await;
    let mut agent = car.agent.take().unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(
        car.phase("u-1", AttemptPhase::Disrupted).await.reason,
        "VehicleDeparted"
    );
    assert!(timeout(SOON, agent.wait()).await.unwrap().unwrap().success());
    assert!(!Path::new(&car.path("control.sock")).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn car_that_is_not_enrolled_says_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kerbside-agent"));
    let output = command
        .args(["run", "--link", "https://127.0.0.1:1", "--dir"])
        .arg(temp.path())
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("kubectl fleet enrol"), "{message}");
}
