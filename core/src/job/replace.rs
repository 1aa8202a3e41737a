//! Which attempts are made, and which unbound ones are withdrawn.
//!
//! An index gets an attempt when nothing holds it and its program's back-off has passed; the lowest index comes first. Nothing that
//! runs is ever withdrawn: lowering `parallelism` takes back only what waits for a vehicle, and a car that comes back is adopted
//! beside its replacement, if that has begun (`removal` sees to one that has not).

use std::collections::BTreeSet;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::attempt::{Attempt, DeleteReason, IndexCounts, Phase};
use super::index::{Index, View};
use super::refusals::Reach;
use super::{Deletion, NewAttempt, Plan, after, until};
use crate::backoff::Backoff;
use crate::ids::PodUid;

/// The most attempts that one plan makes: a step of the operator stays short, and others get their turn.
pub const MOST_CREATIONS: usize = 500;
/// How soon the rest follows.
const NEXT_CREATIONS: Duration = Duration::from_millis(100);

/// Plans what is made and what is withdrawn.
pub(super) fn create(view: &View<'_>, plan: &mut Plan) {
    let known = plan.refusals.clone();
    let reach = Reach::new(view, &known);
    let active: Vec<_> = view
        .seen()
        .map(|seen| seen.attempt)
        .filter(|attempt| attempt.is_active())
        .collect();
    let parallelism = usize::try_from(view.facts.spec.parallelism).unwrap_or(usize::MAX);
    let going: BTreeSet<_> = plan.delete.iter().map(|deletion| deletion.uid.clone()).collect();
    let staying = active.iter().filter(|attempt| !going.contains(&attempt.uid)).count();
    withdraw(view, plan, &reach, &active, &going, staying.saturating_sub(parallelism));

    let mut room = parallelism.saturating_sub(active.len());
    let asking = active.iter().filter(|attempt| attempt.phase == Phase::Pending).count();
    if reach.all_refuse() {
        // Nobody is known to be willing: each vehicle that may be asked again is asked with one attempt.
        room = room.min(reach.askable().saturating_sub(asking));
    }
    let mut waiting = Vec::new();
    let over = plan.ledger.completed.union(&plan.ledger.failed_indexes);
    for index in over.missing(view.facts.spec.completions()) {
        if plan.create.len() == room {
            break;
        }
        let before = view.indexes.get(&index);
        let Some(counts) = before.map_or_else(|| Some(IndexCounts::default()), |before| ready(view, plan, before))
        else {
            continue;
        };
        if reach.should_wait(counts.refusals) {
            waiting.push((index, counts));
            continue;
        }
        if plan.create.len() == MOST_CREATIONS {
            plan.look_again(NEXT_CREATIONS);
            break;
        }
        plan.create.push(new_attempt(view, &reach, index, counts));
    }
    if plan.create.is_empty() && asking == 0 {
        // There are no others to find out who is willing.
        let made = waiting.into_iter().take(room.min(MOST_CREATIONS));
        plan.create
            .extend(made.map(|(index, counts)| new_attempt(view, &reach, index, counts)));
    }
}

/// What the index has gone through, if an attempt may be made for it now.
fn ready(view: &View<'_>, plan: &mut Plan, index: &Index<'_>) -> Option<IndexCounts> {
    let spec = &view.facts.spec;
    if index.is_held(spec.on_loss) {
        return None;
    }
    let counts = index.counts();
    // Each attempt that is lost will probably be a disruption: do not send out more than could come to nothing.
    let expected = counts.disruptions.saturating_add(index.losses());
    if spec.max_disruptions_per_index.is_some_and(|most| expected > most) {
        return None;
    }
    if let Some(failed) = index.last_failure() {
        let now = view.facts.now;
        let from = after(failed.min(now), Backoff::POD.delay(counts.failures));
        if now < from {
            plan.look_again(until(now, from));
            return None;
        }
    }
    Some(counts)
}

fn new_attempt(view: &View<'_>, reach: &Reach<'_>, index: u32, prior: IndexCounts) -> NewAttempt {
    let before = view.indexes.get(&index);
    let ordinal = before
        .and_then(Index::newest)
        .map_or(0, |newest| newest.ordinal.saturating_add(1));
    NewAttempt {
        index,
        ordinal,
        suffix: suffix(view, index, ordinal),
        prior,
        counted: before.map(Index::counted).unwrap_or_default(),
        avoid: reach.avoid(prior.refusals),
    }
}

/// Five characters that follow from the attempt, and that no other attempt of the index which is still there has.
fn suffix(view: &View<'_>, index: u32, ordinal: u32) -> String {
    let others: Vec<_> = view.indexes.get(&index).into_iter().flat_map(|i| &i.attempts).collect();
    let candidates = (0u32..).map(|salt| {
        let hash = Sha256::digest(format!("{}/{index}/{ordinal}/{salt}", view.facts.spec.uid));
        let mut text = data_encoding::BASE32_NOPAD.encode(&hash).to_ascii_lowercase();
        text.truncate(5);
        text
    });
    let free = |suffix: &String| !others.iter().any(|seen| seen.attempt.name.ends_with(suffix.as_str()));
    candidates
        .into_iter()
        .find(free)
        .expect("there are more suffixes than attempts of an index")
}

/// Takes back unbound attempts: those beyond `parallelism`, highest index first, and those that avoid everybody while somebody may
/// be asked again.
fn withdraw(
    view: &View<'_>,
    plan: &mut Plan,
    reach: &Reach<'_>,
    active: &[&Attempt],
    going: &BTreeSet<PodUid>,
    excess: usize,
) {
    let unbound: Vec<_> = active
        .iter()
        .filter(|a| a.is_unbound() && !going.contains(&a.uid))
        .collect();
    let (needed, surplus) = unbound.split_at(unbound.len().saturating_sub(excess));
    let mut delete = |attempt: &Attempt, reason| {
        plan.delete.push(Deletion {
            uid: attempt.uid.clone(),
            reason,
        });
    };
    for attempt in surplus {
        delete(attempt, DeleteReason::ParallelismLowered);
    }
    let stuck: Vec<_> = needed.iter().filter(|attempt| reach.is_stuck(attempt)).collect();
    if stuck.is_empty() {
        return;
    }
    if reach.askable() > 0 {
        for attempt in stuck {
            delete(attempt, DeleteReason::AvoidOutdated);
        }
    } else if let Some(next) = reach.next() {
        plan.look_again(until(view.facts.now, next));
    }
}
