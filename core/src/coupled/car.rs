//! A car: its clocks, its power, its programs, its guard and its journal; and the agent that comes and goes.
//!
//! The programs are the truth of the world: one is live from its start until it has ended, or what it ran in has.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Twist;
use super::agent::Agent;
use super::link::Links;
use super::time::{Ms, NEVER, Ticks};
use crate::attempt::{ContainerPlan, Exit, Now, Plan, Record, Restart, Role};
use crate::clock::Boottime;
use crate::guard::{self, Guard};
use crate::ids::PodUid;
use crate::parked::Verdict;

/// An agent that ended is started again after so long.
const RESTART: Ms = 2_000;
/// A program that is killed is gone after so long.
const DEATH: Ms = 400;

/// A program that is alive.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// When it ends, and how.
    ends: Option<(Ms, i32)>,
}

/// Everything of a car but its agent.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) n: usize,
    pub(super) clock: Ticks,
    /// How long it has slept.
    pub(super) slept: Duration,
    /// How much its wall clock is off, seconds.
    pub(super) wall: i64,
    /// What its signals say.
    pub(super) verdict: Verdict,
    /// What survives the agent.
    pub(super) journal: BTreeMap<PodUid, Record>,
    /// How long a write to it takes.
    pub(super) journal_takes: Ms,
    /// Writes fail.
    pub(super) journal_broken: bool,
    pub(super) programs: BTreeMap<PodUid, Program>,
    /// How long programs work by themselves; None: until somebody ends them.
    pub(super) work: Option<Ms>,
    /// Programs do not listen when they are asked to end.
    pub(super) stubborn: bool,
    /// To which replica of the adapter its way leads.
    pub(super) route: usize,
    /// How long an attempt may run unheard.
    pub(super) fence: Duration,
    /// No two attempts of an index may live at a time.
    pub(super) once: bool,
    pub(super) twist: Option<Twist>,
}

impl Machine {
    pub(super) fn now(&self, now: Ms) -> Now {
        let wall = i64::try_from(now).unwrap() + self.wall * 1000 + 1_700_000_000_000;
        Now {
            boot: self.clock.at(now),
            wall_ms: wall,
        }
    }

    fn both(&self, now: Ms) -> guard::Now {
        let boot = self.clock.at(now);
        guard::Now {
            boot,
            awake: boot.0.saturating_sub(self.slept),
        }
    }

    pub(super) fn plan(&self) -> Plan {
        Plan {
            containers: vec![ContainerPlan::new("main", Role::Main, Restart::Never)],
            grace: Duration::from_secs(3),
            upload: true,
            run_unheard_for: Some(self.fence),
            once: self.once,
            active_deadline: None,
        }
    }

    pub(super) fn start(&mut self, now: Ms, uid: &PodUid) {
        let ends = self.work.map(|work| (now + work, 0));
        self.programs.insert(uid.clone(), Program { ends });
    }

    /// A program ends after `after`, unless it ends before.
    pub(super) fn end(&mut self, now: Ms, uid: &PodUid, after: Ms, code: i32) {
        if let Some(program) = self.programs.get_mut(uid) {
            let end = (now + after, code);
            program.ends = Some(program.ends.map_or(end, |before| before.min(end)));
        }
    }

    pub(super) fn ask_to_end(&mut self, now: Ms, uid: &PodUid) {
        if !self.stubborn {
            self.end(now, uid, DEATH, 143);
        }
    }

    pub(super) fn kill(&mut self, now: Ms, uid: &PodUid) {
        self.end(now, uid, DEATH, 137);
    }

    /// Whatever is alive ends by itself after so long, and all that comes.
    pub(super) fn let_work(&mut self, now: Ms, work: Ms) {
        self.work = Some(work);
        let live: Vec<_> = self.programs.keys().cloned().collect();
        for uid in &live {
            self.end(now, uid, work, 0);
        }
    }
}

/// A car.
#[derive(Debug)]
pub(super) struct Car {
    pub(super) machine: Machine,
    agent: Option<Agent>,
    guard: Option<Guard>,
    starts_at: Ms,
    asleep_until: Option<Ms>,
    agent_wakes_first: bool,
    stuck_until: Ms,
}

impl Car {
    pub(super) fn new(machine: Machine) -> Self {
        Self {
            machine,
            agent: None,
            guard: None,
            starts_at: 0,
            asleep_until: None,
            agent_wakes_first: false,
            stuck_until: 0,
        }
    }

