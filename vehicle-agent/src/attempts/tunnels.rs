//! People who are not in the car and type in its Pods, or reach their ports: exec, attach, port-forward.
//!
//! Owned by the supervisor: [`Guests`] holds one task for each tunnel. The owner's document decides (`allowExec`), from the first byte to the last,
//! and the owner sees who was in which Pod and did what, also after it is over. While work stands still nothing is told of it. What must never
//! happen: a way in that the owner has not allowed or allows no more, or one that outlives the cluster's wish for it; a program that goes on
//! because somebody is in it; a visit that others have pushed off the owner's list while it lasts.

use std::collections::BTreeMap;
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kerbside_core::clock::Clock;
use kerbside_core::owner::Command;
use kerbside_link::TUNNEL_LIMIT;
use kerbside_link::fault::Fault;
use kerbside_link::proto::{OpenTunnel, Streams, TunnelPart, open_tunnel};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use super::actor::Order;
use crate::cluster::Cluster;
use crate::control::Visit;
use crate::outlook::{Outlook, Posture};
use crate::runtime::Session;

/// Tunnels at a time in one car. kubectl takes one for each connection to a port.
const MOST: usize = 16;
/// Visits that the owner is told of; of those that were refused, as many beside them, so that who is refused again and again hides nobody.
const TOLD: usize = 20;
/// Of a name or a command, so many characters are shown.
const SHOWN: usize = 200;

/// How long the other side may take to hear the last word.
const LAST_WORD: Duration = Duration::from_secs(5);

const FROM: u32 = 1;
const ERROR: u32 = 3;

/// Where somebody wants to go.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Door {
    /// Into a container, with a command, or to join its program.
    Container {
        container: String,
        command: Option<Vec<String>>,
        streams: Streams,
    },
    /// To a port on the Pod's loopback.
    Port(u16),
}

/// How they get there. Errors are sentences.
pub(super) enum Way {
    Session(BoxFuture<'static, Result<Session, String>>),
    Port(BoxFuture<'static, Result<StdStream, String>>),
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Way")
    }
}

/// What the cluster asks, and what the supervisor knows of it.
pub(super) struct Asked {
    pub(super) request: OpenTunnel,
    /// Namespace and name; empty: no such attempt.
    pub(super) pod: String,
    pub(super) orders: Option<mpsc::Sender<Order>>,
    /// What the owner and the car say, now and later.
    pub(super) gate: Gate,
    pub(super) now: Timestamp,
}

/// What the owner and the car say of guests, from one moment to the next.
#[derive(Clone)]
pub(super) struct Gate(watch::Receiver<Outlook>);

impl Gate {
    pub(super) fn new(outlook: watch::Receiver<Outlook>) -> Self {
        Self(outlook)
    }

    /// Why nobody may be in the car's Pods; `None`: they may.
    fn closed(&self) -> Option<Fault> {
        closed(&self.0.borrow())
    }

    /// Waits until nobody may be in them any more, and says why.
    async fn shuts(mut self) -> Fault {
        loop {
            let why = closed(&self.0.borrow_and_update());
            if let Some(why) = why {
                return why;
            }
            if self.0.changed().await.is_err() {
                return Fault::unavailable("the vehicle's agent ends");
            }
        }
    }

