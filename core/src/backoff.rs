//! Waiting times that double.
//!
//! One place for every "10 s doubling to 10 min" of the design: program failures per index, refusals per (job, car), other
//! people's Pods per (owner, car), and the programs' own retries. Pure: the caller brings time and, for jitter, randomness.

use std::time::Duration;

/// A waiting time that doubles with each time in a row, up to a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first time.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
}

impl Backoff {
    /// 10 s doubling to 10 min: the Job controller's figures, which we keep wherever a Pod is made anew.
    pub const POD: Self = Self {
        base: Duration::from_secs(10),
        cap: Duration::from_mins(10),
    };
    /// 200 ms doubling to 30 s: for calls to a server that failed.
    pub const CALL: Self = Self {
        base: Duration::from_millis(200),
        cap: Duration::from_secs(30),
    };

    /// The wait after the `times`-th time in a row; none after no time.
    pub fn delay(self, times: u32) -> Duration {
        let Some(doublings) = times.checked_sub(1) else {
            return Duration::ZERO;
        };
        1u32.checked_shl(doublings)
            .and_then(|factor| self.base.checked_mul(factor))
            .map_or(self.cap, |d| d.min(self.cap))
    }

    /// The wait after the `times`-th time in a row, between half and all of [`Self::delay`], so that many that failed together do
    /// not come back together. `random` is a uniform number of 32 bits that the caller brings.
    pub fn jittered(self, times: u32, random: u32) -> Duration {
        let delay = self.delay(times);
        delay / 2 + (delay / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(0, 0)]
    #[case(1, 10)]
    #[case(2, 20)]
    #[case(6, 320)]
    #[case(7, 600)]
    #[case(33, 600)]
    #[case(34, 600)]
    #[case(u32::MAX, 600)]
    fn backoff_doubles_up_to_the_cap(#[case] times: u32, #[case] seconds: u64) {
        assert_eq!(Backoff::POD.delay(times), Duration::from_secs(seconds));
    }

    #[test]
    fn backoff_with_jitter_stays_between_half_and_all() {
        assert_eq!(Backoff::POD.jittered(2, 0), Duration::from_secs(10));
        assert_eq!(Backoff::POD.jittered(2, u32::MAX), Duration::from_secs(20));
        let middle = Backoff::POD.jittered(2, u32::MAX / 2);
        assert!(
            middle > Duration::from_secs(14) && middle < Duration::from_secs(16),
            "{middle:?}"
        );
    }
}
