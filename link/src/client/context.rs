//! What the parts of one client share.
//!
//! Private to the client. Each field has one writer, named with it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kerbside_core::attempt::Heard;
use kerbside_core::clock::{Boottime, Clock};
use tokio::sync::{Notify, mpsc, watch};
use tonic::transport::Channel;

use super::car::Car;
use super::connect::Address;
use super::events::EventBox;
use super::network::Network;
use super::{Connection, Pace};
use crate::handshake::VersionRange;
use crate::identity::Identity;
use crate::proto::link_client::LinkClient;

/// The connection over which calls go now.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) epoch: u64,
    pub(super) client: LinkClient<Channel>,
}

type OnRenewed = Box<dyn Fn(&Identity) -> io::Result<()> + Send + Sync>;

pub(super) struct Context {
    pub(super) home: Address,
    pub(super) network: Arc<dyn Network>,
    pub(super) agent_version: String,
    pub(super) instance: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) pace: Pace,
    pub(super) versions: VersionRange,
    pub(super) first_word: Duration,
    pub(super) on_renewed: OnRenewed,
    /// Written by the agent.
    pub(super) car: Car,
    /// Written by the agent: it has said what the car is.
    pub(super) spoke: Notify,
    /// Written by the sessions and the driver.
    pub(super) events: Arc<EventBox>,
    /// Written by the renewal.
    pub(super) identity: watch::Sender<Identity>,
    /// Written by the driver.
    pub(super) live: watch::Sender<Option<Live>>,
    /// Written by the driver.
    pub(super) connection: watch::Sender<Connection>,
    /// Written by the sessions.
    pub(super) heard: watch::Sender<Heard>,
    /// Written by the sessions and the renewal, read by the driver: connect anew after this delay, and only then leave.
    pub(super) hand_over: mpsc::Sender<Duration>,
    /// Written by the agent.
    pub(super) stop: watch::Sender<bool>,
}

impl Context {
    /// What was sent at `sent` was heard, by an adapter that could prove itself or not. Gives the newest of both.
    pub(super) fn acknowledged(&self, sent: Boottime, proven: bool) -> Heard {
        self.heard.send_if_modified(|heard| heard.acknowledged(sent, proven));
        *self.heard.borrow()
    }

    /// Returns once the agent shuts down.
    pub(super) async fn stopped(&self) {
        // An error would mean that the sender is gone, which `self` holds.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    pub(super) fn hand_over(&self, after: Duration) {
        // An error means that one is on its way already.
        let _ = self.hand_over.try_send(after);
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}
