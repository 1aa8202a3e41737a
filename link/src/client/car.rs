//! What the car has to say: its state and its attempts, kept until nobody needs them.
//!
//! Written by the agent, read by sessions. Every `Hello` says all of it, and what changes afterwards goes to every session that
//! has said `Hello`, so that nothing falls between two sessions. Never: an older revision over a newer one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::mailbox::{Mailbox, Put};
use crate::outbox::Lane;
use crate::proto::car_message::Message;
use crate::proto::{AttemptStatus, CarMessage, CarState, Heartbeat};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Heartbeat,
    State,
    Status(String),
}

pub(super) type Out = Mailbox<Key, CarMessage, ()>;

/// A status that went out and is not acknowledged by the second heartbeat after it is sent again.
const PATIENCE: u8 = 2;

#[derive(Debug)]
pub(super) struct Car {
    inner: Mutex<Inner>,
    busy: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner {
    state: CarState,
    attempts: BTreeMap<String, Held>,
    sessions: Vec<Arc<Out>>,
}

#[derive(Debug)]
struct Held {
    status: AttemptStatus,
    acknowledged: bool,
    heartbeats: u8,
}

impl Car {
    pub(super) fn new(state: CarState, attempts: Vec<AttemptStatus>) -> Self {
        let attempts: BTreeMap<_, _> = attempts
            .into_iter()
            .map(|status| (status.uid.clone(), held(status)))
            .collect();
        let busy = watch::Sender::new(is_busy(&attempts));
        Self {
            inner: Mutex::new(Inner {
                state,
                attempts,
                sessions: Vec::new(),
            }),
            busy,
        }
    }

    pub(super) fn set_state(&self, state: CarState) {
        let mut inner = self.lock();
        inner.state = state.clone();
        inner.send(Lane::Control, &Key::State, &Message::State(state));
    }

    pub(super) fn set_status(&self, status: AttemptStatus) {
        let mut inner = self.lock();
        if let Some(known) = inner.attempts.get(&status.uid)
            && known.status.revision >= status.revision
        {
            if known.status != status {
                tracing::warn!(attempt = %status.uid, revision = status.revision, "dropped a status that is not newer");
            }
            return;
        }
        inner.attempts.insert(status.uid.clone(), held(status.clone()));
        inner.send(Lane::State, &Key::Status(status.uid.clone()), &Message::Status(status));
        self.update_busy(&inner);
    }

    pub(super) fn forget(&self, uid: &str) {
        let mut inner = self.lock();
        inner.attempts.remove(uid);
        for session in &inner.sessions {
            session.remove(&Key::Status(uid.to_owned()));
        }
        self.update_busy(&inner);
    }

    pub(super) fn acknowledged(&self, uid: &str, revision: u64) {
        if let Some(held) = self.lock().attempts.get_mut(uid)
            && held.status.revision == revision
        {
            held.acknowledged = true;
        }
    }

    /// What a `Hello` says; every change after it goes to `session`, which is asked to hold it until it is welcome.
    pub(super) fn join(&self, session: &Arc<Out>) -> (CarState, Vec<AttemptStatus>) {
        let mut inner = self.lock();
        inner.sessions.push(Arc::clone(session));
        (
            inner.state.clone(),
            inner.attempts.values().map(|held| held.status.clone()).collect(),
        )
    }

    pub(super) fn leave(&self, session: &Arc<Out>) {
        self.lock().sessions.retain(|other| !Arc::ptr_eq(other, session));
        session.close(None);
    }

    /// Sends a heartbeat over `session`, and again what nobody has acknowledged for too long.
    pub(super) fn heartbeat(&self, session: &Arc<Out>, seq: u64) {
        session.put(
            Lane::Control,
            Key::Heartbeat,
            message(Message::Heartbeat(Heartbeat { seq })),
        );
        for held in self.lock().attempts.values_mut().filter(|held| !held.acknowledged) {
            held.heartbeats += 1;
            if held.heartbeats >= PATIENCE {
                held.heartbeats = 0;
                let key = Key::Status(held.status.uid.clone());
                session.put(Lane::State, key, message(Message::Status(held.status.clone())));
            }
        }
    }

