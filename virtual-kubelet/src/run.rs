//! The `Run` of a Pod: what the car needs of it, and nothing else.
//!
//! Called by the actor when a `Run` is due. Pure. What tells of the cluster (nodes, schedulers, accounts, tolerations) stays here.

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kerbside_core::ledger;
use kerbside_core::names::annotation;
use kerbside_core::quantity::Quantity;
use kerbside_core::vehicle::PodFacts;
use kerbside_link::proto;

use crate::admission::class_of;
use crate::pod_facts::{annotation_of, may_run_once_only};

/// Where a job does not say: the API's own default.
const DEFAULT_MAX_BYTES: u64 = 64 << 20;

/// The `Run` for the Pod.
pub(crate) fn run(pod: &Pod, facts: &PodFacts, pool: &str) -> proto::Run {
    proto::Run {
        uid: facts.uid.to_string(),
        pod_json: Bytes::from(serde_json::to_vec(&trimmed(pod)).unwrap_or_default()),
        class: class_of(pod, &facts.kind).to_owned(),
        pool: pool.to_owned(),
        // 0 means without limit, so a fence is at least 1 ms.
        run_unheard_for_ms: facts
            .fence
            .map_or(0, |f| u64::try_from(f.as_millis()).unwrap_or(u64::MAX).max(1)),
        output: annotation_of(pod, annotation::OUTPUT_PATH).map(|path| proto::OutputRequest {
            path: path.to_owned(),
            max_bytes: max_output(pod),
        }),
        once: may_run_once_only(pod),
        terms: terms(pod, pool),
    }
}

/// The price list that was fixed for the attempt when its Pod was made, for a car of this pool; empty: there is none.
fn terms(pod: &Pod, pool: &str) -> String {
    let listed = annotation_of(pod, annotation::TERMS).and_then(|text| ledger::terms_of_annotation(text).ok());
    listed
        .and_then(|listed| listed.get(pool).map(ledger::Terms::text))
        .unwrap_or_default()
}

/// The most bytes that the attempt's output may have.
pub(crate) fn max_output(pod: &Pod) -> u64 {
    let said = annotation_of(pod, annotation::OUTPUT_MAX_BYTES).and_then(|text| text.parse::<Quantity>().ok());
    said.and_then(|q| u64::try_from(q.units()).ok())
        .unwrap_or(DEFAULT_MAX_BYTES)
}

fn trimmed(pod: &Pod) -> Pod {
    let metadata = &pod.metadata;
    Pod {
        metadata: ObjectMeta {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            labels: metadata.labels.clone(),
            annotations: metadata.annotations.clone(),
            ..ObjectMeta::default()
        },
        spec: pod.spec.as_ref().map(|spec| PodSpec {
            containers: spec.containers.clone(),
            init_containers: spec.init_containers.clone(),
            volumes: spec.volumes.clone(),
            restart_policy: spec.restart_policy.clone(),
            active_deadline_seconds: spec.active_deadline_seconds,
            termination_grace_period_seconds: spec.termination_grace_period_seconds,
            priority: spec.priority,
            runtime_class_name: spec.runtime_class_name.clone(),
            hostname: spec.hostname.clone(),
            host_aliases: spec.host_aliases.clone(),
            dns_policy: spec.dns_policy.clone(),
            dns_config: spec.dns_config.clone(),
            share_process_namespace: spec.share_process_namespace,
            security_context: spec.security_context.clone(),
            resources: spec.resources.clone(),
            node_name: spec.node_name.clone(),
            service_account_name: spec.service_account_name.clone(),
            enable_service_links: spec.enable_service_links,
            // Their names alone: by them the car knows that it has to wait for tokens.
            image_pull_secrets: spec.image_pull_secrets.clone(),
            ..PodSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const TERMS: &str = r#"{"overnight":{"pool":"overnight","currency":"EUR","perCPUHour":"0.02","perKWh":"0.30","unaccepted":"EnergyOnly"}}"#;

    #[test]
    fn run_carries_the_program_and_nothing_of_the_cluster() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "p", "namespace": "ns", "uid": "u-1", "resourceVersion": "9",
                "annotations": {
                    "kerbside.dev/output-path": "/kerbside/out", "kerbside.dev/output-max-bytes": "1Mi",
                    "kerbside.dev/terms": TERMS,
                },
                "labels": {"kerbside.dev/class": "inference"},
            },
            "spec": {
                "containers": [{"name": "main", "image": "reg/x:1"}],
                "tolerations": [{"operator": "Exists", "tolerationSeconds": 60}],
                "schedulerName": "default-scheduler",
                "affinity": {"nodeAffinity": {}},
                "restartPolicy": "Never",
                "imagePullSecrets": [{"name": "pull"}],
            },
            "status": {"phase": "Pending"},
        }))
        .unwrap();
        let run = run(&pod, &crate::pod_facts::facts(&pod).unwrap(), "overnight");
        assert_eq!(
            (run.uid.as_str(), run.class.as_str(), run.pool.as_str()),
            ("u-1", "inference", "overnight")
        );
        assert_eq!(run.run_unheard_for_ms, 60_000);
        assert_eq!(
            run.output,
            Some(proto::OutputRequest {
                path: "/kerbside/out".into(),
                max_bytes: 1 << 20
            })
        );
        assert!(run.terms.contains(r#""perCPUHour":"0.02""#), "{}", run.terms);
        assert_eq!(terms(&pod, "another"), "");
        let sent: Value = serde_json::from_slice(&run.pod_json).unwrap();
        assert_eq!(sent["spec"]["containers"][0]["image"], "reg/x:1");
        assert_eq!(sent["spec"]["imagePullSecrets"], json!([{"name": "pull"}]));
        for gone in ["tolerations", "affinity", "schedulerName"] {
            assert!(sent["spec"].get(gone).is_none(), "{gone}");
        }
        assert!(sent.get("status").is_none());
    }
}
