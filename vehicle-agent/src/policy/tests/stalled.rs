//! The loop does not look for a while.

use super::*;
use crate::brake::PATIENCE;

/// What the watching thread would do if nothing of the agent got to run for so long from now on.
fn hangs(fixture: &Fixture, time: Duration) {
    let later = fixture.clock.boottime() + time;
    assert!(fixture.watched.look(later, later.0).is_some(), "the loop is there");
}

#[tokio::test(start_paused = true)]
async fn car_at_which_nobody_looks_stands_still_and_waits_to_be_parked_again_when_somebody_does() {
    let fixture = Fixture::available().await;
    fixture.live.send_replace(1);
    fixture.settle().await;
    assert!(!*fixture.brake.borrow());
    hangs(&fixture, PATIENCE.saturating_sub(Duration::from_millis(100)));
    assert!(!*fixture.brake.borrow(), "a look may be a little late");
    hangs(&fixture, PATIENCE + Duration::from_secs(5));
    assert!(*fixture.brake.borrow());
    // It is back.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(*fixture.brake.borrow());
    assert_eq!(
        (fixture.standing(), fixture.posture()),
        (Standing::Paused, Posture::Freeze)
    );
    assert_eq!(fixture.said().fault, reason::AGENT_STALLED);
    let says = fixture.ask(Ask::Status).await.status.stalled;
    assert!(says.contains("did not look at the car"), "{says}");
    fixture.parked_for(130).await;
    assert_eq!(
        (fixture.standing(), fixture.posture()),
        (Standing::Available, Posture::Run)
    );
    assert!(!*fixture.brake.borrow());
    assert_eq!(fixture.said().fault, reason::AGENT_STALLED, "for a while it is told");
    fixture.parked_for(600).await;
    assert_eq!(fixture.said().fault, "");
}

#[tokio::test(start_paused = true)]
async fn computer_that_slept_waits_to_be_parked_again_and_tells_nobody_that_the_agent_hung() {
    let fixture = Fixture::available().await;
    fixture.live.send_replace(1);
    fixture.settle().await;
    let later = fixture.clock.boottime() + Duration::from_secs(3600);
    assert_eq!(fixture.watched.look(later, fixture.clock.awake()), Some(true));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        (fixture.standing(), fixture.posture()),
        (Standing::Paused, Posture::Freeze)
    );
    assert_eq!(fixture.said().fault, "");
    assert_eq!(fixture.ask(Ask::Status).await.status.stalled, "");
}

#[tokio::test(start_paused = true)]
async fn car_at_which_somebody_looks_all_the_time_says_nothing_of_it() {
    let fixture = Fixture::available().await;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        hangs(&fixture, Duration::ZERO);
    }
    assert_eq!(fixture.said().fault, "");
    assert_eq!(fixture.ask(Ask::Status).await.status.stalled, "");
}
