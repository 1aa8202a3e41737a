//! The living sessions of this adapter, one per car.
//!
//! Used by the session tasks and by the shutdown. Never: two sessions of one car that both believe to be the newest.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kerbside_core::ids::VehicleId;
use tokio::sync::watch;

use super::SessionHandle;
use crate::fault::Fault;

#[derive(Debug, Default)]
pub(super) struct Registry {
    inner: Mutex<Inner>,
    count: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: HashMap<VehicleId, (u64, SessionHandle)>,
    draining: bool,
}

impl Registry {
    /// Enters a session that was welcomed; an older one of the same car is closed. `false`: a newer one is there, or the
    /// adapter goes away, and this one has been closed.
    pub(super) fn enter(&self, epoch: u64, session: &SessionHandle) -> bool {
        let replaced = || Fault::conflict("replaced by a newer connection of the same car");
        let mut inner = self.lock();
        if inner.draining {
            session.close(Fault::unavailable("this adapter is going away: connect again"));
            return false;
        }
        match inner.sessions.entry(session.vehicle().clone()) {
            Entry::Occupied(held) if held.get().0 > epoch => {
                session.close(replaced());
                return false;
            }
            Entry::Occupied(mut held) => {
                let (_, older) = held.insert((epoch, session.clone()));
                older.close(replaced());
            }
            Entry::Vacant(free) => {
                free.insert((epoch, session.clone()));
            }
        }
        self.count.send_replace(inner.sessions.len());
        true
    }

    /// A session is over; a newer one of the same car stays.
    pub(super) fn leave(&self, vehicle: &VehicleId, epoch: u64) {
        let mut inner = self.lock();
        if inner.sessions.get(vehicle).is_some_and(|(held, _)| *held == epoch) {
            inner.sessions.remove(vehicle);
        }
        self.count.send_replace(inner.sessions.len());
    }

    /// From now on nobody enters. Returns who is there.
    pub(super) fn begin_drain(&self) -> Vec<SessionHandle> {
        let mut inner = self.lock();
        inner.draining = true;
        inner.sessions.values().map(|(_, session)| session.clone()).collect()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.lock().draining
    }

    /// Returns once nobody is there.
    pub(super) async fn empty(&self) {
        // An error would mean that the sender is gone, which `self` holds.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::handle::CarMailbox;
    use super::*;

    fn session() -> SessionHandle {
        SessionHandle::new(VehicleId::from_random([1; 10]), Arc::new(CarMailbox::new(false)))
    }

    #[test]
    fn newer_session_of_a_car_closes_the_older_whichever_enters_first() {
        let registry = Registry::default();
        let (first, second, late) = (session(), session(), session());
        assert!(registry.enter(1, &first));
        assert!(registry.enter(3, &second));
        assert!(first.is_closed() && !second.is_closed());
        assert!(!registry.enter(2, &late));
        assert!(late.is_closed() && !second.is_closed());
    }

    #[tokio::test]
    async fn older_session_that_leaves_late_does_not_take_the_newer_out() {
        let registry = Registry::default();
        let (first, second) = (session(), session());
        registry.enter(1, &first);
        registry.enter(2, &second);
        registry.leave(first.vehicle(), 1);
        assert_eq!(registry.begin_drain().len(), 1);
        registry.leave(first.vehicle(), 2);
        registry.empty().await;
    }

    #[test]
    fn session_that_arrives_while_draining_is_closed() {
        let registry = Registry::default();
        registry.begin_drain();
        let late = session();
        assert!(!registry.enter(9, &late));
        assert!(late.is_closed());
    }
}
