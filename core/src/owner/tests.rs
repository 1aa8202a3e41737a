//! One term after another, each by itself.

mod policies;
mod properties;
mod schema;

use std::time::Duration;

use jiff::civil::DateTime;
use rstest::rstest;

use super::*;
use crate::clock::Boottime;
use crate::consent::Consents;
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

/// A day of work, by the clock of the owner.
fn tuesday(hour: i8) -> DateTime {
    jiff::civil::datetime(2026, 12, 1, hour, 0, 0, 0)
}

fn works(hours: &str) -> Document {
    Document {
        work_hours: Some(vec![serde_saphyr::from_str(hours).unwrap()]),
        ..document()
    }
}

fn paused_until(moment: &str) -> Document {
    Document {
        pause_until: Some(moment.parse().unwrap()),
        ..document()
    }
}

/// Two kilowatt-hours a day.
#[expect(clippy::unnecessary_wraps, reason = "as it is asked for")]
fn bounded() -> Option<Document> {
    Some(Document {
        max_kwh_per_day: Some("2".parse().unwrap()),
        ..document()
    })
}

#[expect(clippy::unnecessary_wraps, reason = "as it is asked for")]
fn used(watt_hours: u64) -> Option<Used> {
    Some(Used {
        microjoules: watt_hours * 3_600_000_000,
        ..Used::default()
    })
}

/// A kibibyte a month.
#[expect(clippy::unnecessary_wraps, reason = "as it is asked for")]
fn with_data() -> Option<Document> {
    let data = serde_saphyr::from_str("{perMonth: 1Ki}").unwrap();
    Some(Document {
        data: Some(data),
        ..document()
    })
}

fn moved(bytes: u64) -> Uplink {
    let mut uplink = Uplink::free();
    uplink.moved.bytes = bytes;
    uplink
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
    civil: Option<DateTime>,
    clock_holds: bool,
    /// The purposes with a record.
    consented: &'static [&'static str],
    energy: Option<Used>,
    uplink: Uplink,
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
            civil: Some(tuesday(12)),
            clock_holds: true,
            consented: &["inference", "video"],
            energy: None,
            uplink: Uplink::free(),
            held: false,
        }
    }
}

