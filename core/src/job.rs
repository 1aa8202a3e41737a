//! The plan of a FleetJob: which attempts must exist now, which must go, and what is on record.
//!
//! Called by the operator's FleetJob controller at every turn of its loop, with what it sees, and by nobody else. The plan is a
//! function of what is seen: made again from the same facts it is the same, and carried out in part (a crash between any two
//! writes) it is completed by the next one. The Job controller's discipline holds throughout:
//!
//! * **Recorded before released.** A tracking finalizer goes only when the *observed* ledger has the attempt's end, or needs none.
//! * **Recorded before deleted.** A rival or a job's rest is deleted only when the observed ledger has what makes it superfluous.
//! * **Accepted once.** Only the put-if-absent in the store makes a result the result of its index; the ledger follows it.
//! * **Counted once.** An end is counted in the same write that lists its UID; the UID stays listed until the finalizer is gone.
//! * **Counts per index** travel on the newest Pod of the index ([`Attempt::prior`]); its finalizer stays until a Pod exists that has
//!   them in turn ([`Attempt::counted`]), or the index is over.
//!
//! # Where a job stands
//!
//! | it is | seen by | the plan | goes on to |
//! |---|---|---|---|
//! | Deleting | `deletionTimestamp` | deletes every live attempt, releases all, records nothing | – |
//! | Finished | Complete or Failed | releases all; expires after `ttl` | – |
//! | Succeeding | `SuccessCriteriaMet` | deletes rivals, releases ended attempts | Finished (Complete), when no attempt is left and none listed |
//! | Failing | `FailureTarget` | deletes live attempts, still accepts what has succeeded | Finished (Failed), likewise |
//! | Suspended | `suspend: true` | deletes live attempts (marked, never counted), accepts, records | Open, Succeeding, Failing |
//! | Open | otherwise | accepts, records, fails indexes, replaces, creates | Succeeding, Failing, Suspended |
//!
//! # Where an attempt stands
//!
//! | what is seen | counted as | what follows for its index |
//! |---|---|---|
//! | Pending or Running, heard, not deleted | – | it holds the index: no other attempt is made |
//! | Unheard, or deleted and not ended | – | `WhenSuspected`: replaced now; `WhenFenced`: it holds the index |
//! | Pending, and an earlier one of its index is heard again | nothing | it is deleted before it begins |
//! | Succeeded, no answer of the acceptor | – | it holds the index; the plan asks for acceptance |
//! | Succeeded, accepted | `succeeded` | the index is completed; rivals are deleted |
//! | Succeeded, superseded | nothing | the index is completed by the other |
//! | Succeeded, but its result is invalid | `failed` | as a failure of the program |
//! | Failed, refused | `refused` | replaced now, on another car |
//! | Failed with `DisruptionTarget`, or because somebody deleted it | `disruptions` | replaced now; fails the index beyond `maxDisruptionsPerIndex` |
//! | Failed otherwise | `failed` | replaced after 10 s doubling to 10 min; fails the index beyond `backoffLimitPerIndex` |
//! | deleted before it was bound | `disruptions` | it has ended: it can never run |
//! | ended after its index or its job was over, or after the plan marked it | nothing | – |
//!
//! Under `WhenFenced` an ended attempt is replaced only on Stopped=True: phase Failed is no proof that nothing runs.
//!
//! # How the operator carries a plan out
//!
//! 1. Forget the answers [`Acceptance::Pending`]; put the results of [`Plan::accept`] into the store; plan again with the answers.
//! 2. Write [`Plan::ledger`] if it differs from what was observed, with a precondition on resourceVersion; stop if that fails.
//! 3. Delete (precondition: UID), release (UID), create, in any order. Where [`DeleteReason::marks`], write the mark before the
//!    deletion, with the resourceVersion that was seen as precondition, and leave the attempt alone if that fails. A Pod's name
//!    follows from its index and ordinal, so that making an attempt twice is refused by the API server.
//!
//! It plans only on a ledger not older than the one it wrote last, and on Pods listed after it became leader.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{JobUid, PodUid, VehicleId};
use crate::index_set;

