//! The Node as it is created, as a golden file, and what each change sends.

use super::*;
use kerbside_api::v1alpha1::{FreeFor, FreeForMinutes};

const NOW: &str = "2026-11-23T12:00:00Z";

fn id() -> VehicleId {
    VehicleId::from_random([7; 10])
}

fn vehicle() -> Vehicle {
    serde_json::from_value(json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle",
        "metadata": {"name": id(), "uid": "v-1"},
        "spec": {"pool": "overnight"},
    }))
    .unwrap()
}

fn offer() -> Offer {
    let amounts = [
        ("cpu", "2"),
        ("memory", "1Gi"),
        ("pods", "4"),
        ("kerbside.dev/npu", "1"),
    ];
    Offer {
        allocatable: amounts
            .iter()
            .map(|(n, q)| ((*n).to_owned(), ApiQuantity((*q).to_owned())))
            .collect(),
        runtimes: vec![Runtime::Wasm],
        arch: "arm64".into(),
        classes: vec!["inference".into()],
        free_for: FreeFor {
            p50: FreeForMinutes::at_most(480),
            p90: FreeForMinutes::at_most(120),
        },
    }
}

fn good() -> NodeState {
    NodeState {
        ready: true,
        taints: vec![],
        eligible: Judgement::Yes,
        heard: Some(Hearing::Heard),
    }
}

fn config() -> NodeConfig {
    NodeConfig {
        address: "10.99.0.1".into(),
        port: 10250,
        provider_id_prefix: "kerbside://".into(),
    }
}

fn template() -> NodeTemplate {
    NodeTemplate {
        labels: BTreeMap::from([("zone".to_owned(), "yard".to_owned())]),
        taints: vec![Taint {
            key: "acme.example/night".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        }],
        ..NodeTemplate::default()
    }
}

fn wanted_with(template: &NodeTemplate, offer: &Offer, state: NodeState) -> Wanted {
    wanted(&id(), &vehicle(), template, offer, "linux", state, &config())
}

fn created() -> Node {
    let mut node = wanted_with(&template(), &offer(), good()).create(NOW.parse().unwrap());
    node.metadata.resource_version = Some("5".into());
    node
}

#[test]
fn node_of_a_wasm_car_is_complete() {
    insta::assert_yaml_snapshot!(wanted_with(&template(), &offer(), good()).create(NOW.parse().unwrap()));
}

#[test]
fn node_just_created_needs_no_patch() {
    let wanted = wanted_with(&template(), &offer(), good());
    let text = serde_json::to_string(&created()).unwrap();
    let node: Node = serde_json::from_str(&text).unwrap();
    assert_eq!(wanted.patch_metadata(&node), None);
    assert_eq!(
        wanted.patch_status(&node, "2026-11-23T13:00:00Z".parse().unwrap()),
        None
    );
}

