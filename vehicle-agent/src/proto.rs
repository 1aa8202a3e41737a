//! The protocols that the agent speaks in its car, as `build.rs` generates them from `proto/`.
//!
//! Each is used by the room that speaks it, and by that room's tests, which are the other side.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::use_self
)]

/// To a container engine: `runtime/v1/api.proto`.
pub(crate) mod cri {
    tonic::include_proto!("runtime.v1");
}

/// To a program that is asked how it is: `grpc/health/v1/health.proto`.
pub(crate) mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// To a databroker: `kuksa/val/v2/val.proto`.
pub(crate) mod kuksa {
    tonic::include_proto!("kuksa.val.v2");
}
