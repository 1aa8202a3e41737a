//! Whether the car is parked: one factor after another, each three-valued, each with what follows when it is not yes.
//!
//! Called on every snapshot. Unknown is never yes. There is no memory here except what the caller passes in: `held`, which picks
//! the level at which a numeric gate stops over the one at which it starts, and what the snapshot knows to have been said before.

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
    /// The optional signals that this car surely has: see [`Self::optional`].
    pub has: Vec<String>,
    /// Signals that are heard beside, and that the car is never judged by.
    pub beside: Vec<String>,
    /// The branch of the maker's overlay, for what VSS has no name for.
    pub overlay: String,
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
            stale_after: Duration::from_secs(3),
            dwell: Duration::from_mins(2),
            notice: Duration::from_secs(10),
            allow_accessory: false,
            require_locked: true,
            doors: path::DOORS.map(str::to_owned).to_vec(),
            seats: path::SEATS.map(str::to_owned).to_vec(),
            has: Vec::new(),
            beside: Vec::new(),
            overlay: path::OVERLAY.to_owned(),
            low_voltage: Gate {
                stop: 12.9,
                start: 13.1,
            },
            battery_celsius_max: 45.0,
            air_celsius_max: 45.0,
        }
    }
}

impl Terms {
    /// The signals that many cars do not have, in VSS and in the overlay of this car.
    ///
    /// One that the car has never said is no objection; from the first time it was said on, it is a signal like any other, and unknown
    /// when it is silent. Whether a car has one is learnt from what it says, and promised by its maker in `has`. It is not learnt from what
    /// a broker lists: that is its whole catalogue, whoever feeds it, and no car has all of that. Neither can a provider that dies take
    /// it back: nothing said, promised or remembered ever becomes "never said" again.
    pub fn optional(&self) -> impl Iterator<Item = String> {
        let overlay = [path::UPDATING, path::IN_SERVICE, path::CRASHED];
        let overlay = overlay.into_iter().map(|what| self.in_overlay(what));
        path::OPTIONAL.into_iter().map(str::to_owned).chain(overlay)
    }

    fn in_overlay(&self, what: &str) -> String {
        format!("{}.{what}", self.overlay)
    }

    fn promises(&self, path: &str) -> bool {
        self.has.iter().any(|has| has == path)
    }
}

/// One thing that must hold for the car to be parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Factor {
    /// Speed is nought and the car does not move.
    Stationary,
    /// Not ready to drive: the low-voltage system is neither `ON` nor `START`, and no engine runs.
    NotReadyToDrive,
    /// It does not come by itself, nor look for a place to park.
    NotDrivingItself,
    /// Park, park lock or parking brake holds it.
    HeldInPlace,
    /// The traction battery and the air are not too hot. A *no* ends work whatever the owner says.
    Cool,
    /// The low-voltage battery is fed. Likewise.
    Supplied,
    /// None of its software is being replaced. Likewise.
    NotUpdating,
    /// No workshop has it. Likewise.
    NotInService,
    /// It has had no crash. Likewise.
    NotCrashed,
    /// It has not broken down.
    NotBrokenDown,
    /// Its computer has memory to spare.
    MemoryFree,
    /// It does not save all the power that it can.
    PowerToRun,
    /// Every door is locked.
    Locked,
    /// Doors, trunks and hood are closed.
    Closed,
    /// No seat is occupied, and no driver belted.
    Empty,
    /// No pedal is pressed.
    PedalsFree,
    /// Accessories are off.
    AccessoriesOff,
    /// There is a way to the cluster. Needed to become available, not to stay so: work goes on without.
    Connected,
    /// It does not save power. Likewise; and no new work comes to what is there.
    PowerToStart,
}

impl Factor {
    /// Every factor.
    pub const ALL: [Self; 19] = [
        Self::Stationary,
        Self::NotReadyToDrive,
        Self::NotDrivingItself,
        Self::HeldInPlace,
        Self::Cool,
        Self::Supplied,
        Self::NotUpdating,
        Self::NotInService,
        Self::NotCrashed,
        Self::NotBrokenDown,
        Self::MemoryFree,
        Self::PowerToRun,
        Self::Locked,
        Self::Closed,
        Self::Empty,
        Self::PedalsFree,
        Self::AccessoriesOff,
        Self::Connected,
        Self::PowerToStart,
    ];

