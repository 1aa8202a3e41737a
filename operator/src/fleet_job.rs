//! Reconciles FleetJobs: one turn is dereference → validate → accept → build → update_status → apply.
//!
//! Driven by `run` on the leader, once per change of a job, of its Pods or of what they depend on. The decisions are
//! `core::job`'s; here they are fed and carried out. A job's turns never run beside each other. The order of the writes is the
//! order of the verbs: results into the store, then the ledger, then everything that the ledger allows. A crash between any two
//! of them is repaired by the next turn; `tests/crash.rs` dies at each.

mod accept;
mod apply;
mod build;
mod dereference;
mod error;
mod memory;
mod status;
mod tell;
mod terms;
mod update_status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kerbside_api::v1alpha1::{FleetJob, VehiclePool};
use kerbside_core::clock::Clock;
use kerbside_core::ids::JobUid;
use kerbside_k8s::events::{EventQueue, Severity};
use kerbside_k8s::store::Store as ResultStore;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::Action;
use kube::runtime::reflector::Store;
use kube::{Client, Resource};
use tokio::time::Instant;

pub(crate) use error::Error;
pub(crate) use memory::Memory;

use crate::attempts::AttemptIndex;
use crate::ledger::Closings;
use crate::metrics::Metrics;
use crate::report;
use crate::retry::Failures;
use crate::vehicle_pool::VehicleIndex;
use update_status::Outcome;
use validate::{Hold, ParseError};

const KIND: &str = "FleetJob";
/// Turns in one reconcile: enough to record, let go and strike off what one change brings; then others get their turn.
const MOST_TURNS: usize = 4;
/// A template or a quota that was refused may be taken after somebody has changed something that is not watched.
const REFUSED_RETRY: Duration = Duration::from_secs(60);
/// What is left is done when others had their turn.
const SOON: Duration = Duration::from_millis(50);
/// An attempt had changed when it was to be taken away. If the change matters, the watch tells of it at once; if it does not,
/// nobody does, and by then the watch has its version.
const STALE_RETRY: Duration = Duration::from_secs(1);

/// What the reconciler works with.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) store: ResultStore,
    pub(crate) closings: Closings,
    pub(crate) pools: Store<DeserializeGuard<VehiclePool>>,
    pub(crate) namespaces: Store<PartialObjectMeta<Namespace>>,
    pub(crate) attempts: Arc<AttemptIndex>,
    pub(crate) vehicles: Arc<VehicleIndex>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) events: EventQueue,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) failures: Failures<JobUid>,
}

/// Reconciles one job.
pub(crate) async fn reconcile(job: Arc<DeserializeGuard<FleetJob>>, ctx: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let result = Box::pin(turns(&job, &ctx)).await;
    let outcome = result.as_ref().map_or_else(Error::category, |_| "ok");
    ctx.metrics.reconciled(KIND, outcome, started.elapsed());
    match &result {
        Ok(_) => uid(&job).iter().for_each(|uid| ctx.failures.succeeded(uid)),
        Err(error) => {
            let note = report::with_causes(error);
            tracing::warn!(job.name = ?job.meta().name, job.namespace = ?job.meta().namespace, error = note, "failed to reconcile");
            let about = job.object_ref(&());
            ctx.events
                .publish(about, Severity::Warning, error.category(), "Reconcile", &note);
        }
    }
    result
}

async fn turns(job: &DeserializeGuard<FleetJob>, ctx: &Context) -> Result<Action, Error> {
    let cached = Arc::new(job.0.clone().map_err(|e| Error::Unreadable(e.error))?);
    for _ in 0..MOST_TURNS {
        match turn(&cached, ctx).await? {
            Turn::Again => {}
            Turn::Done(wait) => return Ok(wait.map_or_else(Action::await_change, Action::requeue)),
        }
    }
    Ok(Action::requeue(SOON))
}

enum Turn {
    /// Something was recorded that allows more.
    Again,
    /// Nothing is left to do until something changes or this time has passed.
    Done(Option<Duration>),
}

async fn turn(cached: &Arc<FleetJob>, ctx: &Context) -> Result<Turn, Error> {
    let Some(uid) = cached.metadata.uid.as_deref().and_then(|u| u.parse().ok()) else {
        return Err(ParseError::Metadata("UID").into());
    };
    let job = ctx.memory.newest(&uid, cached);
    if !validate::is_ours(&job) {
        return Ok(Turn::Done(None));
    }
    let job = validate::parse(&job)?;
    let found = dereference::dereference(&job, ctx).await?;
    let hold = validate::validate(&job, &found);
    let undecided = build::undecided(&job, &found, hold.as_ref(), ctx.clock.wall());
    let answers = accept::accept(ctx, &job, &found, &undecided).await;
    let prepared = build::build(job, found, hold, answers, ctx.clock.wall());
    match update_status::update_status(ctx, prepared).await? {
        Outcome::Stale => Ok(Turn::Done(Some(SOON))),
        Outcome::Recorded {
            resources,
            wrote,
            later,
        } => {
            let refused = matches!(resources.hold, Some(Hold::TemplateInvalid(_))).then_some(REFUSED_RETRY);
            let wait = [resources.plan.requeue_after, later, refused]
                .into_iter()
                .flatten()
                .min();
            let again = Box::pin(apply::apply(ctx, *resources)).await?;
            Ok(if wrote {
                Turn::Again
            } else {
                Turn::Done(wait.into_iter().chain(again).min())
            })
        }
    }
}

/// Waits longer after each failure in a row; what cannot be read waits for a change.
pub(crate) fn on_error(job: &DeserializeGuard<FleetJob>, error: &Error, ctx: &Context) -> Action {
    match uid(job) {
        _ if error.is_permanent() => Action::await_change(),
        _ if error.is_refusal() => Action::requeue(REFUSED_RETRY),
        Some(uid) => Action::requeue(ctx.failures.failed(uid)),
        None => Action::await_change(),
    }
}

fn uid(job: &DeserializeGuard<FleetJob>) -> Option<JobUid> {
    job.meta().uid.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests;
