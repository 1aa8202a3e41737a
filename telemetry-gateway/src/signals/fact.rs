//! One value of a car's telemetry, read: the same signal is text, a number or of a type of its own, as the car's software is old.
//!
//! Pure. What is marked as invalid, of another type, out of any reason, or in words that are not known gives None, which is unknown.

use jiff::Timestamp;

use crate::proto::value::Value as Said;
use crate::proto::{Buckle, Charge, Doors as DoorsSaid, Field, Shift, Value};

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fact {
    /// Yes or no.
    Is(bool),
    /// In the unit of the telemetry.
    Number(f64),
    /// The gear is Park, or any other.
    Park(bool),
    /// Which doors are open.
    Doors(Doors),
    /// When the driver means to leave.
    Departure(Timestamp),
}

/// What is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doors {
    /// In the order of `path::DOORS`: front left and right, rear left and right, left being the driver's side.
    pub(super) sides: [bool; 4],
    pub(super) trunk: bool,
    pub(super) front_trunk: bool,
}

/// What the value says of the signal.
pub(super) fn of(field: Field, value: Option<&Value>) -> Option<Fact> {
    let said = value?.value.as_ref()?;
    let within = |low: f64, high: f64| number(said).filter(|n| (low..=high).contains(n)).map(Fact::Number);
    match field {
        Field::Gear => park(said).map(Fact::Park),
        Field::VehicleSpeed => within(-300.0, 300.0),
        Field::Soc
        | Field::BatteryLevel
        | Field::PedalPosition
        | Field::BrakePedalPos
        | Field::SoftwareUpdateInstallationPercentComplete => within(0.0, 100.0),
        Field::ModuleTempMax | Field::OutsideTemp => within(-90.0, 150.0),
        Field::DriveRail | Field::BrakePedal | Field::Locked | Field::DriverSeatOccupied | Field::ServiceMode => {
            boolean(said).map(Fact::Is)
        }
        Field::DriverSeatBelt => belted(said).map(Fact::Is),
        Field::DetailedChargeState => plugged(said).map(Fact::Is),
        Field::DoorState => doors(said).map(Fact::Doors),
        Field::ScheduledDepartureTime => departure(said).map(Fact::Departure),
        Field::Unspecified => None,
    }
}

fn number(said: &Said) -> Option<f64> {
    let number = match said {
        Said::Text(text) => text.trim().parse().ok()?,
        Said::Whole(n) => f64::from(*n),
        Said::LongWhole(n) => f64::from(i32::try_from(*n).ok()?),
        Said::Real(n) => f64::from(*n),
        Said::LongReal(n) => *n,
        _ => return None,
    };
    number.is_finite().then_some(number)
}

