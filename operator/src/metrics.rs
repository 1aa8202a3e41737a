//! The operator's metrics: what it reconciled, what became of attempts and of receipts, what it signed and served.
//!
//! Every label has few values: kinds, outcomes, reasons. Never a job, a Pod or a vehicle: a fleet has 100,000 of those.

use std::time::Duration;

use kerbside_core::names::reason;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Reasons that Pods may bring; anything else counts as `Other`, so that nobody can fill the metrics by inventing some.
const REASONS: [&str; 26] = [
    reason::VEHICLE_DEPARTED,
    reason::VEHICLE_LOST,
    reason::OWNER_CONSENT_MISSING,
    reason::CLASS_NOT_ACCEPTED,
    reason::NOT_PARKED,
    reason::OWNER_PAUSED,
    reason::ENERGY_TERMS,
    reason::NETWORK_TERMS,
    reason::OWNER_TERMS,
    reason::PAY_BELOW_FLOOR,
    reason::CURRENCY_DIFFERS,
    reason::SIGNATURE_VALIDATION_FAILED,
    reason::RUNTIME_MISSING,
    reason::NOT_SUPPORTED,
    reason::VEHICLE_PAUSED,
    reason::VEHICLE_LEAVING,
    reason::VEHICLE_UNHEARD,
    "OutOfcpu",
    "OutOfmemory",
    "OutOfpods",
    "NodeAffinity",
    "NamespaceNotAllowed",
    "NotTrusted",
    "PodOSNotSupported",
    "OutputMissing",
    "PodDeleted",
];

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reconcile {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Certificate {
    signer: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Watch {
    resource: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    what: &'static str,
    status: u16,
}

/// The operator's metrics. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    reconciles: Family<Reconcile, Counter>,
    durations: Family<Kind, Histogram>,
    accepted: Counter,
    superseded: Counter,
    created: Counter,
    failures: Counter,
    disruptions: Family<Reason, Counter>,
    refusals: Family<Reason, Counter>,
    certificates: Family<Certificate, Counter>,
    results: Family<Request, Counter>,
    watch_errors: Family<Watch, Counter>,
    receipts: Family<Outcome, Counter>,
    accepted_receipts: Family<Outcome, Counter>,
    unsettled: Gauge,
    leads: Gauge,
}

impl Metrics {
    /// Makes all metrics and registers them.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            // 1 ms to 16 s: a reconcile that changes nothing takes less than the first, one that makes 10,000 Pods the last.
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 15))),
            accepted: Counter::default(),
            superseded: Counter::default(),
            created: Counter::default(),
            failures: Counter::default(),
            disruptions: Family::default(),
            refusals: Family::default(),
            certificates: Family::default(),
            results: Family::default(),
            watch_errors: Family::default(),
            receipts: Family::default(),
            accepted_receipts: Family::default(),
            unsettled: Gauge::default(),
            leads: Gauge::default(),
        };
        let r = registry.sub_registry_with_prefix("kerbside_operator");
        r.register(
            "reconciles",
            "Reconciles, by kind and outcome (ok or the error's category)",
            metrics.reconciles.clone(),
        );
        r.register(
            "reconcile_duration_seconds",
            "Time that a reconcile took, by kind",
            metrics.durations.clone(),
        );
        r.register(
            "certificate_requests",
            "Answered certificate requests, by signer and outcome",
            metrics.certificates.clone(),
        );
        r.register(
            "results_requests",
            "Requests to /results, /logs and /ledger, by what and HTTP status",
            metrics.results.clone(),
        );
        r.register(
            "watch_errors",
            "Watches that failed and went on, by kind",
            metrics.watch_errors.clone(),
        );
        r.register("leads", "1 where this replica is the leader", metrics.leads.clone());
        let r = registry.sub_registry_with_prefix("kerbside_fleetjob");
        r.register("attempts_created", "Pods created for attempts", metrics.created.clone());
        r.register(
            "results_accepted",
            "Results accepted: one per completed index",
            metrics.accepted.clone(),
        );
        r.register(
            "results_superseded",
            "Results that came after another of the same index",
            metrics.superseded.clone(),
        );
        r.register("failures", "Attempts whose program failed", metrics.failures.clone());
        r.register(
            "disruptions",
            "Attempts ended by the car or the link, by reason",
            metrics.disruptions.clone(),
        );
        r.register(
            "refusals",
            "Attempts that a car declined before starting them, by reason",
            metrics.refusals.clone(),
        );
        let r = registry.sub_registry_with_prefix("kerbside_ledger");
        r.register(
            "receipts",
            "Vehicles' receipts by what became of them: settled, repeated, refused, or dropped after a month",
            metrics.receipts.clone(),
        );
        r.register(
            "acceptances",
            "Acceptances that were signed, by how the attempt counts: accepted, superseded, failed or disrupted",
            metrics.accepted_receipts.clone(),
        );
        r.register(
            "unsettled",
            "Vehicles' receipts that wait to be settled",
            metrics.unsettled.clone(),
        );
        metrics
    }

    /// One reconcile is over; `outcome` is `ok` or an error's category.
    pub(crate) fn reconciled(&self, kind: &'static str, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Reconcile { kind, outcome }).inc();
        self.durations.get_or_create(&Kind { kind }).observe(took.as_secs_f64());
    }

    pub(crate) fn attempt_created(&self) {
        self.created.inc();
    }

    pub(crate) fn result_accepted(&self) {
        self.accepted.inc();
    }

    pub(crate) fn result_superseded(&self) {
        self.superseded.inc();
    }

    pub(crate) fn failures(&self, count: u64) {
        self.failures.inc_by(count);
    }

    pub(crate) fn disruption(&self, reason: &str) {
        self.disruptions.get_or_create(&Reason { reason: known(reason) }).inc();
    }

    pub(crate) fn refusal(&self, reason: &str) {
        self.refusals.get_or_create(&Reason { reason: known(reason) }).inc();
    }

    /// A certificate request is answered: `signed`, or the reason of its refusal.
    pub(crate) fn certificate(&self, signer: &str, outcome: &'static str) {
        self.certificates
            .get_or_create(&Certificate {
                signer: signer.to_owned(),
                outcome,
            })
            .inc();
    }

    pub(crate) fn results_request(&self, what: &'static str, status: u16) {
        self.results.get_or_create(&Request { what, status }).inc();
    }

    /// A receipt needs no further look.
    pub(crate) fn receipt(&self, outcome: &'static str) {
        self.receipts.get_or_create(&Outcome { outcome }).inc();
    }

    /// An acceptance is in the store.
    pub(crate) fn acceptance(&self, standing: &'static str) {
        self.accepted_receipts
            .get_or_create(&Outcome { outcome: standing })
            .inc();
    }

    /// So many receipts wait.
    pub(crate) fn unsettled(&self, count: usize) {
        self.unsettled.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A watch failed; it goes on by itself, so that only this tells of one that cannot get through.
    pub(crate) fn watch_failed(&self, kind: &str) {
        self.watch_errors
            .get_or_create(&Watch {
                resource: kind.to_owned(),
            })
            .inc();
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leads.set(i64::from(leads));
    }
}

fn known(reason: &str) -> String {
    if REASONS.contains(&reason) {
        reason.to_owned()
    } else {
        "Other".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_that_nobody_knows_counts_as_other() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        metrics.disruption(reason::VEHICLE_LOST);
        metrics.disruption("made-up");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(
            text.contains(r#"kerbside_fleetjob_disruptions_total{reason="VehicleLost"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"kerbside_fleetjob_disruptions_total{reason="Other"} 1"#),
            "{text}"
        );
        assert!(!text.contains("made-up"));
    }

    #[rstest::rstest]
    #[case("NotTrusted")]
    #[case("NamespaceNotAllowed")]
    #[case("NodeAffinity")]
    #[case("PodOSNotSupported")]
    #[case("OutputMissing")]
    #[case(reason::VEHICLE_UNHEARD)]
    fn reason_that_the_adapter_gives_counts_by_its_name(#[case] reason: &str) {
        assert_eq!(known(reason), reason);
    }
}
