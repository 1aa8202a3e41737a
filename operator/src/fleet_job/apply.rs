//! Carries a recorded plan out: creates, deletes, lets go, and deletes a job whose time is over.
//!
//! Takes only what [`super::update_status`] has recorded. Each write has its own precondition or is harmless when repeated, so
//! their order does not matter, and they go side by side: what leaves in one second must not wait for what left the second before
//! to be cleared away. One that fails does not keep the others back.

use std::collections::HashSet;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kerbside_api::v1alpha1::FleetJob;
use kerbside_core::ids::PodUid;
use kerbside_core::index_set::IndexSet;
use kerbside_core::job::{Deletion, Plan};
use kerbside_core::names::{annotation, finalizer};
use kerbside_k8s::apply::{self, Written};
use kerbside_k8s::events::Severity;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::build::{Recorded, Resources};
use super::dereference::Found;
use super::validate::ValidatedJob;
use super::{Context, Error, SOON, STALE_RETRY, tell};
use crate::FIELD_MANAGER;
use crate::attempts::Seen;
use crate::ledger::{CloseError, Ended, is_final};
use crate::report;

/// Writes in flight for one job: enough to make 500 Pods in a second, few enough to leave the API server to others.
const AT_A_TIME: usize = 16;
/// Attempts that are closed in one turn while their Pods are held: nothing but payment waits for them, and the turn's other writes do not.
pub(super) const MOST_EARLY: usize = 64;
/// A turn waits for no store that has not answered by then; what was asked of it may be asked again.
const STORE_PATIENCE: Duration = Duration::from_secs(2);
/// The store did not take what could be closed early. It is asked again seldom: nothing but payment waits for it.
pub(super) const CLOSING_RETRY: Duration = Duration::from_secs(10);

/// Carries the plan out. How soon there must be another turn, if there must: an attempt was left alone because it is not any more what the plan was
/// made from, or some that are held are not closed yet.
pub(crate) async fn apply(ctx: &Context, recorded: Resources<Recorded>) -> Result<Option<Duration>, Error> {
    // Without `..`: a field that is added must be dealt with here.
    let Resources {
        job,
        found,
        answers: _,
        hold: _,
        plan,
        pods,
        status: _,
        stage: PhantomData,
    } = recorded;
    let Plan {
        delete,
        release,
        expired,
        // Asked before the status was written.
        accept: _,
        // As Pods, in `pods`.
        create: _,
        // In the status, or told with it.
        ledger: _,
        alive: _,
        failing: _,
        refusals: _,
        // The driver's.
        requeue_after: _,
        expires_at: _,
    } = plan;
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &job.namespace);
    let held = held_and_final(ctx, &job, &found, &release);
    let due = release
        .into_iter()
        .filter(|uid| !ctx.memory.was_let_go(&job.uid, uid))
        .collect();
    let hangs = AtomicBool::new(false);
    let (created, deleted, released, early) = futures::join!(
        create(ctx, &job, &found, &api, pods),
        each(
            &found,
            delete,
            |d: &Deletion| d.uid.clone(),
            |d, seen| remove(&api, d, seen),
        ),
        each(&found, due, PodUid::clone, |_, seen| let_go(
            ctx, &job, &api, &hangs, seen
        )),
        close_early(ctx, &job, &found, held),
    );
    if expired {
        expire(ctx, &job).await?;
    }
    created?;
    let deleted = deleted.map_err(|e| Error::Delete(Box::new(e)))?;
    released?;
    let stale = deleted.iter().any(Written::is_stale).then_some(STALE_RETRY);
    Ok(stale.into_iter().chain(early).min())
}

/// Runs `work` for each of `items` whose Pod is known, some at a time; the first error is returned when all are done.
async fn each<'a, T, F, R, E>(
    found: &'a Found,
    items: Vec<T>,
    uid: impl Fn(&T) -> PodUid,
    work: impl Fn(T, &'a Seen) -> F,
) -> Result<Vec<R>, E>
where
    F: Future<Output = Result<R, E>>,
{
    let known: std::collections::HashMap<&PodUid, &Seen> = found.attempts.iter().map(|s| (&s.attempt.uid, s)).collect();
    let works = items.into_iter().filter_map(|item| {
        let seen = known.get(&uid(&item)).copied()?;
        Some(work(item, seen))
    });
    let results: Vec<_> = stream::iter(works).buffer_unordered(AT_A_TIME).collect().await;
    results.into_iter().collect()
}

