//! One attempt in the car, from admission to its last word: the one machine for every runtime.
//!
//! Called by the actor of the attempt, which carries out the effects in their order and reports back as events. What must never
//! happen: a start after a stop or a fence, two live starts of one container, a change after the end, a revision that does not rise, or a
//! report that a restarted agent would not know of; the property tests below hold the machine to it.
//!
//! | state | event | next | effects |
//! |---|---|---|---|
//! | Admitted | Journaled | Active | Prepare the first container, Report |
//! | Admitted | Journaled, less than half of the fence is left | Waiting | Report |
//! | Admitted | JournalFailed | Ended (refused) | Report |
//! | Waiting | Heard, sent since the admission | Active | Prepare the first container, Report |
//! | Waiting | fence reached since the admission | Ended (refused) | Report |
//! | Waiting | Stop, Depart, deadline reached | Ended | Report |
//! | Active | Prepared, its turn, not frozen | Active | Start |
//! | Active | NotReady | Active | wait, Prepare again at a Tick, or when something was Provided |
//! | Active | NotStarted | Active | as NotReady |
//! | Active | Declined, nothing has begun | Ended (refused) | GiveUp, Report |
//! | Active | Declined, something has | Stopping, or Ended if nothing lives | GiveUp, PreStop or Ask, Report |
//! | Active | Declined, of a container that was added | Active | as NotReady, and not tried again |
//! | Active | Exited, to be restarted | Active | wait, Start again at a Tick |
//! | Active | Amended | Active | Prepare the containers that were added, Report |
//! | Active | Started | Active | PostStart, Report |
//! | Active | PostStarted | Active | Start the next container; of one whose hook failed: PreStop or Ask; Report |
//! | Active | Tick, a probe is due | Active | Probe |
//! | Active | Probed, startup or liveness failed | Active | PreStop or Ask, Report |
//! | Active | PreStopped | Active | Ask |
//! | Active | Tick after a container's grace | Active | Kill |
//! | Active | Exited, the last one that counts | Uploading, or Ended if nothing is to be sent | Upload, Report |
//! | Active | the same, and sidecars live | Stopping | GiveUp, PreStop or Ask the last sidecar, Report |
//! | Active | Freeze, Thaw | Active | Freeze, Thaw, Report |
//! | Active | Stop, Depart, Fail, fence or deadline reached | Stopping, or Ended if nothing lives | GiveUp, PreStop or Ask, Report |
//! | Stopping | PreStopped | Stopping | Ask |
//! | Stopping | Exited, the last one but sidecars | Stopping | PreStop or Ask the last sidecar |
//! | Stopping | Exited, the last one | Uploading or Ended | Upload, Report |
//! | Stopping | Tick after the grace, or at the fence | Stopping | Kill |
//! | Admitted, Waiting, Stopping, Uploading | Amended | the same | |
//! | Uploading | Uploaded | Ended | Report |
//! | Uploading | UploadRefused | Ended (failed) | Report |
//! | Uploading | Stop, and its grace is over | Ended (disrupted, or failed as it had) | GiveUp, Report |
//! | Uploading | Depart | Uploading | |
//! | Ended | anything | Ended | |
//!
//! Every Report comes right after the WriteJournal that holds its revision.

mod container;
pub mod plan;
pub mod probe;
mod step;
mod turns;

use std::time::Duration;

pub use container::{Container, Life, Note};
pub use plan::{ContainerPlan, ContainerRecord, Exit, ExitRule, Kind, NotReady, Outcome, Plan, Record, Restart, Role};
pub use step::step;

use crate::clock::Boottime;
use crate::names::reason;
use crate::owner::Refusal;

/// The first and the longest wait between two tries, as in the kubelet.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_mins(5));
/// A container that ran for this long starts again without a wait, as in the kubelet.
const BACKOFF_RESET: Duration = Duration::from_mins(10);
/// How long a failed pull is told as such before it is told as a back-off.
const MEANWHILE_AFTER: Duration = Duration::from_secs(1);
/// A restarted agent goes on this far above the last revision in its journal, in case a write was lost that had been told.
const RESTART_GAP: u64 = 1000;

/// The time of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For everything that is counted.
    pub boot: Boottime,
    /// For people: wall clock, milliseconds.
    pub wall_ms: i64,
}

