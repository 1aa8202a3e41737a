//! The published tables, and beside them what had to be fitted because nothing is published. Each says which it is.
//!
//! Read by whatever draws. Published numbers are never tuned; a fitted one may be, and then the tests of `statistics` and the golden
//! timeline decide. 7.2 and so on are sections of `vehicle-signals.md`. Where 7.2 and 7.3 contradict each other, 7.3 is met: its cars are
//! at work in 15.7 % of their stays, which takes a drive to work on every weekday on which a commuter drives, while the
//! destinations of 7.2 would make it about 9 %.

pub(super) mod plugs;

use super::Place;

/// Each hour of the day and its weight.
pub(super) type Hours = [(u8, f64); 24];

/// A curve by points that rise, straight between them and level beyond them.
pub(super) struct Curve(&'static [(f64, f64)]);

/// A distribution by its inverse: a curve from (0, least) to (1, most).
pub(super) type Quantiles = Curve;

impl Curve {
    /// Its height there.
    pub(super) fn at(&self, x: f64) -> f64 {
        let above = self.0.partition_point(|(point, _)| *point <= x);
        let (low, high) = (self.0.get(above.wrapping_sub(1)), self.0.get(above));
        match (low.or(high), high.or(low)) {
            (Some((left, from)), Some((right, to))) if right > left => from + (to - from) * (x - left) / (right - left),
            (Some((_, level)), _) => *level,
            (None, _) => 0.0,
        }
    }
}

/// Trips of a car on a weekday. Published: 7.2, emobpy after MiD 2017. One trip is impossible, the last one leads home.
pub(super) const TRIPS_WEEKDAY: [(u8, f64); 5] = [(0, 35.41), (2, 29.87), (3, 8.33), (4, 12.5), (5, 13.89)];
/// Trips on a day of the weekend. Published: 7.2.
pub(super) const TRIPS_WEEKEND: [(u8, f64); 5] = [(0, 50.68), (2, 28.77), (3, 4.11), (4, 9.59), (5, 6.85)];

/// Where a commuter goes on a weekday beside home and work. Published: 7.2.
pub(super) const COMMUTER: [(Place, f64); 4] = [
    (Place::Leisure, 0.163),
    (Place::Shopping, 0.105),
    (Place::Errands, 0.092),
    (Place::Escort, 0.062),
];
/// Where the others go on a weekday. Published: 7.2.
pub(super) const FREE: [(Place, f64); 4] = [
    (Place::Leisure, 0.201),
    (Place::Shopping, 0.201),
    (Place::Errands, 0.170),
    (Place::Escort, 0.038),
];
/// Where everybody goes on a Saturday. Published: 7.2.
pub(super) const SATURDAY: [(Place, f64); 5] = [
    (Place::Leisure, 0.248),
    (Place::Shopping, 0.191),
    (Place::Errands, 0.106),
    (Place::Escort, 0.051),
    (Place::Work, 0.026),
];
/// Where everybody goes on a Sunday. Published: 7.2.
pub(super) const SUNDAY: [(Place, f64); 4] = [
    (Place::Leisure, 0.410),
    (Place::Errands, 0.096),
    (Place::Escort, 0.050),
    (Place::Shopping, 0.033),
];

/// Whether a day of four or five trips passes by home in between. Fitted to 38.7 % of parks at home (7.3).
pub(super) const HOME_BETWEEN: f64 = 0.57;
/// Whether a commuter goes to work before anything else. Fitted to the departures of 7.3.
pub(super) const WORK_FIRST: f64 = 0.75;

/// When a trip to work begins. Published: 7.2.
pub(super) const TO_WORK: Hours = hours(&[(0, 6, 0.7), (6, 9, 20.5), (9, 11, 8.4), (11, 17, 2.3), (17, 24, 0.7)]);
/// When the first trip of a day begins that does not lead to work. Fitted to the hazards of 7.3.
pub(super) const FIRST: Hours = hours(&[
    (0, 6, 0.75),
    (6, 8, 4.0),
    (8, 9, 2.5),
    (9, 10, 10.0),
    (10, 14, 11.5),
    (14, 17, 8.5),
    (17, 20, 2.5),
    (20, 22, 0.7),
]);

/// By when people want to be home. Fitted to the hazards of the evening (7.3).
pub(super) const HOME_BY: Quantiles = Curve(&[(0.0, 18.5), (0.25, 20.0), (0.48, 20.4), (0.6, 22.5), (1.0, 23.7)]);
/// From when a day begins for those who would not be home in time. A guess; the night's hazards of 7.3 need one.
pub(super) const MORNING_FROM: f64 = 5.0;

const fn hours(blocks: &[(u8, u8, f64)]) -> Hours {
    let mut hours = [(0, 0.0); 24];
    let mut block = 0;
    while block < blocks.len() {
        let (from, until, weight) = blocks[block];
        let mut hour = from;
        while hour < until {
            hours[hour as usize] = (hour, weight);
            hour += 1;
        }
        block += 1;
    }
    hours
}

/// Hours at work as people plan them: longer than they turn out, for a day that does not fit is planned anew. The least is published
/// (7.2); the rest is fitted to the quartiles of what turns out (7.3).
pub(super) const STAY_WORK: Quantiles = Curve(&[
    (0.0, 3.5),
    (0.25, 5.7),
    (0.5, 8.6),
    (0.75, 11.8),
    (0.9, 14.0),
    (1.0, 16.0),
]);
/// Hours at a shop, an office, a friend's, likewise. The least is published (7.2); the rest is fitted to p50 and p90 of these stays and
/// to p5 and p25 of all (7.3).
pub(super) const STAY_OTHER: Quantiles = Curve(&[
    (0.0, 0.25),
    (0.1, 0.75),
    (0.25, 1.6),
    (0.5, 3.3),
    (0.75, 6.0),
    (0.9, 9.0),
    (1.0, 13.0),
]);

/// How long a trip is, and its weight. The borders of the minutes are published (7.2). The joint table is not on the
/// page: weights and speeds are fitted to 3.7 % moving and 33.9 km a day (7.3).
pub(super) const DRIVES: [(Drive, f64); 7] = [
    (Drive(5.0, 10.0, 22.0), 0.21),
    (Drive(10.0, 15.0, 26.0), 0.17),
    (Drive(15.0, 20.0, 30.0), 0.15),
    (Drive(20.0, 30.0, 34.0), 0.18),
    (Drive(30.0, 45.0, 38.0), 0.14),
    (Drive(45.0, 60.0, 42.0), 0.08),
    (Drive(60.0, 185.0, 46.0), 0.092),
];

/// Least minutes, most minutes, km/h.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drive(pub(super) f64, pub(super) f64, pub(super) f64);
