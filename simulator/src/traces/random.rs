//! Where chance comes from: a stream of random numbers for each car, day, leg and purpose.
//!
//! Used by everything that draws. A draw of one purpose moves no other purpose, day or car, so a fleet may grow, a shock may be added
//! and a table may be mended, and what they do not touch stays as it was. What must never happen: a result that depends on the
//! machine. So the generator is one with a name (xoshiro256++), no method of `rand` is used but its raw numbers, and nothing is
//! computed but sums, products and quotients, which are alike everywhere; logarithms are not.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

use super::tables::{Hours, Quantiles};

/// What a stream is for. The numbers are part of every timeline: never change or reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// What the car is.
    Car = 0,
    /// The trips of a day.
    Day = 1,
    /// Plugs during a stay.
    Plug = 2,
    /// Arrival and return of the driver around a stay.
    Driver = 3,
    /// Faults of a day.
    Fault = 4,
    /// Whether and how a shock hits; the day is the number of the shock.
    Shock = 5,
    /// Visits of a day.
    Visit = 6,
    /// The hour at which a car leaves, and whether it does.
    Habit = 7,
}

/// For which leg of a car's day a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) seed: u64,
    pub(super) car: u32,
    /// Counted from the start of the warm-up.
    pub(super) day: u16,
    pub(super) leg: u8,
}

impl Key {
    /// The stream of this leg for a purpose.
    pub(super) fn draws(self, purpose: Purpose) -> Draws {
        let stream =
            u64::from(self.car) << 32 | u64::from(self.day) << 16 | u64::from(self.leg) << 8 | u64::from(purpose as u8);
        // Mixed twice: seeds and streams are small numbers that differ in a bit, and the generator wants them wholly different.
        let mut state = mixed(self.seed).wrapping_add(mixed(!stream));
        let mut seed = [0; 32];
        for word in seed.chunks_exact_mut(8) {
            // The step of SplitMix64, which the generator's authors advise for this.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            word.copy_from_slice(&mixed(state).to_le_bytes());
        }
        Draws(Xoshiro256PlusPlus::from_seed(seed))
    }
}

/// The finalizer of SplitMix64: every bit of the input moves half of the output.
fn mixed(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// One stream.
#[derive(Debug)]
pub(super) struct Draws(Xoshiro256PlusPlus);

impl Draws {
    /// From 0 up to and without 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    pub(super) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(super) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// One of them by weight; the weights need not add up to 1. None if there are none.
    pub(super) fn pick<T: Copy>(&mut self, of: &[(T, f64)]) -> Option<T> {
        let mut sum = 0.0;
        for &(_, weight) in of {
            sum += weight;
        }
        let mut left = self.unit() * sum;
        for &(what, weight) in of {
            left -= weight;
            if left < 0.0 {
                return Some(what);
            }
        }
        of.last().map(|(what, _)| *what)
    }

    /// A value of a distribution that is known by its quantiles, evenly between them.
    pub(super) fn of(&mut self, quantiles: &Quantiles) -> f64 {
        quantiles.at(self.unit())
    }

    /// An hour of the day, evenly within the hour.
    pub(super) fn hour(&mut self, hours: &Hours) -> f64 {
        f64::from(self.pick(hours).unwrap_or_default()) + self.unit()
    }
}