    /// Waits until work runs: of a car that stands still no byte of a program leaves.
    async fn runs(&mut self) {
        // Without a policy loop the agent ends, and this with it.
        let _ = self.0.wait_for(|outlook| outlook.posture() == Posture::Run).await;
    }
}

/// Why nobody may be in the car's Pods. Work that stands still because somebody is at the car may go on with whoever is in it; an owner who
/// says "not now" means everybody.
fn closed(outlook: &Outlook) -> Option<Fault> {
    if !outlook.document.as_ref().is_some_and(|document| document.allow_exec) {
        let why = "the vehicle's owner does not allow exec, attach and port-forward (allowExec in their policy)";
        return Some(Fault::denied(why));
    }
    let leaves = matches!(outlook.posture(), Posture::Leave { .. });
    (leaves || outlook.command != Command::None).then(|| Fault::unavailable(NOT_NOW))
}

/// Why there is no way in, whoever needs the car and for what.
pub(super) const NOT_NOW: &str =
    "the vehicle's work stands still or ends, for its owner or driver needs it; try again later";

/// Everybody who is in the car's Pods.
pub(super) struct Guests {
    clock: Arc<dyn Clock>,
    tunnels: BTreeMap<String, AbortHandle>,
    visits: watch::Sender<Vec<Visit>>,
}

impl Guests {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            tunnels: BTreeMap::new(),
            visits: watch::Sender::default(),
        }
    }

    /// Those who are there, and who were lately; the newest last. Kept in memory only.
    pub(super) fn visits(&self) -> watch::Receiver<Vec<Visit>> {
        self.visits.subscribe()
    }

    /// The cluster wants nothing more of it.
    pub(super) fn leave(&mut self, request: &str) {
        if let Some(tunnel) = self.tunnels.remove(request) {
            tunnel.abort();
        }
    }

    /// Lets somebody in, or says why not.
    pub(super) fn enter<C: Cluster>(&mut self, cluster: C, asked: Asked) {
        self.tunnels.retain(|_, tunnel| !tunnel.is_finished());
        let id = asked.request.request_id.clone();
        let door = door(&asked, self.tunnels.len());
        let visit = Visit {
            user: shown(&asked.request.user),
            pod: asked.pod.clone(),
            what: what(&asked.request),
            from: asked.now,
            to: door.is_err().then_some(asked.now),
            refused: door
                .as_ref()
                .err()
                .map(|why| why.message().to_owned())
                .unwrap_or_default(),
        };
        tracing::info!(
            user = visit.user,
            pod = visit.pod,
            what = visit.what,
            refused = visit.refused,
            "somebody asks to enter a Pod"
        );
        let mut seen = Seen::new(&self.visits, Arc::clone(&self.clock), visit);
        let Asked { request, gate, .. } = asked;
        let task = tokio::spawn(async move {
            let id = request.request_id;
            let went = match door {
                Ok((door, orders)) => through(&cluster, &id, door, orders, gate).await,
                Err(why) => Err(why),
            };
            if let Err(why) = went {
                seen.refused(why.message());
                if let Err(fault) = cluster.refuse_tunnel(&id, why).await {
                    tracing::debug!(request = id, error = %fault, "a tunnel was not answered");
                }
            }
            drop(seen);
        });
        self.tunnels.insert(id, task.abort_handle());
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        for tunnel in self.tunnels.values() {
            tunnel.abort();
        }
    }
}

/// One line in the list of visits, which says when it was over.
struct Seen {
    visits: watch::Sender<Vec<Visit>>,
    clock: Arc<dyn Clock>,
    visit: Visit,
}

impl Seen {
    fn new(visits: &watch::Sender<Vec<Visit>>, clock: Arc<dyn Clock>, visit: Visit) -> Self {
        visits.send_modify(|all| {
            let alike = |other: &Visit| other.refused.is_empty() == visit.refused.is_empty();
            // Those who are still there stay on the list, or nobody would see them.
            if all.iter().filter(|&other| alike(other)).count() >= TOLD
                && let Some(over) = all.iter().position(|other| alike(other) && other.to.is_some())
            {
                all.remove(over);
            }
            all.push(visit.clone());
        });
        Self {
            visits: visits.clone(),
            clock,
            visit,
        }
    }

    /// They did not get in.
    fn refused(&mut self, why: &str) {
        self.is_now(Visit {
            to: Some(self.clock.wall()),
            refused: why.to_owned(),
            ..self.visit.clone()
        });
    }

