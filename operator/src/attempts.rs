//! Attempts by job, folded from the one watch on FleetJobs' Pods: what a plan and the ledger need of each, and nothing more.
//!
//! Written by the Pod watch and, for Pods just created, by `apply`; read by the FleetJob reconciler, which never lists. A fact
//! about a Pod never goes back in time. Locks are held for a fold or a copy, never across an await.

mod limit;
mod read;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kerbside_core::ids::{JobUid, PodUid};
use kerbside_core::job::{Attempt, Phase};
use kerbside_core::names::label;
use kube::runtime::watcher::Event;
use tokio::time::Instant;

/// A Pod that was created and is not in the watch after this long is forgotten: the watch is the truth, and making the attempt
/// again is refused by its name.
const CREATED_FOR: Duration = Duration::from_secs(30);

/// A FleetJob as its Pods name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct JobKey {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: JobUid,
}

/// One attempt, what its Pod's writes need, and what its closing says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) attempt: Attempt,
    /// `metadata.resourceVersion`: the precondition of a write that is wrong if the Pod has changed since.
    pub(crate) version: String,
    /// All finalizers, in order: a patch that takes ours off tests its place.
    pub(crate) finalizers: Vec<String>,
    /// When the adapter heard that a program of it runs or has run.
    pub(crate) started_at: Option<Timestamp>,
    /// When the adapter knew that none runs any more.
    pub(crate) stopped_at: Option<Timestamp>,
    /// The processor that it can use at most, in thousandths of a core; `None`: its containers are not limited.
    pub(crate) milli_cpu: Option<u64>,
    /// What cars are paid for it, as it was fixed when the Pod was made. Every attempt of a plan is copied, so this is shared.
    pub(crate) terms: Option<Arc<str>>,
}

/// A Pod that carries our finalizer and belongs to no FleetJob any more (`--cascade=orphan`): nobody else would let it go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stray {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: PodUid,
    pub(crate) finalizers: Vec<String>,
}

/// What one Pod is to us.
#[derive(Debug, Clone, PartialEq)]
enum Known {
    Attempt(JobKey, Box<Seen>),
    Stray(Stray),
}

/// What a change asks for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Touched {
    /// Jobs to plan again.
    pub(crate) jobs: BTreeSet<JobKey>,
    /// Pods to let go.
    pub(crate) strays: BTreeSet<Stray>,
}

type PodKey = (String, String);

#[derive(Debug, Default)]
struct Pods {
    by_key: HashMap<PodKey, Known>,
    by_job: HashMap<JobUid, BTreeSet<PodKey>>,
    /// Those of a list that is still coming in.
    listing: Vec<(PodKey, Known)>,
    /// Created and not seen yet.
    created: HashMap<JobUid, HashMap<PodUid, (Instant, Seen)>>,
}

/// All attempts.
#[derive(Debug, Default)]
pub(crate) struct AttemptIndex(RwLock<Pods>);

impl AttemptIndex {
    /// Folds one event in.
    pub(crate) fn fold(&self, event: Event<Pod>) -> Touched {
        let mut pods = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut touched = Touched::default();
        match event {
            Event::Apply(pod) => match known(&pod) {
                Some((key, now)) => pods.put(key, now, &mut touched),
                None => pods.take(&key(&pod), &mut touched),
            },
            Event::Delete(pod) => pods.take(&key(&pod), &mut touched),
            Event::Init => pods.listing.clear(),
            Event::InitApply(pod) => pods.listing.extend(known(&pod)),
            Event::InitDone => {
                let listed = std::mem::take(&mut pods.listing);
                let old = std::mem::take(&mut pods.by_key);
                pods.by_job.clear();
                // What was created before this list began is in it, unless it is gone.
                pods.created.clear();
                for (key, now) in listed {
                    pods.put(key, now, &mut touched);
                }
                touched.jobs.extend(old.into_values().filter_map(Known::job));
            }
        }
        touched
    }

    /// Remembers a Pod that was just created, until the watch shows it.
    pub(crate) fn created(&self, pod: &Pod) {
        let Some((key, Known::Attempt(job, seen))) = known(pod) else {
            return;
        };
        let mut pods = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if pods.by_key.get(&key).is_none_or(|k| k.uid() != &seen.attempt.uid) {
            let uid = seen.attempt.uid.clone();
            pods.created
                .entry(job.uid)
                .or_default()
                .insert(uid, (Instant::now(), *seen));
        }
    }

