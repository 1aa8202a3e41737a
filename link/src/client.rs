//! The car's side of the link: stays connected, says what the car has to say, brings what the adapter wants.
//!
//! Used by the vehicle agent and by simulated cars. It decides nothing about an attempt: the agent says what there is, and
//! gets [`Event`]s. Never: an agent that waits for the link; all it says is kept and sent when there is somebody to hear it.

mod bulk;
mod car;
mod connect;
mod context;
mod driver;
mod enrol;
mod events;
mod gather;
mod network;
mod renewal;
mod session;
mod tunnel;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kerbside_core::attempt::Heard;
use kerbside_core::clock::Clock;
use kerbside_core::ids::PodUid;
use tokio::sync::{Notify, mpsc, watch};

pub use bulk::UploadError;
pub use connect::ConnectError;
pub use enrol::{EnrolError, enrol, enrol_over};
pub use events::{Event, Events};
pub use network::{Io, Network, Tcp};
pub use tunnel::Tunnel;

use crate::handshake::{SUPPORTED, VersionRange};
use crate::heartbeat::BUSY;
use crate::identity::Identity;
use crate::proto::{AttemptStatus, CarState};

/// How a client connects.
#[derive(Debug, Clone)]
pub struct Config {
    /// The adapter: `https://host:port`.
    pub url: String,
    /// For people; at most 64 characters reach the adapter.
    pub agent_version: String,
    /// Random per start of the agent.
    pub instance: String,
    /// Who the car is.
    pub identity: Identity,
    /// What connections are made of.
    pub network: Arc<dyn Network>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// How long it waits for what.
    pub pace: Pace,
    /// The versions it speaks.
    pub versions: VersionRange,
    /// How long the first connection waits for the first [`Client::set_state`]: a car that has just started would say of itself what is not so.
    pub first_word: Duration,
}

impl Config {
    /// With the usual pace, over the machine's own network.
    pub fn new(
        url: impl Into<String>,
        agent_version: impl Into<String>,
        instance: impl Into<String>,
        identity: Identity,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            url: url.into(),
            agent_version: agent_version.into(),
            instance: instance.into(),
            identity,
            network: Arc::new(Tcp),
            clock,
            pace: Pace::default(),
            versions: SUPPORTED,
            first_word: Duration::ZERO,
        }
    }
}

/// How long a client waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// After the first failure: up to this, at random.
    pub first: Duration,
    /// After many failures.
    pub longest: Duration,
    /// After the adapter has refused the car as it is.
    pub refused_first: Duration,
    /// After it has done so many times.
    pub refused_longest: Duration,
    /// For a connection, and then for an answer to `Hello`.
    pub patience: Duration,
    /// A session that lasted this long ends a row of failures.
    pub settled: Duration,
    /// How often time is looked at, for timers stop while the car's computer sleeps.
    pub look: Duration,
    /// Between looks whether the certificate is due, and after a renewal that failed.
    pub renewal_first: Duration,
    /// After many renewals that failed.
    pub renewal_longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            // Shorter than an adapter that has just started waits for its cars.
            longest: Duration::from_secs(20),
            refused_first: Duration::from_secs(30),
            refused_longest: Duration::from_mins(15),
            patience: Duration::from_secs(10),
            settled: BUSY * 5,
            look: Duration::from_secs(5),
            renewal_first: Duration::from_mins(1),
            renewal_longest: Duration::from_hours(1),
        }
    }
}

/// Whether an adapter is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connection {
    /// One is.
    Connected {
        /// Of the session.
        epoch: u64,
    },
    /// None is.
    Disconnected {
        /// The newest reason, for people.
        why: String,
    },
}

/// A client that cannot even try.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The adapter's address is none.
    #[error("failed to start the link")]
    Address(#[from] ConnectError),
    /// The identity cannot be used.
    #[error("failed to start the link")]
    Identity(#[from] crate::tls::TlsError),
}

/// The agent's handle; clones are the same client. It runs until [`Client::shutdown`].
#[derive(Debug, Clone)]
pub struct Client {
    context: Arc<context::Context>,
}

impl Client {
    /// Starts a client, on the running tokio runtime, that has this to say. `on_renewed` writes a renewed identity down; if it
    /// cannot, the old one stays in use and renewal is tried again.
    pub fn start(
        config: Config,
        state: CarState,
        attempts: Vec<AttemptStatus>,
        on_renewed: impl Fn(&Identity) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<(Self, Events), StartError> {
        let home = config.url.parse()?;
        crate::tls::enrolled(&config.identity)?;
        let (hand_over, to_hand_over) = mpsc::channel(1);
        let events = Arc::new(events::EventBox::new(false));
        let why = "not connected yet".to_owned();
        let context = Arc::new(context::Context {
            home,
            network: config.network,
            agent_version: config.agent_version.chars().take(64).collect(),
            instance: config.instance,
            clock: config.clock,
            pace: config.pace,
            versions: config.versions,
            first_word: config.first_word,
            spoke: Notify::new(),
            on_renewed: Box::new(on_renewed),
            car: car::Car::new(state, attempts),
            events: Arc::clone(&events),
            identity: watch::Sender::new(config.identity),
            live: watch::Sender::new(None),
            connection: watch::Sender::new(Connection::Disconnected { why }),
            heard: watch::Sender::default(),
            hand_over,
            stop: watch::Sender::new(false),
        });
        tokio::spawn(driver::drive(Arc::clone(&context), to_hand_over));
        Ok((Self { context }, Events { mailbox: events }))
    }

    /// Says what the car is from now on; the newest replaces all before it.
    pub fn set_state(&self, state: CarState) {
        self.context.car.set_state(state);
        self.context.spoke.notify_one();
    }

    /// Says what an attempt is from now on. Kept, and said again in every `Hello`, until [`Client::forget`]. A status whose
    /// revision is not higher than the one before is dropped.
    pub fn set_status(&self, status: AttemptStatus) {
        self.context.car.set_status(status);
    }

    /// The agent has dropped the attempt, as it was told to.
    pub fn forget(&self, uid: &PodUid) {
        self.context.car.forget(uid.as_str());
    }

    /// When the newest heartbeats that were acknowledged were *sent*: the car's fences count from here.
    pub fn heard(&self) -> watch::Receiver<Heard> {
        self.context.heard.subscribe()
    }

    /// Whether an adapter is connected.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.context.connection.subscribe()
    }

    /// The identity in use; a renewed one replaces it.
    pub fn identity(&self) -> watch::Receiver<Identity> {
        self.context.identity.subscribe()
    }

    /// Ends the client, after its last words; events end when it is done.
    pub fn shutdown(&self) {
        self.context.stop.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;

    #[test]
    fn car_that_waits_longest_comes_back_before_an_adapter_that_started_misses_it() {
        let pace = Pace::default();
        assert!(pace.longest < kerbside_core::vehicle::RECONNECT_WINDOW, "{pace:?}");
    }
}