/// Where an attempt stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Accepted; nothing may begin before the journal has it.
    Admitted,
    /// In the journal, but the cluster has not heard the car for so long that the fence may pass before anything has begun. An idle
    /// car is heard seldom. Nothing begins until a heartbeat that was sent after the admission is acknowledged: the arrival of the
    /// attempt itself proves nothing, for it may have been on its way for long, and its fence may have passed in the cluster.
    Waiting,
    /// Containers are made ready, run, and are started again.
    Active,
    /// Containers are being stopped.
    Stopping {
        /// How it ends.
        outcome: Outcome,
        /// After this, what still lives is killed.
        kill_at: Boottime,
        /// Not even two seconds later.
        binds: bool,
        /// That has been done.
        killed: bool,
        /// The cluster wants it ended by then although its outcome is certain, and how it ends if its output has not arrived.
        unless: Option<(Boottime, Outcome)>,
    },
    /// The program has ended; output and logs are on their way.
    Uploading {
        /// How it ends when they have arrived.
        outcome: Outcome,
        /// The cluster wants it ended by then, and how it ends if they have not arrived.
        until: Option<(Boottime, Outcome)>,
    },
    /// Nothing is left but telling it.
    Ended {
        /// How it ended.
        outcome: Outcome,
    },
}

/// An attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Where it stands.
    pub state: State,
    /// Frozen with the car.
    pub frozen: bool,
    /// Rises with each report.
    pub revision: u64,
    /// Wall clock, milliseconds, of its admission.
    pub started_ms: i64,
    /// In the order of the plan.
    pub containers: Vec<Container>,
    /// Every init container has ended well, or stays and has started: what comes after them waits for none of them any more.
    initialized: bool,
    admitted: Boottime,
    /// When the newest acknowledged heartbeat that counts for it was sent.
    heard: Option<Boottime>,
}

/// When the newest heartbeats that were acknowledged were *sent*. `None`: never yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// By whatever adapter the car is connected to.
    pub any: Option<Boottime>,
    /// By one that could show that no other had taken the car over.
    pub proven: Option<Boottime>,
}

impl Heard {
    /// A heartbeat that was sent at `sent` has been acknowledged; whether that is news.
    pub fn acknowledged(&mut self, sent: Boottime, proven: bool) -> bool {
        let before = *self;
        self.any = self.any.max(Some(sent));
        if proven {
            self.proven = self.proven.max(Some(sent));
        }
        *self != before
    }

    /// From when the fence of an attempt counts. One that may run once only believes nobody who cannot prove that no other counts the
    /// same fence: an adapter that is cut off from its cluster would put it off for ever, and the one that took its vehicles over would
    /// begin the attempt elsewhere.
    pub fn counts_for(&self, plan: &Plan) -> Option<Boottime> {
        if plan.once { self.proven } else { self.any }
    }
}

/// What happened. Containers are named by their place in the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The journal holds the attempt.
    Journaled,
    /// The journal cannot hold it.
    JournalFailed {
        /// Why.
        message: String,
    },
    /// Image and volumes of a container are there.
    Prepared {
        /// Which.
        container: usize,
        /// The image with its digest.
        image_id: String,
    },
    /// They are not.
    NotReady {
        /// Which.
        container: usize,
        /// Why.
        why: NotReady,
    },
    /// What a container needs was gone when it was to be started: nothing of it runs.
    NotStarted {
        /// Which.
        container: usize,
        /// What.
        why: NotReady,
    },
    /// The owner's terms do not let a container begin, whatever the car tries.
    Declined {
        /// Which.
        container: usize,
        /// Which term, and what is missing.
        why: Refusal,
    },
    /// What the Pod refers to has changed: what waits for a part of it need not wait longer.
    Provided,
    /// The plan has got containers that the attempt does not know yet.
    Amended,
    /// A container's program runs.
    Started {
        /// Which.
        container: usize,
    },
    /// A container's program has ended, or could not start.
    Exited {
        /// Which.
        container: usize,
        /// How.
        exit: Exit,
    },
    /// The hook after the start of a container has ended, or failed: why.
    PostStarted {
        /// Which.
        container: usize,
        /// After how many restarts of it the hook was begun.
        run: u32,
        /// Whether it did what it should.
        result: Result<(), String>,
    },
    /// The hook before the end of a container has ended, or failed: why.
    PreStopped {
        /// Which.
        container: usize,
        /// After how many restarts of it the hook was begun.
        run: u32,
        /// Whether it did what it should.
        result: Result<(), String>,
    },
    /// A probe has been answered.
    Probed {
        /// Of which container.
        container: usize,
        /// After how many restarts of it that was asked.
        run: u32,
        /// Which probe.
        kind: probe::Kind,
        /// Which try of it.
        number: u32,
        /// Well, or why not.
        result: Result<(), String>,
    },
    /// The car is paused.
    Freeze,
    /// It is not any more.
    Thaw,
    /// The cluster ends the attempt.
    Stop {
        /// How long its programs may take.
        grace: Duration,
        /// A word in CamelCase.
        reason: String,
        /// A sentence.
        message: String,
    },
    /// The car leaves: programs are stopped, an output that is on its way goes on.
    Depart {
        /// How long its programs may take.
        grace: Duration,
        /// A word in CamelCase.
        reason: String,
        /// A sentence.
        message: String,
    },
    /// The attempt broke a limit: too much output, too much disk.
    Fail {
        /// A word in CamelCase.
        reason: String,
        /// A sentence.
        message: String,
    },
    /// A heartbeat that was sent at this time has been acknowledged, by an adapter that counts for this attempt.
    Heard {
        /// When it was sent.
        sent: Boottime,
    },
    /// Time has passed.
    Tick,
    /// Output and logs are stored.
    Uploaded,
    /// They never will be.
    UploadRefused {
        /// A word in CamelCase.
        reason: String,
        /// A sentence.
        message: String,
    },
}

