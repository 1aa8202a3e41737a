//! Reads from a Pod what the vehicle's machine decides by.
//!
//! Called by the actor for each Pod that is new or changed. Pure; a Pod that lacks what every bound Pod has is no Pod of ours.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kerbside_core::duration;
use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_core::names::{GROUP, annotation, condition};
use kerbside_core::vehicle::{DEFAULT_GRACE, PodFacts, PodKind, PodPhase, Refusal};

/// No fence is shorter: a car at work is heard every 4 s, and one lost heartbeat must not end its work.
const SHORTEST_FENCE: Duration = Duration::from_secs(15);
/// What the API server's admission adds to a Pod that says nothing of outages.
const DEFAULT_TOLERATION: Duration = Duration::from_secs(300);

/// The vehicle to whose Node the Pod is bound, if it is one of ours.
pub(crate) fn vehicle_of(pod: &Pod) -> Option<VehicleId> {
    pod.spec.as_ref()?.node_name.as_ref()?.parse().ok()
}

/// The Pod's UID.
pub(crate) fn uid_of(pod: &Pod) -> Option<PodUid> {
    pod.metadata.uid.as_ref()?.parse().ok()
}

/// The value of one of the Pod's annotations.
pub(crate) fn annotation_of<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// What the machine decides by; None for an object without UID.
pub(crate) fn facts(pod: &Pod) -> Option<PodFacts> {
    let uid = uid_of(pod)?;
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let is_true = |type_: &str| find(conditions, type_).is_some();
    let grace = spec
        .and_then(|s| s.termination_grace_period_seconds)
        .map_or(DEFAULT_GRACE, seconds);
    let deletion = pod.metadata.deletion_timestamp.as_ref();
    Some(PodFacts {
        kind: kind(pod, &uid),
        fence: fence(pod),
        grace,
        deletion: deletion.map(|_| pod.metadata.deletion_grace_period_seconds.map_or(grace, seconds)),
        phase: phase(status.and_then(|s| s.phase.as_deref())),
        disrupted: is_true(condition::DISRUPTION_TARGET),
        stopped: is_true(condition::STOPPED),
        unheard: is_true(condition::UNHEARD),
        refused: find(conditions, condition::REFUSED).map(|c| Refusal {
            reason: c.reason.clone().unwrap_or_default(),
            message: c.message.clone().unwrap_or_default(),
        }),
        has_output: annotation_of(pod, annotation::OUTPUT_PATH).is_some(),
        uid,
    })
}

fn find<'a>(conditions: &'a [PodCondition], type_: &str) -> Option<&'a PodCondition> {
    conditions.iter().find(|c| c.type_ == type_ && c.status == "True")
}

fn seconds(s: i64) -> Duration {
    Duration::from_secs(u64::try_from(s).unwrap_or(0))
}

fn phase(text: Option<&str>) -> PodPhase {
    match text {
        Some("Running") => PodPhase::Running,
        Some("Succeeded") => PodPhase::Succeeded,
        Some("Failed") => PodPhase::Failed,
        _ => PodPhase::Pending,
    }
}

fn controller(pod: &Pod) -> Option<&OwnerReference> {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|o| o.controller == Some(true))
}

fn kind(pod: &Pod, uid: &PodUid) -> PodKind {
    match controller(pod) {
        Some(o) if o.kind == "FleetJob" && o.api_version.split('/').next() == Some(GROUP) => PodKind::FleetJob,
        Some(o) if o.kind == "DaemonSet" && o.api_version.starts_with("apps/") => PodKind::DaemonSet,
        Some(o) => PodKind::Other { owner: o.uid.clone() },
        None => PodKind::Other { owner: uid.to_string() },
    }
}

/// Whether no second Pod in its place may live before this one has certainly stopped: as it says, else as its controller holds it.
/// The controllers of apps/ and batch/ but StatefulSet make another one while the first may still run; nobody makes another one for a Pod
/// without a controller. What is not known is held to be such a Pod: it costs work, and the other mistake costs a promise.
pub(crate) fn may_run_once_only(pod: &Pod) -> bool {
    match annotation_of(pod, annotation::REPLACE) {
        Some("WhenSuspected") => false,
        Some(_) => true,
        None => controller(pod).is_some_and(|o| {
            let group = o.api_version.split_once('/').map_or("", |(group, _)| group);
            !matches!(
                (group, o.kind.as_str()),
                ("apps", "ReplicaSet" | "DaemonSet") | ("", "ReplicationController") | ("batch", "Job")
            )
        }),
    }
}

/// For how long the attempt may go on unheard; None: without limit.
fn fence(pod: &Pod) -> Option<Duration> {
    if let Some(fence) = annotation_of(pod, annotation::RUN_UNHEARD_FOR).and_then(|text| duration::parse(text).ok()) {
        return Some(fence.max(SHORTEST_FENCE));
    }
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|s| s.tolerations.as_deref())
        .unwrap_or_default();
    let outages = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    outages
        .iter()
        .filter_map(|key| tolerated(tolerations, key))
        .min()
        .map(|fence| fence.max(SHORTEST_FENCE))
}

