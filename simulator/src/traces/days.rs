//! The trips of one day: where, when, how far.
//!
//! Called once per car and day. Every day begins and ends at home, so days know nothing of each other. What must never happen: two
//! trips at once, a stay under a quarter of an hour, an arrival on the next day.

use super::car::{Archetype, Car};
use super::random::{Draws, Key, Purpose};
use super::tables::{self, Hours};
use super::{DayKind, Place};

/// The last arrival of a day is before this hour, so that even a departure at midnight comes a quarter of an hour later.
const HOME_BY: f64 = 23.7;
/// How often a day's first departure is drawn anew when the day would not end in time, before everything is.
const DEPARTURES: u32 = 40;
/// How often everything is, before the car stays at home after all.
const DAYS: u32 = 50;

/// One trip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Leg {
    /// Hours after midnight.
    pub(super) departs: f64,
    /// Hours after midnight.
    pub(super) arrives: f64,
    pub(super) to: Place,
    pub(super) km: f64,
}

/// The trips of this day in their order. An exodus makes the first begin at its hour, whatever the car had planned; a habit does, if there
/// are any.
pub(super) fn legs(car: &Car, key: Key, kind: DayKind, exodus: Option<f64>, habit: Option<f64>) -> Vec<Leg> {
    let draws = &mut key.draws(Purpose::Day);
    let trips = match kind {
        DayKind::Weekday => tables::TRIPS_WEEKDAY,
        DayKind::Saturday | DayKind::Sunday => tables::TRIPS_WEEKEND,
    };
    let count = match (draws.pick(&trips).unwrap_or(0), exodus) {
        (0, None) => return Vec::new(),
        (0, Some(_)) => 2,
        (count, _) => count,
    };
    for _ in 0..DAYS {
        let stops = stops(car, kind, count, draws);
        let first = match (stops.first(), kind) {
            (Some(Place::Work), _) => &tables::TO_WORK,
            _ => &tables::FIRST,
        };
        if let Some(legs) = fit(&stops, first, exodus.or(habit), draws) {
            return legs;
        }
    }
    Vec::new()
}

/// Where the trips lead; the last one home.
fn stops(car: &Car, kind: DayKind, count: u8, draws: &mut Draws) -> Vec<Place> {
    let commutes = car.archetype == Archetype::Commuter && kind == DayKind::Weekday;
    let others: &[(Place, f64)] = match kind {
        DayKind::Weekday if commutes => &tables::COMMUTER,
        DayKind::Weekday => &tables::FREE,
        DayKind::Saturday => &tables::SATURDAY,
        DayKind::Sunday => &tables::SUNDAY,
    };
    let between = usize::from(count) - 1;
    let mut stops: Vec<Place> = (0..between)
        .map(|_| draws.pick(others).unwrap_or(Place::Leisure))
        .collect();
    // Home follows on home never, so only the inner stops of a long day may be home.
    if between > 2 && draws.chance(tables::HOME_BETWEEN) {
        let inner = if between > 3 && draws.chance(0.5) { 2 } else { 1 };
        put(inner, Place::Home, &mut stops);
    }
    if commutes {
        let away: Vec<(usize, f64)> = (0..)
            .zip(&stops)
            .filter(|(_, stop)| **stop != Place::Home)
            .map(|(n, _)| (n, 1.0))
            .collect();
        let any = draws.pick(&away).unwrap_or(0);
        let at = if draws.chance(tables::WORK_FIRST) { 0 } else { any };
        put(at, Place::Work, &mut stops);
    }
    stops.push(Place::Home);
    stops
}

fn put(at: usize, place: Place, stops: &mut [Place]) {
    if let Some(stop) = stops.get_mut(at) {
        *stop = place;
    }
}

/// Gives the stops their times, or none if they do not fit into the day.
fn fit(stops: &[Place], first: &Hours, given: Option<f64>, draws: &mut Draws) -> Option<Vec<Leg>> {
    let mut legs = Vec::new();
    let mut departs = 0.0;
    for to in stops {
        let tables::Drive(least, most, speed) = draws.pick(&tables::DRIVES)?;
        let driven = draws.between(least, most) / 60.0;
        let km = driven * speed * draws.between(0.7, 1.3);
        let arrives = departs + driven;
        legs.push(Leg {
            departs,
            arrives,
            to: *to,
            km,
        });
        departs = arrives
            + draws.of(match to {
                Place::Work => &tables::STAY_WORK,
                _ => &tables::STAY_OTHER,
            });
    }
    let length = legs.last()?.arrives;
    // The hour is what gives way: were it the stays, long ones would be rarer than they are.
    let home_by = draws.of(&tables::HOME_BY);
    let start = match given {
        Some(hour) => Some(hour),
        None => (0..DEPARTURES)
            .map(|attempt| (attempt, draws.hour(first)))
            // Long days would else all begin at night, when nearly nobody leaves.
            .find(|(attempt, start)| start + length < home_by && (*attempt == 0 || *start >= tables::MORNING_FROM))
            .map(|(_, start)| start),
    };
    let start = start.filter(|start| start + length < HOME_BY)?;
    for leg in &mut legs {
        leg.departs += start;
        leg.arrives += start;
    }
    Some(legs)
}
