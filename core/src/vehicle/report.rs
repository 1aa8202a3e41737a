//! What one attempt's Pod should say: a pure function of the attempt and of how its vehicle stands.
//!
//! Called by `desired`. It names decisions only; the adapter builds the Pod's status from them, from what the car said of the
//! containers and from the Pod itself.

use std::time::Duration;

use super::{Attempt, AttemptPhase, PodFacts, PodKind, PodPhase, Refusal, Report};
use crate::names::reason;

/// Why it is certain that nothing of an attempt is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedBy {
    /// The car said so, or never had it.
    Reported,
    /// Its fence and a margin have passed.
    Fenced,
}

/// Whether the Pod is to be deleted by the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delete {
    /// No.
    No,
    /// The car leaves: with this grace, so that the Pod's owner replaces it now.
    Graceful(Duration),
    /// Its end is recorded and nothing of it is alive: with grace 0.
    Confirm,
}

/// What a Pod should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodReport {
    /// `status.phase`.
    pub phase: PodPhase,
    /// `status.reason`.
    pub reason: Option<String>,
    /// `status.message`.
    pub message: Option<String>,
    /// Not ready whatever the car says of the containers, and why.
    pub unready: Option<&'static str>,
    /// `kerbside.dev/Unheard`; None: as it is.
    pub unheard: Option<bool>,
    /// `kerbside.dev/Stopped` is True; None: as it is.
    pub stopped: Option<StoppedBy>,
    /// `kerbside.dev/Refused` is True.
    pub refused: Option<Refusal>,
    /// `DisruptionTarget` is True, with this reason.
    pub disruption: Option<&'static str>,
    /// What to delete.
    pub delete: Delete,
    /// Of the car's report that this follows from.
    pub revision: Option<u64>,
}

/// How the vehicle stands, as far as it shows in its Pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Surroundings {
    pub(super) suspected: bool,
    /// It is connected: neither silent nor only awaited.
    pub(super) heard: bool,
    pub(super) paused: bool,
    /// How long the car still gives.
    pub(super) leaving: Option<Duration>,
    /// A refused Pod's time to be held has passed.
    pub(super) release: bool,
}

impl PodReport {
    fn at(phase: PodPhase, attempt: &Attempt) -> Self {
        Self {
            phase,
            reason: None,
            message: None,
            unready: None,
            unheard: None,
            stopped: None,
            refused: None,
            disruption: None,
            delete: Delete::No,
            revision: attempt.report.as_ref().map(|r| r.revision),
        }
    }

    fn ended(phase: PodPhase, stopped: StoppedBy, attempt: &Attempt, pod: &PodFacts) -> Self {
        let unheard = pod.unheard.then_some(false);
        Self {
            stopped: Some(stopped),
            unheard,
            ..Self::at(phase, attempt)
        }
    }

    fn because(mut self, reason: &str, message: &str) -> Self {
        self.reason = (!reason.is_empty()).then(|| reason.to_owned());
        self.message = (!message.is_empty()).then(|| message.to_owned());
        self
    }

    fn disrupted(mut self, reason: &'static str) -> Self {
        self.disruption = Some(reason);
        self
    }
}

/// What the attempt's Pod should say.
pub(super) fn pod_report(attempt: &Attempt, pod: &PodFacts, around: Surroundings) -> PodReport {
    if pod.phase.is_terminal() {
        return recorded(attempt, pod);
    }
    if let Some(refusal) = &attempt.refusal {
        return refused(attempt, pod, refusal, around.release);
    }
    if let Some(end) = end(attempt, pod) {
        return end;
    }
    alive(attempt, pod, around)
}

/// The end is in the API; it stays as it is, whoever wrote it. What may be missing is the word that nothing is alive.
fn recorded(attempt: &Attempt, pod: &PodFacts) -> PodReport {
    let mut report = PodReport::at(pod.phase, attempt);
    let stopped = pod.stopped || attempt.certainly_stopped();
    if stopped && !pod.stopped {
        report.stopped = Some(if attempt.fenced {
            StoppedBy::Fenced
        } else {
            StoppedBy::Reported
        });
    }
    let asked = pod.deletion.is_some_and(|grace| !grace.is_zero());
    let disrupted = pod.disrupted && pod.deletion.is_none();
    if pod.stopped && (asked || disrupted) {
        report.delete = Delete::Confirm;
    }
    report
}

