//! One task per vehicle that owns everything about it: it folds what happens into the facts, and brings the world to what they say.
//!
//! Begun by the fleet. Each turn is the same: take in all that waits, read what changed, ask the machine what should be, tell the car, and
//! write where the API differs. Nothing in a turn waits for the network: each write is a job of its own, at most one per object, so
//! heartbeats and stops never wait behind a slow API server. Nothing is queued: what was not written yet is computed anew.

mod attempts;
mod braking;
mod giving;
mod jobs;
mod writes;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kerbside_api::v1alpha1::{Offer, Vehicle, VehiclePhase};
use kerbside_core::backoff::Backoff;
use kerbside_core::clock::Boottime;
use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_core::vehicle::{Desired, Event, Facts, Hearing, Phase, RECONNECT_WINDOW, Standing};
use kerbside_link::fault::Fault;
use kerbside_link::proto;
use kerbside_link::server::{Arrival, FromCar, Greeting, Refusal, SessionHandle};
use tokio::sync::oneshot;
use tokio::time::timeout;

use self::jobs::{Done, Job, Key, Outcome};
use crate::connection;
use crate::context::{Context, PATIENCE};
use crate::events;
use crate::fleet::{Ends, INBOX, Message};
use crate::metrics::{PhaseLabel, PoolLabel, WriteLabel};
use crate::offer;
use crate::pod_status::FirstHeard;
use crate::terms::{Pool, terms};
use crate::twins::Twins;

/// A turn this much later than planned means that this process stood still, and everybody looks silent who is not.
const STALLED: Duration = Duration::from_secs(2);
/// After having stood still, the messages that wait in the sockets are read first.
const CATCH_UP: Duration = Duration::from_secs(3);
/// For so long a car that is asked to come again and again is taken to be well: the longest appointment, several times.
const LATER_FOR: Duration = Duration::from_mins(10);

/// A watch shows a write within milliseconds; after this long it is worth a second look.
const WATCH_LAG: Duration = Duration::from_secs(1);

/// A failure this long ago no longer lengthens the next wait.
const FORGET_FAILURE: Duration = Duration::from_mins(1);

/// What is known of the car beside the machine's facts.
#[derive(Debug, Clone, Default)]
struct Car {
    /// The newest offer of a car that works; a car that leaves or is away says nothing worth showing.
    offer: Offer,
    os: String,
    agent: Option<String>,
    /// What is wrong with its own state, as it said last.
    fault: Option<&'static str>,
}

/// What the metrics count this vehicle as.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counted {
    pool: String,
    phase: Phase,
    connected: bool,
    suspected: bool,
    attempts: i64,
}

/// One vehicle.
pub(crate) struct Actor {
    id: VehicleId,
    context: Arc<Context>,
    ends: Ends,
    facts: Facts,
    vehicle: Option<Arc<Vehicle>>,
    pool: Option<Arc<Pool>>,
    /// The offer for which the terms were last judged; None: anything they depend on has changed.
    judged: Option<Offer>,
    car: Car,
    session: Option<(u64, SessionHandle)>,
    /// Which start of an agent the newest session is of.
    instance: String,
    twins: Twins,
    /// By the wall clock, for what people read.
    heard_at: Timestamp,
    /// Each Pod as it was last folded in.
    pods: HashMap<PodUid, Arc<Pod>>,
    /// Each attempt's newest status, as the car sent it.
    said: HashMap<PodUid, proto::AttemptStatus>,
    first_heard: HashMap<PodUid, FirstHeard>,
    /// When each attempt's Run was first sent, until it runs.
    asked: HashMap<PodUid, Boottime>,
    /// What gives the vehicle what its Pods refer to.
    providers: HashMap<PodUid, giving::Given>,
    /// Refusals that an Event has told.
    announced: HashSet<PodUid>,
    lease: writes::LeaseState,
    jobs: FuturesUnordered<Job>,
    at_work: HashSet<Key>,
    failures: HashMap<Key, (u32, Boottime)>,
    stalled_until: Option<Boottime>,
    /// When the car was first asked to come again later, since it was greeted last.
    asked_later: Option<Boottime>,
    /// The pool whose brake knows that this car is not heard.
    quiet_in: Option<String>,
    /// When the brake wants to be asked again.
    ask_at: Option<Boottime>,
    counted: Option<Counted>,
    synced: bool,
    /// This replica has been named in the Vehicle since the actor began.
    owned: bool,
    /// It has tried to have this replica named there.
    tried: bool,
    /// With which this replica was named last, as far as seen.
    epoch: Option<u64>,
    lost: bool,
    events: u64,
}

