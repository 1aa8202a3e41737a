//! What the link promises of TLS, at the listener and by the car that connects: 1.3 only, and every handshake is full.
//!
//! `src/tls/tests.rs` looks closer, without sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use kerbside_core::clock::Clock as _;
use kerbside_link::SystemClock;
use kerbside_link::identity::Ca;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, HandshakeKind, ProtocolVersion, SupportedProtocolVersion};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::foreign::client_tls;
use crate::foreign_adapter::server_tls;
use crate::world::{Car, LIMIT, World, config, identity_of, vehicle};

/// A car that speaks these versions and keeps sessions.
fn foreign_car(ca: &Ca, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let identity = identity_of(ca, ca, &vehicle(), 0);
    client_tls(ca, versions, Some((identity.key_pem(), identity.chain_pem())))
}

/// An adapter that speaks these versions and hands out tickets; it says one byte and no more.
async fn foreign_adapter(ca: &Ca, versions: &[&'static SupportedProtocolVersion]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = server_tls(ca, versions);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            // What goes wrong is seen at the other end.
            if let Ok(mut io) = acceptor.accept(tcp).await {
                let _ = io.write_all(b"x").await;
                let _ = io.shutdown().await;
            }
        }
    });
    address
}

async fn dial(address: SocketAddr, tls: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::from(address.ip());
    timeout(LIMIT, TlsConnector::from(Arc::clone(tls)).connect(name, tcp)).await?
}

/// Connects, and waits for the first byte that the adapter says: its tickets come before. In HTTP/2 it need not be asked.
async fn hear(address: SocketAddr, tls: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let mut io = dial(address, tls).await.unwrap();
    timeout(LIMIT, io.read_exact(&mut [0]))
        .await
        .expect("the adapter speaks first")
        .unwrap();
    io
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn version(io: &TlsStream<TcpStream>) -> Option<ProtocolVersion> {
    io.get_ref().1.protocol_version()
}

fn kind(io: &TlsStream<TcpStream>) -> Option<HandshakeKind> {
    io.get_ref().1.handshake_kind()
}

fn tickets(io: &TlsStream<TcpStream>) -> u32 {
    io.get_ref().1.tls13_tickets_received()
}

#[tokio::test]
async fn client_that_speaks_only_tls_1_2_is_refused_by_the_listener_and_told_why() {
    let world = World::start().await;
    let ca = &world.adapter.ca;
    let error = dial(world.address, &foreign_car(ca, &[&TLS12])).await.unwrap_err();
    let told = rustls::Error::AlertReceived(AlertDescription::ProtocolVersion);
    assert_eq!(tls_error(&error), Some(&told));
    // Who speaks 1.3 as well is let in.
    let io = hear(world.address, &foreign_car(ca, &[&TLS12, &TLS13])).await;
    assert_eq!(version(&io), Some(ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn car_does_not_talk_to_an_adapter_that_speaks_only_tls_1_2() {
    let ca = Ca::generate(SystemClock.wall()).unwrap();
    let address = foreign_adapter(&ca, &[&TLS12]).await;
    let car = Car::start(config(
        &format!("https://{address}"),
        identity_of(&ca, &ca, &vehicle(), 0),
    ));
    car.told("ProtocolVersion").await;
    // Others do.
    let io = hear(address, &foreign_car(&ca, &[&TLS12])).await;
    assert_eq!(version(&io), Some(ProtocolVersion::TLSv1_2));
}

#[tokio::test]
async fn client_that_keeps_sessions_makes_a_full_handshake_with_the_listener_every_time() {
    let world = World::start().await;
    let car = foreign_car(&world.adapter.ca, &[&TLS13]);
    for _ in 0..2 {
        let io = hear(world.address, &car).await;
        assert_eq!((kind(&io), tickets(&io)), (Some(HandshakeKind::Full), 0));
    }
    // Where there are tickets, it resumes.
    let elsewhere = foreign_adapter(&world.adapter.ca, &[&TLS13]).await;
    let io = hear(elsewhere, &car).await;
    assert_eq!(kind(&io), Some(HandshakeKind::Full));
    assert!(tickets(&io) > 0);
    let io = hear(elsewhere, &car).await;
    assert_eq!(kind(&io), Some(HandshakeKind::Resumed));
    // For rustls the two are one server, for they have one host. So it offers a ticket, which is not taken.
    let io = hear(world.address, &car).await;
    assert_eq!((kind(&io), tickets(&io)), (Some(HandshakeKind::Full), 0));
}
