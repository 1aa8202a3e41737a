//! Reconciles VehiclePool and FleetJob, signs vehicles' certificates, accepts results and settles receipts. Never talks to cars.
//!
//! [`run`] wires everything; each controller is a folder of verbs. What another replica could do at the same time is either
//! done by the leader alone or carries a precondition.

pub mod args;

mod acceptance;
mod attempts;
mod fleet_job;
mod ledger;
mod metrics;
mod orphans;
mod report;
mod results;
mod retry;
mod run;
mod signer;
mod silence;
mod vehicle_pool;
mod watches;

#[cfg(test)]
mod testing;

pub use run::{RunError, run};

/// Who we are in `managedFields` and in Events.
const FIELD_MANAGER: &str = "kerbside-operator";
