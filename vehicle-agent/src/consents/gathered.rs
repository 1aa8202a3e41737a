//! Everything that a chain of consents is read with, from the files of a car. Only reads: an agent may run or not.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use kerbside_core::consent::{Around, Consents, Mark, Notice, Place, Report, Unusable, read, verify};
use kerbside_core::ids::VehicleId;
use serde::de::DeserializeOwned;

use super::withdrawn::Withdrawn;
use super::{CHAIN, notice};
use crate::directory::Directory;
use crate::receipts::KnownKeys;

/// So many of the newest receipts are looked through for the consents that they name.
const NEWEST_RECEIPTS: usize = 256;
/// Bytes of them that are read first: a receipt has about one and a half thousand.
const TAIL: u64 = 512 << 10;

/// What lies in the files.
pub struct Gathered {
    pub(super) chain: Vec<u8>,
    pub(super) keys: KnownKeys,
    pub(super) notice: Notice,
    pub(super) mark: Option<Mark>,
    /// What was taken back beside the chain.
    pub(super) withdrawn: Option<Withdrawn>,
    /// There is a mark, or something was taken back, and it says nothing.
    broken_mark: Option<Unusable>,
    pub(super) named: Option<Place>,
    vehicle: VehicleId,
}

impl Gathered {
    /// Reads what is there. A car that was never told anything has an empty chain. `named`: what the receipts were known to name.
    pub fn of(directory: &Directory, vehicle: &VehicleId, named: Option<Place>) -> Result<Self, Unusable> {
        Self::under(directory, vehicle, named, notice(directory)?)
    }

    /// The same under this notice, for who does not ask what is in force.
    pub(super) fn under(
        directory: &Directory,
        vehicle: &VehicleId,
        named: Option<Place>,
        notice: Notice,
    ) -> Result<Self, Unusable> {
        let unreadable = |error: io::Error| Unusable::Unreadable(error.to_string());
        // The mark before the chain: it is written after it, so that a chain which grows between the two is not taken for a shorter one.
        let (mark, broken_mark) = note(&directory.consents_mark()).map_err(unreadable)?;
        let (withdrawn, broken) = note(&directory.consents_withdrawn()).map_err(unreadable)?;
        let chain = if_there(&directory.consents().join(CHAIN)).map_err(unreadable)?;
        // After the lines: a key is kept before it signs.
        let keys = KnownKeys::read(&directory.receipts()).map_err(unreadable)?;
        Ok(Self {
            chain: chain.unwrap_or_default(),
            keys,
            notice,
            mark,
            withdrawn,
            broken_mark: broken_mark.or(broken),
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
        let mut consents = self.written();
        if let (Consents::Known(known), Some(withdrawn)) = (&mut consents, &self.withdrawn) {
            withdrawn.end(known);
        }
        consents
    }

    /// What is held by the chain alone.
    pub(super) fn written(&self) -> Consents {
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

/// What a small file beside the chain says, or why it says nothing; neither, if there is none.
fn note<T: DeserializeOwned>(path: &Path) -> io::Result<(Option<T>, Option<Unusable>)> {
    Ok(match if_there(path)?.map(|text| serde_json::from_slice(&text)) {
        None => (None, None),
        Some(Ok(note)) => (Some(note), None),
        Some(Err(error)) => (None, Some(Unusable::Mark(error.to_string()))),
    })
}

fn if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The end of a file, with more than so many of its lines if it has them: the file is read from its end, a larger part each time. The rest was
/// verified when the agent began, and is long after years.
fn tail(path: &Path, lines: usize, mut part: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    loop {
        let from = length.saturating_sub(part);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        (&mut file).take(length - from).read_to_end(&mut bytes)?;
        if from == 0 || bytes.split(|byte| *byte == b'\n').count() > lines + 1 {
            return Ok(bytes);
        }
        part = part.saturating_mul(4);
    }
}

/// The newest entry of the consents that the newest receipts of this vehicle name. Their signatures are not asked: what is forged here can only
/// make less of a consent.
pub fn named(directory: &Directory, vehicle: &VehicleId) -> Option<Place> {
    let lines = tail(
        &directory.receipts().join(crate::receipts::LEDGER),
        NEWEST_RECEIPTS,
        TAIL,
    )
    .ok()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_a_long_file_has_the_lines_that_are_wanted_and_not_the_whole_file() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("lines");
        let lines: Vec<u8> = (0..1000)
            .flat_map(|n| format!("line {n:0>94}\n").into_bytes())
            .collect();
        std::fs::write(&path, &lines).unwrap();
        // A part that is too small, one that fits, and one that is larger than the file.
        for (part, most) in [(10, 5_000), (2_000, 2_000), (1 << 20, 100_000)] {
            let end = tail(&path, 9, part).unwrap();
            assert!(lines.ends_with(&end) && end.len() <= most, "{part}: {}", end.len());
            assert!(end.split(|byte| *byte == b'\n').count() > 10, "{part}");
        }
        std::fs::write(&path, "one\ntwo").unwrap();
        assert_eq!(tail(&path, 9, 2).unwrap(), b"one\ntwo");
        assert!(tail(&temp.path().join("none"), 9, 2).is_err());
    }
}
