//! The ledger's rules on any medium: which receipt comes next, which attempts have one, and what becomes of a torn write.
//!
//! What follows the last whole line is a torn write: nothing was told of it, so it is cut off. A failed append is cut off too, so that the
//! next one does not stand behind garbage; where that fails as well, it is done before the next. A ledger that was set back to an old
//! state goes on from there: here nobody can know, and whoever holds a later head will say so.

use std::collections::BTreeSet;
use std::io;

use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_core::receipt::{Claim, Envelope, NOTHING, PAYLOAD_TYPE, Report, Usage, digest, pae, verify};
use kerbside_link::identity::Signer;

use super::ReceiptError;
use super::keys::KnownKeys;
use crate::journal::medium::Medium;

/// What is certain of ledgers before this one: what the car has signed.
#[derive(Debug, Default)]
pub(super) struct Past {
    attempts: BTreeSet<PodUid>,
    newest: u64,
}

impl Past {
    /// Begins with what the cluster has: no number of it is given again.
    pub(super) fn delivered(sequence: u64) -> Self {
        Self {
            newest: sequence,
            ..Self::default()
        }
    }

    /// Takes in what this vehicle has signed in another file.
    pub(super) fn add(&mut self, report: &Report, vehicle: &VehicleId) {
        for read in report.receipts.iter().filter(|read| read.usage.vehicle == *vehicle) {
            self.attempts.insert(read.usage.claim.pod_uid.clone());
            self.newest = self.newest.max(read.usage.sequence);
        }
    }
}

/// A ledger that was opened.
pub(super) enum Opened {
    /// More can be written behind it.
    Sound(Ledger),
    /// It is not what the car has written; nothing was changed.
    Broken(Report),
    /// It is of another vehicle, which this car was before it was enrolled anew; nothing was changed.
    OfAnother(VehicleId),
}

/// The ledger on its medium.
pub(super) struct Ledger {
    medium: Box<dyn Medium>,
    /// Bytes of whole lines; beyond them there may be a torn write.
    length: u64,
    /// A former append failed and could not be cut off.
    torn: bool,
    count: u64,
    /// The number of the newest receipt, in this ledger or before it.
    newest: u64,
    /// The digest of its payload, if it is in this ledger.
    head: String,
    attempts: BTreeSet<PodUid>,
}

impl Ledger {
    /// Reads what is there, and cuts off a torn write if the rest is sound.
    pub(super) fn open(
        mut medium: Box<dyn Medium>,
        mut past: Past,
        keys: &KnownKeys,
        vehicle: &VehicleId,
    ) -> io::Result<Opened> {
        let bytes = medium.read()?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let report = verify(&bytes[..whole], keys);
        if !report.goes_on() {
            return Ok(Opened::Broken(report));
        }
        let mut vehicles = report.receipts.iter().map(|read| &read.usage.vehicle);
        if let Some(other) = vehicles.find(|other| *other != vehicle) {
            return Ok(Opened::OfAnother(other.clone()));
        }
        let torn = bytes.len() - whole;
        if torn > 0 {
            tracing::warn!(bytes = torn, "cut off a torn write at the end of the receipts");
            medium.truncate(whole as u64)?;
        }
        // A ledger that holds something is gone on with, also one that was set back; an empty one, with what was before it.
        let newest = report.head.as_ref().map_or(0, |head| head.sequence).max(past.newest);
        past.add(&report, vehicle);
        let head = report.head.map_or_else(|| NOTHING.to_owned(), |head| head.digest);
        Ok(Opened::Sound(Self {
            medium,
            length: whole as u64,
            torn: false,
            count: report.total.count,
            newest,
            head,
            attempts: past.attempts,
        }))
    }

    /// How many receipts are in it, and the number of the newest.
    pub(super) fn newest(&self) -> (u64, u64) {
        (self.count, self.newest)
    }

    /// Whether an attempt has a receipt.
    pub(super) fn holds(&self, uid: &PodUid) -> bool {
        self.attempts.contains(uid)
    }

    /// Writes a receipt for an attempt that has none.
    pub(super) fn give(&mut self, claim: Claim, signer: &Signer) -> Result<(), ReceiptError> {
        let sequence = self.newest.saturating_add(1);
        let usage = Usage {
            sequence,
            previous: self.head.clone(),
            vehicle: signer.vehicle().clone(),
            claim,
        };
        let unwritten = |error: serde_json::Error| ReceiptError::Write(error.into());
        let payload = serde_json::to_vec(&usage).map_err(unwritten)?;
        let signature = signer.sign(&pae(PAYLOAD_TYPE, &payload))?;
        let envelope = Envelope::new(&payload, signer.key_id(), &signature);
        let line = envelope.line().map_err(unwritten)?;
        self.append(&line).map_err(ReceiptError::Write)?;
        self.count += 1;
        self.newest = sequence;
        self.head = digest(&payload);
        self.attempts.insert(usage.claim.pod_uid);
        Ok(())
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.medium.truncate(self.length)?;
            self.torn = false;
        }
        if let Err(error) = self.medium.append(line) {
            self.torn = self.medium.truncate(self.length).is_err();
            return Err(error);
        }
        self.length += line.len() as u64;
        Ok(())
    }
}
