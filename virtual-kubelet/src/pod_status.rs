//! The status of a Pod as a kubelet writes it: a pure function of the Pod, of the machine's decision and of the car's words.
//!
//! Called by the actor before each write and by nobody else. It starts from the status that the API has, so that what other
//! writers put there stays; [`patch`] carries only what differs. An end that the API already has is never changed here.

mod containers;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, HostIP, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kerbside_core::names::{condition, reason};
use kerbside_core::vehicle::{PodPhase, PodReport, StoppedBy};
use kerbside_k8s::conditions::{Says, set_pod};
use kerbside_link::proto;
use serde_json::{Map, Value};

/// What a status needs beside the Pod and the car.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around<'a> {
    /// The adapter's address: what stands for the host of every vehicle.
    pub node_address: &'a str,
    /// Wall-clock time.
    pub now: Timestamp,
    /// When the car was last heard, by the wall clock.
    pub heard_at: Timestamp,
    /// When the attempt's beginning and end were heard.
    pub first: FirstHeard,
}

/// When this was heard of an attempt for the first time, by the wall clock. A write may come long after, and what a vehicle is paid for is
/// bounded by these. An adapter that has started since knows only what it heard itself; what the API has stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FirstHeard {
    /// A program of it runs or has run.
    pub started: Option<Timestamp>,
    /// Nothing of it is alive.
    pub stopped: Option<Timestamp>,
}

impl FirstHeard {
    /// Takes in what the car says now.
    pub(crate) fn hear(&mut self, car: &proto::AttemptStatus, now: Timestamp) {
        if has_started(car) {
            self.started.get_or_insert(now);
        }
        if car.stopped {
            self.stopped.get_or_insert(now);
        }
    }
}

/// The status that the Pod should have.
pub(crate) fn build(
    pod: &Pod,
    report: &PodReport,
    car: Option<&proto::AttemptStatus>,
    around: Around<'_>,
) -> PodStatus {
    let mut status = pod.status.clone().unwrap_or_default();
    let ended_before = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if !ended_before {
        status.phase = Some(report.phase.as_str().to_owned());
        status.reason.clone_from(&report.reason);
        status.message.clone_from(&report.message);
    }
    status.observed_generation = pod.metadata.generation;
    status.host_ip = Some(around.node_address.to_owned());
    status.host_ips = Some(vec![HostIP {
        ip: around.node_address.to_owned(),
    }]);
    if status.start_time.is_none() {
        status.start_time = Some(whole_seconds(around.now));
    }
    containers::fill(&mut status, pod, report, car, around);
    let ready = Readiness::of(pod, &status, report, car);
    let mut conditions = Conditions {
        list: status.conditions.take().unwrap_or_default(),
        generation: pod.metadata.generation,
        now: whole_seconds(around.now).0,
    };
    ready.write(&mut conditions);
    ours(&mut conditions, report, around.first.stopped);
    if car.is_some_and(has_started) {
        conditions.set_at(condition::STARTED, reason::REPORTED, "", around.first.started);
    }
    status.conditions = Some(conditions.list);
    status
}

/// Whether the car has said that a program of it runs or has run.
fn has_started(car: &proto::AttemptStatus) -> bool {
    use proto::container_status::State;
    car.containers.iter().any(|c| {
        c.restart_count > 0 || c.last.is_some() || matches!(c.state, Some(State::Running(_) | State::Terminated(_)))
    })
}

