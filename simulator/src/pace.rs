//! Runs the time of traces faster than ours, or slower.
//!
//! Called by whoever plays traces: it asks how long to wait for an event, and which moment of the traces it is. It has no clock; the
//! caller counts from when it began. What must never happen: waiting as told, the caller finds the event still to come.

use std::time::Duration;

/// How much faster than ours the time of traces runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// In thousandths: whole, so that there and back again is exact arithmetic on every machine.
    milli: u64,
}

/// Why a factor is no pace.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("failed to run time {0} times as fast: the factor lies between 0.001 and 1000000")]
pub struct NoPace(f64);

impl Pace {
    /// As fast as ours.
    pub const REAL: Self = Self { milli: 1000 };

    /// So many times as fast, to the thousandth.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range is checked"
    )]
    pub fn new(factor: f64) -> Result<Self, NoPace> {
        if (0.001..=1_000_000.0).contains(&factor) {
            Ok(Self {
                milli: (factor * 1000.0).round() as u64,
            })
        } else {
            Err(NoPace(factor))
        }
    }

    /// How long a span of the traces takes us; rounded up, so that who has waited has waited enough.
    pub fn real(self, trace: Duration) -> Duration {
        span((trace.as_nanos() * 1000).div_ceil(u128::from(self.milli)))
    }

    /// How far the traces get in a span of ours; rounded down.
    pub fn trace(self, real: Duration) -> Duration {
        span(real.as_nanos() * u128::from(self.milli) / 1000)
    }

    /// How long to wait for a moment of the traces when this much of our time has passed since they began; nothing if it is over.
    pub fn wait(self, moment: Duration, passed: Duration) -> Duration {
        self.real(moment).saturating_sub(passed)
    }
}

/// The longest there is, if it is longer.
fn span(nanos: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    let rest = u32::try_from(nanos % SECOND).unwrap_or_default();
    u64::try_from(nanos / SECOND).map_or(Duration::MAX, |seconds| Duration::new(seconds, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hour_at_sixty_takes_a_minute() {
        let pace = Pace::new(60.0).unwrap();
        assert_eq!(pace.real(Duration::from_secs(3600)), Duration::from_secs(60));
        assert_eq!(pace.trace(Duration::from_secs(60)), Duration::from_secs(3600));
        assert_eq!(Pace::REAL.real(Duration::from_millis(7)), Duration::from_millis(7));
        assert_eq!(
            Pace::new(0.5).unwrap().real(Duration::from_secs(1)),
            Duration::from_secs(2)
        );
    }

    #[test]
    fn wait_for_what_is_over_is_none() {
        let pace = Pace::new(10.0).unwrap();
        assert_eq!(
            pace.wait(Duration::from_secs(100), Duration::from_secs(4)),
            Duration::from_secs(6)
        );
        assert_eq!(
            pace.wait(Duration::from_secs(100), Duration::from_secs(11)),
            Duration::ZERO
        );
    }

    #[rstest::rstest]
    #[case(0.0)]
    #[case(-1.0)]
    #[case(0.0009)]
    #[case(1e7)]
    #[case(f64::NAN)]
    #[case(f64::INFINITY)]
    fn factor_out_of_range_is_no_pace(#[case] factor: f64) {
        let error = Pace::new(factor).unwrap_err();
        assert!(error.to_string().contains("between 0.001 and 1000000"), "{error}");
    }

    #[test]
    fn time_without_end_stays_without_end() {
        assert_eq!(Pace::new(1000.0).unwrap().trace(Duration::MAX), Duration::MAX);
        assert_eq!(Pace::new(0.001).unwrap().real(Duration::MAX), Duration::MAX);
    }

    proptest! {
        #[test]
        fn who_waits_as_told_has_waited_enough(
            factor in 0.001f64..1_000_000.0,
            moment in 0u64..10_000_000_000,
            passed in 0u64..10_000_000_000,
        ) {
            let pace = Pace::new(factor).unwrap();
            let (moment, passed) = (Duration::from_millis(moment), Duration::from_millis(passed));
            let then = passed + pace.wait(moment, passed);
            prop_assert!(pace.trace(then) >= moment);
            // And no more than the rounding too long.
            if pace.wait(moment, passed) > Duration::ZERO {
                prop_assert!(pace.trace(then) <= moment + pace.trace(Duration::from_nanos(1)) + Duration::from_nanos(1));
            }
        }
    }
}
