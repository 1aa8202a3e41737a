//! The handlers behind `/results` and `/logs`.
//!
//! Each first asks [`super::access`], then goes from the FleetJob's UID to the accepted result of an index, and from there to
//! what it names. Big answers are streamed: memory does not grow with a job's results.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt, stream};
use kerbside_api::v1alpha1::FleetJob;
use kerbside_core::index_set::IndexSet;
use kerbside_core::names::store as path;
use kerbside_k8s::client::{BRIEFLY, insist_for};
use kerbside_k8s::store::StoreError;
use kube::api::Api;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Asked, Problem, Results};
use crate::acceptance::{self, File, ReadError};

/// Manifests read at a time for one list: enough to hide a store's latency, few enough to leave it room for others.
const READS_AT_A_TIME: usize = 16;

/// `GET /results/{namespace}/{job}`: `{"uid","results","errors"}`, with the manifest of every completed index in order, and the
/// indexes whose manifest is lost.
pub(super) async fn list(
    State(results): State<Results>,
    Path((namespace, job)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let answer = list_checked(&results, namespace, job, &headers).await;
    results.answered("list", answer)
}

async fn list_checked(
    results: &Results,
    namespace: String,
    name: String,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    results.check(headers, &namespace, &name).await?;
    let job = results.job(&namespace, &name).await?;
    let indexes: Vec<u32> = job.completed.iter().collect();
    if let Some(first) = indexes.first() {
        // A store that is down is said so as long as the status of the answer is not sent yet.
        match acceptance::result(&results.store, &namespace, &job.uid, *first).await {
            Err(ReadError::Store(e)) if !matches!(e, StoreError::NotFound { .. }) => return Err(Problem::Store(e)),
            _ => {}
        }
    }
    let (store, uid) = (results.store.clone(), job.uid.clone());
    let entries = stream::iter(indexes).map(move |index| {
        let (store, namespace, uid) = (store.clone(), namespace.clone(), uid.clone());
        async move { (index, acceptance::result(&store, &namespace, &uid, index).await) }
    });
    // The list goes on past what is lost or unusable, so that one manifest hides no other result; it is named at the end.
    let lost: Arc<Mutex<Vec<Value>>> = Arc::default();
    let found = Arc::clone(&lost);
    let mut separator = "";
    let items = entries.buffered(READS_AT_A_TIME).filter_map(move |(index, read)| {
        let entry = match read {
            Ok(accepted) => {
                let text = format!("{separator}{}", json!(accepted));
                separator = ",\n";
                Some(Ok(Bytes::from(text)))
            }
            Err(ReadError::Store(e)) if !matches!(e, StoreError::NotFound { .. }) => Some(Err(e)),
            Err(error) => {
                let entry = json!({ "index": index, "error": error.to_string() });
                found.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
                None
            }
        };
        std::future::ready(entry)
    });
    let head = Bytes::from(format!("{{\"uid\":{},\"results\":[", json!(job.uid)));
    let tail = stream::once(async move {
        let lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Bytes::from(format!("],\"errors\":{}}}\n", json!(*lost))))
    });
    let body = Body::from_stream(stream::iter([Ok(head)]).chain(items).chain(tail));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// `GET /results/{namespace}/{job}/{index}/{path}`: one file of an index's accepted result.
pub(super) async fn file(
    State(results): State<Results>,
    Path((namespace, job, index, file)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        results.check(&headers, &namespace, &job).await?;
        let accepted = results.accepted(&namespace, &job, &index).await?;
        let found =
            accepted.files.iter().find(|f| f.path == file).ok_or_else(|| {
                Problem::NotFound(format!("the result of index {} has no file '{file}'", accepted.index))
            })?;
        results
            .stream(&namespace, &accepted.uid, found, "application/octet-stream")
            .await
    }
    .await;
    results.answered("file", answer)
}

/// Which container's log is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct LogQuery {
    container: Option<String>,
}

