//! A random world around the plan: an operator with stale caches that dies between any two writes, cars that come, go, fall
//! silent, return, refuse, and people who delete, suspend and resume.
//!
//! `world.rs` is the cluster and the cars, `operator.rs` the operator's hands; here are the properties and the runs.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use world::{World, vehicle};

mod operator;
mod world;

/// Something that happens. The numbers choose among those to which it can happen.
#[derive(Debug, Clone, Copy)]
enum Happening {
    /// The operator takes a turn of its loop, and dies after so many writes.
    Turn {
        dies_after: Option<u8>,
    },
    /// The operator's cache sees so many of the changes that it has not seen yet.
    Seen(u8),
    Bound(u8),
    Started(u8),
    Succeeded(u8),
    /// It succeeds, and what it left in the store is not what it says.
    SucceededInvalid(u8),
    ProgramFailed(u8),
    /// The car says that it leaves.
    Leaving(u8),
    /// What is being deleted has stopped.
    Stopped(u8),
    Silent(u8),
    Returned(u8),
    Fenced(u8),
    CollectedByPodGc(u8),
    DeletedByHand(u8),
    StoreDown(bool),
    Suspended(bool),
    Parallelism(u8),
    Seconds(u8),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening as H;
    prop_oneof![
        8 => Just(H::Turn { dies_after: None }),
        4 => (0u8..12).prop_map(|n| H::Turn { dies_after: Some(n) }),
        6 => (1u8..20).prop_map(H::Seen),
        6 => any::<u8>().prop_map(H::Bound),
        6 => any::<u8>().prop_map(H::Started),
        4 => any::<u8>().prop_map(H::Succeeded),
        1 => any::<u8>().prop_map(H::SucceededInvalid),
        2 => any::<u8>().prop_map(H::ProgramFailed),
        2 => any::<u8>().prop_map(H::Leaving),
        4 => any::<u8>().prop_map(H::Stopped),
        2 => any::<u8>().prop_map(H::Silent),
        2 => any::<u8>().prop_map(H::Returned),
        1 => any::<u8>().prop_map(H::Fenced),
        1 => any::<u8>().prop_map(H::CollectedByPodGc),
        1 => any::<u8>().prop_map(H::DeletedByHand),
        1 => any::<bool>().prop_map(H::StoreDown),
        1 => any::<bool>().prop_map(H::Suspended),
        1 => (0u8..6).prop_map(H::Parallelism),
        4 => (0u8..40).prop_map(H::Seconds),
    ]
}

prop_compose! {
    fn spec()(
        completions in 1u32..8,
        parallelism in 1u32..6,
        backoff_limit_per_index in proptest::option::of(0u32..4),
        max_failed_indexes in proptest::option::of(0u32..4),
        max_disruptions_per_index in proptest::option::of(0u32..4),
        active_deadline in proptest::option::weighted(0.2, (60u64..2000).prop_map(Duration::from_secs)),
        fenced in any::<bool>(),
    ) -> JobSpec {
        JobSpec {
            uid: "job".parse().unwrap(),
            completions, parallelism, backoff_limit_per_index, max_failed_indexes, max_disruptions_per_index, active_deadline,
            ttl: None,
            suspend: false,
            deleting: false,
            on_loss: if fenced { OnLoss::WhenFenced } else { OnLoss::WhenSuspected },
        }
    }
}

fn happen(world: &mut World, happening: Happening) {
    match happening {
        Happening::Turn { dies_after } => world.turn(dies_after.map(usize::from)),
        Happening::Seen(count) => world.see(count.into()),
        Happening::Bound(n) => world.bind(n.into()),
        Happening::Started(n) => world.start(n.into()),
        Happening::Succeeded(n) => world.succeed(n.into(), true),
        Happening::SucceededInvalid(n) => world.succeed(n.into(), false),
        Happening::ProgramFailed(n) => world.fail(n.into()),
        Happening::Leaving(n) => world.leave(n.into()),
        Happening::Stopped(n) => world.stop(n.into()),
        Happening::Silent(n) => world.silence(n.into(), true),
        Happening::Returned(n) => world.silence(n.into(), false),
        Happening::Fenced(n) => world.fence(n.into()),
        Happening::CollectedByPodGc(n) => world.collect(n.into()),
        Happening::DeletedByHand(n) => world.delete_by_hand(n.into()),
        Happening::StoreDown(down) => world.store_down = down,
        Happening::Suspended(suspend) => world.change_spec(|spec| spec.suspend = suspend),
        Happening::Parallelism(n) => world.change_spec(|spec| spec.parallelism = n.into()),
        Happening::Seconds(n) => world.pass(Duration::from_secs(n.into())),
    }
}