#[test]
fn taint_of_others_stays_when_ours_change() {
    let mut node = created();
    let foreign = Taint {
        key: "node.kubernetes.io/not-ready".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    node.spec
        .as_mut()
        .unwrap()
        .taints
        .as_mut()
        .unwrap()
        .insert(0, foreign.clone());
    assert_eq!(wanted_with(&template(), &offer(), good()).patch_metadata(&node), None);
    let suspect = NodeState {
        taints: vec![taint::SUSPECT],
        heard: Some(Hearing::Unheard),
        ..good()
    };
    let patch = wanted_with(&template(), &offer(), suspect)
        .patch_metadata(&node)
        .unwrap();
    assert_eq!(
        patch[0],
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": "5"})
    );
    assert_eq!(patch.len(), 2);
    let taints: Vec<Taint> = serde_json::from_value(patch[1]["value"].clone()).unwrap();
    let keys: Vec<_> = taints.iter().map(|t| t.key.as_str()).collect();
    let expected = [
        &foreign.key,
        taint::VEHICLE,
        taint::WASM_ONLY,
        taint::SUSPECT,
        "acme.example/night",
    ];
    assert_eq!(keys, expected);
}

#[test]
fn what_a_pool_gave_goes_with_it() {
    let bare = NodeTemplate::default();
    let patch = wanted_with(&bare, &offer(), good()).patch_metadata(&created()).unwrap();
    assert!(
        patch.contains(&json!({"op": "remove", "path": "/metadata/labels/zone"})),
        "{patch:?}"
    );
    let taints = patch.iter().find(|o| o["path"] == "/spec/taints").unwrap();
    assert!(!taints["value"].to_string().contains("acme.example"));
}

#[test]
fn class_no_longer_consented_to_is_unlabelled_and_labels_of_others_stay() {
    let mut node = created();
    node.metadata.labels.as_mut().unwrap().insert("rack".into(), "b".into());
    let offer = Offer {
        classes: vec!["training".into()],
        ..offer()
    };
    let patch = wanted_with(&template(), &offer, good()).patch_metadata(&node).unwrap();
    let paths: Vec<_> = patch.iter().map(|o| o["path"].as_str().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "/metadata/resourceVersion",
            "/metadata/labels/class.kerbside.dev~1training",
            "/metadata/labels/class.kerbside.dev~1inference"
        ]
    );
}

#[test]
fn status_patch_carries_what_changed_and_nulls_what_went() {
    let mut smaller = offer();
    smaller.allocatable.remove("kerbside.dev/npu");
    smaller.allocatable.insert("cpu".into(), ApiQuantity("1".into()));
    let leaving = NodeState {
        ready: false,
        taints: vec![taint::LEAVING],
        ..good()
    };
    let patch = wanted_with(&template(), &smaller, leaving)
        .patch_status(&created(), NOW.parse().unwrap())
        .unwrap();
    assert_eq!(patch["allocatable"], json!({"cpu": "1", "kerbside.dev/npu": null}));
    let conditions = patch["conditions"].as_array().unwrap();
    assert_eq!(conditions.len(), 1);
    assert_eq!(
        (&conditions[0]["type"], &conditions[0]["status"]),
        (&json!("Ready"), &json!("False"))
    );
    assert_eq!(conditions[0]["reason"], "VehicleLeaving");
    assert!(patch.get("nodeInfo").is_none());
}

#[test]
fn message_that_went_is_taken_back() {
    let mut node = created();
    let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
    let heard = conditions.iter_mut().find(|c| c.type_ == condition::HEARD).unwrap();
    heard.status = "False".into();
    heard.message = Some("the vehicle is not heard".into());
    let patch = wanted_with(&template(), &offer(), good())
        .patch_status(&node, NOW.parse().unwrap())
        .unwrap();
    // A strategic merge keeps what is not named, and each look at the Node would find another difference.
    let heard = patch["conditions"][0].as_object().unwrap();
    assert_eq!((&heard["status"], &heard["message"]), (&json!("True"), &json!(null)));
}

#[test]
fn ready_unknown_by_the_controller_manager_is_reasserted() {
    let mut node = created();
    let conditions = node.status.as_mut().unwrap().conditions.as_mut().unwrap();
    let ready = conditions.iter_mut().find(|c| c.type_ == "Ready").unwrap();
    ready.status = "Unknown".into();
    ready.reason = Some("NodeStatusUnknown".into());
    let patch = wanted_with(&template(), &offer(), good())
        .patch_status(&node, NOW.parse().unwrap())
        .unwrap();
    assert_eq!(patch["conditions"][0]["status"], "True");
}

#[test]
fn pods_are_the_smaller_of_the_offer_and_the_pool() {
    let roomy = Offer {
        allocatable: BTreeMap::new(),
        ..offer()
    };
    assert_eq!(resources(&roomy, 16).get("pods").unwrap().0, "16");
    assert_eq!(resources(&offer(), 16).get("pods").unwrap().0, "4");
    assert_eq!(resources(&offer(), 2).get("pods").unwrap().0, "2");
}