impl Actor {
    pub(crate) fn new(id: VehicleId, context: Arc<Context>, ends: Ends) -> Self {
        let vehicle = context.roster.vehicle(id.as_str());
        let status = vehicle.as_ref().and_then(|v| v.status.as_ref());
        let standing = match status.map(|s| s.phase) {
            Some(VehiclePhase::Available) => Standing::Available,
            Some(VehiclePhase::Leaving) => Standing::Leaving { notice: Duration::ZERO },
            Some(VehiclePhase::Away) | None => Standing::Away,
        };
        let car = Car {
            offer: status.map(|s| s.offer.clone()).unwrap_or_default(),
            os: "linux".to_owned(),
            agent: status.and_then(|s| s.agent_version.clone()),
            fault: None,
        };
        let has_node = context.nodes.by_name("", id.as_str()).is_some();
        let epoch = vehicle.as_ref().and_then(|v| connection::epoch_of(v, &context.replica));
        let (now, heard_at) = (context.clock.boottime(), context.clock.wall());
        Self {
            id,
            context,
            ends,
            facts: Facts::new(standing, has_node, now),
            vehicle,
            pool: None,
            judged: None,
            car,
            session: None,
            instance: String::new(),
            twins: Twins::default(),
            heard_at,
            pods: HashMap::new(),
            said: HashMap::new(),
            first_heard: HashMap::new(),
            asked: HashMap::new(),
            providers: HashMap::new(),
            announced: HashSet::new(),
            lease: writes::LeaseState::default(),
            jobs: FuturesUnordered::new(),
            at_work: HashSet::new(),
            failures: HashMap::new(),
            stalled_until: None,
            asked_later: None,
            quiet_in: None,
            ask_at: None,
            counted: None,
            synced: false,
            owned: false,
            tried: false,
            epoch,
            lost: false,
            events: 0,
        }
    }

