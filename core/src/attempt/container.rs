//! One container of an attempt: what it has been through, and how one run of it begins and ends.
//!
//! Changed by [`super::step`] only, by the methods here. As the kubelet: a hook after the start, probes, a hook before the end and the rest
//! of the grace for the program. What must never happen: two live runs at a time, or a program that is asked to end before its hook
//! has ended, while there is time for both.

use std::time::Duration;

use super::probe::{Kind, Probe};
use super::{ContainerPlan, Effect, Exit, MEANWHILE_AFTER, NotReady, Now, backoff};
use crate::clock::Boottime;

/// What a program gets at least between being asked and being killed, where nothing binds that cannot wait.
pub(super) const LEAST_GRACE: Duration = Duration::from_secs(2);
/// The probes in the order in which they are looked at.
pub(super) const PROBES: [Kind; 3] = [Kind::Startup, Kind::Liveness, Kind::Readiness];

/// Where one container stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// Not begun, or between two tries.
    Waiting {
        /// For `ContainerStateWaiting`.
        reason: String,
        /// For `ContainerStateWaiting`.
        message: String,
        /// When it is tried again; `None`: when its turn comes, or never.
        retry_at: Option<Boottime>,
        /// The reason that replaces `reason` at the moment: `ErrImagePull` becomes `ImagePullBackOff`.
        meanwhile: Option<(Boottime, String)>,
        /// Its image and volumes are there.
        prepared: bool,
    },
    /// Image and volumes are being made ready.
    Preparing,
    /// It was told to start.
    Starting,
    /// It runs, or is frozen.
    Running {
        /// For the reset of the restart back-off.
        since: Boottime,
        /// Wall clock, milliseconds.
        started_ms: i64,
    },
    /// It ended and is not started again.
    Terminated(Exit),
}

/// One container of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Where it stands.
    pub life: Life,
    /// The image with the digest that is run; empty before it is known.
    pub image_id: String,
    /// How often it was started again.
    pub restarts: u32,
    /// How its last run before this one ended.
    pub last: Option<Exit>,
    /// Tries in a row that failed: the exponent of the back-off.
    pub failures: u32,
    /// This run has begun in earnest: the hook after the start has ended, and the startup probe has succeeded.
    pub started: bool,
    /// What the cluster is told as an Event: the newest trouble with a probe or a hook.
    pub note: Option<Note>,
    /// The hook after the start has not ended.
    hooked: bool,
    /// That hook waits for a thaw.
    held: bool,
    probes: Vec<(Kind, Probe)>,
    /// This run is being ended.
    end: Option<End>,
}

/// A word in CamelCase and a sentence: the kubelet's words `Unhealthy`, `FailedPostStartHook`, `FailedPreStopHook`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// For the Event's reason.
    pub reason: String,
    /// For its note.
    pub message: String,
}

/// How far the end of a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    kill_at: Boottime,
    step: Step,
    /// For a probe that failed.
    by_probe: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The hook before the end has not ended.
    Hook,
    /// The program has been asked.
    Asked,
    Killed,
}

impl Container {
    /// A container whose turn has not come.
    pub fn new() -> Self {
        Self {
            life: Life::waiting("ContainerCreating"),
            image_id: String::new(),
            restarts: 0,
            last: None,
            failures: 0,
            started: false,
            note: None,
            hooked: false,
            held: false,
            probes: Vec::new(),
            end: None,
        }
    }

    /// It could not be made ready, or started: tried again after a back-off, if that can help.
    pub(super) fn not_ready(&mut self, why: NotReady, now: Now) {
        let wait = backoff(self.failures);
        self.failures += 1;
        self.end = None;
        self.life = Life::Waiting {
            reason: why.reason,
            message: why.message,
            retry_at: why.retry.then(|| now.boot + wait),
            meanwhile: why.meanwhile.map(|word| (now.boot + MEANWHILE_AFTER, word)),
            prepared: false,
        };
    }

    /// Whether a process of it may be alive.
    pub fn is_alive(&self) -> bool {
        matches!(self.life, Life::Starting | Life::Running { .. })
    }

    /// Whether it may be sent work: it runs, has started, and says so itself if it is asked.
    pub fn is_ready(&self) -> bool {
        let running = matches!(self.life, Life::Running { .. });
        let mut readiness = self.probes.iter().filter(|(kind, _)| *kind == Kind::Readiness);
        running && self.started && readiness.all(|(_, probe)| probe.verdict == Some(true))
    }

