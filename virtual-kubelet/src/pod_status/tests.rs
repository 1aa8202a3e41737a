//! Statuses as a kubelet writes them, as golden files: the path of one attempt, and each way it may end.

use std::time::Duration;

use kerbside_core::clock::Boottime;
use kerbside_core::vehicle::{Event, Facts, Judgement, Refusal, Standing, Terms};
use kerbside_link::proto::container_status::State;
use serde_json::json;

use super::*;
use crate::{offer, pod_facts};

const NOW: &str = "2026-11-23T12:00:00Z";
const LATER: &str = "2026-11-23T12:00:30Z";

fn pod() -> Pod {
    serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "digits-0-abcde", "namespace": "vision", "uid": "u-1", "generation": 1,
            "ownerReferences": [{"apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob", "name": "digits", "uid": "j", "controller": true}],
            "annotations": {"kerbside.dev/run-unheard-for": "30s"},
        },
        "spec": {"nodeName": "car-aaaaaaaaaaaaaaaa", "containers": [{"name": "main", "image": "reg/digits:1"}]},
        "status": {
            "phase": "Pending", "qosClass": "Burstable",
            "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-23T11:59:59Z"}],
        },
    }))
    .unwrap()
}

fn around(now: &str) -> Around<'static> {
    let now = now.parse().unwrap();
    Around {
        node_address: "10.99.0.1",
        now,
        heard_at: "2026-11-23T12:00:20Z".parse().unwrap(),
        first: FirstHeard::default(),
    }
}

fn container(state: Option<State>, ready: bool) -> proto::ContainerStatus {
    proto::ContainerStatus {
        name: "main".into(),
        image: "reg/digits:1".into(),
        image_id: "reg/digits@sha256:00".into(),
        ready,
        started: None,
        state,
        ..proto::ContainerStatus::default()
    }
}

fn said(
    revision: u64,
    phase: proto::AttemptPhase,
    stopped: bool,
    container: proto::ContainerStatus,
) -> proto::AttemptStatus {
    proto::AttemptStatus {
        uid: "u-1".into(),
        revision,
        phase: phase.into(),
        stopped,
        containers: vec![container],
        ..proto::AttemptStatus::default()
    }
}

fn running() -> proto::AttemptStatus {
    let state = State::Running(proto::Running {
        started_at_ms: 1_795_435_205_500,
    });
    said(2, proto::AttemptPhase::Running, false, container(Some(state), true))
}

fn ended(phase: proto::AttemptPhase, exit_code: i32, reason: &str) -> proto::AttemptStatus {
    let state = State::Terminated(proto::Terminated {
        exit_code,
        reason: reason.into(),
        message: "bye".into(),
        started_at_ms: 1_795_435_205_500,
        finished_at_ms: 1_795_435_215_500,
        ..proto::Terminated::default()
    });
    said(3, phase, true, container(Some(state), false))
}

/// A vehicle with one Pod, driven as its actor does.
struct Case {
    facts: Facts,
    pod: Pod,
    car: Option<proto::AttemptStatus>,
    first: FirstHeard,
}

impl Case {
    fn new(pod: Pod) -> Self {
        let mut facts = Facts::new(Standing::Away, false, Boottime::default());
        let terms = Terms {
            suspect_after: Duration::from_secs(10),
            keep_node_for: Duration::from_mins(10),
            revoked: false,
            eligible: Judgement::Yes,
        };
        facts.step(Event::Terms(terms), Boottime::default());
        facts.step(Event::PodsSynced, Boottime::default());
        let connected = Event::Connected {
            epoch: 1,
            standing: Standing::Available,
            reports: vec![],
        };
        facts.step(connected, Boottime::default());
        let mut case = Self {
            facts,
            pod,
            car: None,
            first: FirstHeard::default(),
        };
        case.observed();
        case.on(Event::Judged("u-1".parse().unwrap(), None));
        case
    }

    fn observed(&mut self) {
        self.on(Event::Pod(pod_facts::facts(&self.pod).unwrap()));
    }

    fn on(&mut self, event: Event) {
        self.facts.step(event, Boottime::default());
        self.facts.settle(Boottime::default(), |_| None);
        for command in self.facts.desired(Boottime::default()).commands {
            self.facts.step(Event::Sent(command), Boottime::default());
        }
    }

    fn says(&mut self, status: proto::AttemptStatus) {
        self.on(Event::Report(offer::report(&status).unwrap()));
        self.car = Some(status);
    }

