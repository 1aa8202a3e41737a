//! The operator's half of the ledger: what it knows of an attempt that has ended, and what it accepts of what the car signed for.
//!
//! Three parts that meet in the store alone. A *closing* is written by whoever lets an attempt's Pod go, or has to hold it ([`Closings`]). The *settler*
//! ([`settle()`]), on the leader, holds each vehicle's receipt against its closing and signs an acceptance, in a chain of its own for
//! each vehicle. `/ledger` ([`Ledgers`]) serves both halves, on every replica. What is paid for follows in `core::ledger`. Never: two
//! acceptances of one attempt; an acceptance of what no car of ours has signed.

mod chain;
mod closing;
mod desk;
mod key;
mod receipt;
mod serve;
mod settle;

pub(crate) use closing::{CloseError, Closings, Ended, is_final};
pub(crate) use serve::Ledgers;
pub(crate) use settle::{Office, settle};

/// Objects of the store read at a time, and vehicles settled at a time: enough to hide its latency, few enough to leave it room for others.
const AT_A_TIME: usize = 16;

#[cfg(test)]
mod testing;
