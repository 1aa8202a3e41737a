//! A second source of what is known of cars: the telemetry that their maker has them send, heard at the fleet's own premises.
//!
//! ```text
//! car ──WebSocket, mutual TLS──► server ──payload──► signals ──► cars ──bands──► publish ──► Vehicle (source Telemetry)
//!                                  │ VIN                          │ pseudonym
//!                                  └─► pseudonym ─────────────────┘
//! ```
//!
//! For cars in which no agent of ours runs. They are shown and planned with, and never given work: nothing here can make a Node, and the
//! API server refuses a Vehicle without an agent whatever a Node would need. What must never leave: a VIN, a position, a value of a
//! signal, a time finer than `publishEvery`.
#![deny(missing_docs)]

pub mod args;
pub mod car;
pub mod cars;
pub mod config;
pub mod envelope;
pub mod metrics;
pub mod proto;
pub mod pseudonym;
pub mod publish;
mod run;
pub mod server;
pub mod signals;
pub mod slots;
pub mod websocket;

pub use run::{RunError, run};
