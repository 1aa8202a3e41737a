//! What the cluster sees of a car: each change of its standing, with the moment in which it came.
//!
//! Called once per trace. Every decision is the agent's own: its judgement of the signals that the trace's events show, and its state machine
//! (`kerbside_core::parked`). What a change is to the cluster: a Vehicle's phase, a Node's taints and conditions, a Pod's PodReady. What must
//! never happen: something is seen of a car that no network reaches.

use std::time::Duration;

use kerbside_core::clock::Boottime;
use kerbside_core::parked::{Event, Snapshot, State, Terms, Tri, Verdict, View, Will, judge, step};

use crate::cars::looks::Looks;
use crate::traces::{Trace, What};

/// How long frozen work waits if the owner's document does not say (`resumeWithin`).
const RESUME_WITHIN: Duration = Duration::from_mins(2);
/// At most so many steps follow on one look; a deadline that has passed is met by nothing but a new signal.
const STEPS: usize = 4;

/// How a car stands in the cluster's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// Free for work.
    Available,
    /// Somebody is at it.
    Paused,
    /// Not free, or soon not any more, whatever the reason.
    Away,
    /// Not heard.
    Unheard,
}

/// A change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Since the start of the trace.
    pub at: Duration,
    /// To what.
    pub change: Change,
}

/// All changes of a car, in their order; `needs_cable`: its owner lets it work only while it is plugged in.
pub fn seen(trace: &Trace, needs_cable: bool) -> Vec<Seen> {
    let terms = Terms::default();
    let mut looks = Looks::standing(trace.car.vss);
    let mut car = Car {
        terms: &terms,
        needs_cable,
        reached: true,
        state: State::initial(),
        seen: Vec::new(),
    };
    for (number, event) in trace.events.iter().enumerate() {
        match event.what {
            What::RadioLost => car.reached = false,
            What::RadioBack => car.reached = true,
            what => drop(looks.see(what)),
        }
        let until = trace.events.get(number + 1).map_or(trace.length, |next| next.at);
        // What happens in one moment is looked at once.
        if until > event.at {
            car.look(&looks, event.at, until);
        }
    }
    car.seen
}

struct Car<'a> {
    terms: &'a Terms,
    needs_cable: bool,
    reached: bool,
    state: State,
    seen: Vec<Seen>,
}

impl Car<'_> {
    /// Its signals show this from a moment up to another.
    fn look(&mut self, looks: &Looks, from: Duration, until: Duration) {
        let mut now = from;
        for _ in 0..STEPS {
            let (verdict, will) = self.judged(looks, now);
            let judged = Event::Judged {
                verdict,
                will,
                resume_within: RESUME_WITHIN,
            };
            let (state, _) = step(self.state, judged, Boottime(now), self.terms);
            self.state = state;
            self.says(now);
            match state.deadline(will, self.terms, RESUME_WITHIN) {
                Some(Boottime(due)) if due > now && due < until => now = due,
                _ => break,
            }
        }
    }

    /// What the car makes of its signals, and its owner's document of the cable.
    fn judged(&self, looks: &Looks, now: Duration) -> (Verdict, Will) {
        let mut snapshot = Snapshot::default();
        // A bus says everything again and again; what has fallen silent is not in it.
        for (path, value) in looks.refresh().set {
            snapshot.set(&path, value, Boottime(now));
        }
        let view = View::new(&snapshot, Boottime(now), self.terms.stale_after);
        let willing = !self.needs_cable || view.plugged_in() == Tri::Yes;
        let verdict = judge(&view, self.terms, self.state.held()).verdict();
        (verdict, if willing { Will::Yes } else { Will::No })
    }

    /// What the cluster hears of it.
    fn says(&mut self, at: Duration) {
        let change = match self.state {
            _ if !self.reached => Change::Unheard,
            State::Available { .. } => Change::Available,
            State::Paused { .. } => Change::Paused,
            State::Leaving { .. } | State::Away { .. } => Change::Away,
        };
        let before = self.seen.last().map_or(Change::Away, |seen| seen.change);
        if before != change {
            self.seen.push(Seen { at, change });
        }
    }
}
