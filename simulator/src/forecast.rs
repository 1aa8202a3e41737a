//! How often a car's forecast of its own stay holds, on cars that nobody tuned it on.
//!
//! Called by `kerbside-forecast`, which prints it, and by the tests, which hold it to its aims. Each car lives through weeks of a trace with
//! the agent's own code, a history that begins empty among it; then, in a window, it is asked once an hour as long as it stands, and what
//! it says is held against what the trace says. What must never happen: a forecast that is asked sees what comes after it.
//!
//! What is counted is the hour, not the stay: an offer stands as long as the car does, and work comes at any hour. Two numbers are kept
//! apart. *Held* is of the forecast in minutes, as the car computes it: at a confidence of 90 % it is to hold nine times out of ten, no more
//! and no less. What is published is the band below it, so it holds more often than that, by as much as it is rounded down.

mod slices;

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use kerbside_core::forecast::{FreeFor, History, Published, STANDS_FOR, Situation, Stay, forecast};
pub use slices::{Mix, Slice, slices, tuning};

use crate::traces::{Car, Interval, Place, Session, Trace};

/// How often a car that stands is asked.
const EVERY: Duration = Duration::from_hours(1);
/// What a point away from home gives, in kW: as in the traces.
const AWAY_POWER: f64 = 11.0;

/// What was asked and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// How often a car that stands was asked.
    pub asked: u32,
    /// How often it had a forecast in minutes at 90 %.
    pub offers: u32,
    /// Of these, how often it stayed as long.
    pub held: u32,
    /// Of these, how often it stayed as long as it said at 50 %.
    pub half_held: u32,
    /// How often the band at 90 % was not 0.
    pub bands: u32,
    /// Of these, how often it stayed as long.
    pub bands_held: u32,
    /// How often the band at 90 % was an hour or more.
    pub hour: u32,
    /// Of these, how often it stayed for an hour.
    pub hour_held: u32,
    /// How often it did stay for an hour, whatever it said.
    pub hour_stayed: u32,
    /// How often the band at 90 % was four hours or more.
    pub four_hours: u32,
}

impl Tally {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            asked: self.asked + other.asked,
            offers: self.offers + other.offers,
            held: self.held + other.held,
            half_held: self.half_held + other.half_held,
            bands: self.bands + other.bands,
            bands_held: self.bands_held + other.bands_held,
            hour: self.hour + other.hour,
            hour_held: self.hour_held + other.hour_held,
            hour_stayed: self.hour_stayed + other.hour_stayed,
            four_hours: self.four_hours + other.four_hours,
        }
    }

    /// Percent of the forecasts in minutes at 90 % that held.
    pub fn held_percent(&self) -> f64 {
        percent(self.held, self.offers)
    }

    /// Percent of the bands at 90 %, other than 0, that held.
    pub fn bands_held_percent(&self) -> f64 {
        percent(self.bands_held, self.bands)
    }

    fn count(&mut self, said: &Said, rest: u32) {
        let once = u32::from;
        let offered = said.minutes.p90 > 0;
        self.asked += 1;
        self.offers += once(offered);
        self.held += once(offered && rest >= said.minutes.p90);
        self.half_held += once(offered && rest >= said.minutes.p50);
        self.bands += once(said.band.p90 > 0);
        self.bands_held += once(said.band.p90 > 0 && rest >= said.band.p90);
        self.hour += once(said.band.p90 >= 60);
        self.hour_held += once(said.band.p90 >= 60 && rest >= 60);
        self.hour_stayed += once(rest >= 60);
        self.four_hours += once(said.band.p90 >= 240);
    }
}

/// 0 of nothing.
fn percent(part: u32, whole: u32) -> f64 {
    if whole == 0 {
        0.0
    } else {
        100.0 * f64::from(part) / f64::from(whole)
    }
}

/// What a car says when it is asked.
struct Said {
    minutes: kerbside_core::forecast::Forecast,
    band: FreeFor,
}

/// A part of a car's life: a trace in real time, from when to when it is the car's.
pub(crate) struct Life {
    trace: Trace,
    /// When the trace begins.
    start: Timestamp,
    within: Range<Timestamp>,
}

impl Life {
    fn at(&self, since: Duration) -> Timestamp {
        self.start.saturating_add(since).unwrap_or(Timestamp::MAX)
    }

    /// The stays whose beginning and end are both seen.
    fn stays(&self) -> impl Iterator<Item = Stood<'_>> {
        let seen =
            move |stay: &&crate::traces::Stay| !stay.during.from.is_zero() && stay.during.until < self.trace.length;
        self.trace
            .stays
            .iter()
            .filter(seen)
            .map(move |stay| self.stood(stay.place, stay.during))
            .filter(move |stood| self.within.contains(&stood.from) && self.within.contains(&stood.until))
    }

    fn stood(&self, place: Place, during: Interval) -> Stood<'_> {
        let plugged = self
            .trace
            .plugged
            .iter()
            .find(|session| during.contains(session.during.from));
        Stood {
            life: self,
            place,
            from: self.at(during.from),
            until: self.at(during.until),
            plugged,
        }
    }
}

/// A car stood somewhere.
struct Stood<'a> {
    life: &'a Life,
    place: Place,
    from: Timestamp,
    until: Timestamp,
    plugged: Option<&'a Session>,
}

