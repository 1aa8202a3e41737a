//! What the demo knows: folded from the objects that the cluster shows, and nothing else.
//!
//! Called by the demo's loop; the script and the screen read it. Pure: no clock, no cluster. An object seen twice changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Node, Pod};
use kerbside_api::v1alpha1::{FleetJob, Vehicle, VehiclePhase};
use kerbside_core::names::taint;
use kube::ResourceExt;
use serde::Serialize;

use super::cast::Role;
use crate::world::jobs::has;
use crate::world::{ending, index, phase};

/// Something that a watch saw.
#[derive(Debug, Clone)]
pub enum Seen {
    /// The job, new or changed.
    Job(Box<FleetJob>),
    /// A Pod of the job, new or changed; also as it was when it was deleted.
    Pod(Box<Pod>),
    /// A Pod of the job is gone.
    PodGone(String),
    /// A Vehicle of the pool.
    Vehicle(Box<Vehicle>),
    /// A Node of the pool.
    Node(Box<Node>),
    /// A Node is gone.
    NodeGone(String),
}

/// How a car stands, for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No work: driving, asleep, unwilling or out of reach. The cluster cannot tell which.
    Away,
    /// Takes work.
    Available,
    /// Work stands still.
    Paused,
    /// Not heard.
    Suspect,
    /// On its way out.
    Leaving,
}

impl Standing {
    /// One word.
    pub fn text(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Available => "available",
            Self::Paused => "paused",
            Self::Suspect => "suspect",
            Self::Leaving => "leaving",
        }
    }
}

/// One car as the cluster shows it.
#[derive(Debug, Clone)]
pub struct CarLine {
    /// What people call it.
    pub name: &'static str,
    /// Its part.
    pub role: Role,
    phase: VehiclePhase,
    taints: BTreeSet<String>,
    pauses: u32,
}

/// One attempt, in its last state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    uid: String,
    index: Option<u32>,
    node: Option<String>,
    phase: String,
    reason: Option<String>,
    started: bool,
    ending: bool,
    gone: bool,
}

/// Everything that was seen.
#[derive(Debug, Clone)]
pub struct Board {
    cars: BTreeMap<String, CarLine>,
    attempts: BTreeMap<String, Attempt>,
    job: Option<FleetJob>,
}

