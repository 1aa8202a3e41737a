//! What a car's standing is decided by at one moment: signals, the maker's terms, the owner's consents, document and command, two clocks.
//!
//! The agent's policy loop, its supervisor of attempts and its status ask it, and [`super::replay`] does over a recorded day: the same
//! functions, so that what an owner is shown is what the car does. The cluster has no word in it but the job class that it asks for, what it
//! pays, and whether there is work; none of them may ever turn a no into a yes.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{
    Asked, ClockTrust, Command, Document, Draw, Refusal, Situation, Uplink, When, admit, may_move, weigh, when, willing,
};
use crate::clock::Boottime;
use crate::consent::Consents;
use crate::duration;
use crate::energy::Used;
use crate::names::reason;
use crate::parked::{self, Effect, Event, Factor, Judgement, Snapshot, State, Terms, Tri, Verdict, View, Will, judge};

/// Without a document nothing is frozen that could wait for anything.
const NO_WAIT: Duration = Duration::ZERO;

/// Everything that counts, as it is at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Grounds<'a> {
    /// Where the car stands.
    pub state: State,
    /// The signals.
    pub snapshot: &'a Snapshot,
    /// The maker's terms.
    pub terms: &'a Terms,
    /// The owner's document, if there is a valid one.
    pub document: Option<&'a Document>,
    /// What the owner has consented to, on record: the document can only narrow it.
    pub consents: &'a Consents,
    /// The owner's last command.
    pub command: Command,
    /// The document's time zone; `None` if the document names none, or one that is not known in the car.
    pub zone: Option<&'a TimeZone>,
    /// `CLOCK_BOOTTIME`.
    pub boot: Boottime,
    /// The wall clock.
    pub wall: Timestamp,
    /// What is known of the wall clock.
    pub trust: ClockTrust,
    /// The energy that work has had today; `None`: nothing measures it in this car.
    pub energy: Option<Used>,
    /// The car's way to the world, and what went by it this month.
    pub uplink: Uplink,
}

