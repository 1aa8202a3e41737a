//! Keeps the car connected: one session at a time, two for a moment when it moves from one adapter to another.
//!
//! One task per client. Never: a tight loop, whatever the adapter answers; nor two tries at a time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use super::connect::Address;
use super::context::{Context, Live};
use super::events::{self, Event};
use super::session::{Ended, Session, pause};
use super::{Connection, renewal};
use crate::backoff::{Backoff, stretched};

/// Adapters that send a car in circles are asked again from the start.
const HOPS: u32 = 4;

/// Longer than that nobody means to send a car away.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);

/// The end of a session that its successor has replaced, and the greeting of that successor, come over two connections in either
/// order. So long nobody is told of a break that is none.
const GREETING_ON_ITS_WAY: Duration = Duration::from_secs(2);

pub(super) async fn drive(context: Arc<Context>, mut hand_over: mpsc::Receiver<Duration>) {
    let mut renewal = renewal::renew_for_ever(Arc::clone(&context)).boxed();
    let mut tries = Backoff::new(context.pace.first, context.pace.longest);
    let mut current: Option<Running> = None;
    let mut pending = Some(Pending::first(&context));
    let mut unsaid: Option<BoxFuture<'static, Ended>> = None;
    loop {
        tokio::select! {
            biased;
            () = context.stopped() => break,
            () = &mut renewal => {}
            session = maybe(pending.as_mut().map(|pending| &mut pending.session)) => {
                pending = None;
                unsaid = None;
                begin(&context, &session);
                // The older session, if there is one, ends here: the newer one has been welcomed.
                current = Some(Running {
                    not_after: session.not_after,
                    since: Instant::now(),
                    run: session.run().boxed(),
                });
            }
            (ended, not_after, lived) = finished(&mut current) => {
                current = None;
                if lived >= context.pace.settled {
                    tries.reset();
                }
                match (ended, &pending) {
                    // By its own successor, most likely, whose greeting is on its way.
                    (ended @ Ended::Replaced(_), Some(successor)) => {
                        successor.hasten.notify_one();
                        unsaid = Some(sleep(GREETING_ON_ITS_WAY).map(|()| ended).boxed());
                    }
                    (ended @ (Ended::Lost(_) | Ended::Refused(_)), Some(successor)) => {
                        successor.hasten.notify_one();
                        end(&context, &ended);
                    }
                    (ended, _) => {
                        end(&context, &ended);
                        if let Some((address, delay)) = after(&context, &ended, not_after, &mut tries) {
                            pending = Some(Pending::new(&context, address, delay));
                        }
                    }
                }
            }
            ended = maybe(unsaid.as_mut()) => {
                unsaid = None;
                end(&context, &ended);
            }
            Some(delay) = hand_over.recv() => {
                if current.is_some() && pending.is_none() {
                    pending = Some(Pending::new(&context, context.home.clone(), delay));
                }
            }
        }
    }
    if let Some(running) = current {
        // Sees the stop by itself and says goodbye.
        running.run.await;
    }
    end(&context, &Ended::Stopped);
    context.events.finish();
}

struct Running {
    not_after: Timestamp,
    since: Instant,
    run: BoxFuture<'static, Ended>,
}

/// A session that is to come.
struct Pending {
    /// Ends the wait before the first try.
    hasten: Arc<Notify>,
    session: BoxFuture<'static, Session>,
}

impl Pending {
    /// The first one of a car. Who connected it before the car knew itself would be told that it is away.
    fn first(context: &Arc<Context>) -> Self {
        let context = Arc::clone(context);
        let session = async move {
            tokio::select! {
                () = pause(&context, context.first_word) => {}
                () = context.spoke.notified() => {}
            }
            let home = context.home.clone();
            establish(context, home).await
        };
        Self {
            hasten: Arc::default(),
            session: session.boxed(),
        }
    }

    fn new(context: &Arc<Context>, address: Address, delay: Duration) -> Self {
        let (context, hasten) = (Arc::clone(context), Arc::new(Notify::new()));
        let hastened = Arc::clone(&hasten);
        let session = async move {
            tokio::select! {
                () = pause(&context, delay) => {}
                () = hastened.notified() => {}
            }
            establish(context, address).await
        };
        Self {
            hasten,
            session: session.boxed(),
        }
    }
}

