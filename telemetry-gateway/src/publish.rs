//! What leaves the gateway: Vehicles without an agent, in the API server, and nothing else.
//!
//! One task, with a few writes at a time. It asks [`Cars`] what is to be done, writes it by server-side apply under its own field manager, and
//! says what became of it. It never has a VIN, a position or a value of a signal in its hands: a [`Said`] has no room for one. It never
//! writes a Vehicle that an agent speaks for: the API server does not let `spec.source` be changed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kerbside_api::v1alpha1::{Source, Vehicle};
use kerbside_core::backoff::Backoff;
use kerbside_core::clock::Clock;
use kerbside_core::ids::{PoolName, VehicleId};
use kerbside_core::names::label;
use kerbside_k8s::apply;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cars::{Cars, Said, Work};
use crate::metrics::Metrics;

/// Of every write.
pub const MANAGER: &str = "kerbside-telemetry-gateway";
/// Between two looks for work. So many times the writes of a second are done in one.
const LOOK: Duration = Duration::from_secs(1);
/// The API server answers within this, or the write is tried again.
const ANSWER: Duration = Duration::from_secs(10);
/// Vehicles in one answer to a list: a fleet of 20,000 is more than the API server hands out at once in that time.
const PAGE: u32 = 500;

/// A write or a read that failed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The API server says no, or cannot be reached.
    #[error("failed to {what}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// It did not answer.
    #[error("failed to {0}: no answer")]
    Silent(&'static str),
    /// The API server does not know what a Vehicle without an agent is.
    #[error(
        "failed to show a car: its Vehicle has no spec.source Telemetry; the cluster's CRDs are older than this gateway"
    )]
    NoSource,
}

impl PublishError {
    /// What the API server answered, if it said no.
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Silent(_) | Self::NoSource => None,
        }
    }

    /// The API server will say the same again. Of a write: it is of this one Vehicle, and says nothing of the others.
    fn is_for_good(&self) -> bool {
        let code = self.code();
        code.is_some_and(|code| (400..500).contains(&code) && code != 429 && code != 401)
    }

    /// The rest of a list is not to be had any more: what was listed of it is too old.
    fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }
}

/// What is left of a look. Each is of another car, so their order does not matter.
struct Works(Mutex<VecDeque<Work>>);

impl Works {
    fn left(&self) -> MutexGuard<'_, VecDeque<Work>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pop(&self) -> Option<Work> {
        self.left().pop_front()
    }

    /// What is not begun is work of another look.
    fn give_up(&self) {
        self.left().clear();
    }
}

/// The task.
pub struct Publisher {
    vehicles: Api<Vehicle>,
    cars: Arc<Cars>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    name: PoolName,
    pool: PoolName,
    /// Writes in a second.
    rate: usize,
}

impl Publisher {
    /// `name` is the gateway's, `pool` the one that its cars are shown in, `rate` the most writes in a second.
    pub fn new(
        client: Client,
        cars: Arc<Cars>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        (name, pool): (PoolName, PoolName),
        rate: u32,
    ) -> Self {
        Self {
            vehicles: Api::all(client),
            cars,
            clock,
            metrics,
            name,
            pool,
            rate: usize::try_from(rate).unwrap_or(1),
        }
    }

