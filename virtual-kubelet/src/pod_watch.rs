//! The one watch on Pods and the one on vehicles' Nodes, for all vehicles of this adapter.
//!
//! An API server connection costs a TCP connection, so there is one watch per kind and never one per vehicle. Pods are routed by
//! `spec.nodeName`, then by UID; Pods on other Nodes pass through and are not kept.

use k8s_openapi::api::core::v1::{Node, Pod};
use kerbside_core::ids::VehicleId;
use kerbside_core::names;
use kube::runtime::watcher;
use kube::{Api, Client};

use crate::mirror::{Mirror, follow};
use crate::pod_facts::vehicle_of;

/// Every Pod that is bound to a vehicle's Node, grouped by vehicle.
pub(crate) fn pods() -> Mirror<Pod> {
    Mirror::new(|pod| vehicle_of(pod).map(String::from))
}

/// Every vehicle's Node, each a group of its own.
pub(crate) fn nodes() -> Mirror<Node> {
    Mirror::new(|node| node.metadata.name.clone().filter(|n| n.parse::<VehicleId>().is_ok()))
}

/// Follows the Pods for ever.
pub(crate) async fn follow_pods(client: Client, mirror: &Mirror<Pod>, changed: impl Fn(&VehicleId)) {
    let config = watcher::Config::default().fields("spec.nodeName!=");
    follow(Api::all(client), config, mirror, trim_pod, told(changed)).await;
}

/// Follows the Nodes for ever.
pub(crate) async fn follow_nodes(client: Client, mirror: &Mirror<Node>, changed: impl Fn(&VehicleId)) {
    let config = watcher::Config::default().labels(&format!("type={}", names::NODE_TYPE));
    follow(Api::all(client), config, mirror, |_| {}, told(changed)).await;
}

fn told(changed: impl Fn(&VehicleId)) -> impl Fn(&str) {
    move |group| {
        if let Ok(id) = group.parse() {
            changed(&id);
        }
    }
}

/// What neither the car nor a status needs, kept small for tens of thousands of Pods.
fn trim_pod(pod: &mut Pod) {
    pod.metadata.self_link = None;
    pod.metadata.generate_name = None;
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    if let Some(spec) = &mut pod.spec {
        spec.affinity = None;
        spec.topology_spread_constraints = None;
        spec.scheduling_gates = None;
    }
}
