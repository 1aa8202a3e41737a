//! What the cluster says of every attempt, with the moment at which it was heard here.
//!
//! One watch of the Pods of the chaos' namespace. The API's own times have whole seconds; what is measured in milliseconds is measured
//! at this end of the watch, which is later than the truth and never earlier.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kerbside_core::clock::Clock as _;
use kerbside_core::names::{condition, label};
use kerbside_link::SystemClock;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, ResourceExt};
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::wait;

/// One Pod, as far as it counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Its uid.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Whose it is: a FleetJob's name, or the label `app`.
    pub owner: String,
    /// Its completion index, in a FleetJob.
    pub index: Option<u32>,
    /// When it was heard of first, in milliseconds since 1970.
    pub seen_ms: i64,
    /// When it was bound, and to which Node.
    pub bound: Option<(i64, String)>,
    /// When it ran first.
    pub running_ms: Option<i64>,
    /// When it was over, and how: `Succeeded` or `Failed`.
    pub over: Option<(i64, String)>,
    /// When it was disrupted, and why: the reason of its condition DisruptionTarget.
    pub disrupted: Option<(i64, String)>,
    /// When somebody asked for it to go.
    pub ending_ms: Option<i64>,
    /// When it was gone.
    pub gone_ms: Option<i64>,
}

/// All of them, by uid.
pub(super) type Attempts = BTreeMap<String, Attempt>;

/// The book.
pub(super) struct Book {
    seen: watch::Receiver<Attempts>,
    task: AbortHandle,
}

/// Milliseconds since 1970, as everything here counts.
pub(super) fn now_ms() -> i64 {
    SystemClock.wall().as_millisecond()
}

impl Book {
    /// Writes down what happens from now on.
    pub(super) fn begin(client: &Client, namespace: &str) -> Self {
        let (send, seen) = watch::channel(Attempts::new());
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let task = tokio::spawn(async move {
            let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()));
            while let Some(event) = stream.next().await {
                let (pod, gone) = match event {
                    Ok(Event::Apply(pod) | Event::InitApply(pod)) => (pod, false),
                    Ok(Event::Delete(pod)) => (pod, true),
                    // The watch mends itself after an error.
                    Ok(Event::Init | Event::InitDone) | Err(_) => continue,
                };
                let now = now_ms();
                send.send_modify(|all| note(all, &pod, gone, now));
            }
        });
        Self {
            seen,
            task: task.abort_handle(),
        }
    }

    /// All of them now.
    pub(super) fn attempts(&self) -> Attempts {
        self.seen.borrow().clone()
    }

    /// Waits until `condition` gives something.
    pub(super) async fn until<T>(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl Fn(&Attempts) -> Option<T>,
    ) -> Result<T> {
        wait::seen(&self.seen, what, deadline, condition).await
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn note(all: &mut Attempts, pod: &Pod, gone: bool, now: i64) {
    let uid = pod.uid().unwrap_or_default();
    let attempt = all.entry(uid.clone()).or_insert_with(|| Attempt {
        uid,
        name: pod.name_any(),
        owner: pod
            .labels()
            .get(label::JOB_NAME)
            .or_else(|| pod.labels().get("app"))
            .cloned()
            .unwrap_or_default(),
        index: pod.labels().get(label::INDEX).and_then(|index| index.parse().ok()),
        seen_ms: now,
        ..Attempt::default()
    });
    if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
        attempt.bound.get_or_insert((now, node));
    }
    let phase = crate::world::phase(pod);
    if phase == "Running" {
        attempt.running_ms.get_or_insert(now);
    }
    if matches!(phase, "Succeeded" | "Failed") {
        attempt.over.get_or_insert_with(|| (now, phase.to_owned()));
    }
    if let Some(("True", reason)) = crate::world::condition(pod, condition::DISRUPTION_TARGET) {
        attempt.disrupted.get_or_insert_with(|| (now, reason.to_owned()));
    }
    if crate::world::ending(pod) {
        attempt.ending_ms.get_or_insert(now);
    }
    if gone {
        attempt.gone_ms.get_or_insert(now);
    }
}

/// Those that are on a car and at work: bound, running, neither over nor asked to go.
pub(super) fn at_work(attempts: &Attempts) -> impl Iterator<Item = &Attempt> {
    attempts.values().filter(|attempt| {
        attempt.bound.is_some()
            && attempt.running_ms.is_some()
            && attempt.over.is_none()
            && attempt.ending_ms.is_none()
            && attempt.gone_ms.is_none()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(extra: &serde_json::Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "job-3-abc", "uid": "u", "labels": {
                "kerbside.dev/job-name": "job", "batch.kubernetes.io/job-completion-index": "3"}},
            "spec": {"containers": [], "nodeName": "car-1"},
        });
        for (key, value) in extra.as_object().unwrap() {
            pod[key] = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn first_moment_of_each_thing_is_kept() {
        let mut all = Attempts::new();
        note(&mut all, &pod(&json!({})), false, 1);
        note(&mut all, &pod(&json!({"status": {"phase": "Running"}})), false, 2);
        assert_eq!(at_work(&all).count(), 1);
        let disrupted = json!({"status": {"phase": "Failed", "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "VehicleLost"}]}});
        note(&mut all, &pod(&disrupted), false, 3);
        note(&mut all, &pod(&disrupted), true, 4);
        let attempt = &all["u"];
        assert_eq!((attempt.owner.as_str(), attempt.index), ("job", Some(3)));
        assert_eq!(attempt.bound, Some((1, "car-1".to_owned())));
        assert_eq!((attempt.running_ms, attempt.gone_ms), (Some(2), Some(4)));
        assert_eq!(attempt.over, Some((3, "Failed".to_owned())));
        assert_eq!(attempt.disrupted, Some((3, "VehicleLost".to_owned())));
        assert_eq!(at_work(&all).count(), 0);
    }
}
