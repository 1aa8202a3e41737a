//! The cluster, the cars and the people: what happens to Pods.

use super::super::*;
use super::operator::Operator;

#[derive(Debug)]
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) spec: JobSpec,
    pub(super) pods: BTreeMap<PodUid, Attempt>,
    pub(super) changes: Vec<(PodUid, Option<Attempt>)>,
    pub(super) ledger: Ledger,
    pub(super) version: u64,
    /// Index → the attempt whose result was accepted.
    pub(super) store: BTreeMap<u32, PodUid>,
    pub(super) store_down: bool,
    pub(super) invalid: BTreeSet<PodUid>,
    pub(super) cars: usize,
    refusers: BTreeSet<VehicleId>,
    pub(super) made: u32,
    pub(super) operator: Operator,
    pub(super) expects: bool,
    pub(super) knows_eligible: bool,

    /// Attempts that may have a living process, by what the cars know.
    pub(super) alive: BTreeMap<PodUid, u32>,
    pub(super) was_unheard: BTreeSet<PodUid>,
    /// Every attempt that a written ledger has ever counted, and as what.
    pub(super) counted: BTreeMap<PodUid, (u32, &'static str)>,
    /// Attempts whose end must be counted if the job completes, and as what.
    pub(super) owed: BTreeMap<PodUid, &'static str>,
}

pub(super) fn vehicle(n: usize) -> VehicleId {
    VehicleId::from_random([u8::try_from(n).unwrap(); 10])
}

impl World {
    pub(super) fn new(
        spec: JobSpec,
        cars: usize,
        refusers: BTreeSet<VehicleId>,
        expects: bool,
        knows_eligible: bool,
    ) -> Self {
        let mut world = Self {
            now: "2026-03-01T12:00:00Z".parse().unwrap(),
            spec,
            pods: BTreeMap::new(),
            changes: Vec::new(),
            ledger: Ledger::default(),
            version: 0,
            store: BTreeMap::new(),
            store_down: false,
            invalid: BTreeSet::new(),
            cars,
            refusers,
            made: 0,
            operator: Operator::default(),
            expects,
            knows_eligible,
            alive: BTreeMap::new(),
            was_unheard: BTreeSet::new(),
            counted: BTreeMap::new(),
            owed: BTreeMap::new(),
        };
        world.restart();
        world
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Kubernetes keeps whole seconds.
    pub(super) fn second(&self) -> Timestamp {
        Timestamp::from_second(self.now.as_second()).unwrap()
    }

    pub(super) fn change_spec(&mut self, change: impl FnOnce(&mut JobSpec)) {
        if !self.ledger.is_finished() {
            change(&mut self.spec);
            self.version += 1;
        }
    }

    pub(super) fn change(&mut self, uid: &PodUid, change: impl FnOnce(&mut Attempt)) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let before = pod.clone();
        change(pod);
        if *pod == before {
            return;
        }
        let pod = pod.clone();
        let ends = pod.has_ended() && !before.has_ended();
        if pod.has_stopped() || (pod.node.is_none() && pod.has_ended()) {
            self.alive.remove(uid);
        }
        if pod.unheard {
            self.was_unheard.insert(uid.clone());
        }
        let gone = pod.deleted_at.is_some() && !pod.has_finalizer && pod.has_ended();
        self.changes.push((uid.clone(), (!gone).then(|| pod.clone())));
        if gone {
            self.pods.remove(uid);
        }
        if ends {
            self.owe(&pod);
        }
    }

    /// Notes an end that must be counted, whatever the operator sees when.
    fn owe(&mut self, pod: &Attempt) {
        let rival = |other: &Attempt| other.index == pod.index && other.uid != pod.uid && !other.has_ended();
        let is_over = self.ledger.completed.contains(pod.index)
            || self.ledger.failed_indexes.contains(pod.index)
            || self.store.contains_key(&pod.index)
            || self
                .pods
                .values()
                .any(|other| other.index == pod.index && other.uid != pod.uid && other.phase == Phase::Succeeded);
        if is_over || self.ledger.is_decided() || self.pods.values().any(rival) {
            return;
        }
        let kind = match pod.phase {
            Phase::Succeeded if self.invalid.contains(&pod.uid) => "failed",
            Phase::Succeeded => return,
            _ => match pod.end() {
                attempt::Outcome::Failed => "failed",
                attempt::Outcome::Refused => "refused",
                attempt::Outcome::Disrupted(_) => "disrupted",
                _ => return,
            },
        };
        self.owed.insert(pod.uid.clone(), kind);
    }

    fn pick(&self, n: usize, fits: impl Fn(&Attempt) -> bool) -> Option<PodUid> {
        let fitting: Vec<_> = self.pods.values().filter(|pod| fits(pod)).collect();
        Some(fitting.get(n % fitting.len().max(1))?.uid.clone())
    }

