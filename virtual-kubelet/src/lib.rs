//! Presents every connected car as a Node that keeps the node contract. The only writer of vehicles' Nodes, their Leases, their
//! Pods' status and `Vehicle.status`.
//!
//! [`run`] wires everything. Decisions are `kerbside_core::vehicle`'s; here is one actor per vehicle that carries them out, the watches
//! that feed the actors, and the two ports: the link for cars, the kubelet port for the cluster.

pub mod args;

mod actor;
mod admission;
mod arrivals;
mod connection;
mod context;
mod enrolment;
mod events;
mod fleet;
mod gate;
mod identity;
mod kubelet_api;
mod link_service;
mod logs;
mod metrics;
mod mirror;
mod node;
mod node_affinity;
mod objects;
mod offer;
mod output;
mod pod_facts;
mod pod_status;
mod pod_watch;
mod pod_writer;
mod program;
mod proof;
mod provide;
mod pull;
mod receipts;
mod references;
mod refusal;
mod replica;
mod run;
mod terms;
mod tunnels;
mod twins;
mod vehicle_status;
mod vehicle_watch;

#[cfg(test)]
mod testing;

pub use program::{RunError, run};
