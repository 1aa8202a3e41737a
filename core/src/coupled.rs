//! The machines of the car, the link, the adapter and the operator over one API, with every fault that they are made for.
//!
//! Each machine alone is tested beside it; here is what only holds between them. Time is simulated, and the clocks of the machines run
//! apart. The truth is the programs that are alive in cars. What must never happen: two live programs of one index of a WhenFenced
//! job, a second accepted result of an index, an end that is not one any more; nor a job that does not end once all is well.
//!
//! `car`, `agent`, `attempt` are a car; `link` the way; `adapter`, `vehicle_actor` a replica of virtual-kubelet; `operator` the
//! operator; `api` the cluster. The brake is left out: there are too few cars. They carry out what the product's own decisions say, as the product's actors do.

mod adapter;
mod agent;
mod api;
mod attempt;
mod car;
mod link;
mod operator;
mod properties;
mod time;
mod vehicle_actor;

use std::collections::BTreeMap;
use std::time::Duration;

use adapter::Replica;
use api::{Api, index_of};
use car::{Car, Machine};
use link::Links;
use operator::Operator;
use time::{Ms, Ticks};

use crate::ids::{PodUid, VehicleId};
use crate::job::{self, JobSpec, OnLoss, Phase, Stopped};
use crate::parked::Verdict;

/// A mistake that is built in, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Twist {
    /// The car counts its fence from the receipt of an acknowledgement.
    CarCountsFromReceipt,
    /// The guard does nothing.
    GuardSleeps,
    /// The adapter's fence has no margin.
    NoMargin,
    /// A replica that may have been adopted from puts off fences, and says that it can prove itself.
    CutOffProves,
    /// An end is written over whatever is there.
    EndsWithoutPrecondition,
    /// The operator replaces what is lost before it is fenced.
    ReplacesBeforeFence,
    /// A result is accepted whether or not there is one.
    AcceptsWithoutCheck,
}

fn vehicle_id(car: usize) -> VehicleId {
    VehicleId::from_random([u8::try_from(car).unwrap(); 10])
}

/// What a world is made of.
#[derive(Debug, Clone)]
struct Frame {
    on_loss: OnLoss,
    completions: u32,
    parallelism: u32,
    /// How long an attempt may run unheard, seconds.
    fence: u64,
    /// How much the clocks of the cars, and then of the replicas, are too fast, in millionths.
    drift: [i64; CARS + REPLICAS],
}

const CARS: usize = 3;
const REPLICAS: usize = 2;

/// Everything.
#[derive(Debug)]
struct World {
    now: Ms,
    on_loss: OnLoss,
    api: Api,
    links: Links,
    cars: Vec<Car>,
    replicas: Vec<Replica>,
    operator: Operator,
    /// Steps that were taken at this moment.
    steps: u32,
}

impl World {
    fn new(frame: &Frame, twist: Option<Twist>) -> Self {
        let fence = Duration::from_secs(frame.fence);
        let ticks = |n: usize| {
            Ticks::new(
                Duration::from_secs(1000 * u64::try_from(n + 1).unwrap()),
                frame.drift[n],
            )
        };
        let machine = |n: usize| Machine {
            n,
            clock: ticks(n),
            slept: Duration::ZERO,
            wall: 0,
            verdict: Verdict::Parked { may_start: true },
            journal: BTreeMap::new(),
            journal_takes: 0,
            journal_broken: false,
            programs: BTreeMap::new(),
            work: None,
            stubborn: false,
            route: n % REPLICAS,
            fence,
            once: frame.on_loss == OnLoss::WhenFenced,
            twist,
        };
        let spec = JobSpec {
            uid: "job".parse().unwrap(),
            completions: frame.completions,
            parallelism: frame.parallelism,
            backoff_limit_per_index: None,
            max_failed_indexes: None,
            max_disruptions_per_index: None,
            active_deadline: None,
            ttl: None,
            suspend: false,
            deleting: false,
            on_loss: frame.on_loss,
        };
        Self {
            now: 0,
            on_loss: frame.on_loss,
            api: Api::new(CARS, twist),
            links: Links::new(CARS, REPLICAS),
            cars: (0..CARS).map(|n| Car::new(machine(n))).collect(),
            replicas: (0..REPLICAS)
                .map(|n| Replica::new(n, ticks(CARS + n), fence, twist))
                .collect(),
            operator: Operator::new(spec, CARS),
            steps: 0,
        }
    }

