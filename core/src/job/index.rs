//! The attempts of a job by index, with what each one's end counts as.
//!
//! Built once per plan; everything else in `job` reads it. It decides nothing: it answers what is so.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::attempt::{Attempt, IndexCounts, Outcome, Phase};
use super::{Acceptance, Alive, Facts, OnLoss, Standing};
use crate::ids::PodUid;

/// A job's attempts, sorted out.
pub(super) struct View<'a> {
    pub(super) facts: &'a Facts,
    pub(super) standing: Standing,
    /// The indexes that have any attempt, whether or not the job has such an index.
    pub(super) indexes: BTreeMap<u32, Index<'a>>,
}

/// The attempts of one index.
#[derive(Default)]
pub(super) struct Index<'a> {
    /// In the order in which they were made.
    pub(super) attempts: Vec<Seen<'a>>,
}

/// An attempt, and what its end counts as: nothing while it has not ended, or its result waits for the acceptor.
pub(super) struct Seen<'a> {
    pub(super) attempt: &'a Attempt,
    pub(super) outcome: Option<Outcome>,
}

impl<'a> View<'a> {
    pub(super) fn new(facts: &'a Facts) -> Self {
        let mut view = Self {
            facts,
            standing: Standing::of(facts),
            indexes: BTreeMap::new(),
        };
        let mut indexes: BTreeMap<u32, Index<'a>> = BTreeMap::new();
        for attempt in &facts.attempts {
            let outcome = view.outcome(attempt);
            indexes
                .entry(attempt.index)
                .or_default()
                .attempts
                .push(Seen { attempt, outcome });
        }
        for index in indexes.values_mut() {
            index
                .attempts
                .sort_by_key(|seen| (seen.attempt.ordinal, seen.attempt.created_at, &seen.attempt.uid));
        }
        view.indexes = indexes;
        view
    }

    /// Whether the observed ledger says that no further attempt of this index can matter.
    pub(super) fn is_over(&self, index: u32) -> bool {
        let ledger = &self.facts.ledger;
        index >= self.facts.spec.completions()
            || ledger.completed.contains(index)
            || ledger.failed_indexes.contains(index)
    }

    /// Whether the attempt has not begun, and an earlier one of its index is on a car that is heard: what it was to replace is back.
    pub(super) fn is_needless(&self, attempt: &Attempt) -> bool {
        let index = self.indexes.get(&attempt.index);
        let mut earlier = index
            .into_iter()
            .flat_map(|index| index.attempts.iter().map(|seen| seen.attempt))
            .take_while(|other| other.uid != attempt.uid);
        let has_not_begun = attempt.phase == Phase::Pending && attempt.is_active();
        // One that is back only to leave is no help.
        has_not_begun && earlier.any(|other| other.is_active() && other.node.is_some() && other.disruption.is_none())
    }

    /// Whether the observed ledger has the end of this attempt.
    pub(super) fn is_recorded(&self, uid: &PodUid) -> bool {
        self.facts.ledger.uncounted.contains(uid)
    }

    fn outcome(&self, attempt: &Attempt) -> Option<Outcome> {
        if !attempt.has_ended() {
            return None;
        }
        // What is on record stays as it was recorded, whatever the Pod says now.
        let recorded = &self.facts.ledger.uncounted;
        let (uid, ended) = (&attempt.uid, attempt.end());
        if recorded.succeeded.contains(uid) {
            return Some(Outcome::Accepted);
        } else if recorded.failed.contains(uid) {
            return Some(Outcome::Failed);
        } else if recorded.refused.contains(uid) {
            return Some(Outcome::Refused);
        } else if recorded.disrupted.contains(uid) {
            let reason = attempt.disruption.clone().unwrap_or_default();
            return Some(Outcome::Disrupted(reason));
        }
        // An end that was neither recorded nor kept by the finalizer is lost to the ledger: somebody took the finalizer away.
        if self.is_over(attempt.index) || !attempt.has_finalizer {
            return Some(Outcome::Void);
        }
        match (attempt.phase, self.standing) {
            (_, Standing::Deleting | Standing::Finished | Standing::Succeeding) => Some(Outcome::Void),
            (Phase::Succeeded, _) => match self.facts.acceptance.get(uid) {
                None | Some(Acceptance::Pending) => None,
                Some(Acceptance::Accepted) => Some(Outcome::Accepted),
                Some(Acceptance::Superseded { .. }) => Some(Outcome::Superseded),
                Some(Acceptance::Invalid { .. }) if self.standing == Standing::Failing => Some(Outcome::Void),
                Some(Acceptance::Invalid { .. }) => Some(Outcome::Failed),
            },
            (_, Standing::Failing) => Some(Outcome::Void),
            (_, Standing::Suspended | Standing::Open) => Some(ended),
        }
    }

