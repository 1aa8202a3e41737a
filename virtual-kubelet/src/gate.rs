//! How many requests of this adapter are with the API server at one moment, in lanes that do not wait for each other.
//!
//! Asked by every actor before each of its jobs, by the readers of what Pods refer to, and by the fleet before a car is greeted. When thousands of cars come back at once, requests
//! beyond what an API server takes at a time would only wait there until their patience is over, and be made again. What waits here
//! waits without that clock running, and is one job per object at most. What must never happen: a renewal or the word on a Pod that
//! waits behind the arrival of other cars.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kerbside_core::clock::{Boottime, Clock};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::arrivals::{Arrivals, SLOW};

/// Requests of one lane at one moment: an API server with two processors answers as many within some tens of milliseconds.
const AT_ONCE: usize = 32;
/// Renewals at one moment. An API server that has more to do than it can gives each lane by what it has there: when a fleet comes back, most
/// of it must be the renewals, or Nodes that have nothing to do with it turn NotReady.
const RENEWALS: usize = 96;
/// Of what a fleet that comes back brings by the thousand, beside its renewals.
const RETURNS: usize = 12;
/// Of what people look at, and nothing waits for: when many cars leave in one second, these would be half of all requests before
/// the scheduler could bind what the cars were doing.
const UNHURRIED: usize = 6;
/// Of Events, likewise.
const EVENTS: usize = 2;

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// A Lease: late ones cost a Node its readiness.
    Renewal,
    /// A Pod or its output.
    Work,
    /// The connection of a car.
    Arrival,
    /// A Node: what the scheduler goes by.
    Node,
    /// A Vehicle's status.
    Facts,
    /// What a Pod refers to: an object, a token. Its program waits for it.
    Object,
    /// A registry, which may be slow: it holds up nothing that the API server is asked.
    Registry,
    /// Events.
    Event,
}

/// The lanes.
#[derive(Debug)]
pub(crate) struct Gate {
    renewal: Semaphore,
    work: Semaphore,
    arrival: Semaphore,
    node: Semaphore,
    facts: Semaphore,
    object: Semaphore,
    registry: Semaphore,
    event: Semaphore,
    arrivals: Mutex<Arrivals>,
}

impl Default for Gate {
    fn default() -> Self {
        let lane = || Semaphore::new(AT_ONCE);
        Self {
            renewal: Semaphore::new(RENEWALS),
            work: lane(),
            arrival: Semaphore::new(RETURNS),
            node: Semaphore::new(RETURNS),
            facts: Semaphore::new(UNHURRIED),
            object: lane(),
            registry: lane(),
            event: Semaphore::new(EVENTS),
            arrivals: Mutex::default(),
        }
    }
}

impl Gate {
    /// Waits for a place in the lane, in the order of asking; it is free again when the permit is dropped.
    pub(crate) async fn enter(&self, lane: Lane) -> Option<SemaphorePermit<'_>> {
        let lane = match lane {
            Lane::Renewal => &self.renewal,
            Lane::Work => &self.work,
            Lane::Arrival => &self.arrival,
            Lane::Node => &self.node,
            Lane::Facts => &self.facts,
            Lane::Object => &self.object,
            Lane::Registry => &self.registry,
            Lane::Event => &self.event,
        };
        // None would mean that it was closed, which nobody does.
        lane.acquire().await.ok()
    }

    /// A place among the cars that wait for their greeting, until it is dropped.
    ///
    /// # Errors
    /// There are so many that this one should come again after that delay.
    pub(crate) fn arrive<'a>(&'a self, with_attempts: bool, clock: &'a dyn Clock) -> Result<Place<'a>, Duration> {
        let since = clock.boottime();
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.enter(with_attempts, since)?;
        Ok(Place {
            arrivals: &self.arrivals,
            clock,
            since,
            greeted: false,
        })
    }
}

/// A car waits for its greeting.
pub(crate) struct Place<'a> {
    arrivals: &'a Mutex<Arrivals>,
    clock: &'a dyn Clock,
    since: Boottime,
    greeted: bool,
}

impl Place<'_> {
    /// The car has its greeting.
    pub(crate) fn greeted(mut self) {
        self.greeted = true;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let now = self.clock.boottime();
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let took = now.since(self.since);
        arrivals.leave(Some(took).filter(|took| self.greeted || *took > SLOW), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrivals::SOONEST;
    use crate::testing::TestClock;

    #[tokio::test]
    async fn full_lane_holds_up_nobody_in_another() {
        let gate = Gate::default();
        let mut held = Vec::new();
        for _ in 0..UNHURRIED {
            held.push(gate.enter(Lane::Facts).await);
        }
        let mut next = Box::pin(gate.enter(Lane::Facts));
        assert!(futures::poll!(&mut next).is_pending());
        for lane in [
            Lane::Renewal,
            Lane::Work,
            Lane::Arrival,
            Lane::Node,
            Lane::Object,
            Lane::Registry,
            Lane::Event,
        ] {
            assert!(futures::poll!(Box::pin(gate.enter(lane))).is_ready(), "{lane:?}");
        }
        held.pop();
        assert!(futures::poll!(&mut next).is_ready());
    }

    #[test]
    fn car_beyond_those_that_may_wait_is_told_so_at_once_and_a_place_that_is_left_is_free() {
        let (gate, clock) = (Gate::default(), TestClock::default());
        let mut waiting = Vec::new();
        let delay = loop {
            match gate.arrive(false, &clock) {
                Ok(place) => waiting.push(place),
                Err(delay) => break delay,
            }
        };
        assert!(waiting.len() > 16 && delay >= SOONEST);
        waiting.pop();
        assert!(gate.arrive(false, &clock).is_ok());
    }
}