    /// Whether some attempt may still have a process.
    pub(super) fn busy(&self) -> watch::Receiver<bool> {
        self.busy.subscribe()
    }

    fn update_busy(&self, inner: &Inner) {
        let busy = is_busy(&inner.attempts);
        self.busy.send_if_modified(|held| std::mem::replace(held, busy) != busy);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn send(&mut self, lane: Lane, key: &Key, what: &Message) {
        for session in &self.sessions {
            if session.put(lane, key.clone(), message(what.clone())) == Put::Full {
                // It says `Hello` again, with everything.
                session.close(None);
            }
        }
    }
}

fn held(status: AttemptStatus) -> Held {
    Held {
        status,
        acknowledged: false,
        heartbeats: 0,
    }
}

fn message(message: Message) -> CarMessage {
    CarMessage { message: Some(message) }
}

fn is_busy(attempts: &BTreeMap<String, Held>) -> bool {
    attempts.values().any(|held| !held.status.stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(uid: &str, revision: u64) -> AttemptStatus {
        AttemptStatus {
            uid: uid.into(),
            revision,
            ..AttemptStatus::default()
        }
    }

    fn session() -> Arc<Out> {
        Arc::new(Out::new(false))
    }

    async fn next(session: &Out) -> Message {
        session.take().await.unwrap().unwrap().message.unwrap()
    }

    async fn nothing(session: &Out) -> bool {
        tokio::time::timeout(std::time::Duration::ZERO, session.take())
            .await
            .is_err()
    }

    #[tokio::test]
    async fn status_set_before_and_after_hello_is_in_it_and_sent_after_it() {
        let car = Car::new(CarState::default(), vec![status("a", 1)]);
        let session = session();
        assert_eq!(car.join(&session).1, [status("a", 1)]);
        assert!(nothing(&session).await);
        car.set_status(status("a", 2));
        car.set_status(status("a", 3));
        assert_eq!(next(&session).await, Message::Status(status("a", 3)));
        assert!(nothing(&session).await);
    }

    #[tokio::test]
    async fn status_that_is_not_newer_is_dropped() {
        let car = Car::new(CarState::default(), vec![status("a", 5)]);
        let session = session();
        car.join(&session);
        car.set_status(status("a", 5));
        car.set_status(status("a", 4));
        assert!(nothing(&session).await);
    }

    #[tokio::test]
    async fn status_not_acknowledged_is_sent_again_with_the_second_heartbeat() {
        let car = Car::new(CarState::default(), vec![status("a", 1), status("b", 1)]);
        let session = session();
        car.join(&session);
        car.acknowledged("b", 1);
        car.heartbeat(&session, 1);
        assert!(matches!(next(&session).await, Message::Heartbeat(_)));
        assert!(nothing(&session).await);
        car.heartbeat(&session, 2);
        assert!(matches!(next(&session).await, Message::Heartbeat(_)));
        assert_eq!(next(&session).await, Message::Status(status("a", 1)));
        assert!(nothing(&session).await);
    }

    #[tokio::test]
    async fn acknowledgement_of_an_older_revision_does_not_count() {
        let car = Car::new(CarState::default(), vec![status("a", 2)]);
        let session = session();
        car.join(&session);
        car.acknowledged("a", 1);
        car.heartbeat(&session, 1);
        car.heartbeat(&session, 2);
        assert!(matches!(next(&session).await, Message::Heartbeat(Heartbeat { seq: 2 })));
        assert_eq!(next(&session).await, Message::Status(status("a", 2)));
    }

    #[tokio::test]
    async fn attempt_forgotten_is_neither_sent_nor_in_the_next_hello() {
        let car = Car::new(CarState::default(), Vec::new());
        let (first, second) = (session(), session());
        car.join(&first);
        car.set_status(status("a", 1));
        car.forget("a");
        assert!(nothing(&first).await);
        assert!(car.join(&second).1.is_empty());
    }

    #[test]
    fn car_is_busy_while_an_attempt_is_not_stopped() {
        let car = Car::new(CarState::default(), Vec::new());
        let busy = car.busy();
        car.set_status(status("a", 1));
        assert!(*busy.borrow());
        car.set_status(AttemptStatus {
            stopped: true,
            ..status("a", 2)
        });
        assert!(!*busy.borrow());
    }
}
