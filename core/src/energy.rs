//! Energy: what the computer takes for work, how that is known, whose it is, and how much of it a day has had.
//!
//! Called by the agent, which reads instruments and clocks and keeps the day's count on the disk; by the owner's terms, which bound a day
//! and weigh a price; and by the ledger, which bounds what a car may claim. Values only, and integers: a milliwatt for a millisecond is a
//! microjoule. What must never happen: attempts are given more than was measured, a value that has grown old stands for one of now, or what
//! an attempt has had becomes less.
//!
//! | module | what |
//! |---|---|
//! | `meter` | from readings to what each attempt has had |
//! | `reading` | what instruments say, and what two readings mean |
//! | `day` | what a day has had, over restarts |

mod day;
mod meter;
mod reading;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use day::{ALL, Found, Kept, MARGIN, Today, Used};
pub use meter::{Amount, GAP, Input, Meter};
pub use reading::{Counter, Reading};

/// Joules of a kilowatt-hour.
pub const JOULES_PER_KWH: u64 = 3_600_000;
/// Microjoules of a joule.
pub const MICRO: u64 = 1_000_000;

/// What a car that is awake takes at most, and each core that works on top of it. No car is known that takes more (an awake Tesla takes
/// 250 to 300 W with both of its computers). An operator has no meter in the car: what a car claims beyond these was never taken.
pub const MOST_AWAKE_MILLIWATTS: u64 = 300_000;
/// The same for each core.
pub const MOST_CORE_MILLIWATTS: u64 = 50_000;

/// The most that an attempt can have had in so many milliseconds with so many thousandths of a core, in joules, rounded down.
pub fn most_joules(running_ms: u64, milli_cpu: u64) -> u64 {
    let cores = u128::from(MOST_CORE_MILLIWATTS) * u128::from(milli_cpu) / 1000;
    // Below 2^64 times 2^71: it saturates where no car has been.
    let milliwatts = u128::from(MOST_AWAKE_MILLIWATTS) + cores;
    let microjoules = milliwatts.saturating_mul(u128::from(running_ms));
    saturated(microjoules / u128::from(MICRO))
}

/// The most that a core of an attempt with so many thousandths of one can have taken, its share of what the car takes to be awake included, in
/// milliwatts, rounded down.
pub fn most_per_core(milli_cpu: u64) -> u64 {
    let awake = MOST_AWAKE_MILLIWATTS.saturating_mul(1000) / milli_cpu.max(1);
    MOST_CORE_MILLIWATTS.saturating_add(awake)
}

/// How energy was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// A signal of the car: the power of the computer.
    Broker,
    /// The processor's own counter.
    Rapl,
    /// Figures that the maker states.
    Model,
}

impl Source {
    /// Every source, the best first.
    pub const ALL: [Self; 3] = [Self::Broker, Self::Rapl, Self::Model];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Rapl => "rapl",
            Self::Model => "model",
        }
    }

    fn place(self) -> usize {
        match self {
            Self::Broker => 0,
            Self::Rapl => 1,
            Self::Model => 2,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What an instrument measures, as far as it does not say so itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Instrument {
    /// What it shows while the computer is awake and idle, in milliwatts; a part of [`Figures::wake_milliwatts`]. What it shows beyond is
    /// the programs'.
    pub idle_milliwatts: u64,
    /// Its error, in thousandths of what it shows.
    pub error_permille: u32,
}

/// What the maker states of a car's energy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// What the car takes more while its computer is awake and idle than while it sleeps, in milliwatts: the computer, and all that is awake
    /// with it.
    pub wake_milliwatts: u64,
    /// What a busy core takes on top of that, in milliwatts.
    pub core_milliwatts: u64,
    /// The error of these two, in thousandths.
    pub error_permille: u32,
    /// The computer never takes more, in milliwatts: an instrument that shows more is broken, or its counter began anew.
    pub most_milliwatts: u64,
    /// The signal of the computer's power.
    pub broker: Instrument,
    /// The processor's counter.
    pub rapl: Instrument,
}

impl Figures {
    fn instrument(&self, source: Source) -> Instrument {
        match source {
            Source::Broker => self.broker,
            Source::Rapl => self.rapl,
            Source::Model => Instrument {
                idle_milliwatts: self.wake_milliwatts,
                error_permille: self.error_permille,
            },
        }
    }

    /// What one core of an attempt takes, with its share of what the car takes to be awake, in milliwatts, rounded up: for an attempt
    /// of so many thousandths of a core that would be one of `attempts`. `awake_anyway`: the car does not wake for work.
    pub fn per_core(&self, milli_cpu: u64, attempts: u64, awake_anyway: bool) -> u64 {
        if awake_anyway {
            return self.core_milliwatts;
        }
        let cores = u128::from(milli_cpu.max(1)) * u128::from(attempts.max(1));
        let wake = (u128::from(self.wake_milliwatts) * 1000).div_ceil(cores);
        self.core_milliwatts.saturating_add(saturated(wake))
    }

    /// What the car takes with so many thousandths of a core at work, in milliwatts.
    pub fn at_work(&self, milli_cpu: u64, awake_anyway: bool) -> u64 {
        let cores = u128::from(self.core_milliwatts) * u128::from(milli_cpu) / 1000;
        let wake = if awake_anyway { 0 } else { self.wake_milliwatts };
        wake.saturating_add(saturated(cores))
    }
}

/// A number that is too large is the largest.
fn saturated(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
