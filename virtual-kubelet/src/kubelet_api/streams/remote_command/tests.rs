//! A session from the client's side, over SPDY, with a car that is played.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use kerbside_core::ids::VehicleId;
use kerbside_link::fault::Fault;
use kerbside_link::proto::{OpenTunnel, Streams, TunnelPart};
use kerbside_link::server::{SessionHandle, TunnelEnds};
use kerbside_spdy::{Connection, Headers, Limits, Role, Stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::tunnels::TunnelDesk;

/// What a car says and hears.
struct Car {
    says: mpsc::Sender<Result<TunnelPart, Fault>>,
    hears: mpsc::Receiver<TunnelPart>,
}

async fn tunnel() -> (Open, Car) {
    let vehicle = VehicleId::from_random([1; 10]);
    let desk = Arc::new(TunnelDesk::default());
    let (says, said) = mpsc::channel(8);
    let (to_car, hears) = mpsc::channel(8);
    let ends = TunnelEnds {
        from_car: ReceiverStream::new(said).boxed(),
        to_car,
    };
    let open = desk.open(SessionHandle::detached(vehicle.clone()), OpenTunnel::default());
    let answer = async {
        loop {
            if let Some(id) = desk.asked() {
                return desk.answer(&vehicle, &id, Ok(ends));
            }
            tokio::task::yield_now().await;
        }
    };
    let (open, answered) = futures::join!(open, answer);
    answered.unwrap();
    (open.unwrap(), Car { says, hears })
}

const ALL: Streams = Streams {
    stdin: true,
    stdout: true,
    stderr: true,
    tty: false,
};

struct Client {
    connection: Connection,
    error: Stream,
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
}

/// A client with all streams of a session, and the car at the other end.
async fn session() -> (Client, Car) {
    let (open, car) = tunnel().await;
    let (near, far) = tokio::io::duplex(64 << 10);
    let (from_person, from) = mpsc::channel(WAITING);
    let (to, to_person) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        futures::join!(bridge(open, from, to), spdy::run(far, ALL, from_person, to_person));
    });
    let (connection, driver) = Connection::new(near, Role::Client, Limits::default());
    tokio::spawn(driver);
    let opener = connection.opener();
    let begin = async |name: &str| opener.open(Headers::new().with("streamType", name)).await.unwrap();
    let client = Client {
        error: begin("error").await,
        stdin: begin("stdin").await,
        stdout: begin("stdout").await,
        stderr: begin("stderr").await,
        connection,
    };
    (client, car)
}

#[tokio::test]
async fn channels_flow_both_ways_and_the_car_says_how_it_ended() {
    let (client, mut car) = session().await;
    let (_stdin, mut writer) = client.stdin.split();
    writer.write(Bytes::from_static(b"in")).await.unwrap();
    writer.finish().await.unwrap();
    assert_eq!(car.hears.recv().await.unwrap(), part(STDIN, Bytes::from_static(b"in")));
    assert_eq!(car.hears.recv().await.unwrap(), end(STDIN));
    for (channel, text) in [(STDOUT, "out"), (STDERR, "err"), (ERROR, "{\"status\":\"Success\"}")] {
        car.says.send(Ok(part(channel, text.into()))).await.unwrap();
    }
    drop(car.says);
    for (stream, expected) in [
        (client.stdout, "out"),
        (client.stderr, "err"),
        (client.error, "{\"status\":\"Success\"}"),
    ] {
        let (mut reader, _writer) = stream.split();
        assert_eq!(reader.read_to_end(99).await.unwrap(), expected.as_bytes());
        assert!(!reader.is_reset());
    }
    drop(client.connection);
}

#[rstest::rstest]
#[case::gone(None, "the vehicle has gone")]
#[case::broken(Some(Fault::unavailable("the connection was lost")), "the connection was lost")]
#[tokio::test]
async fn car_that_goes_before_its_word_is_a_failure_that_says_so(#[case] end: Option<Fault>, #[case] why: &str) {
    let (client, car) = session().await;
    if let Some(fault) = end {
        car.says.send(Err(fault)).await.unwrap();
    }
    drop(car.says);
    let (mut reader, _writer) = client.error.split();
    let status: serde_json::Value = serde_json::from_slice(&reader.read_to_end(999).await.unwrap()).unwrap();
    assert_eq!(status["status"], "Failure");
    assert!(status["message"].as_str().unwrap().contains(why), "{status}");
}

#[tokio::test]
async fn client_that_hangs_up_ends_the_tunnel() {
    let (client, mut car) = session().await;
    drop(client);
    let ended = async { while car.hears.recv().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .expect("it ends");
    car.says.closed().await;
}

#[tokio::test(start_paused = true)]
async fn client_that_does_not_begin_its_streams_is_not_waited_for() {
    let (open, mut car) = tunnel().await;
    let (near, far) = tokio::io::duplex(4096);
    let (from_person, from) = mpsc::channel(WAITING);
    let (to, to_person) = mpsc::channel(WAITING);
    let (connection, driver) = Connection::new(near, Role::Client, Limits::default());
    tokio::spawn(driver);
    futures::join!(bridge(open, from, to), spdy::run(far, ALL, from_person, to_person));
    assert!(car.hears.recv().await.is_none());
    drop(connection);
}
