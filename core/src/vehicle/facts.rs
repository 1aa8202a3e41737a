//! The facts of one vehicle, the events that change them, and what follows from them once and for all.
//!
//! Owned by the vehicle's actor. `step` only folds in what happened; `settle` draws the conclusions that stay drawn (suspect,
//! fenced, lost, refused) and must run after the events of a turn and before `desired`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::attempt::Told;
use super::brake::Quiet;
use super::{
    Attempt, AttemptPhase, Command, FLAP_MEMORY, FLAP_PATIENCE, FLAP_PATIENCE_MAX, HEARTBEAT_LATE, Judgement, PodFacts,
    PodKind, RECONNECT_WINDOW, RUN_ANSWER, Refusal, Report, SUSPECT_IDLE, Standing, Terms, fence_with_margin,
};
use crate::clock::Boottime;
use crate::ids::PodUid;
use crate::names::reason;

/// How the car is connected to this adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The adapter has just taken the vehicle over and waits for its car.
    Awaited {
        /// From then on.
        since: Boottime,
    },
    /// A stream is open.
    Open {
        /// Of this connection.
        epoch: u64,
    },
    /// The stream has ended.
    Closed {
        /// Since then.
        since: Boottime,
    },
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The Vehicle, its pool or the judgement over the offer is new.
    Terms(Terms),
    /// The Pod watch has listed every Pod.
    PodsSynced,
    /// A Pod bound to this vehicle is new or changed.
    Pod(PodFacts),
    /// A Pod is no longer in the API.
    PodGone(PodUid),
    /// The adapter has judged whether a Pod may run here; None: it may.
    Judged(PodUid, Option<Refusal>),
    /// A refused Pod of other people is failed then, and not before.
    HeldUntil(PodUid, Boottime),
    /// Whether an attempt's output is in the store.
    Sealed(PodUid, bool),
    /// The Pod's status in the API carries the car's report of this revision.
    Recorded(PodUid, u64),
    /// The car has connected and said its Hello.
    Connected {
        /// Of this connection; older ones are over.
        epoch: u64,
        /// What it says of itself.
        standing: Standing,
        /// Every attempt it knows.
        reports: Vec<Report>,
    },
    /// The car that has connected is greeted now: its arrival may be some time ago, since the API server is asked in between.
    Greeted,
    /// The stream of that epoch has ended.
    Closed(u64),
    /// Anything arrived from the car.
    Heard,
    /// The car says how it stands.
    State(Standing),
    /// The car says how an attempt stands.
    Report(Report),
    /// The car has been told.
    Sent(Command),
    /// Whether the brake of the pool holds this car's attempts.
    Braked(bool),
}

/// Everything known of one vehicle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub(super) terms: Option<Terms>,
    pub(super) standing: Standing,
    pub(super) link: Link,
    /// When the car last said something on the present connection after its Hello. The Hello alone may have been long on its way: its
    /// car has left that connection, perhaps has another one with another adapter, and may run what it did not know then.
    pub(super) confirmed: Option<Boottime>,
    pub(super) heard_at: Boottime,
    /// By then the car has promised to have stopped everything.
    pub(super) promised: Option<Boottime>,
    /// The last moment at which every term was met.
    pub(super) eligible_at: Option<Boottime>,
    pub(super) suspected: bool,
    /// The brake's word, as it was last told.
    pub(super) braked: bool,
    /// Silent, and by the brake's word nothing follows for its attempts before their fences.
    pub(super) held: bool,
    /// When a car that was suspected, or awaited since the adapter's start, came back with attempts.
    pub(super) returned_at: Option<Boottime>,
    /// When a car that was suspected with an attempt was last heard again, and how often lately.
    pub(super) returns: Option<(Boottime, u32)>,
    /// It has come back by the newest connection, and was not greeted yet.
    pub(super) greets_return: bool,
    pub(super) held_until: Option<Boottime>,
    pub(super) pods_synced: bool,
    pub(super) attempts: BTreeMap<PodUid, Attempt>,
}

