//! An attempt as a plan sees it, and what its end counts as.
//!
//! Filled from a Pod by the operator. Says what one attempt is by itself; what it means for its index is `index.rs`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{PodUid, VehicleId};

/// The disruption of an attempt that somebody deleted.
pub(super) const POD_DELETED: &str = "PodDeleted";

/// One Pod for one completion index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// The Pod's UID.
    pub uid: PodUid,
    /// The Pod's name.
    pub name: String,
    /// The completion index.
    pub index: u32,
    /// Which attempt of its index this is, from 0: annotation `ORDINAL`.
    #[serde(default)]
    pub ordinal: u32,
    /// `status.phase`.
    #[serde(default)]
    pub phase: Phase,
    /// The condition Ready.
    #[serde(default)]
    pub ready: bool,
    /// Where it is bound.
    #[serde(default)]
    pub node: Option<VehicleId>,
    /// `metadata.creationTimestamp`.
    pub created_at: Timestamp,
    /// When its deletion was asked for: `deletionTimestamp` less `deletionGracePeriodSeconds`.
    #[serde(default)]
    pub deleted_at: Option<Timestamp>,
    /// When its end was reported, by the cluster's clock: when the condition Stopped became true. Never what a car's clock says.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// Whether the Pod still has the tracking finalizer.
    #[serde(default = "yes")]
    pub has_finalizer: bool,
    /// What the index had gone through before this attempt: annotations `FAILURES`, `DISRUPTIONS`, `REFUSALS`.
    #[serde(default)]
    pub prior: IndexCounts,
    /// The earlier attempts that were still there and are in `prior`: annotation `COUNTED`.
    #[serde(default)]
    pub counted: BTreeSet<PodUid>,
    /// The vehicles that its node affinity excludes: annotation `AVOID`.
    #[serde(default)]
    pub avoid: BTreeSet<VehicleId>,
    /// The reason of condition Refused=True.
    #[serde(default)]
    pub refused: Option<String>,
    /// The reason of condition DisruptionTarget=True.
    #[serde(default)]
    pub disruption: Option<String>,
    /// The condition Unheard.
    #[serde(default)]
    pub unheard: bool,
    /// The reason of condition Stopped=True.
    #[serde(default)]
    pub stopped: Option<Stopped>,
    /// Why the plan deletes it, where that had to be marked: annotation `DELETED_FOR`.
    #[serde(default)]
    pub deleted_for: Option<DeleteReason>,
}

fn yes() -> bool {
    true
}

/// A Pod's phase. Unknown, which nobody writes any more, is Running.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not started.
    #[default]
    Pending,
    /// Started.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended otherwise.
    Failed,
}

/// How it is known that no process of an attempt is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stopped {
    /// The car said so.
    Reported,
    /// The car's fence and a margin have passed.
    Fenced,
}

/// What an index has gone through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IndexCounts {
    /// Failures of the program.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Attempts that the car or the link ended.
    #[serde(skip_serializing_if = "is_zero")]
    pub disruptions: u32,
    /// Attempts that a car declined.
    #[serde(skip_serializing_if = "is_zero")]
    pub refusals: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands in a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// What the acceptor found for an attempt that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Acceptance {
    /// The store has this attempt's result as the result of the index.
    Accepted,
    /// The store has another attempt's.
    Superseded {
        /// The attempt whose result was accepted.
        by: PodUid,
    },
    /// There is no result that could be accepted: the list of files is missing or does not match.
    Invalid {
        /// What is wrong.
        message: String,
    },
    /// The store did not answer; to be tried again.
    Pending,
}

/// Why the plan deletes an attempt. None of these is ever counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeleteReason {
    /// Its index is completed by another attempt.
    Superseded,
    /// Its index has failed.
    IndexFailed,
    /// Its index is not one of the job's.
    IndexUnknown,
    /// The job is failing.
    JobFailed,
    /// The job is being deleted.
    JobDeleted,
    /// The job is suspended.
    Suspended,
    /// Parallelism was lowered, and it is not bound yet.
    ParallelismLowered,
    /// It avoids every vehicle there is, but some of them may be asked again.
    AvoidOutdated,
    /// It has not begun, and the attempt that it was to replace is heard again.
    HeardAgain,
}

