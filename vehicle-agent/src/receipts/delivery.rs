//! Brings receipts to the cluster: in the order of their numbers, each until it is stored there.
//!
//! Spawned by `boot`, once per car, beside the attempts, which never wait for it. How far it has come is one small file; without that file
//! everything is sent again, which the cluster takes for what it is. What must never happen: a receipt is passed over, or one that the
//! cluster refuses for good is sent for ever while the car goes on working unpaid.

use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use kerbside_core::ids::VehicleId;
use kerbside_core::receipt::{Envelope, Usage};
use kerbside_link::fault::{Fault, FaultKind};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::{LEDGER, Receipts, keys};
use crate::cluster::Cluster;
use crate::directory;

/// Where it is kept how far the cluster has them.
const DELIVERED: &str = "delivered.json";
/// A car whose certificate is not taken, or a file that cannot be read, is no better a moment later.
const AGAIN: Duration = Duration::from_mins(1);

/// How far the cluster has a car's receipts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delivered {
    /// Whose: a car that is enrolled anew begins anew.
    vehicle: VehicleId,
    /// Up to this number.
    sequence: u64,
}

/// One that is to be sent.
struct Waiting {
    sequence: u64,
    line: Bytes,
    chain_pem: String,
}

/// A receipt that the cluster will never take.
#[derive(Debug, thiserror::Error)]
#[error("the cluster does not take receipt {sequence}: {fault}")]
struct Refused {
    sequence: u64,
    fault: Fault,
}

/// Sends what is there and what comes. Ends only when the cluster refuses one for good, or nobody writes any more.
pub async fn deliver<C: Cluster>(receipts: Receipts, cluster: C) {
    let vehicle = receipts.signer().vehicle().clone();
    let mut delivery = Delivery::new(receipts.inner.root.clone(), vehicle);
    let mut standing = receipts.standing();
    receipts.delivered(delivery.known.sequence);
    if let Err(refused) = delivery.ask(&receipts, &cluster).await {
        return give_up(&receipts, &refused);
    }
    loop {
        let known = delivery.known.sequence;
        let Ok(newest) = standing
            .wait_for(|standing| standing.newest > known)
            .await
            .map(|s| s.newest)
        else {
            return;
        };
        match delivery.send(newest, &receipts, &cluster).await {
            Ok(true) => {}
            Ok(false) => sleep(AGAIN).await,
            Err(refused) => return give_up(&receipts, &refused),
        }
    }
}

fn give_up(receipts: &Receipts, refused: &Refused) {
    tracing::error!(%refused, "the car takes no more work");
    receipts.refused(refused.to_string());
}

/// The state of one car's delivery.
struct Delivery {
    root: PathBuf,
    known: Delivered,
    /// What is before this in the ledger was sent.
    offset: u64,
}

impl Delivery {
    fn new(root: PathBuf, vehicle: VehicleId) -> Self {
        let sequence = delivered(&root, &vehicle);
        Self {
            root,
            known: Delivered { vehicle, sequence },
            offset: 0,
        }
    }

