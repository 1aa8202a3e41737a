//! The manifests of a chaos run, and how they are applied: work for simulated cars, whose programs only let time pass.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kerbside_core::duration;
use kerbside_simulator::cars::program::{OUTPUT, WORK};
use serde_json::{Value, json};

use super::NAME;
use crate::bed::Bed;
use crate::programs::TAG;

/// A car gives one processor: two of these do not fit, so that every car has one.
const CPU: &str = "600m";
/// Where results are left.
const OUT: &str = "/kerbside/out";

/// When an index gets another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replace {
    WhenSuspected,
    WhenFenced,
}

impl Replace {
    fn name(self) -> &'static str {
        match self {
            Self::WhenSuspected => "WhenSuspected",
            Self::WhenFenced => "WhenFenced",
        }
    }
}

fn pod_spec(registry: &str, work: Option<Duration>) -> Value {
    let mut env = Vec::new();
    if let Some(work) = work {
        env.push(json!({"name": WORK, "value": duration::format(work)}));
        env.push(json!({"name": OUTPUT, "value": format!("{OUT}/result")}));
    }
    json!({
        "runtimeClassName": "kerbside-wasm",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 2,
        "containers": [{
            // A car fetches and checks it as it does any other; what runs in its place lets time pass.
            "name": "work", "image": format!("{registry}/hello:{TAG}"), "env": env,
            "resources": {"requests": {"cpu": CPU, "memory": "32Mi"}, "limits": {"cpu": CPU, "memory": "32Mi"}},
        }],
    })
}

/// A FleetJob; without `work` each attempt goes on until it is ended.
pub(super) fn fleet_job(
    registry: &str,
    name: &str,
    replace: Replace,
    (completions, parallelism): (u32, u32),
    work: Option<Duration>,
) -> Value {
    let mut template = pod_spec(registry, work);
    template["restartPolicy"] = "Never".into();
    let mut spec = json!({
        "pools": [NAME],
        "class": "inference",
        "completions": completions,
        "parallelism": parallelism,
        "backoffLimitPerIndex": 3,
        "maxFailedIndexes": 0,
        "onLoss": {"replace": replace.name()},
        "template": {"spec": template},
    });
    if work.is_some() {
        spec["output"] = json!({"path": OUT, "maxBytes": "1Mi"});
    }
    json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob",
        "metadata": {"name": name, "namespace": NAME},
        "spec": spec,
    })
}

/// Somebody's Deployment or StatefulSet on cars.
pub(super) fn replicas(registry: &str, kind: &str, name: &str, count: u32) -> Value {
    let mut pod = pod_spec(registry, None);
    pod["nodeSelector"] = json!({"kerbside.dev/pool": NAME});
    pod["tolerations"] = json!([
        {"key": "kerbside.dev/vehicle", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "kerbside.dev/wasm-only", "operator": "Exists", "effect": "NoSchedule"},
    ]);
    let labels = json!({"app": name, "kerbside.dev/class": "inference"});
    let mut spec = json!({
        "replicas": count,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    });
    if kind == "StatefulSet" {
        spec["serviceName"] = name.into();
        spec["podManagementPolicy"] = "Parallel".into();
    }
    json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": name, "namespace": NAME},
        "spec": spec,
    })
}

/// Applies a manifest, as a user does.
pub(super) async fn apply(bed: &Bed, manifest: &Value) -> Result<()> {
    let text = serde_json::to_string(manifest).context("failed to render JSON")?;
    bed.kubectl.run(&["apply", "-f", "-"], &text).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_for_simulated_cars_is_one_that_the_api_takes() {
        for work in [None, Some(Duration::from_mins(30))] {
            let manifest = fleet_job("registry", "night", Replace::WhenFenced, (5, 2), work);
            let job: kerbside_api::v1alpha1::FleetJob = serde_json::from_value(manifest).unwrap();
            assert_eq!((job.spec.completions, job.spec.output.is_some()), (5, work.is_some()));
        }
    }
}