    /// The factor in words, for the owner.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Stationary => "the car stands still",
            Self::NotReadyToDrive => "the car is not ready to drive",
            Self::NotDrivingItself => "the car does not drive by itself",
            Self::HeldInPlace => "park, park lock or parking brake holds the car",
            Self::Cool => "battery and air are not too hot",
            Self::Supplied => "the low-voltage battery is fed",
            Self::NotUpdating => "the car is not being updated",
            Self::NotInService => "the car is not in service",
            Self::NotCrashed => "the car has not crashed",
            Self::NotBrokenDown => "the car has not broken down",
            Self::MemoryFree => "the computer has memory to spare",
            Self::PowerToRun => "the car lets work use power",
            Self::Locked => "every door is locked",
            Self::Closed => "doors, trunks and hood are closed",
            Self::Empty => "nobody sits in the car",
            Self::PedalsFree => "no pedal is pressed",
            Self::AccessoriesOff => "accessories are off",
            Self::Connected => "there is a connection",
            Self::PowerToStart => "the car does not save power",
        }
    }

    /// What is so when the factor is *no*, in words, for the owner.
    pub fn deny(self) -> &'static str {
        match self {
            Self::Stationary => "the car moves",
            Self::NotReadyToDrive => "the car is ready to drive",
            Self::NotDrivingItself => "the car drives by itself",
            Self::HeldInPlace => "neither park, park lock nor parking brake holds the car",
            Self::Cool => "the battery or the air is too hot",
            Self::Supplied => "the low-voltage battery is not fed",
            Self::NotUpdating => "the car is being updated",
            Self::NotInService => "the car is in service",
            Self::NotCrashed => "the car has crashed",
            Self::NotBrokenDown => "the car has broken down",
            Self::MemoryFree => "the computer is short of memory",
            Self::PowerToRun => "the car saves all the power that it can",
            Self::Locked => "a door is not locked",
            Self::Closed => "a door, a trunk or the hood is open",
            Self::Empty => "somebody sits in the car",
            Self::PedalsFree => "a pedal is pressed",
            Self::AccessoriesOff => "accessories are on",
            Self::Connected => "there is no connection",
            Self::PowerToStart => "the car saves power",
        }
    }

    /// What a *no* means for work that runs; *unknown* means [`Consequence::Pause`], unless it stands in the way of new work only.
    fn consequence(self) -> Consequence {
        match self {
            Self::Stationary
            | Self::NotReadyToDrive
            | Self::NotDrivingItself
            | Self::HeldInPlace
            | Self::Cool
            | Self::Supplied
            | Self::NotUpdating
            | Self::NotInService
            | Self::NotCrashed
            | Self::NotBrokenDown
            | Self::MemoryFree
            | Self::PowerToRun => Consequence::Leave,
            Self::Locked | Self::Closed | Self::Empty | Self::PedalsFree | Self::AccessoriesOff => Consequence::Pause,
            Self::Connected | Self::PowerToStart => Consequence::StartOnly,
        }
    }
}

#[derive(PartialEq)]
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
        self.parked_but_for(&[])
    }

    /// The same without some factors: for a car that nothing speaks for but a source which cannot tell them. Work never begins by it.
    pub fn parked_but_for(&self, left_out: &[Factor]) -> Tri {
        let needed = self.0.iter();
        let needed = needed.filter(|(factor, _)| factor.consequence() != Consequence::StartOnly);
        let needed = needed.filter(|(factor, _)| !left_out.contains(factor));
        Tri::all(needed.map(|(_, tri)| *tri))
    }

    /// One factor's value.
    pub fn of(&self, factor: Factor) -> Tri {
        let found = self.0.iter().find(|(other, _)| *other == factor);
        found.map_or(Tri::Unknown, |(_, tri)| *tri)
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
    let seen = Seen { view, terms, held };
    Judgement(Factor::ALL.map(|factor| (factor, seen.of(factor))).to_vec())
}

/// The signals, and what they are held against.
struct Seen<'a> {
    view: &'a View<'a>,
    terms: &'a Terms,
    held: bool,
}

const GEAR_PARK: f64 = 126.0;
const GEAR_NEUTRAL: f64 = 0.0;
/// Of `PowerOptimizeLevel`, of 10: from here on the car sheds what it can do without.
const SAVES_POWER: f64 = 1.0;
/// It sheds everything.
const SAVES_ALL_POWER: f64 = 10.0;

