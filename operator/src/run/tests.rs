//! What the operator does before it leads: the store is probed, the log level can be changed.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use clap::Parser;
use tower::ServiceExt;
use tracing::Level;

use super::*;
use crate::testing::fake_api::{FakeApi, Fate};
use crate::testing::{DownStore, HandClock};

fn leader(api: &FakeApi, store: DownStore) -> Leader {
    Leader {
        args: Args::try_parse_from(["kerbside-operator", "--store-url", "file:///nowhere"]).unwrap(),
        identity: "a".to_owned(),
        client: api.client(Fate::Lives),
        store: Store::over(Arc::new(store)),
        metrics: Metrics::new(&mut Registry::default()),
        clock: HandClock::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn store_that_accepts_the_second_put_of_the_probe_ends_the_operator() {
    let api = FakeApi::new();
    let leader = leader(&api, DownStore::that_overwrites());
    let (ready, is_ready) = watch::channel(Err("the result store".to_owned()));
    let error = leader.stand(&ready, &CancellationToken::new()).await.unwrap_err();
    assert!(
        matches!(error, RunError::Store(StoreError::NotConditional)),
        "{error:?}"
    );
    assert!(is_ready.borrow().is_err());
    assert_eq!(api.with(|w| w.writes.len()), 0, "it never stands for election");
}

#[tokio::test(start_paused = true)]
async fn store_that_is_down_is_waited_for() {
    let api = FakeApi::new();
    let leader = leader(&api, DownStore::default());
    let (ready, is_ready) = watch::channel(Ok(()));
    let stop = CancellationToken::new();
    let (result, ()) = tokio::join!(leader.stand(&ready, &stop), async {
        tokio::time::sleep(Duration::from_secs(120)).await;
        stop.cancel();
    });
    assert!(result.is_ok(), "{result:?}");
    let says = is_ready.borrow().clone().unwrap_err();
    assert!(says.starts_with("the result store: "), "{says}");
    assert_eq!(api.with(|w| w.writes.len()), 0, "it never stands for election");
}

/// The only test that sets logging up: that can be done once in a process.
#[tokio::test]
async fn log_level_is_changed_in_flight() {
    let log_level = telemetry::init("error", telemetry::Format::Text).unwrap();
    let (_ready, is_ready) = watch::channel(Ok(()));
    let routes = Admin::new(Registry::default(), is_ready, Some(log_level)).routes();
    let put = async |filter: &'static str| {
        let request = Request::put("/loglevel").body(Body::from(filter)).unwrap();
        routes.clone().oneshot(request).await.unwrap().status()
    };
    let is_told = || tracing::enabled!(target: "kerbside_operator", Level::DEBUG);
    assert!(!is_told());
    assert_eq!(put("error,kerbside_operator=debug").await, StatusCode::OK);
    assert!(is_told());
    assert_eq!(put("kerbside_operator=loud").await, StatusCode::BAD_REQUEST);
    assert!(is_told(), "what cannot be read changes nothing");
    assert_eq!(put("error").await, StatusCode::OK);
    assert!(!is_told());
}
