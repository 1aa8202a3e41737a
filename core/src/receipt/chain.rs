//! Walks a chain of signed payloads and says everything that is wrong with it. Receipts are such a chain, and so are acceptances and consents.
//!
//! Called by [`super::verify()`], [`crate::ledger::check()`] and [`crate::consent::read()`]. A line that is not what was signed is a finding and nothing more: it moves the
//! walk on by one place, and what it says counts for nothing. What must never happen: a change of a valid chain that is not found, but for
//! lines that are missing at its end.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Envelope, Fault, Finding, NOTHING, digest, pae};
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

/// The newest receipt of a chain: who holds it knows when a ledger ends too soon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Its number.
    pub sequence: u64,
    /// The SHA-256 of its payload, in hex.
    pub digest: String,
}

/// A payload that has its place in a chain.
pub(crate) trait Link: DeserializeOwned {
    /// Its type in the envelope.
    const TYPE: &'static str;
    /// Whether each is signed by the car that it is of.
    const SIGNED_BY_CAR: bool;

    /// Its number, from 1.
    fn sequence(&self) -> u64;
    /// The SHA-256 of the payload before it, in hex.
    fn previous(&self) -> &str;
    /// The car.
    fn vehicle(&self) -> &VehicleId;
    /// The attempt, if it is of one; a chain has one payload for each.
    fn attempt(&self) -> Option<&PodUid>;
}

/// A payload whose signatures are good.
pub(crate) struct Placed<L> {
    /// In which line, from 1.
    pub(crate) line: usize,
    /// The SHA-256 of the payload, in hex.
    pub(crate) digest: String,
    /// Neither its number nor its attempt has been in a line before it.
    pub(crate) first: bool,
    /// What it says.
    pub(crate) payload: L,
}

/// What a walk has found.
pub(crate) struct Chain<L> {
    /// How many lines there are.
    pub(crate) lines: usize,
    /// Everything that is wrong, by line.
    pub(crate) findings: Vec<Finding>,
    /// The highest payload, if there is one.
    pub(crate) head: Option<Head>,
    /// Every payload whose signatures are good, also those that are out of place.
    pub(crate) placed: Vec<Placed<L>>,
}

/// Walks the bytes of a file of JSON Lines.
pub(crate) fn walk<L: Link>(ledger: &[u8], keys: &impl Keys) -> Chain<L> {
    let mut walk = Walk::<_, L>::new(keys);
    for (index, line) in ledger.split_inclusive(|byte| *byte == b'\n').enumerate() {
        walk.line(index + 1, line);
    }
    walk.end()
}

struct Walk<'a, K, L> {
    keys: &'a K,
    chain: Chain<L>,
    /// The number that comes next.
    expected: u64,
    /// The payload that comes before it; `None`: that line could not be read.
    previous: Option<String>,
    seen: BTreeSet<u64>,
    attempts: HashMap<PodUid, usize>,
    vehicle: Option<VehicleId>,
}

impl<'a, K: Keys, L: Link> Walk<'a, K, L> {
    fn new(keys: &'a K) -> Self {
        Self {
            keys,
            chain: Chain {
                lines: 0,
                findings: Vec::new(),
                head: None,
                placed: Vec::new(),
            },
            expected: 1,
            previous: Some(NOTHING.to_owned()),
            seen: BTreeSet::new(),
            attempts: HashMap::new(),
            vehicle: None,
        }
    }

    fn find(&mut self, line: usize, fault: Fault) {
        self.chain.findings.push(Finding { line, fault });
    }

    fn line(&mut self, number: usize, line: &[u8]) {
        self.chain.lines = number;
        let Some(line) = line.strip_suffix(b"\n") else {
            return self.find(number, Fault::CutOff);
        };
        let mut bytes = None;
        match self.read(line, &mut bytes) {
            Ok(payload) => self.place(number, payload, digest(&bytes.unwrap_or_default())),
            Err(fault) => {
                self.find(number, fault);
                self.expected = self.expected.saturating_add(1);
                self.previous = bytes.as_deref().map(digest);
            }
        }
    }

