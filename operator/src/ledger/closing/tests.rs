//! What a closing says, by what is seen and on record of the attempt; and when there is none.

use kerbside_core::job::Uncounted;
use kube::runtime::watcher::Event;
use object_store::memory::InMemory;
use serde_json::{Value, json};

use super::super::testing;
use super::*;
use crate::acceptance::Candidate;
use crate::attempts;
use crate::testing::{HandClock, seal};

const CAR: &str = "car-aaaaaaaaaaaaaaaa";

struct Case {
    store: Store,
    vehicles: Arc<VehicleIndex>,
    ledger: Ledger,
}

impl Case {
    fn new() -> Self {
        Self {
            store: testing::store(&Arc::new(InMemory::new())),
            vehicles: Arc::default(),
            ledger: Ledger::default(),
        }
    }

    fn closings(&self) -> Closings {
        Closings::new(self.store.clone(), Arc::clone(&self.vehicles), HandClock::new())
    }

    /// Closes the attempt; what is in the store then.
    async fn close(&self, seen: &Seen, is_gone: bool) -> Option<Closing> {
        let job = "job-uid".parse().unwrap();
        let ended = Ended {
            namespace: "ns",
            job: &job,
            ledger: (!is_gone).then_some(&self.ledger),
            seen,
        };
        self.closings().close(ended).await.unwrap();
        let place = path::ledger_closing(seen.attempt.uid.as_str());
        let bytes = self.store.get(&place).await.ok()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    /// The result of the index is that of this attempt.
    async fn accept(&self, attempt: &str) {
        seal(&self.store, "ns", attempt, b"x").await;
        let (job, uid) = ("job-uid".parse().unwrap(), attempt.parse().unwrap());
        let candidate = Candidate {
            namespace: "ns",
            job: &job,
            index: 4,
            uid: &uid,
            vehicle: CAR,
        };
        acceptance::accept(&self.store, candidate, Timestamp::UNIX_EPOCH)
            .await
            .unwrap();
    }

    fn enrol(&self, pool: &str, cpu: &str) {
        let vehicle = json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": { "name": CAR },
            "spec": { "pool": pool }, "status": { "offer": { "allocatable": { "cpu": cpu } } },
        });
        self.vehicles
            .fold(Event::Apply(serde_json::from_value(vehicle).unwrap()));
    }
}

fn condition(type_: &str, at: &str) -> Value {
    json!({ "type": type_, "status": "True", "reason": "Reported", "lastTransitionTime": format!("2026-11-23T10:{at}Z") })
}

/// A Pod for index 4 that ran on the car for 20 s.
fn seen(phase: &str, change: impl FnOnce(&mut Value)) -> Seen {
    let mut pod = json!({
        "metadata": {
            "name": "p", "namespace": "ns", "uid": "mine", "labels": { "kerbside.dev/job-uid": "job-uid" },
            "annotations": {
                "batch.kubernetes.io/job-completion-index": "4",
                "kerbside.dev/terms": kerbside_core::ledger::terms_annotation(&[testing::terms()]),
            },
        },
        "spec": { "nodeName": CAR, "containers": [{ "name": "main", "resources": { "limits": { "cpu": "1500m" } } }] },
        "status": { "phase": phase, "conditions": [
            condition("kerbside.dev/Started", "00:00"), condition("kerbside.dev/Stopped", "00:20"),
        ]},
    });
    change(&mut pod);
    attempts::of_stray(&serde_json::from_value(pod).unwrap()).unwrap().1
}

fn same(_: &mut Value) {}

#[tokio::test]
async fn closing_says_what_the_pod_says() {
    let case = Case::new();
    let closing = case.close(&seen("Failed", same), false).await.unwrap();
    assert_eq!((closing.job_uid.as_str(), closing.index), ("job-uid", 4));
    assert_eq!((closing.pod_uid.as_str(), closing.vehicle.as_str()), ("mine", CAR));
    assert_eq!((closing.running_ms, closing.milli_cpu), (21_000, 1_500));
    assert_eq!(closing.terms["overnight"], testing::terms());
}

