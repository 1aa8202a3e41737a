//! Signatures that are hashes, and what may be done to the lines of a chain: for the tests of receipts and of the ledger.

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::{Keys, Verdict};
use crate::ids::VehicleId;

/// The key of the car.
pub(crate) const KEY: &str = "key-1";

/// Whose signatures are hashes: whoever knows the key's name can sign, which nobody here does but these tests.
pub(crate) struct Hashes;

pub(crate) fn sign(keyid: &str, message: &[u8]) -> Vec<u8> {
    Sha256::digest([keyid.as_bytes(), message].concat()).to_vec()
}

impl Keys for Hashes {
    fn verify(&self, keyid: &str, message: &[u8], signature: &[u8]) -> Verdict {
        match keyid {
            "key-1" | "key-2" | "key-of-another" if sign(keyid, message) == signature => Verdict::Good,
            "key-1" | "key-2" | "key-of-another" => Verdict::Forged,
            _ => Verdict::UnknownKey,
        }
    }

    fn vehicle(&self, keyid: &str) -> Option<VehicleId> {
        Some(if keyid == "key-of-another" {
            vehicle(9)
        } else {
            vehicle(1)
        })
    }
}

pub(crate) fn vehicle(n: u8) -> VehicleId {
    VehicleId::from_random([n; 10])
}

/// One change of a chain.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Remove(usize),
    Swap(usize, usize),
    Repeat(usize, usize),
    Flip(usize, u8),
    Cut(usize),
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let any = any::<prop::sample::Index>;
    prop_oneof![
        any().prop_map(|at| Change::Remove(at.index(1 << 30))),
        (any(), any()).prop_map(|(a, b)| Change::Swap(a.index(1 << 30), b.index(1 << 30))),
        (any(), any()).prop_map(|(a, b)| Change::Repeat(a.index(1 << 30), b.index(1 << 30))),
        (any(), 1u8..).prop_map(|(at, with)| Change::Flip(at.index(1 << 30), with)),
        any().prop_map(|at| Change::Cut(at.index(1 << 30))),
    ]
}

impl Change {
    /// The bytes after the change; `None`: it changes nothing, or leaves a shorter chain that is whole.
    pub(crate) fn of(&self, mut lines: Vec<Vec<u8>>) -> Option<Vec<u8>> {
        let count = lines.len();
        match *self {
            Self::Remove(at) => {
                let at = at % count;
                lines.remove(at);
                (at + 1 < count).then(|| lines.concat())
            }
            Self::Swap(a, b) => {
                let (a, b) = (a % count, b % count);
                lines.swap(a, b);
                (a != b).then(|| lines.concat())
            }
            Self::Repeat(from, to) => {
                let line = lines[from % count].clone();
                lines.insert(to % (count + 1), line);
                Some(lines.concat())
            }
            Self::Flip(at, with) => {
                let mut bytes = lines.concat();
                let at = at % bytes.len();
                bytes[at] ^= with;
                Some(bytes)
            }
            Self::Cut(at) => {
                let mut bytes = lines.concat();
                bytes.truncate(at % bytes.len());
                bytes.last().is_some_and(|last| *last != b'\n').then_some(bytes)
            }
        }
    }
}