/// What the actor has to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Put the record of the attempt on disk; go on only when it is there.
    WriteJournal,
    /// Make image and volumes of a container ready.
    Prepare(usize),
    /// Start a container.
    Start(usize),
    /// Freeze every container.
    Freeze,
    /// Let every container go on.
    Thaw,
    /// Give up what is being made ready, or sent.
    GiveUp,
    /// Run the hook after the start of a container.
    PostStart(usize),
    /// Run the hook before the end of a container.
    PreStop(usize),
    /// Ask a container how it is.
    Probe {
        /// Which.
        container: usize,
        /// By which probe.
        kind: probe::Kind,
        /// To be said with the answer.
        number: u32,
    },
    /// Ask a live container to end. Of one that is being started: as soon as it runs.
    Ask(usize),
    /// End a live container now.
    Kill(usize),
    /// Send output and logs.
    Upload,
    /// Tell the cluster.
    Report,
}

impl Attempt {
    /// A new attempt, and its first effects. `heard` is what the car's adapter acknowledged so far.
    pub fn admit(plan: &Plan, heard: Heard, now: Now) -> (Self, Vec<Effect>) {
        let mut attempt = Self::new(plan, State::Admitted, heard.counts_for(plan), now);
        attempt.revision = 1;
        // Told before it is written: a journal can be slow, and a car that greets another adapter meanwhile must name what it is
        // about to begin, or the cluster takes it for lost and begins it elsewhere. It is no end, so nothing told can turn out false.
        (attempt, vec![Effect::Report, Effect::WriteJournal])
    }

    /// An attempt that is declined. It is journaled like any other, so that the refusal is told even after a restart.
    pub fn refuse(plan: &Plan, reason: &str, message: &str, now: Now) -> (Self, Vec<Effect>) {
        let outcome = Outcome::new(Kind::Refused, reason, message);
        let mut attempt = Self::new(plan, State::Ended { outcome }, None, now);
        let mut effects = Vec::new();
        attempt.report(&mut effects);
        (attempt, effects)
    }

    fn new(plan: &Plan, state: State, heard: Option<Boottime>, now: Now) -> Self {
        let mut containers = vec![Container::new(); plan.containers.len()];
        if plan
            .containers
            .iter()
            .any(|c| matches!(c.role, Role::Init | Role::Sidecar))
        {
            for (container, _) in containers
                .iter_mut()
                .zip(&plan.containers)
                .filter(|(_, plan)| plan.role == Role::Main)
            {
                container.life = Life::waiting("PodInitializing");
            }
        }
        Self {
            state,
            frozen: false,
            revision: 0,
            started_ms: now.wall_ms,
            containers,
            initialized: false,
            admitted: now.boot,
            heard: heard.map(|sent| sent.min(now.boot)),
        }
    }

