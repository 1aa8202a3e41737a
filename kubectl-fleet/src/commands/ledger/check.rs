//! Checks a vehicle's ledger as somebody does who believes nothing but a CA.
//!
//! Certificates are judged at the time when they began to hold: old keys expire, what they have signed does not. Only a car's own
//! certificates are taken for its receipts, and only the operator's for acceptances.

use std::collections::{BTreeMap, HashMap};

use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_core::ledger::{self, Report};
use kerbside_core::receipt::{Keys, Verdict};
use kerbside_link::identity::{Ca, IdentityError, PublicKey, chain_from_pem, check_chain};
use serde_json::Value;

use super::book::{Book, VehicleLedger};
use crate::Error;

/// Checks ledgers, one vehicle's after the other.
pub(super) struct Checker {
    ca: String,
    operator: OperatorKeys,
    /// What is wrong with the operator's certificates.
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
}

impl Checked {
    /// How many things are wrong.
    pub(super) fn findings(&self) -> usize {
        self.problems.len() + self.report.usage.findings.len() + self.report.findings.len()
    }
}

impl Checker {
    /// Believes the CA of the book and what it has certified.
    pub(super) fn new(book: &Book) -> Result<Self, Error> {
        chain_from_pem(&book.ca).map_err(Error::Ca)?;
        let mut problems = Vec::new();
        let named = |pem: &str| PublicKey::named(pem, Ca::LEDGER);
        let keys = believed(&book.operator_keys, &book.ca, named, &mut problems);
        Ok(Self {
            ca: book.ca.clone(),
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
        let keys = CarKeys(believed(&ledger.certificates, &self.ca, of_vehicle, &mut problems));
        let (usage, acceptances) = (lines(&ledger.usage), lines(&ledger.acceptances));
        let report = ledger::check(&usage, &acceptances, &keys, &self.operator);
        for line in &report.lines {
            let other = self.accepted.insert(line.pod_uid.clone(), ledger.vehicle.clone());
            if let Some(other) = other.filter(|other| *other != ledger.vehicle) {
                problems.push(format!("attempt {} is accepted for {other} too", line.pod_uid));
            }
        }
        Checked {
            report,
            problems,
            receipts: ledger.usage.len(),
            acceptances: ledger.acceptances.len(),
        }
    }
}

/// The keys whose certificates are what they should be; what is wrong with the others goes to `problems`.
fn believed<O>(
    certificates: &BTreeMap<String, String>,
    ca: &str,
    read: impl Fn(&str) -> Result<PublicKey<O>, IdentityError>,
    problems: &mut Vec<String>,
) -> BTreeMap<String, PublicKey<O>> {
    let mut keys = BTreeMap::new();
    for (keyid, pem) in certificates {
        match read(pem).and_then(|key| check_chain(pem, ca).map(|()| key)) {
            Ok(key) if key.key_id() == keyid => {
                keys.insert(keyid.clone(), key);
            }
            Ok(key) => problems.push(format!("certificate {keyid} is of the key {}", key.key_id())),
            Err(error) => problems.push(format!("certificate {keyid}: {error}")),
        }
    }
    keys
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

fn verdict<O>(keys: &BTreeMap<String, PublicKey<O>>, keyid: &str, message: &[u8], signature: &[u8]) -> Verdict {
    match keys.get(keyid) {
        None => Verdict::UnknownKey,
        Some(key) if key.verify(message, signature) => Verdict::Good,
        Some(_) => Verdict::Forged,
    }
}

struct CarKeys(BTreeMap<String, PublicKey>);

impl Keys for CarKeys {
    fn verify(&self, keyid: &str, message: &[u8], signature: &[u8]) -> Verdict {
        verdict(&self.0, keyid, message, signature)
    }

    fn vehicle(&self, keyid: &str) -> Option<VehicleId> {
        self.0.get(keyid).map(|key| key.vehicle().clone())
    }
}

struct OperatorKeys(BTreeMap<String, PublicKey<String>>);

impl Keys for OperatorKeys {
    fn verify(&self, keyid: &str, message: &[u8], signature: &[u8]) -> Verdict {
        verdict(&self.0, keyid, message, signature)
    }
}
