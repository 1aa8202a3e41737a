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
        // Which Nodes it requires is judged once more by the admission, for Pods that were bound by hand.
        if let Some(affinity) = &mut spec.affinity {
            affinity.pod_affinity = None;
            affinity.pod_anti_affinity = None;
            if let Some(nodes) = &mut affinity.node_affinity {
                nodes.preferred_during_scheduling_ignored_during_execution = None;
            }
        }
        spec.topology_spread_constraints = None;
        spec.scheduling_gates = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pod_keeps_the_nodes_that_it_requires_and_nothing_else_of_its_affinity() {
        let required = json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]});
        let preferred = json!([{"weight": 1, "preference": {}}]);
        let mut pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": required,
                "preferredDuringSchedulingIgnoredDuringExecution": preferred,
            },
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "a"}]},
        }}}))
        .unwrap();
        trim_pod(&mut pod);
        let kept = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
        assert_eq!(serde_json::to_value(&pod).unwrap()["spec"]["affinity"], kept);
    }
}
