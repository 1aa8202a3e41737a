//! Writes a job's status, the ledger in it, before anything is let go or made: recorded before released.
//!
//! The write carries the resourceVersion of the object that the plan was made from, so a plan from a stale cache records
//! nothing and, since it cannot become [`Recorded`], does nothing.

use std::marker::PhantomData;
use std::time::Duration;

use kerbside_api::v1alpha1::{FleetJob, FleetJobStatus};
use kerbside_k8s::apply::{self, Written};
use kube::api::Api;
use serde_json::json;

use super::build::{Prepared, Recorded, Resources};
use super::{Context, Error, tell};
use crate::FIELD_MANAGER;

/// What nobody waits for (how many attempts are alive, UIDs that are struck off) is written at most so often; a job of 10,000
/// attempts would otherwise be written with each of their changes.
const SELDOM: Duration = Duration::from_secs(1);

/// What became of the status.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is as it should be; `wrote` says whether the ledger changed, so that more may be done now. Some counts may be written
    /// `later`.
    Recorded {
        resources: Box<Resources<Recorded>>,
        wrote: bool,
        later: Option<Duration>,
    },
    /// The job has changed since it was read: plan again.
    Stale,
}

/// Writes the status if it says something new.
pub(crate) async fn update_status(ctx: &Context, prepared: Resources<Prepared>) -> Result<Outcome, Error> {
    ctx.memory.learned(&prepared.job.uid, prepared.plan.refusals.clone());
    let (old, new) = (&prepared.job.stored, &prepared.status);
    if old == new {
        return Ok(recorded(prepared, false, None));
    }
    if is_minor(old, new)
        && let Some(wait) = ctx.memory.write_after(&prepared.job.uid, SELDOM)
    {
        return Ok(recorded(prepared, false, Some(wait)));
    }
    let api: Api<FleetJob> = Api::namespaced(ctx.client.clone(), &prepared.job.namespace);
    let job = &prepared.job;
    let version = Some(job.resource_version.as_str());
    let written = apply::merge_status(&api, &job.name, job.uid.as_str(), version, FIELD_MANAGER, json!(new)).await;
    match written.map_err(|e| Error::Status(Box::new(e)))? {
        Written::Stale => Ok(Outcome::Stale),
        Written::Done(now) => {
            ctx.memory.wrote(&job.uid, *now);
            tell::recorded(ctx, &prepared);
            let wrote = !is_minor(old, new);
            Ok(recorded(prepared, wrote, None))
        }
    }
}

/// Whether only counts of what is alive changed, and UIDs were struck off.
fn is_minor(old: &FleetJobStatus, new: &FleetJobStatus) -> bool {
    let (o, n) = (&old.uncounted_attempts, &new.uncounted_attempts);
    let lists = [
        (&o.succeeded, &n.succeeded),
        (&o.failed, &n.failed),
        (&o.disrupted, &n.disrupted),
        (&o.refused, &n.refused),
    ];
    let struck_off_only = lists.into_iter().all(|(old, new)| {
        new.len() <= old.len() && {
            let old: std::collections::HashSet<_> = old.iter().collect();
            new.iter().all(|uid| old.contains(uid))
        }
    });
    let same_otherwise = FleetJobStatus {
        active: old.active,
        ready: old.ready,
        unheard: old.unheard,
        terminating: old.terminating,
        uncounted_attempts: o.clone(),
        ..new.clone()
    };
    struck_off_only && same_otherwise == *old
}

fn recorded(prepared: Resources<Prepared>, wrote: bool, later: Option<Duration>) -> Outcome {
    let Resources {
        job,
        found,
        answers,
        hold,
        plan,
        pods,
        status,
        stage: PhantomData,
    } = prepared;
    let resources = Resources {
        job,
        found,
        answers,
        hold,
        plan,
        pods,
        status,
        stage: PhantomData,
    };
    Outcome::Recorded {
        resources: Box::new(resources),
        wrote,
        later,
    }
}

#[cfg(test)]
mod tests;
