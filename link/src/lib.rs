//! The protocol between car and adapter: messages, identity, client and server.
//!
//! `PROTOCOL.md` beside this crate says how a foreign implementation speaks it. The pure parts ([`outbox`], [`handshake`],
//! [`heartbeat`], [`backoff`], [`rate_limit`]) know neither sockets nor tasks; [`client`] and [`server`] carry out what they
//! decide; [`open_files`] makes room for many connections. Nothing here knows Kubernetes, and nothing here decides about an attempt.
#![deny(missing_docs)]

pub mod backoff;
pub mod client;
mod codec;
pub mod fault;
pub mod handshake;
pub mod heartbeat;
pub mod identity;
mod mailbox;
pub mod open_files;
pub mod outbox;
pub mod rate_limit;
pub mod server;
mod system_clock;
mod tls;

pub use system_clock::SystemClock;

/// The messages and services of `proto/kerbside/link/v1/link.proto`, as generated.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::use_self)]
pub mod proto {
    tonic::include_proto!("kerbside.link.v1");
}

/// The largest message either side takes, a `Run` with its Pod above all; a little over the 1 MiB that may be in it.
pub const MESSAGE_LIMIT: usize = 1024 * 1024 + 64 * 1024;

/// The most bytes of a file in one message: a bulk transfer yields to the session between two.
pub const CHUNK_LIMIT: usize = 256 * 1024;

/// The most bytes of one part of a tunnel: a key that is pressed waits behind little.
pub const TUNNEL_LIMIT: usize = 64 * 1024;

/// Parts of a tunnel that wait for a slow reader, at each end.
pub const TUNNEL_PARTS: usize = 8;
