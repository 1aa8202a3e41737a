//! How often somebody may: token buckets, one or one for each key, and what a car may say in one session.
//!
//! Asked by the link, about strangers who want to enrol, about the messages of a session and about receipts. Pure: the caller brings the
//! time and does what is said. Never: more let through than the burst and one for each `every` since; more memory than the keys allowed.
//!
//! | module | what it decides |
//! |---|---|
//! | this one | whether one more fits, by key |
//! | [`session`] | when a message of a car is handed on, and when its session ends |

pub mod session;

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use crate::clock::Boottime;

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many at once.
    pub burst: u32,
    /// And then one per this time.
    pub every: Duration,
}

/// What is left of one rate. Holds the moment at which the bucket is full again: one number instead of a count and a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: Boottime,
}

impl Bucket {
    /// How long one must wait before one more fits; zero: it fits now.
    pub fn wait(self, rate: Rate, now: Boottime) -> Duration {
        let missing = self.full_at.since(now).saturating_add(rate.every);
        missing.saturating_sub(rate.every.saturating_mul(rate.burst))
    }

    /// Takes one, also one that does not fit yet: whoever waits its turn has taken it before.
    pub fn take(&mut self, rate: Rate, now: Boottime) {
        self.full_at = self.full_at.max(now) + rate.every;
    }
}

/// A bucket for each key, in bounded memory.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    at_most: usize,
    by_key: HashMap<K, Bucket>,
}

impl<K: Clone + Eq + Hash> Buckets<K> {
    /// Full buckets, of which at most `at_most` are remembered.
    pub fn new(rate: Rate, at_most: usize) -> Self {
        Self {
            rate,
            at_most,
            by_key: HashMap::new(),
        }
    }

    /// How long `key` must wait before one more fits; zero: it fits now.
    pub fn wait(&self, key: &K, now: Boottime) -> Duration {
        self.by_key.get(key).copied().unwrap_or_default().wait(self.rate, now)
    }

    /// Takes one of `key`.
    pub fn take(&mut self, key: K, now: Boottime) {
        if !self.by_key.contains_key(&key) && self.by_key.len() >= self.at_most {
            self.make_room(now);
        }
        self.by_key.entry(key).or_default().take(self.rate, now);
    }

    /// Lets one of `key` through, or says how long it must wait; then nothing was taken.
    ///
    /// # Errors
    /// The wait.
    pub fn allow(&mut self, key: &K, now: Boottime) -> Result<(), Duration> {
        let after = self.wait(key, now);
        if !after.is_zero() {
            return Err(after);
        }
        self.take(key.clone(), now);
        Ok(())
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Full buckets say nothing and go; if there are none, the one that is full soonest goes.
    fn make_room(&mut self, now: Boottime) {
        self.by_key.retain(|_, bucket| bucket.full_at > now);
        if self.by_key.len() < self.at_most {
            return;
        }
        let soonest = self.by_key.iter().min_by_key(|(_, bucket)| bucket.full_at);
        if let Some(key) = soonest.map(|(key, _)| key.clone()) {
            self.by_key.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate {
        burst: 3,
        every: Duration::from_secs(10),
    };

    fn at(seconds: u64) -> Boottime {
        Boottime(Duration::from_secs(seconds))
    }

    #[test]
    fn key_after_its_burst_waits_for_the_next_and_holds_up_no_other() {
        let mut buckets = Buckets::new(RATE, 2);
        for _ in 0..3 {
            buckets.allow(&"a", at(100)).unwrap();
        }
        assert_eq!(buckets.allow(&"a", at(104)), Err(Duration::from_secs(6)));
        buckets.allow(&"b", at(104)).unwrap();
        buckets.allow(&"a", at(110)).unwrap();
        assert!(buckets.allow(&"a", at(110)).is_err());
    }

    #[test]
    fn rate_of_none_at_once_lets_nothing_through_at_first() {
        let none = Rate { burst: 0, ..RATE };
        assert_eq!(Bucket::default().wait(none, at(100)), RATE.every);
    }

    proptest! {
        #[test]
        fn key_gets_its_burst_and_one_for_each_interval_and_no_more_keys_are_remembered(
            asks in prop::collection::vec((0u8..6, 0u64..15), 1..300),
        ) {
            // Room for all keys: one that is forgotten begins anew.
            let mut buckets = Buckets::new(RATE, 6);
            let mut through = [0u64; 6];
            let mut now = 1_000;
            for (key, later) in asks {
                now += later;
                through[usize::from(key)] += u64::from(buckets.allow(&key, at(now)).is_ok());
                prop_assert!(through[usize::from(key)] <= 3 + (now - 1_000) / 10);
                prop_assert!(buckets.len() <= 6);
            }
        }

        #[test]
        fn memory_is_bounded_whoever_comes(keys in prop::collection::vec(any::<u32>(), 1..300)) {
            let mut buckets = Buckets::new(RATE, 8);
            for (n, key) in (0u64..).zip(keys) {
                let _ = buckets.allow(&key, at(n));
                prop_assert!(buckets.len() <= 8);
            }
        }

        #[test]
        fn who_keeps_to_the_rate_never_waits(gaps in prop::collection::vec(10u64..100, 1..100)) {
            let mut buckets = Buckets::new(RATE, 1);
            let mut now = 0;
            for gap in gaps {
                now += gap;
                prop_assert_eq!(buckets.allow(&(), at(now)), Ok(()));
            }
        }
    }
}
