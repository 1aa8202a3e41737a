//! `VehiclePool`: on what terms a set of vehicles works.
//!
//! Written by a cluster's administrators; its status by the operator. A pool can only narrow what an owner allows.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;
use crate::schema;

/// The terms of one pool.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "kerbside.dev",
    version = "v1alpha1",
    kind = "VehiclePool",
    plural = "vehiclepools",
    status = "VehiclePoolStatus",
    derive = "PartialEq",
    shortname = "vp",
    category = "kerbside",
    doc = "On what terms a set of vehicles works: who may use them, when they are eligible, what may go into them, \
           what they are paid. A pool narrows what an owner allows and can never widen it.",
    printcolumn(name = "Enrolled", type_ = "integer", json_path = ".status.vehicles.enrolled"),
    printcolumn(name = "Available", type_ = "integer", json_path = ".status.vehicles.available"),
    printcolumn(name = "Leaving", type_ = "integer", json_path = ".status.vehicles.leaving"),
    printcolumn(name = "Away", type_ = "integer", json_path = ".status.vehicles.away"),
    printcolumn(
        name = "Without-Agent",
        type_ = "integer",
        json_path = ".status.vehicles.withoutAgent",
        description = "Cars that a telemetry gateway shows; they are never given work.",
        priority = 1
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#,
        description = "False when the pool's terms cannot be applied; the condition says why."
    ),
    printcolumn(
        name = "Held",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="LossHeld")].status"#,
        description = "True while so many vehicles are silent that their attempts are held.",
        priority = 1
    ),
    printcolumn(
        name = "CPU",
        type_ = "string",
        json_path = ".status.capacity.cpu",
        description = "Cores of the available vehicles.",
        priority = 1
    ),
    printcolumn(name = "Memory", type_ = "string", json_path = ".status.capacity.memory", priority = 1),
    printcolumn(name = "Namespaces", type_ = "string", json_path = ".spec.allowedNamespaces.from", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')")
        .message("metadata.name becomes a label value and part of node affinities: at most 63 characters of a-z, 0-9 \
                  and '-', without dots")
        .reason(Reason::FieldValueInvalid)
)]
#[serde(rename_all = "camelCase")]
pub struct VehiclePoolSpec {
    /// Which namespaces may use the pool's vehicles. Holds for FleetJobs and for plain Pods.
    pub allowed_namespaces: AllowedNamespaces,
    /// The pool's own terms on top of the owner's; a vehicle is eligible only when all are true. At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 16))]
    pub eligibility: Vec<EligibilityRule>,
    /// What the Nodes of the pool's vehicles get on top of what Kerbside gives them.
    #[serde(default)]
    pub node: NodeTemplate,
    /// When a vehicle that is not heard is suspected, and for how long its Node stays.
    #[serde(default)]
    pub loss: Loss,
    /// What may go into a car, which is a stranger's. A Pod that needs what is denied is refused, with the name of the
    /// volume or variable.
    #[serde(default)]
    pub trust: Trust,
    /// Price list, by which attempts of FleetJobs are paid (docs/ledger.md). Absent: work is unpaid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
}

/// Which namespaces may use a pool.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("(self.from == 'Selector') == has(self.selector)")
    .message("give a selector if from is Selector, and none if from is All")
    .field_path(".selector")
    .reason(Reason::FieldValueInvalid))]
#[serde(rename_all = "camelCase")]
pub struct AllowedNamespaces {
    /// All: every namespace. Selector: the namespaces whose labels match `selector`.
    pub from: NamespacesFrom,
    /// Labels that a namespace must have; required with `from: Selector`, not allowed with `from: All`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::optional_label_selector")]
    pub selector: Option<LabelSelector>,
}

/// Whether a pool is for all namespaces or for chosen ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    /// Every namespace.
    All,
    /// Namespaces by their labels.
    Selector,
}

/// One term of eligibility.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EligibilityRule {
    /// Name of the term, unique in the pool: a DNS label of at most 63 characters.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub name: String,
    /// A CEL expression over `offer` (see Vehicle.status.offer) that is true when the vehicle may work, such as
    /// `offer.freeFor.p90 >= 60` (minutes). At most 1024 characters. Compiled by the operator, not by the API server:
    /// one that does not compile makes the pool's condition Ready False and its vehicles ineligible.
    #[schemars(length(min = 1, max = 1024))]
    pub expression: String,
    /// What people are told when the expression is false, such as `leaves within the hour`. At most 256 characters.
    #[schemars(length(min = 1, max = 256))]
    pub message: String,
}

/// What the Nodes of a pool's vehicles get.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeTemplate {
    /// Labels for the Nodes, at most 16. Keys under kubernetes.io, k8s.io and kerbside.dev are not allowed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::label_map")]
    pub labels: BTreeMap<String, String>,
    /// Taints for the Nodes, at most 16, on top of `kerbside.dev/vehicle`. FleetJobs do not tolerate them unless their
    /// template says so. Keys under kubernetes.io, k8s.io and kerbside.dev are not allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::taints")]
    pub taints: Vec<Taint>,
    /// Most Pods that a vehicle may hold, 1 to 250; the car may offer fewer.
    #[serde(default = "default_max_pods")]
    #[schemars(range(min = 1, max = 250))]
    pub max_pods: u32,
}

impl Default for NodeTemplate {
    fn default() -> Self {
        Self {
            labels: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: default_max_pods(),
        }
    }
}