/// From here on everything goes well; the job must come to its end.
fn settle(world: &mut World) {
    world.store_down = false;
    world.change_spec(|spec| {
        spec.suspend = false;
        spec.parallelism = spec.parallelism.max(1);
    });
    for _ in 0..400 {
        world.see(usize::MAX);
        world.turn(None);
        if world.ledger.is_finished() {
            break;
        }
        for _ in 0..world.pods.len() {
            world.stop(0);
            world.fence(0);
            world.bind(0);
            world.start(0);
            world.succeed(0, true);
        }
        world.pass(Duration::from_secs(30));
    }
    assert!(world.ledger.is_finished(), "the job does not end: {world:#?}");
    for _ in 0..3 {
        world.see(usize::MAX);
        world.turn(None);
    }
}

fn assert_adds_up(world: &World) {
    let ledger = &world.ledger;
    let spec = &world.spec;
    assert!(
        world.pods.values().all(|pod| !pod.has_finalizer),
        "a finished job holds no finalizer"
    );
    assert!(ledger.uncounted.is_empty());
    let counted = |kind: &str| u64::try_from(world.counted.values().filter(|(_, k)| *k == kind).count()).unwrap();
    assert_eq!(ledger.failed, counted("failed"));
    assert_eq!(ledger.refused, counted("refused"));
    assert_eq!(ledger.disruptions.values().sum::<u64>(), counted("disrupted"));
    for index in ledger.completed.iter() {
        assert!(
            world.store.contains_key(&index),
            "index {index} is completed and has no result"
        );
        assert!(!ledger.failed_indexes.contains(index), "index {index} has both ends");
    }
    for index in world.store.keys() {
        assert!(
            ledger.completed.contains(*index),
            "the result of index {index} was accepted and is lost"
        );
    }
    if ledger.is(ConditionKind::Complete) {
        assert_eq!(ledger.completed, crate::index_set::IndexSet::below(spec.completions));
        // No end is forgotten: whatever ended before its index was over, with no rival, is on record.
        for (uid, kind) in &world.owed {
            assert_eq!(
                world.counted.get(uid).map(|(_, k)| *k),
                Some(*kind),
                "the end of {uid} is not on record"
            );
        }
    }
}

/// Cases by default; a nightly run sets `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::with_cases(cases())
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(400)
}

proptest! {
    #![proptest_config(config())]

    /// With expectations (just-created attempts are handed in) or without, on caches of any age.
    #[test]
    fn job_in_a_random_world_ends_and_adds_up(
        spec in spec(),
        refusers in proptest::collection::btree_set(0usize..4, 0..4),
        expects in any::<bool>(),
        knows_eligible in any::<bool>(),
        happenings in proptest::collection::vec(happening(), 0..160),
    ) {
        let refusers: BTreeSet<_> = refusers.into_iter().map(vehicle).collect();
        let mut world = World::new(spec, 5, refusers, expects, knows_eligible);
        for h in happenings {
            happen(&mut world, h);
        }
        settle(&mut world);
        assert_adds_up(&world);
    }
}

