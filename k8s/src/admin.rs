//! The small HTTP server of each program: `/healthz`, `/readyz`, `/metrics`, `PUT /loglevel`.
//!
//! Called by each program's `run`. It holds no credential and answers nothing about jobs, cars or owners; what needs
//! authorisation is served elsewhere.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, put};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::telemetry::LogLevel;

/// What the server answers from.
#[derive(Clone)]
pub struct Admin {
    registry: Arc<Registry>,
    ready: watch::Receiver<Result<(), String>>,
    log_level: Option<LogLevel>,
}

impl Admin {
    /// `ready` holds `Ok` once the program does its work, or what it still waits for.
    pub fn new(registry: Registry, ready: watch::Receiver<Result<(), String>>, log_level: Option<LogLevel>) -> Self {
        Self {
            registry: Arc::new(registry),
            ready,
            log_level,
        }
    }

    /// The routes, to be served alone or merged with a program's own.
    pub fn routes(self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .route("/loglevel", put(log_level))
            .with_state(self)
    }
}

async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    let ready = admin.ready.borrow().clone();
    match ready {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(waits_for) => (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {waits_for}\n")),
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &admin.registry) {
        Ok(()) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed to encode the metrics\n").into_response(),
    }
}

async fn log_level(State(admin): State<Admin>, filter: String) -> impl IntoResponse {
    match admin.log_level.as_ref().map(|l| l.set(&filter)) {
        Some(Ok(())) => (StatusCode::OK, format!("log filter is now {}\n", filter.trim())),
        Some(Err(error)) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
        None => (
            StatusCode::NOT_FOUND,
            "this program's log level cannot be changed\n".to_owned(),
        ),
    }
}

/// Serves `routes` on `listener` until `stop` resolves.
pub async fn serve(
    listener: tokio::net::TcpListener,
    routes: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, routes).with_graceful_shutdown(stop).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;

    async fn status(admin: Admin, method: &str, path: &str) -> StatusCode {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::from("info"))
            .unwrap();
        admin.routes().oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn readyz_says_503_until_ready() {
        let (tx, rx) = watch::channel(Err("the Pod watch".to_owned()));
        let admin = Admin::new(Registry::default(), rx, None);
        assert_eq!(
            status(admin.clone(), "GET", "/readyz").await,
            StatusCode::SERVICE_UNAVAILABLE
        );
        let _ = tx.send_replace(Ok(()));
        assert_eq!(status(admin.clone(), "GET", "/readyz").await, StatusCode::OK);
        assert_eq!(status(admin.clone(), "GET", "/healthz").await, StatusCode::OK);
        assert_eq!(status(admin, "PUT", "/loglevel").await, StatusCode::NOT_FOUND);
    }
}
