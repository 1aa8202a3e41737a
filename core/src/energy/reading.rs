//! What instruments say at one moment, and what two such moments mean for the time between them.
//!
//! Asked by [`super::Meter`] alone. What must never happen: one reading says something of a time that no second one closes, or a counter that
//! began anew counts as energy.

use super::{Figures, Source, saturated};

/// What an instrument says at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// The power of the computer, as the car's broker says it.
    Power {
        /// How much.
        milliwatts: u64,
    },
    /// The counters of the processor's packages, always in the same order.
    Counters(Vec<Counter>),
}

/// A counter of energy that only goes up, until it begins again at 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// What it shows.
    pub microjoules: u64,
    /// The most that it can show.
    pub range: u64,
}

impl Counter {
    /// What has passed since it showed `earlier`. One that shows less has gone round, once; that it was set back cannot be told from it,
    /// but by how much that would be.
    fn since(self, earlier: Self) -> Option<u64> {
        if self.range != earlier.range {
            return None;
        }
        if self.microjoules >= earlier.microjoules {
            return Some(self.microjoules - earlier.microjoules);
        }
        let to_the_end = self.range.checked_sub(earlier.microjoules)?;
        to_the_end.checked_add(self.microjoules)
    }
}

impl Reading {
    /// How it was found out.
    pub fn source(&self) -> Source {
        match self {
            Self::Power { .. } => Source::Broker,
            Self::Counters(_) => Source::Rapl,
        }
    }

    /// What has passed in `ms` milliseconds since `earlier`, in microjoules. `None`: these two say nothing of the time between them.
    pub(super) fn since(&self, earlier: &Self, ms: u64, figures: &Figures) -> Option<u64> {
        let passed = match (earlier, self) {
            // Between two values that are known; never beyond one.
            (Self::Power { milliwatts: before }, Self::Power { milliwatts: now }) => {
                (u128::from(*before) + u128::from(*now)).saturating_mul(u128::from(ms)) / 2
            }
            (Self::Counters(before), Self::Counters(now)) if before.len() == now.len() && !now.is_empty() => {
                let mut sum = 0_u128;
                for (before, now) in before.iter().zip(now) {
                    sum += u128::from(now.since(*before)?);
                }
                sum
            }
            _ => return None,
        };
        let possible = passed <= u128::from(figures.most_milliwatts) * u128::from(ms);
        possible.then(|| saturated(passed))
    }
}
