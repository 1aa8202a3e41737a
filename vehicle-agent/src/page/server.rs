//! The page's connections: HTTP/1.1, bounded in number, time and length.
//!
//! Runs beside the policy loop on the agent's one thread, so nothing here computes or waits for a disk. Whoever is in the car's network may
//! connect: what one of them sends is bounded, and its end is the end of its connection. However many they are, who is signed in has places that
//! they cannot take, and who comes new gets one of the address that has the most. Every answer says the same of what a browser
//! may do with it: nothing from elsewhere, in no frame, kept by nobody.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::gate::{self, Refusal};
use super::{Page, api, files};
use crate::addresses::is_near;

/// Connections of all phones together, and of one address. A browser opens six.
const CONNECTIONS: usize = 48;
const OF_ONE: usize = 8;
/// So many of them are for addresses where somebody is signed in, and for no other.
const KEPT: usize = 16;
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

/// The connections that there are, the oldest first.
#[derive(Default)]
struct Places(Mutex<Vec<Taken>>);

/// A place that is taken.
struct Taken {
    of: IpAddr,
    /// Told when another one gets it.
    leave: Arc<Notify>,
}

/// One connection's place, until it is dropped.
struct Place {
    places: Arc<Places>,
    leave: Arc<Notify>,
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, Vec<Taken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: there are enough. `is_home`: whether somebody at an address is signed in.
    fn take(self: &Arc<Self>, of: IpAddr, is_home: impl Fn(IpAddr) -> bool) -> Option<Place> {
        let mut taken = self.taken();
        let own = taken.iter().filter(|other| other.of == of).count();
        let home = is_home(of);
        if own >= OF_ONE {
            return None;
        }
        let room = if home { CONNECTIONS } else { CONNECTIONS - KEPT };
        if taken.len() >= room {
            let (place, most) = crowded(&taken, is_home)?;
            // Who has none yet gets one of who has any; nobody takes them from each other for ever.
            if !home && own > 0 && most <= own + 1 {
                return None;
            }
            taken.remove(place).leave.notify_one();
        }
        let leave = Arc::new(Notify::new());
        taken.push(Taken {
            of,
            leave: Arc::clone(&leave),
        });
        Some(Place {
            places: Arc::clone(self),
            leave,
        })
    }
}