    /// All attempts.
    pub(super) fn seen(&self) -> impl Iterator<Item = &Seen<'a>> {
        self.indexes.values().flat_map(|index| &index.attempts)
    }

    /// The attempts that succeeded and about which the acceptor has not been asked, in the order in which they finished.
    pub(super) fn undecided(&self) -> Vec<PodUid> {
        let asked = &self.facts.acceptance;
        let mut undecided: Vec<_> = self
            .seen()
            .filter(|seen| seen.is_undecided())
            .map(|seen| seen.attempt)
            .filter(|attempt| !asked.contains_key(&attempt.uid))
            .collect();
        undecided.sort_by_key(|attempt| (attempt.finished_at, &attempt.uid));
        undecided.into_iter().map(|attempt| attempt.uid.clone()).collect()
    }

    /// Whether a result waits for a store that did not answer.
    pub(super) fn waits_for_acceptor(&self) -> bool {
        let asked = &self.facts.acceptance;
        self.seen()
            .any(|seen| seen.is_undecided() && asked.get(&seen.attempt.uid) == Some(&Acceptance::Pending))
    }

    pub(super) fn alive(&self) -> Alive {
        let mut alive = Alive::default();
        for attempt in self.facts.attempts.iter().filter(|attempt| !attempt.has_ended()) {
            if attempt.deleted_at.is_some() {
                alive.terminating += 1;
            } else if attempt.unheard {
                alive.unheard += 1;
            } else {
                alive.active += 1;
                alive.ready += u32::from(attempt.ready);
            }
        }
        alive
    }
}

impl Seen<'_> {
    /// Whether it has succeeded and nobody knows yet whether its result counts.
    pub(super) fn is_undecided(&self) -> bool {
        self.attempt.phase == Phase::Succeeded && self.outcome.is_none()
    }
}

impl Index<'_> {
    pub(super) fn newest(&self) -> Option<&Attempt> {
        self.attempts.last().map(|seen| seen.attempt)
    }

    /// What the index has gone through: what its newest attempt says, and every end that is not in that.
    pub(super) fn counts(&self) -> IndexCounts {
        let Some(newest) = self.newest() else {
            return IndexCounts::default();
        };
        let mut counts = newest.prior;
        let fresh = self
            .attempts
            .iter()
            .filter(|seen| !newest.counted.contains(&seen.attempt.uid));
        for outcome in fresh.filter_map(|seen| seen.outcome.as_ref()) {
            counts.count(outcome);
        }
        counts
    }

    /// The attempts whose ends are in [`Self::counts`] and that might still be seen by later plans.
    pub(super) fn counted(&self) -> BTreeSet<PodUid> {
        let ended = self
            .attempts
            .iter()
            .filter(|seen| seen.outcome.is_some() && seen.attempt.has_finalizer);
        ended.map(|seen| seen.attempt.uid.clone()).collect()
    }

    pub(super) fn has_undecided(&self) -> bool {
        self.attempts.iter().any(Seen::is_undecided)
    }

    /// Whether an attempt is at work on the index, or might be, so that no other may be made.
    pub(super) fn is_held(&self, on_loss: OnLoss) -> bool {
        self.has_undecided()
            || self
                .attempts
                .iter()
                .map(|seen| seen.attempt)
                .any(|attempt| match on_loss {
                    OnLoss::WhenSuspected => attempt.is_active(),
                    OnLoss::WhenFenced => !attempt.has_stopped(),
                })
    }

    /// How many attempts are lost or leaving and have not ended: each will probably be a disruption.
    pub(super) fn losses(&self) -> u32 {
        let lost = self.attempts.iter().map(|seen| seen.attempt).filter(|attempt| {
            !attempt.has_ended() && attempt.deleted_for.is_none() && (attempt.unheard || attempt.deleted_at.is_some())
        });
        u32::try_from(lost.count()).unwrap_or(u32::MAX)
    }

    /// When the program last failed, as far as the attempts that are still there tell.
    pub(super) fn last_failure(&self) -> Option<Timestamp> {
        let failed = self
            .attempts
            .iter()
            .filter(|seen| seen.outcome == Some(Outcome::Failed));
        failed
            .map(|seen| seen.attempt.finished_at.unwrap_or(seen.attempt.created_at))
            .max()
    }
}