    /// What was signed in this line, or what is wrong with it. `bytes` is the payload that stands there either way.
    fn read(&self, line: &[u8], bytes: &mut Option<Vec<u8>>) -> Result<L, Fault> {
        let unreadable = |why: String| Fault::Unreadable { why };
        let envelope = Envelope::parse(line).map_err(|error| unreadable(error.0))?;
        let bytes: &[u8] = bytes.insert(envelope.payload().map_err(|error| unreadable(error.0))?);
        if envelope.payload_type != L::TYPE {
            return Err(Fault::WrongType {
                found: envelope.payload_type,
            });
        }
        let message = pae(&envelope.payload_type, bytes);
        if envelope.signatures.is_empty() {
            return Err(unreadable("nobody has signed it".to_owned()));
        }
        for signature in &envelope.signatures {
            let keyid = || signature.keyid.clone();
            let signed = signature.bytes().map_err(|error| unreadable(error.0))?;
            match self.keys.verify(&signature.keyid, &message, &signed) {
                Verdict::Good => {}
                Verdict::Forged => return Err(Fault::Forged { keyid: keyid() }),
                Verdict::UnknownKey => return Err(Fault::UnknownKey { keyid: keyid() }),
            }
        }
        let payload: L = serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))?;
        let mut owners = envelope.signatures.iter().filter_map(|s| self.keys.vehicle(&s.keyid));
        match owners.find(|owner| L::SIGNED_BY_CAR && owner != payload.vehicle()) {
            Some(owner) => Err(Fault::KeyOfAnother { owner }),
            None => Ok(payload),
        }
    }

    /// A payload whose signatures are good: whether it stands where it should, and agrees with the others.
    fn place(&mut self, line: usize, payload: L, digest: String) {
        let sequence = payload.sequence();
        let again = self.seen.contains(&sequence);
        if again {
            self.find(line, Fault::Doubled { sequence });
        } else if sequence < self.expected {
            self.find(line, Fault::Reordered { sequence });
        } else {
            self.follow(line, &payload, &digest);
        }
        let mut attempt_again = false;
        if let Some(uid) = payload.attempt().cloned() {
            let first = *self.attempts.entry(uid.clone()).or_insert(line);
            attempt_again = first != line;
            if attempt_again && !again {
                self.find(line, Fault::DoubledAttempt { uid, first });
            }
        }
        let vehicle = self.vehicle.get_or_insert_with(|| payload.vehicle().clone());
        if *vehicle != *payload.vehicle() {
            let found = payload.vehicle().clone();
            self.find(line, Fault::OtherVehicle { found });
        }
        self.seen.insert(sequence);
        self.chain.placed.push(Placed {
            line,
            digest,
            first: !again && !attempt_again,
            payload,
        });
    }

    /// The next payload, or one beyond it.
    fn follow(&mut self, line: usize, payload: &L, digest: &str) {
        let (expected, found) = (self.expected, payload.sequence());
        let begins = self.chain.lines == 1 && payload.previous() == NOTHING;
        if found == expected {
            if self
                .previous
                .as_ref()
                .is_some_and(|previous| previous != payload.previous())
            {
                self.find(line, Fault::Broken);
            }
        } else if begins {
            self.find(line, Fault::BeginsLate { sequence: found });
        } else {
            self.find(line, Fault::Gap { expected, found });
        }
        self.expected = found.saturating_add(1);
        self.previous = Some(digest.to_owned());
        self.chain.head = Some(Head {
            sequence: found,
            digest: digest.to_owned(),
        });
    }

    fn end(self) -> Chain<L> {
        let Self { mut chain, seen, .. } = self;
        // What was missing and came later is out of order there, and no gap here.
        chain.findings.retain(|finding| match finding.fault {
            Fault::Gap { expected, found } => (seen.range(expected..found).count() as u64) < found - expected,
            _ => true,
        });
        chain
    }
}
