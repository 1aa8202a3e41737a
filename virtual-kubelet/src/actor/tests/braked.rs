//! A car that falls silent with many others: what its Vehicle and the metrics say, and when it is believed.

use kerbside_core::vehicle::brake::Quiet;

use super::*;

const POOL: &str = "overnight";

fn at(seconds: u64) -> Boottime {
    Boottime(Duration::from_secs(seconds))
}

fn other(n: u8) -> VehicleId {
    VehicleId::from_random([n; 10])
}

/// One of five cars, with a running attempt; the others have just fallen silent. Only its Vehicle is written.
fn last_of_five() -> Case {
    let mut case = running();
    case.actor.turn();
    case.actor.jobs.clear();
    case.actor.at_work = HashSet::from([pod_key(), Key::Node, Key::Lease]);
    let context = &case.world.context;
    let terms = context.roster.pool(POOL).unwrap().brake();
    for n in 1..=4 {
        context.brakes.count(POOL, 1);
        let quiet = Quiet {
            since: at(1),
            silent: true,
            at_stake: true,
        };
        context.brakes.quiet(POOL, &other(n), quiet, terms, at(1));
    }
    assert_eq!(gauges(&case), (0, 0), "four are fewer than the default allows");
    case.clock().set(1);
    case.actor.step(Event::Closed(3));
    case
}

/// Whether the brake is engaged, and how many cars are held, by the metrics.
fn gauges(case: &Case) -> (i64, i64) {
    let (metrics, label) = (&case.world.context.metrics, PoolLabel { pool: POOL.to_owned() });
    (
        metrics.brake_engaged.get_or_create(&label).get(),
        metrics.held.get_or_create(&label).get(),
    )
}

#[tokio::test]
async fn car_that_falls_silent_with_many_says_that_it_is_held_and_so_do_the_metrics() {
    let mut case = last_of_five();
    assert!(case.turn().contains(&Key::Vehicle));
    assert_eq!(gauges(&case), (1, 5));
    assert!(case.actor.facts.held() && !case.actor.facts.suspected());
    let (_, path, body) = case.finish(200, serde_json::to_value(vehicle("r-0")).unwrap()).await;
    assert_eq!(path, "/apis/kerbside.dev/v1alpha1/vehicles/car-aaaaaaaaaaaaaaaa/status");
    let conditions = body["status"]["conditions"].as_array().unwrap();
    let heard = conditions.iter().find(|c| c["type"] == "kerbside.dev/Heard").unwrap();
    assert_eq!(
        (&heard["status"], &heard["reason"]),
        (&json!("False"), &json!("LossHeld"))
    );
}

#[tokio::test]
async fn held_car_that_connects_again_is_held_no_more_and_was_never_suspected() {
    let mut case = last_of_five();
    case.actor.turn();
    case.clock().set(20);
    case.actor.step(Event::Connected {
        epoch: 4,
        standing: Standing::Available,
        reports: vec![],
    });
    case.actor.turn();
    assert_eq!(gauges(&case), (1, 4), "the others are still away");
    assert!(!case.actor.facts.held() && !case.actor.facts.suspected());
}

#[tokio::test]
async fn held_car_asks_again_and_is_believed_a_window_after_the_others_are_back() {
    let mut case = last_of_five();
    let wake = case.actor.turn().unwrap();
    assert!(wake <= at(2), "{wake:?}");
    for n in 1..=4 {
        case.world.context.brakes.heard(POOL, &other(n));
    }
    for second in [2, 31] {
        case.clock().set(second);
        case.actor.turn();
        assert!(case.actor.facts.held(), "at {second}");
    }
    case.clock().set(32);
    case.actor.turn();
    assert!(case.actor.facts.suspected());
    assert_eq!(gauges(&case), (0, 0));
}

#[tokio::test]
async fn held_car_whose_vehicle_goes_to_another_replica_leaves_no_trace_in_the_brake() {
    let mut case = last_of_five();
    case.actor.turn();
    assert_eq!(gauges(&case), (1, 5));
    let mut moved = vehicle("r-1");
    moved.metadata.resource_version = Some("12".into());
    list(&case.world.context.roster.vehicles, vec![moved]);
    case.actor.turn();
    assert_eq!(gauges(&case), (1, 4));
}

#[tokio::test]
async fn adapter_that_stood_still_holds_nobody_by_its_brake_for_that() {
    let mut case = last_of_five();
    case.actor.stalled_until = Some(at(4));
    let wake = case.actor.turn().unwrap();
    assert!(wake <= at(4), "it is asked then: {wake:?}");
    assert_eq!(gauges(&case), (0, 0));
    assert!(!case.actor.facts.held() && !case.actor.facts.suspected());
}
