//! An [`Outbox`] between tasks: any number put, one takes.
//!
//! Both sides of a session send from one, and the car's events arrive through one. Putting never waits. Never: a peer that
//! does not read making anybody wait or memory grow; the mailbox says that it is full instead, and the session ends.

use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::outbox::{Lane, Outbox};

/// More keys than a car has attempts and requests by far.
pub(crate) const LIMIT: usize = 4096;

#[derive(Debug)]
pub(crate) struct Mailbox<K, V, E> {
    inner: Mutex<Inner<K, V, E>>,
    changed: Notify,
    closed: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner<K, V, E> {
    outbox: Outbox<K, V>,
    /// Before the greeting nothing goes out.
    held: bool,
    first: Option<V>,
    end: Option<End<E>>,
}

/// What became of a value that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// It waits.
    Done,
    /// It was dropped: nobody has taken anything for very long. The caller ends what the mailbox belongs to.
    Full,
    /// It was dropped: the mailbox has ended.
    Closed,
}

#[derive(Debug)]
enum End<E> {
    /// What waits still goes out.
    Finished,
    /// Nothing goes out any more.
    Closed(Option<E>),
}

impl<K: Clone + Eq + Hash, V, E> Mailbox<K, V, E> {
    /// An open mailbox; a held one gives nothing until it is released.
    pub(crate) fn new(held: bool) -> Self {
        let inner = Inner {
            outbox: Outbox::new(LIMIT),
            held,
            first: None,
            end: None,
        };
        Self {
            inner: Mutex::new(inner),
            changed: Notify::new(),
            closed: watch::Sender::new(false),
        }
    }

    /// Puts the newest value of `key`.
    pub(crate) fn put(&self, lane: Lane, key: K, value: V) -> Put {
        {
            let mut inner = self.lock();
            if inner.end.is_some() {
                return Put::Closed;
            }
            if inner.outbox.put(lane, key, value).is_err() {
                return Put::Full;
            }
        }
        self.changed.notify_one();
        Put::Done
    }

    /// Takes back what waits under `key`.
    pub(crate) fn remove(&self, key: &K) -> Option<V> {
        self.lock().outbox.remove(key)
    }

    /// Lets out `first`, and then what has been put.
    pub(crate) fn release(&self, first: Option<V>) {
        {
            let mut inner = self.lock();
            inner.held = false;
            inner.first = first;
        }
        self.changed.notify_one();
    }

    /// Ends it once everything that waits is out.
    pub(crate) fn finish(&self) {
        self.end(End::Finished);
    }

    /// Ends it now, for this reason; `None`: in order.
    pub(crate) fn close(&self, why: Option<E>) {
        self.end(End::Closed(why));
    }

    fn end(&self, end: End<E>) {
        {
            let mut inner = self.lock();
            match (&inner.end, &end) {
                (None, _) | (Some(End::Finished), End::Closed(_)) => {}
                _ => return,
            }
            if matches!(end, End::Closed(_)) {
                inner.outbox.clear();
                inner.first = None;
            }
            inner.held = false;
            inner.end = Some(end);
        }
        self.closed.send_replace(true);
        self.changed.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Returns once it has been finished or closed.
    pub(crate) async fn closed(&self) {
        // An error would mean that the sender is gone, which `self` holds.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// The next value; `None` at the end in order; an error at any other.
    pub(crate) async fn take(&self) -> Result<Option<V>, E> {
        loop {
            {
                let mut inner = self.lock();
                if !inner.held {
                    if let Some(value) = inner.first.take() {
                        return Ok(Some(value));
                    }
                    if let Some(value) = inner.outbox.pop() {
                        return Ok(Some(value));
                    }
                }
                match &mut inner.end {
                    None => {}
                    Some(End::Finished) => return Ok(None),
                    Some(End::Closed(why)) => return why.take().map_or(Ok(None), Err),
                }
            }
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K, V, E>> {
        // Nothing in here panics half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    type Box = Mailbox<&'static str, u32, &'static str>;

    fn put(mailbox: &Box, key: &'static str, value: u32) -> bool {
        mailbox.put(Lane::State, key, value) == Put::Done
    }

    #[tokio::test]
    async fn held_mailbox_gives_nothing_until_released_and_then_the_greeting_first() {
        let mailbox = Box::new(true);
        assert!(put(&mailbox, "a", 1));
        let none = tokio::time::timeout(std::time::Duration::ZERO, mailbox.take()).await;
        assert!(none.is_err());
        mailbox.release(Some(7));
        assert_eq!(mailbox.take().await, Ok(Some(7)));
        assert_eq!(mailbox.take().await, Ok(Some(1)));
    }

    #[tokio::test]
    async fn finished_mailbox_gives_what_waits_and_takes_no_more() {
        let mailbox = Box::new(false);
        assert!(put(&mailbox, "a", 1));
        mailbox.finish();
        assert!(!put(&mailbox, "b", 2));
        assert_eq!(mailbox.take().await, Ok(Some(1)));
        assert_eq!(mailbox.take().await, Ok(None));
        mailbox.closed().await;
    }

    #[tokio::test]
    async fn closed_mailbox_gives_its_reason_once_and_nothing_else() {
        let mailbox = Box::new(false);
        assert!(put(&mailbox, "a", 1));
        mailbox.close(Some("revoked"));
        mailbox.close(Some("too late"));
        assert_eq!(mailbox.take().await, Err("revoked"));
        assert_eq!(mailbox.take().await, Ok(None));
    }

    #[test]
    fn mailbox_nobody_takes_from_is_full_at_its_limit() {
        let mailbox = Mailbox::<usize, (), &str>::new(false);
        for key in 0..LIMIT {
            assert_eq!(mailbox.put(Lane::State, key, ()), Put::Done);
        }
        assert_eq!(mailbox.put(Lane::State, LIMIT, ()), Put::Full);
        assert_eq!(mailbox.put(Lane::State, 0, ()), Put::Done);
        mailbox.close(None);
        assert_eq!(mailbox.put(Lane::State, 0, ()), Put::Closed);
    }

    #[tokio::test]
    async fn taker_waiting_is_woken_by_a_put() {
        let mailbox = Arc::new(Box::new(false));
        let taker = tokio::spawn({
            let mailbox = Arc::clone(&mailbox);
            async move { mailbox.take().await }
        });
        tokio::task::yield_now().await;
        put(&mailbox, "a", 5);
        assert_eq!(taker.await.unwrap(), Ok(Some(5)));
    }
}
