//! The status of a FleetJob: the job's own ledger of indexes, and counts for people.
//!
//! Written by the operator alone. The ledger is the only state that cannot be recomputed: an attempt's UID stands in
//! `uncountedAttempts` before its Pod is let go, and leaves it in the write that counts it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// How far the job is. Named as in `batch/v1` Job wherever the meaning is the same.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FleetJobStatus {
    /// The generation of the spec that this status reflects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When the job was started; set anew when it goes on after a suspension, and never removed. Absent: it has never
    /// been started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When every index had an accepted result. Absent if the job failed or is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Indexes with an accepted result, as ascending numbers and ranges separated by commas: `0-41,43`.
    #[serde(default)]
    pub completed_indexes: String,
    /// Indexes that were given up, in the same form as completedIndexes.
    #[serde(default)]
    pub failed_indexes: String,
    /// Number of attempts that are pending or running and heard. These count against `parallelism`.
    #[serde(default)]
    pub active: u32,
    /// Number of active attempts whose Pod is ready.
    #[serde(default)]
    pub ready: u32,
    /// Number of attempts on cars that are not heard, and not given up. They do not count against `parallelism`.
    #[serde(default)]
    pub unheard: u32,
    /// Number of attempts that are being ended: their Pods have a deletionTimestamp.
    #[serde(default)]
    pub terminating: u32,
    /// Number of indexes with an accepted result.
    #[serde(default)]
    pub succeeded: u32,
    /// Number of attempts whose program failed. Disruptions and refusals are not among them.
    #[serde(default)]
    pub failed: u32,
    /// Number of attempts that a car declined before starting them. Never charged to the job.
    #[serde(default)]
    pub refused: u32,
    /// Number of attempts ended by something other than their program, by reason: `VehicleDeparted` (the car left with
    /// notice), `VehicleLost` (it was not heard until its fence), `OutputMissing` (the car has no more of the output of
    /// a program that succeeded), `PodDeleted` (somebody deleted the Pod), or the reason of another controller's
    /// DisruptionTarget.
    #[serde(default)]
    pub disruptions: BTreeMap<String, u32>,
    /// Attempts that have ended and are not yet in the counts above. Kept so that a restart of the operator counts each
    /// once.
    #[serde(default)]
    pub uncounted_attempts: UncountedAttempts,
    /// Conditions, named as in `batch/v1` Job: Suspended, FailureTarget, SuccessCriteriaMet, Complete, Failed; and of
    /// our own: PoolNotFound and NamespaceNotAllowed (no pool can be used), TemplateInvalid (the API server refuses the
    /// first Pod), StoreUnavailable (the result store does not answer, so results are accepted later), NoVehicleAccepts
    /// (every car that was asked declined; the message counts the reasons).
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// UIDs of Pods that have ended and are not yet counted, by how they ended.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UncountedAttempts {
    /// UIDs of attempts whose program succeeded.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub succeeded: Vec<String>,
    /// UIDs of attempts whose program failed.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub failed: Vec<String>,
    /// UIDs of attempts that were ended by the car or the link.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub disrupted: Vec<String>,
    /// UIDs of attempts that a car declined before starting them.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub refused: Vec<String>,
}
