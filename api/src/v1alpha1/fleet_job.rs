//! `FleetJob`: indexed work for parked cars.
//!
//! Field names and meanings are those of `batch/v1` Job wherever they are equal. What CEL cannot say about the
//! template, the operator learns by a dry-run of the first Pod.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, FleetJobStatus, template};
use crate::schema;

/// The one value of `managedBy` that our operator acts on.
pub const MANAGED_BY: &str = "kerbside.dev/fleetjob-controller";

/// The template may change only while the job is suspended and has never started: Kueue injects node selectors there.
const TEMPLATE_RULE: &str = "self.spec.template == oldSelf.spec.template || (has(oldSelf.spec.suspend) && \
                             oldSelf.spec.suspend && !(has(oldSelf.status) && has(oldSelf.status.startTime)))";

/// What is to be done, by how many attempts at a time, and what may go wrong on the way.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "kerbside.dev",
    version = "v1alpha1",
    kind = "FleetJob",
    plural = "fleetjobs",
    namespaced,
    status = "FleetJobStatus",
    derive = "PartialEq",
    shortname = "fj",
    category = "kerbside",
    doc = "Work for parked cars: one program, run once per completion index, each with exactly one accepted result. \
           A car that leaves is not a failure of the job: its index is tried again elsewhere.",
    printcolumn(name = "Class", type_ = "string", json_path = ".spec.class"),
    printcolumn(name = "Completions", type_ = "integer", json_path = ".spec.completions"),
    printcolumn(
        name = "Succeeded",
        type_ = "integer",
        json_path = ".status.succeeded",
        description = "Indexes with an accepted result."
    ),
    printcolumn(
        name = "Active",
        type_ = "integer",
        json_path = ".status.active",
        description = "Attempts pending or running."
    ),
    printcolumn(
        name = "Failures",
        type_ = "integer",
        json_path = ".status.failed",
        description = "Attempts whose program failed."
    ),
    printcolumn(
        name = "Complete",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Complete")].status"#,
        description = "True when every index has an accepted result."
    ),
    printcolumn(
        name = "Failed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Failed")].reason"#,
        description = "Why the job failed, if it did."
    ),
    printcolumn(name = "Suspend", type_ = "boolean", json_path = ".spec.suspend", priority = 1),
    printcolumn(name = "Pools", type_ = "string", json_path = ".spec.pools", priority = 1),
    printcolumn(
        name = "Disruptions",
        type_ = "string",
        json_path = ".status.disruptions",
        description = "Attempts ended by the car or the link, by reason.",
        priority = 1
    ),
    printcolumn(
        name = "Refused",
        type_ = "integer",
        json_path = ".status.refused",
        description = "Attempts that a car declined before starting them.",
        priority = 1
    ),
    printcolumn(
        name = "Unheard",
        type_ = "integer",
        json_path = ".status.unheard",
        description = "Attempts on cars that are not heard.",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new(TEMPLATE_RULE)
        .message("the template can be changed only while the job is suspended and has never started; make a new \
                  FleetJob")
        .field_path(".spec.template")
        .reason(Reason::FieldValueForbidden),
    validation = Rule::new("size(self.metadata.name) <= 52")
        .message("metadata.name has at most 52 characters, so that the names of its Pods, <job>-<index>-<suffix>, \
                  stay usable as host names")
        .reason(Reason::FieldValueInvalid)
)]
#[x_kube(
    validation = Rule::new("self.maxFailedIndexes <= self.completions")
        .message("maxFailedIndexes cannot exceed completions")
        .field_path(".maxFailedIndexes")
        .reason(Reason::FieldValueInvalid),
    validation = Rule::new("has(self.output) == has(oldSelf.output) && (!has(self.output) || self.output == \
                            oldSelf.output)")
        .message("output cannot be changed: all results of a job are collected in the same way; make a new FleetJob")
        .field_path(".output")
        .reason(Reason::FieldValueForbidden)
)]
#[serde(rename_all = "camelCase")]
pub struct FleetJobSpec {
    /// Names of the VehiclePools whose cars may do the work; at least one, at most 16. Each must allow the job's
    /// namespace. May be changed: the change holds for attempts made after it.
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL)))]
    pub pools: Vec<String>,
    /// The job class: what owners consent to and pools price. A DNS label of at most 63 characters. Only cars whose
    /// owners accept it get the work. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("class cannot be changed: owners consented to this one; make a new FleetJob")
        .reason(Reason::FieldValueForbidden))]
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub class: String,
    /// Number of indexes, 1 to 100000. Each index from 0 to completions-1 runs until it has one accepted result; the
    /// program finds its index in the environment variable JOB_COMPLETION_INDEX. Cannot be changed.
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("completions cannot be changed: the indexes that are done belong to this number; make a new FleetJob")
        .reason(Reason::FieldValueForbidden))]
    #[schemars(range(min = 1, max = 100_000))]
    pub completions: u32,
    /// Most attempts at a time, 0 to 10000; 0 starts none. Attempts on cars that are not heard do not count. May be
    /// changed at any time: lowering it takes back attempts that still wait for a car, and leaves alone those that run.
    #[serde(default = "default_parallelism")]
    #[schemars(range(min = 0, max = 10_000))]
    pub parallelism: u32,
    /// Number of failures of its program that an index survives, 0 to 10000; with one more the index has failed.
    /// Disruptions and refusals are never counted. Cannot be changed.
    #[serde(default = "default_backoff_limit_per_index")]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("backoffLimitPerIndex cannot be changed: indexes have already been judged by it; make a new FleetJob")
        .reason(Reason::FieldValueForbidden))]
    #[schemars(range(min = 0, max = 10_000))]
    pub backoff_limit_per_index: u32,
    /// Number of failed indexes that the job survives, 0 to 100000; with one more the whole job fails. At most
    /// `completions`.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_failed_indexes: u32,
    /// Number of disruptions (the car left or was lost) that an index survives, 0 to 10000; with one more the index has
    /// failed: a program that drives cars to their limits must not roam for ever.
    #[serde(default = "default_max_disruptions_per_index")]
    #[schemars(range(min = 0, max = 10_000))]
    pub max_disruptions_per_index: u32,
    /// Seconds that the job may take, from `status.startTime`; then its attempts are ended and it fails with reason
    /// DeadlineExceeded. Counted afresh after a suspension, as in batch/v1. Absent: without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub active_deadline_seconds: Option<u32>,
    /// Seconds after which a finished job is deleted, with its Pods. Accepted results stay in the store. 0: at once.
    /// Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub ttl_seconds_after_finished: Option<u32>,
    /// True ends all attempts and makes no new ones; accepted results stay. A job may be made suspended, for a queue
    /// such as Kueue to start it.
    #[serde(default)]
    pub suspend: bool,
    /// Which controller acts on this job. Any other value than the default makes our operator leave the job alone, as
    /// for MultiKueue. A domain-prefixed path such as `acme.io/foo`, of at most 63 characters. Cannot be changed.
    #[serde(default = "default_managed_by")]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("managedBy cannot be changed: another controller may already have acted; make a new FleetJob")
        .reason(Reason::FieldValueForbidden))]
    #[schemars(length(min = 3, max = 63), regex(pattern = schema::DOMAIN_PATH))]
    pub managed_by: String,
    /// What happens when a car is no longer heard while it works.
    #[serde(default)]
    pub on_loss: OnLoss,
    /// Files that are collected from each attempt. Absent: an index has no files, only its exit code and logs. Cannot
    /// be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
    /// The Pod to run for each attempt: an ordinary PodTemplateSpec. May be changed only while the job is suspended and
    /// has never started. The operator adds the node affinity, the tolerations and the labels that bring the Pod to a
    /// willing car.
    #[schemars(schema_with = "template::schema")]
    pub template: PodTemplateSpec,
}