/// Creates the Pods: the first alone, so that a quota or a policy that refuses all is asked once, then the others.
async fn create(ctx: &Context, job: &ValidatedJob, found: &Found, api: &Api<Pod>, pods: Vec<Pod>) -> Result<(), Error> {
    let mut pods = pods.into_iter();
    let Some(first) = pods.next() else { return Ok(()) };
    let mut made = IndexSet::new();
    let one = |pod: Pod| create_one(ctx, job, found, api, pod);
    let result = match one(first).await {
        Err(error) => Err(error),
        Ok(index) => {
            note(&mut made, index);
            let others = stream::iter(pods.map(one)).buffer_unordered(AT_A_TIME);
            others
                .try_for_each(|index| {
                    note(&mut made, index);
                    std::future::ready(Ok(()))
                })
                .await
        }
    };
    if !made.is_empty() {
        let text = format!("created {} Pods for indexes {made}", made.len());
        tell::about(ctx, job, Severity::Normal, "SuccessfulCreate", "Create", &text);
    }
    result
}

fn note(made: &mut IndexSet, index: Option<u32>) {
    if let Some(index) = index {
        made.insert(index)
            .expect("a plan creates attempts of the job's indexes only, which are below the bound");
    }
}

/// Creates one Pod; its index, unless it was there already.
async fn create_one(
    ctx: &Context,
    job: &ValidatedJob,
    found: &Found,
    api: &Api<Pod>,
    pod: Pod,
) -> Result<Option<u32>, Error> {
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api.create(&params, &pod).await {
        Ok(made) => {
            ctx.metrics.attempt_created();
            ctx.attempts.created(&made);
            Ok(made.annotations().get(annotation::INDEX).and_then(|i| i.parse().ok()))
        }
        Err(kube::Error::Api(s)) if s.is_already_exists() => {
            let name = pod.name_any();
            if found.attempts.iter().any(|s| s.attempt.name == name) {
                return Ok(None);
            }
            adopt(ctx, job, api, &name).await.map(|()| None)
        }
        Err(e) => Err(Error::Create(Box::new(e))),
    }
}

/// A Pod of that name is there and not in the cache: the attempt was made before. Somebody else's is in the way.
async fn adopt(ctx: &Context, job: &ValidatedJob, api: &Api<Pod>, name: &str) -> Result<(), Error> {
    let Some(there) = api.get_opt(name).await.map_err(|e| Error::Create(Box::new(e)))? else {
        return Ok(());
    };
    let owners = there.metadata.owner_references.as_deref().unwrap_or_default();
    if owners
        .iter()
        .any(|o| o.controller == Some(true) && o.uid == job.uid.as_str())
    {
        ctx.attempts.created(&there);
        return Ok(());
    }
    Err(Error::NameTaken(name.to_owned()))
}

/// Marks where the reason must be marked, and deletes. Stale if the Pod has changed since it was seen: its end may be there
/// already, and a mark would make that end count as nothing.
async fn remove(api: &Api<Pod>, deletion: Deletion, seen: &Seen) -> Result<Written<()>, kube::Error> {
    let attempt = &seen.attempt;
    if deletion.reason.marks() && attempt.deleted_for.is_none() {
        let metadata = json!({
            "uid": attempt.uid,
            "resourceVersion": seen.version,
            "annotations": { annotation::DELETED_FOR: deletion.reason.as_str() },
        });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        match api
            .patch(&attempt.name, &params, &Patch::Merge(json!({ "metadata": metadata })))
            .await
        {
            Ok(_) => {}
            Err(e) if apply::is_stale(&e) => return Ok(Written::Stale),
            Err(e) => return Err(e),
        }
    }
    apply::delete(api, &attempt.name, attempt.uid.as_str(), None).await?;
    // One that is gone is what was wanted.
    Ok(Written::Done(Box::new(())))
}

/// The attempts that are not let go now and may be closed all the same: the Pod of one that was replaced before its end was on record is held
/// until its index is over, which can be hours, and its car is not to wait for that.
pub(super) fn held_and_final(ctx: &Context, job: &ValidatedJob, found: &Found, release: &[PodUid]) -> Vec<PodUid> {
    let let_go: HashSet<&PodUid> = release.iter().collect();
    let held = found.attempts.iter().filter(|seen| {
        let uid = &seen.attempt.uid;
        seen.attempt.has_finalizer && !let_go.contains(uid) && is_final(&job.ledger, seen)
    });
    let held = held.map(|seen| seen.attempt.uid.clone()).collect();
    ctx.memory.to_close(&job.uid, held)
}

