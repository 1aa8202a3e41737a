//! The examples of the design: accepted as they stand, and the same after a round trip through the types.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::validator::refusals;
use super::*;
use crate::v1alpha1::{FleetJobSpec, OnLoss, Output};

/// Without empty lists and maps, which the types leave out of a spec.
fn without_empties(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, field)| (name.clone(), without_empties(field)))
            .filter(|(_, field)| *field != json!({}) && *field != json!([]))
            .collect(),
        Value::Array(items) => items.iter().map(without_empties).collect(),
        _ => value.clone(),
    }
}

fn round_trip<K: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(kind: &str) {
    let example = example(kind);
    assert_eq!(refusals(&schema_of(kind), &example, None), [""; 0], "{kind}");
    let typed: K = serde_json::from_value(example.clone()).unwrap();
    let written = serde_json::to_value(&typed).unwrap();
    assert_eq!(without_empties(&written), without_empties(&example), "{kind}");
    assert_eq!(serde_json::from_value::<K>(written).unwrap(), typed, "{kind}");
}

#[test]
fn example_of_each_kind_is_accepted_and_round_trips() {
    round_trip::<FleetJob>("FleetJob");
    round_trip::<VehiclePool>("VehiclePool");
    round_trip::<Vehicle>("Vehicle");
}

/// Both sides put the same defaults in: what an API server stored reads like what a test builds.
fn defaults_agree<S: DeserializeOwned + PartialEq + std::fmt::Debug>(kind: &str, minimal: &Value) {
    let defaulted = kube::core::cel::apply_defaults(&schema_of(kind), minimal);
    assert_eq!(refusals(&schema_of(kind), minimal, None), [""; 0], "{kind}");
    let by_serde: S = serde_json::from_value(minimal["spec"].clone()).unwrap();
    let by_schema: S = serde_json::from_value(defaulted["spec"].clone()).unwrap();
    assert_eq!(by_serde, by_schema, "{kind}");
}

#[test]
fn defaults_of_schema_and_types_agree() {
    let spec = json!({"allowedNamespaces": {"from": "All"}, "terms": {"currency": "EUR"}});
    let pool = json!({"metadata": {"name": "p"}, "spec": spec});
    defaults_agree::<crate::v1alpha1::VehiclePoolSpec>("VehiclePool", &pool);
    let vehicle = json!({"metadata": {"name": "car-aaaaaaaaaaaaaaaa"}, "spec": {"pool": "p"}});
    defaults_agree::<crate::v1alpha1::VehicleSpec>("Vehicle", &vehicle);
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "main"}]}});
    let spec = json!({"pools": ["p"], "class": "c", "completions": 1, "output": {}, "template": template});
    defaults_agree::<FleetJobSpec>("FleetJob", &json!({"metadata": {"name": "j"}, "spec": spec}));
}

#[test]
fn defaults_of_a_fleet_job_are_those_of_the_design() {
    let spec = json!({"pools": ["p"], "class": "c", "completions": 1, "template": {"spec": {"containers": []}}});
    let spec: FleetJobSpec = serde_json::from_value(spec).unwrap();
    assert_eq!(
        (spec.parallelism, spec.backoff_limit_per_index, spec.max_failed_indexes),
        (1, 3, 0)
    );
    assert_eq!((spec.max_disruptions_per_index, spec.suspend), (50, false));
    assert_eq!(spec.managed_by, "kerbside.dev/fleetjob-controller");
    assert_eq!(
        (
            spec.active_deadline_seconds,
            spec.ttl_seconds_after_finished,
            spec.output
        ),
        (None, None, None)
    );
    assert_eq!(spec.on_loss.run_unheard_for().as_secs(), 2400);
    let fenced: OnLoss = serde_json::from_value(json!({"replace": "WhenFenced"})).unwrap();
    assert_eq!(fenced.run_unheard_for().as_secs(), 30);
    let given: OnLoss = serde_json::from_value(json!({"replace": "WhenFenced", "runUnheardFor": "2m"})).unwrap();
    assert_eq!(given.run_unheard_for().as_secs(), 120);
    let output = Output::default();
    assert_eq!(
        (output.path.as_str(), output.max_bytes.0.as_str()),
        ("/kerbside/out", "64Mi")
    );
}

#[test]
fn defaults_of_a_vehicle_status_grant_nothing() {
    let status: crate::v1alpha1::VehicleStatus = serde_json::from_value(json!({})).unwrap();
    assert_eq!(status.phase, crate::v1alpha1::VehiclePhase::Away);
    assert!(status.offer.classes.is_empty() && status.offer.runtimes.is_empty());
    assert_eq!(status.offer.free_for.p90.get(), 0);
}
