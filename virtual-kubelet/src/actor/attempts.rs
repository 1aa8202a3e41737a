//! The actor's attempts: Pods as they come and go, verdicts and holds for the machine, commands for the car, Events for people.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kerbside_core::ids::PodUid;
use kerbside_core::quantity::Resources;
use kerbside_core::vehicle::{AttemptPhase, Command, Desired, Event, Link, PodKind, Refusal, Report};
use kerbside_link::fault::Fault;
use kerbside_link::proto;
use kube::Resource;

use super::Actor;
use super::jobs::{self, Key};
use crate::admission::{self, Grounds};
use crate::events::{self, Note};
use crate::{pod_facts, run};

impl Actor {
    /// Folds in the Pods that changed, and those that are gone.
    pub(super) fn read_pods(&mut self) {
        let pods = self.context.pods.of(self.id.as_str());
        let mut gone: Vec<PodUid> = self.pods.keys().cloned().collect();
        for pod in pods {
            let Some(uid) = pod_facts::uid_of(&pod) else { continue };
            gone.retain(|g| *g != uid);
            if self.pods.get(&uid).is_some_and(|known| Arc::ptr_eq(known, &pod)) {
                continue;
            }
            if let Some(facts) = pod_facts::facts(&pod) {
                self.pods.insert(uid, pod);
                self.step(Event::Pod(facts));
            }
        }
        for uid in gone {
            self.pods.remove(&uid);
            self.asked.remove(&uid);
            self.announced.remove(&uid);
            self.step(Event::PodGone(uid));
        }
        let attempts = self.facts.attempts();
        self.said.retain(|uid, _| attempts.contains_key(uid));
        self.first_heard.retain(|uid, _| attempts.contains_key(uid));
    }

    /// Keeps the newest word of the car on an attempt, and tells people what they would hear from a kubelet.
    pub(super) fn status(&mut self, status: proto::AttemptStatus, report: &Report) {
        if self
            .said
            .get(&report.uid)
            .is_some_and(|old| old.revision > report.revision)
        {
            return;
        }
        if matches!(report.phase, AttemptPhase::Running)
            && let Some(asked) = self.asked.remove(&report.uid)
        {
            let took = self.context.clock.boottime().since(asked);
            self.context.metrics.ran(&self.pool_name(), took);
        }
        if report.phase == AttemptPhase::Refused {
            let refusal = Refusal {
                reason: report.reason.clone(),
                message: report.message.clone(),
            };
            self.announce(&report.uid, &refusal);
        }
        let old = self.said.get(&report.uid);
        let notes = self
            .pods
            .get(&report.uid)
            .map(|pod| events::notes(pod, old, &status))
            .unwrap_or_default();
        for note in notes {
            self.publish(&report.uid, note);
        }
        let now = self.context.clock.wall();
        self.first_heard
            .entry(report.uid.clone())
            .or_default()
            .hear(&status, now);
        self.said.insert(report.uid.clone(), status);
    }

    /// Tells people something about a Pod.
    pub(super) fn publish(&mut self, uid: &PodUid, note: Note) {
        let Some(mut about) = self.pods.get(uid).map(|pod| pod.object_ref(&())) else {
            return;
        };
        about.field_path.clone_from(&note.field_path);
        self.publish_about(about, note);
    }

    /// Tells people something about the vehicle.
    pub(super) fn publish_about_vehicle(&mut self, note: Note) {
        let Some(about) = self.vehicle.as_ref().map(|vehicle| vehicle.object_ref(&())) else {
            return;
        };
        self.publish_about(about, note);
    }

    fn publish_about(&mut self, about: ObjectReference, note: Note) {
        self.events += 1;
        self.start(
            Key::Event(self.events),
            jobs::event(Arc::clone(&self.context), self.events, about, note),
        );
    }

    /// Gives the verdict on each Pod that waits for one and can be judged; whether any was given.
    pub(super) fn judge(&mut self, desired: &Desired) -> bool {
        if !matches!(self.facts.link(), Link::Open { .. }) {
            // The offer of a car that is not there is worth nothing.
            return false;
        }
        let mut any = false;
        for uid in &desired.judge {
            let Some(verdict) = self.verdict(uid) else { continue };
            if let Err(refusal) = &verdict {
                self.announce(uid, refusal);
            }
            self.step(Event::Judged(uid.clone(), verdict.err()));
            any = true;
        }
        any
    }

    /// Whether the Pod may run here; None: it cannot be judged yet.
    pub(super) fn verdict(&self, uid: &PodUid) -> Option<Result<(), Refusal>> {
        let (pod, pool) = (self.pods.get(uid)?, self.pool.as_ref()?);
        let kind = &self.facts.attempts().get(uid)?.pod.as_ref()?.kind;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let labels = self.context.roster.namespace_labels(namespace)?;
        let (used, pods) = self.used(uid);
        let spec = &pool.object.spec;
        let node = self.context.nodes.by_name("", self.id.as_str());
        let grounds = Grounds {
            pool: spec,
            namespace_labels: &labels,
            offer: &self.car.offer,
            os: &self.car.os,
            max_pods: spec.node.max_pods,
            used: &used,
            pods,
            node: node.as_deref(),
        };
        Some(admission::judge(pod, kind, grounds))
    }

