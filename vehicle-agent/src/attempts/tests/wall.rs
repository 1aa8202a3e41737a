//! Somebody sets the wall clock while an attempt runs.

use std::time::Duration;

use super::*;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

#[tokio::test]
async fn fence_holds_on_the_boot_time_and_no_duration_is_absurd_when_the_wall_clock_jumps() {
    for ahead_ms in [DAY_MS, -DAY_MS] {
        let temp = tempfile::tempdir().unwrap();
        let journal = Journal::on(Faulty::new()).unwrap();
        let clock = Arc::new(SetClock::new());
        let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
        let fixture = Fixture::of(temp, FakeRuntime::new(), shared, journal);
        let heard = fixture.heard().await;
        let limit = Duration::from_millis(1500);
        let fence = heard + limit;
        let fenced = Run {
            run_unheard_for_ms: u64::try_from(limit.as_millis()).unwrap(),
            ..run("u-1", |_| {})
        };
        fixture.link(Event::Run(fenced)).await;
        fixture.runtime.started(0).await;
        fixture.phase("u-1", AttemptPhase::Running).await;
        clock.set(ahead_ms);
        // Something to do, so that it looks at the clocks.
        fixture.car(State::Paused {
            since: Boottime::default(),
            parked_since: None,
            cause: Cause::Owner,
        });
        fixture.phase("u-1", AttemptPhase::Frozen).await;
        fixture.wait_fence(Some(fence)).await;

        let status = fixture.phase("u-1", AttemptPhase::Disrupted).await;
        let late = fixture.clock.boottime();
        assert_eq!(status.reason, reason::VEHICLE_LOST);
        assert!(late >= fence, "stopped {:?} before its fence", fence.since(late));
        assert!(
            late < fence + kerbside_core::vehicle::FENCE_MARGIN,
            "{:?} late",
            late.since(fence)
        );
        fixture.wait_fence(None).await;
        let end = terminated(&status);
        let lasted = end.finished_at_ms - end.started_at_ms;
        assert!((0..60_000).contains(&lasted), "it ran for {lasted} ms");
        assert!(end.started_at_ms >= status.started_at_ms);
    }
}
