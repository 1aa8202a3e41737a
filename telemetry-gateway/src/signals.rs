//! What a car's telemetry has said, each signal with the moment it speaks of, and what may be told of it: bands and yes or no.
//!
//! Pure. A connection folds payloads in, the publisher asks. The judgement is that of `kerbside_core::parked`, over the same paths and
//! units as an agent's; here is only what makes them of Tesla's words. What must never happen: an old word counts, or one that is
//! not understood is taken for yes.

mod fact;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kerbside_api::v1alpha1::{ChargeBand, FreeForMinutes, Known, Telemetry};
use kerbside_core::clock::Boottime;
use kerbside_core::parked::signals::path;
use kerbside_core::parked::{Factor, Snapshot, Terms, Tri, Value, View, judge};
use prost::Message as _;

use crate::proto::{Field, Moment, Payload};
use fact::Fact;

/// How far a car's clock may be ahead of ours. What comes from later is not believed.
const AHEAD: Duration = Duration::from_mins(1);
/// What no signal of this telemetry tells: whether the low-voltage battery is fed. It decides whether work may run, and there is none.
const UNTOLD: [Factor; 1] = [Factor::Supplied];
/// The gears, in VSS: Park, and any other.
const PARK: f64 = 126.0;
const DRIVE: f64 = 127.0;
const KM_PER_MILE: f64 = 1.609_344;
/// Minutes until a departure that is set; a later one is not meant for this stay.
const LONGEST_STAY: i64 = 24 * 60;

/// A payload that counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// It is not Protobuf, or ends too early.
    #[error("failed to read a payload")]
    Malformed,
    /// It does not say which moment it speaks of.
    #[error("failed to use a payload: it has no time")]
    Undated,
    /// It speaks of a moment that is too long ago, or has not come yet.
    #[error("failed to use a payload: its time is not now")]
    NotNow,
}

/// The moment that a car's word speaks of.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// None: the car says that it cannot tell, or its word is not understood.
    fact: Option<Fact>,
    /// By our clock.
    at: Boottime,
    /// By the car's, to tell which of two words is the later.
    created: Timestamp,
}

/// What one car has said last.
#[derive(Debug, Clone, Default)]
pub struct Signals(BTreeMap<Field, Reading>);

impl Signals {
    /// Folds a payload in. A signal that said something later before keeps it: messages come again and out of order. Gives how many
    /// were new.
    pub fn fold(
        &mut self,
        payload: &[u8],
        (now, wall): (Boottime, Timestamp),
        stale_after: Duration,
    ) -> Result<usize, PayloadError> {
        let payload = Payload::decode(payload).map_err(|_| PayloadError::Malformed)?;
        let created = payload.created_at.and_then(timestamp).ok_or(PayloadError::Undated)?;
        let age = wall.duration_since(created);
        let ahead = Duration::try_from(-age).unwrap_or_default();
        let age = Duration::try_from(age).unwrap_or_default();
        if ahead > AHEAD || age > stale_after {
            return Err(PayloadError::NotNow);
        }
        // Where a machine has run for less than that, its boot is the oldest moment there is, and a younger age would be a lie.
        let at = now.0.checked_sub(age).map(Boottime).ok_or(PayloadError::NotNow)?;
        let mut folded = 0;
        for datum in &payload.data {
            let Ok(field) = Field::try_from(datum.key) else {
                continue;
            };
            if field == Field::Unspecified || self.0.get(&field).is_some_and(|held| held.created >= created) {
                continue;
            }
            let fact = fact::of(field, datum.value.as_ref());
            self.0.insert(field, Reading { fact, at, created });
            folded += 1;
        }
        Ok(folded)
    }

    /// What may be told, given what was told `before`.
    pub fn told(&self, before: &Telemetry, (now, wall): (Boottime, Timestamp), stale_after: Duration) -> Telemetry {
        let (snapshot, terms) = (self.snapshot(), terms(stale_after));
        let view = View::new(&snapshot, now, stale_after);
        let held = before.parked == Known::True;
        let parked = judge(&view, &terms, held).parked_but_for(&UNTOLD);
        let free_for = if parked.is_yes() {
            self.free_for(now, wall, stale_after)
        } else {
            FreeForMinutes::default()
        };
        Telemetry {
            parked: known(parked),
            plugged_in: known(view.plugged_in()),
            charge: view.charge().map(|percent| ChargeBand::of(percent, before.charge)),
            free_for,
        }
    }

    /// Only as far as the driver has set a departure, and that a time of day or a date of another form is not read.
    fn free_for(&self, now: Boottime, wall: Timestamp, stale_after: Duration) -> FreeForMinutes {
        let reading = self.0.get(&Field::ScheduledDepartureTime);
        let reading = reading.filter(|reading| now.since(reading.at) <= stale_after);
        let Some(Fact::Departure(departure)) = reading.and_then(|reading| reading.fact) else {
            return FreeForMinutes::default();
        };
        let minutes = departure.duration_since(wall).as_secs() / 60;
        let minutes = if minutes > LONGEST_STAY { 0 } else { minutes };
        FreeForMinutes::at_most(u32::try_from(minutes).unwrap_or(0))
    }

