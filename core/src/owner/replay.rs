//! When a car would have worked over a recorded day, by its owner's document and its maker's terms.
//!
//! Called by `kerbside-agent policy simulate`. Pure, and in no time: it looks when the recording says something, when hours begin or end,
//! when a term of the document about time is met, and when the car's state is due. Every decision is [`Grounds`]', which the agent asks
//! too; here is only what the agent's loop and its source of signals do around it. It looks at the very moment at which the agent looks within a
//! second. What must never happen: a car that works here and not on the road, or the other way round.
//!
//! Where the owner bounds the energy of a day, all that the car gives is at work whenever it may be, by the maker's figures.
//!
//! Some things are unlike the road. The car has no work to stop when it leaves, so that its notice is over at once. Nobody has paused it
//! or withdrawn the consent before the recording begins, there is a record of consent to every class of the document, and nobody sets its clock. Its network costs
//! nothing by the byte, and the data of its month are never used up. A car that saves power goes on with what it has and
//! takes nothing new: here it works.

mod recording;
mod table;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

pub use recording::{Change, Preset, Recording, RecordingError, Start, Step};
pub use table::{Day, NotFor, Span, Standing};

use super::{ClockTrust, Command, Document, Grounds, Remembered, Uplink, When};
use crate::clock::Boottime;
use crate::consent::Consents;
use crate::energy::Used;
use crate::parked::{Snapshot, State, Terms, Value};

/// Longer than a month nobody wants to read.
const LONGEST: Duration = Duration::from_hours(31 * 24);
const MINUTE: i64 = 60;

/// What a recording is played for.
#[derive(Debug, Clone, Copy)]
pub struct Car<'a> {
    /// The owner's document.
    pub document: &'a Document,
    /// The maker's terms.
    pub terms: &'a Terms,
    /// The document's time zone; `None` if it names none, or one that is not known.
    pub zone: Option<&'a TimeZone>,
    /// What the car takes with everything that it gives at work, in milliwatts; `None`: its maker does not say.
    pub milliwatts: Option<u64>,
}

/// A recording that cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// Nobody knows what the clock showed.
    #[error("the recording does not say when it began: startsAt, such as 2026-11-02T00:00:00+01:00[Europe/Berlin]")]
    NoStart,
    /// Nobody would read it.
    #[error("the recording lasts for {}: {} is the longest that is played", written(.0), written(&LONGEST))]
    TooLong(Duration),
    /// A step would not be played.
    #[error("the recording has a step at {}, and ends after {}: say how long it is by lasts", written(.at), written(.lasts))]
    AfterTheEnd {
        /// Of the step.
        at: Duration,
        /// Its length.
        lasts: Duration,
    },
}

fn written(duration: &Duration) -> String {
    crate::duration::format(*duration)
}

/// Plays a recording from its beginning to its end.
pub fn replay(recording: &Recording, car: Car<'_>) -> Result<Day, ReplayError> {
    let start = recording.starts_at.as_ref().ok_or(ReplayError::NoStart)?.at;
    let lasts = recording.lasts;
    if lasts > LONGEST || start.checked_add(lasts).is_err() {
        return Err(ReplayError::TooLong(lasts));
    }
    if let Some(step) = recording.steps.iter().find(|step| step.at >= lasts) {
        return Err(ReplayError::AfterTheEnd { at: step.at, lasts });
    }
    let mut player = Player::new(recording, car, start);
    let mut day = Day::new(start);
    while player.now < lasts {
        player.hear();
        player.look();
        let (standing, why_not) = player.stands();
        let next = player.next().min(lasts);
        player.take(next.saturating_sub(player.now), standing);
        day.push(next.saturating_sub(player.now), standing, why_not);
        player.now = next;
    }
    Ok(day)
}

struct Player<'a> {
    recording: &'a Recording,
    car: Car<'a>,
    start: Timestamp,
    /// Since the start.
    now: Duration,
    state: State,
    remembered: Remembered,
    consents: Consents,
    snapshot: Snapshot,
    values: BTreeMap<String, Value>,
    /// When every value was said last.
    refreshed: Option<Duration>,
    /// How many steps were played.
    done: usize,
    /// The day by the owner's calendar, and what work has had on it, in microjoules.
    today: (Option<Date>, u64),
}