/// Closes attempts whose Pods are held: those first that were tried longest ago, or never, and not for longer than a store may take that is
/// well. How soon there must be another turn for the others, if there are any. At the latest they are closed when their Pods are let go, which wait
/// for it; until then nothing does.
pub(super) async fn close_early(
    ctx: &Context,
    job: &ValidatedJob,
    found: &Found,
    mut held: Vec<PodUid>,
) -> Option<Duration> {
    let all = held.len();
    if all == 0 {
        return None;
    }
    held.truncate(MOST_EARLY);
    let closings = each(found, held, PodUid::clone, |_, seen| close(ctx, job, seen));
    // One that is given up half-way is written again, or is there then and stands.
    match tokio::time::timeout(STORE_PATIENCE, closings).await {
        Ok(Ok(_)) => (all > MOST_EARLY).then_some(SOON),
        Ok(Err(error)) => {
            let error = report::with_causes(&error);
            tracing::warn!(job.name, job.namespace, error, "attempts are not closed yet");
            Some(CLOSING_RETRY)
        }
        Err(_) => {
            let after = STORE_PATIENCE;
            tracing::warn!(
                job.name,
                job.namespace,
                ?after,
                "attempts are not closed yet: the store is silent"
            );
            Some(CLOSING_RETRY)
        }
    }
}

/// Closes an attempt whose Pod is held, and remembers that.
async fn close(ctx: &Context, job: &ValidatedJob, seen: &Seen) -> Result<(), CloseError> {
    let uid = &seen.attempt.uid;
    ctx.memory.tries_to_close(&job.uid, uid.clone());
    ctx.closings.close(ended(job, seen)).await?;
    ctx.memory.closed(&job.uid, uid.clone());
    Ok(())
}

/// Closes an attempt whose Pod is to be let go, if the store answers. When it has not once, those that come after do not wait for it in this
/// turn; those for which it need not be asked do not have to.
async fn close_in_time(ctx: &Context, job: &ValidatedJob, hangs: &AtomicBool, seen: &Seen) -> Result<(), CloseError> {
    let patience = if hangs.load(Ordering::Relaxed) {
        Duration::ZERO
    } else {
        STORE_PATIENCE
    };
    let closing = ctx.closings.close(ended(job, seen));
    if let Ok(closed) = tokio::time::timeout(patience, closing).await {
        return closed;
    }
    hangs.store(true, Ordering::Relaxed);
    Err(CloseError::TimedOut {
        uid: seen.attempt.uid.clone(),
        after: STORE_PATIENCE,
    })
}

fn ended<'a>(job: &'a ValidatedJob, seen: &'a Seen) -> Ended<'a> {
    Ended {
        namespace: &job.namespace,
        job: &job.uid,
        // As it was when this was planned: what is closed now was on record then.
        ledger: Some(&job.ledger),
        seen,
    }
}

/// Closes the attempt and lets its Pod go, in this order: what is known of it may be gone with the Pod.
async fn let_go(
    ctx: &Context,
    job: &ValidatedJob,
    api: &Api<Pod>,
    hangs: &AtomicBool,
    seen: &Seen,
) -> Result<(), Error> {
    let (name, uid) = (&seen.attempt.name, &seen.attempt.uid);
    close_in_time(ctx, job, hangs, seen).await.map_err(Error::Close)?;
    // A stale answer means that somebody changed the finalizers or that the Pod is gone; the watch will show it.
    let finalizers = &seen.finalizers;
    let written = apply::remove_finalizer(api, name, uid.as_str(), finalizers, finalizer::TRACKING, FIELD_MANAGER)
        .await
        .map_err(|e| Error::Release(Box::new(e)))?;
    if !written.is_stale() {
        ctx.memory.let_go(&job.uid, uid.clone());
    }
    Ok(())
}

async fn expire(ctx: &Context, job: &ValidatedJob) -> Result<(), Error> {
    let api: Api<FleetJob> = Api::namespaced(ctx.client.clone(), &job.namespace);
    apply::delete(&api, &job.name, job.uid.as_str(), None)
        .await
        .map_err(|e| Error::Expire(Box::new(e)))?;
    tracing::info!(job.name, job.namespace, "deleted a finished job after its time to live");
    Ok(())
}
