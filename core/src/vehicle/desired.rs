//! What the Vehicle, its Node and its Pods should say and what the car must be told: a pure function of the facts and the time.
//!
//! Called by the actor after every turn; calling it twice gives the same.

use std::collections::BTreeMap;
use std::time::Duration;

use super::report::{Surroundings, pod_report};
use super::{
    Attempt, AttemptPhase, Command, Facts, Judgement, Phase, PodKind, PodReport, RETURN_HOLD, RUN_PATIENCE, Standing,
};
use crate::clock::Boottime;
use crate::ids::PodUid;
use crate::names::{reason, taint};

/// Whether a vehicle is heard, as the cluster is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearing {
    /// It is.
    Heard,
    /// It is not, and neither are many others: nothing follows for its attempts before their fences.
    Held,
    /// It is not.
    Unheard,
}

/// What a vehicle's Node should say, beside the offer and the names that do not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// False only for a car that is leaving.
    pub ready: bool,
    /// Our taints, all `NoSchedule`, without the one that every car has and the one of its runtimes.
    pub taints: Vec<&'static str>,
    /// Condition `kerbside.dev/Eligible`.
    pub eligible: Judgement,
    /// Condition `kerbside.dev/Heard`; None: not told, for a car that is away is away whatever the reason.
    pub heard: Option<Hearing>,
}

/// Whether the Node should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeWish {
    /// It must not.
    Absent,
    /// If it is there, it stays and says this.
    Keep(NodeState),
    /// It is there and says this.
    Present(NodeState),
}

/// All that should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// `Vehicle.status.phase`.
    pub phase: Phase,
    /// Whether the vehicle works on every term.
    pub eligible: Judgement,
    /// Whether the car is heard; None: not told.
    pub heard: Option<Hearing>,
    /// The Node, whose Lease is renewed as long as it is there.
    pub node: NodeWish,
    /// The Pods.
    pub pods: BTreeMap<PodUid, PodReport>,
    /// Pods that wait for the adapter's verdict.
    pub judge: Vec<PodUid>,
    /// Refused Pods of other people that wait for their back-off.
    pub hold: Vec<PodUid>,
    /// Attempts whose car says that their output is stored, and nobody has looked.
    pub check_output: Vec<PodUid>,
    /// What the car must be told, in this order.
    pub commands: Vec<Command>,
    /// Why the connection must end.
    pub close: Option<&'static str>,
    /// When this has to be asked again, if nothing happens before.
    pub wake_at: Option<Boottime>,
}

/// Collects the next moment at which a comparison with the clock would come out differently.
struct Timer {
    now: Boottime,
    next: Option<Boottime>,
}

impl Timer {
    fn passed(&mut self, at: Boottime) -> bool {
        let passed = self.now >= at;
        if !passed {
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
        passed
    }
}

impl Facts {
    /// What should be at `now`. Call [`Facts::settle`] first.
    pub fn desired(&self, now: Boottime) -> Desired {
        let mut timer = Timer { now, next: None };
        if !self.suspected && !self.held {
            timer.passed(self.held_until.unwrap_or_else(|| self.silent_from()));
        }
        if let Some(late) = self.late_from() {
            timer.passed(late);
        }
        let phase = self.phase(&mut timer);
        let eligible = self.judgement();
        let heard = (phase != Phase::Away).then_some(self.hearing());
        let node = self.node(phase, &eligible, heard, &mut timer);
        let mut desired = Desired {
            phase,
            eligible,
            heard,
            node,
            pods: BTreeMap::new(),
            judge: Vec::new(),
            hold: Vec::new(),
            check_output: Vec::new(),
            commands: Vec::new(),
            close: None,
            wake_at: None,
        };
        for (uid, attempt) in &self.attempts {
            self.attempt(uid, attempt, phase, &mut timer, &mut desired);
        }
        desired.close = self.close(&mut timer);
        desired.wake_at = timer.next;
        desired
    }

    fn hearing(&self) -> Hearing {
        if self.suspected {
            Hearing::Unheard
        } else if self.held {
            Hearing::Held
        } else {
            Hearing::Heard
        }
    }

