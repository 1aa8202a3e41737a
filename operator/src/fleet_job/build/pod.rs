//! The Pod of one attempt, from the job's template. Pure, golden-tested.
//!
//! What the template says stays, except where the contract with scheduler, adapter and ledger needs otherwise: the finalizer,
//! the labels and annotations that say which attempt it is and what is paid for it, the affinity and tolerations that bring it
//! to a willing car.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Affinity, Container, EnvVar, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kerbside_core::job::{NewAttempt, OnLoss};
use kerbside_core::names::{annotation, finalizer, label, taint};

use crate::fleet_job::validate::ValidatedJob;

/// Where programs written for Indexed Jobs find their index.
const JOB_COMPLETION_INDEX: &str = "JOB_COMPLETION_INDEX";
/// The RuntimeClass whose Pods go to cars that run nothing but WebAssembly.
const WASM_RUNTIME_CLASS: &str = "kerbside-wasm";
const HOSTNAME: &str = "kubernetes.io/hostname";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// The Pod of `attempt`, with the `terms` that it is paid by. Its name follows from what the attempt is, so that a second create of the
/// same attempt, by a stale cache or after a crash, is answered with AlreadyExists instead of making another.
pub(crate) fn pod(job: &ValidatedJob, terms: Option<&str>, attempt: &NewAttempt) -> Pod {
    let template = job.template.metadata.clone().unwrap_or_default();
    let mut labels = template.labels.unwrap_or_default();
    labels.extend([
        (label::JOB_NAME.to_owned(), job.name.clone()),
        (label::JOB_UID.to_owned(), job.uid.to_string()),
        (label::INDEX.to_owned(), attempt.index.to_string()),
    ]);
    let mut annotations = template.annotations.unwrap_or_default();
    let counts = [
        (annotation::INDEX, attempt.index),
        (annotation::ORDINAL, attempt.ordinal),
        (annotation::FAILURES, attempt.prior.failures),
        (annotation::DISRUPTIONS, attempt.prior.disruptions),
        (annotation::REFUSALS, attempt.prior.refusals),
    ];
    annotations.extend(counts.map(|(k, v)| (k.to_owned(), v.to_string())));
    let lists = [
        (annotation::COUNTED, joined(&attempt.counted)),
        (annotation::AVOID, joined(&attempt.avoid)),
    ];
    annotations.extend(
        lists
            .into_iter()
            .filter(|(_, v)| !v.is_empty())
            .map(|(k, v)| (k.to_owned(), v)),
    );
    annotations.insert(annotation::CLASS.to_owned(), job.class.clone());
    annotations.insert(annotation::RUN_UNHEARD_FOR.to_owned(), job.run_unheard_for.clone());
    let replace = match job.spec.on_loss {
        OnLoss::WhenSuspected => "WhenSuspected",
        OnLoss::WhenFenced => "WhenFenced",
    };
    annotations.insert(annotation::REPLACE.to_owned(), replace.to_owned());
    if let Some(output) = &job.output {
        annotations.insert(annotation::OUTPUT_PATH.to_owned(), output.path.clone());
        annotations.insert(annotation::OUTPUT_MAX_BYTES.to_owned(), output.max_bytes.0.clone());
    }
    // Whatever the template says of it: what a car is paid is the pool's to say.
    annotations.remove(annotation::TERMS);
    annotations.extend(terms.map(|terms| (annotation::TERMS.to_owned(), terms.to_owned())));
    let mut finalizers = template.finalizers.unwrap_or_default();
    finalizers.push(finalizer::TRACKING.to_owned());
    Pod {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}-{}", job.name, attempt.index, attempt.suffix)),
            namespace: Some(job.namespace.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            finalizers: Some(finalizers),
            owner_references: Some(vec![owner(job)]),
            ..ObjectMeta::default()
        },
        spec: Some(spec(job, attempt)),
        status: None,
    }
}

