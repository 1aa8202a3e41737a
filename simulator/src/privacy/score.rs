//! How well departures were predicted.
//!
//! Filled by `privacy::try_all`, car by car. Only days on which the car leaves count: whether it leaves at all is another question.

use super::attacker::Habits;
use super::{PREDICTED, WATCHED, departure};
use crate::traces::{Fleet, Trace};

/// What came of one source.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Score {
    /// Days of cars on which the car left.
    pub days: usize,
    /// The share of them predicted to within half an hour, from 0 to 1.
    pub within_half_an_hour: f64,
    /// The same, within an hour.
    pub within_an_hour: f64,
    /// By how many minutes the prediction was wrong, on average.
    pub mean_error_minutes: f64,
}

/// All errors, in hours.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally(Vec<f64>);

impl Tally {
    /// The days of one car that were to be predicted.
    pub(super) fn add(&mut self, fleet: &Fleet, trace: &Trace, habits: &Habits) {
        let days = WATCHED..WATCHED + PREDICTED;
        let error = |day| Some((departure(trace, day)? - habits.expects(fleet.day_kind(day))).abs());
        self.0.extend(days.filter_map(error));
    }

    pub(super) fn score(&self) -> Score {
        let within = |hours: f64| {
            ratio(
                count(self.0.iter().filter(|error| **error <= hours).count()),
                count(self.0.len()),
            )
        };
        Score {
            days: self.0.len(),
            within_half_an_hour: within(0.5),
            within_an_hour: within(1.0),
            mean_error_minutes: ratio(self.0.iter().sum::<f64>() * 60.0, count(self.0.len())),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a simulation are far below 2^53")]
fn count(n: usize) -> f64 {
    n as f64
}

/// 0 of nothing.
fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