    /// Reads which Vehicles this gateway has made before, page by page, and asks until it has them all or `stop`. To be called once, before any
    /// car is let in.
    ///
    /// # Errors
    /// The API server says no for good: its account may not list Vehicles, or there are none in this cluster.
    pub async fn recall(&self, stop: &CancellationToken) -> Result<(), PublishError> {
        let (mut from, mut failures): (Option<String>, u32) = (None, 0);
        while let Some(listed) = stop.run_until_cancelled(self.recall_page(from.as_deref())).await {
            match listed {
                Ok(None) => break,
                Ok(next) => {
                    from = next;
                    failures = 0;
                }
                Err(error) if error.is_for_good() && !error.is_expired() => return Err(error),
                Err(error) => {
                    // What is known of a Vehicle is said anew by the new list.
                    if error.is_expired() {
                        from = None;
                    }
                    failures = failures.saturating_add(1);
                    let error = with_causes(&error);
                    tracing::warn!(
                        error,
                        "what this gateway has shown before is not known yet; it is asked again"
                    );
                    let wait = sleep(Backoff::CALL.jittered(failures, rand::random()));
                    if stop.run_until_cancelled(wait).await.is_none() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// One page of them; gives where the next one begins.
    async fn recall_page(&self, from: Option<&str>) -> Result<Option<String>, PublishError> {
        let mut mine = ListParams::default().limit(PAGE);
        mine = mine.labels(&format!("{}={}", label::TELEMETRY_GATEWAY, self.name));
        if let Some(from) = from {
            mine = mine.continue_token(from);
        }
        let listed = answered("list the Vehicles of this gateway", self.vehicles.list(&mine)).await?;
        let now = (self.clock.boottime(), self.clock.wall());
        for vehicle in listed.items {
            let Ok(id) = vehicle.name_any().parse() else { continue };
            // Somebody's label on an enrolled car makes it none of ours.
            if vehicle.spec.source != Source::Telemetry {
                continue;
            }
            let uid = vehicle.uid().unwrap_or_default();
            let says = vehicle.status.and_then(|status| {
                Some(Said {
                    telemetry: status.telemetry?,
                    good_until: status.telemetry_good_until.map(|until| until.0),
                })
            });
            self.cars.found(id, uid, says, now);
        }
        Ok(listed.metadata.continue_.filter(|next| !next.is_empty()))
    }

    /// Does what is to be done, for ever.
    pub async fn run(&self) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0;
        loop {
            looks.tick().await;
            match self.look().await {
                Ok(()) if failures > 0 => {
                    failures = 0;
                    tracing::info!("the API server takes Vehicles again");
                }
                Ok(()) => {}
                Err(error) => {
                    failures += 1;
                    let error = with_causes(&error);
                    tracing::warn!(error, "a Vehicle could not be written; its newest state is tried again");
                    sleep(Backoff::CALL.jittered(failures, rand::random())).await;
                }
            }
        }
    }

    /// One look: at most the writes of a second, four at a time, for an API server that answers in 50 ms would else let through 20 only. The
    /// first failure ends it, unless it is about one Vehicle only: that one waits, longer each time, and the others go on.
    pub async fn look(&self) -> Result<(), PublishError> {
        let now = (self.clock.boottime(), self.clock.wall());
        let works = Works(Mutex::new(self.cars.work(now, self.rate).into()));
        let (first, second, third, fourth) = tokio::join!(
            self.write(&works),
            self.write(&works),
            self.write(&works),
            self.write(&works)
        );
        first.and(second).and(third).and(fourth)
    }

    /// Does one after another of `works`, until none is left.
    async fn write(&self, works: &Works) -> Result<(), PublishError> {
        while let Some(work) = works.pop() {
            let (what, done) = match &work {
                Work::Make { id } => ("make", self.make(id).await),
                Work::Publish { id, uid, says } => ("publish", self.publish(id, uid, *says).await),
                Work::Delete { id, uid } => ("delete", self.delete(id, uid).await),
            };
            self.metrics.wrote(what, done.is_ok());
            match done {
                Ok(()) => {}
                Err(error) if error.is_for_good() => {
                    self.cars.refused(work.id(), self.clock.boottime());
                    let error = with_causes(&error);
                    tracing::warn!(
                        error,
                        "the API server refuses to have a Vehicle written; it is tried again later"
                    );
                }
                Err(error) => {
                    works.give_up();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn publish(&self, id: &VehicleId, uid: &str, says: Said) -> Result<(), PublishError> {
        let mut status = json!({ "telemetry": says.telemetry });
        if let (Some(until), Some(status)) = (says.good_until, status.as_object_mut()) {
            status.insert("telemetryGoodUntil".to_owned(), json!(until));
        }
        let status = json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": { "name": id.as_str() },
            "status": status,
        });
        let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&status));
        let written = self.vehicles.patch_status(id.as_str(), &params, &patch);
        match timeout(ANSWER, written).await {
            Ok(Ok(vehicle)) => {
                let uid = vehicle.uid().unwrap_or_else(|| uid.to_owned());
                self.cars.published(id, uid, says);
            }
            // Somebody has deleted it; the next look makes it again.
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => self.cars.absent(id),
            Ok(Err(error)) => return Err(api("write the status of a Vehicle", error)),
            Err(_) => return Err(PublishError::Silent("write the status of a Vehicle")),
        }
        tracing::debug!(vehicle.id = %id, "a Vehicle without an agent says something new");
        Ok(())
    }

    /// Makes the Vehicle. In its spec nothing is ever changed afterwards: that is for people.
    async fn make(&self, id: &VehicleId) -> Result<(), PublishError> {
        let vehicle = json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle",
            "metadata": {
                "name": id.as_str(),
                "labels": { label::TELEMETRY_GATEWAY: self.name.as_str(), label::POOL: self.pool.as_str() },
            },
            "spec": { "pool": self.pool.as_str(), "source": Source::Telemetry },
        });
        let made = apply::apply(&self.vehicles, id.as_str(), MANAGER, &vehicle);
        let made = answered("make a Vehicle", made).await?;
        if made.spec.source != Source::Telemetry {
            return Err(PublishError::NoSource);
        }
        self.cars.made(id, made.uid().unwrap_or_default());
        tracing::info!(vehicle.id = %id, "a car without an agent is shown");
        Ok(())
    }

    async fn delete(&self, id: &VehicleId, uid: &str) -> Result<(), PublishError> {
        let deleted = apply::delete(&self.vehicles, id.as_str(), uid, None);
        // Stale is as good: it is gone, or another has its name, which is then not this car's.
        answered("delete a Vehicle", deleted).await?;
        self.cars.absent(id);
        tracing::info!(vehicle.id = %id, "a car without an agent is shown no more");
        Ok(())
    }
}

async fn answered<T>(
    what: &'static str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, PublishError> {
    match timeout(ANSWER, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(api(what, error)),
        Err(_) => Err(PublishError::Silent(what)),
    }
}

fn api(what: &'static str, source: kube::Error) -> PublishError {
    PublishError::Api {
        what,
        source: Box::new(source),
    }
}

/// An error and its causes in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