    /// An attempt that the journal of a former run of the agent holds. Its programs died with that agent.
    pub fn recover(plan: &Plan, record: Record, now: Now) -> (Self, Vec<Effect>) {
        let mut attempt = Self::new(plan, State::Admitted, None, now);
        attempt.revision = record.revision.saturating_add(RESTART_GAP);
        attempt.started_ms = record.started_ms;
        for (container, record) in attempt.containers.iter_mut().zip(record.containers) {
            container.image_id = record.image_id;
            container.restarts = record.restarts;
            container.last = record.last;
            if let Some(exit) = record.exit {
                container.life = Life::Terminated(exit);
            } else if let Some(started_ms) = record.running_since_ms {
                container.life = Life::Terminated(Exit {
                    code: 137,
                    reason: AGENT_RESTARTED.to_owned(),
                    message: "the vehicle's agent was restarted while the program ran".to_owned(),
                    started_ms,
                    // Somebody may have set the clock back meanwhile.
                    finished_ms: now.wall_ms.max(started_ms),
                });
            }
        }
        let mut effects = Vec::new();
        match record.outcome {
            Some(outcome) if record.ended => attempt.state = State::Ended { outcome },
            Some(outcome) => {
                attempt.state = State::Uploading { outcome, until: None };
                effects.push(Effect::Upload);
            }
            None => {
                let message = "the vehicle's agent was restarted before the attempt had ended";
                attempt.state = State::Ended {
                    outcome: Outcome::new(Kind::Disrupted, AGENT_RESTARTED, message),
                };
            }
        }
        attempt.report(&mut effects);
        (attempt, effects)
    }

    /// What the journal must hold of it now.
    pub fn record(&self, plan: &Plan) -> Record {
        let (outcome, ended) = match &self.state {
            State::Uploading { outcome, .. } => (Some(outcome.clone()), false),
            State::Ended { outcome } => (Some(outcome.clone()), true),
            // What it came to is certain; only sidecars live, or what broke a limit.
            State::Stopping { outcome, .. } if matches!(outcome.kind, Kind::Succeeded | Kind::Failed) => {
                (Some(outcome.clone()), !plan.upload)
            }
            State::Admitted | State::Waiting | State::Active | State::Stopping { .. } => (None, false),
        };
        let containers = self.containers.iter().map(|container| {
            let (running_since_ms, exit) = match &container.life {
                Life::Running { started_ms, .. } => (Some(*started_ms), None),
                Life::Terminated(exit) => (None, Some(exit.clone())),
                Life::Waiting { .. } | Life::Preparing | Life::Starting => (None, None),
            };
            ContainerRecord {
                image_id: container.image_id.clone(),
                restarts: container.restarts,
                running_since_ms,
                exit,
                last: container.last.clone(),
            }
        });
        let containers = containers.collect();
        Record {
            revision: self.revision,
            outcome,
            ended,
            started_ms: self.started_ms,
            containers,
        }
    }

