//! From a FleetJob as it is stored to one that can be planned. Pure; after this step nothing reads the raw spec again.
//!
//! [`parse`] turns the object into types and fails only on what no later step could repair. [`validate`] holds it against what
//! was found and says what keeps it from making attempts: a held job keeps its books, but nothing new is started for it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use kerbside_api::v1alpha1::{AllowedNamespaces, FleetJob, FleetJobStatus, NamespacesFrom, OnLoss, Output, Replace};
use kerbside_core::ids::{IdError, JobUid, PoolName};
use kerbside_core::job::{self, JobSpec, Ledger};
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};

use super::dereference::Found;
use super::status::{self, LedgerError};

/// The one value of `managedBy` that this operator acts on.
pub(crate) const MANAGED_BY: &str = "kerbside.dev/fleetjob-controller";

/// A FleetJob that can be planned.
#[derive(Debug, Clone)]
pub(crate) struct ValidatedJob {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: JobUid,
    pub(crate) generation: i64,
    pub(crate) resource_version: String,
    pub(crate) pools: Vec<PoolName>,
    pub(crate) class: String,
    pub(crate) run_unheard_for: String,
    pub(crate) output: Option<Output>,
    pub(crate) template: PodTemplateSpec,
    /// What the plan needs of the spec.
    pub(crate) spec: JobSpec,
    /// What is on record.
    pub(crate) ledger: Ledger,
    /// The status as stored, to see whether a write would change anything.
    pub(crate) stored: FleetJobStatus,
}

/// What keeps a job from making attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hold {
    /// A pool that it names does not exist.
    PoolNotFound(String),
    /// A pool that it names is not for its namespace.
    NamespaceNotAllowed(String),
    /// The API server refuses its first Pod.
    TemplateInvalid(String),
}

impl Hold {
    /// Condition types, in the order in which they are looked at.
    pub(crate) const TYPES: [&'static str; 3] = ["PoolNotFound", "NamespaceNotAllowed", "TemplateInvalid"];

    /// The condition's type.
    pub(crate) fn type_(&self) -> &'static str {
        match self {
            Self::PoolNotFound(_) => "PoolNotFound",
            Self::NamespaceNotAllowed(_) => "NamespaceNotAllowed",
            Self::TemplateInvalid(_) => "TemplateInvalid",
        }
    }

    /// What is wrong and what to do.
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::PoolNotFound(m) | Self::NamespaceNotAllowed(m) | Self::TemplateInvalid(m) => m,
        }
    }
}

/// Why a FleetJob cannot be read. Permanent: only a change of the object repairs it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ParseError {
    #[error("failed to read FleetJob: it has no {0}")]
    Metadata(&'static str),
    #[error("failed to read FleetJob")]
    Id(#[from] IdError),
    #[error("failed to read the ledger in the status of FleetJob; restore the status from a backup")]
    Ledger(#[from] LedgerError),
}

/// Whether this operator acts on the job.
pub(crate) fn is_ours(job: &FleetJob) -> bool {
    job.spec.managed_by == MANAGED_BY
}

/// Reads a FleetJob.
pub(crate) fn parse(job: &FleetJob) -> Result<ValidatedJob, ParseError> {
    let (spec, metadata) = (&job.spec, &job.metadata);
    let uid: JobUid = metadata.uid.as_deref().ok_or(ParseError::Metadata("UID"))?.parse()?;
    let stored = job.status.clone().unwrap_or_default();
    let seconds = |s: u32| std::time::Duration::from_secs(s.into());
    Ok(ValidatedJob {
        name: job.name_any(),
        namespace: job.namespace().ok_or(ParseError::Metadata("namespace"))?,
        generation: metadata.generation.unwrap_or_default(),
        resource_version: metadata
            .resource_version
            .clone()
            .ok_or(ParseError::Metadata("resourceVersion"))?,
        pools: spec.pools.iter().map(|p| p.parse()).collect::<Result<_, _>>()?,
        class: spec.class.clone(),
        run_unheard_for: run_unheard_for(&spec.on_loss),
        output: spec.output.clone(),
        template: spec.template.clone(),
        spec: JobSpec {
            uid: uid.clone(),
            completions: spec.completions,
            parallelism: spec.parallelism,
            backoff_limit_per_index: Some(spec.backoff_limit_per_index),
            max_failed_indexes: Some(spec.max_failed_indexes),
            max_disruptions_per_index: Some(spec.max_disruptions_per_index),
            active_deadline: spec.active_deadline_seconds.map(seconds),
            ttl: spec.ttl_seconds_after_finished.map(seconds),
            suspend: spec.suspend,
            deleting: metadata.deletion_timestamp.is_some(),
            on_loss: match spec.on_loss.replace {
                Replace::WhenSuspected => job::OnLoss::WhenSuspected,
                Replace::WhenFenced => job::OnLoss::WhenFenced,
            },
        },
        ledger: status::ledger(&stored)?,
        stored,
        uid,
    })
}

/// As it was written, or the default of what is to happen on a loss, in seconds.
fn run_unheard_for(on_loss: &OnLoss) -> String {
    match &on_loss.run_unheard_for {
        Some(given) => given.as_str().to_owned(),
        None => format!("{}s", on_loss.run_unheard_for().as_secs()),
    }
}

/// What keeps the job from making attempts, if anything does.
pub(crate) fn validate(job: &ValidatedJob, found: &Found) -> Option<Hold> {
    let missing: Vec<&str> = found
        .pools
        .iter()
        .filter(|(_, p)| p.is_none())
        .map(|(name, _)| name.as_str())
        .collect();
    if !missing.is_empty() {
        let message = format!(
            "there is no VehiclePool {}; create it, or name another in spec.pools ('kubectl get vehiclepools' lists them)",
            quoted(&missing)
        );
        return Some(Hold::PoolNotFound(message));
    }
    let closed: Vec<&str> = found
        .pools
        .iter()
        .filter(|(_, pool)| {
            !pool
                .as_ref()
                .is_some_and(|allowed| allows(allowed, &found.namespace_labels))
        })
        .map(|(name, _)| name.as_str())
        .collect();
    if !closed.is_empty() {
        let message = format!(
            "VehiclePool {} does not allow namespace '{}': its labels do not match spec.allowedNamespaces.selector",
            quoted(&closed),
            job.namespace
        );
        return Some(Hold::NamespaceNotAllowed(message));
    }
    found.template.clone().err().map(|refusal| {
        let message = format!("the API server refuses the Pod made from spec.template: {refusal}");
        Hold::TemplateInvalid(message)
    })
}

/// A selector that cannot be read allows nothing.
fn allows(allowed: &AllowedNamespaces, labels: &BTreeMap<String, String>) -> bool {
    match allowed.from {
        NamespacesFrom::All => true,
        NamespacesFrom::Selector => {
            let selector = allowed.selector.clone().map(Selector::try_from);
            selector.and_then(Result::ok).is_some_and(|s| s.matches(labels))
        }
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
