//! Whether the car is parked: one factor after another, each three-valued, each with what follows when it is not yes.
//!
//! Called on every snapshot. Unknown is never yes. There is no memory here except what the caller passes in as `held`, which picks
//! the level at which a numeric gate stops over the one at which it starts.

use std::time::Duration;

use super::Tri;
use super::signals::{View, path};

/// A numeric gate with two levels, so that a value that swings around one of them changes nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// Work stops below this.
    pub stop: f64,
    /// Work starts at or above this.
    pub start: f64,
}

impl Gate {
    /// Whether `value` passes, given whether it `held` before.
    pub fn passes(self, value: Option<f64>, held: bool) -> Tri {
        let level = if held { self.stop } else { self.start };
        Tri::from(value.map(|value| value >= level))
    }
}

/// The maker's terms: what parked means for this car.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// A signal older than this is unknown.
    pub stale_after: Duration,
    /// How long the car must have been parked without a break before work may start or go on.
    pub dwell: Duration,
    /// From the decision to leave until every attempt has been stopped.
    pub notice: Duration,
    /// Accessories may be on (`LowVoltageSystemState` `ACC`).
    pub allow_accessory: bool,
    /// Every door must be locked.
    pub require_locked: bool,
    /// The doors that this car has, as VSS branches.
    pub doors: Vec<String>,
    /// The seats that this car has, as VSS branches.
    pub seats: Vec<String>,
    /// Volts of the low-voltage battery: only above about 13 V does the traction battery feed it.
    pub low_voltage: Gate,
    /// Celsius of the traction battery at which work stops and, 5 below, starts.
    pub battery_celsius_max: f64,
    /// Celsius of the air outside at which work stops and, 5 below, starts.
    pub air_celsius_max: f64,
}

/// How far below a maximum temperature work starts again.
const COOL_BY: f64 = 5.0;

impl Default for Terms {
    fn default() -> Self {
        Self {
            stale_after: Duration::from_secs(30),
            dwell: Duration::from_mins(2),
            notice: Duration::from_secs(10),
            allow_accessory: false,
            require_locked: true,
            doors: path::DOORS.map(str::to_owned).to_vec(),
            seats: path::SEATS.map(str::to_owned).to_vec(),
            low_voltage: Gate {
                stop: 12.9,
                start: 13.1,
            },
            battery_celsius_max: 45.0,
            air_celsius_max: 45.0,
        }
    }
}

/// One thing that must hold for the car to be parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Factor {
    /// Speed is nought and the car does not move.
    Stationary,
    /// Not ready to drive: the low-voltage system is neither `ON` nor `START`.
    NotReadyToDrive,
    /// Park, park lock or parking brake holds it.
    HeldInPlace,
    /// The traction battery and the air are not too hot.
    Cool,
    /// The low-voltage battery is fed.
    Supplied,
    /// Every door is locked.
    Locked,
    /// Doors and trunk are closed.
    Closed,
    /// No seat is occupied.
    Empty,
    /// No pedal is pressed.
    PedalsFree,
    /// Accessories are off.
    AccessoriesOff,
    /// There is a way to the cluster. Needed to become available, not to stay so: work goes on without.
    Connected,
}

impl Factor {
    /// The factor in words, for the owner.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Stationary => "the car stands still",
            Self::NotReadyToDrive => "the car is not ready to drive",
            Self::HeldInPlace => "park, park lock or parking brake holds the car",
            Self::Cool => "battery and air are not too hot",
            Self::Supplied => "the low-voltage battery is fed",
            Self::Locked => "every door is locked",
            Self::Closed => "doors and trunk are closed",
            Self::Empty => "no seat is occupied",
            Self::PedalsFree => "no pedal is pressed",
            Self::AccessoriesOff => "accessories are off",
            Self::Connected => "there is a connection",
        }
    }

    /// What a *no* means for work that runs; *unknown* always means [`Consequence::Pause`].
    fn consequence(self) -> Consequence {
        match self {
            Self::Stationary | Self::NotReadyToDrive | Self::HeldInPlace | Self::Cool | Self::Supplied => {
                Consequence::Leave
            }
            Self::Locked | Self::Closed | Self::Empty | Self::PedalsFree | Self::AccessoriesOff => Consequence::Pause,
            Self::Connected => Consequence::StartOnly,
        }
    }
}

