//! The fleet's cars: who may come, what they have said, and what of it has still to be published.
//!
//! Connections write, the publisher reads; all share one [`Cars`]. Per car there is its newest state and nothing that waits: what a slow API
//! server has not taken is replaced by what is true now. Bounded by the fleet's own list. The lock is held for a look, never
//! across an await.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kerbside_api::v1alpha1::Telemetry;
use kerbside_core::clock::Boottime;
use kerbside_core::ids::VehicleId;
use tokio_util::sync::CancellationToken;

use crate::signals::{PayloadError, Signals};

/// The times that everything here goes by.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// A signal that is older is unknown.
    pub stale_after: Duration,
    /// Between two writes of one car's Vehicle.
    pub publish_every: Duration,
    /// A car that was silent for longer is forgotten.
    pub retain_for: Duration,
}

/// What has to be done in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Its Vehicle is to say this. `uid`: of the Vehicle, if there is one.
    Publish {
        /// The car.
        id: VehicleId,
        /// Of its Vehicle, as far as is known.
        uid: Option<String>,
        /// What it is to say.
        says: Telemetry,
    },
    /// Its Vehicle is to go.
    Delete {
        /// The car.
        id: VehicleId,
        /// Of its Vehicle.
        uid: String,
    },
}

#[derive(Debug)]
struct Car {
    signals: Signals,
    /// When it last said something that counts, or when the gateway began.
    heard: Boottime,
    /// What its Vehicle says, as far as this gateway has written or read it, and when.
    published: Option<(Telemetry, Boottime)>,
    /// When it was handed out to be published last and that was not done: others come first then.
    tried: Option<Boottime>,
    /// Of its Vehicle.
    uid: Option<String>,
    /// Ends its connection.
    connection: Option<CancellationToken>,
}

#[derive(Debug, Default)]
struct State {
    allowed: HashSet<VehicleId>,
    cars: HashMap<VehicleId, Car>,
    /// Vehicles of cars that are not the fleet's any more, and their UIDs.
    orphans: HashMap<VehicleId, String>,
}

/// All cars.
#[derive(Debug)]
pub struct Cars {
    ages: Ages,
    state: Mutex<State>,
}

impl Car {
    fn new(heard: Boottime) -> Self {
        Self {
            signals: Signals::default(),
            heard,
            published: None,
            tried: None,
            uid: None,
            connection: None,
        }
    }
}

impl Cars {
    /// None yet, and nobody may come.
    pub fn new(ages: Ages) -> Self {
        Self {
            ages,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on these cars are the fleet's, and no others: those that are not any more are sent away, and their Vehicles go.
    pub fn allow(&self, allowed: HashSet<VehicleId>) {
        let mut state = self.state();
        let gone = state.cars.extract_if(|id, _| !allowed.contains(id));
        let gone: Vec<_> = gone.collect();
        for (id, car) in gone {
            if let Some(connection) = car.connection {
                connection.cancel();
            }
            state.orphans.extend(car.uid.map(|uid| (id, uid)));
        }
        state.allowed = allowed;
    }

    /// A Vehicle that this gateway made in an earlier life. Its car counts as heard now: it has its whole time to come back.
    pub fn found(&self, id: VehicleId, uid: String, says: Option<Telemetry>, now: Boottime) {
        let mut state = self.state();
        if !state.allowed.contains(&id) {
            state.orphans.insert(id, uid);
            return;
        }
        let car = state.cars.entry(id).or_insert_with(|| Car::new(now));
        car.uid = Some(uid);
        car.published = says.map(|says| (says, now));
    }

    /// A car connects. None: it is not one of the fleet's. What it gets ends its connection, also when the car connects again:
    /// the newest counts.
    pub fn connect(&self, id: &VehicleId, now: Boottime) -> Option<CancellationToken> {
        let mut state = self.state();
        if !state.allowed.contains(id) {
            return None;
        }
        let car = state.cars.entry(id.clone()).or_insert_with(|| Car::new(now));
        let token = CancellationToken::new();
        if let Some(before) = car.connection.replace(token.clone()) {
            before.cancel();
        }
        Some(token)
    }

    /// What a car says. Gives how many signals were new.
    pub fn hear(
        &self,
        id: &VehicleId,
        payload: &[u8],
        (now, wall): (Boottime, Timestamp),
    ) -> Result<usize, PayloadError> {
        let mut state = self.state();
        let Some(car) = state.cars.get_mut(id) else {
            return Ok(0);
        };
        let folded = car.signals.fold(payload, (now, wall), self.ages.stale_after)?;
        if folded > 0 {
            car.heard = now;
        }
        Ok(folded)
    }

    /// What has to be done now, at most `room` of it, what has waited longest first.
    pub fn work(&self, (now, wall): (Boottime, Timestamp), room: usize) -> Vec<Work> {
        let mut state = self.state();
        let Ages {
            stale_after,
            publish_every,
            retain_for,
        } = self.ages;
        let mut due = Vec::new();
        for (id, uid) in &state.orphans {
            let (id, uid) = (id.clone(), uid.clone());
            due.push((None, Work::Delete { id, uid }));
        }
        // One that was never shown and is silent needs no work: it is only forgotten.
        state.cars.retain(|_, car| {
            car.uid.is_some()
                || car.connection.as_ref().is_some_and(|c| !c.is_cancelled())
                || now.since(car.heard) <= retain_for
        });
        for (id, car) in &state.cars {
            let at = car.published.map(|(_, at)| at);
            if now.since(car.heard) > retain_for {
                due.extend(car.uid.clone().map(|uid| (at, Work::Delete { id: id.clone(), uid })));
                continue;
            }
            let before = car.published.map(|(says, _)| says).unwrap_or_default();
            let says = car.signals.told(&before, (now, wall), stale_after);
            let rested = at.is_none_or(|at| now.since(at) >= publish_every);
            let differs = car.published.is_none_or(|(published, _)| published != says);
            // A car that has connected and said nothing yet is not shown.
            let is_known = car.uid.is_some() || says != Telemetry::default();
            if rested && differs && is_known {
                let (id, uid) = (id.clone(), car.uid.clone());
                due.push((at.max(car.tried), Work::Publish { id, uid, says }));
            }
        }
        due.sort_by_key(|(at, _)| *at);
        due.truncate(room);
        let due: Vec<_> = due.into_iter().map(|(_, work)| work).collect();
        for work in &due {
            if let Work::Publish { id, .. } = work
                && let Some(car) = state.cars.get_mut(id)
            {
                car.tried = Some(now);
            }
        }
        due
    }

    /// The car's Vehicle says so, since `now`. A car that was taken off the list meanwhile leaves its Vehicle to be deleted.
    pub fn published(&self, id: &VehicleId, uid: String, says: Telemetry, now: Boottime) {
        let mut state = self.state();
        match state.cars.get_mut(id) {
            Some(car) => {
                car.uid = Some(uid);
                car.published = Some((says, now));
                car.tried = None;
            }
            None => drop(state.orphans.insert(id.clone(), uid)),
        }
    }

    /// The car has no Vehicle, for it was deleted by somebody, or just now by us.
    pub fn absent(&self, id: &VehicleId) {
        let mut state = self.state();
        state.orphans.remove(id);
        if let Some(car) = state.cars.get_mut(id) {
            car.uid = None;
            car.published = None;
        }
    }
}

#[cfg(test)]
mod tests;