impl Facts {
    /// A vehicle just taken over: `standing` as its status in the API has it, and whether its Node exists.
    pub fn new(standing: Standing, has_node: bool, now: Boottime) -> Self {
        Self {
            terms: None,
            standing,
            link: Link::Awaited { since: now },
            confirmed: None,
            heard_at: now,
            promised: None,
            eligible_at: has_node.then_some(now),
            suspected: false,
            braked: false,
            held: false,
            returned_at: None,
            returns: None,
            greets_return: false,
            held_until: None,
            pods_synced: false,
            attempts: BTreeMap::new(),
        }
    }

    /// The attempts, by UID.
    pub fn attempts(&self) -> &BTreeMap<PodUid, Attempt> {
        &self.attempts
    }

    /// How the car is connected.
    pub fn link(&self) -> Link {
        self.link
    }

    /// What the car last said of itself.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether silence has been drawn a conclusion from.
    pub fn suspected(&self) -> bool {
        self.suspected
    }

    /// Whether the car is silent, and the brake keeps its attempts from being given up before their fences.
    pub fn held(&self) -> bool {
        self.held
    }

    /// Folds in what happened.
    pub fn step(&mut self, event: Event, now: Boottime) {
        match event {
            Event::Terms(terms) => self.terms = Some(terms),
            Event::PodsSynced => self.pods_synced = true,
            Event::Pod(pod) => self.pod(pod, now),
            Event::PodGone(uid) => {
                if let Some(attempt) = self.attempts.get_mut(&uid) {
                    attempt.pod = None;
                }
            }
            Event::Judged(uid, verdict) => self.with(&uid, |a| {
                a.admitted = Some(verdict.is_none());
                a.refusal = verdict;
            }),
            Event::HeldUntil(uid, until) => self.with(&uid, |a| a.held_until = Some(until)),
            Event::Sealed(uid, sealed) => self.with(&uid, |a| a.sealed = Some(sealed)),
            Event::Recorded(uid, revision) => self.with(&uid, |a| a.recorded = Some(revision)),
            Event::Connected {
                epoch,
                standing,
                reports,
            } => self.connected(epoch, standing, reports, now),
            // Until now nobody knew that it is back, so nothing that was made in its attempts' place could be withdrawn.
            Event::Greeted => {
                if std::mem::take(&mut self.greets_return) {
                    self.returned_at = Some(now);
                }
            }
            Event::Closed(epoch) => {
                if self.link == (Link::Open { epoch }) {
                    self.link = Link::Closed { since: now };
                }
            }
            Event::Heard => self.said(now),
            Event::State(standing) => {
                self.said(now);
                self.state(standing, now);
            }
            Event::Report(report) => {
                self.said(now);
                self.report(report, now);
            }
            Event::Sent(command) => self.sent(&command, now),
            Event::Braked(braked) => self.braked = braked,
        }
    }

    fn with(&mut self, uid: &PodUid, change: impl FnOnce(&mut Attempt)) {
        if let Some(attempt) = self.attempts.get_mut(uid) {
            change(attempt);
        }
    }

    fn pod(&mut self, pod: PodFacts, now: Boottime) {
        // What is there when the adapter starts may have been sent to the car by the adapter before it.
        let maybe_running = !self.pods_synced;
        let attempt = self
            .attempts
            .entry(pod.uid.clone())
            .or_insert_with(|| Attempt::new(maybe_running, now));
        if attempt.refusal.is_none() {
            attempt.refusal.clone_from(&pod.refused);
        }
        attempt.pod = Some(pod);
    }

    fn connected(&mut self, epoch: u64, standing: Standing, reports: Vec<Report>, now: Boottime) {
        if matches!(self.link, Link::Open { epoch: present } if present >= epoch) {
            return;
        }
        let away = self.suspected || self.held || matches!(self.link, Link::Awaited { .. });
        let with_attempts = !self.attempts.is_empty() || !reports.is_empty();
        // A second connection right after it does not make the return older.
        self.greets_return = away && with_attempts;
        if self.greets_return {
            self.returned_at = Some(now);
        }
        self.link = Link::Open { epoch };
        self.confirmed = None;
        for attempt in self.attempts.values_mut() {
            attempt.told = Told::default();
            attempt.known = false;
        }
        self.state(standing, now);
        for report in reports {
            self.report(report, now);
        }
    }

