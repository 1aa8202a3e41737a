//! The fleet's cars: who may come, what they have said, and what of it has still to be published.
//!
//! Connections write, the publisher reads; all share one [`Cars`]. Per car there is its newest state, what it was at the car's newest slot,
//! and nothing that waits: what a slow API server has not taken is replaced by the next slot's. Bounded by the fleet's own list. The lock
//! is held for a look, never across an await. What must never happen: something is published, or not any more, at a moment that the
//! car's driver chose ([`crate::slots`]).

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kerbside_api::v1alpha1::Telemetry;
use kerbside_core::backoff::Backoff;
use kerbside_core::clock::Boottime;
use kerbside_core::ids::VehicleId;
use tokio_util::sync::CancellationToken;

use crate::signals::{PayloadError, Signals};
use crate::slots::Slots;

/// The times that everything here goes by. Between two slots of a car: [`Slots`].
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// A signal that is older is unknown.
    pub stale_after: Duration,
    /// What a Vehicle says holds for so long after the slot that it was written for, unless it is said anew: this gateway may be gone.
    pub good_for: Duration,
    /// A car that was silent for longer is forgotten.
    pub retain_for: Duration,
}

/// What has to be done in the cluster: one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// There is to be a Vehicle. What it is to say is work of its own, once it is there.
    Make {
        /// The car.
        id: VehicleId,
    },
    /// Its Vehicle is to say this.
    Publish {
        /// The car.
        id: VehicleId,
        /// Of its Vehicle.
        uid: String,
        /// What it is to say.
        says: Said,
    },
    /// Its Vehicle is to go.
    Delete {
        /// The car.
        id: VehicleId,
        /// Of its Vehicle.
        uid: String,
    },
}

impl Work {
    /// The car.
    pub fn id(&self) -> &VehicleId {
        match self {
            Self::Make { id } | Self::Publish { id, .. } | Self::Delete { id, .. } => id,
        }
    }
}

/// What a Vehicle says, and until when it may be believed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    /// Bands, and yes or no.
    pub telemetry: Telemetry,
    /// Reckoned from a slot. None: it says that nothing is known, and that holds for good.
    pub good_until: Option<Timestamp>,
}

/// What was found at a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    slot: Timestamp,
    /// The same moment, by the clock that work waits by.
    at: Boottime,
    finding: Finding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// The car has not come to a slot since it is known.
    Nothing,
    Says(Telemetry),
    /// It was silent for too long.
    Silent,
}

/// When something was tried and not done.
#[derive(Debug, Clone, Copy, Default)]
struct Tries {
    /// When it was handed out last.
    last: Option<Boottime>,
    /// How often in a row the API server refused it.
    refused: u32,
    /// Not before.
    again: Option<Boottime>,
}

impl Tries {
    fn may(self, now: Boottime) -> bool {
        self.again.is_none_or(|again| now >= again)
    }

    /// Since when it waits, if it was due `at`: who was tried has had a turn.
    fn waits_since(self, at: Boottime) -> Boottime {
        self.last.map_or(at, |last| last.max(at))
    }

    fn refused(&mut self, now: Boottime) {
        self.refused = self.refused.saturating_add(1);
        self.again = Some(now + Backoff::POD.delay(self.refused));
    }
}

#[derive(Debug)]
struct Car {
    signals: Signals,
    /// When it last said something that counts, or when the gateway began.
    heard: Boottime,
    /// At its newest slot. All that is ever published is taken from here.
    look: Look,
    /// What its Vehicle says, as far as this gateway has written or read it.
    published: Option<Said>,
    tries: Tries,
    /// Of its Vehicle.
    uid: Option<String>,
    /// Ends its connection.
    connection: Option<CancellationToken>,
}

/// A Vehicle of a car that is not the fleet's any more.
#[derive(Debug)]
struct Orphan {
    uid: String,
    /// The slot of the moment in which it became one: it goes at the next. None: at once, it should not be there at all.
    since: Option<Timestamp>,
    tries: Tries,
}

#[derive(Debug, Default)]
struct State {
    allowed: HashSet<VehicleId>,
    cars: HashMap<VehicleId, Car>,
    orphans: HashMap<VehicleId, Orphan>,
}

/// All cars.
#[derive(Debug)]
pub struct Cars {
    ages: Ages,
    slots: Slots,
    state: Mutex<State>,
}