    pub(super) fn bind(&mut self, n: usize) {
        let Some(uid) = self.pick(n, |pod| pod.node.is_none() && pod.deleted_at.is_none()) else {
            return;
        };
        let pod = &self.pods[&uid];
        let free: Vec<_> = (0..self.cars)
            .map(vehicle)
            .filter(|car| !pod.avoid.contains(car))
            .collect();
        if free.is_empty() {
            return;
        }
        let (index, car) = (pod.index, free[n % free.len()].clone());
        self.alive.insert(uid.clone(), index);
        self.change(&uid, |pod| pod.node = Some(car));
    }

    /// The car starts what it was given, or refuses it.
    pub(super) fn start(&mut self, n: usize) {
        let can = |pod: &Attempt| {
            pod.phase == Phase::Pending && pod.node.is_some() && !pod.unheard && pod.deleted_at.is_none()
        };
        let Some(uid) = self.pick(n, can) else { return };
        let refuses = self.pods[&uid]
            .node
            .as_ref()
            .is_some_and(|car| self.refusers.contains(car));
        let now = self.second();
        self.change(&uid, |pod| {
            if refuses {
                pod.phase = Phase::Failed;
                pod.refused = Some("OwnerConsentMissing".to_owned());
                pod.stopped = Some(Stopped::Reported);
                pod.finished_at = Some(now);
            } else {
                pod.phase = Phase::Running;
                pod.ready = true;
            }
        });
    }

    pub(super) fn succeed(&mut self, n: usize, valid: bool) {
        let Some(uid) = self.pick(n, |pod| pod.phase == Phase::Running && !pod.unheard) else {
            return;
        };
        if !valid {
            self.invalid.insert(uid.clone());
        }
        let now = self.second();
        self.change(&uid, |pod| {
            pod.phase = Phase::Succeeded;
            pod.finished_at = Some(now);
        });
    }

    pub(super) fn fail(&mut self, n: usize) {
        let Some(uid) = self.pick(n, |pod| {
            pod.phase == Phase::Running && !pod.unheard && pod.deleted_at.is_none()
        }) else {
            return;
        };
        let now = self.second();
        self.change(&uid, |pod| {
            pod.phase = Phase::Failed;
            pod.stopped = Some(Stopped::Reported);
            pod.finished_at = Some(now);
        });
    }

    pub(super) fn leave(&mut self, n: usize) {
        let bound = |pod: &Attempt| !pod.has_ended() && pod.node.is_some() && !pod.unheard && pod.deleted_at.is_none();
        let Some(uid) = self.pick(n, bound) else { return };
        let now = self.second();
        self.change(&uid, |pod| pod.disruption = Some("VehicleLeaving".to_owned()));
        self.change(&uid, |pod| pod.deleted_at = Some(now));
    }

    pub(super) fn stop(&mut self, n: usize) {
        let going = |pod: &Attempt| {
            pod.deleted_at.is_some()
                && pod.node.is_some()
                && !pod.unheard
                && pod.stopped.is_none()
                && pod.phase != Phase::Succeeded
        };
        let Some(uid) = self.pick(n, going) else { return };
        let now = self.second();
        self.change(&uid, |pod| {
            pod.phase = Phase::Failed;
            pod.stopped = Some(Stopped::Reported);
            pod.finished_at = Some(now);
        });
    }

    pub(super) fn silence(&mut self, n: usize, unheard: bool) {
        let other = |pod: &Attempt| !pod.has_ended() && pod.node.is_some() && pod.unheard != unheard;
        let Some(uid) = self.pick(n, other) else { return };
        self.change(&uid, |pod| pod.unheard = unheard);
    }

    pub(super) fn fence(&mut self, n: usize) {
        let Some(uid) = self.pick(n, |pod| pod.unheard && pod.stopped.is_none()) else {
            return;
        };
        let now = self.second();
        self.change(&uid, |pod| {
            pod.phase = Phase::Failed;
            pod.disruption = Some("VehicleLost".to_owned());
            pod.stopped = Some(Stopped::Fenced);
        });
        self.change(&uid, |pod| pod.deleted_at = pod.deleted_at.or(Some(now)));
    }

    pub(super) fn collect(&mut self, n: usize) {
        let Some(uid) = self.pick(n, |pod| !pod.has_ended() && pod.node.is_some()) else {
            return;
        };
        let now = self.second();
        self.change(&uid, |pod| {
            pod.phase = Phase::Failed;
            pod.disruption = Some("DeletionByPodGC".to_owned());
        });
        self.change(&uid, |pod| pod.deleted_at = pod.deleted_at.or(Some(now)));
    }

    pub(super) fn delete_by_hand(&mut self, n: usize) {
        let Some(uid) = self.pick(n, |pod| pod.deleted_at.is_none()) else {
            return;
        };
        let now = self.second();
        if self.pods[&uid].finished_at == Some(now) && self.owed.get(&uid) == Some(&"failed") {
            // Within one second nobody can tell which came first.
            self.owed.remove(&uid);
        }
        self.change(&uid, |pod| pod.deleted_at = Some(now));
    }
}
