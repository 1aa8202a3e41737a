//! One session of one car, from `Hello` to its end.
//!
//! One task per session; it reads, its mailbox is what the RPC sends. Never: a message handed on after the session was closed
//! or replaced, a session that outlives the car's certificate, or one whose car says more than it may and costs others for it: what is too much
//! is left unread, which holds up that car alone, and ends its session if it goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kerbside_core::clock::Boottime;
use kerbside_core::rate::session::{Flow, Kind, Verdict};
use tokio::time::timeout;
use tonic::Streaming;

use super::SessionHandle;
use super::adapter::{Adapter, Arrival, Ended, FromCar, Greeting, Held, Refusal};
use super::connection::Car;
use super::handle::CarMailbox;
use super::services::Shared;
use crate::fault::Fault;
use crate::handshake::{VersionRange, negotiate};
use crate::proto::adapter_message::Message as ToCar;
use crate::proto::car_message::Message;
use crate::proto::{AdapterMessage, CarMessage, Hello, Welcome};

/// Who is at the other end, and the way there. Its address is not in it: in no log does one stand beside a car's id.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) car: Car,
    pub(super) mailbox: Arc<CarMailbox>,
    /// Nobody reads the mailbox any more.
    pub(super) unread: Arc<AtomicBool>,
}

pub(super) async fn run<A: Adapter>(shared: Arc<Shared<A>>, link: Link, mut incoming: Streaming<CarMessage>) {
    let Link { car, mailbox, unread } = link;
    let session = SessionHandle::new(car.vehicle.clone(), Arc::clone(&mailbox));
    let (protocol, greeting) = match greet(&shared, &car, &session, &mut incoming).await {
        Ok(greeted) => greeted,
        Err(refusal) => {
            refuse(&session, refusal);
            return;
        }
    };
    let epoch = greeting.epoch;
    let mut why = if shared.registry.enter(epoch, &session) {
        // Behind the stops that the adapter put while it greeted: `Welcome`, which goes first, acknowledges nothing.
        // Proven by the claim itself: it was recorded after the car had said its Hello, and whoever takes the car over does so later.
        session.ack_heartbeat(0, true);
        mailbox.release(Some(AdapterMessage {
            message: Some(ToCar::Welcome(welcome(protocol, greeting))),
        }));
        tracing::info!(vehicle.id = %car.vehicle, epoch, "car connected");
        read(&shared, &car, epoch, &session, &mailbox, &mut incoming).await
    } else {
        Ended::Here
    };
    if why == Ended::Here && unread.load(Ordering::SeqCst) {
        why = Ended::Lost("the connection is gone".to_owned());
    }
    shared.registry.leave(&car.vehicle, epoch);
    mailbox.close(None);
    tracing::info!(vehicle.id = %car.vehicle, epoch, ?why, "car disconnected");
    shared.adapter.disconnected(&car.vehicle, epoch, why).await;
}

async fn greet<A: Adapter>(
    shared: &Shared<A>,
    car: &Car,
    session: &SessionHandle,
    incoming: &mut Streaming<CarMessage>,
) -> Result<(u32, Greeting), Refusal> {
    let hello = timeout(shared.options.handshake_timeout, hello(incoming))
        .await
        .map_err(|_| Fault::unavailable("the car did not say Hello in time"))??;
    let at = shared.options.clock.boottime();
    let speaks = VersionRange {
        min: hello.protocol_min,
        max: hello.protocol_max,
    };
    let protocol = negotiate(speaks, shared.options.versions).map_err(|e| Fault::unsupported(e.to_string()))?;
    if shared.registry.is_draining() {
        return Err(Fault::unavailable("this adapter is going away: connect again").into());
    }
    let arrival = Arrival {
        vehicle: car.vehicle.clone(),
        protocol,
        hello,
        session: session.clone(),
        at,
    };
    Ok((protocol, shared.adapter.connected(arrival).await?))
}

/// The first message that this version knows must be `Hello`; what it does not know may come before.
async fn hello(incoming: &mut Streaming<CarMessage>) -> Result<Hello, Fault> {
    while let Some(message) = incoming.message().await? {
        match message.message {
            Some(Message::Hello(hello)) => return Ok(hello),
            Some(_) => return Err(Fault::invalid("the first message of a session must be Hello")),
            None => {}
        }
    }
    Err(Fault::invalid("the session ended before Hello"))
}

