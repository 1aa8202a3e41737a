//! One vehicle as the cluster sees it: from what the car says, what is bound to it and what the clock shows, to what its
//! Node, its Pods and its Vehicle should say and what the car must be told.
//!
//! Called by the adapter's actor, one [`Facts`] per vehicle. It is level-triggered: [`Facts::step`] folds an event into the
//! facts, [`Facts::desired`] is a pure function of the facts and the time; the actor writes only where the world differs. What
//! must never happen: a Pod is said to be stopped while the car may still run it; an ended attempt changes its end.
//!
//! ## Phases
//!
//! | from | event | to |
//! |---|---|---|
//! | Away | car says AVAILABLE or PAUSED | Available |
//! | Available | car says LEAVING | Leaving |
//! | Available | car says AWAY; revoked; unheard for `keep_node_for` | Away |
//! | Leaving | car says AWAY; unheard after the notice and a margin | Away |
//! | Leaving | car says AVAILABLE or PAUSED (it stays after all) | Available |
//!
//! *Suspect* lies across the phases: it is entered by silence and left by anything heard.
//!
//! | silence | suspect after |
//! |---|---|
//! | stream closed | at once |
//! | a `Run` sent, and nothing heard since | 3 s |
//! | stream open, car with an attempt (heartbeat every 4 s) | the pool's `suspectAfter`, 10 s |
//! | stream open, idle car (heartbeat every 20 s) | 50 s: 2.5 heartbeats |
//! | the adapter has just started and waits for the car | 30 s |
//!
//! A car that came back twice within five minutes, after a replacement had been made for its attempt, is waited for 5 s longer the next time,
//! then 10 s, up to a minute, and takes nothing new meanwhile; never longer than to the first of its fences.
//!
//! While the brake holds (too many cars of the pool fell silent together) a silent car with an attempt whose fence has not passed is *held*
//! instead: its Node takes nothing new and says that it is not heard, and nothing follows for its attempts before their fences.
//!
//! ## Attempts
//!
//! | what is known | Pod |
//! |---|---|
//! | car: pending / running / frozen | Pending / Running / Running and not ready |
//! | car: succeeded, stopped, output sealed | Succeeded, Stopped=Reported |
//! | car: running, stopped: its output is on its way | Running |
//! | car: failed, stopped | Failed, Stopped=Reported |
//! | car: disrupted, stopped; nobody asked for the Pod's deletion | Failed, `DisruptionTarget` `VehicleDeparted`, Stopped=Reported |
//! | car: disrupted, stopped; the Pod is being deleted | Failed, Stopped=Reported |
//! | refused by the adapter or the car: of a `FleetJob` | Failed, Refused, Stopped=Reported |
//! | refused: of a `DaemonSet` | Pending, Refused, for good |
//! | refused: others | Pending, Refused; Failed after the back-off |
//! | car suspect | as before, and Unheard=True, not ready |
//! | car held | as before |
//! | unheard for the fence and a margin | Failed, `DisruptionTarget` `VehicleLost`, Stopped=Fenced |
//! | the car had it, is heard again, also after its Hello, and does not know it | Failed, `DisruptionTarget` `VehicleLost`, Stopped=Reported |
//! | car leaving | `DisruptionTarget` `VehicleDeparted`, not ready; then DELETE with min(grace, notice) |
//! | ended, stopped, and being deleted or disrupted | DELETE with grace 0 |

mod attempt;
mod desired;
mod facts;
mod report;

pub mod brake;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use attempt::{Attempt, PodFacts, PodKind, PodPhase, Refusal};
pub use desired::{Desired, Hearing, NodeState, NodeWish};
pub use facts::{Event, Facts, Link};
pub use report::{Delete, PodReport, StoppedBy};

use crate::ids::PodUid;

