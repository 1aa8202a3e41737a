//! What the signals of a car show, from what happens to it. Pure.
//!
//! Called by whoever plays a car. A car speaks the catalogue (VSS 4, 5 or 6) that its trace gave it; the agent translates. Whether a
//! network reaches the car is not among the signals: the modem of a car in a tunnel does not know that nobody hears it.

use std::collections::{BTreeMap, BTreeSet};

use kerbside_core::parked::Value;
use kerbside_core::parked::signals::path;
use kerbside_vehicle_agent::signals::Update;

use crate::traces::{Signal, Vss, What};

/// The signals of one car.
#[derive(Debug, Clone, PartialEq)]
pub struct Looks {
    vss: Vss,
    values: BTreeMap<String, Value>,
    silent: BTreeSet<String>,
}

const PARK: f64 = 126.0;
const DRIVE: f64 = 127.0;

impl Looks {
    /// A car that stands, locked and empty, and is not plugged in.
    pub fn standing(vss: Vss) -> Self {
        let mut looks = Self {
            vss,
            values: BTreeMap::new(),
            silent: BTreeSet::new(),
        };
        looks.stands();
        looks.locked();
        looks.number(path::CHARGE, 80.0);
        looks.plugged(false);
        looks.number(path::LOW_VOLTAGE, 13.8);
        looks.number(path::BATTERY_TEMPERATURE, 22.0);
        looks.number(path::AIR_TEMPERATURE, 15.0);
        looks.bool(path::CONNECTIVITY, true);
        looks.bool(path::TRUNK_OPEN, false);
        looks
    }

    /// The same, plugged in and charged: what a fleet owner wants at night.
    pub fn ready(vss: Vss) -> Self {
        let mut looks = Self::standing(vss);
        looks.plugged(true);
        looks
    }

    /// Something happens; gives what the bus says of it.
    pub fn see(&mut self, what: What) -> Update {
        let before = self.clone();
        let driver_door = path::DOORS[0];
        let stuck_door = path::DOORS[3];
        match what {
            What::Unlocked => self.doors("IsLocked", false),
            What::DoorOpened => self.bool(&format!("{driver_door}.IsOpen"), true),
            What::SeatTaken => self.seat(0, true),
            What::Ignition => {
                self.bool(&format!("{driver_door}.IsOpen"), false);
                self.text(path::LOW_VOLTAGE_SYSTEM_STATE, "ON");
                self.number(path::BRAKE_PEDAL, 30.0);
            }
            What::DrivesOff { .. } => self.drives(),
            What::Parked { .. } => self.stands(),
            What::Locked => self.locked(),
            What::PlugsIn { charge } => {
                self.plugged(true);
                self.number(path::CHARGE, f64::from(charge));
            }
            What::Unplugs { charge } => {
                self.plugged(false);
                self.number(path::CHARGE, f64::from(charge));
            }
            What::DoorStuck => self.bool(&format!("{stuck_door}.IsOpen"), true),
            What::DoorFreed => self.bool(&format!("{stuck_door}.IsOpen"), false),
            What::SignalStale { signal } => self.silent.extend(self.of(signal)),
            What::SignalFresh { signal } => {
                let back = self.of(signal);
                self.silent.retain(|path| !back.contains(path));
            }
            What::RadioLost | What::RadioBack => {}
        }
        let said = |looks: &Self, path: &str| !looks.silent.contains(path);
        Update {
            set: self
                .values
                .iter()
                .filter(|(path, value)| {
                    said(self, path) && (before.values.get(*path) != Some(value) || !said(&before, path))
                })
                .map(|(path, value)| (path.clone(), value.clone()))
                .collect(),
            ..Update::default()
        }
    }

    /// Everything that is still said, as a bus says it again and again. What fell silent grows old in the agent.
    pub fn refresh(&self) -> Update {
        Update {
            set: self
                .values
                .iter()
                .filter(|(path, _)| !self.silent.contains(*path))
                .map(|(path, value)| (path.clone(), value.clone()))
                .collect(),
            ..Update::default()
        }
    }

    fn stands(&mut self) {
        self.number(path::SPEED, 0.0);
        self.bool(path::IS_MOVING, false);
        self.number(path::SELECTED_GEAR, PARK);
        self.bool(path::PARK_LOCK, true);
        self.bool(path::PARKING_BRAKE, true);
        self.number(path::BRAKE_PEDAL, 0.0);
        self.number(path::ACCELERATOR_PEDAL, 0.0);
    }

    fn locked(&mut self) {
        self.text(path::LOW_VOLTAGE_SYSTEM_STATE, "LOCK");
        self.doors("IsOpen", false);
        self.doors("IsLocked", true);
        for place in 0..path::SEATS.len() {
            self.seat(place, false);
        }
    }

    fn drives(&mut self) {
        self.number(path::SPEED, 42.0);
        self.bool(path::IS_MOVING, true);
        self.text(path::LOW_VOLTAGE_SYSTEM_STATE, "ON");
        self.number(path::SELECTED_GEAR, DRIVE);
        self.bool(path::PARK_LOCK, false);
        self.bool(path::PARKING_BRAKE, false);
        self.number(path::BRAKE_PEDAL, 0.0);
        self.number(path::ACCELERATOR_PEDAL, 20.0);
    }

    fn doors(&mut self, what: &str, value: bool) {
        for door in path::DOORS {
            self.bool(&format!("{door}.{what}"), value);
        }
    }

