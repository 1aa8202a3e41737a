//! The actor's writes: what differs between the API and what should be becomes a job, one per object at a time.
//!
//! Everything is computed anew from what the watches show, so a write that failed, or was overtaken, is simply made again if it is still
//! wanted.

use std::sync::Arc;
use std::time::Duration;

use kerbside_core::clock::Boottime;
use kerbside_core::ids::PodUid;
use kerbside_core::names::taint;
use kerbside_core::vehicle::{Delete, Desired, Event, Hearing, NodeState, NodeWish, PodReport, StoppedBy};
use kerbside_k8s::lease;
use kube::Resource;

use super::Actor;
use super::jobs::{self, Hold, Key};
use crate::pod_status::{self, Around};
use crate::pod_writer::PodRef;
use crate::terms::template;
use crate::{node, vehicle_status};

/// A write that ends a Pod on silence follows a renewal that is not older.
const FRESH: Duration = Duration::from_secs(5);

/// The Lease of the vehicle's Node, as this actor knows it.
#[derive(Debug, Default)]
pub(super) struct LeaseState {
    renewed_at: Option<Boottime>,
    due_at: Boottime,
    hold: Hold,
}

impl LeaseState {
    /// By a renewal that was sent then.
    pub(super) fn renewed(&mut self, sent: Boottime) {
        self.renewed_at = Some(sent);
        self.hold = Hold::Ours;
        // Four percent of jitter, as the kubelet has: a restart of the adapter must not make all its Leases due together for ever.
        self.due_at = sent + lease::RENEW_EVERY.mul_f64(rand::random_range(0.96..=1.0));
    }

    /// It is not there, or has another holder.
    pub(super) fn taken(&mut self) {
        self.hold = Hold::Lost;
        self.renewed_at = None;
    }

    pub(super) fn is_fresh(&self, now: Boottime) -> bool {
        self.renewed_at.is_some_and(|at| now.since(at) <= FRESH)
    }
}

impl Actor {
    /// Begins the writes that are wanted; when the next is due by the clock.
    pub(super) fn write(&mut self, desired: &Desired) -> Option<Boottime> {
        self.write_vehicle(desired);
        let departs = self.departs(desired);
        if departs {
            self.write_node(desired);
        }
        for (uid, report) in &desired.pods {
            // What replaces a disrupted Pod must not come here again. If the Node cannot be written, its Pods do not wait for ever.
            let early = departs && report.disruption.is_some() && self.at_work.contains(&Key::Node);
            if !early {
                self.write_pod(uid, report);
            }
        }
        self.write_node(desired);
        for uid in &desired.check_output {
            self.look_for_output(uid);
        }
        self.renew_lease()
    }

    fn write_vehicle(&mut self, desired: &Desired) {
        let Some(vehicle) = self.vehicle.clone() else { return };
        if !self.free(&Key::Vehicle) || self.at_work.contains(&Key::Claim) {
            return;
        }
        let now = self.context.clock.wall();
        let mut wanted = vehicle_status::build(&vehicle, desired, &self.car.offer, self.car.agent.as_deref(), now);
        // Before its car has said anything to this adapter, what another one wrote stays.
        if self.session.is_some() {
            vehicle_status::tell_fault(&mut wanted, vehicle.metadata.generation, self.car.fault, now);
        }
        if let Some(patch) = vehicle_status::patch(vehicle.status.as_ref(), &wanted) {
            let uid = vehicle.metadata.uid.clone().unwrap_or_default();
            self.start(
                Key::Vehicle,
                jobs::vehicle_status(Arc::clone(&self.context), self.id.clone(), uid, patch),
            );
        }
    }

    fn write_node(&mut self, desired: &Desired) {
        let Some(vehicle) = self.vehicle.clone() else { return };
        if !self.free(&Key::Node) || !self.synced {
            return;
        }
        let there = self.context.nodes.by_name("", self.id.as_str());
        let (context, id) = (Arc::clone(&self.context), self.id.clone());
        let wanted = |state: &NodeState| {
            let template = template(self.pool.as_deref());
            node::wanted(
                &self.id,
                &vehicle,
                &template,
                &self.car.offer,
                &self.car.os,
                state.clone(),
                &self.context.node,
            )
        };
        let now = self.context.clock.wall();
        let (state, there) = match (&desired.node, there) {
            (NodeWish::Absent | NodeWish::Keep(_), None) => return,
            (NodeWish::Present(state), None) => {
                tracing::info!(vehicle.id = %self.id, "a vehicle's Node is created");
                let node = wanted(state).create(now);
                return self.start(Key::Node, jobs::create_node(context, id, node));
            }
            (NodeWish::Absent, Some(there)) => {
                tracing::info!(vehicle.id = %self.id, "a vehicle's Node is deleted");
                let uid = there.metadata.uid.clone().unwrap_or_default();
                return self.start(Key::Node, jobs::delete_node(context, id, uid));
            }
            (NodeWish::Keep(state) | NodeWish::Present(state), Some(there)) => (state, there),
        };
        if state.heard == Some(Hearing::Heard)
            && node::has_taint(&there, taint::SUSPECT)
            && self.tells_of_return(desired)
        {
            // Those who wait for a vehicle hear of it last: before, its own attempts are heard again and need no replacement, and those that
            // were given up are said to have stopped.
            return;
        }
        let wanted = wanted(state);
        let (metadata, status) = (wanted.patch_metadata(&there), wanted.patch_status(&there, now));
        if metadata.is_some() || status.is_some() {
            let uid = there.metadata.uid.clone().unwrap_or_default();
            self.start(Key::Node, jobs::patch_node(context, id, uid, metadata, status));
        }
    }

