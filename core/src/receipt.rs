//! What a car says that one attempt used: the content of its receipts, their form, and how a chain of them is checked.
//!
//! Called by the agent, which counts ([`Tally`]), writes and signs, and by whoever checks a ledger ([`verify`]): the owner's command, and
//! [`crate::ledger`], which has the other half. Values only: keys and signatures are the caller's ([`Keys`]). What must never happen: a
//! receipt that says more than the car can show, or one that names a person, a place, a Pod or a namespace.
//!
//! A receipt is one line of JSON, an envelope as of DSSE ([`Envelope`]), whose payload is a [`Usage`]. The receipts of a car form a chain:
//! each has the next sequence, from 1, and the hash of the payload before it. So whatever is changed, left out, doubled or moved is found
//! by whoever holds the lines, but for one thing: lines that are missing at the end leave a shorter chain that is as good. Only who
//! has seen a later head knows of them, which is why the cluster is to hold the head.

mod chain;
mod envelope;
mod fault;
mod tally;
mod verify;

pub(crate) use chain::{Chain, Link, Placed, walk};
pub use chain::{Head, Keys, Verdict};
pub use envelope::{Envelope, Malformed, PAYLOAD_TYPE, Signature, digest, pae};
pub use fault::{Fault, Finding};
pub use tally::Tally;
pub use verify::{Read, Report, Totals, verify};

use serde::{Deserialize, Serialize};

use crate::attempt::{Kind, Outcome};
use crate::energy::Amount;
use crate::ids::{PodUid, VehicleId};

/// What stands for the payload before the first.
pub const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// No word that the cluster gives is longer in a receipt.
const LONGEST_WORD: usize = 64;

/// What the car signs. Its JSON is a file format: fields may be added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// From 1, without a gap.
    pub sequence: u64,
    /// The SHA-256 of the payload before this one, in hex; [`NOTHING`] for the first.
    pub previous: String,
    /// The car.
    pub vehicle: VehicleId,
    /// What it says of an attempt.
    #[serde(flatten)]
    pub claim: Claim,
}

/// What a car says that one attempt used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The attempt.
    pub pod_uid: PodUid,
    /// The digests of its images, sorted; where an image came from is not said.
    pub images: Vec<String>,
    /// The job class.
    pub class: String,
    /// The SHA-256 of the terms that it ran on, as they stood in `Run`; `None`: on none.
    #[serde(default)]
    pub terms_sha256: Option<String>,
    /// On whose authority it ran; `None` if that is not known any more.
    pub consent: Option<Consent>,
    /// When its first program began: milliseconds since 1970, by the car's clock.
    pub started_at_ms: i64,
    /// When its last program had ended. After a loss of power: when it was last known to be alive.
    pub ended_at_ms: i64,
    /// Milliseconds of processor time. After a loss of power: as far as it was known.
    pub cpu_ms: u64,
    /// Milliseconds for which it stood still with the car, if that was counted.
    #[serde(default)]
    pub frozen_ms: Option<u64>,
    /// Bytes of output that the cluster has stored.
    pub output_bytes: u64,
    /// What it took from the car's battery or socket; `None`: nothing measures it in this car.
    #[serde(default)]
    pub energy: Option<Energy>,
    /// How it ended.
    pub outcome: Ending,
}

/// The owner's consent that an attempt ran under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Consent {
    /// `consent.givenAt` of the owner's document.
    pub given_at: jiff::Timestamp,
    /// The SHA-256 of the document as it was read, in hex. Of its content nothing is said.
    pub document_sha256: String,
    /// The record of the consent to this job class; `None` in receipts of before there were records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordRef>,
}

/// How a receipt names a consent record. Of its content nothing is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordRef {
    /// Its id.
    pub id: String,
    /// The number, in the car's chain of consents, of the entry by which it was given.
    pub sequence: u64,
    /// The SHA-256 of that entry's payload, in hex.
    pub sha256: String,
}

/// Energy, and how it is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Energy {
    /// How much.
    pub joules: u64,
    /// How that was found out: the words of [`crate::energy::Source`], with `+` between them.
    pub method: String,
    /// How far off it may be, in thousandths of it; `None`: that is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_permille: Option<u32>,
}

impl From<Amount> for Energy {
    fn from(had: Amount) -> Self {
        Self {
            joules: had.joules(),
            method: had.method(),
            error_permille: Some(had.error_permille()),
        }
    }
}

/// How an attempt ended, without the sentence: that may name what nobody outside has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ending {
    /// Whose doing it was.
    pub kind: Kind,
    /// A word in CamelCase, or none.
    pub reason: String,
}

impl From<&Outcome> for Ending {
    fn from(outcome: &Outcome) -> Self {
        Self {
            kind: outcome.kind,
            reason: word(&outcome.reason),
        }
    }
}

/// Some words are the cluster's: what is no word is not repeated.
fn word(text: &str) -> String {
    let is_word = text.len() <= LONGEST_WORD && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_word { text } else { "Other" }.to_owned()
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
