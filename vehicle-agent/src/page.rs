//! The owner's page: what a phone in the car's own network sees of the agent, and tells it.
//!
//! Started by `agent` where `car.yaml` has a section `page`; without one nothing listens. It owns nothing that changes but who is
//! signed in: a pause, a resumption and a withdrawal go to the policy loop by the channel that the control socket uses, and the owner's
//! document is a file that the loop reads. Who is in the car's Wi-Fi is not the owner: without a code from the car's own console nothing
//! is told and nothing taken, not even whether the car works, for that says whether somebody is at home. What must never happen: a
//! request that is answered with anything of the car to who is not signed in, work of the agent's that waits for a browser, or a page
//! that asks anybody but the car for anything.
//!
//! | module | what |
//! |---|---|
//! | `door` | codes and who is signed in |
//! | `gate` | which requests are looked at at all |
//! | `server` | connections: how many, how long, how large |
//! | `api` | what is asked and told, as JSON |
//! | `agree` | the owner's document and consents |
//! | `account` | what the car did and what that may earn, from its receipts |
//! | `files` | the page itself |

mod account;
mod agree;
mod api;
pub mod door;
mod files;
mod gate;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use kerbside_core::clock::Clock;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::sleep;

use self::door::Door;
use self::gate::Hosts;
use crate::config;
use crate::control::Request;
use crate::directory::Directory;
use crate::outlook::Outlook;

/// The car's own network may come up long after the agent, and go.
const AGAIN: Duration = Duration::from_secs(5);

/// What every request needs.
pub(crate) struct Page {
    directory: Directory,
    clock: Arc<dyn Clock>,
    requests: mpsc::Sender<Request>,
    /// What the policy loop knows.
    outlook: watch::Receiver<Outlook>,
    door: Arc<Door>,
    hosts: Hosts,
    /// To check all receipts takes a processor's time: one at a time.
    reading: Arc<Semaphore>,
    /// Held by who makes a file of everything.
    exporting: Arc<Semaphore>,
}

/// Opens the page, as soon as its address is there. The door is for who gives codes.
pub fn open(
    settings: &config::Page,
    directory: Directory,
    clock: Arc<dyn Clock>,
    requests: mpsc::Sender<Request>,
    outlook: watch::Receiver<Outlook>,
) -> Arc<Door> {
    let hosts = Hosts::new(settings);
    let door = Arc::new(Door::new(Arc::clone(&clock), hosts.origin()));
    let page = Arc::new(Page {
        directory,
        clock,
        requests,
        outlook,
        door: Arc::clone(&door),
        hosts,
        reading: Arc::new(Semaphore::new(1)),
        exporting: Arc::new(Semaphore::new(1)),
    });
    let address = settings.listen;
    tokio::spawn(async move {
        let mut told = false;
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(error) if told => tracing::debug!(%address, %error, "the owner's page cannot be opened yet"),
                Err(error) => {
                    told = true;
                    tracing::warn!(%address, %error, "the owner's page cannot be opened; it is tried again");
                }
            }
            sleep(AGAIN).await;
        };
        tracing::info!(%address, "the owner's page is open");
        server::serve(listener, page).await;
    });
    door
}
