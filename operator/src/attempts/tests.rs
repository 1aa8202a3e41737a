//! Folding the Pod watch: what an attempt is read as, which jobs a change touches, and Pods that nobody owns.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::*;
use kerbside_core::job::{DeleteReason, Phase, Stopped};
use kerbside_core::names::annotation;

fn pod(name: &str, uid: &str, change: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": name, "namespace": "ns", "uid": uid, "creationTimestamp": "2026-11-23T10:00:00Z",
            "labels": { "kerbside.dev/job-uid": "job-1" },
            "annotations": { "batch.kubernetes.io/job-completion-index": "4" },
            "finalizers": ["kerbside.dev/job-tracking"],
            "ownerReferences": [{
                "apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob", "name": "digits", "uid": "job-1", "controller": true,
            }],
        },
        "spec": { "containers": [] },
    });
    change(&mut pod);
    serde_json::from_value(pod).unwrap()
}

fn job() -> JobKey {
    JobKey {
        namespace: "ns".into(),
        name: "digits".into(),
        uid: "job-1".parse().unwrap(),
    }
}

fn only(index: &AttemptIndex) -> Attempt {
    let mut all = index.of(&job().uid, |_| false);
    assert_eq!(all.len(), 1);
    all.pop().unwrap().attempt
}

