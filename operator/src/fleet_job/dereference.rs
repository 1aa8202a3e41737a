//! Everything that a job's plan follows from besides the job: the only step that reads.
//!
//! Pools, namespaces, attempts and cars come from memory. The one question that goes to the API server is whether it would take
//! the first Pod of a template that has never been started, asked once per generation by a dry run.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kerbside_api::v1alpha1::AllowedNamespaces;
use kerbside_core::ids::{PoolName, VehicleId};
use kerbside_core::job::Refusals;
use kerbside_core::ledger::{Terms, terms_annotation};
use kube::api::{Api, PostParams};
use kube::runtime::reflector::ObjectRef;

use super::validate::ValidatedJob;
use super::{Context, Error, build, terms};
use crate::FIELD_MANAGER;
use crate::attempts::Seen;

/// What was found for a job.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Whom each pool of the job allows; `None` where there is no such pool.
    pub(crate) pools: Vec<(String, Option<AllowedNamespaces>)>,
    /// What the pools pay, as every Pod that is made now gets it written on; `None` where none of them pays anything.
    pub(crate) terms: Option<String>,
    pub(crate) namespace_labels: BTreeMap<String, String>,
    pub(crate) attempts: Vec<Seen>,
    pub(crate) refusals: Refusals,
    /// The cars that could take an attempt now; looked up only where somebody refused.
    pub(crate) eligible: BTreeSet<VehicleId>,
    /// Whether the API server takes the Pods of this template, as far as it was asked.
    pub(crate) template: Result<(), String>,
}

/// Looks everything up.
pub(crate) async fn dereference(job: &ValidatedJob, ctx: &Context) -> Result<Found, Error> {
    let (mut pools, mut terms) = (Vec::new(), Vec::new());
    for name in &job.pools {
        let (allowed, pays) = pool(ctx, name).unzip();
        pools.push((name.to_string(), allowed));
        terms.extend(pays.flatten());
    }
    let terms = terms_annotation(&terms);
    let namespace = ctx.namespaces.get(&ObjectRef::new(&job.namespace));
    let ledger = &job.ledger;
    let is_over = |index| ledger.completed.contains(index) || ledger.failed_indexes.contains(index);
    let attempts = ctx.attempts.of(&job.uid, is_over);
    let refusals = ctx.memory.refusals(&job.uid);
    let refused = !refusals.is_empty() || attempts.iter().any(|s| s.attempt.refused.is_some());
    Ok(Found {
        pools,
        namespace_labels: namespace.and_then(|n| n.metadata.labels.clone()).unwrap_or_default(),
        attempts,
        refusals,
        eligible: if refused {
            ctx.vehicles.willing(&job.pools, &job.class)
        } else {
            BTreeSet::new()
        },
        template: try_template(job, terms.as_deref(), ctx).await?,
        terms,
    })
}

/// Whom a pool allows and what it pays. One whose prices cannot be read is as if it were not there: nobody is to work for a pay that is
/// not fixed. The API server takes no such prices.
fn pool(ctx: &Context, name: &PoolName) -> Option<(AllowedNamespaces, Option<Terms>)> {
    let pool = ctx.pools.get(&ObjectRef::new(name.as_str()))?;
    let spec = &pool.0.as_ref().ok()?.spec;
    let terms = spec.terms.as_ref().map(|given| terms::read(name, given)).transpose();
    match terms {
        Ok(terms) => Some((spec.allowed_namespaces.clone(), terms)),
        Err(error) => {
            tracing::warn!(pool.name = %name, %error, "the terms of a VehiclePool cannot be read");
            None
        }
    }
}

/// Asks the API server whether it would take the first Pod. A template that has been started once was taken then.
async fn try_template(job: &ValidatedJob, terms: Option<&str>, ctx: &Context) -> Result<Result<(), String>, Error> {
    let is_new = job.ledger.start_time.is_none() && !job.spec.deleting;
    if !is_new || ctx.memory.is_tried(&job.uid, job.generation) {
        return Ok(Ok(()));
    }
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &job.namespace);
    let params = PostParams {
        dry_run: true,
        field_manager: Some(FIELD_MANAGER.to_owned()),
    };
    match pods.create(&params, &build::first_pod(job, terms)).await {
        Ok(_) => {
            ctx.memory.tried(&job.uid, job.generation);
            Ok(Ok(()))
        }
        Err(kube::Error::Api(s)) if s.is_already_exists() => Ok(Ok(())),
        Err(kube::Error::Api(s)) if s.is_invalid() || s.is_forbidden() || s.code == 400 => Ok(Err(s.message.clone())),
        Err(e) => Err(Error::TryTemplate(Box::new(e))),
    }
}
