//! What the vehicle is given for its Pods beside what they say themselves: one provider per attempt and session.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
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
    /// As it was looked at last.
    pod: Arc<Pod>,
    /// None for a Pod that refers to nothing.
    provider: Option<Provider>,
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
        let Some(trust) = self.pool.as_ref().map(|pool| &pool.object.spec.trust) else {
            self.providers.clear();
            return;
        };
        self.providers
            .retain(|uid, given| given.epoch == epoch && given.trust == *trust && pods.contains_key(uid) && lives(uid));
        let context = &self.context;
        let begin = |pod: &Arc<Pod>| {
            let order = || Order {
                client: context.client.clone(),
                clock: context.clock.clone(),
                gate: Arc::clone(&context.gate),
                exchange: context.exchange.clone(),
                objects: context.objects.clone(),
                session: session.clone(),
                trust: trust.clone(),
                host: context.node.address.clone(),
            };
            let refers = !References::of(pod).is_empty();
            refers.then(|| Provider::begin(order(), Arc::clone(pod)))
        };
        // Told to run it, or said to have it: only then was the Pod judged.
        for uid in self.asked.keys().chain(said.keys()).filter(|uid| lives(uid)) {
            let Some(pod) = pods.get(uid) else { continue };
            match self.providers.get_mut(uid) {
                None => {
                    let given = Given {
                        epoch,
                        trust: trust.clone(),
                        pod: Arc::clone(pod),
                        provider: begin(pod),
                    };
                    self.providers.insert(uid.clone(), given);
                }
                Some(given) if !Arc::ptr_eq(&given.pod, pod) => {
                    given.pod = Arc::clone(pod);
                    match &given.provider {
                        Some(provider) => provider.update(pod),
                        // It may have come to refer to something.
                        None => given.provider = begin(pod),
                    }
                }
                Some(_) => {}
            }
        }
    }
}

fn may_start(phase: AttemptPhase) -> bool {
    matches!(
        phase,
        AttemptPhase::Unspecified | AttemptPhase::Pending | AttemptPhase::Running | AttemptPhase::Frozen
    )
}
