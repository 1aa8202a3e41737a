//! What every connection of every Pod of a car has to pass.
//!
//! Asked by `dial` before a connection is there and by `pump` for every piece of what it carries. The only holder of the rate, so that it
//! holds for all work together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use kerbside_core::owner;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use super::bucket::Bucket;
use crate::outlook::{Outlook, Posture};
use crate::uplink::Uplink;

/// Who waits longer for the rate looks again.
const LOOK: Duration = Duration::from_secs(1);

/// Which way bytes go, as the Pod sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Sent,
    Received,
}

/// What has passed since the agent began.
#[derive(Debug, Default)]
pub struct Totals {
    sent: AtomicU64,
    received: AtomicU64,
    refused: AtomicU64,
    uplink: Uplink,
}

/// The same at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TotalsNow {
    /// Bytes that Pods have sent.
    pub sent: u64,
    /// Bytes that Pods have received.
    pub received: u64,
    /// Connections that were not allowed.
    pub refused: u64,
}

impl Totals {
    /// Counts by this way to the world, too.
    pub fn by(uplink: Uplink) -> Self {
        Self {
            uplink,
            ..Self::default()
        }
    }

    /// As they are now.
    pub fn now(&self) -> TotalsNow {
        TotalsNow {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

/// One car's.
#[derive(Debug)]
pub(super) struct Gate {
    outlook: watch::Receiver<Outlook>,
    brake: watch::Receiver<bool>,
    sent: Mutex<Bucket>,
    received: Mutex<Bucket>,
    totals: Arc<Totals>,
}

impl Gate {
    pub(super) fn new(outlook: watch::Receiver<Outlook>, brake: watch::Receiver<bool>, totals: Arc<Totals>) -> Self {
        let bucket = || Mutex::new(Bucket::new(Instant::now()));
        Self {
            outlook,
            brake,
            sent: bucket(),
            received: bucket(),
            totals,
        }
    }

    /// Asks the owner's terms, as they are now. `None`: there are none.
    pub(super) fn terms<T>(&self, ask: impl FnOnce(&owner::Egress) -> T) -> Option<T> {
        self.outlook.borrow().document.as_ref()?.egress.as_ref().map(ask)
    }

    /// Waits until the car is one in which work may begin something. `false`: it leaves, and there is nothing to wait for.
    pub(super) async fn open(&self) -> bool {
        let mut outlook = self.outlook.clone();
        let settled = outlook.wait_for(|outlook| outlook.posture() != Posture::Freeze).await;
        // An error means that the car is gone.
        let runs = settled.is_ok_and(|outlook| outlook.posture() == Posture::Run);
        runs && self.unbraked().await
    }

    /// Waits until the brake is off. `false`: never, for the car is gone.
    pub(super) async fn unbraked(&self) -> bool {
        self.brake.clone().wait_for(|braked| !braked).await.is_ok()
    }

    /// Waits until it is on.
    pub(super) async fn braked(&self) {
        // An error means that the car is gone, which is no less.
        let _ = self.brake.clone().wait_for(|braked| *braked).await;
    }

    /// Whether this may be connected to now, by a car with these addresses.
    pub(super) fn allows(&self, address: SocketAddr, own: &[IpNet]) -> bool {
        let allows = self.terms(|terms| terms.allows(address.ip(), address.port(), own));
        // What is there goes on: it was made by a network that cost nothing, and ends with it.
        allows == Some(true) && self.totals.uplink.may_move()
    }

    /// Somebody wanted to connect where the owner does not let them.
    pub(super) fn refused(&self) {
        self.totals.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until so many bytes may go this way. `false`: never, for the owner lets nothing pass any more, or the car is gone.
    pub(super) async fn pass(&self, direction: Direction, bytes: usize) -> bool {
        let (bucket, total) = match direction {
            Direction::Sent => (&self.sent, &self.totals.sent),
            Direction::Received => (&self.received, &self.totals.received),
        };
        let mut bucket = bucket.lock().await;
        loop {
            if !self.unbraked().await {
                return false;
            }
            let Some(rate) = self.terms(|terms| terms.max_bytes_per_second) else {
                return false;
            };
            let wait = bucket.wait(Instant::now(), rate);
            if wait.is_zero() {
                break;
            }
            // The rate, or the brake, may change meanwhile.
            sleep(wait.min(LOOK)).await;
        }
        bucket.pass(bytes);
        total.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.totals.uplink.count(bytes);
        true
    }

    /// Waits until the owner does not let Pods reach this address any more.
    pub(super) async fn revoked(&self, address: SocketAddr) {
        let mut outlook = self.outlook.clone();
        let mut judged: Option<Arc<owner::Document>> = None;
        // The car's own addresses were looked at when the connection was made.
        // An error means that the car is gone.
        let _ = outlook
            .wait_for(|outlook| {
                let Some(document) = &outlook.document else { return true };
                // The outlook changes with every signal, the document once in a year.
                if judged.as_ref().is_some_and(|known| Arc::ptr_eq(known, document)) {
                    return false;
                }
                judged = Some(Arc::clone(document));
                let terms = document.egress.as_ref();
                !terms.is_some_and(|terms| terms.allows(address.ip(), address.port(), &[]))
            })
            .await;
    }
}
