//! In which order a leaving car ends its attempts: lower priority first, and all of them inside the notice.
//!
//! Asked by the actor of each attempt in the car, which sees the same [`Turn`]. As in the kubelet's graceful shutdown, attempts of one
//! priority end together; unlike there nobody configures shares: each priority that still lives has an equal part of what is left, and
//! what one does not use falls to the next. What must never happen: an attempt that is asked to end after the notice is over, or one
//! that waits for a lower one which does not die.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::clock::Boottime;

/// What lives in the car, as far as it decides whose turn to end it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Turn {
    /// The priorities of the attempts that have a process.
    pub live: BTreeSet<i32>,
    /// Since when they are these.
    pub since: Boottime,
}

/// When an attempt is asked to end, and when it is made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Asked.
    pub from: Boottime,
    /// Made to; never after the notice.
    pub until: Boottime,
}

impl Turn {
    /// The window of an attempt of this priority in a departure that began at `began` and is over at `until`.
    pub fn window(&self, priority: i32, began: Boottime, until: Boottime) -> Window {
        let start = self.since.max(began);
        let left = until.since(start);
        let below = self.live.range(..priority).count();
        let others = self.live.len() - usize::from(self.live.contains(&priority));
        let at = |parts: usize| start + share(left, parts, others + 1);
        Window {
            from: at(below),
            until: at(below + 1),
        }
    }
}

/// `parts` of `all` equal parts; all of them are the whole, to the nanosecond.
fn share(whole: Duration, parts: usize, all: usize) -> Duration {
    if parts == all {
        return whole;
    }
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    // Divided first: the product might not fit, and a nanosecond too few does no harm.
    (whole / count(all)).saturating_mul(count(parts)).min(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Boottime {
        Boottime(Duration::from_secs(seconds))
    }

    fn turn(live: &[i32], since: u64) -> Turn {
        Turn {
            live: live.iter().copied().collect(),
            since: at(since),
        }
    }

    #[test]
    fn attempts_of_one_priority_end_together_and_have_the_whole_notice() {
        let window = turn(&[0], 5).window(0, at(100), at(130));
        assert_eq!((window.from, window.until), (at(100), at(130)));
    }

    #[test]
    fn higher_priority_stops_last() {
        let all = turn(&[-5, 0, 1000], 5);
        let windows = [-5, 0, 1000].map(|priority| all.window(priority, at(100), at(130)));
        assert_eq!(
            windows.map(|w| (w.from, w.until)),
            [(at(100), at(110)), (at(110), at(120)), (at(120), at(130))]
        );
    }

    #[test]
    fn what_the_lower_ones_do_not_use_falls_to_the_next() {
        // The lowest had ended after two seconds.
        let rest = turn(&[0, 1000], 102);
        let window = rest.window(0, at(100), at(130));
        assert_eq!((window.from, window.until), (at(102), at(116)));
        assert_eq!(rest.window(1000, at(100), at(130)).from, at(116));
    }

    #[test]
    fn car_that_is_gone_ends_everything_at_once() {
        let all = turn(&[0, 1000], 5);
        let gone = Boottime(Duration::ZERO);
        for priority in [0, 1000] {
            let window = all.window(priority, at(100), gone);
            assert_eq!((window.from, window.until), (at(100), at(100)));
        }
    }

    proptest! {
        /// Whatever lives and whenever it changed: asked within the notice, made to within it, and nobody before one of lower priority.
        #[test]
        fn windows_lie_in_the_notice_and_in_the_order_of_priority(
            live in prop::collection::btree_set(-3i32..3, 0..6),
            (since, began, notice) in (0u64..200, 0u64..200, 0u64..100),
            (one, other) in (-3i32..3, -3i32..3),
        ) {
            let until = at(began + notice);
            let turn = Turn { live, since: at(since) };
            let (low, high) = (one.min(other), one.max(other));
            let both = Turn { live: turn.live.iter().copied().chain([low, high]).collect(), ..turn };
            let (first, last) = (both.window(low, at(began), until), both.window(high, at(began), until));
            for window in [first, last] {
                prop_assert!(window.from <= window.until);
                prop_assert!(window.until <= until.max(both.since));
                prop_assert!(window.from >= at(began));
            }
            if low < high {
                prop_assert!(first.until <= last.from);
            }
        }
    }
}
