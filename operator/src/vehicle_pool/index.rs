//! Vehicles by pool, folded from watch events: what a pool's status, a plan and a closing need of 100,000 cars, and nothing more.
//!
//! Written by the Vehicle watch alone, read by the reconcilers and whoever closes attempts. Locks are held for a lookup or a sum,
//! never across an await.

use std::collections::{BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kerbside_api::v1alpha1::{Known, Source, Telemetry, Vehicle, VehicleCounts, VehiclePhase};
use kerbside_core::ids::{PoolName, VehicleId};
use kerbside_core::names::{condition, reason};
use kerbside_core::quantity::Resources;
use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;

/// What counts of a car.
#[derive(Debug, Clone)]
struct Car {
    pool: String,
    /// The pool that it was moved from, if that was seen.
    before: Option<String>,
    phase: VehiclePhase,
    /// Of a car without an agent: whether its telemetry says that it is parked. None for one that has an agent.
    without_agent: Option<Known>,
    /// Of such a car: from when on it is not to be believed that anything is known. None where nothing is, or no time is said.
    over: Option<Timestamp>,
    /// Neither suspended nor revoked.
    in_service: bool,
    /// Not heard, and its attempts are held by its adapter's brake.
    held: bool,
    classes: Vec<String>,
    offer: Resources,
}

impl Car {
    /// What is known of it and is not in its Vehicle any more.
    fn remember(&mut self, old: &Self) {
        self.before = if old.pool == self.pool {
            old.before.clone()
        } else {
            Some(old.pool.clone())
        };
    }

    /// No pool is to be looked at for what is new of it. Until when it is believed counts in none, and each word of its gateway moves it on.
    fn counts_as(&self, old: &Self) -> bool {
        // By name, so that whoever adds a field has to say whether it counts.
        let Self {
            pool,
            before,
            phase,
            without_agent,
            over: _,
            in_service,
            held,
            classes,
            offer,
        } = self;
        (pool, before, phase, without_agent) == (&old.pool, &old.before, &old.phase, &old.without_agent)
            && (in_service, held, classes, offer) == (&old.in_service, &old.held, &old.classes, &old.offer)
    }
}

#[derive(Debug, Default)]
struct Cars {
    by_name: HashMap<String, Car>,
    /// Those of a list that is still coming in; they replace the others when it is whole.
    listing: HashMap<String, Car>,
}

/// All cars, by name.
#[derive(Debug, Default)]
pub(crate) struct VehicleIndex(RwLock<Cars>);

impl VehicleIndex {
    /// Folds one event in; returns the pools whose status may have changed.
    pub(crate) fn fold(&self, event: Event<DeserializeGuard<Vehicle>>) -> BTreeSet<String> {
        let mut cars = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = BTreeSet::new();
        match event {
            Event::Apply(guard) => {
                let Some((name, mut car)) = read(&guard) else {
                    return changed;
                };
                if let Some(old) = cars.by_name.get(&name) {
                    car.remember(old);
                }
                let pool = car.pool.clone();
                match cars.by_name.insert(name, car.clone()) {
                    Some(old) if car.counts_as(&old) => {}
                    Some(old) => changed.extend([old.pool, pool]),
                    None => changed.extend([pool]),
                }
            }
            Event::Delete(guard) => changed.extend(cars.by_name.remove(&guard.name_any()).map(|old| old.pool)),
            Event::Init => cars.listing.clear(),
            Event::InitApply(guard) => cars.listing.extend(read(&guard)),
            Event::InitDone => {
                let mut listed = std::mem::take(&mut cars.listing);
                for (name, car) in &mut listed {
                    if let Some(old) = cars.by_name.get(name) {
                        car.remember(old);
                    }
                }
                let old = std::mem::replace(&mut cars.by_name, listed);
                changed.extend(old.into_values().chain(cars.by_name.values().cloned()).map(|c| c.pool));
            }
        }
        changed
    }

    /// How many cars the pool has, and what those that are Available offer together.
    pub(crate) fn totals(&self, pool: &str) -> (VehicleCounts, Resources) {
        let cars = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (mut counts, mut capacity) = (VehicleCounts::default(), Resources::default());
        for car in cars.by_name.values().filter(|c| c.pool == pool) {
            if let Some(parked) = car.without_agent {
                counts.without_agent += 1;
                counts.parked_without_agent += u32::from(parked == Known::True);
                continue;
            }
            counts.enrolled += 1;
            match car.phase {
                VehiclePhase::Available => {
                    counts.available += 1;
                    if let Err(error) = capacity.add(&car.offer) {
                        tracing::warn!(pool.name = pool, %error, "a vehicle's offer is left out of the pool's capacity");
                    }
                }
                VehiclePhase::Leaving => counts.leaving += 1,
                VehiclePhase::Away => counts.away += 1,
            }
        }
        (counts, capacity)
    }

    /// How many of the pool's cars are not heard while their attempts are held.
    pub(crate) fn held(&self, pool: &str) -> u32 {
        let cars = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let held = cars.by_name.values().filter(|c| c.pool == pool && c.held);
        u32::try_from(held.count()).unwrap_or(u32::MAX)
    }

    /// The cars without an agent whose gateway has not spoken in time: what their Vehicles say is not to be believed at `now`. What is over for
    /// longest comes first.
    pub(crate) fn silent(&self, now: Timestamp) -> Vec<String> {
        let cars = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let silent = cars.by_name.iter();
        let silent = silent.filter_map(|(name, car)| Some((car.over.filter(|over| *over <= now)?, name)));
        let mut silent: Vec<_> = silent.collect();
        silent.sort_unstable();
        silent.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// The pool that the car is in, and the one that it was moved from: what it runs goes on under the terms that it was started with.
    /// None where the car is not known.
    pub(crate) fn pools_of(&self, vehicle: &VehicleId) -> Vec<String> {
        let cars = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let car = cars.by_name.get(vehicle.as_str());
        car.into_iter()
            .flat_map(|car| std::iter::once(&car.pool).chain(&car.before))
            .cloned()
            .collect()
    }

    /// The cars that could take an attempt now: Available, of one of the pools, whose owners consented to the class.
    pub(crate) fn willing(&self, pools: &[PoolName], class: &str) -> BTreeSet<VehicleId> {
        let cars = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let willing = cars.by_name.iter().filter(|(_, car)| {
            car.phase == VehiclePhase::Available
                && car.without_agent.is_none()
                && car.in_service
                && car.classes.iter().any(|c| c == class)
                && pools.iter().any(|p| p.as_str() == car.pool)
        });
        willing.filter_map(|(name, _)| name.parse().ok()).collect()
    }
}

/// From when on a Vehicle says more than is known. None also where its gateway says no time, as one does that is older than the field: it says
/// what a car is once and not again before that changes, so nobody knows when it is gone.
pub(crate) fn over(vehicle: &Vehicle) -> Option<Timestamp> {
    let status = vehicle
        .status
        .as_ref()
        .filter(|_| vehicle.spec.source == Source::Telemetry)?;
    let says = status.telemetry.filter(|says| *says != Telemetry::default());
    says.and(status.telemetry_good_until.as_ref()).map(|until| until.0)
}

/// A Vehicle that cannot be read is logged and left out: one malformed object must not hide the others.
fn read(guard: &DeserializeGuard<Vehicle>) -> Option<(String, Car)> {
    let vehicle = match &guard.0 {
        Ok(vehicle) => vehicle,
        Err(error) => {
            tracing::warn!(vehicle.id = guard.name_any(), %error, "a Vehicle cannot be read");
            return None;
        }
    };
    let status = vehicle.status.clone().unwrap_or_default();
    let offer = status.offer.allocatable.iter();
    let offer = offer
        .filter_map(|(resource, q)| Some((resource.clone(), q.0.parse().ok()?)))
        .collect();
    // Only an adapter holds attempts, and a car without an agent has none: a condition of its Vehicle says nothing of them, whoever wrote it.
    let has_agent = vehicle.spec.source == Source::Agent;
    let held = |c: &Condition| c.type_ == condition::HEARD && c.status == "False" && c.reason == reason::LOSS_HELD;
    let car = Car {
        held: has_agent && status.conditions.iter().any(held),
        pool: vehicle.spec.pool.clone(),
        before: None,
        phase: status.phase,
        without_agent: (vehicle.spec.source == Source::Telemetry)
            .then(|| status.telemetry.map(|says| says.parked).unwrap_or_default()),
        over: over(vehicle),
        in_service: !vehicle.spec.suspended && !vehicle.spec.revoked,
        classes: status.offer.classes,
        offer: Resources(offer),
    };
    Some((vehicle.name_any(), car))
}
