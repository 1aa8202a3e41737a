//! True time, and what the clocks of one machine make of it.

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Boottime;

/// Milliseconds of true time since the world began. No machine can see it.
pub(super) type Ms = u64;

/// Later than anything.
pub(super) const NEVER: Ms = Ms::MAX;

/// What everybody's wall clock shows when the world begins, if nobody has set it.
pub(super) fn wall(now: Ms, off_by_seconds: i64) -> Timestamp {
    let begin: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
    let seconds = i64::try_from(now / 1000).unwrap() + off_by_seconds;
    Timestamp::from_second(begin.as_second() + seconds).unwrap()
}

/// `CLOCK_BOOTTIME` of one machine: it began some time ago and runs a little too fast or too slow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticks {
    /// Microseconds, when the world begins.
    began: i64,
    /// Microseconds too many in a second.
    ppm: i64,
}

impl Ticks {
    pub(super) fn new(began: Duration, ppm: i64) -> Self {
        let began = i64::try_from(began.as_micros()).unwrap();
        Self { began, ppm }
    }

    pub(super) fn at(self, now: Ms) -> Boottime {
        let now = i64::try_from(now).unwrap();
        let micros = self.began + now * 1000 + now * self.ppm / 1000;
        Boottime(Duration::from_micros(u64::try_from(micros).unwrap()))
    }

    /// The first moment at which it shows that.
    pub(super) fn reaches(self, at: Boottime) -> Ms {
        let wanted = i64::try_from(at.0.as_micros()).unwrap_or(i64::MAX / 4_000);
        let guess = (wanted - self.began).max(0) / 1000 * 1_000_000 / (1_000_000 + self.ppm);
        let mut now = Ms::try_from(guess).unwrap().saturating_sub(2);
        while self.at(now) < at {
            now += 1;
        }
        now
    }
}
