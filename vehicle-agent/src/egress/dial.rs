//! From a name to a connection: the car finds the addresses, the owner's terms judge them, and one that they allow is connected to.
//!
//! Called by `proxy`. The connection is made to the very address that was judged, so a name that means something else a moment later
//! changes nothing.

use std::io;
use std::net::{IpAddr, SocketAddr};

use kerbside_core::owner;

use super::gate::Direction;
use super::{Car, Pod};
use crate::stream::Stream;

/// Of a name with more addresses the first ones are tried.
const TRIES: usize = 4;
/// What a question for a name counts as, in bytes: about its longest.
const QUESTION: usize = 512;

/// Why there is no connection.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoWay {
    /// One sentence for both, so that nobody can ask which names the car's own network has.
    #[error("the owner of this vehicle does not let work reach {0}, or the vehicle does not know the name")]
    Denied(String),
    /// Nobody there.
    #[error("{0} does not answer: {1}")]
    Silent(String, String),
    /// Nothing new begins.
    #[error("the vehicle is about to leave")]
    Leaving,
}

/// Connects to `host`, a name or an address (IPv6 in brackets or not).
pub(super) async fn dial(pod: &Pod, host: &str, port: u16) -> Result<(Stream, SocketAddr), NoWay> {
    let Car { gate, world, .. } = &*pod.car;
    pod.ask().await;
    if !gate.open().await {
        return Err(NoWay::Leaving);
    }
    let place = format!("{host}:{port}");
    let silent = |error: io::Error| NoWay::Silent(place.clone(), error.to_string());
    let mut last = None;
    for address in find(pod, host, port).await.into_iter().take(TRIES) {
        let address = SocketAddr::new(address, port);
        let connected = loop {
            // Looked at just before, and again after a pause: the car may be somewhere else by then.
            if !gate.open().await {
                return Err(NoWay::Leaving);
            }
            if !gate.allows(address, &world.own_addresses().map_err(silent)?) {
                break None;
            }
            tokio::select! {
                biased;
                () = gate.braked() => {}
                connected = world.connect(address) => break Some(connected),
            }
        };
        match connected {
            Some(Ok(stream)) => return Ok((stream, address)),
            Some(Err(error)) => last = Some(silent(error)),
            None => {}
        }
    }
    Err(last.unwrap_or_else(|| {
        gate.refused();
        NoWay::Denied(place)
    }))
}

/// The addresses that are worth a judgement.
async fn find(pod: &Pod, host: &str, port: u16) -> Vec<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let bare = bare.unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return vec![address];
    }
    // What no address would be allowed for is not asked for.
    let asks = |terms: &owner::Egress| !terms.is_nothing() && terms.ports.contains(&port);
    if pod.car.gate.terms(asks) != Some(true) {
        return Vec::new();
    }
    // One question of a Pod at a time, so that a slow answer is its own, and each has its part of the rate.
    let _turn = pod.looks_up.lock().await;
    if !pod.pass(Direction::Sent, QUESTION).await {
        return Vec::new();
    }
    pod.car.world.look_up(bare).await
}
