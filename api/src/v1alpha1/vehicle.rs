//! `Vehicle`: one enrolled car, or one that a fleet's telemetry gateway shows although no agent of ours runs in it.
//!
//! The spec is written by people and by the operator, at enrolment; the status by the adapter alone. Of a car without an agent the
//! gateway writes both. Nothing here may tell why a car is away, where it is, or what it is: promise 7 of the design.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{FreeFor, Telemetry};
use crate::schema;

/// What people and the operator say about one car.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "kerbside.dev",
    version = "v1alpha1",
    kind = "Vehicle",
    plural = "vehicles",
    status = "VehicleStatus",
    derive = "PartialEq",
    shortname = "veh",
    category = "kerbside",
    doc = "One enrolled car. Made by the operator when a car trades its token for a certificate; its Node has the same \
           name and is owned by it, so deleting the Vehicle ends the car's membership. Labels come from the enrolment \
           token, never from the car. One with spec.source Telemetry was made by a fleet's telemetry gateway: no agent of \
           ours runs in that car, and it never gets a Node.",
    selectable = ".spec.pool",
    selectable = ".status.phase",
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(
        name = "Phase",
        type_ = "string",
        json_path = ".status.phase",
        description = "Available, Leaving or Away; Away hides why."
    ),
    printcolumn(
        name = "Free-For",
        type_ = "integer",
        json_path = ".status.offer.freeFor.p90",
        description = "Minutes for which the car stays with 90 % confidence."
    ),
    printcolumn(
        name = "Classes",
        type_ = "string",
        json_path = ".status.offer.classes",
        description = "Job classes that the owner consented to."
    ),
    printcolumn(
        name = "Source",
        type_ = "string",
        json_path = ".spec.source",
        description = "Agent, or Telemetry: without an agent, so it is shown and planned with, and never given work."
    ),
    printcolumn(
        name = "Parked",
        type_ = "string",
        json_path = ".status.telemetry.parked",
        description = "Of a car without an agent: whether its telemetry says that it is parked.",
        priority = 1
    ),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspended", priority = 1),
    printcolumn(name = "Revoked", type_ = "boolean", json_path = ".spec.revoked", priority = 1),
    printcolumn(name = "Arch", type_ = "string", json_path = ".status.offer.arch", priority = 1),
    printcolumn(name = "Runtimes", type_ = "string", json_path = ".status.offer.runtimes", priority = 1),
    printcolumn(name = "Replica", type_ = "string", json_path = ".status.connection.replica", priority = 1),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.agentVersion", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^car-[a-z2-7]{16}$')")
        .message("metadata.name of a Vehicle is its VehicleId: 'car-' and 16 characters of a-z and 2-7; enrol a car \
                  with 'kubectl fleet enrol' instead of making its Vehicle by hand")
        .reason(Reason::FieldValueInvalid),
    validation = Rule::new("self.spec.source != 'Telemetry' || !has(self.status) || (!has(self.status.connection) \
                            && (!has(self.status.phase) || self.status.phase == 'Away') && (!has(self.status.offer) \
                            || ((!has(self.status.offer.allocatable) || size(self.status.offer.allocatable) == 0) \
                            && (!has(self.status.offer.classes) || size(self.status.offer.classes) == 0))))")
        .message("a Vehicle with spec.source Telemetry has no agent: it has no connection, offers nothing, stays Away, \
                  and never gets a Node; to give the car work, install the agent and enrol it with 'kubectl fleet enrol'")
        .reason(Reason::FieldValueForbidden),
    validation = Rule::new("self.spec.source == 'Telemetry' || !has(self.status) || !has(self.status.telemetry)")
        .message("status.telemetry is only for a Vehicle with spec.source Telemetry: a car with an agent keeps its \
                  signals to itself")
        .reason(Reason::FieldValueForbidden)
)]
#[serde(rename_all = "camelCase")]
pub struct VehicleSpec {
    /// Name of the VehiclePool on whose terms the car works. Given by the enrolment token. Changing it moves the car:
    /// its Node is relabelled, and attempts that it already runs go on under the terms that they started with.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub pool: String,
    /// True takes the car out of service without ending its membership: it gets no new work and its Node becomes
    /// ineligible. Running attempts go on. May be changed at any time.
    #[serde(default)]
    pub suspended: bool,
    /// True ends the membership: the car's certificates are no longer accepted and its connection ends within 10
    /// seconds. Cannot be taken back; the car must enrol again and gets a new VehicleId.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self || !oldSelf")
        .message("a revocation cannot be taken back; enrol the car again with 'kubectl fleet enrol'")
        .reason(Reason::FieldValueForbidden))]
    pub revoked: bool,
    /// Who speaks for the car. Agent: Kerbside's agent in it, after its enrolment. Telemetry: only a gateway of its fleet,
    /// which hears the maker's telemetry; such a car is shown and planned with, and never given work. Cannot be changed:
    /// a car that gets an agent is enrolled and has another Vehicle.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("the source of a Vehicle cannot be changed; a car that gets an agent is enrolled with 'kubectl fleet \
                  enrol' and gets a Vehicle of its own")
        .reason(Reason::FieldValueForbidden))]
    pub source: Source,
}