    fn is_now(&mut self, visit: Visit) {
        let was = std::mem::replace(&mut self.visit, visit);
        self.visits.send_modify(|all| {
            // Of two that are the same in everything either may be it.
            if let Some(own) = all.iter_mut().find(|other| **other == was) {
                own.clone_from(&self.visit);
            }
        });
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        if self.visit.to.is_some() {
            return;
        }
        let Visit { user, pod, what, .. } = self.visit.clone();
        tracing::info!(user, pod, what, "somebody has left a Pod");
        self.is_now(Visit {
            to: Some(self.clock.wall()),
            ..self.visit.clone()
        });
    }
}

/// A word of the cluster's as the owner may read it in a terminal: cut, and without what would steer one.
fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(plain).take(SHOWN).collect()
}

/// Where they may go.
fn door(asked: &Asked, guests: usize) -> Result<(Door, mpsc::Sender<Order>), Fault> {
    if let Some(why) = asked.gate.closed() {
        return Err(why);
    }
    if guests >= MOST {
        let why = format!("{MOST} sessions and connections are open in this vehicle, which is the most");
        return Err(Fault::unavailable(why));
    }
    let unknown = || Fault::not_found("the vehicle does not have this Pod any more");
    let orders = asked.orders.clone().ok_or_else(unknown)?;
    let door = match asked.request.what.clone() {
        Some(open_tunnel::What::Exec(exec)) => {
            if exec.command.is_empty() {
                return Err(Fault::invalid("there is no command to run"));
            }
            Door::Container {
                container: exec.container,
                command: Some(exec.command),
                streams: exec.streams.unwrap_or_default(),
            }
        }
        Some(open_tunnel::What::Attach(attach)) => Door::Container {
            container: attach.container,
            command: None,
            streams: attach.streams.unwrap_or_default(),
        },
        Some(open_tunnel::What::PortForward(forward)) => {
            let port = u16::try_from(forward.port).ok().filter(|port| *port != 0);
            Door::Port(port.ok_or_else(|| Fault::invalid("a port is between 1 and 65535"))?)
        }
        None => return Err(Fault::unsupported("this agent does not know what is asked")),
    };
    Ok((door, orders))
}

/// What they do, for the owner.
fn what(request: &OpenTunnel) -> String {
    match &request.what {
        Some(open_tunnel::What::Exec(exec)) => {
            format!(
                "runs \"{}\" in {}",
                shown(&exec.command.join(" ")),
                shown(&exec.container)
            )
        }
        Some(open_tunnel::What::Attach(attach)) => format!("joins {}", shown(&attach.container)),
        Some(open_tunnel::What::PortForward(forward)) => format!("connects to port {}", forward.port),
        None => "something that this agent does not know".to_owned(),
    }
}

/// The way itself, from the first byte to the last. `Err`: why nobody went it.
async fn through<C: Cluster>(
    cluster: &C,
    id: &str,
    door: Door,
    orders: mpsc::Sender<Order>,
    gate: Gate,
) -> Result<(), Fault> {
    let enters = async {
        let begun = match way(door, orders).await? {
            Way::Session(begins) => Begun::Session(begins.await.map_err(Fault::internal)?),
            Way::Port(connects) => Begun::Port(connects.await.map_err(Fault::unavailable)?),
        };
        Ok::<_, Fault>((cluster.tunnel(id).await?, begun))
    };
    let (ends, begun) = tokio::select! {
        biased;
        why = gate.clone().shuts() => return Err(why),
        entered = enters => entered?,
    };
    let ((mut from, to), shuts) = (ends, gate.clone().shuts());
    match begun {
        Begun::Session(session) => tokio::select! {
            biased;
            why = shuts => say(&to, failure(why.message())),
            () = flow((&mut from, &to), session, gate) => {}
        },
        Begun::Port(stream) => tokio::select! {
            biased;
            why = shuts => say(&to, why.message().to_owned()),
            () = forward((&mut from, &to), stream, gate) => {}
        },
    }
    drop(to);
    // The call ends when its other side has heard the last word: to drop it before breaks off what is still on its way.
    let heard = async { while from.next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_WORD, heard).await;
    Ok(())
}

