//! What a car publishes of its forecasts, over time.
//!
//! Kept by the agent for the stay under way, and by the simulator that measures it. The moment at which a band falls tells to the minute when the
//! forecast passes its border, and so when this car's habit says that it leaves: one such moment is worth weeks of watching. So bands change at the
//! beginning of a slot, by the clock, and what is said in a slot holds until its end. What must never happen: a band stands for longer than the
//! forecast; where that becomes less than was to be expected, the band falls within the slot.

use std::time::Duration;

use jiff::Timestamp;

use super::{Forecast, FreeFor, STANDS_FOR};

/// Seconds from one moment at which bands change to the next. An hour is coarser than most people are.
const SLOT: i64 = 3600;

/// What is published, and in which slot that was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    free_for: FreeFor,
    /// `None`: nothing has been said of this stay yet.
    slot: Option<i64>,
}

impl Published {
    /// How long the car says that it stays.
    pub fn free_for(&self) -> FreeFor {
        self.free_for
    }

    /// Whether a slot has begun in which nothing was said yet.
    pub fn is_due(&self, wall: Timestamp) -> bool {
        self.slot != Some(slot(wall))
    }

    /// That is the forecast now; to be told every [`STANDS_FOR`], for so late a slot's beginning may be seen.
    pub fn hear(&mut self, forecast: Forecast, wall: Timestamp) {
        if self.is_due(wall) {
            self.slot = Some(slot(wall));
            let left = SLOT - wall.as_second().rem_euclid(SLOT);
            let left = Duration::from_secs(u64::try_from(left).unwrap_or(0));
            self.free_for = self.free_for.then(forecast, left.saturating_add(STANDS_FOR));
        } else {
            self.free_for = self.free_for.no_longer_than(forecast);
        }
    }
}

fn slot(wall: Timestamp) -> i64 {
    wall.as_second().div_euclid(SLOT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = 3600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_793_577_600 + second).unwrap()
    }

    fn minutes(minutes: u32) -> Forecast {
        Forecast {
            p50: minutes,
            p90: minutes,
        }
    }

    /// Of a car that leaves at this second, looked at every five minutes from a second on: when bands changed, and to what.
    fn changes(from: i64, leaves: i64) -> Vec<(i64, u32)> {
        let mut published = Published::default();
        let mut changes = Vec::new();
        let mut now = from;
        while now < leaves {
            let before = published.free_for().p90;
            published.hear(minutes(u32::try_from((leaves - now) / 60).unwrap()), at(now));
            if published.free_for().p90 != before {
                changes.push((now, published.free_for().p90));
            }
            now += 300;
        }
        changes
    }

    #[test]
    fn cars_that_leave_within_one_hour_of_each_other_say_the_same_at_the_same_moments() {
        let said = [5, 22, 40, 64].map(|minutes| changes(0, 12 * HOUR + minutes * 60));
        for changes in said {
            assert_eq!(
                changes[..4],
                [(0, 480), (4 * HOUR, 240), (8 * HOUR, 120), (10 * HOUR, 60)]
            );
            // Less than an hour is 15 minutes or nothing.
            assert!(changes[4].0 == 11 * HOUR && changes[4].1 <= 15, "{changes:?}");
        }
    }

    #[test]
    fn band_is_said_when_the_car_comes_and_rises_only_when_a_slot_begins() {
        let mut published = Published::default();
        published.hear(minutes(105), at(HOUR / 2));
        assert_eq!(published.free_for().p90, 60, "half an hour is left, and five minutes");
        published.hear(minutes(2000), at(HOUR - 1));
        assert_eq!(published.free_for().p90, 60);
        published.hear(minutes(2000), at(HOUR));
        assert_eq!(published.free_for().p90, 480);
    }

    #[test]
    fn departure_that_comes_nearer_by_more_than_the_time_that_passes_is_said_at_once() {
        let mut published = Published::default();
        published.hear(minutes(2000), at(0));
        published.hear(minutes(64), at(60));
        assert_eq!(published.free_for().p90, 15);
    }

    proptest! {
        /// Whatever is forecast, and however the clock goes: what is published is no longer than the forecast, and never rises within a slot.
        #[test]
        fn published_band_is_never_longer_than_the_forecast(
            heard in prop::collection::vec((-4000..8000_i64, 0..3000_u32, 0..3000_u32), 1..60),
        ) {
            let mut published = Published::default();
            let mut now = 0;
            for (passed, p90, more) in heard {
                now += passed;
                let (before, due) = (published.free_for(), published.is_due(at(now)));
                let forecast = Forecast { p50: p90 + more, p90 };
                published.hear(forecast, at(now));
                let said = published.free_for();
                prop_assert!(said.p90 <= forecast.p90 && said.p50 <= forecast.p50 && said.p90 <= said.p50);
                prop_assert!(due || (said.p90 <= before.p90 && said.p50 <= before.p50));
            }
        }

        /// A forecast that comes nearer as time passes: bands change when a slot begins, or within the five minutes in which that is seen.
        #[test]
        fn bands_change_when_a_slot_begins(from in 0..HOUR, lasts in 0..2 * 24 * HOUR) {
            for (when, _) in changes(from, from + lasts) {
                prop_assert!(when == from || when.rem_euclid(HOUR) < 300, "{when}");
            }
        }
    }
}
