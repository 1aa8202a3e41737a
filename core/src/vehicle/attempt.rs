//! What is known of one attempt: its Pod, the car's word on it, and what has been told to the car.
//!
//! Owned by [`super::Facts`]; written by its `step` only.

use std::time::Duration;

use super::{AttemptPhase, Report};
use crate::clock::Boottime;
use crate::ids::PodUid;

/// A Pod's phase as it stands in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodPhase {
    /// Not started.
    Pending,
    /// Started.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly, or ended by something else than its program.
    Failed,
}

impl PodPhase {
    /// As in `Pod.status.phase`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Whether nothing follows.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// Whose Pod it is: what happens to it after a refusal depends on that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodKind {
    /// An attempt of a `FleetJob`: replaced at once by the operator.
    FleetJob,
    /// A `DaemonSet` makes a new Pod for the same Node without end: held.
    DaemonSet,
    /// Anybody else's. The owner's UID, or the Pod's own.
    Other {
        /// For the back-off of refusals.
        owner: String,
    },
}

/// Why a Pod is not run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// A word in `CamelCase`.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// The part of a Pod that decides something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// The attempt's identity.
    pub uid: PodUid,
    /// Whose it is.
    pub kind: PodKind,
    /// Unheard for this long, the car stops it by itself. None: it works on without limit.
    pub fence: Option<Duration>,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace: Duration,
    /// With a deletionTimestamp: `metadata.deletionGracePeriodSeconds`.
    pub deletion: Option<Duration>,
    /// `status.phase` as it stands in the API.
    pub phase: PodPhase,
    /// `DisruptionTarget` is True in the API.
    pub disrupted: bool,
    /// `kerbside.dev/Stopped` is True in the API.
    pub stopped: bool,
    /// `kerbside.dev/Unheard` is True in the API.
    pub unheard: bool,
    /// `kerbside.dev/Refused` is True in the API.
    pub refused: Option<Refusal>,
    /// It has output that must be sealed in the store before it counts as succeeded.
    pub has_output: bool,
}

/// One attempt on this vehicle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When it was first seen.
    pub(super) since: Boottime,
    /// Its Pod; None: not in the API, as far as seen.
    pub pod: Option<PodFacts>,
    /// The car's newest word on it, on this connection or an earlier one.
    pub report: Option<Report>,
    /// The car on the present connection knows it.
    pub known: bool,
    /// A `Run` of it may have reached the car, from us or from an adapter before us.
    pub maybe_running: bool,
    /// The adapter's own verdict: None until judged, then it stays.
    pub admitted: Option<bool>,
    /// It was refused, by the adapter or by the car. Stays.
    pub refusal: Option<Refusal>,
    /// A refused Pod of other people is held Pending until then.
    pub held_until: Option<Boottime>,
    /// Its fence and a margin have passed unheard. Stays.
    pub fenced: bool,
    /// The car that ran it came back without it. Stays.
    pub lost_by_car: bool,
    /// Whether its output is in the store; None: not known yet.
    pub sealed: Option<bool>,
    /// The revision of the report that the Pod's status in the API carries.
    pub recorded: Option<u64>,
    /// Told to the car on the present connection.
    pub(super) told: Told,
}

/// What the car has been told of an attempt on the present connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) run: Option<Boottime>,
    pub(super) stop: Option<Duration>,
    pub(super) ack: Option<u64>,
}

impl Attempt {
    pub(super) fn new(maybe_running: bool, since: Boottime) -> Self {
        Self {
            since,
            pod: None,
            report: None,
            known: false,
            maybe_running,
            admitted: None,
            refusal: None,
            held_until: None,
            fenced: false,
            lost_by_car: false,
            sealed: None,
            recorded: None,
            told: Told::default(),
        }
    }

    /// The API says that it ended.
    pub(super) fn terminal(&self) -> bool {
        self.pod.as_ref().is_some_and(|p| p.phase.is_terminal())
    }

    /// The car has said its last word on it. One whose program has ended and whose output is on its way is stopped, not ended.
    pub(super) fn ended(&self) -> bool {
        use AttemptPhase::{Disrupted, Failed, Refused, Succeeded};
        let last = |r: &Report| matches!(r.phase, Succeeded | Failed | Disrupted | Refused);
        self.report.as_ref().is_some_and(|r| r.stopped && last(r))
    }

    /// The car has had it and its work counts, whether it is done or not: what was made in its place is to be withdrawn.
    pub(super) fn counts(&self) -> bool {
        let wanted = |p: &PodFacts| p.deletion.is_none() && p.phase != PodPhase::Failed;
        self.report.is_some() && !self.fenced && self.pod.as_ref().is_some_and(wanted)
    }

    /// The car says that nothing of it is alive.
    pub(super) fn reported_stopped(&self) -> bool {
        self.report.as_ref().is_some_and(|r| r.stopped)
    }

    /// Its program has started at some time.
    pub(super) fn started(&self) -> bool {
        use AttemptPhase::{Failed, Frozen, Running, Succeeded};
        let said = self
            .report
            .as_ref()
            .is_some_and(|r| matches!(r.phase, Running | Frozen | Succeeded | Failed));
        said || self.pod.as_ref().is_some_and(|p| p.phase == PodPhase::Running)
    }

    /// The car has taken it at some time, and may have started it: it must never be sent as a new one again.
    pub(super) fn taken(&self) -> bool {
        self.started() || self.report.as_ref().is_some_and(|r| r.phase != AttemptPhase::Refused)
    }

    /// No process of it is alive, for certain.
    pub(super) fn certainly_stopped(&self) -> bool {
        self.fenced || self.lost_by_car || self.reported_stopped() || !self.maybe_running
    }

    /// Somebody still waits for its end, so its Node must stay: without the Node, the Pod garbage collector ends it.
    pub(super) fn awaited(&self) -> bool {
        self.pod.as_ref().is_some_and(|p| {
            let recorded = p.phase.is_terminal() && (p.stopped || self.certainly_stopped());
            !recorded && self.refusal.is_none()
        })
    }
}
