//! What a connection to an adapter is made of: TCP, or what a simulation puts in its place.
//!
//! Called for every connection, those of enrolment too; TLS and all above it are the same on each. A simulated car's radio can
//! swallow bytes without a word, as a tunnel does, and dials from an address of its own.

use std::fmt;
use std::io;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A connection: bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Makes connections.
pub trait Network: fmt::Debug + Send + Sync + 'static {
    /// Connects to `host` (a name or an IP address) at `port`. The caller gives up when it has waited long enough.
    fn connect(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Io>>>;
}

/// The machine's own network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

impl Network for Tcp {
    fn connect(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        async move {
            let tcp = TcpStream::connect((host, port)).await?;
            // A heartbeat is small and waits for nothing.
            tcp.set_nodelay(true)?;
            Ok(Box::new(tcp) as Box<dyn Io>)
        }
        .boxed()
    }
}
