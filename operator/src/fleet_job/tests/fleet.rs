//! A job, an operator that can die and be started again, and a fleet whose cars do with each attempt what a script says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kerbside_api::v1alpha1::{FleetJob, FleetJobStatus};
use kerbside_core::names::annotation;
use kerbside_k8s::events::{self, Broadcaster, Recorder};
use kube::ResourceExt;
use kube::runtime::reflector;
use kube::runtime::watcher::Event;
use object_store::memory::InMemory;
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::*;
use crate::acceptance;
use crate::testing::fake_api::{FakeApi, Fate};
use crate::testing::{HandClock, seal};

pub(crate) const NAMESPACE: &str = "vision";
pub(crate) const JOB: &str = "digits";

/// What becomes of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Succeeds,
    Fails,
    IsDisrupted,
    IsRefused,
    /// Stays at work.
    Works,
}

/// What each attempt of an index ends with; the last holds for all that follow.
pub(crate) type Script = BTreeMap<u32, Vec<End>>;

/// What the cars really did, by Pod UID.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Truth {
    pub(crate) succeeded: BTreeSet<String>,
    pub(crate) failed: BTreeSet<String>,
    pub(crate) disrupted: BTreeSet<String>,
    pub(crate) refused: BTreeSet<String>,
}

impl Truth {
    pub(crate) fn total(&self) -> usize {
        [&self.succeeded, &self.failed, &self.disrupted, &self.refused]
            .into_iter()
            .map(BTreeSet::len)
            .sum()
    }
}

pub(crate) struct Fleet {
    pub(crate) api: FakeApi,
    pub(crate) store: ResultStore,
    pub(crate) clock: Arc<HandClock>,
    pub(crate) script: Script,
    pub(crate) truth: Truth,
}

/// One life of the operator.
pub(crate) struct Operator {
    pub(crate) ctx: Arc<Context>,
    broadcaster: tokio::sync::Mutex<Broadcaster>,
}

pub(crate) fn guard<K: DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

pub(crate) fn pool() -> Value {
    json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "VehiclePool", "metadata": { "name": "overnight" },
        "spec": { "allowedNamespaces": { "from": "Selector", "selector": { "matchLabels": { "team": "vision" } } } },
    })
}

