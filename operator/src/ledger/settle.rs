//! The settler: holds each vehicle's receipt against what the operator knows of the attempt, and signs what it accepts.
//!
//! Run by the leader alone, which is no promise: two at once do each other no harm, for a number of a chain is given by put-if-absent. It
//! goes by the pointers that the adapter leaves; where more are due than a pass takes up, vehicles take turns. Vehicles are settled side by
//! side, the receipts of one in their order.
//!
//! | what is found | what follows |
//! |---|---|
//! | no closing | the pointer stays and is looked at again, ever more seldom; after 30 days it is dropped |
//! | the attempt is in the chain already | the pointer goes |
//! | a certificate of a CA that this operator does not know | the pointer stays, likewise: nobody can judge it now |
//! | a receipt that its car has not signed, or of another attempt | told of, and the pointer goes |
//! | otherwise | the acceptance is written under the chain's next number; then the pointer goes |
//!
//! A crash between the last two steps leaves the second row. Never: two acceptances of one attempt.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::{StreamExt, stream};
use kerbside_core::backoff::Backoff;
use kerbside_core::clock::Clock;
use kerbside_core::ids::VehicleId;
use kerbside_core::ledger::Turns;
use kerbside_core::names::store as path;
use kerbside_k8s::store::{Store, StoreError};
use kube::Client;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::AT_A_TIME;
use super::chain::Chain;
use super::desk::{Desk, Settled};
use super::key::{self, KeyError};
use super::receipt::Pointer;
use crate::metrics::Metrics;
use crate::report;
use crate::signer::ensure_ca;

/// Between two looks at the pointers: one listing, whatever the fleet's size.
const EVERY: Duration = Duration::from_secs(5);
/// Pointers taken up in one pass: what is in memory for them stays below a few MiB.
const MOST_A_PASS: usize = 4_096;
/// A closing comes within seconds of the receipt, or hours if the Pod is held; for Pods that are no FleetJob's it never comes.
const PATIENCE: Backoff = Backoff {
    base: EVERY,
    cap: Duration::from_mins(10),
};
/// Attempts in chains that are remembered, about 100 bytes each; beyond that the chains that were used longest ago are read anew when they
/// are needed.
const MOST_REMEMBERED: usize = 500_000;

/// What the settler is started with.
pub(crate) struct Office {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
}

/// Settles until `stop`. Without a key nothing is accepted, but nothing is lost: receipts and closings stay in the store.
pub(crate) async fn settle(office: Office, stop: CancellationToken) {
    for times in 1.. {
        let error = match stop.run_until_cancelled(Settler::open(&office)).await {
            None => return,
            Some(Ok(settler)) => return settler.run(stop).await,
            Some(Err(error)) => error,
        };
        tracing::error!(error = report::with_causes(&error), "no receipt can be settled");
        let wait = tokio::time::sleep(Backoff::CALL.jittered(times, rand::random()));
        if stop.run_until_cancelled(wait).await.is_none() {
            return;
        }
    }
}

/// A pointer that is to be looked at again.
struct Wait {
    times: u32,
    until: Instant,
}

/// A chain that is remembered.
struct Known {
    chain: Chain,
    /// In which pass it was used last.
    used: u64,
}

/// The settler and what it remembers, all of it to read less: what counts is in the store.
struct Settler {
    desk: Desk,
    chains: HashMap<VehicleId, Known>,
    waiting: HashMap<String, Wait>,
    /// By the name of the vehicle in a pointer's place.
    turns: Turns<String>,
    passes: u64,
}

impl Settler {
    /// Reads or makes the CA and the ledger's key, and publishes both certificates: whoever checks a ledger needs those of every CA that
    /// there was, also when its Secret is gone.
    async fn open(office: &Office) -> Result<Self, KeyError> {
        let now = office.clock.wall();
        let ca = ensure_ca(&office.client, &office.namespace, now).await?;
        let signer = key::ensure(&office.client, &office.namespace, &ca, now).await?;
        let of_ca = path::ledger_ca(&HEXLOWER.encode(&ca.sha256()));
        let of_key = path::ledger_operator_key(signer.key_id());
        for (place, pem) in [(of_ca, ca.certificate_pem()), (of_key, signer.chain_pem().to_owned())] {
            let published = office.store.put_if_absent(&place, Bytes::from(pem)).await;
            published.map_err(KeyError::Publish)?;
        }
        let desk = Desk {
            store: office.store.clone(),
            signer,
            ca_pem: ca.certificate_pem(),
            clock: Arc::clone(&office.clock),
            metrics: office.metrics.clone(),
        };
        Ok(Self {
            desk,
            chains: HashMap::new(),
            waiting: HashMap::new(),
            turns: Turns::default(),
            passes: 0,
        })
    }