/// The oldest place of the address that has the most, and how many that has; where somebody is signed in, nobody is crowded.
fn crowded(taken: &[Taken], is_home: impl Fn(IpAddr) -> bool) -> Option<(usize, usize)> {
    let count = |of: IpAddr| taken.iter().filter(|other| other.of == of).count();
    let strangers = taken.iter().enumerate().filter(|(_, one)| !is_home(one.of));
    let counted = strangers.map(|(place, one)| (place, count(one.of)));
    counted.reduce(|found, next| if next.1 > found.1 { next } else { found })
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places
            .taken()
            .retain(|other| !Arc::ptr_eq(&other.leave, &self.leave));
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
                let take = || places.take(peer.ip(), |address| page.door.is_home(address));
                let Some(place) = near.then(take).flatten() else {
                    continue;
                };
                let page = Arc::clone(&page);
                tokio::spawn(async move {
                    tokio::select! {
                        () = speak(stream, page, peer.ip()) => {}
                        () = place.leave.notified() => tracing::debug!("a browser makes room for another"),
                    }
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

async fn speak(stream: TcpStream, page: Arc<Page>, from: IpAddr) {
    // Answers come in one piece.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let page = Arc::clone(&page);
        async move {
            if let Some(token) = gate::token(request.headers()) {
                page.door.seen_at(token, from);
            }
            Ok::<_, Infallible>(answer(&page, request).await)
        }
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
    let is_known = token.is_some_and(|token| page.door.knows(token));
    if !asked.is_open() && !is_known {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "sign in with a code of the car"));
    }
    // A car that forgets its owner takes no word of who was signed in before.
    if page.outlook.borrow().forgetting {
        if is_known {
            return Err(Refusal::new(
                StatusCode::GONE,
                "the car forgets its owner, and takes no word any more",
            ));
        }
        // Whoever else tries a code is told what everybody is told.
        page.door.spoil();
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
    use futures::FutureExt as _;

    use super::*;

    /// Nobody is signed in anywhere.
    fn nowhere(_: IpAddr) -> bool {
        false
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 168, 7, last])
    }

    /// Addresses that take all that a stranger may have, and what they hold.
    fn crowd(places: &Arc<Places>, addresses: std::ops::RangeInclusive<u8>) -> Vec<Place> {
        let all = addresses.flat_map(|last| std::iter::repeat_n(address(last), OF_ONE));
        all.map(|of| places.take(of, nowhere).unwrap()).collect()
    }

    fn has(places: &Places, of: IpAddr) -> usize {
        places.taken().iter().filter(|taken| taken.of == of).count()
    }

    /// Whether it was told to leave.
    fn must_leave(place: &Place) -> bool {
        place.leave.notified().now_or_never().is_some()
    }

    #[test]
    fn one_phone_does_not_take_every_place_and_all_together_have_an_end() {
        let places = Arc::new(Places::default());
        let mut taken = crowd(&places, 1..=1);
        assert!(places.take(address(1), nowhere).is_none());
        taken.extend(crowd(&places, 2..=4));
        assert_eq!(taken.len(), CONNECTIONS - KEPT);
        taken.extend(places.take(address(5), nowhere));
        assert_eq!(places.taken().len(), CONNECTIONS - KEPT);
        drop(taken);
        assert!(places.taken().is_empty(), "nothing is kept of who is gone");
    }

    #[test]
    fn four_addresses_that_take_all_places_make_room_for_a_fifth_and_do_not_take_it_back() {
        let places = Arc::new(Places::default());
        let crowd = crowd(&places, 1..=4);
        let new = places.take(address(5), nowhere).unwrap();
        assert!(
            must_leave(&crowd[0]) && !must_leave(&crowd[1]),
            "the oldest of those that have the most"
        );
        assert_eq!((has(&places, address(1)), has(&places, address(5))), (OF_ONE - 1, 1));
        assert!(
            places.take(address(1), nowhere).is_none(),
            "it has as many as the others, but for one"
        );
        assert!(!must_leave(&new));
        // A browser opens more than one.
        let more: Vec<_> = (0..5).map(|_| places.take(address(5), nowhere).unwrap()).collect();
        assert_eq!(has(&places, address(5)), 1 + more.len());
    }

    #[test]
    fn who_is_signed_in_has_places_that_nobody_else_takes_and_loses_none() {
        let places = Arc::new(Places::default());
        let home = |of: IpAddr| of == address(9);
        let phone: Vec<_> = (0..OF_ONE).map(|_| places.take(address(9), home).unwrap()).collect();
        let strangers: Vec<_> = (10..=200).filter_map(|last| places.take(address(last), home)).collect();
        assert!(strangers.len() > CONNECTIONS);
        assert_eq!(has(&places, address(9)), OF_ONE);
        assert!(!phone.iter().any(must_leave));
        drop((phone, strangers));
        let again = crowd(&places, 210..=213);
        assert_eq!(places.taken().len(), CONNECTIONS - KEPT);
        let phone: Vec<_> = (0..OF_ONE).map(|_| places.take(address(9), home).unwrap()).collect();
        assert!(!again.iter().any(must_leave), "nor does anybody have to leave for it");
        assert_eq!(has(&places, address(9)), phone.len());
    }

    #[test]
    fn page_may_take_nothing_from_anybody_but_the_car() {
        assert!(!POLICY.contains("http") && !POLICY.contains("unsafe") && !POLICY.contains('*'));
        assert!(POLICY.starts_with("default-src 'none'"));
    }
}
