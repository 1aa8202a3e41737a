//! Tunnels: bytes both ways, and every way in which they end.

use bytes::Bytes;
use kerbside_link::client::Event;
use kerbside_link::fault::FaultKind;
use kerbside_link::proto::{Exec, OpenTunnel, TunnelPart, open_tunnel};
use kerbside_link::{TUNNEL_LIMIT, fault::Fault};

use crate::world::{Car, LIMIT, Seen, World};

fn part(channel: u32, data: &'static [u8]) -> TunnelPart {
    TunnelPart {
        channel,
        data: Bytes::from_static(data),
        ..TunnelPart::default()
    }
}

async fn ended(world: &mut World) -> Option<Fault> {
    world
        .see("the end of a tunnel", |seen| match seen {
            Seen::TunnelEnded(end) => Some(end),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn tunnel_that_was_asked_for_carries_bytes_both_ways() {
    let mut world = World::start().await;
    let mut car = Car::start(world.config(world.identity()));
    let (_, _, session) = world.connected().await;
    session.open_tunnel(OpenTunnel {
        request_id: "t1".into(),
        uid: "a".into(),
        user: "ann".into(),
        what: Some(open_tunnel::What::Exec(Exec::default())),
    });
    let open = car
        .hear("a request", |e| {
            if let Event::OpenTunnel(open) = e {
                Some(open)
            } else {
                None
            }
        })
        .await;
    assert_eq!((open.request_id.as_str(), open.user.as_str()), ("t1", "ann"));
    let mut tunnel = car.client.tunnel(&open.request_id).await.unwrap();
    let sender = tunnel.sender();
    for channel in 0..5 {
        sender.send(part(channel, b"hello")).await.unwrap();
        assert_eq!(tunnel.next().await.unwrap(), part(channel, b"hello"));
    }
    drop((tunnel, sender));
    assert_eq!(ended(&mut world).await, None);
}

#[tokio::test]
async fn tunnel_that_nobody_waits_for_is_refused() {
    let mut world = World::start().await;
    let car = world.car().await;
    let fault = car.client.tunnel("unknown").await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::NotFound);
}

#[tokio::test]
async fn tunnel_ends_with_its_session() {
    let mut world = World::start().await;
    let mut car = Car::start(world.config(world.identity()));
    let (_, _, session) = world.connected().await;
    car.hear("the greeting", |e| matches!(e, Event::Connected { .. }).then_some(()))
        .await;
    let mut tunnel = car.client.tunnel("t1").await.unwrap();
    session.close(Fault::unavailable("begin anew"));
    let next = tokio::time::timeout(LIMIT, tunnel.next()).await;
    assert_eq!(next.expect("it ends"), None);
}

#[tokio::test]
async fn part_that_is_too_large_or_of_no_channel_ends_the_tunnel() {
    for bad in [
        TunnelPart {
            data: vec![0; TUNNEL_LIMIT + 1].into(),
            ..TunnelPart::default()
        },
        part(9, b"x"),
    ] {
        let mut world = World::start().await;
        let car = world.car().await;
        let mut tunnel = car.client.tunnel("t1").await.unwrap();
        tunnel.sender().send(bad).await.unwrap();
        assert_eq!(tunnel.next().await, None);
        assert_eq!(ended(&mut world).await.map(|f| f.kind()), Some(FaultKind::Invalid));
    }
}

#[tokio::test]
async fn refusal_of_the_car_arrives_as_what_it_is() {
    let mut world = World::start().await;
    let car = world.car().await;
    let why = Fault::denied("the owner of this vehicle lets nobody in");
    car.client.refuse_tunnel("t1", why.clone()).await.unwrap();
    assert_eq!(ended(&mut world).await, Some(why));
}
