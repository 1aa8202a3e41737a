//! The Node of a vehicle: what it should say, and what must be sent so that it does. Pure.
//!
//! Called by the actor; `node_writer` sends. Only our own labels, taints, annotations and conditions are touched: what an admin, a
//! controller or a cloud put there stays, and `spec.unschedulable` is never ours.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kerbside_api::v1alpha1::{NodeTemplate, Offer, Runtime, Vehicle};
use kerbside_core::ids::VehicleId;
use kerbside_core::names::{self, condition, label, taint};
use kerbside_core::quantity::Quantity;
use kerbside_core::vehicle::{Hearing, Judgement, NodeState};
use kerbside_k8s::conditions::{Says, set_node};
use serde_json::{Map, Value, json};

use crate::pod_status::{cleared, whole_seconds};
use crate::vehicle_status;

/// On Nodes: the labels and taints that came from the pool, so that they can go with it.
const FROM_POOL: &str = "kerbside.dev/from-pool";
/// Cloud load balancers must not send traffic to a car.
const NO_LOAD_BALANCER: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The feature by which kube-apiserver hands a client's WebSocket on as it is (KEP-4006); without it, it speaks SPDY/3.1.
const WEBSOCKETS: &str = "ExtendWebSocketsToKubelet";
const NO_SCHEDULE: &str = "NoSchedule";

/// What is the same for every Node of this adapter.
#[derive(Debug, Clone)]
pub(crate) struct NodeConfig {
    /// Where kube-apiserver reaches the kubelet port.
    pub address: String,
    /// The kubelet port.
    pub port: u16,
    /// In front of the id in `spec.providerID`.
    pub provider_id_prefix: String,
}

/// What a Node should say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    name: String,
    owner: OwnerReference,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    from_pool: String,
    provider_id: String,
    resources: BTreeMap<String, ApiQuantity>,
    status: NodeStatus,
    state: NodeState,
}

/// Whether the Node has a taint of ours.
pub(crate) fn has_taint(node: &Node, key: &str) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
    taints.unwrap_or_default().iter().any(|t| t.key == key)
}

/// What the Node of `vehicle` should say.
pub(crate) fn wanted(
    id: &VehicleId,
    vehicle: &Vehicle,
    template: &NodeTemplate,
    offer: &Offer,
    os: &str,
    state: NodeState,
    config: &NodeConfig,
) -> Wanted {
    let mut taints = vec![ours(taint::VEHICLE)];
    if offer.runtimes == [Runtime::Wasm] {
        taints.push(ours(taint::WASM_ONLY));
    }
    taints.extend(state.taints.iter().map(|key| ours(key)));
    taints.extend(template.taints.iter().cloned());
    let resources = resources(offer, template.max_pods);
    Wanted {
        name: id.to_string(),
        owner: OwnerReference {
            api_version: "kerbside.dev/v1alpha1".into(),
            kind: "Vehicle".into(),
            name: id.to_string(),
            uid: vehicle.metadata.uid.clone().unwrap_or_default(),
            ..OwnerReference::default()
        },
        labels: labels(id, &vehicle.spec.pool, template, offer, os),
        taints,
        from_pool: from_pool(template),
        provider_id: format!("{}{id}", config.provider_id_prefix),
        status: NodeStatus {
            addresses: Some(vec![NodeAddress {
                address: config.address.clone(),
                type_: "InternalIP".into(),
            }]),
            allocatable: Some(resources.clone()),
            capacity: Some(resources.clone()),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint {
                    port: i32::from(config.port),
                }),
            }),
            node_info: Some(node_info(id, offer, os)),
            declared_features: Some(vec![WEBSOCKETS.to_owned()]),
            ..NodeStatus::default()
        },
        resources,
        state,
    }
}

fn labels(id: &VehicleId, pool: &str, template: &NodeTemplate, offer: &Offer, os: &str) -> BTreeMap<String, String> {
    let mut labels = template.labels.clone();
    let mut set = |key: &str, value: &str| labels.insert(key.to_owned(), value.to_owned());
    set("kubernetes.io/hostname", id.as_str());
    set("kubernetes.io/os", os);
    if !offer.arch.is_empty() {
        set("kubernetes.io/arch", &offer.arch);
    }
    set("type", names::NODE_TYPE);
    set(NO_LOAD_BALANCER, "");
    set(label::POOL, pool);
    for (runtime, key) in [
        (Runtime::Wasm, label::RUNTIME_WASM),
        (Runtime::Container, label::RUNTIME_CONTAINER),
    ] {
        if offer.runtimes.contains(&runtime) {
            set(key, "true");
        }
    }
    set(label::FREE_FOR, &offer.free_for.p90.get().to_string());
    for class in &offer.classes {
        set(&format!("{}{class}", label::CLASS_PREFIX), "true");
    }
    labels
}