fn boolean(said: &Said) -> Option<bool> {
    match said {
        Said::Truth(is) => Some(*is),
        Said::Text(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Said::Text(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn park(said: &Said) -> Option<bool> {
    match said {
        Said::Shift(shift) => match Shift::try_from(*shift).ok()? {
            Shift::Park => Some(true),
            Shift::Reverse | Shift::NeutralOrDrive | Shift::DriveOrNeutral => Some(false),
            Shift::Unknown | Shift::Invalid | Shift::NotAvailable => None,
        },
        Said::Text(text) => match text.strip_prefix("ShiftState").unwrap_or(text) {
            "P" => Some(true),
            "R" | "N" | "D" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn belted(said: &Said) -> Option<bool> {
    match said {
        Said::Buckle(buckle) => match Buckle::try_from(*buckle).ok()? {
            Buckle::Latched => Some(true),
            Buckle::Unlatched => Some(false),
            Buckle::Unknown | Buckle::Faulted => None,
        },
        Said::Text(text) => match text.strip_prefix("BuckleStatus").unwrap_or(text) {
            "Latched" => Some(true),
            "Unlatched" => Some(false),
            _ => boolean(said),
        },
        _ => boolean(said),
    }
}

fn plugged(said: &Said) -> Option<bool> {
    match said {
        Said::Charge(charge) => match Charge::try_from(*charge).ok()? {
            Charge::Disconnected => Some(false),
            Charge::NoPower | Charge::Starting | Charge::Charging | Charge::Complete | Charge::Stopped => Some(true),
            Charge::Unknown => None,
        },
        Said::Text(text) => match text.strip_prefix("DetailedChargeState").unwrap_or(text) {
            "Disconnected" => Some(false),
            "NoPower" | "Starting" | "Charging" | "Complete" | "Stopped" => Some(true),
            _ => None,
        },
        _ => None,
    }
}

/// The text names what is open, with bars between; nothing open is an empty one. A name that is not known is not taken for closed.
fn doors(said: &Said) -> Option<Doors> {
    let doors = match said {
        Said::Doors(doors) => *doors,
        Said::Text(text) => {
            let mut doors = DoorsSaid::default();
            for name in text.split('|').filter(|name| !name.is_empty()) {
                let door = match name {
                    "DriverFront" => &mut doors.driver_front,
                    "DriverRear" => &mut doors.driver_rear,
                    "PassengerFront" => &mut doors.passenger_front,
                    "PassengerRear" => &mut doors.passenger_rear,
                    "TrunkFront" => &mut doors.trunk_front,
                    "TrunkRear" => &mut doors.trunk_rear,
                    _ => return None,
                };
                *door = true;
            }
            doors
        }
        _ => return None,
    };
    Some(Doors {
        sides: [
            doors.driver_front,
            doors.passenger_front,
            doors.driver_rear,
            doors.passenger_rear,
        ],
        trunk: doors.trunk_rear,
        front_trunk: doors.trunk_front,
    })
}

/// Seconds since 1970 only: a time of day would need the place where the car stands.
fn departure(said: &Said) -> Option<Timestamp> {
    const YEAR_2020: i64 = 1_577_836_800;
    let seconds = match said {
        Said::LongWhole(seconds) => *seconds,
        Said::Whole(seconds) => i64::from(*seconds),
        Said::Text(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    (seconds > YEAR_2020).then(|| Timestamp::from_second(seconds).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Said {
        Said::Text(text.to_owned())
    }

    #[rstest::rstest]
    #[case::park(Field::Gear, Said::Shift(2), Some(Fact::Park(true)))]
    #[case::park_as_text(Field::Gear, text("P"), Some(Fact::Park(true)))]
    #[case::park_by_its_name(Field::Gear, text("ShiftStateP"), Some(Fact::Park(true)))]
    #[case::four_is_never_park(Field::Gear, Said::Shift(4), Some(Fact::Park(false)))]
    #[case::five_is_never_park(Field::Gear, Said::Shift(5), Some(Fact::Park(false)))]
    #[case::no_gear(Field::Gear, Said::Shift(6), None)]
    #[case::gear_of_tomorrow(Field::Gear, Said::Shift(99), None)]
    #[case::invalid(Field::Gear, Said::Invalid(true), None)]
    #[case::invalid_as_text(Field::VehicleSpeed, text("<invalid>"), None)]
    #[case::speed(Field::VehicleSpeed, Said::LongReal(12.3), Some(Fact::Number(12.3)))]
    #[case::speed_as_text(Field::VehicleSpeed, text("12.3"), Some(Fact::Number(12.3)))]
    #[case::speed_as_int(Field::VehicleSpeed, Said::Whole(12), Some(Fact::Number(12.0)))]
    #[case::nan(Field::VehicleSpeed, text("NaN"), None)]
    #[case::beyond(Field::Soc, Said::Real(101.0), None)]
    #[case::below(Field::Soc, Said::LongWhole(-1), None)]
    #[case::as_bool(Field::Locked, Said::Truth(true), Some(Fact::Is(true)))]
    #[case::as_word(Field::Locked, text("False"), Some(Fact::Is(false)))]
    #[case::as_number(Field::Locked, Said::Whole(1), None)]
    #[case::latched(Field::DriverSeatBelt, Said::Buckle(2), Some(Fact::Is(true)))]
    #[case::faulted(Field::DriverSeatBelt, Said::Buckle(3), None)]
    #[case::unlatched(Field::DriverSeatBelt, text("BuckleStatusUnlatched"), Some(Fact::Is(false)))]
    #[case::charging(Field::DetailedChargeState, Said::Charge(4), Some(Fact::Is(true)))]
    #[case::unplugged(Field::DetailedChargeState, Said::Charge(1), Some(Fact::Is(false)))]
    #[case::charge_unknown(Field::DetailedChargeState, Said::Charge(0), None)]
    #[case::time_of_day(Field::ScheduledDepartureTime, Said::Whole(450), None)]
    #[case::door_of_tomorrow(Field::DoorState, text("Roof"), None)]
    fn value_is_read_in_each_form_and_unknown_is_none(
        #[case] field: Field,
        #[case] said: Said,
        #[case] want: Option<Fact>,
    ) {
        assert_eq!(of(field, Some(&Value { value: Some(said) })), want);
    }

    #[test]
    fn value_of_a_type_that_is_not_known_is_unknown() {
        assert_eq!(of(Field::Gear, Some(&Value { value: None })), None);
        assert_eq!(of(Field::Gear, None), None);
    }

    #[test]
    fn open_doors_are_named_in_either_form() {
        let said = DoorsSaid {
            passenger_front: true,
            trunk_rear: true,
            ..DoorsSaid::default()
        };
        let want = Doors {
            sides: [false, true, false, false],
            trunk: true,
            front_trunk: false,
        };
        for said in [Said::Doors(said), text("PassengerFront|TrunkRear")] {
            assert_eq!(doors(&said), Some(want), "{said:?}");
        }
        let closed = doors(&text("")).unwrap();
        assert_eq!(closed.sides, [false; 4]);
    }
}
