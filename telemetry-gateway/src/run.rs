//! Puts the parts together: files, cluster, publisher, list of cars, server; and takes them down in the other order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kerbside_core::clock::Clock;
use kerbside_k8s::admin::{self, Admin};
use kerbside_k8s::client::{ConnectError, connect};
use kerbside_k8s::telemetry::LogLevel;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::cars::{Ages, Cars};
use crate::config::{Config, ConfigError, bytes};
use crate::metrics::Metrics;
use crate::pseudonym::Pseudonyms;
use crate::publish::{PublishError, Publisher, with_causes};
use crate::server::{Server, TlsError, listen, tls};

/// Between two looks at the list of the fleet's cars.
const RELOAD: Duration = Duration::from_secs(10);
/// What ends takes no longer than this.
const GRACE: Duration = Duration::from_secs(20);

/// Why the gateway cannot work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its files.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Its cluster.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// What it has to read there first.
    #[error(transparent)]
    Recall(#[from] PublishError),
    /// Its address.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Runs until `stop`.
pub async fn run(
    args: Args,
    log_level: LogLevel,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let config = Config::read(&args.config)?;
    // Everything that can be wrong at home is, before a car or the cluster is asked.
    let pseudonyms = Arc::new(config.pseudonyms()?);
    let tls = tls(&config.tls)?;
    let cars = Arc::new(Cars::new(Ages {
        stale_after: config.stale_after,
        publish_every: config.publish_every,
        retain_for: config.retain_for,
    }));
    load(&config, &pseudonyms, &cars)?;
    let (metrics, ready) = (Metrics::default(), watch::Sender::new(Err("the cluster".to_owned())));
    let admin = Admin::new(shown(&metrics), ready.subscribe(), Some(log_level));
    serve_admin(&config, admin, stop.clone()).await?;
    let agent = format!(
        "kerbside-telemetry-gateway/{} {}",
        env!("CARGO_PKG_VERSION"),
        config.name
    );
    let client = connect(&agent).await?;
    let names = (config.name.clone(), config.pool.clone());
    let publisher = Publisher::new(
        client,
        Arc::clone(&cars),
        Arc::clone(&clock),
        metrics.clone(),
        names,
        config.writes_per_second,
    );
    publisher.recall().await?;
    let listener = bound(config.listen).await?;
    let server = Arc::new(Server {
        cars: Arc::clone(&cars),
        pseudonyms: Arc::clone(&pseudonyms),
        clock,
        metrics,
        messages_per_minute: config.messages_per_minute,
        idle_after: config.stale_after,
    });
    let _ = ready.send_replace(Ok(()));
    tracing::info!(address = %config.listen, gateway = %config.name, "cars can come");
    let cars_served = tokio::spawn(server.serve(listener, tls, stop.clone()));
    tokio::select! {
        () = stop.cancelled() => {}
        () = publisher.run() => {}
        () = reload(&config, &pseudonyms, &cars) => {}
    }
    if tokio::time::timeout(GRACE, cars_served).await.is_err() {
        tracing::info!("a car is still being sent away; ending all the same");
    }
    Ok(())
}

fn shown(metrics: &Metrics) -> Registry {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    registry
}

async fn bound(address: SocketAddr) -> Result<TcpListener, RunError> {
    let bound = listen(address).await;
    bound.map_err(|source| RunError::Listen { address, source })
}

/// Begins to answer those who watch over the gateway, if it has an address for them.
async fn serve_admin(config: &Config, admin: Admin, stop: CancellationToken) -> Result<(), RunError> {
    let Some(address) = config.admin else { return Ok(()) };
    let listener = bound(address).await?;
    tokio::spawn(async move {
        if let Err(error) = admin::serve(listener, admin.routes(), stop.cancelled_owned()).await {
            tracing::warn!(%error, "the HTTP server ended with an error");
        }
    });
    Ok(())
}

fn load(config: &Config, pseudonyms: &Pseudonyms, cars: &Cars) -> Result<(), ConfigError> {
    let list = bytes(&config.vins_file)?;
    let allowed = pseudonyms.of_list(&String::from_utf8_lossy(&list));
    cars.allow(allowed.map_err(|source| ConfigError::Pseudonym {
        path: config.vins_file.clone(),
        source,
    })?);
    Ok(())
}

/// Reads the list again and again. One that cannot be read changes nothing: half a list would send cars away and delete their Vehicles.
async fn reload(config: &Config, pseudonyms: &Pseudonyms, cars: &Cars) {
    let mut looks = interval(RELOAD);
    let mut fails = false;
    loop {
        looks.tick().await;
        match load(config, pseudonyms, cars) {
            Ok(()) => fails = false,
            Err(error) if !fails => {
                fails = true;
                let error = with_causes(&error);
                tracing::warn!(error, "the list of the fleet's cars cannot be used; the last one holds");
            }
            Err(_) => {}
        }
    }
}
