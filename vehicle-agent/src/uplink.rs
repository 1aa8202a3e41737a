//! The car's way to the world: by which of its interfaces the cluster is reached, whether that costs by the byte, and how much went by it.
//!
//! One for each car. The link's connection goes by it ([`Uplink::tcp`]), and so tells from which address the cluster is reached: with several
//! interfaces the kernel has chosen one then, and no table of routes has to be understood. Registries and the world of Pods count by it and
//! ask it. The policy loop brings the date and the owner's word, and reads the count. What is counted for a month is written beside, so that
//! nothing waits for a disk. A simulated car has none: [`Uplink::default`] costs nothing and counts nothing. What must never happen: an
//! interface that nobody knows is taken for one that costs nothing, or a byte is not counted because the disk is slow.
//!
//! In `DIR/data.json` is the count of this month (`core::data::Kept`).

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::civil::Date;
use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::data::{Found, Kept, Month};
use kerbside_core::owner;
use kerbside_core::parked::Tri;
use kerbside_link::client::{Io, Network};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::addresses;
use crate::config::Car;
use crate::directory::{self, Directory};

/// The car's interfaces are read again when this is over: it moves from one network to another.
const FRESH: Duration = Duration::from_secs(1);
/// A disk that is full is no emptier a moment later.
const AGAIN: Duration = Duration::from_secs(10);
/// So long an agent that ends waits for a count that is being written; a disk that takes longer hangs.
const LAST: Duration = Duration::from_secs(2);

/// What the policy loop knows and the uplink needs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// The day by the owner's calendar, if the clock can be believed.
    pub date: Option<Date>,
    /// The owner lets data be moved for work that do not have to be.
    pub may_move: bool,
}

/// The car's way to the world. One that is empty costs nothing.
#[derive(Clone, Default)]
pub struct Uplink {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    car: Car,
    clock: Arc<dyn Clock>,
    file: PathBuf,
    state: Mutex<State>,
    /// A write is over.
    written: Condvar,
}

struct State {
    month: Month,
    may_move: bool,
    /// The car's own address from which the cluster was reached last.
    from: Option<IpAddr>,
    /// The interface that has it, and until when that is believed.
    interface: Option<(Option<String>, Boottime)>,
    /// The interface of which nobody says whether it costs, once that was told.
    unlisted: Option<String>,
    /// The count is being written.
    writing: bool,
    /// The disk did not take it: when that is tried again.
    again: Option<Boottime>,
}

impl fmt::Debug for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink").finish_non_exhaustive()
    }
}

impl Uplink {
    /// Goes on from what the disk knows of this month. Blocks.
    pub fn open(car: &Car, directory: &Directory, clock: &Arc<dyn Clock>) -> Self {
        let file = directory.data();
        let found = match std::fs::read(&file) {
            Ok(bytes) => Found::from(&bytes[..]),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(_) => Found::Unreadable,
        };
        if found == Found::Unreadable {
            tracing::error!(
                file = %file.display(),
                "what this month has had of the owner's data cannot be read: it counts as all, until the next"
            );
        }
        Self {
            inner: Some(Arc::new(Inner {
                car: car.clone(),
                clock: Arc::clone(clock),
                file,
                state: Mutex::new(State {
                    month: Month::new(found),
                    may_move: false,
                    from: None,
                    interface: None,
                    unlisted: None,
                    writing: false,
                    again: None,
                }),
                written: Condvar::new(),
            })),
        }
    }

    /// The machine's own network, by this way: for the link.
    pub fn tcp(&self) -> Arc<dyn Network> {
        Arc::new(Metering { uplink: self.clone() })
    }

    /// The way as the owner's terms see it. `connected`: the cluster is reached.
    pub fn now(&self, connected: bool) -> owner::Uplink {
        let Some(inner) = &self.inner else {
            return owner::Uplink::free();
        };
        let mut state = inner.state();
        let interface = inner.interface(&mut state);
        let metered = match interface {
            Some(name) => inner.is_metered(&name),
            // It is reached by something that nobody can name: as good as one that costs.
            None if connected => Tri::Yes,
            None => Tri::Unknown,
        };
        owner::Uplink {
            metered,
            moved: state.month.moved(),
        }
    }

    /// By which interface the cluster is reached, for the owner.
    pub fn interface(&self) -> Option<String> {
        let inner = self.inner.as_ref()?;
        inner.interface(&mut inner.state())
    }

    /// Whether anything is counted.
    pub fn is_there(&self) -> bool {
        self.inner.is_some()
    }

    /// Takes in what the policy loop has seen. To be called in a runtime.
    pub fn look(&self, seen: Seen) {
        let Some(inner) = &self.inner else { return };
        let mut state = inner.state();
        state.may_move = seen.may_move;
        if let Some(date) = seen.date {
            state.month.is(date);
        }
        inner.keep(&mut state);
    }

