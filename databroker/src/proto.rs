//! The protocol, as `build.rs` generates it from the agent's `proto/`.
#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::use_self)]

tonic::include_proto!("kuksa.val.v2");
