//! The leader's watches: what changed, and what is to be looked at because of it.
//!
//! One watch per kind. Each folds what it sees into a store or an index and sends the jobs and pools that this touches to the
//! controllers. Owned by `run`; made anew by every leader, so that nothing older than its leadership is believed. Never: a
//! malformed object that hides the others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kerbside_api::v1alpha1::{FleetJob, Vehicle, VehiclePool};
use kerbside_core::job::ConditionKind;
use kerbside_core::names::label;
use kerbside_k8s::conditions;
use kube::api::Api;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Client, Resource, ResourceExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::attempts::{AttemptIndex, JobKey};
use crate::metrics::Metrics;
use crate::orphans::Orphan;
use crate::vehicle_pool::VehicleIndex;

/// A pool is looked at at most so often because of its cars: of 100,000 some change all the time.
const POOLS_EVERY: Duration = Duration::from_secs(1);

type Guarded<K> = DeserializeGuard<K>;

/// What the watches keep.
#[derive(Clone)]
pub(crate) struct Caches {
    pub(crate) jobs: Store<Guarded<FleetJob>>,
    pub(crate) pools: Store<Guarded<VehiclePool>>,
    pub(crate) namespaces: Store<PartialObjectMeta<Namespace>>,
    pub(crate) attempts: Arc<AttemptIndex>,
    pub(crate) vehicles: Arc<VehicleIndex>,
}

/// What the watches send.
pub(crate) struct Queues {
    pub(crate) jobs: UnboundedReceiver<ObjectRef<Guarded<FleetJob>>>,
    pub(crate) pools: UnboundedReceiver<ObjectRef<Guarded<VehiclePool>>>,
    pub(crate) orphans: UnboundedReceiver<Orphan>,
}

/// Says who is to be looked at. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Triggers {
    caches: Caches,
    jobs: UnboundedSender<ObjectRef<Guarded<FleetJob>>>,
    pools: UnboundedSender<ObjectRef<Guarded<VehiclePool>>>,
    orphans: UnboundedSender<Orphan>,
}

/// The writing ends of the caches.
pub(crate) struct Writers {
    jobs: Writer<Guarded<FleetJob>>,
    pools: Writer<Guarded<VehiclePool>>,
    namespaces: Writer<PartialObjectMeta<Namespace>>,
}

/// Empty caches, and what connects them to the controllers.
pub(crate) fn new() -> (Caches, Writers, Triggers, Queues) {
    let ((jobs, jobs_writer), (pools, pools_writer)) = (reflector::store(), reflector::store());
    let (namespaces, namespaces_writer) = reflector::store();
    let caches = Caches {
        jobs,
        pools,
        namespaces,
        attempts: Arc::default(),
        vehicles: Arc::default(),
    };
    let ((jobs_tx, jobs_rx), (pools_tx, pools_rx), (orphans_tx, orphans_rx)) = (unbounded(), unbounded(), unbounded());
    let writers = Writers {
        jobs: jobs_writer,
        pools: pools_writer,
        namespaces: namespaces_writer,
    };
    let triggers = Triggers {
        caches: caches.clone(),
        jobs: jobs_tx,
        pools: pools_tx,
        orphans: orphans_tx,
    };
    (
        caches,
        writers,
        triggers,
        Queues {
            jobs: jobs_rx,
            pools: pools_rx,
            orphans: orphans_rx,
        },
    )
}

/// What every watch runs with.
pub(crate) struct Watching<'a> {
    pub(crate) client: &'a Client,
    pub(crate) metrics: &'a Metrics,
    pub(crate) tasks: &'a TaskTracker,
    pub(crate) stop: &'a CancellationToken,
}