/// `GET /logs/{namespace}/{job}/{index}?container=NAME`: the log of the accepted attempt of an index.
pub(super) async fn logs(
    State(results): State<Results>,
    Path((namespace, job, index)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        results.check(&headers, &namespace, &job).await?;
        let accepted = results.accepted(&namespace, &job, &index).await?;
        let manifest = acceptance::manifest(&results.store, &namespace, &accepted.uid).await?;
        let log = choose(&manifest.logs, query.container.as_deref())?;
        results
            .stream(&namespace, &accepted.uid, log, "text/plain; charset=utf-8")
            .await
    }
    .await;
    results.answered("logs", answer)
}

pub(super) fn choose<'a>(logs: &'a [File], container: Option<&str>) -> Result<&'a File, Problem> {
    match (logs, container) {
        ([], _) => Err(Problem::NotFound("the accepted attempt wrote no log".to_owned())),
        ([only], None) => Ok(only),
        (logs, Some(name)) => logs
            .iter()
            .find(|l| l.path == name)
            .ok_or_else(|| Problem::NotFound(format!("there is no log of '{name}'; there are {}", names(logs)))),
        (logs, None) => Err(Problem::BadRequest(format!(
            "choose one with ?container=NAME of {}",
            names(logs)
        ))),
    }
}

fn names(logs: &[File]) -> String {
    logs.iter().map(|l| l.path.as_str()).collect::<Vec<_>>().join(", ")
}

/// What matters of a FleetJob here.
struct Job {
    uid: String,
    completed: IndexSet,
}

impl Results {
    fn answered(&self, what: &'static str, answer: Result<Response, Problem>) -> Response {
        let response = answer.unwrap_or_else(IntoResponse::into_response);
        self.metrics.results_request(what, response.status().as_u16());
        response
    }

    async fn check(&self, headers: &HeaderMap, namespace: &str, job: &str) -> Result<(), Problem> {
        let asked = Asked::Results {
            namespace: namespace.to_owned(),
            job: job.to_owned(),
        };
        self.access.check(headers, &asked).await
    }

    /// Read live: replicas that do not lead keep no cache, and people ask rarely.
    async fn job(&self, namespace: &str, name: &str) -> Result<Job, Problem> {
        let api: Api<FleetJob> = Api::namespaced(self.client.clone(), namespace);
        let job = insist_for(BRIEFLY, || api.get_opt(name)).await;
        let job = job.map_err(|e| Problem::ApiServer(Box::new(e)))?;
        let job =
            job.ok_or_else(|| Problem::NotFound(format!("there is no FleetJob '{name}' in namespace '{namespace}'")))?;
        let completed = job.status.map(|s| s.completed_indexes).unwrap_or_default();
        let completed = completed
            .parse()
            .map_err(|e| Problem::Unusable(format!("status.completedIndexes of FleetJob '{name}' is unusable: {e}")))?;
        let uid = job
            .metadata
            .uid
            .ok_or_else(|| Problem::Unusable(format!("FleetJob '{name}' has no UID")))?;
        Ok(Job { uid, completed })
    }

    async fn accepted(&self, namespace: &str, name: &str, index: &str) -> Result<acceptance::IndexResult, Problem> {
        let index: u32 = index
            .parse()
            .map_err(|_| Problem::BadRequest(format!("'{index}' is not a completion index")))?;
        let job = self.job(namespace, name).await?;
        if !job.completed.contains(index) {
            let message = format!("index {index} of FleetJob '{name}' has no accepted result (yet)");
            return Err(Problem::NotFound(message));
        }
        Ok(acceptance::result(&self.store, namespace, &job.uid, index).await?)
    }

    async fn stream(
        &self,
        namespace: &str,
        uid: &str,
        file: &File,
        content_type: &'static str,
    ) -> Result<Response, Problem> {
        let path = path::attempt_file(namespace, uid, &file.sha256);
        let (size, stream) = self
            .store
            .get_stream(&path)
            .await
            .map_err(|e| Problem::from(ReadError::Store(e)))?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
        if let Ok(tag) = HeaderValue::try_from(format!("\"{}\"", file.sha256)) {
            headers.insert(header::ETAG, tag);
        }
        Ok((headers, Body::from_stream(stream)).into_response())
    }
}
