//! What a session carries, and what of it survives a broken one.

use std::time::Duration;

use bytes::Bytes;
use kerbside_core::clock::Clock as _;
use kerbside_link::SystemClock;
use kerbside_link::client::Event;
use kerbside_link::fault::Fault;
use kerbside_link::handshake::VersionRange;
use kerbside_link::proto::{AttemptStatus, CarState, Run, Standing, Stop};
use kerbside_link::server::{Ended, FromCar};

use crate::proxy::Proxy;
use crate::world::{Car, LIMIT, Seen, World, config, status, uid};

fn run(uid: &str) -> Run {
    Run {
        uid: uid.to_owned(),
        pod_json: Bytes::from_static(b"{}"),
        ..Run::default()
    }
}

#[tokio::test]
async fn hello_says_who_speaks_what_and_every_attempt() {
    let mut world = World::start().await;
    let mut car = Car::start_with(world.config(world.identity()), vec![status("a", 4), status("b", 1)]);
    let (epoch, hello, _) = world.connected().await;
    assert_eq!(car.connected().await, epoch);
    assert_eq!(
        (hello.agent_version.as_str(), hello.instance.as_str()),
        ("1.2.3", "instance")
    );
    assert_eq!(hello.attempts, [status("a", 4), status("b", 1)]);
}

#[tokio::test]
async fn run_stop_forget_and_logs_reach_the_agent() {
    let mut world = World::start().await;
    let mut car = Car::start(world.config(world.identity()));
    let (_, _, session) = world.connected().await;
    session.run(run("a"));
    assert_eq!(
        car.hear("a run", |e| if let Event::Run(run) = e { Some(run) } else { None })
            .await,
        run("a")
    );
    let stop = Stop {
        uid: "a".into(),
        grace_ms: 5,
        reason: "VehicleLeaving".into(),
    };
    session.stop(stop.clone());
    assert_eq!(
        car.hear("a stop", |e| if let Event::Stop(stop) = e { Some(stop) } else { None })
            .await,
        stop
    );
    session.forget(&uid("a"));
    assert_eq!(
        car.hear("a forget", |e| if let Event::Forget(uid) = e {
            Some(uid)
        } else {
            None
        })
        .await,
        uid("a")
    );
}

#[tokio::test]
async fn run_of_a_mebibyte_arrives_whole() {
    let mut world = World::start().await;
    let mut car = Car::start(world.config(world.identity()));
    let (_, _, session) = world.connected().await;
    let large = Run {
        pod_json: Bytes::from(vec![b'x'; 1024 * 1024]),
        ..run("a")
    };
    session.run(large.clone());
    assert_eq!(
        car.hear("a run", |e| if let Event::Run(run) = e { Some(run) } else { None })
            .await,
        large
    );
}

#[tokio::test]
async fn run_whose_uid_means_something_in_a_path_never_reaches_the_agent() {
    let mut world = World::start().await;
    let mut car = Car::start(world.config(world.identity()));
    let (_, _, session) = world.connected().await;
    session.run(run("../../etc"));
    session.run(run("a"));
    assert_eq!(
        car.hear("a run", |e| if let Event::Run(run) = e { Some(run) } else { None })
            .await,
        run("a")
    );
}

#[tokio::test]
async fn state_set_while_connected_arrives() {
    let mut world = World::start().await;
    let car = world.car().await;
    let state = CarState {
        standing: Standing::Leaving.into(),
        notice_ms: 30_000,
        offer: None,
        fault: "ClockNotTrusted".to_owned(),
    };
    car.client.set_state(state.clone());
    let seen = world
        .see("a state", |s| match s {
            Seen::Message {
                message: FromCar::State(state),
            } => Some(state),
            _ => None,
        })
        .await;
    assert_eq!(seen, state);
}