/// What the car gives, at most as many Pods as the pool allows.
fn resources(offer: &Offer, max_pods: u32) -> BTreeMap<String, ApiQuantity> {
    let mut resources = offer.allocatable.clone();
    let most = Quantity::from_units(max_pods.into());
    let offered = resources.get("pods").and_then(|q| q.0.parse::<Quantity>().ok());
    let pods = offered.map_or(most, |o| o.min(most));
    resources.insert("pods".into(), ApiQuantity(pods.to_string()));
    resources
}

fn ours(key: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        effect: NO_SCHEDULE.into(),
        ..Taint::default()
    }
}

/// A car tells nothing of its machine, and its Node says so; the version is this program's.
fn node_info(id: &VehicleId, offer: &Offer, os: &str) -> NodeSystemInfo {
    NodeSystemInfo {
        architecture: offer.arch.clone(),
        operating_system: os.to_owned(),
        machine_id: id.to_string(),
        system_uuid: id.to_string(),
        os_image: "Kerbside vehicle".into(),
        kernel_version: "unknown".into(),
        container_runtime_version: "kerbside://unknown".into(),
        kubelet_version: concat!("v", env!("CARGO_PKG_VERSION"), "-kerbside").into(),
        ..NodeSystemInfo::default()
    }
}

fn from_pool(template: &NodeTemplate) -> String {
    let labels: Vec<_> = template.labels.keys().collect();
    let taints: Vec<_> = template.taints.iter().map(|t| &t.key).collect();
    json!({ "labels": labels, "taints": taints }).to_string()
}