    /// The moment of arrival may come to us a little late, but never takes back a later one.
    fn heard(&mut self, at: Boottime) {
        self.heard_at = self.heard_at.max(at);
    }

    /// A message on the present connection, after its Hello.
    fn said(&mut self, at: Boottime) {
        self.heard(at);
        self.confirmed = self.open().then_some(at);
    }

    fn state(&mut self, standing: Standing, now: Boottime) {
        self.heard(now);
        self.promised = match standing {
            Standing::Available | Standing::Paused => None,
            Standing::Leaving { notice } => Some(now + notice),
            Standing::Away => Some(self.promised.map_or(now, |p| p.min(now))),
        };
        self.standing = standing;
    }

    fn report(&mut self, mut report: Report, now: Boottime) {
        // Declined before it started: nothing of it can be alive.
        report.stopped |= report.phase == AttemptPhase::Refused;
        let attempt = self
            .attempts
            .entry(report.uid.clone())
            .or_insert_with(|| Attempt::new(true, now));
        attempt.known = true;
        attempt.maybe_running = true;
        // A newer word may have overtaken an older one over a reconnect.
        if attempt
            .report
            .as_ref()
            .is_none_or(|old| old.revision <= report.revision)
        {
            attempt.report = Some(report);
        }
    }

    fn sent(&mut self, command: &Command, now: Boottime) {
        match command {
            Command::Run(uid) => self.with(uid, |a| {
                a.told.run = Some(now);
                a.maybe_running = true;
            }),
            Command::Stop { uid, grace, .. } => self.with(uid, |a| a.told.stop = Some(*grace)),
            Command::Ack { uid, revision } => self.with(uid, |a| a.told.ack = Some(*revision)),
            Command::Forget(uid) => self.with(uid, |a| {
                a.known = false;
                a.told = Told::default();
            }),
        }
    }

    /// From when on the car counts as silent, if nothing more is heard. Later for one that keeps coming back, but never later than the
    /// first of its fences, of which nobody is to wait for longer.
    pub fn silent_from(&self) -> Boottime {
        let plain = self.unheard_from(Duration::ZERO);
        let patient = self.unheard_from(self.patience());
        if patient == plain {
            return plain;
        }
        let fences = self.attempts.values().filter(|a| a.maybe_running && !a.ended());
        let first = fences.filter_map(|a| self.fence_at(a)).min();
        first.map_or(patient, |fence| patient.min(fence.max(plain)))
    }

    /// It is a car that keeps coming back, and is waited for; from then on it takes nothing new.
    pub(super) fn doubted_from(&self) -> Option<Boottime> {
        let plain = self.unheard_from(Duration::ZERO);
        (self.silent_from() > plain).then_some(plain)
    }

    /// How much longer than others a car is waited for that came back again and again: each time it was suspected, a replacement was made
    /// in vain.
    fn patience(&self) -> Duration {
        let silent_since = match self.link {
            Link::Awaited { .. } => return Duration::ZERO,
            Link::Closed { since } => since,
            Link::Open { .. } => self.heard_at,
        };
        let lately = self
            .returns
            .filter(|(last, _)| silent_since.since(*last) <= FLAP_MEMORY);
        let again = lately.map_or(0, |(_, count)| count.saturating_sub(1));
        let doublings = again.checked_sub(1).map(|n| 1_u32 << n.min(8));
        doublings.map_or(Duration::ZERO, |n| (FLAP_PATIENCE * n).min(FLAP_PATIENCE_MAX))
    }

    fn came_back(&mut self, now: Boottime) {
        let lately = self.returns.filter(|(last, _)| now.since(*last) <= FLAP_MEMORY);
        self.returns = Some((now, lately.map_or(1, |(_, count)| count.saturating_add(1))));
    }