impl DeleteReason {
    const MARKS: [Self; 4] = [
        Self::Suspended,
        Self::ParallelismLowered,
        Self::AvoidOutdated,
        Self::HeardAgain,
    ];

    /// Whether the Pod must carry the reason as annotation before it is deleted: what makes it superfluous may have passed when it ends.
    pub fn marks(self) -> bool {
        Self::MARKS.contains(&self)
    }

    /// The annotation's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Superseded => "Superseded",
            Self::IndexFailed => "IndexFailed",
            Self::IndexUnknown => "IndexUnknown",
            Self::JobFailed => "JobFailed",
            Self::JobDeleted => "JobDeleted",
            Self::Suspended => "Suspended",
            Self::ParallelismLowered => "ParallelismLowered",
            Self::AvoidOutdated => "AvoidOutdated",
            Self::HeardAgain => "HeardAgain",
        }
    }

    /// The reason that an annotation gives. Any other text is somebody else's and nothing.
    pub fn from_annotation(value: &str) -> Option<Self> {
        Self::MARKS.into_iter().find(|r| r.as_str() == value)
    }
}

/// What the end of an attempt counts as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its result is the result of its index.
    Accepted,
    /// The result of its index is another attempt's, which the ledger may not have yet.
    Superseded,
    /// Its program failed.
    Failed,
    /// The car or the link ended it, for this reason.
    Disrupted(String),
    /// A car declined it.
    Refused,
    /// Nothing: it ended when it did not matter any more.
    Void,
}

impl Attempt {
    /// Whether it will do nothing more that could be reported: a terminal phase, or deleted before it was bound. A Pod that is being
    /// deleted is never bound any more, so nothing has run.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed) || (self.deleted_at.is_some() && self.node.is_none())
    }

    /// Whether certainly no process of it is alive. Phase Failed does not say so: others write it too. Succeeded does: only the
    /// adapter writes it, after the car has.
    pub(super) fn has_stopped(&self) -> bool {
        self.stopped.is_some() || self.phase == Phase::Succeeded || (self.has_ended() && self.node.is_none())
    }

    /// Whether it goes, by whoever's wish.
    pub(super) fn is_leaving(&self) -> bool {
        self.deleted_at.is_some() || self.deleted_for.is_some()
    }

    /// Whether it is alive, heard and staying: it takes one of `parallelism`.
    pub(super) fn is_active(&self) -> bool {
        !self.has_ended() && !self.is_leaving() && !self.unheard
    }

    /// Whether the plan may take it away at no loss.
    pub(super) fn is_unbound(&self) -> bool {
        self.phase == Phase::Pending && self.node.is_none() && !self.is_leaving()
    }

    /// What its end, which was not a success, counts as by itself.
    pub(super) fn end(&self) -> Outcome {
        if self.deleted_for.is_some() {
            return Outcome::Void;
        }
        if self.phase == Phase::Failed && self.refused.is_some() {
            return Outcome::Refused;
        }
        if let Some(reason) = &self.disruption {
            return Outcome::Disrupted(reason.clone());
        }
        match (self.deleted_at, self.finished_at) {
            // Somebody tidied up an attempt that had failed already. In the same second it was more probably stopped by the deletion.
            (Some(deleted), Some(finished)) if self.phase == Phase::Failed && finished < deleted => Outcome::Failed,
            (Some(_), _) => Outcome::Disrupted(POD_DELETED.to_owned()),
            (None, _) => Outcome::Failed,
        }
    }
}

impl IndexCounts {
    /// Whether the index has gone through nothing.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Failed => self.failures = self.failures.saturating_add(1),
            Outcome::Disrupted(_) => self.disruptions = self.disruptions.saturating_add(1),
            Outcome::Refused => self.refusals = self.refusals.saturating_add(1),
            Outcome::Accepted | Outcome::Superseded | Outcome::Void => {}
        }
    }
}
