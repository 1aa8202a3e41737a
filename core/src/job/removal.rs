//! Which attempts are deleted, and which are let go.
//!
//! Both follow from the observed ledger alone, never from what this plan is about to write: a crash between the writes then loses
//! nothing. A Pod that its last finalizer leaves may be gone at once, so letting go comes last in an attempt's life.

use super::attempt::{Attempt, DeleteReason, Outcome};
use super::index::{Index, Seen, View};
use super::{Deletion, OnLoss, Standing};
use crate::ids::PodUid;

/// The live attempts that must go, except those that the creation of others decides about.
pub(super) fn deletions(view: &View<'_>) -> Vec<Deletion> {
    let live = view
        .seen()
        .map(|seen| seen.attempt)
        .filter(|a| !a.has_ended() && a.deleted_at.is_none());
    live.filter_map(|attempt| {
        let reason = superfluous(view, attempt).or(attempt.deleted_for)?;
        Some(Deletion {
            uid: attempt.uid.clone(),
            reason,
        })
    })
    .collect()
}

fn superfluous(view: &View<'_>, attempt: &Attempt) -> Option<DeleteReason> {
    let ledger = &view.facts.ledger;
    match view.standing {
        Standing::Deleting => Some(DeleteReason::JobDeleted),
        _ if attempt.index >= view.facts.spec.completions() => Some(DeleteReason::IndexUnknown),
        _ if ledger.completed.contains(attempt.index) => Some(DeleteReason::Superseded),
        _ if ledger.failed_indexes.contains(attempt.index) => Some(DeleteReason::IndexFailed),
        Standing::Finished | Standing::Failing => Some(DeleteReason::JobFailed),
        Standing::Suspended => Some(DeleteReason::Suspended),
        Standing::Open if view.is_needless(attempt) => Some(DeleteReason::HeardAgain),
        Standing::Succeeding | Standing::Open => None,
    }
}

/// The attempts whose finalizer may go.
pub(super) fn releases(view: &View<'_>) -> Vec<PodUid> {
    let mut released = Vec::new();
    for (number, index) in &view.indexes {
        let over = view.is_over(*number) || matches!(view.standing, Standing::Succeeding | Standing::Failing);
        let held = index.attempts.iter().filter(|seen| seen.attempt.has_finalizer);
        released.extend(
            held.filter(|seen| may_go(view, index, over, seen))
                .map(|seen| seen.attempt.uid.clone()),
        );
    }
    released
}

fn may_go(view: &View<'_>, index: &Index<'_>, over: bool, seen: &Seen<'_>) -> bool {
    if matches!(view.standing, Standing::Deleting | Standing::Finished) {
        return true;
    }
    let attempt = seen.attempt;
    let on_record = view.is_recorded(&attempt.uid) || seen.outcome == Some(Outcome::Void);
    // A result that another one superseded counts as nothing, but completes its index: that must be on record.
    let is_settled = match view.facts.spec.on_loss {
        OnLoss::WhenSuspected => attempt.has_ended(),
        OnLoss::WhenFenced => attempt.has_ended() && attempt.has_stopped(),
    };
    let handed_on = index
        .newest()
        .is_some_and(|newest| newest.counted.contains(&attempt.uid));
    is_settled && on_record && (over || handed_on)
}
