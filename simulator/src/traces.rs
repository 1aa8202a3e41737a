//! What happens to each car of a fleet, from one seed: a [`Trace`] is a car's sorted events, and the intervals behind them.
//!
//! Called by whoever plays the cars, by `statistics` and by those who draw. It owns the model: `tables` has the numbers and where each
//! is from, `car` draws a car, `days` its trips, `plug` its sessions, `shocks` what strikes many at once, `events` turns all that
//! into what a car's signals would show, `zone` tells when that is on a calendar. What must never happen: a car's trace depends on
//! another car, on the number of cars, on the order in which they are asked for, or on the machine.
//!
//! ```
//! use kerbside_simulator::traces::{Fleet, What};
//!
//! let fleet = Fleet { seed: 7, days: 7, ..Fleet::default() };
//! let trace = fleet.trace(41);
//! assert!(matches!(trace.events[0].what, What::Parked { .. }));
//! assert_eq!(trace, fleet.trace(41));
//! ```

mod car;
mod days;
mod events;
mod habit;
mod plug;
mod random;
mod shocks;
mod tables;
mod visits;
mod zone;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use car::{Archetype, Car, HomeNetwork, Vss};
pub use shocks::{Shock, ShockKind};
pub use zone::Calendar;

/// A day.
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// Days that are drawn and thrown away. A trace begins at midnight with every car at home; who is plugged in then depends on the
/// evening before, and on who came home that evening empty.
const WARM_UP: u16 = 7;

/// A fleet: everything that follows from a seed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fleet {
    /// The same seed gives the same fleet, everywhere and always.
    pub seed: u64,
    /// Length of the traces, up to 179 years. They begin at midnight.
    pub days: u16,
    /// On which day of the week they begin.
    pub begins: Weekday,
    /// What strikes many cars at once.
    pub shocks: Vec<Shock>,
    /// On which share of the days on which it drives a car leaves first at an hour of its own, from 0 to 1. With none, every day is drawn
    /// anew: what is published is of fleets, and says nothing of one car's habits.
    pub regularity: f64,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Weekday {
    /// The first.
    #[default]
    Monday,
    /// The second.
    Tuesday,
    /// The third.
    Wednesday,
    /// The fourth.
    Thursday,
    /// The fifth.
    Friday,
    /// People shop.
    Saturday,
    /// People rest.
    Sunday,
}

/// What people do on a day depends on its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DayKind {
    /// Monday to Friday.
    Weekday,
    /// Saturday.
    Saturday,
    /// Sunday, or a holiday.
    Sunday,
}

/// Where a car is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// At its owner's.
    Home,
    /// At work.
    Work,
    /// At a shop.
    Shopping,
    /// At an office, a doctor's.
    Errands,
    /// At friends', in the country.
    Leisure,
    /// Where somebody was brought.
    Escort,
}

/// From a moment up to and without another, since the start of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interval {
    /// The first moment.
    pub from: Duration,
    /// The first moment after it.
    pub until: Duration,
}

impl Interval {
    /// Whether the moment lies in it.
    pub fn contains(&self, at: Duration) -> bool {
        self.from <= at && at < self.until
    }

    /// How long it is.
    pub fn length(&self) -> Duration {
        self.until.saturating_sub(self.from)
    }
}

/// A car stands somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    /// Where.
    pub place: Place,
    /// When. The first begins with the trace, the last ends with it.
    pub during: Interval,
}

/// A car drives. One that is still driving at the end of the trace has no place in it: days end at home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trip {
    /// Where it leads.
    pub to: Place,
    /// When.
    pub during: Interval,
    /// How far.
    pub metres: u32,
}

/// A car is plugged in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// Where.
    pub place: Place,
    /// When.
    pub during: Interval,
    /// State of charge at the start, in percent.
    pub charge_before: u8,
    /// State of charge at the end, in percent.
    pub charge_after: u8,
}

/// A signal that can fall silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// The doors.
    Doors,
    /// The seats.
    Seats,
    /// The selected gear.
    Gear,
    /// The state of charge.
    StateOfCharge,
    /// The voltage of the 12 V battery.
    LowVoltage,
}