/// What happens when a vehicle is not heard.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Loss {
    /// How long a vehicle at work may be unheard before it is suspected and attempts that may run twice are replaced;
    /// at least 5s. A duration such as `10s` in h, m, s, ms.
    #[serde(default = "default_suspect_after")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('5s')")
        .message("suspectAfter must be at least 5s: a car at work is heard every 4s, so a shorter one suspects \
                  healthy cars")
        .reason(Reason::FieldValueInvalid))]
    pub suspect_after: Duration,
    /// How long the Node of a vehicle that is Away stays, so that a short trip does not make and delete Nodes. It stays
    /// longer while an attempt on it is still awaited. A duration such as `10m` in h, m, s, ms.
    #[serde(default = "default_keep_node_for")]
    pub keep_node_for: Duration,
    /// When so many vehicles fall silent at once that the fault is probably ours: then their attempts are held, which
    /// means that none is replaced before its vehicle is heard again or its fence has passed. The condition LossHeld says so.
    #[serde(default)]
    pub brake: Brake,
}

impl Default for Loss {
    fn default() -> Self {
        Self {
            suspect_after: default_suspect_after(),
            keep_node_for: default_keep_node_for(),
            brake: Brake::default(),
        }
    }
}

/// When the adapter suspects itself before its vehicles.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Brake {
    /// Share of the pool's vehicles on one adapter replica, in percent, 1 to 100; more than that must fall silent.
    #[serde(default = "default_brake_share")]
    #[schemars(range(min = 1, max = 100))]
    pub share: u32,
    /// Number of vehicles that must fall silent at least, 1 to 100000, so that a small pool does not brake for one car.
    #[serde(default = "default_brake_at_least")]
    #[schemars(range(min = 1, max = 100_000))]
    pub at_least: u32,
    /// Within which time they must fall silent; and for how long only a few may still be silent before these few are
    /// suspected like others; at least 1s. A duration such as `30s` in h, m, s, ms.
    #[serde(default = "default_brake_window")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s')")
        .message("window must be at least 1s")
        .reason(Reason::FieldValueInvalid))]
    pub window: Duration,
}

impl Default for Brake {
    fn default() -> Self {
        Self {
            share: default_brake_share(),
            at_least: default_brake_at_least(),
            window: default_brake_window(),
        }
    }
}

/// What may go into a stranger's car.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// Deny or Allow: whether the contents of Secrets may go into a car, as volumes and as environment variables.
    /// Secrets for pulling images are not meant: they never go there.
    #[serde(default)]
    pub secrets: Access,
    /// Deny or Allow: whether tokens of ServiceAccounts may go into a car, each bound to its Pod.
    #[serde(default)]
    pub service_account_tokens: Access,
}

/// Whether something may go into a car.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Access {
    /// It may not.
    #[default]
    Deny,
    /// It may.
    Allow,
}

/// A pool's price list, fixed for an attempt of a FleetJob when its Pod is made (docs/ledger.md). Other Pods are not paid by it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terms {
    /// Currency of the prices: three capital letters as in ISO 4217, such as EUR.
    #[schemars(length(min = 3, max = 3), regex(pattern = "^[A-Z]{3}$"))]
    pub currency: String,
    /// Price of one core for one hour, in `currency`: a decimal number in quotes, such as "0.02".
    #[serde(default = "default_price", rename = "perCPUHour")]
    #[schemars(length(min = 1, max = 19), regex(pattern = schema::DECIMAL))]
    pub per_cpu_hour: String,
    /// Price of one kilowatt-hour taken from the vehicle's battery or socket, in `currency`: a decimal number in
    /// quotes, such as "0.30". A car without a meter claims none.
    #[serde(default = "default_price", rename = "perKWh")]
    #[schemars(length(min = 1, max = 19), regex(pattern = schema::DECIMAL))]
    pub per_kwh: String,
    /// What an attempt earns whose result was not accepted: EnergyOnly (`perKWh`) or Nothing.
    #[serde(default)]
    pub unaccepted: Unaccepted,
}

/// What an attempt earns whose result was not accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Unaccepted {
    /// The energy that it took.
    #[default]
    EnergyOnly,
    /// Nothing.
    Nothing,
}

/// What the operator counts about a pool.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VehiclePoolStatus {
    /// The generation of the spec that this status reflects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many vehicles are in the pool, by phase.
    #[serde(default)]
    pub vehicles: VehicleCounts,
    /// What the available vehicles offer together, as Kubernetes quantities: `cpu` (cores), `memory` (bytes), `pods`
    /// (number), extended resources.
    #[serde(default)]
    pub capacity: BTreeMap<String, Quantity>,
    /// Conditions of the pool. Ready is False when its terms cannot be applied, such as an eligibility expression that
    /// does not compile. LossHeld is True while so many vehicles are silent that their attempts are held.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A pool's vehicles by phase.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VehicleCounts {
    /// Number of vehicles in the pool that have an agent.
    #[serde(default)]
    pub enrolled: u32,
    /// Number of vehicles in phase Available.
    #[serde(default)]
    pub available: u32,
    /// Number of vehicles in phase Leaving.
    #[serde(default)]
    pub leaving: u32,
    /// Number of vehicles in phase Away.
    #[serde(default)]
    pub away: u32,
    /// Number of cars without an agent, which a fleet's telemetry gateway shows. They are in none of the other numbers,
    /// nor in `capacity`: they are never given work.
    #[serde(default)]
    pub without_agent: u32,
    /// How many of those are parked by their telemetry: what could be there if agents were installed.
    #[serde(default)]
    pub parked_without_agent: u32,
}

fn default_max_pods() -> u32 {
    16
}

fn default_suspect_after() -> Duration {
    Duration::literal("10s")
}

fn default_keep_node_for() -> Duration {
    Duration::literal("10m")
}

fn default_brake_share() -> u32 {
    20
}

fn default_brake_at_least() -> u32 {
    5
}

fn default_brake_window() -> Duration {
    Duration::literal("30s")
}

fn default_price() -> String {
    "0".to_owned()
}
