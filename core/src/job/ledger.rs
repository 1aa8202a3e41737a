//! The ledger: what is on record about a job, and is never computed anew.
//!
//! It is the FleetJob's status, written by the operator alone, each time as a whole and only on top of the version it was planned
//! from. Nothing here ever takes an index out of a set or lowers a count.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Standing;
use super::attempt::Outcome;
use super::index::View;
use crate::ids::PodUid;
use crate::index_set::IndexSet;

/// A FleetJob's status, less the counts of what is alive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ledger {
    /// When the job was first started, or last resumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When the job completed; only if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Timestamp>,
    /// The indexes with an accepted result. How many they are is the status' `succeeded`.
    #[serde(skip_serializing_if = "IndexSet::is_empty")]
    pub completed: IndexSet,
    /// The indexes that have failed for good.
    #[serde(skip_serializing_if = "IndexSet::is_empty")]
    pub failed_indexes: IndexSet,
    /// Attempts whose program failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: u64,
    /// Attempts that a car declined.
    #[serde(skip_serializing_if = "is_zero")]
    pub refused: u64,
    /// Attempts that the car or the link ended, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub disruptions: BTreeMap<String, u64>,
    /// Attempts that are in the counts above and still have their finalizer.
    #[serde(skip_serializing_if = "Uncounted::is_empty")]
    pub uncounted: Uncounted,
    /// The conditions that the plan owns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands in a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The UIDs of attempts that have been entered in the ledger and not yet been let go. An attempt in here is never entered again.
///
/// `uncountedAttempts` of the status. In batch/v1 such Pods are not in the counters yet; here they are, from the write that enters
/// them: a disruption's reason is known then, and may be gone with the Pod later.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uncounted {
    /// Their results were accepted.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub succeeded: BTreeSet<PodUid>,
    /// Their programs failed.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub failed: BTreeSet<PodUid>,
    /// The car or the link ended them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub disrupted: BTreeSet<PodUid>,
    /// A car declined them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub refused: BTreeSet<PodUid>,
}

/// A condition of the FleetJob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Its type.
    pub kind: ConditionKind,
    /// Its status: True or False.
    pub status: bool,
    /// Its reason.
    pub reason: String,
    /// Its message.
    pub message: String,
    /// When its status last changed.
    pub since: Timestamp,
}

/// The types of condition that the plan owns. All but the last are named as in batch/v1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConditionKind {
    /// No attempt may run.
    Suspended,
    /// Every index is completed; what is left is being ended.
    SuccessCriteriaMet,
    /// The job cannot complete any more; what is left is being ended.
    FailureTarget,
    /// The job has completed.
    Complete,
    /// The job has failed.
    Failed,
    /// Every eligible vehicle refuses the job.
    NoVehicleAccepts,
}