/// Keys that a pool gave to this Node when it was last written.
fn given_by_pool(node: &Node, what: &str) -> BTreeSet<String> {
    let annotation = node.metadata.annotations.as_ref().and_then(|a| a.get(FROM_POOL));
    let value: Value = annotation
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let keys = value.get(what).and_then(Value::as_array).into_iter().flatten();
    keys.filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Wanted {
    /// The Node as it is created.
    pub(crate) fn create(&self, now: Timestamp) -> Node {
        let mut status = self.status.clone();
        status.conditions = Some(self.conditions(&[], now));
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels.clone()),
                annotations: Some(BTreeMap::from([(FROM_POOL.to_owned(), self.from_pool.clone())])),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                taints: Some(self.taints.clone()),
                provider_id: Some(self.provider_id.clone()),
                ..NodeSpec::default()
            }),
            status: Some(status),
        }
    }

    /// A JSON patch of labels and taints, tested against the version it was computed from; None: nothing differs.
    pub(crate) fn patch_metadata(&self, node: &Node) -> Option<Vec<Value>> {
        let mut operations = Vec::new();
        let old = node.metadata.labels.clone().unwrap_or_default();
        let from_pool = given_by_pool(node, "labels");
        let obsolete = |key: &String| {
            let ours =
                key.starts_with("kerbside.dev/") || key.starts_with(label::CLASS_PREFIX) || from_pool.contains(key);
            ours && !self.labels.contains_key(key)
        };
        for (key, value) in self.labels.iter().filter(|(k, v)| old.get(*k) != Some(*v)) {
            operations
                .push(json!({ "op": "add", "path": format!("/metadata/labels/{}", escaped(key)), "value": value }));
        }
        for key in old.keys().filter(|k| obsolete(k)) {
            operations.push(json!({ "op": "remove", "path": format!("/metadata/labels/{}", escaped(key)) }));
        }
        if node.metadata.labels.is_none() {
            operations.insert(0, json!({ "op": "add", "path": "/metadata/labels", "value": {} }));
        }
        if let Some(taints) = self.taints_for(node) {
            operations.push(json!({ "op": "add", "path": "/spec/taints", "value": taints }));
        }
        let annotations = node.metadata.annotations.as_ref();
        if annotations.and_then(|a| a.get(FROM_POOL)) != Some(&self.from_pool) {
            if annotations.is_none() {
                operations.push(json!({ "op": "add", "path": "/metadata/annotations", "value": {} }));
            }
            let path = format!("/metadata/annotations/{}", escaped(FROM_POOL));
            operations.push(json!({ "op": "add", "path": path, "value": self.from_pool }));
        }
        if operations.is_empty() {
            return None;
        }
        let version = node.metadata.resource_version.as_deref().unwrap_or_default();
        operations.insert(
            0,
            json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version }),
        );
        Some(operations)
    }

    /// The Node's taints with ours as they should be and everybody else's as they are; None: as they are.
    fn taints_for(&self, node: &Node) -> Option<Vec<Taint>> {
        let old = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let from_pool = given_by_pool(node, "taints");
        let owned = |t: &Taint| {
            taint::ALL.contains(&t.key.as_str())
                || from_pool.contains(&t.key)
                || self.taints.iter().any(|w| w.key == t.key && w.effect == t.effect)
        };
        let same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect && a.value == b.value;
        let there = old.iter().filter(|t| owned(t));
        let equal =
            there.clone().count() == self.taints.len() && self.taints.iter().all(|w| there.clone().any(|t| same(t, w)));
        if equal {
            return None;
        }
        let others = old.iter().filter(|t| !owned(t)).cloned();
        Some(others.chain(self.taints.iter().cloned()).collect())
    }

    /// A strategic merge patch of the status; None: nothing differs.
    pub(crate) fn patch_status(&self, node: &Node, now: Timestamp) -> Option<Value> {
        let old = node.status.clone().unwrap_or_default();
        let mut patch = Map::new();
        let before = old.conditions.clone().unwrap_or_default();
        let changed: Vec<_> = self
            .conditions(&before, now)
            .into_iter()
            .filter(|c| !before.contains(c))
            .collect();
        if !changed.is_empty() {
            patch.insert(
                "conditions".into(),
                changed.iter().map(|c| cleared(&json!(c))).collect(),
            );
        }
        for (field, there) in [("allocatable", &old.allocatable), ("capacity", &old.capacity)] {
            if let Some(resources) = self.resources_patch(there.as_ref()) {
                patch.insert(field.into(), resources);
            }
        }
        let address = |s: &NodeStatus| s.addresses.iter().flatten().find(|a| a.type_ == "InternalIP").cloned();
        if address(&old) != address(&self.status) {
            patch.insert("addresses".into(), json!(self.status.addresses));
        }
        if old.daemon_endpoints != self.status.daemon_endpoints {
            patch.insert("daemonEndpoints".into(), json!(self.status.daemon_endpoints));
        }
        if old.node_info != self.status.node_info {
            patch.insert("nodeInfo".into(), json!(self.status.node_info));
        }
        (!patch.is_empty()).then_some(Value::Object(patch))
    }

    fn resources_patch(&self, there: Option<&BTreeMap<String, ApiQuantity>>) -> Option<Value> {
        let none = BTreeMap::new();
        let there = there.unwrap_or(&none);
        let amount = |q: &ApiQuantity| q.0.parse::<Quantity>().ok();
        let differs = |(name, q): &(&String, &ApiQuantity)| there.get(*name).and_then(amount) != amount(q);
        let mut patch: Map<_, _> = self
            .resources
            .iter()
            .filter(differs)
            .map(|(n, q)| (n.clone(), json!(q)))
            .collect();
        patch.extend(
            there
                .keys()
                .filter(|n| !self.resources.contains_key(*n))
                .map(|n| (n.clone(), Value::Null)),
        );
        (!patch.is_empty()).then_some(Value::Object(patch))
    }

    fn conditions(&self, before: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
        let mut conditions = before.to_vec();
        let now = whole_seconds(now).0;
        let state = &self.state;
        let message = if state.ready {
            "the vehicle's adapter is at work"
        } else {
            "the vehicle is leaving"
        };
        let mut set = |type_, status, reason, message| {
            set_node(
                &mut conditions,
                &Says {
                    type_,
                    status,
                    reason,
                    message,
                },
                now,
            );
        };
        set("Ready", Some(state.ready), state.ready_reason(), message);
        match &state.eligible {
            Judgement::Yes => set(condition::ELIGIBLE, Some(true), "Eligible", "every term is met"),
            Judgement::No { reason, message } => set(condition::ELIGIBLE, Some(false), reason, message),
        }
        match state.heard {
            Some(Hearing::Heard) => set(condition::HEARD, Some(true), "VehicleHeard", ""),
            Some(Hearing::Held) => set(
                condition::HEARD,
                Some(false),
                names::reason::LOSS_HELD,
                vehicle_status::HELD,
            ),
            Some(Hearing::Unheard) => set(
                condition::HEARD,
                Some(false),
                names::reason::VEHICLE_UNHEARD,
                "the vehicle is not heard",
            ),
            None => set(condition::HEARD, None, "VehicleAway", ""),
        }
        conditions
    }
}

/// As JSON pointers want it.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
