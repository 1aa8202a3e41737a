//! The adapter's side of the link: listens, checks who calls, and hands everything to an [`Adapter`].
//!
//! [`serve`] is called by the virtual kubelet and by tests. It keeps nothing of a car but its session. Never: a ping to an idle
//! car; a car that is heard of nowhere else is known by its silence.

mod adapter;
mod connection;
mod handle;
mod registry;
mod services;
mod session;

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kerbside_core::clock::Clock;
use kerbside_core::rate::{Buckets, Rate, session as session_rate};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

pub use adapter::{
    Adapter, Arrival, Ended, EnrolmentRequest, FromCar, Greeting, Held, Issued, LogStream, OutputStream, Refusal,
    SignedReceipt, TunnelEnds, TunnelStream,
};
pub use handle::SessionHandle;

pub use crate::tls::{ServerTls, TlsError};

use crate::MESSAGE_LIMIT;
use crate::fault::Fault;
use crate::handshake::{SUPPORTED, VersionRange};
use crate::proto::enrolment_server::EnrolmentServer;
use crate::proto::link_server::LinkServer;
use crate::rate_limit::{RateLimit, Rates};

/// One session, one upload and some logs at a time are what a car needs.
const STREAMS: u32 = 32;

/// What may be on its way in one stream. A bulk transfer fills the uplink's queue with no more than this before a heartbeat
/// gets its turn: a second at 1 Mbit/s.
const STREAM_WINDOW: u32 = 128 * 1024;

/// Far more than all streams together can take, so that bulk transfers that nobody reads never hold up the session. It costs
/// nothing, for what is kept is bounded by the streams' windows. And h2 closes a connection on which more small frames than
/// half of this pays for wait to be read: a log of short lines that nobody reads must not get that far.
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;

/// Headers of ours are far smaller.
const HEADER_LIMIT: u32 = 16 * 1024;

/// Cars whose receipts are counted: more than an adapter has. About 64 bytes each.
const CARS_COUNTED: usize = 65_536;

/// How long calls may take to end after the last session has.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// How an adapter serves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// The versions it speaks.
    pub versions: VersionRange,
    /// How long a TLS handshake may take, and then `Hello`.
    pub handshake_timeout: Duration,
    /// A connection from which nothing came for so long is closed. More than three heartbeats of an idle car.
    pub silence: Duration,
    /// TLS handshakes at once; more wait their turn. Bounds the memory that strangers and ten thousand returning cars take, and
    /// is high enough that strangers who never finish theirs do not keep cars out.
    pub handshakes: usize,
    /// Enrolments per address.
    pub enrolments: Rates,
    /// What a car may say in its session. What is more waits in its stream, and ends the session if it goes on.
    pub session: session_rate::Rates,
    /// Receipts per car.
    pub receipts: Rate,
    /// How long cars have to go elsewhere when the adapter shuts down.
    pub drain: Duration,
}

impl Options {
    /// The usual ones.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            versions: SUPPORTED,
            handshake_timeout: Duration::from_secs(10),
            silence: Duration::from_secs(70),
            handshakes: 4096,
            enrolments: Rates::default(),
            session: session_rate::Rates::default(),
            // One per attempt: what a car that comes back after weeks brings, and then more than it can work.
            receipts: Rate {
                burst: 1_000,
                every: Duration::from_millis(200),
            },
            drain: Duration::from_secs(20),
        }
    }
}

/// The link cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("failed to serve the link")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Serves the link until `shutdown`, and then as long as cars need to go elsewhere, at most `options.drain`.
pub async fn serve<A: Adapter>(
    listener: TcpListener,
    tls: ServerTls,
    adapter: Arc<A>,
    options: Options,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let drain = options.drain;
    let shared = Arc::new(services::Shared {
        adapter,
        enrolments: Mutex::new(RateLimit::new(options.enrolments)),
        receipts: Mutex::new(Buckets::new(options.receipts, CARS_COUNTED)),
        options: options.clone(),
        registry: registry::Registry::default(),
    });
    let services = services::Services(Arc::clone(&shared));
    // A little room only: a connection that waits here holds a handshake's work already.
    let (ready, connections) = mpsc::channel(16);
    let accepting = tokio::spawn(connection::accept(listener, tls, options, ready));
    let (stop, stopped) = oneshot::channel::<()>();
    let mut serving = pin!(
        Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(STREAMS)
            .http2_max_header_list_size(HEADER_LIMIT)
            .http2_keepalive_interval(None)
            .add_service(EnrolmentServer::new(services.clone()).max_decoding_message_size(MESSAGE_LIMIT))
            .add_service(LinkServer::new(services).max_decoding_message_size(MESSAGE_LIMIT))
            .serve_with_incoming_shutdown(ReceiverStream::new(connections), async {
                // An error means that the sender is gone, which is a reason to stop as well.
                let _ = stopped.await;
            })
    );
    tokio::select! {
        served = &mut serving => {
            accepting.abort();
            return Ok(served?);
        }
        () = shutdown => {}
    }
    let sessions = shared.registry.begin_drain();
    tracing::info!(sessions = sessions.len(), "draining");
    for session in &sessions {
        session.drain(drain);
    }
    tokio::select! {
        served = &mut serving => {
            accepting.abort();
            return Ok(served?);
        }
        // An error means that time is up, and the rest is closed.
        _ = timeout(drain, shared.registry.empty()) => {}
    }
    for session in sessions {
        session.close(Fault::unavailable("this adapter is gone: connect again"));
    }
    accepting.abort();
    // An error means that nobody waits for it.
    let _ = stop.send(());
    match timeout(LAST_CALLS, serving).await {
        Ok(served) => Ok(served?),
        Err(_) => Ok(()),
    }
}
