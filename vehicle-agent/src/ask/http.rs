//! A request by HTTP, over a connection that is there.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, HOST, LOCATION, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::tls;
use crate::pod::HttpGet;
use crate::stream::Stream;

/// Nobody redirects more often for a good reason.
const REDIRECTS: usize = 10;
/// Of the body of a failure, so much is told, and no answer may be longer than the kubelet reads.
const TOLD: usize = 1 << 10;
const READ: usize = 10 << 10;

/// Asks, and follows redirects within the same server.
pub(super) async fn get(stream: TcpStream, get: &HttpGet) -> Result<(), String> {
    let server = stream.peer_addr().map_err(|e| e.to_string())?.to_string();
    let io: Stream = if get.tls {
        Box::pin(tls::connect(stream).await?)
    } else {
        Box::pin(stream)
    };
    let (mut sender, connection) = handshake(TokioIo::new(io)).await.map_err(|e| e.to_string())?;
    let talk = async {
        let mut path = get.path.clone();
        for _ in 0..=REDIRECTS {
            let response = send(&mut sender, get, &path, &server).await?;
            let status = response.status();
            match within(&response, get, &server).filter(|_| status.is_redirection()) {
                Some(next) => {
                    // The connection is used again, so the body goes first.
                    whole(response.into_body()).await?;
                    path = next;
                }
                // One that leads elsewhere is an answer, too.
                None if status.is_success() || status.is_redirection() => return Ok(()),
                None => {
                    let body = whole(response.into_body()).await.unwrap_or_default();
                    let text = String::from_utf8_lossy(&body[..body.len().min(TOLD)]).trim().to_owned();
                    let text = if text.is_empty() { text } else { format!(": {text}") };
                    return Err(format!("HTTP probe failed with statuscode: {}{text}", status.as_u16()));
                }
            }
        }
        Err(format!("more than {REDIRECTS} redirects"))
    };
    let (mut talk, mut connection) = (std::pin::pin!(talk), std::pin::pin!(connection));
    tokio::select! {
        biased;
        said = &mut talk => said,
        // A server that closes with its last word has said it: the rest is there to be read.
        _ = &mut connection => talk.await,
    }
}

/// A body, if it is no longer than is read of one.
async fn whole(body: hyper::body::Incoming) -> Result<Bytes, String> {
    let read = Limited::new(body, READ).collect().await;
    read.map(Collected::to_bytes).map_err(|e| e.to_string())
}

async fn send(
    sender: &mut SendRequest<Empty<Bytes>>,
    get: &HttpGet,
    path: &str,
    server: &str,
) -> Result<Response<hyper::body::Incoming>, String> {
    let mut request = Request::get(path);
    let said = |name: &str| get.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    for (name, value) in [(HOST, server), (ACCEPT, "*/*"), (USER_AGENT, "kube-probe/1.37")] {
        if !said(name.as_str()) {
            request = request.header(name, value);
        }
    }
    // An empty value of these two says that they are not to be sent.
    let headers = get.headers.iter().filter(|(_, value)| !value.is_empty());
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|e| format!("the request cannot be made: {e}"))?;
    sender.ready().await.map_err(|e| e.to_string())?;
    sender.send_request(request).await.map_err(|e| e.to_string())
}

/// The path of a redirect to the same server.
fn within(response: &Response<impl Sized>, get: &HttpGet, server: &str) -> Option<String> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(location.to_owned());
    }
    let scheme = if get.tls { "https://" } else { "http://" };
    let rest = location.strip_prefix(scheme)?.strip_prefix(server)?;
    match rest {
        "" => Some("/".to_owned()),
        rest if rest.starts_with('/') => Some(rest.to_owned()),
        _ => None,
    }
}