impl Case {
    fn ask<T>(&self, ask: impl FnOnce(&Situation<'_>) -> T) -> T {
        let snapshot = signals(self.charge, self.plugged);
        let purposes: Vec<_> = self.consented.iter().map(|purpose| (*purpose).to_owned()).collect();
        let since = "2026-01-01T00:00:00Z".parse().unwrap();
        ask(&Situation {
            view: View::new(&snapshot, NOW, Duration::from_secs(30)),
            wall: self.wall.parse().unwrap(),
            civil: self.civil,
            clock_holds: self.clock_holds,
            consents: &Consents::as_if_given(&purposes, since),
            energy: self.energy,
            uplink: self.uplink,
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

#[test]
fn work_hours_allow_what_is_within_one_of_them() {
    let within = Document {
        work_hours: Some(
            [
                "{from: '01:00', to: '02:00'}",
                "{from: '11:00', to: '12:01', days: [Tue]}",
            ]
            .map(|hours| serde_saphyr::from_str(hours).unwrap())
            .into(),
        ),
        ..document()
    };
    let case = Case {
        document: Some(within),
        ..Case::default()
    };
    assert_eq!(case.will(), (Will::Yes, None));
}

#[test]
fn day_with_energy_left_is_willing_and_one_without_a_bound_asks_for_no_meter() {
    let left = Case {
        document: bounded(),
        energy: used(1999),
        ..Case::default()
    };
    assert_eq!(left.will(), (Will::Yes, None));
    let lost = Case {
        energy: Some(Used {
            lost: true,
            ..Used::default()
        }),
        ..Case::default()
    };
    assert_eq!(lost.will(), (Will::Yes, None));
}

/// Without hours there is no other term that needs the clock of the zone.
#[test]
fn energy_of_a_day_by_an_unknown_calendar_is_none() {
    let document = Document {
        quiet_hours: Vec::new(),
        ..bounded().unwrap()
    };
    let case = Case {
        document: Some(document),
        energy: used(0),
        civil: None,
        ..Case::default()
    };
    assert_eq!(case.will(), (Will::No, Some(reason::ENERGY_TERMS.to_owned())));
}

/// A count that is lost is no count of nothing.
#[rstest]
#[case::energy("whToday < 1000")]
#[case::data("mebibytesThisMonth < 1000")]
fn count_that_is_lost_lets_an_expression_over_it_pause_the_car(#[case] when: &str) {
    let will = |lost| {
        let mut case = Case {
            document: Some(Document {
                when: Some(When::parse(when).unwrap()),
                ..document()
            }),
            energy: Some(Used {
                lost,
                ..Used::default()
            }),
            ..Case::default()
        };
        case.uplink.moved.lost = lost;
        case.will()
    };
    assert_eq!(will(false), (Will::Yes, None));
    assert_eq!(will(true), (Will::Paused, Some(reason::OWNER_TERMS.to_owned())));
}

#[test]
fn pause_ends_at_its_moment() {
    let case = Case {
        document: Some(paused_until("2026-12-01T12:00:00Z")),
        ..Case::default()
    };
    assert_eq!(case.will(), (Will::Yes, None));
}

/// A refusal is read in the cluster: it must not tell when the owner is away from the car.
#[test]
fn refusal_says_nothing_of_the_hours_or_of_the_end_of_a_pause() {
    for document in [
        works("{from: '08:00', to: '12:00'}"),
        paused_until("2026-12-24T12:00:00Z"),
    ] {
        let case = Case {
            document: Some(document),
            ..Case::default()
        };
        let (_, refusal) = case.ask(|now| willing(case.document.as_ref(), case.command, now));
        let message = refusal.unwrap().message;
        assert!(!message.contains(|c: char| c.is_ascii_digit()), "{message}");
    }
}

#[rstest]
#[case::no_document(Case { document: None, ..Case::default() }, Will::No, reason::OWNER_CONSENT_MISSING)]
#[case::withdrawn(Case { command: Command::Withdraw, ..Case::default() }, Will::No, reason::OWNER_CONSENT_MISSING)]
#[case::expired(Case { wall: "2027-12-01T12:00:00Z", ..Case::default() }, Will::No, reason::OWNER_CONSENT_MISSING)]
#[case::not_yet(Case { wall: "2026-10-01T12:00:00Z", ..Case::default() }, Will::No, reason::OWNER_CONSENT_MISSING)]
#[case::no_record(Case { consented: &["video"], ..Case::default() }, Will::No, reason::OWNER_CONSENT_MISSING)]
#[case::quiet(Case { civil: Some(tuesday(23)), ..Case::default() }, Will::No, reason::OWNER_PAUSED)]
#[case::zone_unknown(Case { civil: None, ..Case::default() }, Will::No, reason::OWNER_PAUSED)]
#[case::outside_work_hours(Case { document: Some(works("{from: '08:00', to: '12:00'}")), ..Case::default() }, Will::No, reason::OWNER_PAUSED)]
#[case::other_day(Case { document: Some(works("{from: '08:00', to: '18:00', days: [Sat]}")), ..Case::default() }, Will::No, reason::OWNER_PAUSED)]
#[case::work_hours_in_quiet_hours(Case { document: Some(works("{from: '08:00', to: '23:30'}")), civil: Some(tuesday(23)), ..Case::default() }, Will::No, reason::OWNER_PAUSED)]
#[case::work_hours_without_a_zone(Case { document: Some(works("{from: '08:00', to: '18:00'}")), civil: None, ..Case::default() }, Will::No, reason::OWNER_PAUSED)]
#[case::paused_until(Case { document: Some(paused_until("2026-12-01T12:00:01Z")), ..Case::default() }, Will::No, reason::OWNER_PAUSED)]
#[case::charge_low(Case { charge: Some(49.0), held: true, ..Case::default() }, Will::No, reason::ENERGY_TERMS)]
#[case::charge_unknown(Case { charge: None, ..Case::default() }, Will::Paused, reason::ENERGY_TERMS)]
#[case::charge_absurd(Case { charge: Some(180.0), ..Case::default() }, Will::Paused, reason::ENERGY_TERMS)]
#[case::unplugged(Case { plugged: Some(false), ..Case::default() }, Will::Paused, reason::ENERGY_TERMS)]
#[case::plug_unknown(Case { plugged: None, ..Case::default() }, Will::Paused, reason::ENERGY_TERMS)]
#[case::energy_used_up(Case { document: bounded(), energy: used(2000), ..Case::default() }, Will::No, reason::ENERGY_TERMS)]
#[case::energy_lost(Case { document: bounded(), energy: Some(Used { lost: true, ..Used::default() }), ..Case::default() }, Will::No, reason::ENERGY_TERMS)]
#[case::energy_not_measured(Case { document: bounded(), ..Case::default() }, Will::No, reason::ENERGY_TERMS)]
#[case::metered(Case { uplink: Uplink { metered: Tri::Yes, ..Uplink::default() }, ..Case::default() }, Will::Paused, reason::NETWORK_TERMS)]
#[case::data_used_up(Case { document: with_data(), uplink: moved(1024), ..Case::default() }, Will::No, reason::NETWORK_TERMS)]
#[case::paused(Case { command: Command::Pause, ..Case::default() }, Will::Paused, reason::OWNER_PAUSED)]
#[case::clock_set(Case { clock_holds: false, ..Case::default() }, Will::Paused, reason::OWNER_PAUSED)]
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

/// The document and the record: neither turns the other's no into a yes.
#[test]
fn class_needs_the_document_and_a_record() {
    let mut document = document();
    document.consent.classes.push("training".to_owned());
    let case = Case {
        document: Some(document),
        ..Case::default()
    };
    assert_eq!(case.will(), (Will::Yes, None));
    let answers = ["inference", "video", "training"].map(|class| case.admit(class, true).err());
    let missing = |reason: &str| Some(reason.to_owned());
    assert_eq!(
        answers,
        [
            None,
            missing(reason::CLASS_NOT_ACCEPTED),
            missing(reason::OWNER_CONSENT_MISSING)
        ]
    );
}

#[test]
fn refusal_for_want_of_a_record_names_the_class_and_nothing_of_the_record() {
    let mut document = document();
    document.consent.classes.push("training".to_owned());
    let case = Case::default();
    let asked = Asked {
        class: "training",
        available: true,
    };
    let refusal = case
        .ask(|now| admit(Some(&document), case.command, now, asked))
        .unwrap_err();
    assert!(refusal.message.contains("'training'"), "{refusal}");
    assert!(!refusal.message.contains(|c: char| c.is_ascii_digit()), "{refusal}");
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
