//! When an index has failed, and when the job has.
//!
//! Disruptions and refusals never count toward `backoffLimitPerIndex`. An index does not fail while one of its attempts has
//! succeeded and the acceptor has not answered, and the job does not fail in the step in which it completes.

use serde::{Deserialize, Serialize};

use super::index::View;
use super::ledger::{ConditionKind, Ledger};
use super::{IndexCounts, Plan, Standing, after, until};
use crate::index_set::IndexSet;

/// How much of a list of indexes a message shows.
const SHOWN: usize = 200;

/// An index that fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexFailure {
    /// The index.
    pub index: u32,
    /// The limit that it exceeded.
    pub limit: Limit,
    /// What it has gone through.
    pub counts: IndexCounts,
}

/// A limit of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// `backoffLimitPerIndex`.
    Failures,
    /// `maxDisruptionsPerIndex`.
    Disruptions,
}

/// Enters the indexes that have gone through more than they may.
pub(super) fn fail_indexes(view: &View<'_>, ledger: &mut Ledger) -> Vec<IndexFailure> {
    let spec = &view.facts.spec;
    let mut failing = Vec::new();
    for (index, attempts) in &view.indexes {
        if view.is_over(*index) || ledger.completed.contains(*index) || attempts.has_undecided() {
            continue;
        }
        let counts = attempts.counts();
        let limit = if spec.backoff_limit_per_index.is_some_and(|most| counts.failures > most) {
            Limit::Failures
        } else if spec
            .max_disruptions_per_index
            .is_some_and(|most| counts.disruptions > most)
        {
            Limit::Disruptions
        } else {
            continue;
        };
        ledger
            .failed_indexes
            .insert(*index)
            .expect("an index that is not over is below the bound");
        failing.push(IndexFailure {
            index: *index,
            limit,
            counts,
        });
    }
    failing
}

/// Decides whether the job completes or fails, once and for all.
pub(super) fn judge(view: &View<'_>, plan: &mut Plan) {
    let (spec, now) = (&view.facts.spec, view.facts.now);
    let completions = spec.completions();
    if plan.ledger.completed.len() == completions {
        let message = format!("all {completions} indexes are completed");
        plan.ledger.set(
            ConditionKind::SuccessCriteriaMet,
            true,
            "CompletionsReached",
            message,
            now,
        );
        return;
    }
    let failed = plan.ledger.failed_indexes.len();
    let all_over = plan.ledger.completed.len() + failed == completions;
    if let Some(most) = spec.max_failed_indexes.filter(|most| failed > *most) {
        let excess = format!(
            "{}, more than maxFailedIndexes: {most} allows",
            have_failed(&plan.ledger.failed_indexes)
        );
        let (reason, message) = match roaming(view, &plan.failing) {
            Some(roaming) => ("DisruptionLimitExceeded", format!("{roaming}; {excess}")),
            None => ("MaxFailedIndexesExceeded", excess),
        };
        plan.ledger
            .set(ConditionKind::FailureTarget, true, reason, message, now);
    } else if all_over {
        let over = format!("{}, all others are completed", have_failed(&plan.ledger.failed_indexes));
        let (reason, message) = match roaming(view, &plan.failing) {
            Some(roaming) => ("DisruptionLimitExceeded", format!("{roaming}; {over}")),
            None => ("FailedIndexes", over),
        };
        plan.ledger
            .set(ConditionKind::FailureTarget, true, reason, message, now);
    } else if view.standing == Standing::Open
        && let Some(limit) = spec.active_deadline
        && let Some(start) = plan.ledger.start_time
    {
        let deadline = after(start, limit);
        if now < deadline {
            plan.look_again(until(now, deadline));
        } else {
            let message = format!(
                "the job was active for longer than activeDeadlineSeconds: {} allows",
                limit.as_secs()
            );
            plan.ledger
                .set(ConditionKind::FailureTarget, true, "DeadlineExceeded", message, now);
        }
    }
}

fn have_failed(indexes: &IndexSet) -> String {
    let mut shown = indexes.to_string();
    if shown.len() > SHOWN {
        shown.truncate(SHOWN);
        shown.push('…');
    }
    match indexes.len() {
        1 => format!("index {shown} has failed"),
        many => format!("{many} indexes have failed ({shown})"),
    }
}

/// What to say if disruptions alone made the indexes fail that fail now.
fn roaming(view: &View<'_>, failing: &[IndexFailure]) -> Option<String> {
    let most = view.facts.spec.max_disruptions_per_index?;
    let first = failing.first()?;
    failing
        .iter()
        .all(|failure| failure.limit == Limit::Disruptions)
        .then(|| {
            let (index, times) = (first.index, first.counts.disruptions);
            format!("index {index} was disrupted {times} times, more than maxDisruptionsPerIndex: {most} allows")
        })
}
