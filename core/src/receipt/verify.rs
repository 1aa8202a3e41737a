//! Walks a chain of receipts and says everything that is wrong with it.
//!
//! A line that is not what the car signed is a finding and nothing more: it moves the walk on by one place, and what it says counts
//! for nothing. What must never happen: a change of a valid chain that is not found, but for lines that are missing at its end.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::{Envelope, NOTHING, PAYLOAD_TYPE, Usage, digest, pae};
use crate::ids::{PodUid, VehicleId};

/// Whoever holds the keys of cars.
pub trait Keys {
    /// Whether the key with this id has made this signature.
    fn verify(&self, keyid: &str, message: &[u8], signature: &[u8]) -> Verdict;

    /// Whose key it is, if that is known.
    fn vehicle(&self, keyid: &str) -> Option<VehicleId> {
        let _ = keyid;
        None
    }
}

/// What a signature is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The key has made it.
    Good,
    /// It has not.
    Forged,
    /// There is no such key.
    UnknownKey,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct Finding {
    /// In which line, from 1.
    pub line: usize,
    /// What.
    #[serde(flatten)]
    pub fault: Fault,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "fault", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Fault {
    /// The file ends within the line.
    #[error("it is cut off")]
    CutOff,
    /// It is no receipt.
    #[error("it is no receipt: {why}")]
    Unreadable {
        /// Why not.
        why: String,
    },
    /// It is an envelope of something else.
    #[error("its payload is of another type, {found:?}")]
    WrongType {
        /// The type.
        found: String,
    },
    /// The key has not made the signature.
    #[error("it is forged: the key {keyid} has not signed it")]
    Forged {
        /// The key.
        keyid: String,
    },
    /// Nobody knows the key.
    #[error("it is signed by a key that is not known, {keyid}")]
    UnknownKey {
        /// The key.
        keyid: String,
    },
    /// The key is another car's.
    #[error("it is signed by a key of {owner}, another vehicle")]
    KeyOfAnother {
        /// Whose.
        owner: VehicleId,
    },
    /// A new chain begins here, and what was before is not in it.
    #[error("the chain begins with receipt {sequence}: what was before it is not here")]
    BeginsLate {
        /// With this number.
        sequence: u64,
    },
    /// Receipts are missing.
    #[error("there is a gap: receipt {expected} should be here, and it is {found}")]
    Gap {
        /// The first that is missing.
        expected: u64,
        /// What is here instead.
        found: u64,
    },
    /// The same number twice.
    #[error("it is doubled: there is a receipt {sequence} before it")]
    Doubled {
        /// The number.
        sequence: u64,
    },
    /// One attempt, two receipts.
    #[error("its attempt is doubled: line {first} has a receipt for {uid} too")]
    DoubledAttempt {
        /// The attempt.
        uid: PodUid,
        /// The line of the first.
        first: usize,
    },
    /// It stands behind a later one.
    #[error("it is out of order: receipt {sequence} stands behind a later one")]
    Reordered {
        /// Its number.
        sequence: u64,
    },
    /// It does not follow the one before it.
    #[error("the chain is broken: it follows another receipt than the one before it")]
    Broken,
    /// It ended before it began.
    #[error("it ends before it starts")]
    Backwards,
    /// It is of another car than the first.
    #[error("it is of another vehicle, {found}")]
    OtherVehicle {
        /// Which.
        found: VehicleId,
    },
}

/// Sums over receipts that count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// How many.
    pub count: u64,
    /// Milliseconds of processor time.
    pub cpu_ms: u64,
    /// Bytes of output.
    pub output_bytes: u64,
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.cpu_ms = self.cpu_ms.saturating_add(other.cpu_ms);
        self.output_bytes = self.output_bytes.saturating_add(other.output_bytes);
    }
}

/// The newest receipt of a chain: who holds it knows when a ledger ends too soon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Its number.
    pub sequence: u64,
    /// The SHA-256 of its payload, in hex.
    pub digest: String,
}

/// A receipt that its car has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// In which line, from 1.
    pub line: usize,
    /// What it says.
    pub usage: Usage,
}

/// What there is to say of a ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How many lines there are.
    pub lines: usize,
    /// Everything that is wrong, by line.
    pub findings: Vec<Finding>,
    /// The highest receipt, if there is one.
    pub head: Option<Head>,
    /// Of every receipt that its car has signed, each once.
    pub total: Totals,
    /// The same by job class.
    pub by_class: BTreeMap<String, Totals>,
    /// The receipts themselves, also those that are out of place.
    #[serde(skip)]
    pub receipts: Vec<Read>,
}

impl Report {
    /// Whether more can be written behind it: nothing is wrong but that it does not begin with the first receipt.
    pub fn goes_on(&self) -> bool {
        let late = |finding: &Finding| matches!(finding.fault, Fault::BeginsLate { .. });
        self.findings.iter().all(late)
    }
}

/// Checks a ledger: the bytes of a file of JSON Lines.
pub fn verify(ledger: &[u8], keys: &impl Keys) -> Report {
    let mut walk = Walk::new(keys);
    for (index, line) in ledger.split_inclusive(|byte| *byte == b'\n').enumerate() {
        walk.line(index + 1, line);
    }
    walk.end()
}

struct Walk<'a, K> {
    keys: &'a K,
    report: Report,
    /// The number that comes next.
    expected: u64,
    /// The payload that comes before it; `None`: that line could not be read.
    previous: Option<String>,
    seen: BTreeSet<u64>,
    attempts: HashMap<PodUid, usize>,
    vehicle: Option<VehicleId>,
}

