//! From trips, sessions and gaps to what a car's signals would show: the driver's return, faults, and all of it in its order.
//!
//! Called by `Fleet::trace` alone. What must never happen: an event out of order, or one that the car's state forbids; the automaton
//! in the tests says what that is.

use std::time::Duration;

use super::car::Car;
use super::plug::{Parking, Plugged};
use super::random::{Key, Purpose};
use super::{
    DAY, Event, Fleet, Interval, Place, Session, Signal, Stay, Trace, Trip, WARM_UP, What, days, habit, moment, plug,
    shocks,
};

/// A second, in hours.
const SECOND: f64 = 1.0 / 3600.0;
/// Staleness of signals, per hour of a car. Published: 7.5, 0.1 %.
const STALE_PER_HOUR: f64 = 0.001;
/// Chance of a stuck door per stay. A guess: 7.5 says only that there are such.
const STUCK_PER_STAY: f64 = 0.0005;
/// A door opens and no unlocking was seen. Published: 7.5.
const NO_UNLOCK: f64 = 0.02;
/// One of the signals of a return does not come. Published: 7.5.
const MISSING: f64 = 0.01;

/// How the driver comes and goes around a stay; hours count from the start of the warm-up.
struct Driver {
    locked: f64,
    unlocked: f64,
    door: f64,
    seat: f64,
    ignition: f64,
    /// Which of unlocking, door and seat are seen.
    seen: [bool; 3],
    /// The door's sensor is stuck throughout the stay.
    stuck: bool,
}

impl Driver {
    fn draw(car: &Car, key: Key, from: f64, until: f64) -> Self {
        let draws = &mut key.draws(Purpose::Driver);
        let locked = from + draws.between(20.0, 90.0) * SECOND;
        // Spans published in 7.5, but for the last: nobody says how long a car stands switched on.
        let ignition = until - draws.between(5.0, 20.0) * SECOND;
        let seat = ignition - draws.between(2.0, 8.0) * SECOND;
        let door = seat - draws.between(3.0, 10.0) * SECOND;
        let unlocked = door - draws.between(5.0, 30.0) * SECOND;
        let unlocking_seen = !draws.chance(NO_UNLOCK);
        let missing = draws.chance(MISSING);
        let which = draws.pick(&[(0, 1.0), (1, 1.0), (2, 1.0)]);
        let seen = [0, 1, 2].map(|sign| !(missing && which == Some(sign)) && (unlocking_seen || sign > 0));
        let stuck = draws.chance(STUCK_PER_STAY * car.fault_proneness);
        Self {
            locked,
            unlocked,
            door,
            seat,
            ignition,
            seen,
            stuck,
        }
    }
}

/// A car's trace.
pub(super) fn trace(fleet: &Fleet, car: Car) -> Trace {
    let days = fleet.days.saturating_add(WARM_UP);
    let (parkings, drivers) = parkings(fleet, &car, days);
    let plugged = plug::sessions(fleet, &car, &parkings);
    let length = DAY * u32::from(days - WARM_UP);
    let stays: Vec<Stay> = parkings
        .iter()
        .map(|parking| Stay {
            place: parking.place,
            during: cut(parking.from, parking.until),
        })
        .filter(|stay| stay.during.from < stay.during.until)
        .collect();
    let trips: Vec<Trip> = parkings
        .windows(2)
        .filter_map(|pair| pair.first().zip(pair.last()))
        .map(|(before, after)| Trip {
            to: after.place,
            during: cut(before.until, after.from),
            metres: metres(after.km),
        })
        .filter(|trip| !trip.during.length().is_zero())
        .collect();
    let plugged: Vec<Session> = plugged
        .iter()
        .map(closed)
        .filter(|session| !session.during.length().is_zero())
        .collect();
    let unreachable = shocks::unreachable(fleet, car.index, car.home_network, &stays, length);

    let mut events = Vec::new();
    let skipped = parkings.len() - stays.len();
    let there = stays.iter().zip(drivers.iter().skip(skipped));
    for (number, (stay, driver)) in there.enumerate() {
        let metres = number
            .checked_sub(1)
            .and_then(|trip| trips.get(trip))
            .map_or(0, |trip| trip.metres);
        let to = stays.get(number + 1).map(|next| next.place);
        stand(stay, driver, metres, to, &mut events);
    }
    for session in &plugged {
        put(
            &mut events,
            session.during.from,
            What::PlugsIn {
                charge: session.charge_before,
            },
        );
        if session.during.until < length {
            put(
                &mut events,
                session.during.until,
                What::Unplugs {
                    charge: session.charge_after,
                },
            );
        }
    }
    for gap in &unreachable {
        put(&mut events, gap.from, What::RadioLost);
        if gap.until < length {
            put(&mut events, gap.until, What::RadioBack);
        }
    }
    for day in WARM_UP..days {
        faults(
            &car,
            Key {
                seed: fleet.seed,
                car: car.index,
                day,
                leg: 0,
            },
            &mut events,
        );
    }
    events.retain(|event: &Event| event.at < length);
    // Stable: what was put first comes first, which decides at the start, where all that is so already happens at once.
    events.sort_by_key(|event| event.at);
    Trace {
        car,
        length,
        events,
        stays,
        trips,
        plugged,
        unreachable,
    }
}

