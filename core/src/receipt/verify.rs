//! Checks a car's ledger, and adds up what its receipts say.
//!
//! The walk along the chain is [`super::chain`]'s; here is what only receipts have. What must never happen: a receipt counts that its car has
//! not signed, or counts twice.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Chain, Fault, Finding, Head, Keys, Link, PAYLOAD_TYPE, Placed, Usage, walk};
use crate::ids::{PodUid, VehicleId};

impl Link for Usage {
    const TYPE: &'static str = PAYLOAD_TYPE;
    const SIGNED_BY_CAR: bool = true;

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
        Some(&self.claim.pod_uid)
    }
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

/// A receipt that its car has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// In which line, from 1.
    pub line: usize,
    /// The SHA-256 of its payload, in hex: by this an acceptance names it.
    pub digest: String,
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

    fn of(chain: Chain<Usage>) -> Self {
        let mut report = Self {
            lines: chain.lines,
            findings: chain.findings,
            head: chain.head,
            ..Self::default()
        };
        for placed in chain.placed {
            report.take(placed);
        }
        report.findings.sort_by_key(|finding| finding.line);
        report
    }

    fn take(&mut self, placed: Placed<Usage>) {
        let Placed {
            line,
            digest,
            first,
            payload: usage,
        } = placed;
        if usage.claim.ended_at_ms < usage.claim.started_at_ms {
            let fault = Fault::Backwards;
            self.findings.push(Finding { line, fault });
        }
        if first {
            self.count(&usage);
        }
        self.receipts.push(Read { line, digest, usage });
    }

    fn count(&mut self, usage: &Usage) {
        let one = Totals {
            count: 1,
            cpu_ms: usage.claim.cpu_ms,
            output_bytes: usage.claim.output_bytes,
        };
        self.total.add(one);
        self.by_class.entry(usage.claim.class.clone()).or_default().add(one);
    }
}

/// Checks a ledger: the bytes of a file of JSON Lines.
pub fn verify(ledger: &[u8], keys: &impl Keys) -> Report {
    Report::of(walk(ledger, keys))
}
