//! Pure decisions: state machines, plans, policies, quantities.
//!
//! Everything here is a function of its arguments: no kube, no tokio, no clock, no randomness, no I/O. The crates around it
//! bring time and facts and carry out what is decided here. `cargo tree` in CI checks that it stays so.
#![deny(missing_docs)]

pub mod admission;
pub mod attempt;
pub mod backoff;
pub mod clock;
pub mod consent;
#[cfg(test)]
mod coupled;
pub mod data;
pub mod departure;
pub mod duration;
pub mod energy;
pub mod forecast;
pub mod guard;
pub mod ids;
pub mod index_set;
pub mod job;
pub mod ledger;
pub mod names;
pub mod owner;
pub mod parked;
pub mod quantity;
pub mod rate;
pub mod receipt;
pub mod vehicle;
