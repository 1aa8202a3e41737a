//! What is left of a chain of consents that was deleted: one signed line that says that there was one, how long, and its last hash.
//!
//! The law asks for two things here. Who has a consent must be able to show it (GDPR, Art. 7(1)), and whose data it is may have it deleted
//! (Art. 17). With this line whoever kept a copy, the owner an export or the fleet receipts that name entries by their hash, can show that it was
//! this car's; without a copy it says nothing of anybody.

use std::io;

use jiff::Timestamp;
use kerbside_core::consent::Notice;
use kerbside_core::ids::VehicleId;
use kerbside_core::receipt::{Envelope, NOTHING, pae};
use kerbside_link::identity::Signer;
use serde::{Deserialize, Serialize};

use super::gathered::Gathered;
use super::{BROKEN, CHAIN, ConsentError, TRIES, lock, withdrawn};
use crate::directory::{self, Directory};
use crate::identity;
use crate::journal::medium::{Disk, Medium};

/// What the payload of such a line is.
const PAYLOAD_TYPE: &str = "application/vnd.kerbside.sealed.v1alpha1+json";
/// The car was enrolled anew, and is another vehicle.
pub(super) const VEHICLE_CHANGED: &str = "vehicleChanged";

/// Says that there was a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sealed {
    /// Of which vehicle.
    pub vehicle: VehicleId,
    /// The number of its last entry.
    pub entries: u64,
    /// The SHA-256 of that entry's payload, in hex.
    pub head: String,
    /// Whether every line of it was signed and in its place.
    pub verified: bool,
    /// Why it was deleted: `forgotten`, `ownerChanged`, `vehicleChanged`.
    pub reason: String,
    /// When, by the car's clock.
    pub sealed_at: Timestamp,
}

/// A line of the file: the envelope, and the certificate of the key that signed it, which is kept nowhere else.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    envelope: Envelope,
    certificates: String,
}

/// Deletes all consents in a car that forgets, but for that line. What an owner would have to be told before a consent counts is not asked: a notice
/// that cannot be read keeps nobody's consents. Blocks until nobody else writes.
pub fn seal_all(directory: &Directory, reason: &str, now: Timestamp) -> Result<(), ConsentError> {
    let signer = Signer::new(&identity::read(directory)?)?;
    let _lock = lock(&directory.consents(), TRIES)?;
    let gathered = Gathered::under(directory, signer.vehicle(), None, Notice::built_in(""));
    seal(
        directory,
        &signer,
        &gathered.map_err(ConsentError::Unusable)?,
        reason,
        now,
    )
}

/// Deletes the chain of this car behind a line that says that there was one. One that holds nothing leaves nothing.
pub(super) fn seal(
    directory: &Directory,
    signer: &Signer,
    gathered: &Gathered,
    reason: &str,
    now: Timestamp,
) -> Result<(), ConsentError> {
    let report = gathered.report();
    if report.lines > 0 {
        let last = report.entries.last().map(|(entry, _)| entry);
        let sealed = Sealed {
            vehicle: last.map_or_else(|| signer.vehicle().clone(), |entry| entry.vehicle.clone()),
            entries: report.head.as_ref().map_or(0, |head| head.sequence),
            head: report.head.map_or_else(|| NOTHING.to_owned(), |head| head.digest),
            // Also where the car is another vehicle by now.
            verified: !report.findings.iter().any(|finding| finding.starts_with("line ")),
            reason: reason.to_owned(),
            sealed_at: now,
        };
        let unwritten = |error: serde_json::Error| ConsentError::Write(error.into());
        let payload = serde_json::to_vec(&sealed).map_err(unwritten)?;
        let signature = signer.sign(&pae(PAYLOAD_TYPE, &payload))?;
        let mut line = serde_json::to_vec(&Line {
            envelope: Envelope::of(PAYLOAD_TYPE, &payload, signer.key_id(), &signature),
            certificates: signer.chain_pem().to_owned(),
        })
        .map_err(unwritten)?;
        line.push(b'\n');
        let mut disk = Disk::open(&directory.sealed()).map_err(ConsentError::Write)?;
        disk.append(&line).map_err(ConsentError::Write)?;
    }
    remove(directory).map_err(ConsentError::Write)
}

fn remove(directory: &Directory) -> io::Result<()> {
    let root = directory.consents();
    for entry in std::fs::read_dir(&root)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == CHAIN || name.starts_with(BROKEN) {
            std::fs::remove_file(entry.path())?;
        }
    }
    withdrawn::remove(directory)?;
    match std::fs::remove_file(directory.consents_mark()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    directory::sync_directory(&root)
}

/// What says of chains that were deleted, the oldest first. A line that cannot be read is left out.
pub fn sealed(directory: &Directory) -> Vec<Sealed> {
    let lines = std::fs::read(directory.sealed()).unwrap_or_default();
    let read = |line: &[u8]| {
        let line: Line = serde_json::from_slice(line).ok()?;
        serde_json::from_slice(&line.envelope.payload().ok()?).ok()
    };
    lines.split(|byte| *byte == b'\n').filter_map(read).collect()
}
