//! A replica of the adapter: its caches, its life among others, and the requests of its actors, as virtual-kubelet has them.
//!
//! What it knows ends with its process; what it has asked of the API server arrives all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Twist;
use super::api::{Answer, Api, Call, Change, Pod, Vehicle};
use super::link::{Arrival, Links, Up};
use super::time::{Ms, NEVER, Ticks};
use super::vehicle_actor::{Actor, Around};
use crate::clock::Boottime;
use crate::ids::PodUid;
use crate::vehicle::NodeState;

/// virtual-kubelet's figures: `replica.rs`, `proof.rs`, `context.rs`.
const RENEW_EVERY: Ms = 3_000;
const EXPIRES_AFTER: Duration = Duration::from_secs(18);
const BLIND_AFTER: Duration = Duration::from_secs(10);
const DOUBT_AFTER: Duration = Duration::from_secs(12);
const PATIENCE: Ms = 5_000;

/// A request that was not answered in time.
#[derive(Debug)]
pub(super) struct Unanswered;

/// A request that is on its way.
#[derive(Debug)]
pub(super) struct Job {
    number: Option<u64>,
    answered: Ms,
    given_up: Ms,
    pub(super) sent: Boottime,
}

/// How a replica reaches the API server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// It does not.
    pub(super) cut_off: bool,
    /// How much later it sees what is written.
    pub(super) lag: Ms,
    /// How long a request takes to arrive.
    pub(super) write: Ms,
}

impl Job {
    pub(super) fn send(now: Ms, sent: Boottime, reach: Reach, api: &mut Api, call: Call) -> Self {
        let arrives = now + reach.write;
        Self {
            number: (!reach.cut_off).then(|| api.request(arrives, call)),
            answered: arrives + reach.write,
            given_up: now + PATIENCE,
            sent,
        }
    }

    /// What became of it: nothing yet, no answer in time, or an answer.
    pub(super) fn poll(&self, now: Ms, reach: Reach, api: &mut Api) -> Option<Result<Answer, Unanswered>> {
        if now >= self.given_up {
            return Some(Err(Unanswered));
        }
        let number = self.number.filter(|_| !reach.cut_off && now >= self.answered)?;
        api.answer(number).map(Ok)
    }

    pub(super) fn next(&self, reach: Reach) -> Ms {
        if reach.cut_off || self.number.is_none() {
            self.given_up
        } else {
            self.answered.min(self.given_up)
        }
    }
}

/// What the watches have shown.
#[derive(Debug, Default)]
pub(super) struct Cache {
    seen: usize,
    pub(super) synced: bool,
    pub(super) pods: BTreeMap<PodUid, Pod>,
    pub(super) vehicles: Vec<Vehicle>,
    pub(super) nodes: Vec<Option<NodeState>>,
}

impl Cache {
    fn list(&mut self, api: &Api) {
        self.seen = api.log.len();
        self.synced = true;
        self.pods.clone_from(&api.pods);
        self.vehicles.clone_from(&api.vehicles);
        self.nodes.clone_from(&api.nodes);
    }

    /// Takes in what can be seen by now; whether anything was.
    fn watch(&mut self, now: Ms, reach: Reach, api: &Api) -> bool {
        if reach.cut_off {
            return false;
        }
        if !self.synced {
            self.list(api);
            return true;
        }
        let before = self.seen;
        while let Some((_, change)) = api.log.get(self.seen).filter(|(at, _)| at + reach.lag <= now) {
            self.seen += 1;
            match change {
                Change::Pod(uid, None) => {
                    self.pods.remove(uid);
                }
                Change::Pod(uid, Some(pod)) => {
                    if self.pods.get(uid).is_none_or(|known| known.version < pod.version) {
                        self.pods.insert(uid.clone(), pod.clone());
                    }
                }
                Change::Vehicle(car, vehicle) => self.observe_vehicle(*car, vehicle),
                Change::Node(car, node) => self.nodes[*car].clone_from(node),
            }
        }
        self.seen > before
    }

    fn next(&self, reach: Reach, api: &Api) -> Ms {
        if reach.cut_off {
            NEVER
        } else if self.synced {
            api.log.get(self.seen).map_or(NEVER, |(at, _)| at + reach.lag)
        } else {
            0
        }
    }

    pub(super) fn observe_vehicle(&mut self, car: usize, vehicle: &Vehicle) {
        if self.vehicles[car].version < vehicle.version {
            self.vehicles[car] = vehicle.clone();
        }
    }

