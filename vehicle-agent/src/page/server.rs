//! The page's connections: HTTP/1.1, bounded in number, time and length.
//!
//! Runs beside the policy loop on the agent's one thread, so nothing here computes or waits for a disk. Whoever is in the car's network may
//! connect: what one of them sends is bounded, and its end is the end of its connection. Every answer says the same of what a browser
//! may do with it: nothing from elsewhere, in no frame, kept by nobody.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::gate::{self, Refusal};
use super::{Page, api, files};
use crate::addresses::is_near;
use crate::forget;

/// Connections of all phones together, and of one address. A browser opens six.
const CONNECTIONS: usize = 32;
const OF_ONE: usize = 8;
/// For a request's head, and for the next one on the same connection.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
const HEAD: usize = 16 << 10;
/// For its body.
const BODY_WITHIN: Duration = Duration::from_secs(10);
const BODY: usize = 4 << 10;
/// For an answer: a large ledger takes a while to be checked.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Then a connection ends after its answer, and a browser opens another.
const LIFE: Duration = Duration::from_mins(5);
/// And then it is broken off.
const LAST: Duration = Duration::from_secs(60);
/// Out of files for a moment.
const PAUSE: Duration = Duration::from_secs(1);

/// What a browser may do with the page: what comes from the car, and nothing else. There is no script and no style in the page's text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// What stands on every answer.
const ALWAYS: [(&str, &str); 7] = [
    ("content-security-policy", POLICY),
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
];

/// How many connections each address has.
#[derive(Default)]
struct Places(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place, until it is dropped.
struct Place {
    places: Arc<Places>,
    of: IpAddr,
}

impl Places {
    /// `None`: there are enough.
    fn take(self: &Arc<Self>, of: IpAddr) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.entry(of).or_default();
        if all >= CONNECTIONS || *own >= OF_ONE {
            if *own == 0 {
                taken.remove(&of);
            }
            return None;
        }
        *own += 1;
        Some(Place {
            places: Arc::clone(self),
            of,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.of) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.of);
            }
        }
    }
}

/// Serves the page until the policy loop is gone.
pub(super) async fn serve(listener: TcpListener, page: Arc<Page>) {
    let places = Arc::new(Places::default());
    while !page.requests.is_closed() {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // A packet for this address may have come in by another interface.
                let near = is_near(peer.ip());
                let Some(place) = near.then(|| places.take(peer.ip())).flatten() else {
                    continue;
                };
                let page = Arc::clone(&page);
                tokio::spawn(async move {
                    speak(stream, page).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection to the owner's page can be taken");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn speak(stream: TcpStream, page: Arc<Page>) {
    // Answers come in one piece.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let page = Arc::clone(&page);
        async move { Ok::<_, Infallible>(answer(&page, request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        () = sleep(LIFE) => None,
    };
    let ended = if let Some(ended) = ended {
        Ok(ended)
    } else {
        served.as_mut().graceful_shutdown();
        timeout(LAST, served).await
    };
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "a browser broke off");
    }
}

/// Answers a request, whatever it is.
pub(super) async fn answer<B>(page: &Page, request: Request<B>) -> Response<Full<Bytes>>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let answered = timeout(ANSWER_WITHIN, admitted(page, request)).await;
    let mut response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err(refusal)) => refuse(&refusal),
        Err(_) => refuse(&Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the car took too long to answer",
        )),
    };
    for (name, value) in ALWAYS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn admitted<B>(page: &Page, request: Request<B>) -> Result<Response<Full<Bytes>>, Refusal>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    page.hosts.admit(&head.method, &head.headers)?;
    let path = head.uri.path();
    let Some(what) = path.strip_prefix("/api/v1/") else {
        return match (&head.method, files::find(path)) {
            (&Method::GET, Some(file)) => Ok(file),
            (_, Some(_)) => Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "it can only be read")),
            (_, None) => Err(Refusal::new(StatusCode::NOT_FOUND, "there is no such page")),
        };
    };
    let token = gate::token(&head.headers);
    let asked = api::Asked::find(&head.method, what, head.uri.query())?;
    // Before the body is read: from who is not signed in nothing is taken but a code.
    if !asked.is_open() && !token.is_some_and(|token| page.door.knows(token)) {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "sign in with a code of the car"));
    }
    // A car that forgets its owner takes no word of who was signed in before.
    if forget::pending(&page.directory).is_some() {
        return Err(Refusal::new(
            StatusCode::GONE,
            "the car forgets its owner, and takes no word any more",
        ));
    }
    let body = if head.method == Method::POST {
        read(body).await?
    } else {
        Bytes::new()
    };
    api::answer(page, asked, token, &body).await
}

async fn read<B>(body: B) -> Result<Bytes, Refusal>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let read = timeout(BODY_WITHIN, Limited::new(body, BODY).collect()).await;
    let late = || Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request did not come to its end");
    let long = |_| {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the request is too long, or was broken off",
        )
    };
    Ok(read.map_err(|_| late())?.map_err(long)?.to_bytes())
}

fn refuse(refusal: &Refusal) -> Response<Full<Bytes>> {
    let text = serde_json::json!({"error": refusal.why}).to_string();
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = refusal.status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_phone_does_not_take_every_place_and_all_together_have_an_end() {
        let places = Arc::new(Places::default());
        let address = |last: u8| IpAddr::from([192, 168, 7, last]);
        let mut taken: Vec<_> = (0..OF_ONE).map(|_| places.take(address(1)).unwrap()).collect();
        assert!(places.take(address(1)).is_none());
        for last in 2..=4 {
            taken.extend((0..OF_ONE).map(|_| places.take(address(last)).unwrap()));
        }
        assert_eq!(taken.len(), CONNECTIONS);
        assert!(places.take(address(5)).is_none());
        drop(taken);
        assert!(places.take(address(5)).is_some());
        assert!(places.0.lock().unwrap().is_empty(), "nothing is kept of who is gone");
    }

    #[test]
    fn page_may_take_nothing_from_anybody_but_the_car() {
        assert!(!POLICY.contains("http") && !POLICY.contains("unsafe") && !POLICY.contains('*'));
        assert!(POLICY.starts_with("default-src 'none'"));
    }
}
