//! Wires the adapter: the watches, the fleet, the link, the kubelet port, the admin port. Called by `main` once.
//!
//! Ready means that both ports serve and everything has been listed. If any part ends by itself, the program ends: half an adapter would
//! keep Nodes alive that nobody looks after.

use std::path::PathBuf;
use std::sync::Arc;

use kerbside_core::clock::Clock;
use kerbside_k8s::admin::{self, Admin};
use kerbside_k8s::client::{self, ConnectError};
use kerbside_k8s::events::Recorder;
use kerbside_k8s::store::{Store, StoreError};
use kerbside_k8s::telemetry::LogLevel;
use kerbside_link::identity::IdentityError;
use kerbside_link::open_files;
use kerbside_link::rate_limit::Rates;
use kerbside_link::server::{self as link, ServerTls};
use kube::Client;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::context::{Brakes, Context, MANAGER};
use crate::enrolment::Enrolment;
use crate::fleet::Fleet;
use crate::gate::Gate;
use crate::identity::{Asker, Certificate};
use crate::kubelet_api::auth::Auth;
use crate::kubelet_api::logs::StoredLogs;
use crate::kubelet_api::server::TlsError;
use crate::kubelet_api::{self, KubeletApi};
use crate::link_service::LinkService;
use crate::logs::LogDesk;
use crate::metrics::Metrics;
use crate::node::NodeConfig;
use crate::objects::Objects;
use crate::output::Output;
use crate::pull::Exchange;
use crate::receipts::Receipts;
use crate::refusal::RefusalLedger;
use crate::tunnels::TunnelDesk;
use crate::vehicle_watch::Roster;
use crate::{pod_watch, replica};