impl Seen<'_> {
    fn of(&self, factor: Factor) -> Tri {
        let Self { view, terms, .. } = self;
        let system = view.text(path::LOW_VOLTAGE_SYSTEM_STATE);
        match factor {
            Factor::Stationary => {
                Tri::from(view.number(path::SPEED).map(|speed| speed.abs() < 0.5)).and(!view.bool(path::IS_MOVING))
            }
            Factor::NotReadyToDrive => {
                let off = match system {
                    Some("LOCK" | "OFF" | "ACC") => Tri::Yes,
                    Some("ON" | "START") => Tri::No,
                    _ => Tri::Unknown,
                };
                off.and(self.unless(path::ENGINE_RUNNING))
            }
            Factor::NotDrivingItself => {
                let by_itself = match view.text(path::AUTONOMY_LEVEL) {
                    Some("SAE_0") => Tri::Yes,
                    Some(level) if level.starts_with("SAE_") => Tri::No,
                    _ => Tri::Unknown,
                };
                self.optional(path::AUTONOMY_LEVEL, by_itself)
            }
            Factor::HeldInPlace => self.held_in_place(),
            Factor::Cool => self
                .below(path::BATTERY_TEMPERATURE, terms.battery_celsius_max)
                .and(self.below(path::AIR_TEMPERATURE, terms.air_celsius_max)),
            // Volts decide, not the current: around nought it does not tell a battery that is fed and full from one that nothing feeds.
            Factor::Supplied => terms.low_voltage.passes(view.number(path::LOW_VOLTAGE), self.held),
            Factor::NotUpdating => self.unless(&terms.in_overlay(path::UPDATING)),
            Factor::NotInService => self.unless(&terms.in_overlay(path::IN_SERVICE)),
            Factor::NotCrashed => self.unless(&terms.in_overlay(path::CRASHED)),
            Factor::NotBrokenDown => self.unless(path::BROKEN_DOWN),
            Factor::MemoryFree => self.unless(path::MEMORY_SHORT),
            Factor::PowerToRun => self.saves_less_than(SAVES_ALL_POWER),
            Factor::Locked if !terms.require_locked => Tri::Yes,
            Factor::Locked => all_of(&terms.doors, |door| view.bool(&format!("{door}.IsLocked"))),
            Factor::Closed => all_of(&terms.doors, |door| !view.bool(&format!("{door}.IsOpen")))
                .and(!view.bool(path::TRUNK_OPEN))
                .and(self.unless(path::FRONT_TRUNK_OPEN))
                .and(self.unless(path::HOOD_OPEN)),
            Factor::Empty => all_of(&terms.seats, |seat| self.is_empty(seat)).and(self.unless(path::DRIVER_BELTED)),
            Factor::PedalsFree => self
                .is_free(path::BRAKE_PEDAL)
                .and(self.is_free(path::ACCELERATOR_PEDAL)),
            Factor::AccessoriesOff => match system {
                Some("ACC") => Tri::from(terms.allow_accessory),
                Some(_) => Tri::Yes,
                None => Tri::Unknown,
            },
            Factor::Connected => view.bool(path::CONNECTIVITY),
            Factor::PowerToStart => self.saves_less_than(SAVES_POWER),
        }
    }

    /// What an optional signal says of a factor: no objection only if there is none, and nobody has ever been there to make one.
    fn optional(&self, path: &str, says: Tri) -> Tri {
        let never = says == Tri::Unknown && !self.view.said(path) && !self.terms.promises(path);
        if never { Tri::Yes } else { says }
    }

    /// An optional boolean that must not be true.
    fn unless(&self, path: &str) -> Tri {
        self.optional(path, !self.view.bool(path))
    }

    fn saves_less_than(&self, level: f64) -> Tri {
        let saves = self.view.number(path::POWER_SAVING);
        self.optional(path::POWER_SAVING, Tri::from(saves.map(|saves| saves < level)))
    }

    fn below(&self, path: &str, max: f64) -> Tri {
        let max = if self.held { max } else { max - COOL_BY };
        Tri::from(self.view.number(path).map(|value| value < max))
    }

    /// A parked car may not send its pedals at all: pressed is a fact, absence is not, unless the maker promises them, or the last word
    /// was that it is pressed.
    fn is_free(&self, pedal: &str) -> Tri {
        match (self.view.number(pedal), self.view.last_number(pedal)) {
            (Some(percent), _) => Tri::from(percent <= 0.0),
            (None, Some(last)) if last > 0.0 => Tri::Unknown,
            (None, _) if self.terms.promises(pedal) => Tri::Unknown,
            (None, _) => Tri::Yes,
        }
    }

    fn is_empty(&self, seat: &str) -> Tri {
        match self.view.text(&format!("{seat}.OccupancyStatus")) {
            Some("EMPTY") => Tri::Yes,
            Some("OCCUPIED") => Tri::No,
            _ => Tri::Unknown,
        }
    }

    /// Park, park lock and parking brake each hold the car alone; but with a gear engaged somebody means to drive, brake or no brake.
    fn held_in_place(&self) -> Tri {
        let is = |gear: f64, wanted: f64| (gear - wanted).abs() < 0.5;
        let engaged = |gear: f64| !is(gear, GEAR_PARK) && !is(gear, GEAR_NEUTRAL);
        let gear = self.view.number(path::SELECTED_GEAR);
        if gear.is_some_and(engaged) {
            return Tri::No;
        }
        // A selector that fell silent in gear is still in gear, for all that anybody knows.
        if gear.is_none() && self.view.last_number(path::SELECTED_GEAR).is_some_and(engaged) {
            return Tri::Unknown;
        }
        Tri::any([
            Tri::from(gear.map(|gear| is(gear, GEAR_PARK))),
            self.view.bool(path::PARK_LOCK),
            self.view.bool(path::PARKING_BRAKE),
        ])
    }
}

fn all_of(branches: &[String], tri: impl Fn(&str) -> Tri) -> Tri {
    Tri::all(branches.iter().map(|branch| tri(branch)))
}

#[cfg(test)]
mod tests;
