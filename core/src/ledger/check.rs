//! Checks both halves of one vehicle's ledger against each other, and adds up what is paid.
//!
//! Called by the command that checks a ledger. What the operator says that it has seen is believed, for there is nobody else to ask; that
//! everything else follows from it is checked. What must never happen: an amount is in a sum that is in no line, or is there twice.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::amount::{Settled, claimed_joules, duration_ms};
use super::{Acceptance, Fault, Finding, Measure, Standing, Sum, Terms};
use crate::ids::{JobUid, PodUid, VehicleId};
use crate::receipt::{self, Chain, Keys, Placed, Read, Usage, walk};

/// What is paid of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Where it ran.
    pub vehicle: VehicleId,
    /// The attempt.
    pub pod_uid: PodUid,
    /// Whose attempt it was.
    pub job_uid: JobUid,
    /// At which part of that job.
    pub index: u32,
    /// What became of it.
    pub standing: Standing,
    /// What it is paid in; `None`: there are no terms, and it is in no sum.
    pub currency: Option<String>,
    /// Milliseconds of processor time that count.
    pub cpu_ms: u64,
    /// Energy that counts.
    pub joules: u64,
    /// 10^-6 of the currency's unit.
    pub amount_micro: u64,
}

/// What there is to say of both halves of a ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Of the car's half.
    pub usage: receipt::Report,
    /// Everything that is wrong with the operator's half, and between the two, by the line of the acceptance.
    pub findings: Vec<Finding>,
    /// Of every acceptance that the operator has signed, each number and each attempt once.
    pub lines: Vec<Line>,
    /// Those lines added up, by currency.
    pub sums: BTreeMap<String, Sum>,
    /// Receipts without an acceptance. That is no fault: they may still be settled.
    pub unsettled: u64,
}

impl Report {
    /// Whether nothing is wrong with either half.
    pub fn is_well(&self) -> bool {
        self.usage.findings.is_empty() && self.findings.is_empty()
    }

    /// Takes in what the car has signed, and what the operator has.
    fn settle(&mut self, receipts: &[Read], acceptances: &[Placed<Acceptance>]) {
        let receipts: HashMap<&str, &Usage> = receipts
            .iter()
            .map(|read| (read.digest.as_str(), &read.usage))
            .collect();
        let mut settled = HashSet::new();
        for one in acceptances {
            let (line, acceptance) = (one.line, &one.payload);
            settled.insert(acceptance.usage_sha256.as_str());
            let faults = match receipts.get(acceptance.usage_sha256.as_str()) {
                Some(usage) => compare(acceptance, usage),
                None => vec![Fault::NoSuchUsage {
                    usage_sequence: acceptance.usage_sequence,
                    usage_sha256: acceptance.usage_sha256.clone(),
                }],
            };
            let found = faults.into_iter().map(|fault| Finding { line, fault });
            self.findings.extend(found);
            if one.first {
                self.count(acceptance);
            }
        }
        let unsettled = receipts.keys().filter(|digest| !settled.contains(**digest));
        self.unsettled = unsettled.count() as u64;
    }

    fn count(&mut self, acceptance: &Acceptance) {
        let currency = acceptance.terms.as_ref().map(|terms| terms.currency.clone());
        let line = Line {
            vehicle: acceptance.vehicle.clone(),
            pod_uid: acceptance.pod_uid.clone(),
            job_uid: acceptance.job_uid.clone(),
            index: acceptance.index,
            standing: acceptance.standing,
            currency: currency.clone(),
            cpu_ms: acceptance.cpu_ms,
            joules: acceptance.joules,
            amount_micro: acceptance.amount_micro,
        };
        if let Some(currency) = currency {
            self.sums.entry(currency).or_default().count(&line);
        }
        self.lines.push(line);
    }
}

/// Checks both halves of one vehicle's ledger. `usage` and `acceptances` are JSON Lines in the order of their numbers; each line has its end.
/// `keys` are the car's, `operator` the operator's; whose the latter are is not asked.
pub fn check(usage: &[u8], acceptances: &[u8], keys: &impl Keys, operator: &impl Keys) -> Report {
    let usage = receipt::verify(usage, keys);
    let Chain { findings, placed, .. } = walk::<Acceptance>(acceptances, operator);
    let mut report = Report {
        findings: findings.into_iter().map(Finding::from).collect(),
        ..Report::default()
    };
    report.settle(&usage.receipts, &placed);
    report.findings.sort_by_key(|finding| finding.line);
    report.usage = usage;
    report
}

/// What is wrong between an acceptance and the receipt that it names.
fn compare(acceptance: &Acceptance, usage: &Usage) -> Vec<Fault> {
    let claim = &usage.claim;
    let is_of_it = acceptance.pod_uid == claim.pod_uid
        && acceptance.vehicle == usage.vehicle
        && acceptance.usage_sequence == usage.sequence;
    if !is_of_it {
        return vec![Fault::AnotherAttempt {
            usage_sequence: usage.sequence,
            uid: claim.pod_uid.clone(),
        }];
    }
    let mut faults = overstated(acceptance, usage);
    if acceptance.standing == Standing::Accepted && acceptance.accepted_uid.as_ref() != Some(&acceptance.pod_uid) {
        let accepted = acceptance.accepted_uid.clone();
        faults.push(Fault::NotAccepted { accepted });
    }
    let settled = acceptance.terms.as_ref().map(Terms::digest);
    if settled != claim.terms_sha256 || acceptance.terms_sha256 != claim.terms_sha256 {
        let signed = claim.terms_sha256.clone();
        faults.push(Fault::TermsDiffer { signed, settled });
    }
    faults.extend(miscounted(acceptance, &Settled::again(claim, acceptance)));
    faults
}

/// Where the car claims more than can have been.
fn overstated(acceptance: &Acceptance, usage: &Usage) -> Vec<Fault> {
    let seen = acceptance.seen();
    let duration = duration_ms(&usage.claim).unwrap_or_default();
    let claims = [
        (Measure::Duration, duration, seen.running_ms),
        (Measure::ProcessorTime, usage.claim.cpu_ms, seen.cpu_ms()),
        (Measure::Energy, claimed_joules(&usage.claim), seen.most_joules()),
    ];
    let over = claims.into_iter().filter(|(_, claimed, seen)| claimed > seen);
    over.map(|(measure, claimed, seen)| Fault::Overstated {
        usage_sequence: usage.sequence,
        measure,
        claimed,
        seen,
    })
    .collect()
}

/// Where an acceptance says something else than what follows.
fn miscounted(acceptance: &Acceptance, settled: &Settled) -> Vec<Fault> {
    let mut faults = Vec::new();
    let counts = [
        (Measure::ProcessorTime, acceptance.cpu_ms, settled.cpu_ms),
        (Measure::Energy, acceptance.joules, settled.joules),
    ];
    for (measure, said, computed) in counts {
        if said != computed {
            faults.push(Fault::WrongUse {
                measure,
                said,
                computed,
            });
        }
    }
    let (said, computed) = (acceptance.amount_micro, settled.amount_micro);
    if said != computed {
        faults.push(Fault::WrongAmount { said, computed });
    }
    let (said, computed) = (acceptance.dispute, settled.dispute);
    if said != computed {
        faults.push(Fault::WrongDispute { said, computed });
    }
    faults
}
