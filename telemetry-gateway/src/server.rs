//! Where cars come in: mutual TLS, the handshake of a WebSocket, then messages, each of which is acknowledged.
//!
//! One task per connection. It is here that a car is known by its VIN, for as long as it is connected; all that leaves this module is the
//! pseudonym and what [`Cars`] takes of a payload. Nothing that a car sends can make it wait, grow or log: bad messages are
//! counted. Who has no certificate of the fleet's authorities does not get past TLS; who is not on the fleet's list not past the
//! first answer; and until then nobody has one of the places that are for cars ([`Places`]).

mod allowance;
mod places;
mod session;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use kerbside_core::clock::Clock;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::cars::Cars;
use crate::config::{ConfigError, Tls, bytes};
use crate::metrics::Metrics;
use crate::pseudonym::{Pseudonyms, Vin};
use crate::websocket;
use places::Stranger;
pub use places::{Places, TooFewFiles};
use session::Session;

/// Until TLS is done: somebody who says nothing keeps a place for no longer.
const GREETING: Duration = Duration::from_secs(10);
/// From there to the handshake's answer.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// Of the head of a request.
const HEAD: usize = 16 * 1024;

/// Files that TLS cannot use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// One is not what it should be.
    #[error("failed to use {what}: {why}")]
    Unfit {
        /// Which.
        what: &'static str,
        /// Why.
        why: String,
    },
}

/// TLS that lets in whoever has a certificate of the fleet's authorities. Nothing is resumed: a session that is skips the check.
pub fn tls(files: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let unfit = |what: &'static str| move |why: String| TlsError::Unfit { what, why };
    let chain = certificates(&bytes(&files.certificate_file)?).map_err(unfit("tls.certificateFile"))?;
    let key = PrivateKeyDer::from_pem_slice(&bytes(&files.private_key_file)?)
        .map_err(|error| unfit("tls.privateKeyFile")(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for authority in certificates(&bytes(&files.client_ca_file)?).map_err(unfit("tls.clientCaFile"))? {
        let added = roots.add(authority);
        added.map_err(|error| unfit("tls.clientCaFile")(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| unfit("tls.clientCaFile")(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_client_cert_verifier(verifier).with_single_cert(chain, key))
        .map_err(|error| unfit("tls.certificateFile and tls.privateKeyFile")(error.to_string()))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|error| error.to_string())?;
    if read.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(read)
}

/// What connections share.
pub struct Server {
    /// Who may come, and what they say.
    pub cars: Arc<Cars>,
    /// From VINs to names.
    pub pseudonyms: Arc<Pseudonyms>,
    /// When anything is said.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Metrics,
    /// How many may be connected, and as what.
    pub places: Arc<Places>,
    /// Of one car; what is beyond is not read.
    pub messages_per_minute: u32,
    /// A connection on which nothing comes for so long is ended: nothing that was said on it counts any more.
    pub idle_after: Duration,
}

impl Server {
    /// Serves cars until `stop`, and then sends them away.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, tls: Arc<ServerConfig>, stop: CancellationToken) {
        let acceptor = TlsAcceptor::from(tls);
        let mut tasks = JoinSet::new();
        loop {
            let next = async {
                let place = self.places.free().await;
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = tasks.join_next() => continue,
                (Some(place), accepted) = next => (place, accepted),
                else => break,
            };
            match accepted {
                Ok((stream, from)) => {
                    let Some(stranger) = self.places.come(from.ip(), place) else {
                        tracing::debug!("a client was sent away: too many of its address are in their handshakes");
                        continue;
                    };
                    let (server, acceptor, stop) = (Arc::clone(&self), acceptor.clone(), stop.clone());
                    tasks.spawn(async move { server.connection(stream, acceptor, stranger, stop).await });
                }
                // Too many open files, most likely: others end meanwhile.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        acceptor: TlsAcceptor,
        stranger: Stranger,
        stop: CancellationToken,
    ) {
        let Ok(Ok(stream)) = timeout(GREETING, acceptor.accept(stream)).await else {
            // What TLS says of a certificate may have parts of it.
            tracing::debug!("a client did not get past TLS");
            return;
        };
        let certificates = stream.get_ref().1.peer_certificates();
        let Some(Ok(vin)) = certificates.and_then(<[_]>::first).map(Vin::of) else {
            tracing::info!("a client was sent away: its certificate is of no vehicle");
            return;
        };
        let (sessions, vin) = (Arc::new(tokio::sync::Mutex::new(None)), Arc::new(vin));
        {
            let service = service_fn(|request| {
                let (server, vin, sessions) = (Arc::clone(&self), Arc::clone(&vin), Arc::clone(&sessions));
                async move {
                    let (response, session) = server.answer(&vin, request);
                    if session.is_some() {
                        *sessions.lock().await = session;
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(HANDSHAKE)
                .max_buf_size(HEAD);
            let served = http.serve_connection(TokioIo::new(stream), service).with_upgrades();
            if timeout(HANDSHAKE, served).await.is_err() {
                return;
            }
        }
        let begun = sessions.lock().await.take();
        let Some((upgrade, session)) = begun else { return };
        let Some(place) = self.places.is_car(stranger) else {
            tracing::warn!(
                places = self.places.for_cars(),
                "a car of the fleet was sent away: the limit on open files lets no more be connected"
            );
            return;
        };
        if let Ok(upgraded) = upgrade.await {
            session.run(TokioIo::new(upgraded), stop).await;
        }
        drop(place);
    }

    /// The answer to a request of a car, and what is to follow.
    fn answer(
        self: &Arc<Self>,
        vin: &Arc<Vin>,
        mut request: Request<Incoming>,
    ) -> (Response<Full<Bytes>>, Option<(hyper::upgrade::OnUpgrade, Session)>) {
        if request.uri().path() == "/status" {
            return (says(StatusCode::OK, "mtls ok"), None);
        }
        let proof = match handshake(&request) {
            Ok(proof) => proof,
            Err(why) => return (says(StatusCode::BAD_REQUEST, why), None),
        };
        let id = self.pseudonyms.of(vin);
        let now = (self.clock.boottime(), self.clock.wall());
        let Some(ended) = self.cars.connect(&id, now) else {
            tracing::info!("a client was sent away: its car is not on the list of the fleet");
            return (
                says(StatusCode::FORBIDDEN, "this car is not on the list of the fleet"),
                None,
            );
        };
        let session = Session {
            server: Arc::clone(self),
            vin: Arc::clone(vin),
            id,
            _guard: ended.clone().drop_guard(),
            ended,
        };
        let mut response = says(StatusCode::SWITCHING_PROTOCOLS, "");
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
        if let Ok(proof) = proof.try_into() {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, proof);
        }
        (response, Some((hyper::upgrade::on(&mut request), session)))
    }
}

/// What proves that a handshake was understood, or what is wrong with it.
fn handshake(request: &Request<Incoming>) -> Result<String, &'static str> {
    let has = |name: header::HeaderName, wanted: &str| {
        let values = request
            .headers()
            .get_all(name)
            .into_iter()
            .filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|word| word.trim().eq_ignore_ascii_case(wanted))
    };
    let websocket = request.method() == Method::GET
        && has(header::UPGRADE, "websocket")
        && has(header::CONNECTION, "upgrade")
        && has(header::SEC_WEBSOCKET_VERSION, "13");
    if !websocket {
        return Err("this is for WebSockets of version 13");
    }
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
    key.and_then(|key| websocket::accept(key.as_bytes()))
        .ok_or("the key of the handshake is none")
}

fn says(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// Where the gateway listens.
pub async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}
