//! The operator: it plans on caches that lag, carries its plan out some time after, and dies between any two writes.

use std::collections::BTreeMap;

use super::api::{Api, Change, Pod};
use super::time::{Ms, NEVER, wall};
use super::{Twist, vehicle_id};
use crate::ids::PodUid;
use crate::job::{Acceptance, Facts, JobSpec, OnLoss, Plan, Refusals, plan};

/// Between two turns, as the operator's queue has it.
const BETWEEN: Ms = 100;
/// A Pod that was made and is not seen by then is forgotten.
const CREATED_FOR: Ms = 30_000;

/// What is still to be written of a plan.
#[derive(Debug)]
struct Rest {
    at: Ms,
    plan: Plan,
    seen: BTreeMap<PodUid, Pod>,
}

/// The operator.
#[derive(Debug)]
pub(super) struct Operator {
    spec: JobSpec,
    cars: usize,
    cache: BTreeMap<PodUid, Pod>,
    seen: usize,
    created: BTreeMap<PodUid, (Ms, Pod)>,
    acceptance: BTreeMap<PodUid, Acceptance>,
    refusals: Refusals,
    rest: Option<Rest>,
    next_at: Ms,
    /// Between two turns is a moment.
    free_at: Ms,
    /// How much later it sees what is written.
    pub(super) lag: Ms,
    /// How long after its plan it writes.
    pub(super) slow: Ms,
    /// How much its wall clock is off, seconds.
    pub(super) wall: i64,
    /// It dies after so many writes, for so long.
    pub(super) dies: Option<(u8, Ms)>,
}

impl Operator {
    pub(super) fn new(spec: JobSpec, cars: usize) -> Self {
        Self {
            spec,
            cars,
            cache: BTreeMap::new(),
            seen: 0,
            created: BTreeMap::new(),
            acceptance: BTreeMap::new(),
            refusals: Refusals::default(),
            rest: None,
            next_at: 0,
            free_at: 0,
            lag: 20,
            slow: 10,
            wall: 0,
            dies: None,
        }
    }

    /// Begins anew with what the API has.
    fn die(&mut self, now: Ms, away: Ms, api: &Api) {
        self.cache.clone_from(&api.pods);
        self.seen = api.log.len();
        self.created.clear();
        self.acceptance.clear();
        self.refusals = Refusals::default();
        self.rest = None;
        (self.next_at, self.free_at) = (now + away, now + away);
        self.dies = None;
    }

    pub(super) fn next(&self, api: &Api) -> Ms {
        if let Some(rest) = &self.rest {
            return rest.at;
        }
        let seen = api.log.get(self.seen).map_or(NEVER, |(at, _)| at + self.lag);
        seen.min(self.next_at).max(self.free_at)
    }

    pub(super) fn step(&mut self, now: Ms, api: &mut Api) {
        if let Some(rest) = self.rest.take() {
            if now < rest.at {
                self.rest = Some(rest);
                return;
            }
            if self.write(now, rest, api).is_none() {
                let away = self.dies.map_or(0, |(_, away)| away);
                return self.die(now, away, api);
            }
        }
        if now >= self.free_at {
            self.watch(now, api);
            self.plan(now, api);
        }
    }

    fn watch(&mut self, now: Ms, api: &Api) {
        while let Some((_, change)) = api.log.get(self.seen).filter(|(at, _)| at + self.lag <= now) {
            self.seen += 1;
            let Change::Pod(uid, pod) = change else { continue };
            self.created.remove(uid);
            match pod {
                Some(pod) => self.cache.insert(uid.clone(), pod.clone()),
                None => self.cache.remove(uid),
            };
        }
        self.created.retain(|_, (at, _)| now < *at + CREATED_FOR);
    }

    fn facts(&self, now: Ms, api: &Api) -> Facts {
        let created = self.created.values().map(|(_, pod)| pod);
        let mut spec = self.spec.clone();
        if api.twist == Some(Twist::ReplacesBeforeFence) {
            spec.on_loss = OnLoss::WhenSuspected;
        }
        Facts {
            now: wall(now, self.wall),
            spec,
            ledger: api.ledger.clone(),
            attempts: self
                .cache
                .values()
                .chain(created)
                .map(|pod| pod.attempt.clone())
                .collect(),
            acceptance: self.acceptance.clone(),
            refusals: self.refusals.clone(),
            eligible: (0..self.cars).map(vehicle_id).collect(),
        }
    }

    /// One turn: accepts, plans, writes the ledger; the rest follows.
    fn plan(&mut self, now: Ms, api: &mut Api) {
        let version = api.ledger_version;
        self.acceptance.retain(|_, answer| *answer != Acceptance::Pending);
        let mut planned = plan(&self.facts(now, api));
        if !planned.accept.is_empty() {
            for uid in planned.accept {
                let answer = api.accept(&uid);
                self.acceptance.insert(uid, answer);
            }
            planned = plan(&self.facts(now, api));
        }
        self.refusals = planned.refusals.clone();
        let wait = planned
            .requeue_after
            .map_or(NEVER / 2, |wait| Ms::try_from(wait.as_millis()).unwrap());
        self.next_at = now + wait;
        self.free_at = now + BETWEEN;
        if planned.ledger != api.ledger {
            if self.writes_no_more() {
                let away = self.dies.map_or(0, |(_, away)| away);
                return self.die(now, away, api);
            }
            api.write_ledger(version, &planned.ledger);
            // What was written is seen at once, and planned on again.
            self.next_at = now;
        }
        if !planned.create.is_empty() || !planned.delete.is_empty() || !planned.release.is_empty() {
            self.rest = Some(Rest {
                at: now + self.slow,
                plan: planned,
                seen: self.cache.clone(),
            });
        }
    }

    /// Whether it dies before its next write.
    fn writes_no_more(&mut self) -> bool {
        match &mut self.dies {
            Some((0, _)) => true,
            Some((left, _)) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// Nothing if it died.
    fn write(&mut self, now: Ms, rest: Rest, api: &mut Api) -> Option<()> {
        for new in rest.plan.create {
            if self.writes_no_more() {
                return None;
            }
            let made = api.create(now, new);
            if !self.cache.contains_key(&made.attempt.uid) {
                self.created.insert(made.attempt.uid.clone(), (now, made));
            }
        }
        for deletion in rest.plan.delete {
            if self.writes_no_more() {
                return None;
            }
            let Some(seen) = rest.seen.get(&deletion.uid) else {
                continue;
            };
            let marks = deletion.reason.marks() && seen.attempt.deleted_for.is_none();
            if marks && !api.mark(now, seen, deletion.reason) {
                continue;
            }
            if self.writes_no_more() {
                return None;
            }
            api.delete_with_grace(now, &deletion.uid);
        }
        for uid in rest.plan.release {
            if self.writes_no_more() {
                return None;
            }
            api.change(now, &uid, |pod| pod.attempt.has_finalizer = false);
        }
        Some(())
    }
}
