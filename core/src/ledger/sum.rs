//! Sums of what is paid in one currency. They are exact; only a payout is rounded, and only once.

use serde::Serialize;

use super::{Line, Standing};

/// Millionths in one.
const MICRO: u64 = 1_000_000;
/// Millionths in a hundredth.
const MICRO_PER_CENT: u64 = MICRO / 100;

/// What is paid in one currency. A sum that is larger than a `u64` is the largest one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sum {
    /// How many attempts there are.
    pub attempts: u64,
    /// How many of them are accepted.
    pub accepted: u64,
    /// Milliseconds of processor time that count.
    pub cpu_ms: u64,
    /// Energy that counts.
    pub joules: u64,
    /// 10^-6 of the currency's unit.
    pub amount_micro: u64,
}

impl Sum {
    pub(super) fn count(&mut self, line: &Line) {
        let accepted = u64::from(line.standing == Standing::Accepted);
        self.attempts = self.attempts.saturating_add(1);
        self.accepted = self.accepted.saturating_add(accepted);
        self.cpu_ms = self.cpu_ms.saturating_add(line.cpu_ms);
        self.joules = self.joules.saturating_add(line.joules);
        self.amount_micro = self.amount_micro.saturating_add(line.amount_micro);
    }

    /// What is to be paid, rounded to hundredths, a half to the even one: `12.34`.
    pub fn payout(&self) -> String {
        let (cents, rest) = (self.amount_micro / MICRO_PER_CENT, self.amount_micro % MICRO_PER_CENT);
        let half = MICRO_PER_CENT / 2;
        let up = rest > half || (rest == half && cents % 2 == 1);
        let cents = cents + u64::from(up);
        format!("{}.{:02}", cents / 100, cents % 100)
    }

    /// The sum with all its digits: `12.340001`.
    pub fn exact(&self) -> String {
        format!("{}.{:06}", self.amount_micro / MICRO, self.amount_micro % MICRO)
    }
}
