//! Attempts that are held by the thousand are closed a few in each turn, each once, whatever the store does meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use kerbside_core::ids::PodUid;
use kerbside_core::job::Refusals;
use kerbside_core::names::store as path;
use kerbside_core::names::{annotation, condition, finalizer, label};
use serde_json::json;

use super::super::apply::{CLOSING_RETRY, MOST_EARLY, close_early, held_and_final};
use super::super::dereference::Found;
use super::super::validate::{ValidatedJob, parse};
use super::super::*;
use super::fleet::{Fleet, Operator, Script};
use crate::attempts::{self, Seen};
use crate::testing::DownStore;
use crate::testing::fake_api::Fate;

/// An attempt that a car's departure has ended.
fn ended() -> Seen {
    let is_true = |type_: &str, at: &str| json!({ "type": type_, "status": "True", "lastTransitionTime": at });
    let pod = json!({
        "metadata": {
            "name": "p", "namespace": "vision", "uid": "u", "labels": { label::JOB_UID: "job-uid" },
            "annotations": { annotation::INDEX: "0" }, "finalizers": [finalizer::TRACKING],
        },
        "spec": { "nodeName": "car-aaaaaaaaaaaaaaaa", "containers": [{ "name": "main" }] },
        "status": { "phase": "Failed", "conditions": [
            is_true(condition::STARTED, "2026-11-23T10:00:00Z"), is_true(condition::STOPPED, "2026-11-23T10:00:09Z"),
        ]},
    });
    attempts::of_stray(&serde_json::from_value(pod).unwrap()).unwrap().1
}

/// A job with so many held attempts that are on record, and its store.
struct Held {
    store: Arc<DownStore>,
    operator: Operator,
    job: ValidatedJob,
    found: Found,
}

impl Held {
    fn new(count: usize) -> Self {
        let store = Arc::new(DownStore::default());
        store.set_down(false);
        let mut fleet = Fleet::new(&json!({}), Script::new());
        fleet.store = ResultStore::over(Arc::clone(&store) as Arc<dyn object_store::ObjectStore>);
        let one = ended();
        let attempts: Vec<Seen> = (0..count)
            .map(|n| {
                let mut seen = one.clone();
                seen.attempt.uid = format!("u-{n:04}").parse().unwrap();
                seen
            })
            .collect();
        let mut job = parse(&fleet.job()).unwrap();
        job.ledger.uncounted.disrupted = attempts.iter().map(|seen| seen.attempt.uid.clone()).collect();
        Self {
            operator: fleet.operator(Fate::Lives),
            store,
            job,
            found: Found {
                pools: Vec::new(),
                terms: None,
                namespace_labels: BTreeMap::new(),
                attempts,
                refusals: Refusals::default(),
                eligible: BTreeSet::new(),
                template: Ok(()),
            },
        }
    }

    /// What a turn does of it, while `release` are let go by others; whether there must be another, and how soon.
    async fn turn(&self, release: &[PodUid]) -> Option<Duration> {
        let ctx = &self.operator.ctx;
        let held = held_and_final(ctx, &self.job, &self.found, release);
        close_early(ctx, &self.job, &self.found, held).await
    }

    async fn closings(&self) -> usize {
        let store = &self.operator.ctx.store;
        let place = path::ledger_closing("u");
        let (folder, _) = place.rsplit_once('/').unwrap();
        store.list(folder).await.unwrap().len()
    }
}

#[tokio::test(start_paused = true)]
async fn thousands_settle_in_so_many_turns_and_then_nothing_is_written() {
    let held = Held::new(5_000);
    let turns = 5_000_usize.div_ceil(MOST_EARLY);
    for n in 1..=turns {
        let again = held.turn(&[]).await;
        assert_eq!(again, (n < turns).then_some(SOON), "turn {n}");
        assert!(held.store.puts() <= n * MOST_EARLY);
    }
    assert_eq!((held.store.puts(), held.closings().await), (5_000, 5_000));
    for _ in 0..3 {
        assert_eq!(held.turn(&[]).await, None);
    }
    assert_eq!(held.store.puts(), 5_000, "what is closed is written again");
}

#[tokio::test(start_paused = true)]
async fn store_that_never_answers_costs_a_turn_two_seconds_and_is_asked_again_later() {
    let held = Held::new(200);
    held.store.set_hangs(true);
    let before = Instant::now();
    let turn = tokio::time::timeout(Duration::from_secs(60), held.turn(&[])).await;
    assert_eq!(turn.unwrap(), Some(CLOSING_RETRY));
    assert_eq!(before.elapsed().as_secs(), 2);
    assert!(held.store.puts() <= MOST_EARLY);
    held.store.set_hangs(false);
    let mut turns = 1;
    while held.turn(&[]).await.is_some() {
        turns += 1;
    }
    assert_eq!((turns, held.closings().await), (4, 200));
}

/// Those that fail in each turn keep none of the others back.
#[tokio::test(start_paused = true)]
async fn what_could_not_be_closed_lets_the_others_go_first() {
    let held = Held::new(MOST_EARLY + 1);
    held.store.set_down(true);
    assert_eq!(held.turn(&[]).await, Some(CLOSING_RETRY));
    assert_eq!(held.store.puts(), MOST_EARLY);
    held.store.set_down(false);
    assert_eq!(held.turn(&[]).await, Some(SOON));
    let last = path::ledger_closing(&format!("u-{MOST_EARLY:04}"));
    let closed = held.operator.ctx.store.get(&last).await;
    assert!(closed.is_ok(), "the one that was not tried comes first: {closed:?}");
    assert_eq!(held.turn(&[]).await, None);
    assert_eq!(held.closings().await, MOST_EARLY + 1);
}

#[tokio::test(start_paused = true)]
async fn attempt_that_is_let_go_in_this_turn_is_not_closed_early() {
    let held = Held::new(2);
    assert_eq!(held.turn(&["u-0000".parse().unwrap()]).await, None);
    assert_eq!((held.store.puts(), held.closings().await), (1, 1));
}
