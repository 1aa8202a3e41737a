//! `/ledger`: both halves of every vehicle's ledger and the keys to check them with, for whoever may read them.
//!
//! Called by `kubectl fleet ledger`, on every replica. What is in the store is served as it lies there: whoever asks checks it, and
//! nothing here judges. But for CAs: whoever holds the store's credentials can leave one there, so only those are served whose fingerprints
//! the operator has put on record in the cluster. Answers are streamed: memory does not grow with a ledger.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kerbside_core::ids::VehicleId;
use kerbside_core::names::store as path;
use kerbside_k8s::client::{BRIEFLY, insist_for};
use kerbside_k8s::store::{Store, StoreError};
use kerbside_link::identity::cas_from_pem;
use kube::Client;
use kube::api::Api;
use serde_json::{Value, json};

use super::AT_A_TIME;
use crate::metrics::Metrics;
use crate::results::{Access, Asked, Problem};
use crate::signer::{CA, CA_CERTIFICATE, Published, known_cas};

/// What the handlers work with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledgers {
    client: Client,
    /// The operator's own, where the CA's certificate is.
    namespace: String,
    store: Store,
    access: Access,
    metrics: Metrics,
}

impl Ledgers {
    pub(crate) fn new(client: Client, namespace: &str, store: Store, metrics: Metrics) -> Self {
        Self {
            access: Access::new(client.clone()),
            client,
            namespace: namespace.to_owned(),
            store,
            metrics,
        }
    }

    /// The routes, to be merged with the program's own.
    pub(crate) fn routes(self) -> Router {
        Router::new()
            .route("/ledger", get(index))
            .route("/ledger/{vehicle}", get(one))
            .with_state(self)
    }

    fn answered(&self, what: &'static str, answer: Result<Response, Problem>) -> Response {
        let response = answer.unwrap_or_else(IntoResponse::into_response);
        self.metrics.results_request(what, response.status().as_u16());
        response
    }

    /// `{"vehicles","ca","cas","casAreKnown","operatorKeys"}`: the present CA, and all that there were. `casAreKnown` says that the operator has
    /// had them; older ones served what lay in the store, and did not say so.
    async fn index(&self, headers: &HeaderMap) -> Result<Response, Problem> {
        self.access.check(headers, &Asked::Ledger { vehicle: None }).await?;
        let folders = self.store.folders(path::LEDGER).await.map_err(Problem::Store)?;
        let vehicles = folders.into_iter().filter(|name| name.parse::<VehicleId>().is_ok());
        let vehicles: Vec<String> = vehicles.collect();
        let keys = certificates(&self.store, path::LEDGER_OPERATOR_KEYS).await?;
        let (ca, known) = self.published().await?;
        let cas = had(certificates(&self.store, path::LEDGER_CAS).await?, &known);
        let index = json!({
            "vehicles": vehicles, "ca": ca, "cas": cas, "casAreKnown": true, "operatorKeys": keys,
        });
        Ok(Json(index).into_response())
    }

