//! What the operator knows of an attempt, left in the store before its Pod is let go.
//!
//! Called by whoever lets Pods go: the FleetJob reconciler, and `orphans` for jobs that are gone. The reconciler closes also what it must hold
//! for longer, as soon as nothing that decides about money can change any more ([`is_final`]). A closing is written once; the first stands.
//! Never: a Pod let go that ran on a car and has none, also not while the store is down: the Pod waits. Nor a closing written before its time:
//! it would pay for less than was seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use kerbside_core::clock::Clock;
use kerbside_core::ids::{JobUid, PodUid, VehicleId};
use kerbside_core::job::{Attempt, Ledger, Phase};
use kerbside_core::ledger::{Closing, Standing, Terms, terms_of_annotation};
use kerbside_core::names::store as path;
use kerbside_k8s::store::{Store, StoreError};

use crate::acceptance::{self, ReadError};
use crate::attempts::Seen;
use crate::vehicle_pool::VehicleIndex;

/// The adapter's conditions have whole seconds: what it saw may have been almost so much longer.
const ROUNDING_MS: u64 = 1_000;
/// Where the Pod does not say how much processor it may use. Not what the car offers: that is the car's own word for its own bound.
const ONE_CORE: u64 = 1_000;

/// An attempt that is to be let go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) job: &'a JobUid,
    /// What is on record of the job; `None`: the job is gone, and its record with it.
    pub(crate) ledger: Option<&'a Ledger>,
    pub(crate) seen: &'a Seen,
}

/// Why a closing was not written. To be tried again; the Pod must wait.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CloseError {
    #[error("failed to close attempt {uid}: the store is not available")]
    Store {
        uid: PodUid,
        #[source]
        source: StoreError,
    },
    #[error("failed to close attempt {uid}: the store did not answer within {after:?}")]
    TimedOut { uid: PodUid, after: Duration },
    #[error("failed to close attempt {uid}")]
    Json {
        uid: PodUid,
        #[source]
        source: serde_json::Error,
    },
}

/// Writes closings. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Closings {
    store: Store,
    vehicles: Arc<VehicleIndex>,
    clock: Arc<dyn Clock>,
}

impl Closings {
    pub(crate) fn new(store: Store, vehicles: Arc<VehicleIndex>, clock: Arc<dyn Clock>) -> Self {
        Self { store, vehicles, clock }
    }

    /// Leaves what is known of the attempt in the store, if a car may have signed for it. May be repeated, and given up at any time.
    pub(crate) async fn close(&self, ended: Ended<'_>) -> Result<(), CloseError> {
        let seen = ended.seen;
        let Some(vehicle) = car(seen) else {
            return Ok(());
        };
        let uid = &seen.attempt.uid;
        let unavailable = |source| CloseError::Store {
            uid: uid.clone(),
            source,
        };
        let recorded = ended.ledger.and_then(|ledger| recorded(ledger, uid));
        let accepted = self.accepted(ended, recorded).await.map_err(unavailable)?;
        let closing = Closing {
            job_uid: ended.job.clone(),
            index: seen.attempt.index,
            pod_uid: uid.clone(),
            vehicle: vehicle.clone(),
            standing: recorded.unwrap_or_else(|| unrecorded(&seen.attempt, accepted.as_ref())),
            accepted_uid: accepted,
            terms: terms(seen, &self.vehicles.pools_of(vehicle)),
            running_ms: running_ms(seen, self.clock.wall()),
            milli_cpu: seen.milli_cpu.unwrap_or(ONE_CORE),
        };
        let json = serde_json::to_vec(&closing).map_err(|source| CloseError::Json {
            uid: uid.clone(),
            source,
        })?;
        let place = path::ledger_closing(uid.as_str());
        // One that is there is from an earlier try, when the Pod was as ended as it is now.
        let put = self.store.put_if_absent(&place, Bytes::from(json)).await;
        put.map(drop).map_err(unavailable)
    }

