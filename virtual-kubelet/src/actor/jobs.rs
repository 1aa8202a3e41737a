//! The actor's jobs: each one call to the API server or the store, away from the actor's turn.
//!
//! Made by the actor, at most one per object at a time. A job reads nothing of the actor: what it writes was computed before, and carries a
//! precondition. What it learns goes into the mirrors, its outcome back to the actor. Of what the API server refuses for now only a claim is
//! made again here, for its car waits; all else comes again with a later turn.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kerbside_api::v1alpha1::{Source, Vehicle};
use kerbside_core::clock::Boottime;
use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_core::names::NODE_TYPE;
use kerbside_core::names::store::attempt_manifest;
use kerbside_k8s::apply::{self, Written};
use kerbside_k8s::client::{insist_while, is_refused_for_now};
use kerbside_k8s::events::Severity;
use kerbside_k8s::lease;
use kerbside_link::fault::Fault;
use kerbside_link::server::{Arrival, Greeting, Refusal};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::connection;
use crate::context::{Context, MANAGER};
use crate::gate::Lane;
use crate::pod_writer::{self, PodRef};

/// For so long a claim is made again that the API server refuses for now. Less than a job has, so that its car gets an answer.
const CLAIM_FOR: Duration = Duration::from_secs(4);
/// And no longer than this after its car came: a car's patience is 10 s, and some of it may have gone while it stood in its lane.
const HEARD_WITHIN: Duration = Duration::from_secs(6);

/// What a job is about: at most one job per key is at work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Claim,
    Vehicle,
    Node,
    Lease,
    Pod(PodUid),
    Delete(PodUid),
    Output(PodUid),
    Event(u64),
}

impl Key {
    /// Behind whom its job waits.
    pub(super) fn lane(&self) -> Lane {
        match self {
            Self::Lease => Lane::Renewal,
            Self::Pod(_) | Self::Delete(_) | Self::Output(_) => Lane::Work,
            Self::Claim => Lane::Arrival,
            Self::Node => Lane::Node,
            Self::Vehicle => Lane::Facts,
            Self::Event(_) => Lane::Event,
        }
    }
}

/// What became of a job.
#[derive(Debug)]
pub(super) enum Outcome {
    Claimed(u64, Box<Arrival>, oneshot::Sender<Result<Greeting, Refusal>>),
    Written,
    /// Done, and only the watch will show what it did.
    Sent,
    /// The Lease; when the renewal was sent.
    Renewed(Boottime),
    Looked(bool),
    /// The object is not what it was taken for: look again.
    Stale,
    Failed,
}

impl Outcome {
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Failed => "failed",
            _ => "done",
        }
    }
}

/// A finished job.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) key: Key,
    pub(super) outcome: Outcome,
}

pub(super) type Job = BoxFuture<'static, Done>;

/// The outcome of a write, with its object taken in.
fn written<K>(
    id: &VehicleId,
    what: &'static str,
    result: Result<Written<K>, kube::Error>,
    observe: impl FnOnce(K),
) -> Outcome {
    match result {
        Ok(Written::Done(object)) => {
            observe(*object);
            Outcome::Written
        }
        Ok(Written::Stale) => Outcome::Stale,
        Err(error) => {
            tracing::warn!(vehicle.id = %id, what, %error, "a write failed and will be tried again");
            Outcome::Failed
        }
    }
}

fn sent(outcome: Outcome) -> Outcome {
    if matches!(outcome, Outcome::Written) {
        Outcome::Sent
    } else {
        outcome
    }
}

/// Raises the epoch of the vehicle's connection and puts this replica's name beside it.
pub(super) fn claim(
    context: Arc<Context>,
    id: VehicleId,
    arrival: Box<Arrival>,
    reply: oneshot::Sender<Result<Greeting, Refusal>>,
) -> Job {
    async move {
        if arrival.session.is_closed() {
            // It has lost its patience while it waited for its turn: a write for it would only hold up those who still wait.
            let _ = reply.send(Err(gone().into()));
            return Done {
                key: Key::Claim,
                outcome: Outcome::Written,
            };
        }
        let outcome = match raise_epoch(&context, &id, &arrival).await {
            Ok(epoch) => Outcome::Claimed(epoch, arrival, reply),
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
                Outcome::Failed
            }
        };
        Done {
            key: Key::Claim,
            outcome,
        }
    }
    .boxed()
}

/// Nobody waits for the greeting any more.
pub(super) fn gone() -> Fault {
    Fault::unavailable("the car has gone before it was greeted; connect again")
}