/// Somebody is there.
enum Begun {
    Session(Session),
    Port(StdStream),
}

/// The last word of a tunnel that is shut. Who does not listen does not hear it: nothing waits for them.
fn say(to: &mpsc::Sender<TunnelPart>, why: String) {
    let _ = to.try_send(error(why));
}

/// A Status of Kubernetes that says how a session ended: nothing is known of the program's end.
fn failure(why: &str) -> String {
    let status = serde_json::json!({
        "metadata": {},
        "status": "Failure",
        "message": why,
        "reason": "InternalError",
        "code": 500,
    });
    status.to_string()
}

/// The end of a tunnel.
fn error(why: String) -> TunnelPart {
    TunnelPart {
        channel: ERROR,
        data: why.into(),
        end: true,
        ..TunnelPart::default()
    }
}

async fn way(door: Door, orders: mpsc::Sender<Order>) -> Result<Way, Fault> {
    let unknown = || Fault::not_found("the vehicle does not have this Pod any more");
    let (reply, answer) = oneshot::channel();
    orders.send(Order::Enter { door, reply }).await.map_err(|_| unknown())?;
    answer.await.map_err(|_| unknown())?
}

/// Both directions of a tunnel, lent: whoever has them hears the other side out.
type Ends<'a> = (&'a mut BoxStream<'static, TunnelPart>, &'a mpsc::Sender<TunnelPart>);

/// Until the program has ended or the other side has gone. What the program said last is sent before the tunnel ends.
async fn flow((from, to): Ends<'_>, session: Session, mut gate: Gate) {
    let Session {
        to: typed,
        from: mut printed,
    } = session;
    let up = async {
        while let Some(part) = from.next().await {
            if typed.send(part).await.is_err() {
                // The program takes no more; what it has printed still goes out.
                std::future::pending::<()>().await;
            }
        }
    };
    let down = async {
        while let Some(part) = printed.recv().await {
            gate.runs().await;
            if to.send(part).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// One connection to a port, until both directions are over.
async fn forward((from, to): Ends<'_>, stream: StdStream, mut gate: Gate) {
    let ready = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
    let mut stream = match ready {
        Ok(stream) => stream,
        Err(error) => return last(to, error.to_string()).await,
    };
    let (mut incoming, mut outgoing) = stream.split();
    let up = async {
        while let Some(part) = from.next().await {
            outgoing.write_all(&part.data).await?;
            if part.end {
                outgoing.shutdown().await?;
            }
        }
        // They have gone, which is not the same as having said everything.
        Ok::<_, std::io::Error>(true)
    };
    let down = async {
        let mut buffer = vec![0; TUNNEL_LIMIT];
        loop {
            let read = incoming.read(&mut buffer).await?;
            gate.runs().await;
            let bytes = buffer.get(..read).unwrap_or_default();
            let part = TunnelPart {
                channel: FROM,
                data: Bytes::copy_from_slice(bytes),
                ..TunnelPart::default()
            };
            if read == 0 || to.send(part).await.is_err() {
                return Ok::<_, std::io::Error>(());
            }
        }
    };
    let gone = async {
        match up.await {
            Ok(gone) => gone,
            // The program reads no more; what it writes still goes out.
            Err(_) => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = down => ended,
        _ = gone => return,
    };
    last(to, ended.err().map(|e| e.to_string()).unwrap_or_default()).await;
}

/// Why a connection has ended; empty: it was closed.
async fn last(to: &mpsc::Sender<TunnelPart>, why: String) {
    // Nobody is there any more.
    let _ = to.send(error(why)).await;
}

#[cfg(test)]
mod tests;
