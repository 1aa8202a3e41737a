//! What the vehicle is given for its Pods beside what they say themselves: one provider per attempt and session.

use kerbside_api::v1alpha1::Trust;
use kerbside_core::ids::PodUid;
use kerbside_link::proto::AttemptPhase;

use super::Actor;
use crate::provide::{Order, Provider};
use crate::references::References;

/// What a vehicle is given for one attempt, and on what grounds.
pub(super) struct Given {
    /// Of the session.
    epoch: u64,
    /// What the pool trusts the car with.
    trust: Trust,
    /// None for a Pod that refers to nothing.
    _provider: Option<Provider>,
}

impl Actor {
    /// Begins to give what is not given yet, and ends what nobody needs any more.
    pub(super) fn give(&mut self) {
        let Some((epoch, session)) = self.session.clone() else {
            self.providers.clear();
            return;
        };
        let (pods, said) = (&self.pods, &self.said);
        let lives = |uid: &PodUid| {
            said.get(uid)
                .is_none_or(|status| may_start(status.phase()) && !status.stopped)
        };
        let trust = self.pool.as_ref().map(|pool| &pool.object.spec.trust);
        self.providers.retain(|uid, given| {
            given.epoch == epoch && Some(&given.trust) == trust && pods.contains_key(uid) && lives(uid)
        });
        // Told to run it, or said to have it: only then was the Pod judged.
        let wanted = self.asked.keys().chain(said.keys()).filter(|uid| lives(uid));
        let missing: Vec<_> = wanted
            .filter(|uid| !self.providers.contains_key(*uid))
            .cloned()
            .collect();
        for uid in missing {
            let (Some(pod), Some(pool)) = (self.pods.get(&uid), self.pool.as_ref()) else {
                continue;
            };
            let references = References::of(pod);
            let provider = (!references.is_empty()).then(|| {
                Provider::begin(Order {
                    client: self.context.client.clone(),
                    clock: self.context.clock.clone(),
                    objects: self.context.objects.clone(),
                    session: session.clone(),
                    pod: pod.clone(),
                    references,
                    trust: pool.object.spec.trust.clone(),
                    host: self.context.node.address.clone(),
                })
            });
            let trust = pool.object.spec.trust.clone();
            self.providers.insert(
                uid,
                Given {
                    epoch,
                    trust,
                    _provider: provider,
                },
            );
        }
    }
}

fn may_start(phase: AttemptPhase) -> bool {
    matches!(
        phase,
        AttemptPhase::Unspecified | AttemptPhase::Pending | AttemptPhase::Running | AttemptPhase::Frozen
    )
}
