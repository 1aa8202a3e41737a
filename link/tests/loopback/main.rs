//! The link over real sockets and real TLS: both sides, one machine.
//!
//! Every wait is for something that happens, with a limit after which the test has failed. Nothing sleeps to let something
//! happen.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, and not what they call"
)]

mod bulk;
mod enrolment;
mod foreign;
mod foreign_adapter;
mod handshakes;
mod moves;
mod proxy;
mod sessions;
mod trust;
mod tunnels;
mod world;
