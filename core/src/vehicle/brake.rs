//! The brake: when too many cars of a pool fall silent together, the adapter suspects itself first.
//!
//! One per pool and adapter; the fleet asks it when a car falls silent. While it holds, no car becomes suspect. It holds once
//! per wave and for one window: a tunnel full of cars is real, and its work must be replaced in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Boottime;
use crate::ids::VehicleId;

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

/// Which cars of one pool fell silent lately.
#[derive(Debug, Default)]
pub struct Brake {
    silent: BTreeMap<VehicleId, Boottime>,
    holds_until: Option<Boottime>,
}

impl Brake {
    /// A car fell silent at `since`; until when nothing may be concluded from it. `cars` are all of the pool, silent or not.
    pub fn silent(
        &mut self,
        id: &VehicleId,
        since: Boottime,
        cars: usize,
        terms: BrakeTerms,
        now: Boottime,
    ) -> Option<Boottime> {
        self.silent.insert(id.clone(), since);
        self.silent.retain(|_, at| now.since(*at) <= terms.window);
        if let Some(until) = self.holds_until {
            if now < until {
                return Some(until);
            }
            // The wave that was held is over: only cars that fall silent from now on make another.
            if since < until {
                return None;
            }
            self.silent.retain(|_, at| *at >= until);
        }
        let count = self.silent.len();
        let share = usize::try_from(terms.share).unwrap_or(usize::MAX);
        if count < terms.at_least || count.saturating_mul(100) <= share.saturating_mul(cars) {
            return None;
        }
        let until = now + terms.window;
        self.holds_until = Some(until);
        Some(until)
    }

    /// A car is heard again.
    pub fn heard(&mut self, id: &VehicleId) {
        self.silent.remove(id);
    }

    /// Whether the brake holds at `now`.
    pub fn holds(&self, now: Boottime) -> bool {
        self.holds_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: BrakeTerms = BrakeTerms {
        share: 20,
        at_least: 3,
        window: Duration::from_secs(30),
    };

    fn id(n: u8) -> VehicleId {
        VehicleId::from_random([n; 10])
    }

    fn at(seconds: u64) -> Boottime {
        Boottime(Duration::from_secs(seconds))
    }

    #[test]
    fn brake_few_cars_never_holds() {
        let mut brake = Brake::default();
        assert_eq!(brake.silent(&id(1), at(10), 2, TERMS, at(10)), None);
        assert_eq!(
            brake.silent(&id(2), at(10), 2, TERMS, at(10)),
            None,
            "two of two, but fewer than at_least"
        );
    }

    #[test]
    fn brake_wave_holds_for_one_window_and_once() {
        let mut brake = Brake::default();
        assert_eq!(brake.silent(&id(1), at(10), 10, TERMS, at(10)), None);
        assert_eq!(brake.silent(&id(2), at(11), 10, TERMS, at(11)), None);
        assert_eq!(brake.silent(&id(3), at(12), 10, TERMS, at(12)), Some(at(42)));
        assert_eq!(
            brake.silent(&id(4), at(13), 10, TERMS, at(13)),
            Some(at(42)),
            "the wave goes on"
        );
        assert_eq!(
            brake.silent(&id(3), at(12), 10, TERMS, at(42)),
            None,
            "held once, then believed"
        );
    }

    #[test]
    fn brake_second_wave_holds_again() {
        let mut brake = Brake::default();
        for n in 1..=3 {
            brake.silent(&id(n), at(10), 10, TERMS, at(10));
        }
        assert!(brake.holds(at(39)));
        for n in 4..=5 {
            assert_eq!(brake.silent(&id(n), at(50), 10, TERMS, at(50)), None);
        }
        assert_eq!(brake.silent(&id(6), at(51), 10, TERMS, at(51)), Some(at(81)));
    }

    #[test]
    fn brake_losses_far_apart_do_not_hold() {
        let mut brake = Brake::default();
        for n in 1..=6 {
            let now = at(u64::from(n) * 40);
            assert_eq!(brake.silent(&id(n), now, 10, TERMS, now), None);
        }
    }

    #[test]
    fn brake_cars_heard_again_do_not_count() {
        let mut brake = Brake::default();
        for n in 1..=6 {
            assert_eq!(brake.silent(&id(n), at(10), 10, TERMS, at(10)), None);
            brake.heard(&id(n));
        }
    }
}
