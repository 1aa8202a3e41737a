//! What an actor writes, and what it leaves alone, over a mocked API server. Time is moved by hand; nothing here has a car.

mod braked;
mod refused;
mod turns;

use super::*;
use crate::fleet::Ends;
use crate::testing::{TestClock, World, list, respond};
use crate::vehicle_status;
use k8s_openapi::api::core::v1::{Node, PodStatus};
use kerbside_core::names::taint;
use kerbside_core::vehicle::{Hearing, Judgement, NodeState, NodeWish};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

const ID: &str = "car-aaaaaaaaaaaaaaaa";

fn vehicle(replica: &str) -> Vehicle {
    serde_json::from_value(json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle",
        "metadata": {"name": ID, "uid": "v-1", "resourceVersion": "10", "generation": 1},
        "spec": {"pool": "overnight"},
        "status": {
            "phase": "Available",
            "connection": {"replica": replica, "epoch": 3},
            "offer": {"allocatable": {"cpu": "2"}, "runtimes": ["wasm"], "arch": "arm64", "classes": ["inference"]},
        },
    }))
    .unwrap()
}

fn pool() -> kerbside_api::v1alpha1::VehiclePool {
    serde_json::from_value(json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "VehiclePool",
        "metadata": {"name": "overnight", "uid": "p-1", "resourceVersion": "1"},
        "spec": {"allowedNamespaces": {"from": "All"}},
    }))
    .unwrap()
}

fn pod(fence: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "digits-0-abcde", "namespace": "vision", "uid": "u-1", "resourceVersion": "20", "generation": 1,
            "annotations": {"kerbside.dev/run-unheard-for": fence},
            "ownerReferences": [{"apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob", "name": "digits", "uid": "j", "controller": true}],
        },
        "spec": {"nodeName": ID, "containers": [{"name": "main", "image": "x"}]},
        "status": {"phase": "Running", "startTime": "2026-11-23T11:00:00Z"},
    }))
    .unwrap()
}

/// An actor whose API already says what it should, as after a restart of the adapter.
struct Case {
    world: World,
    actor: Actor,
    inbox: mpsc::Sender<Message>,
}

fn case(replica: &str, pods: Vec<Pod>) -> Case {
    let world = World::new();
    let context = &world.context;
    let id: VehicleId = ID.parse().unwrap();
    let good = NodeState {
        ready: true,
        taints: vec![],
        eligible: Judgement::Yes,
        heard: Some(Hearing::Heard),
    };
    let mut vehicle = vehicle(replica);
    let offer = vehicle.status.as_ref().unwrap().offer.clone();
    let template = crate::terms::template(None);
    let wanted = crate::node::wanted(&id, &vehicle, &template, &offer, "linux", good, &context.node);
    let mut node: Node = wanted.create(context.clock.wall());
    node.metadata.uid = Some("n-1".into());
    node.metadata.resource_version = Some("5".into());
    let now = Boottime::default();
    let mut facts = Facts::new(Standing::Available, true, now);
    list(&context.roster.vehicles, vec![vehicle.clone()]);
    list(&context.roster.pools, vec![pool()]);
    list(&context.roster.namespaces, vec![]);
    facts.step(
        Event::Terms(terms(&vehicle, context.roster.pool("overnight").as_deref(), &offer)),
        now,
    );
    facts.settle(now, |_| None);
    vehicle.status = Some(vehicle_status::build(
        &vehicle,
        &facts.desired(now),
        &offer,
        None,
        context.clock.wall(),
    ));
    list(
        &context.roster.vehicles,
        vec![Vehicle {
            metadata: newer(&vehicle.metadata),
            ..vehicle
        }],
    );
    list(&context.nodes, vec![node]);
    list(&context.pods, pods);
    let (inbox_tx, inbox) = mpsc::channel(8);
    let ends = Ends {
        inbox,
        wake: Arc::new(Notify::new()),
        session: watch::Sender::new(None),
        drain: CancellationToken::new(),
        stop: CancellationToken::new(),
    };
    let actor = Actor::new(id, Arc::clone(context), ends);
    Case {
        actor,
        world,
        inbox: inbox_tx,
    }
}