    /// What the other Pods on the vehicle use, and how many they are.
    fn used(&self, except: &PodUid) -> (Resources, u32) {
        let (mut used, mut pods) = (Resources::default(), 0);
        for (uid, attempt) in self.facts.attempts() {
            let there = attempt.pod.as_ref().is_some_and(|p| !p.phase.is_terminal());
            let counts = attempt.refusal.is_none() && (attempt.admitted == Some(true) || attempt.known);
            if uid == except || !there || !counts {
                continue;
            }
            pods += 1;
            if let Some(pod) = self.pods.get(uid) {
                // Sums that are too large to write are larger than any car.
                let _ = used.add(&admission::usage(pod));
            }
        }
        (used, pods)
    }

    /// Says until when each refused Pod of other people is held; whether any was said.
    pub(super) fn hold(&mut self, desired: &Desired) -> bool {
        let mut any = false;
        for uid in &desired.hold {
            let attempt = self.facts.attempts().get(uid);
            let owner = attempt.and_then(|a| match &a.pod.as_ref()?.kind {
                PodKind::Other { owner } => Some(owner.clone()),
                PodKind::FleetJob | PodKind::DaemonSet => None,
            });
            let refusal = attempt.and_then(|a| a.refusal.clone());
            let Some(owner) = owner else { continue };
            let until = self
                .context
                .refusals
                .hold(&owner, &self.id, self.context.clock.boottime());
            if let Some(refusal) = refusal {
                self.announce(uid, &refusal);
            }
            self.step(Event::HeldUntil(uid.clone(), until));
            any = true;
        }
        any
    }

    /// One Event per refused Pod, also over a restart: a Pod that already has the condition was announced.
    fn announce(&mut self, uid: &PodUid, refusal: &Refusal) {
        let told = self
            .facts
            .attempts()
            .get(uid)
            .and_then(|a| a.pod.as_ref())
            .is_some_and(|p| p.refused.is_some());
        if !told && self.announced.insert(uid.clone()) {
            let message = format!("the vehicle refused the Pod: {} ({})", refusal.message, refusal.reason);
            self.publish(
                uid,
                Note {
                    reason: "Refused",
                    message,
                    warning: true,
                    field_path: None,
                },
            );
        }
    }

    /// Tells the car what it must be told; whether anything was.
    pub(super) fn tell(&mut self, desired: &Desired) -> bool {
        let Some((_, session)) = self.session.clone() else {
            return false;
        };
        if let Some(why) = desired.close.filter(|_| !session.is_closed()) {
            let fault = if self.vehicle.as_ref().is_none_or(|v| v.spec.revoked) {
                Fault::denied(why)
            } else {
                Fault::unavailable(why)
            };
            tracing::info!(vehicle.id = %self.id, why, "a vehicle's connection is ended by the adapter");
            session.close(fault);
            return false;
        }
        let mut any = false;
        for command in &desired.commands {
            match command {
                Command::Run(uid) => {
                    let facts = self.facts.attempts().get(uid).and_then(|a| a.pod.clone());
                    let (Some(pod), Some(facts)) = (self.pods.get(uid), facts) else {
                        continue;
                    };
                    session.run(run::run(pod, &facts, &self.pool_name()));
                    // The vehicle takes nothing for an attempt that it was not told to run before.
                    self.providers.remove(uid);
                    let now = self.context.clock.boottime();
                    self.asked.entry(uid.clone()).or_insert(now);
                    tracing::debug!(vehicle.id = %self.id, attempt = %uid, "a Run is sent");
                }
                Command::Stop { uid, grace, reason } => {
                    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                    session.stop(proto::Stop {
                        uid: uid.to_string(),
                        grace_ms,
                        reason: (*reason).to_owned(),
                    });
                    for note in self.pods.get(uid).map(|pod| events::killing(pod)).unwrap_or_default() {
                        self.publish(uid, note);
                    }
                    tracing::debug!(vehicle.id = %self.id, attempt = %uid, reason, "a Stop is sent");
                }
                Command::Ack { uid, revision } => session.ack_status(uid, *revision),
                Command::Forget(uid) => {
                    session.forget(uid);
                    tracing::debug!(vehicle.id = %self.id, attempt = %uid, "a Forget is sent");
                }
            }
            self.step(Event::Sent(command.clone()));
            any = true;
        }
        any
    }

    pub(super) fn pod(&self, uid: &PodUid) -> Option<&Arc<Pod>> {
        self.pods.get(uid)
    }
}
