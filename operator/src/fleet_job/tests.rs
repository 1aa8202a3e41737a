//! Whole turns against an API server in memory.

mod cars;
mod crash;
mod early;
mod fleet;
mod ledger;

use k8s_openapi::api::core::v1::Pod;
use kerbside_core::names::annotation;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::*;
use crate::acceptance;
use crate::testing::fake_api::Fate;
use crate::testing::{DownStore, seal};
use fleet::{End, Fleet, JOB, NAMESPACE, Script, ended};

fn all(end: End, indexes: u32) -> Script {
    (0..indexes).map(|i| (i, vec![end])).collect()
}

fn reasons(fleet: &Fleet) -> Vec<String> {
    fleet
        .api
        .with(|w| w.events.iter().map(|(reason, _)| reason.clone()).collect())
}

fn writes(fleet: &Fleet) -> Vec<String> {
    fleet.api.with(|w| std::mem::take(&mut w.writes))
}

#[tokio::test(start_paused = true)]
async fn ledger_is_written_before_pods_are_made_or_let_go() {
    let mut fleet = Fleet::new(&json!({ "completions": 2 }), all(End::Succeeds, 2));
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    let first = writes(&fleet);
    let of = |all: &[String], what: &str| all.iter().position(|w| w.contains(what)).unwrap();
    assert!(of(&first, "/status") < of(&first, "POST"), "{first:?}");
    fleet.work().await;
    fleet.reconcile(&operator).await.unwrap();
    let second = writes(&fleet);
    assert!(of(&second, "/status") < of(&second, "/pods/"), "{second:?}");
    assert_eq!(fleet.status().completed_indexes, "0,1");
    assert_eq!(second.iter().filter(|w| w.contains("/pods/")).count(), 2, "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn turn_without_a_change_writes_nothing() {
    let mut fleet = Fleet::new(&json!({ "completions": 3 }), all(End::Works, 3));
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    fleet.work().await;
    tokio::time::advance(Duration::from_secs(2)).await;
    fleet.reconcile(&operator).await.unwrap();
    writes(&fleet);
    fleet.clock.advance(5);
    fleet.reconcile(&operator).await.unwrap();
    assert_eq!(writes(&fleet), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn pod_cache_that_is_behind_lets_nothing_go_twice() {
    let mut fleet = Fleet::new(&json!({ "completions": 2 }), all(End::Succeeds, 2));
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    fleet.work().await;
    fleet.reconcile(&operator).await.unwrap();
    writes(&fleet);
    for _ in 0..3 {
        fleet.reconcile_blindly(&operator).await.unwrap();
    }
    assert!(!writes(&fleet).iter().any(|w| w.contains("/pods/")));
}

#[tokio::test(start_paused = true)]
async fn pod_that_changed_meanwhile_is_let_go_when_the_watch_has_shown_it() {
    let mut fleet = Fleet::new(&json!({ "completions": 1 }), all(End::Succeeds, 1));
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    fleet.work().await;
    fleet.watch(&operator);
    let name = fleet.pods()[0].name_any();
    fleet.change_pod(&name, |p| {
        p["metadata"]["finalizers"] = json!(["acme.io/keep", "kerbside.dev/job-tracking"]);
    });
    fleet.reconcile_blindly(&operator).await.unwrap();
    assert_eq!(
        fleet.pods()[0].finalizers().len(),
        2,
        "a patch that does not apply is no error and does nothing"
    );
    fleet.reconcile(&operator).await.unwrap();
    assert_eq!(fleet.pods()[0].finalizers(), ["acme.io/keep"]);
}

#[tokio::test(start_paused = true)]
async fn pod_cache_that_is_behind_makes_no_second_attempt() {
    let fleet = Fleet::new(&json!({ "completions": 5 }), all(End::Works, 5));
    let operator = fleet.operator(Fate::Lives);
    for _ in 0..3 {
        fleet.reconcile_blindly(&operator).await.unwrap();
        // What was just created is forgotten too, as after a crash.
        operator.ctx.attempts.fold(Event::Init);
        operator.ctx.attempts.fold(Event::InitDone);
    }
    assert_eq!(fleet.pods().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn pod_cache_that_is_behind_makes_no_end_count_as_nothing() {
    let mut fleet = Fleet::new(&json!({ "completions": 1 }), all(End::Works, 1));
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    fleet.work().await;
    fleet.watch(&operator);
    // It fails, and the operator, which does not see that yet, is told to suspend the job.
    let name = fleet.pods()[0].name_any();
    fleet.change_pod(&name, |p| {
        p["status"] = ended("Failed", &[("kerbside.dev/Stopped", "Reported")]);
    });
    fleet.change_job(|job| job["spec"]["suspend"] = true.into());
    tokio::time::advance(Duration::from_secs(2)).await;
    let action = fleet.reconcile_blindly(&operator).await.unwrap();
    let pod = &fleet.pods()[0];
    assert!(
        pod.metadata.deletion_timestamp.is_none() && !pod.annotations().contains_key(annotation::DELETED_FOR),
        "an attempt that has changed since it was seen is left alone"
    );
    assert_ne!(action, Action::await_change(), "it is looked at again by itself");
    fleet.reconcile(&operator).await.unwrap();
    assert_eq!(fleet.status().failed, 1);
}

#[tokio::test(start_paused = true)]
async fn pod_whose_change_does_not_matter_is_still_taken_away() {
    let mut fleet = Fleet::new(&json!({ "completions": 1 }), all(End::Works, 1));
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    fleet.work().await;
    fleet.watch(&operator);
    let name = fleet.pods()[0].name_any();
    fleet.change_pod(&name, |p| p["metadata"]["labels"]["somebody"] = "was here".into());
    fleet.change_job(|job| job["spec"]["suspend"] = true.into());
    tokio::time::advance(Duration::from_secs(2)).await;
    fleet.reconcile_blindly(&operator).await.unwrap();
    assert!(fleet.pods()[0].metadata.deletion_timestamp.is_none());
    // The watch brings the new version, which by itself asks for nothing.
    let pod: Pod = fleet.api.get("pods", NAMESPACE, &name);
    assert!(operator.ctx.attempts.fold(Event::Apply(pod)).jobs.is_empty());
    fleet.reconcile_blindly(&operator).await.unwrap();
    let pod = &fleet.pods()[0];
    assert!(pod.metadata.deletion_timestamp.is_some());
    assert_eq!(pod.annotations()[annotation::DELETED_FOR], "Suspended");
}

#[rstest::rstest]
#[case::nothing_between(false, false)]
#[case::suspended_between(true, false)]
#[case::deleted_by_hand_between(false, true)]
#[case::suspended_and_deleted_by_hand_between(true, true)]
#[tokio::test(start_paused = true)]
async fn failures_of_an_index_are_counted_on(#[case] suspended: bool, #[case] deleted_by_hand: bool) {
    let script = Script::from([(0, vec![End::Fails, End::Fails, End::Succeeds])]);
    let mut fleet = Fleet::new(&json!({ "completions": 1, "backoffLimitPerIndex": 1 }), script);
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    fleet.work().await;
    let name = fleet.pods()[0].name_any();
    fleet.change_pod(&name, |p| {
        p["status"]["conditions"][0]["lastTransitionTime"] = "2026-11-23T10:59:59Z".into();
    });
    fleet.reconcile(&operator).await.unwrap();
    assert_eq!((fleet.status().failed, fleet.pods().len()), (1, 1));
    if suspended {
        fleet.change_job(|job| job["spec"]["suspend"] = true.into());
        fleet.reconcile(&operator).await.unwrap();
        assert!(fleet.is("Suspended"));
    }
    if deleted_by_hand {
        fleet.change_pod(&name, |p| {
            p["metadata"]["deletionTimestamp"] = "2026-11-23T11:00:00Z".into();
        });
        tokio::time::advance(Duration::from_secs(2)).await;
        fleet.reconcile(&operator).await.unwrap();
        assert_eq!(
            fleet.pods().len(),
            1,
            "it has the counts and nobody has them from it yet"
        );
    }
    if suspended {
        fleet.change_job(|job| job["spec"]["suspend"] = false.into());
    }
    fleet.run(&operator).await;
    let status = fleet.status();
    assert_eq!((status.failed_indexes.as_str(), status.failed), ("0", 2), "{status:#?}");
    assert!(fleet.is("Failed") && status.disruptions.is_empty(), "{status:#?}");
}

#[tokio::test(start_paused = true)]
async fn job_cache_that_is_behind_records_nothing_twice() {
    let mut fleet = Fleet::new(&json!({ "completions": 2 }), all(End::Fails, 2));
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    fleet.work().await;
    let stale: DeserializeGuard<FleetJob> = serde_json::from_value(fleet.api.get("fleetjobs", NAMESPACE, JOB)).unwrap();
    fleet.watch(&operator);
    for _ in 0..3 {
        let _ = reconcile(Arc::new(stale.clone()), Arc::clone(&operator.ctx)).await;
    }
    assert_eq!(fleet.status().failed, 2);
}

#[tokio::test(start_paused = true)]
async fn status_that_somebody_else_wrote_makes_the_turn_start_again() {
    let fleet = Fleet::new(&json!({ "completions": 1 }), all(End::Works, 1));
    let operator = fleet.operator(Fate::Lives);
    let stale: DeserializeGuard<FleetJob> = serde_json::from_value(fleet.api.get("fleetjobs", NAMESPACE, JOB)).unwrap();
    fleet.change_job(|job| job["metadata"]["labels"] = json!({ "a": "b" }));
    let action = reconcile(Arc::new(stale), Arc::clone(&operator.ctx)).await.unwrap();
    assert_eq!(action, Action::requeue(SOON));
    assert!(fleet.pods().is_empty(), "a plan that is not on record does nothing");
}

#[tokio::test(start_paused = true)]
async fn two_attempts_of_one_index_that_both_finish_give_one_result() {
    let mut fleet = Fleet::new(&json!({ "completions": 1 }), all(End::Works, 1));
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    fleet.work().await;
    let original = fleet.pods()[0].clone();
    fleet.change_pod(&original.name_any(), |p| {
        p["status"]["conditions"] = json!([{ "type": "kerbside.dev/Unheard", "status": "True" }]);
    });
    tokio::time::advance(Duration::from_secs(2)).await;
    fleet.reconcile(&operator).await.unwrap();
    assert_eq!(
        fleet.pods().len(),
        2,
        "an unheard attempt that may run twice is replaced at once"
    );
    assert_eq!(fleet.status().unheard, 1);
    // Both come to an end before the operator looks again.
    for pod in fleet.pods() {
        seal(&fleet.store, NAMESPACE, &pod.uid().unwrap(), b"7").await;
        fleet.change_pod(&pod.name_any(), |p| {
            p["status"] = ended("Succeeded", &[("kerbside.dev/Stopped", "Reported")]);
        });
    }
    for _ in 0..4 {
        fleet.reconcile(&operator).await.unwrap();
        tokio::time::advance(Duration::from_secs(2)).await;
    }
    let status = fleet.status();
    assert_eq!((status.succeeded, status.failed, status.disruptions.len()), (1, 0, 0));
    assert!(fleet.is("Complete"));
    let accepted = acceptance::result(&fleet.store, NAMESPACE, "job-uid", 0).await.unwrap();
    assert!(fleet.pods().iter().any(|p| p.uid().unwrap() == accepted.uid));
    assert!(fleet.pods().iter().all(|p| p.finalizers().is_empty()));
}

#[tokio::test(start_paused = true)]
async fn rival_of_an_accepted_attempt_is_ended() {
    let mut fleet = Fleet::new(&json!({ "completions": 1 }), all(End::Works, 1));
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    fleet.work().await;
    let original = fleet.pods()[0].name_any();
    fleet.change_pod(&original, |p| {
        p["status"]["conditions"] = json!([{ "type": "kerbside.dev/Unheard", "status": "True" }]);
    });
    fleet.reconcile(&operator).await.unwrap();
    let second = fleet.pods().into_iter().find(|p| p.name_any() != original).unwrap();
    seal(&fleet.store, NAMESPACE, &second.uid().unwrap(), b"7").await;
    fleet.change_pod(&second.name_any(), |p| {
        p["status"] = ended("Succeeded", &[("kerbside.dev/Stopped", "Reported")]);
    });
    fleet.reconcile(&operator).await.unwrap();
    let rival: Pod = fleet.api.get("pods", NAMESPACE, &original);
    assert!(
        rival.metadata.deletion_timestamp.is_some(),
        "the first accepted UID wins and the other is stopped"
    );
}

#[tokio::test(start_paused = true)]
async fn store_that_is_down_loses_nothing_and_is_said_so() {
    let mut fleet = Fleet::new(&json!({ "completions": 2 }), all(End::Succeeds, 2));
    let down = Arc::new(DownStore::default());
    fleet.store = ResultStore::over(Arc::clone(&down) as Arc<dyn object_store::ObjectStore>);
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    down.set_down(false);
    fleet.work().await;
    down.set_down(true);
    let action = fleet.reconcile(&operator).await.unwrap();
    assert!(fleet.is("StoreUnavailable"), "{:?}", fleet.status().conditions);
    assert_eq!(fleet.status().succeeded, 0);
    assert!(
        fleet.pods().iter().all(|p| !p.finalizers().is_empty()),
        "what is not recorded is not let go"
    );
    assert_ne!(action, Action::await_change(), "it is tried again by itself");
    assert!(reasons(&fleet).contains(&"StoreUnavailable".to_owned()));

    down.set_down(false);
    fleet.reconcile(&operator).await.unwrap();
    assert!(!fleet.is("StoreUnavailable"));
    assert_eq!(fleet.status().succeeded, 2);
}

#[tokio::test(start_paused = true)]
async fn success_without_output_in_the_store_is_a_failure_of_the_attempt() {
    let mut fleet = Fleet::new(&json!({ "completions": 1 }), all(End::Works, 1));
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    fleet.work().await;
    let name = fleet.pods()[0].name_any();
    fleet.change_pod(&name, |p| {
        p["status"] = ended("Succeeded", &[("kerbside.dev/Stopped", "Reported")]);
    });
    fleet.reconcile(&operator).await.unwrap();
    assert_eq!((fleet.status().succeeded, fleet.status().failed), (0, 1));
    assert!(
        reasons(&fleet).contains(&"ResultInvalid".to_owned()),
        "{:?}",
        reasons(&fleet)
    );
}

#[tokio::test(start_paused = true)]
async fn job_of_another_controller_is_left_alone() {
    let fleet = Fleet::new(&json!({ "managedBy": "kueue.x-k8s.io/multikueue" }), Script::new());
    let operator = fleet.operator(Fate::Lives);
    let action = fleet.reconcile(&operator).await.unwrap();
    assert_eq!(
        (action, writes(&fleet).len(), reasons(&fleet).len()),
        (Action::await_change(), 0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn job_that_names_no_such_pool_says_so_and_goes_on_when_it_appears() {
    let fleet = Fleet::new(&json!({ "pools": ["overnight", "nowhere"] }), Script::new());
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    let status = fleet.status();
    let condition = status.conditions.iter().find(|c| c.type_ == "PoolNotFound").unwrap();
    assert!(condition.message.contains("'nowhere'"), "{}", condition.message);
    assert_eq!(
        (condition.status.as_str(), fleet.pods().len(), status.start_time),
        ("True", 0, None)
    );
    assert_eq!(reasons(&fleet), ["PoolNotFound"]);

    let mut other = fleet::pool();
    other["metadata"]["name"] = "nowhere".into();
    fleet.api.put("vehiclepools", other);
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    assert!(!fleet.is("PoolNotFound"));
    assert_eq!(fleet.pods().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn job_in_a_namespace_that_the_pool_does_not_allow_is_held() {
    let fleet = Fleet::new(&json!({}), Script::new());
    let pool = ("vehiclepools".to_owned(), String::new(), "overnight".to_owned());
    fleet.api.change(&pool, |p| {
        p["spec"]["allowedNamespaces"]["selector"]["matchLabels"]["team"] = "other".into();
    });
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    assert!(fleet.is("NamespaceNotAllowed"));
    assert!(fleet.pods().is_empty());
}

#[tokio::test(start_paused = true)]
async fn template_that_the_api_server_refuses_is_held_with_its_message_and_can_still_be_repaired() {
    let fleet = Fleet::new(&json!({}), Script::new());
    let message = "Pod \"digits-0-first\" is invalid: spec.containers[0].image: Required value";
    fleet.api.with(|w| w.refuse_pods = Some(message.into()));
    let operator = fleet.operator(Fate::Lives);
    let action = fleet.reconcile(&operator).await.unwrap();
    let status = fleet.status();
    let condition = status.conditions.iter().find(|c| c.type_ == "TemplateInvalid").unwrap();
    assert!(condition.message.contains(message), "{}", condition.message);
    assert_eq!(
        status.start_time, None,
        "the template may be changed only while the job was never started"
    );
    assert_eq!(action, Action::requeue(REFUSED_RETRY));
    assert!(fleet.pods().is_empty());

    fleet.api.with(|w| w.refuse_pods = None);
    fleet.reconcile(&operator).await.unwrap();
    assert!(!fleet.is("TemplateInvalid") && fleet.status().start_time.is_some());
    assert_eq!(fleet.pods().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pod_of_somebody_else_in_the_way_is_named() {
    let fleet = Fleet::new(&json!({}), Script::new());
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    let name = fleet.pods()[0].name_any();
    fleet
        .api
        .with(|w| w.objects.retain(|(plural, _, _), _| plural != "pods"));
    fleet.api.put(
        "pods",
        json!({
            "metadata": { "name": name, "namespace": NAMESPACE }, "spec": { "containers": [] },
        }),
    );
    let error = fleet.reconcile(&operator).await.unwrap_err();
    assert_eq!(error.category(), "PodNameTaken");
    assert!(error.to_string().contains(&name), "{error}");
    assert!(reasons(&fleet).contains(&"PodNameTaken".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn deleted_job_lets_its_pods_go() {
    let mut fleet = Fleet::new(&json!({ "completions": 2 }), all(End::Works, 2));
    let operator = fleet.operator(Fate::Lives);
    fleet.reconcile(&operator).await.unwrap();
    fleet.work().await;
    fleet.change_job(|job| {
        job["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
        job["metadata"]["deletionTimestamp"] = "2026-11-23T11:00:00Z".into();
    });
    fleet.reconcile(&operator).await.unwrap();
    assert!(fleet.pods().is_empty(), "deleted and let go: {:?}", fleet.pods());
}

#[tokio::test(start_paused = true)]
async fn finished_job_is_deleted_when_its_time_to_live_is_over() {
    let mut fleet = Fleet::new(&json!({ "ttlSecondsAfterFinished": 100 }), all(End::Succeeds, 1));
    let operator = fleet.operator(Fate::Lives);
    fleet.run(&operator).await;
    let action = fleet.reconcile(&operator).await.unwrap();
    assert_eq!(action, Action::requeue(Duration::from_secs(100)));
    fleet.clock.advance(100);
    fleet.reconcile(&operator).await.unwrap();
    assert!(fleet.api.all::<Value>("fleetjobs").is_empty());
    assert!(
        acceptance::result(&fleet.store, NAMESPACE, "job-uid", 0).await.is_ok(),
        "results stay in the store"
    );
}

#[tokio::test(start_paused = true)]
async fn job_whose_ledger_was_tampered_with_is_not_touched() {
    let fleet = Fleet::new(&json!({}), Script::new());
    fleet.change_job(|job| job["status"] = json!({ "completedIndexes": "5-1" }));
    let operator = fleet.operator(Fate::Lives);
    let error = fleet.reconcile(&operator).await.unwrap_err();
    assert_eq!(error.category(), "ObjectUnreadable");
    let job: DeserializeGuard<FleetJob> = serde_json::from_value(fleet.api.get("fleetjobs", NAMESPACE, JOB)).unwrap();
    assert_eq!(on_error(&job, &error, &operator.ctx), Action::await_change());
    assert!(writes(&fleet).is_empty());
}

#[tokio::test(start_paused = true)]
async fn people_are_told_what_happened_once() {
    let script = Script::from([(0, vec![End::IsDisrupted, End::IsRefused, End::Fails, End::Succeeds])]);
    let mut fleet = Fleet::new(&json!({}), script);
    let operator = fleet.operator(Fate::Lives);
    fleet.run(&operator).await;
    let told = reasons(&fleet);
    for reason in ["SuccessfulCreate", "Disrupted", "Refused", "AttemptFailed", "Completed"] {
        assert!(told.iter().any(|r| r == reason), "{reason} is missing in {told:?}");
    }
    for reason in ["Disrupted", "Refused", "AttemptFailed", "Completed"] {
        assert_eq!(told.iter().filter(|r| *r == reason).count(), 1, "{reason} in {told:?}");
    }
}