    /// Lets time pass, and all that is due in it happen.
    fn pass(&mut self, time: Ms) -> Result<(), String> {
        let until = self.now + time;
        self.step()?;
        loop {
            let next = self.next().max(self.now);
            if next > until {
                break;
            }
            self.steps = if next == self.now { self.steps + 1 } else { 0 };
            if self.steps > 200 {
                return Err(format!("somebody is never done at {} ms", self.now));
            }
            self.now = next;
            self.step()?;
        }
        self.now = until;
        Ok(())
    }

    fn next(&self) -> Ms {
        let cars = self.cars.iter().map(|car| car.next(&self.links));
        let replicas = self.replicas.iter().map(|replica| replica.next(&self.links, &self.api));
        let rest = [self.api.next(), self.operator.next(&self.api)];
        cars.chain(replicas).chain(rest).min().unwrap_or(self.now)
    }

    fn step(&mut self) -> Result<(), String> {
        let now = self.now;
        self.api.step(now);
        for car in &mut self.cars {
            if car.next(&self.links) <= now {
                car.step(now, &mut self.links);
            }
        }
        self.check()?;
        for replica in &mut self.replicas {
            if replica.next(&self.links, &self.api) <= now {
                replica.step(now, &mut self.links, &mut self.api);
            }
        }
        if self.operator.next(&self.api) <= now {
            self.operator.step(now, &mut self.api);
        }
        self.api.broken.take().map_or(Ok(()), Err)
    }

    /// The attempts whose programs are alive.
    fn live(&self) -> Vec<(usize, PodUid)> {
        let cars = self.cars.iter().enumerate();
        cars.flat_map(|(n, car)| car.live().map(move |uid| (n, uid.clone())))
            .collect()
    }

    fn check(&self) -> Result<(), String> {
        let mut alive: BTreeMap<u32, &PodUid> = BTreeMap::new();
        let live = self.live();
        for (car, uid) in &live {
            let pod = self.api.pods.get(uid).map(|pod| &pod.attempt);
            // The time of one that may run twice can be over without its end being certain: a replica that is cut off keeps it alive.
            let ended = |attempt: &job::Attempt| match attempt.stopped {
                Some(Stopped::Reported) => true,
                Some(Stopped::Fenced) => self.on_loss == OnLoss::WhenFenced,
                None => attempt.phase == Phase::Succeeded,
            };
            if pod.is_some_and(ended) {
                let at = self.now;
                return Err(format!(
                    "{uid} is said to have stopped and is alive in car {car} at {at} ms"
                ));
            }
            let other = alive.insert(index_of(uid), uid);
            if let Some(other) = other.filter(|_| self.on_loss == OnLoss::WhenFenced) {
                return Err(format!("{other} and {uid} are alive at {} ms", self.now));
            }
        }
        Ok(())
    }

    /// From here on all is well, and the job must end.
    fn settle(&mut self) -> Result<(), String> {
        for (n, car) in self.cars.iter_mut().enumerate() {
            let machine = &mut car.machine;
            machine.verdict = Verdict::Parked { may_start: true };
            (machine.journal_takes, machine.journal_broken, machine.stubborn) = (0, false, false);
            machine.let_work(self.now, 2_000);
            let way = &mut self.links.ways[n];
            (way.up, way.down, way.held) = (20, 20, false);
        }
        for replica in &mut self.replicas {
            replica.wall = 0;
            let reach = &mut replica.reach;
            (reach.cut_off, reach.lag, reach.write) = (false, 20, 10);
        }
        self.api.store_down = false;
        let operator = &mut self.operator;
        (operator.lag, operator.slow, operator.wall, operator.dies) = (20, 10, 0, None);
        for _ in 0..PATIENCE {
            if self.api.ledger.is_finished() {
                // And stays so.
                return self.pass(60_000);
            }
            self.pass(10_000)?;
        }
        Err(format!("the job does not end: {self:#?}"))
    }
}

/// How long a job may take once all is well, in tens of seconds.
const PATIENCE: u32 = 360;
