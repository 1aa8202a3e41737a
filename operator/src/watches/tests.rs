//! What a change makes the controllers look at.

use serde_json::{Value, json};

use super::*;

struct Fixture {
    writers: Writers,
    triggers: Triggers,
    queues: Queues,
}

fn guard<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).unwrap()
}

fn job(name: &str, pools: &[&str], change: impl FnOnce(&mut Value)) -> Guarded<FleetJob> {
    let mut job = json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob",
        "metadata": { "name": name, "namespace": "ns", "uid": format!("uid-{name}"), "generation": 1 },
        "spec": { "pools": pools, "class": "x", "completions": 1, "template": {} },
    });
    change(&mut job);
    guard(job)
}

fn pool(name: &str, generation: i64) -> Guarded<VehiclePool> {
    guard(json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "VehiclePool",
        "metadata": { "name": name, "uid": name, "generation": generation },
        "spec": { "allowedNamespaces": { "from": "All" } },
    }))
}

fn pod(name: &str, job: &str) -> Pod {
    guard(json!({
        "metadata": {
            "name": name, "namespace": "ns", "uid": name,
            "labels": { "kerbside.dev/job-uid": format!("uid-{job}") },
            "annotations": { "batch.kubernetes.io/job-completion-index": "0" },
            "finalizers": ["kerbside.dev/job-tracking"],
            "ownerReferences": [{
                "apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob", "name": job,
                "uid": format!("uid-{job}"), "controller": true,
            }],
        },
    }))
}

impl Fixture {
    fn new() -> Self {
        let (_, writers, triggers, queues) = new();
        Self {
            writers,
            triggers,
            queues,
        }
    }

    fn job(&mut self, event: &Event<Guarded<FleetJob>>) -> Vec<String> {
        self.triggers.job(&mut self.writers.jobs, event);
        self.jobs()
    }

    fn jobs(&mut self) -> Vec<String> {
        let mut all: Vec<String> = std::iter::from_fn(|| self.queues.jobs.try_recv().ok())
            .map(|j| j.name)
            .collect();
        all.sort();
        all
    }

    fn orphans(&mut self) -> Vec<String> {
        let of = |orphan| match orphan {
            Orphan::Attempts(job) => job.name,
            Orphan::Stray(stray) => stray.name,
        };
        std::iter::from_fn(|| self.queues.orphans.try_recv().ok())
            .map(of)
            .collect()
    }
}

#[test]
fn job_is_looked_at_when_its_spec_changes_and_not_when_its_status_does() {
    let mut f = Fixture::new();
    assert_eq!(f.job(&Event::Apply(job("a", &[], |_| ()))), ["a"]);
    assert!(
        f.job(&Event::Apply(job("a", &[], |j| j["status"] = json!({ "active": 1 }))))
            .is_empty()
    );
    assert_eq!(
        f.job(&Event::Apply(job("a", &[], |j| j["metadata"]["generation"] = 2.into()))),
        ["a"]
    );
    assert_eq!(
        f.job(&Event::Apply(job("a", &[], |j| j["metadata"]["uid"] = "other".into()))),
        ["a"]
    );
    let deleted = |j: &mut Value| j["metadata"]["deletionTimestamp"] = "2026-11-23T10:00:00Z".into();
    assert_eq!(f.job(&Event::Apply(job("a", &[], deleted))), ["a"], "a deletion counts");
}

#[test]
fn job_that_cannot_be_read_is_looked_at_like_any_other() {
    let mut f = Fixture::new();
    assert_eq!(
        f.job(&Event::Apply(
            job("a", &[], |j| j["spec"]["completions"] = "many".into())
        )),
        ["a"]
    );
    assert_eq!(f.job(&Event::Apply(job("b", &[], |_| ()))), ["b"]);
}

