//! The agent's door for the container engine: a registry on the car's loopback address that passes on what the agent may fetch.
//!
//! Opened by the first pull. A name at the door is a ticket: 128 random bits that stand for one image and its credentials while one pull
//! goes on; nobody else can use it or guess it. What must never happen: a credential that leaves the agent, or a fetch for which no
//! pull goes on.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use futures::TryStreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use oci_client::Reference;
use serde::Deserialize;
use tokio::net::TcpListener;

use super::{ImageError, Images, Inner};

const DIGEST: &str = "docker-content-digest";
const VERSION: &str = "docker-distribution-api-version";
/// Of a manifest that does not say it.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What may be fetched.
#[derive(Debug, Clone)]
pub(super) struct Admitted {
    image: Reference,
    credentials: BTreeMap<String, String>,
}

/// The door's state: open or not, and who may come.
#[derive(Debug, Default)]
pub(super) struct Door {
    port: tokio::sync::OnceCell<u16>,
    tickets: Arc<Mutex<HashMap<String, Admitted>>>,
}

/// The right to fetch one image, until it is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    number: String,
    name: String,
    tickets: Arc<Mutex<HashMap<String, Admitted>>>,
}

impl Ticket {
    /// How the engine calls the image, without a tag or digest.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut tickets = self.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.remove(&self.number);
    }
}

impl Images {
    /// Lets the engine fetch an image.
    pub(super) async fn admit(
        &self,
        image: Reference,
        credentials: BTreeMap<String, String>,
    ) -> Result<Ticket, ImageError> {
        let door = &self.inner.door;
        let opened = door.port.get_or_try_init(|| open(Arc::downgrade(&self.inner)));
        let port = opened.await.map_err(ImageError::Door)?;
        let number = format!("{:032x}", rand::random::<u128>());
        let admitted = Admitted { image, credentials };
        let mut tickets = door.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.insert(number.clone(), admitted);
        Ok(Ticket {
            name: format!("127.0.0.1:{port}/{number}"),
            number,
            tickets: Arc::clone(&door.tickets),
        })
    }
}

async fn open(inner: Weak<Inner>) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of files for a moment.
                tokio::task::yield_now().await;
                continue;
            };
            if inner.strong_count() == 0 {
                return;
            }
            let inner = inner.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let inner = inner.upgrade();
                    async move { Ok::<_, Infallible>(answer(inner, &request).await) }
                });
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                if let Err(error) = served.await {
                    tracing::debug!(%error, "the container engine broke off a fetch");
                }
            });
        }
    });
    Ok(port)
}

async fn answer(inner: Option<Arc<Inner>>, request: &Request<Incoming>) -> Response<Body> {
    let Some(inner) = inner else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "UNKNOWN", "the agent ends");
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "nothing is taken here");
    }
    let path = request.uri().path();
    let Some(path) = path.strip_prefix("/v2/") else {
        return refuse(StatusCode::NOT_FOUND, "UNSUPPORTED", "only images are given here");
    };
    if path.is_empty() {
        return Response::new(full(Bytes::new()));
    }
    let mut parts = path.splitn(3, '/');
    let (Some(number), Some(kind), Some(what)) = (parts.next(), parts.next(), parts.next()) else {
        return refuse(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "no such path");
    };
    let admitted = {
        let tickets = inner.door.tickets.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.get(number).cloned()
    };
    let Some(admitted) = admitted else {
        return refuse(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "no pull of this name goes on");
    };
    let given = match kind {
        "manifests" => manifest(&inner, &admitted, what).await,
        "blobs" => blob(&inner, &admitted, what).await,
        _ => {
            return refuse(
                StatusCode::NOT_FOUND,
                "UNSUPPORTED",
                "only manifests and blobs are given here",
            );
        }
    };
    match given {
        Ok(response) if request.method() == Method::HEAD => {
            let (head, _) = response.into_parts();
            Response::from_parts(head, full(Bytes::new()))
        }
        Ok(response) => response,
        // In the words of the registry: the engine's own error carries them to whoever waits for the image.
        Err(error) => refuse(StatusCode::BAD_GATEWAY, "UNAVAILABLE", &error.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    media_type: Option<String>,
}

async fn manifest(inner: &Inner, admitted: &Admitted, digest: &str) -> Result<Response<Body>, ImageError> {
    let wanted = admitted.image.clone_with_digest(digest.to_owned());
    let (bytes, digest) = inner.registry.manifest(&wanted, &admitted.credentials).await?;
    let said = serde_json::from_slice::<Typed>(&bytes)
        .ok()
        .and_then(|typed| typed.media_type);
    let length = bytes.len() as u64;
    let mut response = Response::new(full(bytes.into()));
    describe(
        &mut response,
        &said.unwrap_or_else(|| MANIFEST.to_owned()),
        &digest,
        Some(length),
    );
    Ok(response)
}

async fn blob(inner: &Inner, admitted: &Admitted, digest: &str) -> Result<Response<Body>, ImageError> {
    let (length, stream) = inner
        .registry
        .stream(&admitted.image, digest, &admitted.credentials)
        .await?;
    let body = StreamBody::new(stream.map_ok(Frame::data));
    let mut response = Response::new(UnsyncBoxBody::new(body));
    describe(&mut response, "application/octet-stream", digest, length);
    Ok(response)
}

fn describe(response: &mut Response<Body>, kind: &str, digest: &str, length: Option<u64>) {
    let headers = response.headers_mut();
    headers.insert(VERSION, HeaderValue::from_static("registry/2.0"));
    for (name, value) in [(CONTENT_TYPE.as_str(), kind), (DIGEST, digest)] {
        // What a header cannot hold, the engine can do without.
        if let (Ok(name), Ok(value)) = (hyper::header::HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, length.into());
    }
}

fn full(bytes: Bytes) -> Body {
    UnsyncBoxBody::new(Full::new(bytes).map_err(|never: Infallible| match never {}))
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let text = serde_json::json!({"errors": [{"code": code, "message": message}]}).to_string();
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
