//! The machine's own clocks, for programs; tests bring a clock of their own.
//!
//! Made once in each program's `main` and handed down as `Arc<dyn Clock>`. The only place that asks the system for the time.

use std::time::Duration;

use kerbside_core::clock::{Boottime, Clock};
use nix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME` and the wall clock of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn boottime(&self) -> Boottime {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux since 2.6.39 has CLOCK_BOOTTIME");
        Boottime(Duration::from(now))
    }

    fn awake(&self) -> Duration {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has CLOCK_MONOTONIC");
        Duration::from(now)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the injected clock that everything else takes its time from"
    )]
    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boottime_read_twice_does_not_go_back() {
        let first = SystemClock.boottime();
        assert!(SystemClock.boottime() >= first);
        assert!(first > Boottime::default());
        let awake = SystemClock.awake();
        assert!(awake > Duration::ZERO && SystemClock.awake() >= awake);
    }
}
