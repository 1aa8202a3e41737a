//! Connections to ports: streams in pairs over SPDY/3.1, on a connection of its own or as messages of a WebSocket.
//!
//! For each connection that kubectl takes, it begins a stream of errors and one of data, with the port and a number that pairs them. Each pair is a
//! tunnel of its own, asked of the car when both are there. An error on one says so on its own stream and leaves the others alone.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use kerbside_link::proto::{PortForward, TunnelPart, open_tunnel};
use kerbside_link::server::TunnelEnds;
use kerbside_spdy::{Connection, Limits, Reader, Role, Stream, Writer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::Found;
use super::remote_command::{ERROR, STDIN, STDOUT};
use super::upgrade::Transport;
use crate::tunnels::{Open, TunnelDesk};

/// As a kubelet's: a stream whose other half does not come by then is given up.
const CREATION: Duration = Duration::from_secs(30);
/// Connections of one kubectl at a time; the car has a bound of its own.
const MOST: usize = 64;

/// Until whoever asked has gone.
pub(super) async fn run(transport: Transport, desk: Arc<TunnelDesk>, found: Found) {
    match transport {
        Transport::Spdy(io) => serve(io, desk, found).await,
        Transport::Socket(socket, _) => serve(joined(*socket), desk, found).await,
    }
}

/// A WebSocket's messages as one stream of bytes.
fn joined(socket: WebSocket) -> impl AsyncRead + AsyncWrite + Send + 'static {
    let (to, from) = socket.split();
    let from = from.filter_map(|message| async {
        match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(Message::Text(_)) => Some(Err(io::Error::other("a message of text"))),
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        }
    });
    let to = to
        .with(async |bytes: Bytes| Ok::<_, axum::Error>(Message::Binary(bytes)))
        .sink_map_err(io::Error::other);
    tokio::io::join(
        StreamReader::new(Box::pin(from)),
        SinkWriter::new(CopyToBytes::new(Box::pin(to))),
    )
}

/// A stream that waits for its other half.
struct Half {
    stream: Stream,
    until: Instant,
}

async fn serve<IO>(io: IO, desk: Arc<TunnelDesk>, found: Found)
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let limits = Limits {
        streams: 2 * MOST,
        ..Limits::default()
    };
    let (mut connection, driver) = Connection::new(io, Role::Server, limits);
    let driver = tokio::spawn(driver);
    let found = Arc::new(found);
    let (mut halves, mut forwards) = (HashMap::<String, Half>::new(), JoinSet::new());
    loop {
        let oldest = halves.values().map(|h| h.until).min();
        let patience = async {
            match oldest {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stream = connection.accept() => match stream {
                None => break,
                Some(stream) => {
                    if let Some(pair) = paired(&mut halves, stream) {
                        forwards.spawn(forward(Arc::clone(&desk), Arc::clone(&found), pair));
                    }
                }
            },
            // Dropped, and so reset.
            () = patience => halves.retain(|_, h| h.until > Instant::now()),
            Some(_) = forwards.join_next() => {}
        }
    }
    forwards.shutdown().await;
    drop((halves, connection));
    // An error says why they have gone, which is no matter.
    let _ = driver.await;
}

struct Pair {
    port: u16,
    data: Stream,
    error: Stream,
}

/// Both halves, if this is the second; a stream that makes no sense is dropped, and so reset.
fn paired(halves: &mut HashMap<String, Half>, stream: Stream) -> Option<Pair> {
    let port = stream.headers().get("port")?.parse::<u16>().ok().filter(|p| *p != 0)?;
    let data = match stream.headers().get("streamtype")? {
        "data" => true,
        "error" => false,
        _ => return None,
    };
    // Clients of before 2015 number nothing, and begin the stream of errors right before the other.
    let id = stream.headers().get("requestid").map(str::to_owned);
    let id = id.unwrap_or_else(|| {
        (if data {
            stream.id().saturating_sub(2)
        } else {
            stream.id()
        })
        .to_string()
    });
    let Some(other) = halves.remove(&id) else {
        let until = Instant::now() + CREATION;
        halves.insert(id, Half { stream, until });
        return None;
    };
    let other_is_data = other.stream.headers().get("streamtype") == Some("data");
    match (data, other_is_data) {
        (true, false) => Some(Pair {
            port,
            data: stream,
            error: other.stream,
        }),
        (false, true) => Some(Pair {
            port,
            data: other.stream,
            error: stream,
        }),
        _ => None,
    }
}

