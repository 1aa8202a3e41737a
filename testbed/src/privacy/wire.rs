//! Stands between a car and its adapter and records every byte that the car sends, with all encryption taken off.
//!
//! Started by the test that owns the cluster's CA and the car's directory, for it takes both: it shows the car a certificate of the link's
//! CA, and the adapter the car's own. The car's program is unchanged and dials it as it would dial an adapter. It speaks HTTP/2 to either side, so that
//! what a car puts into headers is recorded as it was and not as HPACK packed it; beside that it keeps the connection's bytes below HTTP/2. What
//! must never happen: a byte passes that is not recorded, or a compressed message is taken for one that was looked into.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Waker, Poll, ready};

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt as _;
use http_body_util::combinators::BoxBody;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kerbside_core::clock::Clock as _;
use kerbside_link::SystemClock;
use kerbside_link::identity::{Ca, Identity, SERVER_VALIDITY, chain_from_pem, new_key_and_csr};
use kerbside_vehicle_agent::directory::Directory;
use kerbside_vehicle_agent::identity;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::scan::Recordings;

const ALPN: &[u8] = b"h2";

type Carried = BoxBody<Bytes, hyper::Error>;

/// The way of one car, as long as it is not dropped.
#[derive(Debug)]
pub struct Wire {
    /// What the car dials.
    pub url: String,
    ends: Arc<Ends>,
    carrying: JoinHandle<()>,
}

/// One call of the car.
#[derive(Debug, Clone, Default)]
struct Call {
    path: String,
    head: Vec<u8>,
    body: Vec<u8>,
}

/// What is needed for each connection, and what was recorded.
struct Ends {
    server: Arc<ServerConfig>,
    ca_pem: String,
    adapter: SocketAddr,
    source: Ipv4Addr,
    car: PathBuf,
    calls: Mutex<Vec<Call>>,
    /// Below HTTP/2, one for each connection.
    bytes: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    certificates: Mutex<Vec<u8>>,
}

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ends")
            .field("adapter", &self.adapter)
            .finish_non_exhaustive()
    }
}

impl Wire {
    /// Listens on loopback for the car whose directory this is, and dials the adapter from `source`, which is then the car's address.
    pub async fn start(ca: &Ca, adapter: SocketAddr, source: Ipv4Addr, car: PathBuf) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.context("failed to listen for a car")?;
        let url = format!(
            "https://{}",
            listener.local_addr().context("a listener has an address")?
        );
        let ends = Arc::new(Ends {
            server: server_config(ca)?,
            ca_pem: ca.certificate_pem(),
            adapter,
            source,
            car,
            calls: Mutex::default(),
            bytes: Mutex::default(),
            certificates: Mutex::default(),
        });
        let carrying = tokio::spawn(accept(listener, Arc::clone(&ends)));
        Ok(Self { url, ends, carrying })
    }

    /// Everything that the car has sent so far.
    pub fn recorded(&self) -> Result<Recordings> {
        let mut all = Recordings::default();
        for call in locked(&self.ends.calls).iter() {
            let head = String::from_utf8_lossy(&call.head).to_lowercase();
            ensure!(
                !head.contains("-encoding: gzip")
                    && !head.contains("-encoding: deflate")
                    && !head.contains("-encoding: zstd"),
                "the car compresses what it sends, and nobody looks into that: {head}"
            );
            all.add(format!("link: head of {}", call.path), &call.head);
            all.add(format!("link: body of {}", call.path), &call.body);
        }
        for bytes in locked(&self.ends.bytes).iter() {
            all.add("link: below HTTP/2", &*locked(bytes));
        }
        all.add("link: the car's certificates", &*locked(&self.ends.certificates));
        Ok(all)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, ends: Arc<Ends>) {
    // An error of a listener on loopback means that nothing works any more; the test then waits in vain and says so.
    while let Ok((tcp, _)) = listener.accept().await {
        let ends = Arc::clone(&ends);
        tokio::spawn(async move {
            // A car that goes away breaks its connection: no failure of ours.
            if let Err(error) = carry(&ends, tcp).await {
                eprintln!("a car's connection ended: {error:#}");
            }
        });
    }
}

