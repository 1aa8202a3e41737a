//! The Lease of a vehicle's Node: the heartbeat that keeps Kubernetes believing in it.
//!
//! Called by the adapter's vehicle actor and by nobody else. One renewal is one PATCH and no read; only a Lease that is not
//! there is created. A Lease is always owned by its Node, so that it goes with it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

/// Where kube-controller-manager looks for Nodes' Leases.
pub const NAMESPACE: &str = "kube-node-lease";
/// `leaseDurationSeconds`: informative, as kube-controller-manager uses its own grace.
pub const DURATION_SECONDS: i32 = 40;

/// kube-controller-manager gives up a Node that was not renewed for so long (`--node-monitor-grace-period`).
pub const CONTROLLER_GRACE: Duration = Duration::from_secs(50);
/// Two renewals may be lost, or the replica that makes them: another adopts its vehicles in time.
pub const RENEW_EVERY: Duration = Duration::from_secs(20);

/// Renews the Lease of `node` for `holder`, or creates it if it is not there.
pub async fn renew(
    api: &Api<Lease>,
    node: &str,
    node_uid: &str,
    holder: &str,
    manager: &str,
    now: Timestamp,
) -> Result<Lease, kube::Error> {
    let patch = json!({ "spec": { "holderIdentity": holder, "renewTime": MicroTime(now) } });
    let params = PatchParams {
        field_manager: Some(manager.to_owned()),
        ..PatchParams::default()
    };
    match api.patch(node, &params, &Patch::Merge(patch)).await {
        Err(kube::Error::Api(s)) if s.is_not_found() => {}
        other => return other,
    }
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.to_owned(),
        uid: node_uid.to_owned(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(DURATION_SECONDS),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    };
    api.create(
        &PostParams {
            field_manager: Some(manager.to_owned()),
            ..PostParams::default()
        },
        &lease,
    )
    .await
}
