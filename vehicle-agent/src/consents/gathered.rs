//! Everything that a chain of consents is read with, from the files of a car. Only reads: an agent may run or not.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use kerbside_core::consent::{Around, Consents, Mark, Notice, Place, Report, Unusable, read, verify};
use kerbside_core::ids::VehicleId;

use super::{CHAIN, notice};
use crate::directory::Directory;
use crate::receipts::KnownKeys;

/// So many of the newest receipts are looked through for the consents that they name.
const NEWEST_RECEIPTS: usize = 256;

/// What lies in the files.
pub struct Gathered {
    pub(super) chain: Vec<u8>,
    pub(super) keys: KnownKeys,
    pub(super) notice: Notice,
    pub(super) mark: Option<Mark>,
    /// There is a mark, and it says nothing.
    broken_mark: Option<Unusable>,
    pub(super) named: Option<Place>,
    vehicle: VehicleId,
}

impl Gathered {
    /// Reads what is there. A car that was never told anything has an empty chain. `named`: what the receipts were known to name.
    pub fn of(directory: &Directory, vehicle: &VehicleId, named: Option<Place>) -> Result<Self, Unusable> {
        let unreadable = |error: io::Error| Unusable::Unreadable(error.to_string());
        // The mark before the chain: it is written after it, so that a chain which grows between the two is not taken for a shorter one.
        let text = if_there(&directory.consents_mark()).map_err(unreadable)?;
        let (mark, broken_mark) = match text.map(|text| serde_json::from_slice(&text)) {
            None => (None, None),
            Some(Ok(mark)) => (Some(mark), None),
            Some(Err(error)) => (None, Some(Unusable::Mark(error.to_string()))),
        };
        let chain = if_there(&directory.consents().join(CHAIN)).map_err(unreadable)?;
        // After the lines: a key is kept before it signs.
        let keys = KnownKeys::read(&directory.receipts()).map_err(unreadable)?;
        Ok(Self {
            chain: chain.unwrap_or_default(),
            keys,
            notice: notice(directory)?,
            mark,
            broken_mark,
            named,
            vehicle: vehicle.clone(),
        })
    }

    fn around(&self) -> Around<'_> {
        Around {
            vehicle: &self.vehicle,
            notice: &self.notice,
            mark: self.mark.as_ref(),
            named: self.named.as_ref(),
        }
    }

    /// What is held.
    pub fn consents(&self) -> Consents {
        if let Some(why) = &self.broken_mark {
            return Consents::Unusable(why.clone());
        }
        read(&self.chain, &self.keys, self.around())
    }

    /// What is wrong, and what stands in it.
    pub fn report(&self) -> Report {
        let mut report = verify(&self.chain, &self.keys, self.around());
        report
            .findings
            .extend(self.broken_mark.as_ref().map(ToString::to_string));
        report
    }

    /// The certificates of every key, in PEM, by the key's id.
    pub fn certificates(&self) -> BTreeMap<&str, &str> {
        self.keys.certificates()
    }

    /// The envelopes as they lie in the file, for others to check; a line that is no JSON, as text.
    pub fn envelopes(&self) -> Vec<serde_json::Value> {
        let line = |line: &[u8]| {
            serde_json::from_slice(line)
                .unwrap_or_else(|_| serde_json::Value::String(String::from_utf8_lossy(line).into_owned()))
        };
        self.chain.split_inclusive(|byte| *byte == b'\n').map(line).collect()
    }
}

fn if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The newest entry of the consents that the newest receipts of this vehicle name. Their signatures are not asked: what is forged here can only
/// make less of a consent.
pub fn named(directory: &Directory, vehicle: &VehicleId) -> Option<Place> {
    let lines = std::fs::read(directory.receipts().join(crate::receipts::LEDGER)).ok()?;
    let newest = lines.rsplit(|byte| *byte == b'\n').take(NEWEST_RECEIPTS);
    let place = |line: &[u8]| {
        let usage = crate::receipts::usage_of(line)?;
        let record = usage.claim.consent?.record?;
        (usage.vehicle == *vehicle).then_some(Place {
            sequence: record.sequence,
            sha256: record.sha256,
        })
    };
    newest.filter_map(place).max_by_key(|place| place.sequence)
}