impl Grounds<'_> {
    /// What the car's own signals say of each of the maker's terms.
    pub fn judgement(&self) -> Judgement {
        judge(&self.view(), self.terms, self.state.held())
    }

    /// Whether the owner is willing, and if not, why.
    pub fn will(&self) -> (Will, Option<Refusal>) {
        willing(self.document, self.command, &self.situation())
    }

    /// The first reason why the car does not work now, in words; `None`: it does. The car's own come first: while it is driven no term of
    /// its owner makes a difference.
    pub fn why_not(&self) -> Option<String> {
        if matches!(self.state, State::Available { .. }) {
            return None;
        }
        let judgement = self.judgement();
        let because = |factor: Factor| {
            if judgement.0.contains(&(factor, Tri::No)) {
                factor.deny().to_owned()
            } else {
                format!("it is not known whether {}", factor.describe())
            }
        };
        let paused = matches!(self.state, State::Paused { .. });
        Some(match (judgement.verdict(), self.will()) {
            (Verdict::Attended(factor) | Verdict::Going(factor), _) => because(factor),
            (_, (_, Some(refusal))) => refusal.message,
            // Work does not begin without a way to the cluster, nor while the car saves power; it goes on without.
            (Verdict::Parked { may_start: false }, _) if !paused => {
                because(if judgement.of(Factor::Connected).is_yes() {
                    Factor::PowerToStart
                } else {
                    Factor::Connected
                })
            }
            (Verdict::Parked { .. }, _) => {
                let dwell = duration::format(self.terms.dwell);
                format!("the car has not been parked for {dwell} yet")
            }
        })
    }

    /// Whether an attempt of this class may start.
    pub fn admit(&self, class: &str) -> Result<(), Refusal> {
        let asked = Asked {
            class,
            available: matches!(self.state, State::Available { .. }),
        };
        admit(self.document, self.command, &self.situation(), asked)?;
        // A car that saves power lets go on what runs. Of the other thing that new work needs, a network, its arrival is the proof.
        if self.judgement().of(Factor::PowerToStart).is_yes() {
            return Ok(());
        }
        let message = "the car saves power, and takes no new work";
        Err(Refusal::new(reason::ENERGY_TERMS, message))
    }

    /// These classes, of which there is a record, without those for which the owner's expression is certainly false. All of them if it is true for
    /// none, if it cannot be told, or by a clock that is not believed: then the car as a whole stands still, and nothing ends before its time.
    pub fn agreed(&self, classes: BTreeSet<String>) -> BTreeSet<String> {
        let Some(document) = self.document.filter(|document| document.when.is_some()) else {
            return classes;
        };
        let situation = self.situation();
        let says = |class: &String| when::says(document, &situation, class);
        // Of a class that the document does not name nothing runs.
        let runs = |class: &&String| document.consent.classes.contains(*class);
        if !situation.clock_holds || !classes.iter().filter(runs).any(|class| says(class) == Tri::Yes) {
            return classes;
        }
        classes.into_iter().filter(|class| says(class) != Tri::No).collect()
    }

    /// Whether data for work may be moved now that do not have to be: an image, or what a Pod wants of the world. Of expressions those are asked
    /// that are about the network or its data; others say when there is work, as hours and a cable do.
    pub fn may_move(&self) -> bool {
        let about_data = |document: &&Document| document.when.as_ref().is_some_and(When::is_about_data);
        may_move(self.document, self.uplink)
            && self
                .document
                .filter(about_data)
                .is_none_or(|document| when::holds_for_any(document, &self.situation()).is_ok())
    }

    /// Whether an attempt pays what the owner wants: on these terms, which are the text of its `Run`, and with what it would draw.
    pub fn weigh(&self, terms: &str, draw: Option<Draw>) -> Result<(), Refusal> {
        self.document
            .map_or(Ok(()), |document| weigh(document, terms, draw, self.civil()))
    }

    /// Where the car stands now by this judgement of its signals, and what follows. `ending`: the agent ends. `live`: an attempt has a process.
    pub fn look(&self, judgement: &Judgement, ending: bool, live: bool) -> (State, Vec<Effect>) {
        let (will, _) = self.will();
        let event = Event::Judged {
            verdict: judgement.verdict(),
            // An agent that ends takes no work, whatever the owner says; nor does a car in which something lives that had to be dead long ago.
            will: if ending || (live && matches!(self.state, State::Away { .. })) {
                Will::No
            } else {
                will
            },
            resume_within: self.resume_within(),
        };
        let (state, mut effects) = parked::step(self.state, event, self.boot, self.terms);
        if live {
            return (state, effects);
        }
        let (state, cleared) = parked::step(state, Event::Cleared, self.boot, self.terms);
        effects.extend(cleared);
        (state, effects)
    }

    /// When the state may next change by itself, if nothing else does. What is due now was looked at just now.
    pub fn due(&self) -> Option<Boottime> {
        let (will, _) = self.will();
        let deadline = self.state.deadline(will, self.terms, self.resume_within());
        deadline.filter(|at| *at > self.boot)
    }

    /// When the next signal becomes too old to be known.
    pub fn next_unknown(&self) -> Option<Boottime> {
        let stale = self.snapshot.next_stale(self.boot, self.terms.stale_after);
        // A reading is stale when it is older than its age, not when it is as old.
        stale.map(|at| at + Duration::from_millis(1))
    }

    fn resume_within(&self) -> Duration {
        self.document.map_or(NO_WAIT, |document| document.resume_within)
    }

    fn view(&self) -> View<'_> {
        View::new(self.snapshot, self.boot, self.terms.stale_after)
    }

    fn civil(&self) -> Option<jiff::civil::DateTime> {
        self.zone.map(|zone| zone.to_datetime(self.wall))
    }

    fn situation(&self) -> Situation<'_> {
        Situation {
            view: self.view(),
            wall: self.wall,
            civil: self.civil(),
            clock_holds: self.trust.holds(self.boot, self.wall),
            consents: self.consents,
            energy: self.energy,
            uplink: self.uplink,
            held: self.state.held(),
        }
    }
}
