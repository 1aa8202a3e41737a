//! Checks a vehicle's ledger as somebody does who believes nothing but some CAs.
//!
//! Certificates are judged at the time when they began to hold: old keys expire, what they have signed does not. Only a car's own
//! certificates are taken for its receipts, and only the operator's for acceptances. A CA that was made anew takes nothing from what was signed
//! under the old one, so all that the operator says it has had are believed; what was signed under which is said. Never believed: a CA
//! because it lies in the store.

use std::collections::{BTreeMap, HashMap};

use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_core::ledger::{self, Report};
use kerbside_core::receipt::{Keys, Verdict};
use kerbside_link::identity::{Ca, IdentityError, PublicKey, cas_from_pem, check_chain};
use serde_json::Value;

use super::book::{Book, VehicleLedger};
use crate::Error;

/// Checks ledgers, one vehicle's after the other.
pub(super) struct Checker {
    /// PEM, by fingerprint.
    pub(super) cas: BTreeMap<String, String>,
    operator: OperatorKeys,
    /// What is wrong with the certificates of the operator and of CAs.
    pub(super) problems: Vec<String>,
    /// Where each attempt was accepted: it is only once, in all ledgers together.
    accepted: HashMap<PodUid, VehicleId>,
}

/// What is found of one vehicle's ledger.
pub(super) struct Checked {
    pub(super) report: Report,
    /// What is wrong and in no line: certificates, and attempts that another vehicle's ledger has too.
    pub(super) problems: Vec<String>,
    pub(super) receipts: usize,
    pub(super) acceptances: usize,
    /// How many of the acceptances are in no sum: nobody who is believed has signed them, or they are there twice.
    pub(super) left_out: usize,
    /// How many of the receipts were signed with keys that each CA has certified.
    pub(super) receipts_by_ca: BTreeMap<String, usize>,
    /// Likewise of the acceptances.
    pub(super) acceptances_by_ca: BTreeMap<String, usize>,
}

impl Checked {
    /// How many things are wrong.
    pub(super) fn findings(&self) -> usize {
        self.problems.len() + self.report.usage.findings.len() + self.report.findings.len()
    }
}

impl Checker {
    /// Believes the CAs of the book and what they have certified.
    pub(super) fn new(book: &Book) -> Result<Self, Error> {
        let mut cas = cas_from_pem(&book.ca).map_err(Error::Ca)?;
        let mut problems = Vec::new();
        for (fingerprint, pem) in book.cas.iter().filter(|_| book.cas_are_known) {
            match cas_from_pem(pem) {
                Ok(found) if found.keys().eq([fingerprint]) => cas.extend(found),
                Ok(_) => problems.push(format!("CA {fingerprint}: it is another certificate")),
                Err(error) => problems.push(format!("CA {fingerprint}: {error}")),
            }
        }
        let named = |pem: &str| PublicKey::named(pem, Ca::LEDGER);
        let keys = believed(&book.operator_keys, &cas, named, &mut problems);
        Ok(Self {
            cas,
            operator: OperatorKeys(keys),
            problems,
            accepted: HashMap::new(),
        })
    }

    /// Checks both halves of a vehicle's ledger.
    pub(super) fn check(&mut self, ledger: &VehicleLedger) -> Checked {
        let mut problems = Vec::new();
        let of_vehicle = |pem: &str| {
            let key = PublicKey::from_chain_pem(pem)?;
            if *key.vehicle() == ledger.vehicle {
                Ok(key)
            } else {
                Err(IdentityError::Untrusted(format!("it is of {}", key.vehicle())))
            }
        };
        let keys = CarKeys(believed(&ledger.certificates, &self.cas, of_vehicle, &mut problems));
        let (usage, acceptances) = (lines(&ledger.usage), lines(&ledger.acceptances));
        let report = ledger::check(&usage, &acceptances, &keys, &self.operator);
        for line in &report.lines {
            let other = self.accepted.insert(line.pod_uid.clone(), ledger.vehicle.clone());
            if let Some(other) = other.filter(|other| *other != ledger.vehicle) {
                problems.push(format!("attempt {} is accepted for {other} too", line.pod_uid));
            }
        }
        Checked {
            left_out: ledger.acceptances.len().saturating_sub(report.lines.len()),
            report,
            problems,
            receipts: ledger.usage.len(),
            acceptances: ledger.acceptances.len(),
            receipts_by_ca: by_ca(&ledger.usage, &keys.0),
            acceptances_by_ca: by_ca(&ledger.acceptances, &self.operator.0),
        }
    }
}