impl Car {
    /// One of which nothing is said before its next slot.
    fn new(heard: Boottime, slot: Timestamp) -> Self {
        let look = Look {
            slot,
            at: heard,
            finding: Finding::Nothing,
        };
        Self {
            signals: Signals::default(),
            heard,
            look,
            published: None,
            tries: Tries::default(),
            uid: None,
            connection: None,
        }
    }

    fn is_connected(&self) -> bool {
        self.connection.as_ref().is_some_and(|token| !token.is_cancelled())
    }

    /// Looks at the car as it was at its newest slot. To be called before anything that is later is folded in.
    fn look(&mut self, id: &VehicleId, (now, wall): (Boottime, Timestamp), ages: Ages, slots: &Slots) {
        let slot = slots.newest(id, wall);
        if !slots.is_another(slot, self.look.slot) {
            return;
        }
        let ago = Duration::try_from(wall.duration_since(slot)).unwrap_or_default();
        let at = Boottime(now.0.saturating_sub(ago));
        let before = match self.look.finding {
            Finding::Says(says) => says,
            Finding::Nothing | Finding::Silent => self.published.map(|said| said.telemetry).unwrap_or_default(),
        };
        let finding = if at.since(self.heard) > ages.retain_for {
            Finding::Silent
        } else {
            Finding::Says(self.signals.told(&before, (at, slot), ages.stale_after))
        };
        self.look = Look { slot, at, finding };
    }

    /// What has to be done for what was found.
    fn work(&self, id: &VehicleId, good_for: Duration) -> Option<Work> {
        let (id, uid) = (id.clone(), self.uid.clone());
        let telemetry = match self.look.finding {
            Finding::Nothing => return None,
            Finding::Silent => return uid.map(|uid| Work::Delete { id, uid }),
            Finding::Says(telemetry) => telemetry,
        };
        let Some(uid) = uid else {
            // A car that has connected and said nothing yet is not shown.
            return (telemetry != Telemetry::default()).then_some(Work::Make { id });
        };
        let good_until = (telemetry != Telemetry::default()).then(|| after(self.look.slot, good_for));
        let holds = |said: Said| {
            let half = after(self.look.slot, good_for / 2);
            said.telemetry == telemetry
                && said.good_until.is_some() == good_until.is_some()
                && said.good_until.is_none_or(|until| until > half)
        };
        let says = Said { telemetry, good_until };
        (!self.published.is_some_and(holds)).then_some(Work::Publish { id, uid, says })
    }
}

/// A moment so much later; the last one that there is where there is none.
fn after(moment: Timestamp, duration: Duration) -> Timestamp {
    let duration = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    moment.checked_add(duration).unwrap_or(Timestamp::MAX)
}

