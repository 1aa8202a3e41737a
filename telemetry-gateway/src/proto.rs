//! What is read of a car's payload, as `build.rs` generates it from `proto/`.
#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::use_self)]

include!(concat!(env!("OUT_DIR"), "/kerbside.telemetry.v1.rs"));