/// A key that is believed.
struct Certified<O> {
    key: PublicKey<O>,
    /// The fingerprint of the CA that has certified it.
    ca: String,
}

/// By the id of the key.
type KeysOf<O> = BTreeMap<String, Certified<O>>;

/// The keys whose certificates are what they should be; what is wrong with the others goes to `problems`.
fn believed<O>(
    certificates: &BTreeMap<String, String>,
    cas: &BTreeMap<String, String>,
    read: impl Fn(&str) -> Result<PublicKey<O>, IdentityError>,
    problems: &mut Vec<String>,
) -> KeysOf<O> {
    let mut keys = BTreeMap::new();
    for (keyid, pem) in certificates {
        let certified = |key| certified_by(pem, cas).map(|ca| Certified { key, ca });
        match read(pem).and_then(certified) {
            Ok(known) if known.key.key_id() == keyid => {
                keys.insert(keyid.clone(), known);
            }
            Ok(known) => problems.push(format!("certificate {keyid} is of the key {}", known.key.key_id())),
            Err(error) => problems.push(format!("certificate {keyid}: {error}")),
        }
    }
    keys
}

/// The fingerprint of the CA that has given out this chain.
fn certified_by(chain: &str, cas: &BTreeMap<String, String>) -> Result<String, IdentityError> {
    let mut error = IdentityError::EmptyChain;
    for (fingerprint, ca) in cas {
        match check_chain(chain, ca) {
            Ok(()) => return Ok(fingerprint.clone()),
            Err(other) => error = other,
        }
    }
    Err(error)
}

/// How many lines the keys of each CA have signed, going by what the lines say: that they are signed is checked elsewhere.
fn by_ca<O>(envelopes: &[Value], keys: &KeysOf<O>) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    for envelope in envelopes {
        let keyid = envelope["signatures"][0]["keyid"].as_str();
        if let Some(known) = keyid.and_then(|keyid| keys.get(keyid)) {
            *lines.entry(known.ca.clone()).or_default() += 1;
        }
    }
    lines
}

/// As JSON Lines.
fn lines(envelopes: &[Value]) -> Vec<u8> {
    let mut lines = Vec::new();
    for envelope in envelopes {
        lines.extend(envelope.to_string().into_bytes());
        lines.push(b'\n');
    }
    lines
}

fn verdict<O>(keys: &KeysOf<O>, keyid: &str, message: &[u8], signature: &[u8]) -> Verdict {
    match keys.get(keyid) {
        None => Verdict::UnknownKey,
        Some(known) if known.key.verify(message, signature) => Verdict::Good,
        Some(_) => Verdict::Forged,
    }
}

struct CarKeys(KeysOf<VehicleId>);

impl Keys for CarKeys {
    fn verify(&self, keyid: &str, message: &[u8], signature: &[u8]) -> Verdict {
        verdict(&self.0, keyid, message, signature)
    }

    fn vehicle(&self, keyid: &str) -> Option<VehicleId> {
        self.0.get(keyid).map(|known| known.key.vehicle().clone())
    }
}

struct OperatorKeys(KeysOf<String>);

impl Keys for OperatorKeys {
    fn verify(&self, keyid: &str, message: &[u8], signature: &[u8]) -> Verdict {
        verdict(&self.0, keyid, message, signature)
    }
}
