//! Adapters that are not ours: a newer one, and one that is slow at the wrong moment. They speak gRPC and TLS, and no line of
//! our server.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use kerbside_core::clock::Clock as _;
use kerbside_link::SystemClock;
use kerbside_link::client::Event;
use kerbside_link::fault::FaultKind;
use kerbside_link::identity::{Ca, chain_from_pem, new_key_and_csr};
use kerbside_link::proto::adapter_message::Message as ToCar;
use kerbside_link::proto::car_message::Message as FromCar;
use kerbside_link::proto::link_server::{Link, LinkServer};
use kerbside_link::proto::{
    AdapterMessage, CarMessage, Drain, LogChunk, LogsDone, OutputChunk, OutputOffsetRequest, OutputOffsetResponse,
    OutputReceipt, PutReceiptRequest, PutReceiptResponse, RenewRequest, RenewResponse, Run, SealOutputRequest,
    SealOutputResponse, TunnelPart, Welcome,
};
use rustls::{ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::{Request, Response, Status, Streaming};

use crate::world::{Car, config, identity_of, uid, vehicle};

type ToTheCar = BoxStream<'static, Result<AdapterMessage, Status>>;

/// An adapter that only has sessions, and those as its function has them, once the car has said `Hello`.
struct Foreign<F>(F);

#[tonic::async_trait]
impl<F> Link for Foreign<F>
where
    F: Fn(Streaming<CarMessage>) -> BoxFuture<'static, ToTheCar> + Send + Sync + 'static,
{
    type SessionStream = ToTheCar;

    async fn session(&self, request: Request<Streaming<CarMessage>>) -> Result<Response<ToTheCar>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.and_then(|m| m.message);
        assert!(matches!(first, Some(FromCar::Hello(_))));
        Ok(Response::new((self.0)(incoming).await))
    }

    async fn send_logs(&self, _: Request<Streaming<LogChunk>>) -> Result<Response<LogsDone>, Status> {
        Err(Status::unimplemented("not here"))
    }

    type TunnelStream = BoxStream<'static, Result<TunnelPart, Status>>;

    async fn tunnel(&self, _: Request<Streaming<TunnelPart>>) -> Result<Response<Self::TunnelStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn output_offset(&self, _: Request<OutputOffsetRequest>) -> Result<Response<OutputOffsetResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn put_output(&self, _: Request<Streaming<OutputChunk>>) -> Result<Response<OutputReceipt>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn seal_output(&self, _: Request<SealOutputRequest>) -> Result<Response<SealOutputResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn put_receipt(&self, _: Request<PutReceiptRequest>) -> Result<Response<PutReceiptResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// TLS as a server that never asks for certificates has it, which tonic does not know of.
struct Plain(tokio_rustls::server::TlsStream<TcpStream>);

impl Connected for Plain {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.0.get_ref().0.connect_info()
    }
}

impl AsyncRead for Plain {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// TLS of an adapter that has a certificate of `ca`, speaks these versions and hands out tickets, as rustls does by itself.
pub(crate) fn server_tls(ca: &Ca, versions: &[&'static SupportedProtocolVersion]) -> TlsAcceptor {
    let names = ["127.0.0.1".to_owned()];
    let request = new_key_and_csr(&names).unwrap();
    let chain = ca
        .sign_server(&request.csr_der, &names, Duration::from_hours(1), SystemClock.wall())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::from_pem_slice(request.key_pem.as_bytes()).unwrap();
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain_from_pem(&chain).unwrap(), key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(tls))
}

/// Serves it with a certificate of `ca`, and returns its address.
async fn serve<F>(ca: &Ca, session: F) -> String
where
    F: Fn(Streaming<CarMessage>) -> BoxFuture<'static, ToTheCar> + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let acceptor = server_tls(ca, rustls::DEFAULT_VERSIONS);
    let incoming = stream::unfold((listener, acceptor), |(listener, acceptor)| async {
        let (tcp, _) = listener.accept().await.unwrap();
        let io = acceptor.accept(tcp).await.map(Plain);
        Some((io, (listener, acceptor)))
    });
    tokio::spawn(
        Server::builder()
            .add_service(LinkServer::new(Foreign(session)))
            .serve_with_incoming(incoming),
    );
    url
}

fn a_car(ca: &Ca, url: &str) -> Car {
    Car::start(config(url, identity_of(ca, ca, &vehicle(), 0)))
}

fn new_ca() -> Ca {
    Ca::generate(SystemClock.wall()).unwrap()
}