    /// No process of it is alive, and none will be started.
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, State::Uploading { .. } | State::Ended { .. })
    }

    /// How it ended, if it did.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Ended { outcome } => Some(outcome),
            _ => None,
        }
    }

    /// When a Tick changes something.
    pub fn deadline(&self, plan: &Plan) -> Option<Boottime> {
        match &self.state {
            State::Active => {
                let of_one = |(index, container): (usize, &Container)| match &container.life {
                    // Nothing becomes of it before its turn.
                    Life::Waiting { .. } if !self.may_follow(plan, index) => None,
                    Life::Waiting {
                        retry_at, meanwhile, ..
                    } => {
                        let retry_at = if self.frozen { None } else { *retry_at };
                        [retry_at, meanwhile.as_ref().map(|(at, _)| *at)]
                            .into_iter()
                            .flatten()
                            .min()
                    }
                    _ => container.due(),
                };
                let waits = self.containers.iter().enumerate().filter_map(of_one);
                waits.chain(self.limit_at(plan)).min()
            }
            State::Waiting => self.limit_at(plan),
            State::Stopping {
                kill_at, killed: false, ..
            } => {
                let ends = self.containers.iter().filter_map(Container::kill_at);
                ends.chain(self.fence_at(plan)).chain([*kill_at]).min()
            }
            State::Uploading { until, .. } => until.as_ref().map(|(at, _)| *at),
            State::Admitted | State::Stopping { .. } | State::Ended { .. } => None,
        }
    }

    fn hear(&mut self, sent: Boottime, now: Now) {
        self.heard = self.heard.max(Some(sent.min(now.boot)));
    }

    /// From when the fence counts. Nothing lives in an attempt that has not begun, however long ago the car was heard.
    fn fence_start(&self) -> Boottime {
        match self.state {
            State::Admitted | State::Waiting => self.admitted,
            _ => self.heard.unwrap_or(self.admitted),
        }
    }

    /// When the fence is reached, as long as something of it may live: what the guard must know before anything starts.
    pub fn fence(&self, plan: &Plan) -> Option<Boottime> {
        self.fence_at(plan).filter(|_| !self.is_stopped())
    }

    /// When the fence is reached.
    fn fence_at(&self, plan: &Plan) -> Option<Boottime> {
        plan.run_unheard_for.map(|limit| self.fence_start() + limit)
    }

    /// When the Pod's deadline is reached.
    fn deadline_at(&self, plan: &Plan) -> Option<Boottime> {
        plan.active_deadline.map(|limit| self.admitted + limit)
    }

    /// When the first of both is reached.
    fn limit_at(&self, plan: &Plan) -> Option<Boottime> {
        self.fence_at(plan).into_iter().chain(self.deadline_at(plan)).min()
    }

    /// Whether so much of the fence is left that a heartbeat or two can be acknowledged before it passes.
    fn is_heard(&self, plan: &Plan, now: Now) -> bool {
        plan.run_unheard_for
            .is_none_or(|limit| self.heard.is_some_and(|sent| now.boot.since(sent) < limit / 2))
    }

    /// A change that the cluster is told: journaled first.
    fn report(&mut self, effects: &mut Vec<Effect>) {
        self.revision += 1;
        effects.extend([Effect::WriteJournal, Effect::Report]);
    }

    /// Whether a program of it runs, or has run.
    fn has_begun(&self) -> bool {
        let begun = |c: &Container| c.restarts > 0 || c.is_alive() || matches!(c.life, Life::Terminated(_));
        self.containers.iter().any(begun)
    }

    fn any_alive(&self) -> bool {
        self.containers.iter().any(Container::is_alive)
    }

    /// How the attempt ends, if every container that counts has ended.
    fn verdict(&self, plan: &Plan) -> Option<Outcome> {
        let exits = || {
            self.containers
                .iter()
                .zip(&plan.containers)
                .filter(|(_, plan)| plan.role.counts())
                .filter_map(|(container, plan)| match &container.life {
                    Life::Terminated(exit) => Some((plan, exit)),
                    _ => None,
                })
        };
        let failed = |(plan, exit): (&ContainerPlan, &Exit)| {
            let detail = if exit.message.is_empty() {
                String::new()
            } else {
                format!(": {}", exit.message)
            };
            let message = format!(
                "container {} ended with exit code {} ({}){detail}",
                plan.name, exit.code, exit.reason
            );
            Outcome::new(Kind::Failed, "", message)
        };
        if let Some(exit) = exits().find(|(plan, exit)| plan.role == Role::Init && exit.code != 0) {
            return Some(failed(exit));
        }
        if exits().count() < plan.containers.iter().filter(|plan| plan.role.counts()).count() {
            return None;
        }
        Some(
            exits()
                .find(|(_, exit)| exit.code != 0)
                .map_or_else(|| Outcome::new(Kind::Succeeded, "", ""), failed),
        )
    }

    /// The limit that is reached, and what is left to what lives.
    fn limits(&self, plan: &Plan, now: Now) -> Option<(Outcome, Until)> {
        let reached = |at: Option<Boottime>| at.is_some_and(|at| at <= now.boot);
        if reached(self.fence_at(plan)) {
            if self.state == State::Waiting {
                // Nothing has begun: no disruption, and another car may do better.
                let message = "the vehicle was not heard since the attempt came, and did not begin it";
                return Some((
                    Outcome::new(Kind::Refused, reason::VEHICLE_UNHEARD, message),
                    Until::NOW,
                ));
            }
            let message = "the vehicle was not heard for as long as the attempt may run unheard";
            return Some((Outcome::new(Kind::Disrupted, reason::VEHICLE_LOST, message), Until::NOW));
        }
        if reached(self.deadline_at(plan)) {
            let message = "the Pod was active for longer than its activeDeadlineSeconds";
            let outcome = Outcome::new(Kind::Failed, "DeadlineExceeded", message);
            return Some((outcome, Until::may_take(plan.grace)));
        }
        None
    }
}

/// How long what is being ended may live on.
#[derive(Debug, Clone, Copy)]
struct Until {
    grace: Duration,
    /// Not even two seconds longer, for a program that was not asked before.
    binds: bool,
}

impl Until {
    const NOW: Self = Self {
        grace: Duration::ZERO,
        binds: true,
    };

    fn may_take(grace: Duration) -> Self {
        Self { grace, binds: false }
    }
}

impl Attempt {
    /// The grace of an attempt that is told to end while it stands still: none. It could do nothing with it but run beside whoever is at the
    /// car, and no word of the cluster gets a frozen program a moment of processor time.
    fn takes_leave(&self, until: Until) -> Until {
        if self.frozen { Until::NOW } else { until }
    }
}

/// The word for attempts that a restart of the agent ended.
pub const AGENT_RESTARTED: &str = "AgentRestarted";

fn backoff(failures: u32) -> Duration {
    BACKOFF.0.saturating_mul(1 << failures.min(10)).min(BACKOFF.1)
}

#[cfg(test)]
mod tests;
