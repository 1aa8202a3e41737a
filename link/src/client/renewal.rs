//! A new certificate before the old one ends, for as long as the client runs.
//!
//! Run by the driver. Never: an identity in use that the agent could not write down, for a restart would be without it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::context::Context;
use super::session::pause;
use crate::backoff::Backoff;
use crate::fault::with_sources;
use crate::identity::{Identity, new_key_and_csr};
use crate::proto::RenewRequest;

/// The operator signs when it sees the request.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// The latest that a car moves to its new certificate; sooner if the old one ends sooner.
const MOVE_WITHIN: Duration = Duration::from_hours(1);

pub(super) async fn renew_for_ever(context: Arc<Context>) {
    let mut tries = Backoff::new(context.pace.renewal_first, context.pace.renewal_longest);
    loop {
        let renew_at = context.identity.borrow().renew_at();
        if context.clock.wall() < renew_at {
            pause(&context, context.pace.renewal_first).await;
            continue;
        }
        match renew(&context).await {
            Ok(()) => tries.reset(),
            Err(error) => {
                let wait = tries.next(1.0);
                tracing::warn!(%error, ?wait, "failed to renew certificate");
                pause(&context, wait).await;
            }
        }
    }
}

async fn renew(context: &Context) -> Result<(), String> {
    // An error would mean that the sender is gone, which the context holds.
    let live = context
        .live
        .subscribe()
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|live| live.clone());
    let Some(mut live) = live else {
        return Err("not connected".to_owned());
    };
    let old = context.identity.borrow().clone();
    let request = new_key_and_csr(&[]).map_err(|e| e.to_string())?;
    let answer = tokio::time::timeout(
        ANSWER_TIMEOUT,
        live.client.renew(RenewRequest {
            csr_der: request.csr_der.into(),
        }),
    )
    .await
    .map_err(|_| "no answer".to_owned())?
    .map_err(|status| status.message().to_owned())?
    .into_inner();
    let new = Identity::from_pem(&request.key_pem, &answer.certificate_chain_pem, old.ca_pem())
        .map_err(|e| with_sources(&e))?;
    if new.vehicle() != old.vehicle() {
        return Err(format!("the adapter answered with a certificate of {}", new.vehicle()));
    }
    if new.not_after() <= old.not_after() {
        return Err("the adapter answered with a certificate that ends no later".to_owned());
    }
    (context.on_renewed)(&new).map_err(|e| format!("failed to keep the new certificate: {e}"))?;
    tracing::info!(vehicle.id = %new.vehicle(), not_after = %new.not_after(), "renewed certificate");
    context.identity.send_replace(new);
    context.hand_over(move_after(old.not_after(), context.clock.wall(), rand::random()));
    Ok(())
}

/// When to move to the new certificate: at a random time, well before the old one ends.
fn move_after(not_after: Timestamp, now: Timestamp, chance: f64) -> Duration {
    let left = u64::try_from(not_after.as_second().saturating_sub(now.as_second())).unwrap_or(0);
    (Duration::from_secs(left) / 2)
        .min(MOVE_WITHIN)
        .mul_f64(chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(0, 0)]
    #[case(-5, 0)]
    #[case(100, 50)]
    #[case(1_000_000, 3600)]
    fn move_to_the_new_certificate_comes_before_the_old_one_ends(#[case] left: i64, #[case] at_most: u64) {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let end = Timestamp::from_second(1_000_000 + left).unwrap();
        assert_eq!(move_after(end, now, 1.0), Duration::from_secs(at_most));
        assert_eq!(move_after(end, now, 0.0), Duration::ZERO);
    }
}
