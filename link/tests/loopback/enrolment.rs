//! A car without a certificate, and adapters that are and are not the right one.

use std::sync::Arc;
use std::time::Duration;

use kerbside_core::clock::Clock as _;
use kerbside_link::SystemClock;
use kerbside_link::client::{ConnectError, EnrolError, enrol};
use kerbside_link::fault::{Fault, FaultKind};
use kerbside_link::identity::{Ca, EnrolmentToken, ServerIdentity, chain_from_pem, new_key_and_csr, pem_of};
use kerbside_link::server::ServerTls;

use crate::world::{Car, Seen, World, server_identity, vehicle};

fn token(world: &World) -> EnrolmentToken {
    EnrolmentToken::generate(world.adapter.ca.sha256())
}

#[tokio::test]
async fn car_with_a_token_gets_an_identity_and_connects_with_it() {
    let mut world = World::start().await;
    let token = token(&world);
    let identity = enrol(&world.url(), &token).await.unwrap();
    assert_eq!(identity.vehicle(), &vehicle());
    let request = world
        .see("an enrolment", |s| if let Seen::Enrol(r) = s { Some(r) } else { None })
        .await;
    assert_eq!(
        (request.token_id.as_str(), request.secret_hash),
        (token.id(), token.secret_hash())
    );
    Car::start(world.config(identity)).connected().await;
}

#[tokio::test]
async fn adapter_with_another_ca_than_the_tokens_gets_no_secret() {
    let mut world = World::start().await;
    let other = Ca::generate(SystemClock.wall()).unwrap();
    let error = enrol(&world.url(), &EnrolmentToken::generate(other.sha256()))
        .await
        .unwrap_err();
    assert!(
        matches!(error, EnrolError::Connect(ConnectError::OtherCa { .. })),
        "{error:?}"
    );
    assert!(!error.is_retryable());
    // The next enrolment is the first that the adapter sees.
    let good = token(&world);
    enrol(&world.url(), &good).await.unwrap();
    let request = world
        .see("an enrolment", |s| if let Seen::Enrol(r) = s { Some(r) } else { None })
        .await;
    assert_eq!(request.token_id, good.id());
}

#[tokio::test]
async fn adapter_that_only_shows_the_right_ca_is_not_trusted() {
    let world = World::start().await;
    let impostor = Ca::generate(SystemClock.wall()).unwrap();
    let request = new_key_and_csr(&["127.0.0.1".to_owned()]).unwrap();
    let chain = impostor
        .sign_server(
            &request.csr_der,
            &["127.0.0.1".to_owned()],
            Duration::from_hours(1),
            SystemClock.wall(),
        )
        .unwrap();
    let leaf = pem_of(&chain_from_pem(&chain).unwrap()[..1]);
    let identity = ServerIdentity::from_pem(&request.key_pem, &leaf, &world.adapter.ca.certificate_pem()).unwrap();
    world.tls.replace(&identity).unwrap();
    let error = enrol(&world.url(), &token(&world)).await.unwrap_err();
    assert!(
        matches!(error, EnrolError::Connect(ConnectError::Untrusted { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn adapter_under_another_name_is_not_trusted() {
    let world = World::start().await;
    world
        .tls
        .replace(&server_identity(&world.adapter.ca, "somewhere.example"))
        .unwrap();
    let error = enrol(&world.url(), &token(&world)).await.unwrap_err();
    assert!(
        matches!(error, EnrolError::Connect(ConnectError::Untrusted { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn token_that_the_cluster_refuses_says_why() {
    let world = World::start().await;
    world
        .adapter
        .tell(|s| s.enrol_fault = Some(Fault::unauthenticated("the token has been used")));
    let error = enrol(&world.url(), &token(&world)).await.unwrap_err();
    assert_eq!(error.to_string(), "failed to enrol: the token has been used");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn address_that_enrols_too_often_is_told_to_wait_and_others_work_go_on() {
    let mut world = World::start_with(|o| {
        o.enrolments.burst = 2;
        o.enrolments.every = Duration::from_hours(1);
    })
    .await;
    let car = world.car().await;
    for _ in 0..2 {
        enrol(&world.url(), &token(&world)).await.unwrap();
    }
    let error = enrol(&world.url(), &token(&world)).await.unwrap_err();
    assert!(
        matches!(&error, EnrolError::Refused(fault) if fault.kind() == FaultKind::RateLimited),
        "{error:?}"
    );
    assert!(
        error.is_retryable() && error.to_string().contains("try again in"),
        "{error}"
    );
    world.heartbeat().await;
    drop(car);
}

#[tokio::test]
async fn adapter_that_is_not_there_can_be_tried_again() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = enrol(&format!("https://{address}"), &EnrolmentToken::generate([0; 32]))
        .await
        .unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn server_certificate_replaced_in_flight_is_shown_to_who_comes_next() {
    let mut world = World::start_with(|o| o.drain = Duration::from_millis(100)).await;
    let mut car = world.car().await;
    let next = Arc::new(Ca::generate(SystemClock.wall()).unwrap());
    let tls: ServerTls = world.tls.clone();
    tls.replace(&server_identity(&next, "127.0.0.1")).unwrap();
    enrol(&world.url(), &EnrolmentToken::generate(world.adapter.ca.sha256()))
        .await
        .unwrap_err();
    let identity = enrol(&world.url(), &EnrolmentToken::generate(next.sha256())).await;
    // The adapter still signs with the old CA, which the new token does not name.
    assert!(matches!(identity, Err(EnrolError::OtherCa)), "{identity:?}");
    // And the session that stood stands.
    world.heartbeat().await;
    tls.replace(&server_identity(&world.adapter.ca, "127.0.0.1")).unwrap();
    world.begin_stop();
    car.disconnected().await;
}
