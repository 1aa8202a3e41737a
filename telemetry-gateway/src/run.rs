//! Puts the parts together: files, cluster, publisher, list of cars, server; and takes them down in the other order.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kerbside_core::clock::Clock;
use kerbside_k8s::admin::{self, Admin};
use kerbside_k8s::client::{ConnectError, connect};
use kerbside_k8s::telemetry::LogLevel;
use kerbside_link::open_files;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::cars::{Ages, Cars};
use crate::config::{Config, ConfigError, bytes};
use crate::metrics::Metrics;
use crate::pseudonym::Pseudonyms;
use crate::publish::{PublishError, Publisher, with_causes};
use crate::server::{Places, Server, TlsError, TooFewFiles, listen, tls};

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
    /// The limit on open files cannot be read or raised.
    #[error("failed to raise the limit on open files")]
    OpenFiles(#[source] std::io::Error),
    /// It leaves no room.
    #[error(transparent)]
    Places(#[from] TooFewFiles),
    /// Its address.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nobody answers cars any more, and nobody asked for that.
    #[error("failed to go on serving cars: the server has ended")]
    Ended,
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
    let ages = Ages {
        stale_after: config.stale_after,
        good_for: config.good_for,
        retain_for: config.retain_for,
    };
    let cars = Arc::new(Cars::new(ages, pseudonyms.slots(config.publish_every)));
    load(&config, &pseudonyms, &cars, clock.as_ref())?;
    let places = Arc::new(places(&cars)?);
    if let Some(needed) = too_many(&config, &cars) {
        tracing::warn!(
            needed,
            writes_per_second = config.writes_per_second,
            "the fleet needs more writes than it may have: cars that stay as they are may become unknown; raise writesPerSecond or goodFor"
        );
    }
    let (metrics, ready) = (Metrics::default(), watch::Sender::new(Err("the cluster".to_owned())));
    let admin = Admin::new(shown(&metrics), ready.subscribe(), Some(log_level));
    serve_admin(&config, admin, stop.clone()).await?;
    let agent = format!(
        "kerbside-telemetry-gateway/{} {}",
        env!("CARGO_PKG_VERSION"),
        config.name
    );
    let Some(connected) = stop.run_until_cancelled(connect(&agent)).await else {
        return Ok(());
    };
    let client = connected?;
    let names = (config.name.clone(), config.pool.clone());
    let publisher = Publisher::new(
        client,
        Arc::clone(&cars),
        Arc::clone(&clock),
        metrics.clone(),
        names,
        config.writes_per_second,
    );
    // Not ready until then, and no car comes: what it says would be held against nothing.
    publisher.recall(&stop).await?;
    if stop.is_cancelled() {
        return Ok(());
    }
    let listener = bound(config.listen).await?;
    let server = Arc::new(Server {
        cars: Arc::clone(&cars),
        pseudonyms: Arc::clone(&pseudonyms),
        clock: Arc::clone(&clock),
        metrics,
        places,
        messages_per_minute: config.messages_per_minute,
        idle_after: config.stale_after,
    });
    let _ = ready.send_replace(Ok(()));
    tracing::info!(address = %config.listen, gateway = %config.name, "cars can come");
    let mut cars_served = tokio::spawn(server.serve(listener, tls, stop.clone()));
    let work = async {
        tokio::join!(publisher.run(), reload(&config, &pseudonyms, &cars, clock.as_ref()));
    };
    Box::pin(until_stopped(work, &mut cars_served, &stop)).await?;
    if tokio::time::timeout(GRACE, cars_served).await.is_err() {
        tracing::info!("a car is still being sent away; ending all the same");
    }
    Ok(())
}

/// Works until `stop`. A server that has ended before, also by a panic, ends the gateway: whoever watches it starts another that serves.
async fn until_stopped(
    work: impl Future<Output = ()>,
    cars_served: &mut JoinHandle<()>,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    tokio::select! {
        // The server hears it as well: that it has ended then is as it should be.
        biased;
        () = stop.cancelled() => Ok(()),
        _ = cars_served => Err(RunError::Ended),
        () = work => Ok(()),
    }
}

/// As many as the limit on open files lets there be, which is said: what a fleet finds out by cars that do not come is found out late.
fn places(cars: &Cars) -> Result<Places, RunError> {
    let limit = open_files::raise_limit().map_err(RunError::OpenFiles)?;
    let (places, (fleet, _)) = (Places::new(limit)?, cars.lost_by(&HashSet::new()));
    tracing::info!(
        open_files = limit,
        cars = places.for_cars(),
        "so many cars may be connected"
    );
    if places.for_cars() < fleet {
        tracing::warn!(
            open_files = limit,
            cars = places.for_cars(),
            fleet,
            "the fleet has more cars than may be connected at a time; raise the hard limit on open files (ulimit -Hn, LimitNOFILE=)"
        );
    }
    Ok(places)
}

/// The writes in a second that the fleet needs while nothing changes, if it may not have so many.
fn too_many(config: &Config, cars: &Cars) -> Option<u128> {
    let needed = config.renewals_per_second(cars.lost_by(&HashSet::new()).0);
    (needed > u128::from(config.writes_per_second)).then_some(needed)
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

/// Takes the list over as it is now, if it may be. The first one is taken as it is, unless it is empty.
fn load(config: &Config, pseudonyms: &Pseudonyms, cars: &Cars, clock: &dyn Clock) -> Result<(), ConfigError> {
    let path = || config.vins_file.clone();
    let list = bytes(&config.vins_file)?;
    let allowed = pseudonyms
        .of_list(&String::from_utf8_lossy(&list))
        .map_err(|source| ConfigError::Pseudonym { path: path(), source })?;
    let (of, missing) = cars.lost_by(&allowed);
    if !config.may_lose(missing, of) {
        return Err(ConfigError::Lost {
            path: path(),
            lost: missing,
            of,
            percent: config.may_lose_percent,
        });
    }
    cars.allow(allowed, (clock.boottime(), clock.wall()));
    Ok(())
}

/// Reads the list again and again. One that cannot be read, is empty or has lost too many
/// changes nothing: half a list would send cars away and delete their Vehicles.
async fn reload(config: &Config, pseudonyms: &Pseudonyms, cars: &Cars, clock: &dyn Clock) {
    let mut looks = interval(RELOAD);
    let mut fails = false;
    loop {
        looks.tick().await;
        match load(config, pseudonyms, cars, clock) {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kerbside_core::clock::Boottime;

    use super::*;

    #[derive(Debug)]
    struct Still;

    impl Clock for Still {
        fn boottime(&self) -> Boottime {
            Boottime(Duration::from_secs(100_000))
        }

        fn wall(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
    }

    fn vin(n: usize) -> String {
        format!("5YJ3E1EA7KF0000{n:02}")
    }

    /// A configuration whose list has so many cars, and these.
    fn fleet(dir: &Path, vins: usize) -> (Config, Pseudonyms, Cars) {
        let file = dir.join("gateway.yaml");
        let text = "{name: depot-north, pool: overnight, listen: '127.0.0.1:4443', keyFile: key, vinsFile: vins, \
                    tls: {certificateFile: tls.crt, privateKeyFile: tls.key, clientCaFile: cars.pem}}";
        std::fs::write(&file, text).unwrap();
        let config = Config::read(&file).unwrap();
        let pseudonyms = Pseudonyms::new(&[7; 32]).unwrap();
        let ages = Ages {
            stale_after: config.stale_after,
            good_for: config.good_for,
            retain_for: config.retain_for,
        };
        let cars = Cars::new(ages, pseudonyms.slots(config.publish_every));
        list(&config, vins);
        load(&config, &pseudonyms, &cars, &Still).unwrap();
        (config, pseudonyms, cars)
    }

    fn list(config: &Config, vins: usize) {
        let lines: Vec<_> = (0..vins).map(vin).collect();
        std::fs::write(&config.vins_file, lines.join("\n")).unwrap();
    }

    #[test]
    fn list_that_is_empty_or_has_lost_too_many_changes_nothing_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let (config, pseudonyms, cars) = fleet(dir.path(), 10);
        let held = |vins: usize| {
            list(&config, vins);
            let error = load(&config, &pseudonyms, &cars, &Still).unwrap_err();
            assert_eq!(cars.lost_by(&HashSet::new()), (10, 10));
            with_causes(&error)
        };
        let empty = held(0);
        assert!(empty.contains("vins") && empty.contains("no VIN in it"), "{empty}");
        let lost = held(7);
        assert!(
            lost.contains("3 of the fleet's 10 cars") && lost.contains("mayLosePercent"),
            "{lost}"
        );
    }

    #[test]
    fn list_that_has_lost_a_few_is_taken_over_and_the_next_is_held_against_it() {
        let dir = tempfile::tempdir().unwrap();
        let (config, pseudonyms, cars) = fleet(dir.path(), 10);
        for vins in [8, 12, 10, 8] {
            list(&config, vins);
            load(&config, &pseudonyms, &cars, &Still).unwrap();
            assert_eq!(cars.lost_by(&HashSet::new()).0, vins);
        }
    }

    #[test]
    fn fleet_that_needs_more_writes_than_it_may_have_is_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        let (mut config, _, cars) = fleet(dir.path(), 10);
        assert_eq!(too_many(&config, &cars), None);
        (config.good_for, config.publish_every) = (Duration::from_secs(4), Duration::from_secs(1));
        assert_eq!(too_many(&config, &cars), None, "just as many");
        config.writes_per_second = 4;
        assert_eq!(too_many(&config, &cars), Some(5));
    }

    #[tokio::test]
    async fn server_that_ends_by_itself_ends_the_gateway_and_one_that_was_told_to_does_not() {
        let stop = CancellationToken::new();
        let mut ended = tokio::spawn(async {});
        let error = until_stopped(std::future::pending(), &mut ended, &stop)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("the server has ended"), "{error}");
        let mut killed = tokio::spawn(std::future::pending());
        killed.abort();
        assert!(until_stopped(std::future::pending(), &mut killed, &stop).await.is_err());
        stop.cancel();
        let mut told = tokio::spawn(async {});
        until_stopped(std::future::pending(), &mut told, &stop).await.unwrap();
    }

    #[test]
    fn first_list_must_have_a_car() {
        let dir = tempfile::tempdir().unwrap();
        let (config, pseudonyms, _) = fleet(dir.path(), 1);
        let ages = Ages {
            stale_after: config.stale_after,
            good_for: config.good_for,
            retain_for: config.retain_for,
        };
        let cars = Cars::new(ages, pseudonyms.slots(config.publish_every));
        list(&config, 0);
        assert!(load(&config, &pseudonyms, &cars, &Still).is_err());
    }
}
