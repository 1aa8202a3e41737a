//! Who refuses a job, for how long they are not asked again, and when nobody is left to ask.
//!
//! A car that refused is avoided for 10 s, doubling to 10 min with every refusal after it was asked anew; a car that starts an
//! attempt is forgiven. The memory lives in the operator and is made again, after a restart, from the refused Pods that are still
//! there. It may be wrong without harm: a refusal is never charged to the job.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::attempt::{Attempt, Phase};
use super::index::View;
use super::{ConditionKind, Plan, after, until};
use crate::backoff::Backoff;
use crate::ids::VehicleId;

/// A car that neither refused nor started anything for so long is unknown again.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);
/// After so many refusals an index is kept for vehicles that are known to be willing; others find out who is.
const PATIENCE: u32 = 2;
/// The most vehicles that a Pod's affinity lists: it stands in every term of the affinity, and a Pod must stay small.
const MOST_AVOIDED: usize = 200;

/// What is known about the vehicles that refused attempts of one job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Refusals(pub BTreeMap<VehicleId, Refuser>);

/// What is known about one vehicle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refuser {
    /// How often it refused each time it was asked anew; 0 once it has started an attempt.
    pub times: u32,
    /// When it last refused, or, if `times` is 0, when the attempt was made that it started. Older attempts tell nothing new.
    pub since: Timestamp,
    /// Why it last refused.
    pub reason: String,
}

impl Refusals {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is known after these attempts were seen as well. Seeing the same attempts again teaches nothing.
    #[must_use]
    pub(super) fn learn(&self, attempts: &[Attempt], now: Timestamp) -> Self {
        let mut known = self.clone();
        let mut told: Vec<_> = attempts
            .iter()
            .filter_map(|a| a.node.as_ref().map(|node| (a.created_at, node, a)))
            .collect();
        told.sort_by_key(|(created_at, _, attempt)| (*created_at, &attempt.uid));
        for (created_at, node, attempt) in told {
            if known.0.get(node).is_some_and(|refuser| created_at <= refuser.since) {
                continue;
            }
            let refused = attempt.refused.as_ref().filter(|_| attempt.phase == Phase::Failed);
            let started = matches!(attempt.phase, Phase::Running | Phase::Succeeded);
            if let Some(reason) = refused {
                let times = known.0.get(node).map_or(0, |refuser| refuser.times).saturating_add(1);
                let since = attempt.finished_at.unwrap_or(created_at).max(created_at).min(now);
                known.0.insert(
                    node.clone(),
                    Refuser {
                        times,
                        since,
                        reason: reason.clone(),
                    },
                );
            } else if started && let Some(refuser) = known.0.get_mut(node) {
                refuser.times = 0;
                refuser.since = created_at;
            }
        }
        known
            .0
            .retain(|_, refuser| now <= after(refuser.since, FORGOTTEN_AFTER));
        known
    }
}

impl Refuser {
    /// Until when the vehicle is not asked again; nothing if it may be asked.
    fn avoided_until(&self, now: Timestamp) -> Option<Timestamp> {
        let until = after(self.since, Backoff::POD.delay(self.times));
        (self.times > 0 && now < until).then_some(until)
    }
}

/// Whom an attempt that is made now may be given to.
pub(super) struct Reach<'a> {
    eligible: &'a BTreeSet<VehicleId>,
    /// All that refused when they were last asked.
    refusing: BTreeSet<&'a VehicleId>,
    /// Those of them that must not be asked now, and until when.
    avoided: BTreeMap<&'a VehicleId, Timestamp>,
    /// Those that are at work on this job, or were, and have not refused since.
    willing: BTreeSet<&'a VehicleId>,
}

impl<'a> Reach<'a> {
    pub(super) fn new(view: &View<'a>, known: &'a Refusals) -> Self {
        let (now, eligible) = (view.facts.now, &view.facts.eligible);
        let refusers = known.0.iter().filter(|(_, refuser)| refuser.times > 0);
        let refusing: BTreeSet<_> = refusers.clone().map(|(vehicle, _)| vehicle).collect();
        let avoided = refusers
            .filter_map(|(vehicle, r)| Some((vehicle, r.avoided_until(now)?)))
            .collect();
        let started = view
            .facts
            .attempts
            .iter()
            .filter(|a| matches!(a.phase, Phase::Running | Phase::Succeeded));
        let willing = started
            .filter_map(|a| a.node.as_ref())
            .filter(|v| eligible.contains(v) && !refusing.contains(v));
        Self {
            eligible,
            avoided,
            willing: willing.collect(),
            refusing,
        }
    }

