//! The operator dies before or after any one of its writes and is started again: no index is lost or counted twice.
//!
//! Each case is run once per write and per side of it. What the status says at the end is held against what the cars did.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::ResourceExt;
use serde_json::{Value, json};

use super::fleet::{End, Fleet, NAMESPACE, Script};
use crate::acceptance;
use crate::testing::fake_api::Fate;

fn script(ends: &[(u32, &[End])]) -> Script {
    ends.iter().map(|(index, ends)| (*index, ends.to_vec())).collect()
}

/// What must hold when a job has ended, whatever happened on the way.
async fn check(fleet: &Fleet, completed: &[u32], failed_indexes: &str, what: &str) {
    let status = fleet.status();
    let truth = &fleet.truth;
    let indexes: kerbside_core::index_set::IndexSet = status.completed_indexes.parse().unwrap();
    assert_eq!(indexes.iter().collect::<Vec<_>>(), completed, "{what}");
    assert_eq!(status.failed_indexes, failed_indexes, "{what}");
    assert_eq!(status.succeeded as usize, completed.len(), "{what}");
    assert_eq!(status.failed as usize, truth.failed.len(), "{what}: failures");
    assert_eq!(status.refused as usize, truth.refused.len(), "{what}: refusals");
    let disruptions: u32 = status.disruptions.values().sum();
    assert_eq!(
        disruptions as usize,
        truth.disrupted.len(),
        "{what}: {:?}",
        status.disruptions
    );
    let uncounted = &status.uncounted_attempts;
    let listed = [
        &uncounted.succeeded,
        &uncounted.failed,
        &uncounted.disrupted,
        &uncounted.refused,
    ];
    assert!(listed.iter().all(|l| l.is_empty()), "{what}: {uncounted:?}");
    for pod in fleet.pods() {
        assert!(
            pod.finalizers().is_empty(),
            "{what}: {} is held for ever",
            pod.name_any()
        );
    }
    let mut winners = BTreeSet::new();
    for index in completed {
        let accepted = acceptance::result(&fleet.store, NAMESPACE, "job-uid", *index)
            .await
            .unwrap();
        assert!(truth.succeeded.contains(&accepted.uid), "{what}: index {index}");
        assert!(
            winners.insert(accepted.uid),
            "{what}: one attempt is the result of two indexes"
        );
    }
}

/// Runs the case once without a crash, and then once for each write and each side of it.
async fn die_everywhere(spec: Value, script: Script, completed: &[u32], failed_indexes: &str) {
    let mut calm = Fleet::new(&spec, script.clone());
    let operator = calm.operator(Fate::Lives);
    calm.run(&operator).await;
    check(&calm, completed, failed_indexes, "without a crash").await;
    let writes = calm.api.with(|w| w.writes.len());
    let attempts = calm.truth.total();
    assert!(writes > 10, "{writes} writes are too few to be the whole story");

    let mut deaths = 0;
    for n in 0..writes + 5 {
        for fate in [Fate::DiesBefore(n), Fate::DiesAfter(n)] {
            let mut fleet = Fleet::new(&spec, script.clone());
            let first = fleet.operator(fate);
            fleet.run(&first).await;
            deaths += usize::from(fleet.api.died());
            // The cars work on while there is no operator.
            fleet.work().await;
            let second = fleet.operator(Fate::Lives);
            fleet.run(&second).await;
            let what = format!("{fate:?} of {writes}");
            check(&fleet, completed, failed_indexes, &what).await;
            assert_eq!(fleet.truth.total(), attempts, "{what}: another number of attempts");
        }
    }
    assert!(deaths >= 2 * writes, "only {deaths} deaths for {writes} writes");
}

#[tokio::test(start_paused = true)]
async fn job_that_completes_survives_a_crash_at_any_write() {
    use End::{Fails, IsDisrupted, IsRefused, Succeeds};
    let script = script(&[
        (0, &[Succeeds]),
        (1, &[IsDisrupted, Succeeds]),
        (2, &[IsRefused, Fails, IsDisrupted, Succeeds]),
        (3, &[Fails, Succeeds]),
    ]);
    die_everywhere(json!({ "completions": 4, "parallelism": 2 }), script, &[0, 1, 2, 3], "").await;
}

#[tokio::test(start_paused = true)]
async fn job_that_fails_survives_a_crash_at_any_write() {
    use End::{Fails, IsDisrupted, Succeeds};
    let script = script(&[
        (0, &[Succeeds]),
        (1, &[Fails, IsDisrupted, Fails]),
        (2, &[IsDisrupted, Succeeds]),
    ]);
    let spec = json!({ "completions": 3, "parallelism": 3, "backoffLimitPerIndex": 1, "maxFailedIndexes": 1 });
    die_everywhere(spec, script, &[0, 2], "1").await;
}

#[tokio::test(start_paused = true)]
async fn job_that_may_not_run_twice_survives_a_crash_at_any_write() {
    use End::{IsDisrupted, IsRefused, Succeeds};
    let script = script(&[(0, &[IsDisrupted, IsDisrupted, Succeeds]), (1, &[IsRefused, Succeeds])]);
    let spec = json!({ "completions": 2, "parallelism": 2, "onLoss": { "replace": "WhenFenced" } });
    die_everywhere(spec, script, &[0, 1], "").await;
}

/// Suspended while attempts are at work, and resumed: what the operator ended itself is nobody's failure.
#[tokio::test(start_paused = true)]
async fn job_that_is_suspended_survives_a_crash_at_any_write() {
    let spec = json!({ "completions": 2, "parallelism": 2 });
    for n in 0..40 {
        for fate in [Fate::DiesBefore(n), Fate::DiesAfter(n)] {
            let mut fleet = Fleet::new(&spec, script(&[(0, &[End::Works]), (1, &[End::Works])]));
            let calm = fleet.operator(Fate::Lives);
            fleet.reconcile(&calm).await.unwrap();
            fleet.work().await;
            fleet.change_job(|job| job["spec"]["suspend"] = true.into());

            let first = fleet.operator(fate);
            for _ in 0..6 {
                let _ = fleet.reconcile(&first).await;
                fleet.work().await;
            }
            let second = fleet.operator(Fate::Lives);
            for _ in 0..6 {
                fleet.reconcile(&second).await.unwrap();
                fleet.work().await;
                tokio::time::advance(Duration::from_secs(2)).await;
            }
            let what = format!("{fate:?}");
            assert!(fleet.is("Suspended"), "{what}");
            assert_eq!((fleet.status().active, fleet.status().failed), (0, 0), "{what}");

            fleet.script = script(&[(0, &[End::Succeeds]), (1, &[End::Succeeds])]);
            fleet.change_job(|job| job["spec"]["suspend"] = false.into());
            fleet.run(&second).await;
            check(&fleet, &[0, 1], "", &what).await;
        }
    }
}
