//! `kubectl fleet revoke`: a car's membership ends.

use std::io::Write;

use kerbside_api::v1alpha1::Vehicle;
use kerbside_core::ids::VehicleId;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::Error;
use crate::cli::Revoke;

/// Sets `spec.revoked`, which the adapter acts on; it cannot be taken back.
pub async fn run(client: &Client, args: &Revoke, out: &mut impl Write) -> Result<(), Error> {
    let id: VehicleId = args.vehicle.parse().map_err(|e| Error::Refused(format!("{e}")))?;
    let api: Api<Vehicle> = Api::all(client.clone());
    let patch = Patch::Merge(json!({ "spec": { "revoked": true } }));
    api.patch(id.as_str(), &PatchParams::default(), &patch)
        .await
        .map_err(Error::api(format!("revoke {id}")))?;
    writeln!(
        out,
        "{id} is revoked: its connection ends within 10 s and it gets no new certificate"
    )
    .map_err(Error::Print)
}
