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
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::timeout;

use crate::connection;
use crate::context::{Context, MANAGER, PATIENCE};

const RENEW_EVERY: Duration = Duration::from_secs(10);
/// Four renewals: a replica that only restarts, or has lost its API server for a moment, keeps its vehicles.
pub(crate) const EXPIRES_AFTER: Duration = Duration::from_secs(40);
/// Two looks that failed, with their patience.
const BLIND_AFTER: Duration = Duration::from_secs(35);
/// On the Leases of adapters.
const LABEL: &str = "kerbside.dev/adapter-replica";

/// Which replicas are seen to live. A renewal is a change of the Lease, seen by our own clock: clocks are never compared.
#[derive(Debug, Default)]
struct Watchman {
    seen: BTreeMap<String, (String, Boottime)>,
    looked_at: Boottime,
}

impl Watchman {
    /// `leases` are the renewals by holder; the replicas among `wanted` that have shown nothing new for too long.
    fn dead(
        &mut self,
        wanted: &BTreeSet<String>,
        leases: &BTreeMap<String, String>,
        now: Boottime,
    ) -> BTreeSet<String> {
        // Who could not look for so long has seen no renewal, whoever renewed: everybody gets the same time anew.
        if now.since(self.looked_at) >= BLIND_AFTER {
            self.seen.clear();
        }
        self.looked_at = now;
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
        let sent = context.clock.boottime();
        let renewed = answered("renew this replica's Lease", renew(&context, &api, &namespace));
        if renewed.await {
            context.proof.renewed(sent);
        }
        answered("look at other replicas' vehicles", adopt(&context, &api, &mut watchman)).await;
        tokio::time::sleep(RENEW_EVERY).await;
    }
}

/// Whether the API server did as it was asked, in time.
async fn answered(what: &str, request: impl Future<Output = Result<(), kube::Error>>) -> bool {
    match timeout(PATIENCE, request).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => tracing::warn!(%error, "failed to {what}"),
        Err(_) => tracing::warn!("failed to {what}: no answer from the API server"),
    }
    false
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
    let found = api
        .list(&ListParams::default().labels(&format!("{LABEL}=true")))
        .await?;
    let renewals: BTreeMap<_, _> = found
        .items
        .into_iter()
        .filter_map(|lease| {
            let spec = lease.spec?;
            Some((spec.holder_identity?, format!("{:?}", spec.renew_time?.0)))
        })
        .collect();
    // All that hold vehicles, and all that could take some.
    let others: BTreeSet<_> = vehicles
        .iter()
        .filter_map(|v| connection::holder(v).map(str::to_owned))
        .chain(renewals.keys().cloned())
        .filter(|r| *r != context.replica)
        .collect();
    let dead = watchman.dead(&others, &renewals, context.clock.boottime());
    let mut alive = renewals.keys().filter(|r| others.contains(*r) && !dead.contains(*r));
    context.proof.company(alive.next().is_some());
    for vehicle in vehicles {
        if connection::holder(&vehicle).is_some_and(|replica| dead.contains(replica)) {
            take(context, &vehicle).await?;
        }
    }
    Ok(())
}

async fn take(context: &Context, vehicle: &Vehicle) -> Result<(), kube::Error> {
    let (epoch, taken) = connection::raise(context, vehicle).await?;
    if taken.done().is_some() {
        // The watch shows it, and begins the vehicle's actor; were it observed here, the watch would have nothing new to tell.
        tracing::info!(vehicle.id = %vehicle.name_any(), epoch, "a vehicle of a replica that is gone is adopted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, list, respond};

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
        for second in [0, 10, 20, 30, 39] {
            let renewed = second.to_string();
            let dead = watchman.dead(&both, &renewals(&[("a", &renewed), ("b", "1")]), at(second));
            assert!(dead.is_empty(), "{second}: {dead:?}");
        }
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
        for second in [100, 120, 139] {
            assert!(watchman.dead(&set(&["a"]), &renewals(&[]), at(second)).is_empty());
        }
        assert_eq!(watchman.dead(&set(&["a"]), &renewals(&[]), at(140)), set(&["a"]));
    }

    #[test]
    fn who_could_not_look_gives_everybody_the_time_anew() {
        let mut watchman = Watchman::default();
        let (other, lease) = (set(&["a"]), renewals(&[("a", "1")]));
        assert!(watchman.dead(&other, &lease, at(1000)).is_empty());
        // The API server was away for five minutes, for both of us.
        for second in [1300, 1310, 1320, 1330] {
            assert!(watchman.dead(&other, &lease, at(second)).is_empty(), "{second}");
        }
        assert_eq!(watchman.dead(&other, &lease, at(1340)), other);
    }

    #[tokio::test]
    async fn adoption_is_left_to_the_watch_to_tell_of() {
        let World {
            context, mut server, ..
        } = World::new();
        let vehicle = |replica: &str, version: &str| -> Vehicle {
            serde_json::from_value(json!({
                "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle",
                "metadata": {"name": "car-aaaaaaaaaaaaaaaa", "uid": "v-1", "resourceVersion": version},
                "spec": {"pool": "overnight"},
                "status": {"phase": "Away", "connection": {"replica": replica, "epoch": 3}},
            }))
            .unwrap()
        };
        let theirs = vehicle("r-9", "10");
        list(&context.roster.vehicles, vec![theirs.clone()]);
        let ours = vehicle(&context.replica, "11");
        let answer = serde_json::to_value(&ours).unwrap();
        let (taken, (_, _, body)) = futures::join!(take(&context, &theirs), respond(&mut server, 200, answer));
        taken.unwrap();
        assert_eq!(
            body["status"]["connection"],
            json!({"replica": context.replica, "epoch": 4})
        );
        assert_eq!(body["metadata"]["resourceVersion"], "10");
        // What the watch tells begins the actor; told already, it would begin none.
        let told = context.roster.vehicles.fold(kube::runtime::watcher::Event::Apply(ours));
        assert_eq!(told, ["car-aaaaaaaaaaaaaaaa"]);
    }
}
