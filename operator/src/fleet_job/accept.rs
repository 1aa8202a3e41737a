//! Asks the acceptor about attempts that succeeded, before anything about them is recorded.
//!
//! A crash after an acceptance and before its record is harmless: the acceptance is repeated, with the same answer.

use futures::{StreamExt, stream};
use kerbside_core::ids::PodUid;
use kerbside_core::job::{Acceptance, Attempt};

use super::Context;
use super::build::Answers;
use super::dereference::Found;
use super::validate::ValidatedJob;
use crate::acceptance::{self, AcceptError, Candidate};
use crate::report;

/// Results offered to the store at a time.
const AT_A_TIME: usize = 16;

/// Offers each of `uids` to the store and says what became of it.
pub(crate) async fn accept(ctx: &Context, job: &ValidatedJob, found: &Found, uids: &[PodUid]) -> Answers {
    let mut asked = Vec::with_capacity(uids.len());
    for uid in uids {
        if let Some(seen) = found.attempts.iter().find(|s| s.attempt.uid == *uid) {
            asked.push(ask(ctx, job, &seen.attempt));
        }
    }
    stream::iter(asked).buffer_unordered(AT_A_TIME).collect().await
}

async fn ask(ctx: &Context, job: &ValidatedJob, attempt: &Attempt) -> (PodUid, Acceptance) {
    let candidate = Candidate {
        namespace: &job.namespace,
        job: &job.uid,
        index: attempt.index,
        uid: &attempt.uid,
        vehicle: attempt.node.as_ref().map_or("", |n| n.as_str()),
    };
    let answer = match acceptance::accept(&ctx.store, candidate, ctx.clock.wall()).await {
        Ok(acceptance::Acceptance::Won) => {
            ctx.metrics.result_accepted();
            Acceptance::Accepted
        }
        Ok(acceptance::Acceptance::Superseded { by }) => {
            ctx.metrics.result_superseded();
            by.parse().map_or_else(
                |error| Acceptance::Invalid {
                    message: format!("the result of its index is unusable: {error}"),
                },
                |by| Acceptance::Superseded { by },
            )
        }
        Err(error @ AcceptError::Store { .. }) => {
            let error = report::with_causes(&error);
            tracing::warn!(job.name, attempt = %attempt.uid, error, "a result waits for the store");
            Acceptance::Pending
        }
        Err(error) => Acceptance::Invalid {
            message: report::with_causes(&error),
        },
    };
    (attempt.uid.clone(), answer)
}
