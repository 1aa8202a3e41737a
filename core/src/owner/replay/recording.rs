//! A recorded day of signals: what a car said, and when. Also what a scenario file is that the agent plays live.
//!
//! A recording starts from a preset and changes signals at times counted from its start. All values are said again every `refresh`, as on
//! a real bus, so that only what the recording forgets becomes stale. Here is its form and what follows from each step; the agent
//! plays it in real time (`signals::scenario`), [`super::replay`] in no time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use crate::owner::Word;
use crate::parked::signals::path;
use crate::parked::{Terms, Value};

/// The file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recording {
    /// How often every value is said again.
    #[serde(default = "default_refresh", with = "crate::duration::text")]
    pub refresh: Duration,
    /// When it begins, by the wall clock; not needed to play it live.
    #[serde(default)]
    pub starts_at: Option<Start>,
    /// How long it is; not needed to play it live, for then the last values stay.
    #[serde(default = "default_lasts", with = "crate::duration::text")]
    pub lasts: Duration,
    /// What the signals say first.
    pub preset: Preset,
    /// On top of the preset.
    #[serde(default)]
    pub set: BTreeMap<String, Value>,
    /// What changes, in the order of its times.
    #[serde(default)]
    pub steps: Vec<Step>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// When, counted from the start.
    #[serde(with = "crate::duration::text")]
    pub at: Duration,
    /// Many signals at once.
    #[serde(default)]
    pub preset: Option<Preset>,
    /// On top of the preset.
    #[serde(default)]
    pub set: BTreeMap<String, Value>,
    /// What is not known any more.
    #[serde(default)]
    pub forget: Vec<String>,
    /// What the owner says.
    #[serde(default)]
    pub owner: Option<Word>,
}

/// Many signals in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Preset {
    /// Parked, locked, empty, plugged in, charged and well.
    Parked,
    /// Unlocked, and the driver's door is open.
    DriverReturns,
    /// On the road.
    Driving,
    /// Nothing is known.
    Silent,
}

/// A moment, and the zone whose clock it was read from: `2026-11-02T00:00:00+01:00[Europe/Berlin]`, or without the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The moment.
    pub at: Timestamp,
    /// The zone's name, which nobody has looked up yet.
    pub zone: Option<String>,
}

/// What a step changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// Signals and their values.
    pub set: BTreeMap<String, Value>,
    /// Signals that are not known any more.
    pub forget: BTreeSet<String>,
}

/// A recording that says something impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    /// Its steps go back in time.
    #[error("steps must be in the order of their times")]
    Order,
    /// Values would be said without a pause.
    #[error("refresh must be at least 100ms")]
    Refresh,
}

impl Recording {
    /// What the types cannot say.
    pub fn check(self) -> Result<Self, RecordingError> {
        if !self.steps.is_sorted_by_key(|step| step.at) {
            return Err(RecordingError::Order);
        }
        if self.refresh < Duration::from_millis(100) {
            return Err(RecordingError::Refresh);
        }
        Ok(self)
    }

    /// What the signals say first.
    pub fn first_values(&self) -> BTreeMap<String, Value> {
        let mut values: BTreeMap<String, Value> = self.preset.signals().into_iter().collect();
        values.extend(self.set.clone());
        values
    }
}

impl Step {
    /// What it changes of these values, which are what the recording says from then on.
    pub fn play(&self, values: &mut BTreeMap<String, Value>) -> Change {
        let preset = self.preset.map(Preset::signals).unwrap_or_default();
        let mut set: BTreeMap<String, Value> = preset.into_iter().collect();
        set.extend(self.set.clone());
        let mut forget: BTreeSet<String> = self.forget.iter().cloned().collect();
        if self.preset == Some(Preset::Silent) {
            forget.extend(values.keys().cloned());
        }
        values.retain(|path, _| !forget.contains(path));
        values.extend(set.clone());
        Change { set, forget }
    }
}

impl Preset {
    fn signals(self) -> Vec<(String, Value)> {
        let text = |value: &str| Value::Text(value.to_owned());
        let driver_door = path::DOORS[0];
        let mut signals: Vec<(String, Value)> = Vec::new();
        let mut set = |path: &str, value: Value| signals.push((path.to_owned(), value));
        match self {
            Self::Silent => {}
            Self::DriverReturns => {
                set(&format!("{driver_door}.IsLocked"), Value::Bool(false));
                set(&format!("{driver_door}.IsOpen"), Value::Bool(true));
            }
            Self::Parked | Self::Driving => {
                let parked = self == Self::Parked;
                set(path::SPEED, Value::Number(if parked { 0.0 } else { 42.0 }));
                set(path::IS_MOVING, Value::Bool(!parked));
                set(path::LOW_VOLTAGE_SYSTEM_STATE, text(if parked { "LOCK" } else { "ON" }));
                set(path::SELECTED_GEAR, Value::Number(if parked { 126.0 } else { 127.0 }));
                set(path::PARK_LOCK, Value::Bool(parked));
                set(path::PARKING_BRAKE, Value::Bool(parked));
                set(path::BRAKE_PEDAL, Value::Number(0.0));
                set(path::ACCELERATOR_PEDAL, Value::Number(if parked { 0.0 } else { 20.0 }));
                for door in path::DOORS {
                    set(&format!("{door}.IsOpen"), Value::Bool(false));
                    set(&format!("{door}.IsLocked"), Value::Bool(true));
                }
                set(path::TRUNK_OPEN, Value::Bool(false));
                for (place, seat) in path::SEATS.into_iter().enumerate() {
                    let driver = place == 0 && !parked;
                    set(
                        &format!("{seat}.OccupancyStatus"),
                        text(if driver { "OCCUPIED" } else { "EMPTY" }),
                    );
                }
                set(path::CHARGE, Value::Number(80.0));
                set(
                    &format!("{}AnyPosition.IsChargingCableConnected", path::CHARGING_PORTS),
                    Value::Bool(parked),
                );
                set(path::LOW_VOLTAGE, Value::Number(13.8));
                set(path::BATTERY_TEMPERATURE, Value::Number(22.0));
                set(path::AIR_TEMPERATURE, Value::Number(15.0));
                set(path::CONNECTIVITY, Value::Bool(true));
                // What a car has once said, it is judged by for good: so also a recording that comes after says it.
                for optional in Terms::default().optional() {
                    let value = match optional.as_str() {
                        path::AUTONOMY_LEVEL => text("SAE_0"),
                        path::POWER_SAVING => Value::Number(0.0),
                        path::DRIVER_BELTED => Value::Bool(!parked),
                        _ => Value::Bool(false),
                    };
                    set(&optional, value);
                }
            }
        }
        signals
    }
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (moment, zone) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
            Some((moment, zone)) => (moment, Some(zone.to_owned())),
            None => (text.as_str(), None),
        };
        let at = moment.parse().map_err(|_| {
            serde::de::Error::custom(format!(
                "'{text}' is not a moment such as 2026-11-02T00:00:00+01:00[Europe/Berlin] or 2026-11-01T23:00:00Z"
            ))
        })?;
        Ok(Self { at, zone })
    }
}

/// One may come late, and none counts as old yet.
fn default_refresh() -> Duration {
    Duration::from_secs(1)
}

fn default_lasts() -> Duration {
    Duration::from_hours(24)
}
