//! What leaves the gateway: Vehicles without an agent, in the API server, and nothing else.
//!
//! One task. It asks [`Cars`] what is to be done, writes it by server-side apply under its own field manager, and says what became of it. It
//! never has a VIN, a position or a value of a signal in its hands: a [`Telemetry`] has no room for one. It never writes a Vehicle
//! that an agent speaks for: the API server does not let `spec.source` be changed.

use std::sync::Arc;
use std::time::Duration;

use kerbside_api::v1alpha1::{Source, Telemetry, Vehicle};
use kerbside_core::backoff::Backoff;
use kerbside_core::clock::Clock;
use kerbside_core::ids::{PoolName, VehicleId};
use kerbside_core::names::label;
use kerbside_k8s::apply;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::cars::{Cars, Work};
use crate::metrics::Metrics;

/// Of every write.
pub const MANAGER: &str = "kerbside-telemetry-gateway";
/// Between two looks for work. So many times the writes of a second are done in one.
const LOOK: Duration = Duration::from_secs(1);
/// The API server answers within this, or the write is tried again.
const ANSWER: Duration = Duration::from_secs(10);

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
    /// It is of this one Vehicle, and says nothing of the others.
    fn is_about_one(&self) -> bool {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => {
                    (400..500).contains(&status.code) && status.code != 429 && status.code != 401
                }
                _ => false,
            },
            Self::Silent(_) | Self::NoSource => false,
        }
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

    /// Reads which Vehicles this gateway has made before. To be called once, before any car is let in.
    pub async fn recall(&self) -> Result<(), PublishError> {
        let mine = ListParams::default().labels(&format!("{}={}", label::TELEMETRY_GATEWAY, self.name));
        let listed = answered("list the Vehicles of this gateway", self.vehicles.list(&mine)).await?;
        let now = self.clock.boottime();
        for vehicle in listed {
            let Ok(id) = vehicle.name_any().parse() else { continue };
            // Somebody's label on an enrolled car makes it none of ours.
            if vehicle.spec.source != Source::Telemetry {
                continue;
            }
            let uid = vehicle.uid().unwrap_or_default();
            let says = vehicle.status.and_then(|status| status.telemetry);
            self.cars.found(id, uid, says, now);
        }
        Ok(())
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

    /// One look: at most the writes of a second. The first failure ends it, unless it is about one Vehicle only.
    pub async fn look(&self) -> Result<(), PublishError> {
        let now = (self.clock.boottime(), self.clock.wall());
        for work in self.cars.work(now, self.rate) {
            let (what, done) = match work {
                Work::Publish { id, uid, says } => ("publish", self.publish(&id, uid, says).await),
                Work::Delete { id, uid } => ("delete", self.delete(&id, &uid).await),
            };
            self.metrics.wrote(what, done.is_ok());
            match done {
                Err(error) if error.is_about_one() => {
                    let error = with_causes(&error);
                    tracing::warn!(
                        error,
                        "the API server refuses to have a Vehicle written; it is tried again"
                    );
                }
                other => other?,
            }
        }
        Ok(())
    }

    async fn publish(&self, id: &VehicleId, uid: Option<String>, says: Telemetry) -> Result<(), PublishError> {
        let uid = match uid {
            Some(uid) => uid,
            None => self.make(id).await?,
        };
        let status = json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": { "name": id.as_str() },
            "status": { "telemetry": says },
        });
        let (params, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&status));
        let written = self.vehicles.patch_status(id.as_str(), &params, &patch);
        match timeout(ANSWER, written).await {
            Ok(Ok(vehicle)) => self
                .cars
                .published(id, vehicle.uid().unwrap_or(uid), says, self.clock.boottime()),
            // Somebody has deleted it; the next look makes it again.
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => self.cars.absent(id),
            Ok(Err(error)) => return Err(api("write the status of a Vehicle", error)),
            Err(_) => return Err(PublishError::Silent("write the status of a Vehicle")),
        }
        tracing::debug!(vehicle.id = %id, "a Vehicle without an agent says something new");
        Ok(())
    }

    /// Makes the Vehicle; its UID. In its spec nothing is ever changed afterwards: that is for people.
    async fn make(&self, id: &VehicleId) -> Result<String, PublishError> {
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
        let uid = made.uid().unwrap_or_default();
        tracing::info!(vehicle.id = %id, "a car without an agent is shown");
        Ok(uid)
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
