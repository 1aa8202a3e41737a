//! Cars and the gateway over real sockets with real TLS, before an API server that a test plays: what gets in, what is answered, what leaves.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows tests by their attribute, and not what they call"
)]

mod bench;

use bench::{Bench, Identity, VIN, parked_message};
use kerbside_core::clock::Clock as _;
use kerbside_link::SystemClock;
use kerbside_telemetry_gateway::car::{self, Car};
use kerbside_telemetry_gateway::envelope;
use kerbside_telemetry_gateway::proto::Field;
use kerbside_telemetry_gateway::proto::value::Value as Said;
use serde_json::json;

/// How the pseudonym of [`VIN`] under the bench's key is reckoned is in the units.
const NAME: &str = "car-4xdze5jdkgvy4vhf";

#[tokio::test]
async fn parked_car_is_shown_in_bands_and_nothing_finer_leaves_the_gateway() {
    let bench = Bench::start(120).await;
    let mut car = bench.car(VIN).await;
    let acknowledged = car.say(&parked_message(VIN, 71.3)).await.unwrap();
    assert_eq!(acknowledged, (b"tx-1".to_vec(), b"V".to_vec()));
    bench.look().await.unwrap();
    assert_eq!(bench.sent().len(), 0, "it has not come to its slot");
    bench.publish().await;

    let sent = bench.sent();
    let [made, says] = &sent[..] else {
        panic!("two writes were expected: {sent:#?}")
    };
    let path = format!("/apis/kerbside.dev/v1alpha1/vehicles/{NAME}");
    assert_eq!((made.method.as_str(), made.path()), ("PATCH", path.as_str()));
    assert!(
        made.uri.contains("fieldManager=kerbside-telemetry-gateway"),
        "{}",
        made.uri
    );
    assert_eq!(made.body["spec"], json!({"pool": "overnight", "source": "Telemetry"}));
    assert_eq!(
        made.body["metadata"]["labels"]["kerbside.dev/telemetry-gateway"],
        "depot-north"
    );
    assert_eq!(
        (says.method.as_str(), says.path()),
        ("PATCH", format!("{path}/status").as_str())
    );
    let bands = json!({"telemetry": {"parked": "True", "pluggedIn": "True", "charge": 60, "freeFor": 0}});
    assert_eq!(says.body["status"]["telemetry"], bands["telemetry"]);
    let until = says.body["status"]["telemetryGoodUntil"].as_str().unwrap();
    assert!(until.parse::<jiff::Timestamp>().is_ok(), "{until}");

    // The same again says nothing new, and what is new waits for its time.
    car.say(&parked_message(VIN, 70.9)).await.unwrap();
    car.say(&parked_message(VIN, 12.3)).await.unwrap();
    bench.look().await.unwrap();
    assert_eq!(bench.sent().len(), 2);
    bench.publish().await;
    let last = bench.sent().pop().unwrap();
    assert_eq!(last.body["status"]["telemetry"]["charge"], 0);

    let all = bench.everything_that_left();
    assert!(
        all.contains(NAME) && all.contains("a car without an agent is shown"),
        "{all}"
    );
    // The VIN as it is and as bytes are printed, the position, and the values that the car has said.
    let bytes = format!("{:?}", VIN.as_bytes());
    let hex = data_encoding::HEXLOWER.encode(VIN.as_bytes());
    for secret in [
        VIN,
        &VIN.to_lowercase(),
        &bytes,
        &hex,
        "52.52",
        "13.40",
        "71.3",
        "70.9",
        "12.3",
        "21.5",
        "127.0.0.1:",
    ] {
        assert!(!all.contains(secret), "{secret} has left the gateway:\n{all}");
    }
}

#[tokio::test]
async fn who_has_no_certificate_of_the_fleets_authorities_gets_nowhere() {
    let bench = Bench::start(120).await;
    let stranger = bench::Authority::new("somebody else");
    assert!(bench.refused(None).await.is_some());
    assert!(bench.refused(Some(&stranger.sign(VIN))).await.is_some());
    let sign = |name: &str| bench.cars_authority.sign(name);
    assert!(
        bench.refused(Some(&sign("a toaster"))).await.is_some(),
        "it is of no vehicle"
    );
    let other = bench.refused(Some(&sign("5YJ3E1EA7KF000002"))).await.unwrap();
    assert!(other.contains("403"), "it is not on the list: {other}");
    assert!(
        bench.refused(Some(&sign(VIN))).await.is_none(),
        "and the fleet's own car is let in"
    );
    bench.publish().await;
    assert_eq!(bench.sent().len(), 0);
}

