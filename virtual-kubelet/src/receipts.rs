//! What cars have signed for, on its way into the store: checked, and written once.
//!
//! Called by the link service. What a receipt is worth is the operator's to say; here it is only made certain that the car which sends it
//! has signed it, and that nothing which was stored is replaced. What must never happen: a receipt in the store that its car has not
//! signed, or one that could be settled and for which the operator is not told (by a pointer) that it is there.

mod awaited;

use std::sync::Arc;

use bytes::Bytes;
use kerbside_core::ids::VehicleId;
use kerbside_core::names::store as path;
use kerbside_core::receipt::{Envelope, PAYLOAD_TYPE, Usage, pae};
use kerbside_k8s::store::{PutOutcome, StoreError};
use kerbside_link::fault::Fault;
use kerbside_link::identity::{PublicKey, check_chain};
use kerbside_link::server::SignedReceipt;
use serde_json::json;

use self::awaited::{Unawaited, is_awaited};
use crate::context::Context;

/// Takes in what cars have signed for.
pub(crate) struct Receipts {
    context: Arc<Context>,
    unawaited: Unawaited,
    /// The link's CA: whose certificates are believed.
    ca_pem: String,
}

fn store_fault(error: &StoreError) -> Fault {
    tracing::warn!(%error, "the store cannot be used");
    Fault::unavailable("the store is not reachable; try again")
}

impl Receipts {
    /// Believes this CA.
    pub(crate) fn new(context: &Arc<Context>, ca_pem: &str) -> Self {
        Self {
            context: Arc::clone(context),
            unawaited: Unawaited::default(),
            ca_pem: ca_pem.to_owned(),
        }
    }

    /// Stores a receipt of this car, once. Returns when the operator will find it, if it has anything to do with it.
    pub(crate) async fn put(&self, vehicle: &VehicleId, receipt: &SignedReceipt) -> Result<(), Fault> {
        let put = self.put_checked(vehicle, receipt).await;
        let outcome = match &put {
            Ok(PutOutcome::Created) => "stored",
            Ok(PutOutcome::Exists) => "repeated",
            Err(fault) if fault.is_retryable() => "postponed",
            Err(_) => "refused",
        };
        self.context.metrics.receipt(outcome);
        if let Err(fault) = &put {
            tracing::warn!(%vehicle, %fault, "receipt not stored");
        }
        put.map(drop)
    }

    async fn put_checked(&self, vehicle: &VehicleId, receipt: &SignedReceipt) -> Result<PutOutcome, Fault> {
        let (usage, key) = check(vehicle, receipt, &self.ca_pem)?;
        let store = &self.context.store;
        // The key first: a receipt that nobody can check is none. The first certificate of a key is as good as any later one.
        let key = path::ledger_key(vehicle.as_str(), key.key_id());
        let chain = Bytes::from(receipt.chain_pem.clone());
        store.put_if_absent(&key, chain).await.map_err(|e| store_fault(&e))?;
        let place = path::ledger_usage(vehicle.as_str(), usage.sequence);
        let put = store
            .put_if_absent(&place, receipt.envelope.clone())
            .await
            .map_err(|e| store_fault(&e))?;
        if put == PutOutcome::Exists {
            let there = store.get(&place).await.map_err(|e| store_fault(&e))?;
            // A signature may be made anew, by a car that lost its power in the middle: what it says is what counts.
            if !says_the_same(&there, &receipt.envelope) {
                return Err(Fault::conflict(format!(
                    "another receipt is stored under number {}: this car was set back to an old state, or is there twice; enrol it anew",
                    usage.sequence
                )));
            }
        }
        if receipt.newest {
            let next = usage.sequence.saturating_add(1);
            let later = path::ledger_usage(vehicle.as_str(), next);
            if store.size(&later).await.map_err(|e| store_fault(&e))?.is_some() {
                return Err(Fault::conflict(format!(
                    "receipt {next} is stored, and the car's newest is {}: this car was set back to an old state, or is there twice; enrol it anew",
                    usage.sequence
                )));
            }
        }
        if !is_awaited(&self.context, &self.unawaited, vehicle, &usage.claim.pod_uid).await {
            return Ok(put);
        }
        // Also for one that comes again: whoever stored it first may have ended before it came to this.
        let pointer = json!({
            "vehicle": vehicle,
            "podUid": usage.claim.pod_uid,
            "sequence": usage.sequence,
            "storedAt": self.context.clock.wall(),
        });
        let place = path::ledger_pointer(vehicle.as_str(), usage.claim.pod_uid.as_str());
        store
            .put(&place, Bytes::from(pointer.to_string()))
            .await
            .map_err(|e| store_fault(&e))?;
        Ok(put)
    }
}

/// Whether two envelopes have the same payload.
fn says_the_same(one: &[u8], other: &[u8]) -> bool {
    let payload = |line| Envelope::parse(line).ok()?.payload().ok();
    let one: Option<Vec<u8>> = payload(one);
    one.is_some() && one == payload(other)
}

/// What this car has signed, and with which key.
fn check(vehicle: &VehicleId, receipt: &SignedReceipt, ca_pem: &str) -> Result<(Usage, PublicKey), Fault> {
    let invalid = |what: &str, why: &dyn std::fmt::Display| Fault::invalid(format!("{what}: {why}"));
    let key = PublicKey::from_chain_pem(&receipt.chain_pem)
        .map_err(|e| invalid("the receipt's certificate cannot be read", &e))?;
    if key.vehicle() != vehicle {
        return Err(Fault::invalid("the receipt's certificate is of another vehicle"));
    }
    check_chain(&receipt.chain_pem, ca_pem)
        .map_err(|e| invalid("the receipt's certificate was not given out by this cluster", &e))?;
    let envelope = Envelope::parse(&receipt.envelope).map_err(|e| invalid("the receipt is no DSSE envelope", &e))?;
    let payload = envelope
        .payload()
        .map_err(|e| invalid("the receipt cannot be read", &e))?;
    let [signature] = envelope.signatures.as_slice() else {
        return Err(Fault::invalid("a receipt has one signature"));
    };
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(Fault::invalid(format!("a receipt's payload is {PAYLOAD_TYPE}")));
    }
    let bytes = signature
        .bytes()
        .map_err(|e| invalid("the receipt's signature cannot be read", &e))?;
    if signature.keyid != key.key_id() || !key.verify(&pae(&envelope.payload_type, &payload), &bytes) {
        return Err(Fault::invalid(
            "the receipt was not signed by the key of its certificate",
        ));
    }
    let usage: Usage = serde_json::from_slice(&payload).map_err(|e| invalid("the receipt cannot be read", &e))?;
    if usage.vehicle != *vehicle {
        return Err(Fault::invalid("the receipt is of another vehicle"));
    }
    if usage.sequence == 0 {
        return Err(Fault::invalid("receipts are counted from 1"));
    }
    Ok((usage, key))
}

#[cfg(test)]
mod tests;
