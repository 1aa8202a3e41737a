//! The adapter's actor of one vehicle: it folds what happens into [`Facts`], tells the car, and writes where the API differs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::adapter::{Cache, Job, Proof, Reach, Unanswered};
use super::api::{Answer, Api, Call, Hold, MOST_PODS, Patch, Pod, Vehicle};
use super::link::{Arrival, Down, Links, Up};
use super::time::{Ms, NEVER, Ticks};
use super::{Twist, vehicle_id};
use crate::clock::Boottime;
use crate::ids::PodUid;
use crate::job::{Phase as AttemptPhase, Stopped};
use crate::names::taint;
use crate::vehicle::{
    Command, Delete, Desired, Event, FENCE_MARGIN, Facts, Hearing, Judgement, Link, NodeWish, Phase, PodPhase,
    PodReport, RECONNECT_WINDOW, Refusal, Report, Standing, StoppedBy, Terms,
};

/// virtual-kubelet's figures: `actor.rs`, `actor/writes.rs`.
const STALLED: Duration = Duration::from_secs(2);
const CATCH_UP: Duration = Duration::from_secs(3);
const RENEW_EVERY: Duration = Duration::from_secs(20);
const FRESH: Duration = Duration::from_secs(5);
const AFTER_FAILURE: Ms = 500;
const AFTER_STALE: Ms = 50;
const WATCH_LAG: Ms = 1_000;

/// What an actor uses.
pub(super) struct Around<'a> {
    pub(super) replica: usize,
    pub(super) now: Ms,
    pub(super) boot: Boottime,
    pub(super) wall: i64,
    pub(super) reach: Reach,
    pub(super) fence: Duration,
    pub(super) twist: Option<Twist>,
    pub(super) cache: &'a mut Cache,
    pub(super) proof: &'a Proof,
    pub(super) links: &'a mut Links,
    pub(super) api: &'a mut Api,
}

/// What a job is about: at most one per key is at work.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Claim,
    Vehicle,
    Node,
    Lease,
    Pod(PodUid),
    Delete(PodUid),
}

/// A car that waits for its greeting.
#[derive(Debug)]
struct Arrived {
    over: usize,
    standing: Standing,
    reports: Vec<Report>,
    at: Boottime,
    /// Its connection has ended meanwhile.
    gone: bool,
}

/// One vehicle.
#[derive(Debug)]
pub(super) struct Actor {
    car: usize,
    facts: Facts,
    session: Option<(u64, usize)>,
    arrived: Option<Arrived>,
    known: BTreeMap<PodUid, u64>,
    jobs: BTreeMap<Key, Job>,
    put_off: BTreeMap<Key, Ms>,
    renewed_at: Option<Boottime>,
    due_at: Boottime,
    hold: Hold,
    stalled_until: Option<Boottime>,
    synced: bool,
    owned: bool,
    tried: bool,
    epoch: Option<u64>,
    planned: Option<Boottime>,
    stale: bool,
}

impl Actor {
    pub(super) fn new(car: usize, replica: usize, vehicle: &Vehicle, has_node: bool, boot: Boottime) -> Self {
        let epoch = (vehicle.holder == Some(replica)).then_some(vehicle.epoch);
        let standing = match vehicle.phase {
            Phase::Available => Standing::Available,
            Phase::Leaving => Standing::Leaving { notice: Duration::ZERO },
            Phase::Away => Standing::Away,
        };
        Self {
            car,
            facts: Facts::new(standing, has_node, boot),
            session: None,
            arrived: None,
            known: BTreeMap::new(),
            jobs: BTreeMap::new(),
            put_off: BTreeMap::new(),
            renewed_at: None,
            due_at: Boottime::default(),
            hold: Hold::Unknown,
            stalled_until: None,
            synced: false,
            owned: false,
            tried: false,
            epoch,
            planned: None,
            stale: true,
        }
    }

    fn is_ours(&self, cache: &Cache, replica: usize) -> bool {
        cache.vehicles[self.car].holder == Some(replica)
    }

