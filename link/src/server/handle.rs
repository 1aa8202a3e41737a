//! The adapter's way to send to one car, as long as one session lives.
//!
//! Held by the car's actor. No method waits and none fails: what cannot be sent any more need not be, for the car says `Hello`
//! again. Never: a `Run` sent after a `Stop` or `Forget` of the same attempt, or an acknowledgement before a `Stop` that was put before it:
//! the car would go on with what it is about to be told to stop.

use std::sync::Arc;
use std::time::Duration;

use kerbside_core::ids::{PodUid, VehicleId};

use crate::fault::Fault;
use crate::mailbox::{Mailbox, Put};
use crate::outbox::Lane;
use crate::proto::adapter_message::Message;
use crate::proto::{
    AdapterMessage, CancelLogs, CloseTunnel, Drain, Forget, HeartbeatAck, OpenTunnel, Provide, ReadLogs, Redirect,
    RetryAfter, Run, StatusAck, Stop,
};

/// What replaces what: of each key only the newest waits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    HeartbeatAck { proven: bool },
    Run(String),
    Provide(String),
    Stop(String),
    Forget(String),
    StatusAck(String),
    ReadLogs(String),
    CancelLogs(String),
    OpenTunnel(String),
    CloseTunnel(String),
    Redirect,
    RetryAfter,
    Drain,
}

pub(super) type CarMailbox = Mailbox<Key, AdapterMessage, Fault>;

/// Sends to one car over one session. Clones send over the same.
#[derive(Debug, Clone)]
pub struct SessionHandle {
    vehicle: VehicleId,
    mailbox: Arc<CarMailbox>,
}

impl SessionHandle {
    pub(super) fn new(vehicle: VehicleId, mailbox: Arc<CarMailbox>) -> Self {
        Self { vehicle, mailbox }
    }

    /// A handle that no session stands behind: what is sent over it goes nowhere. For the tests of an adapter.
    pub fn detached(vehicle: VehicleId) -> Self {
        Self::new(vehicle, Arc::new(CarMailbox::new(false)))
    }

    /// The car.
    pub fn vehicle(&self) -> &VehicleId {
        &self.vehicle
    }

    /// Asks the car to run an attempt. Nothing over 1 MiB reaches a car.
    pub fn run(&self, run: Run) {
        self.put(Lane::State, Key::Run(run.uid.clone()), Message::Run(run));
    }

    /// Gives the car what the Pod of an attempt refers to. Nothing over 1 MiB reaches a car.
    pub fn provide(&self, provide: Provide) {
        self.put(
            Lane::State,
            Key::Provide(provide.uid.clone()),
            Message::Provide(provide),
        );
    }

    /// Asks the car to stop an attempt, whether it has it or not. A `Run` of it that still waits is taken back.
    pub fn stop(&self, stop: Stop) {
        self.mailbox.remove(&Key::Run(stop.uid.clone()));
        self.mailbox.remove(&Key::Provide(stop.uid.clone()));
        self.put(Lane::Control, Key::Stop(stop.uid.clone()), Message::Stop(stop));
    }

    /// Tells the car that it may drop an attempt. A `Run` or `Stop` of it that still waits is taken back.
    pub fn forget(&self, uid: &PodUid) {
        let uid = uid.to_string();
        self.mailbox.remove(&Key::Run(uid.clone()));
        self.mailbox.remove(&Key::Provide(uid.clone()));
        self.mailbox.remove(&Key::Stop(uid.clone()));
        self.put(Lane::State, Key::Forget(uid.clone()), Message::Forget(Forget { uid }));
    }

    /// Tells the car that this status is held and need not be sent again.
    pub fn ack_status(&self, uid: &PodUid, revision: u64) {
        let uid = uid.to_string();
        self.put(
            Lane::State,
            Key::StatusAck(uid.clone()),
            Message::StatusAck(StatusAck { uid, revision }),
        );
    }

    /// Tells the car that its heartbeat was heard, and all before it; only after that has been recorded. Zero is its `Hello`. `proven`:
    /// no other adapter can have taken the car over by now.
    pub fn ack_heartbeat(&self, seq: u64, proven: bool) {
        // Not in the place of the one before: behind every stop. What proves nothing takes no proof away that waits.
        self.mailbox.remove(&Key::HeartbeatAck { proven: false });
        if proven {
            self.mailbox.remove(&Key::HeartbeatAck { proven });
        }
        self.put(
            Lane::Control,
            Key::HeartbeatAck { proven },
            Message::HeartbeatAck(HeartbeatAck { seq, proven }),
        );
    }

    /// Asks for a log; [`super::Adapter::logs`] brings the answer.
    pub fn read_logs(&self, request: ReadLogs) {
        self.put(
            Lane::State,
            Key::ReadLogs(request.request_id.clone()),
            Message::ReadLogs(request),
        );
    }

    /// The log is not wanted any more.
    pub fn cancel_logs(&self, request_id: &str) {
        let request_id = request_id.to_owned();
        if self.mailbox.remove(&Key::ReadLogs(request_id.clone())).is_none() {
            let key = Key::CancelLogs(request_id.clone());
            self.put(Lane::Control, key, Message::CancelLogs(CancelLogs { request_id }));
        }
    }

    /// Asks for a tunnel; [`super::Adapter::tunnel`] brings the answer.
    pub fn open_tunnel(&self, request: OpenTunnel) {
        self.put(
            Lane::State,
            Key::OpenTunnel(request.request_id.clone()),
            Message::OpenTunnel(request),
        );
    }

    /// The tunnel is not wanted any more.
    pub fn close_tunnel(&self, request_id: &str) {
        let request_id = request_id.to_owned();
        if self.mailbox.remove(&Key::OpenTunnel(request_id.clone())).is_none() {
            let key = Key::CloseTunnel(request_id.clone());
            self.put(Lane::Control, key, Message::CloseTunnel(CloseTunnel { request_id }));
        }
    }