    /// Runs until the vehicle is gone or another's, or the adapter has ended. One that is ending looks after its cars until they have gone
    /// elsewhere: what they say is acknowledged, so no fence passes, and their Nodes are renewed.
    pub(crate) async fn run(mut self) {
        tracing::debug!(vehicle.id = %self.id, "a vehicle's actor begins");
        loop {
            let wake_at = self.turn();
            if self.is_over() {
                break;
            }
            let now = self.context.clock.boottime();
            let pause = wake_at.map_or(Duration::from_hours(1), |at| at.since(now));
            let wake = Arc::clone(&self.ends.wake);
            tokio::select! {
                biased;
                () = self.ends.stop.cancelled() => break,
                // Before the messages: a job holds a place in a lane that all vehicles share, and a car that says more than it should must not keep it
                // from being given back.
                Some(done) = self.jobs.next() => self.finish(done),
                message = self.ends.inbox.recv() => match message {
                    Some(message) => self.take_in(message),
                    None => break,
                },
                () = wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
            self.check_stall(wake_at);
        }
        self.count(None);
        self.heard_by_the_brake();
        if let Some((_, session)) = self.session.take().filter(|_| self.lost) {
            session.close(Fault::conflict("the vehicle belongs to another adapter or is gone"));
        }
        tracing::debug!(vehicle.id = %self.id, "a vehicle's actor ended");
    }

    /// The Vehicle is gone, or its car has connected to another replica since.
    fn is_over(&mut self) -> bool {
        self.lost = match &self.vehicle {
            None => true,
            // One that could not get hold of the vehicle must not stay and count the fences of what runs for others.
            Some(_) => (self.owned || self.tried) && !self.is_ours() && !self.at_work.contains(&Key::Claim),
        };
        self.lost
    }

    /// The Vehicle names this replica. Nothing is written for a vehicle that does not.
    fn is_ours(&self) -> bool {
        let vehicle = self.vehicle.as_ref();
        vehicle.is_some_and(|v| connection::is_held_by(v, &self.context.replica))
    }

    /// Silence until then means nothing; what was longer stays.
    fn put_up_with_silence(&mut self, until: Boottime) {
        self.stalled_until = self.stalled_until.max(Some(until));
    }

    fn check_stall(&mut self, wake_at: Option<Boottime>) {
        let now = self.context.clock.boottime();
        if wake_at.is_some_and(|at| now.since(at) > STALLED) {
            tracing::warn!(vehicle.id = %self.id, "this adapter stood still; silence in that time means nothing");
            self.put_up_with_silence(now + CATCH_UP);
        }
    }

    fn take_in(&mut self, message: Message) {
        self.fold(message);
        // As many as there may wait: more come in the next turn.
        for _ in 0..INBOX {
            let Ok(message) = self.ends.inbox.try_recv() else {
                return;
            };
            self.fold(message);
        }
    }

    fn step(&mut self, event: Event) {
        self.facts.step(event, self.context.clock.boottime());
    }

    fn fold(&mut self, message: Message) {
        match message {
            Message::Connected(arrival, reply) => self.claim(arrival, reply),
            Message::Disconnected(epoch) => {
                if self.session.as_ref().is_some_and(|(e, _)| *e == epoch) {
                    self.session = None;
                    self.ends.session.send_replace(None);
                    if self.ends.drain.is_cancelled() {
                        // We sent it away; it has time to come to another adapter.
                        self.put_up_with_silence(self.context.clock.boottime() + RECONNECT_WINDOW);
                    }
                }
                self.step(Event::Closed(epoch));
            }
            Message::Later(delay) => {
                // It is well, and silent because we asked for it: until it has come again, stretched its wait, and found an answer.
                let now = self.context.clock.boottime();
                let back = now + delay.mul_f64(1.5) + PATIENCE;
                // One that only ever knocks is not well for ever.
                let first = *self.asked_later.get_or_insert(now);
                if now.since(first) < LATER_FOR {
                    self.put_up_with_silence(back);
                }
            }
            Message::Sealed(uid) => self.step(Event::Sealed(uid, true)),
            Message::Said(epoch, said, at) => {
                if self.session.as_ref().is_some_and(|(e, _)| *e == epoch) {
                    self.heard(*said, at);
                }
            }
        }
    }

    fn heard(&mut self, said: FromCar, at: Boottime) {
        self.heard_at = self.context.clock.wall();
        match said {
            FromCar::Heartbeat { seq } => {
                // Recorded before it is acknowledged: the car counts its fences from what was acknowledged.
                self.facts.step(Event::Heard, at);
                // Not by one whose vehicles another may have adopted: that one counts the same fences.
                let (proof, now) = (&self.context.proof, self.context.clock.boottime());
                let sure = !proof.is_doubtful(now);
                if let Some((_, session)) = self.session.as_ref().filter(|_| sure) {
                    session.ack_heartbeat(seq, proof.is_fresh(now));
                }
            }
            FromCar::State(state) => {
                self.state(&state);
                self.facts.step(Event::State(offer::standing(&state)), at);
            }
            FromCar::Status(status) => {
                if let Some(report) = offer::report(&status) {
                    self.status(status, &report);
                    self.facts.step(Event::Report(report), at);
                }
            }
        }
    }

    fn state(&mut self, state: &proto::CarState) {
        self.car.fault = offer::fault(state);
        let works = matches!(offer::standing(state), Standing::Available | Standing::Paused);
        if let Some(said) = state.offer.as_ref().filter(|_| works) {
            self.car.offer = offer::offer(said);
            self.car.os = offer::os(said);
        }
    }

    /// A car has connected: raise the epoch in its Vehicle, and greet it only then.
    fn claim(&mut self, arrival: Box<Arrival>, reply: oneshot::Sender<Result<Greeting, Refusal>>) {
        if self.at_work.contains(&Key::Claim) {
            let fault = Fault::unavailable("another connection of this vehicle is being greeted; connect again");
            // An error means that this one is gone as well.
            let _ = reply.send(Err(fault.into()));
            return;
        }
        self.tried = true;
        self.start(
            Key::Claim,
            jobs::claim(Arc::clone(&self.context), self.id.clone(), arrival, reply),
        );
    }

    fn greet(&mut self, epoch: u64, arrival: Arrival, reply: oneshot::Sender<Result<Greeting, Refusal>>) {
        let Arrival { hello, session, at, .. } = arrival;
        let state = hello.state.unwrap_or_default();
        tracing::info!(vehicle.id = %self.id, epoch, agent = hello.agent_version, "a vehicle connected");
        self.look_for_a_twin(&hello.instance);
        self.heard_at = self.context.clock.wall();
        self.car.agent = Some(offer::text(&hello.agent_version));
        self.state(&state);
        let mut reports = Vec::new();
        for status in hello.attempts {
            if let Some(report) = offer::report(&status) {
                self.status(status, &report);
                reports.push(report);
            }
        }
        let was_ours = self.epoch.is_some_and(|known| known + 1 == epoch);
        if !was_ours {
            self.begin_anew();
        }
        (self.epoch, self.asked_later) = (Some(epoch), None);
        self.session = Some((epoch, session.clone()));
        self.ends.session.send_replace(Some(session));
        // The time of the arrival, but never before what was heard of an older connection.
        self.facts.step(
            Event::Connected {
                epoch,
                standing: offer::standing(&state),
                reports,
            },
            at,
        );
        self.step(Event::Greeted);
        self.context.metrics.connects.get_or_create(&self.pool_label()).inc();
        // What the car must be told goes out with the greeting. If nobody waits for it any more, Disconnected follows.
        self.turn();
        if reply.send(Ok(Greeting::new(epoch))).is_err() {
            self.fold(Message::Disconnected(epoch));
        }
    }

    /// The vehicle was another replica's since this one last had it, which this one may not have seen: whatever it has concluded from
    /// silence is void, as after a restart.
    fn begin_anew(&mut self) {
        let has_node = self.context.nodes.by_name("", self.id.as_str()).is_some();
        self.facts = Facts::new(self.facts.standing(), has_node, self.context.clock.boottime());
        self.pods.clear();
        (self.judged, self.synced) = (None, false);
        self.lease = writes::LeaseState::default();
        self.read();
    }

    /// Before this session takes the place of the one that is there: does another car use the same identity?
    fn look_for_a_twin(&mut self, instance: &str) {
        let known = std::mem::replace(&mut self.instance, offer::text(instance));
        let alive = self.session.as_ref().is_some_and(|(_, session)| !session.is_closed());
        if alive && known != self.instance && self.twins.replaced(self.context.clock.boottime()) {
            tracing::warn!(vehicle.id = %self.id, "two cars take turns with the identity of one vehicle");
            self.publish_about_vehicle(events::identity_in_use_twice());
        }
    }

    /// One turn; when the next is due if nothing happens.
    fn turn(&mut self) -> Option<Boottime> {
        self.read();
        let mut desired = self.settle();
        // Verdicts and holds change what should be; each is given once, so this ends.
        while self.judge(&desired) | self.hold(&desired) {
            desired = self.settle();
        }
        while self.tell(&desired) {
            desired = self.settle();
        }
        self.give();
        self.owned |= self.is_ours();
        self.count(self.owned.then_some(&desired));
        let now = self.context.clock.boottime();
        self.failures.retain(|_, (_, at)| now.since(*at) < FORGET_FAILURE);
        let due = if self.is_ours() { self.write(&desired) } else { None };
        let retry = self.failures.values().map(|(_, at)| *at).filter(|at| *at > now).min();
        [desired.wake_at, due, retry, self.ask_at].into_iter().flatten().min()
    }

    /// Reads what the watches show and folds in what changed.
    fn read(&mut self) {
        let vehicle = self.context.roster.vehicle(self.id.as_str());
        let pool = vehicle.as_ref().and_then(|v| self.context.roster.pool(&v.spec.pool));
        let same = same(vehicle.as_ref(), self.vehicle.as_ref()) && same(pool.as_ref(), self.pool.as_ref());
        (self.vehicle, self.pool) = (vehicle, pool);
        // Judging costs more than all the rest of a heartbeat's turn.
        if !same || self.judged.as_ref() != Some(&self.car.offer) {
            self.judged = Some(self.car.offer.clone());
            let terms = self
                .vehicle
                .as_ref()
                .map(|v| terms(v, self.pool.as_deref(), &self.car.offer));
            if let Some(terms) = terms {
                self.step(Event::Terms(terms));
            }
        }
        self.read_pods();
        if !self.synced && self.context.is_synced() {
            self.synced = true;
            self.step(Event::PodsSynced);
        }
    }

    fn settle(&mut self) -> Desired {
        let now = self.context.clock.boottime();
        if self.context.proof.is_doubtful(now) {
            // Its cars hear nothing from it any more and look for another. If it becomes sure again, they have time to come back.
            self.put_up_with_silence(now + RECONNECT_WINDOW);
        }
        let stalled = self.stalled_until.filter(|until| now < *until);
        let wait = self.ask_the_brake(now, stalled.is_some());
        let (was_suspected, was_held) = (self.facts.suspected(), self.facts.held());
        self.facts.settle(now, |_| wait.max(stalled));
        let (suspected, held) = (self.facts.suspected(), self.facts.held());
        if suspected != was_suspected {
            tracing::info!(vehicle.id = %self.id, suspected, "a vehicle is suspected, or heard again");
        }
        if held != was_held {
            tracing::info!(vehicle.id = %self.id, held, "a silent vehicle's attempts are held, or no longer");
        }
        self.facts.desired(now)
    }

    fn pool_name(&self) -> String {
        self.vehicle.as_ref().map(|v| v.spec.pool.clone()).unwrap_or_default()
    }

    fn pool_label(&self) -> PoolLabel {
        PoolLabel { pool: self.pool_name() }
    }

    /// Begins a job, unless one for the same object is at work or the last one failed just now.
    fn start(&mut self, key: Key, job: Job) {
        if self.at_work.insert(key.clone()) {
            let context = Arc::clone(&self.context);
            let bounded = async move {
                let _place = context.gate.enter(key.lane()).await;
                let failed = Done {
                    key,
                    outcome: Outcome::Failed,
                };
                timeout(PATIENCE, job).await.unwrap_or(failed)
            };
            self.jobs.push(bounded.boxed());
        }
    }

    /// Whether a job for this object may begin now.
    fn free(&self, key: &Key) -> bool {
        let now = self.context.clock.boottime();
        !self.at_work.contains(key) && self.failures.get(key).is_none_or(|(_, at)| *at <= now)
    }

    fn finish(&mut self, done: Done) {
        let Done { key, outcome } = done;
        self.at_work.remove(&key);
        self.tally(&key, &outcome);
        match outcome {
            Outcome::Claimed(epoch, arrival, reply) if arrival.session.is_closed() => {
                // It has not been here: nothing is opened, and nothing ends. But another replica may have acknowledged it until this claim.
                if self.epoch.is_none_or(|known| known + 1 != epoch) {
                    self.begin_anew();
                }
                self.epoch = Some(epoch);
                let _ = reply.send(Err(jobs::gone().into()));
            }
            Outcome::Claimed(epoch, arrival, reply) => self.greet(epoch, *arrival, reply),
            Outcome::Written => {}
            Outcome::Sent => {
                // Not again before the watch has had time to show it.
                self.failures
                    .insert(key, (0, self.context.clock.boottime() + WATCH_LAG));
                return;
            }
            Outcome::Looked(sealed) => {
                if let Key::Output(uid) = &key {
                    self.step(Event::Sealed(uid.clone(), sealed));
                }
            }
            Outcome::Renewed(sent) => self.lease.renewed(sent),
            Outcome::Stale => {
                if key == Key::Lease {
                    self.lease.taken();
                }
                self.put_off(
                    key,
                    Backoff {
                        base: Duration::from_millis(50),
                        ..Backoff::CALL
                    },
                );
                return;
            }
            Outcome::Failed => {
                self.put_off(key, Backoff::CALL);
                return;
            }
        }
        self.failures.remove(&key);
    }

    fn put_off(&mut self, key: Key, backoff: Backoff) {
        let now = self.context.clock.boottime();
        let entry = self.failures.entry(key).or_insert((0, now));
        entry.0 = entry.0.saturating_add(1);
        entry.1 = now + backoff.jittered(entry.0, rand::random());
    }

    fn tally(&self, key: &Key, outcome: &Outcome) {
        let metrics = &self.context.metrics;
        let family = match key {
            Key::Pod(_) => &metrics.pod_status_writes,
            Key::Delete(_) => &metrics.pod_deletes,
            Key::Node => &metrics.node_writes,
            Key::Vehicle | Key::Claim => &metrics.vehicle_writes,
            Key::Lease => &metrics.lease_renewals,
            Key::Output(_) | Key::Event(_) => return,
        };
        family
            .get_or_create(&WriteLabel {
                pool: self.pool_name(),
                outcome: outcome.label(),
            })
            .inc();
    }

    /// Keeps the gauges right: the vehicle is counted as one thing at a time, and as nothing once its actor has ended.
    fn count(&mut self, desired: Option<&Desired>) {
        let new = desired.map(|d| Counted {
            pool: self.pool_name(),
            phase: d.phase,
            connected: self.session.is_some(),
            suspected: matches!(d.heard, Some(Hearing::Held | Hearing::Unheard)),
            attempts: i64::try_from(d.pods.values().filter(|p| !p.phase.is_terminal()).count()).unwrap_or(i64::MAX),
        });
        if new == self.counted {
            return;
        }
        if let Some(old) = &self.counted {
            self.add(old, -1);
        }
        if let Some(new) = &new {
            self.add(new, 1);
        }
        self.counted = new;
    }

    fn add(&self, what: &Counted, sign: i8) {
        let (metrics, pool) = (
            &self.context.metrics,
            PoolLabel {
                pool: what.pool.clone(),
            },
        );
        let phase = PhaseLabel {
            pool: what.pool.clone(),
            phase: what.phase.as_str(),
        };
        metrics.vehicles.get_or_create(&phase).inc_by(i64::from(sign));
        metrics
            .connected
            .get_or_create(&pool)
            .inc_by(i64::from(sign) * i64::from(what.connected));
        metrics
            .suspected
            .get_or_create(&pool)
            .inc_by(i64::from(sign) * i64::from(what.suspected));
        metrics
            .attempts
            .get_or_create(&pool)
            .inc_by(i64::from(sign) * what.attempts);
        if what.phase == Phase::Available {
            self.context.brakes.count(&what.pool, isize::from(sign));
        }
    }
}

fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}
