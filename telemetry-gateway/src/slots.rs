//! When a car's Vehicle may be written: once in each `publishEvery`, at a moment of the car's own that its driver has no hand in.
//!
//! Pure. Asked by [`crate::cars`] before every word of a car is folded in and at every look for work. The slots of a car lie on the wall
//! clock's own grid, so that a restart moves none; where in the grid is a keyed hash of its pseudonym: a fleet's writes are spread, and who
//! has not the key learns a car's slots only by watching what is written in them. What must never happen: a moment that is published
//! depends on when something happened within a slot.

use std::time::Duration;

use aws_lc_rs::hmac;
use jiff::Timestamp;
use kerbside_core::ids::VehicleId;

/// Mixed into each hash, so that the pseudonyms' own tell nothing of it.
const CONTEXT: &[u8] = b"kerbside telemetry slot\0";

/// The slots of all cars.
pub struct Slots {
    key: hmac::Key,
    /// Whole seconds, at least 1: a time with a fraction would be a mark of its own.
    every: u64,
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slots(…)")
    }
}

impl Slots {
    /// One of each car in every `every`, by the fleet's key.
    pub(crate) fn new(key: hmac::Key, every: Duration) -> Self {
        let every = every.as_secs().max(1);
        Self { key, every }
    }

    /// How long after the grid's lines the car's slots are, in seconds; less than from one to the next.
    fn phase(&self, id: &VehicleId) -> u64 {
        let tag = hmac::sign(&self.key, &[CONTEXT, id.as_str().as_bytes()].concat());
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        u64::from_be_bytes(bytes) % self.every
    }

    /// The car's newest slot that is not after `wall`.
    pub fn newest(&self, id: &VehicleId, wall: Timestamp) -> Timestamp {
        let (wall, phase, every) = (
            i128::from(wall.as_second()),
            i128::from(self.phase(id)),
            i128::from(self.every),
        );
        let slot = wall - (wall - phase).rem_euclid(every);
        // Only at the very beginning of time is there none.
        let slot = i64::try_from(slot)
            .ok()
            .and_then(|slot| Timestamp::from_second(slot).ok());
        slot.unwrap_or(Timestamp::MIN)
    }

    /// Whether the car has come to another slot than the one that was looked at. A clock that is set back a little, as clocks are every day,
    /// makes no slot a second time.
    pub(crate) fn is_another(&self, slot: Timestamp, looked_at: Timestamp) -> bool {
        let back = i128::from(looked_at.as_second()) - i128::from(slot.as_second());
        back < 0 || back > i128::from(self.every)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const EVERY: Duration = Duration::from_mins(5);

    fn slots(key: &[u8]) -> Slots {
        Slots::new(hmac::Key::new(hmac::HMAC_SHA256, key), EVERY)
    }

    fn id(n: u8) -> VehicleId {
        VehicleId::from_random([n; 10])
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    proptest! {
        #[test]
        fn slot_is_the_newest_one_and_the_next_is_just_one_time_later(car in 0_u8.., wall in 0_i64..4_000_000_000) {
            let slots = slots(b"the fleet's own");
            let slot = slots.newest(&id(car), at(wall)).as_second();
            prop_assert!(slot <= wall && wall < slot + 300);
            // All of its time has this slot, and only then comes another.
            prop_assert_eq!(slots.newest(&id(car), at(slot)), at(slot));
            prop_assert_eq!(slots.newest(&id(car), at(slot + 300) - jiff::SignedDuration::from_nanos(1)), at(slot));
            prop_assert_eq!(slots.newest(&id(car), at(slot + 300)), at(slot + 300));
        }
    }

    #[test]
    fn slots_of_cars_are_spread_and_are_the_keys_own() {
        let wall = at(1_795_435_200);
        let of = |key: &[u8]| -> Vec<_> { (0..100).map(|car| slots(key).newest(&id(car), wall)).collect() };
        let ours = of(b"the fleet's own");
        assert_eq!(ours, of(b"the fleet's own"), "a restart moves none");
        assert!(ours.iter().collect::<HashSet<_>>().len() > 60, "{ours:?}");
        let others = of(b"another");
        let same = ours.iter().zip(&others).filter(|(one, other)| one == other);
        assert!(same.count() < 10);
    }

    #[test]
    fn clock_that_is_set_back_a_little_gives_no_slot_twice() {
        let slots = slots(b"the fleet's own");
        assert!(slots.is_another(at(300), at(0)));
        assert!(!slots.is_another(at(0), at(0)));
        assert!(!slots.is_another(at(0), at(300)));
        assert!(slots.is_another(at(0), at(301)), "it was set by more than that");
    }
}