    fn unheard_from(&self, patience: Duration) -> Boottime {
        match self.link {
            Link::Awaited { since } => since + RECONNECT_WINDOW,
            Link::Closed { since } => since + patience,
            Link::Open { .. } => {
                let limit = if self.busy() {
                    self.suspect_after() + patience
                } else {
                    SUSPECT_IDLE
                };
                // A Run that nobody waits for any more makes no car silent.
                let waited = self.attempts.values().filter(|a| a.pod.is_some() || !self.pods_synced);
                let unanswered = waited.filter(|a| !a.known).filter_map(|a| a.told.run);
                let unanswered = unanswered
                    .filter(|sent| self.heard_at <= *sent)
                    .map(|sent| sent + RUN_ANSWER);
                unanswered
                    .min()
                    .map_or(self.heard_at + limit, |at| at.min(self.heard_at + limit))
            }
        }
    }

    /// How the car stands with the brake at `now`; None: it is heard. A car that said it would go is expected to fall silent: it tells
    /// nothing about us.
    pub fn quiet(&self, now: Boottime) -> Option<Quiet> {
        if !self.willing() {
            return None;
        }
        let at_stake = !self.suspected && self.at_stake(now);
        let silent_from = self.silent_from();
        if now >= silent_from {
            return Some(Quiet {
                since: silent_from,
                silent: true,
                at_stake,
            });
        }
        self.late_from()
            .filter(|late| now >= *late && at_stake)
            .map(|since| Quiet {
                since,
                silent: false,
                at_stake,
            })
    }

    /// From when on the next heartbeat is late, where one is expected soon.
    pub(super) fn late_from(&self) -> Option<Boottime> {
        (self.open() && self.busy()).then(|| self.heard_at + HEARTBEAT_LATE)
    }

    /// There is an attempt that may be alive in the car, of which nothing was concluded yet, and whose fence has not passed.
    fn at_stake(&self, now: Boottime) -> bool {
        self.attempts.values().any(|a| {
            let told = a.pod.as_ref().is_some_and(|p| p.phase.is_terminal() || p.unheard);
            let over = told || a.ended() || a.fenced || a.lost_by_car || a.refusal.is_some();
            a.pod.is_some() && a.maybe_running && !over && self.fence_at(a).is_some_and(|at| now < at)
        })
    }

    /// By its own word the car works, or would.
    fn willing(&self) -> bool {
        matches!(self.standing, Standing::Available | Standing::Paused) && !self.revoked()
    }

    /// The car sends the quick heartbeat: it holds an attempt that is not over.
    fn busy(&self) -> bool {
        self.attempts.values().any(|a| a.known && !a.reported_stopped())
    }

    fn suspect_after(&self) -> Duration {
        self.terms.as_ref().map_or(Duration::from_secs(10), |t| t.suspect_after)
    }

    pub(super) fn keep_node_for(&self) -> Duration {
        self.terms.as_ref().map_or(Duration::from_mins(10), |t| t.keep_node_for)
    }

    pub(super) fn revoked(&self) -> bool {
        self.terms.as_ref().is_some_and(|t| t.revoked)
    }

    pub(super) fn open(&self) -> bool {
        matches!(self.link, Link::Open { .. })
    }