    /// Whether the vehicle takes no more work and its Node does not say so yet.
    fn departs(&self, desired: &Desired) -> bool {
        let (NodeWish::Keep(state) | NodeWish::Present(state)) = &desired.node else {
            return false;
        };
        let Some(there) = self.context.nodes.by_name("", self.id.as_str()) else {
            return false;
        };
        let mut away = [taint::LEAVING, taint::INELIGIBLE].into_iter();
        away.any(|key| state.taints.contains(&key) && !node::has_taint(&there, key))
    }

    /// Whether a Pod is being told at this moment that its vehicle is heard again, or that it has stopped.
    fn tells_of_return(&self, desired: &Desired) -> bool {
        let mut pods = desired.pods.iter();
        let tells = |report: &PodReport| report.unheard == Some(false) || report.stopped.is_some();
        pods.any(|(uid, report)| tells(report) && self.at_work.contains(&Key::Pod(uid.clone())))
    }

    /// Renews the Lease when it is due; when it is due next. Without a Node there is no Lease.
    fn renew_lease(&mut self) -> Option<Boottime> {
        let node = self.context.nodes.by_name("", self.id.as_str())?;
        let now = self.context.clock.boottime();
        if now >= self.lease.due_at && self.free(&Key::Lease) {
            let uid = node.meta().uid.clone().unwrap_or_default();
            let hold = self.lease.hold;
            self.start(
                Key::Lease,
                jobs::renew_lease(Arc::clone(&self.context), self.id.clone(), uid, hold),
            );
        }
        (self.lease.due_at > now).then_some(self.lease.due_at)
    }

    fn write_pod(&mut self, uid: &PodUid, report: &PodReport) {
        let Some(pod) = self.pod(uid).cloned() else { return };
        let Some(about) = PodRef::of(&pod) else { return };
        if self.free(&Key::Pod(uid.clone())) {
            let around = Around {
                node_address: &self.context.node.address,
                now: self.context.clock.wall(),
                heard_at: self.heard_at,
                first: self.first_heard.get(uid).copied().unwrap_or_default(),
            };
            let wanted = pod_status::build(&pod, report, self.said.get(uid), around);
            match pod_status::patch(pod.status.as_ref(), &wanted) {
                Some(patch) => {
                    if !self.may_end(report) {
                        return;
                    }
                    // An end must not be written over another end, nor a beginning over any.
                    let about = if report.phase.is_terminal() || patch.get("phase").is_some() {
                        about.at_version_of(&pod)
                    } else {
                        about
                    };
                    self.start(
                        Key::Pod(uid.clone()),
                        jobs::pod_status(Arc::clone(&self.context), self.id.clone(), about, patch),
                    );
                    return;
                }
                None => self.record(uid, report),
            }
        }
        let grace = match report.delete {
            Delete::No => return,
            Delete::Graceful(grace) => u32::try_from(grace.as_secs()).unwrap_or(u32::MAX).max(1),
            Delete::Confirm => 0,
        };
        if self.free(&Key::Delete(uid.clone())) && !self.at_work.contains(&Key::Pod(uid.clone())) {
            let Some(about) = PodRef::of(&pod) else { return };
            self.start(
                Key::Delete(uid.clone()),
                jobs::delete_pod(Arc::clone(&self.context), self.id.clone(), about, grace),
            );
        }
    }

    /// The API has what follows from the car's report of this revision: the car may be told so.
    fn record(&mut self, uid: &PodUid, report: &PodReport) {
        let recorded = self.facts.attempts().get(uid).and_then(|a| a.recorded);
        if let Some(revision) = report.revision.filter(|r| recorded != Some(*r)) {
            self.step(Event::Recorded(uid.clone(), revision));
            // What follows for the car is told in the next turn.
            self.ends.wake.notify_one();
        }
    }

    /// A Pod is ended on silence only by the replica that holds its Node's Lease, and has just shown that it does.
    fn may_end(&mut self, report: &PodReport) -> bool {
        let now = self.context.clock.boottime();
        let node = self.context.nodes.by_name("", self.id.as_str()).is_some();
        if report.stopped != Some(StoppedBy::Fenced) || !node || self.lease.is_fresh(now) {
            return true;
        }
        self.lease.due_at = now;
        false
    }

    fn look_for_output(&mut self, uid: &PodUid) {
        let key = Key::Output(uid.clone());
        let Some(namespace) = self.pod(uid).and_then(|p| p.metadata.namespace.clone()) else {
            return;
        };
        if self.free(&key) {
            self.start(
                key,
                jobs::look_for_output(Arc::clone(&self.context), self.id.clone(), namespace, uid.clone()),
            );
        }
    }
}
