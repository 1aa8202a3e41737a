//! A vehicle's receipt as the settler takes it from the store: nothing that its car has not signed.
//!
//! The adapter has checked all of this before it wrote the receipt. It is checked again because what follows is signed: the store may be
//! written to by others.

use bytes::Bytes;
use jiff::Timestamp;
use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_core::names::store as path;
use kerbside_core::receipt::{Envelope, PAYLOAD_TYPE, Usage, digest, pae};
use kerbside_k8s::store::{Store, StoreError};
use kerbside_link::identity::{PublicKey, check_chain};
use serde::Deserialize;

use super::desk::Trouble;

/// The adapter's word that there is a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pointer {
    pub(super) vehicle: VehicleId,
    pub(super) pod_uid: PodUid,
    /// The receipt's number.
    pub(super) sequence: u64,
    pub(super) stored_at: Timestamp,
}

/// A receipt that its car has signed.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) usage: Usage,
    /// Of its payload.
    pub(super) sha256: String,
}

/// The receipt that a pointer leads to.
pub(super) async fn read(store: &Store, ca_pem: &str, pointer: &Pointer) -> Result<Signed, Trouble> {
    let vehicle = &pointer.vehicle;
    let refused = |why: &dyn std::fmt::Display| Trouble::Refused(why.to_string());
    let line = there(store, &path::ledger_usage(vehicle.as_str(), pointer.sequence)).await?;
    let envelope = Envelope::parse(&line).map_err(|e| refused(&e))?;
    let payload = envelope.payload().map_err(|e| refused(&e))?;
    let [signature] = envelope.signatures.as_slice() else {
        return Err(refused(&"it has not one signature"));
    };
    let chain = there(store, &path::ledger_key(vehicle.as_str(), &signature.keyid)).await?;
    let chain = String::from_utf8_lossy(&chain);
    let key = PublicKey::from_chain_pem(&chain).map_err(|e| refused(&e))?;
    check_chain(&chain, ca_pem).map_err(Trouble::UnknownCa)?;
    let bytes = signature.bytes().map_err(|e| refused(&e))?;
    let of_car = key.vehicle() == vehicle && key.key_id() == signature.keyid;
    let is_receipt = envelope.payload_type == PAYLOAD_TYPE;
    if !of_car || !is_receipt || !key.verify(&pae(&envelope.payload_type, &payload), &bytes) {
        return Err(refused(&"its car has not signed it"));
    }
    let usage: Usage = serde_json::from_slice(&payload).map_err(|e| refused(&e))?;
    let as_announced =
        usage.vehicle == *vehicle && usage.sequence == pointer.sequence && usage.claim.pod_uid == pointer.pod_uid;
    if !as_announced {
        return Err(refused(&"it is another than its pointer says"));
    }
    Ok(Signed {
        usage,
        sha256: digest(&payload),
    })
}

/// What the adapter has written before the pointer: if it is not there, it never will be.
async fn there(store: &Store, place: &str) -> Result<Bytes, Trouble> {
    store.get(place).await.map_err(|error| match error {
        StoreError::NotFound { .. } => Trouble::Refused(error.to_string()),
        error => Trouble::Store(error),
    })
}
