//! The one API of the world and the store beside it: what every client sees late, and writes with preconditions.
//!
//! Here stand the invariants of what is written: an end stays, a word on death stays, an accepted result stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::time::{Ms, NEVER, wall};
use super::{Twist, vehicle_id};
use crate::ids::{PodUid, VehicleId};
use crate::job::{self, Acceptance, DeleteReason, Ledger, NewAttempt, Phase, Stopped};
use crate::names::reason;
use crate::vehicle::{self, NodeState, PodFacts, PodKind, PodPhase, Refusal};

/// The grace of every Pod.
const GRACE: Duration = Duration::from_secs(3);
/// More Pods than these no Node takes.
pub(super) const MOST_PODS: usize = 2;

/// A Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) version: u64,
    pub(super) attempt: job::Attempt,
    /// With a deletionTimestamp: the grace.
    pub(super) deletion: Option<Duration>,
}

impl Pod {
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self.attempt.phase, Phase::Succeeded | Phase::Failed)
    }

    /// What an adapter reads from it.
    pub(super) fn facts(&self, fence: Duration) -> PodFacts {
        let attempt = &self.attempt;
        PodFacts {
            uid: attempt.uid.clone(),
            kind: PodKind::FleetJob,
            fence: Some(fence),
            grace: GRACE,
            deletion: self.deletion,
            phase: match attempt.phase {
                Phase::Pending => PodPhase::Pending,
                Phase::Running => PodPhase::Running,
                Phase::Succeeded => PodPhase::Succeeded,
                Phase::Failed => PodPhase::Failed,
            },
            disrupted: attempt.disruption.is_some(),
            stopped: attempt.stopped.is_some(),
            unheard: attempt.unheard,
            refused: attempt.refused.as_ref().map(|reason| Refusal {
                reason: reason.clone(),
                message: String::new(),
            }),
            has_output: true,
        }
    }
}

/// The completion index of an attempt, which its UID begins with here.
pub(super) fn index_of(uid: &PodUid) -> u32 {
    uid.as_str().split('-').nth(1).unwrap().parse().unwrap()
}

/// A Vehicle's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vehicle {
    pub(super) version: u64,
    pub(super) holder: Option<usize>,
    pub(super) epoch: u64,
    pub(super) phase: vehicle::Phase,
}

/// What a watch shows.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "there are few at a time, and most are the large one"
)]
pub(super) enum Change {
    Pod(PodUid, Option<Pod>),
    Vehicle(usize, Vehicle),
    Node(usize, Option<NodeState>),
}

/// A change of a Pod's status; what is None stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Patch {
    /// It holds only for this version.
    pub(super) version: Option<u64>,
    pub(super) phase: Option<Phase>,
    pub(super) ready: Option<bool>,
    pub(super) unheard: Option<bool>,
    pub(super) stopped: Option<Stopped>,
    pub(super) refused: Option<String>,
    pub(super) disruption: Option<String>,
}

/// What an adapter knows of the Lease of a Node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Hold {
    #[default]
    Unknown,
    Ours,
    Lost,
}

/// A request of an adapter.
#[derive(Debug, Clone)]
pub(super) enum Call {
    /// Names the replica in the Vehicle, with the next epoch. Without a version it is read anew first.
    Raise(usize, usize, Option<u64>),
    Phase(usize, vehicle::Phase),
    Node(usize, Option<NodeState>),
    Lease(usize, usize, Hold),
    /// By a replica whose wall clock is so many seconds off.
    Status(PodUid, Patch, i64),
    Delete(PodUid, Duration),
    Renew(usize),
    Renewals,
}

/// What becomes of it.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "there are few at a time, and most are the large one"
)]
pub(super) enum Answer {
    Done,
    Stale,
    Epoch(u64, Vehicle),
    Vehicle(Vehicle),
    Pod(Option<Pod>),
    Renewals(BTreeMap<usize, u64>),
}

/// The cluster.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) pods: BTreeMap<PodUid, Pod>,
    pub(super) vehicles: Vec<Vehicle>,
    pub(super) nodes: Vec<Option<NodeState>>,
    pub(super) leases: Vec<Option<usize>>,
    pub(super) renewals: BTreeMap<usize, u64>,
    pub(super) log: Vec<(Ms, Change)>,
    pub(super) ledger: Ledger,
    pub(super) ledger_version: u64,
    /// Attempts whose output is in the store.
    pub(super) outputs: BTreeSet<PodUid>,
    /// Index → the attempt whose result was accepted.
    pub(super) results: BTreeMap<u32, PodUid>,
    pub(super) store_down: bool,
    pub(super) twist: Option<Twist>,
    /// The first invariant that did not hold.
    pub(super) broken: Option<String>,
    version: u64,
    made: u64,
    requests: Vec<(Ms, u64, Call)>,
    answers: BTreeMap<u64, Answer>,
    numbers: u64,
    unscheduled: bool,
}