    /// The attempts whose programs are alive at this moment.
    pub(super) fn live(&self) -> impl Iterator<Item = &PodUid> {
        let awake = self.asleep_until.is_none();
        self.machine.programs.keys().filter(move |_| awake)
    }

    /// The machine sleeps: nothing in it moves but one of its clocks.
    pub(super) fn sleep(&mut self, now: Ms, time: Ms, agent_wakes_first: bool) {
        if self.asleep_until.is_none() {
            let until = now + time;
            self.machine.slept += self.machine.clock.at(until).since(self.machine.clock.at(now));
            self.asleep_until = Some(until);
            self.agent_wakes_first = agent_wakes_first;
        }
    }

    /// The agent does nothing, and its programs go on.
    pub(super) fn stick(&mut self, now: Ms, time: Ms) {
        self.stuck_until = self.stuck_until.max(now + time);
    }

    /// The agent's process is gone, and with it every program. `written`: what it was writing is on disk. `said`: its connections end.
    pub(super) fn crash(&mut self, now: Ms, links: &mut Links, written: bool, said: bool, away: Ms) {
        let Some(agent) = self.agent.take() else { return };
        agent.die(now, &mut self.machine, links, written, said);
        self.machine.programs.clear();
        self.guard = None;
        self.starts_at = now + away;
        self.stuck_until = 0;
    }

    pub(super) fn next(&self, links: &Links) -> Ms {
        if let Some(until) = self.asleep_until {
            return until;
        }
        let clock = self.machine.clock;
        let guard = self.guard.as_ref().and_then(Guard::deadline);
        let guard = guard.map_or(NEVER, |at| clock.reaches(at));
        let ends = self
            .machine
            .programs
            .values()
            .filter_map(|program| Some(program.ends?.0));
        let agent = match &self.agent {
            Some(agent) => agent.next(&self.machine, links).max(self.stuck_until),
            None => self.starts_at,
        };
        ends.chain([guard, agent]).min().unwrap_or(NEVER)
    }

    pub(super) fn step(&mut self, now: Ms, links: &mut Links) {
        if let Some(until) = self.asleep_until {
            if now < until {
                return;
            }
            self.asleep_until = None;
            if self.agent_wakes_first {
                self.move_agent(now, links);
            }
        }
        self.look(now, guard::Event::Tick, links);
        self.move_agent(now, links);
    }

    fn move_agent(&mut self, now: Ms, links: &mut Links) {
        let over = |program: &Program| program.ends.filter(|(at, _)| *at <= now);
        let ended: Vec<_> = self
            .machine
            .programs
            .iter()
            .filter_map(|(uid, program)| Some((uid.clone(), over(program)?.1)))
            .collect();
        for (uid, code) in ended {
            self.machine.programs.remove(&uid);
            if let Some(agent) = &mut self.agent {
                agent.exited(&uid, exit(code, self.machine.now(now).wall_ms));
            }
        }
        if self.agent.is_none() && now >= self.starts_at {
            self.agent = Some(Agent::start(now, &self.machine));
            self.guard = Some(Guard::new(self.machine.both(now)));
        }
        if now < self.stuck_until {
            return;
        }
        let Some(agent) = &mut self.agent else { return };
        for fence in agent.turn(now, &mut self.machine, links) {
            self.look(now, guard::Event::Told(fence), links);
        }
    }

    fn look(&mut self, now: Ms, event: guard::Event, links: &mut Links) {
        let Some(guard) = self.guard.take() else { return };
        let (guard, effects) = guard::step(guard, event, self.machine.both(now));
        self.guard = Some(guard);
        let sleeps = self.machine.twist == Some(Twist::GuardSleeps);
        if effects.contains(&guard::Effect::Kill) && !sleeps {
            self.crash(now, links, now.is_multiple_of(2), true, RESTART);
        }
    }
}

fn exit(code: i32, now_ms: i64) -> Exit {
    Exit {
        code,
        reason: "Completed".to_owned(),
        message: String::new(),
        started_ms: now_ms,
        finished_ms: now_ms,
    }
}

/// A moment on the car's clock that has passed long ago.
pub(super) const LONG_AGO: Boottime = Boottime(Duration::ZERO);

/// What making ready takes.
pub(super) const PREPARING: Ms = 500;

/// A wait that grows with each failure, up to twenty seconds.
pub(super) fn backoff(tries: u32) -> Ms {
    (1_000 << tries.min(5)).min(20_000)
}