#[test]
fn pod_makes_its_job_be_looked_at_or_is_an_orphan() {
    let mut f = Fixture::new();
    f.job(&Event::Apply(job("a", &[], |_| ())));
    f.triggers.pod(Event::Apply(pod("p", "a")));
    f.triggers.pod(Event::Apply(pod("q", "gone")));
    assert_eq!((f.jobs(), f.orphans()), (vec!["a".to_owned()], vec!["gone".to_owned()]));
}

#[test]
fn job_that_went_while_nobody_watched_leaves_orphans() {
    let mut f = Fixture::new();
    f.triggers.pod(Event::Apply(pod("q", "gone")));
    f.orphans();
    f.job(&Event::Init);
    f.job(&Event::InitApply(job("a", &[], |_| ())));
    assert_eq!(f.job(&Event::InitDone), ["a"]);
    assert_eq!(f.orphans(), ["gone"]);
    f.job(&Event::Delete(job("a", &[], |_| ())));
    assert_eq!(f.orphans(), ["a"]);
}

#[test]
fn pool_that_changes_makes_the_jobs_that_name_it_be_looked_at() {
    let mut f = Fixture::new();
    f.job(&Event::Apply(job("a", &["x"], |_| ())));
    f.job(&Event::Apply(job("b", &["y", "x"], |_| ())));
    f.job(&Event::Apply(job("c", &["y"], |_| ())));
    let mut touched = |event| {
        f.triggers.pool(&mut f.writers.pools, &event);
        let mut jobs: Vec<String> = std::iter::from_fn(|| f.queues.jobs.try_recv().ok())
            .map(|j| j.name)
            .collect();
        jobs.sort();
        jobs
    };
    assert_eq!(touched(Event::Apply(pool("x", 1))), ["a", "b"]);
    assert!(
        touched(Event::Apply(pool("x", 1))).is_empty(),
        "only its status changed"
    );
    assert_eq!(touched(Event::Apply(pool("x", 2))), ["a", "b"]);
    assert_eq!(touched(Event::Delete(pool("x", 2))), ["a", "b"]);
}

#[test]
fn namespace_whose_labels_change_makes_its_jobs_be_looked_at() {
    let mut f = Fixture::new();
    f.job(&Event::Apply(job("a", &[], |_| ())));
    let namespace = |name: &str, team: &str| {
        Event::Apply(guard(
            json!({ "metadata": { "name": name, "labels": { "team": team } } }),
        ))
    };
    let mut touched = |event| {
        f.triggers.namespace(&mut f.writers.namespaces, &event);
        std::iter::from_fn(|| f.queues.jobs.try_recv().ok()).count()
    };
    assert_eq!(touched(namespace("ns", "vision")), 1);
    assert_eq!(touched(namespace("ns", "vision")), 0);
    assert_eq!(touched(namespace("ns", "other")), 1);
    assert_eq!(touched(namespace("elsewhere", "vision")), 0);
}

#[tokio::test(start_paused = true)]
async fn pools_whose_cars_change_all_the_time_are_looked_at_once_a_second() {
    let mut f = Fixture::new();
    f.job(&Event::Apply(job("waits", &["x"], |j| {
        j["status"] = json!({ "conditions": [{
            "type": "NoVehicleAccepts", "status": "True", "reason": "AllRefuse", "message": "",
            "lastTransitionTime": "2026-11-23T10:00:00Z",
        }]});
    })));
    f.job(&Event::Apply(job("works", &["x"], |_| ())));
    let (touched, flush) = unbounded();
    let stop = CancellationToken::new();
    let task = tokio::spawn(f.triggers.clone().flush_pools(flush, stop.clone()));
    for _ in 0..10 {
        touched.unbounded_send("x".to_owned()).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(POOLS_EVERY).await;
    assert_eq!(f.queues.pools.try_recv().unwrap().name, "x");
    assert!(f.queues.pools.try_recv().is_err(), "looked at more than once");
    assert_eq!(
        f.jobs(),
        ["waits"],
        "a job that nobody accepted is tried on the cars as they are now"
    );
    stop.cancel();
    task.await.unwrap();
}
