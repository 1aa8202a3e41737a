//! Acceptance: the one write that makes an attempt's result *the* result of its index.
//!
//! Called by the FleetJob reconciler for every attempt that succeeded, before anything about it is recorded. The write is a
//! put-if-absent, so of two attempts of one index exactly one wins, whoever runs this and however often. Never: a result that
//! is replaced; a result that names what its attempt's manifest does not.

use bytes::Bytes;
use jiff::Timestamp;
use kerbside_core::ids::{JobUid, PodUid};
use kerbside_core::names::store as path;
use kerbside_k8s::store::{PutOutcome, Store, StoreError};
use serde::{Deserialize, Serialize};

/// One file in the store, named by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct File {
    /// Relative to the output directory; for a log, the container's name.
    pub(crate) path: String,
    /// In bytes.
    pub(crate) size: u64,
    /// Lower-case hex; also the object's name in the store.
    pub(crate) sha256: String,
}

/// What one attempt produced, as the adapter sealed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) uid: String,
    #[serde(default)]
    pub(crate) files: Vec<File>,
    #[serde(default)]
    pub(crate) logs: Vec<File>,
}

/// The result of one index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IndexResult {
    pub(crate) index: u32,
    /// Of the accepted attempt's Pod.
    pub(crate) uid: String,
    /// The car that made it.
    pub(crate) vehicle: String,
    pub(crate) files: Vec<File>,
    pub(crate) accepted_at: Timestamp,
}

/// The attempt whose result is to be accepted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) job: &'a JobUid,
    pub(crate) index: u32,
    pub(crate) uid: &'a PodUid,
    pub(crate) vehicle: &'a str,
}

/// What became of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Acceptance {
    /// The index's result is this attempt's.
    Won,
    /// Another attempt of the index was first.
    Superseded {
        /// Its Pod's UID.
        by: String,
    },
}

/// Why nothing could be accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcceptError {
    /// The store is down: to be tried again, nothing is lost.
    #[error("failed to accept the result of index {index}: the store is not available")]
    Store {
        index: u32,
        #[source]
        source: StoreError,
    },
    /// The attempt has no sealed output: no try will find one.
    #[error("attempt {uid} says that it succeeded, but its output is not in the store")]
    NoOutput { uid: String },
    /// What lies in the store is not what was agreed.
    #[error("'{path}' in the store is unusable: {why}")]
    Unusable { path: String, why: String },
}

/// Accepts `candidate` for its index unless another attempt was first. May be repeated: the answer stays the same.
pub(crate) async fn accept(store: &Store, candidate: Candidate<'_>, now: Timestamp) -> Result<Acceptance, AcceptError> {
    let unavailable = |source| AcceptError::Store {
        index: candidate.index,
        source,
    };
    let manifest = manifest(store, candidate.namespace, candidate.uid.as_str())
        .await
        .map_err(|e| match e {
            ReadError::Store(StoreError::NotFound { .. }) => AcceptError::NoOutput {
                uid: candidate.uid.to_string(),
            },
            ReadError::Store(e) => unavailable(e),
            ReadError::Unusable { path, why } => AcceptError::Unusable { path, why },
        })?;
    let accepted = IndexResult {
        index: candidate.index,
        uid: manifest.uid,
        vehicle: candidate.vehicle.to_owned(),
        files: manifest.files,
        accepted_at: now,
    };
    let path = path::result(candidate.namespace, candidate.job.as_str(), candidate.index);
    let json = serde_json::to_vec(&accepted).map_err(|e| AcceptError::Unusable {
        path: path.clone(),
        why: e.to_string(),
    })?;
    if store
        .put_if_absent(&path, Bytes::from(json))
        .await
        .map_err(unavailable)?
        == PutOutcome::Created
    {
        return Ok(Acceptance::Won);
    }
    match result(store, candidate.namespace, candidate.job.as_str(), candidate.index).await {
        // Ours from an earlier try, whose answer or whose record was lost.
        Ok(first) if first.uid == candidate.uid.as_str() => Ok(Acceptance::Won),
        Ok(first) => Ok(Acceptance::Superseded { by: first.uid }),
        Err(ReadError::Store(e)) => Err(unavailable(e)),
        Err(ReadError::Unusable { path, why }) => Err(AcceptError::Unusable { path, why }),
    }
}

/// Why something could not be read from the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("'{path}' in the store is unusable: {why}")]
    Unusable { path: String, why: String },
}

/// An attempt's manifest.
pub(crate) async fn manifest(store: &Store, namespace: &str, uid: &str) -> Result<Manifest, ReadError> {
    let path = path::attempt_manifest(namespace, uid);
    let manifest: Manifest = read(store, &path).await?;
    if manifest.uid != uid {
        let why = format!("it is of attempt '{}'", manifest.uid);
        return Err(ReadError::Unusable { path, why });
    }
    check(&path, manifest.files.iter().chain(&manifest.logs))?;
    Ok(manifest)
}

/// The accepted result of an index.
pub(crate) async fn result(store: &Store, namespace: &str, job: &str, index: u32) -> Result<IndexResult, ReadError> {
    let path = path::result(namespace, job, index);
    let accepted: IndexResult = read(store, &path).await?;
    check(&path, &accepted.files)?;
    Ok(accepted)
}

async fn read<T: serde::de::DeserializeOwned>(store: &Store, path: &str) -> Result<T, ReadError> {
    let bytes = store.get(path).await?;
    serde_json::from_slice(&bytes).map_err(|e| ReadError::Unusable {
        path: path.to_owned(),
        why: e.to_string(),
    })
}

/// File names become paths in the store and on the disk of whoever fetches results, so only plain ones are taken.
fn check<'a>(path: &str, files: impl IntoIterator<Item = &'a File>) -> Result<(), ReadError> {
    let bad = |why: String| {
        Err(ReadError::Unusable {
            path: path.to_owned(),
            why,
        })
    };
    for file in files {
        if file.sha256.len() != 64 || !file.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return bad(format!("'{}' has no valid SHA-256", file.path));
        }
        if file.path.is_empty() || file.path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return bad(format!("'{}' is not a plain relative path", file.path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
