//! One session with one adapter, from `Hello` to its end.
//!
//! Opened and run by the driver. Never: a message handed to the agent before `Welcome`, or a fence counted from anything but
//! the sending of what was acknowledged.

use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use kerbside_core::clock::Boottime;
use kerbside_core::ids::PodUid;
use tokio::time::{sleep, timeout};
use tonic::Streaming;
use tonic::transport::Channel;

use super::car::Out;
use super::connect::{Address, Alert, connect};
use super::context::Context;
use super::events::{self, Event};
use crate::MESSAGE_LIMIT;
use crate::fault::{Fault, FaultKind, with_sources};
use crate::heartbeat::{Beat, CarBeat, Intervals};
use crate::proto::adapter_message::Message;
use crate::proto::car_message::Message as FromCar;
use crate::proto::link_client::LinkClient;
use crate::proto::{AdapterMessage, CarMessage, Hello, Welcome};
use crate::tls;

/// How long an agent that shuts down waits for its last words to be heard.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why there is no session, or none any more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Go there, now.
    Redirect(String),
    /// Come back after this delay.
    RetryAfter(Duration, String),
    /// The connection or the adapter is gone.
    Lost(String),
    /// A newer session of the same car is there.
    Replaced(String),
    /// The adapter does not want this car as it is.
    Refused(String),
    /// The agent shuts down.
    Stopped,
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Self {
        match fault.kind() {
            FaultKind::Unauthenticated | FaultKind::Denied | FaultKind::Invalid | FaultKind::Unsupported => {
                Self::Refused(fault.message().to_owned())
            }
            FaultKind::Conflict => Self::Replaced(fault.message().to_owned()),
            _ => Self::Lost(fault.message().to_owned()),
        }
    }
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) epoch: u64,
    pub(super) client: LinkClient<Channel>,
    /// Of the certificate it was opened with.
    pub(super) not_after: Timestamp,
    context: Arc<Context>,
    mailbox: Arc<Out>,
    incoming: Streaming<AdapterMessage>,
    beat: CarBeat,
    alert: Alert,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.context.car.leave(&self.mailbox);
    }
}

/// Leaves the car again if the session does not come about.
struct Joined<'a>(&'a Context, Option<Arc<Out>>);

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        if let Some(mailbox) = self.1.take() {
            self.0.car.leave(&mailbox);
        }
    }
}

impl Session {
    pub(super) async fn open(context: &Arc<Context>, address: &Address) -> Result<Self, Ended> {
        let identity = context.identity.borrow().clone();
        let tls = tls::enrolled(&identity).map_err(|e| Ended::Refused(e.to_string()))?;
        let (channel, alert) = connect(&*context.network, address, tls, context.pace.patience)
            .await
            .map_err(|e| Ended::Lost(with_sources(&e)))?;
        let client = LinkClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
        let mailbox = Arc::new(Out::new(true));
        let mut joined = Joined(context, Some(Arc::clone(&mailbox)));
        let (state, attempts) = context.car.join(&mailbox);
        // Taken before it is sent: a fence may be counted from too early, never from too late.
        let hello_at = context.clock.boottime();
        let hello = Hello {
            protocol_min: context.versions.min,
            protocol_max: context.versions.max,
            agent_version: context.agent_version.clone(),
            instance: context.instance.clone(),
            state: Some(state),
            attempts,
        };
        let (incoming, welcome) = timeout(context.pace.patience, greet(client.clone(), hello, &mailbox))
            .await
            .unwrap_or_else(|_| Err(Ended::Lost("the adapter did not answer Hello".to_owned())))
            .map_err(|ended| alert.refusal().map_or(ended, Ended::Refused))?;
        if !context.versions.contains(welcome.protocol) {
            let why = format!(
                "the adapter wants protocol {}, which this agent does not speak",
                welcome.protocol
            );
            return Err(Ended::Refused(why));
        }
        joined.1 = None;
        mailbox.release(None);
        let intervals = Intervals::from_millis(welcome.heartbeat_idle_ms, welcome.heartbeat_busy_ms);
        let busy = *context.car.busy().borrow();
        let mut beat = CarBeat::new(intervals, hello_at, busy);
        context.car.heartbeat(&mailbox, beat.send(context.clock.boottime()));
        Ok(Self {
            epoch: welcome.epoch,
            client,
            not_after: identity.not_after(),
            context: Arc::clone(context),
            mailbox,
            incoming,
            beat,
            alert,
        })
    }