    fn build(&self, seconds: u64, now: &str) -> PodStatus {
        let mut facts = self.facts.clone();
        let boottime = Boottime(Duration::from_secs(seconds));
        facts.settle(boottime, |_| None);
        let desired = facts.desired(boottime);
        let report = desired.pods.get(&"u-1".parse().unwrap()).unwrap();
        let around = Around {
            first: self.first,
            ..around(now)
        };
        build(&self.pod, report, self.car.as_ref(), around)
    }

    /// The API has what was written.
    fn write(&mut self, now: &str) {
        let status = self.build(0, now);
        self.pod.status = Some(status);
        self.observed();
    }
}

fn at_work() -> Case {
    let mut case = Case::new(pod());
    case.says(running());
    case.write(NOW);
    case
}

#[test]
fn status_of_a_pod_just_bound_is_a_kubelets() {
    insta::assert_yaml_snapshot!(Case::new(pod()).build(0, NOW));
}

#[test]
fn status_of_a_running_pod_is_a_kubelets() {
    let mut case = Case::new(pod());
    case.says(running());
    insta::assert_yaml_snapshot!(case.build(0, NOW));
}

#[test]
fn status_of_a_failed_pull_shows_where_users_look() {
    let mut case = Case::new(pod());
    let waiting = State::Waiting(proto::Waiting {
        reason: "ImagePullBackOff".into(),
        message: "no such host".into(),
    });
    case.says(said(
        1,
        proto::AttemptPhase::Pending,
        false,
        container(Some(waiting), false),
    ));
    let status = case.build(0, NOW);
    let waiting = status
        .container_statuses
        .unwrap()
        .remove(0)
        .state
        .unwrap()
        .waiting
        .unwrap();
    assert_eq!(
        (waiting.reason.as_deref(), waiting.message.as_deref()),
        (Some("ImagePullBackOff"), Some("no such host"))
    );
    assert_eq!(status.phase.as_deref(), Some("Pending"));
}

#[test]
fn status_of_a_succeeded_pod_is_a_kubelets() {
    let mut case = at_work();
    case.says(ended(proto::AttemptPhase::Succeeded, 0, ""));
    insta::assert_yaml_snapshot!(case.build(0, LATER));
}

#[test]
fn status_of_a_failed_program_has_no_disruption() {
    let mut case = at_work();
    case.says(ended(proto::AttemptPhase::Failed, 137, "OOMKilled"));
    insta::assert_yaml_snapshot!(case.build(0, LATER));
}

#[test]
fn status_of_a_departed_attempt_is_one_disruption() {
    let mut case = at_work();
    let mut status = ended(proto::AttemptPhase::Disrupted, 137, "VehicleDeparted");
    status.reason = "VehicleDeparted".into();
    case.says(status);
    insta::assert_yaml_snapshot!(case.build(0, LATER));
}

#[test]
fn status_of_a_suspect_cars_pod_is_unheard_and_not_ready() {
    let mut case = at_work();
    case.on(Event::Closed(1));
    insta::assert_yaml_snapshot!(case.build(1, LATER));
}

#[test]
fn status_of_a_fenced_attempt_ends_when_the_car_was_last_heard() {
    let mut case = at_work();
    case.on(Event::Closed(1));
    insta::assert_yaml_snapshot!(case.build(36, LATER));
}

#[test]
fn status_of_a_refused_attempt_has_the_refusal() {
    let mut case = Case::new(pod());
    let mut status = said(1, proto::AttemptPhase::Refused, true, container(None, false));
    status.reason = "OwnerConsentMissing".into();
    status.message = "the owner has not consented to anything".into();
    status.containers.clear();
    case.says(status);
    insta::assert_yaml_snapshot!(case.build(0, NOW));
}

#[test]
fn status_of_a_held_pod_shows_the_refusal_as_what_it_waits_for() {
    let mut pod = pod();
    pod.metadata.owner_references = None;
    let mut case = Case::new(pod);
    let refusal = Refusal {
        reason: "ClassNotAccepted".into(),
        message: "no".into(),
    };
    case.on(Event::Judged("u-1".parse().unwrap(), Some(refusal)));
    let status = case.build(0, NOW);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let waiting = status
        .container_statuses
        .unwrap()
        .remove(0)
        .state
        .unwrap()
        .waiting
        .unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ClassNotAccepted"));
}