impl Board {
    /// A board for these cars, by what they are to the cluster.
    pub fn new(cars: Vec<(String, (&'static str, Role))>) -> Self {
        let line = |(name, role)| CarLine {
            name,
            role,
            phase: VehiclePhase::Away,
            taints: BTreeSet::new(),
            pauses: 0,
        };
        Self {
            cars: cars.into_iter().map(|(id, car)| (id, line(car))).collect(),
            attempts: BTreeMap::new(),
            job: None,
        }
    }

    /// Takes in what was seen; gives the news in it, in words.
    pub fn see(&mut self, seen: Seen) -> Vec<String> {
        match seen {
            Seen::Job(job) => self.see_job(*job),
            Seen::Pod(pod) => self.see_pod(&pod),
            Seen::PodGone(uid) => {
                if let Some(attempt) = self.attempts.get_mut(&uid) {
                    attempt.gone = true;
                }
                Vec::new()
            }
            Seen::Vehicle(vehicle) => {
                let phase = vehicle.status.as_ref().map_or(VehiclePhase::Away, |s| s.phase);
                self.see_car(&vehicle.name_any(), |car| car.phase = phase)
            }
            Seen::Node(node) => {
                let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
                let taints: BTreeSet<String> = taints.iter().map(|t| t.key.clone()).collect();
                self.see_car(&node.name_any(), |car| {
                    if taints.contains(taint::PAUSED) && !car.taints.contains(taint::PAUSED) {
                        car.pauses += 1;
                    }
                    car.taints = taints;
                })
            }
            Seen::NodeGone(name) => self.see_car(&name, |car| car.taints.clear()),
        }
    }

    fn see_car(&mut self, id: &str, change: impl FnOnce(&mut CarLine)) -> Vec<String> {
        let running = self.running(id);
        let Some(car) = self.cars.get_mut(id) else {
            return Vec::new();
        };
        let before = car.standing();
        change(car);
        let after = car.standing();
        if before == after {
            return Vec::new();
        }
        let stands_still = matches!(after, Standing::Paused | Standing::Leaving | Standing::Suspect);
        let work = match running {
            0 => String::new(),
            1 if stands_still => " with 1 attempt".to_owned(),
            many if stands_still => format!(" with {many} attempts"),
            _ => String::new(),
        };
        vec![format!("{} is {}{work}", car.name, after.text())]
    }

    fn see_pod(&mut self, pod: &Pod) -> Vec<String> {
        let Some(uid) = pod.uid() else { return Vec::new() };
        let status = pod.status.as_ref();
        let containers = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
        let ran = containers
            .iter()
            .filter_map(|c| c.state.as_ref())
            .any(|s| s.running.is_some() || s.terminated.is_some());
        let before = self.attempts.get(&uid);
        let attempt = Attempt {
            index: index(pod),
            node: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
            phase: phase(pod).to_owned(),
            reason: status.and_then(|s| s.reason.clone()),
            // Once started stays started, whatever a later status leaves out.
            started: ran || before.is_some_and(|b| b.started),
            ending: ending(pod),
            gone: before.is_some_and(|b| b.gone),
            uid: uid.clone(),
        };
        let failed = attempt.phase == "Failed" && before.is_none_or(|b| b.phase != "Failed");
        let mut news = Vec::new();
        if failed {
            let name = attempt
                .node
                .as_deref()
                .and_then(|n| self.cars.get(n))
                .map_or("no car", |c| c.name);
            let index = attempt.index.map_or_else(|| "?".to_owned(), |i| i.to_string());
            let reason = attempt.reason.as_deref().unwrap_or("no reason");
            news.push(format!("index {index} did not finish on {name}: {reason}"));
        }
        self.attempts.insert(uid, attempt);
        news
    }

    fn see_job(&mut self, job: FleetJob) -> Vec<String> {
        let before = self.completed();
        self.job = Some(job);
        let after = self.completed();
        let total = self.completions();
        // Every tenth part is news; the rest is what the progress bar is for.
        if total > 0 && before * 10 / total != after * 10 / total {
            return vec![format!("{after} of {total} indexes are complete")];
        }
        Vec::new()
    }

    /// Attempts that run on the car now.
    fn running(&self, id: &str) -> usize {
        let here = |a: &&Attempt| a.node.as_deref() == Some(id) && a.phase == "Running" && !a.ending && !a.gone;
        self.attempts.values().filter(here).count()
    }

    /// Attempts that run on cars with this role now.
    pub fn running_on(&self, role: Role) -> usize {
        self.cars
            .iter()
            .filter(|(_, c)| c.role == role)
            .map(|(id, _)| self.running(id))
            .sum()
    }

    /// Whether a car with this role is paused.
    pub fn paused(&self, role: Role) -> bool {
        self.cars
            .values()
            .any(|c| c.role == role && c.standing() == Standing::Paused)
    }

    /// How often the owner with this role paused.
    pub fn pauses(&self, role: Role) -> u32 {
        self.cars.values().filter(|c| c.role == role).map(|c| c.pauses).sum()
    }

    /// Cars that take work.
    pub fn available(&self) -> usize {
        self.cars
            .values()
            .filter(|c| c.standing() == Standing::Available)
            .count()
    }

    /// Attempts that a car with this role began to run.
    pub fn started_on(&self, role: Role) -> usize {
        let of = |id: &str| self.cars.get(id).is_some_and(|c| c.role == role);
        self.attempts
            .values()
            .filter(|a| a.started && a.node.as_deref().is_some_and(of))
            .count()
    }

    /// The cars: name, standing, attempts running, attempts succeeded.
    pub fn lines(&self) -> Vec<(&'static str, Standing, usize, usize)> {
        let done = |id: &str| {
            let here = |a: &&Attempt| a.node.as_deref() == Some(id) && a.phase == "Succeeded";
            self.attempts.values().filter(here).count()
        };
        let mut lines: Vec<_> = self
            .cars
            .iter()
            .map(|(id, c)| (c.name, c.standing(), self.running(id), done(id)))
            .collect();
        lines.sort_by_key(|l| l.0);
        lines
    }

    /// Indexes that the job counts as complete.
    pub fn completed(&self) -> u32 {
        self.job
            .as_ref()
            .and_then(|j| j.status.as_ref())
            .map_or(0, |s| s.succeeded)
    }

    /// Indexes that the job has.
    pub fn completions(&self) -> u32 {
        self.job.as_ref().map_or(0, |j| j.spec.completions)
    }

    /// Whether the job is complete or has failed.
    pub fn over(&self) -> bool {
        self.status().is_some_and(|s| has(s, "Complete") || has(s, "Failed"))
    }

    /// Why the job failed, if it did.
    pub fn failed(&self) -> Option<String> {
        let failed = self
            .status()?
            .conditions
            .iter()
            .find(|c| c.type_ == "Failed" && c.status == "True")?;
        Some(format!("{}: {}", failed.reason, failed.message))
    }

    fn status(&self) -> Option<&kerbside_api::v1alpha1::FleetJobStatus> {
        self.job.as_ref()?.status.as_ref()
    }

    /// Every attempt there was.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts.values().cloned().collect()
    }

    /// Disruptions, refusals and failures as the job's own ledger has them.
    pub fn ledger(&self) -> (u32, u32, u32) {
        self.status()
            .map_or((0, 0, 0), |s| (s.disruptions.values().sum(), s.refused, s.failed))
    }

    /// One sentence about the job.
    pub fn summary(&self) -> String {
        let (disruptions, refusals, failures) = self.ledger();
        format!(
            "{} of {} indexes complete in {} attempts; survived {disruptions} disruptions, {refusals} refusals; {failures} failures.",
            self.completed(),
            self.completions(),
            self.attempts.len(),
        )
    }
}

impl CarLine {
    /// How it stands.
    pub fn standing(&self) -> Standing {
        let has = |key: &str| self.taints.contains(key);
        match self.phase {
            VehiclePhase::Leaving => Standing::Leaving,
            _ if has(taint::LEAVING) => Standing::Leaving,
            VehiclePhase::Away => Standing::Away,
            _ if has(taint::SUSPECT) => Standing::Suspect,
            _ if has(taint::PAUSED) => Standing::Paused,
            VehiclePhase::Available => Standing::Available,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::demo::cast::CAST;
    use serde_json::{Value, json};

    fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    /// A board with the demo's cars, these of which are available. Ids are names.
    pub(crate) fn board(available: &[&str]) -> Board {
        let mut board = Board::new(CAST.iter().map(|c| (c.0.to_owned(), *c)).collect());
        for name in available {
            board.see(Seen::Vehicle(Box::new(parse(json!({
                "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": {"name": name},
                "spec": {"pool": "demo"}, "status": {"phase": "Available"},
            })))));
        }
        board
    }

    pub(crate) fn complete(board: &mut Board, count: u32) -> Vec<String> {
        let manifest = std::fs::read_to_string(crate::tools::checkout().unwrap().join("examples/digits/fleetjob.yaml"));
        let mut job = crate::install::documents(&manifest.unwrap()).unwrap().remove(0);
        job["status"] = json!({"succeeded": count, "disruptions": {"VehicleDeparted": 2}});
        board.see(Seen::Job(Box::new(parse(job))))
    }

    fn pod(uid: &str, node: &str, phase: &str) -> Seen {
        let state = if phase == "Running" {
            json!({"running": {}})
        } else {
            json!({"waiting": {}})
        };
        Seen::Pod(Box::new(parse(json!({
            "metadata": {"name": uid, "uid": uid, "labels": {"batch.kubernetes.io/job-completion-index": "3"}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase, "reason": "VehicleDeparted", "containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state}]},
        }))))
    }

    pub(crate) fn run_on(board: &mut Board, node: &str) {
        board.see(pod("uid-1", node, "Running"));
    }

    pub(crate) fn pause(board: &mut Board, node: &str) -> Vec<String> {
        board.see(Seen::Node(Box::new(parse(json!({
            "metadata": {"name": node}, "spec": {"taints": [{"key": taint::PAUSED, "effect": "NoSchedule"}]},
        })))))
    }

    #[test]
    fn pause_is_counted_once_however_often_the_node_is_seen() {
        let mut board = board(&["cem"]);
        assert_eq!(pause(&mut board, "cem"), ["cem is paused"]);
        assert!(pause(&mut board, "cem").is_empty());
        assert_eq!((board.pauses(Role::Pauses), board.available()), (1, 0));
    }

    #[test]
    fn attempt_that_fails_is_told_once_with_car_and_reason() {
        let mut board = board(&["bo"]);
        run_on(&mut board, "bo");
        assert_eq!(board.running_on(Role::DrivesOff), 1);
        assert_eq!(
            board.see(pod("uid-1", "bo", "Failed")),
            ["index 3 did not finish on bo: VehicleDeparted"]
        );
        assert!(board.see(pod("uid-1", "bo", "Failed")).is_empty());
        assert_eq!((board.running_on(Role::DrivesOff), board.attempts().len()), (0, 1));
    }

    #[test]
    fn attempt_that_ran_without_consent_is_never_forgotten() {
        let mut board = board(&[]);
        run_on(&mut board, "gus");
        board.see(pod("uid-1", "gus", "Failed"));
        board.see(Seen::PodGone("uid-1".into()));
        assert_eq!(board.started_on(Role::NoConsent), 1);
    }

    #[test]
    fn job_tells_every_tenth_part() {
        let mut board = board(&[]);
        assert!(complete(&mut board, 5).is_empty());
        assert_eq!(complete(&mut board, 6), ["6 of 60 indexes are complete"]);
        assert!(complete(&mut board, 7).is_empty());
        assert_eq!(board.ledger(), (2, 0, 0));
    }
}
