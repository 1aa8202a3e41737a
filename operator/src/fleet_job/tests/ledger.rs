//! Terms are fixed when a Pod is made, and no Pod that ran on a car goes before it is closed.

use k8s_openapi::api::core::v1::Pod;
use kerbside_core::ledger::{Closing, Standing, terms_of_annotation};
use kerbside_core::names::annotation;
use kerbside_core::names::store as path;
use kube::ResourceExt;
use serde_json::json;

use super::super::*;
use super::fleet::{End, Fleet, JOB, NAMESPACE, Operator, Script};
use crate::testing::DownStore;
use crate::testing::fake_api::Fate;

fn pay(fleet: &Fleet, price: &str) {
    let pool = ("vehiclepools".to_owned(), String::new(), "overnight".to_owned());
    fleet.api.change(&pool, |p| {
        p["spec"]["terms"] = json!({ "currency": "EUR", "perCPUHour": price });
    });
}

fn terms(fleet: &Fleet, index: usize) -> Option<String> {
    fleet.pods()[index].annotations().get(annotation::TERMS).cloned()
}

/// What is to end though the store never answers: the turns of one reconcile, each in two seconds.
async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(9), work).await.unwrap()
}

/// The closing of an attempt, if it has one.
async fn closing(fleet: &Fleet, uid: &str) -> Option<Closing> {
    let bytes = fleet.store.get(&path::ledger_closing(uid)).await.ok()?;
    Some(serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test(start_paused = true)]
async fn terms_of_an_attempt_stay_as_they_were_when_its_pod_was_made() {
    let fleet = Fleet::new(&json!({ "completions": 2, "parallelism": 1 }), Script::new());
    pay(&fleet, "0.02");
    fleet.reconcile(&fleet.operator(Fate::Lives)).await.unwrap();
    let first = terms(&fleet, 0).unwrap();
    assert_eq!(
        terms_of_annotation(&first).unwrap()["overnight"]
            .per_cpu_hour
            .to_string(),
        "0.02"
    );
    pay(&fleet, "5");
    fleet.change_job(|job| job["spec"]["parallelism"] = 2.into());
    tokio::time::advance(Duration::from_secs(2)).await;
    fleet.reconcile(&fleet.operator(Fate::Lives)).await.unwrap();
    let all: Vec<_> = (0..2).filter_map(|index| terms(&fleet, index)).collect();
    assert_eq!(all.len(), 2);
    assert!(all.contains(&first), "{all:?}");
    assert!(all.iter().any(|terms| terms.contains("\"5\"")), "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn pod_of_pools_that_pay_nothing_has_no_terms() {
    let fleet = Fleet::new(&json!({}), Script::new());
    fleet.reconcile(&fleet.operator(Fate::Lives)).await.unwrap();
    assert_eq!(terms(&fleet, 0), None);
}

#[tokio::test(start_paused = true)]
async fn pool_whose_prices_cannot_be_read_makes_no_attempts() {
    let fleet = Fleet::new(&json!({}), Script::new());
    pay(&fleet, "cheap");
    fleet.reconcile(&fleet.operator(Fate::Lives)).await.unwrap();
    assert!(fleet.is("PoolNotFound") && fleet.pods().is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_attempt_that_ran_on_a_car_is_closed_as_it_was_counted() {
    let script = Script::from([
        (0, vec![End::IsDisrupted, End::Succeeds]),
        (1, vec![End::IsRefused, End::Succeeds]),
    ]);
    let mut fleet = Fleet::new(&json!({ "completions": 2 }), script);
    let operator = fleet.operator(Fate::Lives);
    fleet.run(&operator).await;
    assert!(fleet.is("Complete"));
    let truth = &fleet.truth;
    for (uids, standing) in [
        (&truth.succeeded, Standing::Accepted),
        (&truth.disrupted, Standing::Disrupted),
    ] {
        assert!(!uids.is_empty());
        for uid in uids {
            let closing = closing(&fleet, uid).await.unwrap();
            assert_eq!(closing.standing, standing, "{uid}");
            let own = closing.accepted_uid.is_some_and(|accepted| accepted.as_str() == uid);
            assert_eq!(own, standing == Standing::Accepted, "{uid}");
        }
    }
    for uid in &truth.refused {
        assert_eq!(closing(&fleet, uid).await, None);
    }
}

#[rstest::rstest]
#[case::is_down(DownStore::set_down, "the store is not available")]
#[case::never_answers(DownStore::set_hangs, "the store did not answer within 2s")]
#[tokio::test(start_paused = true)]
async fn pod_waits_for_its_closing_while_the_store(#[case] fails: fn(&DownStore, bool), #[case] says: &str) {
    let spec = json!({ "completions": 1, "backoffLimitPerIndex": 0 });
    let mut fleet = Fleet::new(&spec, Script::from([(0, vec![End::Works])]));
    let down = Arc::new(DownStore::default());
    down.set_down(false);
    fleet.store = ResultStore::over(Arc::clone(&down) as Arc<dyn object_store::ObjectStore>);
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    fleet.work().await;
    let pod = fleet.pods().remove(0);
    fleet.change_pod(&pod.name_any(), |p| {
        let condition = |type_: &str, at: &str| json!({ "type": type_, "status": "True", "lastTransitionTime": at });
        p["status"] = json!({ "phase": "Failed", "conditions": [
            condition("kerbside.dev/Started", "2026-11-23T10:00:00Z"),
            condition("kerbside.dev/Stopped", "2026-11-23T10:00:09Z"),
        ]});
    });
    fails(&down, true);
    tokio::time::advance(Duration::from_secs(2)).await;
    let error = in_time(fleet.reconcile(&operator)).await.unwrap_err();
    assert_eq!(error.category(), "FailedClosing");
    assert!(report::with_causes(&error).contains(says), "{error:?}");
    assert!(
        !fleet.pods()[0].finalizers().is_empty(),
        "what is not closed is not let go"
    );
    assert_eq!(fleet.status().failed, 1, "what is counted is counted");
    let job: DeserializeGuard<FleetJob> = serde_json::from_value(fleet.api.get("fleetjobs", NAMESPACE, JOB)).unwrap();
    assert_ne!(
        on_error(&job, &error, &operator.ctx),
        Action::await_change(),
        "it is tried again"
    );

    fails(&down, false);
    fleet.reconcile(&operator).await.unwrap();
    assert!(fleet.pods()[0].finalizers().is_empty());
    let closing = closing(&fleet, &pod.uid().unwrap()).await.unwrap();
    assert_eq!((closing.standing, closing.running_ms), (Standing::Failed, 10_000));
}

/// A job whose first attempt was replaced when its car left, before its end; that attempt's Pod.
async fn replaced(fleet: &mut Fleet, operator: &Operator) -> Pod {
    fleet.reconcile(operator).await.unwrap();
    fleet.work().await;
    let pod = fleet.pods().remove(0);
    fleet.change_pod(&pod.name_any(), |p| {
        p["metadata"]["deletionTimestamp"] = "2026-11-23T10:00:05Z".into();
    });
    tokio::time::advance(Duration::from_secs(2)).await;
    fleet.reconcile(operator).await.unwrap();
    assert_eq!(fleet.pods().len(), 2, "it is replaced on the notice");
    pod
}

/// The car says that it has stopped, and perhaps since when it ran.
fn stopped(fleet: &Fleet, pod: &str, started: bool) {
    let condition = |type_: &str, at: &str| json!({ "type": type_, "status": "True", "lastTransitionTime": at });
    let mut conditions = vec![
        condition("DisruptionTarget", "2026-11-23T10:00:05Z"),
        condition("kerbside.dev/Stopped", "2026-11-23T10:00:09Z"),
    ];
    if started {
        conditions.push(condition("kerbside.dev/Started", "2026-11-23T10:00:00Z"));
    }
    fleet.change_pod(pod, |p| {
        p["status"] = json!({ "phase": "Failed", "conditions": conditions });
    });
}

fn is_held(fleet: &Fleet, pod: &str) -> bool {
    fleet
        .pods()
        .iter()
        .any(|p| p.name_any() == pod && !p.finalizers().is_empty())
}

#[tokio::test(start_paused = true)]
async fn attempt_that_was_replaced_before_its_end_is_closed_while_its_pod_is_held() {
    let mut fleet = Fleet::new(&json!({ "completions": 1 }), Script::from([(0, vec![End::Works])]));
    let operator = fleet.operator(Fate::Lives);
    let pod = replaced(&mut fleet, &operator).await;
    let (name, uid) = (pod.name_any(), pod.uid().unwrap());
    assert_eq!(closing(&fleet, &uid).await, None, "it is at work");

    stopped(&fleet, &name, true);
    tokio::time::advance(Duration::from_secs(2)).await;
    fleet.reconcile(&operator).await.unwrap();
    assert!(is_held(&fleet, &name), "its index is not over");
    let first = closing(&fleet, &uid).await.unwrap();
    assert_eq!((first.standing, first.running_ms), (Standing::Disrupted, 10_000));
    assert_eq!(first.accepted_uid, None);

    // The other one succeeds, and what was closed stays as it is.
    fleet.script = Script::from([(0, vec![End::Succeeds])]);
    fleet.run(&operator).await;
    assert!(fleet.is("Complete") && !is_held(&fleet, &name));
    assert_eq!(closing(&fleet, &uid).await.unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn attempt_whose_time_is_not_known_yet_is_closed_only_when_its_pod_goes() {
    let mut fleet = Fleet::new(&json!({ "completions": 1 }), Script::from([(0, vec![End::Works])]));
    let operator = fleet.operator(Fate::Lives);
    let pod = replaced(&mut fleet, &operator).await;
    let (name, uid) = (pod.name_any(), pod.uid().unwrap());
    stopped(&fleet, &name, false);
    tokio::time::advance(Duration::from_secs(2)).await;
    fleet.reconcile(&operator).await.unwrap();
    assert!(is_held(&fleet, &name));
    assert_eq!(closing(&fleet, &uid).await, None);
    fleet.script = Script::from([(0, vec![End::Succeeds])]);
    fleet.run(&operator).await;
    assert!(closing(&fleet, &uid).await.is_some());
}

#[rstest::rstest]
#[case::is_down(DownStore::set_down)]
#[case::never_answers(DownStore::set_hangs)]
#[tokio::test(start_paused = true)]
async fn no_turn_is_held_up_for_an_attempt_that_is_held_anyway_by_a_store_that(#[case] fails: fn(&DownStore, bool)) {
    let mut fleet = Fleet::new(&json!({ "completions": 1 }), Script::from([(0, vec![End::Works])]));
    let down = Arc::new(DownStore::default());
    down.set_down(false);
    fleet.store = ResultStore::over(Arc::clone(&down) as Arc<dyn object_store::ObjectStore>);
    let operator = fleet.operator(Fate::Lives);
    let pod = replaced(&mut fleet, &operator).await;
    stopped(&fleet, &pod.name_any(), true);
    fails(&down, true);
    tokio::time::advance(Duration::from_secs(2)).await;
    let action = in_time(fleet.reconcile(&operator)).await.unwrap();
    assert_ne!(action, Action::await_change(), "it is tried again by itself");
    assert_eq!(fleet.status().disruptions.values().sum::<u32>(), 1, "it is on record");
    fails(&down, false);
    let uid = pod.uid().unwrap();
    assert_eq!(closing(&fleet, &uid).await, None);
    fleet.reconcile(&operator).await.unwrap();
    assert!(closing(&fleet, &uid).await.is_some(), "the next turn tries again");
}