#[test]
fn status_written_once_needs_no_second_write() {
    let mut case = at_work();
    assert_eq!(patch(case.pod.status.as_ref(), &case.build(0, LATER)), None);
    case.says(ended(proto::AttemptPhase::Succeeded, 0, ""));
    let first = case.build(0, LATER);
    assert!(patch(case.pod.status.as_ref(), &first).is_some());
    case.pod.status = Some(first);
    case.observed();
    assert_eq!(patch(case.pod.status.as_ref(), &case.build(0, LATER)), None);
}

#[test]
fn status_read_back_from_the_server_needs_no_second_write() {
    let case = at_work();
    let text = serde_json::to_string(&case.pod).unwrap();
    let read: Pod = serde_json::from_str(&text).unwrap();
    assert_eq!(patch(read.status.as_ref(), &case.build(0, LATER)), None);
}

#[test]
fn patch_carries_changed_conditions_only() {
    let mut case = at_work();
    case.on(Event::Closed(1));
    let patch = patch(case.pod.status.as_ref(), &case.build(1, LATER)).unwrap();
    let keys: Vec<_> = patch.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["conditions"]);
    let types: Vec<_> = patch["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["type"].as_str().unwrap())
        .collect();
    assert_eq!(types, ["Ready", "kerbside.dev/Unheard"]);
}

#[test]
fn disruption_announced_by_others_keeps_its_reason() {
    let mut case = at_work();
    let conditions = case.pod.status.as_mut().unwrap().conditions.as_mut().unwrap();
    let evicted = Says {
        type_: "DisruptionTarget",
        status: Some(true),
        reason: "EvictionByEvictionAPI",
        message: "",
    };
    set_pod(conditions, &evicted, None, NOW.parse().unwrap());
    case.observed();
    case.says(ended(proto::AttemptPhase::Disrupted, 137, "Stopped"));
    let status = case.build(0, LATER);
    let found = status
        .conditions
        .unwrap()
        .into_iter()
        .find(|c| c.type_ == "DisruptionTarget")
        .unwrap();
    assert_eq!(found.reason.as_deref(), Some("EvictionByEvictionAPI"));
}

#[test]
fn container_started_again_remembers_its_last_end() {
    let mut case = at_work();
    let mut again = running();
    again.containers[0].restart_count = 1;
    let mut crashed = ended(proto::AttemptPhase::Running, 1, "Error");
    crashed.stopped = false;
    case.says(crashed);
    case.write(NOW);
    again.revision = 9;
    case.says(again);
    let container = case.build(0, LATER).container_statuses.unwrap().remove(0);
    assert_eq!(container.restart_count, 1);
    assert!(container.state.unwrap().running.is_some());
    assert_eq!(container.last_state.unwrap().terminated.unwrap().exit_code, 1);
}

#[test]
fn container_that_waits_to_be_started_again_shows_how_its_run_before_ended() {
    let mut case = at_work();
    let mut waits = running();
    waits.revision = 9;
    let container = &mut waits.containers[0];
    container.restart_count = 1;
    (container.ready, container.started) = (false, Some(false));
    container.state = Some(State::Waiting(proto::Waiting {
        reason: "CrashLoopBackOff".into(),
        message: String::new(),
    }));
    container.last = Some(proto::Terminated {
        exit_code: 3,
        ..proto::Terminated::default()
    });
    case.says(waits);
    let container = case.build(0, LATER).container_statuses.unwrap().remove(0);
    assert_eq!(container.last_state.unwrap().terminated.unwrap().exit_code, 3);
    assert_eq!(container.started, Some(false));
}

/// A Pod with a sidecar and an init container before its work, and what the car says of each: its name, whether it is ready, its state.
fn with_sidecar(said_of: [(&str, bool, Option<State>); 3]) -> PodStatus {
    let mut pod = serde_json::to_value(pod()).unwrap();
    pod["spec"]["initContainers"] = json!([
        {"name": "proxy", "image": "reg/proxy:1", "restartPolicy": "Always"},
        {"name": "init", "image": "reg/init:1"},
    ]);
    let mut case = Case::new(serde_json::from_value(pod).unwrap());
    let containers = said_of.map(|(name, ready, state)| proto::ContainerStatus {
        name: name.into(),
        ready,
        started: Some(ready && name != "init"),
        // Who waits has run before.
        restart_count: u32::from(matches!(state, Some(State::Waiting(_)))),
        state,
        ..proto::ContainerStatus::default()
    });
    let mut status = running();
    status.containers = containers.into();
    case.says(status);
    case.build(0, LATER)
}

fn is_true(status: &PodStatus, type_: &str) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|c| c.type_ == type_ && c.status == "True")
}

