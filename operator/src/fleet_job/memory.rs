//! What the reconciler remembers of each job between two turns, all of it an optimisation or a guard against stale caches:
//! nothing is lost with it.
//!
//! Owned by the FleetJob reconciler. A plan is made only on a ledger not older than the one written last, and the cache may be
//! older: so the object that the API server returned for the last write is kept until the cache has caught up.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kerbside_api::v1alpha1::FleetJob;
use kerbside_core::ids::{JobUid, PodUid};
use kerbside_core::job::Refusals;
use kube::ResourceExt;
use tokio::time::Instant;

/// After this long without a trace in the cache the patch is repeated; somebody may have put the finalizer back.
const LET_GO_FOR: Duration = Duration::from_secs(30);
/// From then on those whose time is over are thrown out.
const MANY_LET_GO: usize = 1_024;

#[derive(Debug, Default)]
struct Job {
    /// As the API server returned it for the last write of its status.
    written: Option<Arc<FleetJob>>,
    written_at: Option<Instant>,
    refusals: Refusals,
    /// Pods that were let go, and when: the cache may not show it yet.
    let_go: HashMap<PodUid, Instant>,
    /// Pods that are held and whose attempts are closed.
    closed: HashSet<PodUid>,
    /// Pods that are held and whose attempts could not be closed: by which try of the job's they were tried last.
    unclosed: HashMap<PodUid, u64>,
    /// How often an attempt of a held Pod was tried to be closed.
    tries: u64,
    /// The generation whose first Pod the API server has accepted in a dry run.
    tried: Option<i64>,
}

/// What is remembered of all jobs.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<HashMap<JobUid, Job>>);

impl Memory {
    fn with<T>(&self, uid: &JobUid, work: impl FnOnce(&mut Job) -> T) -> T {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !jobs.contains_key(uid) {
            jobs.insert(uid.clone(), Job::default());
        }
        work(jobs.get_mut(uid).expect("it was put in if it was not there"))
    }

    /// `cached`, or what was written last if that is newer.
    pub(crate) fn newest(&self, uid: &JobUid, cached: &Arc<FleetJob>) -> Arc<FleetJob> {
        self.with(uid, |job| match job.written.take() {
            Some(written) if is_newer(&written, cached) => Arc::clone(job.written.insert(written)),
            _ => Arc::clone(cached),
        })
    }

    /// The status was written, and this is the job as it is now.
    pub(crate) fn wrote(&self, uid: &JobUid, written: FleetJob) {
        self.with(uid, |job| {
            job.written = Some(Arc::new(written));
            job.written_at = Some(Instant::now());
        });
    }

    /// How long to wait with a write that is to come at most every `seldom`; nothing if it may come now.
    pub(crate) fn write_after(&self, uid: &JobUid, seldom: Duration) -> Option<Duration> {
        let at = self.with(uid, |job| job.written_at)?;
        seldom.checked_sub(at.elapsed()).filter(|wait| !wait.is_zero())
    }

    pub(crate) fn refusals(&self, uid: &JobUid) -> Refusals {
        self.with(uid, |job| job.refusals.clone())
    }

    pub(crate) fn learned(&self, uid: &JobUid, refusals: Refusals) {
        self.with(uid, |job| job.refusals = refusals);
    }

    /// Whether the Pod was let go a moment ago, so that the patch need not be repeated.
    pub(crate) fn was_let_go(&self, uid: &JobUid, pod: &PodUid) -> bool {
        let now = Instant::now();
        self.with(uid, |job| {
            job.let_go
                .get(pod)
                .is_some_and(|at| now.duration_since(*at) < LET_GO_FOR)
        })
    }

    /// The Pod was let go.
    pub(crate) fn let_go(&self, uid: &JobUid, pod: PodUid) {
        let now = Instant::now();
        self.with(uid, |job| {
            if job.let_go.len() >= MANY_LET_GO {
                job.let_go.retain(|_, at| now.duration_since(*at) < LET_GO_FOR);
            }
            job.let_go.insert(pod, now);
        });
    }

    /// Of the job's Pods that are held, all of them, those whose attempts are still to be closed: first what was not tried yet, then what was tried
    /// longest ago. Of Pods that are held no more nothing is remembered.
    pub(crate) fn to_close(&self, uid: &JobUid, held: Vec<PodUid>) -> Vec<PodUid> {
        self.with(uid, |job| {
            {
                let still: HashSet<&PodUid> = held.iter().collect();
                job.closed.retain(|pod| still.contains(pod));
                job.unclosed.retain(|pod, _| still.contains(pod));
            }
            let mut due: Vec<PodUid> = held.into_iter().filter(|pod| !job.closed.contains(pod)).collect();
            due.sort_by_key(|pod| job.unclosed.get(pod).copied());
            due
        })
    }

    /// The attempt is about to be closed. Until it is, the others come first.
    pub(crate) fn tries_to_close(&self, uid: &JobUid, pod: PodUid) {
        self.with(uid, |job| {
            job.tries = job.tries.saturating_add(1);
            job.unclosed.insert(pod, job.tries);
        });
    }

    /// The attempt is closed.
    pub(crate) fn closed(&self, uid: &JobUid, pod: PodUid) {
        self.with(uid, |job| {
            job.unclosed.remove(&pod);
            job.closed.insert(pod);
        });
    }

