//! What somebody types in a container and reads: exec and attach, over the engine's streaming server.
//!
//! Called by a run's handle. The engine answers a request with an address on the car's own loopback, where the streams are SPDY/3.1 since
//! there are container engines. The channel of errors is handed on as it comes: it is the engine that knows how a command ended.

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use kerbside_link::TUNNEL_PARTS;
use kerbside_link::proto::{Streams, TunnelPart};
use kerbside_spdy::{Connection, Headers, Limits, Opener, Reader, Role, Writer};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Duration, timeout};

use super::client::Engine;
use super::proto;
use crate::runtime::Session;

const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: u32 = 4;

const PROTOCOL: &str = "v4.channel.k8s.io";
/// An engine that does not begin by then has failed.
const BEGIN: Duration = Duration::from_secs(30);
/// A Status of Kubernetes is far smaller.
const STATUS: usize = 64 << 10;

/// Runs a command in a container, or joins its program.
pub(super) async fn session(
    engine: &Engine,
    container: String,
    command: Option<Vec<String>>,
    streams: Streams,
) -> Result<Session, String> {
    let address = address(engine, container, command, streams).await?;
    let begun = timeout(BEGIN, begin(&address, streams));
    begun
        .await
        .map_err(|_| "the container engine does not begin".to_owned())?
}

async fn address(
    engine: &Engine,
    container_id: String,
    command: Option<Vec<String>>,
    streams: Streams,
) -> Result<String, String> {
    let Streams {
        stdin,
        stdout,
        stderr,
        tty,
    } = streams;
    let answered = if let Some(cmd) = command {
        let request = proto::ExecRequest {
            container_id,
            cmd,
            tty,
            stdin,
            stdout,
            stderr,
        };
        engine.exec(request).await.map(|answer| answer.url)
    } else {
        let request = proto::AttachRequest {
            container_id,
            stdin,
            tty,
            stdout,
            stderr,
        };
        engine.attach(request).await.map(|answer| answer.url)
    };
    answered.map_err(|error| error.message().to_owned())
}

async fn begin(address: &str, streams: Streams) -> Result<Session, String> {
    let io = upgrade(address).await?;
    let (connection, driver) = Connection::new(io, Role::Client, Limits::default());
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "a session with the container engine broke");
        }
    });
    let opener = connection.opener();
    // In this order, as every client begins them.
    let error = open(&opener, true, "error").await?;
    let stdin = open(&opener, streams.stdin, "stdin").await?;
    let stdout = open(&opener, streams.stdout, "stdout").await?;
    let stderr = open(&opener, streams.stderr, "stderr").await?;
    let resize = open(&opener, streams.tty, "resize").await?;
    let (to, typed) = mpsc::channel(TUNNEL_PARTS);
    let (tell, from) = mpsc::channel(TUNNEL_PARTS);
    tokio::spawn(async move {
        // The directions that nothing comes by are kept: to give one up would reset its stream.
        let (_stdin, stdin) = stdin.unzip();
        let (_resize, resize) = resize.unzip();
        let (stdout, _stdout) = stdout.unzip();
        let (stderr, _stderr) = stderr.unzip();
        let (error, _error) = error.unzip();
        let down = async {
            futures::join!(read(stdout, STDOUT, &tell), read(stderr, STDERR, &tell));
            ended(error, &tell).await;
        };
        tokio::select! {
            () = down => {}
            () = write(stdin, resize, typed) => {}
        }
        drop((opener, connection));
    });
    Ok(Session { to, from })
}

/// From a request to a connection that both sides may write on.
async fn upgrade(address: &str) -> Result<TokioIo<hyper::upgrade::Upgraded>, String> {
    let uri: Uri = address
        .parse()
        .map_err(|_| format!("the container engine's address makes no sense: {address}"))?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
    let authority =
        authority.ok_or("the container engine's streams are not on plain HTTP, as they are on a loopback")?;
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("the container engine's streams: {what}: {error}");
    let stream = TcpStream::connect(authority.as_str())
        .await
        .map_err(|e| failed("connect", &e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| failed("handshake", &e))?;
    tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, authority.as_str())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "SPDY/3.1")
        .header("X-Stream-Protocol-Version", PROTOCOL)
        .body(Empty::<Bytes>::new())
        .map_err(|e| failed("request", &e))?;
    let response = sender.send_request(request).await.map_err(|e| failed("request", &e))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(failed("upgrade", &response.status()));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|e| failed("upgrade", &e))?;
    Ok(TokioIo::new(upgraded))
}

async fn open(opener: &Opener, wanted: bool, name: &str) -> Result<Option<(Reader, Writer)>, String> {
    if !wanted {
        return Ok(None);
    }
    let begun = opener.open(Headers::new().with("streamType", name)).await;
    let stream = begun.map_err(|e| format!("the container engine's streams: {name}: {e}"))?;
    Ok(Some(stream.split()))
}

async fn read(reader: Option<Reader>, channel: u32, to: &mpsc::Sender<TunnelPart>) {
    let Some(mut reader) = reader else { return };
    while let Some(data) = reader.read().await {
        let part = TunnelPart {
            channel,
            data,
            ..TunnelPart::default()
        };
        if to.send(part).await.is_err() {
            return;
        }
    }
}

/// The engine's word on how it ended; without one nothing is said, and the other side knows that there is none.
async fn ended(reader: Option<Reader>, to: &mpsc::Sender<TunnelPart>) {
    let Some(mut reader) = reader else { return };
    let said = reader.read_to_end(STATUS).await.filter(|said| !said.is_empty());
    if let Some(data) = said {
        let part = TunnelPart {
            channel: ERROR,
            data: data.into(),
            end: true,
            ..TunnelPart::default()
        };
        // They have gone.
        let _ = to.send(part).await;
    }
}

/// What is typed, until whoever typed has gone.
async fn write(mut stdin: Option<Writer>, mut resize: Option<Writer>, mut typed: mpsc::Receiver<TunnelPart>) {
    while let Some(TunnelPart { channel, data, end, .. }) = typed.recv().await {
        let place = match channel {
            STDIN => &mut stdin,
            RESIZE => &mut resize,
            _ => continue,
        };
        if let Some(writer) = place {
            // A program that does not read any more may still print.
            let _ = writer.write(data).await;
        }
        if end && let Some(writer) = place.take() {
            let _ = writer.finish().await;
        }
    }
}