    /// Whether data for work may be moved that do not have to be.
    pub fn may_move(&self) -> bool {
        self.inner.as_ref().is_none_or(|inner| inner.state().may_move)
    }

    /// So many bytes have passed, either way. To be called in a runtime.
    pub fn count(&self, bytes: usize) {
        let Some(inner) = self.inner.as_ref().filter(|_| bytes > 0) else {
            return;
        };
        let mut state = inner.state();
        let metered = match inner.interface(&mut state) {
            Some(name) => inner.is_metered(&name) != Tri::No,
            None => true,
        };
        state.month.count(u64::try_from(bytes).unwrap_or(u64::MAX), metered);
        inner.keep(&mut state);
    }

    /// Writes down what this month has had: nothing more is counted. Blocks; but where a write hangs already it gives up soon, and never writes
    /// beside it, for both would write one file.
    pub fn close(&self) {
        let Some(inner) = &self.inner else { return };
        let state = inner
            .written
            .wait_timeout_while(inner.state(), LAST, |state| state.writing);
        let (mut state, _) = state.unwrap_or_else(PoisonError::into_inner);
        if state.writing {
            tracing::warn!("the disk hangs: after a restart this month has had what was written before");
            return;
        }
        let Some(kept) = state.month.at_the_end() else { return };
        // Nor does anybody begin to.
        state.writing = true;
        drop(state);
        let written = inner.write(kept);
        inner.state().writing = false;
        if let Err(error) = written {
            tracing::warn!(%error, "after a restart this month has had a little more of the owner's data than it had");
        }
    }

    fn reached_from(&self, address: SocketAddr) {
        let Some(inner) = &self.inner else { return };
        let mut state = inner.state();
        state.from = Some(address.ip().to_canonical());
        state.interface = None;
        inner.tell(&mut state);
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The interface that has the address from which the cluster was reached last.
    fn interface(&self, state: &mut State) -> Option<String> {
        let from = state.from?;
        let now = self.clock.boottime();
        if let Some((known, until)) = &state.interface
            && now < *until
        {
            return known.clone();
        }
        let found = addresses::interface_of(from).unwrap_or_default();
        state.interface = Some((found.clone(), now + FRESH));
        found
    }

    /// One of which nobody says anything is as good as one that costs.
    fn is_metered(&self, name: &str) -> Tri {
        if self.car.costs(name) == Some(false) {
            Tri::No
        } else {
            Tri::Yes
        }
    }

    /// Says once of an interface that nobody says anything of it, for whoever wonders why the car does not work.
    fn tell(&self, state: &mut State) {
        let unlisted = self.interface(state).filter(|name| self.car.costs(name).is_none());
        if unlisted.is_none() || unlisted == state.unlisted {
            return;
        }
        tracing::warn!(
            interface = unlisted,
            "the cluster is reached by an interface that car.yaml has neither in `meteredInterfaces` nor in `unmeteredInterfaces`: it counts as one that costs by the byte"
        );
        state.unlisted = unlisted;
    }

    /// Has the count of this month written, if that is due.
    fn keep(self: &Arc<Self>, state: &mut State) {
        let now = self.clock.boottime();
        if state.writing || state.again.is_some_and(|again| now < again) {
            return;
        }
        let Some(kept) = state.month.to_keep() else { return };
        state.writing = true;
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let written = inner.write(kept);
            let mut state = inner.state();
            state.writing = false;
            inner.written.notify_all();
            match written {
                Ok(()) => {
                    state.month.kept(kept);
                    state.again = None;
                }
                Err(error) => {
                    tracing::error!(%error, "what this month has had of the owner's data is not written; until it is, it counts as all");
                    state.month.not_kept();
                    state.again = Some(inner.clock.boottime() + AGAIN);
                }
            }
        });
    }

    fn write(&self, kept: Kept) -> io::Result<()> {
        directory::replace(&self.file, &serde_json::to_vec(&kept)?)
    }
}

/// The machine's own network, counted.
#[derive(Debug)]
struct Metering {
    uplink: Uplink,
}

impl Network for Metering {
    fn connect(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let uplink = self.uplink.clone();
        async move {
            let tcp = TcpStream::connect((host, port)).await?;
            // A heartbeat is small and waits for nothing.
            tcp.set_nodelay(true)?;
            uplink.reached_from(tcp.local_addr()?);
            Ok(Box::new(Counted { tcp, uplink }) as Box<dyn Io>)
        }
        .boxed()
    }
}

/// A connection of which every byte counts.
struct Counted {
    tcp: TcpStream,
    uplink: Uplink,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, buf);
        self.uplink.count(buf.filled().len().saturating_sub(before));
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.uplink.count(*bytes);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
