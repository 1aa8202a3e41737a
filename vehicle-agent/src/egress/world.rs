//! What is beyond the car: names, addresses, connections.
//!
//! Called by `dial` alone. A trait, so that tests have a world of their own. It judges nothing.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use ipnet::IpNet;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{KeepAlive, RcvBuf, SndBuf, TcpKeepCount, TcpKeepIdle, TcpKeepInterval};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::addresses;
use crate::stream::Stream;

/// For a name to become addresses.
const LOOKUP: Duration = Duration::from_secs(10);
/// For one address to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Questions for names at a time, for all Pods of the car together.
const LOOKUPS: usize = 4;
/// What the kernel keeps of a connection in each direction. By this the other end is held to the rate, and so much at most goes on its way
/// yet when the brake is pulled.
pub(super) const BUFFER: usize = 64 << 10;
/// For how long the car's own addresses are known.
const FRESH: Duration = Duration::from_secs(1);

/// What is beyond a car.
pub(super) trait World: Send + Sync {
    /// The addresses of a name; none for one that nobody knows.
    fn look_up(&self, name: &str) -> BoxFuture<'_, Vec<IpAddr>>;
    /// Connects to this very address.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Stream>>;
    /// The car's own addresses now, each with the network on its wire: it moves from one network to another.
    fn own_addresses(&self) -> io::Result<Vec<IpNet>>;
}

/// The real one.
#[derive(Debug)]
pub(super) struct Real {
    lookups: Arc<Semaphore>,
    own: Mutex<Option<(Instant, Vec<IpNet>)>>,
}

impl Default for Real {
    fn default() -> Self {
        Self {
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            own: Mutex::default(),
        }
    }
}

impl World for Real {
    fn look_up(&self, name: &str) -> BoxFuture<'_, Vec<IpAddr>> {
        let name = name.to_owned();
        async move {
            // Never closed.
            let Ok(permit) = Arc::clone(&self.lookups).acquire_owned().await else {
                return Vec::new();
            };
            let found = tokio::task::spawn_blocking(move || {
                let found = (name.as_str(), 0).to_socket_addrs();
                // Only now: a question that nobody waits for any more is one still.
                drop(permit);
                found
            });
            let Ok(Ok(Ok(found))) = timeout(LOOKUP, found).await else {
                return Vec::new();
            };
            found.map(|address| address.ip()).collect()
        }
        .boxed()
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Stream>> {
        async move {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4()?,
                SocketAddr::V6(_) => TcpSocket::new_v6()?,
            };
            setsockopt(&socket, RcvBuf, &BUFFER)?;
            setsockopt(&socket, SndBuf, &BUFFER)?;
            socket.set_nodelay(true)?;
            notice_silence(&socket)?;
            let connected = timeout(ANSWER, socket.connect(address)).await;
            let stream = connected.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))?;
            Ok(Box::pin(stream) as Stream)
        }
        .boxed()
    }

    fn own_addresses(&self) -> io::Result<Vec<IpNet>> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        match &*own {
            Some((at, known)) if at.elapsed() < FRESH => Ok(known.clone()),
            _ => {
                let now = addresses::own()?;
                *own = Some((Instant::now(), now.clone()));
                Ok(now)
            }
        }
    }
}

/// An end that is gone without a word, as when the car has come into another network, is noticed within some minutes.
fn notice_silence(socket: &TcpSocket) -> io::Result<()> {
    setsockopt(socket, KeepAlive, &true)?;
    setsockopt(socket, TcpKeepIdle, &60)?;
    setsockopt(socket, TcpKeepInterval, &20)?;
    setsockopt(socket, TcpKeepCount, &4)?;
    Ok(())
}
