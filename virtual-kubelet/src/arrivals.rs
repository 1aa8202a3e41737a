//! How many cars may wait for their greeting at a time, and when the others are to come again.
//!
//! Pure; owned by the [`Gate`](crate::gate::Gate), asked by the fleet before a car is greeted and told how long each greeting took. A greeting
//! needs a write to the API server. When a whole fleet comes back at once, and more cars wait than are greeted within a car's patience, every car
//! gives up just before its turn: the writes are made in vain, nobody gets in, and it goes on like that for ever. So the number that
//! may wait follows what greetings take, and who comes too many is given an appointment by the rate at which the others get in. So is one whose
//! write the API server goes on to refuse: a refusal is quick, and counts as slow all the same. What must never happen: a wait that is longer
//! than a car's patience; a car with attempts that stands behind idle ones; cars that are refused within milliseconds and come back at once.

use std::time::Duration;

use kerbside_core::clock::Boottime;

/// A greeting that took so long or longer: fewer may wait. A car's patience is more than twice as long.
pub(crate) const SLOW: Duration = Duration::from_secs(3);
/// So many may always wait: even an API server that takes a second for each write does some at a time.
const FEWEST: f64 = 16.0;
/// More have no use: an API server that greets so many within [`SLOW`] is nobody's bottleneck.
const MOST: f64 = 400.0;
/// To begin with.
const FIRST: f64 = 64.0;
/// What a greeting that was slow leaves of the number.
const LESS: f64 = 0.9;
/// The part of the places that cars without attempts may take.
const IDLE_SHARE: f64 = 0.75;
/// Of the times that greetings took, how much the newest one counts.
const NEWEST: f64 = 0.1;
/// Nobody is asked to come again sooner.
pub(crate) const SOONEST: Duration = Duration::from_secs(4);
/// Nor later: a car that stays away for longer could as well have gone.
const LATEST: Duration = Duration::from_mins(1);

/// The cars that wait for their greeting, counted.
#[derive(Debug, Clone)]
pub(crate) struct Arrivals {
    /// How many may wait.
    limit: f64,
    waiting: u32,
    /// What a greeting takes, in seconds, of the last ones.
    took: f64,
    /// When the number was made smaller.
    lessened: Option<Boottime>,
    /// The last appointment that was given.
    appointed: Option<Boottime>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            limit: FIRST,
            waiting: 0,
            took: 0.0,
            lessened: None,
            appointed: None,
        }
    }
}

impl Arrivals {
    /// A place for a car, until [`Arrivals::leave`]. One that brings attempts has places of its own.
    ///
    /// # Errors
    /// The delay after which there is likely to be a place.
    pub(crate) fn enter(&mut self, with_attempts: bool, now: Boottime) -> Result<(), Duration> {
        let places = if with_attempts {
            self.limit
        } else {
            self.limit * IDLE_SHARE
        };
        if f64::from(self.waiting) < places {
            self.waiting += 1;
            return Ok(());
        }
        Err(self.appoint(with_attempts, now))
    }

    /// After how long a car that is not greeted now is to come again: one that brings attempts soon, the others one after another.
    pub(crate) fn appoint(&mut self, with_attempts: bool, now: Boottime) -> Duration {
        if with_attempts {
            return SOONEST;
        }
        let soonest = now + SOONEST;
        let each = Duration::from_secs_f64((self.took / self.limit).clamp(0.0, 1.0));
        let last = self.appointed.filter(|last| *last > soonest).unwrap_or(soonest);
        let at = (last + each).min(now + LATEST);
        self.appointed = Some(at);
        at.since(now)
    }