mod attempt;
mod finish;
mod index;
mod ledger;
mod limits;
mod refusals;
mod removal;
mod replace;

pub use attempt::{Acceptance, Attempt, DeleteReason, IndexCounts, Phase, Stopped};
pub use ledger::{Condition, ConditionKind, Ledger, Uncounted};
pub use limits::{IndexFailure, Limit};
pub use refusals::{Refusals, Refuser};
pub use replace::MOST_CREATIONS;

use index::View;

/// How soon a result is offered to the store again when the store did not answer.
const ACCEPTANCE_RETRY: Duration = Duration::from_secs(5);

/// What the FleetJob asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// The FleetJob's UID; names of Pods follow from it.
    pub uid: JobUid,
    /// How many indexes there are; no more than [`index_set::BOUND`] count.
    pub completions: u32,
    /// How many attempts may be at work at a time. Unheard and terminating ones do not count.
    pub parallelism: u32,
    /// How many failures of its program an index survives; any number if nothing is said.
    #[serde(default)]
    pub backoff_limit_per_index: Option<u32>,
    /// How many failed indexes the job survives while others run; any number if nothing is said.
    #[serde(default)]
    pub max_failed_indexes: Option<u32>,
    /// How many disruptions an index survives; any number if nothing is said.
    #[serde(default)]
    pub max_disruptions_per_index: Option<u32>,
    /// How long the job may be active.
    #[serde(default, with = "crate::duration::optional_text")]
    pub active_deadline: Option<Duration>,
    /// How long the job is kept after it has finished.
    #[serde(default, with = "crate::duration::optional_text")]
    pub ttl: Option<Duration>,
    /// Whether no attempt may run now.
    #[serde(default)]
    pub suspend: bool,
    /// Whether the FleetJob is being deleted.
    #[serde(default)]
    pub deleting: bool,
    /// When a lost attempt is replaced.
    #[serde(default)]
    pub on_loss: OnLoss,
}

/// When a lost attempt is replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnLoss {
    /// At once: the work may run twice.
    #[default]
    WhenSuspected,
    /// When it has certainly stopped: the work runs at most once at a time.
    WhenFenced,
}

/// Everything a plan follows from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The time.
    pub now: Timestamp,
    /// The FleetJob's spec.
    pub spec: JobSpec,
    /// The FleetJob's status, as observed.
    #[serde(default)]
    pub ledger: Ledger,
    /// The Pods whose controller is this FleetJob, by UID: those in the cache, and those just created that it does not show yet.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// What the acceptor says of attempts that succeeded.
    #[serde(default)]
    pub acceptance: BTreeMap<PodUid, Acceptance>,
    /// [`Plan::refusals`] of the plan before; empty after a restart.
    #[serde(default)]
    pub refusals: Refusals,
    /// The vehicles that could take an attempt now: available, in one of the job's pools, with its class. Empty if unknown.
    #[serde(default)]
    pub eligible: BTreeSet<VehicleId>,
}

/// An attempt to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewAttempt {
    /// Its completion index.
    pub index: u32,
    /// Its [`Attempt::ordinal`].
    pub ordinal: u32,
    /// The last five characters of the Pod's name. They follow from job, index and ordinal: the same attempt has the same name.
    pub suffix: String,
    /// Its [`Attempt::prior`].
    #[serde(default, skip_serializing_if = "IndexCounts::is_nothing")]
    pub prior: IndexCounts,
    /// Its [`Attempt::counted`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub counted: BTreeSet<PodUid>,
    /// Its [`Attempt::avoid`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub avoid: BTreeSet<VehicleId>,
}

/// An attempt to delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// The Pod; the deletion has this UID as its precondition.
    pub uid: PodUid,
    /// Why. If [`DeleteReason::marks`], the Pod gets it as annotation first.
    pub reason: DeleteReason,
}

