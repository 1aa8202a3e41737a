//! Writes a pool's status, if it says something new.

use kerbside_api::v1alpha1::{VehiclePool, VehiclePoolStatus};
use kerbside_k8s::apply::{self, Written};
use kube::api::Api;
use kube::{Client, ResourceExt};
use serde_json::json;

use super::Error;
use crate::FIELD_MANAGER;

/// False: somebody changed the pool meanwhile, and it is to be looked at again.
pub(super) async fn update_status(
    client: &Client,
    pool: &VehiclePool,
    status: VehiclePoolStatus,
) -> Result<bool, Error> {
    if pool.status.as_ref() == Some(&status) {
        return Ok(true);
    }
    let (name, uid) = (pool.name_any(), pool.uid().unwrap_or_default());
    let mut patch = json!(status);
    // A merge patch keeps keys that it does not name, so a resource that nobody offers any more is taken away by name.
    let old = pool.status.iter().flat_map(|s| s.capacity.keys());
    for gone in old.filter(|k| !status.capacity.contains_key(*k)) {
        patch["capacity"][gone] = serde_json::Value::Null;
    }
    let api: Api<VehiclePool> = Api::all(client.clone());
    let version = pool.resource_version();
    let written: Written<VehiclePool> =
        apply::merge_status(&api, &name, &uid, version.as_deref(), FIELD_MANAGER, patch)
            .await
            .map_err(|e| Error::Status(Box::new(e)))?;
    Ok(!written.is_stale())
}
