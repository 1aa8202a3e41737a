//! What the owner of the car says to work: the document, the commands given in the car, and the signals of energy.
//!
//! Called by the agent's policy loop for the car's standing, and again for each attempt before it starts, both through [`Grounds`]. No is
//! the default: without a document, with a consent that does not hold, with a signal that is not known, the answer is never yes.
//!
//! | module | what |
//! |---|---|
//! | `document` | the owner's document, as it is read |
//! | `whole` | whether its text is all of it |
//! | `check` | what a document can never mean, and what it probably does not |
//! | `explain` | a document in plain words |
//! | `hours` | times of the week |
//! | `egress` | what of the world work may reach |
//! | `publisher` | whose signatures under images count |
//! | `network` | networks that cost by the byte, and the data of a month |
//! | `tariff` | what energy costs, and what work must pay beyond it |
//! | `when` | an expression of the owner's own |
//! | `command` | what the owner says in the car |
//! | `trust` | whether the wall clock can be believed |
//! | `grounds` | all of it at one moment, with the maker's terms: the car's standing |
//! | `replay` | when a car would have worked over a recorded day |

mod check;
mod command;
pub mod document;
pub mod egress;
mod explain;
mod grounds;
mod hours;
pub mod network;
mod publisher;
pub mod replay;
pub mod tariff;
mod trust;
pub mod when;
mod whole;

#[cfg(test)]
mod tests;

use std::fmt;

pub use check::{DocumentError, doubts};
pub use command::{Command, Remembered, Word};
pub use document::{API_VERSION, Consent, Document, KIND, is_class};
pub use egress::{Egress, Reach, ReachError};
pub use explain::explain;
pub use grounds::Grounds;
pub use hours::{Day, Hours};
pub use network::{Data, Metered, Network, Uplink, may_move};
pub use publisher::{PublicKey, Publisher};
pub use tariff::{Draw, Tariff, Window, Worth, weigh};
pub use trust::ClockTrust;
pub use when::When;

use crate::consent::Consents;
use crate::energy::Used;
use crate::names::reason;
use crate::parked::{Tri, View, Will};

/// Why an attempt is declined: a word in CamelCase and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One of `names::reason`, or the kubelet's `OutOf<resource>`.
    pub reason: String,
    /// What is missing and who can change it.
    pub message: String,
}

impl Refusal {
    /// A refusal for `reason`.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

/// The facts that the owner's terms are held against.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The car's signals now.
    pub view: View<'a>,
    /// The wall clock.
    pub wall: jiff::Timestamp,
    /// Date and time of day in the document's time zone; `None` if that zone is not known in the car.
    pub civil: Option<jiff::civil::DateTime>,
    /// The wall clock can be believed: nobody has just set it.
    pub clock_holds: bool,
    /// What the owner has consented to, on record.
    pub consents: &'a Consents,
    /// The energy that work has had today; `None`: nothing measures it in this car.
    pub energy: Option<Used>,
    /// The car's way to the world, and what went by it this month.
    pub uplink: Uplink,
    /// The car has work: numeric gates use the level at which they stop.
    pub held: bool,
}

/// Whether the owner is willing, and if not, why.
pub fn willing(document: Option<&Document>, command: Command, situation: &Situation<'_>) -> (Will, Option<Refusal>) {
    match verdict(document, command, situation) {
        Ok(()) => (Will::Yes, None),
        Err((will, refusal)) => (will, Some(refusal)),
    }
}