/// Who speaks for a car.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Source {
    /// Kerbside's agent in the car.
    #[default]
    Agent,
    /// A telemetry gateway of the car's fleet: there is no agent.
    Telemetry,
}

/// What the adapter that holds the car's connection knows, or of a car without an agent its fleet's gateway. Only that one writes it,
/// and only on a change.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VehicleStatus {
    /// The generation of the spec that this status reflects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Available: the car takes work, or is paused and may go on. Leaving: its work ends within its notice. Away: no
    /// work; it does not say whether the car drives, sleeps, is paused for good or is out of reach.
    #[serde(default)]
    pub phase: VehiclePhase,
    /// What the car says it will give now. Empty while it is Away.
    #[serde(default)]
    pub offer: Offer,
    /// Which adapter replica holds the car's connection, or held the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// Version of the agent in the car, as the car says it; for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub agent_version: Option<String>,
    /// What a gateway of the fleet says of a car without an agent: bands and yes or no. Absent for a car with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<Telemetry>,
    /// Until when `telemetry` may be believed. Its gateway moves it on, at fixed times of the car; when it has passed, that gateway is
    /// gone, and the operator makes all of `telemetry` unknown. Absent: nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub telemetry_good_until: Option<Time>,
    /// Conditions of the car. Their times are rounded to 5 minutes, so that they do not tell when somebody comes and
    /// goes.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A vehicle's phases as the cluster sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum VehiclePhase {
    /// The car takes work, or is paused and may go on.
    Available,
    /// The car's work ends within its notice.
    Leaving,
    /// No work, whatever the reason.
    #[default]
    Away,
}

/// What the car says it will give now.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// Resources for all attempts together, as Kubernetes quantities: `cpu` (cores), `memory` and `ephemeral-storage`
    /// (bytes), `pods` (number) and extended resources such as `kerbside.dev/npu` (number). They become the Node's
    /// allocatable.
    #[serde(default)]
    pub allocatable: BTreeMap<String, Quantity>,
    /// Kinds of program that the car runs: `wasm`, `container`.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub runtimes: Vec<Runtime>,
    /// Processor architecture, as in the Node label `kubernetes.io/arch`.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub arch: String,
    /// Job classes that the owner consented to. Each becomes a Node label `class.kerbside.dev/<class>`.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL)))]
    pub classes: Vec<String>,
    /// How long the car expects to stay, in minutes.
    #[serde(default)]
    pub free_for: FreeFor,
}

/// A kind of program that a car runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// WebAssembly modules with WASI.
    Wasm,
    /// OCI containers.
    Container,
}

/// Which adapter replica holds a car's connection.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// Name of the adapter replica: its Pod, or what it was started with as `--replica`.
    #[schemars(length(min = 1, max = 253))]
    pub replica: String,
    /// Number of this connection: rises with each connect of the car. Whatever comes from an older one is dropped.
    pub epoch: u64,
}