/// What happens to a car.
///
/// The driver's return comes in this order, and each but `Ignition` and `DrivesOff` may be missing: `Unlocked`, `Unplugs` if it is
/// plugged in, `DoorOpened`, `SeatTaken`, `Ignition`, `DrivesOff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The doors are unlocked.
    Unlocked,
    /// The driver's door opens.
    DoorOpened,
    /// Somebody sits down.
    SeatTaken,
    /// The car is switched on.
    Ignition,
    /// It moves.
    DrivesOff {
        /// Where to.
        to: Place,
    },
    /// It stands.
    Parked {
        /// Where.
        place: Place,
        /// How far it was driven.
        metres: u32,
    },
    /// The driver has got out; doors are closed and locked, seats empty, the car is off.
    Locked,
    /// The cable is plugged in.
    PlugsIn {
        /// State of charge in percent.
        charge: u8,
    },
    /// The cable is pulled out.
    Unplugs {
        /// State of charge in percent.
        charge: u8,
    },
    /// No network reaches the car.
    RadioLost,
    /// One does.
    RadioBack,
    /// A signal keeps its value and is no longer renewed.
    SignalStale {
        /// Which.
        signal: Signal,
    },
    /// It is renewed again.
    SignalFresh {
        /// Which.
        signal: Signal,
    },
    /// A door's sensor says open, and the door is closed.
    DoorStuck,
    /// The sensor works again.
    DoorFreed,
}

/// Something happens to a car.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Since the start of the trace.
    pub at: Duration,
    /// What happens.
    pub what: What,
}

/// What happens to one car.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Which car.
    pub car: Car,
    /// When the trace ends.
    pub length: Duration,
    /// All of it in its order. At the start the car is at home: the first events say so, at zero.
    pub events: Vec<Event>,
    /// When and where the car stands.
    pub stays: Vec<Stay>,
    /// When it drives.
    pub trips: Vec<Trip>,
    /// When it is plugged in.
    pub plugged: Vec<Session>,
    /// When no network reaches it.
    pub unreachable: Vec<Interval>,
}

impl Fleet {
    /// What the car of this number is.
    pub fn car(&self, index: u32) -> Car {
        Car::draw(self.seed, index)
    }

    /// What happens to the car of this number.
    pub fn trace(&self, index: u32) -> Trace {
        events::trace(self, self.car(index))
    }

    /// The first so many cars.
    pub fn traces(&self, cars: u32) -> impl Iterator<Item = Trace> {
        (0..cars).map(|index| self.trace(index))
    }

    /// The kind of a day of the traces, the first being 0, holidays among the shocks included.
    pub fn day_kind(&self, day: u16) -> DayKind {
        self.kind_from_warm_up(day.saturating_add(WARM_UP))
    }

    /// The same, with days counted from the start of the warm-up, which is whole weeks long.
    fn kind_from_warm_up(&self, day: u16) -> DayKind {
        let holiday = self
            .shocks
            .iter()
            .any(|shock| shock.kind == ShockKind::Holiday && shock.day().checked_add(WARM_UP) == Some(day));
        match (self.begins as u16 + day % 7) % 7 {
            _ if holiday => DayKind::Sunday,
            5 => DayKind::Saturday,
            6 => DayKind::Sunday,
            _ => DayKind::Weekday,
        }
    }
}

impl Trace {
    /// Where the car stands at this moment, unless it drives.
    pub fn parked_at(&self, at: Duration) -> Option<&Stay> {
        containing(&self.stays, |stay| &stay.during, at)
    }

    /// The session of this moment.
    pub fn plugged_at(&self, at: Duration) -> Option<&Session> {
        containing(&self.plugged, |session| &session.during, at)
    }

    /// Whether a network reaches the car at this moment.
    pub fn is_reachable_at(&self, at: Duration) -> bool {
        containing(&self.unreachable, |interval| interval, at).is_none()
    }
}

/// Finds what lies at this moment in a sorted list.
fn containing<T>(of: &[T], interval: impl Fn(&T) -> &Interval, at: Duration) -> Option<&T> {
    let begun = of.partition_point(|it| interval(it).from <= at);
    of.get(begun.checked_sub(1)?).filter(|it| interval(it).contains(at))
}

/// A moment from hours; whole milliseconds, so that it prints and compares alike everywhere.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "hours of a trace are few; `as` saturates"
)]
fn moment(hours: f64) -> Duration {
    Duration::from_millis((hours * 3_600_000.0) as u64)
}