fn newer(metadata: &kube::core::ObjectMeta) -> kube::core::ObjectMeta {
    kube::core::ObjectMeta {
        resource_version: Some("11".into()),
        ..metadata.clone()
    }
}

impl Case {
    fn clock(&self) -> &TestClock {
        &self.world.clock
    }

    /// The jobs that one turn begins, by what they are about.
    fn turn(&mut self) -> Vec<Key> {
        self.actor.turn();
        let mut keys: Vec<_> = self.actor.at_work.iter().cloned().collect();
        keys.sort_by_key(|k| format!("{k:?}"));
        keys
    }

    /// Lets one job finish, the API server answering `code` and `body`; the request that it made.
    async fn finish(&mut self, code: u16, body: Value) -> (String, String, Value) {
        let (done, request) = futures::join!(self.actor.jobs.next(), respond(&mut self.world.server, code, body));
        self.actor.finish(done.unwrap());
        request
    }
}

fn pod_key() -> Key {
    Key::Pod("u-1".parse().unwrap())
}

#[tokio::test]
async fn vehicle_in_order_costs_one_lease_renewal_and_nothing_else() {
    let mut case = case("r-0", vec![]);
    assert_eq!(case.turn(), [Key::Lease]);
    let (method, path, body) = case.finish(200, json!({"metadata": {"name": ID}})).await;
    assert_eq!(
        (method.as_str(), path.as_str()),
        (
            "PATCH",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/car-aaaaaaaaaaaaaaaa"
        )
    );
    assert_eq!(body["spec"]["holderIdentity"], "r-0");
    assert_eq!(case.turn(), []);
    case.clock().set(19);
    assert_eq!(case.turn(), [], "not due yet");
    case.clock().set(21);
    assert_eq!(case.turn(), [Key::Lease]);
    let (_, _, body) = case.finish(200, json!({"metadata": {"name": ID}})).await;
    assert_eq!(
        body[0],
        json!({"op": "test", "path": "/spec/holderIdentity", "value": "r-0"}),
        "it insists on its own"
    );
}

#[tokio::test]
async fn lease_that_is_not_ours_any_more_is_taken_by_its_vehicles_replica() {
    let mut case = case("r-0", vec![]);
    case.turn();
    case.finish(200, json!({"metadata": {"name": ID}})).await;
    case.clock().set(21);
    case.turn();
    let other = json!({"kind": "Status", "status": "Failure", "code": 422, "reason": "Invalid", "message": "testing value /spec/holderIdentity failed"});
    case.finish(422, other).await;
    assert_eq!(case.turn(), [], "not at once");
    case.clock().set(22);
    assert_eq!(case.turn(), [Key::Lease]);
    // Asked anew, the Vehicle is another's: what the watch shows is old.
    let (method, path, _) = case.finish(200, serde_json::to_value(vehicle("r-1")).unwrap()).await;
    let asked = ("GET", "/apis/kerbside.dev/v1alpha1/vehicles/car-aaaaaaaaaaaaaaaa");
    assert_eq!((method.as_str(), path.as_str()), asked);
    assert!(!case.actor.lease.is_fresh(Boottime(Duration::from_secs(22))));
    case.clock().set(24);
    assert_eq!(case.turn(), [Key::Lease]);
    let server = &mut case.world.server;
    let answers = async {
        respond(server, 200, serde_json::to_value(vehicle("r-0")).unwrap()).await;
        respond(server, 200, json!({"metadata": {"name": ID}})).await
    };
    let (done, (_, _, body)) = futures::join!(case.actor.jobs.next(), answers);
    case.actor.finish(done.unwrap());
    assert_eq!(body["spec"]["holderIdentity"], "r-0");
    assert!(case.actor.lease.is_fresh(Boottime(Duration::from_secs(24))));
}