fn welcome(epoch: u64) -> Welcome {
    Welcome {
        protocol: 1,
        epoch,
        ..Welcome::default()
    }
}

async fn until_the_car_goes(mut incoming: Streaming<CarMessage>) {
    while let Ok(Some(_)) = incoming.message().await {}
}

/// What an adapter of a later version may send: a message with a number that this version does not know.
#[derive(Clone, PartialEq, prost::Message)]
struct NewerAdapterMessage {
    #[prost(message, optional, tag = "1")]
    welcome: Option<Welcome>,
    #[prost(message, optional, tag = "3")]
    run: Option<Run>,
    #[prost(bytes = "vec", tag = "4711")]
    wishes: Vec<u8>,
}

/// What a car of this version makes of the bytes of a newer adapter.
fn as_seen(newer: &NewerAdapterMessage) -> AdapterMessage {
    let bytes = prost::Message::encode_to_vec(newer);
    <AdapterMessage as prost::Message>::decode(bytes.as_slice()).unwrap()
}

#[tokio::test]
async fn message_unknown_to_the_car_is_skipped_before_and_after_welcome() {
    let ca = new_ca();
    let unknown = |wishes: &[u8]| NewerAdapterMessage {
        wishes: wishes.to_vec(),
        ..NewerAdapterMessage::default()
    };
    let run = Run {
        uid: "a".into(),
        ..Run::default()
    };
    let says = [
        unknown(b"be well"),
        NewerAdapterMessage {
            welcome: Some(welcome(12)),
            ..NewerAdapterMessage::default()
        },
        unknown(&[0; 100]),
        NewerAdapterMessage::default(),
        NewerAdapterMessage {
            run: Some(run),
            ..unknown(b"soon")
        },
    ];
    let url = serve(&ca, move |incoming| {
        let says: Vec<_> = says.iter().map(as_seen).map(Ok).collect();
        let end = stream::once(async move {
            until_the_car_goes(incoming).await;
            Err(Status::cancelled("gone"))
        });
        async move { stream::iter(says).chain(end).boxed() }.boxed()
    })
    .await;
    let mut car = a_car(&ca, &url);
    assert_eq!(car.connected().await, 12);
    let run = car
        .hear("a run", |e| if let Event::Run(run) = e { Some(run) } else { None })
        .await;
    assert_eq!(run.uid, "a");
    // What this adapter cannot do is a fault that trying again does not mend.
    let fault = car
        .client
        .seal_output(&uid("a"), Vec::new(), Vec::new())
        .await
        .unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Unsupported);
}

/// The end of the old session may arrive before the greeting of the new one.
#[tokio::test]
async fn drained_session_that_ends_before_the_new_one_is_welcomed_makes_no_break() {
    let ca = new_ca();
    let (end_first, first_ends) = oneshot::channel::<()>();
    let (tell_gone, gone) = oneshot::channel::<()>();
    let first = Mutex::new(Some((first_ends, tell_gone)));
    let second = Mutex::new(Some((end_first, gone)));
    let url = serve(&ca, move |incoming| {
        if let Some((ends, tell_gone)) = first.lock().unwrap().take() {
            tokio::spawn(async move {
                until_the_car_goes(incoming).await;
                tell_gone.send(()).unwrap();
            });
            let says = [ToCar::Welcome(welcome(1)), ToCar::Drain(Drain { deadline_ms: 1 })];
            let end = stream::once(async move {
                ends.await.unwrap();
                Err(Status::aborted("replaced by a newer connection of the same car"))
            });
            return async move { stream::iter(says.map(message).map(Ok)).chain(end).boxed() }.boxed();
        }
        let (end_first, gone) = second
            .lock()
            .unwrap()
            .take()
            .expect("the car comes twice, not three times");
        async move {
            end_first.send(()).unwrap();
            gone.await.unwrap();
            let stay = stream::once(async move {
                until_the_car_goes(incoming).await;
                Err(Status::cancelled("gone"))
            });
            stream::iter([Ok(message(ToCar::Welcome(welcome(2))))])
                .chain(stay)
                .boxed()
        }
        .boxed()
    })
    .await;
    let mut car = a_car(&ca, &url);
    let connection = car.client.connection();
    assert_eq!(car.connected().await, 1);
    assert_eq!(car.hear("anything", Some).await, Event::Connected { epoch: 2 });
    assert_eq!(
        *connection.borrow(),
        kerbside_link::client::Connection::Connected { epoch: 2 }
    );
}

fn message(message: ToCar) -> AdapterMessage {
    AdapterMessage { message: Some(message) }
}
