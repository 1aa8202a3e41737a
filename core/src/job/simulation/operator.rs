//! An operator that carries out plans the way the module's page says, and dies on the way.
//!
//! It sees Pods through a cache that lags behind; its ledger is the one it wrote last, or a fresh read after a restart. Every write
//! checks what must hold at that moment.

use super::super::*;
use super::world::{World, vehicle};

#[derive(Debug, Default)]
pub(super) struct Operator {
    cache: BTreeMap<PodUid, Attempt>,
    seen: usize,
    spec: Option<JobSpec>,
    ledger: Ledger,
    version: u64,
    created: BTreeMap<PodUid, Attempt>,
    acceptance: BTreeMap<PodUid, Acceptance>,
    refusals: Refusals,
}

impl World {
    pub(super) fn restart(&mut self) {
        self.operator = Operator {
            cache: self.pods.clone(),
            seen: self.changes.len(),
            spec: Some(self.spec.clone()),
            ledger: self.ledger.clone(),
            version: self.version,
            ..Operator::default()
        };
    }

    pub(super) fn see(&mut self, count: usize) {
        let operator = &mut self.operator;
        let end = operator.seen.saturating_add(count).min(self.changes.len());
        for (uid, pod) in &self.changes[operator.seen..end] {
            operator.created.remove(uid);
            match pod {
                Some(pod) => operator.cache.insert(uid.clone(), pod.clone()),
                None => operator.cache.remove(uid),
            };
        }
        operator.seen = end;
        operator.spec = Some(self.spec.clone());
        operator.ledger = self.ledger.clone();
        operator.version = self.version;
    }

    fn facts(&self) -> Facts {
        let operator = &self.operator;
        let created = operator.created.values().filter(|_| self.expects);
        Facts {
            now: self.now,
            spec: operator.spec.clone().unwrap(),
            ledger: operator.ledger.clone(),
            attempts: operator.cache.values().chain(created).cloned().collect(),
            acceptance: operator.acceptance.clone(),
            refusals: operator.refusals.clone(),
            eligible: (0..self.cars).filter(|_| self.knows_eligible).map(vehicle).collect(),
        }
    }

    /// One turn of the operator's loop. It dies before the write after `writes`, if that is said.
    pub(super) fn turn(&mut self, dies_after: Option<usize>) {
        let mut left = dies_after.unwrap_or(usize::MAX);
        if self.carry_out(&mut left).is_none() {
            self.restart();
        }
    }

    /// Nothing if it died.
    fn carry_out(&mut self, left: &mut usize) -> Option<()> {
        let mut write = || {
            *left = left.checked_sub(1)?;
            Some(())
        };
        // A store that did not answer is asked again.
        self.operator
            .acceptance
            .retain(|_, answer| *answer != Acceptance::Pending);
        let mut planned = plan(&self.facts());
        if !planned.accept.is_empty() {
            self.operator
                .acceptance
                .retain(|_, answer| *answer != Acceptance::Pending);
            for uid in planned.accept {
                write()?;
                let answer = self.put(&uid);
                self.operator.acceptance.insert(uid, answer);
            }
            planned = plan(&self.facts());
            assert!(planned.accept.is_empty(), "asked and not heard");
        }
        self.operator.refusals = planned.refusals.clone();
        let facts = self.facts();
        if planned.ledger != facts.ledger {
            write()?;
            if self.operator.version != self.version {
                self.operator.spec = Some(self.spec.clone());
                self.operator.ledger = self.ledger.clone();
                self.operator.version = self.version;
                return Some(());
            }
            self.write_ledger(&facts, &planned);
        }
        for deletion in planned.delete {
            if deletion.reason.marks() {
                write()?;
                // The mark has a precondition on the version: it must not void an end that the operator has not seen.
                let seen = facts.attempts.iter().find(|attempt| attempt.uid == deletion.uid);
                if self.pods.get(&deletion.uid) != seen {
                    continue;
                }
                self.change(&deletion.uid, |pod| pod.deleted_for = Some(deletion.reason));
            }
            write()?;
            let now = self.second();
            self.change(&deletion.uid, |pod| pod.deleted_at = pod.deleted_at.or(Some(now)));
        }
        for uid in planned.release {
            write()?;
            self.change(&uid, |pod| pod.has_finalizer = false);
        }
        for new in planned.create {
            write()?;
            self.create(&facts, new);
        }
        // The operator forgets answers about attempts that are gone, and asks again when the store did not answer.
        self.operator
            .acceptance
            .retain(|_, answer| *answer != Acceptance::Pending);
        Some(())
    }

