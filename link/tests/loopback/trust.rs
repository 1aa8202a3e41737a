//! Certificates that do not hold, do not hold any more, or are replaced by better ones.

use std::sync::{Arc, Mutex};

use kerbside_core::clock::Clock as _;
use kerbside_core::ids::VehicleId;
use kerbside_link::SystemClock;
use kerbside_link::client::Client;
use kerbside_link::fault::{Fault, FaultKind};
use kerbside_link::identity::{Ca, Identity};
use kerbside_link::proto::CarState;
use kerbside_link::server::Ended;

use crate::foreign;
use crate::world::{Car, DAY, Seen, World, identity_of, vehicle};

#[tokio::test]
async fn car_of_another_ca_is_refused_and_told_so() {
    let world = World::start().await;
    let foreign = Ca::generate(SystemClock.wall()).unwrap();
    let car = Car::start(world.config(identity_of(&foreign, &world.adapter.ca, &vehicle(), 0)));
    car.told("not signed by the CA of this link").await;
}

#[tokio::test]
async fn car_with_an_expired_certificate_is_refused_and_told_so() {
    let world = World::start().await;
    let car = Car::start(world.config(identity_of(&world.adapter.ca, &world.adapter.ca, &vehicle(), 10)));
    car.told("it has expired").await;
}

#[tokio::test]
async fn car_does_not_talk_to_an_adapter_of_another_ca() {
    let mut world = World::start().await;
    let other = Ca::generate(SystemClock.wall()).unwrap();
    let car = Car::start(world.config(identity_of(&world.adapter.ca, &other, &vehicle(), 0)));
    car.told("failed to trust").await;
    let mut good = Car::start(world.config(world.identity()));
    good.connected().await;
    assert_eq!(world.connected().await.0, 1);
}

#[tokio::test]
async fn call_without_a_certificate_is_refused_and_told_so() {
    let world = World::start().await;
    let fault = foreign::session_fault(&world, None).await;
    assert_eq!(fault.kind(), FaultKind::Unauthenticated);
    assert!(fault.message().contains("no client certificate"), "{fault}");
}

#[tokio::test]
async fn certificate_of_an_adapter_is_no_car() {
    let world = World::start().await;
    let request = kerbside_link::identity::new_key_and_csr(&[]).unwrap();
    let names = ["127.0.0.1".to_owned()];
    let chain = world
        .adapter
        .ca
        .sign_server(
            &request.csr_der,
            &names,
            std::time::Duration::from_hours(1),
            SystemClock.wall(),
        )
        .unwrap();
    let fault = foreign::session_fault(&world, Some((&request.key_pem, &chain))).await;
    assert!(fault.kind() != FaultKind::Internal, "{fault}");
    let mut world = world;
    let mut good = Car::start(world.config(world.identity()));
    good.connected().await;
    assert_eq!(world.connected().await.0, 1, "nobody connected before");
}

#[tokio::test]
async fn car_revoked_in_its_session_is_cut_off_and_not_let_in_again() {
    let mut world = World::start().await;
    let mut car = Car::start(world.config(world.identity()));
    let (epoch, _, session) = world.connected().await;
    car.connected().await;
    world.adapter.tell(|s| s.revoked = true);
    session.close(Fault::denied("car-x is revoked"));
    assert!(car.disconnected().await.contains("revoked"));
    assert_eq!(world.disconnected().await, (epoch, Ended::Here));
    car.told("its owner must enrol it again").await;
    world.adapter.tell(|s| s.revoked = false);
    assert_eq!(car.connected().await, epoch + 1);
}

#[tokio::test]
async fn certificate_that_ends_during_a_session_ends_the_session() {
    let mut world = World::start().await;
    let mut car = world.car().await;
    world.clock.by(8 * DAY);
    assert!(car.disconnected().await.contains("certificate has expired"));
    assert_eq!(world.disconnected().await.1, Ended::Here);
    car.told("certificate has expired").await;
}

#[tokio::test]
async fn certificate_past_two_thirds_is_renewed_kept_and_used() {
    let mut world = World::start().await;
    let old = identity_of(&world.adapter.ca, &world.adapter.ca, &vehicle(), 6);
    let kept: Arc<Mutex<Option<Identity>>> = Arc::default();
    let keep = Arc::clone(&kept);
    let tries = Arc::new(Mutex::new(0));
    let (client, events) = Client::start(
        world.config(old.clone()),
        CarState::default(),
        Vec::new(),
        move |identity| {
            let mut tries = tries.lock().unwrap();
            *tries += 1;
            if *tries == 1 {
                return Err(std::io::Error::other("the disk is full"));
            }
            *keep.lock().unwrap() = Some(identity.clone());
            Ok(())
        },
    )
    .unwrap();
    let mut car = Car { client, events };
    car.connected().await;
    let mut identity = car.client.identity();
    for _ in 0..2 {
        world.see("a renewal", |s| matches!(s, Seen::Renew).then_some(())).await;
    }
    identity
        .wait_for(|identity| identity.not_after() > old.not_after())
        .await
        .unwrap();
    let renewed = identity.borrow().clone();
    assert_eq!(renewed.vehicle(), old.vehicle());
    assert_ne!(renewed.key_pem(), old.key_pem());
    assert_eq!(kept.lock().unwrap().as_ref().unwrap().chain_pem(), renewed.chain_pem());
    // The old certificate ends, the new one does not: whoever shows the new one gets in.
    world.clock.by(2 * DAY);
    assert!(car.disconnected().await.contains("expired"));
    car.connected().await;
}

#[tokio::test]
async fn cars_with_different_ids_stand_beside_each_other() {
    let mut world = World::start().await;
    let _first = world.car().await;
    let other = VehicleId::from_random([6; 10]);
    let mut second = Car::start(world.config(identity_of(&world.adapter.ca, &world.adapter.ca, &other, 0)));
    second.connected().await;
    let vehicle = world
        .see("a session", |s| {
            if let Seen::Connected { vehicle, .. } = s {
                Some(vehicle)
            } else {
                None
            }
        })
        .await;
    assert_eq!(vehicle, other);
    world.heartbeat().await;
}