    /// Whether the containers after it wait for its hook.
    pub(super) fn is_hooked(&self) -> bool {
        self.hooked
    }

    /// When something of it is due: a probe, or the end of its grace.
    pub(super) fn due(&self) -> Option<Boottime> {
        let probes = self.probes.iter().filter_map(|(_, probe)| probe.due());
        probes.filter(|_| self.end.is_none()).chain(self.kill_at()).min()
    }

    /// When the grace of this run is over that is being ended.
    pub(super) fn kill_at(&self) -> Option<Boottime> {
        self.end.filter(|end| end.step != Step::Killed).map(|end| end.kill_at)
    }

    /// Whether this run is being ended for a probe that failed.
    pub(super) fn ends_by_probe(&self) -> bool {
        self.end.is_some_and(|end| end.by_probe)
    }

    /// Its program runs. One that is being ended already is told so again: it was not there when it was told first.
    pub(super) fn begin(
        &mut self,
        plan: &ContainerPlan,
        index: usize,
        frozen: bool,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        self.life = Life::Running {
            since: now.boot,
            started_ms: now.wall_ms,
        };
        match self.end.map(|end| end.step) {
            Some(Step::Killed) => effects.push(Effect::Kill(index)),
            Some(Step::Hook | Step::Asked) => effects.push(Effect::Ask(index)),
            None if plan.post_start => {
                self.hooked = true;
                // A program that stands still can run nothing.
                self.held = frozen;
                if !frozen {
                    effects.push(Effect::PostStart(index));
                }
            }
            None => self.settle(plan, frozen, now),
        }
    }

    /// The hook after the start has ended, or there is none: now it is asked how it is.
    fn settle(&mut self, plan: &ContainerPlan, frozen: bool, now: Now) {
        self.started = plan.startup.is_none();
        let first = if self.started { &PROBES[1..] } else { &PROBES[..1] };
        self.probe(plan, first, now);
        if frozen {
            self.pause(now.boot);
        }
    }

    fn probe(&mut self, plan: &ContainerPlan, kinds: &[Kind], now: Now) {
        let Life::Running { since, .. } = self.life else { return };
        let probes = kinds
            .iter()
            .filter_map(|kind| Some((*kind, Probe::begin(plan.probe(*kind)?, since, now.boot))));
        self.probes = probes.collect();
    }

    /// The hook after the start has ended; whether this run may go on, for one that failed ends it.
    pub(super) fn post_started(
        &mut self,
        plan: &ContainerPlan,
        result: Result<(), String>,
        frozen: bool,
        now: Now,
    ) -> bool {
        if !std::mem::take(&mut self.hooked) || self.end.is_some() {
            return true;
        }
        if let Err(message) = result {
            self.note("FailedPostStartHook", message);
            return false;
        }
        self.settle(plan, frozen, now);
        true
    }

    /// The hook before the end has ended: the program is asked, with what is left of the grace.
    pub(super) fn pre_stopped(&mut self, index: usize, result: Result<(), String>, effects: &mut Vec<Effect>) {
        if let Some(end) = self.end.as_mut().filter(|end| end.step == Step::Hook) {
            end.step = Step::Asked;
            effects.push(Effect::Ask(index));
            if let Err(message) = result {
                self.note("FailedPreStopHook", message);
            }
        }
    }

    fn note(&mut self, reason: &str, message: String) {
        self.note = Some(Note {
            reason: reason.to_owned(),
            message,
        });
    }

    /// Asks what is due to be asked.
    pub(super) fn ask(&mut self, index: usize, now: Boottime, effects: &mut Vec<Effect>) {
        if self.end.is_some() {
            return;
        }
        for (kind, probe) in &mut self.probes {
            if let Some(number) = probe.ask(now) {
                effects.push(Effect::Probe {
                    container: index,
                    kind: *kind,
                    number,
                });
            }
        }
    }

