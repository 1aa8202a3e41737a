//! What the owner of the car says to work: the document, the commands given in the car, and the signals of energy.
//!
//! Called by the agent's policy loop for the car's standing, and again for each attempt before it starts. No is the default: without
//! a document, with a consent that does not hold, with a signal that is not known, the answer is never yes.

pub mod document;
pub mod egress;

use std::fmt;

pub use document::{Consent, Document, DocumentError, QuietHours};
pub use egress::{Egress, Reach, ReachError};
use serde::{Deserialize, Serialize};

use crate::names::reason;
use crate::parked::{Tri, View, Will};

/// What the owner last said in the car. It holds over a restart and needs no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    /// Nothing but the document.
    #[default]
    None,
    /// Not now.
    Pause,
    /// The consent is taken back; only a new document gives it again.
    Withdraw,
}

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
    /// The time of day in the document's time zone; `None` if that zone is not known in the car.
    pub time_of_day: Option<jiff::civil::Time>,
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
    if !document.quiet_hours.is_empty() {
        match now.time_of_day {
            None => {
                return no(
                    reason::OWNER_PAUSED,
                    "the time zone of the owner's quiet hours is not known in the car",
                );
            }
            Some(time) if document.quiet_hours.iter().any(|quiet| quiet.contain(time)) => {
                return no(reason::OWNER_PAUSED, "the owner keeps quiet hours");
            }
            Some(_) => {}
        }
    }
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
    if command == Command::Pause {
        return pause(reason::OWNER_PAUSED, "the owner has paused the car");
    }
    Ok(())
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
    verdict(document, command, situation).map_err(|(_, refusal)| refusal)?;
    let classes = document.map_or(&[][..], |document| &document.consent.classes);
    if !classes.iter().any(|class| class == asked.class) {
        let message = format!("the owner has not consented to work of class '{}'", asked.class);
        return Err(Refusal::new(reason::CLASS_NOT_ACCEPTED, message));
    }
    if !asked.available {
        return Err(Refusal::new(
            reason::NOT_PARKED,
            "the car is not parked, or cannot tell",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rstest::rstest;

    use super::*;
    use crate::clock::Boottime;
    use crate::parked::signals::{Snapshot, Value, path};

    const NOW: Boottime = Boottime(Duration::from_secs(100));

    fn document() -> Document {
        let yaml = "
consent: {givenAt: 2026-11-01T10:00:00Z, expiresAt: 2027-11-01T10:00:00Z, classes: [inference]}
requirePluggedIn: true
chargeFloorPercent: 50
quietHours: [{from: '22:00', to: '06:00'}]
timeZone: UTC
";
        serde_saphyr::from_str::<Document>(yaml).unwrap().check().unwrap()
    }

    fn signals(charge: Option<f64>, plugged: Option<bool>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        if let Some(charge) = charge {
            snapshot.set(path::CHARGE, Value::Number(charge), NOW);
        }
        if let Some(plugged) = plugged {
            let port = format!("{}AnyPosition.IsChargingCableConnected", path::CHARGING_PORTS);
            snapshot.set(&port, Value::Bool(plugged), NOW);
        }
        snapshot
    }

    struct Case {
        document: Option<Document>,
        command: Command,
        charge: Option<f64>,
        plugged: Option<bool>,
        wall: &'static str,
        time_of_day: Option<jiff::civil::Time>,
        held: bool,
    }

    impl Default for Case {
        fn default() -> Self {
            Self {
                document: Some(document()),
                command: Command::None,
                charge: Some(80.0),
                plugged: Some(true),
                wall: "2026-12-01T12:00:00Z",
                time_of_day: Some(jiff::civil::time(12, 0, 0, 0)),
                held: false,
            }
        }
    }

    impl Case {
        fn ask<T>(&self, ask: impl FnOnce(&Situation<'_>) -> T) -> T {
            let snapshot = signals(self.charge, self.plugged);
            ask(&Situation {
                view: View::new(&snapshot, NOW, Duration::from_secs(30)),
                wall: self.wall.parse().unwrap(),
                time_of_day: self.time_of_day,
                held: self.held,
            })
        }

        fn will(&self) -> (Will, Option<String>) {
            let (will, refusal) = self.ask(|now| willing(self.document.as_ref(), self.command, now));
            (will, refusal.map(|refusal| refusal.reason))
        }

        fn admit(&self, class: &str, available: bool) -> Result<(), String> {
            self.ask(|now| admit(self.document.as_ref(), self.command, now, Asked { class, available }))
                .map_err(|refusal| refusal.reason)
        }
    }

    #[test]
    fn every_term_met_is_willing() {
        assert_eq!(Case::default().will(), (Will::Yes, None));
        assert_eq!(Case::default().admit("inference", true), Ok(()));
    }

    #[rstest]
    #[case::no_document(Case { document: None, ..Case::default() }, Will::No, reason::OWNER_CONSENT_MISSING)]
    #[case::withdrawn(Case { command: Command::Withdraw, ..Case::default() }, Will::No, reason::OWNER_CONSENT_MISSING)]
    #[case::expired(Case { wall: "2027-12-01T12:00:00Z", ..Case::default() }, Will::No, reason::OWNER_CONSENT_MISSING)]
    #[case::not_yet(Case { wall: "2026-10-01T12:00:00Z", ..Case::default() }, Will::No, reason::OWNER_CONSENT_MISSING)]
    #[case::quiet(Case { time_of_day: Some(jiff::civil::time(23, 0, 0, 0)), ..Case::default() }, Will::No, reason::OWNER_PAUSED)]
    #[case::zone_unknown(Case { time_of_day: None, ..Case::default() }, Will::No, reason::OWNER_PAUSED)]
    #[case::charge_low(Case { charge: Some(49.0), held: true, ..Case::default() }, Will::No, reason::ENERGY_TERMS)]
    #[case::charge_unknown(Case { charge: None, ..Case::default() }, Will::Paused, reason::ENERGY_TERMS)]
    #[case::charge_absurd(Case { charge: Some(180.0), ..Case::default() }, Will::Paused, reason::ENERGY_TERMS)]
    #[case::unplugged(Case { plugged: Some(false), ..Case::default() }, Will::Paused, reason::ENERGY_TERMS)]
    #[case::plug_unknown(Case { plugged: None, ..Case::default() }, Will::Paused, reason::ENERGY_TERMS)]
    #[case::paused(Case { command: Command::Pause, ..Case::default() }, Will::Paused, reason::OWNER_PAUSED)]
    fn one_term_that_is_not_met_decides(#[case] case: Case, #[case] will: Will, #[case] reason: &str) {
        assert_eq!(case.will(), (will, Some(reason.to_owned())));
        assert_eq!(case.admit("inference", true), Err(reason.to_owned()));
    }

    #[test]
    fn charge_between_floor_and_margin_holds_work_but_starts_none() {
        let at = |charge, held| {
            Case {
                charge: Some(charge),
                held,
                ..Case::default()
            }
            .will()
            .0
        };
        assert_eq!(
            [at(50.0, true), at(50.0, false), at(54.9, false), at(55.0, false)],
            [Will::Yes, Will::No, Will::No, Will::Yes]
        );
    }

    #[test]
    fn floor_near_full_can_still_be_reached() {
        let mut document = document();
        document.charge_floor_percent = 98.0;
        let case = Case {
            document: Some(document),
            charge: Some(100.0),
            ..Case::default()
        };
        assert_eq!(case.will().0, Will::Yes);
    }

    #[test]
    fn cable_does_not_matter_to_an_owner_who_does_not_ask_for_it() {
        let mut document = document();
        document.require_plugged_in = false;
        assert_eq!(
            Case {
                document: Some(document),
                plugged: None,
                ..Case::default()
            }
            .will()
            .0,
            Will::Yes
        );
    }

    #[test]
    fn other_class_and_a_car_that_is_not_available_are_refused() {
        assert_eq!(
            Case::default().admit("video", true),
            Err(reason::CLASS_NOT_ACCEPTED.to_owned())
        );
        assert_eq!(
            Case::default().admit("inference", false),
            Err(reason::NOT_PARKED.to_owned())
        );
    }
}
