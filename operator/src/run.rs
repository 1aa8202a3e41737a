//! Wires the operator: connects, probes the store, serves, stands for election, and works while it leads.
//!
//! Called by `main` alone. Every replica serves results and ledgers; only the leader reconciles, signs and settles. Losing the Lease
//! ends the process: a fresh one stands again with nothing in its memory.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::StreamExt;
use kerbside_core::backoff::Backoff;
use kerbside_core::clock::Clock;
use kerbside_k8s::admin::{self, Admin};
use kerbside_k8s::client::{self, ConnectError};
use kerbside_k8s::events::{self, Recorder};
use kerbside_k8s::store::{Store, StoreError};
use kerbside_k8s::{election, telemetry};
use kube::Client;
use kube::runtime::controller::{self, applier};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::Args;
use crate::ledger::{Closings, Ledgers, Office};
use crate::metrics::Metrics;
use crate::orphans::Orphans;
use crate::results::Results;
use crate::retry::Failures;
use crate::signer::{AuthorityError, Signer};
use crate::silence::Silence;
use crate::watches::Watching;
use crate::{FIELD_MANAGER, fleet_job, ledger, report, vehicle_pool, watches};

/// Name of the Lease by which replicas elect their leader.
const LEASE: &str = "kerbside-operator";
/// Pools worked on at a time; a pool costs one write.
const POOLS_AT_A_TIME: u16 = 4;
/// How long running turns may take to end after the operator was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no cluster, or not one that Kerbside supports.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The result store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address to serve on is not free.
    #[error("failed to listen on {address}")]
    Listen {
        /// As it was given.
        address: std::net::SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Another replica may be the leader now.
    #[error("lost the leader's Lease; start again to stand for election")]
    LeaseLost,
}

type Ready = watch::Sender<Result<(), String>>;

/// Runs the operator until `stop`.
pub async fn run(
    args: Args,
    log_level: telemetry::LogLevel,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let identity = args.identity();
    let agent = format!("kerbside-operator/{} {identity}", env!("CARGO_PKG_VERSION"));
    let client = client::connect(&agent).await?;
    let store = Store::open(&args.store_url)?;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let (ready, is_ready) = watch::channel(Err("the result store".to_owned()));
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|source| RunError::Listen {
            address: args.listen,
            source,
        })?;
    tracing::info!(address = %args.listen, replica = identity, "serving");
    let results = Results::new(client.clone(), store.clone(), metrics.clone()).routes();
    let ledgers = Ledgers::new(client.clone(), &args.namespace, store.clone(), metrics.clone()).routes();
    let routes = Router::new()
        .merge(Admin::new(registry, is_ready, Some(log_level)).routes())
        .merge(results)
        .merge(ledgers);
    let server = tokio::spawn(admin::serve(listener, routes, stop.clone().cancelled_owned()));

    let leader = Leader {
        args,
        identity,
        client,
        store,
        metrics,
        clock,
    };
    let result = leader.stand(&ready, &stop).await;
    stop.cancel();
    match tokio::time::timeout(GRACE, server).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "the HTTP server ended with an error"),
        Ok(Err(error)) => tracing::warn!(%error, "the HTTP server's task ended with an error"),
        Err(_) => tracing::info!("somebody is still being served; ending all the same"),
    }
    result
}

/// What a replica needs to lead.
struct Leader {
    args: Args,
    identity: String,
    client: Client,
    store: Store,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
}

impl Leader {
    /// Stands for election, works as long as it leads, and gives the Lease back at the end.
    async fn stand(&self, ready: &Ready, stop: &CancellationToken) -> Result<(), RunError> {
        if !self.probe_store(ready, stop).await? {
            return Ok(());
        }
        // Serving results is all that a replica must do that does not lead.
        let _ = ready.send_replace(Ok(()));
        // The Lease is given back after the work has ended, not when it is told to end.
        let give_back = CancellationToken::new();
        let (mut leads, election) = election::run(
            self.client.clone(),
            &self.args.namespace,
            LEASE,
            &self.identity,
            Arc::clone(&self.clock),
            give_back.clone(),
        );
        let won = stop
            .run_until_cancelled(async { leads.wait_for(|l| *l).await.is_ok() })
            .await;
        let result = match won {
            Some(true) => self.lead(&mut leads, ready, stop).await,
            Some(false) => Err(RunError::LeaseLost),
            None => Ok(()),
        };
        give_back.cancel();
        if let Err(error) = election.await {
            tracing::warn!(%error, "the election ended with an error");
        }
        result
    }

    /// Waits for the store, and refuses one that does not keep its promise; false if `stop` came first.
    async fn probe_store(&self, ready: &Ready, stop: &CancellationToken) -> Result<bool, StoreError> {
        for times in 1.. {
            let error = match stop.run_until_cancelled(self.store.probe(&self.identity)).await {
                None => return Ok(false),
                Some(Ok(())) => return Ok(true),
                Some(Err(error @ StoreError::NotConditional)) => return Err(error),
                Some(Err(error)) => report::with_causes(&error),
            };
            tracing::warn!(error, "the result store cannot be used yet");
            let _ = ready.send_replace(Err(format!("the result store: {error}")));
            let wait = tokio::time::sleep(Backoff::CALL.jittered(times, rand::random()));
            if stop.run_until_cancelled(wait).await.is_none() {
                return Ok(false);
            }
        }
        Ok(false)
    }