    fn put(&mut self, uid: &PodUid) -> Acceptance {
        let pod = &self.pods[uid];
        assert_eq!(pod.phase, Phase::Succeeded);
        if self.store_down {
            return Acceptance::Pending;
        }
        if self.invalid.contains(uid) {
            return Acceptance::Invalid {
                message: "no list of files".to_owned(),
            };
        }
        let winner = self.store.entry(pod.index).or_insert_with(|| uid.clone());
        if winner == uid {
            Acceptance::Accepted
        } else {
            Acceptance::Superseded { by: winner.clone() }
        }
    }

    fn write_ledger(&mut self, facts: &Facts, planned: &Plan) {
        let (old, new) = (&self.ledger, &planned.ledger);
        assert!(!old.is_finished() || old == new, "a finished job never changes");
        assert_eq!(
            old.completed.union(&new.completed),
            new.completed,
            "a completed index stays completed"
        );
        assert_eq!(
            old.failed_indexes.union(&new.failed_indexes),
            new.failed_indexes,
            "a failed index stays failed"
        );
        let kinds = [
            ("failed", &new.uncounted.failed),
            ("refused", &new.uncounted.refused),
            ("disrupted", &new.uncounted.disrupted),
        ];
        for (kind, uids) in kinds {
            for uid in uids.iter().filter(|uid| !old.uncounted.contains(uid)) {
                let index = facts.attempts.iter().find(|attempt| attempt.uid == *uid).unwrap().index;
                let before = self.counted.insert(uid.clone(), (index, kind));
                assert_eq!(before, None, "{uid} is counted twice");
            }
        }
        // Whoever has closed an attempt by what is on record has not to look again.
        let before = listed(old);
        for (uid, kind) in listed(new) {
            let was = before.get(&uid);
            assert!(was.is_none_or(|was| *was == kind), "{uid} was {was:?} and is {kind}");
        }
        for failure in &planned.failing {
            assert_eq!(
                failure.counts,
                self.counts_of(failure.index),
                "the counts of index {}",
                failure.index
            );
        }
        self.ledger = planned.ledger.clone();
        self.version += 1;
        self.operator.ledger = self.ledger.clone();
        self.operator.version = self.version;
    }

    fn counts_of(&self, index: u32) -> IndexCounts {
        let of = |kind: &str| {
            u32::try_from(self.counted.values().filter(|(i, k)| *i == index && *k == kind).count()).unwrap()
        };
        IndexCounts {
            failures: of("failed"),
            disruptions: of("disrupted"),
            refusals: of("refused"),
        }
    }

    fn create(&mut self, facts: &Facts, new: NewAttempt) {
        let index = new.index;
        assert!(!self.ledger.is_finished(), "a finished job makes no attempt");
        assert!(
            !self.store.contains_key(&index) || !self.ledger.completed.contains(index),
            "a completed index runs again"
        );
        let name = format!("job-{index}-{}", new.suffix);
        if self.pods.values().any(|pod| pod.name == name) {
            return;
        }
        assert_eq!(
            new.prior,
            self.counts_of(index),
            "the counts that attempt {} of index {index} gets",
            new.ordinal
        );
        if facts.spec.on_loss == OnLoss::WhenFenced {
            assert!(
                !self.alive.values().any(|i| *i == index),
                "two live attempts of index {index}"
            );
        }
        self.made += 1;
        let uid: PodUid = format!("pod-{}", self.made).parse().unwrap();
        let pod = Attempt {
            uid: uid.clone(),
            name,
            index,
            ordinal: new.ordinal,
            phase: Phase::Pending,
            ready: false,
            node: None,
            created_at: self.second(),
            deleted_at: None,
            finished_at: None,
            has_finalizer: true,
            prior: new.prior,
            counted: new.counted,
            avoid: new.avoid,
            refused: None,
            disruption: None,
            unheard: false,
            stopped: None,
            deleted_for: None,
        };
        self.changes.push((uid.clone(), Some(pod.clone())));
        self.operator.created.insert(uid.clone(), pod.clone());
        self.pods.insert(uid, pod);
        if self.expects {
            // Whoever came back is beyond parallelism; nobody else is.
            let steady = |pod: &&Attempt| pod.is_active() && !self.was_unheard.contains(&pod.uid);
            let active = u32::try_from(self.pods.values().filter(steady).count()).unwrap();
            assert!(active <= facts.spec.parallelism, "{active} attempts are active");
        }
    }
}

/// As what each end that is listed is on record.
fn listed(ledger: &Ledger) -> BTreeMap<PodUid, &'static str> {
    let Uncounted {
        succeeded,
        failed,
        disrupted,
        refused,
    } = &ledger.uncounted;
    let of = [
        ("succeeded", succeeded),
        ("failed", failed),
        ("disrupted", disrupted),
        ("refused", refused),
    ];
    let all = of
        .into_iter()
        .flat_map(|(kind, uids)| uids.iter().map(move |uid| (uid.clone(), kind)));
    all.collect()
}