/// For how long the Pod tolerates an outage; None: without limit.
fn tolerated(tolerations: &[Toleration], key: &str) -> Option<Duration> {
    let matching = tolerations.iter().filter(|t| {
        let effect = t.effect.as_deref().unwrap_or_default();
        t.key.as_deref().is_none_or(|k| k.is_empty() || k == key) && (effect.is_empty() || effect == "NoExecute")
    });
    // Among several, the shortest counts, as for kube-controller-manager; one without a limit alone means no limit.
    let limits: Vec<_> = matching.map(|t| t.toleration_seconds.map(seconds)).collect();
    if limits.is_empty() {
        Some(DEFAULT_TOLERATION)
    } else {
        limits.into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn facts_of_a_fleet_job_pod_are_read() {
        let pod = pod(json!({
            "metadata": {
                "name": "a", "uid": "u-1", "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 7,
                "annotations": {"kerbside.dev/run-unheard-for": "40m", "kerbside.dev/output-path": "/kerbside/out"},
                "ownerReferences": [{"apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob", "name": "j", "uid": "j-1", "controller": true}],
            },
            "spec": {"containers": [], "nodeName": "car-aaaaaaaaaaaaaaaa"},
            "status": {"phase": "Running", "conditions": [
                {"type": "kerbside.dev/Unheard", "status": "True"},
                {"type": "kerbside.dev/Stopped", "status": "False"},
            ]},
        }));
        let facts = facts(&pod).unwrap();
        assert_eq!(facts.kind, PodKind::FleetJob);
        assert_eq!(facts.fence, Some(Duration::from_mins(40)));
        assert_eq!(facts.deletion, Some(Duration::from_secs(7)));
        assert_eq!(
            (facts.phase, facts.unheard, facts.stopped),
            (PodPhase::Running, true, false)
        );
        assert!(facts.has_output);
        assert_eq!(vehicle_of(&pod).unwrap().as_str(), "car-aaaaaaaaaaaaaaaa");
    }

    #[rstest::rstest]
    #[case::stateful_set("apps/v1", "StatefulSet", None, true)]
    #[case::replica_set("apps/v1", "ReplicaSet", None, false)]
    #[case::controller("v1", "ReplicationController", None, false)]
    #[case::job("batch/v1", "Job", None, false)]
    #[case::job_of_others("batch.volcano.sh/v1", "Job", None, true)]
    #[case::fleet_job_as_it_says("kerbside.dev/v1", "FleetJob", Some("WhenSuspected"), false)]
    #[case::fleet_job_fenced("kerbside.dev/v1", "FleetJob", Some("WhenFenced"), true)]
    #[case::fleet_job_of_an_older_operator("kerbside.dev/v1", "FleetJob", None, true)]
    #[case::replica_set_that_wants_more("apps/v1", "ReplicaSet", Some("WhenFenced"), true)]
    #[case::word_that_is_not_known("apps/v1", "ReplicaSet", Some("whenever"), true)]
    fn pod_may_run_once_only_as_it_says_or_as_its_controller_holds_it(
        #[case] version: &str,
        #[case] kind: &str,
        #[case] says: Option<&str>,
        #[case] once: bool,
    ) {
        let owner = json!({"apiVersion": version, "kind": kind, "name": "o", "uid": "o-1", "controller": true});
        let annotations: serde_json::Map<_, _> = says
            .map(|word| (annotation::REPLACE.to_owned(), json!(word)))
            .into_iter()
            .collect();
        let pod = pod(json!({"metadata": {"uid": "u-1", "annotations": annotations, "ownerReferences": [owner]}}));
        assert_eq!(may_run_once_only(&pod), once);
    }

    #[test]
    fn nobody_makes_a_second_pod_for_one_without_a_controller() {
        assert!(!may_run_once_only(&pod(json!({"metadata": {"uid": "u-1"}}))));
    }

    #[rstest::rstest]
    #[case::foreign_group("example.com/v1", "FleetJob", PodKind::Other { owner: "o-1".into() })]
    #[case::daemon_set("apps/v1", "DaemonSet", PodKind::DaemonSet)]
    #[case::replica_set("apps/v1", "ReplicaSet", PodKind::Other { owner: "o-1".into() })]
    fn kind_follows_the_controlling_owner(#[case] version: &str, #[case] kind: &str, #[case] expected: PodKind) {
        let owner = json!({"apiVersion": version, "kind": kind, "name": "o", "uid": "o-1", "controller": true});
        let pod = pod(json!({"metadata": {"name": "a", "uid": "u-1", "ownerReferences": [owner]}}));
        assert_eq!(facts(&pod).unwrap().kind, expected);
    }

    #[rstest::rstest]
    #[case::nothing_said(json!([]), Some(300))]
    #[case::defaults(json!([
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
    ]), Some(60))]
    #[case::one_without_limit(json!([
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
    ]), Some(60))]
    #[case::everything(json!([{"operator": "Exists"}]), None)]
    #[case::too_short(json!([{"operator": "Exists", "tolerationSeconds": 0}]), Some(15))]
    #[case::another_effect(json!([{"operator": "Exists", "effect": "NoSchedule"}]), Some(300))]
    fn fence_of_other_peoples_pods_is_what_they_tolerate(
        #[case] tolerations: serde_json::Value,
        #[case] seconds: Option<u64>,
    ) {
        let pod = pod(
            json!({"metadata": {"name": "a", "uid": "u-1"}, "spec": {"containers": [], "tolerations": tolerations}}),
        );
        assert_eq!(facts(&pod).unwrap().fence, seconds.map(Duration::from_secs));
    }

    #[test]
    fn pod_on_an_ordinary_node_is_not_ours() {
        let pod =
            pod(json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"containers": [], "nodeName": "worker-1"}}));
        assert_eq!(vehicle_of(&pod), None);
    }
}