/// Why the adapter cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no cluster, or not one that is supported.
    #[error("failed to connect to the cluster")]
    Connect(#[from] ConnectError),
    /// The store cannot be opened.
    #[error("failed to open the store")]
    Store(#[from] StoreError),
    /// An address is taken or not ours.
    #[error("failed to listen on {address} for {what}")]
    Listen {
        /// What would be served there.
        what: &'static str,
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The spool directory cannot be used.
    #[error("failed to prepare the spool directory")]
    Spool(#[source] std::io::Error),
    /// The serving certificate cannot be used.
    #[error("failed to use the serving certificate")]
    Identity(#[from] IdentityError),
    /// The link's TLS cannot be set up.
    #[error("failed to set up TLS for the link")]
    LinkTls(#[from] link::TlsError),
    /// The kubelet port's TLS cannot be set up.
    #[error("failed to set up TLS for the kubelet port")]
    KubeletTls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The cluster's client CA cannot be read.
    #[error("failed to read the cluster's client CA")]
    ClientCa(#[source] Box<kube::Error>),
    /// A part that must not end has ended.
    #[error("a part of the adapter ended by itself: {0}")]
    Ended(&'static str),
}

impl From<TlsError> for RunError {
    fn from(error: TlsError) -> Self {
        Self::KubeletTls(Box::new(error))
    }
}

async fn listen(what: &'static str, address: std::net::SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| RunError::Listen { what, address, source })
}

/// A connection is an open file: of 1,024, with which many shells and containers begin, there are soon too few.
fn make_room() {
    match open_files::raise_limit() {
        Ok(limit) => tracing::info!(limit, "files and connections that may be open"),
        Err(error) => tracing::warn!(%error, "the limit of open files, and so of connected cars, stays low"),
    }
}

/// Runs until `stop`, or until a part fails.
pub async fn run(
    args: Args,
    log_level: LogLevel,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    make_room();
    let admin_listener = listen("the admin endpoints", args.listen).await?;
    let link_listener = listen("the link", args.link_listen).await?;
    let kubelet_listener = listen("the kubelet port", args.kubelet_listen).await?;
    let client = client::connect(&format!(
        "kerbside-kubelet/{} {}",
        env!("CARGO_PKG_VERSION"),
        args.replica
    ))
    .await?;
    let store = Store::open(&args.store_url)?;
    let spool = Spool::prepare(args.spool.clone()).map_err(RunError::Spool)?;
    let mut registry = Registry::default();
    let context = context(&args, &client, &store, &clock, Metrics::new(&mut registry));
    // The actors end after the link does: a car is looked after until it is another replica's.
    let fleet = Fleet::new(Arc::clone(&context), stop.clone());
    let (ready, is_ready) = watch::channel(Err("the cluster to be read".to_owned()));

    let mut parts: JoinSet<&'static str> = JoinSet::new();
    spawn_admin(
        &mut parts,
        admin_listener,
        Admin::new(registry, is_ready, Some(log_level)),
    );
    spawn_watches(&mut parts, &context, &fleet);
    let alive = spawn_lease(&mut parts, &context, args.namespace.clone());

    if unless_stopped(&stop, &mut parts, context.synced()).await?.is_none() {
        return Ok(());
    }
    fleet.begin();
    drop(ready.send_replace(Err("a serving certificate".to_owned())));
    let asker = Asker {
        client: client.clone(),
        clock: Arc::clone(&clock),
        namespace: args.namespace.clone(),
        replica: args.replica.clone(),
        names: args.certificate_names(),
    };
    let both = async { (asker.certificate().await, client_ca(&client).await) };
    let Some((certificate, client_ca)) = unless_stopped(&stop, &mut parts, both).await? else {
        end(&fleet, &alive, &args.namespace).await;
        return Ok(());
    };
    let client_ca = client_ca?;
    let link_tls = ServerTls::new(&certificate.link()?)?;
    let kubelet_tls = kubelet_api::server::config(&certificate, client_ca.as_deref())?;
    let (kubelet_tls, kubelet_tls_now) = watch::channel(kubelet_tls);
    let ca_pem = certificate.ca_pem.clone();
    let (current, certificates) = watch::channel(certificate);
    parts.spawn(async move {
        asker.keep(current).await;
        "the renewal of the certificate"
    });
    parts.spawn(replace(certificates, link_tls.clone(), kubelet_tls, client_ca));

    let (desk, tunnels) = (Arc::new(LogDesk::default()), Arc::new(TunnelDesk::default()));
    let api = Arc::new(KubeletApi {
        fleet: Arc::clone(&fleet),
        desk: Arc::clone(&desk),
        tunnels: Arc::clone(&tunnels),
        auth: Auth::new(client.clone(), Arc::clone(&clock)),
        stored: StoredLogs::new(store.clone(), Arc::clone(&clock)),
    });
    parts.spawn(async move {
        kubelet_api::server::serve(kubelet_listener, kubelet_tls_now, kubelet_api::routes(api)).await;
        "the kubelet port"
    });
    let pods = Arc::clone(&context);
    let service = Arc::new(LinkService {
        fleet: Arc::clone(&fleet),
        logs: desk,
        tunnels,
        receipts: Receipts::new(&context, &ca_pem),
        output: Output::new(
            store,
            Box::new(move |uid| pods.pods.by_uid(uid.as_str())),
            spool.path().to_owned(),
        ),
        enrolment: Enrolment::new(client, ca_pem),
    });
    let options = link_options(&args, clock);
    drop(ready.send_replace(Ok(())));
    tracing::info!(replica = args.replica, link = %args.link_listen, kubelet = %args.kubelet_listen, "the adapter is at work");
    let served = tokio::select! {
        served = link::serve(link_listener, link_tls, service, options, stop.cancelled()) => served.map_err(|_| RunError::Ended("the link")),
        Some(ended) = parts.join_next() => Err(RunError::Ended(ended.unwrap_or("a panicked task"))),
    };
    stop.cancel();
    if served.is_ok() {
        end(&fleet, &alive, &args.namespace).await;
    }
    served
}

/// What comes of `asked`, which may go on for ever: it is dropped when the adapter is to stop (None).
///
/// # Errors
/// A part has ended meanwhile.
async fn unless_stopped<T>(
    stop: &CancellationToken,
    parts: &mut JoinSet<&'static str>,
    asked: impl Future<Output = T>,
) -> Result<Option<T>, RunError> {
    tokio::select! {
        () = stop.cancelled() => Ok(None),
        answer = asked => Ok(Some(answer)),
        Some(ended) = parts.join_next() => Err(RunError::Ended(ended.unwrap_or("a panicked task"))),
    }
}

/// The cluster's client CA, asked for until the API server does not refuse for now.
async fn client_ca(client: &Client) -> Result<Option<String>, RunError> {
    client::insist(|| kubelet_api::server::client_ca(client))
        .await
        .map_err(|e| RunError::ClientCa(Box::new(e)))
}

/// Ends what is left when no car is connected any more. Others may adopt at once those that found no other adapter.
async fn end(fleet: &Fleet, alive: &AbortHandle, namespace: &str) {
    fleet.end().await;
    alive.abort();
    replica::end(fleet.context(), namespace).await;
}

fn link_options(args: &Args, clock: Arc<dyn Clock>) -> link::Options {
    link::Options {
        drain: args.drain,
        enrolments: Rates::per_second(args.enrolments_per_second),
        ..link::Options::new(clock)
    }
}

fn context(args: &Args, client: &Client, store: &Store, clock: &Arc<dyn Clock>, metrics: Metrics) -> Arc<Context> {
    let gate = Arc::<Gate>::default();
    Arc::new(Context {
        client: client.clone(),
        clock: Arc::clone(clock),
        replica: args.replica.clone(),
        node: NodeConfig {
            address: args.node_address.to_string(),
            port: args.kubelet_listen.port(),
            provider_id_prefix: args.provider_id_prefix.clone(),
        },
        pods: pod_watch::pods(),
        nodes: pod_watch::nodes(),
        roster: Roster::new(),
        objects: Objects::new(client.clone(), Arc::clone(&gate)),
        store: store.clone(),
        recorder: Recorder::new(client, MANAGER, Some(&args.replica)),
        brakes: Brakes::new(metrics.clone()),
        metrics,
        refusals: RefusalLedger::default(),
        proof: crate::proof::Proof::default(),
        gate,
        exchange: Exchange::new(args.registry_http.clone()),
    })
}

fn spawn_admin(parts: &mut JoinSet<&'static str>, listener: TcpListener, admin: Admin) {
    let routes = admin.routes();
    parts.spawn(async move {
        let _ = admin::serve(listener, routes, std::future::pending()).await;
        "the admin endpoints"
    });
}

fn spawn_watches(parts: &mut JoinSet<&'static str>, context: &Arc<Context>, fleet: &Arc<Fleet>) {
    let (me, wake) = (Arc::clone(context), Arc::clone(fleet));
    parts.spawn(async move {
        pod_watch::follow_pods(me.client.clone(), &me.pods, |id| wake.changed(id)).await;
        "the Pod watch"
    });
    let (me, wake) = (Arc::clone(context), Arc::clone(fleet));
    parts.spawn(async move {
        pod_watch::follow_nodes(me.client.clone(), &me.nodes, |id| wake.changed(id)).await;
        "the Node watch"
    });
    let (me, wake) = (Arc::clone(context), Arc::clone(fleet));
    parts.spawn(async move {
        me.roster.run(me.client.clone(), |id| wake.changed(id)).await;
        "the Vehicle watch"
    });
}

/// Shows that this replica lives, until it is ended.
fn spawn_lease(parts: &mut JoinSet<&'static str>, context: &Arc<Context>, namespace: String) -> AbortHandle {
    let me = Arc::clone(context);
    parts.spawn(async move {
        replica::run(me, namespace).await;
        "this replica's Lease"
    })
}

/// Puts each new certificate in place, on both ports.
async fn replace(
    mut certificates: watch::Receiver<Certificate>,
    link: ServerTls,
    kubelet: watch::Sender<Arc<ServerConfig>>,
    client_ca: Option<String>,
) -> &'static str {
    while certificates.changed().await.is_ok() {
        let certificate = certificates.borrow_and_update().clone();
        match certificate.link().map(|identity| link.replace(&identity)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the link keeps its old certificate"),
            Err(error) => tracing::warn!(%error, "the link keeps its old certificate"),
        }
        match kubelet_api::server::config(&certificate, client_ca.as_deref()) {
            Ok(config) => {
                kubelet.send_replace(config);
            }
            Err(error) => tracing::warn!(%error, "the kubelet port keeps its old certificate"),
        }
    }
    "the replacement of the certificate"
}

/// Where outputs wait; a temporary directory goes with the program.
enum Spool {
    Given(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Spool {
    fn prepare(given: Option<PathBuf>) -> std::io::Result<Self> {
        let Some(path) = given else {
            return tempfile::tempdir().map(Self::Temporary);
        };
        // Its own directory below the given one, which may be a mount point. What an adapter before us left is of uploads that begin anew.
        let path = path.join("kerbside-spool");
        match std::fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => std::fs::create_dir_all(&path)?,
        }
        Ok(Self::Given(path))
    }

    fn path(&self) -> &std::path::Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(directory) => directory.path(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::World;
    use kube::client::Body;
    use serde_json::{Value, json};

    const CARS: [&str; 3] = ["car-aaaaaaaaaaaaaaaa", "car-bbbbbbbbbbbbbbbb", "car-cccccccccccccccc"];

    /// What the cluster has of the kind behind this path: a car with a Node and a Pod three times.
    fn listed(path: &str) -> Value {
        let object = |(n, &car): (usize, &&str)| {
            let metadata = |name: &str| json!({"name": name, "uid": format!("{path}-{n}"), "resourceVersion": "1"});
            match path {
                "/api/v1/pods" => json!({
                    "metadata": {"name": format!("p-{n}"), "namespace": "ns", "uid": format!("u-{n}"), "resourceVersion": "1"},
                    "spec": {"nodeName": car, "containers": []},
                }),
                "/apis/kerbside.dev/v1alpha1/vehicles" => json!({
                    "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle",
                    "metadata": metadata(car), "spec": {"pool": "overnight"},
                    "status": {"phase": "Available", "connection": {"replica": "r-0", "epoch": 1}, "offer": {}},
                }),
                _ => json!({"metadata": metadata(car)}),
            }
        };
        let known = ["/api/v1/pods", "/api/v1/nodes", "/apis/kerbside.dev/v1alpha1/vehicles"].contains(&path);
        let items: Vec<_> = CARS.iter().enumerate().filter(|_| known).map(object).collect();
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})
    }

    /// Asks for the client CA of an API server that refuses for ever; `when`: what happens after three refusals.
    async fn asked_in_vain(
        stop: &CancellationToken,
        parts: &mut JoinSet<&'static str>,
        when: impl FnOnce(),
    ) -> Result<Option<Result<Option<String>, RunError>>, RunError> {
        let (client, mut server) = crate::testing::client();
        let busy = json!({"kind": "Status", "status": "Failure", "code": 429, "reason": "TooManyRequests", "message": "not now"});
        let refuses = async {
            for _ in 0..3 {
                let (request, reply) = server.next_request().await.unwrap();
                assert_eq!(request.method(), hyper::Method::GET);
                let body = Body::from(busy.to_string().into_bytes());
                reply.send_response(hyper::Response::builder().status(429).body(body).unwrap());
            }
            when();
        };
        let asked = unless_stopped(stop, parts, client_ca(&client));
        futures::join!(asked, refuses).0
    }

    #[tokio::test(start_paused = true)]
    async fn adapter_that_is_stopped_asks_a_busy_api_server_no_more() {
        let (stop, mut parts) = (CancellationToken::new(), JoinSet::new());
        parts.spawn(std::future::pending());
        let answer = asked_in_vain(&stop, &mut parts, || stop.cancel()).await;
        assert!(matches!(answer, Ok(None)), "{answer:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn adapter_of_which_a_part_has_ended_asks_a_busy_api_server_no_more() {
        let (stop, mut parts) = (CancellationToken::new(), JoinSet::new());
        let (end, ended) = tokio::sync::oneshot::channel();
        parts.spawn(async move {
            let _ = ended.await;
            "the Pod watch"
        });
        let answer = asked_in_vain(&stop, &mut parts, || end.send(()).unwrap()).await;
        assert!(matches!(answer, Err(RunError::Ended("the Pod watch"))), "{answer:?}");
    }

    #[tokio::test]
    async fn three_vehicles_cost_one_watch_per_kind_and_not_one_each() {
        let World {
            context, mut server, ..
        } = World::new();
        let (stop, mut parts) = (CancellationToken::new(), JoinSet::new());
        let fleet = Fleet::new(Arc::clone(&context), stop.clone());
        spawn_watches(&mut parts, &context, &fleet);
        // Watches stay open until the end: what they would show is not of interest.
        let mut watches = Vec::new();
        let mut open = Vec::new();
        let mut begun = false;
        let all = ["namespaces", "nodes", "pods", "vehiclepools", "vehicles"];
        loop {
            if context.is_synced() && !begun {
                fleet.begin();
                begun = true;
            }
            let next = tokio::time::timeout(Duration::from_millis(500), server.next_request()).await;
            // Nothing more is asked.
            let Ok(next) = next else { break };
            let (request, reply) = next.unwrap();
            let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
            if query.contains("watch=true") {
                watches.push(path.rsplit('/').next().unwrap_or_default().to_owned());
                open.push(reply);
                continue;
            }
            // What is not read are the actors' own writes, of which none is a watch.
            let (code, body) = if request.method() == hyper::Method::GET {
                (200, listed(path))
            } else {
                let forbidden = json!({"kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden"});
                (403, forbidden)
            };
            let body = Body::from(body.to_string().into_bytes());
            reply.send_response(hyper::Response::builder().status(code).body(body).unwrap());
        }
        for car in CARS {
            assert!(fleet.get(&car.parse().unwrap()).is_some(), "{car} has its actor");
            assert_eq!(context.pods.of(car).len(), 1);
        }
        watches.sort();
        assert_eq!(watches, all);
        stop.cancel();
        fleet.end().await;
    }
}
