//! The transitions of [`super::Attempt`]: which event changes what in which state, row by row as in the table there.
//!
//! Called through [`super::step`] only. Methods of the attempt change it; here it is decided which of them, and whether it is reported.

use super::container::LEAST_GRACE;
use super::{
    Attempt, Boottime, Container, Effect, Event, Kind, Life, NotReady, Now, Outcome, Plan, Role, State, Until,
};
use crate::owner::Refusal;

/// The next state of an attempt and what has to be done.
pub fn step(mut attempt: Attempt, plan: &Plan, event: Event, now: Now) -> (Attempt, Vec<Effect>) {
    let mut effects = Vec::new();
    if let Event::PostStarted { container, run, .. }
    | Event::PreStopped { container, run, .. }
    | Event::Probed { container, run, .. } = &event
        && attempt.containers.get(*container).is_none_or(|c| c.restarts != *run)
    {
        // The answer of a run that is over.
        return (attempt, effects);
    }
    let amended = event == Event::Amended && attempt.outcome().is_none() && attempt.amend(plan);
    let changed = match attempt.state.clone() {
        State::Ended { .. } => false,
        State::Admitted | State::Waiting => admitted(&mut attempt, plan, event, now, &mut effects),
        State::Active => active(&mut attempt, plan, event, now, &mut effects),
        State::Stopping { outcome, kill_at, .. } => {
            stopping(&mut attempt, plan, event, now, (outcome, kill_at), &mut effects)
        }
        State::Uploading { outcome, until } => uploading(&mut attempt, event, now, (outcome, until), &mut effects),
    };
    if changed || amended && attempt.state == State::Active {
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
            if let Some((outcome, _)) = attempt.limits(plan, now) {
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
            Some((outcome, _)) => {
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
    let mut changed = false;
    if let Event::Declined { container, why } = event {
        return declined(attempt, plan, (container, why), now, effects);
    }
    match event {
        Event::Prepared { container, .. }
        | Event::NotReady { container, .. }
        | Event::NotStarted { container, .. }
        | Event::Started { container }
        | Event::PostStarted { container, .. }
        | Event::PreStopped { container, .. }
        | Event::Probed { container, .. }
            if container < attempt.containers.len() =>
        {
            changed = of_container(attempt, plan, event, now, effects);
        }
        Event::Exited { container, exit } if attempt.containers.get(container).is_some_and(Container::is_alive) => {
            attempt.exited(plan, container, exit, now);
            match attempt.verdict(plan) {
                // Nothing waits for the sidecars but their own grace.
                Some(outcome) if attempt.any_alive() => {
                    attempt.stop(plan, outcome, Until::may_take(plan.grace), now, effects);
                    return false;
                }
                Some(outcome) => {
                    attempt.finish(plan, outcome, effects);
                    return false;
                }
                None => {}
            }
            attempt.advance(plan, now, effects);
            changed = true;
        }
        Event::Freeze if !attempt.frozen => {
            attempt.frozen = true;
            attempt
                .containers
                .iter_mut()
                .for_each(|container| container.pause(now.boot));
            effects.push(Effect::Freeze);
            changed = true;
        }
        Event::Thaw if attempt.frozen => {
            attempt.frozen = false;
            effects.push(Effect::Thaw);
            for (index, (container, terms)) in attempt.containers.iter_mut().zip(&plan.containers).enumerate() {
                container.resume(terms, index, now.boot, effects);
            }
            attempt.advance(plan, now, effects);
            changed = true;
        }
        Event::Stop { grace, reason, message } => {
            let outcome = Outcome::new(Kind::Disrupted, &reason, message);
            let until = attempt.takes_leave(Until::may_take(grace));
            attempt.stop(plan, outcome, until, now, effects);
            return false;
        }
        Event::Depart { grace, reason, message } => {
            // The brake is on in a car that leaves: nothing begins in it any more.
            attempt.frozen = true;
            let outcome = Outcome::new(Kind::Disrupted, &reason, message);
            attempt.stop(plan, outcome, Until { grace, binds: true }, now, effects);
            return false;
        }
        Event::Fail { reason, message } => {
            let outcome = Outcome::new(Kind::Failed, &reason, message);
            attempt.stop(plan, outcome, Until::NOW, now, effects);
            return false;
        }
        Event::Heard { sent } => attempt.hear(sent, now),
        Event::Provided => {
            attempt.hurry(now);
            changed = attempt.advance(plan, now, effects);
        }
        Event::Amended => changed = attempt.advance(plan, now, effects),
        Event::Tick => {
            attempt.tend(now, effects);
            changed = attempt.advance(plan, now, effects);
        }
        _ => {}
    }
    if let Some((outcome, until)) = attempt.limits(plan, now) {
        let until = attempt.takes_leave(until);
        attempt.stop(plan, outcome, until, now, effects);
        return false;
    }
    changed
}

/// The owner's terms do not let a container begin. That ends the attempt, for it will never be whole; but a container that somebody has added
/// to it only waits. Nobody's program has failed: where nothing has begun, the attempt is refused as if it had been so when it came.
fn declined(
    attempt: &mut Attempt,
    plan: &Plan,
    (container, Refusal { reason, message }): (usize, Refusal),
    now: Now,
    effects: &mut Vec<Effect>,
) -> bool {
    let of = attempt
        .containers
        .get_mut(container)
        .zip(plan.containers.get(container));
    let Some((of, terms)) = of.filter(|(of, _)| of.life == Life::Preparing) else {
        return false;
    };
    let why = NotReady {
        reason: reason.clone(),
        meanwhile: None,
        message: message.clone(),
        retry: false,
    };
    of.not_ready(why, now);
    if terms.role == Role::Ephemeral {
        return true;
    }
    let kind = if attempt.has_begun() {
        Kind::Disrupted
    } else {
        Kind::Refused
    };
    let until = attempt.takes_leave(Until::may_take(plan.grace));
    attempt.stop(plan, Outcome::new(kind, &reason, message), until, now, effects);
    false
}

/// What the programs, and those that make them ready, say of one container, which is one of the plan's. Returns whether something changed
/// that is not reported yet.
fn of_container(attempt: &mut Attempt, plan: &Plan, event: Event, now: Now, effects: &mut Vec<Effect>) -> bool {
    let life = |attempt: &Attempt, index: usize| attempt.containers[index].life.clone();
    let mut changed = false;
    match event {
        Event::Prepared { container, image_id } if life(attempt, container) == Life::Preparing => {
            let c = &mut attempt.containers[container];
            c.failures = 0;
            c.image_id = image_id;
            c.life = Life::waiting("ContainerCreating");
            if let Life::Waiting { prepared, .. } = &mut c.life {
                *prepared = true;
            }
            attempt.advance(plan, now, effects);
        }
        Event::NotReady { container, why } if life(attempt, container) == Life::Preparing => {
            attempt.containers[container].not_ready(why, now);
            changed = true;
        }
        Event::NotStarted { container, why } if life(attempt, container) == Life::Starting => {
            attempt.containers[container].not_ready(why, now);
            changed = true;
        }
        Event::Started { container } if life(attempt, container) == Life::Starting => {
            attempt.containers[container].begin(&plan.containers[container], container, attempt.frozen, now, effects);
            attempt.advance(plan, now, effects);
            changed = true;
        }
        Event::PostStarted { container, result, .. } => {
            let terms = &plan.containers[container];
            if attempt.containers[container].post_started(terms, result, attempt.frozen, now) {
                attempt.advance(plan, now, effects);
            } else {
                attempt.close(plan, container, plan.grace, now, effects);
            }
            changed = true;
        }
        Event::PreStopped { container, result, .. } => {
            attempt.containers[container].pre_stopped(container, result, effects);
        }
        Event::Probed {
            container,
            kind,
            number,
            result,
            ..
        } => {
            let said = |attempt: &Attempt| {
                let c = &attempt.containers[container];
                (c.is_ready(), c.started, c.note.clone())
            };
            let before = said(attempt);
            let terms = &plan.containers[container];
            let ends = attempt.containers[container].probed(terms, (kind, number), result, plan.grace, now);
            if let Some(grace) = ends {
                attempt.close(plan, container, grace, now, effects);
                attempt.containers[container].blame_probe();
            }
            attempt.advance(plan, now, effects);
            changed = said(attempt) != before;
        }
        _ => {}
    }
    changed
}

fn stopping(
    attempt: &mut Attempt,
    plan: &Plan,
    event: Event,
    now: Now,
    (outcome, kill_at): (Outcome, Boottime),
    effects: &mut Vec<Effect>,
) -> bool {
    match event {
        Event::Exited { container, exit } if attempt.containers.get(container).is_some_and(Container::is_alive) => {
            attempt.exited(plan, container, exit, now);
            if attempt.any_alive() {
                attempt.close_in_turn(plan, kill_at, effects);
                return true;
            }
            attempt.finish(plan, outcome, effects);
            false
        }
        Event::Started { container } => {
            if let Some(c) = attempt.containers.get_mut(container)
                && c.life == Life::Starting
            {
                // Its turn to end may not have come, but nothing begins in it any more.
                c.begin(&plan.containers[container], container, true, now, effects);
            }
            false
        }
        Event::NotStarted { container, why }
            if attempt
                .containers
                .get(container)
                .is_some_and(|c| c.life == Life::Starting) =>
        {
            // It was about to begin, and never will.
            attempt.containers[container].not_ready(why, now);
            if attempt.any_alive() {
                attempt.close_in_turn(plan, kill_at, effects);
                return true;
            }
            attempt.finish(plan, outcome, effects);
            false
        }
        Event::PreStopped { container, result, .. } if container < attempt.containers.len() => {
            attempt.containers[container].pre_stopped(container, result, effects);
            false
        }
        Event::Freeze if !attempt.frozen => {
            attempt.frozen = true;
            effects.push(Effect::Freeze);
            false
        }
        Event::Thaw if attempt.frozen => {
            attempt.frozen = false;
            effects.push(Effect::Thaw);
            false
        }
        Event::Fail { .. } => {
            attempt.kill_all(now, effects);
            false
        }
        // A later stop can only shorten the grace, as in the kubelet.
        Event::Stop { grace, .. } | Event::Depart { grace, .. } => {
            let sooner = kill_at.min(now.boot + grace);
            let departs = matches!(event, Event::Depart { .. });
            if let State::Stopping {
                kill_at, binds, unless, ..
            } = &mut attempt.state
            {
                *kill_at = sooner;
                *binds |= departs;
                if let Event::Stop { reason, message, .. } = event {
                    *unless = Some(sooner_end(unless.take(), &outcome, (reason, message), now.boot + grace));
                }
            }
            if sooner < kill_at {
                attempt.close_in_turn(plan, sooner, effects);
            }
            overdue(attempt, plan, now, effects);
            false
        }
        Event::Heard { sent } => {
            attempt.hear(sent, now);
            false
        }
        Event::Tick => {
            overdue(attempt, plan, now, effects);
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
            let until = Some(sooner_end(until, &outcome, (reason, message), now.boot + grace));
            attempt.state = State::Uploading { outcome, until };
            return give_up_upload(attempt, now, effects);
        }
        _ => return give_up_upload(attempt, now, effects),
    }
    true
}

/// By when an output must have arrived that the cluster does not want to wait for, and how the attempt ends otherwise.
fn sooner_end(
    until: Option<(Boottime, Outcome)>,
    outcome: &Outcome,
    (reason, message): (String, String),
    at: Boottime,
) -> (Boottime, Outcome) {
    let otherwise = match outcome.kind {
        Kind::Succeeded => Outcome::new(Kind::Disrupted, &reason, message),
        _ => outcome.clone(),
    };
    (until.map_or(at, |(before, _)| before.min(at)), otherwise)
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
            effects.push(Effect::GiveUp);
            true
        }
        _ => false,
    }
}

/// What is stopping has its grace, but not beyond its fence: the cluster takes it for dead then. Who was not asked before gets two seconds
/// more, unless they would come too late.
fn overdue(attempt: &mut Attempt, plan: &Plan, now: Now, effects: &mut Vec<Effect>) {
    let fenced = attempt.fence_at(plan).is_some_and(|at| at <= now.boot);
    let State::Stopping {
        kill_at,
        binds,
        killed: false,
        ..
    } = &mut attempt.state
    else {
        return;
    };
    let over = *kill_at <= now.boot;
    if fenced || over && *binds {
        return attempt.kill_all(now, effects);
    }
    if over {
        (*kill_at, *binds) = (now.boot + LEAST_GRACE, true);
        let kill_at = *kill_at;
        for (index, container) in attempt.containers.iter_mut().enumerate() {
            // A sidecar whose turn has not come, and now there is no time for its hook.
            container.close(&plan.containers[index], index, false, kill_at, effects);
        }
    }
    for (index, container) in attempt.containers.iter_mut().enumerate() {
        container.overdue(index, now.boot, effects);
    }
    if !attempt.containers.iter().any(|c| c.kill_at().is_some())
        && let State::Stopping { killed, .. } = &mut attempt.state
    {
        // Everything that lives has been killed.
        *killed = true;
    }
}
