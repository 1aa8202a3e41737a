//! Peers that are not ours: newer ones, broken ones, strangers. They speak gRPC and TLS, and no line of our client or server.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use futures::{Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use kerbside_core::clock::Clock as _;
use kerbside_core::ids::VehicleId;
use kerbside_core::rate::Rate;
use kerbside_link::SystemClock;
use kerbside_link::fault::{Fault, FaultKind};
use kerbside_link::identity::{Ca, Identity, chain_from_pem};
use kerbside_link::proto::adapter_message::Message as ToCar;
use kerbside_link::proto::car_message::Message as FromCar;
use kerbside_link::proto::{
    AdapterMessage, CarMessage, Heartbeat, HeartbeatAck, Hello, LogChunk, PutReceiptRequest, Stop, link_client,
};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::world::{Car, LIMIT, Seen, World, identity_of};

/// What a car of a later version may send: a message with a number that this version does not know.
#[derive(Clone, PartialEq, prost::Message)]
struct NewerCarMessage {
    #[prost(message, optional, tag = "1")]
    hello: Option<Hello>,
    #[prost(message, optional, tag = "2")]
    heartbeat: Option<Heartbeat>,
    #[prost(string, tag = "99")]
    thoughts: String,
    #[prost(fixed64, tag = "100")]
    mood: u64,
}