#[test]
fn sidecar_counts_for_ready_and_its_restart_takes_no_initialization_back() {
    let runs = || Some(State::Running(proto::Running { started_at_ms: 1 }));
    let done = || Some(State::Terminated(proto::Terminated::default()));
    let waits = || {
        Some(State::Waiting(proto::Waiting {
            reason: "CrashLoopBackOff".into(),
            message: String::new(),
        }))
    };
    let status = with_sidecar([("proxy", true, runs()), ("init", false, runs()), ("main", false, None)]);
    assert!(
        !is_true(&status, "Initialized"),
        "an init container that runs has not ended"
    );
    let status = with_sidecar([("proxy", true, runs()), ("init", true, done()), ("main", true, runs())]);
    assert!(is_true(&status, "Initialized") && is_true(&status, "ContainersReady"));
    assert!(status.init_container_statuses.unwrap().iter().all(|c| c.ready));
    let status = with_sidecar([
        ("proxy", false, waits()),
        ("init", true, done()),
        ("main", true, runs()),
    ]);
    assert!(is_true(&status, "Initialized"), "the work has begun");
    assert!(!is_true(&status, "ContainersReady"));
    let status = with_sidecar([
        ("proxy", false, waits()),
        ("init", true, done()),
        ("main", false, waits()),
    ]);
    assert!(is_true(&status, "Initialized"), "all wait, and the work had begun");
}

#[test]
fn pod_ended_by_others_gets_only_the_word_that_it_is_stopped() {
    let mut case = at_work();
    let status = case.pod.status.as_mut().unwrap();
    status.phase = Some("Failed".into());
    status.reason = Some("Terminated".into());
    case.observed();
    case.says(ended(proto::AttemptPhase::Disrupted, 137, "Stopped"));
    let status = case.build(0, LATER);
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("Terminated"))
    );
    assert!(
        status
            .conditions
            .unwrap()
            .iter()
            .any(|c| c.type_ == "kerbside.dev/Stopped" && c.status == "True")
    );
}

#[test]
fn container_that_was_added_has_a_status_of_its_own_and_is_never_ready() {
    let mut pod = pod();
    let spec = pod.spec.as_mut().unwrap();
    spec.ephemeral_containers = serde_json::from_value(json!([{"name": "look", "image": "reg/tools:1"}])).unwrap();
    let mut case = Case::new(pod);
    let added = |status: &PodStatus| status.ephemeral_container_statuses.clone().unwrap().swap_remove(0);
    let before = added(&case.build(10, NOW));
    let waiting = before.state.unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
    let mut status = running();
    status.containers.push(proto::ContainerStatus {
        name: "look".into(),
        ready: true,
        ..status.containers[0].clone()
    });
    case.says(status);
    let now = case.build(10, NOW);
    let look = added(&now);
    assert!(look.state.unwrap().running.is_some());
    assert_eq!((look.ready, look.started, look.restart_count), (false, None, 0));
    assert!(now.container_statuses.unwrap()[0].ready);
    assert_eq!(now.phase.as_deref(), Some("Running"));
}

/// What a vehicle is paid for lies between the two: a write that had to wait must not make it shorter.
#[test]
fn beginning_and_end_are_of_when_they_were_heard_and_not_of_when_they_are_written() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let mut first = FirstHeard::default();
    let waits = said(1, proto::AttemptPhase::Pending, false, container(None, false));
    first.hear(&waits, at("2026-11-23T12:00:00Z"));
    assert_eq!(first, FirstHeard::default());
    let runs = container(Some(State::Running(proto::Running::default())), true);
    for second in ["03.7", "09"] {
        let status = said(2, proto::AttemptPhase::Running, false, runs.clone());
        first.hear(&status, at(&format!("2026-11-23T12:00:{second}Z")));
    }
    let ended = container(Some(State::Terminated(proto::Terminated::default())), false);
    let ended = said(3, proto::AttemptPhase::Succeeded, true, ended);
    first.hear(&ended, at("2026-11-23T12:00:20Z"));

    let mut case = Case::new(pod());
    case.says(ended);
    case.first = first;
    let status = case.build(0, "2026-11-23T13:00:00Z");
    let since = |type_: &str| {
        let found = status.conditions.iter().flatten().find(|c| c.type_ == type_).unwrap();
        found.last_transition_time.clone().unwrap().0
    };
    assert_eq!(since(condition::STARTED), at("2026-11-23T12:00:03Z"));
    assert_eq!(since(condition::STOPPED), at("2026-11-23T12:00:20Z"));
    assert_eq!(since("Ready"), at("2026-11-23T13:00:00Z"));
}