    /// The answer to a write: not of a Pod that the watch shows no more.
    pub(super) fn observe_pod(&mut self, pod: &Pod) {
        if let Some(known) = self
            .pods
            .get_mut(&pod.attempt.uid)
            .filter(|known| known.version < pod.version)
        {
            *known = pod.clone();
        }
    }
}

/// Whether this replica may still take its vehicles for its own.
#[derive(Debug, Default)]
pub(super) struct Proof {
    renewed_at: Option<Boottime>,
    others: bool,
}

impl Proof {
    pub(super) fn is_doubtful(&self, now: Boottime) -> bool {
        self.others && self.renewed_at.is_some() && !self.is_fresh(now)
    }

    pub(super) fn is_fresh(&self, now: Boottime) -> bool {
        self.renewed_at.is_some_and(|at| now.since(at) <= DOUBT_AFTER)
    }
}

/// Which replicas are seen to live.
#[derive(Debug, Default)]
struct Watchman {
    seen: BTreeMap<usize, (u64, Boottime)>,
    looked_at: Boottime,
}

impl Watchman {
    fn dead(&mut self, wanted: &BTreeSet<usize>, renewals: &BTreeMap<usize, u64>, now: Boottime) -> BTreeSet<usize> {
        if now.since(self.looked_at) >= BLIND_AFTER {
            self.seen.clear();
        }
        self.looked_at = now;
        self.seen.retain(|replica, _| wanted.contains(replica));
        let mut dead = BTreeSet::new();
        for replica in wanted {
            let renewal = renewals.get(replica).copied().unwrap_or_default();
            let seen = self.seen.entry(*replica).or_insert((renewal, now));
            if seen.0 != renewal {
                *seen = (renewal, now);
            }
            if now.since(seen.1) >= EXPIRES_AFTER {
                dead.insert(*replica);
            }
        }
        dead
    }
}

/// One life of the process.
#[derive(Debug, Default)]
struct Life {
    cache: Cache,
    proof: Proof,
    watchman: Watchman,
    tend_at: Ms,
    renewal: Option<Job>,
    look: Option<Job>,
    actors: BTreeMap<usize, Actor>,
}

/// A replica.
#[derive(Debug)]
pub(super) struct Replica {
    n: usize,
    clock: Ticks,
    /// How much its wall clock is off, seconds.
    pub(super) wall: i64,
    pub(super) reach: Reach,
    life: Option<Life>,
    starts_at: Ms,
    stands_until: Ms,
    fence: Duration,
    twist: Option<Twist>,
}

impl Replica {
    pub(super) fn new(n: usize, clock: Ticks, fence: Duration, twist: Option<Twist>) -> Self {
        Self {
            n,
            clock,
            wall: 0,
            reach: Reach {
                cut_off: false,
                lag: 20,
                write: 10,
            },
            life: None,
            starts_at: 0,
            stands_until: 0,
            fence,
            twist,
        }
    }

    pub(super) fn die(&mut self, now: Ms, links: &mut Links, away: Ms) {
        if self.life.take().is_some() {
            links.replica_dies(now, self.n);
            self.starts_at = now + away;
        }
    }

    /// The process stands still.
    pub(super) fn stand(&mut self, now: Ms, time: Ms) {
        self.stands_until = self.stands_until.max(now + time);
    }

    pub(super) fn next(&self, links: &Links, api: &Api) -> Ms {
        let Some(life) = &self.life else {
            return self.starts_at.max(self.stands_until);
        };
        let watch = life.cache.next(self.reach, api);
        if !life.cache.synced {
            return watch.max(self.stands_until);
        }
        let jobs = life.renewal.iter().chain(&life.look).map(|job| job.next(self.reach));
        let tend = if life.renewal.is_none() && life.look.is_none() {
            life.tend_at
        } else {
            NEVER
        };
        let actors = life.actors.values().map(|actor| actor.next(self.clock, self.reach));
        let rest = [tend, links.next_for_replica(self.n), watch];
        let next = jobs.chain(actors).chain(rest).min().unwrap_or(NEVER);
        next.max(self.stands_until)
    }