    fn phase(&self, timer: &mut Timer) -> Phase {
        if self.revoked() {
            return Phase::Away;
        }
        match self.standing {
            Standing::Away => Phase::Away,
            Standing::Leaving { .. } => {
                let given_up = match self.promised {
                    Some(promised) => timer.passed(promised + super::FENCE_MARGIN),
                    None => true,
                };
                if self.suspected && given_up {
                    Phase::Away
                } else {
                    Phase::Leaving
                }
            }
            Standing::Available | Standing::Paused => {
                if self.suspected && timer.passed(self.heard_at + self.keep_node_for()) {
                    Phase::Away
                } else {
                    Phase::Available
                }
            }
        }
    }

    fn node(&self, phase: Phase, eligible: &Judgement, heard: Option<Hearing>, timer: &mut Timer) -> NodeWish {
        let awaited = self.attempts.values().any(Attempt::awaited);
        let returning = self.returning(timer);
        let doubted = self.doubted_from().is_some_and(|at| timer.passed(at));
        let works = eligible.is_yes()
            && phase == Phase::Available
            && self.hearing() == Hearing::Heard
            && !returning
            && !doubted;
        let kept = self
            .eligible_at
            .is_some_and(|at| !timer.passed(at + self.keep_node_for()));
        let mut taints = Vec::new();
        if !eligible.is_yes() || phase == Phase::Away {
            taints.push(taint::INELIGIBLE);
        }
        if self.standing == Standing::Paused && phase == Phase::Available {
            taints.push(taint::PAUSED);
        }
        // Held or not: what was bound to a car that is not heard would only wait.
        if matches!(heard, Some(Hearing::Held | Hearing::Unheard))
            || (returning || doubted) && phase == Phase::Available
        {
            taints.push(taint::SUSPECT);
        }
        if phase == Phase::Leaving {
            taints.push(taint::LEAVING);
        }
        let eligible = match phase {
            Phase::Away => Judgement::no("VehicleAway", "the vehicle is away"),
            _ => eligible.clone(),
        };
        let state = NodeState {
            ready: phase != Phase::Leaving,
            taints,
            eligible,
            heard,
        };
        if works || awaited {
            NodeWish::Present(state)
        } else if kept {
            NodeWish::Keep(state)
        } else {
            NodeWish::Absent
        }
    }

    /// A car that was away has come back with attempts, and nothing new is to come yet: those that were given up meanwhile must have
    /// stopped before, by the API's own record, for the Node and its Pods are written side by side; and the others have been heard again.
    /// Bounded, for a car that never says that they have stopped.
    fn returning(&self, timer: &mut Timer) -> bool {
        let Some(at) = self.returned_at else { return false };
        let unrecorded = |a: &Attempt| a.pod.as_ref().is_some_and(|pod| !pod.stopped);
        // Also of one that the car was told to forget meanwhile.
        let alive = |a: &Attempt| a.known && !a.reported_stopped() || a.report.is_some() && unrecorded(a);
        let mut attempts = self.attempts.values();
        attempts.any(|a| alive(a) && self.given_up(a)) && !timer.passed(at + RUN_PATIENCE)
            || self.attempts.values().any(Attempt::counts) && !timer.passed(at + RETURN_HOLD)
    }

    fn given_up(&self, attempt: &Attempt) -> bool {
        match &attempt.pod {
            None => self.pods_synced,
            Some(pod) => attempt.fenced || pod.phase.is_terminal() || pod.deletion.is_some(),
        }
    }