    pub(super) fn is_over(&self, cache: &Cache, replica: usize) -> bool {
        (self.owned || self.tried) && !self.is_ours(cache, replica) && !self.jobs.contains_key(&Key::Claim)
    }

    pub(super) fn end(self, now: Ms, links: &mut Links) {
        if let Some((_, over)) = self.session {
            links.leave_down(now, over, true);
        }
    }

    pub(super) fn next(&self, clock: Ticks, reach: Reach) -> Ms {
        if self.stale {
            return 0;
        }
        let planned = self.planned.map_or(NEVER, |at| clock.reaches(at));
        let jobs = self.jobs.values().map(|job| job.next(reach));
        jobs.chain(self.put_off.values().copied())
            .chain([planned])
            .min()
            .unwrap_or(NEVER)
    }

    /// Something arrived from the car, or its connection ended.
    pub(super) fn hear(&mut self, over: usize, arrival: Arrival<Up>, around: &mut Around<'_>) {
        self.check_stall(around);
        self.stale = true;
        let at = around.boot;
        let current = self.session.filter(|(_, session)| *session == over);
        match (arrival, current) {
            (Arrival::Message(Up::Hello(standing, reports)), _) => {
                if self.jobs.contains_key(&Key::Claim) {
                    around.links.leave_down(around.now, over, true);
                    return;
                }
                self.arrived = Some(Arrived {
                    over,
                    standing,
                    reports,
                    at,
                    gone: false,
                });
                self.tried = true;
                let call = Call::Raise(self.car, around.replica, None);
                self.start(Key::Claim, call, around);
            }
            (Arrival::End, Some((epoch, _))) => {
                self.session = None;
                self.facts.step(Event::Closed(epoch), at);
            }
            (Arrival::Message(Up::Output(uid)), _) => self.store(over, uid, around),
            (Arrival::Message(Up::Heartbeat(seq)), Some(_)) => {
                self.facts.step(Event::Heard, at);
                let twisted = around.twist == Some(Twist::CutOffProves);
                if twisted || !around.proof.is_doubtful(at) {
                    let proven = twisted || around.proof.is_fresh(at);
                    let ack = Down::HeartbeatAck(seq, proven);
                    around.links.send_down(around.now, over, ack);
                }
            }
            (Arrival::Message(Up::State(standing)), Some(_)) => self.facts.step(Event::State(standing), at),
            (Arrival::Message(Up::Status(report)), Some(_)) => self.facts.step(Event::Report(report), at),
            (Arrival::End, None) => {
                if let Some(arrived) = self.arrived.as_mut().filter(|arrived| arrived.over == over) {
                    arrived.gone = true;
                }
            }
            (Arrival::Message(_), None) => {}
        }
    }

    /// Output goes to the store as long as the attempt has not ended for the cluster.
    fn store(&mut self, over: usize, uid: PodUid, around: &mut Around<'_>) {
        let node = vehicle_id(self.car);
        let pod = around.cache.pods.get(&uid);
        let wanted = pod.is_some_and(|pod| pod.attempt.node.as_ref() == Some(&node) && !pod.is_terminal());
        if wanted {
            around.api.outputs.insert(uid.clone());
            self.facts.step(Event::Sealed(uid.clone(), true), around.boot);
        }
        around.links.send_down(around.now, over, Down::Stored(uid, wanted));
    }

    fn check_stall(&mut self, around: &Around<'_>) {
        if self.planned.is_some_and(|at| around.boot.since(at) > STALLED) {
            self.stalled_until = Some(around.boot + CATCH_UP);
            self.planned = None;
        }
    }

    fn start(&mut self, key: Key, call: Call, around: &mut Around<'_>) {
        let job = Job::send(around.now, around.boot, around.reach, around.api, call);
        self.jobs.insert(key, job);
    }

    fn free(&self, key: &Key) -> bool {
        !self.jobs.contains_key(key) && !self.put_off.contains_key(key)
    }