    /// A car has been greeted or has gone; `took`: how long it waited for its greeting, `None` if it was sent away without one. One whose
    /// greeting the API server refused waited for at least [`SLOW`].
    pub(crate) fn leave(&mut self, took: Option<Duration>, now: Boottime) {
        let full = f64::from(self.waiting) > self.limit / 2.0;
        self.waiting = self.waiting.saturating_sub(1);
        // Who was not greeted within a moment was refused, and says nothing of greetings; who waited for long says that they are slow.
        let Some(took) = took else { return };
        self.took += (took.as_secs_f64() - self.took) * NEWEST;
        if took >= SLOW {
            // Once for all that waited together: they were slow for the same reason.
            if self.lessened.is_none_or(|at| now.since(at) > SLOW / 6) {
                self.limit = (self.limit * LESS).max(FEWEST);
                self.lessened = Some(now);
            }
        } else if full {
            self.limit = (self.limit + 1.0 / self.limit.sqrt()).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use super::*;

    fn at(seconds: f64) -> Boottime {
        Boottime(Duration::from_secs_f64(seconds))
    }

    /// Cars that come within a second to an API server which greets `rate` a second, each stretching its delay as an agent does. Returns when the last
    /// was in, the longest wait, and how often cars came in all.
    fn crowd(cars: u32, rate: f64) -> (f64, f64, u32) {
        let micros = |seconds: f64| Duration::from_secs_f64(seconds).as_micros();
        let seconds = |micros: u128| Duration::from_micros(u64::try_from(micros).unwrap()).as_secs_f64();
        let mut coming: BinaryHeap<Reverse<(u128, u32)>> = (0..cars)
            .map(|n| Reverse((micros(f64::from(n % 997) / 997.0), n)))
            .collect();
        // When they are greeted, and when they came.
        let mut greeted: BinaryHeap<Reverse<(u128, u128)>> = BinaryHeap::new();
        let mut arrivals = Arrivals::default();
        let (mut free_at, mut longest, mut knocks) = (0.0_f64, 0.0_f64, 0);
        while let Some(Reverse((key, car))) = coming.pop() {
            while let Some(Reverse((done, came))) = greeted.peek().copied().filter(|next| next.0.0 <= key) {
                greeted.pop();
                arrivals.leave(Some(Duration::from_secs_f64(seconds(done - came))), at(seconds(done)));
            }
            let now = seconds(key);
            knocks += 1;
            match arrivals.enter(false, at(now)) {
                Ok(()) => {
                    free_at = free_at.max(now) + 1.0 / rate;
                    greeted.push(Reverse((micros(free_at), key)));
                    longest = longest.max(free_at - now);
                }
                Err(delay) => {
                    let chance = f64::from((car * 7 + knocks) % 50) / 50.0;
                    let stretched = delay.as_secs_f64() * (1.0 + chance / 2.0);
                    coming.push(Reverse((micros(now + stretched), car)));
                }
            }
        }
        (free_at, longest, knocks)
    }

    #[test]
    fn nobody_waits_longer_than_a_car_has_patience_however_slow_the_api_server_is() {
        for rate in [12.0, 30.0, 100.0, 1000.0] {
            let (last, longest, knocks) = crowd(5000, rate);
            let ideal = 5000.0 / rate;
            let said =
                format!("{rate}/s: all in after {last:.1} s of {ideal:.1}, longest {longest:.1} s, {knocks} knocks");
            println!("{said}");
            assert!(longest < 7.0, "{said}");
            // Nobody stays out much longer than it takes to let all in, and few knock in vain.
            assert!(last < ideal * 1.35 + LATEST.as_secs_f64() * 1.5, "{said}");
            assert!(knocks < 5000 * 8, "{said}");
        }
    }

    #[test]
    fn car_with_attempts_finds_a_place_where_idle_ones_are_sent_away() {
        let mut arrivals = Arrivals::default();
        while arrivals.enter(false, at(0.0)).is_ok() {}
        assert!(arrivals.enter(false, at(0.0)).is_err());
        assert_eq!(arrivals.enter(true, at(0.0)), Ok(()));
        while arrivals.enter(true, at(0.0)).is_ok() {}
        assert_eq!(arrivals.enter(true, at(0.0)), Err(SOONEST));
    }

    #[test]
    fn appointments_follow_one_another_by_the_rate_and_none_is_too_late() {
        let mut arrivals = Arrivals::default();
        for second in 0..100 {
            arrivals.enter(false, at(f64::from(second))).unwrap();
            arrivals.leave(Some(Duration::from_secs(2)), at(f64::from(second)));
        }
        while arrivals.enter(false, at(200.0)).is_ok() {}
        let mut sent_away = || arrivals.enter(false, at(200.0)).unwrap_err();
        let delays: Vec<Duration> = (0..5000).map(|_| sent_away()).collect();
        assert!(delays.is_sorted() && delays[0] >= SOONEST && delays[4999] == LATEST);
        // Two seconds for each of 64 that wait: 32 a second.
        let apart = delays[320].as_secs_f64() - delays[0].as_secs_f64();
        assert!((9.0..11.0).contains(&apart), "{apart}");
        // They are over: whoever comes next is not put behind them.
        assert_eq!(
            arrivals.enter(false, at(300.0)).unwrap_err().as_secs(),
            SOONEST.as_secs()
        );
    }

    /// All places are taken and left again, once a second; how many there were at last.
    fn places(arrivals: &mut Arrivals, took: Duration, seconds: std::ops::Range<u32>) -> u32 {
        let mut count = 0;
        for second in seconds {
            while arrivals.enter(true, at(f64::from(second))).is_ok() {}
            count = arrivals.waiting;
            while arrivals.waiting > 0 {
                arrivals.leave(Some(took), at(f64::from(second)));
            }
        }
        count
    }

    #[test]
    fn fewer_may_wait_when_greetings_are_slow_and_more_again_when_they_are_quick() {
        let mut arrivals = Arrivals::default();
        assert_eq!(places(&mut arrivals, Duration::from_secs(9), 0..1), 64);
        assert_eq!(places(&mut arrivals, Duration::from_secs(9), 1..100), 16);
        assert_eq!(places(&mut arrivals, Duration::from_millis(5), 100..1000), 400);
    }
}
