//! What can be wrong with a line of a chain, in words and as JSON.

use serde::Serialize;

use crate::ids::{PodUid, VehicleId};

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
