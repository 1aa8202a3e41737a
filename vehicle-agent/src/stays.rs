//! What the car remembers of its stays, in `stays.json`, and how long it says that it stays by it.
//!
//! Owned by the policy loop, which shows it every judgement. The file is written when the car has come and when it has left, at moments at
//! which no work runs, by the loop's thread for the disk. It never leaves the car; what does is [`Stays::free_for`]. What must never
//! happen: a file that cannot be read keeps an agent from starting, or a promise is made by half of one.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::forecast::{
    Change, FreeFor, Hints, History, Motion, Presence, Published, STANDS_FOR, Situation, forecast,
};
use kerbside_core::owner::Document;
use kerbside_core::parked::{Snapshot, View};

use crate::directory;

/// The car's memory.
#[derive(Debug)]
pub(crate) struct Stays {
    file: PathBuf,
    history: History,
    presence: Presence,
    /// What the history does not have yet, nor the file, in its order.
    new: Vec<Change>,
    published: Published,
    /// The set departure by which that was said.
    by: Option<Timestamp>,
    /// When it is computed anew.
    next: Boottime,
}

/// One look at the car.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    /// What it does.
    pub(crate) motion: Motion,
    /// Its signals.
    pub(crate) snapshot: &'a Snapshot,
    /// A signal that is older is unknown.
    pub(crate) stale_after: Duration,
    /// The owner's document.
    pub(crate) document: Option<&'a Document>,
    /// By the clock that nobody sets.
    pub(crate) now: Boottime,
    /// By the one on the wall.
    pub(crate) wall: Timestamp,
    /// That one can be believed.
    pub(crate) clock_holds: bool,
}

impl Stays {
    /// Reads the file. One that cannot be read is none: the car learns anew.
    pub(crate) fn read(file: PathBuf, clock: &dyn Clock) -> Self {
        let read = match std::fs::read(&file) {
            Ok(bytes) => History::parse(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(History::default()),
            Err(error) => Err(error.to_string()),
        };
        let history = read.unwrap_or_else(|error| {
            tracing::error!(
                file = %file.display(),
                error,
                "what the car remembers of its stays cannot be read: it learns them anew, and promises nothing until then"
            );
            History::default()
        });
        Self {
            presence: Presence::resume(&history, clock.boottime(), clock.wall()),
            file,
            history,
            new: Vec::new(),
            published: Published::default(),
            by: None,
            next: Boottime::default(),
        }
    }

    /// Looks at the car, and says anew how long it stays when it is time to.
    pub(crate) fn look(&mut self, seen: &Seen<'_>) {
        let (now, wall) = (seen.now, seen.wall);
        let zone = zone(seen.document);
        let change = self.presence.see(seen.motion, now, wall, &zone);
        if let Some(change) = change {
            self.new.push(change);
            self.published = Published::default();
            self.next = now;
        }
        let plugged = View::new(seen.snapshot, now, seen.stale_after).plugged_in();
        self.presence
            .hear(plugged, Hints::read(seen.snapshot, now, wall, &zone), now);
        // Hours of the week by a clock that was set a moment ago are not those of the history.
        let here = self.presence.here(now).filter(|_| seen.clock_holds);
        let Some(here) = here else {
            self.published = Published::default();
            return;
        };
        if now < self.next && here.departure == self.by {
            return;
        }
        self.by = here.departure;
        self.next = now + STANDS_FOR;
        let situation = Situation {
            parked_for: here.parked_for,
            plugged: here.plugged,
            charging_until: here.charging_until,
            departure: here.departure,
            ends: seen.document.and_then(|document| document.ends(wall, &zone)),
        };
        let forecast = forecast(&self.history, wall, &zone, &situation);
        self.published.hear(forecast, wall);
    }

    /// How long the car says that it stays.
    pub(crate) fn free_for(&self) -> FreeFor {
        self.published.free_for()
    }

    /// Learns what is new, if there is something, and says what is to be written down. Called when no work is left: what is learnt between a
    /// departure and the end of its work would be written twice.
    pub(crate) fn learn(&mut self) -> Option<Kept> {
        if self.new.is_empty() {
            return None;
        }
        for change in self.new.drain(..) {
            match change {
                Change::Arrived(at) => self.history.arrive(Some(at)),
                Change::Departed(stay) => self.history.depart(stay),
                Change::Forgotten => self.history.arrive(None),
            }
        }
        Some(Kept {
            file: self.file.clone(),
            text: self.history.print(),
        })
    }
}

/// What is to be in the file.
#[derive(Debug)]
pub(crate) struct Kept {
    file: PathBuf,
    text: Vec<u8>,
}

impl Kept {
    /// Writes it. Blocks.
    pub(crate) fn write(&self) {
        if let Err(error) = directory::replace(&self.file, &self.text) {
            tracing::error!(%error, "what the car remembers of its stays would not survive a restart");
        }
    }
}

/// The clock that the owner goes by: the document's, else the computer's.
fn zone(document: Option<&Document>) -> TimeZone {
    let named = document.and_then(|document| document.time_zone.as_deref());
    let named = named.and_then(|zone| TimeZone::get(zone).ok());
    named.unwrap_or_else(TimeZone::system)
}

#[cfg(test)]
mod tests {
    use kerbside_core::parked::Value;
    use kerbside_core::parked::signals::path;