    fn attempt(&self, uid: &PodUid, attempt: &Attempt, phase: Phase, timer: &mut Timer, desired: &mut Desired) {
        if self.open() {
            self.commands(uid, attempt, &mut desired.commands);
        }
        let Some(pod) = &attempt.pod else { return };
        if !attempt.ended()
            && let Some(at) = self.fence_at(attempt)
        {
            timer.passed(at);
        }
        if attempt.admitted.is_none() && attempt.refusal.is_none() && !attempt.known && !attempt.terminal() {
            desired.judge.push(uid.clone());
        }
        if attempt.refusal.is_some()
            && attempt.held_until.is_none()
            && !attempt.terminal()
            && matches!(pod.kind, PodKind::Other { .. })
        {
            desired.hold.push(uid.clone());
        }
        let claims_output = attempt
            .report
            .as_ref()
            .is_some_and(|r| r.stopped && r.phase == AttemptPhase::Succeeded);
        if claims_output && pod.has_output && attempt.sealed.is_none() && !attempt.terminal() {
            desired.check_output.push(uid.clone());
        }
        let leaving = (phase == Phase::Leaving && !self.suspected)
            .then(|| self.promised.map_or(Duration::ZERO, |at| at.since(timer.now)));
        let around = Surroundings {
            suspected: self.suspected,
            heard: self.open() && self.hearing() == Hearing::Heard,
            paused: self.standing == Standing::Paused,
            leaving,
            release: attempt.held_until.is_some_and(|at| timer.passed(at)),
        };
        desired.pods.insert(uid.clone(), pod_report(attempt, pod, around));
    }

    /// What the car must be told of one attempt and has not been told on this connection.
    fn commands(&self, uid: &PodUid, attempt: &Attempt, commands: &mut Vec<Command>) {
        let pod = attempt.pod.as_ref();
        let over = match pod {
            Some(pod) => pod.phase.is_terminal() || attempt.refusal.is_some() && pod.refused.is_some(),
            None => self.pods_synced,
        };
        if attempt.known {
            if let Some(report) = &attempt.report {
                let acked = attempt.told.ack.is_some_and(|r| r >= report.revision);
                if attempt.recorded.is_some_and(|r| r >= report.revision) && !acked {
                    commands.push(Command::Ack {
                        uid: uid.clone(),
                        revision: report.revision,
                    });
                }
            }
            if over && attempt.ended() {
                commands.push(Command::Forget(uid.clone()));
                return;
            }
        }
        let reached = attempt.known || attempt.told.run.is_some();
        if reached
            && !attempt.ended()
            && let Some((grace, reason)) = self.stop(attempt, over)
            && attempt.told.stop.is_none_or(|told| grace < told)
        {
            commands.push(Command::Stop {
                uid: uid.clone(),
                grace,
                reason,
            });
        }
        let willing = matches!(self.standing, Standing::Available | Standing::Paused) && !self.revoked();
        let wanted = pod.is_some_and(|p| p.deletion.is_none() && !p.phase.is_terminal());
        let admitted = attempt.admitted == Some(true) && attempt.refusal.is_none();
        let ended = attempt.taken() || attempt.fenced || attempt.lost_by_car;
        if !reached && wanted && admitted && willing && !ended {
            commands.push(Command::Run(uid.clone()));
        }
    }

    /// Whether the attempt must be stopped, within what time and why.
    fn stop(&self, attempt: &Attempt, over: bool) -> Option<(Duration, &'static str)> {
        let Some(pod) = &attempt.pod else {
            return over.then_some((Duration::ZERO, "PodGone"));
        };
        // What was given up must not begin, also before the API has its end.
        if over || attempt.fenced {
            return Some((Duration::ZERO, "PodEnded"));
        }
        let grace = pod.deletion?;
        // A leaving car ends its work by itself and within its own notice; our DELETE is only for those who look on.
        let leaving = matches!(self.standing, Standing::Leaving { .. }) && pod.disrupted;
        (!leaving || grace.is_zero()).then_some((grace, "PodDeleted"))
    }

    fn close(&self, timer: &mut Timer) -> Option<&'static str> {
        if !self.open() {
            return None;
        }
        if self.revoked() {
            return Some("the vehicle is revoked");
        }
        let unanswered = self
            .attempts
            .values()
            .filter(|a| !a.known && a.pod.is_some())
            .filter_map(|a| a.told.run)
            .min()?;
        timer
            .passed(unanswered + RUN_PATIENCE)
            .then_some("a Run was not answered")
    }
}

/// The word on the Pod condition Ready that goes with a vehicle's phase.
impl NodeState {
    /// Reason of the Node's condition Ready.
    pub fn ready_reason(&self) -> &'static str {
        if self.ready {
            "KubeletReady"
        } else {
            reason::VEHICLE_LEAVING
        }
    }
}