impl<'a, K: Keys> Walk<'a, K> {
    fn new(keys: &'a K) -> Self {
        Self {
            keys,
            report: Report::default(),
            expected: 1,
            previous: Some(NOTHING.to_owned()),
            seen: BTreeSet::new(),
            attempts: HashMap::new(),
            vehicle: None,
        }
    }

    fn find(&mut self, line: usize, fault: Fault) {
        self.report.findings.push(Finding { line, fault });
    }

    fn line(&mut self, number: usize, line: &[u8]) {
        self.report.lines = number;
        let Some(line) = line.strip_suffix(b"\n") else {
            return self.find(number, Fault::CutOff);
        };
        let mut payload = None;
        match self.read(line, &mut payload) {
            Ok(usage) => self.place(number, usage, &payload.unwrap_or_default()),
            Err(fault) => {
                self.find(number, fault);
                self.expected = self.expected.saturating_add(1);
                self.previous = payload.as_deref().map(digest);
            }
        }
    }

    /// What the car signed in this line, or what is wrong with it. `payload` is what stands there either way.
    fn read(&self, line: &[u8], payload: &mut Option<Vec<u8>>) -> Result<Usage, Fault> {
        let unreadable = |why: String| Fault::Unreadable { why };
        let envelope = Envelope::parse(line).map_err(|error| unreadable(error.0))?;
        let payload: &[u8] = payload.insert(envelope.payload().map_err(|error| unreadable(error.0))?);
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(Fault::WrongType {
                found: envelope.payload_type,
            });
        }
        let message = pae(&envelope.payload_type, payload);
        if envelope.signatures.is_empty() {
            return Err(unreadable("nobody has signed it".to_owned()));
        }
        for signature in &envelope.signatures {
            let keyid = || signature.keyid.clone();
            let bytes = signature.bytes().map_err(|error| unreadable(error.0))?;
            match self.keys.verify(&signature.keyid, &message, &bytes) {
                Verdict::Good => {}
                Verdict::Forged => return Err(Fault::Forged { keyid: keyid() }),
                Verdict::UnknownKey => return Err(Fault::UnknownKey { keyid: keyid() }),
            }
        }
        let usage: Usage = serde_json::from_slice(payload).map_err(|error| unreadable(error.to_string()))?;
        let mut owners = envelope.signatures.iter().filter_map(|s| self.keys.vehicle(&s.keyid));
        match owners.find(|owner| *owner != usage.vehicle) {
            Some(owner) => Err(Fault::KeyOfAnother { owner }),
            None => Ok(usage),
        }
    }

    /// A receipt that its car has signed: whether it stands where it should, and agrees with itself and the others.
    fn place(&mut self, line: usize, usage: Usage, payload: &[u8]) {
        let sequence = usage.sequence;
        let again = self.seen.contains(&sequence);
        if again {
            self.find(line, Fault::Doubled { sequence });
        } else if sequence < self.expected {
            self.find(line, Fault::Reordered { sequence });
        } else {
            self.follow(line, &usage, digest(payload));
        }
        let first = *self.attempts.entry(usage.claim.pod_uid.clone()).or_insert(line);
        let attempt_again = first != line;
        if attempt_again && !again {
            let uid = usage.claim.pod_uid.clone();
            self.find(line, Fault::DoubledAttempt { uid, first });
        }
        if usage.claim.ended_at_ms < usage.claim.started_at_ms {
            self.find(line, Fault::Backwards);
        }
        let vehicle = self.vehicle.get_or_insert_with(|| usage.vehicle.clone());
        if *vehicle != usage.vehicle {
            let found = usage.vehicle.clone();
            self.find(line, Fault::OtherVehicle { found });
        }
        self.seen.insert(sequence);
        if !again && !attempt_again {
            self.count(&usage);
        }
        self.report.receipts.push(Read { line, usage });
    }

    /// The next receipt, or one beyond it.
    fn follow(&mut self, line: usize, usage: &Usage, digest: String) {
        let (expected, found) = (self.expected, usage.sequence);
        let begins = self.report.lines == 1 && usage.previous == NOTHING;
        if found == expected {
            if self
                .previous
                .as_ref()
                .is_some_and(|previous| *previous != usage.previous)
            {
                self.find(line, Fault::Broken);
            }
        } else if begins {
            self.find(line, Fault::BeginsLate { sequence: found });
        } else {
            self.find(line, Fault::Gap { expected, found });
        }
        self.expected = found.saturating_add(1);
        self.previous = Some(digest.clone());
        self.report.head = Some(Head {
            sequence: found,
            digest,
        });
    }

    fn count(&mut self, usage: &Usage) {
        let one = Totals {
            count: 1,
            cpu_ms: usage.claim.cpu_ms,
            output_bytes: usage.claim.output_bytes,
        };
        self.report.total.add(one);
        self.report
            .by_class
            .entry(usage.claim.class.clone())
            .or_default()
            .add(one);
    }

    fn end(self) -> Report {
        let Self { mut report, seen, .. } = self;
        // What was missing and came later is out of order there, and no gap here.
        report.findings.retain(|finding| match finding.fault {
            Fault::Gap { expected, found } => (seen.range(expected..found).count() as u64) < found - expected,
            _ => true,
        });
        report
    }
}
