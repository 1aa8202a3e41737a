//! Which moments of earlier stays are like this one, how much, and what the car's stay then came to.
//!
//! Called for each forecast, and for the check of one. Pure and of no state. Hour of the week is not a table with 168 rows that each wait to
//! be filled: every moment of the past at which the car stood counts, the more, the more alike it is, and what is less alike is what is
//! fallen back on. Weights are quotients, which are alike on every machine.

use super::civil::{DAY, Minute, WEEK};
use super::history::Stay;

/// What is older counts for nothing.
pub(super) const WEEKS: i64 = 26;
/// As old as this, it counts half.
const HALF: f64 = 10.0;
/// Another day of the week, the kinds of whose day and next half day are the same.
const SAME_KINDS: f64 = 0.7;
/// Another day of the week, the kind of whose next half day is the same.
const SAME_NEXT: f64 = 0.2;
/// Minutes between the times of day at which a moment of the same age counts half.
const NEAR: f64 = 60.0;
/// By which share ages may differ for a moment at the same time of day to count half.
const AGES: f64 = 0.7;
/// Minutes that are added to ages before they are compared: the first ones are all alike.
const YOUNG: f64 = 15.0;
/// The cable was in and now is not, or the other way round; likewise a charging plan.
const OTHER_CABLE: f64 = 0.6;

/// A moment in a stay, as far as moments are compared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here {
    pub(super) at: Minute,
    /// Minutes since the stay began.
    pub(super) age: i64,
    pub(super) plugged: bool,
    /// A charging plan has not ended.
    pub(super) planned: bool,
}

impl Here {
    /// The moment at which that stay was so old.
    pub(super) fn in_stay(stay: &Stay, age: i64) -> Self {
        let by = |minutes: Option<u32>| minutes.map(i64::from);
        Self {
            at: stay.from.after(age),
            age,
            plugged: by(stay.plugged_after).is_some_and(|after| after <= age),
            planned: by(stay.planned_for).is_some_and(|until| until > age),
        }
    }
}

/// What stays came to from moments that are like one: minutes on the wall's clock, each with its weight, the shortest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sample {
    rests: Vec<(i64, f64)>,
    total: f64,
    squares: f64,
}

impl Sample {
    /// The moments of these stays that are like `here` and lie before it. Those of days that are not like it count `other`.
    pub(super) fn of(stays: &[Stay], here: &Here, other: f64) -> Self {
        let mut rests = Vec::with_capacity(stays.len() * 2);
        for stay in stays {
            let old = here.at.since(stay.until);
            // What lies ahead was written down by a clock that was wrong.
            if stay.from < here.at && old < WEEKS * WEEK {
                let alike = |at: Minute| days_alike(at, here.at, other) * HALF / (HALF + weeks(old));
                add(stay, here, alike, &mut rests);
            }
        }
        rests.sort_unstable_by_key(|(rest, _)| *rest);
        let (total, squares) = rests.iter().fold((0.0, 0.0), |(total, squares), (_, weight)| {
            (total + weight, squares + weight * weight)
        });
        Self { rests, total, squares }
    }

    /// How many moments of equal weight would say as much.
    pub(super) fn effective(&self) -> f64 {
        if self.squares > 0.0 {
            self.total * self.total / self.squares
        } else {
            0.0
        }
    }

    /// So many minutes that this stay falls short of them with a chance of `miss`, if it is one more of these.
    ///
    /// It counts as one of them that has ended already, with the weight that they have on average: of n that are alike, the shortest is what
    /// the next one falls short of once in n + 1 times. None: there are not enough of them for so small a chance.
    pub(super) fn reached(&self, miss: f64) -> Option<i64> {
        let own = if self.total > 0.0 {
            self.squares / self.total
        } else {
            return None;
        };
        let asked = miss * (self.total + own);
        let mut below = own;
        if asked < below {
            return None;
        }
        let nexts = self.rests.iter().skip(1).map(|(rest, _)| *rest);
        let nexts = nexts.chain(self.rests.last().map(|(rest, _)| *rest));
        for ((rest, weight), next) in self.rests.iter().zip(nexts) {
            if asked < below + weight {
                let part = (asked - below) / weight;
                return Some(rest + whole(part * minutes(next - rest)));
            }
            below += weight;
        }
        self.rests.last().map(|(rest, _)| *rest)
    }
}

/// Adds the moments of a stay: one for each day of it, at the same time of day; and the one of the same age, if it is more alike than those.
fn add(stay: &Stay, here: &Here, alike: impl Fn(Minute) -> f64, rests: &mut Vec<(i64, f64)>) {
    let first = rests.len();
    let mut at = stay.from.next_at(here.at.of_day());
    while at < stay.until && at < here.at {
        let age = at.since(stay.from);
        let then = Here::in_stay(stay, age);
        let weight = alike(at) * ages_alike(age, here.age) * cables_alike(&then, here);
        rests.push((stay.until.since(at), weight));
        at = at.after(DAY);
    }
    let then = Here::in_stay(stay, here.age);
    if then.at < stay.until && then.at < here.at {
        let apart = (then.at.of_day() - here.at.of_day()).rem_euclid(DAY);
        let near = falling(minutes(apart.min(DAY - apart)) / NEAR);
        let own = alike(then.at) * near * cables_alike(&then, here);
        let best = rests
            .iter_mut()
            .skip(first)
            .max_by(|one, other| one.1.total_cmp(&other.1));
        let rest = stay.until.since(then.at);
        match best {
            None => rests.push((rest, own)),
            Some(best) if best.1 < own => *best = (rest, own),
            Some(_) => {}
        }
    }
}

