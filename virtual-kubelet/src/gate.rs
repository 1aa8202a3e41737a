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
/// Of looks for Pods that may be long gone: each is a list past every cache, and a car may make up as many as it may send receipts.
const RECEIPTS: usize = 2;

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
    /// The Pods of a car, for its receipt of one that no watch shows.
    Receipt,
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
    receipt: Semaphore,
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
            receipt: Semaphore::new(RECEIPTS),
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
            Lane::Receipt => &self.receipt,
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
            end: End::Left,
        })
    }

    /// After how long a car is to come again that had a place, and could not be greeted.
    pub(crate) fn appoint(&self, with_attempts: bool, clock: &dyn Clock) -> Duration {
        let now = clock.boottime();
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.appoint(with_attempts, now)
    }
}

/// How a car's wait for its greeting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Greeted,
    /// By an API server that takes no more.
    Refused,
    /// It has gone, or was turned away for what it is.
    Left,
}

/// A car waits for its greeting.
pub(crate) struct Place<'a> {
    arrivals: &'a Mutex<Arrivals>,
    clock: &'a dyn Clock,
    since: Boottime,
    end: End,
}

impl Place<'_> {
    /// The car has its greeting.
    pub(crate) fn greeted(mut self) {
        self.end = End::Greeted;
    }

    /// The API server has refused the write for its greeting, again and again.
    pub(crate) fn refused(mut self) {
        self.end = End::Refused;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let now = self.clock.boottime();
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        let took = now.since(self.since);
        let took = match self.end {
            End::Greeted => Some(took),
            // However soon it gave up: nothing is slower than what is not done.
            End::Refused => Some(took.max(SLOW)),
            End::Left => Some(took).filter(|took| *took >= SLOW),
        };
        arrivals.leave(took, now);
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
            Lane::Receipt,
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

    /// How many idle cars find a place.
    fn places(gate: &Gate, clock: &TestClock) -> usize {
        std::iter::from_fn(|| gate.arrive(false, clock).ok())
            .collect::<Vec<_>>()
            .len()
    }

    #[test]
    fn refusal_counts_as_slow_however_quick_it_was_and_who_goes_in_a_moment_counts_as_nothing() {
        let (gate, clock) = (Gate::default(), TestClock::default());
        let at_first = places(&gate, &clock);
        drop(gate.arrive(false, &clock).unwrap());
        assert_eq!(places(&gate, &clock), at_first);
        gate.arrive(false, &clock).unwrap().refused();
        assert!(places(&gate, &clock) < at_first);
    }

    #[test]
    fn cars_that_could_not_be_greeted_are_not_asked_to_come_again_together() {
        let (gate, clock) = (Gate::default(), TestClock::default());
        for _ in 0..8 {
            gate.arrive(false, &clock).unwrap().refused();
        }
        let delays: Vec<_> = (0..8).map(|_| gate.appoint(false, &clock)).collect();
        assert!(delays[0] >= SOONEST && delays.is_sorted_by(|a, b| a < b), "{delays:?}");
        assert_eq!(gate.appoint(true, &clock), SOONEST);
    }
}
