//! What arrives for the agent: the newest of each, stops first.
//!
//! Filled by the session, taken by the agent. An agent that is slow makes nothing wait but itself. Never: an acknowledgement before a stop
//! that came before it.

use std::sync::Arc;

use kerbside_core::attempt::Heard;
use kerbside_core::ids::PodUid;

use crate::mailbox::{Mailbox, Put};
use crate::outbox::Lane;
use crate::proto::{OpenTunnel, Provide, ReadLogs, Run, Stop};

/// Something that the agent must know or do.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An adapter has welcomed the car.
    Connected {
        /// Of the session.
        epoch: u64,
    },
    /// No adapter is connected any more.
    Disconnected {
        /// For people.
        why: String,
    },
    /// The adapter has heard what was sent at these times: fences count from there. After every stop that the adapter wanted before it.
    Heard(Heard),
    /// Run this attempt, unless the car has taken its uid before. To be answered with a status in either case.
    Run(Run),
    /// What the Pod of this attempt refers to, as it is now.
    Provide(Provide),
    /// Stop this attempt. A car that does not know it answers that it is stopped (`DISRUPTED`), and never starts it.
    Stop(Stop),
    /// Nobody needs this attempt any more. What the car holds of it may go, and [`super::Client::forget`] is to be called.
    Forget(PodUid),
    /// Send this log with [`super::Client::send_logs`].
    ReadLogs(ReadLogs),
    /// Nobody wants the log with this request id any more.
    CancelLogs(String),
    /// Answer with [`super::Client::tunnel`].
    OpenTunnel(OpenTunnel),
    /// Nobody wants the tunnel with this request id any more.
    CloseTunnel(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Connection,
    Heard,
    Run(String),
    Provide(String),
    Stop(String),
    Forget(String),
    ReadLogs(String),
    CancelLogs(String),
    OpenTunnel(String),
    CloseTunnel(String),
}

pub(super) type EventBox = Mailbox<Key, Event, ()>;

/// Puts one; `false`: so many wait that the session must end.
pub(super) fn put(events: &EventBox, event: Event) -> bool {
    let (lane, key) = match &event {
        Event::Connected { .. } | Event::Disconnected { .. } => (Lane::Control, Key::Connection),
        Event::Heard(_) => {
            // Not in the place of the one before.
            events.remove(&Key::Heard);
            (Lane::Control, Key::Heard)
        }
        Event::Run(run) => (Lane::State, Key::Run(run.uid.clone())),
        Event::Provide(provide) => (Lane::State, Key::Provide(provide.uid.clone())),
        Event::Stop(stop) => {
            events.remove(&Key::Run(stop.uid.clone()));
            (Lane::Control, Key::Stop(stop.uid.clone()))
        }
        Event::Forget(uid) => {
            events.remove(&Key::Run(uid.to_string()));
            events.remove(&Key::Stop(uid.to_string()));
            (Lane::State, Key::Forget(uid.to_string()))
        }
        Event::ReadLogs(read) => (Lane::State, Key::ReadLogs(read.request_id.clone())),
        Event::CancelLogs(id) => {
            if events.remove(&Key::ReadLogs(id.clone())).is_some() {
                return true;
            }
            (Lane::Control, Key::CancelLogs(id.clone()))
        }
        Event::OpenTunnel(open) => (Lane::State, Key::OpenTunnel(open.request_id.clone())),
        Event::CloseTunnel(id) => {
            if events.remove(&Key::OpenTunnel(id.clone())).is_some() {
                return true;
            }
            (Lane::Control, Key::CloseTunnel(id.clone()))
        }
    };
    events.put(lane, key, event) != Put::Full
}

/// The agent's end.
#[derive(Debug)]
pub struct Events {
    pub(super) mailbox: Arc<EventBox>,
}

impl Events {
    /// The next event; `None` once the client was shut down.
    pub async fn next(&mut self) -> Option<Event> {
        self.mailbox.take().await.ok().flatten()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.mailbox.close(None);
    }
}

#[cfg(test)]
mod tests {
    use kerbside_core::clock::Boottime;

    use super::*;

    fn run(uid: &str) -> Event {
        Event::Run(Run {
            uid: uid.into(),
            ..Run::default()
        })
    }

    fn stop(uid: &str) -> Event {
        Event::Stop(Stop {
            uid: uid.into(),
            ..Stop::default()
        })
    }

    async fn all(given: Vec<Event>) -> Vec<Event> {
        let mailbox = Arc::new(EventBox::new(false));
        for event in given {
            assert!(put(&mailbox, event));
        }
        mailbox.finish();
        let mut events = Events { mailbox };
        let mut taken = Vec::new();
        while let Some(event) = events.next().await {
            taken.push(event);
        }
        taken
    }

    #[tokio::test]
    async fn stop_overtakes_and_removes_the_run_that_waits() {
        assert_eq!(all(vec![run("a"), run("b"), stop("a")]).await, [stop("a"), run("b")]);
    }

    #[tokio::test]
    async fn acknowledgement_waits_behind_the_stops_before_it_and_only_the_newest_counts() {
        let heard = |seconds| {
            let mut heard = Heard::default();
            heard.acknowledged(Boottime(std::time::Duration::from_secs(seconds)), true);
            Event::Heard(heard)
        };
        let given = vec![run("b"), heard(1), stop("a"), heard(2)];
        assert_eq!(all(given).await, [stop("a"), heard(2), run("b")]);
    }

    #[tokio::test]
    async fn run_sent_again_arrives_once() {
        assert_eq!(all(vec![run("a"), run("a")]).await, [run("a")]);
    }

    #[tokio::test]
    async fn connection_that_came_and_went_says_only_how_it_is() {
        let lost = Event::Disconnected { why: "lost".into() };
        assert_eq!(all(vec![Event::Connected { epoch: 1 }, lost.clone()]).await, [lost]);
    }
}