async fn maybe<T>(future: Option<&mut BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn finished(current: &mut Option<Running>) -> (Ended, Timestamp, Duration) {
    match current {
        Some(running) => {
            let ended = (&mut running.run).await;
            (ended, running.not_after, running.since.elapsed())
        }
        None => std::future::pending().await,
    }
}

fn begin(context: &Context, session: &Session) {
    let epoch = session.epoch;
    tracing::info!(vehicle.id = %context.identity.borrow().vehicle(), epoch, "connected");
    context.live.send_replace(Some(Live {
        epoch,
        client: session.client.clone(),
    }));
    context.connection.send_replace(Connection::Connected { epoch });
    events::put(&context.events, Event::Connected { epoch });
}

fn end(context: &Context, ended: &Ended) {
    let why = reason(ended);
    tracing::info!(vehicle.id = %context.identity.borrow().vehicle(), %why, "disconnected");
    context.live.send_replace(None);
    context
        .connection
        .send_replace(Connection::Disconnected { why: why.clone() });
    events::put(&context.events, Event::Disconnected { why });
}

fn reason(ended: &Ended) -> String {
    match ended {
        Ended::Redirect(address) => format!("the adapter sends the car to {address}"),
        Ended::RetryAfter(delay, why) => format!("the adapter sends the car away for {} s: {why}", delay.as_secs()),
        Ended::Lost(why) | Ended::Replaced(why) | Ended::Refused(why) => why.clone(),
        Ended::Stopped => "the agent shuts down".to_owned(),
    }
}

/// Where to go, and when, after a session that stood.
fn after(context: &Context, ended: &Ended, not_after: Timestamp, tries: &mut Backoff) -> Option<(Address, Duration)> {
    let home = || context.home.clone();
    let renewed = context.identity.borrow().not_after() != not_after;
    match ended {
        Ended::Stopped => None,
        Ended::Redirect(address) => match address.parse() {
            Ok(address) => Some((address, Duration::ZERO)),
            Err(error) => {
                tracing::warn!(%error, "ignored a redirect");
                Some((home(), tries.next(rand::random())))
            }
        },
        Ended::RetryAfter(delay, _) => Some((home(), stretched((*delay).min(LONGEST_RETRY_AFTER), rand::random()))),
        // With the certificate that has been renewed since, all may be well.
        Ended::Refused(_) if !renewed => Some((home(), stretched(context.pace.refused_first / 2, rand::random()))),
        Ended::Lost(_) | Ended::Replaced(_) | Ended::Refused(_) => Some((home(), tries.next(rand::random()))),
    }
}

/// Tries until there is a session.
fn establish(context: Arc<Context>, address: Address) -> BoxFuture<'static, Session> {
    async move {
        let mut tries = Backoff::new(context.pace.first, context.pace.longest);
        let mut refusals = Backoff::new(context.pace.refused_first, context.pace.refused_longest);
        let mut target = address;
        let mut hops = 0;
        loop {
            let ended = match open(&context, &target).await {
                Ok(session) => return session,
                Err(ended) => ended,
            };
            let why = reason(&ended);
            let from = std::mem::replace(&mut target, context.home.clone());
            if let Ended::Redirect(to) = &ended
                && hops < HOPS
                && let Ok(to) = to.parse()
            {
                hops += 1;
                target = to;
                continue;
            }
            let wait = match ended {
                Ended::RetryAfter(delay, _) => stretched(delay.min(LONGEST_RETRY_AFTER), rand::random()),
                Ended::Refused(_) => refusals.next(rand::random()),
                Ended::Redirect(_) | Ended::Lost(_) | Ended::Replaced(_) | Ended::Stopped => tries.next(rand::random()),
            };
            hops = 0;
            tracing::info!(adapter = %from, %why, ?wait, "failed to open session");
            context.connection.send_if_modified(|held| match held {
                Connection::Connected { .. } => false,
                Connection::Disconnected { why: held } => std::mem::replace(held, why.clone()) != why,
            });
            pause(&context, wait).await;
        }
    }
    .boxed()
}

fn open(context: &Arc<Context>, address: &Address) -> impl Future<Output = Result<Session, Ended>> + Send {
    let (context, address) = (Arc::clone(context), address.clone());
    async move { Session::open(&context, &address).await }
}
