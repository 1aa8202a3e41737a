//! Tells people what happened to a job: Events and metrics, once per record.
//!
//! Called after the status was written, with what it said before and what it says now, so that nothing is told that is not on
//! record, and nothing twice unless the operator died in between. Never: an Event that fails a reconcile.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use kerbside_api::v1alpha1::FleetJobStatus;
use kerbside_core::index_set::IndexSet;
use kerbside_core::job::{Acceptance, ConditionKind, Limit};
use kerbside_k8s::events::Severity;

use super::Context;
use super::build::{Prepared, Resources};
use super::status::STORE_UNAVAILABLE;
use super::validate::{Hold, ValidatedJob};

/// Leaves one Event about a job to be published. Nothing waits for it: what is told of may be an attempt that a new one must replace.
pub(crate) fn about(ctx: &Context, job: &ValidatedJob, severity: Severity, reason: &str, action: &str, note: &str) {
    ctx.events.publish(reference(job), severity, reason, action, note);
}

fn reference(job: &ValidatedJob) -> ObjectReference {
    ObjectReference {
        api_version: Some("kerbside.dev/v1alpha1".to_owned()),
        kind: Some("FleetJob".to_owned()),
        name: Some(job.name.clone()),
        namespace: Some(job.namespace.clone()),
        uid: Some(job.uid.to_string()),
        ..ObjectReference::default()
    }
}

/// One thing to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News {
    pub(super) severity: Severity,
    pub(super) reason: String,
    pub(super) note: String,
}

/// The status of `resources` was written.
pub(super) fn recorded(ctx: &Context, resources: &Resources<Prepared>) {
    measure(ctx, resources);
    for news in news(resources) {
        tracing::info!(
            job.name = resources.job.name,
            job.namespace = resources.job.namespace,
            reason = news.reason,
            note = news.note,
            "job changed"
        );
        about(
            ctx,
            &resources.job,
            news.severity,
            &news.reason,
            "Reconcile",
            &news.note,
        );
    }
}

fn measure(ctx: &Context, resources: &Resources<Prepared>) {
    let (old, new) = (&resources.job.stored, &resources.status);
    ctx.metrics.failures(new.failed.saturating_sub(old.failed).into());
    for (reason, count) in more(&old.disruptions, &new.disruptions) {
        (0..count).for_each(|_| ctx.metrics.disruption(reason));
    }
    for (reason, count) in refused(resources) {
        (0..count).for_each(|_| ctx.metrics.refusal(reason));
    }
}

/// What there is to tell. Pure.
pub(super) fn news(resources: &Resources<Prepared>) -> Vec<News> {
    let (old, new) = (&resources.job.stored, &resources.status);
    let mut all = Vec::new();
    let mut tell = |severity, reason: &str, note: String| {
        all.push(News {
            severity,
            reason: reason.to_owned(),
            note,
        });
    };
    let disruptions = more(&old.disruptions, &new.disruptions);
    if !disruptions.is_empty() {
        let note = format!(
            "attempts were disrupted ({}); their indexes are tried again",
            listed(&disruptions)
        );
        tell(Severity::Normal, "Disrupted", note);
    }
    let refusals = refused(resources);
    if !refusals.is_empty() {
        let note = format!(
            "cars declined attempts ({}); their indexes are tried elsewhere",
            listed(&refusals)
        );
        tell(Severity::Normal, "Refused", note);
    }
    let failed = new.failed.saturating_sub(old.failed);
    if failed > 0 {
        tell(
            Severity::Warning,
            "AttemptFailed",
            format!("the program failed in {failed} attempts"),
        );
    }
    for message in resources.answers.values().filter_map(|a| match a {
        Acceptance::Invalid { message } => Some(message.clone()),
        _ => None,
    }) {
        tell(Severity::Warning, "ResultInvalid", message);
    }
    for (limit, what) in [
        (Limit::Failures, "backoffLimitPerIndex"),
        (Limit::Disruptions, "maxDisruptionsPerIndex"),
    ] {
        let mut indexes = IndexSet::new();
        for failure in resources.plan.failing.iter().filter(|f| f.limit == limit) {
            indexes
                .insert(failure.index)
                .expect("an index that fails is one of the job's, which are below the bound");
        }
        if !indexes.is_empty() {
            tell(
                Severity::Warning,
                "IndexFailed",
                format!("indexes {indexes} failed: more than {what} allows"),
            );
        }
    }
    for condition in &new.conditions {
        let was = old.conditions.iter().find(|c| c.type_ == condition.type_);
        if was.map(|c| c.status.as_str()) == Some(condition.status.as_str()) {
            continue;
        }
        if let Some((severity, reason)) = told_as(&condition.type_, condition.status == "True", &condition.reason) {
            tell(severity, reason, condition.message.clone());
        }
    }
    all
}

/// The Event for a condition that changed; the decision to end is told, its end is told as the result.
fn told_as<'a>(type_: &'a str, is_true: bool, reason: &'a str) -> Option<(Severity, &'a str)> {
    let kind = ConditionKind::from_type(type_);
    match (kind, is_true) {
        (Some(ConditionKind::Suspended), true) => Some((Severity::Normal, "Suspended")),
        (Some(ConditionKind::Suspended), false) => Some((Severity::Normal, "Resumed")),
        (Some(ConditionKind::Complete), true) => Some((Severity::Normal, "Completed")),
        (Some(ConditionKind::FailureTarget), true) => Some((Severity::Warning, reason)),
        (Some(ConditionKind::NoVehicleAccepts), true) => Some((Severity::Warning, "NoVehicleAccepts")),
        (None, true) if type_ == STORE_UNAVAILABLE || Hold::TYPES.contains(&type_) => Some((Severity::Warning, type_)),
        _ => None,
    }
}

/// By how much each count rose.
fn more<'a>(old: &BTreeMap<String, u32>, new: &'a BTreeMap<String, u32>) -> BTreeMap<&'a str, u32> {
    let risen = new
        .iter()
        .map(|(k, n)| (k.as_str(), n.saturating_sub(old.get(k).copied().unwrap_or_default())));
    risen.filter(|(_, n)| *n > 0).collect()
}

/// The reasons of the refusals that this status records first.
fn refused(resources: &Resources<Prepared>) -> BTreeMap<&str, u32> {
    let old: &FleetJobStatus = &resources.job.stored;
    let listed = &old.uncounted_attempts.refused;
    let mut reasons = BTreeMap::new();
    for uid in resources
        .status
        .uncounted_attempts
        .refused
        .iter()
        .filter(|u| !listed.contains(u))
    {
        let attempt = resources
            .found
            .attempts
            .iter()
            .map(|s| &s.attempt)
            .find(|a| a.uid.as_str() == uid);
        let reason = attempt.and_then(|a| a.refused.as_deref()).unwrap_or_default();
        *reasons.entry(reason).or_default() += 1;
    }
    reasons
}

fn listed(counts: &BTreeMap<&str, u32>) -> String {
    counts
        .iter()
        .map(|(reason, n)| format!("{reason}: {n}"))
        .collect::<Vec<_>>()
        .join(", ")
}
