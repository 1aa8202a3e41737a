//! Which cars the forecast is measured on, and when: one slice for each way in which they differ from those that it was tuned on.
//!
//! Tuned was on [`tuning`] and nothing else. What is measured has other seeds throughout.

use std::ops::Range;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, date};
use jiff::tz::TimeZone;

use super::{Life, Tally, live};
use crate::traces::{Archetype, Calendar, DAY, Fleet, Shock, ShockKind};

/// Full weeks that a car lives before it is asked.
const WEEKS: u16 = 14;
/// Stays that begin in the window are seen to their end.
const AFTER: u16 = 21;

/// Of how many kinds of people there are in ten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Commuters; the others are free.
    pub commuters: u32,
}

/// Cars and a window of their lives.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    /// What it is called.
    pub name: &'static str,
    /// How many cars.
    pub cars: u32,
    /// Whose.
    pub mix: Mix,
    /// Of the traces.
    pub seed: u64,
    /// When they begin.
    pub calendar: Calendar,
    /// Days in which the cars are asked.
    pub days: Range<u16>,
    /// A day that is a Sunday for everybody.
    pub holiday: Option<u16>,
    /// From the first of `days` on every car has the life of another one, twelve hours later.
    pub new_life: bool,
    /// Part of what the aim of 88 to 92 % is for.
    pub pooled: bool,
}

/// Central Europe's, without a database of zones.
fn zone() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap_or(TimeZone::UTC)
}

/// A Monday, so that the weeks after it see no change of the clocks.
const QUIET: Date = date(2026, 11, 2);
/// So that Saturday and Sunday of the change are days 103 and 104, before a week of it.
const BEFORE_SPRING: Date = date(2026, 12, 14);
const BEFORE_AUTUMN: Date = date(2026, 7, 13);

impl Slice {
    fn new(name: &'static str, cars: u32, seed: u64) -> Self {
        Self {
            name,
            cars,
            mix: Mix { commuters: 6 },
            seed,
            calendar: Calendar {
                begins: QUIET.at(0, 0, 0, 0),
                zone: zone(),
            },
            days: WEEKS * 7..(WEEKS + 4) * 7,
            holiday: None,
            new_life: false,
            pooled: true,
        }
    }

    fn of(mut self, commuters: u32) -> Self {
        self.mix = Mix { commuters };
        self
    }

    fn from(mut self, begins: DateTime) -> Self {
        self.calendar.begins = begins;
        self
    }

    fn during(mut self, days: Range<u16>) -> Self {
        self.days = days;
        self
    }

    fn apart(mut self) -> Self {
        self.pooled = false;
        self
    }

    /// When its cars are asked.
    pub fn window(&self) -> Range<Timestamp> {
        let at = |day: u16| self.calendar.instant(DAY * u32::from(day));
        at(self.days.start)..at(self.days.end)
    }

    /// The lives of its cars.
    pub(super) fn cars(&self) -> impl Iterator<Item = Vec<Life>> {
        let fleet = self.fleet(self.seed);
        let other = self.fleet(self.seed + 1);
        let later = Calendar {
            begins: self
                .calendar
                .begins
                .saturating_add(jiff::SignedDuration::from_hours(12)),
            ..self.calendar.clone()
        };
        let all = Timestamp::MIN..Timestamp::MAX;
        let change = self.window().start;
        self.chosen(&fleet).into_iter().map(move |index| {
            let life = |fleet: &Fleet, calendar: &Calendar, within: Range<Timestamp>| Life {
                trace: fleet.trace(index).on(calendar),
                start: calendar.instant(Duration::ZERO),
                within,
            };
            if self.new_life {
                vec![
                    life(&fleet, &self.calendar, all.start..change),
                    life(&other, &later, change..all.end),
                ]
            } else {
                vec![life(&fleet, &self.calendar, all.clone())]
            }
        })
    }

    /// What comes of asking them.
    pub fn measure(&self) -> Tally {
        let zone = &self.calendar.zone;
        let window = self.window();
        let tallies = (0u32..).zip(self.cars()).map(|(number, lives)| {
            let phase = Duration::from_mins(u64::from(number * 17 % 60));
            live(&lives, zone, &window, phase)
        });
        tallies.fold(Tally::default(), Tally::and)
    }

    fn fleet(&self, seed: u64) -> Fleet {
        let holiday = self.holiday.map(|day| Shock {
            at: DAY * u32::from(day),
            kind: ShockKind::Holiday,
        });
        Fleet {
            seed,
            days: self.days.end + AFTER,
            shocks: holiday.into_iter().collect(),
            ..Fleet::default()
        }
    }

    /// The first cars of the fleet that make the mix.
    fn chosen(&self, fleet: &Fleet) -> Vec<u32> {
        let commuters = self.cars * self.mix.commuters / 10;
        let mut wanted = [
            (Archetype::Commuter, commuters),
            (Archetype::Free, self.cars - commuters),
        ];
        let mut chosen = Vec::new();
        let mut index = 0;
        while wanted.iter().any(|(_, left)| *left > 0) {
            let archetype = fleet.car(index).archetype;
            let left = wanted
                .iter_mut()
                .find(|(wanted, left)| *wanted == archetype && *left > 0);
            if let Some((_, left)) = left {
                *left -= 1;
                chosen.push(index);
            }
            index += 1;
        }
        chosen
    }
}

/// The cars that the numbers of `core::forecast` were chosen on.
pub fn tuning(cars: u32) -> Slice {
    Slice::new("tuning", cars, 1000)
}

/// What it is measured on, with about so many cars in each.
pub fn slices(cars: u32) -> Vec<Slice> {
    let holiday = |name, seed, day: u16| {
        let mut slice = Slice::new(name, cars * 2, seed).during(day - 1..day + 1);
        slice.holiday = Some(day);
        slice
    };
    let mut new_life = Slice::new("a new life", cars, 2090).apart();
    new_life.new_life = true;
    vec![
        Slice::new("as tuned", cars, 2000),
        Slice::new("commuters only", cars, 2010).of(10),
        Slice::new("free only", cars, 2020).of(0),
        Slice::new("two in ten commute", cars, 2030).of(2),
        Slice::new("by night", cars, 2040).from(QUIET.at(13, 0, 0, 0)),
        // A Saturday, the night of the change, and the week after it.
        Slice::new("summer time begins", cars * 2, 2050)
            .from(BEFORE_SPRING.at(0, 0, 0, 0))
            .during(103..111),
        Slice::new("summer time ends", cars * 2, 2060)
            .from(BEFORE_AUTUMN.at(0, 0, 0, 0))
            .during(103..111),
        // Its eve is asked, too: that is when it surprises.
        holiday("a holiday, Thursday", 2070, WEEKS * 7 + 3),
        holiday("a holiday, Monday", 2080, WEEKS * 7),
        Slice::new("three weeks old", cars, 2100).during(14..28).apart(),
        new_life,
    ]
}
