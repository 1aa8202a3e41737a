//! FleetJobs in a test's world: made from the examples, watched to their end, their results collected.
//!
//! Called by cluster tests. A job is always an example's manifest with the test's changes: what users copy is what is tested.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kerbside_api::v1alpha1::{FleetJob, FleetJobStatus};
use kerbside_core::names::{condition, label};
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::watcher::{Event, watcher};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::World;
use crate::{install, tools, wait};

impl World {
    /// The last object of an example's manifest with the testbed's registry, the test's namespace and the test's pool in it.
    pub fn example(&self, file: &str) -> Result<Value> {
        let objects = self.example_objects(file)?;
        objects
            .into_iter()
            .next_back()
            .with_context(|| format!("{file} is empty"))
    }

    /// Every object of it.
    pub fn example_objects(&self, file: &str) -> Result<Vec<Value>> {
        let path = tools::checkout()?.join("examples").join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        let text = text.replace("${REGISTRY}", &self.bed.endpoints.registry);
        let documents = install::documents(&text)?;
        Ok(documents.into_iter().map(|document| self.placed(document)).collect())
    }

    fn placed(&self, mut value: Value) -> Value {
        value["metadata"]["namespace"] = self.name.as_str().into();
        match value["kind"].as_str() {
            Some("FleetJob") => value["spec"]["pools"] = vec![self.name.as_str()].into(),
            // Any vehicle would do for these: kept off the cars of other tests, which come and go.
            Some("Deployment" | "Job") => {
                value["spec"]["template"]["spec"]["nodeSelector"] = json!({label::POOL: self.name});
            }
            _ => {}
        }
        value
    }

    /// The test's FleetJobs.
    pub fn jobs(&self) -> Api<FleetJob> {
        Api::namespaced(self.client(), &self.name)
    }

    /// Applies a manifest as a user does; what `kubectl apply` says when it refuses becomes the error.
    pub async fn apply(&self, manifest: &Value) -> Result<()> {
        let text = serde_json::to_string(manifest).context("failed to render JSON")?;
        self.kubectl().run(&["apply", "-f", "-"], &text).await.map(drop)
    }

    /// Applies a manifest that must be refused; gives what the user reads.
    pub async fn refused(&self, manifest: &Value) -> Result<String> {
        let text = serde_json::to_string(manifest).context("failed to render JSON")?;
        let output = self.kubectl().attempt(&["apply", "-f", "-"], &text).await?;
        if output.success {
            bail!("the API server accepted what it had to refuse: {text}");
        }
        Ok(output.stderr)
    }

    /// Waits until `condition` gives something for the job.
    pub async fn job<T>(
        &self,
        name: &str,
        what: &str,
        condition: impl Fn(&FleetJob, &FleetJobStatus) -> Option<T>,
    ) -> Result<T> {
        wait::object(&self.jobs(), name, what, super::DEADLINE, |job| {
            let job = job?;
            condition(job, job.status.as_ref()?)
        })
        .await
    }

    /// Waits until the job is over, within `deadline`; gives its last status. Its failing is an error.
    pub async fn complete(&self, name: &str, deadline: Duration) -> Result<FleetJobStatus> {
        let what = format!("job {name} to be complete");
        let jobs = self.jobs();
        let ended = wait::object(&jobs, name, &what, deadline, |job| {
            let status = job?.status.as_ref()?;
            let ended = has(status, "Complete") || has(status, "Failed");
            ended.then(|| status.clone())
        });
        let status = ended.await?;
        if has(&status, "Failed") {
            let why = status
                .conditions
                .iter()
                .find(|c| c.type_ == "Failed")
                .map(|c| c.message.clone());
            bail!("job {name} failed: {}", why.unwrap_or_default());
        }
        Ok(status)
    }

    /// Collects the job's accepted results into a fresh directory of the test.
    pub async fn results(&self, job: &str) -> Result<PathBuf> {
        let dir = self.bed.layout.dir(&format!("results/{}/{job}", self.name))?;
        self.bed.results(&self.name, job, &dir).await?;
        Ok(dir)
    }

    /// Records every attempt of every job of the test from now on.
    pub fn record(&self) -> Record {
        let (send, seen) = watch::channel(BTreeMap::new());
        let api = self.pods();
        let task = tokio::spawn(async move {
            let mut stream = std::pin::pin!(watcher(api, kube::runtime::watcher::Config::default()));
            while let Some(event) = futures::StreamExt::next(&mut stream).await {
                // The watch mends itself after an error.
                let Ok(Event::Apply(pod) | Event::InitApply(pod) | Event::Delete(pod)) = event else {
                    continue;
                };
                send.send_modify(|all: &mut BTreeMap<String, Pod>| {
                    all.insert(pod.uid().unwrap_or_default(), pod);
                });
            }
        });
        Record {
            seen,
            task: task.abort_handle(),
        }
    }
}

/// Whether the condition is there and True.
pub fn has(status: &FleetJobStatus, type_: &str) -> bool {
    status.conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

/// Every attempt that there was, in its last state, by UID.
pub struct Record {
    seen: watch::Receiver<BTreeMap<String, Pod>>,
    task: AbortHandle,
}

impl Record {
    /// All of them now.
    pub fn attempts(&self) -> Vec<Pod> {
        self.seen.borrow().values().cloned().collect()
    }

    /// Indexes of which an attempt was made after another of the same index had succeeded, and ran: there must be none. One that was made because
    /// its car was not heard, and that the other's result forestalled, is no such thing.
    pub fn repeated(&self) -> BTreeSet<u32> {
        let all = self.attempts();
        let made = |p: &Pod| p.creation_timestamp().map(|t| t.0);
        let mut repeated = BTreeSet::new();
        for done in all.iter().filter(|p| super::phase(p) == "Succeeded") {
            let finished = done
                .status
                .as_ref()
                .and_then(|s| s.container_statuses.as_ref())
                .and_then(|c| {
                    c.iter()
                        .filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.clone())
                        .map(|t| t.0)
                        .max()
                });
            let Some(finished) = finished else { continue };
            let ran = |p: &Pod| super::condition(p, condition::STARTED).is_some_and(|(status, _)| status == "True");
            let later = |p: &&Pod| {
                super::index(p) == super::index(done) && p.uid() != done.uid() && made(p) > Some(finished) && ran(p)
            };
            repeated.extend(all.iter().filter(later).filter_map(super::index));
        }
        repeated
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.task.abort();
    }
}
