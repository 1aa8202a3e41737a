//! What the car's signals said last, by COVESA VSS 6.0 path and unit, each with the moment it was heard.
//!
//! A source of signals writes here; [`super::judge`] and the owner's terms read. Paths and values of VSS 4 and 5 become those of
//! VSS 6.0 on the way in, so that nothing else knows of them. A value that is too old is never given out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Tri;
use crate::clock::Boottime;

/// The paths that the judgement reads.
pub mod path {
    /// km/h; negative in reverse.
    pub const SPEED: &str = "Vehicle.Speed";
    /// Boolean.
    pub const IS_MOVING: &str = "Vehicle.IsMoving";
    /// `UNDEFINED`, `LOCK`, `OFF`, `ACC`, `ON` or `START`.
    pub const LOW_VOLTAGE_SYSTEM_STATE: &str = "Vehicle.LowVoltageSystemState";
    /// 126 is Park.
    pub const SELECTED_GEAR: &str = "Vehicle.Powertrain.Transmission.SelectedGear";
    /// Boolean.
    pub const PARK_LOCK: &str = "Vehicle.Powertrain.Transmission.IsParkLockEngaged";
    /// Boolean.
    pub const PARKING_BRAKE: &str = "Vehicle.Chassis.ParkingBrake.IsEngaged";
    /// Percent.
    pub const BRAKE_PEDAL: &str = "Vehicle.Chassis.Brake.PedalPosition";
    /// Percent.
    pub const ACCELERATOR_PEDAL: &str = "Vehicle.Chassis.Accelerator.PedalPosition";
    /// Each has `.IsOpen` and `.IsLocked`.
    pub const DOORS: [&str; 4] = [
        "Vehicle.Cabin.Door.Row1.DriverSide",
        "Vehicle.Cabin.Door.Row1.PassengerSide",
        "Vehicle.Cabin.Door.Row2.DriverSide",
        "Vehicle.Cabin.Door.Row2.PassengerSide",
    ];
    /// Boolean.
    pub const TRUNK_OPEN: &str = "Vehicle.Body.Trunk.Rear.IsOpen";
    /// Each has `.OccupancyStatus`: `UNKNOWN`, `OCCUPIED` or `EMPTY`.
    pub const SEATS: [&str; 5] = [
        "Vehicle.Cabin.Seat.Row1.DriverSide",
        "Vehicle.Cabin.Seat.Row1.PassengerSide",
        "Vehicle.Cabin.Seat.Row2.DriverSide",
        "Vehicle.Cabin.Seat.Row2.Middle",
        "Vehicle.Cabin.Seat.Row2.PassengerSide",
    ];
    /// Percent, as the owner sees it.
    pub const CHARGE: &str = "Vehicle.Powertrain.TractionBattery.StateOfCharge.Displayed";
    /// Each has `.IsChargingCableConnected`; a car with one port uses `AnyPosition`.
    pub const CHARGING_PORTS: &str = "Vehicle.Powertrain.TractionBattery.Charging.ChargingPort.";
    /// Volts.
    pub const LOW_VOLTAGE: &str = "Vehicle.LowVoltageBattery.CurrentVoltage";
    /// Celsius.
    pub const BATTERY_TEMPERATURE: &str = "Vehicle.Powertrain.TractionBattery.Temperature.Average";
    /// Celsius, outside.
    pub const AIR_TEMPERATURE: &str = "Vehicle.Exterior.AirTemperature";
    /// Boolean.
    pub const CONNECTIVITY: &str = "Vehicle.Connectivity.IsConnectivityAvailable";
}

/// The value of one signal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// A VSS boolean.
    Bool(bool),
    /// Any VSS number.
    Number(f64),
    /// A VSS string.
    Text(String),
}

/// A value and when it was heard.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// What the signal said.
    pub value: Value,
    /// When it said so, by the car's `CLOCK_BOOTTIME`.
    pub at: Boottime,
}

/// The last reading of every signal.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    readings: BTreeMap<String, Reading>,
}

impl Snapshot {
    /// Takes a reading. Paths and values of VSS 4 and 5 are translated.
    pub fn set(&mut self, path: &str, value: Value, at: Boottime) {
        let (path, value) = canonical(path, value);
        self.readings.insert(path.into_owned(), Reading { value, at });
    }

    /// Forgets a signal: from now on it is unknown.
    pub fn remove(&mut self, path: &str) {
        let (path, _) = canonical(path, Value::Bool(false));
        self.readings.remove(path.as_ref());
    }

    /// The value, unless it is older than `max_age` at `now`.
    pub fn fresh(&self, path: &str, now: Boottime, max_age: Duration) -> Option<&Value> {
        self.readings
            .get(path)
            .filter(|reading| now.since(reading.at) <= max_age)
            .map(|reading| &reading.value)
    }

    /// When the oldest reading that is still fresh at `now` stops being so: the moment at which a judgement can change by itself.
    pub fn next_stale(&self, now: Boottime, max_age: Duration) -> Option<Boottime> {
        self.readings
            .values()
            .filter(|r| now.since(r.at) <= max_age)
            .map(|r| r.at + max_age)
            .min()
    }

    /// Every path and reading, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Reading)> {
        self.readings.iter().map(|(path, reading)| (path.as_str(), reading))
    }
}

/// A snapshot as it is known at one moment: what everything that judges reads from.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    snapshot: &'a Snapshot,
    now: Boottime,
    max_age: Duration,
}

