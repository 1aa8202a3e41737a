//! What is spoken with the programs of one Pod: HTTP/1.1 as to any forward proxy (RFC 9110, sections 7.6 and 9.3.6).
//!
//! Called by [`super::Proxies::serve`]. Programs are hostile: what one of them says is bounded in length, in number and in time, and ends with its
//! connection. Every task of a Pod is a child of this one, so all end with it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Pod;
use super::dial::{NoWay, dial};
use super::gate::Gate;
use super::pump::carry;

/// Connections of one Pod at a time. Who comes then waits in the kernel's queue.
const CONNECTIONS: usize = 32;
/// For a program to say what it wants.
const ASK: Duration = Duration::from_secs(30);
/// How long a request's head may be.
const HEAD: usize = 32 << 10;
/// Out of files for a moment.
const PAUSE: Duration = Duration::from_millis(100);

/// Of one connection and not of what it carries (RFC 9110, section 7.6.1), and what only concerns a proxy.
const HOP: [HeaderName; 9] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

type Body = BoxBody<Bytes, hyper::Error>;
/// Where work is put that goes on beside a request.
type Beside = mpsc::UnboundedSender<BoxFuture<'static, ()>>;

/// Serves the programs of a Pod, for as long as it is polled.
pub(super) async fn serve(listener: TcpListener, pod: Arc<Pod>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => break stream,
                    Err(error) => {
                        tracing::debug!(attempt = pod.attempt, %error, "a program's connection is not taken");
                        sleep(PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        };
        let pod = Arc::clone(&pod);
        connections.spawn(async move {
            let Ok(among_all) = Arc::clone(&pod.car.connections).acquire_owned().await else {
                return;
            };
            // What is carried comes in pieces that are complete.
            let _ = stream.set_nodelay(true);
            speak(stream, pod).await;
            drop((place, among_all));
        });
    }
}

