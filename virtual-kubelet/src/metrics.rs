//! What the adapter counts. Labels name pools, never vehicles: a metric must not show when one car comes and goes.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PoolLabel {
    pub(crate) pool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PhaseLabel {
    pub(crate) pool: String,
    pub(crate) phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WriteLabel {
    pub(crate) pool: String,
    /// done, stale or failed.
    pub(crate) outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabel {
    /// Of a receipt: stored, repeated, postponed or refused.
    pub(crate) outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct HeldLabel {
    /// heartbeat, state, status, unknown or receipt.
    pub(crate) kind: &'static str,
    /// waits, refused or ended.
    pub(crate) outcome: &'static str,
}

/// The adapter's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) vehicles: Family<PhaseLabel, Gauge>,
    pub(crate) connected: Family<PoolLabel, Gauge>,
    pub(crate) suspected: Family<PoolLabel, Gauge>,
    pub(crate) brake_engaged: Family<PoolLabel, Gauge>,
    pub(crate) held: Family<PoolLabel, Gauge>,
    pub(crate) attempts: Family<PoolLabel, Gauge>,
    pub(crate) pod_status_writes: Family<WriteLabel, Counter>,
    pub(crate) pod_deletes: Family<WriteLabel, Counter>,
    pub(crate) node_writes: Family<WriteLabel, Counter>,
    pub(crate) vehicle_writes: Family<WriteLabel, Counter>,
    pub(crate) lease_renewals: Family<WriteLabel, Counter>,
    pub(crate) connects: Family<PoolLabel, Counter>,
    receipts: Family<OutcomeLabel, Counter>,
    link_held: Family<HeldLabel, Counter>,
    run_to_running: Family<PoolLabel, Histogram>,
}

impl Metrics {
    /// New metrics, registered.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            vehicles: Family::default(),
            connected: Family::default(),
            suspected: Family::default(),
            brake_engaged: Family::default(),
            held: Family::default(),
            attempts: Family::default(),
            pod_status_writes: Family::default(),
            pod_deletes: Family::default(),
            node_writes: Family::default(),
            vehicle_writes: Family::default(),
            lease_renewals: Family::default(),
            connects: Family::default(),
            receipts: Family::default(),
            link_held: Family::default(),
            // From 50 ms, a module that is cached, to about 7 min, a large model over a slow network.
            run_to_running: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.05, 2.0, 14))),
        };
        let registry = registry.sub_registry_with_prefix("kerbside_kubelet");
        registry.register(
            "vehicles",
            "Vehicles of this adapter, by phase",
            metrics.vehicles.clone(),
        );
        registry.register(
            "vehicles_connected",
            "Vehicles with an open connection",
            metrics.connected.clone(),
        );
        registry.register(
            "vehicles_suspected",
            "Vehicles that are not heard",
            metrics.suspected.clone(),
        );
        registry.register(
            "brake_engaged",
            "1 while so many vehicles of the pool are silent that their attempts are held",
            metrics.brake_engaged.clone(),
        );
        registry.register(
            "vehicles_held",
            "Vehicles that are not heard and whose attempts the brake holds",
            metrics.held.clone(),
        );
        registry.register("attempts", "Attempts that have not ended", metrics.attempts.clone());
        registry.register(
            "pod_status_writes",
            "Writes of a Pod's status",
            metrics.pod_status_writes.clone(),
        );
        registry.register(
            "pod_deletes",
            "Pods deleted by the adapter",
            metrics.pod_deletes.clone(),
        );
        registry.register("node_writes", "Writes of a Node", metrics.node_writes.clone());
        registry.register(
            "vehicle_status_writes",
            "Writes of a Vehicle's status",
            metrics.vehicle_writes.clone(),
        );
        registry.register(
            "lease_renewals",
            "Renewals of a Node's Lease",
            metrics.lease_renewals.clone(),
        );
        registry.register("link_connects", "Connections of vehicles", metrics.connects.clone());
        registry.register(
            "receipts",
            "Receipts that vehicles have sent, by what became of them",
            metrics.receipts.clone(),
        );
        registry.register(
            "link_held_back",
            "Messages and receipts of which a vehicle sent more than it may",
            metrics.link_held.clone(),
        );
        registry.register(
            "run_to_running_seconds",
            "From sending a Run to hearing that it runs",
            metrics.run_to_running.clone(),
        );
        metrics
    }

    /// A vehicle has sent a receipt.
    pub(crate) fn receipt(&self, outcome: &'static str) {
        self.receipts.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// A vehicle sends more of a kind than it may.
    pub(crate) fn held_up(&self, kind: &'static str, outcome: &'static str) {
        self.link_held.get_or_create(&HeldLabel { kind, outcome }).inc();
    }

    /// A Run of the pool has been answered by Running after `took`.
    pub(crate) fn ran(&self, pool: &str, took: Duration) {
        self.run_to_running
            .get_or_create(&PoolLabel { pool: pool.to_owned() })
            .observe(took.as_secs_f64());
    }
}
