//! From an HTTP request to a connection that both sides may write on: SPDY/3.1 or a WebSocket, and which words are spoken on it.
//!
//! What cannot be upgraded is refused as a kubelet refuses it, before anything is asked of a car.

use axum::body::Body;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::super::Refused;

/// How SPDY streams name what is spoken on them.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// Exec and attach over SPDY. The older ones say how a program ended in another way, and nobody who speaks to an API server of today needs them.
const SPDY_REMOTE: &str = "v4.channel.k8s.io";
const SPDY_FORWARD: &str = "portforward.k8s.io";
/// The newest first: it can say that one channel has ended.
const SOCKET_REMOTE: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// SPDY's bytes as a WebSocket's messages.
const SOCKET_FORWARD: &str = "SPDY/3.1+portforward.k8s.io";
/// One frame of a client is 32 KiB as a rule; a terminal's paste may be more.
const LONGEST_MESSAGE: usize = 1 << 20;

/// A connection that was upgraded.
pub(super) enum Transport {
    Spdy(TokioIo<hyper::upgrade::Upgraded>),
    /// With whether a client can say that a channel has ended.
    Socket(Box<WebSocket>, bool),
}

/// A request that can be upgraded.
pub(super) enum Upgrade {
    Spdy { on: OnUpgrade, protocol: &'static str },
    Socket(Box<WebSocketUpgrade>),
}

impl Upgrade {
    /// For exec and attach.
    pub(super) async fn remote_command(request: Request) -> Result<Self, Refused> {
        if is_socket(request.headers()) {
            return socket(request, &SOCKET_REMOTE).await;
        }
        spdy(request, SPDY_REMOTE)
    }

    /// For connections to ports.
    pub(super) async fn port_forward(request: Request) -> Result<Self, Refused> {
        if is_socket(request.headers()) {
            return socket(request, &[SOCKET_FORWARD]).await;
        }
        spdy(request, SPDY_FORWARD)
    }

    /// Answers, and runs `serve` on what comes of it.
    pub(super) fn serve<F>(self, serve: impl FnOnce(Transport) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self {
            Self::Socket(upgrade) => upgrade.on_upgrade(move |socket| {
                let closes = socket
                    .protocol()
                    .is_some_and(|p| p.as_bytes() == SOCKET_REMOTE[0].as_bytes());
                serve(Transport::Socket(Box::new(socket), closes))
            }),
            Self::Spdy { on, protocol } => {
                tokio::spawn(async move {
                    match on.await {
                        Ok(upgraded) => serve(Transport::Spdy(TokioIo::new(upgraded))).await,
                        Err(error) => tracing::debug!(%error, "a request to the kubelet port was not upgraded"),
                    }
                });
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                let headers = response.headers_mut();
                headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
                headers.insert(header::UPGRADE, header::HeaderValue::from_static("SPDY/3.1"));
                headers.insert(STREAM_PROTOCOL, header::HeaderValue::from_static(protocol));
                response
            }
        }
    }
}

fn is_socket(headers: &HeaderMap) -> bool {
    upgrade_of(headers).any(|u| u.eq_ignore_ascii_case("websocket"))
}

fn upgrade_of(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    words(headers, header::UPGRADE.as_str())
}

/// The words of a header that may come more than once, parted by commas.
fn words<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
    values
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|w| !w.is_empty())
}

fn bad(why: impl Into<String>) -> Refused {
    Refused(StatusCode::BAD_REQUEST, why.into())
}

fn spdy(mut request: Request, protocol: &'static str) -> Result<Upgrade, Refused> {
    let headers = request.headers();
    if !upgrade_of(headers).any(|u| u.eq_ignore_ascii_case("spdy/3.1")) {
        return Err(bad(
            "unable to upgrade: the request is for neither SPDY/3.1 nor a WebSocket",
        ));
    }
    if words(headers, STREAM_PROTOCOL).next().is_none() {
        return Err(bad(
            "unable to upgrade: header X-Stream-Protocol-Version is missing or empty",
        ));
    }
    if !words(headers, STREAM_PROTOCOL).any(|p| p == protocol) {
        let offered: Vec<_> = words(headers, STREAM_PROTOCOL).collect();
        let why = format!(
            "unable to upgrade: {protocol} is spoken here, and the client offers {}",
            offered.join(", ")
        );
        return Err(Refused(StatusCode::FORBIDDEN, why));
    }
    let on = request.extensions_mut().remove::<OnUpgrade>();
    let on = on.ok_or_else(|| bad("unable to upgrade: the connection cannot be"))?;
    Ok(Upgrade::Spdy { on, protocol })
}

async fn socket(request: Request, protocols: &[&'static str]) -> Result<Upgrade, Refused> {
    let known = words(request.headers(), header::SEC_WEBSOCKET_PROTOCOL.as_str()).any(|o| protocols.contains(&o));
    if !known {
        return Err(bad(format!(
            "unable to upgrade: {} is spoken here",
            protocols.join(" or ")
        )));
    }
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|rejection| Refused(rejection.status(), rejection.body_text()))?;
    let upgrade = upgrade
        .protocols(protocols.to_vec())
        .max_message_size(LONGEST_MESSAGE)
        .max_frame_size(LONGEST_MESSAGE);
    Ok(Upgrade::Socket(Box::new(upgrade)))
}
