//! The transitions of [`super::Attempt`]: which event changes what in which state, row by row as in the table there.
//!
//! Called through [`super::step`] only. Methods of the attempt change it; here it is decided which of them, and whether it is reported.

use super::{
    Attempt, Boottime, Container, Duration, Effect, Event, Kind, Life, MEANWHILE_AFTER, Now, Outcome, Plan, State,
    backoff,
};

/// The next state of an attempt and what has to be done.
pub fn step(mut attempt: Attempt, plan: &Plan, event: Event, now: Now) -> (Attempt, Vec<Effect>) {
    let mut effects = Vec::new();
    let changed = match attempt.state.clone() {
        State::Ended { .. } => false,
        State::Admitted | State::Waiting => admitted(&mut attempt, plan, event, now, &mut effects),
        State::Active => active(&mut attempt, plan, event, now, &mut effects),
        State::Stopping {
            outcome,
            kill_at,
            killed,
        } => stopping(&mut attempt, plan, event, now, (outcome, kill_at, killed), &mut effects),
        State::Uploading { outcome, until } => uploading(&mut attempt, event, now, (outcome, until), &mut effects),
    };
    if changed {
        attempt.report(&mut effects);
    }
    (attempt, effects)
}

/// Before anything has begun: in `Admitted` and in `Waiting`.
fn admitted(attempt: &mut Attempt, plan: &Plan, event: Event, now: Now, effects: &mut Vec<Effect>) -> bool {
    let waiting = attempt.state == State::Waiting;
    match event {
        Event::Journaled if !waiting && attempt.is_heard(plan, now) => {
            attempt.state = State::Active;
            attempt.advance(plan, now, effects);
            true
        }
        Event::Journaled if !waiting => {
            attempt.state = State::Waiting;
            true
        }
        Event::Heard { sent } if waiting && sent >= attempt.admitted => {
            attempt.hear(sent, now);
            // An acknowledgement may come late as well.
            if let Some(outcome) = attempt.limits(plan, now) {
                attempt.state = State::Ended { outcome };
            } else {
                attempt.state = State::Active;
                attempt.advance(plan, now, effects);
            }
            true
        }
        Event::JournalFailed { message } if !waiting => {
            let message = format!("the vehicle cannot write its journal: {message}");
            attempt.state = State::Ended {
                outcome: Outcome::new(Kind::Refused, "JournalUnwritable", message),
            };
            true
        }
        Event::Stop { reason, message, .. } | Event::Depart { reason, message, .. } => {
            attempt.state = State::Ended {
                outcome: Outcome::new(Kind::Disrupted, &reason, message),
            };
            true
        }
        Event::Freeze => {
            attempt.frozen = true;
            false
        }
        Event::Thaw => {
            attempt.frozen = false;
            false
        }
        Event::Heard { sent } => {
            attempt.hear(sent, now);
            false
        }
        Event::Tick if waiting => match attempt.limits(plan, now) {
            Some(outcome) => {
                attempt.state = State::Ended { outcome };
                true
            }
            None => false,
        },
        _ => false,
    }
}

/// Returns whether something changed that is not reported yet.
fn active(attempt: &mut Attempt, plan: &Plan, event: Event, now: Now, effects: &mut Vec<Effect>) -> bool {
    let life = |attempt: &Attempt, index: usize| attempt.containers.get(index).map(|c| c.life.clone());
    let mut changed = false;
    match event {
        Event::Prepared { container, image_id } if life(attempt, container) == Some(Life::Preparing) => {
            let c = &mut attempt.containers[container];
            c.failures = 0;
            c.image_id = image_id;
            c.life = Life::waiting("ContainerCreating");
            if let Life::Waiting { prepared, .. } = &mut c.life {
                *prepared = true;
            }
            attempt.advance(plan, now, effects);
        }
        Event::NotReady { container, why } if life(attempt, container) == Some(Life::Preparing) => {
            let c = &mut attempt.containers[container];
            let wait = backoff(c.failures);
            c.failures += 1;
            c.life = Life::Waiting {
                reason: why.reason,
                message: why.message,
                retry_at: why.retry.then(|| now.boot + wait),
                meanwhile: why.meanwhile.map(|word| (now.boot + MEANWHILE_AFTER, word)),
                prepared: false,
            };
            changed = true;
        }
        Event::Started { container } if life(attempt, container) == Some(Life::Starting) => {
            attempt.containers[container].life = Life::Running {
                since: now.boot,
                started_ms: now.wall_ms,
            };
            changed = true;
        }
        Event::Exited { container, exit } if attempt.containers.get(container).is_some_and(Container::is_alive) => {
            attempt.exited(plan, container, exit, now);
            if let Some(outcome) = attempt.verdict(plan) {
                attempt.finish(plan, outcome, effects);
                return false;
            }
            attempt.advance(plan, now, effects);
            changed = true;
        }
        Event::Freeze if !attempt.frozen => {
            attempt.frozen = true;
            effects.push(Effect::Freeze);
            changed = true;
        }
        Event::Thaw if attempt.frozen => {
            attempt.frozen = false;
            effects.push(Effect::Thaw);
            attempt.advance(plan, now, effects);
            changed = true;
        }
        Event::Stop { grace, reason, message } | Event::Depart { grace, reason, message } => {
            let outcome = Outcome::new(Kind::Disrupted, &reason, message);
            attempt.stop(plan, outcome, grace, now, effects);
            return false;
        }
        Event::Fail { reason, message } => {
            let outcome = Outcome::new(Kind::Failed, &reason, message);
            attempt.stop(plan, outcome, Duration::ZERO, now, effects);
            return false;
        }
        Event::Heard { sent } => attempt.hear(sent, now),
        Event::Tick => changed = attempt.advance(plan, now, effects),
        _ => {}
    }
    if let Some(outcome) = attempt.limits(plan, now) {
        attempt.stop(plan, outcome, Duration::ZERO, now, effects);
        return false;
    }
    changed
}