    /// The CA's certificate, as the leader has published it, and the fingerprints of all that there were.
    async fn published(&self) -> Result<(String, BTreeSet<String>), Problem> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let there = insist_for(BRIEFLY, || api.get_opt(CA)).await;
        let there = there.map_err(|e| Problem::ApiServer(Box::new(e)))?;
        let published: Published = there.and_then(|map| map.data).unwrap_or_default();
        let known = known_cas(&published);
        let missing = || Problem::NotFound("the operator has not made the link's CA yet".to_owned());
        let ca = published.get(CA_CERTIFICATE).cloned().ok_or_else(missing)?;
        Ok((ca, known))
    }

    /// `{"vehicle","certificates","usage","acceptances"}`, the last two in the order of their numbers.
    async fn one(&self, headers: &HeaderMap, vehicle: &str) -> Result<Response, Problem> {
        let vehicle: VehicleId = vehicle
            .parse()
            .map_err(|error| Problem::BadRequest(format!("{error}")))?;
        self.may_read(headers, &vehicle).await?;
        let id = vehicle.as_str();
        let usage = self.list(&path::ledger_usages(id)).await?;
        let acceptances = self.list(&path::ledger_acceptances(id)).await?;
        let certificates = certificates(&self.store, &path::ledger_keys(id)).await?;
        if usage.is_empty() && acceptances.is_empty() && certificates.is_empty() {
            return Err(Problem::NotFound(format!("there is no ledger of {vehicle}")));
        }
        let head = format!(
            "{{\"vehicle\":{},\"certificates\":{},\"usage\":[",
            json!(vehicle),
            json!(certificates)
        );
        let body = text(head)
            .chain(lines(self.store.clone(), usage))
            .chain(text("],\"acceptances\":[".to_owned()))
            .chain(lines(self.store.clone(), acceptances))
            .chain(text("]}\n".to_owned()));
        Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, Problem> {
        self.store.list(prefix).await.map_err(Problem::Store)
    }

    /// Whoever may read every ledger is asked about once, not once for each of a fleet's vehicles.
    async fn may_read(&self, headers: &HeaderMap, vehicle: &VehicleId) -> Result<(), Problem> {
        match self.access.check(headers, &Asked::Ledger { vehicle: None }).await {
            Err(Problem::ForbiddenLedger { .. }) => {
                let vehicle = Some(vehicle.clone());
                self.access.check(headers, &Asked::Ledger { vehicle }).await
            }
            answer => answer,
        }
    }
}

async fn index(State(ledgers): State<Ledgers>, headers: HeaderMap) -> Response {
    let answer = ledgers.index(&headers).await;
    ledgers.answered("ledgers", answer)
}

async fn one(State(ledgers): State<Ledgers>, Path(vehicle): Path<String>, headers: HeaderMap) -> Response {
    let answer = ledgers.one(&headers, &vehicle).await;
    ledgers.answered("ledger", answer)
}

/// Those of the CAs in the store that are what their names say, and that the operator has had.
fn had(cas: BTreeMap<String, String>, known: &BTreeSet<String>) -> BTreeMap<String, String> {
    let is_known = |(fingerprint, pem): &(String, String)| {
        known.contains(fingerprint) && cas_from_pem(pem).is_ok_and(|found| found.keys().eq([fingerprint]))
    };
    let (had, others): (BTreeMap<_, _>, BTreeMap<_, _>) = cas.into_iter().partition(is_known);
    if !others.is_empty() {
        let count = others.len();
        tracing::warn!(
            count,
            "there are CAs in the store that are not on record in the cluster; nothing is believed that they have certified"
        );
    }
    had
}

/// The certificates below `prefix`, by the names of their files, which are the ids of their keys, or the fingerprints of CAs.
async fn certificates(store: &Store, prefix: &str) -> Result<BTreeMap<String, String>, Problem> {
    let mut reads = Vec::new();
    for place in store.list(prefix).await.map_err(Problem::Store)? {
        reads.push(certificate(store, place));
    }
    let read = stream::iter(reads).buffered(AT_A_TIME);
    let read: Result<Vec<Option<(String, String)>>, StoreError> = read.try_collect().await;
    Ok(read.map_err(Problem::Store)?.into_iter().flatten().collect())
}

async fn certificate(store: &Store, place: String) -> Result<Option<(String, String)>, StoreError> {
    let Some(keyid) = place.rsplit('/').next().and_then(|name| name.strip_suffix(".pem")) else {
        return Ok(None);
    };
    let pem = store.get(&place).await?;
    Ok(Some((keyid.to_owned(), String::from_utf8_lossy(&pem).into_owned())))
}

fn text(text: String) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
    stream::iter([Ok(Bytes::from(text))])
}

/// What lies at `places`, each one JSON value, with commas between.
fn lines(store: Store, places: Vec<String>) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
    let read = stream::iter(places).map(move |place| {
        let store = store.clone();
        async move { store.get(&place).await }
    });
    let mut separator = "";
    read.buffered(AT_A_TIME).map_ok(move |line| {
        let text = format!("{separator}{}", value(&line));
        separator = ",\n";
        Bytes::from(text)
    })
}

/// What is no JSON is given as the text that it is, and no ledger that holds such a line is found in order.
fn value(line: &[u8]) -> Value {
    serde_json::from_slice(line).unwrap_or_else(|_| String::from_utf8_lossy(line).into())
}

#[cfg(test)]
mod tests;
