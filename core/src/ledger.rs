//! The operator's half of the ledger: what of an attempt is accepted, on which terms, and what it is worth; and how both halves are checked.
//!
//! Called by the operator, which settles ([`Closing::accept`]), by the adapter, which hands a car its terms ([`terms_of_annotation`]), and by
//! whoever checks a ledger ([`check()`]). Values only: keys and signatures are the caller's ([`crate::receipt::Keys`]). What must never happen:
//! more is paid for than the car claims, or than it can have used in the time that the adapter saw; or an amount that does not follow from
//! the terms, the claim and what was seen, all of which are in the ledger.
//!
//! An acceptance has the form of a receipt, an envelope as of DSSE, with a type and a key of its own. The acceptances of a vehicle's receipts
//! form a chain like the receipts do, in the order in which they were settled, which need not be that of the receipts.
//!
//! | standing | processor time | energy |
//! |---|---|---|
//! | accepted | paid | paid |
//! | superseded, failed, disrupted; unaccepted: EnergyOnly | not paid | paid |
//! | superseded, failed, disrupted; unaccepted: Nothing | not paid | not paid |

mod amount;
mod check;
mod closing;
mod fault;
mod price;
mod sum;
mod terms;
mod turns;

pub use amount::amount;
pub use check::{Line, Report, check};
pub use closing::{Closing, Mismatch, Place};
pub use fault::{Fault, Finding, Measure};
pub use price::{Price, PriceError};
pub use sum::Sum;
pub use terms::{Terms, TermsError, Unaccepted, terms_annotation, terms_of_annotation};
pub use turns::Turns;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{JobUid, PodUid, VehicleId};
use crate::receipt::Link;

/// What the payload of an acceptance is.
pub const ACCEPTANCE_TYPE: &str = "application/vnd.kerbside.acceptance.v1alpha1+json";

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// Its result is the result of its index.
    Accepted,
    /// It ended well, and another's result is that of its index.
    Superseded,
    /// Its program ended badly.
    Failed,
    /// The car or the cluster ended it.
    Disrupted,
}

impl Standing {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Superseded => "superseded",
            Self::Failed => "failed",
            Self::Disrupted => "disrupted",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Why nothing is paid though something was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dispute {
    /// The car has signed for terms that were not offered.
    TermsDiffer,
    /// It has signed for none.
    NoTerms,
}

impl Dispute {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::TermsDiffer => "TermsDiffer",
            Self::NoTerms => "NoTerms",
        }
    }
}

impl fmt::Display for Dispute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What the operator signs. Its JSON is a file format: fields may be added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acceptance {
    /// From 1 for each vehicle, without a gap.
    pub sequence: u64,
    /// The SHA-256 of the payload before this one, in hex; [`crate::receipt::NOTHING`] for the first.
    pub previous: String,
    /// The car.
    pub vehicle: VehicleId,
    /// The number of its receipt.
    pub usage_sequence: u64,
    /// The SHA-256 of the payload of that receipt, in hex.
    pub usage_sha256: String,
    /// The attempt.
    pub pod_uid: PodUid,
    /// Whose attempt it was.
    pub job_uid: JobUid,
    /// At which part of that job.
    pub index: u32,
    /// Whose result is that of the index; `None`: nobody's, when the attempt was let go.
    pub accepted_uid: Option<PodUid>,
    /// What became of the attempt.
    pub standing: Standing,
    /// What it is paid by; `None`: by nothing.
    pub terms: Option<Terms>,
    /// The SHA-256 of the terms that the car has signed for, in hex.
    pub terms_sha256: Option<String>,
    /// For how long the adapter saw it running, in milliseconds.
    pub running_ms: u64,
    /// The processor that it could use at most, in thousandths of a core.
    pub milli_cpu: u64,
    /// Milliseconds of processor time that count, after clipping.
    pub cpu_ms: u64,
    /// Energy that counts, after clipping.
    pub joules: u64,
    /// What that is worth: 10^-6 of the currency's unit.
    pub amount_micro: u64,
    /// Why nothing is paid though something was used.
    #[serde(default)]
    pub dispute: Option<Dispute>,
}

impl Link for Acceptance {
    const TYPE: &'static str = ACCEPTANCE_TYPE;
    const SIGNED_BY_CAR: bool = false;

    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn previous(&self) -> &str {
        &self.previous
    }

    fn vehicle(&self) -> &VehicleId {
        &self.vehicle
    }

    fn attempt(&self) -> Option<&PodUid> {
        Some(&self.pod_uid)
    }
}

#[cfg(test)]
mod tests;