#[rstest::rstest]
#[case::stopped_in_the_same_second("00:00", Some("00:00"), 1_000)]
#[case::clock_set_back("00:05", Some("00:00"), 1_000)]
#[case::at_work_when_it_is_let_go_at_11("59:00", None, 61_000)]
#[tokio::test]
async fn time_is_from_started_to_stopped_and_a_second(
    #[case] started: &str,
    #[case] stopped: Option<&str>,
    #[case] running_ms: u64,
) {
    let attempt = seen("Running", |p| {
        let mut conditions = vec![condition("kerbside.dev/Started", started)];
        conditions.extend(stopped.map(|at| condition("kerbside.dev/Stopped", at)));
        p["status"]["conditions"] = conditions.into();
    });
    let closing = Case::new().close(&attempt, false).await.unwrap();
    assert_eq!(closing.running_ms, running_ms);
}

#[rstest::rstest]
#[case::refused(&["Refused"], true, false)]
#[case::never_bound(&[], false, false)]
#[case::never_started(&["Stopped"], true, true)]
#[case::refused_after_it_started(&["Started", "Refused"], true, true)]
#[tokio::test]
async fn what_ran_nowhere_has_no_closing(#[case] conditions: &[&str], #[case] bound: bool, #[case] closed: bool) {
    let attempt = seen("Failed", |p| {
        let all = conditions
            .iter()
            .map(|c| condition(&format!("kerbside.dev/{c}"), "00:00"));
        p["status"]["conditions"] = all.collect::<Vec<_>>().into();
        if !bound {
            p["spec"]["nodeName"] = Value::Null;
        }
    });
    let closing = Case::new().close(&attempt, false).await;
    assert_eq!(closing.is_some(), closed);
    let started = conditions.contains(&"Started");
    assert!(closing.is_none_or(|closing| (closing.running_ms == 0) != started));
}

/// How the attempt is on record, whose result the store has, whether the job is gone, and what follows.
#[rstest::rstest]
#[case::accepted("succeeded", "Succeeded", None, false, Standing::Accepted, Some("mine"))]
#[case::failed("failed", "Failed", None, false, Standing::Failed, None)]
#[case::invalid_result("failed", "Succeeded", Some("other"), false, Standing::Failed, Some("other"))]
#[case::disrupted("disrupted", "Failed", None, false, Standing::Disrupted, None)]
#[case::superseded("", "Succeeded", Some("other"), false, Standing::Superseded, Some("other"))]
#[case::rival_that_failed("", "Failed", Some("other"), false, Standing::Failed, Some("other"))]
#[case::accepted_and_the_job_is_gone("", "Succeeded", Some("mine"), true, Standing::Accepted, Some("mine"))]
#[case::not_accepted_and_the_job_is_gone("", "Succeeded", None, true, Standing::Disrupted, None)]
#[case::at_work_when_the_job_went("", "Running", Some("other"), true, Standing::Disrupted, Some("other"))]
#[tokio::test]
async fn attempt_stands_as_it_was_counted(
    #[case] list: &str,
    #[case] phase: &str,
    #[case] result: Option<&str>,
    #[case] is_gone: bool,
    #[case] standing: Standing,
    #[case] accepted: Option<&str>,
) {
    let mut case = Case::new();
    let uids = |name: &str| (list == name).then(|| "mine".parse().unwrap()).into_iter().collect();
    case.ledger.uncounted = Uncounted {
        succeeded: uids("succeeded"),
        failed: uids("failed"),
        disrupted: uids("disrupted"),
        refused: uids("refused"),
    };
    if let Some(attempt) = result {
        case.accept(attempt).await;
        case.ledger.completed.insert(4).unwrap();
    }
    let closing = case.close(&seen(phase, same), is_gone).await.unwrap();
    assert_eq!(closing.standing, standing);
    assert_eq!(closing.accepted_uid.as_ref().map(PodUid::as_str), accepted);
}

#[tokio::test]
async fn rival_that_was_stopped_is_disrupted() {
    let mut case = Case::new();
    case.accept("other").await;
    case.ledger.completed.insert(4).unwrap();
    let attempt = seen("Failed", |p| {
        p["metadata"]["deletionTimestamp"] = "2026-11-23T10:00:10Z".into();
    });
    let closing = case.close(&attempt, false).await.unwrap();
    assert_eq!(closing.standing, Standing::Disrupted);
}

#[tokio::test]
async fn processor_is_never_what_the_car_says_that_it_has() {
    let case = Case::new();
    case.enrol("overnight", "2500m");
    let unlimited = seen("Failed", |p| p["spec"]["containers"] = json!([{ "name": "main" }]));
    assert_eq!(case.close(&unlimited, false).await.unwrap().milli_cpu, ONE_CORE);
}