pub(crate) fn job(spec: &Value) -> Value {
    let mut job = json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob",
        "metadata": { "name": JOB, "namespace": NAMESPACE, "uid": "job-uid", "generation": 1 },
        "spec": {
            "pools": ["overnight"], "class": "inference", "completions": 1, "parallelism": 10,
            "template": { "spec": { "containers": [{ "name": "main", "image": "x" }] } },
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    job
}

impl Fleet {
    pub(crate) fn new(spec: &Value, script: Script) -> Self {
        let api = FakeApi::new();
        api.put("fleetjobs", job(spec));
        api.put("vehiclepools", pool());
        let store = ResultStore::over(Arc::new(InMemory::new()));
        Self {
            api,
            store,
            clock: HandClock::new(),
            script,
            truth: Truth::default(),
        }
    }

    /// A new life of the operator, which has listed everything.
    pub(crate) fn operator(&self, fate: Fate) -> Operator {
        let client = self.api.client(fate);
        let (pools, mut pools_writer) = reflector::store();
        for pool in self.api.all::<Value>("vehiclepools") {
            pools_writer.apply_watcher_event(&Event::Apply(guard(pool)));
        }
        let (namespaces, mut namespaces_writer) = reflector::store();
        let namespace = json!({ "metadata": { "name": NAMESPACE, "labels": { "team": "vision" } } });
        namespaces_writer.apply_watcher_event(&Event::Apply(guard(namespace)));
        let (events, broadcaster) = events::queue(Recorder::new(&client, "kerbside-operator", None));
        let (vehicles, clock) = (Arc::default(), Arc::clone(&self.clock) as Arc<dyn Clock>);
        let ctx = Arc::new(Context {
            events,
            client,
            store: self.store.clone(),
            closings: Closings::new(self.store.clone(), Arc::clone(&vehicles), Arc::clone(&clock)),
            pools,
            namespaces,
            attempts: Arc::default(),
            vehicles,
            memory: Arc::default(),
            metrics: Metrics::new(&mut Registry::default()),
            clock,
            failures: Failures::default(),
        });
        let broadcaster = broadcaster.into();
        Operator { ctx, broadcaster }
    }

    /// The operator's Pod watch catches up.
    pub(crate) fn watch(&self, operator: &Operator) {
        operator.ctx.attempts.fold(Event::Init);
        for pod in self.api.all::<Pod>("pods") {
            operator.ctx.attempts.fold(Event::InitApply(pod));
        }
        operator.ctx.attempts.fold(Event::InitDone);
    }

    pub(crate) fn job(&self) -> FleetJob {
        self.api.get("fleetjobs", NAMESPACE, JOB)
    }

    pub(crate) fn status(&self) -> FleetJobStatus {
        self.job().status.unwrap_or_default()
    }

    pub(crate) fn is(&self, condition: &str) -> bool {
        self.status()
            .conditions
            .iter()
            .any(|c| c.type_ == condition && c.status == "True")
    }

    pub(crate) fn pods(&self) -> Vec<Pod> {
        self.api.all("pods")
    }

    /// The watch catches up and the job is reconciled, with the job as the server has it.
    pub(crate) async fn reconcile(&self, operator: &Operator) -> Result<Action, Error> {
        self.watch(operator);
        self.reconcile_blindly(operator).await
    }

    /// The job is reconciled with the Pods that the operator saw last.
    pub(crate) async fn reconcile_blindly(&self, operator: &Operator) -> Result<Action, Error> {
        let job: DeserializeGuard<FleetJob> = guard(self.api.get("fleetjobs", NAMESPACE, JOB));
        let result = reconcile(Arc::new(job), Arc::clone(&operator.ctx)).await;
        operator.broadcaster.lock().await.drain().await;
        result
    }

    /// Changes a Pod as the adapter does.
    pub(crate) fn change_pod(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.api.change(&("pods".into(), NAMESPACE.into(), name.into()), change);
    }

    /// Changes the job as a user does.
    pub(crate) fn change_job(&self, change: impl FnOnce(&mut Value)) {
        self.api
            .change(&("fleetjobs".into(), NAMESPACE.into(), JOB.into()), |job| {
                change(job);
                job["metadata"]["generation"] = (job["metadata"]["generation"].as_i64().unwrap() + 1).into();
            });
    }

    /// Every attempt that is at work ends as the script says; what is being deleted is stopped.
    pub(crate) async fn work(&mut self) {
        for pod in self.pods() {
            let phase = pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
            if matches!(phase.as_str(), "Succeeded" | "Failed") {
                continue;
            }
            let number = |key: &str| pod.annotations()[key].parse::<u32>().unwrap();
            let index = number(annotation::INDEX);
            let accepted = acceptance::result(&self.store, NAMESPACE, "job-uid", index).await;
            assert!(
                accepted.is_err(),
                "index {index} has a result and is run again by {}",
                pod.name_any()
            );
            let (name, uid) = (pod.name_any(), pod.uid().unwrap());
            if pod.metadata.deletion_timestamp.is_some() {
                self.change_pod(&name, |p| {
                    p["status"] = ended("Failed", &[("kerbside.dev/Stopped", "Reported")]);
                });
                continue;
            }
            let ends = &self.script[&index];
            let nth = usize::try_from(number(annotation::ORDINAL))
                .unwrap()
                .min(ends.len() - 1);
            self.end(&name, &uid, ends[nth]).await;
        }
    }

    async fn end(&mut self, name: &str, uid: &str, end: End) {
        let stopped = ("kerbside.dev/Stopped", "Reported");
        let car = "car-aaaaaaaaaaaaaaaa";
        match end {
            End::Works => {
                self.change_pod(name, |p| {
                    p["spec"]["nodeName"] = car.into();
                    p["status"] = json!({ "phase": "Running" });
                });
            }
            End::Succeeds => {
                seal(&self.store, NAMESPACE, uid, uid.as_bytes()).await;
                self.truth.succeeded.insert(uid.to_owned());
                self.change_pod(name, |p| {
                    p["spec"]["nodeName"] = car.into();
                    p["status"] = ended("Succeeded", &[stopped]);
                });
            }
            End::Fails => {
                self.truth.failed.insert(uid.to_owned());
                self.change_pod(name, |p| p["status"] = ended("Failed", &[stopped]));
            }
            End::IsRefused => {
                self.truth.refused.insert(uid.to_owned());
                self.change_pod(name, |p| {
                    p["spec"]["nodeName"] = car.into();
                    p["status"] = ended("Failed", &[stopped, ("kerbside.dev/Refused", "OwnerPaused")]);
                });
            }
            End::IsDisrupted => {
                self.truth.disrupted.insert(uid.to_owned());
                self.change_pod(name, |p| {
                    p["spec"]["nodeName"] = car.into();
                    p["status"] = ended("Failed", &[stopped, ("DisruptionTarget", "VehicleDeparted")]);
                    // The adapter deletes what a departure ended; the finalizer keeps it.
                    p["metadata"]["deletionTimestamp"] = "2026-11-23T11:00:00Z".into();
                });
            }
        }
    }

    /// Reconciles and works in turns until the job has ended or the operator has died.
    pub(crate) async fn run(&mut self, operator: &Operator) {
        for _ in 0..60 {
            let _ = self.reconcile(operator).await;
            if self.api.died() || self.is("Complete") || self.is("Failed") {
                return;
            }
            self.work().await;
            // Past every back-off and every write that may wait.
            self.clock.advance(700);
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        panic!("the job does not end: {:#?}", self.status());
    }
}

/// A terminal status with conditions that are True.
pub(crate) fn ended(phase: &str, conditions: &[(&str, &str)]) -> Value {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(t, r)| json!({ "type": t, "status": "True", "reason": r }))
        .collect();
    json!({ "phase": phase, "conditions": conditions })
}