/// How many attempts are alive, for the FleetJob's status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Heard and not being deleted.
    pub active: u32,
    /// Of the active ones, those that are ready.
    pub ready: u32,
    /// Unheard and not being deleted.
    pub unheard: u32,
    /// Being deleted and not ended.
    pub terminating: u32,
}

/// What is to be done. See the module's page for the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Attempts that succeeded and whose result must now be put into the store if absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accept: Vec<PodUid>,
    /// Attempts to create, lowest index first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub create: Vec<NewAttempt>,
    /// Attempts to delete.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub delete: Vec<Deletion>,
    /// Attempts whose tracking finalizer may go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub release: Vec<PodUid>,
    /// Indexes that fail with this plan, for Events.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failing: Vec<IndexFailure>,
    /// The status to write, if it differs from what was observed.
    pub ledger: Ledger,
    /// The counts to write beside it.
    pub alive: Alive,
    /// Who refuses this job, to be handed to the next plan.
    #[serde(skip_serializing_if = "Refusals::is_empty")]
    pub refusals: Refusals,
    /// When to plan again even if nothing is seen.
    #[serde(with = "crate::duration::optional_text", skip_serializing_if = "Option::is_none")]
    pub requeue_after: Option<Duration>,
    /// When the FleetJob, which has finished, is to be deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Whether that time has come.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub expired: bool,
}

/// Where a job stands, by what is observed. The module's page has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Deleting,
    Finished,
    Succeeding,
    Failing,
    Suspended,
    Open,
}

impl Standing {
    fn of(facts: &Facts) -> Self {
        let is = |kind| facts.ledger.is(kind);
        match () {
            () if facts.spec.deleting => Self::Deleting,
            () if is(ConditionKind::Complete) || is(ConditionKind::Failed) => Self::Finished,
            () if is(ConditionKind::SuccessCriteriaMet) => Self::Succeeding,
            () if is(ConditionKind::FailureTarget) => Self::Failing,
            () if facts.spec.suspend => Self::Suspended,
            () => Self::Open,
        }
    }
}

/// Plans a FleetJob. See the module's page.
pub fn plan(facts: &Facts) -> Plan {
    let view = View::new(facts);
    let mut plan = Plan {
        accept: view.undecided(),
        create: Vec::new(),
        delete: removal::deletions(&view),
        release: removal::releases(&view),
        failing: Vec::new(),
        ledger: facts.ledger.clone(),
        alive: view.alive(),
        refusals: facts.refusals.learn(&facts.attempts, facts.now),
        requeue_after: None,
        expires_at: None,
        expired: false,
    };
    match view.standing {
        Standing::Deleting => {}
        Standing::Finished => finish::expire(&view, &mut plan),
        Standing::Succeeding | Standing::Failing => {
            ledger::record(&view, &mut plan.ledger);
            finish::finish(&view, &mut plan);
        }
        Standing::Suspended | Standing::Open => {
            ledger::record(&view, &mut plan.ledger);
            ledger::start(&view, &mut plan.ledger);
            plan.failing = limits::fail_indexes(&view, &mut plan.ledger);
            limits::judge(&view, &mut plan);
            let goes_on = view.standing == Standing::Open && !plan.ledger.is_decided();
            if goes_on {
                replace::create(&view, &mut plan);
            }
            refusals::report(&view, &mut plan, goes_on);
        }
    }
    if view.waits_for_acceptor() {
        plan.look_again(ACCEPTANCE_RETRY);
    }
    plan
}

impl Plan {
    /// Plans again after `wait` at the latest.
    fn look_again(&mut self, wait: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(wait, |earlier| earlier.min(wait)));
    }
}

impl JobSpec {
    fn completions(&self) -> u32 {
        self.completions.min(index_set::BOUND)
    }
}

/// `time` and `wait` later.
fn after(time: Timestamp, wait: Duration) -> Timestamp {
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// How long it is from `now` to `time`; no time if that has passed.
fn until(now: Timestamp, time: Timestamp) -> Duration {
    Duration::try_from(time.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod simulation;
