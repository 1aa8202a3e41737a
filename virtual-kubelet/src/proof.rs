//! Whether this replica may still take its vehicles for its own.
//!
//! Written by `replica`, asked by every actor. What must never happen: a car's fences are put off by a replica whose vehicles another has
//! adopted, for that one counts the same fences and gives the attempts up. A replica that knows of no other goes on without the API
//! server, so that an outage costs no work; but it tells its cars that it proves nothing, for another may have been started meanwhile,
//! and then an attempt that may run once only counts its fence on (`core::attempt::Heard`).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kerbside_core::clock::Boottime;

/// Without a renewal of its own Lease for so long, a replica is not sure of anything; others adopt its vehicles six seconds later.
const DOUBT_AFTER: Duration = Duration::from_secs(12);

/// What this replica has to show for itself.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    renewed_at: Option<Boottime>,
    others: bool,
}

impl State {
    fn is_fresh(&self, now: Boottime) -> bool {
        self.renewed_at.is_some_and(|at| now.since(at) <= DOUBT_AFTER)
    }
}

impl Proof {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This replica's Lease was renewed, by a request that was sent then.
    pub(crate) fn renewed(&self, sent: Boottime) {
        self.state().renewed_at = Some(sent);
    }

    /// Whether another replica was seen to live when the Leases were last looked at.
    pub(crate) fn company(&self, others: bool) {
        self.state().others = others;
    }

    /// Another replica may have adopted this one's vehicles, or be about to. Not before the first renewal: until then every vehicle of
    /// this replica is one that it has just claimed by a write of its own.
    pub(crate) fn is_doubtful(&self, now: Boottime) -> bool {
        let state = self.state();
        state.others && state.renewed_at.is_some() && !state.is_fresh(now)
    }

    /// No other replica can have adopted this one's vehicles, whether one is known or not: said with each acknowledgement, for the
    /// fences of attempts that may run once only.
    pub(crate) fn is_fresh(&self, now: Boottime) -> bool {
        self.state().is_fresh(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Boottime {
        Boottime(Duration::from_secs(seconds))
    }

    #[test]
    fn replica_with_company_is_sure_for_as_long_as_it_renews() {
        let proof = Proof::default();
        proof.company(true);
        proof.renewed(at(100));
        assert!(!proof.is_doubtful(at(112)));
        assert!(proof.is_doubtful(at(113)));
        proof.renewed(at(117));
        assert!(!proof.is_doubtful(at(127)));
        assert!(DOUBT_AFTER < crate::replica::EXPIRES_AFTER);
    }

    #[test]
    fn replica_that_has_just_started_is_not_doubtful() {
        let proof = Proof::default();
        proof.company(true);
        assert!(!proof.is_doubtful(at(10_000)));
    }

    #[test]
    fn replica_that_is_alone_goes_on_without_the_api_server() {
        let proof = Proof::default();
        proof.renewed(at(100));
        assert!(!proof.is_doubtful(at(10_000)));
    }

    #[test]
    fn only_a_renewal_of_its_own_proves_that_nobody_took_over() {
        let proof = Proof::default();
        assert!(!proof.is_fresh(at(100)), "before the first");
        proof.renewed(at(100));
        assert!(proof.is_fresh(at(112)));
        assert!(!proof.is_fresh(at(113)), "alone or not");
    }
}
