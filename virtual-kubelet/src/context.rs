//! What every vehicle's actor shares: the cluster, the clock, the mirrors, the store. Built once by `run`; nothing in it belongs to
//! one vehicle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::ids::VehicleId;
use kerbside_core::vehicle::brake::{Brake, BrakeTerms, Quiet, Verdict};
use kerbside_k8s::events::Recorder;
use kerbside_k8s::store::Store;
use kube::Client;

use crate::gate::Gate;
use crate::metrics::{Metrics, PoolLabel};
use crate::mirror::Mirror;
use crate::node::NodeConfig;
use crate::objects::Objects;
use crate::proof::Proof;
use crate::pull::Exchange;
use crate::refusal::RefusalLedger;
use crate::vehicle_watch::Roster;

/// The field manager of everything that the adapter writes.
pub(crate) const MANAGER: &str = "kerbside-virtual-kubelet";

/// A request that has no answer by then is made again: a connection that fell into a hole says nothing for minutes, and the API server
/// is asked at its next address. No longer than a renewal is fresh, or one that is slow would never be.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Shared by all actors.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) clock: Arc<dyn Clock>,
    /// The name of this adapter replica.
    pub(crate) replica: String,
    pub(crate) node: NodeConfig,
    pub(crate) pods: Mirror<Pod>,
    pub(crate) nodes: Mirror<Node>,
    pub(crate) roster: Roster,
    pub(crate) store: Store,
    /// What Pods on vehicles name.
    pub(crate) objects: Objects,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) refusals: RefusalLedger,
    pub(crate) brakes: Brakes,
    pub(crate) proof: Proof,
    pub(crate) gate: Arc<Gate>,
    /// The way to registries.
    pub(crate) exchange: Exchange,
}

impl Context {
    /// Waits until everything that an actor reads has been listed once.
    pub(crate) async fn synced(&self) {
        futures::join!(self.pods.synced(), self.nodes.synced(), self.roster.synced());
    }

    /// Whether everything has been listed once.
    pub(crate) fn is_synced(&self) -> bool {
        self.pods.is_synced() && self.nodes.is_synced() && self.roster.is_synced()
    }
}

/// The brakes of all pools, each over this adapter's own cars, and what the metrics say of them.
#[derive(Debug)]
pub(crate) struct Brakes {
    pools: Mutex<HashMap<String, PoolBrake>>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct PoolBrake {
    cars: usize,
    brake: Brake,
}

impl Brakes {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            pools: Mutex::default(),
            metrics,
        }
    }

    fn with<R>(&self, pool: &str, f: impl FnOnce(&mut PoolBrake) -> R) -> R {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        f(pools.entry(pool.to_owned()).or_default())
    }

    /// Asks the pool's brake something; what it came to is logged, and shown by the metrics before another asks.
    fn ask<R>(&self, pool: &str, f: impl FnOnce(&mut Brake, usize) -> R) -> R {
        self.with(pool, |p| {
            let before = p.brake.is_engaged();
            let answer = f(&mut p.brake, p.cars);
            let (engaged, held) = (p.brake.is_engaged(), p.brake.held());
            if engaged && !before {
                tracing::warn!(
                    pool.name = pool,
                    cars = p.cars,
                    "many vehicles fell silent together; their attempts are held until they return or their fences pass"
                );
            } else if before && !engaged {
                tracing::info!(pool.name = pool, "attempts of silent vehicles are held no longer");
            }
            let label = PoolLabel { pool: pool.to_owned() };
            let held = i64::try_from(held).unwrap_or(i64::MAX);
            self.metrics.brake_engaged.get_or_create(&label).set(engaged.into());
            self.metrics.held.get_or_create(&label).set(held);
            answer
        })
    }

    /// A car of the pool works from now on (`1`), or no more (`-1`).
    pub(crate) fn count(&self, pool: &str, change: isize) {
        self.with(pool, |p| p.cars = p.cars.saturating_add_signed(change));
    }

    /// A car is not heard: what follows?
    pub(crate) fn quiet(&self, pool: &str, id: &VehicleId, quiet: Quiet, terms: BrakeTerms, now: Boottime) -> Verdict {
        self.ask(pool, |brake, cars| brake.quiet(id, quiet, cars, terms, now))
    }

    /// A car is heard again, or is not of this pool and adapter any more.
    pub(crate) fn heard(&self, pool: &str, id: &VehicleId) {
        self.ask(pool, |brake, _| brake.heard(id));
    }
}