impl Stood<'_> {
    /// When the cable went in, and when the car then said that it would be charged.
    fn charging(&self) -> Option<(Timestamp, Timestamp)> {
        let session = self.plugged?;
        let from = self.life.at(session.during.from);
        let until = from.saturating_add(charging(&self.life.trace.car, self.place, session.charge_before));
        Some((from, until.unwrap_or(Timestamp::MAX)))
    }

    fn situation(&self, now: Timestamp) -> Situation {
        let charging = self.charging().filter(|(from, _)| *from <= now);
        Situation {
            parked_for: passed(self.from, now),
            plugged: charging.is_some(),
            charging_until: charging.map(|(_, until)| until),
            ..Situation::default()
        }
    }

    /// As the agent writes it down.
    fn written(&self, zone: &TimeZone) -> Stay {
        let after = |at: Timestamp| u32::try_from(passed(self.from, at).as_secs() / 60).ok();
        let charging = self.charging();
        Stay {
            plugged_after: charging.and_then(|(from, _)| after(from)),
            planned_for: charging.and_then(|(_, until)| after(until)),
            ..Stay::between(self.from, self.until, zone)
        }
    }
}

fn passed(from: Timestamp, until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(from)).unwrap_or_default()
}

fn charging(car: &Car, place: Place, before: u8) -> Duration {
    let power = if place == Place::Home {
        car.home_power
    } else {
        AWAY_POWER
    };
    let hours = f64::from(100 - before.min(100)) / 100.0 * car.battery / power;
    Duration::from_secs_f64(hours * 3600.0)
}

/// What is asked in the lives of one car, one after the other, within a window; the first time at `phase` after its beginning.
pub(crate) fn live(lives: &[Life], zone: &TimeZone, window: &Range<Timestamp>, phase: Duration) -> Tally {
    let mut tally = Tally::default();
    let mut history = History::default();
    let stays = lives.iter().flat_map(Life::stays);
    for stood in stays.take_while(|stood| stood.from < window.end) {
        let mut at = window.start.saturating_add(phase).unwrap_or(Timestamp::MAX);
        while at < stood.until && at < window.end {
            if at >= stood.from {
                let minutes = forecast(&history, at, zone, &stood.situation(at));
                let mut published = Published::default();
                published.hear(minutes, at);
                let said = Said {
                    minutes,
                    band: published.free_for(),
                };
                let rest = u32::try_from(passed(at, stood.until).as_secs() / 60).unwrap_or(u32::MAX);
                tally.count(&said, rest);
            }
            at = at.saturating_add(EVERY).unwrap_or(Timestamp::MAX);
        }
        history.depart(stood.written(zone));
    }
    tally
}

/// How often what is published changes while a car stands, per day on which it does: each change is a write to the API server.
pub fn changes_a_day(slice: &Slice) -> f64 {
    let (mut changes, mut asked) = (0u32, 0u32);
    for car in slice.cars() {
        let mut history = History::default();
        let stays = car.iter().flat_map(Life::stays);
        for stood in stays.take_while(|stood| stood.from < slice.window().end) {
            let mut published = Published::default();
            let mut at = stood.from;
            while at < stood.until && at < slice.window().end {
                if at >= slice.window().start {
                    let minutes = forecast(&history, at, &slice.calendar.zone, &stood.situation(at));
                    let before = published.free_for();
                    published.hear(minutes, at);
                    changes += u32::from(published.free_for() != before);
                    asked += 1;
                }
                at = at.saturating_add(STANDS_FOR).unwrap_or(Timestamp::MAX);
            }
            history.depart(stood.written(&slice.calendar.zone));
        }
    }
    let days = f64::from(asked) * STANDS_FOR.as_secs_f64() / 86_400.0;
    if days > 0.0 { f64::from(changes) / days } else { 0.0 }
}

/// The slices, measured, and the last line in one: JSON.
pub fn report(measured: &[(Slice, Tally)], changes_a_day: f64) -> String {
    let mut text = String::from(
        "slice                  cars   asked  offers  held % p50 %  bands held %  >=1h held %  of hours  >=4h\n",
    );
    let mut json = String::new();
    let pooled = pooled(measured);
    let rows = measured
        .iter()
        .map(|(slice, tally)| (slice.name, slice.cars.to_string(), *tally));
    for (name, cars, tally) in rows.chain([("pooled", String::new(), pooled)]) {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{name:<22} {cars:>4} {:>7} {:>6.1}% {:>6.1} {:>5.1} {:>5.1}% {:>6.1} {:>4.1}% {:>6.1} {:>8.1}% {:>4.1}%",
            tally.asked,
            percent(tally.offers, tally.asked),
            tally.held_percent(),
            percent(tally.half_held, tally.offers),
            percent(tally.bands, tally.asked),
            tally.bands_held_percent(),
            percent(tally.hour, tally.asked),
            percent(tally.hour_held, tally.hour),
            percent(tally.hour_held, tally.hour_stayed),
            percent(tally.four_hours, tally.asked),
        );
        let _ = write!(
            json,
            "{}\"{name}\":{{\"asked\":{},\"offers\":{},\"held\":{:.4},\"half_held\":{:.4},\"bands\":{},\"bands_held\":{:.4}}}",
            if json.is_empty() { "" } else { "," },
            tally.asked,
            tally.offers,
            tally.held_percent() / 100.0,
            percent(tally.half_held, tally.offers) / 100.0,
            tally.bands,
            tally.bands_held_percent() / 100.0,
        );
    }
    let _ = write!(text, "{{{json},\"changes_a_day\":{changes_a_day:.2}}}");
    text
}

/// All that the aim of 88 to 92 % is for.
pub fn pooled(measured: &[(Slice, Tally)]) -> Tally {
    let counted = measured.iter().filter(|(slice, _)| slice.pooled);
    counted.fold(Tally::default(), |all, (_, tally)| all.and(*tally))
}

#[cfg(test)]
mod tests;