#[tokio::test]
async fn vehicle_of_another_replica_is_left_alone() {
    let mut case = case("r-1", vec![pod("30s")]);
    assert_eq!(case.turn(), []);
    case.clock().set(3_600);
    assert_eq!(case.turn(), []);
    assert!(!case.actor.is_over(), "its car may be connecting to us");
}

#[tokio::test]
async fn vehicle_whose_car_went_to_another_replica_ends_the_actor() {
    let mut case = case("r-0", vec![]);
    case.turn();
    assert!(!case.actor.is_over());
    let mut moved = vehicle("r-1");
    moved.metadata.resource_version = Some("12".into());
    list(&case.world.context.roster.vehicles, vec![moved]);
    case.turn();
    assert!(case.actor.is_over());
}

#[tokio::test]
async fn actor_that_could_not_get_hold_of_its_vehicle_ends() {
    let mut case = case("r-9", vec![pod("30s")]);
    case.actor.turn();
    assert!(!case.actor.is_over(), "its car has not been heard yet");
    case.actor.tried = true;
    assert!(
        case.actor.is_over(),
        "it must not count the fences of another replica's attempts"
    );
}

#[tokio::test]
async fn vehicle_that_was_anothers_meanwhile_is_begun_anew() {
    for (epoch, fenced) in [(4, true), (5, false)] {
        let mut case = case("r-0", vec![pod("30s")]);
        case.actor.turn();
        case.clock().set(100);
        case.actor.turn();
        let uid: PodUid = "u-1".parse().unwrap();
        assert!(
            case.actor.facts.attempts()[&uid].fenced,
            "it was silent for this replica"
        );
        let _greeting = connect(&mut case, "a", epoch);
        assert_eq!(case.actor.facts.attempts()[&uid].fenced, fenced, "epoch {epoch}");
    }
}

#[tokio::test]
async fn vehicle_deleted_ends_the_actor() {
    let mut case = case("r-0", vec![]);
    list(&case.world.context.roster.vehicles, vec![]);
    case.turn();
    assert!(case.actor.is_over());
}

#[tokio::test]
async fn car_that_does_not_come_back_is_suspected_in_one_write_per_object() {
    let mut case = case("r-0", vec![pod("30s")]);
    assert_eq!(case.turn(), [Key::Lease, pod_key()]);
    case.actor.at_work.clear();
    case.actor.jobs.clear();
    case.clock().set(30);
    let keys = case.turn();
    assert_eq!(keys, [Key::Lease, Key::Node, pod_key(), Key::Vehicle]);
    assert_eq!(case.turn(), keys, "each once");
}

#[tokio::test]
async fn pod_is_ended_on_silence_only_after_a_fresh_renewal() {
    let mut case = case("r-0", vec![pod("30s")]);
    case.turn();
    case.actor.at_work.clear();
    case.actor.jobs.clear();
    case.actor.lease.renewed(Boottime(Duration::from_secs(50)));
    case.clock().set(66);
    case.actor.turn();
    assert!(!case.actor.at_work.contains(&pod_key()), "the last renewal is 16 s old");
    case.actor.turn();
    assert!(case.actor.at_work.contains(&Key::Lease));
    case.actor.lease.renewed(Boottime(Duration::from_secs(66)));
    assert!(case.turn().contains(&pod_key()));
}

/// A connected car with a running attempt; nothing of it was written yet.
fn running() -> Case {
    let mut case = case("r-0", vec![pod("30s")]);
    case.turn();
    case.actor.at_work.clear();
    case.actor.jobs.clear();
    let running = kerbside_core::vehicle::Report {
        uid: "u-1".parse().unwrap(),
        revision: 2,
        phase: kerbside_core::vehicle::AttemptPhase::Running,
        reason: String::new(),
        message: String::new(),
        stopped: false,
    };
    case.actor.step(Event::Connected {
        epoch: 3,
        standing: Standing::Available,
        reports: vec![running],
    });
    case
}

