//! Whether the wall clock can be believed: hours, pauses and consents hang on it, and anybody may set it.
//!
//! Kept by the agent's policy loop, asked by [`super::Grounds`]. A clock that jumps against `CLOCK_BOOTTIME`, either way, was wrong before
//! or is wrong now, and nobody in the car can tell which. What must never happen: work by a time that was set a moment ago.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::clock::Boottime;

/// More than this is no correction of a clock that goes a little wrong, and hours begin and end with a minute.
const JUMP: Duration = Duration::from_secs(30);
/// So long it has to go evenly before it is believed again: whoever sets a clock in steps is through by then.
const SETTLES: Duration = Duration::from_mins(1);

/// What is known of the wall clock. As long as nothing is, it is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClockTrust {
    /// By how much it was ahead of the boot time, when both were looked at last.
    ahead: Option<SignedDuration>,
    /// When it was last seen to have jumped.
    jumped: Option<Boottime>,
}

impl ClockTrust {
    /// Takes what both clocks show now; whether the wall clock has jumped since the last time.
    pub fn look(&mut self, boot: Boottime, wall: Timestamp) -> bool {
        let now = ahead(boot, wall);
        let jumps = self.jumps_to(now);
        if jumps {
            self.jumped = Some(boot);
        }
        self.ahead = Some(now);
        jumps
    }

    /// Whether the wall clock is believed at this moment.
    pub fn holds(&self, boot: Boottime, wall: Timestamp) -> bool {
        !self.jumps_to(ahead(boot, wall)) && self.jumped.is_none_or(|at| boot.since(at) >= SETTLES)
    }

    fn jumps_to(&self, now: SignedDuration) -> bool {
        let by = self.ahead.map(|before| now.saturating_sub(before).unsigned_abs());
        by.is_some_and(|by| by > JUMP)
    }
}

fn ahead(boot: Boottime, wall: Timestamp) -> SignedDuration {
    let boot = SignedDuration::try_from(boot.0).unwrap_or(SignedDuration::MAX);
    wall.as_duration().saturating_sub(boot)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn boot(seconds: u64) -> Boottime {
        Boottime(Duration::from_secs(seconds))
    }

    /// By a clock that is so many seconds ahead of one that is right.
    fn wall(seconds: u64, ahead: i64) -> Timestamp {
        let start: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
        start + Duration::from_secs(seconds) + SignedDuration::from_secs(ahead)
    }

    #[rstest]
    #[case::ahead(3600)]
    #[case::back(-3600)]
    #[case::a_little(31)]
    fn clock_that_jumps_is_not_believed_until_it_has_gone_evenly_for_a_while(#[case] by: i64) {
        let mut trust = ClockTrust::default();
        assert!(trust.holds(boot(0), wall(0, by)), "nothing is known of it");
        assert!(!trust.look(boot(0), wall(0, 0)));
        assert!(trust.holds(boot(5), wall(5, 0)));
        assert!(!trust.holds(boot(5), wall(5, by)), "also before the next look");
        assert!(trust.look(boot(6), wall(6, by)));
        assert!(!trust.look(boot(7), wall(7, by)));
        assert!(!trust.holds(boot(65), wall(65, by)));
        assert!(trust.holds(boot(66), wall(66, by)));
    }

    #[test]
    fn clock_that_is_set_again_and_again_is_not_believed_in_between() {
        let mut trust = ClockTrust::default();
        trust.look(boot(0), wall(0, 0));
        for second in 1..200 {
            let by = if second % 50 == 0 { 3600 } else { 0 };
            trust.look(boot(second), wall(second, by));
            assert_eq!(trust.holds(boot(second), wall(second, by)), second < 50, "{second}");
        }
    }

    #[test]
    fn clock_that_is_corrected_a_little_is_believed() {
        let mut trust = ClockTrust::default();
        for second in 0..100 {
            let by = if second % 2 == 0 { 0 } else { 30 };
            assert!(!trust.look(boot(second), wall(second, by)));
            assert!(trust.holds(boot(second), wall(second, by)));
        }
    }
}
