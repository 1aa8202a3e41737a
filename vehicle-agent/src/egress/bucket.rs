//! How fast bytes may pass, as a pure value: what has passed is owed, and paid back at the owner's rate.
//!
//! Kept by the gate, one for each direction, under a lock that is held by whoever waits: so all pass in the order of asking, a rate that
//! changes holds at once, and who gives up waiting owes nothing.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Bytes, at the time of the last look.
    owed: f64,
    looked: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self { owed: 0.0, looked: now }
    }

    /// How long until the next bytes may pass, at `rate` per second.
    pub(super) fn wait(&mut self, now: Instant, rate: u64) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a rate is not exact to the byte")]
        let rate = rate.max(1) as f64;
        let paid = now.duration_since(self.looked).as_secs_f64() * rate;
        self.looked = now;
        self.owed -= paid;
        // Less than a byte is nothing: else a wait of no time would never end.
        if self.owed < 1.0 {
            self.owed = self.owed.max(0.0);
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(self.owed / rate).unwrap_or(Duration::MAX)
    }

    /// So many have passed.
    pub(super) fn pass(&mut self, bytes: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a piece is small")]
        let bytes = bytes as f64;
        self.owed += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rate_holds_over_any_time_but_for_one_piece() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(begin);
        let (mut now, mut passed) = (begin, 0_u64);
        while now < begin + Duration::from_secs(10) {
            now += bucket.wait(now, 1000);
            bucket.pass(700);
            passed += 700;
        }
        assert!((10_000..=10_700 + 700).contains(&passed), "{passed}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_used_is_not_kept() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(begin);
        let later = begin + Duration::from_hours(1);
        assert_eq!(bucket.wait(later, 1000), Duration::ZERO);
        bucket.pass(100);
        assert_eq!(bucket.wait(later, 1000), Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn new_rate_holds_at_once_for_what_is_owed() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        bucket.pass(1000);
        assert_eq!(bucket.wait(now, 1), Duration::from_secs(1000));
        assert_eq!(bucket.wait(now, 1000), Duration::from_secs(1));
    }
}