    /// Whether the first Pod of this generation has been tried.
    pub(crate) fn is_tried(&self, uid: &JobUid, generation: i64) -> bool {
        self.with(uid, |job| job.tried == Some(generation))
    }

    pub(crate) fn tried(&self, uid: &JobUid, generation: i64) {
        self.with(uid, |job| job.tried = Some(generation));
    }

    /// The job is gone.
    pub(crate) fn forget(&self, uid: &JobUid) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// Resource versions are decimal numbers that rise, as Kubernetes guarantees from 1.35, and may have any number of digits.
fn is_newer(a: &FleetJob, b: &FleetJob) -> bool {
    let (a, b) = (
        a.resource_version().unwrap_or_default(),
        b.resource_version().unwrap_or_default(),
    );
    (a.len(), a) > (b.len(), b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(version: &str) -> FleetJob {
        serde_json::from_value(json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob",
            "metadata": { "name": "digits", "resourceVersion": version },
            "spec": { "pools": ["a"], "class": "x", "completions": 1, "template": {} },
        }))
        .unwrap()
    }

    #[test]
    fn job_is_never_older_than_what_was_written_last() {
        let (memory, uid) = (Memory::default(), "u".parse().unwrap());
        let newest = |cached: &str| memory.newest(&uid, &Arc::new(job(cached))).resource_version().unwrap();
        assert_eq!(newest("9"), "9");
        memory.wrote(&uid, job("10"));
        assert_eq!(newest("9"), "10", "9 is older than 10");
        assert_eq!(newest("9"), "10", "and stays so");
        assert_eq!(newest("11"), "11");
        assert_eq!(newest("10"), "10", "the cache has caught up, so it is believed");
    }

    #[tokio::test(start_paused = true)]
    async fn write_that_may_wait_waits_for_the_rest_of_its_time() {
        let (memory, uid) = (Memory::default(), "u".parse().unwrap());
        let second = Duration::from_secs(1);
        assert_eq!(memory.write_after(&uid, second), None);
        memory.wrote(&uid, job("1"));
        tokio::time::advance(second / 4).await;
        assert_eq!(memory.write_after(&uid, second), Some(second * 3 / 4));
        tokio::time::advance(second).await;
        assert_eq!(memory.write_after(&uid, second), None);
    }

    #[tokio::test(start_paused = true)]
    async fn pod_that_was_let_go_is_remembered_for_half_a_minute() {
        let (memory, uid, pod) = (Memory::default(), "u".parse().unwrap(), "p".parse().unwrap());
        assert!(!memory.was_let_go(&uid, &pod));
        memory.let_go(&uid, PodUid::clone(&pod));
        assert!(memory.was_let_go(&uid, &pod));
        tokio::time::advance(LET_GO_FOR).await;
        assert!(!memory.was_let_go(&uid, &pod));
    }

    #[test]
    fn closed_attempts_are_remembered_in_bounded_memory() {
        let (memory, uid) = (Memory::default(), "u".parse().unwrap());
        let pods = |range: std::ops::Range<usize>| -> Vec<PodUid> {
            range.map(|n| format!("p-{n}").parse().unwrap()).collect()
        };
        for pod in pods(0..5_000) {
            memory.tries_to_close(&uid, pod.clone());
            memory.closed(&uid, pod);
        }
        assert_eq!(memory.to_close(&uid, pods(0..5_001)), pods(5_000..5_001));
        memory.tries_to_close(&uid, pods(5_000..5_001).remove(0));
        let remembered = || memory.with(&uid, |job| (job.closed.len(), job.unclosed.len()));
        assert_eq!(remembered(), (5_000, 1));
        // Of what is let go nothing stays.
        assert!(memory.to_close(&uid, pods(4_999..5_000)).is_empty());
        assert_eq!(remembered(), (1, 0));
    }

    #[test]
    fn attempts_that_could_not_be_closed_come_last() {
        let (memory, uid) = (Memory::default(), "u".parse().unwrap());
        let pods = |names: &[&str]| -> Vec<PodUid> { names.iter().map(|name| name.parse().unwrap()).collect() };
        let held = || pods(&["a", "b", "c"]);
        assert_eq!(memory.to_close(&uid, held()), held());
        for pod in pods(&["b", "a"]) {
            memory.tries_to_close(&uid, pod);
        }
        assert_eq!(memory.to_close(&uid, held()), pods(&["c", "b", "a"]));
        memory.tries_to_close(&uid, "b".parse().unwrap());
        assert_eq!(memory.to_close(&uid, held()), pods(&["c", "a", "b"]));
        memory.closed(&uid, "a".parse().unwrap());
        assert_eq!(memory.to_close(&uid, held()), pods(&["c", "b"]));
    }

    #[test]
    fn job_that_is_gone_is_forgotten() {
        let (memory, uid) = (Memory::default(), "u".parse().unwrap());
        memory.tried(&uid, 3);
        let pod: PodUid = "p".parse().unwrap();
        memory.closed(&uid, pod.clone());
        assert!(memory.is_tried(&uid, 3) && !memory.is_tried(&uid, 4));
        assert!(memory.to_close(&uid, vec![pod.clone()]).is_empty());
        memory.forget(&uid);
        assert!(!memory.is_tried(&uid, 3));
        assert_eq!(memory.to_close(&uid, vec![pod.clone()]), [pod]);
    }
}