fn refuse(session: &SessionHandle, refusal: Refusal) {
    tracing::info!(vehicle.id = %session.vehicle(), ?refusal, "refused session");
    match refusal {
        Refusal::Fault(fault) => session.close(fault),
        Refusal::Redirect { address } => session.redirect(address),
        Refusal::RetryAfter { delay, reason } => session.retry_after(delay, reason),
    }
}

fn welcome(protocol: u32, greeting: Greeting) -> Welcome {
    let millis = |d: std::time::Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX);
    Welcome {
        protocol,
        epoch: greeting.epoch,
        heartbeat_idle_ms: millis(greeting.heartbeat.idle),
        heartbeat_busy_ms: millis(greeting.heartbeat.busy),
    }
}

async fn read<A: Adapter>(
    shared: &Shared<A>,
    car: &Car,
    epoch: u64,
    session: &SessionHandle,
    mailbox: &CarMailbox,
    incoming: &mut Streaming<CarMessage>,
) -> Ended {
    let mut flow = Flow::new(shared.options.session);
    loop {
        let message = tokio::select! {
            biased;
            () = mailbox.closed() => return Ended::Here,
            message = incoming.message() => message,
        };
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Ended::ByCar,
            Err(status) => return Ended::Lost(Fault::from(status).message().to_owned()),
        };
        // Looked at with each message, of which every car sends some, instead of by a timer per car.
        if shared.options.clock.wall() >= car.not_after {
            session.close(Fault::unauthenticated(
                "the car's certificate has expired: connect with the renewed one",
            ));
            return Ended::Here;
        }
        if let Some(ended) = hold(shared, &mut flow, kind(&message), session, mailbox).await {
            return ended;
        }
        // After having waited: later is the safe side, for fences count from here.
        let at: Boottime = shared.options.clock.boottime();
        let message = match message.message {
            Some(Message::Heartbeat(beat)) => FromCar::Heartbeat { seq: beat.seq },
            Some(Message::State(state)) => FromCar::State(state),
            Some(Message::Status(status)) => FromCar::Status(status),
            Some(Message::Hello(_)) => {
                session.close(Fault::invalid("Hello came twice in one session"));
                return Ended::Here;
            }
            // From a newer car: nothing that this version knows.
            None => continue,
        };
        shared.adapter.message(&car.vehicle, epoch, message, at).await;
    }
}

fn kind(message: &CarMessage) -> Kind {
    match message.message {
        Some(Message::Heartbeat(_)) => Kind::Heartbeat,
        Some(Message::State(_)) => Kind::State,
        Some(Message::Status(_)) => Kind::Status,
        // A second Hello ends the session by itself.
        Some(Message::Hello(_)) | None => Kind::Unknown,
    }
}

/// Waits until one more of the kind fits; nothing else is read meanwhile. Some: the session is over.
async fn hold<A: Adapter>(
    shared: &Shared<A>,
    flow: &mut Flow,
    kind: Kind,
    session: &SessionHandle,
    mailbox: &CarMailbox,
) -> Option<Ended> {
    match flow.take(kind, shared.options.clock.boottime()) {
        Verdict::Now => None,
        Verdict::After(wait) => {
            shared.adapter.held(kind.as_str(), Held::Waits);
            tracing::debug!(vehicle.id = %session.vehicle(), kind = kind.as_str(), ?wait, "a car says more than it may, and waits");
            tokio::select! {
                biased;
                () = mailbox.closed() => Some(Ended::Here),
                () = tokio::time::sleep(wait) => None,
            }
        }
        Verdict::End => {
            shared.adapter.held(kind.as_str(), Held::Ended);
            tracing::warn!(vehicle.id = %session.vehicle(), kind = kind.as_str(), "a car goes on saying more than it may");
            session.close(Fault::rate_limited(format!(
                "the car goes on sending more messages of the kind '{}' than an adapter takes: connect again",
                kind.as_str()
            )));
            Some(Ended::Here)
        }
    }
}
