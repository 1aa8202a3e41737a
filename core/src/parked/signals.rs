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

/// The paths that the judgement reads, and those that a forecast may.
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

    /// Boolean.
    pub const FRONT_TRUNK_OPEN: &str = "Vehicle.Body.Trunk.Front.IsOpen";
    /// Boolean.
    pub const HOOD_OPEN: &str = "Vehicle.Body.Hood.IsOpen";
    /// Boolean.
    pub const ENGINE_RUNNING: &str = "Vehicle.Powertrain.CombustionEngine.IsRunning";
    /// `SAE_0` is a car that does nothing by itself.
    pub const AUTONOMY_LEVEL: &str = "Vehicle.ADAS.ActiveAutonomyLevel";
    /// Boolean.
    pub const DRIVER_BELTED: &str = "Vehicle.Cabin.Seat.Row1.DriverSide.IsBelted";
    /// 0 to 10, which saves the most.
    pub const POWER_SAVING: &str = "Vehicle.PowerOptimizeLevel";
    /// Boolean.
    pub const BROKEN_DOWN: &str = "Vehicle.IsBrokenDown";
    /// What many cars do not have, of those in VSS: see [`crate::parked::Terms::optional`].
    pub const OPTIONAL: [&str; 7] = [
        FRONT_TRUNK_OPEN,
        HOOD_OPEN,
        ENGINE_RUNNING,
        AUTONOMY_LEVEL,
        DRIVER_BELTED,
        POWER_SAVING,
        BROKEN_DOWN,
    ];

    /// `INACTIVE`, `START_TIME` or `END_TIME`.
    pub const CHARGING_TIMER_MODE: &str = "Vehicle.Powertrain.TractionBattery.Charging.Timer.Mode";
    /// ISO 8601.
    pub const CHARGING_TIMER_TIME: &str = "Vehicle.Powertrain.TractionBattery.Charging.Timer.Time";
    /// `INACTIVE`, `FAST_CHARGING_PREPARATION` or `DRIVING_PREPARATION`.
    pub const CONDITIONING_MODE: &str = "Vehicle.Powertrain.TractionBattery.BatteryConditioning.RequestedMode";
    /// ISO 8601.
    pub const CONDITIONING_TIME: &str = "Vehicle.Powertrain.TractionBattery.BatteryConditioning.TargetTime";
    /// Boolean.
    pub const IS_CHARGING: &str = "Vehicle.Powertrain.TractionBattery.Charging.IsCharging";
    /// Seconds; 0 is done, or nothing planned.
    pub const TIME_TO_COMPLETE: &str = "Vehicle.Powertrain.TractionBattery.Charging.TimeToComplete";
    /// What a forecast of the stay may go by. The car is never judged by them.
    pub const HINTS: [&str; 6] = [
        CHARGING_TIMER_MODE,
        CHARGING_TIMER_TIME,
        CONDITIONING_MODE,
        CONDITIONING_TIME,
        IS_CHARGING,
        TIME_TO_COMPLETE,
    ];

    /// The branch of what VSS has no name for: VSS has makers put that under an overlay, in a branch of their own.
    pub const OVERLAY: &str = "Vehicle.Private.ParkedCompute";
    /// In the overlay, boolean: software of the car is being replaced.
    pub const UPDATING: &str = "IsUpdating";
    /// In the overlay, boolean: a workshop has the car.
    pub const IN_SERVICE: &str = "IsInService";
    /// In the overlay, boolean.
    pub const CRASHED: &str = "HasCrashed";
    /// Boolean. Said by the agent of its own computer, and never by the car.
    pub const MEMORY_SHORT: &str = "Vehicle.Private.ParkedCompute.IsMemoryShort";
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

/// The last reading of every signal, and which signals have ever been said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// `None`: it was said once, and is not known any more.
    readings: BTreeMap<String, Option<Reading>>,
}

