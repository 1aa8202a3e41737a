//! What a gateway counts: connections, messages by what became of them, writes to the API server.
//!
//! Labels have few values, and none is of a car: a count per car is a diary of it.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Message {
    outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Write {
    what: &'static str,
    outcome: &'static str,
}

/// The gateway's metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    connections: Gauge,
    messages: Family<Message, Counter>,
    writes: Family<Write, Counter>,
}

impl Metrics {
    /// Has `registry` show them.
    pub fn register(&self, registry: &mut Registry) {
        let names = "kerbside_telemetry";
        let registry = registry.sub_registry_with_prefix(names);
        registry.register("connections", "Cars that are connected", self.connections.clone());
        registry.register(
            "messages",
            "Messages of cars, by what became of them",
            self.messages.clone(),
        );
        registry.register(
            "writes",
            "Writes of Vehicles, by what became of them",
            self.writes.clone(),
        );
    }

    /// A car is connected for as long as what it gives is there.
    pub(crate) fn connected(&self) -> Connected {
        self.connections.inc();
        Connected(self.connections.clone())
    }

    /// A message came.
    pub(crate) fn message(&self, outcome: &'static str) {
        self.messages.get_or_create(&Message { outcome }).inc();
    }

    /// A Vehicle was to be written.
    pub(crate) fn wrote(&self, what: &'static str, done: bool) {
        let outcome = if done { "done" } else { "failed" };
        self.writes.get_or_create(&Write { what, outcome }).inc();
    }
}

/// One that is counted as connected.
pub(crate) struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown_and_a_connection_for_as_long_as_it_is_there() {
        let (mut registry, metrics) = (Registry::default(), Metrics::default());
        metrics.register(&mut registry);
        let connected = [metrics.connected(), metrics.connected()];
        metrics.message("folded");
        metrics.wrote("publish", false);
        let shown = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        for line in [
            "kerbside_telemetry_connections 2",
            "kerbside_telemetry_messages_total{outcome=\"folded\"} 1",
            "kerbside_telemetry_writes_total{what=\"publish\",outcome=\"failed\"} 1",
        ] {
            assert!(shown().contains(line), "{line} is not in {}", shown());
        }
        drop(connected);
        assert!(shown().contains("kerbside_telemetry_connections 0"), "{}", shown());
    }
}
