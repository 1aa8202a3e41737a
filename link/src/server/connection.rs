//! Accepts connections: TCP, TLS handshake, who it is; and ends those from which nothing comes.
//!
//! Feeds tonic. A car that is idle is never pinged, so a connection whose car has vanished shows itself only by its silence.
//! Never: a handshake that holds up another, or more handshakes at once than the limit.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use kerbside_core::ids::VehicleId;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::Options;
use crate::identity::{not_after, vehicle_of};
use crate::tls::ServerTls;

/// How long a refused peer may take to read why.
const LINGER: Duration = Duration::from_secs(2);

/// Who is at the other end; every call finds it in its extensions.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// `None`: it has shown no certificate. A certificate here leads to the link's CA; whose it is may still be unreadable.
    pub(super) car: Option<Result<Car, String>>,
}

#[derive(Debug, Clone)]
pub(super) struct Car {
    pub(super) vehicle: VehicleId,
    pub(super) not_after: Timestamp,
}

/// A connection over which a peer speaks HTTP/2.
#[derive(Debug)]
pub(super) struct Connection {
    io: TlsStream<TcpStream>,
    peer: Peer,
    silence: Duration,
    silent: Pin<Box<Sleep>>,
}

/// Accepts for ever. Ends when nobody takes its connections any more.
pub(super) async fn accept(
    listener: TcpListener,
    tls: ServerTls,
    options: Options,
    ready: mpsc::Sender<Result<Connection, io::Error>>,
) {
    let handshakes = Arc::new(Semaphore::new(options.handshakes));
    loop {
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most of the time: others must end before it can go on.
                tracing::warn!(%error, "failed to accept connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, ready) = (tls.clone(), ready.clone());
        let (limit, silence) = (options.handshake_timeout, options.silence);
        tokio::spawn(async move {
            let shaken = timeout(limit, handshake(tcp, address, &tls)).await;
            drop(permit);
            match shaken {
                Ok(Ok((io, peer))) => {
                    let connection = Connection {
                        io,
                        peer,
                        silence,
                        silent: Box::pin(sleep(silence)),
                    };
                    // An error means that the server is gone, and the connection with it.
                    let _ = ready.send(Ok(connection)).await;
                }
                // Whoever is refused may be a car all the same: its address is for who asks for it by the level.
                Ok(Err(error)) => tracing::debug!(peer = %address, %error, "refused connection"),
                Err(_) => tracing::debug!(peer = %address, "gave up on a TLS handshake"),
            }
        });
    }
}

async fn handshake(
    tcp: TcpStream,
    address: SocketAddr,
    tls: &ServerTls,
) -> Result<(TlsStream<TcpStream>, Peer), io::Error> {
    tcp.set_nodelay(true)?;
    match TlsAcceptor::from(tls.current()).accept(tcp).into_fallible().await {
        Ok(io) => {
            let peer = Peer { address, car: car(&io) };
            Ok((io, peer))
        }
        Err((error, mut tcp)) => {
            // Closing with unread bytes would reset the connection, and the peer would not see the alert that tells it why.
            tokio::spawn(async move {
                let _ = timeout(LINGER, async {
                    tcp.shutdown().await?;
                    while tcp.read(&mut [0; 512]).await? > 0 {}
                    io::Result::Ok(())
                })
                .await;
            });
            Err(error)
        }
    }
}

fn car(io: &TlsStream<TcpStream>) -> Option<Result<Car, String>> {
    let (_, session) = io.get_ref();
    let leaf = session.peer_certificates()?.first()?;
    let read = || {
        Ok(Car {
            vehicle: vehicle_of(leaf)?,
            not_after: not_after(leaf)?,
        })
    };
    Some(read().map_err(|e: crate::identity::IdentityError| e.to_string()))
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, buf) {
            let next = Instant::now() + self.silence;
            self.silent.as_mut().reset(next);
            return Poll::Ready(read);
        }
        self.silent.as_mut().poll(cx).map(|()| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "nothing came from the peer for too long",
            ))
        })
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
