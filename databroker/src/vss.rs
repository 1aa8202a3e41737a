//! The signals of a car in each release of VSS, and what they say while it is parked.
//!
//! Written from the releases and not from the agent's tables, so that each checks the other. A few signals are here because they must never
//! be asked for: they tell where a car is and whose it is.

use jiff::Timestamp;

use crate::proto::DataType;
use crate::proto::value::TypedValue;
use crate::{Signal, said};

/// A release of VSS. They differ in names and types of seats and charging cables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// 4.x: `IsOccupied`, one charging cable.
    V4,
    /// 5.x: `IsOccupied`, a charging cable for each port.
    V5,
    /// 6.0: `OccupancyStatus`, a charging cable for each port.
    V6,
}

impl std::str::FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "4" => Ok(Self::V4),
            "5" => Ok(Self::V5),
            "6" => Ok(Self::V6),
            _ => Err(format!("'{text}' is no release of VSS that is known here: 4, 5 or 6")),
        }
    }
}

/// The driver's door.
pub const DRIVERS_DOOR: &str = "Vehicle.Cabin.Door.Row1.DriverSide";

/// Each signal with its type, and what it says while the car is parked, locked, empty, plugged in and well.
pub fn parked(release: Release) -> Vec<(String, DataType, TypedValue)> {
    let mut all: Vec<(String, DataType, TypedValue)> = Vec::new();
    let mut add = |path: &str, value: (DataType, TypedValue)| all.push((path.to_owned(), value.0, value.1));
    add("Vehicle.Speed", float(0.0));
    add("Vehicle.IsMoving", boolean(false));
    add("Vehicle.LowVoltageSystemState", text("LOCK"));
    add(
        "Vehicle.Powertrain.Transmission.SelectedGear",
        (DataType::Int8, TypedValue::Int32(126)),
    );
    add("Vehicle.Powertrain.Transmission.IsParkLockEngaged", boolean(true));
    add("Vehicle.Chassis.ParkingBrake.IsEngaged", boolean(true));
    add("Vehicle.Chassis.Brake.PedalPosition", percent(0));
    add("Vehicle.Chassis.Accelerator.PedalPosition", percent(0));
    for row in ["Row1", "Row2"] {
        for side in ["DriverSide", "PassengerSide"] {
            add(&format!("Vehicle.Cabin.Door.{row}.{side}.IsOpen"), boolean(false));
            add(&format!("Vehicle.Cabin.Door.{row}.{side}.IsLocked"), boolean(true));
        }
    }
    add("Vehicle.Body.Trunk.Rear.IsOpen", boolean(false));
    let seats = [
        "Row1.DriverSide",
        "Row1.PassengerSide",
        "Row2.DriverSide",
        "Row2.Middle",
        "Row2.PassengerSide",
    ];
    for seat in seats {
        match release {
            Release::V4 | Release::V5 => add(&format!("Vehicle.Cabin.Seat.{seat}.IsOccupied"), boolean(false)),
            Release::V6 => add(&format!("Vehicle.Cabin.Seat.{seat}.OccupancyStatus"), text("EMPTY")),
        }
    }
    let battery = "Vehicle.Powertrain.TractionBattery";
    let cable = match release {
        Release::V4 => "IsChargingCableConnected",
        Release::V5 => "ChargingPort.FrontLeft.IsChargingCableConnected",
        Release::V6 => "ChargingPort.AnyPosition.IsChargingCableConnected",
    };
    add(&format!("{battery}.Charging.{cable}"), boolean(true));
    add(&format!("{battery}.StateOfCharge.Displayed"), float(80.0));
    add(&format!("{battery}.Temperature.Average"), float(22.0));
    add("Vehicle.LowVoltageBattery.CurrentVoltage", float(13.8));
    add("Vehicle.Exterior.AirTemperature", float(15.0));
    add("Vehicle.Connectivity.IsConnectivityAvailable", boolean(true));
    add("Vehicle.VehicleIdentification.VIN", text("WVWZZZ1KZAW000001"));
    for axis in ["Latitude", "Longitude"] {
        add(
            &format!("Vehicle.CurrentLocation.{axis}"),
            (DataType::Double, TypedValue::Double(52.516_275)),
        );
    }
    all
}

/// The signals as a broker has them after its start: nobody has set any.
pub fn unset(release: Release) -> Vec<Signal> {
    signals(release, None)
}

/// The same, each said at this moment by somebody who has not been heard of since.
pub fn said_once(release: Release, at: Timestamp) -> Vec<Signal> {
    signals(release, Some(at))
}

fn signals(release: Release, at: Option<Timestamp>) -> Vec<Signal> {
    let signal = |(path, data_type, value)| Signal {
        path,
        data_type,
        point: at.map(|at| said(at, value)),
    };
    parked(release).into_iter().map(signal).collect()
}

fn float(value: f32) -> (DataType, TypedValue) {
    (DataType::Float, TypedValue::Float(value))
}

fn boolean(value: bool) -> (DataType, TypedValue) {
    (DataType::Boolean, TypedValue::Bool(value))
}

fn text(value: &str) -> (DataType, TypedValue) {
    (DataType::String, TypedValue::String(value.to_owned()))
}

fn percent(value: u32) -> (DataType, TypedValue) {
    (DataType::Uint8, TypedValue::Uint32(value))
}
