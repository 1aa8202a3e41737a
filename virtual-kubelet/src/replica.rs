//! This replica among others: it shows that it lives by a Lease of its own, and adopts the vehicles of replicas that no longer do.
//!
//! Run once per program, and ended by it when its cars are gone. An adoption is one write to the Vehicle's `connection`, under its
//! resourceVersion, so that one replica wins; the vehicle's actor then begins as after a restart, and counts every fence anew. A replica
//! that ends in good order takes its Lease away, and its vehicles are adopted at the next look; the Lease of one that did not stays until
//! nobody can mean it any more. What must never happen: a replica takes its Lease away while it still answers its cars.

mod watchman;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kerbside_api::v1alpha1::Vehicle;
use kerbside_k8s::apply;
use kerbside_k8s::client::{BRIEFLY, insist_for};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::timeout;

use self::watchman::Watchman;
use crate::connection;
use crate::context::{Context, MANAGER, PATIENCE};

/// Also how often others are looked at. A handful of adapters write a handful of Leases: what counts is that an adoption comes before
/// kube-controller-manager gives up the Nodes.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// Six renewals: a replica that only restarts, or has lost its API server for a moment, keeps its vehicles.
pub(crate) const EXPIRES_AFTER: Duration = Duration::from_secs(18);
/// A look that failed, with its patience, between two that did not.
const BLIND_AFTER: Duration = Duration::from_secs(10);
/// The Lease of a replica that has no vehicles is kept for so long: whoever starts it again under its name finds it.
const FORGET_AFTER: Duration = Duration::from_mins(10);
/// Vehicles that are adopted at once: a replica may have had thousands.
const TAKEN_AT_ONCE: usize = 16;
/// On the Leases of adapters.
const LABEL: &str = "kerbside.dev/adapter-replica";

/// Renews and adopts for ever.
pub(crate) async fn run(context: Arc<Context>, namespace: String) {
    let api: Api<Lease> = Api::namespaced(context.client.clone(), &namespace);
    context.synced().await;
    // Neither waits for the other: thousands of vehicles to adopt must not make this replica look dead.
    futures::join!(live(&context, &api, &namespace), watch(&context, &api));
}