/// Our own conditions, and `DisruptionTarget`. What the report leaves open stays as it is.
fn ours(conditions: &mut Conditions, report: &PodReport, stopped_at: Option<Timestamp>) {
    match report.unheard {
        Some(true) => {
            conditions.set(
                condition::UNHEARD,
                true,
                reason::VEHICLE_UNHEARD,
                "the vehicle is not heard",
            );
        }
        Some(false) => conditions.set(condition::UNHEARD, false, "VehicleHeard", ""),
        None => {}
    }
    match report.stopped {
        Some(StoppedBy::Reported) => conditions.set_at(condition::STOPPED, reason::REPORTED, "", stopped_at),
        Some(StoppedBy::Fenced) => {
            conditions.set(
                condition::STOPPED,
                true,
                reason::FENCED,
                "the fence and a margin have passed",
            );
        }
        None => {}
    }
    if let Some(refusal) = &report.refused {
        conditions.set(condition::REFUSED, true, &refusal.reason, &refusal.message);
    }
    if let Some(why) = report.disruption {
        let message = match why {
            reason::VEHICLE_DEPARTED => "the vehicle leaves and ends its work",
            reason::VEHICLE_LOST => "the vehicle was lost with its work",
            _ => "the vehicle ended the work",
        };
        // Whoever announced the end before us is right about its cause.
        let foreign = conditions.list.iter().any(|c| {
            c.type_ == condition::DISRUPTION_TARGET
                && c.status == "True"
                && !matches!(
                    c.reason.as_deref(),
                    Some(reason::VEHICLE_DEPARTED | reason::VEHICLE_LOST)
                )
        });
        if !foreign {
            conditions.set(condition::DISRUPTION_TARGET, true, why, message);
        }
    }
}

struct Conditions {
    list: Vec<PodCondition>,
    generation: Option<i64>,
    now: Timestamp,
}

impl Conditions {
    fn set(&mut self, type_: &str, status: bool, reason: &str, message: &str) {
        let says = Says {
            type_,
            status: Some(status),
            reason,
            message,
        };
        set_pod(&mut self.list, &says, self.generation, self.now);
    }

    /// True, and since then, if that is known.
    fn set_at(&mut self, type_: &str, reason: &str, message: &str, since: Option<Timestamp>) {
        let now = self.now;
        self.now = since.map_or(now, |since| whole_seconds(since).0);
        self.set(type_, true, reason, message);
        self.now = now;
    }

    fn has(&self, type_: &str) -> bool {
        self.list.iter().any(|c| c.type_ == type_)
    }
}

/// The kubelet's own conditions.
struct Readiness {
    phase: PodPhase,
    sandbox: bool,
    /// Init containers that have not ended well.
    uninitialized: Vec<String>,
    /// Containers that are not ready.
    unready: Vec<String>,
    /// Readiness gates that are not met.
    gates: Vec<String>,
    forced: Option<&'static str>,
}

impl Readiness {
    fn of(pod: &Pod, status: &PodStatus, report: &PodReport, car: Option<&proto::AttemptStatus>) -> Self {
        let phase = match status.phase.as_deref() {
            Some("Succeeded") => PodPhase::Succeeded,
            Some("Failed") => PodPhase::Failed,
            Some("Running") => PodPhase::Running,
            _ => PodPhase::Pending,
        };
        let begun = |c: &ContainerStatus| {
            c.state
                .as_ref()
                .is_some_and(|s| s.running.is_some() || s.terminated.is_some())
                || c.restart_count > 0
        };
        let initialized = status.container_statuses.iter().flatten().any(begun);
        let init = status.init_container_statuses.iter().flatten();
        // What has begun after them has waited for them, whatever becomes of a sidecar later.
        let uninitialized = init.filter(|c| {
            let done = c
                .state
                .as_ref()
                .and_then(|s| s.terminated.as_ref())
                .is_some_and(|t| t.exit_code == 0);
            !initialized && !done && c.started != Some(true)
        });
        let sidecars: BTreeSet<&str> = pod
            .spec
            .iter()
            .flat_map(|s| s.init_containers.iter().flatten())
            .filter(|c| c.restart_policy.as_deref() == Some("Always"))
            .map(|c| c.name.as_str())
            .collect();
        let stay = status.init_container_statuses.iter().flatten();
        let stay = stay.filter(|c| sidecars.contains(c.name.as_str()));
        let unready = stay
            .chain(status.container_statuses.iter().flatten())
            .filter(|c| !c.ready);
        let gates = pod
            .spec
            .iter()
            .flat_map(|s| s.readiness_gates.iter().flatten())
            .map(|g| g.condition_type.clone());
        let met = |gate: &String| {
            status
                .conditions
                .iter()
                .flatten()
                .any(|c| c.type_ == *gate && c.status == "True")
        };
        Self {
            phase,
            sandbox: phase == PodPhase::Running
                || phase == PodPhase::Pending && car.is_some() && report.refused.is_none(),
            uninitialized: uninitialized.map(|c| c.name.clone()).collect(),
            unready: unready.map(|c| c.name.clone()).collect(),
            gates: gates.filter(|g| !met(g)).collect(),
            forced: report.unready,
        }
    }