/// What happens when a car is no longer heard while it works.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OnLoss {
    /// WhenSuspected: for work that may run twice; a second attempt starts as soon as the car is suspected, the first
    /// works on, and the first result wins. WhenFenced: for work that must not run twice at a time; a second attempt
    /// starts only when the first has certainly stopped. Cannot be changed.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("replace cannot be changed: cars hold to what their attempts were begun with; make a new FleetJob")
        .reason(Reason::FieldValueForbidden))]
    pub replace: Replace,
    /// For how long the car works on without being heard, then it stops the attempt by itself; at least 5s, and
    /// one shorter than 15s counts as 15s. A duration such as `40m` or `1h30m` in h, m, s, ms. Absent: 40m with
    /// WhenSuspected, 30s with WhenFenced. Output that is finished later is not accepted. With WhenFenced a car that is
    /// heard only by an adapter that is itself cut off from the API server counts as unheard. Holds for attempts made
    /// after a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('5s')")
        .message("runUnheardFor must be at least 5s: a car at work is heard every 4s, so a shorter one ends attempts \
                  on healthy cars")
        .reason(Reason::FieldValueInvalid))]
    pub run_unheard_for: Option<Duration>,
}

impl OnLoss {
    /// For how long a car works on unheard: as given, else the default of `replace`.
    pub fn run_unheard_for(&self) -> std::time::Duration {
        match (&self.run_unheard_for, self.replace) {
            (Some(given), _) => given.get(),
            (None, Replace::WhenSuspected) => std::time::Duration::from_secs(40 * 60),
            (None, Replace::WhenFenced) => std::time::Duration::from_secs(30),
        }
    }
}

