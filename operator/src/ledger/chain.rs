//! The chain of acceptances of one vehicle, as far as the settler must know it: its end, and which attempts are in it.
//!
//! Owned by the settler, read from the store once and kept up by what it writes itself. What the store says counts: whoever finds a
//! number taken reads on from there. Never: a number given twice, or an attempt accepted twice.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};
use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_core::ledger::{Acceptance, Place};
use kerbside_core::names::store as path;
use kerbside_core::receipt::{Envelope, NOTHING, digest};
use kerbside_k8s::store::Store;

use super::AT_A_TIME;
use super::desk::Trouble;

/// The acceptances of a vehicle.
pub(super) struct Chain {
    vehicle: VehicleId,
    newest: u64,
    /// The SHA-256 of the newest payload.
    digest: String,
    attempts: HashSet<PodUid>,
}

impl Chain {
    /// The chain as the store has it.
    pub(super) async fn read(store: &Store, vehicle: &VehicleId) -> Result<Self, Trouble> {
        let mut chain = Self {
            vehicle: vehicle.clone(),
            newest: 0,
            digest: NOTHING.to_owned(),
            attempts: HashSet::new(),
        };
        chain.catch_up(store).await?;
        Ok(chain)
    }

    /// Whether the attempt is accepted already.
    pub(super) fn holds(&self, attempt: &PodUid) -> bool {
        self.attempts.contains(attempt)
    }

    /// How many attempts it has in memory.
    pub(super) fn attempts(&self) -> usize {
        self.attempts.len()
    }

    /// Where the next acceptance stands.
    pub(super) fn place(&self) -> Place<'_> {
        Place {
            sequence: self.newest.saturating_add(1),
            previous: &self.digest,
        }
    }

    /// The next acceptance is in the store, and this is what is known of it.
    pub(super) fn add(&mut self, attempt: PodUid, digest: String) {
        self.newest = self.newest.saturating_add(1);
        self.digest = digest;
        self.attempts.insert(attempt);
    }

    /// Reads what somebody else has written behind the end that is known.
    pub(super) async fn catch_up(&mut self, store: &Store) -> Result<(), Trouble> {
        let mut reads = Vec::new();
        for place in store.list(&path::ledger_acceptances(self.vehicle.as_str())).await? {
            // What has no number is nobody's acceptance.
            if let Some(sequence) = number(&place).filter(|number| *number > self.newest) {
                reads.push(acceptance(store, &self.vehicle, sequence, place));
            }
        }
        let read: Vec<(u64, PodUid, String)> = stream::iter(reads).buffered(AT_A_TIME).try_collect().await?;
        for (sequence, attempt, digest) in read {
            self.newest = sequence;
            self.digest = digest;
            self.attempts.insert(attempt);
        }
        Ok(())
    }
}

/// The number in `…/00000000000000000012.json`.
fn number(place: &str) -> Option<u64> {
    place.rsplit('/').next()?.strip_suffix(".json")?.parse().ok()
}

/// An acceptance that is in the store. One that cannot be read stops the chain: who signs beyond it may pay for an attempt again.
async fn acceptance(
    store: &Store,
    vehicle: &VehicleId,
    sequence: u64,
    place: String,
) -> Result<(u64, PodUid, String), Trouble> {
    let line = store.get(&place).await?;
    let unusable = |why: String| Trouble::Unusable {
        path: place.clone(),
        why,
    };
    let envelope = Envelope::parse(&line).map_err(|e| unusable(e.0))?;
    let payload = envelope.payload().map_err(|e| unusable(e.0))?;
    let read: Acceptance = serde_json::from_slice(&payload).map_err(|e| unusable(e.to_string()))?;
    if read.sequence != sequence || read.vehicle != *vehicle {
        return Err(unusable(format!(
            "it is acceptance {} of {}",
            read.sequence, read.vehicle
        )));
    }
    Ok((sequence, read.pod_uid, digest(&payload)))
}
