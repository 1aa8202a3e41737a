//! Cars that are sent elsewhere, sent away, or asked to move in time.

use std::time::Duration;

use kerbside_core::clock::Clock as _;
use kerbside_link::SystemClock;
use kerbside_link::client::Event;
use kerbside_link::server::{Ended, Refusal};
use tokio::net::TcpListener;

use crate::proxy::Proxy;
use crate::world::{Car, Seen, World, config};

async fn beside(world: &World) -> World {
    World::start_at(
        &world.adapter.ca,
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        |_| {},
    )
}

#[tokio::test]
async fn redirect_instead_of_welcome_is_followed() {
    let mut here = World::start().await;
    let mut there = beside(&here).await;
    here.adapter
        .tell(|s| s.refusals.push_back(Refusal::Redirect { address: there.url() }));
    let mut car = Car::start(here.config(here.identity()));
    car.connected().await;
    there.connected().await;
    // Its home is here all the same.
    there.begin_stop();
    here.connected().await;
}

#[tokio::test]
async fn redirect_in_a_session_is_followed() {
    let mut here = World::start().await;
    let mut there = beside(&here).await;
    let mut car = Car::start(here.config(here.identity()));
    let (_, _, session) = here.connected().await;
    car.connected().await;
    session.redirect(there.url());
    there.connected().await;
    assert_eq!(here.disconnected().await.1, Ended::Here);
}

#[tokio::test]
async fn redirects_in_a_circle_end_at_home() {
    let mut world = World::start().await;
    let url = world.url();
    world.adapter.tell(|s| {
        s.refusals
            .extend((0..9).map(|_| Refusal::Redirect { address: url.clone() }));
    });
    Car::start(world.config(world.identity())).connected().await;
    world.connected().await;
}

#[tokio::test]
async fn redirect_to_nowhere_is_not_followed() {
    let mut world = World::start().await;
    world.adapter.tell(|s| {
        s.refusals.push_back(Refusal::Redirect {
            address: "http://plain:1/x".into(),
        });
    });
    Car::start(world.config(world.identity())).connected().await;
    world.connected().await;
}

#[tokio::test]
async fn retry_after_is_obeyed_to_the_millisecond_and_said() {
    let mut world = World::start().await;
    let delay = Duration::from_millis(400);
    world.adapter.tell(|s| {
        s.refusals.push_back(Refusal::RetryAfter {
            delay,
            reason: "too many cars".into(),
        });
    });
    let before = SystemClock.boottime();
    let car = Car::start(world.config(world.identity()));
    car.told("too many cars").await;
    world.connected().await;
    assert!(SystemClock.boottime().since(before) >= delay);
}

#[tokio::test]
async fn retry_after_in_a_session_is_obeyed() {
    let mut world = World::start().await;
    let mut car = Car::start(world.config(world.identity()));
    let (_, _, session) = world.connected().await;
    car.connected().await;
    let before = SystemClock.boottime();
    session.retry_after(Duration::from_millis(300), "busy");
    assert!(car.disconnected().await.contains("busy"));
    world.connected().await;
    assert!(SystemClock.boottime().since(before) >= Duration::from_millis(300));
}

/// Anything but that the car was heard.
fn news(event: Event) -> Option<Event> {
    (!matches!(event, Event::Heard(_))).then_some(event)
}

#[tokio::test]
async fn drain_makes_the_car_connect_anew_before_it_leaves_the_old_session() {
    let mut world = World::start().await;
    let mut car = Car::start(world.config(world.identity()));
    let (_, _, session) = world.connected().await;
    car.connected().await;
    session.drain(Duration::from_millis(200));
    // In this order: the new one comes before the old one goes.
    let order = |seen| match seen {
        Seen::Connected { epoch, .. } => Some(("connected", epoch)),
        Seen::Disconnected { epoch, .. } => Some(("disconnected", epoch)),
        _ => None,
    };
    assert_eq!(world.see("a session", order).await, ("connected", 2));
    assert_eq!(world.see("an end", order).await, ("disconnected", 1));
    // The agent hears of the new session and not of any break.
    let next = car.hear("anything", news).await;
    assert_eq!(next, Event::Connected { epoch: 2 });
}

#[tokio::test]
async fn adapter_that_shuts_down_hands_its_cars_over_without_a_break() {
    let mut old = World::start_with(|o| o.drain = Duration::from_secs(10)).await;
    let mut new = beside(&old).await;
    let proxy = Proxy::start(old.address, u64::MAX).await;
    let mut car = Car::start(config(&proxy.url(), old.identity()));
    car.connected().await;
    old.connected().await;
    proxy.lead_to(new.address);
    old.begin_stop();
    new.connected().await;
    let next = car.hear("anything", news).await;
    assert!(matches!(next, Event::Connected { .. }), "{next:?}");
    old.stopped().await;
    new.heartbeat().await;
}

#[tokio::test]
async fn adapter_that_shuts_down_alone_ends_at_its_deadline_and_the_car_finds_the_next() {
    let mut old = World::start_with(|o| o.drain = Duration::from_millis(300)).await;
    let mut car = Car::start(old.config(old.identity()));
    car.connected().await;
    old.begin_stop();
    old.stopped().await;
    car.disconnected().await;
    let listener = TcpListener::bind(old.address).await.unwrap();
    let mut new = World::start_at(&old.adapter.ca, listener, |_| {});
    car.connected().await;
    new.heartbeat().await;
}
