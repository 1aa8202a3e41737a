//! Whose turn it is: which container of an attempt may begin, which is to end, in which order, and what follows from an end.
//!
//! Called by [`super::step`] only. What must never happen: a start in an attempt whose limit is reached, or a container that is ended and of
//! which nobody says so.

use std::time::Duration;

use super::{
    Attempt, BACKOFF_RESET, Container, Effect, Exit, Kind, Life, Now, Outcome, Plan, Role, State, Until, backoff,
};
use crate::clock::Boottime;

/// The kubelet's word for what a Pod refers to and is not there.
const CONFIG_ERROR: &str = "CreateContainerConfigError";

impl Attempt {
    /// Moves on to `outcome` when nothing lives any more.
    pub(super) fn finish(&mut self, plan: &Plan, outcome: Outcome, effects: &mut Vec<Effect>) {
        let upload = plan.upload && matches!(outcome.kind, Kind::Succeeded | Kind::Failed);
        self.frozen = false;
        if upload {
            let until = match &mut self.state {
                State::Stopping { unless, .. } => unless.take(),
                _ => None,
            };
            self.state = State::Uploading { outcome, until };
            self.report(effects);
            effects.push(Effect::Upload);
        } else {
            self.state = State::Ended { outcome };
            self.report(effects);
        }
    }

    pub(super) fn stop(&mut self, plan: &Plan, outcome: Outcome, until: Until, now: Now, effects: &mut Vec<Effect>) {
        effects.push(Effect::GiveUp);
        if self.any_alive() {
            let kill_at = now.boot + until.grace;
            self.state = State::Stopping {
                outcome,
                kill_at,
                binds: until.binds,
                killed: false,
                unless: None,
            };
            if until.grace.is_zero() {
                // Before the journal is written: a disk that hangs must not keep alive what may not live any more.
                self.kill_all(now, effects);
            } else {
                self.close_in_turn(plan, kill_at, effects);
            }
            self.report(effects);
        } else {
            self.finish(plan, outcome, effects);
        }
    }

    /// Ends what may end now, each by `kill_at`: sidecars after all others, the last one first.
    pub(super) fn close_in_turn(&mut self, plan: &Plan, kill_at: Boottime, effects: &mut Vec<Effect>) {
        let alive = |attempt: &Self, index: usize| attempt.containers[index].is_alive();
        let (sidecars, others): (Vec<usize>, Vec<usize>) =
            (0..plan.containers.len()).partition(|index| plan.containers[*index].role == Role::Sidecar);
        let mut due = others;
        if !due.iter().any(|index| alive(self, *index)) {
            due = sidecars
                .into_iter()
                .rfind(|index| alive(self, *index))
                .into_iter()
                .collect();
        }
        for index in due {
            self.containers[index].close(&plan.containers[index], index, true, kill_at, effects);
        }
    }

    /// Ends whatever lives.
    pub(super) fn kill_all(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for (index, container) in self.containers.iter_mut().enumerate() {
            container.kill(index, now.boot, effects);
        }
        if let State::Stopping { killed, .. } = &mut self.state {
            *killed = true;
        }
    }

    /// Ends one container, as long as its Pod goes on.
    pub(super) fn close(&mut self, plan: &Plan, index: usize, grace: Duration, now: Now, effects: &mut Vec<Effect>) {
        let kill_at = now.boot + grace;
        self.containers[index].close(&plan.containers[index], index, true, kill_at, effects);
    }

    /// Asks and kills what is due.
    pub(super) fn tend(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for (index, container) in self.containers.iter_mut().enumerate() {
            container.ask(index, now.boot, effects);
            container.overdue(index, now.boot, effects);
        }
    }

    /// What could not be made ready for something that the Pod refers to is tried again now.
    pub(super) fn hurry(&mut self, now: Now) {
        for container in &mut self.containers {
            if let Life::Waiting {
                reason,
                retry_at: Some(at),
                prepared: false,
                ..
            } = &mut container.life
                && reason == CONFIG_ERROR
            {
                *at = (*at).min(now.boot);
            }
        }
    }

    /// Takes in what the plan has got since. Nothing begins in an attempt that is being ended.
    pub(super) fn amend(&mut self, plan: &Plan) -> bool {
        let added = plan.containers.len().saturating_sub(self.containers.len());
        self.containers
            .extend(std::iter::repeat_with(Container::new).take(added));
        added > 0
    }

    /// Starts or makes ready what may be next.
    pub(super) fn advance(&mut self, plan: &Plan, now: Now, effects: &mut Vec<Effect>) -> bool {
        let mut changed = false;
        // What came late must not begin something that is to end at once.
        if self.limits(plan, now).is_some() {
            return changed;
        }
        for index in 0..self.containers.len() {
            if !self.may_follow(plan, index) {
                continue;
            }
            let container = &mut self.containers[index];
            let Life::Waiting {
                reason,
                message,
                retry_at,
                meanwhile,
                prepared,
            } = &mut container.life
            else {
                continue;
            };
            if let Some((_, word)) = meanwhile.take_if(|(at, _)| *at <= now.boot) {
                *reason = word;
                if !message.is_empty() {
                    message.insert_str(0, "back-off before the next try: ");
                }
                changed = true;
            }
            // A failure that no other try can help has no retry_at, but was tried.
            let due = retry_at.map_or(container.failures == 0, |at| at <= now.boot);
            if !due || self.frozen {
                continue;
            }
            if *prepared {
                container.life = Life::Starting;
                effects.extend([Effect::WriteJournal, Effect::Start(index)]);
            } else {
                container.life = Life::Preparing;
                effects.push(Effect::Prepare(index));
            }
            self.initialized |= plan.containers[index].role == Role::Main;
        }
        changed
    }

    /// Whether the turn of a container has come: those before it that it waits for are as far as they must be.
    pub(super) fn may_follow(&self, plan: &Plan, index: usize) -> bool {
        let role = plan.containers[index].role;
        // One that has run waits for its own back-off only, one that was added for nobody.
        if self.containers[index].last.is_some() || role == Role::Ephemeral {
            return true;
        }
        let mut before = plan.containers.iter().zip(&self.containers).take(index);
        // As in the kubelet, where the next container is not started before the hook after the start of this one has ended.
        if role == Role::Main && before.clone().any(|(plan, c)| plan.role == Role::Main && c.is_hooked()) {
            return false;
        }
        self.initialized
            || before.all(|(plan, container)| match plan.role {
                Role::Init => matches!(&container.life, Life::Terminated(exit) if exit.code == 0),
                Role::Sidecar => container.started,
                Role::Main | Role::Ephemeral => true,
            })
    }

    pub(super) fn exited(&mut self, plan: &Plan, index: usize, exit: Exit, now: Now) {
        let container = &mut self.containers[index];
        let again = plan.containers[index].restarts(&exit, container.ends_by_probe());
        container.ended();
        if !again || matches!(self.state, State::Stopping { .. }) {
            container.life = Life::Terminated(exit);
        } else {
            if let Life::Running { since, .. } = container.life
                && now.boot.since(since) >= BACKOFF_RESET
            {
                container.failures = 0;
            }
            // As the kubelet: the first time at once, then 10 s doubling.
            let wait = container.failures.checked_sub(1).map_or(Duration::ZERO, backoff);
            container.failures += 1;
            container.restarts += 1;
            let message = format!("back-off {} s before the program is started again", wait.as_secs());
            container.life = Life::Waiting {
                reason: "CrashLoopBackOff".to_owned(),
                message,
                retry_at: Some(now.boot + wait),
                meanwhile: None,
                prepared: true,
            };
            container.last = Some(exit);
        }
    }
}