    async fn run(mut self, stop: CancellationToken) {
        loop {
            match stop.run_until_cancelled(self.pass()).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::warn!(error = report::with_causes(&error), "receipts wait for the store");
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
                return;
            }
        }
    }

    /// Looks at the pointers that are due, as many as a pass takes up.
    async fn pass(&mut self) -> Result<(), StoreError> {
        let pointers = self.desk.store.list(path::LEDGER_POINTERS).await?;
        self.desk.metrics.unsettled(pointers.len());
        self.waiting.retain(|place, _| pointers.binary_search(place).is_ok());
        self.passes = self.passes.saturating_add(1);
        let due = self.due(pointers);
        let chosen = self.turns.choose(due, MOST_A_PASS);
        let by_vehicle = self.read(chosen).await;
        let mut works = Vec::with_capacity(by_vehicle.len());
        for (vehicle, pointers) in by_vehicle {
            let chain = self.chains.remove(&vehicle).map(|known| known.chain);
            works.push(self.desk.settle_all(vehicle, chain, pointers));
        }
        let settled: Vec<Settled> = stream::iter(works).buffer_unordered(AT_A_TIME).collect().await;
        for one in settled {
            if let Some(chain) = one.chain {
                let used = self.passes;
                self.chains.insert(one.vehicle, Known { chain, used });
            }
            for place in one.left {
                self.wait(place);
            }
        }
        self.forget(MOST_REMEMBERED);
        Ok(())
    }

    /// The pointers that are due, by vehicle: of each first those that nobody has looked at, then those that wait longest.
    fn due(&self, pointers: Vec<String>) -> BTreeMap<String, VecDeque<String>> {
        let now = Instant::now();
        let mut by_vehicle: BTreeMap<String, Vec<(Option<Instant>, String)>> = BTreeMap::new();
        for place in pointers {
            let until = self.waiting.get(&place).map(|wait| wait.until);
            if until.is_none_or(|until| until <= now) {
                let vehicle = place.rsplit('/').nth(1).unwrap_or_default().to_owned();
                by_vehicle.entry(vehicle).or_default().push((until, place));
            }
        }
        let in_order = |mut places: Vec<(Option<Instant>, String)>| -> VecDeque<String> {
            places.sort();
            places.into_iter().map(|(_, place)| place).collect()
        };
        by_vehicle
            .into_iter()
            .map(|(vehicle, places)| (vehicle, in_order(places)))
            .collect()
    }

    /// Forgets the chains that were used longest ago, until no more than `most` attempts are remembered. One chain stays, however long it is: it
    /// would be read whole for each receipt.
    fn forget(&mut self, most: usize) {
        let mut by_use: Vec<(u64, VehicleId, usize)> = self
            .chains
            .iter()
            .map(|(vehicle, known)| (known.used, vehicle.clone(), known.chain.attempts()))
            .collect();
        let mut remembered: usize = by_use.iter().map(|(_, _, attempts)| attempts).sum();
        by_use.sort();
        for (_, vehicle, attempts) in by_use {
            if remembered <= most || self.chains.len() <= 1 {
                return;
            }
            self.chains.remove(&vehicle);
            remembered = remembered.saturating_sub(attempts);
        }
    }

    /// The pointers by vehicle, each vehicle's in the order of its receipts.
    async fn read(&mut self, due: Vec<String>) -> BTreeMap<VehicleId, Vec<(String, Pointer)>> {
        let mut reads = Vec::with_capacity(due.len());
        for place in due {
            reads.push(self.desk.pointer(place));
        }
        let read: Vec<_> = stream::iter(reads).buffer_unordered(AT_A_TIME).collect().await;
        let mut by_vehicle: BTreeMap<VehicleId, Vec<(String, Pointer)>> = BTreeMap::new();
        for (place, pointer) in read {
            match pointer {
                Ok(pointer) => {
                    let vehicle = pointer.vehicle.clone();
                    by_vehicle.entry(vehicle).or_default().push((place, pointer));
                }
                Err(error) => {
                    tracing::warn!(
                        error = report::with_causes(&error),
                        "the pointer to a receipt cannot be read"
                    );
                    self.wait(place);
                }
            }
        }
        for pointers in by_vehicle.values_mut() {
            pointers.sort_by_key(|(_, pointer)| pointer.sequence);
        }
        by_vehicle
    }

    /// Looks at the pointer again later, and later each time.
    fn wait(&mut self, place: String) {
        let before = self.waiting.get(&place).map_or(0, |wait| wait.times);
        let times = before.saturating_add(1);
        let until = Instant::now() + PATIENCE.jittered(times, rand::random());
        self.waiting.insert(place, Wait { times, until });
    }
}

#[cfg(test)]
mod tests;
