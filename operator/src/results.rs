//! `/results` and `/logs`: what accepted attempts produced, for whoever may read it.
//!
//! Called by `kubectl fleet` through a port-forward, on every replica. Each request is authenticated by a TokenReview and
//! authorised by a SubjectAccessReview (`get` on `fleetjobs/results` in the job's namespace). Never: a byte that no accepted
//! manifest names.

mod access;
mod serve;

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use kerbside_k8s::store::{Store, StoreError};
use kube::Client;

use crate::acceptance::ReadError;
use crate::metrics::Metrics;

pub(crate) use access::{Access, Asked};

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Results {
    client: Client,
    store: Store,
    access: Access,
    metrics: Metrics,
}

impl Results {
    pub(crate) fn new(client: Client, store: Store, metrics: Metrics) -> Self {
        Self {
            access: Access::new(client.clone()),
            client,
            store,
            metrics,
        }
    }

    /// The routes, to be merged with the program's own.
    pub(crate) fn routes(self) -> Router {
        Router::new()
            .route("/results/{namespace}/{job}", get(serve::list))
            .route("/results/{namespace}/{job}/{index}/{*path}", get(serve::file))
            .route("/logs/{namespace}/{job}/{index}", get(serve::logs))
            .with_state(self)
    }
}

/// Why a request is not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("send a token: 'Authorization: Bearer TOKEN', for example from 'kubectl create token'")]
    NoToken,
    #[error("the API server does not accept the token; it may have expired")]
    BadToken,
    #[error("'{user}' may not read results in namespace '{namespace}': it needs the verb 'get' on 'fleetjobs/results'")]
    Forbidden { user: String, namespace: String },
    #[error("'{user}' may not read ledgers: it needs the verb 'get' on 'vehicles/ledger' in the whole cluster")]
    ForbiddenLedger { user: String },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    BadRequest(String),
    #[error("the API server did not answer; try again")]
    ApiServer(#[source] Box<kube::Error>),
    #[error("the result store did not answer; try again")]
    Store(#[source] StoreError),
    #[error("{0}")]
    Unusable(String),
}

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoToken | Self::BadToken => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } | Self::ForbiddenLedger { .. } => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::ApiServer(_) | Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unusable(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(e @ StoreError::NotFound { .. }) => Self::NotFound(e.to_string()),
            ReadError::Store(e) => Self::Store(e),
            ReadError::Unusable { .. } => Self::Unusable(error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::warn!(error = ?self, "a request for results or a ledger failed");
        }
        let unknown = status == StatusCode::UNAUTHORIZED;
        let mut response = (status, format!("{self}\n")).into_response();
        if unknown {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests;
