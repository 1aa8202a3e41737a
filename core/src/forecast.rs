//! How long a parked car stays: "free for", with a confidence.
//!
//! Asked by the agent's policy loop for its offer, and by the simulator that measures how often the answer holds. Computed and kept in the
//! car, from what the car alone knows: its own stays by hour of the week ([`History`]), the departure that its owner has set, a charging plan,
//! and the end of the owner's terms. What leaves the car is [`FreeFor`], a band. docs/forecast.md has the method and the figures.
//!
//! Two rules hold everywhere: with too little to go by nothing is promised, and what is set only ever makes a promise shorter, until the
//! car's own record shows that its owner keeps to it.

mod civil;
mod comparable;
pub mod hints;
pub mod history;
pub mod presence;
pub mod published;

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub use civil::Minute;
use comparable::Here;
pub use hints::Hints;
pub use history::{History, HistoryError, Stay};
pub use presence::{Change, Motion, Presence};
pub use published::Published;

/// Every band, in minutes.
pub const BANDS: [u32; 6] = [0, 15, 60, 120, 240, 480];
/// A band rises when the forecast is above it by a tenth of it, and falls at once: one that hovers about a border changes nothing.
const RISES_ABOVE: (u32, u32) = (11, 10);
/// How long a forecast stands until it is made anew; so much less is promised.
pub const STANDS_FOR: Duration = Duration::from_mins(5);

/// Minutes by which owners leave before the departure that they set, as long as a car has no record of its own. A guess on the safe side
/// for owners who set one; those of 7.4 in `vehicle-signals.md`, who were asked at a workplace's charger, were off by hours.
const EARLY: [i32; 10] = [0, 0, 0, 5, 5, 10, 15, 20, 30, 60];
/// From so many set departures on the record is the car's own.
const RECORD: usize = 20;
/// Minutes. Who leaves earlier than that more than once in ten times is not believed.
const EARLIEST: i32 = 60;
/// A departure that is overdue for longer is none.
const OVERDUE: Duration = Duration::from_hours(2);

/// What is known of the stay under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Situation {
    /// How long it has lasted, by a clock that nobody sets.
    pub parked_for: Duration,
    /// The cable has been plugged in during it.
    pub plugged: bool,
    /// When the charging plan ends.
    pub charging_until: Option<Timestamp>,
    /// The departure that the owner has set.
    pub departure: Option<Timestamp>,
    /// When work ends whoever stays: quiet hours, the end of a consent.
    pub ends: Option<Timestamp>,
}

/// Whole minutes that the car stays, with a confidence of 50 and of 90 %; 0 promises nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forecast {
    /// Half of the time it stays as long.
    pub p50: u32,
    /// Nine times out of ten. Never more than `p50`.
    pub p90: u32,
}

/// What is published of a forecast: each one of [`BANDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FreeFor {
    /// With a confidence of 50 %.
    pub p50: u32,
    /// With a confidence of 90 %.
    pub p90: u32,
}

/// How long the car stays from now on.
pub fn forecast(history: &History, now: Timestamp, zone: &TimeZone, situation: &Situation) -> Forecast {
    let here = Here {
        at: Minute::of(now, zone),
        age: minutes(situation.parked_for),
        plugged: situation.plugged,
        planned: situation.charging_until.is_some_and(|until| until > now),
    };
    let habit = history.habit(&here);
    let real = |civil: Option<i64>| civil.map_or(0, |civil| civil::real_minutes(now, zone, civil));
    let (mut p50, mut p90) = (real(habit.p50), real(habit.p90));
    if let Some(left) = situation.departure.and_then(|set| left(set, now)) {
        let record = Record::of(history);
        let by = |early: i32| (left - i64::from(early)).max(0);
        let (half, most) = (by(record.p50), by(record.p90));
        if record.believed {
            (p50, p90) = (half, most);
        } else {
            (p50, p90) = (p50.min(half), p90.min(most));
        }
    }
    if let Some(ends) = situation.ends {
        let left = (ends.duration_since(now).as_secs() / 60).max(0);
        (p50, p90) = (p50.min(left), p90.min(left));
    }
    let whole = |minutes: i64| u32::try_from(minutes.max(0)).unwrap_or(u32::MAX);
    Forecast {
        p50: whole(p50),
        p90: whole(p90.min(p50)),
    }
}

impl FreeFor {
    /// What is published after this for so long, if that is the forecast now.
    #[must_use]
    pub fn then(self, forecast: Forecast, stands: Duration) -> Self {
        let p50 = band(self.p50, less(forecast.p50, stands));
        let p90 = band(self.p90, less(forecast.p90, stands)).min(p50);
        Self { p50, p90 }
    }

    /// The same, but no longer than the forecast now, until that is made anew.
    #[must_use]
    pub fn no_longer_than(self, forecast: Forecast) -> Self {
        let shorter = |before: u32, minutes: u32| before.min(at_most(less(minutes, STANDS_FOR)));
        Self {
            p50: shorter(self.p50, forecast.p50),
            p90: shorter(self.p90, forecast.p90),
        }
    }
}

/// What is left of these minutes when so much has passed, in whole minutes, rounded down.
fn less(left: u32, passes: Duration) -> u32 {
    let passes = u32::try_from(passes.as_secs().div_ceil(60)).unwrap_or(u32::MAX);
    left.saturating_sub(passes)
}

/// The band below these minutes.
fn at_most(minutes: u32) -> u32 {
    BANDS.into_iter().rfind(|band| *band <= minutes).unwrap_or(0)
}

/// The band for these minutes, if `before` was published.
fn band(before: u32, minutes: u32) -> u32 {
    let reached = |by: &dyn Fn(u32) -> bool| BANDS.into_iter().rfind(|band| by(*band)).unwrap_or(0);
    let most = at_most(minutes);
    if most <= before {
        return most;
    }
    let (times, of) = RISES_ABOVE;
    let clearly = reached(&|band| band.saturating_mul(times) <= minutes.saturating_mul(of));
    clearly.max(before)
}

/// How owners of this car keep to the departures that they set: minutes by which half, and nine in ten, leave earlier at most.
struct Record {
    p50: i32,
    p90: i32,
    /// It is the car's own, and good.
    believed: bool,
}

impl Record {
    fn of(history: &History) -> Self {
        let mut early: Vec<i32> = history.early().collect();
        let own = early.len() >= RECORD;
        if !own {
            early.extend(EARLY);
        }
        early.sort_unstable();
        // Of n the k-th is passed by the next one once in n + 1 times for each that is left.
        let at = |tenths: usize| {
            let k = ((early.len() + 1) * tenths).div_ceil(10);
            early.get(k.clamp(1, early.len()) - 1).copied().unwrap_or(EARLIEST)
        };
        let (p50, p90) = (at(5), at(9));
        Self {
            p50: p50.clamp(0, EARLIEST),
            p90: p90.clamp(0, EARLIEST),
            believed: own && p90 <= EARLIEST,
        }
    }
}

/// Minutes until a departure; none if it is long overdue.
fn left(set: Timestamp, now: Timestamp) -> Option<i64> {
    let left = set.duration_since(now).as_secs() / 60;
    (left >= -minutes(OVERDUE)).then_some(left)
}

fn minutes(span: Duration) -> i64 {
    i64::try_from(span.as_secs() / 60).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
