//! The car leaves: what ends, when, and in which order.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn attempt_ends_with_the_cars_departure() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    let until = fixture.clock.boottime() + Duration::from_secs(10);
    fixture.car(State::Leaving {
        until,
        cause: Cause::Owner,
    });
    let status = fixture.phase("u-1", AttemptPhase::Disrupted).await;
    assert!(process.was_told_to_stop() && status.stopped);
    assert_eq!(
        (status.reason.as_str(), terminated(&status).exit_code),
        (reason::VEHICLE_DEPARTED, 137)
    );
    fixture.wait_live(0).await;
}

#[tokio::test]
async fn program_that_does_not_end_when_asked_is_killed_with_the_notice() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    process.becomes_obstinate();
    let until = fixture.clock.boottime() + Duration::from_millis(300);
    fixture.car(State::Leaving {
        until,
        cause: Cause::Owner,
    });
    fixture.phase("u-1", AttemptPhase::Disrupted).await;
    assert!(fixture.clock.boottime() >= until);
}

/// A program that only a kill ends, of a Pod with a priority.
async fn obstinate(fixture: &Fixture, uid: &str, priority: i32) -> FakeProcess {
    let small = |pod: &mut Json| {
        pod["spec"]["priority"] = json!(priority);
        pod["spec"]["containers"][0]["resources"] = json!({});
    };
    let process = fixture.running_as(uid, small).await;
    process.becomes_obstinate();
    process
}

#[tokio::test]
async fn higher_priority_stops_last_and_inside_the_notice() {
    let fixture = Fixture::new();
    let high = obstinate(&fixture, "u-1", 1000).await;
    let low = obstinate(&fixture, "u-2", -1).await;
    let now = fixture.clock.boottime();
    let until = now + Duration::from_secs(1);
    fixture.car(State::Leaving {
        until,
        cause: Cause::Owner,
    });
    fixture.phase("u-1", AttemptPhase::Frozen).await;
    assert!(!high.was_told_to_stop(), "the higher one is asked before its turn");
    // The outlook is told anew with every look at the signals; that moves nobody's turn.
    let again = async {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            fixture.car(State::Leaving {
                until,
                cause: Cause::Owner,
            });
        }
    };
    let ended = async {
        fixture.phase("u-2", AttemptPhase::Disrupted).await;
        // The lower one did not end when it was asked, and had its half.
        let half = now + Duration::from_millis(500);
        assert!(low.was_told_to_stop() && fixture.clock.boottime() >= half);
        fixture.phase("u-1", AttemptPhase::Disrupted).await;
        // It did not end either, and had the rest, which is as much.
        assert!(high.was_told_to_stop() && fixture.clock.boottime() >= until);
    };
    tokio::select! {
        () = again => {}
        () = ended => {}
    }
    fixture.wait_live(0).await;
}

#[tokio::test]
async fn higher_priority_does_not_wait_when_the_lower_ones_have_ended() {
    let fixture = Fixture::new();
    let high = fixture
        .running_as("u-1", |pod| {
            pod["spec"]["priority"] = json!(1000);
            pod["spec"]["containers"][0]["resources"] = json!({});
        })
        .await;
    let low = obstinate(&fixture, "u-2", 0).await;
    let until = fixture.clock.boottime() + Duration::from_mins(5);
    fixture.car(State::Leaving {
        until,
        cause: Cause::Owner,
    });
    fixture.phase("u-1", AttemptPhase::Frozen).await;
    low.exits(0);
    fixture.phase("u-1", AttemptPhase::Disrupted).await;
    assert!(high.was_told_to_stop() && fixture.clock.boottime() < until);
}

#[tokio::test]
async fn attempt_that_waits_for_its_turn_goes_on_when_the_car_stays_after_all() {
    let fixture = Fixture::new();
    let high = obstinate(&fixture, "u-1", 1000).await;
    let low = obstinate(&fixture, "u-2", 0).await;
    let until = fixture.clock.boottime() + Duration::from_mins(5);
    fixture.car(State::Leaving {
        until,
        cause: Cause::Owner,
    });
    let frozen = fixture.phase("u-1", AttemptPhase::Frozen).await.revision;
    fixture.car(available());
    let goes_on = |s: &AttemptStatus| s.uid == "u-1" && s.phase() == AttemptPhase::Running && s.revision > frozen;
    fixture.cluster.status(goes_on).await;
    assert!(!high.was_told_to_stop() && !high.is_frozen());
    low.exits(137);
    fixture.phase("u-2", AttemptPhase::Disrupted).await;
    assert!(!high.was_told_to_stop(), "nobody leaves any more");
}

#[tokio::test]
async fn grace_of_the_pod_is_kept_inside_the_notice() {
    let fixture = Fixture::new();
    let process = fixture
        .running_as("u-1", |pod| pod["spec"]["terminationGracePeriodSeconds"] = json!(1))
        .await;
    process.becomes_obstinate();
    let now = fixture.clock.boottime();
    fixture.car(State::Leaving {
        until: now + Duration::from_mins(5),
        cause: Cause::Owner,
    });
    fixture.phase("u-1", AttemptPhase::Disrupted).await;
    let took = fixture.clock.boottime().since(now);
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_mins(5),
        "{took:?}"
    );
}

#[tokio::test]
async fn guard_knows_the_fence_from_the_admission_on_and_the_end_of_the_notice() {
    let fixture = Fixture::new();
    let heard = fixture.heard().await;
    let long = Duration::from_mins(10);
    let mut asked = run("u-1", |_| {});
    asked.run_unheard_for_ms = u64::try_from(long.as_millis()).unwrap();
    fixture.link(Event::Run(asked)).await;
    let process = fixture.runtime.started(0).await;
    process.becomes_obstinate();
    fixture.wait_fence(Some(heard + long)).await;
    let again = fixture.heard().await;
    fixture.wait_fence(Some(again + long)).await;
    let until = fixture.clock.boottime() + Duration::from_mins(1);
    let leaving = State::Leaving {
        until,
        cause: Cause::Owner,
    };
    fixture.car(leaving);
    fixture.wait_fence(Some(until)).await;
    process.exits(137);
    fixture.phase("u-1", AttemptPhase::Disrupted).await;
    fixture.wait_fence(None).await;
}