    /// As the judgement reads it.
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let said = |field: Field, fact: Fact| {
            let reading = self.0.get(&field);
            reading.filter(|reading| reading.fact == Some(fact))
        };
        let locked = said(Field::DriveRail, Fact::Is(false)).zip(said(Field::Gear, Fact::Park(true)));
        for (field, reading) in &self.0 {
            let (fact, at) = match (reading.fact, locked) {
                // A car whose drive is off measures no speed. In Park it stands all the same, for as long as all three words hold. A gear that
                // is not told stays unknown: a drive that is off holds no wheel.
                (None, Some((rail, gear))) if *field == Field::VehicleSpeed => {
                    (Some(Fact::Number(0.0)), rail.at.min(gear.at).min(reading.at))
                }
                (fact, _) => (fact, reading.at),
            };
            set(&mut snapshot, *field, fact, at);
        }
        if !self.known(Field::BatteryLevel) {
            let soc = self.0.get(&Field::Soc);
            if let Some((Some(Fact::Number(percent)), at)) = soc.map(|reading| (reading.fact, reading.at)) {
                snapshot.set(path::CHARGE, Value::Number(percent), at);
            }
        }
        snapshot
    }

    fn known(&self, field: Field) -> bool {
        self.0.get(&field).is_some_and(|reading| reading.fact.is_some())
    }
}

/// One signal of a car in the paths and units of VSS 6.0. One that is not understood is remembered as having been said.
fn set(snapshot: &mut Snapshot, field: Field, fact: Option<Fact>, at: Boottime) {
    let mut put = |path: &str, value: Option<Value>| match value {
        Some(value) => snapshot.set(path, value, at),
        None => snapshot.remember(path),
    };
    let number = match fact {
        Some(Fact::Number(number)) => Some(Value::Number(number)),
        _ => None,
    };
    let is = match fact {
        Some(Fact::Is(is)) => Some(is),
        _ => None,
    };
    match field {
        Field::VehicleSpeed => {
            let speed = match fact {
                Some(Fact::Number(miles)) => Some(miles * KM_PER_MILE),
                _ => None,
            };
            put(path::SPEED, speed.map(Value::Number));
            put(path::IS_MOVING, speed.map(|speed| Value::Bool(speed.abs() >= 0.5)));
        }
        Field::Gear => {
            let gear = match fact {
                Some(Fact::Park(park)) => Some(if park { PARK } else { DRIVE }),
                _ => None,
            };
            put(path::SELECTED_GEAR, gear.map(Value::Number));
        }
        Field::DriveRail => {
            let state = is.map(|on| Value::Text(if on { "ON" } else { "OFF" }.to_owned()));
            put(path::LOW_VOLTAGE_SYSTEM_STATE, state);
        }
        Field::Locked => {
            for door in path::DOORS {
                put(&format!("{door}.IsLocked"), is.map(Value::Bool));
            }
        }
        Field::DoorState => {
            let doors = match fact {
                Some(Fact::Doors(doors)) => Some(doors),
                _ => None,
            };
            for (at, door) in path::DOORS.iter().enumerate() {
                let open = doors.map(|doors| doors.sides.get(at).copied().unwrap_or(true));
                put(&format!("{door}.IsOpen"), open.map(Value::Bool));
            }
            put(path::TRUNK_OPEN, doors.map(|doors| Value::Bool(doors.trunk)));
            put(
                path::FRONT_TRUNK_OPEN,
                doors.map(|doors| Value::Bool(doors.front_trunk)),
            );
        }
        Field::DriverSeatOccupied => put(&format!("{DRIVERS_SEAT}.IsOccupied"), is.map(Value::Bool)),
        Field::DriverSeatBelt => put(path::DRIVER_BELTED, is.map(Value::Bool)),
        Field::BrakePedal => {
            let pressed = is.map(|pressed| Value::Number(if pressed { 100.0 } else { 0.0 }));
            put(path::BRAKE_PEDAL, pressed);
        }
        // Of the two words for one pedal the number is the finer; it comes later here, and wins.
        Field::BrakePedalPos => put(path::BRAKE_PEDAL, number),
        Field::PedalPosition => put(path::ACCELERATOR_PEDAL, number),
        Field::BatteryLevel => put(path::CHARGE, number),
        Field::ModuleTempMax => put(path::BATTERY_TEMPERATURE, number),
        Field::OutsideTemp => put(path::AIR_TEMPERATURE, number),
        Field::ServiceMode => put(&overlay(path::IN_SERVICE), is.map(Value::Bool)),
        Field::SoftwareUpdateInstallationPercentComplete => {
            let updating = match fact {
                Some(Fact::Number(percent)) => Some(percent > 0.0 && percent < 100.0),
                _ => None,
            };
            put(&overlay(path::UPDATING), updating.map(Value::Bool));
        }
        Field::DetailedChargeState => {
            let cable = format!("{}AnyPosition.IsChargingCableConnected", path::CHARGING_PORTS);
            put(&cable, is.map(Value::Bool));
        }
        Field::Unspecified | Field::Soc | Field::ScheduledDepartureTime => {}
    }
}

const DRIVERS_SEAT: &str = "Vehicle.Cabin.Seat.Row1.DriverSide";

fn overlay(what: &str) -> String {
    format!("{}.{what}", path::OVERLAY)
}

/// What parked means for a car that tells of one seat only.
fn terms(stale_after: Duration) -> Terms {
    Terms {
        stale_after,
        seats: vec![DRIVERS_SEAT.to_owned()],
        ..Terms::default()
    }
}

fn known(tri: Tri) -> Known {
    match tri {
        Tri::Yes => Known::True,
        Tri::No => Known::False,
        Tri::Unknown => Known::Unknown,
    }
}

fn timestamp(moment: Moment) -> Option<Timestamp> {
    Timestamp::new(moment.seconds, moment.nanos).ok()
}

#[cfg(test)]
mod tests;