    /// The attempts of a job that can matter, by index and ordinal. Those that have ended and been let go, of an index that
    /// `is_over`, cannot: of a job of 100,000 indexes they are nearly all.
    pub(crate) fn of(&self, job: &JobUid, is_over: impl Fn(u32) -> bool) -> Vec<Seen> {
        let pods = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let keys = pods.by_job.get(job).into_iter().flatten();
        let watched = keys.filter_map(|key| match pods.by_key.get(key) {
            Some(Known::Attempt(_, seen)) if matters(&seen.attempt, &is_over) => Some((**seen).clone()),
            _ => None,
        });
        let created = pods.created.get(job).into_iter().flat_map(HashMap::values);
        let created = created
            .filter(|(at, _)| at.elapsed() < CREATED_FOR)
            .map(|(_, seen)| seen.clone());
        let mut all: Vec<Seen> = watched.chain(created).collect();
        all.sort_by(|a, b| {
            let by = |s: &Seen| (s.attempt.index, s.attempt.ordinal);
            by(a).cmp(&by(b)).then_with(|| a.attempt.uid.cmp(&b.attempt.uid))
        });
        all
    }

    /// Forgets what was created for a job that is gone.
    pub(crate) fn forget(&self, job: &JobUid) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .created
            .remove(job);
    }

    /// Jobs that have attempts.
    pub(crate) fn jobs(&self) -> BTreeSet<JobKey> {
        let pods = self.0.read().unwrap_or_else(PoisonError::into_inner);
        pods.by_key.values().cloned().filter_map(Known::job).collect()
    }
}

impl Known {
    fn job(self) -> Option<JobKey> {
        match self {
            Self::Attempt(job, _) => Some(job),
            Self::Stray(_) => None,
        }
    }

    /// Whether nothing that a plan follows from has changed; the version alone is nothing.
    fn says_the_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Attempt(job, seen), Self::Attempt(other_job, other)) => {
                job == other_job && seen.attempt == other.attempt && seen.finalizers == other.finalizers
            }
            (Self::Stray(stray), Self::Stray(other)) => stray == other,
            _ => false,
        }
    }

    fn uid(&self) -> &PodUid {
        match self {
            Self::Attempt(_, seen) => &seen.attempt.uid,
            Self::Stray(stray) => &stray.uid,
        }
    }
}

impl Pods {
    fn put(&mut self, key: PodKey, now: Known, touched: &mut Touched) {
        if let Some(old) = self.by_key.get_mut(&key)
            && old.says_the_same_as(&now)
        {
            // The version is newer all the same, and the next write needs it.
            *old = now;
            return;
        }
        self.take(&key, touched);
        match &now {
            Known::Attempt(job, seen) => {
                self.by_job.entry(job.uid.clone()).or_default().insert(key.clone());
                self.seen(&job.uid, &seen.attempt.uid);
                touched.jobs.insert(job.clone());
            }
            Known::Stray(stray) => {
                touched.strays.insert(stray.clone());
            }
        }
        self.by_key.insert(key, now);
    }

    fn take(&mut self, key: &PodKey, touched: &mut Touched) {
        let Some(Known::Attempt(job, seen)) = self.by_key.remove(key) else {
            return;
        };
        if let Some(keys) = self.by_job.get_mut(&job.uid) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_job.remove(&job.uid);
            }
        }
        self.seen(&job.uid, &seen.attempt.uid);
        touched.jobs.insert(job);
    }

    fn seen(&mut self, job: &JobUid, uid: &PodUid) {
        if let Some(created) = self.created.get_mut(job) {
            created.remove(uid);
            if created.is_empty() {
                self.created.remove(job);
            }
        }
    }
}

fn matters(attempt: &Attempt, is_over: impl Fn(u32) -> bool) -> bool {
    let has_ended = matches!(attempt.phase, Phase::Succeeded | Phase::Failed);
    attempt.has_finalizer || !has_ended || !is_over(attempt.index)
}

/// The attempt that a Pod was which lost its FleetJob, by what its labels say.
pub(crate) fn of_stray(pod: &Pod) -> Option<(JobUid, Seen)> {
    let job = pod.metadata.labels.as_ref()?.get(label::JOB_UID)?.parse().ok()?;
    Some((job, read::seen(pod)?))
}

fn key(pod: &Pod) -> PodKey {
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    (text(&pod.metadata.namespace), text(&pod.metadata.name))
}

fn known(pod: &Pod) -> Option<(PodKey, Known)> {
    if let Some((job, seen)) = read::attempt(pod) {
        return Some((key(pod), Known::Attempt(job, Box::new(seen))));
    }
    read::stray(pod).map(|stray| (key(pod), Known::Stray(stray)))
}

#[cfg(test)]
mod tests;