enum Consequence {
    Leave,
    Pause,
    StartOnly,
}

/// What the signals say now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every factor holds. `may_start`: also those that are needed only to become available.
    Parked {
        /// Whether new work may begin.
        may_start: bool,
    },
    /// Somebody is at the car, or a factor is unknown: work is frozen.
    Attended(Factor),
    /// The car is about to drive, drives, or is unfit: work ends.
    Going(Factor),
}

/// Every factor and its value, in the order of [`Factor`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement(pub Vec<(Factor, Tri)>);

impl Judgement {
    /// The three-valued answer to "is the car parked?".
    pub fn parked(&self) -> Tri {
        Tri::all(
            self.0
                .iter()
                .filter(|(factor, _)| *factor != Factor::Connected)
                .map(|(_, tri)| *tri),
        )
    }

    /// What follows from it. A *no* that ends work goes before one that freezes it.
    pub fn verdict(&self) -> Verdict {
        let mut attended = None;
        let mut may_start = true;
        for &(factor, tri) in &self.0 {
            match (tri, factor.consequence()) {
                (Tri::Yes, _) => {}
                (_, Consequence::StartOnly) => may_start = false,
                (Tri::No, Consequence::Leave) => return Verdict::Going(factor),
                (Tri::No, Consequence::Pause) | (Tri::Unknown, _) => attended = attended.or(Some(factor)),
            }
        }
        attended.map_or(Verdict::Parked { may_start }, Verdict::Attended)
    }
}

/// Judges a snapshot. `held`: the car is available or paused, so numeric gates use the level at which they stop.
pub fn judge(view: &View<'_>, terms: &Terms, held: bool) -> Judgement {
    let all_of = |branches: &[String], tri: &dyn Fn(&str) -> Tri| Tri::all(branches.iter().map(|b| tri(b)));
    let state = view.text(path::LOW_VOLTAGE_SYSTEM_STATE);
    let below = |value: Option<f64>, max: f64| {
        let max = if held { max } else { max - COOL_BY };
        Tri::from(value.map(|value| value < max))
    };
    // A parked car may not send its pedals at all; pressed is a fact, absence is not.
    let free = |pedal: &str| Tri::from(view.number(pedal).is_none_or(|percent| percent <= 0.0));
    let closed = all_of(&terms.doors, &|door| !view.bool(&format!("{door}.IsOpen"))).and(!view.bool(path::TRUNK_OPEN));
    let occupied = |seat: &str| match view.text(&format!("{seat}.OccupancyStatus")) {
        Some("EMPTY") => Tri::Yes,
        Some("OCCUPIED") => Tri::No,
        _ => Tri::Unknown,
    };
    let locked = if terms.require_locked {
        all_of(&terms.doors, &|door| view.bool(&format!("{door}.IsLocked")))
    } else {
        Tri::Yes
    };
    Judgement(vec![
        (
            Factor::Stationary,
            Tri::from(view.number(path::SPEED).map(|speed| speed.abs() < 0.5)).and(!view.bool(path::IS_MOVING)),
        ),
        (
            Factor::NotReadyToDrive,
            match state {
                Some("LOCK" | "OFF" | "ACC") => Tri::Yes,
                Some("ON" | "START") => Tri::No,
                _ => Tri::Unknown,
            },
        ),
        (Factor::HeldInPlace, held_in_place(view)),
        (
            Factor::Cool,
            below(view.number(path::BATTERY_TEMPERATURE), terms.battery_celsius_max)
                .and(below(view.number(path::AIR_TEMPERATURE), terms.air_celsius_max)),
        ),
        (
            Factor::Supplied,
            terms.low_voltage.passes(view.number(path::LOW_VOLTAGE), held),
        ),
        (Factor::Locked, locked),
        (Factor::Closed, closed),
        (Factor::Empty, all_of(&terms.seats, &occupied)),
        (
            Factor::PedalsFree,
            free(path::BRAKE_PEDAL).and(free(path::ACCELERATOR_PEDAL)),
        ),
        (
            Factor::AccessoriesOff,
            match state {
                Some("ACC") => Tri::from(terms.allow_accessory),
                Some(_) => Tri::Yes,
                None => Tri::Unknown,
            },
        ),
        (Factor::Connected, view.bool(path::CONNECTIVITY)),
    ])
}

