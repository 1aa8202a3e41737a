//! Version `v1alpha1`: [`VehiclePool`], [`FleetJob`] and [`Vehicle`].
//!
//! One file per kind; a kind's status has a file of its own where it is long. Doc comments of fields become the
//! descriptions in the CRD, so they are written for the people who run `kubectl explain`, with units, and they say what
//! a field does today.
#![allow(
    unreachable_pub,
    reason = "KubeSchema copies each public struct into a function of its own"
)]

mod duration;
mod fleet_job;
mod fleet_job_status;
mod free_for;
mod telemetry;
mod template;
mod vehicle;
mod vehicle_pool;

pub use duration::Duration;
pub use fleet_job::{FleetJob, FleetJobSpec, MANAGED_BY, OnLoss, Output, Replace};
pub use fleet_job_status::{FleetJobStatus, UncountedAttempts};
pub use free_for::{FreeFor, FreeForError, FreeForMinutes};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
pub use telemetry::{ChargeBand, ChargeBandError, Known, Telemetry};
pub use vehicle::{Connection, Offer, Runtime, Source, Vehicle, VehiclePhase, VehicleSpec, VehicleStatus};
pub use vehicle_pool::{
    Access, AllowedNamespaces, Brake, EligibilityRule, Loss, NamespacesFrom, NodeTemplate, Terms, Trust, Unaccepted,
    VehicleCounts, VehiclePool, VehiclePoolSpec, VehiclePoolStatus,
};
