//! A ledger that was written and read again is the same; conditions change when what they say does.

use jiff::Timestamp;
use serde_json::json;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn ledger_of_everything() -> Ledger {
    let uids = |list: &[&str]| list.iter().map(|u| u.parse().unwrap()).collect();
    Ledger {
        start_time: Some(at(10)),
        completion_time: Some(at(20)),
        completed: "0-3,7".parse().unwrap(),
        failed_indexes: "5".parse().unwrap(),
        failed: 4,
        refused: 2,
        disruptions: [("VehicleLost".to_owned(), 3)].into(),
        uncounted: Uncounted {
            succeeded: uids(&["a", "b"]),
            failed: uids(&["c"]),
            disrupted: uids(&["d"]),
            refused: uids(&["e"]),
        },
        conditions: vec![job::Condition {
            kind: ConditionKind::FailureTarget,
            status: true,
            reason: "MaxFailedIndexesExceeded".into(),
            message: "m".into(),
            since: at(15),
        }],
    }
}

fn parts<'a>(ledger: &'a Ledger, conditions: &'a [Condition]) -> Parts<'a> {
    let alive = Alive {
        active: 1,
        ready: 2,
        unheard: 3,
        terminating: 4,
    };
    Parts {
        generation: 9,
        ledger,
        alive,
        conditions,
        hold: None,
        waiting: 0,
        now: at(100),
    }
}

#[test]
fn ledger_written_and_read_again_is_the_same() {
    let before = ledger_of_everything();
    let written = status(&parts(&before, &[]));
    let json = serde_json::to_value(&written).unwrap();
    assert_eq!(ledger(&serde_json::from_value(json).unwrap()).unwrap(), before);
    assert_eq!((written.succeeded, written.active, written.ready), (5, 1, 2));
    assert_eq!(
        (written.unheard, written.terminating, written.observed_generation),
        (3, 4, Some(9))
    );
    assert_eq!(written.conditions[0].last_transition_time.0, at(15));
}

#[test]
fn conditions_of_others_stay() {
    let other: Condition = serde_json::from_value(json!({
        "type": "acme.io/Seen", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-11-23T10:00:00Z",
    }))
    .unwrap();
    let written = status(&parts(&Ledger::default(), std::slice::from_ref(&other)));
    assert_eq!(written.conditions, [other]);
}

#[test]
fn hold_is_raised_and_resolved_and_never_mentioned_where_it_never_was() {
    let empty = Ledger::default();
    let hold = Hold::PoolNotFound("no pool".into());
    let raised = status(&Parts {
        hold: Some(&hold),
        ..parts(&empty, &[])
    })
    .conditions;
    assert_eq!(raised.len(), 1);
    assert_eq!(
        (raised[0].type_.as_str(), raised[0].status.as_str()),
        ("PoolNotFound", "True")
    );

    let resolved = status(&Parts {
        now: at(200),
        ..parts(&empty, &raised)
    })
    .conditions;
    assert_eq!(
        (resolved[0].status.as_str(), resolved[0].reason.as_str()),
        ("False", "Resolved")
    );
    assert_eq!(resolved[0].last_transition_time.0, at(200));
    let later = status(&Parts {
        now: at(300),
        ..parts(&empty, &resolved)
    })
    .conditions;
    assert_eq!(later, resolved, "nothing changed");
}

#[test]
fn results_that_wait_for_the_store_are_counted() {
    let empty = Ledger::default();
    let waiting = status(&Parts {
        waiting: 3,
        ..parts(&empty, &[])
    })
    .conditions;
    assert_eq!(waiting[0].type_, STORE_UNAVAILABLE);
    assert!(
        waiting[0].message.starts_with("3 results wait"),
        "{}",
        waiting[0].message
    );
}

#[rstest::rstest]
#[case(json!({ "completedIndexes": "3-1" }), "completedIndexes")]
#[case(json!({ "failedIndexes": "x" }), "failedIndexes")]
#[case(json!({ "uncountedAttempts": { "failed": ["../x"] } }), "uncountedAttempts")]
fn status_that_is_no_ledger_is_refused_by_field(#[case] stored: serde_json::Value, #[case] field: &str) {
    let error = ledger(&serde_json::from_value(stored).unwrap())
        .unwrap_err()
        .to_string();
    assert!(error.contains(field), "{error}");
}