const GEAR_PARK: f64 = 126.0;
const GEAR_NEUTRAL: f64 = 0.0;

/// Park, park lock and parking brake each hold the car alone; but with a gear engaged somebody means to drive, brake or no brake.
fn held_in_place(view: &View<'_>) -> Tri {
    let is = |gear: f64, wanted: f64| (gear - wanted).abs() < 0.5;
    let gear = view.number(path::SELECTED_GEAR);
    if gear.is_some_and(|gear| !is(gear, GEAR_PARK) && !is(gear, GEAR_NEUTRAL)) {
        return Tri::No;
    }
    Tri::any([
        Tri::from(gear.map(|gear| is(gear, GEAR_PARK))),
        view.bool(path::PARK_LOCK),
        view.bool(path::PARKING_BRAKE),
    ])
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::clock::Boottime;
    use crate::parked::signals::{Snapshot, Value};
    use crate::parked::tests::parked_car;

    const NOW: Boottime = Boottime(Duration::from_secs(1000));

    fn judged(change: impl FnOnce(&mut Snapshot), held: bool) -> (Tri, Verdict) {
        let terms = Terms::default();
        let mut snapshot = parked_car(NOW);
        change(&mut snapshot);
        let judgement = judge(&View::new(&snapshot, NOW, terms.stale_after), &terms, held);
        (judgement.parked(), judgement.verdict())
    }

    #[test]
    fn parked_car_is_parked() {
        assert_eq!(judged(|_| {}, false), (Tri::Yes, Verdict::Parked { may_start: true }));
    }

    #[rstest]
    #[case::speed(path::SPEED, Value::Number(3.0), Verdict::Going(Factor::Stationary))]
    #[case::reversing(path::SPEED, Value::Number(-3.0), Verdict::Going(Factor::Stationary))]
    #[case::moving(path::IS_MOVING, Value::Bool(true), Verdict::Going(Factor::Stationary))]
    #[case::on(path::LOW_VOLTAGE_SYSTEM_STATE, Value::Text("ON".into()), Verdict::Going(Factor::NotReadyToDrive))]
    #[case::start(path::LOW_VOLTAGE_SYSTEM_STATE, Value::Text("START".into()), Verdict::Going(Factor::NotReadyToDrive))]
    #[case::drive(path::SELECTED_GEAR, Value::Number(127.0), Verdict::Going(Factor::HeldInPlace))]
    #[case::reverse(path::SELECTED_GEAR, Value::Number(-1.0), Verdict::Going(Factor::HeldInPlace))]
    #[case::hot(path::BATTERY_TEMPERATURE, Value::Number(46.0), Verdict::Going(Factor::Cool))]
    #[case::low(path::LOW_VOLTAGE, Value::Number(12.2), Verdict::Going(Factor::Supplied))]
    #[case::unlocked(
        "Vehicle.Cabin.Door.Row1.DriverSide.IsLocked",
        Value::Bool(false),
        Verdict::Attended(Factor::Locked)
    )]
    #[case::open(
        "Vehicle.Cabin.Door.Row2.PassengerSide.IsOpen",
        Value::Bool(true),
        Verdict::Attended(Factor::Closed)
    )]
    #[case::trunk(path::TRUNK_OPEN, Value::Bool(true), Verdict::Attended(Factor::Closed))]
    #[case::sitting("Vehicle.Cabin.Seat.Row1.DriverSide.OccupancyStatus", Value::Text("OCCUPIED".into()), Verdict::Attended(Factor::Empty))]
    #[case::seat_unknown("Vehicle.Cabin.Seat.Row2.Middle.OccupancyStatus", Value::Text("UNKNOWN".into()), Verdict::Attended(Factor::Empty))]
    #[case::brake(path::BRAKE_PEDAL, Value::Number(12.0), Verdict::Attended(Factor::PedalsFree))]
    #[case::accessories(path::LOW_VOLTAGE_SYSTEM_STATE, Value::Text("ACC".into()), Verdict::Attended(Factor::AccessoriesOff))]
    #[case::undefined(path::LOW_VOLTAGE_SYSTEM_STATE, Value::Text("UNDEFINED".into()), Verdict::Attended(Factor::NotReadyToDrive))]
    #[case::offline(path::CONNECTIVITY, Value::Bool(false), Verdict::Parked { may_start: false })]
    fn one_signal_that_says_no_decides(#[case] path: &str, #[case] value: Value, #[case] expected: Verdict) {
        assert_eq!(judged(|snapshot| snapshot.set(path, value, NOW), true).1, expected);
    }

    #[test]
    fn every_signal_of_a_parked_car_that_is_missing_or_stale_means_not_parked() {
        let holding = [path::SELECTED_GEAR, path::PARK_LOCK, path::PARKING_BRAKE];
        let optional = [path::BRAKE_PEDAL, path::ACCELERATOR_PEDAL];
        let paths: Vec<String> = parked_car(NOW).iter().map(|(path, _)| path.to_owned()).collect();
        for path in paths
            .iter()
            .filter(|p| !holding.contains(&p.as_str()) && !optional.contains(&p.as_str()))
        {
            // What only the owner's terms read is judged there.
            if path == path::CHARGE || path.starts_with(path::CHARGING_PORTS) {
                continue;
            }
            let gone = judged(|snapshot| snapshot.remove(path), false);
            assert_ne!(gone.1, Verdict::Parked { may_start: true }, "{path} is missing");
            let value = parked_car(NOW)
                .iter()
                .find(|(p, _)| p == path)
                .map(|(_, r)| r.value.clone())
                .unwrap();
            let old = Boottime(NOW.0.saturating_sub(Duration::from_secs(31)));
            let stale = judged(|snapshot| snapshot.set(path, value, old), false);
            assert_ne!(stale.1, Verdict::Parked { may_start: true }, "{path} is stale");
        }
        let none = judged(|snapshot| holding.iter().for_each(|path| snapshot.remove(path)), false);
        assert_eq!(none, (Tri::Unknown, Verdict::Attended(Factor::HeldInPlace)));
    }

    #[test]
    fn engaged_gear_with_the_brake_on_is_going() {
        let verdict = judged(
            |snapshot| {
                snapshot.set(path::PARKING_BRAKE, Value::Bool(true), NOW);
                snapshot.set(path::SELECTED_GEAR, Value::Number(127.0), NOW);
            },
            true,
        );
        assert_eq!(verdict.1, Verdict::Going(Factor::HeldInPlace));
    }

    #[test]
    fn neutral_with_the_brake_on_is_held() {
        let verdict = judged(
            |snapshot| {
                snapshot.set(path::PARK_LOCK, Value::Bool(false), NOW);
                snapshot.set(path::PARKING_BRAKE, Value::Bool(true), NOW);
                snapshot.set(path::SELECTED_GEAR, Value::Number(0.0), NOW);
            },
            true,
        );
        assert_eq!(verdict.1, Verdict::Parked { may_start: true });
    }

    #[test]
    fn value_between_the_two_levels_keeps_what_was() {
        for (path, value) in [(path::LOW_VOLTAGE, 13.0), (path::BATTERY_TEMPERATURE, 42.0)] {
            let between = |snapshot: &mut Snapshot| snapshot.set(path, Value::Number(value), NOW);
            assert_eq!(
                judged(between, true).1,
                Verdict::Parked { may_start: true },
                "{path} held"
            );
            assert!(matches!(judged(between, false).1, Verdict::Going(_)), "{path} not held");
        }
    }

    #[test]
    fn movement_goes_before_an_open_door() {
        let verdict = judged(
            |snapshot| {
                snapshot.set("Vehicle.Cabin.Door.Row1.DriverSide.IsOpen", Value::Bool(true), NOW);
                snapshot.set(path::IS_MOVING, Value::Bool(true), NOW);
            },
            true,
        );
        assert_eq!(verdict.1, Verdict::Going(Factor::Stationary));
    }
}
