//! How old a value is, by two clocks that nobody has set to each other. Pure.
//!
//! A broker gives out what it was told last, also when whoever told it has been dead since yesterday; only its time stamp says so. The
//! stamp is of the broker's clock. What must never happen: an old value that counts as new.

use std::time::Duration;

use jiff::Timestamp;

/// A stamp may be from the future by so much: two clocks are never the same. Nanoseconds.
const TOLERANCE: i128 = 1_000_000_000;

/// What is known of a broker's clock, for as long as it is heard.
#[derive(Debug, Clone, Default)]
pub(super) struct Ages {
    /// Our time less the broker's, nanoseconds: the least that was seen, for a stamp may only come late.
    offset: Option<i128>,
}

/// How old a value is that came while we listened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    /// So old.
    Known(Duration),
    /// It cannot be told, so it counts as never said.
    Unknown,
    /// The broker's clock is ahead of ours: what was there when we came is older than it seemed.
    Ahead,
}

fn late(now: Timestamp, stamp: Timestamp) -> i128 {
    now.as_nanosecond() - stamp.as_nanosecond()
}

fn duration(nanos: i128) -> Duration {
    u64::try_from(nanos.max(0)).map_or(Duration::MAX, Duration::from_nanos)
}

impl Ages {
    /// The ages of the values that the broker had when we came, by their stamps; `None`: it cannot be told. Where nothing is known of its
    /// clock yet, it is taken to be as ours: a clock that is behind makes values too old, and one that is ahead shows itself.
    pub(super) fn kept(&mut self, now: Timestamp, stamps: &[Option<Timestamp>]) -> Vec<Option<Duration>> {
        let least = stamps.iter().flatten().map(|stamp| late(now, *stamp)).min();
        let known = self.offset;
        self.offset = [known, least].into_iter().flatten().min();
        let since = known.or_else(|| least.is_none_or(|least| least >= -TOLERANCE).then_some(0));
        let age = |stamp: &Option<Timestamp>| Some(duration(late(now, (*stamp)?) - since?));
        stamps.iter().map(age).collect()
    }

    /// The age of a value that came while we listened.
    pub(super) fn live(&mut self, now: Timestamp, stamp: Option<Timestamp>) -> Age {
        let Some(stamp) = stamp else { return Age::Unknown };
        let late = late(now, stamp);
        let known = self.offset;
        let offset = known.map_or(late, |known| known.min(late));
        self.offset = Some(offset);
        if offset < -TOLERANCE && known.is_none_or(|known| known >= -TOLERANCE) {
            return Age::Ahead;
        }
        Age::Known(duration(late - offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn seconds(seconds: u64) -> Age {
        Age::Known(Duration::from_secs(seconds))
    }

    fn kept(ages: &mut Ages, now: i64, stamps: &[i64]) -> Vec<Option<u64>> {
        let stamps: Vec<_> = stamps.iter().map(|stamp| Some(at(*stamp))).collect();
        let ages = ages.kept(at(now), &stamps);
        ages.into_iter().map(|age| age.map(|age| age.as_secs())).collect()
    }

    #[test]
    fn value_that_was_there_is_as_old_as_its_stamp() {
        let mut ages = Ages::default();
        assert_eq!(kept(&mut ages, 100, &[40, 101]), [Some(60), Some(0)]);
        assert_eq!(ages.kept(at(100), &[None]), [None]);
    }

    #[test]
    fn clock_that_is_ahead_makes_all_that_was_there_unknown() {
        let mut ages = Ages::default();
        // One is from the future, so that the other is older than it seems.
        assert_eq!(kept(&mut ages, 100, &[102, 95]), [None, None]);
        assert_eq!(ages.live(at(101), Some(at(103))), seconds(0));
        // It shows itself by the first value that comes, if all that was there is old.
        let mut ages = Ages::default();
        assert_eq!(kept(&mut ages, 100, &[95]), [Some(5)]);
        assert_eq!(ages.live(at(101), Some(at(161))), Age::Ahead);
        assert_eq!(ages.live(at(102), Some(at(162))), seconds(0), "once");
    }

    #[test]
    fn value_that_comes_is_new_however_the_clocks_differ_and_one_that_waited_is_not() {
        for ahead in [-3600, 0] {
            let mut ages = Ages::default();
            kept(&mut ages, 100, &[100 + ahead]);
            assert_eq!(ages.live(at(110), Some(at(110 + ahead))), seconds(0));
            // The agent did not get the processor for a while.
            assert_eq!(ages.live(at(140), Some(at(120 + ahead))), seconds(20));
            assert_eq!(ages.live(at(141), Some(at(141 + ahead))), seconds(0));
        }
    }

    #[test]
    fn what_has_waited_since_the_beginning_is_old() {
        let mut ages = Ages::default();
        kept(&mut ages, 100, &[99]);
        // All at once, 40 s later.
        let read = [101, 102, 139].map(|stamp| ages.live(at(140), Some(at(stamp))));
        assert_eq!(read, [seconds(38), seconds(37), seconds(0)]);
    }

    #[test]
    fn what_was_learnt_of_a_clock_is_good_for_the_next_session() {
        let mut ages = Ages::default();
        kept(&mut ages, 100, &[0]);
        assert_eq!(ages.live(at(101), Some(at(61))), seconds(0));
        assert_eq!(kept(&mut ages, 120, &[79, 50]), [Some(1), Some(30)]);
    }

    #[test]
    fn clock_that_is_set_back_makes_values_old() {
        let mut ages = Ages::default();
        kept(&mut ages, 100, &[100]);
        assert_eq!(ages.live(at(102), Some(at(57))), seconds(45));
    }
}