    /// Sends the newest once more, if the cluster has it: a cluster that has a later one says so, and this car was set back to an old state. Else
    /// that would be found only by the next receipt, when the work is done.
    async fn ask<C: Cluster>(&self, receipts: &Receipts, cluster: &C) -> Result<(), Refused> {
        let sequence = self.known.sequence;
        if sequence == 0 || receipts.standing().borrow().newest != sequence {
            // What waits is sent, and asks the same.
            return Ok(());
        }
        let before = Delivered {
            sequence: sequence - 1,
            ..self.known.clone()
        };
        let root = self.root.clone();
        let read = tokio::task::spawn_blocking(move || waiting(&root, 0, &before, sequence)).await;
        // One that was put aside is asked for by the next.
        let Ok(Ok((waiting, _))) = read else { return Ok(()) };
        let Some(newest) = waiting.into_iter().next() else {
            return Ok(());
        };
        loop {
            match cluster
                .put_receipt(newest.line.clone(), newest.chain_pem.clone(), true)
                .await
            {
                Ok(()) => return Ok(()),
                Err(fault) if for_good(&fault) => return Err(Refused { sequence, fault }),
                Err(fault) => {
                    tracing::warn!(%fault, sequence, "the cluster does not say what it has of the car's receipts");
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Sends what waits, up to the newest that is durable. False: not now.
    async fn send<C: Cluster>(&mut self, newest: u64, receipts: &Receipts, cluster: &C) -> Result<bool, Refused> {
        let (root, from, known) = (self.root.clone(), self.offset, self.known.clone());
        let read = tokio::task::spawn_blocking(move || waiting(&root, from, &known, newest)).await;
        let (waiting, end) = match read {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => {
                tracing::warn!(%error, "receipts cannot be read to be delivered");
                return Ok(false);
            }
            Err(_) => return Ok(false),
        };
        if waiting.is_empty() {
            // What waits is in no line that is the car's: it was put aside.
            return Ok(false);
        }
        for Waiting {
            sequence,
            line,
            chain_pem,
        } in waiting
        {
            match cluster.put_receipt(line, chain_pem, sequence == newest).await {
                Ok(()) => {
                    self.known.sequence = sequence;
                    receipts.delivered(sequence);
                }
                Err(fault) if for_good(&fault) => {
                    self.write().await;
                    return Err(Refused { sequence, fault });
                }
                Err(fault) => {
                    tracing::warn!(%fault, sequence, "receipt not delivered");
                    self.write().await;
                    return Ok(false);
                }
            }
        }
        self.offset = end;
        self.write().await;
        Ok(true)
    }

    /// Not on the agent's own thread: a disk may hang.
    async fn write(&self) {
        let (path, known) = (self.root.join(DELIVERED), self.known.clone());
        let write = move || directory::replace(&path, &serde_json::to_vec(&known)?);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            tracing::warn!(%error, "not kept how far receipts are delivered; they will be sent again");
        }
    }
}

/// How far the cluster has the receipts of this vehicle. Where the file is cut off, or another car's: all is sent again.
pub(super) fn delivered(root: &Path, vehicle: &VehicleId) -> u64 {
    let known = std::fs::read(root.join(DELIVERED)).ok();
    let known = known.and_then(|text| serde_json::from_slice::<Delivered>(&text).ok());
    known
        .filter(|known| known.vehicle == *vehicle)
        .map_or(0, |known| known.sequence)
}

/// Whether no other try changes the answer: the receipt is not what the cluster can believe, or it stands against another one.
fn for_good(fault: &Fault) -> bool {
    matches!(
        fault.kind(),
        FaultKind::Conflict | FaultKind::Invalid | FaultKind::TooLarge
    )
}

/// The receipts beyond what the cluster has, up to `newest`, from this place in the ledger on, and where the last of them ends. What is behind
/// `newest` is not durable yet, and may never be. Blocks.
fn waiting(root: &Path, from: u64, known: &Delivered, newest: u64) -> io::Result<(Vec<Waiting>, u64)> {
    let mut file = std::fs::File::open(root.join(LEDGER))?;
    file.seek(io::SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let mut waiting = Vec::new();
    let mut end = from;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        // A line that is being written has no end yet.
        let Some(text) = line.strip_suffix(b"\n") else { break };
        let (sequence, keyid) = place(text)?;
        if sequence > newest {
            break;
        }
        end += line.len() as u64;
        if sequence > known.sequence {
            waiting.push(Waiting {
                sequence,
                line: Bytes::copy_from_slice(text),
                chain_pem: keys::chain(root, &keyid)?,
            });
        }
    }
    Ok((waiting, end))
}

/// The number of a receipt and the key that signed it.
fn place(line: &[u8]) -> io::Result<(u64, String)> {
    let bad = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let envelope = Envelope::parse(line).map_err(|error| bad(error.to_string()))?;
    let payload = envelope.payload().map_err(|error| bad(error.to_string()))?;
    let usage: Usage = serde_json::from_slice(&payload)?;
    let signature = envelope.signatures.into_iter().next();
    let keyid = signature
        .ok_or_else(|| bad("nobody has signed a receipt".to_owned()))?
        .keyid;
    Ok((usage.sequence, keyid))
}

#[cfg(test)]
mod tests;
