//! Cars without an agent whose telemetry gateway is gone: what their Vehicles say is made unknown when its time has passed.
//!
//! Run by the leader. While a gateway is there, it alone writes what its cars are, and moves `telemetryGoodUntil` on; after that moment, and
//! not before, the field is ours. Each write carries the version that was read, so that a gateway which comes back is never overwritten.
//! Never: a car with an agent touched, anything but unknown written, one that is refused keeping others waiting.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::Timestamp;
use kerbside_api::v1alpha1::Vehicle;
use kerbside_core::backoff::Backoff;
use kerbside_core::clock::{Boottime, Clock};
use kerbside_k8s::apply;
use kube::api::Api;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::vehicle_pool::{VehicleIndex, over};
use crate::{FIELD_MANAGER, report};

/// Between two looks. A Vehicle is at most so much longer believed than its gateway said.
const LOOK: Duration = Duration::from_secs(10);
/// Vehicles made unknown in one look, by two requests each: a large gateway that goes at once must not be the API server's whole work. 20,000
/// take less than seven minutes.
const AT_A_TIME: usize = 500;
/// Of these, at once.
const AT_ONCE: usize = 4;

/// A Vehicle that the API server did not let be written.
#[derive(Debug, Clone, Copy)]
struct Refused {
    /// In a row.
    times: u32,
    /// Not before.
    again: Boottime,
}

/// The task.
pub(crate) struct Silence {
    client: Client,
    vehicles: Arc<VehicleIndex>,
    clock: Arc<dyn Clock>,
    refused: HashMap<String, Refused>,
}

impl Silence {
    pub(crate) fn new(client: Client, vehicles: Arc<VehicleIndex>, clock: Arc<dyn Clock>) -> Self {
        Self {
            client,
            vehicles,
            clock,
            refused: HashMap::new(),
        }
    }