#[tokio::test]
async fn terms_of_pools_that_the_car_is_not_in_are_left_out() {
    let case = Case::new();
    case.enrol("weekend", "1");
    let term =
        |pool| json!({"pool": pool, "currency": "EUR", "perCPUHour": "1", "perKWh": "0", "unaccepted": "Nothing"});
    let both = json!({"overnight": term("overnight"), "weekend": term("weekend")}).to_string();
    let attempt = seen("Failed", |p| {
        p["metadata"]["annotations"]["kerbside.dev/terms"] = both.as_str().into();
    });
    let pools = |closing: Closing| closing.terms.into_keys().collect::<Vec<_>>();
    assert_eq!(pools(case.close(&attempt, false).await.unwrap()), ["weekend"]);
}

#[tokio::test]
async fn car_that_was_moved_to_a_pool_of_no_interest_is_paid_by_what_the_job_offered() {
    let case = Case::new();
    case.enrol("another", "1");
    let closing = case.close(&seen("Failed", same), false).await.unwrap();
    assert_eq!(closing.terms.into_keys().collect::<Vec<_>>(), ["overnight"]);
}

#[tokio::test]
async fn terms_that_somebody_made_unreadable_are_none() {
    let case = Case::new();
    let attempt = seen("Failed", |p| {
        p["metadata"]["annotations"]["kerbside.dev/terms"] = "EUR 5".into();
    });
    assert!(case.close(&attempt, false).await.unwrap().terms.is_empty());
}

#[tokio::test]
async fn first_closing_stands() {
    let mut case = Case::new();
    let first = case.close(&seen("Failed", same), false).await.unwrap();
    case.ledger.uncounted.disrupted.insert("mine".parse().unwrap());
    assert_eq!(case.close(&seen("Failed", same), false).await.unwrap(), first);
}

/// What is seen and on record, and whether all that counts is known for good.
#[rstest::rstest]
#[case::disrupted("disrupted", "Failed", &["Started", "Stopped"], true)]
#[case::failed("failed", "Failed", &["Started", "Stopped"], true)]
#[case::accepted("succeeded", "Succeeded", &["Started", "Stopped"], true)]
#[case::not_on_record("", "Failed", &["Started", "Stopped"], false)]
#[case::refused("refused", "Failed", &["Started", "Stopped"], false)]
#[case::not_stopped("disrupted", "Failed", &["Started"], false)]
#[case::not_known_since_when("disrupted", "Failed", &["Stopped"], false)]
#[case::at_work("disrupted", "Running", &["Started", "Stopped"], false)]
fn attempt_is_final_when_its_end_is_on_record_and_its_time_is_known(
    #[case] list: &str,
    #[case] phase: &str,
    #[case] conditions: &[&str],
    #[case] is: bool,
) {
    let uids = |name: &str| (list == name).then(|| "mine".parse().unwrap()).into_iter().collect();
    let ledger = Ledger {
        uncounted: Uncounted {
            succeeded: uids("succeeded"),
            failed: uids("failed"),
            disrupted: uids("disrupted"),
            refused: uids("refused"),
        },
        ..Ledger::default()
    };
    let attempt = seen(phase, |p| {
        let all = conditions
            .iter()
            .map(|c| condition(&format!("kerbside.dev/{c}"), "00:00"));
        p["status"]["conditions"] = all.collect::<Vec<_>>().into();
    });
    assert_eq!(is_final(&ledger, &attempt), is);
}

#[rstest::rstest]
#[case("failed")]
#[case("disrupted")]
#[tokio::test]
async fn early_closing_says_what_a_late_one_would_but_for_whose_result_it_is(#[case] list: &str) {
    let attempt = seen("Failed", same);
    let mut closings = Vec::new();
    for is_over in [false, true] {
        let mut case = Case::new();
        let uids = |name: &str| (list == name).then(|| "mine".parse().unwrap()).into_iter().collect();
        case.ledger.uncounted = Uncounted {
            failed: uids("failed"),
            disrupted: uids("disrupted"),
            ..Uncounted::default()
        };
        assert!(is_final(&case.ledger, &attempt));
        if is_over {
            case.accept("other").await;
            case.ledger.completed.insert(4).unwrap();
        }
        closings.push(case.close(&attempt, false).await.unwrap());
    }
    assert_eq!(closings[0].accepted_uid, None);
    assert_eq!(
        closings[1],
        Closing {
            accepted_uid: Some("other".parse().unwrap()),
            ..closings[0].clone()
        }
    );
}