#[tokio::test]
async fn request_that_is_no_handshake_is_told_so() {
    let bench = Bench::start(120).await;
    let mut car = bench.dial(&bench.cars_authority.sign(VIN)).await.unwrap();
    let status = car
        .ask("GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!(status.starts_with("HTTP/1.1 200"), "{status}");
    let mut car = bench.dial(&bench.cars_authority.sign(VIN)).await.unwrap();
    let head = car.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
}

#[tokio::test]
async fn bad_messages_are_answered_and_say_nothing() {
    let bench = Bench::start(120).await;
    let mut car = bench.car(VIN).await;
    // No envelope at all, and one that is cut: acknowledged, so that they do not come again.
    assert_eq!(car.say(b"not an envelope").await.unwrap(), (vec![], vec![]));
    let whole = parked_message(VIN, 71.3);
    assert_eq!(car.say(&whole[..whole.len() / 2]).await.unwrap(), (vec![], vec![]));
    // Another car's, another topic's.
    let foreign = parked_message("5YJ3E1EA7KF000002", 71.3);
    assert_eq!(car.say(&foreign).await.unwrap(), (b"tx-1".to_vec(), b"V".to_vec()));
    let alert = envelope::stream(b"tx-2", b"alerts", b"", b"", b"whatever");
    assert_eq!(car.say(&alert).await.unwrap(), (b"tx-2".to_vec(), b"alerts".to_vec()));
    // Too old, and from the future.
    for seconds in [-3600, 3600] {
        let created = SystemClock.wall() + jiff::SignedDuration::from_secs(seconds);
        car.say(&car::message(VIN, created, &car::parked(71.3))).await.unwrap();
    }
    // Only what cannot be read is refused.
    let unreadable = envelope::stream(b"tx-3", b"V", b"", b"", b"\xff\xff\xff");
    let refused = car.say(&unreadable).await.unwrap_err().to_string();
    assert!(refused.contains("refused"), "{refused}");
    bench.publish().await;
    assert_eq!(bench.sent().len(), 0, "none of it is a word of this car");
    car.say(&parked_message(VIN, 71.3)).await.unwrap();
    bench.publish().await;
    assert_eq!(bench.sent().len(), 2, "and the connection is as good as ever");
}

/// What the gateway says when it ends a connection.
async fn ended(car: &mut Car) -> u16 {
    loop {
        let (first, content) = car.hear().await.unwrap();
        if first == 0x88 {
            return u16::from_be_bytes(content[..2].try_into().unwrap());
        }
    }
}

#[tokio::test]
async fn connection_that_breaks_the_protocol_or_floods_is_ended() {
    let bench = Bench::start(2).await;
    let mut car = bench.car(VIN).await;
    car.raw(&[0x81, 0x80, 0, 0, 0, 0]).await.unwrap();
    assert_eq!(ended(&mut car).await, 1003, "text");
    let mut car = bench.car(VIN).await;
    car.raw(&[0x82, 0x00]).await.unwrap();
    assert_eq!(ended(&mut car).await, 1002, "without a mask");
    let mut car = bench.car(VIN).await;
    car.raw(&[0x82, 0xff, 0, 0, 0, 0, 0, 0x0f, 0x42, 0x41, 0, 0, 0, 0])
        .await
        .unwrap();
    assert_eq!(ended(&mut car).await, 1009, "a message of 1,000,001 bytes");
    let mut car = bench.car(VIN).await;
    for _ in 0..21 {
        car.send(&parked_message(VIN, 71.3)).await.unwrap();
    }
    assert_eq!(ended(&mut car).await, 1008, "ten times as many as it may send");
}

#[tokio::test]
async fn car_that_comes_again_or_is_taken_off_the_list_has_its_connection_ended() {
    let bench = Bench::start(120).await;
    let mut first = bench.car(VIN).await;
    let mut second = bench.car(VIN).await;
    assert_eq!(ended(&mut first).await, 1008);
    second.say(&parked_message(VIN, 71.3)).await.unwrap();
    bench.publish().await;
    bench.allow("5YJ3E1EA7KF000002");
    assert_eq!(ended(&mut second).await, 1008);
    bench.publish().await;
    let last = bench.sent().pop().unwrap();
    assert_eq!(last.method, "DELETE");
    assert_eq!(
        last.body["preconditions"]["uid"], "uid-1",
        "this Vehicle and no later one"
    );
}

#[tokio::test]
async fn gateway_that_stops_tells_its_cars() {
    let bench = Bench::start(120).await;
    let mut car = bench.car(VIN).await;
    bench.stop.cancel();
    assert_eq!(ended(&mut car).await, 1001);
}

#[tokio::test]
async fn api_server_that_fails_is_asked_again_with_what_is_true_then() {
    let bench = Bench::start(120).await;
    let mut car = bench.car(VIN).await;
    car.say(&parked_message(VIN, 71.3)).await.unwrap();
    bench.fail(503);
    bench.next_slot();
    bench.look().await.unwrap_err();
    let unlocked = [(Field::Locked, Said::Truth(false))];
    car.say(&car::message(VIN, SystemClock.wall(), &unlocked))
        .await
        .unwrap();
    bench.fail(0);
    bench.publish().await;
    let last = bench.sent().pop().unwrap();
    assert_eq!(last.body["status"]["telemetry"]["parked"], "False");
}

#[tokio::test]
async fn vehicle_that_the_api_server_refuses_is_left_alone_for_a_while() {
    let bench = Bench::start(120).await;
    let mut car = bench.car(VIN).await;
    car.say(&parked_message(VIN, 71.3)).await.unwrap();
    bench.fail(403);
    // Two looks, neither of which fails: it is about this one only.
    bench.publish().await;
    assert_eq!(bench.sent().len(), 1);
    bench.fail(0);
    bench.look().await.unwrap();
    assert_eq!(bench.sent().len(), 1, "its time has not come");
    bench.publish().await;
    assert_eq!(bench.sent().len(), 3, "made, and made to speak");
}

#[tokio::test]
async fn vehicles_of_an_earlier_life_are_asked_for_by_the_gateways_own_label() {
    let bench = Bench::start(120).await;
    bench.publisher.recall(&bench.stop).await.unwrap();
    let sent = bench.sent();
    let [listed] = &sent[..] else {
        panic!("one question was expected: {sent:#?}")
    };
    assert_eq!(listed.method, "GET");
    assert!(
        listed
            .uri
            .contains("labelSelector=kerbside.dev%2Ftelemetry-gateway%3Ddepot-north"),
        "{}",
        listed.uri
    );
    // The played server has one of a car that the list does not have.
    bench.publish().await;
    let last = bench.sent().pop().unwrap();
    assert_eq!(
        (last.method.as_str(), last.path()),
        ("DELETE", "/apis/kerbside.dev/v1alpha1/vehicles/car-zzzzzzzzzzzzzzzz")
    );
}

/// An identity is a car's only with its key.
#[tokio::test]
async fn certificate_with_another_key_is_refused() {
    let bench = Bench::start(120).await;
    let (one, other) = (
        bench.cars_authority.sign(VIN),
        bench.cars_authority.sign("5YJ3E1EA7KF000002"),
    );
    let stolen = Identity {
        certificate: one.certificate,
        key: other.key,
    };
    assert!(bench.refused(Some(&stolen)).await.is_some());
}

/// The bench has room for 256 open files: 24 strangers, of one address 6.
#[tokio::test]
async fn strangers_who_say_nothing_keep_no_connected_car_out_and_their_places_are_free_again_when_they_go() {
    let bench = Bench::start(120).await;
    let mut car = bench.car(VIN).await;
    // What is answered is answered by a session, which has a car's place.
    car.say(&parked_message(VIN, 71.3)).await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..6 {
        strangers.push(bench.silent().await);
    }
    // What comes after them from there is sent away before TLS, one after another, and waits for nothing.
    let identity = bench.cars_authority.sign(VIN);
    for _ in 0..30 {
        assert!(bench.dial(&identity).await.is_err());
    }
    let acknowledged = car.say(&parked_message(VIN, 71.3)).await.unwrap();
    assert_eq!(
        acknowledged.1, b"V",
        "the car that is connected is not counted with them"
    );
    drop(strangers);
    let let_in = async { while bench.dial(&identity).await.is_err() {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), let_in)
        .await
        .unwrap();
}