/// TLS of a client that trusts this CA, speaks these versions and keeps sessions, as rustls does by itself.
pub(crate) fn client_tls(
    ca: &Ca,
    versions: &[&'static SupportedProtocolVersion],
    shows: Option<(&str, &str)>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots
        .add(chain_from_pem(&ca.certificate_pem()).unwrap().remove(0))
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut tls = match shows {
        None => builder.with_no_client_auth(),
        Some((key, chain)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(chain_from_pem(chain).unwrap(), key)
                .unwrap()
        }
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(tls)
}

async fn channel(address: SocketAddr, ca: &Ca, shows: Option<(&str, &str)>) -> Channel {
    let tls = client_tls(ca, rustls::DEFAULT_VERSIONS, shows);
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(address.ip().to_string()).unwrap();
    let io = TlsConnector::from(tls).connect(name, tcp).await.unwrap();
    let io = Arc::new(Mutex::new(Some(TokioIo::new(io))));
    let connector = tower::service_fn(move |_| {
        let io = io.lock().unwrap().take();
        async move { io.ok_or_else(|| io::Error::other("connected once")) }
    });
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect_with_connector(connector)
        .await
        .unwrap()
}

async fn as_car(world: &World) -> Channel {
    let identity: Identity = world.identity();
    channel(
        world.address,
        &world.adapter.ca,
        Some((identity.key_pem(), identity.chain_pem())),
    )
    .await
}

fn hello() -> Hello {
    Hello {
        protocol_min: 1,
        protocol_max: 1,
        ..Hello::default()
    }
}

fn car_message(message: FromCar) -> CarMessage {
    CarMessage { message: Some(message) }
}

/// How a session ends that says `messages`.
async fn end_of(channel: Channel, messages: impl Stream<Item = CarMessage> + Send + 'static) -> Fault {
    let mut client = link_client::LinkClient::new(channel);
    let mut incoming = match client.session(messages).await {
        Ok(response) => response.into_inner(),
        Err(status) => return status.into(),
    };
    loop {
        match incoming.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the session ended in order"),
            Err(status) => return status.into(),
        }
    }
}

/// How a session ends that shows this key and chain.
pub(crate) async fn session_fault(world: &World, shows: Option<(&str, &str)>) -> Fault {
    let channel = channel(world.address, &world.adapter.ca, shows).await;
    end_of(
        channel,
        stream::iter([car_message(FromCar::Hello(hello()))]).chain(stream::pending()),
    )
    .await
}

#[tokio::test]
async fn message_unknown_to_the_adapter_is_skipped_before_and_after_hello() {
    let mut world = World::start().await;
    let unknown = NewerCarMessage {
        thoughts: "I would rather not".into(),
        mood: 7,
        ..NewerCarMessage::default()
    };
    let empty = NewerCarMessage::default();
    let says = [
        unknown.clone(),
        NewerCarMessage {
            hello: Some(hello()),
            ..unknown.clone()
        },
        empty,
        unknown.clone(),
        NewerCarMessage {
            heartbeat: Some(Heartbeat { seq: 41 }),
            ..unknown
        },
    ];
    let mut grpc = tonic::client::Grpc::new(as_car(&world).await);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<NewerCarMessage, AdapterMessage>::default();
    let path = "/kerbside.link.v1.Link/Session".parse().unwrap();
    let outgoing = Request::new(stream::iter(says).chain(stream::pending()));
    let mut incoming = grpc.streaming(outgoing, path, codec).await.unwrap().into_inner();
    let first = incoming.message().await.unwrap().unwrap();
    assert!(matches!(first.message, Some(ToCar::Welcome(_))), "{first:?}");
    world.connected().await;
    assert_eq!(world.heartbeat().await, 41);
    let mut ack = incoming.message().await.unwrap().unwrap();
    if ack.message == Some(ToCar::HeartbeatAck(HeartbeatAck { seq: 0, proven: true })) {
        // That of Hello; one acknowledgement that waits takes the place of another.
        ack = incoming.message().await.unwrap().unwrap();
    }
    assert_eq!(
        ack.message,
        Some(ToCar::HeartbeatAck(HeartbeatAck { seq: 41, proven: true }))
    );
}

#[tokio::test]
async fn stop_of_the_greeting_goes_before_the_acknowledgement_of_hello() {
    let mut world = World::start().await;
    let stop = Stop {
        uid: "a".into(),
        ..Stop::default()
    };
    world.adapter.tell(|s| s.stops = vec![stop.clone()]);
    let mut client = link_client::LinkClient::new(as_car(&world).await);
    let says = stream::iter([car_message(FromCar::Hello(hello()))]).chain(stream::pending());
    let mut session = client.session(says).await.unwrap().into_inner();
    world.connected().await;
    let mut said = Vec::new();
    for _ in 0..3 {
        said.extend(session.message().await.unwrap().unwrap().message);
    }
    assert!(matches!(said[0], ToCar::Welcome(_)), "{said:?}");
    let behind = [
        ToCar::Stop(stop),
        ToCar::HeartbeatAck(HeartbeatAck { seq: 0, proven: true }),
    ];
    assert_eq!(said[1..], behind);
}

#[tokio::test]
async fn session_that_does_not_begin_with_hello_is_refused() {
    let world = World::start().await;
    let says = stream::iter([car_message(FromCar::Heartbeat(Heartbeat { seq: 1 }))]).chain(stream::pending());
    let fault = end_of(as_car(&world).await, says).await;
    assert_eq!(
        (fault.kind(), fault.message()),
        (FaultKind::Invalid, "the first message of a session must be Hello")
    );
}

#[tokio::test]
async fn session_that_says_hello_twice_is_ended() {
    let mut world = World::start().await;
    let says = stream::iter([
        car_message(FromCar::Hello(hello())),
        car_message(FromCar::Hello(hello())),
    ]);
    let fault = end_of(as_car(&world).await, says.chain(stream::pending())).await;
    assert_eq!(fault.kind(), FaultKind::Invalid);
    assert_eq!(world.disconnected().await.0, 1);
}

#[tokio::test]
async fn session_that_says_nothing_is_not_waited_for() {
    let world = World::start_with(|o| o.handshake_timeout = std::time::Duration::from_millis(500)).await;
    let fault = end_of(as_car(&world).await, stream::pending()).await;
    assert!(fault.message().contains("Hello in time"), "{fault}");
}

#[tokio::test]
async fn message_larger_than_any_may_be_ends_that_session_and_no_other() {
    let mut world = World::start().await;
    let mut other = Car::start(world.config(identity_of(
        &world.adapter.ca,
        &world.adapter.ca,
        &kerbside_core::ids::VehicleId::from_random([8; 10]),
        0,
    )));
    other.connected().await;
    let huge = Hello {
        agent_version: "x".repeat(3 * 1024 * 1024),
        ..hello()
    };
    let says = stream::iter([car_message(FromCar::Hello(huge))]).chain(stream::pending());
    let fault = end_of(as_car(&world).await, says).await;
    assert_eq!(fault.kind(), FaultKind::TooLarge, "{fault}");
    world.heartbeat().await;
}

#[tokio::test]
async fn connection_that_speaks_no_tls_holds_up_nobody() {
    let mut world = World::start().await;
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(TcpStream::connect(world.address).await.unwrap());
    }
    world.car().await;
}

#[tokio::test]
async fn stream_of_a_call_that_breaks_off_reaches_the_adapter_as_a_fault() {
    let mut world = World::start().await;
    let mut client = link_client::LinkClient::new(as_car(&world).await);
    let first = LogChunk {
        request_id: "r1".into(),
        data: bytes::Bytes::from_static(b"half"),
        ..LogChunk::default()
    };
    let call = tokio::spawn(async move { client.send_logs(stream::iter([first]).chain(stream::pending())).await });
    world
        .see("a log that begins", |s| matches!(s, Seen::LogBegun).then_some(()))
        .await;
    call.abort();
    let end = world
        .see(
            "a log",
            |s| if let Seen::Log { end, .. } = s { Some(end) } else { None },
        )
        .await;
    assert!(end.is_some());
}