/// 1 at nought, a half at 1, and slowly less: what is unlike counts where there is nothing else.
fn falling(distance: f64) -> f64 {
    1.0 / (1.0 + distance * distance)
}

fn ages_alike(one: i64, other: i64) -> f64 {
    let (short, long) = (minutes(one.min(other)) + YOUNG, minutes(one.max(other)) + YOUNG);
    falling((long / short - 1.0) / AGES)
}

/// A day is what it is and what comes after it: Friday is a weekday in the morning and the eve of a Saturday at night.
fn days_alike(one: Minute, another: Minute, other: f64) -> f64 {
    let next = |at: Minute| at.after(DAY / 2).kind();
    if one.weekday() == another.weekday() {
        1.0
    } else if next(one) != next(another) {
        other
    } else if one.kind() == another.kind() {
        SAME_KINDS
    } else {
        SAME_NEXT.max(other)
    }
}

fn cables_alike(one: &Here, other: &Here) -> f64 {
    let alike = |one: bool, other: bool| if one == other { 1.0 } else { OTHER_CABLE };
    alike(one.plugged, other.plugged) * alike(one.planned, other.planned)
}

#[expect(clippy::cast_precision_loss, reason = "minutes of half a year")]
fn minutes(minutes: i64) -> f64 {
    minutes as f64
}

fn weeks(old: i64) -> f64 {
    minutes(old.max(0)) / minutes(WEEK)
}

#[expect(clippy::cast_possible_truncation, reason = "minutes of a stay; `as` saturates")]
fn whole(minutes: f64) -> i64 {
    minutes as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(rests: &[(i64, f64)]) -> Sample {
        let mut rests = rests.to_vec();
        rests.sort_unstable_by_key(|(rest, _)| *rest);
        Sample {
            total: rests.iter().map(|(_, weight)| weight).sum(),
            squares: rests.iter().map(|(_, weight)| weight * weight).sum(),
            rests,
        }
    }

    #[test]
    fn shortest_of_nine_is_fallen_short_of_once_in_ten_times_and_eight_are_too_few() {
        let nine: Vec<_> = (1..=9).map(|n| (n * 100, 1.0)).collect();
        assert_eq!(sample(&nine).reached(0.1), Some(100));
        assert_eq!(sample(&nine[..8]).reached(0.1), None);
        assert_eq!(sample(&nine).reached(0.5), Some(500));
        assert_eq!(sample(&nine).reached(0.55), Some(550));
        assert_eq!(sample(&[]).reached(0.5), None);
        assert!((sample(&nine).effective() - 9.0).abs() < 1e-9);
    }

    #[test]
    fn only_proportions_of_weights_count_and_light_ones_count_little() {
        let mut rests: Vec<_> = (1..=9).map(|n| (n * 100, 0.25)).collect();
        assert_eq!(sample(&rests).reached(0.1), Some(100));
        rests.extend((0..50).map(|_| (1, 0.000_001)));
        assert!(sample(&rests).effective() < 9.1);
        assert!(sample(&rests).reached(0.12).unwrap() > 50);
    }

    #[test]
    fn same_weekday_comes_first_then_the_same_kind_of_day_then_any() {
        let at = |text: &str| Minute::try_from(text.parse::<jiff::civil::DateTime>().unwrap()).unwrap();
        let tuesday = at("2026-11-24T22:00:00");
        for (other, alike) in [
            ("2026-11-17T22:00:00", 1.0),
            ("2026-11-18T22:00:00", SAME_KINDS),
            // The eve of a Monday.
            ("2026-11-22T22:00:00", SAME_NEXT),
            ("2026-11-20T22:00:00", 0.01),
            ("2026-11-21T22:00:00", 0.01),
        ] {
            let is = days_alike(tuesday, at(other), 0.01);
            assert!((is - alike).abs() < f64::EPSILON, "{other}: {is}");
        }
        let friday_morning = days_alike(at("2026-11-24T08:00:00"), at("2026-11-20T08:00:00"), 0.01);
        assert!((friday_morning - SAME_KINDS).abs() < f64::EPSILON);
    }

    proptest! {
        /// Whatever was: a smaller chance to fall short never promises more, and nothing is promised beyond the longest.
        #[test]
        fn smaller_chance_promises_no_more(
            rests in prop::collection::vec((1i64..5000, 0.001f64..1.0), 0..40),
            (one, other) in (0.01f64..0.6, 0.01f64..0.6),
        ) {
            let sample = sample(&rests);
            let (less, more) = (sample.reached(one.min(other)), sample.reached(one.max(other)));
            prop_assert!(less.unwrap_or(0) <= more.unwrap_or(0));
            let longest = rests.iter().map(|(rest, _)| *rest).max().unwrap_or(0);
            prop_assert!(more.unwrap_or(0) <= longest);
        }
    }
}