/// One connection of the car, until either side ends it.
async fn carry(ends: &Arc<Ends>, tcp: TcpStream) -> Result<()> {
    tcp.set_nodelay(true).context("failed to send at once")?;
    let near = TlsAcceptor::from(Arc::clone(&ends.server)).accept(tcp).await;
    let near: server::TlsStream<TcpStream> = near.context("the car does not finish its handshake")?;
    let shown = near.get_ref().1.peer_certificates().unwrap_or_default();
    let enrolled = !shown.is_empty();
    for certificate in shown {
        locked(&ends.certificates).extend_from_slice(certificate);
    }
    let far = dial(ends, enrolled).await?;
    let (way, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(far))
        .await
        .context("the adapter speaks no HTTP/2")?;
    let bytes = Arc::<Mutex<Vec<u8>>>::default();
    locked(&ends.bytes).push(Arc::clone(&bytes));
    let near = TokioIo::new(Tee { near, bytes });
    let service = service_fn(|request| pass(Arc::clone(ends), way.clone(), request));
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(near, service);
    tokio::select! {
        served = serving => served.context("the car's connection broke"),
        ended = connection => ended.context("the adapter's connection broke"),
    }
}

async fn dial(ends: &Ends, enrolled: bool) -> Result<client::TlsStream<TcpStream>> {
    let identity = if enrolled {
        let directory = Directory::existing(&ends.car).context("the car has a directory")?;
        Some(identity::read(&directory).context("the car has an identity")?)
    } else {
        None
    };
    let config = client_config(&ends.ca_pem, identity.as_ref())?;
    let socket = TcpSocket::new_v4().context("failed to make a socket")?;
    let from = SocketAddr::from((ends.source, 0));
    socket
        .bind(from)
        .with_context(|| format!("failed to dial from {from}"))?;
    let tcp = socket
        .connect(ends.adapter)
        .await
        .context("the adapter is not reached")?;
    tcp.set_nodelay(true).context("failed to send at once")?;
    let name = ServerName::try_from(ends.adapter.ip().to_string()).context("an address is a name")?;
    let tls = TlsConnector::from(config).connect(name, tcp).await;
    tls.context("the adapter does not finish its handshake")
}

async fn pass(
    ends: Arc<Ends>,
    mut way: SendRequest<Carried>,
    request: Request<Incoming>,
) -> Result<Response<Incoming>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let mut head = format!("{} {}\n", parts.method, parts.uri).into_bytes();
    lines(&parts.headers, &mut head);
    let number = {
        let mut calls = locked(&ends.calls);
        calls.push(Call {
            path: parts.uri.path().to_owned(),
            head,
            body: Vec::new(),
        });
        calls.len() - 1
    };
    let note = move |frame: Frame<Bytes>| {
        if let Some(call) = locked(&ends.calls).get_mut(number) {
            match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => call.body.extend_from_slice(data),
                (None, Some(trailers)) => lines(trailers, &mut call.head),
                (None, None) => {}
            }
        }
        frame
    };
    way.ready().await?;
    way.send_request(Request::from_parts(parts, body.map_frame(note).boxed()))
        .await
}

fn lines(headers: &HeaderMap, to: &mut Vec<u8>) {
    for (name, value) in headers {
        to.extend_from_slice(name.as_str().as_bytes());
        to.extend_from_slice(b": ");
        to.extend_from_slice(value.as_bytes());
        to.push(b'\n');
    }
}

