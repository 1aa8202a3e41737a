//! The kubelet port: what kube-apiserver, and whoever may, asks of a node, for every vehicle on one listener.
//!
//! Served by `server` over TLS. Every request is authenticated and authorised before anything is looked up; the routes carry the Pod, and
//! the Pod tells the vehicle. What takes bytes both ways (exec, attach, port-forward) is in `streams`.

pub(crate) mod auth;
pub(crate) mod logs;
pub(crate) mod server;
mod streams;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Extension, Json, Router};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Pod;
use kerbside_link::fault::{Fault, FaultKind};
use kube::core::ObjectList;

use self::auth::{Auth, Decision, User};
use self::logs::{LogOptions, OptionsError, StoredLogs};
use crate::context::Context;
use crate::fleet::Fleet;
use crate::logs::LogDesk;
use crate::pod_facts::vehicle_of;
use crate::tunnels::TunnelDesk;

/// Who is at the other end of the connection, by a client certificate.
#[derive(Debug, Clone)]
pub(crate) struct Peer(pub(crate) Option<User>);

/// What the port answers from.
pub(crate) struct KubeletApi {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) desk: Arc<LogDesk>,
    pub(crate) tunnels: Arc<TunnelDesk>,
    pub(crate) auth: Auth,
    pub(crate) stored: StoredLogs,
}

/// A refusal as the kubelet writes it: a status and a sentence.
#[derive(Debug)]
pub(crate) struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", self.1)).into_response()
    }
}

impl From<OptionsError> for Refused {
    fn from(error: OptionsError) -> Self {
        let status = match error {
            OptionsError::Unreadable { .. } => StatusCode::BAD_REQUEST,
            OptionsError::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self(status, error.to_string())
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        let status = match fault.kind() {
            FaultKind::NotFound => StatusCode::NOT_FOUND,
            FaultKind::Invalid => StatusCode::BAD_REQUEST,
            FaultKind::Denied => StatusCode::FORBIDDEN,
            FaultKind::Unavailable | FaultKind::RateLimited => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, fault.message().to_owned())
    }
}

/// The routes.
pub(crate) fn routes(api: Arc<KubeletApi>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/pods", get(pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(container_logs))
        .route("/exec/{namespace}/{pod}/{container}", any(streams::exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(streams::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(streams::attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", any(streams::attach))
        .route("/portForward/{namespace}/{pod}", any(streams::port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(streams::port_forward))
        .with_state(api)
}

impl KubeletApi {
    fn context(&self) -> &Context {
        self.fleet.context()
    }

    /// Who asks, if they may read this on that node. An empty node means every node.
    async fn admit(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        node: &str,
        subresources: &[&str],
    ) -> Result<User, Refused> {
        self.admit_to(peer, headers, "get", node, subresources).await
    }

    /// Who asks, if they may do this on that node.
    async fn admit_to(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        verb: &'static str,
        node: &str,
        subresources: &[&str],
    ) -> Result<User, Refused> {
        let header = headers.get(header::AUTHORIZATION).and_then(|h| h.to_str().ok());
        let user = match (&peer.0, header.and_then(|h| h.strip_prefix("Bearer "))) {
            (Some(user), _) => Some(user.clone()),
            (None, Some(token)) => self.auth.token(token.trim()).await.map_err(|e| unavailable(&e))?,
            (None, None) => None,
        };
        let Some(user) = user else {
            return Err(Refused(StatusCode::UNAUTHORIZED, "Unauthorized".into()));
        };
        for subresource in subresources {
            let decision = self
                .auth
                .authorise(&user, verb, node, subresource)
                .await
                .map_err(|e| unavailable(&e))?;
            if decision == Decision::Allow {
                return Ok(user);
            }
        }
        let what = subresources.join(" or nodes/");
        Err(Refused(
            StatusCode::FORBIDDEN,
            format!("Forbidden (user={}, verb={verb}, resource=nodes/{what})", user.name),
        ))
    }
}

fn unavailable(error: &kube::Error) -> Refused {
    tracing::warn!(%error, "a request to the kubelet port cannot be reviewed");
    Refused(
        StatusCode::SERVICE_UNAVAILABLE,
        "the API server cannot be asked at the moment".into(),
    )
}

async fn healthz(
    State(api): State<Arc<KubeletApi>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Result<&'static str, Refused> {
    api.admit(&peer, &headers, "", &["healthz", "proxy"]).await?;
    Ok("ok")
}

async fn pods(
    State(api): State<Arc<KubeletApi>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Result<Json<ObjectList<Pod>>, Refused> {
    api.admit(&peer, &headers, "", &["pods", "proxy"]).await?;
    let mirror = &api.context().pods;
    let items = mirror
        .groups()
        .iter()
        .flat_map(|g| mirror.of(g))
        .map(|p| Pod::clone(&p))
        .collect();
    let list = ObjectList {
        types: kube::core::TypeMeta {
            api_version: "v1".into(),
            kind: "PodList".into(),
        },
        metadata: kube::core::ListMeta::default(),
        items,
    };
    Ok(Json(list))
}

async fn container_logs(
    State(api): State<Arc<KubeletApi>>,
    Extension(peer): Extension<Peer>,
    Path((namespace, name, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let pod = api.context().pods.by_name(&namespace, &name);
    let vehicle = pod.as_ref().and_then(|p| vehicle_of(p));
    let node = vehicle.as_ref().map(ToString::to_string).unwrap_or_default();
    // Who may not read on this node learns nothing, not even whether there is such a Pod.
    api.admit(&peer, &headers, &node, &["proxy"]).await?;
    let missing = || Refused(StatusCode::NOT_FOUND, format!("pod \"{name}\" not found"));
    let (pod, vehicle) = (pod.ok_or_else(missing)?, vehicle.ok_or_else(missing)?);
    if !has_container(&pod, &container) {
        return Err(Refused(
            StatusCode::NOT_FOUND,
            format!("container \"{container}\" not found in pod \"{name}\""),
        ));
    }
    let options = LogOptions::parse(query.as_deref().unwrap_or_default())?;
    let stream = log(&api, &pod, &vehicle, &container, &options).await?;
    let body = Body::from_stream(stream.map_err(|fault| std::io::Error::other(fault.message().to_owned())));
    Ok(([(header::CONTENT_TYPE, "text/plain")], body).into_response())
}

fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let mut own = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut added = spec.ephemeral_containers.iter().flatten();
    own.any(|c| c.name == name) || added.any(|c| c.name == name)
}

type Log = BoxStream<'static, Result<bytes::Bytes, Fault>>;

/// The log, from the car while it has it, from the store once the attempt has ended.
async fn log(
    api: &KubeletApi,
    pod: &Pod,
    vehicle: &kerbside_core::ids::VehicleId,
    container: &str,
    options: &LogOptions,
) -> Result<Log, Refused> {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let ended = matches!(phase, Some("Succeeded" | "Failed"));
    if ended && let Some(log) = api.stored.read(pod, container, options).await? {
        return Ok(log);
    }
    let session = api.fleet.get(vehicle).and_then(|h| h.session());
    let Some(session) = session else {
        let why = if ended {
            "the vehicle is away and had stored no log"
        } else {
            "the vehicle is not connected; try again later"
        };
        return Err(Refused(StatusCode::SERVICE_UNAVAILABLE, why.into()));
    };
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    Ok(api
        .desk
        .ask(session, options.request(uid, container.to_owned()))
        .await?)
}
