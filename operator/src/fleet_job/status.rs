//! The ledger of `core::job` as the status of a FleetJob, there and back. Pure.
//!
//! The one place that knows both shapes. What was read and is written again is the same, or an index would be lost.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kerbside_api::v1alpha1::{FleetJobStatus, UncountedAttempts};
use kerbside_core::ids::PodUid;
use kerbside_core::index_set::IndexSet;
use kerbside_core::job::{self, Alive, ConditionKind, Ledger, Uncounted};
use kerbside_k8s::conditions::{self, Says};

use super::validate::Hold;

/// The store did not take a result.
pub(crate) const STORE_UNAVAILABLE: &str = "StoreUnavailable";

/// A status that is no ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read status.{field}: {why}")]
pub(crate) struct LedgerError {
    field: &'static str,
    why: String,
}

/// The ledger in a status.
pub(crate) fn ledger(status: &FleetJobStatus) -> Result<Ledger, LedgerError> {
    let bad = |field| move |why: String| LedgerError { field, why };
    let set = |field, text: &str| text.parse::<IndexSet>().map_err(|e| bad(field)(e.to_string()));
    let uids = |list: &[String]| -> Result<BTreeSet<PodUid>, LedgerError> {
        list.iter()
            .map(|u| u.parse())
            .collect::<Result<_, _>>()
            .map_err(|e: kerbside_core::ids::IdError| bad("uncountedAttempts")(e.to_string()))
    };
    let uncounted = &status.uncounted_attempts;
    let conditions = status.conditions.iter().filter_map(|c| {
        Some(job::Condition {
            kind: ConditionKind::from_type(&c.type_)?,
            status: c.status == "True",
            reason: c.reason.clone(),
            message: c.message.clone(),
            since: c.last_transition_time.0,
        })
    });
    let mut conditions: Vec<job::Condition> = conditions.collect();
    conditions.sort_by_key(|c| c.kind);
    Ok(Ledger {
        start_time: status.start_time.as_ref().map(|t| t.0),
        completion_time: status.completion_time.as_ref().map(|t| t.0),
        completed: set("completedIndexes", &status.completed_indexes)?,
        failed_indexes: set("failedIndexes", &status.failed_indexes)?,
        failed: status.failed.into(),
        refused: status.refused.into(),
        disruptions: status
            .disruptions
            .iter()
            .map(|(k, v)| (k.clone(), u64::from(*v)))
            .collect(),
        uncounted: Uncounted {
            succeeded: uids(&uncounted.succeeded)?,
            failed: uids(&uncounted.failed)?,
            disrupted: uids(&uncounted.disrupted)?,
            refused: uids(&uncounted.refused)?,
        },
        conditions,
    })
}

/// Everything that a status is made of.
pub(crate) struct Parts<'a> {
    pub(crate) generation: i64,
    pub(crate) ledger: &'a Ledger,
    pub(crate) alive: Alive,
    /// The conditions as stored.
    pub(crate) conditions: &'a [Condition],
    pub(crate) hold: Option<&'a Hold>,
    /// The results that wait for the store.
    pub(crate) waiting: usize,
    pub(crate) now: Timestamp,
}

/// The status that says all of it.
pub(crate) fn status(parts: &Parts<'_>) -> FleetJobStatus {
    let ledger = parts.ledger;
    let uids = |set: &BTreeSet<PodUid>| set.iter().map(ToString::to_string).collect();
    let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    FleetJobStatus {
        observed_generation: Some(parts.generation),
        start_time: ledger.start_time.map(Time),
        completion_time: ledger.completion_time.map(Time),
        completed_indexes: ledger.completed.to_string(),
        failed_indexes: ledger.failed_indexes.to_string(),
        active: parts.alive.active,
        ready: parts.alive.ready,
        unheard: parts.alive.unheard,
        terminating: parts.alive.terminating,
        succeeded: ledger.completed.len(),
        failed: count(ledger.failed),
        refused: count(ledger.refused),
        disruptions: ledger.disruptions.iter().map(|(k, v)| (k.clone(), count(*v))).collect(),
        uncounted_attempts: UncountedAttempts {
            succeeded: uids(&ledger.uncounted.succeeded),
            failed: uids(&ledger.uncounted.failed),
            disrupted: uids(&ledger.uncounted.disrupted),
            refused: uids(&ledger.uncounted.refused),
        },
        conditions: all_conditions(parts),
    }
}

/// The stored conditions with the ledger's and ours brought up to date; whatever others wrote stays.
fn all_conditions(parts: &Parts<'_>) -> Vec<Condition> {
    let generation = Some(parts.generation);
    let mut all = parts.conditions.to_vec();
    for c in &parts.ledger.conditions {
        let says = Says {
            type_: c.kind.as_str(),
            status: Some(c.status),
            reason: &c.reason,
            message: &c.message,
        };
        conditions::set(&mut all, &says, generation, c.since);
    }
    for type_ in Hold::TYPES {
        let hold = parts.hold.filter(|h| h.type_() == type_);
        raise(&mut all, type_, hold.map(|h| (type_, h.message())), parts);
    }
    let waiting = format!(
        "{} results wait for the result store, which does not answer; nothing is lost, they are tried again",
        parts.waiting
    );
    let down = (parts.waiting > 0).then_some((STORE_UNAVAILABLE, waiting.as_str()));
    raise(&mut all, STORE_UNAVAILABLE, down, parts);
    all
}

/// A condition that is True while something is wrong, False afterwards, and absent where it never was.
fn raise(all: &mut Vec<Condition>, type_: &str, wrong: Option<(&str, &str)>, parts: &Parts<'_>) {
    let (status, (reason, message)) = match wrong {
        Some(wrong) => (true, wrong),
        None if all.iter().any(|c| c.type_ == type_) => (false, ("Resolved", "")),
        None => return,
    };
    let says = Says {
        type_,
        status: Some(status),
        reason,
        message,
    };
    conditions::set(all, &says, Some(parts.generation), parts.now);
}

#[cfg(test)]
mod tests;