    /// One turn.
    pub(super) fn turn(&mut self, around: &mut Around<'_>) {
        self.check_stall(around);
        self.stale = false;
        self.put_off.retain(|_, until| around.now < *until);
        self.finish(around);
        self.read(around);
        let desired = self.decide(around);
        self.owned |= self.is_ours(around.cache, around.replica);
        let due = if self.is_ours(around.cache, around.replica) {
            self.write(&desired, around)
        } else {
            None
        };
        self.planned = desired.wake_at.into_iter().chain(due).min();
    }

    /// What should be, after the car has been told what it must be told.
    fn decide(&mut self, around: &mut Around<'_>) -> Desired {
        loop {
            let desired = self.settle(around);
            if !(self.judge(&desired, around) || self.tell(&desired, around)) {
                return desired;
            }
        }
    }

    fn finish(&mut self, around: &mut Around<'_>) {
        let keys: Vec<_> = self.jobs.keys().cloned().collect();
        for key in keys {
            let Some(job) = self.jobs.get(&key) else { continue };
            let Some(outcome) = job.poll(around.now, around.reach, around.api) else {
                continue;
            };
            let sent = job.sent;
            self.jobs.remove(&key);
            let wait = match (&key, outcome) {
                (Key::Claim, Ok(Answer::Epoch(epoch, vehicle))) => {
                    around.cache.observe_vehicle(self.car, &vehicle);
                    self.greet(epoch, around);
                    0
                }
                (Key::Claim, _) => {
                    if let Some(arrived) = self.arrived.take() {
                        around.links.leave_down(around.now, arrived.over, true);
                    }
                    0
                }
                (Key::Lease, Ok(Answer::Stale)) => {
                    (self.hold, self.renewed_at) = (Hold::Lost, None);
                    AFTER_STALE
                }
                (_, Ok(Answer::Stale)) => AFTER_STALE,
                (_, Err(Unanswered)) => AFTER_FAILURE,
                (Key::Lease, Ok(_)) => {
                    (self.hold, self.renewed_at) = (Hold::Ours, Some(sent));
                    self.due_at = sent + RENEW_EVERY;
                    0
                }
                (_, Ok(Answer::Vehicle(vehicle))) => {
                    around.cache.observe_vehicle(self.car, &vehicle);
                    0
                }
                (_, Ok(Answer::Pod(pod))) => {
                    if let Some(pod) = pod {
                        around.cache.observe_pod(&pod);
                    }
                    0
                }
                (Key::Node | Key::Delete(_), Ok(_)) => WATCH_LAG,
                (_, Ok(_)) => 0,
            };
            if wait > 0 {
                self.put_off.insert(key, around.now + wait);
            }
        }
    }

    fn greet(&mut self, epoch: u64, around: &mut Around<'_>) {
        let Some(Arrived {
            over,
            standing,
            reports,
            at,
            gone,
        }) = self.arrived.take()
        else {
            return;
        };
        if self.epoch.is_none_or(|known| known + 1 != epoch) {
            // It was another replica's meanwhile: what was concluded from silence is void.
            let has_node = around.cache.nodes[self.car].is_some();
            self.facts = Facts::new(self.facts.standing(), has_node, around.boot);
            self.known.clear();
            (self.synced, self.hold, self.renewed_at) = (false, Hold::Unknown, None);
            self.due_at = Boottime::default();
            self.read(around);
        }
        self.epoch = Some(epoch);
        if let Some((_, older)) = self.session.replace((epoch, over)) {
            around.links.leave_down(around.now, older, true);
        }
        self.facts.step(
            Event::Connected {
                epoch,
                standing,
                reports,
            },
            at,
        );
        around.links.send_down(around.now, over, Down::Welcome);
        if gone {
            self.session = None;
            self.facts.step(Event::Closed(epoch), around.boot);
        }
    }