impl Watching<'_> {
    /// Starts all watches; returns when each has listed what there is, or when it is told to stop.
    pub(crate) async fn start(&self, writers: Writers, triggers: &Triggers) {
        let Writers {
            mut jobs,
            mut pools,
            mut namespaces,
        } = writers;
        let all = watcher::Config::default;
        let t = triggers.clone();
        let jobs = self.watch(all(), move |event| t.job(&mut jobs, &event));
        let t = triggers.clone();
        let pools = self.watch(all(), move |event| t.pool(&mut pools, &event));
        let t = triggers.clone();
        let namespaces = self.watch(all(), move |event| t.namespace(&mut namespaces, &event));
        let t = triggers.clone();
        let pods = self.watch(all().labels(label::JOB_UID), move |event| t.pod(event));
        let (t, (touched, flush)) = (triggers.clone(), unbounded());
        let vehicles = self.watch(all(), move |event: Event<Guarded<Vehicle>>| {
            for pool in t.caches.vehicles.fold(event) {
                let _ = touched.unbounded_send(pool);
            }
        });
        self.tasks.spawn(triggers.clone().flush_pools(flush, self.stop.clone()));
        for listed in [jobs, pools, namespaces, pods, vehicles] {
            let _ = self.stop.run_until_cancelled(listed.cancelled()).await;
        }
    }

    /// Starts one watch; the token is cancelled when everything has been listed once.
    fn watch<K>(&self, config: watcher::Config, mut fold: impl FnMut(Event<K>) + Send + 'static) -> CancellationToken
    where
        K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
        K::DynamicType: Default,
    {
        let listed = CancellationToken::new();
        let (done, metrics) = (listed.clone(), self.metrics.clone());
        let events = watch(Api::<K>::all(self.client.clone()), config)
            .default_backoff()
            // Nobody reads them, and they are half of what an object weighs.
            .modify(|object| object.managed_fields_mut().clear())
            .take_until(self.stop.clone().cancelled_owned());
        self.tasks.spawn(events.for_each(move |event| {
            match event {
                Ok(event) => {
                    let is_done = matches!(event, Event::InitDone);
                    fold(event);
                    if is_done {
                        done.cancel();
                    }
                }
                Err(error) => {
                    let kind = K::kind(&K::DynamicType::default()).into_owned();
                    tracing::warn!(%kind, %error, "a watch failed and goes on");
                    metrics.watch_failed(&kind);
                }
            }
            std::future::ready(())
        }));
        listed
    }
}

impl Triggers {
    /// A FleetJob: looked at when its spec changed, not when its status did, which is our own doing.
    pub(crate) fn job(&self, writer: &mut Writer<Guarded<FleetJob>>, event: &Event<Guarded<FleetJob>>) {
        let old = match event {
            Event::Apply(job) => self.caches.jobs.get(&ObjectRef::from_obj(job)),
            _ => None,
        };
        writer.apply_watcher_event(event);
        match event {
            Event::Apply(job) if old.is_none_or(|old| revision(&*old) != revision(job)) => {
                self.send_job(ObjectRef::from_obj(job));
            }
            Event::Delete(job) => {
                if let Some(key) = job_key(job) {
                    let _ = self.orphans.unbounded_send(Orphan::Attempts(key));
                }
            }
            Event::InitDone => {
                self.caches
                    .jobs
                    .state()
                    .iter()
                    .for_each(|job| self.send_job(ObjectRef::from_obj(&**job)));
                // Jobs that went while nobody watched.
                self.caches
                    .attempts
                    .jobs()
                    .into_iter()
                    .for_each(|key| self.attempts_of(key));
            }
            _ => {}
        }
    }

    /// A VehiclePool, and the jobs that name it.
    pub(crate) fn pool(&self, writer: &mut Writer<Guarded<VehiclePool>>, event: &Event<Guarded<VehiclePool>>) {
        let old = match event {
            Event::Apply(pool) => self.caches.pools.get(&ObjectRef::from_obj(pool)),
            _ => None,
        };
        writer.apply_watcher_event(event);
        match event {
            Event::Apply(pool) if old.is_some_and(|old| revision(&*old) == revision(pool)) => {}
            Event::Apply(pool) => {
                let _ = self.pools.unbounded_send(ObjectRef::from_obj(pool));
                self.jobs_where(|job| job.spec.pools.contains(&pool.name_any()));
            }
            Event::Delete(pool) => self.jobs_where(|job| job.spec.pools.contains(&pool.name_any())),
            Event::InitDone => {
                for pool in self.caches.pools.state() {
                    let _ = self.pools.unbounded_send(ObjectRef::from_obj(&*pool));
                }
                self.jobs_where(|_| true);
            }
            Event::Init | Event::InitApply(_) => {}
        }
    }

