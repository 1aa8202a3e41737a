//! Lets Pods go whose FleetJob is gone: nobody else would take our finalizer off them.
//!
//! Run by the leader. A job that is deleted in the background is gone before its Pods; one that is deleted with
//! `--cascade=orphan` leaves them without an owner. Never: a Pod let go whose job may still be there (the API server is asked, not
//! a cache), or that is not closed: what a car did for a job that is gone is paid as its terms say.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kerbside_api::v1alpha1::FleetJob;
use kerbside_core::ids::JobUid;
use kerbside_core::names::finalizer;
use kerbside_k8s::apply;
use kube::Client;
use kube::api::Api;
use tokio_util::sync::CancellationToken;

use crate::FIELD_MANAGER;
use crate::attempts::{self, AttemptIndex, JobKey, Seen, Stray};
use crate::fleet_job::Memory;
use crate::ledger::{CloseError, Closings, Ended};
use crate::report;
use crate::retry::Failures;

/// Jobs and strays looked after at a time.
const AT_A_TIME: usize = 4;
/// Pods of one job let go at a time.
const PODS_AT_A_TIME: usize = 16;
/// UIDs of jobs that are known to be gone; they never come back, so forgetting some only costs a question.
const MOST_GONE: usize = 10_000;

/// What may have lost its owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Orphan {
    /// The attempts of a job that is not in the cache.
    Attempts(JobKey),
    /// A Pod without an owner.
    Stray(Stray),
}

/// Why an orphan is still held. To be tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrphanError {
    #[error("failed to let Pod go")]
    Api(#[source] Box<kube::Error>),
    #[error("failed to let Pod go")]
    Close(#[from] CloseError),
}

impl From<kube::Error> for OrphanError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

/// Looks after orphans.
pub(crate) struct Orphans {
    client: Client,
    attempts: Arc<AttemptIndex>,
    memory: Arc<Memory>,
    closings: Closings,
    gone: Mutex<HashSet<JobUid>>,
    failures: Failures<Orphan>,
}

impl Orphans {
    pub(crate) fn new(client: Client, attempts: Arc<AttemptIndex>, memory: Arc<Memory>, closings: Closings) -> Self {
        Self {
            client,
            attempts,
            memory,
            closings,
            gone: Mutex::default(),
            failures: Failures::default(),
        }
    }

    /// Looks after whatever is sent until `stop`; what fails is tried again, later each time.
    pub(crate) async fn run(self, orphans: UnboundedReceiver<Orphan>, stop: CancellationToken) {
        let this = Arc::new(self);
        let work = orphans.for_each_concurrent(AT_A_TIME, |orphan| Arc::clone(&this).insist(orphan));
        stop.run_until_cancelled(work).await;
    }

    async fn insist(self: Arc<Self>, orphan: Orphan) {
        while let Err(error) = self.look_after(&orphan).await {
            let error = report::with_causes(&error);
            tracing::warn!(?orphan, error, "failed to let the Pods of a deleted job go");
            tokio::time::sleep(self.failures.failed(orphan.clone())).await;
        }
        self.failures.succeeded(&orphan);
    }

    /// Lets go what has no owner any more.
    pub(crate) async fn look_after(&self, orphan: &Orphan) -> Result<(), OrphanError> {
        match orphan {
            Orphan::Stray(stray) => {
                self.close_stray(stray).await?;
                self.let_go(&stray.namespace, &stray.name, stray.uid.as_str(), &stray.finalizers)
                    .await
            }
            Orphan::Attempts(job) => {
                if !self.is_gone(job).await? {
                    return Ok(());
                }
                self.memory.forget(&job.uid);
                self.attempts.forget(&job.uid);
                let held = self
                    .attempts
                    .of(&job.uid, |_| false)
                    .into_iter()
                    .filter(|s| s.attempt.has_finalizer);
                stream::iter(held.map(Ok))
                    .try_for_each_concurrent(PODS_AT_A_TIME, |seen| async move {
                        self.close(&job.namespace, &job.uid, &seen).await?;
                        let attempt = &seen.attempt;
                        self.let_go(&job.namespace, &attempt.name, attempt.uid.as_str(), &seen.finalizers)
                            .await
                    })
                    .await
            }
        }
    }

    async fn close(&self, namespace: &str, job: &JobUid, seen: &Seen) -> Result<(), CloseError> {
        let ended = Ended {
            namespace,
            job,
            ledger: None,
            seen,
        };
        self.closings.close(ended).await
    }

    /// Closes a Pod without an owner, as it is now: no plan needs such Pods, so nothing more is kept of them.
    async fn close_stray(&self, stray: &Stray) -> Result<(), OrphanError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &stray.namespace);
        let there = api.get_opt(&stray.name).await?;
        let same = there.filter(|pod| pod.metadata.uid.as_deref() == Some(stray.uid.as_str()));
        if let Some((job, seen)) = same.as_ref().and_then(attempts::of_stray) {
            self.close(&stray.namespace, &job, &seen).await?;
        }
        Ok(())
    }

    async fn is_gone(&self, job: &JobKey) -> Result<bool, kube::Error> {
        let known = || self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        if known().contains(&job.uid) {
            return Ok(true);
        }
        let api: Api<FleetJob> = Api::namespaced(self.client.clone(), &job.namespace);
        let there = api.get_metadata_opt(&job.name).await?;
        if there.is_some_and(|j| j.metadata.uid.as_deref() == Some(job.uid.as_str())) {
            return Ok(false);
        }
        let mut gone = known();
        if gone.len() >= MOST_GONE {
            gone.clear();
        }
        gone.insert(job.uid.clone());
        Ok(true)
    }

    async fn let_go(&self, namespace: &str, name: &str, uid: &str, finalizers: &[String]) -> Result<(), OrphanError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        apply::remove_finalizer(&api, name, uid, finalizers, finalizer::TRACKING, FIELD_MANAGER).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
