//! Cluster tests: real control plane, real programs, real cars. `make cluster` runs them; `world::run` clears away after each.
//!
//! One binary, one file per subject. `alone` holds the tests that take down what all share: nextest runs each of them by itself.

#[path = "cluster/admission.rs"]
mod admission;
#[path = "cluster/alone.rs"]
mod alone;
#[path = "cluster/bad_input.rs"]
mod bad_input;
#[path = "cluster/brake.rs"]
mod brake;
#[path = "cluster/cloud.rs"]
mod cloud;
#[path = "cluster/comeback.rs"]
mod comeback;
#[path = "cluster/consent.rs"]
mod consent;
#[path = "cluster/containers.rs"]
mod containers;
#[path = "cluster/deletion.rs"]
mod deletion;
#[path = "cluster/departure.rs"]
mod departure;
#[path = "cluster/doctor.rs"]
mod doctor;
#[path = "cluster/energy.rs"]
mod energy;
#[path = "cluster/engine.rs"]
mod engine;
#[path = "cluster/examples.rs"]
mod examples;
#[path = "cluster/explain.rs"]
mod explain;
#[path = "cluster/extended.rs"]
mod extended;
#[path = "cluster/guard.rs"]
mod guard;
#[path = "cluster/identity.rs"]
mod identity;
#[path = "cluster/ledger.rs"]
mod ledger;
#[path = "cluster/lifecycle.rs"]
mod lifecycle;
#[path = "cluster/limits.rs"]
mod limits;
#[path = "cluster/logs.rs"]
mod logs;
#[path = "cluster/loss.rs"]
mod loss;
#[path = "cluster/model.rs"]
mod model;
#[path = "cluster/others.rs"]
mod others;
#[path = "cluster/page.rs"]
mod page;
#[path = "cluster/privacy.rs"]
mod privacy;
#[path = "cluster/publishers.rs"]
mod publishers;
#[path = "cluster/refusals.rs"]
mod refusals;
#[path = "cluster/rules.rs"]
mod rules;
#[path = "cluster/signals.rs"]
mod signals;
#[path = "cluster/silence.rs"]
mod silence;
#[path = "cluster/support.rs"]
mod support;
#[path = "cluster/telemetry.rs"]
mod telemetry;
#[path = "cluster/why.rs"]
mod why;