    async fn lead(
        &self,
        leads: &mut watch::Receiver<bool>,
        ready: &Ready,
        stop: &CancellationToken,
    ) -> Result<(), RunError> {
        self.metrics.leads(true);
        let _ = ready.send_replace(Err("the caches".to_owned()));
        let (tasks, work) = (TaskTracker::new(), CancellationToken::new());
        let start = self.start(&tasks, &work, ready);
        let lost = async {
            // The sender is gone, or it says that somebody else leads: both mean the same.
            let _ = leads.wait_for(|l| !*l).await;
        };
        let result = tokio::select! {
            () = async { start.await; std::future::pending().await } => Ok(()),
            () = lost => Err(RunError::LeaseLost),
            () = stop.cancelled() => Ok(()),
        };
        work.cancel();
        tasks.close();
        // Whoever lost the Lease must not finish anything: another may be at it.
        if result.is_ok() && tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
            tracing::warn!("some turns did not end in time");
        }
        self.metrics.leads(false);
        result
    }

    /// Starts everything that a leader does.
    async fn start(&self, tasks: &TaskTracker, stop: &CancellationToken, ready: &Ready) {
        let (caches, writers, triggers, queues) = watches::new();
        tasks.spawn(sign(
            self.client.clone(),
            self.args.clone(),
            Arc::clone(&self.clock),
            self.metrics.clone(),
            stop.clone(),
        ));
        let office = Office {
            client: self.client.clone(),
            namespace: self.args.namespace.clone(),
            store: self.store.clone(),
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
        };
        tasks.spawn(ledger::settle(office, stop.clone()));
        let watching = Watching {
            client: &self.client,
            metrics: &self.metrics,
            tasks,
            stop,
        };
        watching.start(writers, &triggers).await;
        if stop.is_cancelled() {
            return;
        }
        let recorder = Recorder::new(&self.client, FIELD_MANAGER, Some(&self.identity));
        let (events, broadcaster) = events::queue(recorder);
        tasks.spawn(broadcaster.run(stop.clone()));
        let vehicles = Arc::clone(&caches.vehicles);
        let silence = Silence::new(self.client.clone(), Arc::clone(&vehicles), Arc::clone(&self.clock));
        tasks.spawn(silence.run(stop.clone()));
        let closings = Closings::new(self.store.clone(), vehicles, Arc::clone(&self.clock));
        let jobs = Arc::new(fleet_job::Context {
            client: self.client.clone(),
            store: self.store.clone(),
            closings: closings.clone(),
            pools: caches.pools.clone(),
            namespaces: caches.namespaces.clone(),
            attempts: Arc::clone(&caches.attempts),
            vehicles: Arc::clone(&caches.vehicles),
            memory: Arc::default(),
            events: events.clone(),
            metrics: self.metrics.clone(),
            clock: Arc::clone(&self.clock),
            failures: Failures::default(),
        });
        let pools = Arc::new(vehicle_pool::Context {
            client: self.client.clone(),
            vehicles: Arc::clone(&caches.vehicles),
            events,
            metrics: self.metrics.clone(),
            clock: Arc::clone(&self.clock),
            failures: Failures::default(),
        });
        let orphans = Orphans::new(
            self.client.clone(),
            Arc::clone(&caches.attempts),
            Arc::clone(&jobs.memory),
            closings,
        );
        tasks.spawn(orphans.run(queues.orphans, stop.clone()));
        let config = controller::Config::default().concurrency(self.args.concurrency);
        let queue = queues
            .jobs
            .map(Ok::<_, std::convert::Infallible>)
            .take_until(stop.clone().cancelled_owned());
        let run = applier(
            |job, ctx| Box::pin(fleet_job::reconcile(job, ctx)),
            |job, error, ctx| fleet_job::on_error(&job, error, &ctx),
            jobs,
            caches.jobs,
            queue,
            config,
        );
        tasks.spawn(run.for_each(|_| std::future::ready(())));
        let config = controller::Config::default().concurrency(POOLS_AT_A_TIME);
        let queue = queues
            .pools
            .map(Ok::<_, std::convert::Infallible>)
            .take_until(stop.clone().cancelled_owned());
        let run = applier(
            |pool, ctx| Box::pin(vehicle_pool::reconcile(pool, ctx)),
            |pool, error, ctx| vehicle_pool::on_error(&pool, error, &ctx),
            pools,
            caches.pools,
            queue,
            config,
        );
        tasks.spawn(run.for_each(|_| std::future::ready(())));
        let _ = ready.send_replace(Ok(()));
        tracing::info!("reconciling");
    }
}

/// Signs until `stop`. Without a CA nobody can enrol, but jobs run on the cars that there are: the operator goes on and says so.
async fn sign(client: Client, args: Args, clock: Arc<dyn Clock>, metrics: Metrics, stop: CancellationToken) {
    let adapter = args.adapter_user();
    for times in 1.. {
        let new = Signer::new(
            client.clone(),
            &args.namespace,
            &adapter,
            Arc::clone(&clock),
            metrics.clone(),
        );
        let error: AuthorityError = match stop.run_until_cancelled(new).await {
            None => return,
            Some(Ok(signer)) => return signer.run(stop).await,
            Some(Err(error)) => error,
        };
        tracing::error!(
            error = report::with_causes(&error),
            "no vehicle can be enrolled or renewed"
        );
        let wait = tokio::time::sleep(Backoff::CALL.jittered(times, rand::random()));
        if stop.run_until_cancelled(wait).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