impl<'a> Player<'a> {
    fn new(recording: &'a Recording, car: Car<'a>, start: Timestamp) -> Self {
        Self {
            recording,
            car,
            start,
            now: Duration::ZERO,
            state: State::initial(),
            remembered: Remembered {
                command: Command::None,
                at: start,
                until: None,
            },
            consents: Consents::as_if_given(&car.document.consent.classes, start),
            snapshot: Snapshot::default(),
            values: recording.first_values(),
            refreshed: None,
            done: 0,
            today: (None, 0),
        }
    }

    fn wall(&self) -> Timestamp {
        after(self.start, self.now)
    }

    /// Work takes its energy for so long.
    fn take(&mut self, time: Duration, standing: Standing) {
        if standing == Standing::Available {
            let milliwatts = u128::from(self.car.milliwatts.unwrap_or_default());
            let took = u64::try_from(time.as_millis().saturating_mul(milliwatts)).unwrap_or(u64::MAX);
            self.today.1 = self.today.1.saturating_add(took);
        }
    }

    /// Begins another day, if it is one.
    fn turn_the_day(&mut self) {
        let date = self.car.zone.map(|zone| zone.to_datetime(self.wall()).date());
        if date > self.today.0 {
            self.today = (date, 0);
        }
    }

    /// Takes what has been said up to now.
    fn hear(&mut self) {
        // What was said again since was said before the steps that are due now, for those are looked at when they come.
        let interval = self.recording.refresh.as_millis().max(1);
        let refresh = self.now.saturating_sub(millis(self.now.as_millis() % interval));
        if self.refreshed.is_none_or(|before| before < refresh) {
            self.refreshed = Some(refresh);
            for (path, value) in &self.values {
                self.snapshot.set(path, value.clone(), Boottime(refresh));
            }
        }
        while let Some(step) = self.recording.steps.get(self.done).filter(|step| step.at <= self.now) {
            self.done += 1;
            let change = step.play(&mut self.values);
            change.forget.iter().for_each(|path| self.snapshot.remove(path));
            for (path, value) in change.set {
                self.snapshot.set(&path, value, Boottime(step.at));
            }
            if let Some(word) = step.owner {
                let (remembered, _) = self.remembered.after(word, after(self.start, step.at));
                self.remembered = remembered;
            }
        }
        if let Some(over) = self.remembered.elapsed(self.wall()) {
            self.remembered = over;
        }
    }

    /// Judges, and judges again what has become of it: the agent does so within a second.
    fn look(&mut self) {
        self.turn_the_day();
        for _ in 0..2 {
            let grounds = self.grounds();
            let (state, _) = grounds.look(&grounds.judgement(), false, false);
            self.state = state;
        }
    }

