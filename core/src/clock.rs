//! The two clocks, as a trait, so that every decision takes its time from its caller.
//!
//! Owned by each program's `main`, handed down; tests hand in one they move by hand. Fences are counted on `boottime` alone: it
//! goes on in suspend and no person or NTP server can set it. `wall` is for timestamps that people read.

use std::time::Duration;

/// Time since the machine booted, suspended time included (`CLOCK_BOOTTIME`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Boottime(pub Duration);

impl Boottime {
    /// The time that has passed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Boottime {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d))
    }
}

/// Where a program takes its time from.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// `CLOCK_BOOTTIME`: for fences, time-outs and ages.
    fn boottime(&self) -> Boottime;
    /// Wall-clock time: only ever shown.
    fn wall(&self) -> jiff::Timestamp;
    /// For how long the computer has been awake since some moment, `CLOCK_MONOTONIC`: what has not run for that long has not slept but hung. A clock
    /// that does not know of sleep says what it says of time.
    fn awake(&self) -> Duration {
        self.boottime().0
    }
}
