use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tokio_util::codec::Framed;

use crate::codec::Codec;
use crate::connection::OpenError;
use crate::frame::{Frame, status};
use crate::{Connection, ConnectionError, Headers, Limits, Role};

type Driver = JoinHandle<Result<(), ConnectionError>>;

fn one(io: DuplexStream, role: Role, limits: Limits) -> (Connection, Driver) {
    let (connection, driver) = Connection::new(io, role, limits);
    (connection, tokio::spawn(driver))
}

fn both(limits: Limits) -> (Connection, Connection, Driver, Driver) {
    let (near, far) = tokio::io::duplex(4096);
    let (client, driver) = one(near, Role::Client, limits);
    let (server, serving) = one(far, Role::Server, limits);
    (client, server, driver, serving)
}

/// A server, and the frames of its other side by hand.
fn by_hand(limits: Limits) -> (Framed<DuplexStream, Codec>, Connection, Driver) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let (server, driver) = one(far, Role::Server, limits);
    (Framed::new(near, Codec::default()), server, driver)
}

fn begin(stream: u32) -> Frame {
    Frame::SynStream {
        stream,
        fin: false,
        headers: Headers::new().with("streamType", "stdin"),
    }
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_and_end_each_by_itself() {
    let (client, mut server, driver, serving) = both(Limits::default());
    let opener = client.opener();
    drop(client);
    let serve = tokio::spawn(async move {
        let stream = server.accept().await.unwrap();
        assert_eq!(stream.headers().get("streamtype"), Some("stdin"));
        let (mut reader, mut writer) = stream.split();
        while let Some(bytes) = reader.read().await {
            writer.write(bytes).await.unwrap();
        }
        assert!(!reader.is_reset());
        writer.finish().await.unwrap();
    });
    let stream = opener.open(Headers::new().with("streamType", "stdin")).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let sent: Vec<u8> = (0..200_000_u32).flat_map(u32::to_be_bytes).collect();
    let all = Bytes::from(sent.clone());
    let write = tokio::spawn(async move {
        writer.write(all).await.unwrap();
        writer.finish().await.unwrap();
    });
    assert_eq!(reader.read_to_end(1 << 20).await.unwrap(), sent);
    write.await.unwrap();
    serve.await.unwrap();
    drop(opener);
    driver.await.unwrap().unwrap();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn writer_that_is_dropped_resets_its_stream() {
    let (client, mut server, _driver, _serving) = both(Limits::default());
    let stream = client.opener().open(Headers::new()).await.unwrap();
    let (mut reader, mut writer) = server.accept().await.unwrap().split();
    let (_, mut ours) = stream.split();
    ours.write(Bytes::from_static(b"half")).await.unwrap();
    drop(ours);
    assert_eq!(reader.read_to_end(99).await.unwrap(), b"half");
    assert!(reader.is_reset());
    assert!(writer.write(Bytes::from_static(b"too late")).await.is_err());
}

#[tokio::test]
async fn stream_that_nobody_takes_is_refused() {
    let limits = Limits {
        streams: 1,
        ..Limits::default()
    };
    let (client, mut server, _driver, _serving) = both(limits);
    let opener = client.opener();
    let first = opener.open(Headers::new()).await.unwrap();
    assert_eq!(opener.open(Headers::new()).await.unwrap_err(), OpenError::Refused);
    let taken = server.accept().await.unwrap();
    drop((first, taken));
}

#[tokio::test]
async fn stream_on_a_connection_that_ended_is_an_error() {
    let (client, server, driver, serving) = both(Limits::default());
    let opener = client.opener();
    serving.abort();
    drop((server, client));
    driver.await.unwrap().unwrap();
    assert_eq!(opener.open(Headers::new()).await.unwrap_err(), OpenError::Ended);
}

#[tokio::test]
async fn reply_comes_before_everything_else() {
    let (mut hand, mut server, _driver) = by_hand(Limits::default());
    hand.send(begin(1)).await.unwrap();
    let (_reader, mut writer) = server.accept().await.unwrap().split();
    writer.write(Bytes::from_static(b"x")).await.unwrap();
    assert!(matches!(hand.next().await, Some(Ok(Frame::SynReply { stream: 1, .. }))));
    assert!(matches!(hand.next().await, Some(Ok(Frame::Data { stream: 1, .. }))));
}

#[rstest::rstest]
#[case::of_the_servers_own(&[2], 2)]
#[case::of_before(&[3, 1], 1)]
#[tokio::test]
async fn stream_whose_number_cannot_be_is_reset(#[case] begun: &[u32], #[case] bad: u32) {
    let (mut hand, _server, _driver) = by_hand(Limits::default());
    for stream in begun {
        hand.send(begin(*stream)).await.unwrap();
    }
    loop {
        if let Frame::RstStream { stream, status } = hand.next().await.unwrap().unwrap() {
            assert_eq!((stream, status), (bad, status::PROTOCOL_ERROR));
            break;
        }
    }
}

#[tokio::test]
async fn ping_comes_back_and_an_answer_to_one_does_not() {
    let (mut hand, _server, _driver) = by_hand(Limits::default());
    for number in [2, 5] {
        hand.send(Frame::Ping(number)).await.unwrap();
    }
    assert_eq!(hand.next().await.unwrap().unwrap(), Frame::Ping(5));
}

#[tokio::test]
async fn data_of_no_stream_is_nothing() {
    let (mut hand, _server, _driver) = by_hand(Limits::default());
    let bytes = Bytes::from_static(b"x");
    hand.send(Frame::Data {
        stream: 9,
        fin: true,
        bytes,
    })
    .await
    .unwrap();
    hand.send(Frame::RstStream { stream: 9, status: 5 }).await.unwrap();
    hand.send(Frame::Ping(5)).await.unwrap();
    assert_eq!(hand.next().await.unwrap().unwrap(), Frame::Ping(5));
}

#[tokio::test]
async fn what_is_no_spdy_ends_the_connection_with_its_reason() {
    let (near, far) = tokio::io::duplex(1024);
    let (mut server, driver) = one(far, Role::Server, Limits::default());
    let mut near = near;
    tokio::io::AsyncWriteExt::write_all(&mut near, b"\x80\x02\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01")
        .await
        .unwrap();
    assert!(server.accept().await.is_none());
    assert!(matches!(driver.await.unwrap(), Err(ConnectionError::Frame(_))));
}

#[tokio::test(start_paused = true)]
async fn connection_that_is_silent_ends_and_its_streams_are_reset() {
    let limits = Limits {
        idle: Duration::from_secs(60),
        ..Limits::default()
    };
    let (mut hand, mut server, driver) = by_hand(limits);
    hand.send(begin(1)).await.unwrap();
    let (mut reader, _writer) = server.accept().await.unwrap().split();
    tokio::time::sleep(Duration::from_secs(50)).await;
    hand.send(Frame::Ping(1)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(!reader.is_reset(), "the ping counts");
    assert!(reader.read().await.is_none());
    assert!(reader.is_reset());
    assert!(matches!(driver.await.unwrap(), Err(ConnectionError::Idle(_))));
}

/// A stream that nobody reads holds a few parts and stops the sender, and goes on when it is read.
#[tokio::test]
async fn stream_that_is_not_read_stops_its_sender() {
    let (client, mut server, _driver, _serving) = both(Limits::default());
    let stream = client.opener().open(Headers::new()).await.unwrap();
    let (_ours, mut writer) = stream.split();
    let (mut reader, _theirs) = server.accept().await.unwrap().split();
    let part = Bytes::from(vec![0_u8; 64 << 10]);
    let mut sent = 0;
    // With both ends' buffers full the sender waits.
    while let Ok(done) = tokio::time::timeout(Duration::from_millis(300), writer.write(part.clone())).await {
        done.unwrap();
        sent += 1;
        assert!(sent < 200, "nothing stops the sender");
    }
    let rest = tokio::spawn(async move { reader.read_to_end(64 << 20).await });
    writer.finish().await.unwrap();
    assert!(rest.await.unwrap().unwrap().len() >= sent * part.len());
}