impl Cars {
    /// None yet, and nobody may come.
    pub fn new(ages: Ages, slots: Slots) -> Self {
        Self {
            ages,
            slots,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many cars the fleet has now, and how many of these are not in `allowed`.
    pub fn lost_by(&self, allowed: &HashSet<VehicleId>) -> (usize, usize) {
        let state = self.state();
        let lost = state.allowed.iter().filter(|id| !allowed.contains(*id)).count();
        (state.allowed.len(), lost)
    }

    /// From now on these cars are the fleet's, and no others: those that are not any more are sent away, and their Vehicles go at their next
    /// slots. One that is again keeps its Vehicle.
    pub fn allow(&self, allowed: HashSet<VehicleId>, (now, wall): (Boottime, Timestamp)) {
        let mut state = self.state();
        let gone = state.cars.extract_if(|id, _| !allowed.contains(id));
        let gone: Vec<_> = gone.collect();
        for (id, car) in gone {
            if let Some(connection) = car.connection {
                connection.cancel();
            }
            if let Some(uid) = car.uid {
                let orphan = Orphan {
                    uid,
                    since: Some(self.slots.newest(&id, wall)),
                    tries: Tries::default(),
                };
                state.orphans.insert(id, orphan);
            }
        }
        let back = state.orphans.extract_if(|id, _| allowed.contains(id));
        let back: Vec<_> = back.collect();
        for (id, orphan) in back {
            let mut car = Car::new(now, self.slots.newest(&id, wall));
            car.uid = Some(orphan.uid);
            state.cars.insert(id, car);
        }
        state.allowed = allowed;
    }

    /// A Vehicle that this gateway made in an earlier life. Its car counts as heard now: it has its whole time to come back.
    pub fn found(&self, id: VehicleId, uid: String, says: Option<Said>, (now, wall): (Boottime, Timestamp)) {
        let mut state = self.state();
        let slot = self.slots.newest(&id, wall);
        if !state.allowed.contains(&id) {
            let orphan = Orphan {
                uid,
                since: Some(slot),
                tries: Tries::default(),
            };
            state.orphans.insert(id, orphan);
            return;
        }
        let car = state.cars.entry(id).or_insert_with(|| Car::new(now, slot));
        car.uid = Some(uid);
        car.published = says;
    }

    /// A car connects. None: it is not one of the fleet's. What it gets ends its connection, also when the car connects again:
    /// the newest counts.
    pub fn connect(&self, id: &VehicleId, (now, wall): (Boottime, Timestamp)) -> Option<CancellationToken> {
        let mut state = self.state();
        if !state.allowed.contains(id) {
            return None;
        }
        let car = state.cars.entry(id.clone());
        let car = car.or_insert_with(|| Car::new(now, self.slots.newest(id, wall)));
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
        car.look(id, (now, wall), self.ages, &self.slots);
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
            good_for, retain_for, ..
        } = self.ages;
        let mut due = Vec::new();
        for (id, orphan) in &state.orphans {
            let slot = self.slots.newest(id, wall);
            let has_come = orphan.since.is_none_or(|since| self.slots.is_another(slot, since));
            if has_come && orphan.tries.may(now) {
                let (id, uid) = (id.clone(), orphan.uid.clone());
                due.push((orphan.tries.waits_since(Boottime::default()), Work::Delete { id, uid }));
            }
        }
        // One that was never shown and is silent needs no work: it is only forgotten.
        state
            .cars
            .retain(|_, car| car.uid.is_some() || car.is_connected() || now.since(car.heard) <= retain_for);
        for (id, car) in &mut state.cars {
            car.look(id, (now, wall), self.ages, &self.slots);
            let work = car.work(id, good_for).filter(|_| car.tries.may(now));
            due.extend(work.map(|work| (car.tries.waits_since(car.look.at), work)));
        }
        due.sort_by_key(|(since, _)| *since);
        due.truncate(room);
        let due: Vec<_> = due.into_iter().map(|(_, work)| work).collect();
        for work in &due {
            if let Some(tries) = state.tries(work.id()) {
                tries.last = Some(now);
            }
        }
        due
    }

    /// The car has a Vehicle now, which says nothing yet. A car that was taken off the list meanwhile leaves it to be deleted.
    pub fn made(&self, id: &VehicleId, uid: String) {
        let mut state = self.state();
        if let Some(car) = state.cars.get_mut(id) {
            car.uid = Some(uid);
            car.published = None;
            car.tries = Tries::default();
        } else {
            state.orphan(id, uid);
        }
    }

    /// The car's Vehicle says so. As in [`Self::made`] for one that is not the fleet's any more.
    pub fn published(&self, id: &VehicleId, uid: String, says: Said) {
        let mut state = self.state();
        if let Some(car) = state.cars.get_mut(id) {
            car.uid = Some(uid);
            car.published = Some(says);
            car.tries = Tries::default();
        } else {
            state.orphan(id, uid);
        }
    }

    /// The API server refuses what was to be done for this one: the others go on, and it waits, longer each time.
    pub fn refused(&self, id: &VehicleId, now: Boottime) {
        if let Some(tries) = self.state().tries(id) {
            tries.refused(now);
        }
    }

    /// The car has no Vehicle, for it was deleted by somebody, or just now by us.
    pub fn absent(&self, id: &VehicleId) {
        let mut state = self.state();
        state.orphans.remove(id);
        if let Some(car) = state.cars.get_mut(id) {
            car.uid = None;
            car.published = None;
            car.tries = Tries::default();
        }
    }
}

impl State {
    fn tries(&mut self, id: &VehicleId) -> Option<&mut Tries> {
        match self.cars.get_mut(id) {
            Some(car) => Some(&mut car.tries),
            None => self.orphans.get_mut(id).map(|orphan| &mut orphan.tries),
        }
    }

    /// A Vehicle was written while its car was taken off the list.
    fn orphan(&mut self, id: &VehicleId, uid: String) {
        let before = self.orphans.remove(id);
        let since = before.and_then(|before| before.since);
        let orphan = Orphan {
            uid,
            since,
            tries: Tries::default(),
        };
        self.orphans.insert(id.clone(), orphan);
    }
}

#[cfg(test)]
mod tests;