fn refused(attempt: &Attempt, pod: &PodFacts, refusal: &Refusal, release: bool) -> PodReport {
    let fail = pod.deletion.is_some()
        || match pod.kind {
            PodKind::FleetJob => true,
            PodKind::DaemonSet => false,
            PodKind::Other { .. } => release,
        };
    let report = if fail {
        PodReport::ended(PodPhase::Failed, StoppedBy::Reported, attempt, pod).because(&refusal.reason, &refusal.message)
    } else {
        PodReport::at(PodPhase::Pending, attempt)
    };
    PodReport {
        refused: Some(refusal.clone()),
        ..report
    }
}

/// The end that is certain now and not yet in the API.
fn end(attempt: &Attempt, pod: &PodFacts) -> Option<PodReport> {
    let failed = |by| PodReport::ended(PodPhase::Failed, by, attempt, pod);
    if attempt.fenced {
        let message = "the vehicle was not heard until the attempt's fence, by which it stops the attempt by itself";
        return Some(
            failed(StoppedBy::Fenced)
                .because(reason::VEHICLE_LOST, message)
                .disrupted(reason::VEHICLE_LOST),
        );
    }
    if let Some(report) = attempt.report.as_ref().filter(|r| r.stopped) {
        return stopped(attempt, pod, report);
    }
    if attempt.lost_by_car {
        let message = "the vehicle came back and no longer knows the attempt";
        return Some(
            failed(StoppedBy::Reported)
                .because(reason::VEHICLE_LOST, message)
                .disrupted(reason::VEHICLE_LOST),
        );
    }
    if pod.deletion.is_some() && !attempt.maybe_running {
        return Some(
            failed(StoppedBy::Reported).because("Deleted", "the Pod was deleted before the vehicle started it"),
        );
    }
    None
}

fn stopped(attempt: &Attempt, pod: &PodFacts, report: &Report) -> Option<PodReport> {
    let ended = |phase| PodReport::ended(phase, StoppedBy::Reported, attempt, pod);
    let failed = || ended(PodPhase::Failed).because(&report.reason, &report.message);
    match report.phase {
        AttemptPhase::Succeeded if !pod.has_output || attempt.sealed == Some(true) => Some(ended(PodPhase::Succeeded)),
        AttemptPhase::Succeeded if attempt.sealed == Some(false) => {
            let message = "the vehicle says that the output is stored, and it is not";
            Some(
                ended(PodPhase::Failed)
                    .because("OutputMissing", message)
                    .disrupted("OutputMissing"),
            )
        }
        // Asked of the store; the answer is an event.
        AttemptPhase::Succeeded => None,
        AttemptPhase::Disrupted if pod.deletion.is_none() || pod.disrupted => {
            // At its fence the car has ended it by itself, and has gone nowhere.
            let lost = report.reason == reason::VEHICLE_LOST;
            Some(failed().disrupted(if lost {
                reason::VEHICLE_LOST
            } else {
                reason::VEHICLE_DEPARTED
            }))
        }
        // Whoever deleted the Pod has said why.
        AttemptPhase::Disrupted | AttemptPhase::Failed => Some(failed()),
        // The program has ended and the car still has something to send: the output, a log. The attempt ends when that is told.
        AttemptPhase::Pending | AttemptPhase::Running | AttemptPhase::Frozen => None,
        AttemptPhase::Refused => None,
    }
}

fn alive(attempt: &Attempt, pod: &PodFacts, around: Surroundings) -> PodReport {
    let started = attempt.started();
    let mut report = PodReport::at(if started { PodPhase::Running } else { PodPhase::Pending }, attempt);
    let frozen = attempt.report.as_ref().is_some_and(|r| r.phase == AttemptPhase::Frozen);
    report.unready = if around.suspected || (pod.unheard && !around.heard) {
        Some(reason::VEHICLE_UNHEARD)
    } else if around.leaving.is_some() {
        Some(reason::VEHICLE_LEAVING)
    } else if around.paused || frozen {
        Some(reason::VEHICLE_PAUSED)
    } else {
        None
    };
    report.unheard = if around.suspected {
        Some(true)
    } else {
        // A car that is awaited after a start of the adapter is not heard again: what was said of it stays.
        (pod.unheard && around.heard).then_some(false)
    };
    if let Some(left) = around.leaving {
        report.disruption = Some(reason::VEHICLE_DEPARTED);
        // First the condition, then the deletion: whoever sees the deletion must find its reason.
        if pod.disrupted && pod.deletion.is_none() {
            report.delete = Delete::Graceful(pod.grace.min(left));
        }
    }
    report
}
