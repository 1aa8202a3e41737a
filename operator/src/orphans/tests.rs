//! Who is let go, and who is not.

use k8s_openapi::api::core::v1::Pod;
use kerbside_core::ledger::{Closing, Standing};
use kerbside_core::names::store as path;
use kerbside_k8s::store::Store;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use object_store::memory::InMemory;
use serde_json::{Value, json};

use super::*;
use crate::testing::fake_api::{FakeApi, Fate};
use crate::testing::{DownStore, HandClock};

fn pod(name: &str, owner: &Value) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "ns", "uid": name,
            "labels": { "kerbside.dev/job-uid": "uid-a" },
            "annotations": { "batch.kubernetes.io/job-completion-index": "0" },
            "finalizers": ["acme.io/keep", "kerbside.dev/job-tracking"],
            "ownerReferences": owner,
        },
    })
}

fn owner() -> Value {
    json!([{
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob", "name": "a", "uid": "uid-a", "controller": true,
    }])
}

fn fixture(owner: &Value) -> (FakeApi, Orphans) {
    let api = FakeApi::new();
    api.put("pods", pod("p", owner));
    let attempts = Arc::new(AttemptIndex::default());
    attempts.fold(Event::Apply(api.get::<Pod>("pods", "ns", "p")));
    let orphans = Orphans::new(api.client(Fate::Lives), attempts, Arc::default(), closings(&store()));
    (api, orphans)
}

fn store() -> Store {
    Store::over(Arc::new(InMemory::new()))
}

fn closings(store: &Store) -> Closings {
    Closings::new(store.clone(), Arc::default(), HandClock::new())
}

fn job() -> Orphan {
    Orphan::Attempts(JobKey {
        namespace: "ns".into(),
        name: "a".into(),
        uid: "uid-a".parse().unwrap(),
    })
}

fn finalizers(api: &FakeApi) -> Vec<String> {
    api.get::<Pod>("pods", "ns", "p").finalizers().to_vec()
}

fn put_job(api: &FakeApi, uid: &str) {
    api.put("fleetjobs", json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob", "metadata": { "name": "a", "namespace": "ns", "uid": uid },
    }));
}

#[tokio::test]
async fn attempts_of_a_job_that_is_gone_are_let_go_and_keep_other_finalizers() {
    let (api, orphans) = fixture(&owner());
    orphans.look_after(&job()).await.unwrap();
    assert_eq!(finalizers(&api), ["acme.io/keep"]);
}

#[tokio::test]
async fn attempts_of_a_job_that_was_made_again_under_its_name_are_let_go() {
    let (api, orphans) = fixture(&owner());
    put_job(&api, "another");
    orphans.look_after(&job()).await.unwrap();
    assert_eq!(finalizers(&api).len(), 1);
}

#[tokio::test]
async fn attempts_of_a_job_that_is_there_are_kept() {
    let (api, orphans) = fixture(&owner());
    put_job(&api, "uid-a");
    orphans.look_after(&job()).await.unwrap();
    assert_eq!(finalizers(&api).len(), 2);
}

fn stray(api: &FakeApi) -> Orphan {
    Orphan::Stray(Stray {
        namespace: "ns".into(),
        name: "p".into(),
        uid: "p".parse().unwrap(),
        finalizers: finalizers(api),
    })
}

#[tokio::test]
async fn pod_that_lost_its_owner_is_let_go() {
    let (api, orphans) = fixture(&json!([]));
    orphans.look_after(&stray(&api)).await.unwrap();
    assert_eq!(finalizers(&api), ["acme.io/keep"]);
}

/// A Pod that ran on a car for 20 s and was then stopped with its job.
fn ran(api: &FakeApi) {
    api.change(&("pods".into(), "ns".into(), "p".into()), |p| {
        p["spec"] = json!({ "nodeName": "car-aaaaaaaaaaaaaaaa", "containers": [] });
        p["status"] = json!({ "phase": "Failed", "conditions": [
            { "type": "kerbside.dev/Started", "status": "True", "lastTransitionTime": "2026-11-23T10:00:00Z" },
            { "type": "kerbside.dev/Stopped", "status": "True", "lastTransitionTime": "2026-11-23T10:00:20Z" },
            { "type": "DisruptionTarget", "status": "True", "reason": "PodDeleted" },
        ]});
    });
}

#[rstest::rstest]
#[case::job_that_is_gone(owner(), false)]
#[case::no_owner(json!([]), true)]
#[tokio::test]
async fn work_for_a_job_that_is_gone_is_closed_before_its_pod_goes(#[case] owner: Value, #[case] is_stray: bool) {
    let (api, _) = fixture(&owner);
    ran(&api);
    let attempts = Arc::new(AttemptIndex::default());
    attempts.fold(Event::Apply(api.get::<Pod>("pods", "ns", "p")));
    let down = Arc::new(DownStore::default());
    let store = Store::over(Arc::clone(&down) as Arc<dyn object_store::ObjectStore>);
    let orphans = Orphans::new(api.client(Fate::Lives), attempts, Arc::default(), closings(&store));
    let orphan = if is_stray { stray(&api) } else { job() };

    let error = orphans.look_after(&orphan).await.unwrap_err();
    assert!(matches!(error, OrphanError::Close(_)), "{error:?}");
    assert_eq!(finalizers(&api).len(), 2, "the Pod waits for the store");

    down.set_down(false);
    orphans.look_after(&orphan).await.unwrap();
    assert_eq!(finalizers(&api), ["acme.io/keep"]);
    let closing = store.get(&path::ledger_closing("p")).await.unwrap();
    let closing: Closing = serde_json::from_slice(&closing).unwrap();
    assert_eq!(
        (closing.job_uid.as_str(), closing.standing, closing.running_ms),
        ("uid-a", Standing::Disrupted, 21_000)
    );
}

#[tokio::test(start_paused = true)]
async fn api_server_that_fails_is_asked_again() {
    let (api, _) = fixture(&owner());
    let attempts = Arc::new(AttemptIndex::default());
    attempts.fold(Event::Apply(api.get::<Pod>("pods", "ns", "p")));
    let orphans = Orphans::new(
        api.client(Fate::DiesBefore(0)),
        attempts,
        Arc::default(),
        closings(&store()),
    );
    assert!(orphans.look_after(&job()).await.is_err());
    let (tx, rx) = futures::channel::mpsc::unbounded();
    tx.unbounded_send(job()).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(orphans.run(rx, stop.clone()));
    api.client(Fate::Lives);
    while finalizers(&api).len() > 1 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    stop.cancel();
    task.await.unwrap();
}