    /// Sends the car to another address, now. The session ends after it.
    pub fn redirect(&self, address: impl Into<String>) {
        self.put(
            Lane::Control,
            Key::Redirect,
            Message::Redirect(Redirect {
                address: address.into(),
            }),
        );
        self.mailbox.finish();
    }

    /// Sends the car away for a while. The session ends after it.
    pub fn retry_after(&self, delay: Duration, reason: impl Into<String>) {
        let retry = RetryAfter {
            delay_ms: millis(delay),
            reason: reason.into(),
        };
        self.put(Lane::Control, Key::RetryAfter, Message::RetryAfter(retry));
        self.mailbox.finish();
    }

    /// Tells the car to connect anew before the deadline, at a time of its choosing. The session goes on.
    pub fn drain(&self, deadline: Duration) {
        self.put(
            Lane::Control,
            Key::Drain,
            Message::Drain(Drain {
                deadline_ms: millis(deadline),
            }),
        );
    }

    /// Ends the session now; the car learns why.
    pub fn close(&self, why: Fault) {
        self.mailbox.close(Some(why));
    }

    /// Whether the session is over.
    pub fn is_closed(&self) -> bool {
        self.mailbox.is_closed()
    }

    fn put(&self, lane: Lane, key: Key, message: Message) {
        if self.mailbox.put(lane, key, AdapterMessage { message: Some(message) }) == Put::Full {
            self.close(Fault::unavailable(
                "the car does not read what it is sent: connect again",
            ));
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle() -> (SessionHandle, Arc<CarMailbox>) {
        let mailbox = Arc::new(CarMailbox::new(false));
        (
            SessionHandle::new(VehicleId::from_random([1; 10]), Arc::clone(&mailbox)),
            mailbox,
        )
    }

    async fn all(mailbox: &CarMailbox) -> Vec<Message> {
        mailbox.finish();
        let mut messages = Vec::new();
        while let Ok(Some(message)) = mailbox.take().await {
            messages.extend(message.message);
        }
        messages
    }

    fn run(uid: &str) -> Run {
        Run {
            uid: uid.to_owned(),
            ..Run::default()
        }
    }

    fn stop(uid: &str) -> Stop {
        Stop {
            uid: uid.to_owned(),
            ..Stop::default()
        }
    }

    fn uid(uid: &str) -> PodUid {
        uid.parse().unwrap()
    }

    #[tokio::test]
    async fn stop_of_a_waiting_run_takes_the_run_back() {
        let (handle, mailbox) = handle();
        handle.run(run("a"));
        handle.run(run("b"));
        handle.stop(stop("a"));
        assert_eq!(all(&mailbox).await, [Message::Stop(stop("a")), Message::Run(run("b"))]);
    }

    #[tokio::test]
    async fn forget_of_a_waiting_run_and_stop_takes_both_back() {
        let (handle, mailbox) = handle();
        handle.run(run("a"));
        handle.stop(stop("a"));
        handle.forget(&uid("a"));
        assert_eq!(all(&mailbox).await, [Message::Forget(Forget { uid: "a".into() })]);
    }

    #[tokio::test]
    async fn acknowledgement_and_stop_overtake_what_is_large() {
        let (handle, mailbox) = handle();
        handle.run(run("b"));
        handle.ack_status(&uid("c"), 3);
        handle.ack_heartbeat(4, true);
        handle.ack_heartbeat(5, true);
        handle.stop(stop("a"));
        let expected = [
            Message::HeartbeatAck(HeartbeatAck { seq: 5, proven: true }),
            Message::Stop(stop("a")),
            Message::Run(run("b")),
            Message::StatusAck(StatusAck {
                uid: "c".into(),
                revision: 3,
            }),
        ];
        assert_eq!(all(&mailbox).await, expected);
    }

    #[tokio::test]
    async fn acknowledgement_never_overtakes_a_stop_that_was_put_before_it() {
        let (handle, mailbox) = handle();
        handle.ack_heartbeat(4, true);
        handle.stop(stop("a"));
        handle.ack_heartbeat(5, true);
        let expected = [
            Message::Stop(stop("a")),
            Message::HeartbeatAck(HeartbeatAck { seq: 5, proven: true }),
        ];
        assert_eq!(all(&mailbox).await, expected);
    }

    #[tokio::test]
    async fn acknowledgement_that_proves_nothing_takes_no_proof_away() {
        let (handle, mailbox) = handle();
        handle.ack_heartbeat(4, true);
        handle.ack_heartbeat(5, false);
        handle.ack_heartbeat(6, false);
        let expected = [(4, true), (6, false)].map(|(seq, proven)| Message::HeartbeatAck(HeartbeatAck { seq, proven }));
        assert_eq!(all(&mailbox).await, expected);
    }

    #[tokio::test]
    async fn log_cancelled_before_it_was_asked_for_is_never_asked_for() {
        let (handle, mailbox) = handle();
        handle.read_logs(ReadLogs {
            request_id: "1".into(),
            ..ReadLogs::default()
        });
        handle.cancel_logs("1");
        handle.cancel_logs("2");
        assert_eq!(
            all(&mailbox).await,
            [Message::CancelLogs(CancelLogs { request_id: "2".into() })]
        );
    }

    #[tokio::test]
    async fn redirect_is_sent_before_the_session_ends() {
        let (handle, mailbox) = handle();
        handle.redirect("https://b:1");
        assert!(handle.is_closed());
        handle.run(run("a"));
        assert_eq!(
            all(&mailbox).await,
            [Message::Redirect(Redirect {
                address: "https://b:1".into()
            })]
        );
    }
}