    /// Takes the answer of a probe. `Some`: the run must end, with the probe's own grace if it has one, else with `grace`.
    pub(super) fn probed(
        &mut self,
        plan: &ContainerPlan,
        (kind, number): (Kind, u32),
        result: Result<(), String>,
        grace: Duration,
        now: Now,
    ) -> Option<Duration> {
        let terms = plan.probe(kind).filter(|_| self.end.is_none())?;
        let (_, probe) = self.probes.iter_mut().find(|(known, _)| *known == kind)?;
        if !probe.answered(terms, number, result.is_ok(), now.boot) {
            return None;
        }
        let verdict = probe.verdict;
        if let Err(message) = result {
            let what = match kind {
                Kind::Startup => "Startup",
                Kind::Liveness => "Liveness",
                Kind::Readiness => "Readiness",
            };
            self.note("Unhealthy", format!("{what} probe failed: {message}"));
        }
        match (kind, verdict) {
            (Kind::Startup, Some(true)) => {
                self.started = true;
                self.probe(plan, &PROBES[1..], now);
                None
            }
            (Kind::Startup | Kind::Liveness, Some(false)) => Some(terms.grace.unwrap_or(grace)),
            _ => None,
        }
    }

    /// It stands still.
    pub(super) fn pause(&mut self, now: Boottime) {
        self.probes.iter_mut().for_each(|(_, probe)| probe.pause(now));
    }

    /// It goes on.
    pub(super) fn resume(&mut self, plan: &ContainerPlan, index: usize, now: Boottime, effects: &mut Vec<Effect>) {
        if std::mem::take(&mut self.held) {
            effects.push(Effect::PostStart(index));
        }
        for (kind, probe) in &mut self.probes {
            if let Some(terms) = plan.probe(*kind) {
                probe.resume(terms, now);
            }
        }
    }

    /// Ends its run by `kill_at`: by its hook, if there is time for one, and then by asking the program. A later end can only be sooner. Also
    /// in a car that stands still: what is to end may run for a moment to take its leave.
    pub(super) fn close(
        &mut self,
        plan: &ContainerPlan,
        index: usize,
        hook: bool,
        kill_at: Boottime,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_alive() {
            return;
        }
        if let Some(end) = &mut self.end {
            end.kill_at = end.kill_at.min(kill_at);
            return;
        }
        self.held = false;
        let runs = matches!(self.life, Life::Running { .. });
        let step = if plan.pre_stop && runs && hook {
            effects.push(Effect::PreStop(index));
            Step::Hook
        } else {
            effects.push(Effect::Ask(index));
            Step::Asked
        };
        self.end = Some(End {
            kill_at,
            step,
            by_probe: false,
        });
    }

    /// The same for a probe that failed.
    pub(super) fn blame_probe(&mut self) {
        if let Some(end) = &mut self.end {
            end.by_probe = true;
        }
    }

    /// Its grace is over. A program that has not been asked yet, for its hook has taken all of it, gets two seconds, as in the kubelet.
    pub(super) fn overdue(&mut self, index: usize, now: Boottime, effects: &mut Vec<Effect>) {
        match self.end.as_mut().filter(|end| end.kill_at <= now) {
            Some(end) if end.step == Step::Hook => {
                (end.step, end.kill_at) = (Step::Asked, now + LEAST_GRACE);
                effects.push(Effect::Ask(index));
            }
            Some(end) if end.step == Step::Asked => self.kill(index, now, effects),
            _ => {}
        }
    }

    /// Ends its run now, whatever its grace.
    pub(super) fn kill(&mut self, index: usize, now: Boottime, effects: &mut Vec<Effect>) {
        let by_probe = self.ends_by_probe();
        if self.is_alive() && self.end.is_none_or(|end| end.step != Step::Killed) {
            self.end = Some(End {
                kill_at: now,
                step: Step::Killed,
                by_probe,
            });
            effects.push(Effect::Kill(index));
        }
    }

    /// Its run has ended.
    pub(super) fn ended(&mut self) {
        self.started = false;
        self.hooked = false;
        self.held = false;
        self.end = None;
        self.note = None;
        self.probes.clear();
    }
}

impl Default for Container {
    fn default() -> Self {
        Self::new()
    }
}

impl Life {
    /// Waiting for its turn.
    pub fn waiting(reason: &str) -> Self {
        Self::Waiting {
            reason: reason.to_owned(),
            message: String::new(),
            retry_at: None,
            meanwhile: None,
            prepared: false,
        }
    }
}
