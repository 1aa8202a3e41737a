//! The only crate with API-server habits: client, apply, conditions, events, leases, election, certificates, the store.
//!
//! Operator, adapter and plugin call it; it knows nothing of what they decide. It never retries a write that a caller must
//! re-decide (a conflict), and never hides an API server's message.
#![deny(missing_docs)]

pub mod admin;
pub mod apply;
pub mod client;
pub mod conditions;
pub mod csr;
pub mod election;
pub mod eligibility;
pub mod events;
pub mod lease;
pub mod stop;
pub mod store;
pub mod telemetry;