    /// Whether an index that was refused so often should wait until others have found out who is willing.
    pub(super) fn should_wait(&self, refusals: u32) -> bool {
        refusals >= PATIENCE && !self.eligible.is_empty() && self.willing.is_empty()
    }

    /// Whether every vehicle that could take an attempt refused when it was last asked.
    pub(super) fn all_refuse(&self) -> bool {
        !self.eligible.is_empty() && self.eligible.iter().all(|vehicle| self.refusing.contains(vehicle))
    }

    /// How many vehicles may be asked now.
    pub(super) fn askable(&self) -> usize {
        self.eligible
            .iter()
            .filter(|vehicle| !self.avoided.contains_key(vehicle))
            .count()
    }

    /// When the first vehicle may be asked again.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.eligible
            .iter()
            .filter_map(|vehicle| self.avoided.get(vehicle))
            .min()
            .copied()
    }

    /// The vehicles that the next attempt of an index avoids.
    ///
    /// One that was refused before keeps away from all that refuse, as long as there are others: vehicles whose time has come are
    /// tried with indexes that were not refused yet. One that was refused again goes to vehicles that are known to be willing.
    pub(super) fn avoid(&self, refusals: u32) -> BTreeSet<VehicleId> {
        let unknown = self.eligible.len().saturating_sub(self.willing.len());
        let avoided: Vec<&VehicleId> = if refusals >= PATIENCE && !self.willing.is_empty() && unknown <= MOST_AVOIDED {
            self.eligible
                .iter()
                .filter(|vehicle| !self.willing.contains(vehicle))
                .collect()
        } else if refusals > 0 && (self.eligible.is_empty() || !self.all_refuse()) {
            self.refusing.iter().copied().collect()
        } else {
            let mut longest: Vec<_> = self.avoided.iter().map(|(vehicle, until)| (*until, *vehicle)).collect();
            longest.sort_unstable_by(|a, b| b.cmp(a));
            longest.into_iter().map(|(_, vehicle)| vehicle).collect()
        };
        avoided.into_iter().take(MOST_AVOIDED).cloned().collect()
    }

    /// Whether an attempt can go nowhere since it avoids everyone.
    pub(super) fn is_stuck(&self, attempt: &Attempt) -> bool {
        attempt.is_unbound() && !self.eligible.is_empty() && self.eligible.is_subset(&attempt.avoid)
    }
}

/// Writes the condition that nobody accepts the job, or that this is over.
pub(super) fn report(view: &View<'_>, plan: &mut Plan, goes_on: bool) {
    let kind = ConditionKind::NoVehicleAccepts;
    let known = plan.refusals.clone();
    let reach = Reach::new(view, &known);
    let (now, eligible) = (view.facts.now, view.facts.eligible.len());
    if goes_on && reach.all_refuse() {
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for vehicle in &view.facts.eligible {
            *reasons
                .entry(known.0.get(vehicle).map_or("", |refuser| refuser.reason.as_str()))
                .or_default() += 1;
        }
        let counts: Vec<_> = reasons
            .iter()
            .map(|(reason, count)| format!("{reason}: {count}"))
            .collect();
        let vehicles = if eligible == 1 {
            "the one eligible vehicle refuses"
        } else {
            "every eligible vehicle refuses"
        };
        let message = format!("{vehicles} this job ({})", counts.join(", "));
        plan.ledger.set(kind, true, "AllRefuse", message, now);
        if let Some(next) = reach.next() {
            plan.look_again(until(now, next));
        }
    } else if plan.ledger.is(kind) {
        let (reason, message) = match () {
            () if !goes_on => ("NotRunning", "the job asks no vehicle now"),
            () if eligible == 0 => ("NoneEligible", "no vehicle is eligible now"),
            () => ("MayAccept", "there are eligible vehicles that do not refuse this job"),
        };
        plan.ledger.set(kind, false, reason, message, now);
    }
}
