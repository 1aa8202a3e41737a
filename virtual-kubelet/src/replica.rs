//! This replica among others: it shows that it lives by a Lease of its own, and adopts the vehicles of replicas that no longer do.
//!
//! Run once per program. An adoption is one write to the Vehicle's `connection`, under its resourceVersion, so that one replica wins; the
//! vehicle's actor then begins as after a restart, and counts every fence anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kerbside_api::v1alpha1::Vehicle;
use kerbside_core::clock::Boottime;
use kerbside_k8s::apply;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::context::{Context, MANAGER};

const RENEW_EVERY: Duration = Duration::from_secs(10);
/// Four renewals: a replica that only restarts, or has lost its API server for a moment, keeps its vehicles.
const EXPIRES_AFTER: Duration = Duration::from_secs(40);
/// On the Leases of adapters.
const LABEL: &str = "kerbside.dev/adapter-replica";

/// Which replicas are seen to live. A renewal is a change of the Lease, seen by our own clock: clocks are never compared.
#[derive(Debug, Default)]
struct Watchman {
    seen: BTreeMap<String, (String, Boottime)>,
}

impl Watchman {
    /// `leases` are the renewals by holder; the replicas among `wanted` that have shown nothing new for too long.
    fn dead(
        &mut self,
        wanted: &BTreeSet<String>,
        leases: &BTreeMap<String, String>,
        now: Boottime,
    ) -> BTreeSet<String> {
        self.seen.retain(|replica, _| wanted.contains(replica));
        let mut dead = BTreeSet::new();
        for replica in wanted {
            let renewal = leases.get(replica).cloned().unwrap_or_default();
            let seen = self
                .seen
                .entry(replica.clone())
                .or_insert_with(|| (renewal.clone(), now));
            if seen.0 != renewal {
                *seen = (renewal, now);
            }
            if now.since(seen.1) >= EXPIRES_AFTER {
                dead.insert(replica.clone());
            }
        }
        dead
    }
}

/// Renews and adopts for ever.
pub(crate) async fn run(context: Arc<Context>, namespace: String) {
    let api: Api<Lease> = Api::namespaced(context.client.clone(), &namespace);
    let mut watchman = Watchman::default();
    context.synced().await;
    loop {
        if let Err(error) = renew(&context, &api, &namespace).await {
            tracing::warn!(%error, "this replica's Lease was not renewed");
        }
        if let Err(error) = adopt(&context, &api, &mut watchman).await {
            tracing::warn!(%error, "other replicas' vehicles could not be looked at");
        }
        tokio::time::sleep(RENEW_EVERY).await;
    }
}

async fn renew(context: &Context, api: &Api<Lease>, namespace: &str) -> Result<(), kube::Error> {
    let name = lease_name(&context.replica);
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": name, "namespace": namespace, "labels": { LABEL: "true" } },
        "spec": {
            "holderIdentity": context.replica,
            "leaseDurationSeconds": EXPIRES_AFTER.as_secs(),
            "renewTime": MicroTime(context.clock.wall()),
        },
    });
    apply::apply(api, &name, MANAGER, &lease).await.map(drop)
}

/// A Lease's name is a DNS name; a replica's should be one.
fn lease_name(replica: &str) -> String {
    format!("kerbside-kubelet-{replica}")
}

async fn adopt(context: &Context, api: &Api<Lease>, watchman: &mut Watchman) -> Result<(), kube::Error> {
    let vehicles: Vec<_> = context
        .roster
        .names()
        .iter()
        .filter_map(|name| context.roster.vehicle(name))
        .collect();
    let holder = |v: &Vehicle| v.status.as_ref()?.connection.as_ref().map(|c| c.replica.clone());
    let others: BTreeSet<_> = vehicles
        .iter()
        .filter_map(|v| holder(v))
        .filter(|r| *r != context.replica)
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    let found = api
        .list(&ListParams::default().labels(&format!("{LABEL}=true")))
        .await?;
    let renewals = found.items.into_iter().filter_map(|lease| {
        let spec = lease.spec?;
        Some((spec.holder_identity?, format!("{:?}", spec.renew_time?.0)))
    });
    let dead = watchman.dead(&others, &renewals.collect(), context.clock.boottime());
    for vehicle in vehicles {
        if holder(&vehicle).is_some_and(|replica| dead.contains(&replica)) {
            take(context, &vehicle).await?;
        }
    }
    Ok(())
}

async fn take(context: &Context, vehicle: &Vehicle) -> Result<(), kube::Error> {
    let (Some(name), Some(uid)) = (&vehicle.metadata.name, &vehicle.metadata.uid) else {
        return Ok(());
    };
    let epoch = vehicle
        .status
        .as_ref()
        .and_then(|s| s.connection.as_ref())
        .map_or(0, |c| c.epoch)
        + 1;
    let status = json!({ "connection": { "replica": context.replica, "epoch": epoch } });
    let version = vehicle.metadata.resource_version.as_deref();
    let api: Api<Vehicle> = Api::all(context.client.clone());
    if let Some(vehicle) = apply::merge_status(&api, name, uid, version, MANAGER, status)
        .await?
        .done()
    {
        tracing::info!(vehicle.id = %name, epoch, "a vehicle of a replica that is gone is adopted");
        context.roster.observe(vehicle);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Boottime {
        Boottime(Duration::from_secs(seconds))
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn renewals(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn replica_that_renews_lives_and_one_that_stops_dies() {
        let mut watchman = Watchman::default();
        let both = set(&["a", "b"]);
        assert!(
            watchman
                .dead(&both, &renewals(&[("a", "1"), ("b", "1")]), at(0))
                .is_empty()
        );
        assert!(
            watchman
                .dead(&both, &renewals(&[("a", "2"), ("b", "1")]), at(39))
                .is_empty()
        );
        assert_eq!(
            watchman.dead(&both, &renewals(&[("a", "2"), ("b", "1")]), at(40)),
            set(&["b"])
        );
        assert!(
            watchman
                .dead(&both, &renewals(&[("a", "2"), ("b", "2")]), at(50))
                .is_empty(),
            "it is back"
        );
    }

    #[test]
    fn replica_without_a_lease_gets_the_same_time() {
        let mut watchman = Watchman::default();
        assert!(watchman.dead(&set(&["a"]), &renewals(&[]), at(100)).is_empty());
        assert_eq!(watchman.dead(&set(&["a"]), &renewals(&[]), at(140)), set(&["a"]));
    }
}