fn joined<T: ToString>(set: &BTreeSet<T>) -> String {
    set.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn owner(job: &ValidatedJob) -> OwnerReference {
    OwnerReference {
        api_version: "kerbside.dev/v1alpha1".to_owned(),
        kind: "FleetJob".to_owned(),
        name: job.name.clone(),
        uid: job.uid.to_string(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn spec(job: &ValidatedJob, attempt: &NewAttempt) -> PodSpec {
    let mut spec = job.template.spec.clone().unwrap_or_default();
    spec.restart_policy = Some("Never".to_owned());
    // Few programs of a job need either, and both cost: a token goes into a car only if its pool trusts it, links are up to thousands of
    // variables.
    spec.automount_service_account_token.get_or_insert(false);
    spec.enable_service_links.get_or_insert(false);
    for container in spec
        .containers
        .iter_mut()
        .chain(spec.init_containers.iter_mut().flatten())
    {
        add_index(container, attempt.index);
    }
    let wasm = spec.runtime_class_name.as_deref() == Some(WASM_RUNTIME_CLASS);
    add_tolerations(spec.tolerations.get_or_insert_default(), wasm);
    add_requirements(spec.affinity.get_or_insert_default(), &requirements(job, attempt));
    spec
}

fn add_index(container: &mut Container, index: u32) {
    let env = container.env.get_or_insert_default();
    if env.iter().all(|e| e.name != JOB_COMPLETION_INDEX) {
        let value = Some(index.to_string());
        env.push(EnvVar {
            name: JOB_COMPLETION_INDEX.to_owned(),
            value,
            ..EnvVar::default()
        });
    }
}

fn add_tolerations(tolerations: &mut Vec<Toleration>, wasm: bool) {
    let exists = |key: &str, effect: &str| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    };
    // An outage of ours makes Nodes unreachable and must end no attempt, so a limit of the template's does not hold.
    tolerations.retain(|t| t.key.as_deref().is_none_or(|k| ![NOT_READY, UNREACHABLE].contains(&k)));
    let mut ours = vec![exists(taint::VEHICLE, "NoSchedule")];
    if wasm {
        ours.push(exists(taint::WASM_ONLY, "NoSchedule"));
    }
    ours.extend([exists(NOT_READY, "NoExecute"), exists(UNREACHABLE, "NoExecute")]);
    for toleration in ours {
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
}

fn requirements(job: &ValidatedJob, attempt: &NewAttempt) -> Vec<NodeSelectorRequirement> {
    let mut all = vec![
        NodeSelectorRequirement {
            key: label::POOL.to_owned(),
            operator: "In".to_owned(),
            values: Some(job.pools.iter().map(ToString::to_string).collect()),
        },
        NodeSelectorRequirement {
            key: format!("{}{}", label::CLASS_PREFIX, job.class),
            operator: "Exists".to_owned(),
            values: None,
        },
    ];
    if !attempt.avoid.is_empty() {
        all.push(NodeSelectorRequirement {
            key: HOSTNAME.to_owned(),
            operator: "NotIn".to_owned(),
            values: Some(attempt.avoid.iter().map(ToString::to_string).collect()),
        });
    }
    all
}

/// The terms of a node selector are alternatives, so a requirement holds only if it is in every one of them. A term without any
/// requirement matches nothing and must stay so.
fn add_requirements(affinity: &mut Affinity, requirements: &[NodeSelectorRequirement]) {
    let node: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let selector: &mut NodeSelector = node
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_default();
    if selector.node_selector_terms.is_empty() {
        selector.node_selector_terms.push(NodeSelectorTerm {
            match_expressions: Some(requirements.to_vec()),
            match_fields: None,
        });
        return;
    }
    for term in &mut selector.node_selector_terms {
        let says = |list: &Option<Vec<NodeSelectorRequirement>>| list.as_ref().is_some_and(|l| !l.is_empty());
        if says(&term.match_expressions) || says(&term.match_fields) {
            term.match_expressions
                .get_or_insert_default()
                .extend_from_slice(requirements);
        }
    }
}