#[tokio::test]
async fn status_set_while_disconnected_comes_once_with_the_next_hello() {
    let mut world = World::start().await;
    let proxy = Proxy::start(world.address, u64::MAX).await;
    let mut car = Car::start_with(config(&proxy.url(), world.identity()), vec![status("a", 1)]);
    car.connected().await;
    world.connected().await;
    // Where nobody listens.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.lead_to(nowhere.local_addr().unwrap());
    drop(nowhere);
    proxy.cut();
    car.disconnected().await;
    car.client.set_status(status("a", 2));
    car.client.set_status(status("a", 3));
    proxy.lead_to(world.address);
    let (epoch, hello, _) = world.connected().await;
    assert_eq!((epoch, hello.attempts), (2, vec![status("a", 3)]));
    // Acknowledged: with the heartbeats that follow it does not come again.
    world
        .see("three heartbeats and no status", |s| match s {
            Seen::Message {
                message: FromCar::Heartbeat { seq: 3 },
            } => Some(()),
            Seen::Message {
                message: FromCar::Status(status),
            } => panic!("sent again: {status:?}"),
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn status_that_is_not_acknowledged_is_sent_again() {
    let mut world = World::start().await;
    let car = world.car().await;
    world.adapter.tell(|s| s.ack_statuses = false);
    car.client.set_status(status("a", 1));
    assert_eq!(world.status().await, status("a", 1));
    assert_eq!(world.status().await, status("a", 1));
    world.adapter.tell(|s| s.ack_statuses = true);
    assert_eq!(world.status().await, status("a", 1));
    car.client.set_status(status("a", 2));
    assert_eq!(world.status().await, status("a", 2));
}

#[tokio::test]
async fn run_sent_again_after_a_reconnect_reaches_the_agent_again_under_the_same_uid() {
    let mut world = World::start().await;
    let proxy = Proxy::start(world.address, u64::MAX).await;
    let mut car = Car::start(config(&proxy.url(), world.identity()));
    for epoch in 1..=2 {
        let (seen, hello, session) = world.connected().await;
        assert_eq!((seen, hello.attempts.len()), (epoch, 0));
        session.run(run("a"));
        car.hear("a run", |e| matches!(e, Event::Run(r) if r.uid == "a").then_some(()))
            .await;
        if epoch == 1 {
            proxy.cut();
        }
    }
    car.client.set_status(AttemptStatus {
        stopped: true,
        ..status("a", 1)
    });
    assert_eq!(world.status().await.uid, "a");
}

#[tokio::test]
async fn fences_count_from_the_sending_of_what_was_acknowledged() {
    let mut world = World::start().await;
    let before = SystemClock.boottime();
    let mut car = Car::start(world.config(world.identity()));
    car.connected().await;
    let mut acknowledged = car.client.heard();
    let hello = acknowledged
        .wait_for(|heard| heard.any.is_some())
        .await
        .unwrap()
        .any
        .unwrap();
    assert!(hello >= before);
    world.heartbeat().await;
    let heard_at = SystemClock.boottime();
    let next = tokio::time::timeout(LIMIT, acknowledged.wait_for(|heard| heard.any > Some(hello))).await;
    let next = *next.unwrap().unwrap();
    assert!(next.any <= Some(heard_at), "counted from the sending");
    assert_eq!(next.proven, next.any);
}

#[tokio::test]
async fn adapter_that_proves_nothing_moves_no_fence_of_what_may_run_once_only() {
    let mut world = World::start().await;
    world.adapter.tell(|s| s.proven = false);
    let mut car = Car::start(world.config(world.identity()));
    car.connected().await;
    let mut acknowledged = car.client.heard();
    let hello = acknowledged.wait_for(|heard| heard.any.is_some()).await.unwrap().any;
    assert_eq!(acknowledged.borrow().proven, hello, "the claim proves the greeting");
    world.heartbeat().await;
    let next = tokio::time::timeout(LIMIT, acknowledged.wait_for(|heard| heard.any > hello)).await;
    assert_eq!(next.unwrap().unwrap().proven, hello);
}

#[tokio::test]
async fn agent_hears_of_the_stops_of_a_greeting_before_it_hears_that_the_car_was_heard() {
    let world = World::start().await;
    let stop = Stop {
        uid: "a".into(),
        ..Stop::default()
    };
    world.adapter.tell(|s| s.stops = vec![stop.clone()]);
    let mut car = Car::start(world.config(world.identity()));
    let mut heard = Vec::new();
    while heard.len() < 2 {
        heard.push(
            car.hear("a stop and an acknowledgement", |event| {
                matches!(event, Event::Stop(_) | Event::Heard(_)).then_some(event)
            })
            .await,
        );
    }
    assert_eq!(heard[0], Event::Stop(stop));
}

#[tokio::test]
async fn adapter_that_does_not_acknowledge_heartbeats_is_left() {
    let world = World::start().await;
    world.adapter.tell(|s| {
        s.ack_heartbeats = false;
        s.intervals.idle = Duration::from_millis(100);
    });
    let mut car = Car::start(world.config(world.identity()));
    car.connected().await;
    assert!(car.disconnected().await.contains("heartbeats"));
    assert!(car.connected().await >= 2);
}

#[tokio::test]
async fn car_that_goes_silent_is_noticed_without_a_ping() {
    let mut world = World::start_with(|o| o.silence = Duration::from_millis(300)).await;
    world.adapter.tell(|s| s.intervals.idle = Duration::from_hours(1));
    let mut car = Car::start(world.config(world.identity()));
    car.connected().await;
    let (epoch, why) = world.disconnected().await;
    assert_eq!(epoch, 1);
    assert!(matches!(why, Ended::Lost(_)), "{why:?}");
}

#[tokio::test]
async fn newer_session_of_a_car_replaces_the_older() {
    let mut world = World::start().await;
    let mut first = world.car().await;
    let mut second = Car::start(world.config(world.identity()));
    assert_eq!(second.connected().await, 2);
    assert!(first.disconnected().await.contains("replaced by a newer connection"));
    let (epoch, why) = world.disconnected().await;
    assert_eq!((epoch, why), (1, Ended::Here));
}

#[tokio::test]
async fn car_of_a_newer_protocol_is_told_who_must_update() {
    let world = World::start().await;
    let mut config = world.config(world.identity());
    config.versions = VersionRange { min: 7, max: 9 };
    let car = Car::start(config);
    car.told("update Kerbside in the cluster").await;
}

#[tokio::test]
async fn car_that_shuts_down_says_its_last_words_and_ends_in_order() {
    let mut world = World::start().await;
    let mut car = world.car().await;
    car.client.set_status(status("a", 9));
    car.client.shutdown();
    assert_eq!(world.status().await, status("a", 9));
    assert_eq!(world.disconnected().await.1, Ended::ByCar);
    car.disconnected().await;
    assert_eq!(car.events.next().await, None);
}

#[tokio::test]
async fn session_closed_with_a_fault_that_passes_is_taken_up_again() {
    let mut world = World::start().await;
    let mut car = Car::start(world.config(world.identity()));
    let (_, _, session) = world.connected().await;
    car.connected().await;
    session.close(Fault::unavailable("the store is away"));
    assert_eq!(car.disconnected().await, "the store is away");
    assert_eq!(car.connected().await, 2);
}

/// One heartbeat per 20 s must stay under 0.1 kbit/s: 250 bytes with all headers, both ways.
#[tokio::test]
async fn heartbeat_of_an_idle_car_costs_less_than_two_hundred_and_fifty_bytes_on_the_air() {
    const BEATS: u64 = 4;
    // IPv4 and TCP with timestamps; the adapter's answer carries its acknowledgement, the car's is a packet of its own.
    const HEADERS: u64 = 52;
    let mut world = World::start().await;
    let proxy = Proxy::start(world.address, u64::MAX).await;
    let mut car = Car::start(config(&proxy.url(), world.identity()));
    car.connected().await;
    world.heartbeat().await;
    world.heartbeat().await;
    let before = proxy.traffic();
    for _ in 0..BEATS {
        world.heartbeat().await;
    }
    let after = proxy.traffic();
    let (bytes, packets) = (after.bytes - before.bytes, after.packets - before.packets);
    let on_the_air = (bytes + (packets + BEATS) * HEADERS) / BEATS;
    assert!(
        on_the_air <= 250,
        "{on_the_air} bytes per heartbeat: {bytes} in {packets} packets"
    );
}

#[tokio::test]
async fn car_that_has_just_started_says_what_it_is_in_its_first_word() {
    let mut world = World::start().await;
    let mut config = world.config(world.identity());
    config.first_word = Duration::from_mins(1);
    let mut car = Car::start(config);
    let parked = CarState {
        standing: Standing::Available.into(),
        ..CarState::default()
    };
    car.client.set_state(parked.clone());
    let (_, hello, _) = world.connected().await;
    assert_eq!(hello.state, Some(parked));
    car.connected().await;
}

#[tokio::test]
async fn car_that_has_nothing_to_say_of_itself_is_connected_all_the_same() {
    let mut world = World::start().await;
    let mut config = world.config(world.identity());
    config.first_word = Duration::from_millis(100);
    let mut car = Car::start(config);
    car.connected().await;
    assert_eq!(world.connected().await.1.state, Some(CarState::default()));
}
