//! Settles one receipt: what is found of it, and what follows. `settle.rs` has the table.
//!
//! Called by the settler, for several vehicles at a time, for one vehicle never twice at a time. Never: a receipt whose pointer goes while
//! it could still be settled.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kerbside_core::clock::Clock;
use kerbside_core::ids::VehicleId;
use kerbside_core::ledger::{ACCEPTANCE_TYPE, Acceptance, Closing, Standing};
use kerbside_core::names::store as path;
use kerbside_core::receipt::{Envelope, digest, pae};
use kerbside_k8s::store::{PutOutcome, Store, StoreError};
use kerbside_link::identity::{IdentityError, Signer};

use super::chain::Chain;
use super::receipt::{self, Pointer};
use crate::metrics::Metrics;
use crate::report;

/// So long a receipt waits for its closing: far longer than any job is expected to hold its Pods.
pub(super) const KEPT_FOR: Duration = Duration::from_hours(30 * 24);
/// How often somebody else may take the next number before this is left for later.
const TRIES: usize = 8;

/// Why a receipt is not settled yet, or never will be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("'{path}' in the store is unusable: {why}")]
    Unusable { path: String, why: String },
    /// Nobody can judge it as long as this operator does not know the CA.
    #[error("no CA that is known has certified the receipt's key: {0}")]
    UnknownCa(IdentityError),
    /// Final: no later look will find it better.
    #[error("{0}")]
    Refused(String),
    #[error("failed to sign an acceptance")]
    Sign(#[source] IdentityError),
    #[error("failed to write an acceptance as JSON")]
    Json(#[source] serde_json::Error),
    #[error("somebody else takes every number of the chain")]
    Raced,
}

/// What is needed to settle one receipt.
pub(super) struct Desk {
    pub(super) store: Store,
    pub(super) signer: Signer<String>,
    pub(super) ca_pem: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
}

/// What became of a vehicle's pointers.
pub(super) struct Settled {
    pub(super) vehicle: VehicleId,
    pub(super) chain: Option<Chain>,
    /// The pointers that stay.
    pub(super) left: Vec<String>,
}

impl Desk {
    /// A pointer, and where it was read.
    pub(super) async fn pointer(&self, place: String) -> (String, Result<Pointer, Trouble>) {
        let read = self.json(&place).await;
        (place, read)
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, place: &str) -> Result<T, Trouble> {
        let bytes = self.store.get(place).await?;
        serde_json::from_slice(&bytes).map_err(|error| Trouble::Unusable {
            path: place.to_owned(),
            why: error.to_string(),
        })
    }

    /// Settles a vehicle's receipts, one after the other. One that cannot be settled keeps no other back.
    pub(super) async fn settle_all(
        &self,
        vehicle: VehicleId,
        mut chain: Option<Chain>,
        pointers: Vec<(String, Pointer)>,
    ) -> Settled {
        let mut left = Vec::new();
        for (place, pointer) in pointers {
            let attempt = &pointer.pod_uid;
            let end = match self.settle_one(&mut chain, &pointer).await {
                Ok(None) => {
                    left.push(place);
                    continue;
                }
                Ok(Some(end)) => end,
                Err(Trouble::Refused(why)) => {
                    tracing::warn!(vehicle.id = %vehicle, %attempt, why, "a receipt is refused");
                    "refused"
                }
                Err(error @ Trouble::UnknownCa(_)) => {
                    let error = report::with_causes(&error);
                    tracing::warn!(vehicle.id = %vehicle, %attempt, error, "a receipt cannot be judged");
                    let Some(end) = self.overdue(&pointer) else {
                        left.push(place);
                        continue;
                    };
                    end
                }
                Err(error) => {
                    let error = report::with_causes(&error);
                    tracing::warn!(vehicle.id = %vehicle, %attempt, error, "a receipt is not settled yet");
                    left.push(place);
                    continue;
                }
            };
            self.metrics.receipt(end);
            if let Err(error) = self.store.delete(&place).await {
                let error = report::with_causes(&error);
                tracing::warn!(vehicle.id = %vehicle, %attempt, error, "the pointer to a receipt stays");
                left.push(place);
            }
        }
        Settled { vehicle, chain, left }
    }

    /// The word for the metric once the pointer is not needed any more; `None` while the receipt waits.
    async fn settle_one(&self, chain: &mut Option<Chain>, pointer: &Pointer) -> Result<Option<&'static str>, Trouble> {
        let attempt = &pointer.pod_uid;
        let closing: Closing = match self.json(&path::ledger_closing(attempt.as_str())).await {
            Err(Trouble::Store(StoreError::NotFound { .. })) => return Ok(self.overdue(pointer)),
            read => read?,
        };
        let chain = match chain {
            Some(known) => known,
            None => chain.insert(Chain::read(&self.store, &pointer.vehicle).await?),
        };
        if chain.holds(attempt) {
            return Ok(Some("repeated"));
        }
        let receipt = receipt::read(&self.store, &self.ca_pem, pointer).await?;
        for _ in 0..TRIES {
            let acceptance = closing
                .accept(&receipt.usage, &receipt.sha256, chain.place())
                .map_err(|mismatch| Trouble::Refused(mismatch.to_string()))?;
            let place = path::ledger_acceptance(pointer.vehicle.as_str(), acceptance.sequence);
            let (line, digest) = self.sign(&acceptance)?;
            if self.store.put_if_absent(&place, line).await? == PutOutcome::Created {
                chain.add(attempt.clone(), digest);
                self.metrics.acceptance(word(acceptance.standing));
                tracing::debug!(vehicle.id = %pointer.vehicle, %attempt, amount = acceptance.amount_micro, "settled");
                return Ok(Some("settled"));
            }
            // Ours, if the answer to it was lost; otherwise somebody else's.
            chain.catch_up(&self.store).await?;
            if chain.holds(attempt) {
                return Ok(Some("repeated"));
            }
        }
        Err(Trouble::Raced)
    }

    /// What a receipt without a closing, or of a CA that nobody knows, comes to.
    fn overdue(&self, pointer: &Pointer) -> Option<&'static str> {
        let age = self.clock.wall().duration_since(pointer.stored_at);
        if Duration::try_from(age).unwrap_or_default() <= KEPT_FOR {
            return None;
        }
        tracing::warn!(
            vehicle.id = %pointer.vehicle, attempt = %pointer.pod_uid, sequence = pointer.sequence,
            "a receipt is not settled: the operator knows nothing of its attempt, or of who has certified its key"
        );
        Some("dropped")
    }

    /// The line for the store, and the SHA-256 of its payload.
    fn sign(&self, acceptance: &Acceptance) -> Result<(Bytes, String), Trouble> {
        let payload = serde_json::to_vec(acceptance).map_err(Trouble::Json)?;
        let message = pae(ACCEPTANCE_TYPE, &payload);
        let signature = self.signer.sign(&message).map_err(Trouble::Sign)?;
        let envelope = Envelope::of(ACCEPTANCE_TYPE, &payload, self.signer.key_id(), &signature);
        let line = serde_json::to_vec(&envelope).map_err(Trouble::Json)?;
        Ok((line.into(), digest(&payload)))
    }
}

/// Of the metric's label.
fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Accepted => "accepted",
        Standing::Superseded => "superseded",
        Standing::Failed => "failed",
        Standing::Disrupted => "disrupted",
    }
}