/// The same, and it leaves.
fn leaving() -> Case {
    let mut case = running();
    case.actor.step(Event::State(Standing::Leaving {
        notice: Duration::from_secs(30),
    }));
    case
}

#[tokio::test]
async fn pods_hear_of_a_departure_when_the_node_says_that_nobody_may_come() {
    let mut case = leaving();
    let keys = case.turn();
    assert!(keys.contains(&Key::Node) && !keys.contains(&pod_key()), "{keys:?}");
    let mut told = Node::clone(&case.world.context.nodes.by_name("", ID).unwrap());
    told.metadata.resource_version = Some("6".into());
    let (NodeWish::Present(state) | NodeWish::Keep(state)) = case.actor.settle().node else {
        panic!("the Node stays while its attempt is awaited");
    };
    assert!(state.taints.contains(&taint::LEAVING), "{state:?}");
    let taints = state
        .taints
        .iter()
        .map(|key| json!({"key": key, "effect": "NoSchedule"}));
    let taints = taints.collect::<Value>();
    told.spec.as_mut().unwrap().taints = serde_json::from_value(taints).unwrap();
    list(&case.world.context.nodes, vec![told]);
    assert!(case.turn().contains(&pod_key()));
}

#[tokio::test]
async fn node_that_cannot_be_written_keeps_no_pod_from_its_word() {
    let mut case = leaving();
    assert!(!case.turn().contains(&pod_key()));
    case.actor.finish(jobs::Done {
        key: Key::Node,
        outcome: Outcome::Failed,
    });
    assert!(case.turn().contains(&pod_key()));
}

#[tokio::test]
async fn end_of_a_pod_is_written_for_the_version_that_was_read() {
    let mut case = case("r-0", vec![pod("30s")]);
    case.actor.lease.renewed(Boottime(Duration::from_secs(65)));
    case.clock().set(66);
    // Only the Pod is looked at here.
    case.actor.at_work = HashSet::from([Key::Node, Key::Vehicle]);
    case.actor.turn();
    let (_, path, ended) = case.finish(200, serde_json::to_value(pod("30s")).unwrap()).await;
    assert_eq!(path, "/api/v1/namespaces/vision/pods/digits-0-abcde/status");
    assert_eq!(ended["metadata"], json!({"uid": "u-1", "resourceVersion": "20"}));
    assert_eq!(
        (&ended["status"]["phase"], &ended["status"]["reason"]),
        (&json!("Failed"), &json!("VehicleLost"))
    );
}

#[tokio::test]
async fn phase_of_a_pod_is_written_for_the_version_that_was_read() {
    let pending = Pod {
        status: Some(PodStatus::default()),
        ..pod("30s")
    };
    let mut case = case("r-0", vec![pending.clone()]);
    case.actor.turn();
    // Only the Pod is looked at here.
    case.actor.jobs.clear();
    case.actor.at_work = HashSet::from([Key::Node, Key::Vehicle, Key::Lease]);
    case.actor.turn();
    let (_, _, begun) = case.finish(200, serde_json::to_value(pending).unwrap()).await;
    assert_eq!(begun["status"]["phase"], "Pending");
    assert_eq!(
        begun["metadata"],
        json!({"uid": "u-1", "resourceVersion": "20"}),
        "somebody may have ended it meanwhile"
    );
}

#[tokio::test]
async fn replica_that_is_not_sure_of_its_vehicles_suspects_none_and_gives_its_cars_time() {
    let mut case = case("r-0", vec![pod("30s")]);
    case.turn();
    case.actor.facts.step(
        Event::Connected {
            epoch: 3,
            standing: Standing::Available,
            reports: vec![],
        },
        Boottime::default(),
    );
    case.world.context.proof.company(true);
    case.world.context.proof.renewed(Boottime::default());
    case.clock().set(26);
    case.actor.step(Event::Closed(3));
    case.actor.turn();
    assert!(!case.actor.facts.suspected(), "it is cut off itself");
    case.world.context.proof.renewed(Boottime(Duration::from_secs(26)));
    case.clock().set(55);
    case.world.context.proof.renewed(Boottime(Duration::from_secs(55)));
    case.actor.turn();
    assert!(!case.actor.facts.suspected(), "the car has time to come back");
    case.clock().set(57);
    case.actor.turn();
    assert!(case.actor.facts.suspected());
}

