//! What a claim is worth: clipped to what was seen, then priced, then rounded, once.
//!
//! Called by [`super::closing`], which settles, and by [`super::check()`], which does it again. What must never happen: the two differ, or what
//! counts is more than the car claims.

use super::{Acceptance, Dispute, Standing, Terms, Unaccepted};
use crate::energy::most_joules;
use crate::receipt::Claim;

/// An hour has so many milliseconds, a kilowatt-hour so many joules, and what they are multiplied by is in billionths: this gives millionths.
const NANO_HOURS: u128 = 3_600_000_000;

/// What so much is worth, in 10^-6 of the currency's unit; a half is rounded up, and what is larger than a `u64` is the largest one.
pub fn amount(terms: &Terms, standing: Standing, cpu_ms: u64, joules: u64) -> u64 {
    let cost = |nanos: u64, count: u64| u128::from(nanos) * u128::from(count);
    let accepted = standing == Standing::Accepted;
    let mut sum = if accepted {
        cost(terms.per_cpu_hour.nanos(), cpu_ms)
    } else {
        0
    };
    if accepted || terms.unaccepted == Unaccepted::EnergyOnly {
        // Prices are below 2^60: neither this nor the half exceeds 128 bits.
        sum += cost(terms.per_kwh.nanos(), joules);
    }
    saturated((sum + NANO_HOURS / 2) / NANO_HOURS)
}

fn saturated(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// How long the car says that the attempt took; `None`: it ended before it began.
pub(super) fn duration_ms(claim: &Claim) -> Option<u64> {
    (claim.started_at_ms <= claim.ended_at_ms).then(|| claim.ended_at_ms.abs_diff(claim.started_at_ms))
}

/// How much energy the car says that the attempt had.
pub(super) fn claimed_joules(claim: &Claim) -> u64 {
    claim.energy.as_ref().map_or(0, |energy| energy.joules)
}

/// What the cluster knows of an attempt by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) running_ms: u64,
    pub(super) milli_cpu: u64,
}

impl Seen {
    /// The most processor time that it can have had.
    pub(super) fn cpu_ms(self) -> u64 {
        saturated(u128::from(self.running_ms) * u128::from(self.milli_cpu) / 1000)
    }

    /// The most energy that it can have had.
    pub(super) fn most_joules(self) -> u64 {
        most_joules(self.running_ms, self.milli_cpu)
    }

    /// How much of the energy that the car claims counts: the part of its time that was seen, and no more than a car can take in it.
    fn joules(self, claim: &Claim) -> u64 {
        let said = claimed_joules(claim);
        let seen = match duration_ms(claim) {
            // Where there is no time, nothing bounds the energy.
            None => 0,
            Some(_) if self.running_ms == 0 => 0,
            Some(duration) if duration > self.running_ms => {
                saturated(u128::from(said) * u128::from(self.running_ms) / u128::from(duration))
            }
            Some(_) => said,
        };
        seen.min(self.most_joules())
    }
}

/// What follows from a claim, once everything else is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) cpu_ms: u64,
    pub(super) joules: u64,
    pub(super) amount_micro: u64,
    pub(super) dispute: Option<Dispute>,
}

impl Settled {
    /// What follows from a claim.
    pub(super) fn new(claim: &Claim, terms: Option<&Terms>, standing: Standing, seen: Seen) -> Self {
        let cpu_ms = claim.cpu_ms.min(seen.cpu_ms());
        let joules = seen.joules(claim);
        let used = cpu_ms > 0 || joules > 0;
        let dispute = match (terms, &claim.terms_sha256) {
            (None, Some(_)) if used => Some(Dispute::TermsDiffer),
            (None, None) if used => Some(Dispute::NoTerms),
            _ => None,
        };
        Self {
            cpu_ms,
            joules,
            amount_micro: terms.map_or(0, |terms| amount(terms, standing, cpu_ms, joules)),
            dispute,
        }
    }

    /// What must have followed, if an acceptance is to be believed in what the operator knew.
    pub(super) fn again(claim: &Claim, acceptance: &Acceptance) -> Self {
        let terms = acceptance.terms.as_ref();
        Self::new(claim, terms, acceptance.standing, acceptance.seen())
    }
}

impl Acceptance {
    pub(super) fn seen(&self) -> Seen {
        Seen {
            running_ms: self.running_ms,
            milli_cpu: self.milli_cpu,
        }
    }
}