    /// Looks again and again until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            if let Some(Err(error)) = stop.run_until_cancelled(self.look()).await {
                let error = report::with_causes(&error);
                tracing::warn!(
                    error,
                    "a Vehicle without a gateway could not be made unknown; it is tried again"
                );
            }
        }
    }

    /// One look; how many Vehicles were made unknown.
    async fn look(&mut self) -> Result<usize, kube::Error> {
        let (due, clock) = (self.due(), Arc::clone(&self.clock));
        let vehicles: Api<Vehicle> = Api::all(self.client.clone());
        let (vehicles, clock) = (&vehicles, clock.as_ref());
        let tries = due.into_iter().map(|name| async move {
            let done = make_unknown(vehicles, clock, &name).await;
            (name, done)
        });
        let tries: Vec<_> = tries.collect();
        let mut done = stream::iter(tries).buffer_unordered(AT_ONCE);
        let mut made = 0;
        while let Some((name, done)) = done.next().await {
            match done {
                Ok(done) => {
                    self.refused.remove(&name);
                    made += usize::from(done);
                }
                Err(kube::Error::Api(status)) if is_about_one(status.code) => {
                    let error = status.message;
                    tracing::warn!(
                        vehicle.id = name,
                        error,
                        "a Vehicle without a gateway is not to be made unknown; it is tried again later"
                    );
                    self.refuse(name);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(made)
    }

    /// What is to be tried now, what is over for longest first.
    fn due(&mut self) -> Vec<String> {
        let (now, silent) = (self.clock.boottime(), self.vehicles.silent(self.clock.wall()));
        let known: HashSet<&str> = silent.iter().map(String::as_str).collect();
        self.refused.retain(|name, _| known.contains(name.as_str()));
        let may = |name: &String| self.refused.get(name).is_none_or(|refused| now >= refused.again);
        silent.into_iter().filter(may).take(AT_A_TIME).collect()
    }

    /// It waits, longer each time.
    fn refuse(&mut self, name: String) {
        let times = self
            .refused
            .get(&name)
            .map_or(0, |before| before.times)
            .saturating_add(1);
        let again = self.clock.boottime() + Backoff::POD.delay(times);
        self.refused.insert(name, Refused { times, again });
    }
}

/// A refusal of this Vehicle; a token that is not known, or too many requests, say nothing of it.
fn is_about_one(code: u16) -> bool {
    (400..500).contains(&code) && code != 401 && code != 429
}

async fn make_unknown(vehicles: &Api<Vehicle>, clock: &dyn Clock, name: &str) -> Result<bool, kube::Error> {
    // The index may be old, and a gateway may just have come back.
    let Some(vehicle) = vehicles.get_opt(name).await? else {
        return Ok(false);
    };
    let Some(status) = unknown_if_over(&vehicle, clock.wall()) else {
        return Ok(false);
    };
    let (uid, version) = (vehicle.uid().unwrap_or_default(), vehicle.resource_version());
    let written = apply::merge_status(vehicles, name, &uid, version.as_deref(), FIELD_MANAGER, status).await?;
    if written.is_stale() {
        return Ok(false);
    }
    tracing::info!(
        vehicle.id = name,
        "its telemetry gateway is silent: it is unknown from now on"
    );
    Ok(true)
}

/// What is to be merged into the status of a Vehicle that may not be believed any more; None: it may.
fn unknown_if_over(vehicle: &Vehicle, now: Timestamp) -> Option<Value> {
    // A merge patch takes away what is null; the rest of it says that nothing is known.
    let unknown = json!({
        "telemetry": { "parked": "Unknown", "pluggedIn": "Unknown", "charge": null, "freeFor": 0 },
        "telemetryGoodUntil": null,
    });
    over(vehicle).is_some_and(|over| over <= now).then_some(unknown)
}

#[cfg(test)]
mod tests {
    use kerbside_api::v1alpha1::Telemetry;
    use kube::core::DeserializeGuard;
    use kube::runtime::watcher::Event;

    use super::*;
    use crate::testing::HandClock;
    use crate::testing::fake_api::{FakeApi, Fate};

    const NAME: &str = "car-aaaaaaaaaaaaaaaa";

    fn vehicle(name: &str, source: &str, good_until: Option<&str>) -> Value {
        let mut vehicle = json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": { "name": name },
            "spec": { "pool": "overnight", "source": source },
            "status": { "telemetry": { "parked": "True", "pluggedIn": "True", "charge": 60, "freeFor": 120 } },
        });
        if let Some(until) = good_until {
            vehicle["status"]["telemetryGoodUntil"] = until.into();
        }
        vehicle
    }

    fn silence(api: &FakeApi, clock: &Arc<HandClock>) -> Silence {
        let clock = Arc::clone(clock) as Arc<dyn Clock>;
        Silence::new(api.client(Fate::Lives), Arc::default(), clock)
    }

    /// In the API server, and seen.
    fn put(api: &FakeApi, silence: &Silence, vehicle: Value) {
        let guard: DeserializeGuard<Vehicle> = serde_json::from_value(vehicle.clone()).unwrap();
        api.put("vehicles", vehicle);
        silence.vehicles.fold(Event::Apply(guard));
    }

    /// The watch has caught up.
    fn see(api: &FakeApi, silence: &Silence) {
        for vehicle in api.all::<Value>("vehicles") {
            let guard = serde_json::from_value(vehicle).unwrap();
            silence.vehicles.fold(Event::Apply(guard));
        }
    }

    /// The id of car number `n`.
    fn id(n: u16) -> String {
        let mut random = [0; 10];
        random[..2].copy_from_slice(&n.to_be_bytes());
        kerbside_core::ids::VehicleId::from_random(random).to_string()
    }

    fn in_seconds(seconds: i64) -> String {
        Timestamp::from_second(HandClock::START + seconds).unwrap().to_string()
    }

    #[tokio::test]
    async fn vehicle_is_unknown_when_its_gateway_has_not_spoken_in_time() {
        let (api, clock) = (FakeApi::new(), HandClock::new());
        let mut silence = silence(&api, &clock);
        put(&api, &silence, vehicle(NAME, "Telemetry", Some(&in_seconds(60))));
        clock.advance(59);
        assert_eq!(silence.look().await.unwrap(), 0);
        clock.advance(1);
        assert_eq!(silence.look().await.unwrap(), 1);
        let now: Vehicle = api.get("vehicles", "", NAME);
        let status = now.status.clone().unwrap();
        assert_eq!(status.telemetry, Some(Telemetry::default()));
        assert_eq!(status.telemetry_good_until, None);
        assert_eq!(silence.look().await.unwrap(), 0, "once");
    }

    #[tokio::test]
    async fn gateway_that_has_come_back_is_not_overwritten() {
        let (api, clock) = (FakeApi::new(), HandClock::new());
        let mut silence = silence(&api, &clock);
        put(&api, &silence, vehicle(NAME, "Telemetry", Some(&in_seconds(60))));
        clock.advance(100);
        // Written, and not seen by the watch yet.
        api.put("vehicles", vehicle(NAME, "Telemetry", Some(&in_seconds(200))));
        assert_eq!(silence.look().await.unwrap(), 0);
        let now: Vehicle = api.get("vehicles", "", NAME);
        assert_ne!(now.status.unwrap().telemetry, Some(Telemetry::default()));
    }

    #[tokio::test]
    async fn vehicle_of_a_gateway_that_says_no_time_and_one_with_an_agent_are_left_alone() {
        let (api, clock) = (FakeApi::new(), HandClock::new());
        let mut silence = silence(&api, &clock);
        let (older, with_agent) = (NAME, "car-bbbbbbbbbbbbbbbb");
        put(&api, &silence, vehicle(older, "Telemetry", None));
        put(&api, &silence, vehicle(with_agent, "Agent", Some(&in_seconds(0))));
        clock.advance(1_000_000);
        assert_eq!(silence.look().await.unwrap(), 0);
        for name in [older, with_agent] {
            let now: Vehicle = api.get("vehicles", "", name);
            assert_ne!(now.status.unwrap().telemetry, Some(Telemetry::default()), "{name}");
        }
    }

    #[tokio::test]
    async fn what_is_over_for_longest_comes_first() {
        let (api, clock) = (FakeApi::new(), HandClock::new());
        let mut silence = silence(&api, &clock);
        let names = ["car-cccccccccccccccc", "car-aaaaaaaaaaaaaaaa", "car-bbbbbbbbbbbbbbbb"];
        for (name, over) in names.into_iter().zip([0, 10, 20]) {
            put(&api, &silence, vehicle(name, "Telemetry", Some(&in_seconds(over))));
        }
        clock.advance(15);
        assert_eq!(silence.due(), names[..2]);
        clock.advance(5);
        assert_eq!(silence.due(), names);
    }

    #[tokio::test]
    async fn vehicles_that_are_refused_wait_longer_each_time_and_keep_no_other_waiting() {
        let (api, clock) = (FakeApi::new(), HandClock::new());
        let mut silence = silence(&api, &clock);
        for n in 0..u16::try_from(AT_A_TIME).unwrap() {
            let id = id(n);
            api.with(|w| w.refuse_patches.insert(id.clone()));
            put(&api, &silence, vehicle(&id, "Telemetry", Some(&in_seconds(0))));
        }
        put(
            &api,
            &silence,
            vehicle("car-zzzzzzzzzzzzzzzz", "Telemetry", Some(&in_seconds(1))),
        );
        clock.advance(1);
        assert_eq!(silence.look().await.unwrap(), 0, "all are refused");
        assert_eq!(silence.look().await.unwrap(), 1, "and the next one has its turn");
        see(&api, &silence);
        clock.advance(10);
        assert_eq!(silence.due().len(), AT_A_TIME);
        assert_eq!(silence.look().await.unwrap(), 0);
        clock.advance(19);
        assert_eq!(silence.due().len(), 0, "twice as long");
        clock.advance(1);
        api.with(|w| w.refuse_patches.clear());
        assert_eq!(silence.look().await.unwrap(), AT_A_TIME);
        assert!(silence.refused.is_empty());
    }

    #[tokio::test]
    async fn many_that_fall_silent_are_made_unknown_a_part_at_a_time() {
        let (api, clock) = (FakeApi::new(), HandClock::new());
        let mut silence = silence(&api, &clock);
        for n in 0..u16::try_from(AT_A_TIME).unwrap() + 3 {
            put(&api, &silence, vehicle(&id(n), "Telemetry", Some(&in_seconds(0))));
        }
        assert_eq!(silence.look().await.unwrap(), AT_A_TIME);
        see(&api, &silence);
        assert_eq!(silence.look().await.unwrap(), 3);
    }
}
