//! What can be wrong with a line of acceptances, in words and as JSON.

use std::fmt;

use serde::Serialize;

use super::Dispute;
use crate::ids::PodUid;
use crate::receipt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct Finding {
    /// In which line of the acceptances, from 1.
    pub line: usize,
    /// What.
    #[serde(flatten)]
    pub fault: Fault,
}

/// What can be measured, and clipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Measure {
    /// Milliseconds from start to end.
    Duration,
    /// Milliseconds of processor time.
    ProcessorTime,
    /// Joules.
    Energy,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Duration => "ms of running",
            Self::ProcessorTime => "ms of processor time",
            Self::Energy => "J",
        })
    }
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "fault", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Fault {
    /// The receipt that it names is not there.
    #[error("it is of a receipt that is not here: {usage_sequence}, with SHA-256 {usage_sha256}")]
    NoSuchUsage {
        /// The number of the receipt.
        usage_sequence: u64,
        /// The SHA-256 of its payload, in hex.
        usage_sha256: String,
    },
    /// It says of the receipt that it names what the receipt does not say: its attempt, its vehicle or its number.
    #[error("it is of another attempt than the receipt that it names, which is receipt {usage_sequence}, for {uid}")]
    AnotherAttempt {
        /// The number of the receipt.
        usage_sequence: u64,
        /// The attempt that the receipt is of.
        uid: PodUid,
    },
    /// It calls the attempt accepted, and another's result is that of the index.
    #[error(
        "it is accepted, and the result of its index is that of {}",
        .accepted.as_ref().map_or("nobody", PodUid::as_str)
    )]
    NotAccepted {
        /// Whose result it is.
        accepted: Option<PodUid>,
    },
    /// The terms are not those that the car has signed for.
    #[error(
        "the car has signed for terms {}, and it is settled on {}",
        .signed.as_deref().unwrap_or("none"),
        .settled.as_deref().unwrap_or("none")
    )]
    TermsDiffer {
        /// The SHA-256 that the car has signed for.
        signed: Option<String>,
        /// That of the terms that it is paid by.
        settled: Option<String>,
    },
    /// The car claims more than can have been. It was clipped; the finding is about the receipt.
    #[error("receipt {usage_sequence} is overstated: it claims {claimed} {measure}, and at most {seen} were seen")]
    Overstated {
        /// The number of the receipt.
        usage_sequence: u64,
        /// What of.
        measure: Measure,
        /// What the car claims.
        claimed: u64,
        /// The most that can have been.
        seen: u64,
    },
    /// It counts another use than what follows from the receipt and what was seen.
    #[error("it counts {said} {measure}, and it should be {computed}")]
    WrongUse {
        /// Of what.
        measure: Measure,
        /// What it says.
        said: u64,
        /// What follows.
        computed: u64,
    },
    /// Its amount does not follow from its terms.
    #[error("its amount is {said} millionths, and it should be {computed}")]
    WrongAmount {
        /// What it says.
        said: u64,
        /// What follows.
        computed: u64,
    },
    /// It gives another reason for paying nothing than there is.
    #[error(
        "its dispute is {}, and it should be {}",
        .said.map_or("none", Dispute::word),
        .computed.map_or("none", Dispute::word)
    )]
    WrongDispute {
        /// What it says.
        said: Option<Dispute>,
        /// What follows.
        computed: Option<Dispute>,
    },
    /// Its line or its place in the chain is wrong, as can be with a receipt.
    #[error("{}", of_acceptance(.0))]
    #[serde(untagged)]
    Chain(receipt::Fault),
}

/// The same words, where they are about receipts, about acceptances.
fn of_acceptance(fault: &receipt::Fault) -> String {
    use receipt::Fault as Of;
    match fault {
        Of::Unreadable { why } => format!("it is no acceptance: {why}"),
        Of::BeginsLate { sequence } => {
            format!("the chain begins with acceptance {sequence}: what was before it is not here")
        }
        Of::Gap { expected, found } => {
            format!("there is a gap: acceptance {expected} should be here, and it is {found}")
        }
        Of::Doubled { sequence } => format!("it is doubled: there is an acceptance {sequence} before it"),
        Of::DoubledAttempt { uid, first } => {
            format!("its attempt is doubled: line {first} has an acceptance for {uid} too")
        }
        Of::Reordered { sequence } => {
            format!("it is out of order: acceptance {sequence} stands behind a later one")
        }
        Of::Broken => "the chain is broken: it follows another acceptance than the one before it".to_owned(),
        other => other.to_string(),
    }
}

impl From<receipt::Finding> for Finding {
    fn from(finding: receipt::Finding) -> Self {
        Self {
            line: finding.line,
            fault: Fault::Chain(finding.fault),
        }
    }
}