    fn write(&self, conditions: &mut Conditions) {
        conditions.set("PodReadyToStartContainers", self.sandbox, "", "");
        let completed = self.phase == PodPhase::Succeeded;
        if self.uninitialized.is_empty() || completed {
            conditions.set("Initialized", true, if completed { "PodCompleted" } else { "" }, "");
        } else {
            let message = format!("containers with incomplete status: [{}]", self.uninitialized.join(" "));
            conditions.set("Initialized", false, "ContainersNotInitialized", &message);
        }
        let unready = format!("containers with unready status: [{}]", self.unready.join(" "));
        let (ready, why, message) = match self.phase {
            PodPhase::Succeeded => (false, "PodCompleted", ""),
            PodPhase::Failed => (false, "PodFailed", ""),
            PodPhase::Pending | PodPhase::Running if !self.unready.is_empty() => {
                (false, "ContainersNotReady", unready.as_str())
            }
            PodPhase::Pending => (false, "ContainersNotReady", ""),
            PodPhase::Running => (true, "", ""),
        };
        conditions.set("ContainersReady", ready, why, message);
        let gates = format!(
            "corresponding condition of pod readiness gate is not True: [{}]",
            self.gates.join(" ")
        );
        match self.forced {
            Some(forced) => conditions.set("Ready", false, forced, "the vehicle does not work at the moment"),
            None if ready && !self.gates.is_empty() => conditions.set("Ready", false, "ReadinessGatesNotReady", &gates),
            None => conditions.set("Ready", ready, why, message),
        }
        if !conditions.has("PodScheduled") {
            conditions.set("PodScheduled", true, "", "");
        }
    }
}

/// What must be sent so that `old` becomes `new`; None: nothing differs. A strategic merge patch: of the conditions only those
/// that differ, as lists of conditions merge by type; a field that `new` lacks becomes null.
pub(crate) fn patch(old: Option<&PodStatus>, new: &PodStatus) -> Option<Value> {
    let old = old.map(to_map).unwrap_or_default();
    let mut patch = Map::new();
    let new = to_map(new);
    for (key, value) in &new {
        let before = old.get(key);
        if before == Some(value) {
            continue;
        }
        let value = if key == "conditions" {
            changed(before, value)
        } else {
            value.clone()
        };
        patch.insert(key.clone(), value);
    }
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

fn to_map(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn changed(before: Option<&Value>, after: &Value) -> Value {
    let before = before.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let after = after.as_array().map(Vec::as_slice).unwrap_or_default();
    Value::Array(after.iter().filter(|c| !before.contains(c)).map(cleared).collect())
}

/// A condition that once had a message and has none now must say so: a merge keeps what is not named.
pub(crate) fn cleared(condition: &Value) -> Value {
    let mut condition = condition.clone();
    if let Some(fields) = condition.as_object_mut() {
        for field in ["reason", "message"] {
            fields.entry(field).or_insert(Value::Null);
        }
    }
    condition
}

/// Times in Kubernetes have whole seconds; with more, what was written would differ from what is read.
pub(crate) fn whole_seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
