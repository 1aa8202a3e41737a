//! What a pool's status is computed from, besides the pool: its cars, from memory.

use kerbside_api::v1alpha1::{VehicleCounts, VehiclePool};
use kerbside_core::quantity::Resources;
use kube::ResourceExt;

use super::index::VehicleIndex;

/// The cars of one pool, counted and summed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Found {
    pub(super) vehicles: VehicleCounts,
    pub(super) capacity: Resources,
    /// Of them, those that are not heard while their attempts are held.
    pub(super) held: u32,
}

pub(super) fn dereference(pool: &VehiclePool, vehicles: &VehicleIndex) -> Found {
    let name = pool.name_any();
    let held = vehicles.held(&name);
    let (vehicles, capacity) = vehicles.totals(&name);
    Found {
        vehicles,
        capacity,
        held,
    }
}