/// When an attempt on a car that is not heard is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Replace {
    /// As soon as the car is suspected; the first result wins.
    #[default]
    WhenSuspected,
    /// Only when the attempt has certainly stopped.
    WhenFenced,
}

/// Files that are collected from each attempt.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// Directory in the first container whose files are the attempt's output: an absolute path of at most 255
    /// characters, of letters, digits, '.', '_' and '-'. It exists and is empty when the program starts.
    #[serde(default = "default_output_path")]
    #[x_kube(validation = Rule::new("!self.matches('/[.][.]?(/|$)')")
        .message("the path must not contain '.' or '..' as a part")
        .reason(Reason::FieldValueInvalid))]
    #[schemars(length(min = 2, max = 255), regex(pattern = "^(/[A-Za-z0-9._-]+)+$"))]
    pub path: String,
    /// Most bytes that all files together may have, as a Kubernetes quantity such as `64Mi`; more than 0, at most 1Ti.
    /// An attempt that writes more fails with reason OutputTooLarge.
    #[serde(default = "default_max_bytes")]
    #[schemars(extend("maxLength" = 32))]
    #[x_kube(validation = Rule::new(
        "isQuantity(string(self)) && quantity(string(self)).isGreaterThan(quantity('0')) && \
         !quantity(string(self)).isGreaterThan(quantity('1Ti'))"
    )
        .message("maxBytes must be a quantity of more than 0 and at most 1Ti bytes, such as 64Mi")
        .reason(Reason::FieldValueInvalid))]
    pub max_bytes: Quantity,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            path: default_output_path(),
            max_bytes: default_max_bytes(),
        }
    }
}

fn default_parallelism() -> u32 {
    1
}

fn default_backoff_limit_per_index() -> u32 {
    3
}

fn default_max_disruptions_per_index() -> u32 {
    50
}

fn default_managed_by() -> String {
    MANAGED_BY.to_owned()
}

fn default_output_path() -> String {
    "/kerbside/out".to_owned()
}

fn default_max_bytes() -> Quantity {
    Quantity("64Mi".to_owned())
}