#[tokio::test]
async fn write_that_fails_is_made_again_after_a_wait() {
    let mut case = case("r-0", vec![]);
    assert_eq!(case.turn(), [Key::Lease]);
    case.finish(
        403,
        json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "no"}),
    )
    .await;
    assert_eq!(case.turn(), []);
    case.clock().set(1);
    assert_eq!(case.turn(), [Key::Lease]);
}

#[tokio::test(start_paused = true)]
async fn request_without_an_answer_is_given_up_and_made_again() {
    let mut case = case("r-0", vec![]);
    assert_eq!(case.turn(), [Key::Lease]);
    let done = case.actor.jobs.next().await.unwrap();
    assert!(matches!(done.outcome, Outcome::Failed));
    case.actor.finish(done);
    assert_eq!(case.turn(), []);
    case.clock().set(1);
    assert_eq!(case.turn(), [Key::Lease]);
}

#[tokio::test]
async fn node_deleted_by_somebody_is_made_again() {
    let mut case = case("r-0", vec![]);
    case.turn();
    case.finish(200, json!({"metadata": {"name": ID}})).await;
    list(&case.world.context.nodes, vec![]);
    assert_eq!(case.turn(), [Key::Node]);
    let (method, path, body) = case.finish(201, json!({"metadata": {"name": ID}})).await;
    assert_eq!((method.as_str(), path.as_str()), ("POST", "/api/v1/nodes"));
    assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "v-1");
    assert_eq!(case.turn(), [], "not again before the watch has shown it");
}

/// A cloud that does not know the car deletes the Node each time it looks at it.
#[tokio::test]
async fn node_of_a_leaving_car_is_made_again_each_time_while_its_attempt_is_awaited() {
    let mut case = leaving();
    list(&case.world.context.nodes, vec![]);
    // Only the Node is looked at here.
    case.actor.at_work = HashSet::from([Key::Vehicle, Key::Lease, pod_key()]);
    assert!(case.turn().contains(&Key::Node));
    let (method, path, body) = case.finish(201, json!({"metadata": {"name": ID}})).await;
    assert_eq!((method.as_str(), path.as_str()), ("POST", "/api/v1/nodes"));
    let taints = body["spec"]["taints"].as_array().unwrap();
    assert!(
        taints.iter().any(|t| t["key"] == taint::LEAVING),
        "nobody may come in the meantime: {taints:?}"
    );
    let conditions = body["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "False"),
        "{conditions:?}"
    );
    case.clock().set(2);
    assert!(
        case.turn().contains(&Key::Node),
        "deleted again before a watch showed it"
    );
}

#[tokio::test]
async fn epoch_is_raised_over_a_conflict_and_never_twice_the_same() {
    let World {
        context, mut server, ..
    } = World::new();
    list(&context.roster.vehicles, vec![vehicle("r-1")]);
    let id: VehicleId = ID.parse().unwrap();
    let mut found = vehicle("r-1");
    found.metadata.resource_version = Some("15".into());
    found.status.as_mut().unwrap().connection.as_mut().unwrap().epoch = 8;
    let answers = async {
        let conflict =
            json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict", "message": "modified"});
        let (_, _, first) = respond(&mut server, 409, conflict).await;
        respond(&mut server, 200, serde_json::to_value(&found).unwrap()).await;
        let (_, _, second) = respond(&mut server, 200, serde_json::to_value(&found).unwrap()).await;
        (first, second)
    };
    let car = arrival(Boottime::default());
    let (epoch, (first, second)) = futures::join!(jobs::raise_epoch(&context, &id, &car), answers);
    assert_eq!(epoch.unwrap(), 9);
    assert_eq!(first["metadata"]["resourceVersion"], "10");
    assert_eq!(second["metadata"]["resourceVersion"], "15");
    assert_eq!(second["status"]["connection"], json!({"replica": "r-0", "epoch": 9}));
}