/// Keeps what is read.
struct Tee<S> {
    near: S,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tee<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Waker<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.near).poll_read(cx, buf))?;
        locked(&self.bytes).extend_from_slice(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tee<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Waker<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Waker<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(cx)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(ca_pem: &str) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in chain_from_pem(ca_pem)? {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}

/// As an adapter is to cars: a certificate of the CA for loopback, and cars show theirs if they have one.
fn server_config(ca: &Ca) -> Result<Arc<ServerConfig>> {
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let made = new_key_and_csr(&names)?;
    let chain = ca.sign_server(&made.csr_der, &names, SERVER_VALIDITY, SystemClock.wall())?;
    let mut chain: Vec<CertificateDer<'static>> = chain_from_pem(&chain)?;
    // A car that enrols knows only the CA's hash, and must see the CA.
    for certificate in chain_from_pem(&ca.certificate_pem())? {
        if !chain.contains(&certificate) {
            chain.push(certificate);
        }
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(&ca.certificate_pem())?, provider())
        .allow_unauthenticated()
        .build()
        .context("failed to check cars")?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key(&made.key_pem)?)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// As a car is to an adapter: with its certificate, or without while it enrols.
fn client_config(ca_pem: &str, identity: Option<&Identity>) -> Result<Arc<ClientConfig>> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(ca_pem)?);
    let mut config = match identity {
        Some(identity) => {
            config.with_client_auth_cert(chain_from_pem(identity.chain_pem())?, key(identity.key_pem())?)?
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).context("failed to read a key")
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use kerbside_core::ids::VehicleId;
    use kerbside_link::identity::VEHICLE_VALIDITY;

    use super::*;
    use crate::privacy::canary::{Canary, needles};
    use crate::privacy::scan::Scanner;

    const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 83, 147, 219);

    /// An adapter that answers each call with the address and the number of certificates that it sees, and the body.
    async fn adapter(ca: &Ca) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = server_config(ca).unwrap();
        tokio::spawn(async move {
            let (tcp, peer) = listener.accept().await.unwrap();
            let tls = TlsAcceptor::from(config).accept(tcp).await.unwrap();
            let shown = tls.get_ref().1.peer_certificates().map_or(0, <[_]>::len);
            let answer = service_fn(move |request: Request<Incoming>| async move {
                let body = request.into_body().collect().await?.to_bytes();
                let text = format!("{} {shown} {}", peer.ip(), String::from_utf8_lossy(&body));
                Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(text))))
            });
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // It ends when the car goes.
            let _ = http.serve_connection(TokioIo::new(tls), answer).await;
        });
        address
    }

    fn identity(ca: &Ca) -> Identity {
        let made = new_key_and_csr(&[]).unwrap();
        let vehicle = VehicleId::from_random([7; 10]);
        let chain = ca.sign_vehicle(&made.csr_der, &vehicle, "pool", VEHICLE_VALIDITY, SystemClock.wall());
        Identity::from_pem(&made.key_pem, &chain.unwrap(), &ca.certificate_pem()).unwrap()
    }

    #[tokio::test]
    async fn what_a_car_sends_is_recorded_and_reaches_the_adapter_as_from_the_car() {
        let ca = Ca::generate(SystemClock.wall()).unwrap();
        let home = tempfile::tempdir().unwrap();
        let directory = Directory::open(home.path()).unwrap();
        let identity = identity(&ca);
        identity::write(&directory, &identity).unwrap();
        let wire = Wire::start(&ca, adapter(&ca).await, SOURCE, home.path().to_owned())
            .await
            .unwrap();

        let address: SocketAddr = wire.url.trim_start_matches("https://").parse().unwrap();
        let config = client_config(&ca.certificate_pem(), Some(&identity)).unwrap();
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tls = TlsConnector::from(config).connect(name, tcp).await.unwrap();
        let (mut car, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
            .await
            .unwrap();
        let driving = tokio::spawn(connection);
        let call = Request::post(format!("{}/kerbside.link.v1.Link/Session", wire.url))
            .header("x-person", "Quillon Vandersloot-Maro")
            .body(Full::new(Bytes::from_static(b"vin WKB9ZQ7XJ4T508213")))
            .unwrap();
        let answer = car.send_request(call).await.unwrap();
        let answer = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(answer, "127.83.147.219 2 vin WKB9ZQ7XJ4T508213");
        drop(car);
        driving.abort();

        let canaries = [
            Canary::text("VIN", "WKB9ZQ7XJ4T508213"),
            Canary::text("person", "Quillon Vandersloot-Maro"),
        ];
        let scanner = Scanner::new(needles(&canaries)).unwrap();
        let recorded = wire.recorded().unwrap();
        let found: Vec<(&str, &str)> = recorded
            .search(&scanner)
            .iter()
            .map(|(place, f)| (*place, f.what))
            .collect();
        assert!(
            found.contains(&("link: body of /kerbside.link.v1.Link/Session", "VIN")),
            "{found:?}"
        );
        // As it was, though HPACK packed it on its way.
        assert!(
            found.contains(&("link: head of /kerbside.link.v1.Link/Session", "person")),
            "{found:?}"
        );
        assert!(found.contains(&("link: below HTTP/2", "VIN")), "{found:?}");
        assert!(recorded.sizes()["link: the car's certificates"] > 100);
    }

    #[tokio::test]
    async fn message_that_nobody_looks_into_is_not_taken_for_one_without_secrets() {
        let ca = Ca::generate(SystemClock.wall()).unwrap();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        let wire = Wire::start(&ca, nowhere, SOURCE, PathBuf::new()).await.unwrap();
        locked(&wire.ends.calls).push(Call {
            head: b"POST /\ngrpc-encoding: gzip\n".to_vec(),
            ..Call::default()
        });
        assert!(wire.recorded().unwrap_err().to_string().contains("compresses"));
    }
}
