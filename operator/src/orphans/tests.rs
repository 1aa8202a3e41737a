//! Who is let go, and who is not.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::*;
use crate::testing::fake_api::{FakeApi, Fate};

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
    let orphans = Orphans::new(api.client(Fate::Lives), attempts, Arc::default());
    (api, orphans)
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

#[tokio::test]
async fn pod_that_lost_its_owner_is_let_go() {
    let (api, orphans) = fixture(&json!([]));
    let stray = Stray {
        namespace: "ns".into(),
        name: "p".into(),
        uid: "p".parse().unwrap(),
        finalizers: finalizers(&api),
    };
    orphans.look_after(&Orphan::Stray(stray)).await.unwrap();
    assert_eq!(finalizers(&api), ["acme.io/keep"]);
}

#[tokio::test(start_paused = true)]
async fn api_server_that_fails_is_asked_again() {
    let (api, _) = fixture(&owner());
    let attempts = Arc::new(AttemptIndex::default());
    attempts.fold(Event::Apply(api.get::<Pod>("pods", "ns", "p")));
    let orphans = Orphans::new(api.client(Fate::DiesBefore(0)), attempts, Arc::default());
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