#[test]
fn attempt_is_read_whole_from_its_pod() {
    let index = AttemptIndex::default();
    index.fold(Event::Apply(pod("p", "u", |p| {
        p["metadata"]["annotations"] = json!({
            "batch.kubernetes.io/job-completion-index": "7",
            annotation::ORDINAL: "5", annotation::FAILURES: "1", annotation::DISRUPTIONS: "2", annotation::REFUSALS: "3",
            annotation::COUNTED: "u1,u2", annotation::AVOID: "car-aaaaaaaaaaaaaaaa", annotation::DELETED_FOR: "Suspended",
        });
        p["metadata"]["deletionTimestamp"] = json!("2026-11-23T10:01:00Z");
        p["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        p["spec"]["nodeName"] = json!("car-bbbbbbbbbbbbbbbb");
        p["status"] = json!({
            "phase": "Failed",
            "conditions": [
                { "type": "Ready", "status": "False" },
                { "type": "DisruptionTarget", "status": "True", "reason": "VehicleLost" },
                { "type": "kerbside.dev/Unheard", "status": "True" },
                {
                    "type": "kerbside.dev/Stopped", "status": "True", "reason": "Fenced",
                    "lastTransitionTime": "2026-11-23T10:00:20Z",
                },
            ],
            "containerStatuses": [{
                "name": "main", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": { "exitCode": 1, "finishedAt": "2001-01-01T00:00:00Z" } },
            }],
        });
    })));
    let a = only(&index);
    assert_eq!((a.index, a.ordinal, a.phase, a.ready), (7, 5, Phase::Failed, false));
    assert_eq!((a.prior.failures, a.prior.disruptions, a.prior.refusals), (1, 2, 3));
    assert_eq!((a.counted.len(), a.avoid.len()), (2, 1));
    assert_eq!(a.node.unwrap().as_str(), "car-bbbbbbbbbbbbbbbb");
    assert_eq!(a.deleted_at.unwrap().to_string(), "2026-11-23T10:00:30Z");
    assert_eq!(a.finished_at.unwrap().to_string(), "2026-11-23T10:00:20Z");
    assert_eq!(
        (a.disruption.as_deref(), a.refused, a.unheard),
        (Some("VehicleLost"), None, true)
    );
    assert_eq!(
        (a.stopped, a.deleted_for),
        (Some(Stopped::Fenced), Some(DeleteReason::Suspended))
    );
    assert!(a.has_finalizer);
}

#[test]
fn what_a_closing_says_is_read_from_the_pod_too() {
    let index = AttemptIndex::default();
    index.fold(Event::Apply(pod("p", "u", |p| {
        p["metadata"]["annotations"][annotation::TERMS] = "{}".into();
        let limits = json!({ "limits": { "cpu": "1500m" } });
        p["spec"]["containers"] = json!([{ "name": "main", "resources": limits }]);
        p["status"] = json!({ "phase": "Running", "conditions": [
            { "type": "kerbside.dev/Started", "status": "True", "lastTransitionTime": "2026-11-23T10:00:05Z" },
            { "type": "kerbside.dev/Stopped", "status": "False", "lastTransitionTime": "2026-11-23T10:00:05Z" },
        ]});
    })));
    let seen = index.of(&job().uid, |_| false).remove(0);
    assert_eq!(seen.started_at.unwrap().to_string(), "2026-11-23T10:00:05Z");
    assert_eq!(seen.stopped_at, None, "a condition that is not True says nothing");
    assert_eq!((seen.milli_cpu, seen.terms.as_deref()), (Some(1_500), Some("{}")));
}

#[test]
fn stray_is_read_as_the_attempt_that_it_was() {
    let without_owner = pod("p", "u", |p| p["metadata"]["ownerReferences"] = json!([]));
    let (of, seen) = of_stray(&without_owner).unwrap();
    assert_eq!(
        (of.as_str(), seen.attempt.uid.as_str(), seen.attempt.index),
        ("job-1", "u", 4)
    );
    let nobodys = pod("p", "u", |p| p["metadata"]["labels"] = json!({}));
    assert!(of_stray(&nobodys).is_none());
}

#[test]
fn refused_attempt_finished_when_it_was_refused() {
    let index = AttemptIndex::default();
    index.fold(Event::Apply(pod("p", "u", |p| {
        p["status"] = json!({ "phase": "Failed", "conditions": [{
            "type": "kerbside.dev/Refused", "status": "True", "reason": "OwnerPaused",
            "lastTransitionTime": "2026-11-23T10:00:05Z",
        }]});
    })));
    let a = only(&index);
    assert_eq!(a.refused.as_deref(), Some("OwnerPaused"));
    assert_eq!(a.finished_at.unwrap().to_string(), "2026-11-23T10:00:05Z");
}

#[rstest::rstest]
#[case::stopped("Stopped=True", None, Some("2026-11-23T10:00:07Z"))]
#[case::stopped_before_it_was_deleted("Stopped=True", Some("2026-11-23T10:00:09Z"), Some("2026-11-23T10:00:07Z"))]
#[case::ended_by_its_deletion("Ready=False", Some("2026-11-23T10:00:09Z"), Some("2026-11-23T10:00:09Z"))]
#[case::ended_by_somebody("Ready=False", None, Some("2026-11-23T10:00:07Z"))]
#[case::nobody_says("Other=True", None, None)]
fn end_of_an_attempt_is_by_the_clusters_clock(
    #[case] condition: &str,
    #[case] deleted: Option<&str>,
    #[case] expected: Option<&str>,
) {
    let index = AttemptIndex::default();
    index.fold(Event::Apply(pod("p", "u", |p| {
        let (type_, status) = condition.split_once('=').unwrap();
        let type_ = if type_ == "Stopped" {
            "kerbside.dev/Stopped"
        } else {
            type_
        };
        p["status"] = json!({
            "phase": "Failed",
            "conditions": [{ "type": type_, "status": status, "lastTransitionTime": "2026-11-23T10:00:07Z" }],
            // The car's clock is an hour slow.
            "containerStatuses": [{
                "name": "main", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": { "exitCode": 1, "finishedAt": "2026-11-23T09:00:07Z" } },
            }],
        });
        if let Some(at) = deleted {
            p["metadata"]["deletionTimestamp"] = at.into();
            p["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        }
    })));
    assert_eq!(only(&index).finished_at.map(|t| t.to_string()).as_deref(), expected);
}

#[test]
fn attempt_at_work_has_no_end() {
    let index = AttemptIndex::default();
    index.fold(Event::Apply(pod("p", "u", |p| {
        p["status"] = json!({ "phase": "Running", "conditions": [{
            "type": "Ready", "status": "False", "lastTransitionTime": "2026-11-23T10:00:07Z",
        }]});
    })));
    assert_eq!(only(&index).finished_at, None);
}

#[test]
fn version_that_touches_nothing_is_kept_all_the_same() {
    let index = AttemptIndex::default();
    for version in ["8", "9"] {
        index.fold(Event::Apply(pod("p", "u", |p| {
            p["metadata"]["resourceVersion"] = version.into();
        })));
    }
    assert_eq!(index.of(&job().uid, |_| false)[0].version, "9");
}

#[test]
fn pod_that_no_fleetjob_controls_is_no_attempt() {
    let index = AttemptIndex::default();
    let touched = index.fold(Event::Apply(pod("p", "u", |p| {
        p["metadata"]["ownerReferences"] = json!([]);
    })));
    assert!(index.of(&job().uid, |_| false).is_empty() && touched.jobs.is_empty());
    assert_eq!(
        touched.strays.into_iter().map(|s| s.name).collect::<Vec<_>>(),
        ["p"],
        "it still has to be let go"
    );
    let touched = index.fold(Event::Apply(pod("q", "v", |p| {
        p["metadata"]["ownerReferences"] = json!([]);
        p["metadata"]["finalizers"] = json!(["somebody/else"]);
    })));
    assert_eq!(touched, Touched::default());
}

#[test]
fn change_touches_its_job_and_no_change_touches_nothing() {
    let index = AttemptIndex::default();
    let touched = |event| index.fold(event).jobs.into_iter().collect::<Vec<_>>();
    assert_eq!(touched(Event::Apply(pod("p", "u", |_| ()))), [job()]);
    assert!(
        touched(Event::Apply(
            pod("p", "u", |p| p["metadata"]["resourceVersion"] = json!("9"))
        ))
        .is_empty()
    );
    assert_eq!(
        touched(Event::Apply(
            pod("p", "u", |p| p["status"] = json!({ "phase": "Running" }))
        )),
        [job()]
    );
    assert_eq!(touched(Event::Delete(pod("p", "u", |_| ()))), [job()]);
    assert!(index.of(&job().uid, |_| false).is_empty());
}

#[test]
fn list_replaces_everything_and_touches_what_it_lacks() {
    let index = AttemptIndex::default();
    index.fold(Event::Apply(pod("old", "u", |_| ())));
    index.fold(Event::Init);
    index.fold(Event::InitApply(pod("new", "v", |_| ())));
    assert_eq!(only(&index).name, "old", "a list counts when it is whole");
    assert_eq!(index.fold(Event::InitDone).jobs.len(), 1);
    assert_eq!(only(&index).name, "new");
}

#[tokio::test(start_paused = true)]
async fn created_pod_counts_until_the_watch_shows_it_or_half_a_minute_has_passed() {
    let index = AttemptIndex::default();
    index.created(&pod("p", "u", |_| ()));
    assert_eq!(only(&index).name, "p");
    index.fold(Event::Apply(pod("p", "u", |_| ())));
    assert_eq!(only(&index).name, "p");
    index.fold(Event::Delete(pod("p", "u", |_| ())));
    assert!(
        index.of(&job().uid, |_| false).is_empty(),
        "what was deleted does not come back"
    );

    index.created(&pod("q", "w", |_| ()));
    assert_eq!(only(&index).name, "q");
    tokio::time::advance(CREATED_FOR).await;
    assert!(index.of(&job().uid, |_| false).is_empty());
}

#[test]
fn pod_made_again_under_the_same_name_is_another_attempt() {
    let index = AttemptIndex::default();
    index.fold(Event::Apply(pod("p", "u", |_| ())));
    index.fold(Event::Apply(pod("p", "v", |p| {
        p["status"] = json!({ "phase": "Running" });
    })));
    let a = only(&index);
    assert_eq!((a.uid.as_str(), a.phase), ("v", Phase::Running));
}

#[test]
fn attempts_come_by_index_and_ordinal() {
    let index = AttemptIndex::default();
    for (name, n, ordinal) in [("a", "2", "0"), ("b", "1", "1"), ("c", "1", "0")] {
        index.fold(Event::Apply(pod(name, name, |p| {
            p["metadata"]["annotations"][annotation::INDEX] = json!(n);
            p["metadata"]["annotations"][annotation::ORDINAL] = json!(ordinal);
        })));
    }
    let names: Vec<_> = index
        .of(&job().uid, |_| false)
        .into_iter()
        .map(|s| s.attempt.name)
        .collect();
    assert_eq!(names, ["c", "b", "a"]);
    assert_eq!(index.jobs().into_iter().collect::<Vec<_>>(), [job()]);
}

#[test]
fn attempt_that_was_let_go_matters_until_its_index_is_over() {
    let index = AttemptIndex::default();
    let succeeded = |p: &mut Value| p["status"] = json!({ "phase": "Succeeded" });
    index.fold(Event::Apply(pod("held", "u", succeeded)));
    index.fold(Event::Apply(pod("free", "v", |p| {
        succeeded(p);
        p["metadata"]["finalizers"] = json!([]);
    })));
    let names = |over: bool| {
        let all = index.of(&job().uid, |i| over && i == 4);
        all.into_iter().map(|s| s.attempt.name).collect::<Vec<_>>()
    };
    assert_eq!(names(false), ["held", "free"]);
    assert_eq!(names(true), ["held"]);
}

#[test]
fn key_of_a_pod_is_its_namespace_and_name() {
    let pod = pod("p", "u", |_| ());
    assert_eq!(key(&pod), (pod.namespace().unwrap(), pod.name_any()));
}