    use super::*;
    use crate::testing::{ManualClock, owner};

    const HOUR: u64 = 60;

    impl Stays {
        fn keep(&mut self) {
            if let Some(kept) = self.learn() {
                kept.write();
            }
        }
    }

    struct Car {
        _temp: tempfile::TempDir,
        file: PathBuf,
        stays: Stays,
        document: Document,
        snapshot: Snapshot,
        minute: u64,
        clock_holds: bool,
    }

    impl Car {
        fn new() -> Self {
            let temp = tempfile::tempdir().unwrap();
            let file = temp.path().join("stays.json");
            let mut document = owner();
            document.time_zone = Some("UTC".to_owned());
            Self {
                stays: Stays::read(file.clone(), &ManualClock),
                _temp: temp,
                file,
                document,
                snapshot: Snapshot::default(),
                minute: 0,
                clock_holds: true,
            }
        }

        fn now(&self) -> Boottime {
            ManualClock.boottime() + Duration::from_mins(self.minute)
        }

        fn look(&mut self, motion: Motion) {
            self.stays.look(&Seen {
                motion,
                snapshot: &self.snapshot,
                stale_after: Duration::from_secs(3),
                document: Some(&self.document),
                now: ManualClock.boottime() + Duration::from_mins(self.minute),
                wall: ManualClock.wall() + Duration::from_mins(self.minute),
                clock_holds: self.clock_holds,
            });
            self.stays.keep();
        }

        fn does(&mut self, motion: Motion, minutes: u64) {
            for _ in 0..minutes {
                self.look(motion);
                self.minute += 1;
            }
        }

        /// Stands from ten in the morning, when this begins, to eight the next; and so on.
        fn days(&mut self, days: u64) {
            for _ in 0..days {
                self.does(Motion::Standing, 22 * HOUR);
                self.does(Motion::Driving, 2 * HOUR);
            }
        }
    }

    #[test]
    fn car_that_has_learnt_says_how_long_it_stays_and_less_and_less() {
        let mut car = Car::new();
        car.does(Motion::Standing, 5 * HOUR);
        assert_eq!(car.stays.free_for(), FreeFor::default());
        car.does(Motion::Standing, 17 * HOUR);
        car.does(Motion::Driving, 2 * HOUR);
        car.days(30);
        car.does(Motion::Standing, HOUR);
        assert_eq!(car.stays.free_for(), FreeFor { p50: 480, p90: 480 });
        let mut bands = Vec::new();
        for _ in 0..21 * HOUR {
            car.does(Motion::Standing, 1);
            bands.push(car.stays.free_for().p90);
        }
        bands.dedup();
        assert_eq!(bands, [480, 240, 120, 60, 15, 0]);
    }

    #[test]
    fn file_is_written_when_the_car_comes_and_leaves_and_at_no_other_time() {
        let mut car = Car::new();
        let mut written = 0;
        let mut before = None;
        for (motion, minutes) in [
            (Motion::Driving, 9),
            (Motion::Standing, 90),
            (Motion::Unknown, 9),
            (Motion::Driving, 9),
        ] {
            for _ in 0..minutes {
                car.does(motion, 1);
                let now = std::fs::read(&car.file).ok();
                written += u32::from(now != before);
                before = now;
            }
        }
        assert_eq!(written, 2);
        let history = History::parse(&std::fs::read(&car.file).unwrap()).unwrap();
        assert_eq!((history.len(), history.arrived()), (1, None));
    }