/// One connection of a program, from its first word to the end of all that came of it.
pub(super) async fn speak(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, pod: Arc<Pod>) {
    let (beside, mut told) = mpsc::unbounded_channel();
    let mut works = JoinSet::new();
    {
        let service = service_fn(|request| {
            let (pod, beside) = (Arc::clone(&pod), beside.clone());
            async move { Ok::<_, Infallible>(answer(&pod, &beside, request).await) }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(ASK)
            .max_buf_size(HEAD);
        let served = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut served = std::pin::pin!(served);
        loop {
            tokio::select! {
                ended = &mut served => {
                    if let Err(error) = ended {
                        tracing::debug!(attempt = pod.attempt, %error, "a program broke off");
                    }
                    break;
                }
                Some(work) = told.recv() => drop(works.spawn(work)),
                Some(_) = works.join_next() => {}
            }
        }
    }
    drop(beside);
    while let Some(work) = told.recv().await {
        works.spawn(work);
    }
    while works.join_next().await.is_some() {}
}

async fn answer(pod: &Arc<Pod>, beside: &Beside, request: Request<Incoming>) -> Response<Body> {
    let answered = if request.method() == Method::CONNECT {
        tunnel(pod, beside, request).await
    } else {
        forward(pod, beside, request).await
    };
    answered.unwrap_or_else(|refusal| {
        tracing::debug!(
            attempt = pod.attempt,
            status = refusal.0.as_u16(),
            why = refusal.1,
            "a program was told no"
        );
        say(refusal)
    })
}

/// What a program is told instead.
type Refusal = (StatusCode, String);

fn bad(why: &str) -> Refusal {
    (StatusCode::BAD_REQUEST, why.to_owned())
}

impl From<NoWay> for Refusal {
    fn from(why: NoWay) -> Self {
        let status = match why {
            NoWay::Denied(_) => StatusCode::FORBIDDEN,
            NoWay::Silent(..) => StatusCode::BAD_GATEWAY,
            NoWay::Leaving => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, why.to_string())
    }
}

fn say((status, why): Refusal) -> Response<Body> {
    let text = Full::new(Bytes::from(format!("{why}\n"))).map_err(|never| match never {});
    let mut response = Response::new(text.boxed());
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// Whom a request is for.
fn whom(authority: &Authority, port: Option<u16>) -> Result<(String, u16), Refusal> {
    if authority.as_str().contains('@') {
        return Err(bad("a name with a user in it leads nowhere"));
    }
    let port = authority.port_u16().or(port);
    let port = port.ok_or_else(|| bad("CONNECT needs a name and a port, such as example.org:443"))?;
    Ok((authority.host().to_owned(), port))
}

/// `CONNECT`: whatever is said from then on.
async fn tunnel(pod: &Arc<Pod>, beside: &Beside, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let authority = request
        .uri()
        .authority()
        .ok_or_else(|| bad("CONNECT needs a name and a port"))?;
    let (host, port) = whom(authority, None)?;
    let (world, address) = dial(pod, &host, port).await?;
    let pod = Arc::clone(pod);
    let carried = async move {
        match hyper::upgrade::on(request).await {
            Ok(program) => held(&pod.car.gate, address, carry(&pod, TokioIo::new(program), world)).await,
            Err(error) => tracing::debug!(%error, "a program did not wait for its tunnel"),
        }
    };
    // It is there for as long as this is answered.
    let _ = beside.send(carried.boxed());
    Ok(Response::new(Empty::new().map_err(|never| match never {}).boxed()))
}

/// A request for `http://`: asked anew, and the answer passed on.
async fn forward(pod: &Arc<Pod>, beside: &Beside, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let uri = request.uri();
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
        return Err(bad(
            "this is a vehicle's proxy: ask for a whole address, such as http://example.org/, or by CONNECT",
        ));
    };
    if *scheme != Scheme::HTTP {
        return Err(bad("the proxy asks by http only; all else goes by CONNECT"));
    }
    let (host, port) = whom(authority, Some(80))?;
    let (world, address) = dial(pod, &host, port).await?;
    let (near, far) = tokio::io::duplex(HEAD);
    let place = format!("{host}:{port}");
    let broken = |e: hyper::Error| Refusal::from(NoWay::Silent(place.clone(), e.to_string()));
    let mut builder = hyper::client::conn::http1::Builder::new();
    let shaken = builder.max_buf_size(HEAD).handshake(TokioIo::new(near)).await;
    let (mut sender, connection) = shaken.map_err(broken)?;
    let pod = Arc::clone(pod);
    let carried = async move {
        // Once the answer is here nobody needs the connection.
        let asked = async {
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                biased;
                _ = &mut connection => {}
                carried = carry(&pod, far, world) => {
                    // What was broken off must not look like all of it.
                    carried?;
                    // What has come is there to be read still.
                    let _ = connection.await;
                }
            }
            Ok(())
        };
        held(&pod.car.gate, address, asked).await;
    };
    let _ = beside.send(carried.boxed());
    let response = sender.send_request(onward(request)?).await.map_err(broken)?;
    let (mut parts, body) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let why = "it changes to something that was not asked for".to_owned();
        return Err(NoWay::Silent(place, why).into());
    }
    if parts.headers.contains_key(header::TRANSFER_ENCODING) {
        // Which counts for nothing then (RFC 9112, section 6.3).
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    strip(&mut parts.headers);
    // Of the connection to the program, whatever that to the world was.
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Ok(Response::from_parts(parts, body.boxed()))
}

/// The same request as its server is asked it. Nothing says that a vehicle asks: `Via` is left out on purpose.
fn onward(request: Request<Incoming>) -> Result<Request<Incoming>, Refusal> {
    let (mut parts, body) = request.into_parts();
    let host = parts.uri.authority().map(Authority::as_str).unwrap_or_default();
    let host = HeaderValue::from_str(host).map_err(|_| bad("the name is none"))?;
    let path = parts.uri.path_and_query().cloned();
    parts.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
    strip(&mut parts.headers);
    if chunked {
        // Else the body of a request that usually has none would be left out.
        parts
            .headers
            .insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    parts.headers.insert(header::HOST, host);
    parts
        .headers
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Ok(Request::from_parts(parts, body))
}

/// Takes away what is of one connection only.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<_> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse::<HeaderName>().ok())
        .collect();
    for name in named.iter().chain(&HOP) {
        headers.remove(name);
    }
}

/// Lets a connection live until it ends, or the owner takes back where it leads.
async fn held(gate: &Gate, address: SocketAddr, carried: impl Future<Output = std::io::Result<()>>) {
    tokio::select! {
        biased;
        () = gate.revoked(address) => {}
        // Whoever breaks off may.
        _ = carried => {}
    }
}
