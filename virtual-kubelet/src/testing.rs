//! What the tests of this crate share: a clock moved by hand, and an API server that a test answers for.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use jiff::Timestamp;
use kerbside_core::clock::{Boottime, Clock};
use kerbside_k8s::events::Recorder;
use kerbside_k8s::store::Store;
use kube::Client;
use kube::client::Body;
use kube::runtime::watcher::Event;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tower_test::mock;

use crate::context::{Brakes, Context};
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::node::NodeConfig;
use crate::pod_watch;
use crate::refusal::RefusalLedger;
use crate::vehicle_watch::Roster;

/// The API server's end of a mocked client.
pub(crate) type Server = mock::Handle<hyper::Request<Body>, hyper::Response<Body>>;

/// A client, and the server that a test plays.
pub(crate) fn client() -> (Client, Server) {
    let (service, handle) = mock::pair();
    (Client::new(service, "default"), handle)
}

/// Awaits one request and answers it; its method, path and body. A request that does not come within a second fails the test.
pub(crate) async fn respond(server: &mut Server, code: u16, body: Value) -> (String, String, Value) {
    let next = tokio::time::timeout(Duration::from_secs(1), server.next_request()).await;
    let (request, reply) = next
        .expect("a request within a second")
        .expect("a client that is there");
    let (parts, sent) = request.into_parts();
    let sent = sent.collect().await.unwrap().to_bytes();
    let response = hyper::Response::builder()
        .status(code)
        .body(Body::from(body.to_string().into_bytes()))
        .unwrap();
    reply.send_response(response);
    (
        parts.method.to_string(),
        parts.uri.path().to_owned(),
        serde_json::from_slice(&sent).unwrap_or_default(),
    )
}

/// A clock that a test sets.
#[derive(Debug, Default)]
pub(crate) struct TestClock(Mutex<Duration>);

impl TestClock {
    pub(crate) fn set(&self, seconds: u64) {
        *self.0.lock().unwrap() = Duration::from_secs(seconds);
    }
}

impl Clock for TestClock {
    fn boottime(&self) -> Boottime {
        Boottime(*self.0.lock().unwrap())
    }

    fn wall(&self) -> Timestamp {
        let start: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        start + jiff::SignedDuration::try_from(*self.0.lock().unwrap()).unwrap()
    }
}

/// What actors share, over a mocked API server and a store in a directory of its own. The mirrors are empty, and not synced.
pub(crate) struct World {
    pub(crate) context: Arc<Context>,
    pub(crate) server: Server,
    pub(crate) clock: Arc<TestClock>,
    _store: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let (client, server) = client();
        let store = tempfile::tempdir().unwrap();
        let clock = Arc::new(TestClock::default());
        let gate = Arc::new(crate::gate::Gate::default());
        let metrics = Metrics::new(&mut Registry::default());
        let context = Context {
            client: client.clone(),
            clock: clock.clone() as Arc<dyn Clock>,
            replica: "r-0".into(),
            node: NodeConfig {
                address: "10.99.0.1".into(),
                port: 10250,
                provider_id_prefix: "kerbside://".into(),
            },
            pods: pod_watch::pods(),
            nodes: pod_watch::nodes(),
            roster: Roster::new(),
            objects: crate::objects::Objects::new(client.clone(), Arc::clone(&gate)),
            store: Store::open(&format!("file://{}", store.path().display())).unwrap(),
            recorder: Recorder::new(&client, "test", None),
            metrics: metrics.clone(),
            refusals: RefusalLedger::default(),
            brakes: Brakes::new(metrics),
            proof: crate::proof::Proof::default(),
            gate: Arc::clone(&gate),
            exchange: crate::pull::Exchange::default(),
        };
        Self {
            context: Arc::new(context),
            server,
            clock,
            _store: store,
        }
    }
}

/// Lists `objects` into a mirror.
pub(crate) fn list<K: kube::Resource>(mirror: &Mirror<K>, objects: Vec<K>) {
    mirror.fold(Event::Init);
    for object in objects {
        mirror.fold(Event::InitApply(object));
    }
    mirror.fold(Event::InitDone);
}