impl<'a> View<'a> {
    /// The snapshot at `now`, without what is older than `max_age`.
    pub fn new(snapshot: &'a Snapshot, now: Boottime, max_age: Duration) -> Self {
        Self { snapshot, now, max_age }
    }

    /// A boolean signal.
    pub fn bool(&self, path: &str) -> Tri {
        match self.snapshot.fresh(path, self.now, self.max_age) {
            Some(Value::Bool(value)) => Tri::from(*value),
            _ => Tri::Unknown,
        }
    }

    /// A number; NaN and infinities are unknown.
    pub fn number(&self, path: &str) -> Option<f64> {
        match self.snapshot.fresh(path, self.now, self.max_age) {
            Some(Value::Number(value)) if value.is_finite() => Some(*value),
            _ => None,
        }
    }

    /// A string signal.
    pub fn text(&self, path: &str) -> Option<&'a str> {
        match self.snapshot.fresh(path, self.now, self.max_age) {
            Some(Value::Text(value)) => Some(value),
            _ => None,
        }
    }

    /// Whether a charging cable is connected to any port. Unknown if no port says anything.
    pub fn plugged_in(&self) -> Tri {
        let start = path::CHARGING_PORTS.to_owned();
        let mut ports = self.snapshot.readings.range(start..).map(|(path, _)| path.as_str());
        let ports = std::iter::from_fn(|| ports.next().filter(|path| path.starts_with(path::CHARGING_PORTS)));
        let said: Vec<Tri> = ports
            .filter(|path| path.ends_with(".IsChargingCableConnected"))
            .map(|path| self.bool(path))
            .collect();
        if said.is_empty() { Tri::Unknown } else { Tri::any(said) }
    }

    /// The charge that the owner sees, in percent.
    pub fn charge(&self) -> Option<f64> {
        self.number(path::CHARGE)
            .filter(|percent| (0.0..=100.0).contains(percent))
    }
}

/// VSS 4 and 5 → VSS 6.0, where path or type changed and we read the signal.
fn canonical(path: &str, value: Value) -> (Cow<'_, str>, Value) {
    if let Some(seat) = path
        .strip_suffix(".IsOccupied")
        .filter(|seat| seat.starts_with("Vehicle.Cabin.Seat."))
    {
        let value = match value {
            Value::Bool(true) => Value::Text("OCCUPIED".to_owned()),
            Value::Bool(false) => Value::Text("EMPTY".to_owned()),
            other => other,
        };
        return (Cow::Owned(format!("{seat}.OccupancyStatus")), value);
    }
    if path == "Vehicle.Powertrain.TractionBattery.Charging.IsChargingCableConnected" {
        return (
            Cow::Owned(format!("{}AnyPosition.IsChargingCableConnected", path::CHARGING_PORTS)),
            value,
        );
    }
    (Cow::Borrowed(path), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Boottime {
        Boottime(Duration::from_secs(seconds))
    }

    #[test]
    fn value_older_than_its_age_is_unknown() {
        let mut snapshot = Snapshot::default();
        snapshot.set(path::IS_MOVING, Value::Bool(false), at(100));
        assert_eq!(View::new(&snapshot, at(130), AGE).bool(path::IS_MOVING), Tri::No);
        assert_eq!(View::new(&snapshot, at(131), AGE).bool(path::IS_MOVING), Tri::Unknown);
        assert_eq!(snapshot.next_stale(at(110), AGE), Some(at(130)));
        assert_eq!(snapshot.next_stale(at(140), AGE), None);
    }

    #[test]
    fn value_of_the_wrong_type_is_unknown() {
        let mut snapshot = Snapshot::default();
        snapshot.set(path::IS_MOVING, Value::Text("false".to_owned()), at(1));
        snapshot.set(path::SPEED, Value::Number(f64::NAN), at(1));
        let view = View::new(&snapshot, at(1), AGE);
        assert_eq!(view.bool(path::IS_MOVING), Tri::Unknown);
        assert_eq!(view.number(path::SPEED), None);
    }

    #[test]
    fn vss_4_seat_and_cable_are_read_as_vss_6() {
        let mut snapshot = Snapshot::default();
        snapshot.set(
            "Vehicle.Cabin.Seat.Row1.DriverSide.IsOccupied",
            Value::Bool(true),
            at(1),
        );
        snapshot.set(
            "Vehicle.Powertrain.TractionBattery.Charging.IsChargingCableConnected",
            Value::Bool(true),
            at(1),
        );
        let view = View::new(&snapshot, at(1), AGE);
        assert_eq!(
            view.text("Vehicle.Cabin.Seat.Row1.DriverSide.OccupancyStatus"),
            Some("OCCUPIED")
        );
        assert_eq!(view.plugged_in(), Tri::Yes);
        snapshot.remove("Vehicle.Powertrain.TractionBattery.Charging.IsChargingCableConnected");
        assert_eq!(View::new(&snapshot, at(1), AGE).plugged_in(), Tri::Unknown);
    }

    #[test]
    fn cable_in_one_of_two_ports_is_plugged_in() {
        let mut snapshot = Snapshot::default();
        let port = |name: &str| format!("{}{name}.IsChargingCableConnected", path::CHARGING_PORTS);
        snapshot.set(&port("FrontLeft"), Value::Bool(false), at(1));
        assert_eq!(View::new(&snapshot, at(1), AGE).plugged_in(), Tri::No);
        snapshot.set(&port("RearLeft"), Value::Bool(true), at(1));
        assert_eq!(View::new(&snapshot, at(1), AGE).plugged_in(), Tri::Yes);
    }
}