    #[test]
    fn stays_are_remembered_over_a_restart_and_a_broken_file_starts_anew() {
        let mut car = Car::new();
        car.days(20);
        car.does(Motion::Standing, HOUR);
        car.stays = Stays::read(car.file.clone(), &ManualClock);
        assert_eq!(car.stays.history.len(), 20);
        let whole = std::fs::read(&car.file).unwrap();
        std::fs::write(&car.file, &whole[..whole.len() / 2]).unwrap();
        let mut cut = Stays::read(car.file.clone(), &ManualClock);
        assert!(cut.history.is_empty());
        cut.keep();
        assert_eq!(
            std::fs::read(&car.file).unwrap().len(),
            whole.len() / 2,
            "nothing is new"
        );
        car.stays = cut;
        car.look(Motion::Standing);
        assert!(
            History::parse(&std::fs::read(&car.file).unwrap())
                .unwrap()
                .arrived()
                .is_some()
        );
    }

    #[test]
    fn departure_that_is_set_is_heeded_at_once() {
        let mut car = Car::new();
        car.days(30);
        car.does(Motion::Standing, HOUR + 2);
        assert_eq!(car.stays.free_for().p90, 480);
        let soon = ManualClock.wall() + Duration::from_mins(car.minute + 150);
        let now = car.now();
        car.snapshot
            .set(path::CHARGING_TIMER_MODE, Value::Text("END_TIME".to_owned()), now);
        car.snapshot
            .set(path::CHARGING_TIMER_TIME, Value::Text(soon.to_string()), now);
        car.look(Motion::Standing);
        assert_eq!(car.stays.free_for(), FreeFor { p50: 120, p90: 60 });
    }

    #[test]
    fn nothing_is_promised_by_a_clock_that_was_just_set() {
        let mut car = Car::new();
        car.days(30);
        car.does(Motion::Standing, HOUR);
        car.clock_holds = false;
        car.does(Motion::Standing, 6);
        assert_eq!(car.stays.free_for(), FreeFor::default());
        car.clock_holds = true;
        car.does(Motion::Standing, 6);
        assert_ne!(car.stays.free_for(), FreeFor::default());
    }

    #[test]
    fn what_happens_while_work_is_alive_is_learnt_in_its_order_when_there_is_none() {
        let mut car = Car::new();
        car.days(3);
        let seen = |stays: &mut Stays, motion, minute| {
            stays.look(&Seen {
                motion,
                snapshot: &Snapshot::default(),
                stale_after: Duration::from_secs(3),
                document: None,
                now: ManualClock.boottime() + Duration::from_mins(minute),
                wall: ManualClock.wall() + Duration::from_mins(minute),
                clock_holds: true,
            });
        };
        let before = std::fs::read(&car.file).unwrap();
        for (motion, minutes) in [(Motion::Standing, 60), (Motion::Driving, 9), (Motion::Standing, 1)] {
            for _ in 0..minutes {
                seen(&mut car.stays, motion, car.minute);
                car.minute += 1;
            }
        }
        assert_eq!(std::fs::read(&car.file).unwrap(), before);
        car.stays.keep();
        let history = History::parse(&std::fs::read(&car.file).unwrap()).unwrap();
        assert_eq!((history.len(), history.arrived().is_some()), (4, true));
    }

    #[test]
    fn quiet_hours_are_not_promised_away() {
        let mut car = Car::new();
        car.days(30);
        car.does(Motion::Standing, HOUR);
        let quiet = "[{from: '12:30', to: '13:00'}]";
        car.document.quiet_hours = serde_saphyr::from_str(quiet).unwrap();
        car.does(Motion::Standing, 6);
        // It is six minutes past eleven, and what was said at eleven holds until twelve: half an hour before.
        assert_eq!(car.stays.free_for(), FreeFor { p50: 15, p90: 15 });
    }
}