    /// A namespace's labels, which pools select by.
    pub(crate) fn namespace(
        &self,
        writer: &mut Writer<PartialObjectMeta<Namespace>>,
        event: &Event<PartialObjectMeta<Namespace>>,
    ) {
        let old = match event {
            Event::Apply(namespace) => self.caches.namespaces.get(&ObjectRef::from_obj(namespace)),
            _ => None,
        };
        writer.apply_watcher_event(event);
        match event {
            Event::Apply(namespace) if old.is_none_or(|old| old.labels() != namespace.labels()) => {
                let name = namespace.name_any();
                self.jobs_where(|job| job.metadata.namespace.as_deref() == Some(&name));
            }
            Event::InitDone => self.jobs_where(|_| true),
            _ => {}
        }
    }

    /// A Pod of a job.
    pub(crate) fn pod(&self, event: Event<Pod>) {
        let touched = self.caches.attempts.fold(event);
        touched.jobs.into_iter().for_each(|key| self.attempts_of(key));
        for stray in touched.strays {
            let _ = self.orphans.unbounded_send(Orphan::Stray(stray));
        }
    }

    /// The job, if it is there; else its attempts may be orphans.
    fn attempts_of(&self, key: JobKey) {
        let job = ObjectRef::new(&key.name).within(&key.namespace);
        let there = self.caches.jobs.get(&job);
        if there.is_some_and(|j| j.meta().uid.as_deref() == Some(key.uid.as_str())) {
            self.send_job(job);
        } else {
            let _ = self.orphans.unbounded_send(Orphan::Attempts(key));
        }
    }

    fn jobs_where(&self, matches: impl Fn(&FleetJob) -> bool) {
        for job in self.caches.jobs.state() {
            if job.0.as_ref().is_ok_and(&matches) {
                self.send_job(ObjectRef::from_obj(&*job));
            }
        }
    }

    /// Sending fails only when the controller has ended, and then nobody needs it.
    fn send_job(&self, job: ObjectRef<Guarded<FleetJob>>) {
        let _ = self.jobs.unbounded_send(job);
    }

    /// Collects the pools whose cars changed and sends each once a second, and with them the jobs that nobody accepted.
    async fn flush_pools(self, mut touched: UnboundedReceiver<String>, stop: CancellationToken) {
        while let Some(Some(first)) = stop.run_until_cancelled(touched.next()).await {
            if stop
                .run_until_cancelled(tokio::time::sleep(POOLS_EVERY))
                .await
                .is_none()
            {
                return;
            }
            let mut pools = BTreeSet::from([first]);
            while let Ok(pool) = touched.try_recv() {
                pools.insert(pool);
            }
            self.jobs_where(|job| job.spec.pools.iter().any(|p| pools.contains(p)) && nobody_accepts(job));
            for pool in pools {
                let _ = self.pools.unbounded_send(ObjectRef::new(&pool));
            }
        }
    }
}

fn nobody_accepts(job: &FleetJob) -> bool {
    let kind = ConditionKind::NoVehicleAccepts.as_str();
    job.status
        .as_ref()
        .is_some_and(|s| conditions::is_true(&s.conditions, kind))
}

/// What changes with an object's spec: its generation, which a deletion raises too, and its UID.
fn revision<K: Resource>(object: &K) -> (Option<i64>, Option<String>, bool) {
    let meta = object.meta();
    (meta.generation, meta.uid.clone(), meta.deletion_timestamp.is_some())
}

fn job_key(job: &Guarded<FleetJob>) -> Option<JobKey> {
    let uid = job.meta().uid.as_deref()?.parse().ok()?;
    Some(JobKey {
        namespace: job.namespace()?,
        name: job.name_any(),
        uid,
    })
}

#[cfg(test)]
mod tests;
