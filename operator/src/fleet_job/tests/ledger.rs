//! Terms are fixed when a Pod is made, and no Pod that ran on a car goes before it is closed.

use kerbside_core::ledger::{Closing, Standing, terms_of_annotation};
use kerbside_core::names::annotation;
use kerbside_core::names::store as path;
use kube::ResourceExt;
use serde_json::json;

use super::super::*;
use super::fleet::{End, Fleet, JOB, NAMESPACE, Script};
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

#[tokio::test(start_paused = true)]
async fn pod_waits_for_its_closing_while_the_store_is_down() {
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
    down.set_down(true);
    tokio::time::advance(Duration::from_secs(2)).await;
    let error = fleet.reconcile(&operator).await.unwrap_err();
    assert_eq!(error.category(), "FailedClosing");
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

    down.set_down(false);
    fleet.reconcile(&operator).await.unwrap();
    assert!(fleet.pods()[0].finalizers().is_empty());
    let closing = closing(&fleet, &pod.uid().unwrap()).await.unwrap();
    assert_eq!((closing.standing, closing.running_ms), (Standing::Failed, 10_000));
}