/// The next epoch of the car that has come. It keeps its place among the arrivals, and in its lane, while the API server refuses for now: so
/// no more cars are let in than it takes, and none comes again at once with another handshake.
pub(super) async fn raise_epoch(context: &Context, id: &VehicleId, arrival: &Arrival) -> Result<u64, Refusal> {
    let api: Api<Vehicle> = Api::all(context.client.clone());
    let waited = context.clock.boottime().since(arrival.at);
    let until = Instant::now() + HEARD_WITHIN.saturating_sub(waited).min(CLAIM_FOR);
    let left = || until.saturating_duration_since(Instant::now());
    let waits = || !arrival.session.is_closed();
    let not_now = |error: kube::Error| put_off(context, id, arrival, &error);
    let mut known = context.roster.vehicle(id.as_str()).map(|v| Vehicle::clone(&v));
    // Only another replica, or a person, writes at the same time; a handful of tries is plenty.
    for _ in 0..5 {
        let Some(vehicle) = known.take() else {
            return Err(Fault::denied("there is no Vehicle of this id; enrol the car anew").into());
        };
        if vehicle.spec.revoked {
            return Err(Fault::denied("this vehicle is revoked").into());
        }
        if vehicle.spec.source == Source::Telemetry {
            return Err(Fault::denied(connection::WITHOUT_AGENT).into());
        }
        let raised = insist_while(left(), waits, || connection::raise(context, &vehicle)).await;
        match raised.map_err(not_now)? {
            (epoch, Written::Done(vehicle)) => {
                context.roster.observe(*vehicle);
                return Ok(epoch);
            }
            (_, Written::Stale) => {
                let found = insist_while(left(), waits, || api.get_opt(id.as_str())).await;
                known = found.map_err(not_now)?;
            }
        }
    }
    Err(Fault::unavailable("the Vehicle is being written by others; connect again").into())
}

/// What the car is told when its epoch could not be raised. An API server that takes no more at this moment would be asked again by each car
/// that is only told to connect again: those are given an appointment.
fn put_off(context: &Context, id: &VehicleId, arrival: &Arrival, error: &kube::Error) -> Refusal {
    if arrival.session.is_closed() {
        return gone().into();
    }
    if is_refused_for_now(error) {
        let delay = context
            .gate
            .appoint(!arrival.hello.attempts.is_empty(), &*context.clock);
        tracing::warn!(vehicle.id = %id, %error, ?delay, "the API server takes no connection now; the car is to come again later");
        let reason = "the cluster takes no more at this moment".to_owned();
        return Refusal::RetryAfter { delay, reason };
    }
    tracing::warn!(vehicle.id = %id, %error, "a connection could not be recorded; the car is sent away for now");
    Fault::unavailable("the cluster is not reachable; connect again").into()
}

/// Writes the Vehicle's status.
pub(super) fn vehicle_status(context: Arc<Context>, id: VehicleId, uid: String, status: Value) -> Job {
    async move {
        let api: Api<Vehicle> = Api::all(context.client.clone());
        let result = apply::merge_status(&api, id.as_str(), &uid, None, MANAGER, status).await;
        Done {
            key: Key::Vehicle,
            outcome: written(&id, "Vehicle status", result, |v| context.roster.observe(v)),
        }
    }
    .boxed()
}