fn verdict(document: Option<&Document>, command: Command, now: &Situation<'_>) -> Result<(), (Will, Refusal)> {
    let no = |reason, message: &str| Err((Will::No, Refusal::new(reason, message)));
    let pause = |reason, message: &str| Err((Will::Paused, Refusal::new(reason, message)));
    if command == Command::Withdraw {
        return no(reason::OWNER_CONSENT_MISSING, "the owner has withdrawn the consent");
    }
    let Some(document) = document else {
        return no(reason::OWNER_CONSENT_MISSING, "the car has no valid owner's document");
    };
    if now.wall < document.consent.given_at {
        return no(reason::OWNER_CONSENT_MISSING, "the owner's consent does not hold yet");
    }
    if document.consent.expires_at.is_some_and(|expires| now.wall >= expires) {
        return no(reason::OWNER_CONSENT_MISSING, "the owner's consent has expired");
    }
    // An empty list accepts no work, and needs no record to do so.
    let classes = &document.consent.classes;
    if !classes.is_empty() && classes.iter().all(|class| now.consents.of(class, now.wall).is_err()) {
        return no(
            reason::OWNER_CONSENT_MISSING,
            "there is no record of a consent of the owner that holds",
        );
    }
    if document.pause_until.is_some_and(|until| now.wall < until) {
        return no(
            reason::OWNER_PAUSED,
            "the owner has paused the car until some later time",
        );
    }
    if document.has_hours() {
        // Of the hours themselves nothing is said: a refusal is read in the cluster, and when somebody is away from home is nobody's business.
        let zone_unknown = Err("the time zone of the owner's hours is not known in the car");
        if let Err(why) = now.civil.map_or(zone_unknown, |at| document.hours(at)) {
            return no(reason::OWNER_PAUSED, why);
        }
    }
    day_of_energy(document, now)?;
    network::month_of_data(document, now.uplink, false)?;
    let margin = if now.held {
        0.0
    } else {
        document.charge_resume_margin_percent
    };
    // A margin must not make a floor of 98 % unreachable.
    let level = (document.charge_floor_percent + margin).min(100.0);
    match now.view.charge() {
        None => return pause(reason::ENERGY_TERMS, "the charge of the car is not known"),
        Some(charge) if charge < level => {
            return no(
                reason::ENERGY_TERMS,
                "the charge is below what the owner keeps for driving",
            );
        }
        Some(_) => {}
    }
    if document.require_plugged_in {
        match now.view.plugged_in() {
            Tri::Yes => {}
            Tri::No => {
                return pause(
                    reason::ENERGY_TERMS,
                    "the owner wants the car plugged in, and it is not",
                );
            }
            Tri::Unknown => {
                return pause(
                    reason::ENERGY_TERMS,
                    "the owner wants the car plugged in, and that is not known",
                );
            }
        }
    }
    network::way(document, now.uplink, false)?;
    when::holds_for_any(document, now)?;
    if command == Command::Pause {
        return pause(reason::OWNER_PAUSED, "the owner has paused the car");
    }
    // Last, for all others say no for longer. What runs stands still, and goes on if it may by the time that the clock then shows.
    if !now.clock_holds {
        return pause(
            reason::OWNER_PAUSED,
            "the car's clock was set, and is not believed until it has gone evenly for a minute",
        );
    }
    Ok(())
}

/// Whether something is left of the energy that the owner gives for a day.
fn day_of_energy(document: &Document, now: &Situation<'_>) -> Result<(), (Will, Refusal)> {
    let Some(most) = document.max_microjoules_per_day() else {
        return Ok(());
    };
    let why = match (now.energy, now.civil) {
        (None, _) => "the owner bounds the energy of a day, and what energy work takes is not known in this car",
        (_, None) => "the time zone of the owner's days is not known in the car",
        (Some(used), Some(_)) if used.up(most) => "the energy that the owner gives for today is used up",
        _ => return Ok(()),
    };
    Err((Will::No, Refusal::new(reason::ENERGY_TERMS, why)))
}

/// Whether the owner lets anything begin: more is asked than of what runs.
fn begins(document: Option<&Document>, now: &Situation<'_>) -> Result<(), (Will, Refusal)> {
    let Some(document) = document else { return Ok(()) };
    network::month_of_data(document, now.uplink, true)?;
    network::way(document, now.uplink, true)
}

/// What an attempt is, as far as the owner's terms ask.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its job class.
    pub class: &'a str,
    /// Whether the car is available: parked, and willing when it was last judged.
    pub available: bool,
}

/// Whether an attempt may start now.
pub fn admit(
    document: Option<&Document>,
    command: Command,
    situation: &Situation<'_>,
    asked: Asked<'_>,
) -> Result<(), Refusal> {
    verdict(document, command, situation)
        .and_then(|()| begins(document, situation))
        .map_err(|(_, refusal)| network::said_outside(refusal))?;
    let classes = document.map_or(&[][..], |document| &document.consent.classes);
    if !classes.iter().any(|class| class == asked.class) {
        let message = format!("the owner has not consented to work of class '{}'", asked.class);
        return Err(Refusal::new(reason::CLASS_NOT_ACCEPTED, message));
    }
    // Why there is none is the owner's business: `kerbside-agent status` says it.
    if situation.consents.of(asked.class, situation.wall).is_err() {
        let message = format!(
            "there is no record of a consent of the owner to work of class '{}' that holds",
            asked.class
        );
        return Err(Refusal::new(reason::OWNER_CONSENT_MISSING, message));
    }
    if let Some(document) = document {
        let holds = when::holds(document, situation, asked.class);
        holds.map_err(|(_, refusal)| network::said_outside(refusal))?;
    }
    if !asked.available {
        return Err(Refusal::new(
            reason::NOT_PARKED,
            "the car is not parked, or cannot tell",
        ));
    }
    Ok(())
}
