//! A parked car by its telemetry, one change after another, and messages that must not count.

use super::*;
use crate::proto::value::Value as Said;
use crate::proto::{Datum, Doors, Value as Wrapped};

const NOW: Boottime = Boottime(Duration::from_secs(100_000));
const STALE: Duration = Duration::from_mins(15);

fn wall() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

/// Which signals a payload has, and what it says of when.
fn payload(created: Timestamp, data: &[(Field, Said)]) -> Vec<u8> {
    let datum = |(field, said): &(Field, Said)| Datum {
        key: i32::from(*field),
        value: Some(Wrapped {
            value: Some(said.clone()),
        }),
    };
    let payload = Payload {
        data: data.iter().map(datum).collect(),
        created_at: Some(Moment {
            seconds: created.as_second(),
            nanos: created.subsec_nanosecond(),
        }),
    };
    payload.encode_to_vec()
}

fn parked_car() -> Vec<(Field, Said)> {
    vec![
        (Field::DriveRail, Said::Truth(false)),
        (Field::VehicleSpeed, Said::LongReal(0.0)),
        (Field::Gear, Said::Shift(2)),
        (Field::ModuleTempMax, Said::LongReal(21.5)),
        (Field::OutsideTemp, Said::LongReal(9.0)),
        (Field::BatteryLevel, Said::LongReal(71.3)),
        (Field::DoorState, Said::Doors(Doors::default())),
        (Field::Locked, Said::Truth(true)),
        (Field::DriverSeatOccupied, Said::Truth(false)),
        (Field::DetailedChargeState, Said::Charge(4)),
    ]
}

/// The car's signals after these payloads, each so many seconds ago.
fn heard(payloads: &[(i64, Vec<(Field, Said)>)]) -> Signals {
    let mut signals = Signals::default();
    for (ago, data) in payloads {
        let created = wall() - jiff::SignedDuration::from_secs(*ago);
        signals.fold(&payload(created, data), (NOW, wall()), STALE).unwrap();
    }
    signals
}

fn told(signals: &Signals) -> Telemetry {
    signals.told(&Telemetry::default(), (NOW, wall()), STALE)
}

#[test]
fn parked_car_is_told_in_bands() {
    let want = Telemetry {
        parked: Known::True,
        plugged_in: Known::True,
        charge: Some(ChargeBand::try_from(60).unwrap()),
        free_for: FreeForMinutes::default(),
    };
    assert_eq!(told(&heard(&[(0, parked_car())])), want);
}

#[rstest::rstest]
#[case::drives(Field::VehicleSpeed, Said::LongReal(3.0), Known::False)]
#[case::in_gear(Field::Gear, Said::Shift(5), Known::False)]
#[case::old_words_for_in_gear(Field::Gear, Said::Text("D".into()), Known::False)]
#[case::ready_to_drive(Field::DriveRail, Said::Truth(true), Known::False)]
#[case::unlocked(Field::Locked, Said::Truth(false), Known::False)]
#[case::door(Field::DoorState, Said::Text("PassengerRear".into()), Known::False)]
#[case::front_trunk(Field::DoorState, Said::Doors(Doors { trunk_front: true, ..Doors::default() }), Known::False)]
#[case::somebody(Field::DriverSeatOccupied, Said::Truth(true), Known::False)]
#[case::belted(Field::DriverSeatBelt, Said::Buckle(2), Known::False)]
#[case::brake(Field::BrakePedal, Said::Truth(true), Known::False)]
#[case::accelerator(Field::PedalPosition, Said::Real(4.0), Known::False)]
#[case::workshop(Field::ServiceMode, Said::Truth(true), Known::False)]
#[case::updating(Field::SoftwareUpdateInstallationPercentComplete, Said::LongWhole(30), Known::False)]
#[case::updated(Field::SoftwareUpdateInstallationPercentComplete, Said::LongWhole(100), Known::True)]
#[case::hot(Field::ModuleTempMax, Said::LongReal(60.0), Known::False)]
#[case::invalid(Field::Locked, Said::Invalid(true), Known::Unknown)]
#[case::not_understood(Field::Locked, Said::Text("perhaps".into()), Known::Unknown)]
#[case::absurd(Field::OutsideTemp, Said::LongReal(4_000.0), Known::Unknown)]
#[case::belt_that_is_not_told_any_more(Field::DriverSeatBelt, Said::Invalid(true), Known::Unknown)]
fn one_signal_decides_and_unknown_is_never_parked(#[case] field: Field, #[case] said: Said, #[case] want: Known) {
    let signals = heard(&[(10, parked_car()), (0, vec![(field, said)])]);
    assert_eq!(told(&signals).parked, want);
}

#[test]
fn each_signal_of_a_parked_car_that_is_missing_means_unknown() {
    let needed = parked_car()
        .into_iter()
        .filter(|(field, _)| ![Field::BatteryLevel, Field::DetailedChargeState].contains(field));
    for (missing, _) in needed {
        let rest = parked_car().into_iter().filter(|(field, _)| *field != missing);
        let signals = heard(&[(0, rest.collect())]);
        assert_eq!(told(&signals).parked, Known::Unknown, "{missing:?}");
    }
}

#[test]
fn car_in_park_whose_drive_is_off_and_that_cannot_measure_its_speed_stands() {
    let no_speed = || vec![(Field::VehicleSpeed, Said::Invalid(true))];
    let with = |more: (Field, Said)| {
        let mut said = no_speed();
        said.push(more);
        told(&heard(&[(10, parked_car()), (0, said)])).parked
    };
    assert_eq!(told(&heard(&[(10, parked_car()), (0, no_speed())])).parked, Known::True);
    assert_eq!(with((Field::DriveRail, Said::Truth(true))), Known::False);
    assert_eq!(with((Field::DriveRail, Said::Invalid(true))), Known::Unknown);
    assert_eq!(with((Field::Gear, Said::Shift(3))), Known::False);
}

