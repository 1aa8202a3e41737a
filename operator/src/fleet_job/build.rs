//! From facts to what is to be written: the plan, the Pods to create, the status. Pure, golden-tested.
//!
//! The result is [`Resources`]`<Prepared>`: it cannot be applied before [`super::update_status`] has turned it into
//! `<Recorded>`. Recorded before released is thus a matter of types.

mod pod;

use std::collections::BTreeMap;
use std::marker::PhantomData;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kerbside_api::v1alpha1::FleetJobStatus;
use kerbside_core::ids::PodUid;
use kerbside_core::job::{self, Acceptance, Facts, IndexCounts, NewAttempt, Phase, Plan};

use super::dereference::Found;
use super::status::{self, Parts};
use super::validate::{Hold, ValidatedJob};

/// What the acceptor said, by attempt.
pub(crate) type Answers = BTreeMap<PodUid, Acceptance>;

/// Decided, not written.
#[derive(Debug)]
pub(crate) struct Prepared;
/// The status is written, and it was written on top of the one that the plan was made from.
#[derive(Debug)]
pub(crate) struct Recorded;

/// What one turn writes.
#[derive(Debug)]
pub(crate) struct Resources<Stage> {
    pub(crate) job: ValidatedJob,
    pub(crate) found: Found,
    pub(crate) answers: Answers,
    pub(crate) hold: Option<Hold>,
    pub(crate) plan: Plan,
    pub(crate) pods: Vec<Pod>,
    pub(crate) status: FleetJobStatus,
    pub(crate) stage: PhantomData<Stage>,
}

/// The plan for a job, given what the acceptor has said so far.
pub(crate) fn plan(job: &ValidatedJob, found: &Found, hold: Option<&Hold>, answers: &Answers, now: Timestamp) -> Plan {
    let mut plan = job::plan(&Facts {
        now,
        spec: job.spec.clone(),
        ledger: job.ledger.clone(),
        attempts: found.attempts.iter().map(|s| s.attempt.clone()).collect(),
        acceptance: answers.clone(),
        refusals: found.refusals.clone(),
        eligible: found.eligible.clone(),
    });
    if hold.is_some() {
        plan.create.clear();
        // A template may be repaired only while the job has never been started.
        plan.ledger.start_time = job.ledger.start_time;
    }
    plan
}

/// The attempts about which the acceptor must be asked before anything is planned.
pub(crate) fn undecided(job: &ValidatedJob, found: &Found, hold: Option<&Hold>, now: Timestamp) -> Vec<PodUid> {
    // A plan of 10,000 attempts takes milliseconds, and in most turns nobody has succeeded since the last one.
    if found
        .attempts
        .iter()
        .any(|s| s.attempt.phase == Phase::Succeeded && s.attempt.has_finalizer)
    {
        plan(job, found, hold, &Answers::new(), now).accept
    } else {
        Vec::new()
    }
}

/// Everything that this turn writes.
pub(crate) fn build(
    job: ValidatedJob,
    found: Found,
    hold: Option<Hold>,
    answers: Answers,
    now: Timestamp,
) -> Resources<Prepared> {
    let plan = plan(&job, &found, hold.as_ref(), &answers, now);
    let status = status::status(&Parts {
        generation: job.generation,
        ledger: &plan.ledger,
        alive: plan.alive,
        conditions: &job.stored.conditions,
        hold: hold.as_ref(),
        waiting: answers.values().filter(|a| **a == Acceptance::Pending).count(),
        now,
    });
    let terms = found.terms.as_deref();
    let pods = plan.create.iter().map(|attempt| pod::pod(&job, terms, attempt));
    let pods = pods.collect();
    Resources {
        job,
        found,
        answers,
        hold,
        plan,
        pods,
        status,
        stage: PhantomData,
    }
}

/// The Pod by which the API server's opinion of a template is asked: that of the first attempt.
pub(crate) fn first_pod(job: &ValidatedJob, terms: Option<&str>) -> Pod {
    let attempt = NewAttempt {
        index: 0,
        ordinal: 0,
        suffix: "first".to_owned(),
        prior: IndexCounts::default(),
        counted: std::collections::BTreeSet::new(),
        avoid: std::collections::BTreeSet::new(),
    };
    pod::pod(job, terms, &attempt)
}

#[cfg(test)]
mod tests;