    fn read(&mut self, around: &mut Around<'_>) {
        let boot = around.boot;
        if self.known.is_empty() && !self.synced {
            let terms = Terms {
                suspect_after: Duration::from_secs(10),
                keep_node_for: Duration::from_mins(10),
                revoked: false,
                eligible: Judgement::Yes,
            };
            self.facts.step(Event::Terms(terms), boot);
        }
        // Without its margin a fence is that much shorter here.
        let fence = match around.twist {
            Some(Twist::NoMargin) => around.fence.saturating_sub(FENCE_MARGIN + around.fence / 500),
            _ => around.fence,
        };
        let node = vehicle_id(self.car);
        let ours = around
            .cache
            .pods
            .values()
            .filter(|pod| pod.attempt.node.as_ref() == Some(&node));
        let mut gone = std::mem::take(&mut self.known);
        for pod in ours {
            let uid = &pod.attempt.uid;
            if gone.remove(uid) != Some(pod.version) {
                self.facts.step(Event::Pod(pod.facts(fence)), boot);
            }
            self.known.insert(uid.clone(), pod.version);
        }
        for uid in gone.into_keys() {
            self.facts.step(Event::PodGone(uid), boot);
        }
        if !std::mem::replace(&mut self.synced, true) {
            self.facts.step(Event::PodsSynced, boot);
        }
    }

    fn settle(&mut self, around: &mut Around<'_>) -> Desired {
        let boot = around.boot;
        if around.proof.is_doubtful(boot) {
            self.stalled_until = Some(boot + RECONNECT_WINDOW);
        }
        let stalled = self.stalled_until.filter(|until| boot < *until);
        self.facts.settle(boot, |_| stalled);
        self.facts.desired(boot)
    }

    fn judge(&mut self, desired: &Desired, around: &Around<'_>) -> bool {
        if !matches!(self.facts.link(), Link::Open { .. }) {
            return false;
        }
        for uid in &desired.judge {
            let others = self.facts.attempts().iter().filter(|(other, attempt)| {
                let there = attempt.pod.as_ref().is_some_and(|pod| !pod.phase.is_terminal());
                *other != uid && there && attempt.refusal.is_none() && (attempt.admitted == Some(true) || attempt.known)
            });
            let refusal = (others.count() >= MOST_PODS).then(|| Refusal {
                reason: "OutOfpods".to_owned(),
                message: String::new(),
            });
            self.facts.step(Event::Judged(uid.clone(), refusal), around.boot);
        }
        for uid in &desired.check_output {
            let sealed = around.api.outputs.contains(uid);
            self.facts.step(Event::Sealed(uid.clone(), sealed), around.boot);
        }
        !desired.judge.is_empty() || !desired.check_output.is_empty()
    }

    fn tell(&mut self, desired: &Desired, around: &mut Around<'_>) -> bool {
        let Some((epoch, over)) = self.session else {
            return false;
        };
        let (now, boot) = (around.now, around.boot);
        if desired.close.is_some() {
            around.links.leave_down(now, over, true);
            self.session = None;
            self.facts.step(Event::Closed(epoch), boot);
            return true;
        }
        for command in &desired.commands {
            let message = match command.clone() {
                Command::Run(uid) => Down::Run(uid),
                Command::Stop { uid, grace, reason } => Down::Stop(uid, grace, reason),
                Command::Ack { uid, revision } => Down::StatusAck(uid, revision),
                Command::Forget(uid) => Down::Forget(uid),
            };
            around.links.send_down(now, over, message);
            self.facts.step(Event::Sent(command.clone()), boot);
        }
        !desired.commands.is_empty()
    }

    /// Begins the writes that are wanted; when the next is due.
    fn write(&mut self, desired: &Desired, around: &mut Around<'_>) -> Option<Boottime> {
        let vehicle = &around.cache.vehicles[self.car];
        if vehicle.phase != desired.phase && self.free(&Key::Vehicle) && !self.jobs.contains_key(&Key::Claim) {
            self.start(Key::Vehicle, Call::Phase(self.car, desired.phase), around);
        }
        for (uid, report) in &desired.pods {
            self.write_pod(uid, report, around);
        }
        self.write_node(desired, around);
        around.cache.nodes[self.car].as_ref()?;
        if around.boot >= self.due_at && self.free(&Key::Lease) {
            let call = Call::Lease(self.car, around.replica, self.hold);
            self.start(Key::Lease, call, around);
        }
        (self.due_at > around.boot).then_some(self.due_at)
    }