impl Snapshot {
    /// Takes a reading. Paths and values of VSS 4 and 5 are translated.
    pub fn set(&mut self, path: &str, value: Value, at: Boottime) {
        let (path, value) = canonical(path, value);
        self.readings.insert(path.into_owned(), Some(Reading { value, at }));
    }

    /// Forgets what a signal said: from now on it is unknown. Not forgotten is that the car has it: see [`Self::said`].
    pub fn remove(&mut self, path: &str) {
        let (path, _) = canonical(path, Value::Bool(false));
        if let Some(reading) = self.readings.get_mut(path.as_ref()) {
            *reading = None;
        }
    }

    /// Learns that a signal was said before, without what: the car has it.
    pub fn remember(&mut self, path: &str) {
        let (path, _) = canonical(path, Value::Bool(false));
        self.readings.entry(path.into_owned()).or_default();
    }

    /// Whether a signal has ever been said.
    pub fn said(&self, path: &str) -> bool {
        self.readings.contains_key(path)
    }

    /// The value, unless it is older than `max_age` at `now`.
    pub fn fresh(&self, path: &str, now: Boottime, max_age: Duration) -> Option<&Value> {
        let reading = self.readings.get(path)?.as_ref()?;
        (now.since(reading.at) <= max_age).then_some(&reading.value)
    }

    /// When the oldest reading that is still fresh at `now` stops being so: the moment at which a judgement can change by itself.
    pub fn next_stale(&self, now: Boottime, max_age: Duration) -> Option<Boottime> {
        self.iter()
            .filter(|(_, reading)| now.since(reading.at) <= max_age)
            .map(|(_, reading)| reading.at + max_age)
            .min()
    }

    /// Every path and reading, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Reading)> {
        let known = self.readings.iter();
        known.filter_map(|(path, reading)| Some((path.as_str(), reading.as_ref()?)))
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

    /// The last number that was said, however long ago; `None` also if it was taken back.
    pub fn last_number(&self, path: &str) -> Option<f64> {
        match self.snapshot.readings.get(path)?.as_ref()?.value {
            Value::Number(value) if value.is_finite() => Some(value),
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

    /// Whether a signal has ever been said, however long ago.
    pub fn said(&self, path: &str) -> bool {
        self.snapshot.said(path)
    }

    /// Whether a charging cable is connected to any port. Unknown if no port says anything.
    pub fn plugged_in(&self) -> Tri {
        let start = path::CHARGING_PORTS.to_owned();
        let ports = self.snapshot.readings.range(start..);
        let said: Vec<Tri> = ports
            .take_while(|(path, _)| path.starts_with(path::CHARGING_PORTS))
            .filter(|(path, reading)| reading.is_some() && path.ends_with(".IsChargingCableConnected"))
            .map(|(path, _)| self.bool(path))
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
    fn signal_that_is_forgotten_is_unknown_and_was_said() {
        let mut snapshot = Snapshot::default();
        snapshot.remove(path::HOOD_OPEN);
        assert!(!snapshot.said(path::HOOD_OPEN), "nobody has ever said it");
        snapshot.set(path::HOOD_OPEN, Value::Bool(false), at(1));
        snapshot.remove(path::HOOD_OPEN);
        snapshot.remember(path::BROKEN_DOWN);
        let view = View::new(&snapshot, at(1), AGE);
        for path in [path::HOOD_OPEN, path::BROKEN_DOWN] {
            assert_eq!((view.bool(path), view.said(path)), (Tri::Unknown, true), "{path}");
        }
        assert_eq!((snapshot.iter().count(), snapshot.next_stale(at(1), AGE)), (0, None));
        snapshot.set(path::HOOD_OPEN, Value::Bool(true), at(2));
        snapshot.remember(path::HOOD_OPEN);
        assert_eq!(View::new(&snapshot, at(2), AGE).bool(path::HOOD_OPEN), Tri::Yes);
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
