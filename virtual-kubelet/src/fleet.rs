//! The actors of this adapter's vehicles, by id: who is there, how to reach them, when they begin and end.
//!
//! Called by the watches (wake), the link (messages) and the kubelet port (logs). It decides nothing about a vehicle. A message for
//! a vehicle without an actor goes nowhere; only a connection or a Vehicle that names this replica begins one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kerbside_api::v1alpha1::Source;
use kerbside_core::clock::Boottime;
use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_link::fault::Fault;
use kerbside_link::server::{Arrival, Ended, FromCar, Greeting, Refusal, SessionHandle};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actor::Actor;
use crate::connection;
use crate::context::Context;

/// A car that comes while the adapter is still reading the cluster waits this long before it is sent away for a moment.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages of one car that wait for its actor; more hold up that car's own stream and nobody else's.
pub(crate) const INBOX: usize = 64;

/// What reaches an actor in order. What is only a change of something that can be read is a wake, not a message.
#[derive(Debug)]
pub(crate) enum Message {
    /// The car has connected and waits for its greeting.
    Connected(Box<Arrival>, oneshot::Sender<Result<Greeting, Refusal>>),
    /// The car says something. Boxed: an inbox has room for many, and an idle car's must be small.
    Said(u64, Box<FromCar>, Boottime),
    /// The car came when many did, and was asked to come again after so long.
    Later(Duration),
    /// The connection of that epoch is over.
    Disconnected(u64),
    /// An attempt's output is in the store, with its manifest.
    Sealed(PodUid),
}

/// How to reach one vehicle's actor.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    inbox: mpsc::Sender<Message>,
    wake: Arc<Notify>,
    session: watch::Receiver<Option<SessionHandle>>,
}

impl Handle {
    /// The car's session, while it is connected.
    pub(crate) fn session(&self) -> Option<SessionHandle> {
        self.session.borrow().clone().filter(|s| !s.is_closed())
    }
}

/// An actor's ends of its [`Handle`].
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) inbox: mpsc::Receiver<Message>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) session: watch::Sender<Option<SessionHandle>>,
    /// The adapter is ending, and sends its cars elsewhere.
    pub(crate) drain: CancellationToken,
    /// The actor ends.
    pub(crate) stop: CancellationToken,
}

/// All actors.
pub(crate) struct Fleet {
    context: Arc<Context>,
    actors: Mutex<HashMap<VehicleId, Handle>>,
    tasks: TaskTracker,
    drain: CancellationToken,
    stop: CancellationToken,
}

