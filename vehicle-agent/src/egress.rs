//! The way of Pods to the world: what the owner lets them reach, at the owner's rate, and nothing else.
//!
//! A Pod's packets lead nowhere. Where the owner's document has `egress`, the agent listens in the Pod's own network, on its loopback, as an
//! HTTP proxy (`CONNECT`, and requests for `http://`), and connects for the Pod from the car's. So no rule of a firewall has to be right,
//! and nothing of the car has an address that a program could send a packet to (docs/adr/0010).
//!
//! The container runtime opens one [`Proxy`] for each sandbox; the policy loop says, by the outlook and the brake, what holds. What must never
//! happen: a connection to an address that was not judged, one that goes on after the owner has taken its address back, or a byte
//! that is moved while the car's brake is on.
//!
//! | file | what |
//! |---|---|
//! | `gate` | what every connection of the car has to pass: the owner's terms, the brake, the rate |
//! | `bucket` | the rate: pure |
//! | `dial` | from a name to a connection |
//! | `proxy` | what is spoken with the programs |
//! | `pump` | bytes from one end to the other |
//! | `world` | names, addresses and connections beyond the car |
//! | `variables` | how programs are told |

mod bucket;
mod dial;
mod gate;
mod proxy;
mod pump;
mod variables;
mod world;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kerbside_core::owner;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBuf, SndBuf};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use self::gate::{Direction, Gate};
pub use self::gate::{Totals, TotalsNow};
pub(crate) use self::variables::tell;
use self::world::{Real, World};
use crate::outlook::Outlook;

/// The way of all Pods of a car.
#[derive(Debug, Clone)]
pub struct Proxies {
    car: Arc<Car>,
}

/// What all of them share.
struct Car {
    gate: Gate,
    world: Box<dyn World>,
    connections: Arc<Semaphore>,
}

/// One Pod, and its place among the others: it waits for itself before it waits with them.
struct Pod {
    car: Arc<Car>,
    attempt: String,
    sent: Mutex<()>,
    received: Mutex<()>,
    looks_up: Mutex<()>,
    /// When it may ask for the next connection.
    asks: Mutex<Option<Instant>>,
}

/// Connections of all Pods of a car at a time: each takes two of the files that the agent may have open.
const CONNECTIONS: usize = 128;
/// Between two connections that a Pod asks for: what it takes to find out that one is not allowed is the agent's time.
const ASKS: Duration = Duration::from_millis(50);

impl Pod {
    fn new(car: &Arc<Car>, attempt: &str) -> Self {
        Self {
            car: Arc::clone(car),
            attempt: attempt.to_owned(),
            sent: Mutex::default(),
            received: Mutex::default(),
            looks_up: Mutex::default(),
            asks: Mutex::default(),
        }
    }

    /// Waits until so many bytes may go this way. `false`: never.
    async fn pass(&self, direction: Direction, bytes: usize) -> bool {
        let turn = match direction {
            Direction::Sent => &self.sent,
            Direction::Received => &self.received,
        };
        let _turn = turn.lock().await;
        self.car.gate.pass(direction, bytes).await
    }

    /// Waits until it may ask for another connection.
    async fn ask(&self) {
        let mut next = self.asks.lock().await;
        if let Some(next) = *next {
            sleep_until(next).await;
        }
        *next = Some(Instant::now() + ASKS);
    }
}

impl Car {
    fn new(gate: Gate, world: Box<dyn World>) -> Self {
        Self {
            gate,
            world,
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }
}

impl fmt::Debug for Car {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.gate.fmt(f)
    }
}

impl Proxies {
    /// By the document in the outlook, while the brake is off. Counts into `totals`.
    pub fn new(outlook: watch::Receiver<Outlook>, brake: watch::Receiver<bool>, totals: Arc<Totals>) -> Self {
        let car = Car::new(Gate::new(outlook, brake, totals), Box::new(Real::default()));
        Self { car: Arc::new(car) }
    }

    /// Whether the owner lets Pods reach anything now.
    pub fn is_open(&self) -> bool {
        self.car.gate.terms(owner::Egress::is_nothing) == Some(false)
    }

    /// Serves the programs of `attempt`, who alone must reach `listener`.
    pub fn serve(&self, attempt: &str, listener: std::net::TcpListener) -> io::Result<Proxy> {
        listener.set_nonblocking(true)?;
        // Its connections have what it has: little that goes on its way when the brake is on.
        setsockopt(&listener, RcvBuf, &world::BUFFER)?;
        setsockopt(&listener, SndBuf, &world::BUFFER)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let pod = Arc::new(Pod::new(&self.car, attempt));
        let served = tokio::spawn(proxy::serve(listener, pod));
        Ok(Proxy {
            address,
            served: served.abort_handle(),
        })
    }
}

/// The way of one Pod. It is closed when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    served: AbortHandle,
}

impl Proxy {
    /// Where the Pod's programs find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection by it, and lets go of the Pod's network.
    pub fn close(&self) {
        self.served.abort();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