fn stopping(
    attempt: &mut Attempt,
    plan: &Plan,
    event: Event,
    now: Now,
    (outcome, kill_at, killed): (Outcome, Boottime, bool),
    effects: &mut Vec<Effect>,
) -> bool {
    match event {
        Event::Exited { container, exit } if attempt.containers.get(container).is_some_and(Container::is_alive) => {
            attempt.exited(plan, container, exit, now);
            if attempt.any_alive() {
                return true;
            }
            attempt.finish(plan, outcome, effects);
            false
        }
        Event::Started { container } => {
            if let Some(c) = attempt.containers.get_mut(container)
                && c.life == Life::Starting
            {
                c.life = Life::Running {
                    since: now.boot,
                    started_ms: now.wall_ms,
                };
            }
            false
        }
        // A later stop can only shorten the grace, as in the kubelet.
        Event::Stop { grace, .. } | Event::Depart { grace, .. } if now.boot + grace < kill_at => {
            attempt.state = State::Stopping {
                outcome,
                kill_at: now.boot + grace,
                killed,
            };
            kill_if_due(attempt, plan, now, effects);
            false
        }
        Event::Heard { sent } => {
            attempt.hear(sent, now);
            false
        }
        Event::Tick => {
            kill_if_due(attempt, plan, now, effects);
            false
        }
        _ => false,
    }
}

fn uploading(
    attempt: &mut Attempt,
    event: Event,
    now: Now,
    (outcome, until): (Outcome, Option<(Boottime, Outcome)>),
    effects: &mut Vec<Effect>,
) -> bool {
    let end = |attempt: &mut Attempt, outcome: Outcome| attempt.state = State::Ended { outcome };
    match event {
        Event::Uploaded => end(attempt, outcome),
        Event::UploadRefused { reason, message } if outcome.kind == Kind::Succeeded => {
            end(attempt, Outcome::new(Kind::Failed, &reason, message));
        }
        // The log of a program that failed is not worth holding up the failure.
        Event::UploadRefused { .. } => end(attempt, outcome),
        Event::Stop { grace, reason, message } => {
            let otherwise = match outcome.kind {
                Kind::Succeeded => Outcome::new(Kind::Disrupted, &reason, message),
                _ => outcome.clone(),
            };
            let at = until.map_or(now.boot + grace, |(before, _)| before.min(now.boot + grace));
            attempt.state = State::Uploading {
                outcome,
                until: Some((at, otherwise)),
            };
            return give_up_upload(attempt, now, effects);
        }
        _ => return give_up_upload(attempt, now, effects),
    }
    true
}

/// Ends an upload whose time is over; the caller reports.
fn give_up_upload(attempt: &mut Attempt, now: Now, effects: &mut Vec<Effect>) -> bool {
    match &attempt.state {
        State::Uploading {
            until: Some((at, otherwise)),
            ..
        } if *at <= now.boot => {
            attempt.state = State::Ended {
                outcome: otherwise.clone(),
            };
            effects.push(Effect::Stop);
            true
        }
        _ => false,
    }
}

/// What is stopping has its grace, but not beyond its fence: the cluster takes it for dead then.
fn kill_if_due(attempt: &mut Attempt, plan: &Plan, now: Now, effects: &mut Vec<Effect>) {
    let fenced = attempt.fence_at(plan).is_some_and(|at| at <= now.boot);
    if let State::Stopping { kill_at, killed, .. } = &mut attempt.state
        && !*killed
        && (fenced || *kill_at <= now.boot)
    {
        *killed = true;
        effects.push(Effect::Kill);
    }
}
