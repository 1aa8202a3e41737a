//! Writes a pool's status, if it says something new.

use kerbside_api::v1alpha1::{VehiclePool, VehiclePoolStatus};
use kerbside_k8s::apply::{self, Written};
use kube::api::Api;
use kube::{Client, ResourceExt};
use serde_json::json;

use super::Error;
use crate::FIELD_MANAGER;

/// The status is computed from everything there is, so a stale cache can at worst write what the next reconcile repairs.
pub(super) async fn update_status(client: &Client, pool: &VehiclePool, status: VehiclePoolStatus) -> Result<(), Error> {
    if pool.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let (name, uid) = (pool.name_any(), pool.uid().unwrap_or_default());
    let mut patch = json!(status);
    // A merge patch keeps keys that it does not name, so a resource that nobody offers any more is taken away by name.
    let old = pool.status.iter().flat_map(|s| s.capacity.keys());
    for gone in old.filter(|k| !status.capacity.contains_key(*k)) {
        patch["capacity"][gone] = serde_json::Value::Null;
    }
    let api: Api<VehiclePool> = Api::all(client.clone());
    let written: Written<VehiclePool> = apply::merge_status(&api, &name, &uid, None, FIELD_MANAGER, patch)
        .await
        .map_err(|e| Error::Status(Box::new(e)))?;
    if written.is_stale() {
        tracing::debug!(pool.name = name, "the pool is gone or replaced");
    }
    Ok(())
}