    /// Runs until it ends.
    pub(super) async fn run(mut self) -> Ended {
        let context = Arc::clone(&self.context);
        let mut busy = context.car.busy();
        loop {
            let now = context.clock.boottime();
            let wake = match self.beat.poll(now) {
                Beat::Send(seq) => {
                    context.car.heartbeat(&self.mailbox, seq);
                    continue;
                }
                Beat::Silent => return Ended::Lost("the adapter does not answer heartbeats".to_owned()),
                // Looked at now and then, for timers do not go on while the car's computer sleeps.
                Beat::Wait(until) => until.since(now).min(context.pace.look),
            };
            tokio::select! {
                biased;
                () = context.stopped() => return self.stop().await,
                // The sender lives in the context.
                _ = busy.changed() => self.beat.set_busy(*busy.borrow_and_update()),
                message = self.incoming.message() => match message {
                    Ok(Some(message)) => if let Some(ended) = self.receive(message) {
                        return ended;
                    },
                    Ok(None) => return Ended::Lost("the adapter ended the session".to_owned()),
                    Err(status) => {
                        return self.alert.refusal().map_or_else(|| Fault::from(status).into(), Ended::Refused);
                    }
                },
                () = sleep(wake) => {}
            }
        }
    }

    async fn stop(&mut self) -> Ended {
        self.mailbox.finish();
        // An error means that the adapter does not end it in time.
        let _ = timeout(LAST_WORDS, async {
            while let Ok(Some(_)) = self.incoming.message().await {}
        })
        .await;
        Ended::Stopped
    }

    fn receive(&mut self, message: AdapterMessage) -> Option<Ended> {
        let event = match message.message {
            Some(Message::HeartbeatAck(ack)) => {
                let sent = self.beat.acknowledged(ack.seq)?;
                Some(Event::Heard(self.context.acknowledged(sent, ack.proven)))
            }
            Some(Message::StatusAck(ack)) => {
                self.context.car.acknowledged(&ack.uid, ack.revision);
                return None;
            }
            Some(Message::Drain(drain)) => {
                // Somewhere in the first half: the second is for trying again.
                let within = Duration::from_millis(drain.deadline_ms) / 2;
                self.context.hand_over(within.mul_f64(rand::random::<f64>()));
                return None;
            }
            Some(Message::Redirect(redirect)) => return Some(Ended::Redirect(redirect.address)),
            Some(Message::RetryAfter(retry)) => {
                return Some(Ended::RetryAfter(Duration::from_millis(retry.delay_ms), retry.reason));
            }
            Some(Message::Run(run)) => uid(&run.uid).then_some(Event::Run(run)),
            Some(Message::Provide(provide)) => uid(&provide.uid).then_some(Event::Provide(provide)),
            Some(Message::Stop(stop)) => uid(&stop.uid).then_some(Event::Stop(stop)),
            Some(Message::Forget(forget)) => forget.uid.parse().ok().map(Event::Forget),
            Some(Message::ReadLogs(read)) => Some(Event::ReadLogs(read)),
            Some(Message::CancelLogs(cancel)) => Some(Event::CancelLogs(cancel.request_id)),
            Some(Message::OpenTunnel(open)) => uid(&open.uid).then_some(Event::OpenTunnel(open)),
            Some(Message::CloseTunnel(close)) => Some(Event::CloseTunnel(close.request_id)),
            // From a newer adapter: nothing that this version knows. A second Welcome says nothing new.
            Some(Message::Welcome(_)) | None => return None,
        };
        let Some(event) = event else {
            tracing::warn!("dropped a message whose uid is not a Pod's");
            return None;
        };
        if events::put(&self.context.events, event) {
            None
        } else {
            Some(Ended::Lost(
                "more messages wait for the agent than it may have attempts".to_owned(),
            ))
        }
    }
}

/// A uid becomes part of a path in the car.
fn uid(uid: &str) -> bool {
    uid.parse::<PodUid>().is_ok()
}

async fn greet(
    mut client: LinkClient<Channel>,
    hello: Hello,
    mailbox: &Arc<Out>,
) -> Result<(Streaming<AdapterMessage>, Welcome), Ended> {
    let first = CarMessage {
        message: Some(FromCar::Hello(hello)),
    };
    let rest = stream::unfold(Arc::clone(mailbox), |mailbox| async {
        // An error never comes: this side closes without one.
        let message = mailbox.take().await.ok().flatten()?;
        Some((message, mailbox))
    });
    let outgoing = stream::once(async { first }).chain(rest);
    let mut incoming = client
        .session(outgoing)
        .boxed()
        .await
        .map_err(Fault::from)?
        .into_inner();
    loop {
        match incoming.message().await.map_err(Fault::from)? {
            None => return Err(Ended::Lost("the adapter ended the session before Welcome".to_owned())),
            Some(message) => match message.message {
                Some(Message::Welcome(welcome)) => return Ok((incoming, welcome)),
                Some(Message::Redirect(redirect)) => return Err(Ended::Redirect(redirect.address)),
                Some(Message::RetryAfter(retry)) => {
                    return Err(Ended::RetryAfter(Duration::from_millis(retry.delay_ms), retry.reason));
                }
                Some(_) => return Err(Ended::Lost("the adapter's first message was not Welcome".to_owned())),
                None => {}
            },
        }
    }
}

/// Sleeps for `delay` of the clock that goes on in suspend.
pub(super) async fn pause(context: &Context, delay: Duration) {
    let until: Boottime = context.clock.boottime() + delay;
    loop {
        let left = until.since(context.clock.boottime());
        if left.is_zero() {
            return;
        }
        sleep(left.min(context.pace.look)).await;
    }
}
