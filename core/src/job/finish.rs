//! The end of a job: from the decision to the terminal condition, and from there to its expiry.
//!
//! As in batch/v1, Complete and Failed come only when nothing of the job is left: every attempt has ended and is let go. An unheard
//! attempt that may run twice is not waited for: its car may stay silent for as long as `runUnheardFor` says. A finished job
//! never changes again.

use super::index::View;
use super::ledger::ConditionKind;
use super::{OnLoss, Plan, Standing, after, until};

/// Makes the decision final when nothing is left.
pub(super) fn finish(view: &View<'_>, plan: &mut Plan) {
    let is_left = view.seen().any(|seen| match view.facts.spec.on_loss {
        OnLoss::WhenSuspected => seen.is_undecided() || !(seen.attempt.has_ended() || seen.attempt.unheard),
        OnLoss::WhenFenced => seen.is_undecided() || !seen.attempt.has_stopped(),
    });
    if is_left || !plan.ledger.uncounted.is_empty() {
        return;
    }
    let (decision, end) = match view.standing {
        Standing::Succeeding => (ConditionKind::SuccessCriteriaMet, ConditionKind::Complete),
        _ => (ConditionKind::FailureTarget, ConditionKind::Failed),
    };
    let now = view.facts.now;
    let Some(decision) = plan.ledger.condition(decision).cloned() else {
        return;
    };
    plan.ledger.set(end, true, &decision.reason, decision.message, now);
    if end == ConditionKind::Complete {
        plan.ledger.completion_time = Some(now);
    }
    expire(view, plan);
}

/// Says when a job that has finished is to be deleted.
pub(super) fn expire(view: &View<'_>, plan: &mut Plan) {
    let ends = [ConditionKind::Complete, ConditionKind::Failed];
    let finished = ends
        .into_iter()
        .filter(|kind| plan.ledger.is(*kind))
        .find_map(|kind| plan.ledger.condition(kind));
    let (Some(finished), Some(ttl)) = (finished, view.facts.spec.ttl) else {
        return;
    };
    let expires_at = after(finished.since, ttl);
    plan.expires_at = Some(expires_at);
    plan.expired = expires_at <= view.facts.now;
    if !plan.expired {
        plan.look_again(until(view.facts.now, expires_at));
    }
}