impl Fleet {
    /// From `drain` on a car that goes is not missed: it was sent elsewhere. The actors go on until [`Fleet::end`].
    pub(crate) fn new(context: Arc<Context>, drain: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            context,
            actors: Mutex::default(),
            tasks: TaskTracker::new(),
            drain,
            stop: CancellationToken::new(),
        })
    }

    /// What the actors share.
    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    fn actors(&self) -> MutexGuard<'_, HashMap<VehicleId, Handle>> {
        self.actors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the actors of all vehicles that this replica holds. Called once, when everything has been listed.
    pub(crate) fn begin(self: &Arc<Self>) {
        for name in self.context.roster.names() {
            if let Ok(id) = name.parse() {
                self.changed(&id);
            }
        }
    }

    /// Something that the vehicle's actor reads has changed.
    pub(crate) fn changed(self: &Arc<Self>, id: &VehicleId) {
        if let Some(handle) = self.actors().get(id) {
            handle.wake.notify_one();
            return;
        }
        if self.context.is_synced() && self.is_ours(id) {
            self.actor(id);
        }
    }

    fn is_ours(&self, id: &VehicleId) -> bool {
        let vehicle = self.context.roster.vehicle(id.as_str());
        vehicle.is_some_and(|v| connection::is_held_by(&v, &self.context.replica))
    }

    /// The vehicle's actor, if it has one.
    pub(crate) fn get(&self, id: &VehicleId) -> Option<Handle> {
        self.actors().get(id).cloned()
    }

    /// The vehicle's actor; begins it if it has none.
    fn actor(self: &Arc<Self>, id: &VehicleId) -> Handle {
        let mut actors = self.actors();
        if let Some(handle) = actors.get(id).filter(|h| !h.inbox.is_closed()) {
            return handle.clone();
        }
        let (inbox_tx, inbox) = mpsc::channel(INBOX);
        let wake = Arc::new(Notify::new());
        let (session, session_rx) = watch::channel(None);
        let handle = Handle {
            inbox: inbox_tx,
            wake: Arc::clone(&wake),
            session: session_rx,
        };
        actors.insert(id.clone(), handle.clone());
        drop(actors);
        let ends = Ends {
            inbox,
            wake,
            session,
            drain: self.drain.clone(),
            stop: self.stop.clone(),
        };
        let actor = Actor::new(id.clone(), Arc::clone(&self.context), ends);
        let (fleet, id) = (Arc::clone(self), id.clone());
        self.tasks.spawn(async move {
            actor.run().await;
            fleet.ended(&id);
        });
        handle
    }

    fn ended(&self, id: &VehicleId) {
        let mut actors = self.actors();
        if actors.get(id).is_some_and(|h| h.inbox.is_closed()) {
            actors.remove(id);
        }
    }

    /// A car has connected: its actor decides.
    pub(crate) async fn connected(self: &Arc<Self>, arrival: Arrival) -> Result<Greeting, Refusal> {
        if tokio::time::timeout(PATIENCE, self.context.synced()).await.is_err() {
            let reason = "the adapter is still reading the cluster".to_owned();
            return Err(Refusal::RetryAfter {
                delay: PATIENCE,
                reason,
            });
        }
        match self.context.roster.vehicle(arrival.vehicle.as_str()) {
            None => return Err(Fault::denied("there is no Vehicle of this id; enrol the car anew").into()),
            Some(v) if v.spec.revoked => return Err(Fault::denied("this vehicle is revoked").into()),
            Some(v) if v.spec.source == Source::Telemetry => {
                return Err(Fault::denied(connection::WITHOUT_AGENT).into());
            }
            Some(_) => {}
        }
        let with_attempts = !arrival.hello.attempts.is_empty();
        let vehicle = arrival.vehicle.clone();
        let place = match self.context.gate.arrive(with_attempts, &*self.context.clock) {
            Ok(place) => place,
            Err(delay) => {
                self.send(&vehicle, Message::Later(delay)).await;
                let reason = "many vehicles connect at this moment".to_owned();
                return Err(Refusal::RetryAfter { delay, reason });
            }
        };
        let handle = self.actor(&vehicle);
        let (reply, answer) = oneshot::channel();
        let away = || Refusal::from(Fault::unavailable("the adapter is shutting down; connect again"));
        handle
            .inbox
            .send(Message::Connected(Box::new(arrival), reply))
            .await
            .map_err(|_| away())?;
        let answer = answer.await.unwrap_or_else(|_| Err(away()));
        match &answer {
            Ok(_) => place.greeted(),
            // The actor gives an appointment for one reason only: the API server refuses for now.
            Err(Refusal::RetryAfter { delay, .. }) => {
                place.refused();
                self.send(&vehicle, Message::Later(*delay)).await;
            }
            Err(_) => {}
        }
        answer
    }

    /// A message of a living session.
    pub(crate) async fn said(&self, id: &VehicleId, epoch: u64, message: FromCar, at: Boottime) {
        self.send(id, Message::Said(epoch, Box::new(message), at)).await;
    }

    /// A session is over.
    pub(crate) async fn disconnected(&self, id: &VehicleId, epoch: u64, why: &Ended) {
        tracing::info!(vehicle.id = %id, epoch, ?why, "a vehicle's connection ended");
        self.send(id, Message::Disconnected(epoch)).await;
    }

    /// An attempt's output is in the store.
    pub(crate) async fn sealed(&self, id: &VehicleId, uid: PodUid) {
        self.send(id, Message::Sealed(uid)).await;
    }

    async fn send(&self, id: &VehicleId, message: Message) {
        if let Some(handle) = self.get(id) {
            // An actor that has ended wants no message.
            let _ = handle.inbox.send(message).await;
        }
    }

    /// Ends every actor, and waits until they have.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
