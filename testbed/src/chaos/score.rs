//! Holds what the cluster says against what really happened in the cars. Pure.
//!
//! Called at the end of the parts, with the book and the truth; both are kept in `out/`, so that anybody can compute it again.

use std::collections::{BTreeMap, BTreeSet};

use kerbside_simulator::cars::truth::{Fact, Happened};
use serde::Serialize;

use super::book::Attempt;

/// After an index's success was heard of, a program of it may still begin for so long: the two were on their way at once.
const ON_ITS_WAY_MS: i64 = 2000;

/// What came of a job.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Score {
    /// Attempts that were made.
    pub attempts: usize,
    /// Indexes with a success.
    pub completions: usize,
    /// Attempts whose program failed by itself.
    pub failures: usize,
    /// Disruptions, by their reason.
    pub disruptions: BTreeMap<String, usize>,
    /// Indexes that were worked on again after their success.
    pub repeated: usize,
    /// Moments at which an index had two live programs.
    pub overlaps: usize,
    /// Seconds of ours that programs worked.
    pub worked_s: f64,
    /// Seconds of them that came to nothing.
    pub lost_s: f64,
}

impl Score {
    /// Which share of the work came to something; all of none.
    pub fn goodput(&self) -> f64 {
        if self.worked_s == 0.0 {
            1.0
        } else {
            1.0 - self.lost_s / self.worked_s
        }
    }
}

/// Of one job.
pub fn score<'a>(attempts: impl IntoIterator<Item = &'a Attempt>, facts: &[Fact]) -> Score {
    let attempts: BTreeMap<&str, &Attempt> = attempts
        .into_iter()
        .map(|attempt| (attempt.uid.as_str(), attempt))
        .collect();
    let mut score = Score {
        attempts: attempts.len(),
        ..Score::default()
    };
    let succeeded = |attempt: &Attempt| {
        attempt
            .over
            .as_ref()
            .filter(|over| over.1 == "Succeeded")
            .map(|over| over.0)
    };
    // Of two that succeed, the first one told counts.
    let mut first: BTreeMap<u32, (i64, &str)> = BTreeMap::new();
    for attempt in attempts.values() {
        if let Some(reason) = &attempt.disrupted {
            *score.disruptions.entry(reason.1.clone()).or_default() += 1;
        } else if attempt.over.as_ref().is_some_and(|over| over.1 == "Failed") {
            score.failures += 1;
        }
        if let (Some(at), Some(index)) = (succeeded(attempt), attempt.index) {
            let told = (at, attempt.uid.as_str());
            first
                .entry(index)
                .and_modify(|known| *known = told.min(*known))
                .or_insert(told);
        }
    }
    score.completions = first.len();
    let mine: Vec<&Fact> = facts
        .iter()
        .filter(|fact| attempts.contains_key(fact.attempt.as_str()))
        .collect();
    score.overlaps = overlaps(&mine);
    let mut repeated = BTreeSet::new();
    for fact in mine {
        let index = attempts.get(fact.attempt.as_str()).and_then(|attempt| attempt.index);
        let counts = index.and_then(|index| first.get(&index));
        match fact.what {
            Happened::Started => {
                if counts.is_some_and(|(told, _)| fact.at_ms > told + ON_ITS_WAY_MS) {
                    repeated.extend(index);
                }
            }
            Happened::Ended(_) => {
                let worked = seconds(fact.worked_ms);
                score.worked_s += worked;
                if counts.is_none_or(|(_, uid)| *uid != fact.attempt) {
                    score.lost_s += worked;
                }
            }
        }
    }
    score.repeated = repeated.len();
    score
}

#[expect(clippy::cast_precision_loss, reason = "the work of a night is far below 2^53 ms")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// How often a program of an index began while another of it was live.
fn overlaps(facts: &[&Fact]) -> usize {
    let mut live: BTreeMap<u32, BTreeSet<(u32, &str)>> = BTreeMap::new();
    let mut count = 0;
    for fact in facts {
        let Some(index) = fact.index else { continue };
        let programs = live.entry(index).or_default();
        let program = (fact.car, fact.attempt.as_str());
        match fact.what {
            Happened::Started => {
                count += usize::from(!programs.is_empty());
                programs.insert(program);
            }
            Happened::Ended(_) => {
                programs.remove(&program);
            }
        }
    }
    count
}

/// The value below which `share` of the values lie, of sorted ones; 0 of none.
pub fn percentile(sorted: &[i64], share: f64) -> i64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length"
    )]
    let place = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(uid: &str, index: u32, over: Option<(i64, &str)>, disrupted: Option<&str>) -> Attempt {
        Attempt {
            uid: uid.to_owned(),
            index: Some(index),
            over: over.map(|(at, phase)| (at, phase.to_owned())),
            disrupted: disrupted.map(|reason| (0, reason.to_owned())),
            ..Attempt::default()
        }
    }

    fn fact(at_ms: i64, car: u32, uid: &str, index: u32, what: Happened, worked_ms: u64) -> Fact {
        Fact {
            at_ms,
            car,
            attempt: uid.to_owned(),
            index: Some(index),
            what,
            worked_ms,
        }
    }

    #[test]
    fn work_of_the_attempt_that_counts_is_kept_and_all_other_is_lost() {
        let attempts = [
            attempt("a", 0, Some((4000, "Failed")), Some("VehicleLost")),
            attempt("b", 0, Some((9000, "Succeeded")), None),
            attempt("c", 1, Some((5000, "Failed")), None),
        ];
        let facts = [
            fact(1000, 1, "a", 0, Happened::Started, 0),
            fact(3000, 1, "a", 0, Happened::Ended(137), 2000),
            fact(4000, 2, "b", 0, Happened::Started, 0),
            fact(8000, 2, "b", 0, Happened::Ended(0), 4000),
            fact(8000, 3, "of another job", 0, Happened::Ended(0), 70_000),
            fact(8000, 3, "c", 1, Happened::Ended(1), 2000),
        ];
        let score = score(&attempts, &facts);
        assert_eq!((score.attempts, score.completions, score.failures), (3, 1, 1));
        assert_eq!(score.disruptions, BTreeMap::from([("VehicleLost".to_owned(), 1)]));
        assert!((score.worked_s - 8.0).abs() < 1e-9 && (score.lost_s - 4.0).abs() < 1e-9);
        assert!((score.goodput() - 0.5).abs() < 1e-9);
        assert_eq!((score.repeated, score.overlaps), (0, 0));
    }

    #[test]
    fn two_live_programs_of_an_index_and_work_after_its_success_are_seen() {
        let attempts = [
            attempt("a", 0, Some((3000, "Succeeded")), None),
            attempt("b", 0, None, None),
            attempt("c", 0, None, None),
        ];
        let facts = [
            fact(1000, 1, "a", 0, Happened::Started, 0),
            fact(2000, 2, "b", 0, Happened::Started, 0),
            fact(2500, 1, "a", 0, Happened::Ended(0), 1500),
            fact(2600, 2, "b", 0, Happened::Ended(137), 600),
            fact(3000 + ON_ITS_WAY_MS + 1, 3, "c", 0, Happened::Started, 0),
        ];
        let score = score(&attempts, &facts);
        assert_eq!((score.overlaps, score.repeated, score.completions), (1, 1, 1));
    }

    #[test]
    fn percentile_is_a_value_that_was_measured() {
        let values: Vec<i64> = (1..=200).collect();
        assert_eq!((percentile(&values, 0.5), percentile(&values, 0.99)), (100, 198));
        assert_eq!((percentile(&[7], 0.99), percentile(&[], 0.5)), (7, 0));
    }
}