    pub(super) fn step(&mut self, now: Ms, links: &mut Links, api: &mut Api) {
        if now < self.stands_until {
            return;
        }
        let mut life = match self.life.take() {
            Some(life) => life,
            None if now >= self.starts_at => {
                links.replica_starts(self.n);
                Life::default()
            }
            None => return,
        };
        let changed = life.cache.watch(now, self.reach, api);
        if life.cache.synced {
            self.tend(now, &mut life, api);
            self.begin(now, &mut life);
            self.hear(now, &mut life, links, api);
            self.act(now, &mut life, changed, links, api);
        }
        self.life = Some(life);
    }

    /// Shows that it lives, and adopts what those hold that do not.
    fn tend(&self, now: Ms, life: &mut Life, api: &mut Api) {
        let boot = self.clock.at(now);
        if life.renewal.is_none() && life.look.is_none() && now >= life.tend_at {
            life.renewal = Some(Job::send(now, boot, self.reach, api, Call::Renew(self.n)));
        }
        if let Some(job) = &life.renewal
            && let Some(outcome) = job.poll(now, self.reach, api)
        {
            if outcome.is_ok() {
                life.proof.renewed_at = Some(job.sent);
            }
            life.renewal = None;
            life.look = Some(Job::send(now, boot, self.reach, api, Call::Renewals));
        }
        let Some(outcome) = life.look.as_ref().and_then(|job| job.poll(now, self.reach, api)) else {
            return;
        };
        life.look = None;
        life.tend_at = now + RENEW_EVERY;
        let Ok(Answer::Renewals(renewals)) = outcome else {
            return;
        };
        let holders = life.cache.vehicles.iter().filter_map(|vehicle| vehicle.holder);
        let others: BTreeSet<_> = holders
            .chain(renewals.keys().copied())
            .filter(|r| *r != self.n)
            .collect();
        let dead = life.watchman.dead(&others, &renewals, boot);
        life.proof.others = renewals.keys().any(|r| others.contains(r) && !dead.contains(r));
        for (car, vehicle) in life.cache.vehicles.iter().enumerate() {
            if vehicle.holder.is_some_and(|replica| dead.contains(&replica)) {
                // Whatever becomes of it: the watch shows it.
                Job::send(
                    now,
                    boot,
                    self.reach,
                    api,
                    Call::Raise(car, self.n, Some(vehicle.version)),
                );
            }
        }
    }

    /// Actors of the vehicles that name this replica.
    fn begin(&self, now: Ms, life: &mut Life) {
        let boot = self.clock.at(now);
        for (car, vehicle) in life.cache.vehicles.iter().enumerate() {
            if vehicle.holder == Some(self.n) {
                let has_node = life.cache.nodes[car].is_some();
                life.actors
                    .entry(car)
                    .or_insert_with(|| Actor::new(car, self.n, vehicle, has_node, boot));
            }
        }
    }

    /// What the cars say goes to their actors.
    fn hear(&self, now: Ms, life: &mut Life, links: &mut Links, api: &mut Api) {
        let boot = self.clock.at(now);
        while let Some((over, arrival)) = links.reaches_replica(now, self.n) {
            let car = links.car(over);
            if matches!(&arrival, Arrival::Message(Up::Hello(..))) {
                let (vehicle, has_node) = (&life.cache.vehicles[car], life.cache.nodes[car].is_some());
                life.actors
                    .entry(car)
                    .or_insert_with(|| Actor::new(car, self.n, vehicle, has_node, boot));
            }
            let Some(mut actor) = life.actors.remove(&car) else {
                continue;
            };
            actor.hear(over, arrival, &mut self.around(now, life, links, api));
            life.actors.insert(car, actor);
        }
    }

    fn act(&self, now: Ms, life: &mut Life, changed: bool, links: &mut Links, api: &mut Api) {
        let cars: Vec<_> = life.actors.keys().copied().collect();
        for car in cars {
            let Some(mut actor) = life.actors.remove(&car) else {
                continue;
            };
            if changed || actor.next(self.clock, self.reach) <= now {
                actor.turn(&mut self.around(now, life, links, api));
            }
            if actor.is_over(&life.cache, self.n) {
                actor.end(now, links);
            } else {
                life.actors.insert(car, actor);
            }
        }
    }

    fn around<'a>(&self, now: Ms, life: &'a mut Life, links: &'a mut Links, api: &'a mut Api) -> Around<'a> {
        Around {
            replica: self.n,
            now,
            boot: self.clock.at(now),
            wall: self.wall,
            reach: self.reach,
            fence: self.fence,
            twist: self.twist,
            cache: &mut life.cache,
            proof: &life.proof,
            links,
            api,
        }
    }
}