    /// When an attempt has certainly been stopped by the car itself, if nothing more is heard of it.
    pub(super) fn fence_at(&self, attempt: &Attempt) -> Option<Boottime> {
        // An idle car is heard seldom: a fence shorter than its silence has not passed when the car has just been asked.
        let from = attempt.told.run.map_or(self.heard_at, |asked| asked.max(self.heard_at));
        let own = attempt
            .pod
            .as_ref()
            .and_then(|p| p.fence)
            .map(|f| from + fence_with_margin(f));
        // A car ends what it has when it leaves. A Run that was on its way then may have come when the car was back.
        let promised = self.promised.filter(|_| attempt.known);
        let promised = promised.map(|p| p + fence_with_margin(Duration::ZERO));
        match (own, promised) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Draws the conclusions that stay drawn. `hold` is asked when the car has newly fallen silent, with the moment: until
    /// when is nothing to be concluded from it?
    pub fn settle(&mut self, now: Boottime, hold: impl FnOnce(Boottime) -> Option<Boottime>) {
        let silent_from = self.silent_from();
        let mut fell_silent = false;
        if now < silent_from {
            if self.suspected && self.busy() {
                self.came_back(now);
            }
            // However it is heard again: by a new connection, or by the one that never broke.
            if (self.suspected || self.held) && !self.attempts.is_empty() {
                self.returned_at = Some(now);
            }
            self.suspected = false;
            self.held = false;
            self.held_until = None;
        } else if !self.suspected {
            // A car that said it would go is expected to fall silent: it tells nothing about us.
            let expected = !matches!(self.standing, Standing::Available | Standing::Paused);
            // One that is held has been asked for.
            self.held_until = (!expected && !self.held)
                .then(|| hold(silent_from))
                .flatten()
                .filter(|until| now < *until);
            fell_silent = self.held_until.is_none();
        }
        let silent = self.suspected || fell_silent;
        if self.judgement().is_yes() && !silent {
            self.eligible_at = Some(now);
        }
        let heard = self.open() && !silent;
        let willing = self.willing();
        let open = self.open();
        let confirmed = self.confirmed.filter(|_| open);
        let fences: Vec<_> = self
            .attempts
            .iter()
            .map(|(uid, a)| (uid.clone(), self.fence_at(a)))
            .collect();
        for (uid, fence) in fences {
            self.with(&uid, |a| {
                let fence_passed = silent && fence.is_some_and(|at| now >= at);
                a.settle(fence_passed, confirmed, heard, willing, silent);
            });
        }
        if now >= silent_from && !self.suspected {
            // By what is at stake when everything else is concluded: an attempt that has just turned out to be lost holds no car.
            self.held = fell_silent && self.braked && self.willing() && self.at_stake(now);
            self.suspected = fell_silent && !self.held;
        }
        // Without its Pod, an attempt matters only while a car that can be told holds it.
        let synced = self.pods_synced;
        self.attempts
            .retain(|_, a| a.pod.is_some() || (open && a.known) || !synced);
    }

    /// Whether the vehicle is eligible: parked by its own word, and every term says yes.
    pub(super) fn judgement(&self) -> Judgement {
        let Some(terms) = &self.terms else {
            return Judgement::no("TermsUnknown", "the Vehicle or its pool has not been read yet");
        };
        if terms.revoked {
            return Judgement::no("Revoked", "the vehicle is revoked");
        }
        match self.standing {
            Standing::Leaving { .. } => Judgement::no(reason::VEHICLE_LEAVING, "the vehicle is leaving"),
            Standing::Away => Judgement::no("VehicleAway", "the vehicle is away"),
            Standing::Available | Standing::Paused => terms.eligible.clone(),
        }
    }
}

impl Attempt {
    fn settle(&mut self, fence_passed: bool, confirmed: Option<Boottime>, heard: bool, willing: bool, silent: bool) {
        if self.refusal.is_none()
            && let Some(report) = &self.report
            && report.phase == AttemptPhase::Refused
        {
            self.refusal = Some(Refusal {
                reason: report.reason.clone(),
                message: report.message.clone(),
            });
        }
        let Some(pod) = &self.pod else { return };
        let (over, job) = (pod.phase.is_terminal() && pod.stopped, pod.kind == PodKind::FleetJob);
        if over || self.refusal.is_some() {
            return;
        }
        // One that was never sent can be fenced too: nobody runs it, and its Pod must not wait for ever.
        if fence_passed && !self.lost_by_car && !self.ended() {
            self.fenced = true;
        }
        let unknown = !self.known && self.told.run.is_none();
        if unknown && confirmed.is_some_and(|at| at > self.since) {
            // The car has said all it knows, on a connection that it has had since this one was seen, and it does not know this one.
            if self.taken() {
                self.lost_by_car = true;
            }
            self.maybe_running = false;
        }
        let unsent = !self.maybe_running && !self.taken() && !self.terminal() && !self.fenced;
        if heard && unknown && unsent && !willing {
            let message = "the vehicle left before it was asked to run this Pod".to_owned();
            self.refusal = Some(Refusal {
                reason: reason::NOT_PARKED.to_owned(),
                message,
            });
        }
        if silent && unsent && job {
            let message = "the vehicle was not heard when this Pod came to it, and was not asked to run it".to_owned();
            self.refusal = Some(Refusal {
                reason: reason::VEHICLE_UNHEARD.to_owned(),
                message,
            });
        }
    }
}
