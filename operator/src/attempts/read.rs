//! A Pod as an attempt. Pure.
//!
//! Only a Pod that a FleetJob controls is an attempt of it: labels alone can be written by anybody who may create Pods. Of its
//! status, phase and conditions are read, whose times are the cluster's; never what containers say, whose times are the car's.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kerbside_core::job::{Attempt, DeleteReason, IndexCounts, Phase, Stopped};
use kerbside_core::names::{GROUP, annotation, condition, finalizer, label, reason};
use kube::ResourceExt;

use super::{JobKey, Seen, Stray, limit};

/// The attempt that `pod` is, if it is one.
pub(super) fn attempt(pod: &Pod) -> Option<(JobKey, Seen)> {
    let owner = owner(pod)?;
    let key = JobKey {
        namespace: pod.metadata.namespace.clone()?,
        name: owner.name.clone(),
        uid: owner.uid.parse().ok()?,
    };
    Some((key, seen(pod)?))
}

/// What the Pod says of itself, whoever's it is.
pub(super) fn seen(pod: &Pod) -> Option<Seen> {
    let metadata = &pod.metadata;
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let number = |key: &str| pod.annotations().get(key).and_then(|v| v.parse::<u32>().ok());
    let attempt = Attempt {
        uid: metadata.uid.as_deref()?.parse().ok()?,
        name: metadata.name.clone()?,
        index: number(annotation::INDEX)?,
        ordinal: number(annotation::ORDINAL).unwrap_or_default(),
        phase: match status.phase.as_deref() {
            None | Some("" | "Pending") => Phase::Pending,
            Some("Succeeded") => Phase::Succeeded,
            Some("Failed") => Phase::Failed,
            Some(_) => Phase::Running,
        },
        ready: is_true(conditions, "Ready").is_some(),
        node: pod
            .spec
            .as_ref()
            .and_then(|s| s.node_name.as_deref())
            .and_then(|n| n.parse().ok()),
        created_at: metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        deleted_at: deleted_at(pod),
        finished_at: finished_at(pod),
        has_finalizer: pod.finalizers().iter().any(|f| f == finalizer::TRACKING),
        prior: IndexCounts {
            failures: number(annotation::FAILURES).unwrap_or_default(),
            disruptions: number(annotation::DISRUPTIONS).unwrap_or_default(),
            refusals: number(annotation::REFUSALS).unwrap_or_default(),
        },
        counted: list(pod, annotation::COUNTED),
        avoid: list(pod, annotation::AVOID),
        refused: is_true(conditions, condition::REFUSED).map(|c| c.reason.clone().unwrap_or_default()),
        disruption: is_true(conditions, condition::DISRUPTION_TARGET).map(|c| c.reason.clone().unwrap_or_default()),
        unheard: is_true(conditions, condition::UNHEARD).is_some(),
        stopped: is_true(conditions, condition::STOPPED).map(|c| match c.reason.as_deref() {
            Some(reason::FENCED) => Stopped::Fenced,
            _ => Stopped::Reported,
        }),
        deleted_for: pod
            .annotations()
            .get(annotation::DELETED_FOR)
            .and_then(|v| DeleteReason::from_annotation(v)),
    };
    let since = |type_: &str| {
        let condition = is_true(conditions, type_)?;
        condition.last_transition_time.as_ref().map(|t| t.0)
    };
    Some(Seen {
        attempt,
        version: metadata.resource_version.clone().unwrap_or_default(),
        finalizers: pod.finalizers().to_vec(),
        started_at: since(condition::STARTED),
        stopped_at: since(condition::STOPPED),
        milli_cpu: pod.spec.as_ref().map(limit::milli_cpu),
        terms: pod.annotations().get(annotation::TERMS).map(|t| t.as_str().into()),
    })
}

/// The Pod, if it has our finalizer and no FleetJob that could take it off.
pub(super) fn stray(pod: &Pod) -> Option<Stray> {
    let ours = pod.finalizers().iter().any(|f| f == finalizer::TRACKING) && pod.labels().contains_key(label::JOB_UID);
    if !ours || owner(pod).is_some() {
        return None;
    }
    Some(Stray {
        namespace: pod.namespace()?,
        name: pod.metadata.name.clone()?,
        uid: pod.metadata.uid.as_deref()?.parse().ok()?,
        finalizers: pod.finalizers().to_vec(),
    })
}

fn owner(pod: &Pod) -> Option<&OwnerReference> {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    owners
        .iter()
        .find(|o| o.controller == Some(true) && o.kind == "FleetJob" && o.api_version.split('/').next() == Some(GROUP))
}

fn is_true<'a>(conditions: &'a [PodCondition], type_: &str) -> Option<&'a PodCondition> {
    conditions.iter().find(|c| c.type_ == type_ && c.status == "True")
}

/// Comma-separated; what cannot be read in it is left out.
fn list<T: FromStr + Ord>(pod: &Pod, key: &str) -> BTreeSet<T> {
    let text = pod.annotations().get(key).map(String::as_str).unwrap_or_default();
    text.split(',').filter_map(|part| part.trim().parse().ok()).collect()
}

/// `deletionTimestamp` is when the grace ends; the deletion was asked for that much earlier.
fn deleted_at(pod: &Pod) -> Option<Timestamp> {
    let ends = pod.metadata.deletion_timestamp.as_ref()?.0;
    let grace = u64::try_from(pod.metadata.deletion_grace_period_seconds.unwrap_or_default()).unwrap_or_default();
    Some(ends.checked_sub(Duration::from_secs(grace)).unwrap_or(ends))
}

/// When the end of a Pod that has ended was reported: when the adapter wrote that it stopped or was refused. Without either, the
/// Pod was ended by somebody else: by a deletion, if there was one, and no later than it ceased to be ready otherwise.
///
/// Never a container's `finishedAt`, which is the car's clock.
fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    if !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let since = |type_: &str, value: &str| {
        let condition = conditions.iter().find(|c| c.type_ == type_ && c.status == value)?;
        condition.last_transition_time.as_ref().map(|t| t.0)
    };
    since(condition::STOPPED, "True")
        .or_else(|| since(condition::REFUSED, "True"))
        .or_else(|| deleted_at(pod))
        .or_else(|| since("Ready", "False").max(since("ContainersReady", "False")))
}
