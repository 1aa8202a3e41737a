//! Whether a receipt can ever be settled: only of a Pod that the operator holds, or has let go with a closing.
//!
//! Asked before the operator is told of a receipt, for what it is told of it looks at for a month. The operator holds each Pod of a FleetJob
//! by a finalizer from its making, and writes the closing before it lets the Pod go: what is neither held nor closed never will be. What must
//! never happen: a receipt of a FleetJob's Pod of which the operator is not told. So whatever is not certain is a yes. A no for which the
//! API server was asked is certain for good, and remembered: a receipt comes again with each connection until its car has heard of it.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_core::names::{GROUP, finalizer, store as path};
use kerbside_k8s::store::StoreError;
use kube::Api;
use kube::api::ListParams;

use crate::context::{Context, PATIENCE};
use crate::gate::Lane;

/// So many are remembered. Cars that make up more cost what they did before, at two looks at a time.
const MOST_REMEMBERED: usize = 4096;

/// Attempts of cars of which it is certain that nobody awaits their receipts; the newest ones.
#[derive(Debug, Default)]
pub(super) struct Unawaited(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    known: HashSet<(VehicleId, PodUid)>,
    by_age: VecDeque<(VehicleId, PodUid)>,
}

impl Unawaited {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, attempt: &(VehicleId, PodUid)) -> bool {
        self.lock().known.contains(attempt)
    }

    fn remember(&self, attempt: (VehicleId, PodUid)) {
        let mut remembered = self.lock();
        if !remembered.known.insert(attempt.clone()) {
            return;
        }
        remembered.by_age.push_back(attempt);
        if remembered.by_age.len() > MOST_REMEMBERED
            && let Some(oldest) = remembered.by_age.pop_front()
        {
            remembered.known.remove(&oldest);
        }
    }
}

/// Why nobody can say.
#[derive(Debug, thiserror::Error)]
enum Unsure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no answer in time")]
    Late(#[from] tokio::time::error::Elapsed),
}

/// Whether the operator must be told of a receipt of this attempt.
pub(super) async fn is_awaited(context: &Context, unawaited: &Unawaited, vehicle: &VehicleId, uid: &PodUid) -> bool {
    if !context.pods.is_synced() {
        return true;
    }
    let judged = match tokio::time::timeout(PATIENCE, judge(context, unawaited, vehicle, uid)).await {
        Ok(judged) => judged,
        Err(late) => Err(late.into()),
    };
    judged.unwrap_or_else(|error| {
        tracing::debug!(%vehicle, attempt = %uid, %error, "nobody can say whose Pod a receipt is of; the operator will");
        true
    })
}

async fn judge(context: &Context, unawaited: &Unawaited, vehicle: &VehicleId, uid: &PodUid) -> Result<bool, Unsure> {
    if let Some(pod) = context.pods.by_uid(uid.as_str()) {
        return Ok(is_held(&pod.metadata) || is_closed(context, uid).await?);
    }
    if is_closed(context, uid).await? {
        return Ok(true);
    }
    let attempt = (vehicle.clone(), uid.clone());
    if unawaited.has(&attempt) {
        return Ok(false);
    }
    // A watch may be behind, so the API server has the last word. In a lane of its own: a car may make up as many attempts as it may send
    // receipts.
    let _place = context.gate.enter(Lane::Receipt).await;
    let api: Api<Pod> = Api::all(context.client.clone());
    let on_car = ListParams::default().fields(&format!("spec.nodeName={vehicle}"));
    let pods = api.list_metadata(&on_car).await?;
    let pod = pods
        .items
        .iter()
        .find(|pod| pod.metadata.uid.as_deref() == Some(uid.as_str()));
    if pod.is_some_and(|pod| is_held(&pod.metadata)) {
        return Ok(true);
    }
    // Once more: it may have been let go between the two looks.
    let closed = is_closed(context, uid).await?;
    if !closed {
        unawaited.remember(attempt);
    }
    Ok(closed)
}

/// A Pod of a FleetJob, also one whose job is gone, as long as the operator has not let it go.
fn is_held(metadata: &ObjectMeta) -> bool {
    let tracked = metadata
        .finalizers
        .iter()
        .flatten()
        .any(|name| name == finalizer::TRACKING);
    let mut owners = metadata.owner_references.iter().flatten();
    tracked || owners.any(|o| o.kind == "FleetJob" && o.api_version.split('/').next() == Some(GROUP))
}

async fn is_closed(context: &Context, uid: &PodUid) -> Result<bool, StoreError> {
    let closing = context.store.size(&path::ledger_closing(uid.as_str())).await?;
    Ok(closing.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(n: usize) -> (VehicleId, PodUid) {
        (VehicleId::from_random([1; 10]), format!("u-{n}").parse().unwrap())
    }

    #[test]
    fn memory_that_is_full_forgets_the_oldest_and_grows_no_more() {
        let unawaited = Unawaited::default();
        for n in 0..=MOST_REMEMBERED {
            unawaited.remember(attempt(n));
            unawaited.remember(attempt(n));
        }
        assert!(!unawaited.has(&attempt(0)));
        assert!(unawaited.has(&attempt(1)) && unawaited.has(&attempt(MOST_REMEMBERED)));
        let remembered = unawaited.lock();
        assert_eq!(remembered.known.len(), MOST_REMEMBERED);
        assert_eq!(remembered.by_age.len(), MOST_REMEMBERED);
    }

    #[test]
    fn what_is_certain_of_one_car_says_nothing_of_another() {
        let unawaited = Unawaited::default();
        let (_, uid) = attempt(1);
        unawaited.remember(attempt(1));
        assert!(!unawaited.has(&(VehicleId::from_random([2; 10]), uid)));
    }
}