    fn seat(&mut self, place: usize, taken: bool) {
        let path = self.seat_path(place);
        match self.vss {
            Vss::V6 => self.text(&path, if taken { "OCCUPIED" } else { "EMPTY" }),
            Vss::V4 | Vss::V5 => self.bool(&path, taken),
        }
    }

    fn seat_path(&self, place: usize) -> String {
        let what = match self.vss {
            Vss::V6 => "OccupancyStatus",
            Vss::V4 | Vss::V5 => "IsOccupied",
        };
        format!("{}.{what}", path::SEATS[place])
    }

    fn plugged(&mut self, value: bool) {
        let path = match self.vss {
            Vss::V4 => "Vehicle.Powertrain.TractionBattery.Charging.IsChargingCableConnected".to_owned(),
            Vss::V5 | Vss::V6 => format!("{}AnyPosition.IsChargingCableConnected", path::CHARGING_PORTS),
        };
        self.bool(&path, value);
    }

    /// The paths that a signal of a trace stands for.
    fn of(&self, signal: Signal) -> Vec<String> {
        match signal {
            Signal::Doors => path::DOORS.iter().map(|door| format!("{door}.IsOpen")).collect(),
            Signal::Seats => (0..path::SEATS.len()).map(|place| self.seat_path(place)).collect(),
            Signal::Gear => vec![path::SELECTED_GEAR.to_owned()],
            Signal::StateOfCharge => vec![path::CHARGE.to_owned()],
            Signal::LowVoltage => vec![path::LOW_VOLTAGE.to_owned()],
        }
    }

    fn number(&mut self, path: &str, value: f64) {
        self.values.insert(path.to_owned(), Value::Number(value));
    }

    fn bool(&mut self, path: &str, value: bool) {
        self.values.insert(path.to_owned(), Value::Bool(value));
    }

    fn text(&mut self, path: &str, value: &str) {
        self.values.insert(path.to_owned(), Value::Text(value.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kerbside_core::clock::Boottime;
    use kerbside_core::parked::{Snapshot, Terms, View, judge};

    use super::*;
    use crate::traces::Place;

    const NOW: Boottime = Boottime(Duration::from_secs(1000));

    /// What the real judgement says of a car that shows this: whether work may start.
    fn may_start(looks: &Looks) -> bool {
        let mut snapshot = Snapshot::default();
        for (path, value) in looks.refresh().set {
            snapshot.set(&path, value, NOW);
        }
        let terms = Terms::default();
        let verdict = judge(&View::new(&snapshot, NOW, terms.stale_after), &terms, false).verdict();
        verdict == kerbside_core::parked::Verdict::Parked { may_start: true }
    }

    fn plugged(looks: &Looks) -> bool {
        let mut snapshot = Snapshot::default();
        for (path, value) in looks.refresh().set {
            snapshot.set(&path, value, NOW);
        }
        View::new(&snapshot, NOW, Duration::from_secs(30)).plugged_in() == kerbside_core::parked::Tri::Yes
    }

    #[rstest::rstest]
    #[case(Vss::V4)]
    #[case(Vss::V5)]
    #[case(Vss::V6)]
    fn standing_car_may_work_whatever_catalogue_it_speaks(#[case] vss: Vss) {
        assert!(may_start(&Looks::standing(vss)));
        assert!(!plugged(&Looks::standing(vss)));
        assert!(plugged(&Looks::ready(vss)));
    }

    #[rstest::rstest]
    #[case(What::Unlocked)]
    #[case(What::DoorOpened)]
    #[case(What::SeatTaken)]
    #[case(What::Ignition)]
    #[case(What::DrivesOff { to: Place::Work })]
    #[case(What::DoorStuck)]
    #[case(What::SignalStale { signal: Signal::Seats })]
    #[case(What::SignalStale { signal: Signal::LowVoltage })]
    fn car_to_which_that_happens_takes_no_work(#[case] what: What) {
        for vss in [Vss::V4, Vss::V5, Vss::V6] {
            let mut looks = Looks::ready(vss);
            looks.see(what);
            assert!(!may_start(&looks), "{vss:?}");
        }
    }

    #[test]
    fn car_that_has_driven_and_is_locked_again_is_as_before() {
        let mut looks = Looks::standing(Vss::V5);
        let before = looks.clone();
        let trip = [
            What::Unlocked,
            What::DoorOpened,
            What::SeatTaken,
            What::Ignition,
            What::DrivesOff { to: Place::Home },
            What::Parked {
                place: Place::Home,
                metres: 1,
            },
            What::Locked,
        ];
        for what in trip {
            assert!(!looks.see(what).set.is_empty(), "{what:?} is seen");
        }
        assert_eq!(looks, before);
    }

    #[test]
    fn bus_tells_a_change_once_and_what_is_silent_not_at_all() {
        let mut looks = Looks::ready(Vss::V6);
        assert_eq!(looks.see(What::Unlocked).set.len(), 4);
        assert!(looks.see(What::Unlocked).set.is_empty());
        let all = looks.refresh().set.len();
        looks.see(What::SignalStale { signal: Signal::Seats });
        assert_eq!(looks.refresh().set.len(), all - 5);
        assert_eq!(looks.see(What::SignalFresh { signal: Signal::Seats }).set.len(), 5);
        assert!(looks.see(What::RadioLost).set.is_empty());
    }
}