/// A car that makes a message of each line, whose log nobody reads: h2 counts such frames, and what it allows by default is
/// less than a window full of them.
#[tokio::test]
async fn log_in_tiny_pieces_that_nobody_reads_does_not_end_the_session() {
    // Nine bytes each: nearly the whole window.
    const LINES: usize = 14_000;
    let mut world = World::start().await;
    let channel = as_car(&world).await;
    let mut client = link_client::LinkClient::new(channel.clone());
    let says = stream::iter([car_message(FromCar::Hello(hello()))]).chain(stream::pending());
    let mut session = client.session(says).await.unwrap().into_inner();
    // Welcome, and that Hello was heard.
    for _ in 0..2 {
        session.message().await.unwrap();
    }
    let (_, _, handle) = world.connected().await;
    world.adapter.tell(|s| {
        s.stalled = true;
        s.log_chunks = 0;
    });
    for _ in 0..3 {
        let (count, mut counted) = tokio::sync::watch::channel(0);
        let first = LogChunk {
            request_id: "r1".into(),
            ..LogChunk::default()
        };
        let lines = stream::unfold(count, |count| async {
            tokio::task::yield_now().await;
            count.send_modify(|n| *n += 1);
            let data = bytes::Bytes::from_static(b"x\n");
            Some((
                LogChunk {
                    data,
                    ..LogChunk::default()
                },
                count,
            ))
        });
        let mut client = client.clone();
        let call = tokio::spawn(async move { client.send_logs(stream::once(async { first }).chain(lines)).await });
        let sent = tokio::time::timeout(LIMIT, counted.wait_for(|n| *n >= LINES))
            .await
            .is_ok();
        assert!(sent, "stopped after {} lines", *counted.borrow());
        // Now the adapter ends the call, with all that in between.
        world.adapter.go_on.notify_one();
        let _ = tokio::time::timeout(LIMIT, call).await.expect("the call ends");
        assert!(!handle.is_closed());
    }
    handle.ack_heartbeat(7, false);
    let ack = session.message().await.unwrap().unwrap();
    assert_eq!(
        ack.message,
        Some(ToCar::HeartbeatAck(HeartbeatAck { seq: 7, proven: false }))
    );
}

/// A car beside the one that [`as_car`] is.
async fn as_another_car(world: &World) -> Channel {
    let ca = &world.adapter.ca;
    let identity = identity_of(ca, ca, &VehicleId::from_random([6; 10]), 0);
    channel(world.address, ca, Some((identity.key_pem(), identity.chain_pem()))).await
}

#[tokio::test]
async fn car_that_floods_its_session_is_read_no_faster_than_it_may_and_its_session_alone_ends_for_it() {
    let mut world = World::start_with(|o| {
        o.session.heartbeat = Rate {
            burst: 5,
            every: Duration::from_millis(100),
        };
        o.session.patience = Duration::from_millis(600);
    })
    .await;
    let honest = world.car().await;
    let channel = as_another_car(&world).await;
    let beats = (1_000..3_000).map(|seq| car_message(FromCar::Heartbeat(Heartbeat { seq })));
    let says = stream::iter([car_message(FromCar::Hello(hello()))]).chain(stream::iter(beats));
    let began = SystemClock.boottime();
    let fault = tokio::time::timeout(LIMIT, end_of(channel, says.chain(stream::pending()))).await;
    let fault = fault.expect("the flood ends its session");
    assert_eq!(fault.kind(), FaultKind::RateLimited, "{fault:?}");
    assert!(fault.message().contains("'heartbeat'"), "{fault:?}");
    let mut heard = 0_u32;
    world
        .see("the end of the flood", |seen| match seen {
            Seen::Message {
                message: kerbside_link::server::FromCar::Heartbeat { seq },
            } if seq >= 1_000 => {
                heard += 1;
                None
            }
            Seen::Disconnected { .. } => Some(()),
            _ => None,
        })
        .await;
    let may = 5 + SystemClock.boottime().since(began).as_millis() / 100;
    assert!(heard >= 5 && u128::from(heard) <= may, "{heard} of {may}");
    assert!(world.heartbeat().await < 1_000, "the other car is heard");
    drop(honest);
}

#[tokio::test]
async fn car_that_sends_too_many_receipts_is_told_to_come_again_and_no_other_is() {
    let world = World::start_with(|o| {
        o.receipts = Rate {
            burst: 2,
            every: Duration::from_hours(1),
        };
    })
    .await;
    let receipt = || PutReceiptRequest {
        envelope: Bytes::from_static(b"{}"),
        ..PutReceiptRequest::default()
    };
    let mut client = link_client::LinkClient::new(as_car(&world).await);
    for _ in 0..2 {
        client.put_receipt(receipt()).await.unwrap();
    }
    let fault = Fault::from(client.put_receipt(receipt()).await.unwrap_err());
    assert_eq!(fault.kind(), FaultKind::RateLimited, "{fault:?}");
    assert!(fault.message().contains("too many receipts"), "{fault:?}");
    let mut other = link_client::LinkClient::new(as_another_car(&world).await);
    other.put_receipt(receipt()).await.unwrap();
}