    fn write_node(&mut self, desired: &Desired, around: &mut Around<'_>) {
        if !self.free(&Key::Node) {
            return;
        }
        let there = around.cache.nodes[self.car].as_ref();
        let wanted = match (&desired.node, there) {
            (NodeWish::Absent | NodeWish::Keep(_), None) => return,
            (NodeWish::Absent, Some(_)) => None,
            (NodeWish::Keep(state) | NodeWish::Present(state), _) => Some(state),
        };
        let suspect = there.is_some_and(|node| node.taints.contains(&taint::SUSPECT));
        let tells = |(uid, report): (&PodUid, &PodReport)| {
            report.unheard == Some(false) && self.jobs.contains_key(&Key::Pod(uid.clone()))
        };
        let returns = wanted.is_some_and(|state| state.heard == Some(Hearing::Heard));
        if wanted == there || returns && suspect && desired.pods.iter().any(tells) {
            return;
        }
        self.start(Key::Node, Call::Node(self.car, wanted.cloned()), around);
    }

    fn write_pod(&mut self, uid: &PodUid, report: &PodReport, around: &mut Around<'_>) {
        let Some(pod) = around.cache.pods.get(uid) else { return };
        let key = Key::Pod(uid.clone());
        if self.free(&key) {
            if let Some(patch) = patch(pod, report) {
                if self.may_end(report, around) {
                    self.start(key, Call::Status(uid.clone(), patch, around.wall), around);
                }
                return;
            }
            let recorded = self.facts.attempts().get(uid).and_then(|attempt| attempt.recorded);
            if let Some(revision) = report.revision.filter(|revision| recorded != Some(*revision)) {
                self.facts.step(Event::Recorded(uid.clone(), revision), around.boot);
                self.stale = true;
            }
        }
        let grace = match report.delete {
            Delete::No => return,
            Delete::Graceful(grace) => Duration::from_secs(grace.as_secs().max(1)),
            Delete::Confirm => Duration::ZERO,
        };
        let delete = Key::Delete(uid.clone());
        if self.free(&delete) && !self.jobs.contains_key(&key) {
            self.start(delete, Call::Delete(uid.clone(), grace), around);
        }
    }

    fn may_end(&mut self, report: &PodReport, around: &Around<'_>) -> bool {
        let fresh = self.renewed_at.is_some_and(|at| around.boot.since(at) <= FRESH);
        let node = around.cache.nodes[self.car].is_some();
        if report.stopped != Some(StoppedBy::Fenced) || !node || fresh {
            return true;
        }
        self.due_at = around.boot;
        false
    }
}

/// What must be written so that the Pod says what it should.
fn patch(pod: &Pod, report: &PodReport) -> Option<Patch> {
    let there = &pod.attempt;
    let phase = match report.phase {
        PodPhase::Pending => AttemptPhase::Pending,
        PodPhase::Running => AttemptPhase::Running,
        PodPhase::Succeeded => AttemptPhase::Succeeded,
        PodPhase::Failed => AttemptPhase::Failed,
    };
    let ready = phase == AttemptPhase::Running && report.unready.is_none();
    let stopped = report.stopped.map(|by| match by {
        StoppedBy::Reported => Stopped::Reported,
        StoppedBy::Fenced => Stopped::Fenced,
    });
    let foreign = there.disruption.as_ref().is_some_and(|why| !Api::is_ours(why));
    let disruption = report.disruption.map(str::to_owned).filter(|_| !foreign);
    let patch = Patch {
        version: None,
        phase: (!pod.is_terminal() && phase != there.phase).then_some(phase),
        ready: (ready != there.ready).then_some(ready),
        unheard: report.unheard.filter(|unheard| *unheard != there.unheard),
        stopped: stopped.filter(|_| stopped != there.stopped),
        refused: report
            .refused
            .as_ref()
            .map(|refusal| refusal.reason.clone())
            .filter(|_| there.refused.is_none()),
        disruption: disruption.filter(|why| there.disruption.as_ref() != Some(why)),
    };
    let version = (report.phase.is_terminal() || patch.phase.is_some()).then_some(pod.version);
    (patch != Patch::default()).then_some(Patch { version, ..patch })
}