/// All stays from the start of the warm-up on, and the drivers around them.
fn parkings(fleet: &Fleet, car: &Car, days: u16) -> (Vec<Parking>, Vec<Driver>) {
    let key = |day: u16, leg: u8| Key {
        seed: fleet.seed,
        car: car.index,
        day,
        leg,
    };
    let end = f64::from(days) * 24.0;
    // No day has 255 legs.
    let mut stands = (key(0, u8::MAX), Place::Home, 0.0, 0.0);
    let (mut parkings, mut drivers) = (Vec::new(), Vec::new());
    let mut close = |(key, place, from, km): (Key, Place, f64, f64), until: f64| {
        let driver = Driver::draw(car, key, from, until);
        let unplugged_by = if until < end {
            driver.unlocked + (driver.door - driver.unlocked) / 2.0
        } else {
            end
        };
        parkings.push(Parking {
            key,
            place,
            from,
            until,
            unplugged_by,
            km,
        });
        drivers.push(driver);
    };
    for day in 0..days {
        let exodus = day
            .checked_sub(WARM_UP)
            .and_then(|day| shocks::exodus(fleet, car.index, day));
        let kind = fleet.kind_from_warm_up(day);
        let habit = habit::departs(fleet.regularity, car, key(day, 1), kind);
        let legs = days::legs(car, key(day, 0), kind, exodus, habit);
        let midnight = f64::from(day) * 24.0;
        for (leg, number) in legs.iter().zip(0u8..) {
            close(stands, midnight + leg.departs);
            stands = (key(day, number), leg.to, midnight + leg.arrives, leg.km);
        }
    }
    close(stands, end);
    (parkings, drivers)
}

/// The part after the warm-up; empty if there is none.
fn cut(from: f64, until: f64) -> Interval {
    let start = f64::from(WARM_UP) * 24.0;
    Interval {
        from: moment((from - start).max(0.0)),
        until: moment((until - start).max(0.0)),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "nobody drives that far; `as` saturates"
)]
fn metres(km: f64) -> u32 {
    (km * 1000.0) as u32
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is at most 1; `as` saturates"
)]
fn percent(charge: f64) -> u8 {
    (charge * 100.0) as u8
}

fn closed(plugged: &Plugged) -> Session {
    Session {
        place: plugged.place,
        during: cut(plugged.from, plugged.until),
        charge_before: percent(plugged.before),
        charge_after: percent(plugged.after),
    }
}

fn put(events: &mut Vec<Event>, at: Duration, what: What) {
    events.push(Event { at, what });
}

/// The car stands, its driver goes and comes back, and it drives off if there is somewhere to go.
fn stand(stay: &Stay, driver: &Driver, metres: u32, to: Option<Place>, events: &mut Vec<Event>) {
    let at = |hours: f64| cut(hours, hours).from;
    put(
        events,
        stay.during.from,
        What::Parked {
            place: stay.place,
            metres,
        },
    );
    put(events, at(driver.locked), What::Locked);
    if driver.stuck {
        put(events, at(driver.locked), What::DoorStuck);
    }
    let Some(to) = to else { return };
    let signs = [
        (driver.unlocked, What::Unlocked),
        (driver.door, What::DoorOpened),
        (driver.seat, What::SeatTaken),
    ];
    for ((hours, what), _) in signs.into_iter().zip(driver.seen).filter(|(_, seen)| *seen) {
        put(events, at(hours), what);
    }
    put(events, at(driver.ignition), What::Ignition);
    if driver.stuck {
        put(events, at(driver.ignition), What::DoorFreed);
    }
    put(events, stay.during.until, What::DrivesOff { to });
}

/// Signals that fall silent on this day. At most one in four hours: a second is not worth its draws.
fn faults(car: &Car, key: Key, events: &mut Vec<Event>) {
    let draws = &mut key.draws(Purpose::Fault);
    let midnight = f64::from(key.day) * 24.0;
    for slot in 0..6 {
        let begins = midnight + f64::from(slot) * 4.0;
        if !draws.chance(4.0 * STALE_PER_HOUR * car.fault_proneness) {
            continue;
        }
        let from = begins + draws.between(0.0, 4.0);
        // How long is a guess. It ends with the slot, so that a signal never falls silent twice.
        let until = (from + draws.between(0.1, 1.0)).min(begins + 4.0);
        let signals = [
            Signal::Doors,
            Signal::Seats,
            Signal::Gear,
            Signal::StateOfCharge,
            Signal::LowVoltage,
        ];
        let signal = draws
            .pick(&signals.map(|signal| (signal, 1.0)))
            .unwrap_or(Signal::Doors);
        let silent = cut(from, until);
        put(events, silent.from, What::SignalStale { signal });
        put(events, silent.until, What::SignalFresh { signal });
    }
}
