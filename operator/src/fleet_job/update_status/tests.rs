//! Which changes may wait.

use serde_json::{Value, json};

use super::*;

fn status(json: Value) -> FleetJobStatus {
    serde_json::from_value(json).unwrap()
}

fn old() -> FleetJobStatus {
    status(json!({
        "completedIndexes": "0-1", "succeeded": 2, "active": 3,
        "uncountedAttempts": { "succeeded": ["a", "b"], "failed": ["c"] },
    }))
}

#[rstest::rstest]
#[case::alive(json!({ "active": 2, "ready": 1, "unheard": 1, "terminating": 1 }), true)]
#[case::struck_off(json!({ "uncountedAttempts": { "succeeded": ["b"] } }), true)]
#[case::entered(json!({ "uncountedAttempts": { "succeeded": ["b"], "failed": ["c", "d"] } }), false)]
#[case::exchanged(json!({ "uncountedAttempts": { "succeeded": ["b", "x"], "failed": ["c"] } }), false)]
#[case::completed(json!({ "completedIndexes": "0-2" }), false)]
#[case::counted(json!({ "failed": 1 }), false)]
#[case::observed(json!({ "observedGeneration": 2 }), false)]
fn only_counts_of_the_living_and_strikes_may_wait(#[case] change: Value, #[case] minor: bool) {
    let mut new = json!(old());
    for (key, value) in change.as_object().unwrap() {
        new[key] = value.clone();
    }
    assert_eq!(is_minor(&old(), &status(new)), minor);
}
