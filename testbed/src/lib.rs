//! A real control plane and a fleet on one machine: the demo, the cluster tests, the benchmarks.
//!
//! Called by the `kerbside-testbed` program and by `tests/`. Everything it starts is a real process with a record on disk
//! (see [`process`]), so that any later run can find it and end it; it never ends what it did not start.

pub mod audit;
pub mod bed;
pub mod bench;
pub mod browser;
pub mod chaos;
pub mod cli;
pub mod control_plane;
pub mod databroker;
pub mod demo;
pub mod digits;
pub mod endpoints;
pub mod engine;
pub mod fleet;
pub mod http;
pub mod install;
pub mod kubectl;
pub mod layout;
pub mod peer;
pub mod ports;
pub mod privacy;
pub mod process;
pub mod programs;
pub mod registry;
pub mod store;
pub mod telemetry;
pub mod tools;
pub mod up;
pub mod wait;
pub mod world;