#[tokio::test]
async fn epoch_of_a_revoked_vehicle_is_not_raised() {
    let World { context, .. } = World::new();
    let mut revoked = vehicle("r-0");
    revoked.spec.revoked = true;
    list(&context.roster.vehicles, vec![revoked]);
    let car = arrival(Boottime::default());
    let refusal = jobs::raise_epoch(&context, &car.vehicle, &car).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Fault(fault) if !fault.is_retryable()));
}

/// Without a connection no replica has an actor for it, and without an actor nobody makes its Node.
#[tokio::test]
async fn epoch_of_a_vehicle_without_an_agent_is_not_raised() {
    let World { context, .. } = World::new();
    let mut shown = vehicle("r-0");
    shown.spec.source = kerbside_api::v1alpha1::Source::Telemetry;
    list(&context.roster.vehicles, vec![shown]);
    let car = arrival(Boottime::default());
    let refusal = jobs::raise_epoch(&context, &car.vehicle, &car).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Fault(fault) if !fault.is_retryable()));
}

#[test]
fn node_wish_of_a_vehicle_never_heard_is_absent() {
    let facts = Facts::new(Standing::Away, false, Boottime::default());
    assert_eq!(facts.desired(Boottime::default()).node, NodeWish::Absent);
}

/// A car whose agent was started as `instance` connects.
fn connect(case: &mut Case, instance: &str, epoch: u64) -> oneshot::Receiver<Result<Greeting, Refusal>> {
    let vehicle: VehicleId = ID.parse().unwrap();
    let (reply, answer) = oneshot::channel();
    let arrival = Arrival {
        session: SessionHandle::detached(vehicle.clone()),
        vehicle,
        protocol: 1,
        hello: proto::Hello {
            instance: instance.to_owned(),
            ..proto::Hello::default()
        },
        at: case.world.context.clock.boottime(),
    };
    case.actor.greet(epoch, arrival, reply);
    answer
}

/// The parked car with its running attempt, as it comes at `at`.
fn arrival(at: Boottime) -> Arrival {
    let vehicle: VehicleId = ID.parse().unwrap();
    let running = proto::AttemptStatus {
        uid: "u-1".into(),
        revision: 2,
        phase: proto::AttemptPhase::Running.into(),
        ..proto::AttemptStatus::default()
    };
    Arrival {
        session: SessionHandle::detached(vehicle.clone()),
        vehicle,
        protocol: 1,
        hello: proto::Hello {
            attempts: vec![running],
            state: Some(proto::CarState {
                standing: proto::Standing::Available.into(),
                ..proto::CarState::default()
            }),
            ..proto::Hello::default()
        },
        at,
    }
}

#[tokio::test]
async fn car_that_an_api_server_made_wait_for_its_greeting_takes_nothing_new_for_a_second_after_it() {
    let mut case = running();
    case.clock().set(1);
    case.actor.step(Event::Closed(3));
    case.actor.turn();
    assert!(case.actor.facts.suspected());
    case.clock().set(14);
    let (reply, _answer) = oneshot::channel();
    case.actor.greet(4, arrival(Boottime(Duration::from_secs(10))), reply);
    let takes_nothing_new = |case: &mut Case| match case.actor.settle().node {
        NodeWish::Present(state) | NodeWish::Keep(state) => state.taints.contains(&taint::SUSPECT),
        NodeWish::Absent => panic!("the Node stays while its attempt is awaited"),
    };
    assert!(takes_nothing_new(&mut case));
    case.clock().set(15);
    assert!(!takes_nothing_new(&mut case));
}