/// How often an idle car is heard.
pub const HEARTBEAT_IDLE: Duration = Duration::from_secs(20);
/// How often a car with an attempt is heard.
pub const HEARTBEAT_BUSY: Duration = Duration::from_secs(4);
/// A car with an attempt that is not heard for so long is late. Nothing follows but that it counts for the brake, before the first of its
/// pool is suspected by the default terms: cars that fall silent together were last heard within one heartbeat of each other.
pub const HEARTBEAT_LATE: Duration = Duration::from_secs(5);
/// An idle car is suspect after two and a half heartbeats: one may be late, one may be lost.
pub const SUSPECT_IDLE: Duration = Duration::from_secs(50);
/// A car that is there answers a `Run` within a round trip; three seconds allow for a slow mobile network.
pub const RUN_ANSWER: Duration = Duration::from_secs(3);
/// A car that is heard and yet never answers a `Run` is made to connect anew: the `Run` is sent again then.
pub const RUN_PATIENCE: Duration = Duration::from_secs(30);
/// A car that comes back with attempts takes nothing new for so long: what was made in their place can be withdrawn meanwhile, before it is
/// bound to the very car whose attempt it was to replace.
pub const RETURN_HOLD: Duration = Duration::from_secs(1);
/// A car that is suspected and comes back counts as one that keeps coming back for so long.
pub const FLAP_MEMORY: Duration = Duration::from_mins(5);
/// By how much longer such a car is waited for at first; doubled each time.
pub const FLAP_PATIENCE: Duration = Duration::from_secs(5);
/// And at most: its attempt may be replaced in a minute, as it would be if it took the car so long to connect.
pub const FLAP_PATIENCE_MAX: Duration = Duration::from_mins(1);
/// After a start of the adapter its cars have this long to come back before silence means anything.
pub const RECONNECT_WINDOW: Duration = Duration::from_secs(30);
/// What a car may need to stop an attempt after its fence, beside the drift of two clocks.
pub const FENCE_MARGIN: Duration = Duration::from_secs(5);

/// `spec.terminationGracePeriodSeconds` where a Pod does not say: Kubernetes' own default.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// The fence as the adapter counts it: later than any car's, whose clock may run up to a thousandth slower.
pub fn fence_with_margin(fence: Duration) -> Duration {
    fence.saturating_add(fence / 1000).saturating_add(FENCE_MARGIN)
}

/// What a car says of itself, as in the link's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Parked and willing.
    Available,
    /// Somebody is at the car; work is frozen.
    Paused,
    /// Work ends within the notice.
    Leaving {
        /// By then every attempt has been stopped.
        notice: Duration,
    },
    /// No work, whatever the reason.
    Away,
}

/// A vehicle's phase as the cluster sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It works or would.
    Available,
    /// Its work ends within a notice.
    Leaving,
    /// It does no work; nobody outside learns why.
    Away,
}

impl Phase {
    /// As in `Vehicle.status.phase`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "Available",
            Self::Leaving => "Leaving",
            Self::Away => "Away",
        }
    }
}

/// Yes, or no with a word in `CamelCase` and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Every term is met.
    Yes,
    /// A term is not met.
    No {
        /// A word in `CamelCase`.
        reason: String,
        /// A sentence for people.
        message: String,
    },
}

impl Judgement {
    /// Whether the answer is yes.
    pub fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }

    /// A no.
    pub fn no(reason: &str, message: impl Into<String>) -> Self {
        Self::No {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// On what terms the vehicle works: its Vehicle and its pool, already judged over the car's offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The pool's `loss.suspectAfter`.
    pub suspect_after: Duration,
    /// The pool's `loss.keepNodeFor`.
    pub keep_node_for: Duration,
    /// `Vehicle.spec.revoked`, or the Vehicle is gone: its connection ends and stays ended.
    pub revoked: bool,
    /// `Vehicle.spec.suspended`, the pool's eligibility rules, a pool that does not exist.
    pub eligible: Judgement,
}

/// How an attempt stands, as in the link's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptPhase {
    /// Admitted, not started.
    Pending,
    /// Started.
    Running,
    /// Started, and paused with the car.
    Frozen,
    /// Ended well, output stored.
    Succeeded,
    /// The program ended badly.
    Failed,
    /// Ended by the car or by a Stop, not by its program.
    Disrupted,
    /// Declined before it started.
    Refused,
}

/// The part of a car's word on an attempt that decides something; the rest only passes through the adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which attempt.
    pub uid: PodUid,
    /// Rises with every change.
    pub revision: u64,
    /// How it stands.
    pub phase: AttemptPhase,
    /// A word in `CamelCase`.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// No process of it is alive in the car, and none will be started.
    pub stopped: bool,
}

/// What the car must be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run the attempt.
    Run(PodUid),
    /// Stop the attempt.
    Stop {
        /// Which.
        uid: PodUid,
        /// How long its program has to end by itself.
        grace: Duration,
        /// A word in `CamelCase`.
        reason: &'static str,
    },
    /// The report of this revision is in the Pod's status.
    Ack {
        /// Which attempt.
        uid: PodUid,
        /// Of the report.
        revision: u64,
    },
    /// Drop what is held of the attempt.
    Forget(PodUid),
}
