//! Whose a vehicle is: `status.connection` of its Vehicle, read and raised in one place.
//!
//! Called where a car is greeted, where a vehicle is adopted, and by all that write only for vehicles of this replica. What must never
//! happen: two replicas raise the same epoch, so each write carries the version of the Vehicle that was read.

use kerbside_api::v1alpha1::{Connection, Vehicle};
use kerbside_k8s::apply::{self, Written};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::context::{Context, MANAGER};

/// What a car is told that claims the id of one without an agent. The API server would refuse the connection as well.
pub(crate) const WITHOUT_AGENT: &str = "the Vehicle of this id is one without an agent; enrol the car to get another";

fn of(vehicle: &Vehicle) -> Option<&Connection> {
    vehicle.status.as_ref()?.connection.as_ref()
}

/// The replica that the Vehicle names.
pub(crate) fn holder(vehicle: &Vehicle) -> Option<&str> {
    of(vehicle).map(|connection| connection.replica.as_str())
}

/// Whether the Vehicle names `replica`.
pub(crate) fn is_held_by(vehicle: &Vehicle, replica: &str) -> bool {
    holder(vehicle) == Some(replica)
}

/// The epoch of the vehicle's connection, if the Vehicle names `replica`.
pub(crate) fn epoch_of(vehicle: &Vehicle, replica: &str) -> Option<u64> {
    of(vehicle)
        .filter(|connection| connection.replica == replica)
        .map(|connection| connection.epoch)
}

/// Names this replica in the Vehicle, with the next epoch. Stale: somebody has written it since it was read.
pub(crate) async fn raise(context: &Context, vehicle: &Vehicle) -> Result<(u64, Written<Vehicle>), kube::Error> {
    let epoch = of(vehicle).map_or(0, |connection| connection.epoch) + 1;
    let status = json!({ "connection": { "replica": context.replica, "epoch": epoch } });
    let api: Api<Vehicle> = Api::all(context.client.clone());
    let (uid, version) = (
        vehicle.metadata.uid.as_deref().unwrap_or_default(),
        vehicle.metadata.resource_version.as_deref(),
    );
    let written = apply::merge_status(&api, &vehicle.name_any(), uid, version, MANAGER, status).await?;
    Ok((epoch, written))
}