    fn grounds(&self) -> Grounds<'_> {
        let document = Some(self.car.document);
        Grounds {
            state: self.state,
            snapshot: &self.snapshot,
            terms: self.car.terms,
            document,
            consents: &self.consents,
            command: self.remembered.command(document),
            zone: self.car.zone,
            boot: Boottime(self.now),
            wall: self.wall(),
            trust: ClockTrust::default(),
            energy: self.car.milliwatts.map(|_| Used {
                microjoules: self.today.1,
                ..Used::default()
            }),
            uplink: Uplink::free(),
        }
    }

    /// Where the car stands, and the first reason why it does not work.
    fn stands(&self) -> (Standing, Option<String>) {
        let standing = match self.state {
            State::Available { .. } => return (Standing::Available, None),
            State::Paused { .. } => Standing::Paused,
            State::Away { .. } | State::Leaving { .. } => Standing::Away,
        };
        (standing, self.grounds().why_not())
    }

    /// The next moment at which anything could be different, after this one.
    fn next(&self) -> Duration {
        let grounds = self.grounds();
        let step = self.recording.steps.get(self.done).map(|step| step.at);
        let due = grounds.due().map(|at| at.0);
        let consent = &self.car.document.consent;
        let terms = [
            Some(consent.given_at),
            consent.expires_at,
            self.car.document.pause_until,
            self.remembered.until,
        ];
        let terms = terms.into_iter().flatten().filter_map(|at| self.since_start(at));
        let mut moments: Vec<Duration> = step
            .into_iter()
            .chain(due)
            .chain(terms)
            .chain(self.next_hours())
            .chain(self.next_of_energy())
            .chain(self.next_of_when())
            .collect();
        // Values that are said again before they are too old never are.
        if self.recording.refresh > self.car.terms.stale_after {
            moments.extend(grounds.next_unknown().map(|at| at.0));
            moments.extend(self.refreshed.map(|before| before + self.recording.refresh));
        }
        let later = moments.into_iter().filter(|at| *at > self.now);
        later.min().unwrap_or(Duration::MAX)
    }

    /// When the energy of the day is used up, and when the next day begins.
    fn next_of_energy(&self) -> impl Iterator<Item = Duration> {
        let bounded = self.car.document.max_microjoules_per_day().zip(self.car.milliwatts);
        let used_up = bounded
            .filter(|(_, milliwatts)| *milliwatts > 0)
            .map(|(most, milliwatts)| {
                let left = most.saturating_sub(self.today.1);
                self.now
                    .saturating_add(Duration::from_millis(left.div_ceil(milliwatts)))
            });
        let tomorrow = bounded.and_then(|_| {
            let zone = self.car.zone?;
            let tomorrow = zone.to_datetime(self.wall()).date().tomorrow().ok()?;
            let begins = zone.to_timestamp(tomorrow.at(0, 0, 0, 0)).ok()?;
            self.since_start(begins)
        });
        used_up.into_iter().chain(tomorrow)
    }

    /// When the hours of the document next say something else than now. They begin and end with a minute of the clock, and so does
    /// every other change of a zone's clock.
    fn next_hours(&self) -> Option<Duration> {
        let zone = self.car.zone.filter(|_| self.car.document.has_hours())?;
        let say = |second: i64| {
            let moment = Timestamp::from_second(second).ok()?;
            Some(self.car.document.hours(zone.to_datetime(moment)))
        };
        let wall = self.wall().as_second();
        let now = say(wall)?;
        let first = wall.div_euclid(MINUTE) * MINUTE + MINUTE;
        // No further than a day at a time: then it is looked at again.
        let last = first + 24 * 60 * MINUTE;
        let mut minutes = (0..24 * 60).map(|minute| first + minute * MINUTE);
        let second = minutes.find(|second| say(*second) != Some(now)).unwrap_or(last);
        self.since_start(Timestamp::from_second(second).ok()?)
    }

    /// When the hour of the clock is another one, if the owner's expression asks for it.
    fn next_of_when(&self) -> Option<Duration> {
        let asks = self.car.document.when.as_ref().is_some_and(When::is_by_clock);
        let zone = self.car.zone.filter(|_| asks)?;
        let hour = |second: i64| Some(zone.to_datetime(Timestamp::from_second(second).ok()?).hour());
        let wall = self.wall().as_second();
        let first = wall.div_euclid(MINUTE) * MINUTE + MINUTE;
        // When summer ends one hour is there twice.
        let mut minutes = (0..2 * 60).map(|minute| first + minute * MINUTE);
        let second = minutes.find(|second| hour(*second) != hour(wall))?;
        self.since_start(Timestamp::from_second(second).ok()?)
    }

    /// How long after the start it is; `None` if it is before.
    fn since_start(&self, at: Timestamp) -> Option<Duration> {
        Duration::try_from(at.duration_since(self.start)).ok()
    }
}

fn after(start: Timestamp, elapsed: Duration) -> Timestamp {
    let elapsed = SignedDuration::try_from(elapsed).unwrap_or(SignedDuration::MAX);
    start.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
}

fn millis(count: u128) -> Duration {
    Duration::from_millis(u64::try_from(count).unwrap_or(u64::MAX))
}
