//! How long to wait before trying again: longer after each failure, and never the same for two cars.
//!
//! Pure; the caller brings the randomness. Used by the car's side. Cars lose their adapter together and must not come back
//! together.

use std::time::Duration;

/// Doubling delays between a first and a longest one, with jitter.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Delays that double from `first` up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// The delay before the next try; `chance` is a random number from 0 to 1. Between nothing and the whole of the first
    /// delay after the first failure, later between half and the whole of the doubled one.
    pub fn next(&mut self, chance: f64) -> Duration {
        let chance = if chance.is_finite() {
            chance.clamp(0.0, 1.0)
        } else {
            1.0
        };
        let whole = self
            .first
            .saturating_mul(2u32.saturating_pow(self.failures))
            .min(self.longest);
        let least = if self.failures == 0 { 0.0 } else { 0.5 };
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(least + (1.0 - least) * chance)
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A delay that was asked for, stretched by up to a half, so that those who were sent away together do not return together.
pub fn stretched(delay: Duration, chance: f64) -> Duration {
    let chance = if chance.is_finite() {
        chance.clamp(0.0, 1.0)
    } else {
        1.0
    };
    delay.saturating_add(delay.mul_f64(chance / 2.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_mins(1);

    #[test]
    fn delay_after_each_failure_doubles_up_to_the_longest() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        let delays: Vec<u64> = (0..8).map(|_| backoff.next(1.0).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        backoff.reset();
        assert_eq!(backoff.next(1.0), FIRST);
    }

    proptest! {
        #[test]
        fn delay_is_never_over_the_longest_and_after_a_failure_never_nothing(chance: f64, tries in 1usize..80) {
            let mut backoff = Backoff::new(FIRST, LONGEST);
            for n in 0..tries {
                let delay = backoff.next(chance);
                prop_assert!(delay <= LONGEST);
                prop_assert!(n == 0 || delay >= FIRST);
            }
        }

        #[test]
        fn delay_asked_for_is_never_shortened(ms in 0u64..1_000_000_000, chance: f64) {
            let asked = Duration::from_millis(ms);
            let delay = stretched(asked, chance);
            prop_assert!(delay >= asked && delay <= asked.mul_f64(1.5) + Duration::from_nanos(1));
        }
    }
}
