//! When a car is plugged in, after the private points of 7.4.
//!
//! Owners there do not plug in when a car comes home and out when it leaves: they plug in when they think of it, on arrival or in the
//! evening, and most pull the cable in the morning whether the car goes or not. So a stay at home is a row of occasions, and a
//! session ends by itself or with the stay. A car without a point at home plugs in elsewhere, and only when it must. What must never
//! happen: a car is plugged in that does not stand.

use super::car::Car;
use super::random::{Draws, Key, Purpose};
use super::tables::plugs;
use super::{DayKind, Fleet, Place};

/// Below this share of its capacity a car is plugged in wherever it stands, whatever its owner's habit.
const MUST: f64 = 0.25;
/// What a point away from home gives, in kW.
const AWAY_POWER: f64 = 11.0;
/// Nobody plugs in for less, in hours.
const WORTH_IT: f64 = 0.25;

/// A car stands; hours count from the start of the warm-up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parking {
    pub(super) key: Key,
    pub(super) place: Place,
    pub(super) from: f64,
    pub(super) until: f64,
    /// Up to here it can be plugged in: until the driver has come back.
    pub(super) unplugged_by: f64,
    /// Driven to get here.
    pub(super) km: f64,
}

/// A car is plugged in; hours count from the start of the warm-up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plugged {
    pub(super) place: Place,
    pub(super) from: f64,
    pub(super) until: f64,
    /// From 0 to 1.
    pub(super) before: f64,
    /// From 0 to 1.
    pub(super) after: f64,
}

/// The sessions of a car that stands so.
pub(super) fn sessions(fleet: &Fleet, car: &Car, parkings: &[Parking]) -> Vec<Plugged> {
    let mut cable = Cable {
        battery: car.battery,
        charge: 0.8,
        sessions: Vec::new(),
    };
    for parking in parkings {
        // A car that would be empty is charged on the way, which nobody has to simulate.
        cable.charge = (cable.charge - parking.km * car.consumption / car.battery).max(0.02);
        let draws = &mut parking.key.draws(Purpose::Plug);
        match (parking.place, car.plugs_a_week) {
            (Place::Home, Some(wish)) => at_home(fleet, wish, car.home_power, parking, draws, &mut cable),
            _ if cable.charge < MUST => {
                let from = parking.from + draws.between(0.05, 0.1);
                let until = from + draws.of(&plugs::AWAY_HOURS);
                cable.is_in(parking, from, until, AWAY_POWER);
            }
            _ => {}
        }
    }
    cable.sessions
}

/// What an owner with this wish does during a stay at home.
fn at_home(fleet: &Fleet, wish: f64, power: f64, parking: &Parking, draws: &mut Draws, cable: &mut Cable) {
    let is_weekend = |at: f64| fleet.kind_from_warm_up(day_of(at)) != DayKind::Weekday;
    let mut at = parking.from + draws.between(0.05, 0.15);
    let mut readiness = plugs::READINESS.at(wish)
        * if hour_of(at) > plugs::LATE {
            plugs::ON_LATE_ARRIVAL
        } else {
            plugs::ON_ARRIVAL
        };
    while at < parking.unplugged_by - WORTH_IT {
        // What counts is the day on which the cable would be pulled.
        let eve = if is_weekend(at + 12.0) { plugs::WEEKEND } else { 1.0 };
        let plugs_in = draws.chance(readiness * eve) || cable.charge < MUST;
        if plugs_in {
            let until = ends(is_weekend, at, wish, draws);
            cable.is_in(parking, at, until, power);
            at = until;
        }
        at = if plugs_in && draws.chance(plugs::AGAIN.at(wish)) {
            at + draws.between(0.25, 2.0)
        } else {
            occasion(is_weekend, at, draws)
        };
        readiness = plugs::READINESS.at(wish);
    }
}

/// When an owner next thinks of the cable.
fn occasion(is_weekend: impl Fn(f64) -> bool, at: f64, draws: &mut Draws) -> f64 {
    let occasions = if is_weekend(at) {
        &plugs::OCCASIONS_WEEKEND
    } else {
        &plugs::OCCASIONS
    };
    next(at + 0.25, draws.hour(occasions))
}

/// When a session that began then ends by itself.
fn ends(is_weekend: impl Fn(f64) -> bool, at: f64, wish: f64, draws: &mut Draws) -> f64 {
    let is_short = draws.chance(plugs::SHORT.at(wish));
    let short = draws.of(&plugs::SHORT_HOURS);
    if is_short && hour_of(at) + short < plugs::NIGHT {
        return at + short;
    }
    // Nobody plugs in at six to pull the cable at seven.
    let mut until = at + 3.0;
    loop {
        until = next(until, draws.hour(&plugs::UNPLUGGING));
        let forgotten = if is_weekend(until) {
            plugs::FORGOTTEN_WEEKEND
        } else {
            plugs::FORGOTTEN
        };
        if !draws.chance((forgotten * plugs::PATIENCE.at(wish)).min(plugs::FORGOTTEN_AT_MOST)) {
            return until;
        }
    }
}

/// A car's cable and what it has done so far.
struct Cable {
    /// In kWh.
    battery: f64,
    /// From 0 to 1.
    charge: f64,
    sessions: Vec<Plugged>,
}

impl Cable {
    /// It is in, as long as the driver is away, if that is worth it.
    fn is_in(&mut self, parking: &Parking, from: f64, until: f64, power: f64) {
        let until = until.min(parking.unplugged_by);
        if until - from < WORTH_IT {
            return;
        }
        let before = self.charge;
        self.charge = (before + (until - from) * power / self.battery).min(1.0);
        self.sessions.push(Plugged {
            place: parking.place,
            from,
            until,
            before,
            after: self.charge,
        });
    }
}

/// The first moment after `at` at this hour of a day.
fn next(at: f64, hour: f64) -> f64 {
    let today = f64::from(day_of(at)) * 24.0 + hour;
    if today > at { today } else { today + 24.0 }
}

fn hour_of(at: f64) -> f64 {
    at - f64::from(day_of(at)) * 24.0
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "traces are not that long; `as` saturates"
)]
fn day_of(at: f64) -> u16 {
    (at / 24.0) as u16
}