/// A drive that is off holds no wheel, so nothing is concluded from it.
#[rstest::rstest]
#[case::not_available(Said::Shift(6))]
#[case::invalid(Said::Invalid(true))]
#[case::of_tomorrow(Said::Shift(99))]
fn gear_that_is_not_known_is_unknown_also_while_the_drive_is_off(#[case] gear: Said) {
    for speed in [Said::LongReal(0.0), Said::Invalid(true)] {
        let said = vec![(Field::VehicleSpeed, speed), (Field::Gear, gear.clone())];
        assert_eq!(told(&heard(&[(10, parked_car()), (0, said)])).parked, Known::Unknown);
    }
}

#[test]
fn car_that_falls_silent_is_unknown_in_all() {
    let signals = heard(&[(0, parked_car())]);
    let before = told(&signals);
    let later = STALE + Duration::from_secs(1);
    let at = (NOW + later, wall() + jiff::SignedDuration::try_from(later).unwrap());
    assert_eq!(signals.told(&before, at, STALE), Telemetry::default());
}

#[test]
fn later_word_counts_whatever_order_they_come_in() {
    let open = vec![(Field::Locked, Said::Truth(false))];
    let signals = heard(&[(0, open), (10, parked_car())]);
    assert_eq!(told(&signals).parked, Known::False, "the older word came later");
}

#[test]
fn message_that_comes_again_changes_nothing() {
    let mut signals = Signals::default();
    let message = payload(wall(), &parked_car());
    let at = (NOW, wall());
    assert_eq!(signals.fold(&message, at, STALE), Ok(parked_car().len()));
    assert_eq!(signals.fold(&message, at, STALE), Ok(0));
}

#[rstest::rstest]
#[case::too_old(-901, Err(PayloadError::NotNow))]
#[case::old(-899, Ok(1))]
#[case::a_little_ahead(59, Ok(1))]
#[case::from_the_future(61, Err(PayloadError::NotNow))]
#[case::from_another_age(-50_000_000_000, Err(PayloadError::NotNow))]
fn only_what_speaks_of_now_counts(#[case] seconds: i64, #[case] want: Result<usize, PayloadError>) {
    let created = wall() + jiff::SignedDuration::from_secs(seconds);
    let message = payload(created, &[(Field::Locked, Said::Truth(true))]);
    assert_eq!(Signals::default().fold(&message, (NOW, wall()), STALE), want);
}

#[test]
fn message_without_a_time_or_with_an_impossible_one_is_undated() {
    let mut data = Payload::decode(&payload(wall(), &parked_car())[..]).unwrap();
    for created_at in [
        None,
        Some(Moment {
            seconds: i64::MAX,
            nanos: 0,
        }),
    ] {
        data.created_at = created_at;
        let folded = Signals::default().fold(&data.encode_to_vec(), (NOW, wall()), STALE);
        assert_eq!(folded, Err(PayloadError::Undated));
    }
}

#[test]
fn message_that_is_cut_anywhere_never_panics_and_never_says_more() {
    let message = payload(wall(), &parked_car());
    for cut in 0..message.len() {
        let mut signals = Signals::default();
        if let Ok(new) = signals.fold(&message[..cut], (NOW, wall()), STALE) {
            panic!("{new} signals were read of a message that was cut at {cut}: its time comes last");
        }
    }
}

#[test]
fn fields_that_are_not_known_are_skipped() {
    let mut message = payload(wall(), &parked_car());
    // A field of the payload, a signal, and a type of value that are none of ours; the value is the position (7).
    message.extend([0xfa, 0x07, 0x01, 0x61]);
    message.extend([0x0a, 0x06, 0x08, 0x15, 0x12, 0x02, 0x3a, 0x00]);
    message.extend([0x0a, 0x07, 0x08, 0x0a, 0x12, 0x03, 0xe2, 0x12, 0x00]);
    let mut signals = Signals::default();
    let new = signals.fold(&message, (NOW, wall()), STALE);
    assert_eq!(new, Ok(parked_car().len()));
    assert_eq!(told(&signals).parked, Known::True);
}

#[rstest::rstest]
#[case::at_eight_hours(480 * 60, 480)]
#[case::between(100 * 60, 60)]
#[case::soon(5 * 60, 0)]
#[case::past(-60, 0)]
#[case::next_week(7 * 86_400, 0)]
fn departure_that_is_set_is_told_as_a_band(#[case] seconds: i64, #[case] band: u32) {
    let mut car = parked_car();
    let departure = wall().as_second() + seconds;
    car.push((Field::ScheduledDepartureTime, Said::LongWhole(departure)));
    assert_eq!(told(&heard(&[(0, car.clone())])).free_for.get(), band);
    car.push((Field::Locked, Said::Truth(true)));
    let open = vec![(Field::Locked, Said::Truth(false))];
    assert_eq!(
        told(&heard(&[(1, car), (0, open)])).free_for.get(),
        0,
        "it is not parked"
    );
}

#[test]
fn charge_of_the_battery_stands_in_for_the_level_that_is_shown() {
    let mut car = parked_car();
    car.retain(|(field, _)| *field != Field::BatteryLevel);
    car.push((Field::Soc, Said::Text("44.5".into())));
    assert_eq!(told(&heard(&[(0, car)])).charge.map(ChargeBand::get), Some(40));
}