impl Api {
    pub(super) fn new(cars: usize, twist: Option<Twist>) -> Self {
        let vehicle = Vehicle {
            version: 0,
            holder: None,
            epoch: 0,
            phase: vehicle::Phase::Away,
        };
        Self {
            pods: BTreeMap::new(),
            vehicles: vec![vehicle; cars],
            nodes: vec![None; cars],
            leases: vec![None; cars],
            renewals: BTreeMap::new(),
            log: Vec::new(),
            ledger: Ledger::default(),
            ledger_version: 0,
            outputs: BTreeSet::new(),
            results: BTreeMap::new(),
            store_down: false,
            twist,
            broken: None,
            version: 0,
            made: 0,
            requests: Vec::new(),
            answers: BTreeMap::new(),
            numbers: 0,
            unscheduled: false,
        }
    }

    pub(super) fn breaks(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    /// Sends a request that arrives then, whatever becomes of its sender.
    pub(super) fn request(&mut self, arrives: Ms, call: Call) -> u64 {
        self.numbers += 1;
        self.requests.push((arrives, self.numbers, call));
        self.numbers
    }

    pub(super) fn answer(&mut self, number: u64) -> Option<Answer> {
        self.answers.remove(&number)
    }

    pub(super) fn next(&self) -> Ms {
        self.requests.iter().map(|(at, ..)| *at).min().unwrap_or(NEVER)
    }

    /// Carries out what has arrived, and places what can be placed.
    pub(super) fn step(&mut self, now: Ms) {
        while let Some(n) = self.requests.iter().position(|(at, ..)| *at <= now) {
            let (_, number, call) = self.requests.remove(n);
            let answer = self.carry_out(now, call);
            self.answers.insert(number, answer);
        }
        if std::mem::take(&mut self.unscheduled) {
            self.schedule(now);
        }
    }

    fn carry_out(&mut self, now: Ms, call: Call) -> Answer {
        match call {
            Call::Raise(car, replica, version) => self.raise(now, car, replica, version),
            Call::Phase(car, phase) => {
                let vehicle = self.change_vehicle(now, car, |vehicle| vehicle.phase = phase);
                Answer::Vehicle(vehicle)
            }
            Call::Node(car, node) => {
                self.log.push((now, Change::Node(car, node.clone())));
                self.nodes[car] = node;
                self.unscheduled = true;
                Answer::Done
            }
            Call::Lease(car, replica, hold) => {
                let may = match hold {
                    Hold::Ours => self.leases[car] == Some(replica),
                    Hold::Unknown => true,
                    Hold::Lost => self.vehicles[car].holder == Some(replica),
                };
                if may {
                    self.leases[car] = Some(replica);
                    Answer::Done
                } else {
                    Answer::Stale
                }
            }
            Call::Status(uid, patch, off) => self.patch(now, &uid, patch, off),
            Call::Delete(uid, grace) => {
                self.delete(now, &uid, grace);
                Answer::Done
            }
            Call::Renew(replica) => {
                *self.renewals.entry(replica).or_default() += 1;
                Answer::Done
            }
            Call::Renewals => Answer::Renewals(self.renewals.clone()),
        }
    }

    fn raise(&mut self, now: Ms, car: usize, replica: usize, version: Option<u64>) -> Answer {
        if version.is_some_and(|version| version != self.vehicles[car].version) {
            return Answer::Stale;
        }
        let vehicle = self.change_vehicle(now, car, |vehicle| {
            vehicle.holder = Some(replica);
            vehicle.epoch += 1;
        });
        Answer::Epoch(vehicle.epoch, vehicle)
    }

    fn change_vehicle(&mut self, now: Ms, car: usize, change: impl FnOnce(&mut Vehicle)) -> Vehicle {
        self.version += 1;
        let vehicle = &mut self.vehicles[car];
        change(vehicle);
        vehicle.version = self.version;
        let vehicle = vehicle.clone();
        self.log.push((now, Change::Vehicle(car, vehicle.clone())));
        vehicle
    }

    fn patch(&mut self, now: Ms, uid: &PodUid, patch: Patch, off: i64) -> Answer {
        let Some(there) = self.pods.get(uid) else {
            return Answer::Stale;
        };
        let unconditional = self.twist == Some(Twist::EndsWithoutPrecondition);
        if patch.version.is_some_and(|version| version != there.version) && !unconditional {
            return Answer::Stale;
        }
        Answer::Pod(self.change(now, uid, |pod| {
            let attempt = &mut pod.attempt;
            attempt.phase = patch.phase.unwrap_or(attempt.phase);
            attempt.ready = patch.ready.unwrap_or(attempt.ready);
            attempt.unheard = patch.unheard.unwrap_or(attempt.unheard);
            if patch.stopped.is_some() && attempt.stopped.is_none() {
                attempt.finished_at = Some(wall(now, off));
            }
            attempt.stopped = patch.stopped.or(attempt.stopped);
            if patch.refused.is_some() {
                attempt.refused = patch.refused;
            }
            if patch.disruption.is_some() {
                attempt.disruption = patch.disruption;
            }
        }))
    }

    /// Changes a Pod; None if it is gone with that.
    pub(super) fn change(&mut self, now: Ms, uid: &PodUid, change: impl FnOnce(&mut Pod)) -> Option<Pod> {
        let pod = self.pods.get_mut(uid)?;
        let before = pod.clone();
        change(pod);
        if *pod == before {
            return Some(before);
        }
        self.version += 1;
        pod.version = self.version;
        let pod = pod.clone();
        if before.is_terminal() && pod.attempt.phase != before.attempt.phase {
            let (old, new) = (before.attempt.phase, pod.attempt.phase);
            self.breaks(format!("{uid} had ended {old:?} and is {new:?}"));
        }
        if before.attempt.stopped.is_some() && pod.attempt.stopped != before.attempt.stopped {
            self.breaks(format!("{uid} had stopped, and that was changed"));
        }
        let gone = pod.deletion == Some(Duration::ZERO) && !pod.attempt.has_finalizer;
        let shown = (!gone).then(|| pod.clone());
        self.log.push((now, Change::Pod(uid.clone(), shown.clone())));
        if gone {
            self.pods.remove(uid);
        }
        self.unscheduled = true;
        shown
    }

    /// As the API server deletes a Pod.
    pub(super) fn delete(&mut self, now: Ms, uid: &PodUid, grace: Duration) {
        self.change(now, uid, |pod| {
            let at_once = pod.attempt.node.is_none() || pod.is_terminal();
            let grace = if at_once { Duration::ZERO } else { grace };
            pod.deletion = Some(pod.deletion.map_or(grace, |before| before.min(grace)));
            pod.attempt.deleted_at.get_or_insert_with(|| wall(now, 0));
        });
    }

    /// The deletion of a person or of the operator, with the Pod's own grace.
    pub(super) fn delete_with_grace(&mut self, now: Ms, uid: &PodUid) {
        self.delete(now, uid, GRACE);
    }

    /// The garbage collector ends a Pod that it takes for lost.
    pub(super) fn collect(&mut self, now: Ms, uid: &PodUid) {
        self.change(now, uid, |pod| {
            if !pod.is_terminal() {
                pod.attempt.phase = Phase::Failed;
                pod.attempt.disruption = Some("DeletionByPodGC".to_owned());
            }
        });
        self.delete(now, uid, Duration::ZERO);
    }

    /// A new Pod, unless there is one of its name.
    pub(super) fn create(&mut self, now: Ms, new: NewAttempt) -> Pod {
        let name = format!("job-{}-{}", new.index, new.suffix);
        if let Some(there) = self.pods.values().find(|pod| pod.attempt.name == name) {
            return there.clone();
        }
        if self.ledger.is_finished() || self.ledger.completed.contains(new.index) {
            self.breaks(format!("an attempt of index {} is made, which is over", new.index));
        }
        self.made += 1;
        self.version += 1;
        let uid: PodUid = format!("pod-{}-{}", new.index, self.made).parse().unwrap();
        let attempt = job::Attempt {
            uid: uid.clone(),
            name,
            index: new.index,
            ordinal: new.ordinal,
            phase: Phase::Pending,
            ready: false,
            node: None,
            created_at: wall(now, 0),
            deleted_at: None,
            finished_at: None,
            has_finalizer: true,
            prior: new.prior,
            counted: new.counted,
            avoid: new.avoid,
            refused: None,
            disruption: None,
            unheard: false,
            stopped: None,
            deleted_for: None,
        };
        let pod = Pod {
            version: self.version,
            attempt,
            deletion: None,
        };
        self.log.push((now, Change::Pod(uid.clone(), Some(pod.clone()))));
        self.pods.insert(uid, pod.clone());
        self.unscheduled = true;
        pod
    }

    /// Marks why a Pod is going to be deleted; false if it is not what was seen.
    pub(super) fn mark(&mut self, now: Ms, seen: &Pod, why: DeleteReason) -> bool {
        let uid = &seen.attempt.uid;
        let same = self.pods.get(uid).is_some_and(|pod| pod.version == seen.version);
        if same {
            self.change(now, uid, |pod| pod.attempt.deleted_for = Some(why));
        }
        same
    }

    /// Accepts a result unless another was first.
    pub(super) fn accept(&mut self, uid: &PodUid) -> Acceptance {
        if self.store_down {
            return Acceptance::Pending;
        }
        if !self.outputs.contains(uid) {
            let message = "its output is not in the store".to_owned();
            return Acceptance::Invalid { message };
        }
        let index = index_of(uid);
        let first = self.results.get(&index).cloned();
        match first {
            Some(first) if first == *uid => Acceptance::Accepted,
            Some(first) if self.twist != Some(Twist::AcceptsWithoutCheck) => Acceptance::Superseded { by: first },
            first => {
                if let Some(first) = first {
                    self.breaks(format!("the result of {first} was accepted, and {uid} took its place"));
                }
                if self
                    .pods
                    .get(uid)
                    .is_some_and(|pod| pod.attempt.stopped == Some(Stopped::Fenced))
                {
                    self.breaks(format!("the result of {uid} is accepted after its fence"));
                }
                self.results.insert(index, uid.clone());
                Acceptance::Accepted
            }
        }
    }

    /// Writes the ledger on top of the version that was read.
    pub(super) fn write_ledger(&mut self, on: u64, new: &Ledger) -> bool {
        if on != self.ledger_version {
            return false;
        }
        let old = &self.ledger;
        let grows = old.completed.union(&new.completed) == new.completed
            && old.failed_indexes.union(&new.failed_indexes) == new.failed_indexes;
        let has_results = new.completed.iter().all(|index| self.results.contains_key(&index));
        if !grows || old.is_finished() && old != new {
            self.breaks("an index or a job that was over is not any more".to_owned());
        }
        if !has_results {
            self.breaks("an index is completed and has no result".to_owned());
        }
        self.ledger = new.clone();
        self.ledger_version += 1;
        true
    }

    /// kube-scheduler: lowest Pod first, the emptiest car first.
    fn schedule(&mut self, now: Ms) {
        let waiting = self
            .pods
            .values()
            .filter(|pod| pod.attempt.node.is_none() && pod.deletion.is_none());
        let waiting: Vec<_> = waiting.map(|pod| pod.attempt.uid.clone()).collect();
        for uid in waiting {
            let avoid = self.pods[&uid].attempt.avoid.clone();
            let willing = (0..self.nodes.len()).filter(|car| {
                let node = self.nodes[*car].as_ref();
                node.is_some_and(|node| node.ready && node.taints.is_empty()) && !avoid.contains(&vehicle_id(*car))
            });
            let car = willing.min_by_key(|car| self.placed(&vehicle_id(*car)));
            if let Some(car) = car.filter(|car| self.placed(&vehicle_id(*car)) < MOST_PODS) {
                self.bind(now, &uid, car);
            }
        }
    }

    fn placed(&self, node: &VehicleId) -> usize {
        let there = |pod: &&Pod| pod.attempt.node.as_ref() == Some(node) && !pod.is_terminal();
        self.pods.values().filter(there).count()
    }

    /// Somebody binds a Pod, whatever the Node says.
    pub(super) fn bind(&mut self, now: Ms, uid: &PodUid, car: usize) {
        self.change(now, uid, |pod| {
            if pod.attempt.node.is_none() && pod.deletion.is_none() {
                pod.attempt.node = Some(vehicle_id(car));
            }
        });
    }

    /// Who an adapter blames, and whether anybody did before.
    pub(super) fn is_ours(disruption: &str) -> bool {
        matches!(disruption, reason::VEHICLE_DEPARTED | reason::VEHICLE_LOST)
    }
}