impl ConditionKind {
    /// The condition's type as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suspended => "Suspended",
            Self::SuccessCriteriaMet => "SuccessCriteriaMet",
            Self::FailureTarget => "FailureTarget",
            Self::Complete => "Complete",
            Self::Failed => "Failed",
            Self::NoVehicleAccepts => "NoVehicleAccepts",
        }
    }

    /// The type that a text names, if the plan owns it.
    pub fn from_type(name: &str) -> Option<Self> {
        let all = [
            Self::Suspended,
            Self::SuccessCriteriaMet,
            Self::FailureTarget,
            Self::Complete,
            Self::Failed,
            Self::NoVehicleAccepts,
        ];
        all.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl Ledger {
    /// The condition of this type, if it is there.
    pub fn condition(&self, kind: ConditionKind) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Whether the condition of this type is True.
    pub fn is(&self, kind: ConditionKind) -> bool {
        self.condition(kind).is_some_and(|condition| condition.status)
    }

    /// Whether the job has completed or failed.
    pub fn is_finished(&self) -> bool {
        self.is(ConditionKind::Complete) || self.is(ConditionKind::Failed)
    }

    /// Whether it is settled that the job completes or fails.
    pub(super) fn is_decided(&self) -> bool {
        self.is(ConditionKind::SuccessCriteriaMet) || self.is(ConditionKind::FailureTarget) || self.is_finished()
    }

    pub(super) fn set(
        &mut self,
        kind: ConditionKind,
        status: bool,
        reason: &str,
        message: impl Into<String>,
        now: Timestamp,
    ) {
        let since = self
            .condition(kind)
            .filter(|c| c.status == status)
            .map_or(now, |c| c.since);
        let condition = Condition {
            kind,
            status,
            reason: reason.to_owned(),
            message: message.into(),
            since,
        };
        match self.conditions.iter_mut().find(|c| c.kind == kind) {
            Some(old) => *old = condition,
            None => self.conditions.push(condition),
        }
        self.conditions.sort_by_key(|c| c.kind);
    }
}

impl Uncounted {
    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.sets().into_iter().all(BTreeSet::is_empty)
    }

    pub(super) fn contains(&self, uid: &PodUid) -> bool {
        self.sets().into_iter().any(|set| set.contains(uid))
    }

    fn sets(&self) -> [&BTreeSet<PodUid>; 4] {
        [&self.succeeded, &self.failed, &self.disrupted, &self.refused]
    }

    fn retain(&mut self, keep: impl Fn(&PodUid) -> bool) {
        for set in [
            &mut self.succeeded,
            &mut self.failed,
            &mut self.disrupted,
            &mut self.refused,
        ] {
            set.retain(&keep);
        }
    }
}

/// Enters every end that is not on record yet, and strikes off the list the attempts that have been let go.
pub(super) fn record(view: &View<'_>, ledger: &mut Ledger) {
    let kept: BTreeSet<_> = view
        .seen()
        .map(|seen| seen.attempt)
        .filter(|a| a.has_finalizer)
        .map(|a| &a.uid)
        .collect();
    ledger.uncounted.retain(|uid| kept.contains(uid));
    for seen in view.seen().filter(|seen| !view.is_recorded(&seen.attempt.uid)) {
        let (index, uid) = (seen.attempt.index, seen.attempt.uid.clone());
        match &seen.outcome {
            None | Some(Outcome::Void) => {}
            Some(Outcome::Accepted) => {
                complete(ledger, index);
                ledger.uncounted.succeeded.insert(uid);
            }
            // The winner may have been let go, or never be seen again: the store has its result all the same.
            Some(Outcome::Superseded) => complete(ledger, index),
            Some(Outcome::Failed) => {
                ledger.failed += 1;
                ledger.uncounted.failed.insert(uid);
            }
            Some(Outcome::Refused) => {
                ledger.refused += 1;
                ledger.uncounted.refused.insert(uid);
            }
            Some(Outcome::Disrupted(reason)) => {
                *ledger.disruptions.entry(reason.clone()).or_default() += 1;
                ledger.uncounted.disrupted.insert(uid);
            }
        }
    }
}

fn complete(ledger: &mut Ledger, index: u32) {
    ledger
        .completed
        .insert(index)
        .expect("an outcome that completes an index is given only below the bound");
}

/// Starts, suspends or resumes the job. A job that was ever started keeps its start, since its template is then settled; a job
/// that is resumed starts anew.
pub(super) fn start(view: &View<'_>, ledger: &mut Ledger) {
    let now = view.facts.now;
    let was_suspended = ledger.is(ConditionKind::Suspended);
    if view.standing == Standing::Suspended {
        ledger.set(ConditionKind::Suspended, true, "JobSuspended", "Job suspended", now);
        return;
    }
    if was_suspended {
        ledger.set(ConditionKind::Suspended, false, "JobResumed", "Job resumed", now);
    }
    if was_suspended || ledger.start_time.is_none() {
        ledger.start_time = Some(now);
    }
}
