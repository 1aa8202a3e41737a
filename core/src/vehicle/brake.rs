//! The brake: when too many cars of a pool fall silent together, the adapter suspects itself first.
//!
//! One per pool and adapter; every vehicle's actor tells it when its car falls silent and when it is heard again. While it is engaged, an
//! attempt of a silent car is given up at its fence and not before. A car with nothing at stake is not held: that it takes nothing new
//! is true whoever is at fault. What must never happen: a car is held that has been heard again, or whose fences have all passed.
//!
//! | state | what is seen | to |
//! |---|---|---|
//! | Released | more than `share` percent and at least `at_least` cars fell silent within `window`, one with an attempt at stake | Engaged |
//! | Engaged | no silent car has an attempt at stake: they returned, or their fences have passed | Released |
//! | Engaged | for one `window`, so few are silent that it would not have engaged for them | Released |
//!
//! What was concluded of the cars before stays concluded, so a wave must be seen before its first car is given up: a car at work counts as
//! soon as its heartbeat is late, and one whose stream ended waits for those that may go with it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Boottime;
use crate::ids::VehicleId;

/// The streams of cars behind one fault end within milliseconds of each other; each is seen by a task of its own.
pub const TOGETHER: Duration = Duration::from_millis(500);
/// How often a car that is held asks again whether it still is.
pub const LOOK: Duration = Duration::from_secs(1);

/// The pool's `loss.brake`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrakeTerms {
    /// Percent of the pool's cars.
    pub share: u32,
    /// Never for fewer cars than these.
    pub at_least: usize,
    /// Within this time.
    pub window: Duration,
}

impl BrakeTerms {
    /// Whether `quiet` of `cars` are more than may fall silent together.
    fn exceeded_by(self, quiet: usize, cars: usize) -> bool {
        let share = usize::try_from(self.share).unwrap_or(usize::MAX);
        quiet >= self.at_least && quiet.saturating_mul(100) > share.saturating_mul(cars)
    }
}

/// How a car that is not heard stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiet {
    /// Since when.
    pub since: Boottime,
    /// It is silent. False: its heartbeat is late, which by itself says nothing.
    pub silent: bool,
    /// It has an attempt that its silence would give up before the fence.
    pub at_stake: bool,
}

/// What may be concluded from a car's silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// What always follows.
    Believe,
    /// Nothing yet: those that go with it may be seen a moment later. Ask again then.
    Wait(Boottime),
    /// No attempt is given up before its fence. Ask again then.
    Hold(Boottime),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Released,
    Engaged {
        /// Since when so few are silent that it would not engage for them.
        calm_since: Option<Boottime>,
    },
}

#[derive(Debug, Clone, Copy)]
struct Car {
    /// When it was first found late or silent.
    first: Boottime,
    now: Quiet,
}

/// Which cars of one pool are not heard, and whether anything may be concluded from it.
#[derive(Debug, Default)]
pub struct Brake {
    quiet: BTreeMap<VehicleId, Car>,
    state: State,
}

impl Brake {
    /// A car is not heard: what follows. `cars` are all of the pool that work, silent or not.
    pub fn quiet(&mut self, id: &VehicleId, quiet: Quiet, cars: usize, terms: BrakeTerms, now: Boottime) -> Verdict {
        let first = self.quiet.get(id).map_or(quiet.since, |car| car.first);
        self.quiet.insert(id.clone(), Car { first, now: quiet });
        self.look(cars, terms, now);
        if !quiet.silent || !quiet.at_stake {
            return Verdict::Believe;
        }
        if self.is_engaged() {
            return Verdict::Hold(now + LOOK);
        }
        let together = first + TOGETHER;
        if terms.exceeded_by(cars, cars) && now < together {
            return Verdict::Wait(together);
        }
        Verdict::Believe
    }

    /// A car is heard again, or is not this adapter's any more.
    pub fn heard(&mut self, id: &VehicleId) {
        self.quiet.remove(id);
        self.release_if_idle();
    }

    /// Whether attempts are held.
    pub fn is_engaged(&self) -> bool {
        matches!(self.state, State::Engaged { .. })
    }

    /// How many cars are held.
    pub fn held(&self) -> usize {
        let held = |car: &&Car| car.now.silent && car.now.at_stake;
        if self.is_engaged() {
            self.quiet.values().filter(held).count()
        } else {
            0
        }
    }

    fn look(&mut self, cars: usize, terms: BrakeTerms, now: Boottime) {
        if !self.is_engaged() {
            self.quiet.retain(|_, car| now.since(car.now.since) <= terms.window);
        }
        let exceeded = terms.exceeded_by(self.quiet.len(), cars);
        self.state = match self.state {
            _ if exceeded => State::Engaged { calm_since: None },
            State::Released => State::Released,
            State::Engaged { calm_since } => {
                let since = calm_since.unwrap_or(now);
                if now.since(since) >= terms.window {
                    State::Released
                } else {
                    State::Engaged {
                        calm_since: Some(since),
                    }
                }
            }
        };
        self.release_if_idle();
    }

    fn release_if_idle(&mut self) {
        if !self.quiet.values().any(|car| car.now.at_stake) {
            self.state = State::Released;
        }
    }
}

#[cfg(test)]
mod tests;