    /// Whose result is the index's. The store has the last word; it is asked only where the record leaves it open.
    async fn accepted(&self, ended: Ended<'_>, recorded: Option<Standing>) -> Result<Option<PodUid>, StoreError> {
        let attempt = &ended.seen.attempt;
        if recorded == Some(Standing::Accepted) {
            return Ok(Some(attempt.uid.clone()));
        }
        let completed = ended
            .ledger
            .is_none_or(|ledger| ledger.completed.contains(attempt.index));
        if !completed && attempt.phase != Phase::Succeeded {
            return Ok(None);
        }
        match acceptance::result(&self.store, ended.namespace, ended.job.as_str(), attempt.index).await {
            Ok(first) => Ok(first.uid.parse().ok()),
            Err(ReadError::Store(StoreError::NotFound { .. })) => Ok(None),
            Err(ReadError::Store(error)) => Err(error),
            Err(error @ ReadError::Unusable { .. }) => {
                tracing::warn!(attempt = %attempt.uid, %error, "nobody knows whose result counts");
                Ok(None)
            }
        }
    }
}

/// Whether a closing of the attempt that is written now says the same as one that is written when its Pod is let go, but for whose result is
/// that of the index, which changes no amount. So: its end is on record, which is never taken back, and the adapter has said since when it ran and
/// when it had stopped, of which each is said once.
pub(crate) fn is_final(ledger: &Ledger, seen: &Seen) -> bool {
    let has_ended = matches!(seen.attempt.phase, Phase::Succeeded | Phase::Failed);
    let is_measured = seen.started_at.is_some() && seen.stopped_at.is_some();
    has_ended && is_measured && recorded(ledger, &seen.attempt.uid).is_some()
}

/// The car that may have signed for it. One that was refused before it started ran nowhere.
fn car(seen: &Seen) -> Option<&VehicleId> {
    let ran_nowhere = seen.attempt.refused.is_some() && seen.started_at.is_none();
    seen.attempt.node.as_ref().filter(|_| !ran_nowhere)
}

/// How the job's record counts it.
fn recorded(ledger: &Ledger, uid: &PodUid) -> Option<Standing> {
    let counted = &ledger.uncounted;
    match () {
        () if counted.succeeded.contains(uid) => Some(Standing::Accepted),
        () if counted.failed.contains(uid) => Some(Standing::Failed),
        () if counted.disrupted.contains(uid) => Some(Standing::Disrupted),
        () => None,
    }
}

/// What an end is that counted as nothing, or that is not on record: only the store's result makes it an accepted one.
fn unrecorded(attempt: &Attempt, accepted: Option<&PodUid>) -> Standing {
    let by_itself = attempt.phase == Phase::Failed
        && attempt.disruption.is_none()
        && attempt.deleted_at.is_none()
        && attempt.deleted_for.is_none();
    match accepted {
        Some(uid) if *uid == attempt.uid => Standing::Accepted,
        Some(_) if attempt.phase == Phase::Succeeded => Standing::Superseded,
        _ if by_itself => Standing::Failed,
        _ => Standing::Disrupted,
    }
}

/// For how long the adapter saw it running, by the adapter's clock.
fn running_ms(seen: &Seen, now: Timestamp) -> u64 {
    let Some(started_at) = seen.started_at else {
        return 0;
    };
    let stopped_at = seen.stopped_at.unwrap_or(now);
    let ran = stopped_at.as_millisecond().saturating_sub(started_at.as_millisecond());
    u64::try_from(ran).unwrap_or_default().saturating_add(ROUNDING_MS)
}

/// The terms that were fixed when the Pod was made: those of the car's pool, for no other's were offered to it, or all of them where its
/// pool is not known any more. What somebody made unreadable since is none.
fn terms(seen: &Seen, pools: &[String]) -> BTreeMap<String, Terms> {
    let Some(text) = &seen.terms else {
        return BTreeMap::new();
    };
    let mut terms = terms_of_annotation(text).unwrap_or_else(|error| {
        tracing::warn!(attempt = %seen.attempt.uid, %error, "the terms on a Pod cannot be read; there are none");
        BTreeMap::new()
    });
    let of_pools = |pool: &String| pools.contains(pool);
    // A car that was moved to a pool that the job does not name worked by the terms of one that it names.
    if terms.keys().any(of_pools) {
        terms.retain(|pool, _| of_pools(pool));
    }
    terms
}

#[cfg(test)]
mod tests;