#[rstest::rstest]
#[case::adapter_that_goes_on(false)]
#[case::adapter_that_ends(true)]
#[tokio::test]
async fn car_that_goes_is_missed_at_once_unless_its_adapter_sent_it_away(#[case] ends: bool) {
    let mut case = running();
    let (reply, _answer) = oneshot::channel();
    case.actor.greet(4, arrival(Boottime::default()), reply);
    if ends {
        case.actor.ends.drain.cancel();
    }
    case.clock().set(1);
    case.actor.fold(Message::Disconnected(4));
    case.actor.turn();
    assert_eq!(case.actor.facts.suspected(), !ends, "one that ends has sent it away");
    case.clock().set(31);
    case.actor.turn();
    assert!(case.actor.facts.suspected(), "it did not come to any other either");
}

/// An actor that writes nothing but Events.
fn case_that_only_tells() -> Case {
    let mut case = case("r-0", vec![]);
    case.actor.at_work = HashSet::from([Key::Claim, Key::Vehicle, Key::Node, Key::Lease]);
    case
}

#[tokio::test]
async fn identity_in_two_cars_that_take_turns_is_told_once() {
    let mut case = case_that_only_tells();
    let mut answers = Vec::new();
    for turn in 0..8_u8 {
        case.clock().set(u64::from(turn) * 5);
        answers.push(connect(
            &mut case,
            if turn.is_multiple_of(2) { "one" } else { "other" },
            10 + u64::from(turn),
        ));
        let told = case.actor.jobs.len();
        assert_eq!(told, usize::from(turn >= 3), "after turn {turn}");
    }
    let (method, path, event) = case.finish(201, json!({"metadata": {"name": "e"}})).await;
    assert_eq!(
        (method.as_str(), path.as_str()),
        ("POST", "/apis/events.k8s.io/v1/namespaces/default/events")
    );
    assert_eq!(
        (
            &event["reason"],
            &event["type"],
            &event["regarding"]["kind"],
            &event["regarding"]["name"]
        ),
        (
            &json!("IdentityInUseTwice"),
            &json!("Warning"),
            &json!("Vehicle"),
            &json!(ID)
        )
    );
}

#[tokio::test]
async fn car_that_connects_anew_or_starts_its_agent_again_is_not_two() {
    let mut case = case_that_only_tells();
    let mut answers = Vec::new();
    for epoch in 10..18 {
        answers.push(connect(&mut case, "one", epoch));
    }
    for epoch in 18..26 {
        // The old connection is seen to end before the new one comes.
        case.actor.fold(Message::Disconnected(epoch - 1));
        answers.push(connect(&mut case, &format!("start {epoch}"), epoch));
    }
    assert_eq!(case.actor.jobs.len(), 0);
}

#[tokio::test]
async fn pod_bound_by_hand_against_its_selector_is_refused_as_by_a_kubelet() {
    let mut bound = pod("30s");
    bound.status = None;
    let spec = bound.spec.as_mut().unwrap();
    spec.runtime_class_name = Some("kerbside-wasm".into());
    spec.node_selector = Some([("example.com/depot".to_owned(), "north".to_owned())].into());
    let annotations = bound.metadata.annotations.as_mut().unwrap();
    annotations.insert("kerbside.dev/class".into(), "inference".into());
    let mut case = case("r-0", vec![bound]);
    list(
        &case.world.context.roster.namespaces,
        vec![serde_json::from_value(json!({"metadata": {"name": "vision", "uid": "ns"}})).unwrap()],
    );
    case.actor.read();
    let uid: PodUid = "u-1".parse().unwrap();
    let refusal = case.actor.verdict(&uid).unwrap().unwrap_err();
    assert_eq!(refusal.reason, "NodeAffinity");
    // A label that somebody else puts on the Node counts.
    let mut node = Node::clone(&case.world.context.nodes.by_name("", ID).unwrap());
    node.metadata.resource_version = Some("6".into());
    let labels = node.metadata.labels.get_or_insert_default();
    labels.insert("example.com/depot".into(), "north".into());
    list(&case.world.context.nodes, vec![node]);
    assert_eq!(case.actor.verdict(&uid), Some(Ok(())));
}