async fn forward(desk: Arc<TunnelDesk>, found: Arc<Found>, pair: Pair) {
    let Pair { port, data, error } = pair;
    let (_errors, errors) = error.split();
    let what = open_tunnel::What::PortForward(PortForward { port: port.into() });
    let why = match desk.open(found.session.clone(), found.request(what)).await {
        Ok(open) => flow(open, data).await,
        Err(fault) => Some(fault.message().to_owned()),
    };
    said(errors, &found, port, why).await;
}

/// As a kubelet says it, on the stream that kubectl reads for it.
async fn said(mut errors: Writer, found: &Found, port: u16, why: Option<String>) {
    if let Some(why) = why {
        let name = found.pod.metadata.name.as_deref().unwrap_or_default();
        let uid = found.uid();
        let text = format!("error forwarding port {port} to pod {name}, uid {uid}: {why}");
        // Nobody hears it any more.
        let _ = errors.write(text.into()).await;
    }
    let _ = errors.finish().await;
}

/// Until the connection in the car has ended; why, if it did not just close.
async fn flow(open: Open, data: Stream) -> Option<String> {
    let Open {
        ends: TunnelEnds { mut from_car, to_car },
        asked: _asked,
    } = open;
    let (reader, mut writer) = data.split();
    let up = upwards(reader, to_car);
    let down = async {
        loop {
            let part = match from_car.next().await {
                Some(Ok(part)) => part,
                Some(Err(fault)) => return Some(fault.message().to_owned()),
                None => return Some("the vehicle has gone".to_owned()),
            };
            match part.channel {
                ERROR if part.data.is_empty() => return None,
                // The last word: why, or (above) that it has just closed.
                ERROR => return Some(String::from_utf8_lossy(&part.data).into_owned()),
                STDOUT => writer.write(part.data).await.ok()?,
                _ => {}
            }
        }
    };
    let why = tokio::select! {
        why = down => why,
        // The client gave the connection up.
        () = up => None,
    };
    if why.is_none() {
        let _ = writer.finish().await;
    }
    why
}

/// Returns only if the stream was reset: what was finished leaves the other direction alone.
async fn upwards(mut reader: Reader, to_car: tokio::sync::mpsc::Sender<TunnelPart>) {
    let part = |data, end| TunnelPart {
        channel: STDIN,
        data,
        end,
        ..TunnelPart::default()
    };
    while let Some(bytes) = reader.read().await {
        if to_car.send(part(bytes, false)).await.is_err() {
            return std::future::pending().await;
        }
    }
    if !reader.is_reset() {
        let _ = to_car.send(part(Bytes::new(), true)).await;
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kerbside_spdy::Headers;

    /// Streams as a client begins them, at the server: each with its type, port and number, as far as it has them.
    async fn begun(all: &str) -> Vec<Stream> {
        let (near, far) = tokio::io::duplex(4096);
        let (client, driver) = Connection::new(near, Role::Client, Limits::default());
        let (mut server, serving) = Connection::new(far, Role::Server, Limits::default());
        tokio::spawn(driver);
        tokio::spawn(serving);
        let mut streams = Vec::new();
        for one in all.split(", ") {
            let names = ["streamtype", "port", "requestid"];
            let headers: Headers = names.into_iter().zip(one.split(' ')).collect();
            let streams_of = client.opener();
            let (begun, accepted) = futures::join!(streams_of.open(headers), server.accept());
            begun.unwrap();
            streams.push(accepted.unwrap());
        }
        streams
    }

    #[rstest::rstest]
    #[case::numbered("error 80 7, data 80 7", 1)]
    #[case::data_first("data 80 7, error 80 7", 1)]
    #[case::not_numbered("error 80, data 80", 1)]
    #[case::of_two("error 80 1, data 80 2", 0)]
    #[case::twice_the_same("error 80 1, error 80 1", 0)]
    #[case::no_port("error, data", 0)]
    #[case::port_zero("error 0, data 0", 0)]
    #[case::other_type("x 80, y 80", 0)]
    #[tokio::test]
    async fn streams_are_paired_by_their_number(#[case] streams: &str, #[case] pairs: usize) {
        let mut halves = HashMap::new();
        let found = begun(streams)
            .await
            .into_iter()
            .filter_map(|s| paired(&mut halves, s))
            .count();
        assert_eq!(found, pairs);
    }
}