/// Creates the vehicle's Node.
pub(super) fn create_node(context: Arc<Context>, id: VehicleId, node: Node) -> Job {
    async move {
        let api: Api<Node> = Api::all(context.client.clone());
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let result = match api.create(&params, &node).await {
            Ok(node) => Ok(Written::Done(Box::new(node))),
            // It is there. If the watch does not show it, it has lost the label by which the watch selects.
            Err(kube::Error::Api(s)) if s.is_already_exists() => {
                let label = json!({ "metadata": { "labels": { "type": NODE_TYPE } } });
                let params = PatchParams {
                    field_manager: Some(MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                api.patch(id.as_str(), &params, &Patch::Merge(label))
                    .await
                    .map(|n| Written::Done(Box::new(n)))
            }
            Err(error) => Err(error),
        };
        Done {
            key: Key::Node,
            outcome: sent(written(&id, "Node", result, |_| {})),
        }
    }
    .boxed()
}

/// Deletes the vehicle's Node.
pub(super) fn delete_node(context: Arc<Context>, id: VehicleId, uid: String) -> Job {
    async move {
        let api: Api<Node> = Api::all(context.client.clone());
        let result = apply::delete(&api, id.as_str(), &uid, None).await;
        Done {
            key: Key::Node,
            outcome: sent(written(&id, "Node", result, |()| {})),
        }
    }
    .boxed()
}

/// Patches the vehicle's Node: first labels and taints, then the status.
pub(super) fn patch_node(
    context: Arc<Context>,
    id: VehicleId,
    uid: String,
    metadata: Option<Vec<Value>>,
    status: Option<Value>,
) -> Job {
    async move {
        let api: Api<Node> = Api::all(context.client.clone());
        let name = id.as_str();
        let observe = |n: Node| context.nodes.observe(n);
        let mut outcome = Outcome::Written;
        if let Some(operations) = metadata {
            let result = apply::json_patch(&api, name, MANAGER, operations).await;
            outcome = written(&id, "Node", result, observe);
        }
        if let (Outcome::Written, Some(status)) = (&outcome, status) {
            let result = apply::strategic_status(&api, name, &uid, MANAGER, status).await;
            outcome = written(&id, "Node status", result, observe);
        }
        Done {
            key: Key::Node,
            outcome,
        }
    }
    .boxed()
}

/// What this replica knows of the Lease of a vehicle's Node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nothing yet: the vehicle has just become this replica's.
    #[default]
    Unknown,
    /// Its last renewal was this replica's.
    Ours,
    /// It was found with another holder, or not at all.
    Lost,
}

/// Renews the Lease of the vehicle's Node: only if this replica still holds it, if it held it before; else it is taken, or made. One that
/// was lost is taken back only if the Vehicle, asked anew, is still this replica's: what the watch shows may be old.
pub(super) fn renew_lease(context: Arc<Context>, id: VehicleId, node_uid: String, hold: Hold) -> Job {
    async move {
        // A renewal proves something for the time before it was sent.
        let sent = context.clock.boottime();
        let outcome = match renew(&context, &id, &node_uid, hold).await {
            Outcome::Written => Outcome::Renewed(sent),
            other => other,
        };
        Done {
            key: Key::Lease,
            outcome,
        }
    }
    .boxed()
}

async fn renew(context: &Context, id: &VehicleId, node_uid: &str, hold: Hold) -> Outcome {
    let api: Api<Lease> = Api::namespaced(context.client.clone(), lease::NAMESPACE);
    let (name, now) = (id.as_str(), context.clock.wall());
    if hold == Hold::Ours {
        let operations = vec![
            json!({ "op": "test", "path": "/spec/holderIdentity", "value": context.replica }),
            json!({ "op": "add", "path": "/spec/renewTime", "value": MicroTime(now) }),
        ];
        let result = apply::json_patch(&api, name, MANAGER, operations).await;
        return written(id, "Lease", result, |_: Lease| {});
    }
    if hold == Hold::Lost {
        let vehicles: Api<Vehicle> = Api::all(context.client.clone());
        match vehicles.get_opt(name).await {
            Ok(Some(vehicle)) if connection::is_held_by(&vehicle, &context.replica) => {}
            Ok(_) => {
                tracing::info!(vehicle.id = %id, "the vehicle is another adapter's; its Lease is left alone");
                return Outcome::Stale;
            }
            Err(error) => return written(id, "Vehicle", Err::<Written<Vehicle>, _>(error), |_| {}),
        }
    }
    let result = lease::renew(&api, name, node_uid, &context.replica, MANAGER, now).await;
    written(id, "Lease", result.map(|l| Written::Done(Box::new(l))), |_| {})
}

/// Writes a Pod's status.
pub(super) fn pod_status(context: Arc<Context>, id: VehicleId, pod: PodRef, status: Value) -> Job {
    async move {
        let result = pod_writer::write_status(&context.client, &pod, status).await;
        let key = Key::Pod(pod.uid);
        Done {
            key,
            outcome: written(&id, "Pod status", result, |p: Pod| context.pods.observe(p)),
        }
    }
    .boxed()
}

/// Deletes a Pod.
pub(super) fn delete_pod(context: Arc<Context>, id: VehicleId, pod: PodRef, grace_seconds: u32) -> Job {
    async move {
        let result = pod_writer::delete(&context.client, &pod, grace_seconds).await;
        Done {
            key: Key::Delete(pod.uid),
            outcome: sent(written(&id, "Pod", result, |()| {})),
        }
    }
    .boxed()
}

/// Looks whether an attempt's manifest is in the store.
pub(super) fn look_for_output(context: Arc<Context>, id: VehicleId, namespace: String, uid: PodUid) -> Job {
    async move {
        let outcome = match context.store.size(&attempt_manifest(&namespace, uid.as_str())).await {
            Ok(size) => Outcome::Looked(size.is_some()),
            Err(error) => {
                tracing::warn!(vehicle.id = %id, attempt = %uid, %error, "the store cannot be asked; will be tried again");
                Outcome::Failed
            }
        };
        Done { key: Key::Output(uid), outcome }
    }
    .boxed()
}

/// Publishes an Event about a Pod or the vehicle.
pub(super) fn event(context: Arc<Context>, number: u64, about: ObjectReference, event: crate::events::Note) -> Job {
    async move {
        let severity = if event.warning {
            Severity::Warning
        } else {
            Severity::Normal
        };
        context
            .recorder
            .publish(&about, severity, event.reason, event.reason, &event.message)
            .await;
        Done {
            key: Key::Event(number),
            outcome: Outcome::Written,
        }
    }
    .boxed()
}