/// Takes this replica's Lease away. Only for one that answers no car any more: others adopt its vehicles at once.
pub(crate) async fn end(context: &Context, namespace: &str) {
    let api: Api<Lease> = Api::namespaced(context.client.clone(), namespace);
    let name = lease_name(&context.replica);
    let params = DeleteParams::default();
    // Once and for all: one that stays keeps the vehicles waiting until it expires.
    let deleted = async {
        match insist_for(BRIEFLY, || api.delete(&name, &params)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    };
    answered("delete this replica's Lease", deleted).await;
}

async fn live(context: &Context, api: &Api<Lease>, namespace: &str) {
    loop {
        let sent = context.clock.boottime();
        let renewed = answered("renew this replica's Lease", renew(context, api, namespace)).await;
        if renewed.is_some() {
            context.proof.renewed(sent);
        }
        tokio::time::sleep(RENEW_EVERY).await;
    }
}

async fn watch(context: &Context, api: &Api<Lease>) {
    let mut watchman = Watchman::default();
    loop {
        let leases = ListParams::default().labels(&format!("{LABEL}=true"));
        if let Some(found) = answered("look at other replicas", api.list(&leases)).await {
            let orphans = look(context, &mut watchman, &found.items);
            stream::iter(orphans)
                .for_each_concurrent(TAKEN_AT_ONCE, |vehicle| async move {
                    answered("adopt a vehicle", take(context, &vehicle)).await;
                })
                .await;
            forget(context, api, &watchman, found.items).await;
        }
        tokio::time::sleep(RENEW_EVERY).await;
    }
}

/// What the API server answers, if it does as it was asked, in time.
async fn answered<T>(what: &str, request: impl Future<Output = Result<T, kube::Error>>) -> Option<T> {
    match timeout(PATIENCE, request).await {
        Ok(Ok(answer)) => return Some(answer),
        Ok(Err(error)) => tracing::warn!(%error, "failed to {what}"),
        Err(_) => tracing::warn!("failed to {what}: no answer from the API server"),
    }
    None
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

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

/// Looks at the other replicas; the vehicles of those that are gone.
fn look(context: &Context, watchman: &mut Watchman, leases: &[Lease]) -> Vec<Arc<Vehicle>> {
    let vehicles = vehicles(context);
    let renewals: BTreeMap<_, _> = leases
        .iter()
        .filter_map(|lease| {
            let renewed = lease.spec.as_ref()?.renew_time.as_ref()?;
            Some((holder(lease)?.to_owned(), format!("{:?}", renewed.0)))
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
    let orphan = |v: &Arc<Vehicle>| connection::holder(v).is_some_and(|replica| dead.contains(replica));
    vehicles.into_iter().filter(orphan).collect()
}

fn vehicles(context: &Context) -> Vec<Arc<Vehicle>> {
    let names = context.roster.names();
    names.iter().filter_map(|name| context.roster.vehicle(name)).collect()
}

async fn take(context: &Context, vehicle: &Vehicle) -> Result<(), kube::Error> {
    let (epoch, taken) = connection::raise(context, vehicle).await?;
    if taken.done().is_some() {
        // The watch shows it, and begins the vehicle's actor; were it observed here, the watch would have nothing new to tell.
        tracing::info!(vehicle.id = %vehicle.name_any(), epoch, "a vehicle of a replica that is gone is adopted");
    }
    Ok(())
}

/// Deletes the Leases of replicas that are gone for good, each as it was read: one that was renewed since is somebody's.
async fn forget(context: &Context, api: &Api<Lease>, watchman: &Watchman, leases: Vec<Lease>) {
    let now = context.clock.boottime();
    let vehicles = vehicles(context);
    for lease in leases {
        let Some(replica) = holder(&lease).filter(|r| *r != context.replica) else {
            continue;
        };
        let named = vehicles.iter().any(|v| connection::is_held_by(v, replica));
        if named || watchman.silence(replica, now) < FORGET_AFTER {
            continue;
        }
        let deleted = answered(
            "delete the Lease of a replica that is gone",
            apply::delete_as_read(api, &lease),
        )
        .await;
        if deleted.is_some_and(|deleted| !deleted.is_stale()) {
            tracing::info!(replica, "the Lease of a replica that is gone is deleted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, list, respond};
    use kerbside_core::clock::Boottime;
    use serde_json::Value;

    fn lease(replica: &str, renewed: &str) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": lease_name(replica), "namespace": "kerbside-system", "uid": format!("l-{replica}"), "resourceVersion": "7"},
            "spec": {"holderIdentity": replica, "renewTime": renewed},
        })
    }

    fn leases(of: &[(&str, &str)]) -> Vec<Lease> {
        of.iter()
            .map(|(replica, renewed)| serde_json::from_value(lease(replica, renewed)).unwrap())
            .collect()
    }

    fn vehicle(replica: &str) -> Vehicle {
        serde_json::from_value(json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle",
            "metadata": {"name": "car-aaaaaaaaaaaaaaaa", "uid": "v-1", "resourceVersion": "10"},
            "spec": {"pool": "overnight"},
            "status": {"phase": "Away", "connection": {"replica": replica, "epoch": 3}},
        }))
        .unwrap()
    }

    const EARLY: &str = "2026-11-23T12:00:00.000000Z";
    const LATE: &str = "2026-11-23T12:09:00.000000Z";

    fn api(context: &Context) -> Api<Lease> {
        Api::namespaced(context.client.clone(), "kerbside-system")
    }

    #[tokio::test]
    async fn replica_that_ends_in_good_order_takes_its_lease_away() {
        let World {
            context, mut server, ..
        } = World::new();
        let ((), (method, path, _)) = futures::join!(
            end(&context, "kerbside-system"),
            respond(&mut server, 200, lease("r-0", EARLY))
        );
        assert_eq!(
            (method.as_str(), path.as_str()),
            (
                "DELETE",
                "/apis/coordination.k8s.io/v1/namespaces/kerbside-system/leases/kerbside-kubelet-r-0"
            )
        );
    }

    #[tokio::test(start_paused = true)]
    async fn lease_is_taken_away_from_an_api_server_that_refuses_for_a_moment() {
        let World {
            context, mut server, ..
        } = World::new();
        let busy = json!({"kind": "Status", "status": "Failure", "code": 429, "reason": "TooManyRequests", "message": "not now"});
        let answers = async {
            respond(&mut server, 429, busy).await;
            respond(&mut server, 200, lease("r-0", EARLY)).await
        };
        let ((), (method, ..)) = futures::join!(end(&context, "kerbside-system"), answers);
        assert_eq!(method, "DELETE");
    }

    #[tokio::test]
    async fn vehicles_of_a_replica_that_took_its_lease_away_are_adopted_at_the_next_look() {
        let World { context, clock, .. } = World::new();
        list(&context.roster.vehicles, vec![vehicle("r-9")]);
        let mut watchman = Watchman::default();
        clock.set(100);
        assert!(look(&context, &mut watchman, &leases(&[("r-9", EARLY)])).is_empty());
        clock.set(103);
        let orphans = look(&context, &mut watchman, &[]);
        assert_eq!(orphans.len(), 1);
        assert!(
            !context.proof.is_doubtful(Boottime(Duration::from_hours(1))),
            "it is alone now"
        );
    }

    #[tokio::test]
    async fn lease_of_a_replica_that_is_gone_for_good_is_deleted_as_it_was_read() {
        let World {
            context,
            mut server,
            clock,
            ..
        } = World::new();
        list(&context.roster.vehicles, vec![]);
        let mut watchman = Watchman::default();
        let look_at = |watchman: &mut Watchman, second: u64, renewed: &str| {
            clock.set(second);
            // Its own is as old: that one is not another's.
            look(
                &context,
                watchman,
                &leases(&[("r-9", EARLY), ("r-0", EARLY), ("r-8", renewed)]),
            );
        };
        for second in (100..700).step_by(5) {
            look_at(&mut watchman, second, if second < 600 { EARLY } else { LATE });
        }
        let all = || leases(&[("r-9", EARLY), ("r-0", EARLY), ("r-8", LATE)]);
        let api = api(&context);
        forget(&context, &api, &watchman, all()).await;
        look_at(&mut watchman, 700, LATE);
        let ((), (method, path, body)) = futures::join!(
            forget(&context, &api, &watchman, all()),
            respond(&mut server, 200, lease("r-9", EARLY))
        );
        assert_eq!(
            (method.as_str(), path.as_str()),
            (
                "DELETE",
                "/apis/coordination.k8s.io/v1/namespaces/kerbside-system/leases/kerbside-kubelet-r-9"
            )
        );
        assert_eq!(body["preconditions"], json!({"uid": "l-r-9", "resourceVersion": "7"}));
    }

    #[tokio::test]
    async fn lease_of_a_replica_that_a_vehicle_names_is_kept() {
        let World { context, clock, .. } = World::new();
        list(&context.roster.vehicles, vec![vehicle("r-9")]);
        let mut watchman = Watchman::default();
        for second in (100..1000).step_by(5) {
            clock.set(second);
            look(&context, &mut watchman, &leases(&[("r-9", EARLY)]));
        }
        // Nobody answers: a request would be told as one that failed, after its patience.
        tokio::time::pause();
        let asked = tokio::time::Instant::now();
        forget(&context, &api(&context), &watchman, leases(&[("r-9", EARLY)])).await;
        assert_eq!(asked.elapsed(), Duration::ZERO);
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