/// Runs a job on `cars` cars of which only the last is willing; gives the refusals by index.
fn refusals_with_one_willing(completions: u32, parallelism: u32, cars: usize, expects: bool) -> BTreeMap<u32, usize> {
    let spec = JobSpec {
        uid: "job".parse().unwrap(),
        completions,
        parallelism,
        backoff_limit_per_index: Some(0),
        max_failed_indexes: Some(0),
        max_disruptions_per_index: Some(0),
        active_deadline: None,
        ttl: None,
        suspend: false,
        deleting: false,
        on_loss: OnLoss::WhenSuspected,
    };
    let mut world = World::new(spec, cars, (0..cars - 1).map(vehicle).collect(), expects, true);
    for step in 0..20_000 {
        world.see(usize::MAX);
        world.turn(None);
        if world.ledger.is(ConditionKind::Complete) {
            break;
        }
        // Answers come one at a time, the scheduler spreads, and the willing car runs one attempt after the other.
        world.bind(step);
        world.start(step);
        if step % 7 == 0 {
            world.succeed(0, true);
        }
        world.pass(Duration::from_millis(300));
    }
    assert!(world.ledger.is(ConditionKind::Complete), "{world:#?}");
    let mut refusals = BTreeMap::new();
    for (index, _) in world.counted.values().filter(|(_, kind)| *kind == "refused") {
        *refusals.entry(*index).or_default() += 1;
    }
    refusals
}

#[rstest::rstest]
#[case(60, 20)]
#[case(60, 4)]
#[case(20, 20)]
#[case(20, 1)]
#[case(40, 10)]
fn job_with_one_willing_car_of_twenty_is_refused_at_most_twice_per_index(
    #[case] completions: u32,
    #[case] parallelism: u32,
) {
    let refusals = refusals_with_one_willing(completions, parallelism, 20, true);
    assert!(refusals.values().all(|times| *times <= 2), "{refusals:?}");
}

#[test]
fn job_smaller_than_the_refusing_fleet_ends_all_the_same() {
    assert!(!refusals_with_one_willing(3, 3, 20, true).is_empty());
    refusals_with_one_willing(3, 3, 20, false);
}

#[test]
fn job_larger_than_a_step_is_created_in_steps() {
    let mut spec: JobSpec =
        serde_json::from_str(r#"{"uid": "job", "completions": 2000, "parallelism": 1200}"#).unwrap();
    spec.parallelism = 1200;
    let mut world = World::new(spec, 5, BTreeSet::new(), true, true);
    for expected in [500, 1000, 1200, 1200] {
        world.turn(None);
        assert_eq!(world.pods.len(), expected);
    }
}

/// As large as the API allows: every other index is completed, 10,000 attempts run, and the last 2,000 of those were just lost.
#[test]
fn job_of_the_largest_size_replaces_a_wave_of_losses_in_steps() {
    let spec = r#"{"uid": "job", "completions": 100000, "parallelism": 10000}"#;
    let mut facts = Facts {
        now: "2026-03-01T12:00:00Z".parse().unwrap(),
        spec: serde_json::from_str(spec).unwrap(),
        ledger: Ledger::default(),
        attempts: Vec::new(),
        acceptance: BTreeMap::new(),
        refusals: Refusals::default(),
        eligible: (0..200).map(vehicle).collect(),
    };
    for index in 0..100_000 {
        let attempt = serde_json::json!({
            "uid": format!("pod-{index}"), "name": format!("job-{index}-aaaaa"), "index": index, "node": vehicle(3),
            "created_at": "2026-03-01T11:00:00Z", "has_finalizer": index % 2 == 1,
            "phase": if index % 2 == 0 { "Succeeded" } else { "Running" }, "unheard": index >= 16_000,
        });
        if index % 2 == 0 {
            facts.ledger.completed.insert(index).unwrap();
            facts.attempts.push(serde_json::from_value(attempt).unwrap());
        } else if index < 20_000 {
            facts.attempts.push(serde_json::from_value(attempt).unwrap());
        }
    }
    let planned = plan(&facts);
    let made: Vec<_> = planned.create.iter().map(|new| new.index).collect();
    assert_eq!(made, (0..500).map(|n| 16_001 + 2 * n).collect::<Vec<_>>());
    assert_eq!(
        planned.alive,
        Alive {
            active: 8000,
            ready: 0,
            unheard: 2000,
            terminating: 0
        }
    );
    assert!(planned.requeue_after.is_some(), "the rest follows");
    assert!(planned.release.is_empty() && planned.delete.is_empty());
}
