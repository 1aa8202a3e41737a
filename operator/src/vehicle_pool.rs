//! Reconciles VehiclePools: counts their cars, sums what these offer, and says whether the pool's terms can be applied.
//!
//! Driven by `run` on the leader. Pools are only looked at, nothing is created for them, so of the five verbs `apply` has
//! nothing to do and is not there. That attempts are held by the brake is decided by each adapter for its own vehicles, and said in each
//! Vehicle's condition Heard; here it becomes one condition of the pool, so that its status has one writer. Vehicles are folded into an index as they change; a pool is looked at when its own spec
//! changes, and at most once a second when its cars do.

mod build;
mod dereference;
mod index;
mod update_status;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use kerbside_api::v1alpha1::VehiclePool;
use kerbside_core::clock::Clock;
use kerbside_k8s::events::{EventQueue, Severity};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Client, Resource};
use tokio::time::Instant;

pub(crate) use index::{VehicleIndex, over};

use crate::metrics::Metrics;
use crate::report;
use crate::retry::Failures;

const KIND: &str = "VehiclePool";
/// By then the watch has shown what somebody else wrote.
const AFTER_A_RACE: Duration = Duration::from_millis(500);

/// What the reconciler works with.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) vehicles: Arc<VehicleIndex>,
    pub(crate) events: EventQueue,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) failures: Failures<String>,
}

/// Why a pool could not be reconciled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Permanent: what is stored is not a VehiclePool that this version can read.
    #[error("failed to read VehiclePool: {0}")]
    Unreadable(String),
    /// Retryable.
    #[error("failed to update the status of VehiclePool")]
    Status(#[source] Box<kube::Error>),
}

impl Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "ObjectUnreadable",
            Self::Status(_) => "StatusUpdateFailed",
        }
    }
}

/// Brings the status of one pool up to date.
pub(crate) async fn reconcile(pool: Arc<DeserializeGuard<VehiclePool>>, ctx: Arc<Context>) -> Result<Action, Error> {
    let started = Instant::now();
    let result = verbs(&pool, &ctx).await;
    let outcome = result.as_ref().map_or_else(Error::category, |_| "ok");
    ctx.metrics.reconciled(KIND, outcome, started.elapsed());
    if let Err(error) = &result {
        let note = report::with_causes(error);
        let about = pool.object_ref(&());
        ctx.events
            .publish(about, Severity::Warning, error.category(), "Reconcile", &note);
    } else {
        ctx.failures.succeeded(&name(&pool));
    }
    result.map(|done| {
        if done {
            Action::await_change()
        } else {
            Action::requeue(AFTER_A_RACE)
        }
    })
}

async fn verbs(pool: &DeserializeGuard<VehiclePool>, ctx: &Context) -> Result<bool, Error> {
    let pool = pool.0.as_ref().map_err(|e| Error::Unreadable(e.error.clone()))?;
    let found = dereference::dereference(pool, &ctx.vehicles);
    let terms = validate::validate(pool);
    let status = build::build(pool, &found, &terms, ctx.clock.wall());
    let was_held = pool.status.as_ref().is_some_and(build::is_held);
    let held = build::is_held(&status);
    let done = update_status::update_status(&ctx.client, pool, status).await?;
    // Told when it is in the status: an Event for each look at an older status would be told again.
    if done && held != was_held {
        tell(pool, found.held, ctx);
    }
    Ok(done)
}

/// Tells people that attempts are held, or no longer.
fn tell(pool: &VehiclePool, held: u32, ctx: &Context) {
    let (severity, reason, note) = if held > 0 {
        let note = format!(
            "{held} vehicles with attempts are not heard; nothing is replaced until they return or their fences pass"
        );
        (Severity::Warning, build::MANY_UNHEARD, note)
    } else {
        let note = "the vehicles have returned, or their fences have passed: nothing is held any more".to_owned();
        (Severity::Normal, "LossReleased", note)
    };
    ctx.events
        .publish(pool.object_ref(&()), severity, reason, "Reconcile", &note);
}

/// Waits longer after each failure in a row; what cannot be read waits for a change.
pub(crate) fn on_error(pool: &DeserializeGuard<VehiclePool>, error: &Error, ctx: &Context) -> Action {
    match error {
        Error::Unreadable(_) => Action::await_change(),
        Error::Status(_) => Action::requeue(ctx.failures.failed(name(pool))),
    }
}

fn name(pool: &DeserializeGuard<VehiclePool>) -> String {
    pool.meta().name.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests;
