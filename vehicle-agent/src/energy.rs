//! What work takes of the car's energy: instruments and a file around `core::energy`.
//!
//! One for each car whose maker states its figures; for every other there is none, and nothing is measured. The policy loop looks every second
//! or so while an attempt lives and brings what the car's signals say; actors of attempts say what processor time they have had. What is counted
//! for a day is written beside, so that neither waits for a disk. What must never happen: an instrument that is silent holds anything up, or
//! an idle car that is looked at for nothing.
//!
//! | module | what |
//! |---|---|
//! | `config` | what the maker states |
//! | `rapl` | the processor's counters, and how busy the computer is |
//!
//! In `DIR/energy.json` is the count of today (`core::energy::Kept`).

pub mod config;
mod rapl;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::civil::Date;
use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::energy::{Found, Input, Kept, Meter, Reading, Source, Today, Used, most_per_core};
use kerbside_core::ids::PodUid;
use kerbside_core::ledger::Price;
use kerbside_core::owner::Draw;
use kerbside_core::receipt;

use self::config::EnergyConfig;
use self::rapl::Rapl;
use crate::config::Car;
use crate::directory::{self, Directory};

/// Between two looks at the instruments.
const LOOK: Duration = Duration::from_secs(1);
/// What a signal said counts for so long after the policy loop has brought it, which it does every second: that it is fresh is for the loop.
const HEARD: Duration = Duration::from_secs(2);
/// A disk that is full is no emptier a moment later.
const AGAIN: Duration = Duration::from_secs(10);
/// So long an agent that ends waits for a count that is being written; a disk that takes longer hangs.
const LAST: Duration = Duration::from_secs(2);

/// What the policy loop knows and the meter needs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// What the signal of the computer's power says, in watts, if it is fresh.
    pub watts: Option<f64>,
    /// A charging cable is connected.
    pub plugged_in: bool,
    /// The day by the owner's calendar, if the clock can be believed.
    pub date: Option<Date>,
    /// What a kilowatt-hour costs the owner now; nothing, if that is not said.
    pub price: Price,
}

/// The way to the meter. A car without one has an empty way.
#[derive(Clone, Default)]
pub struct Energy {
    inner: Option<Arc<Inner>>,
}

struct Inner {
    config: EnergyConfig,
    clock: Arc<dyn Clock>,
    /// The count of today.
    file: PathBuf,
    rapl: Option<Rapl>,
    stat: PathBuf,
    state: Mutex<State>,
    /// A write is over.
    written: Condvar,
}

struct State {
    meter: Meter,
    today: Today,
    /// The power that the car's signal said, and until when that counts.
    power: Option<(u64, Boottime)>,
    plugged_in: bool,
    price: Price,
    /// When the policy loop had the instruments looked at last.
    looked: Boottime,
    source: Source,
    /// The count is being written.
    writing: bool,
    /// The disk did not take it: when that is tried again.
    again: Option<Boottime>,
}

impl Energy {
    /// Goes on from what the disk knows of today. Blocks.
    pub fn open(car: &Car, directory: &Directory, clock: &Arc<dyn Clock>) -> Self {
        let Some(config) = &car.energy else {
            return Self::default();
        };
        let (powercap, stat) = (Path::new(rapl::POWERCAP), Path::new(rapl::STAT));
        Self::open_at(config.clone(), directory.energy(), Arc::clone(clock), powercap, stat)
    }

    /// The same with the instruments of `powercap` and `stat`.
    fn open_at(config: EnergyConfig, file: PathBuf, clock: Arc<dyn Clock>, powercap: &Path, stat: &Path) -> Self {
        let rapl = config.rapl.as_ref().and_then(|_| {
            let found = Rapl::find(powercap);
            if found.is_none() {
                tracing::warn!(
                    directory = %powercap.display(),
                    "the processor's counters of energy cannot be read: the maker's figures count in their place"
                );
            }
            found
        });
        let found = match std::fs::read(&file) {
            Ok(bytes) => Found::from(&bytes[..]),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(_) => Found::Unreadable,
        };
        if found == Found::Unreadable {
            tracing::error!(
                file = %file.display(),
                "what today has had of the owner's energy cannot be read: it counts as all, until tomorrow"
            );
        }
        let now = clock.boottime();
        let state = State {
            meter: Meter::new(config.figures(), now),
            today: Today::new(found),
            power: None,
            plugged_in: false,
            price: Price::default(),
            looked: Boottime::default(),
            source: Source::Model,
            writing: false,
            again: None,
        };
        Self {
            inner: Some(Arc::new(Inner {
                config,
                clock,
                file,
                rapl,
                stat: stat.to_owned(),
                state: Mutex::new(state),
                written: Condvar::new(),
            })),
        }
    }

    /// Whether anything is measured in this car.
    pub fn is_there(&self) -> bool {
        self.inner.is_some()
    }

    /// The signal of the computer's power, if there is one.
    pub fn signal(&self) -> Option<&str> {
        let broker = self.inner.as_ref()?.config.broker.as_ref()?;
        Some(&broker.signal)
    }

    /// Takes in what the policy loop has seen, and looks at the instruments if that is due and there is work. To be called in a runtime.
    pub fn look(&self, seen: Seen) {
        let Some(inner) = &self.inner else { return };
        let mut state = inner.state();
        let now = inner.clock.boottime();
        state.power = seen.watts.and_then(milliwatts).map(|power| (power, now + HEARD));
        state.plugged_in = seen.plugged_in;
        state.price = seen.price;
        if let Some(date) = seen.date {
            state.today.is(date);
        }
        if state.meter.living() > 0 && now.since(state.looked) >= LOOK {
            // Not with what is heard: attempts that are heard twice a second together would have nothing divided.
            state.looked = now;
            inner.step(&mut state, now, |meter, input| meter.step(now, input));
        }
        inner.keep(&mut state, now);
    }

    /// Hears how much processor time an attempt has had in all, and whether it has a process. To be called in a runtime.
    pub fn hear(&self, uid: &PodUid, cpu_ms: u64, lives: bool) {
        let Some(inner) = &self.inner else { return };
        let mut state = inner.state();
        let now = inner.clock.boottime();
        inner.step(&mut state, now, |meter, input| {
            meter.hear(now, input, uid, cpu_ms, lives)
        });
        inner.keep(&mut state, now);
    }

    /// What an attempt has had.
    pub fn of(&self, uid: &PodUid) -> Option<receipt::Energy> {
        let inner = self.inner.as_ref()?;
        inner.state().meter.of(uid).map(receipt::Energy::from)
    }

    /// Forgets an attempt that is gone.
    pub fn forget(&self, uid: &PodUid) {
        if let Some(inner) = &self.inner {
            inner.state().meter.forget(uid);
        }
    }

    /// What today has had; `None`: nothing measures it.
    pub fn today(&self) -> Option<Used> {
        let inner = self.inner.as_ref()?;
        Some(inner.state().today.used())
    }

    /// What a core of one more attempt would draw, if it has so many thousandths of a core; `None`: nothing is known of it.
    pub fn draw(&self, milli_cpu: u64) -> Option<Draw> {
        let inner = self.inner.as_ref()?;
        let state = inner.state();
        let anyway = inner.config.is_awake_anyway(state.plugged_in);
        let attempts = state.meter.living().saturating_add(1);
        let per_core_milliwatts = state.meter.figures().per_core(milli_cpu, attempts, anyway);
        Some(Draw {
            per_core_milliwatts,
            paid_milliwatts: per_core_milliwatts.min(most_per_core(milli_cpu)),
        })
    }

    /// Which instrument was heard last.
    pub fn source(&self) -> Option<Source> {
        let inner = self.inner.as_ref()?;
        Some(inner.state().source)
    }

    /// Writes down what today has had: nothing more is counted. Blocks; but where a write hangs already it gives up soon, and never writes
    /// beside it, for both would write one file.
    pub fn close(&self) {
        let Some(inner) = &self.inner else { return };
        let state = inner
            .written
            .wait_timeout_while(inner.state(), LAST, |state| state.writing);
        let (mut state, _) = state.unwrap_or_else(PoisonError::into_inner);
        if state.writing {
            tracing::warn!("the disk hangs: after a restart today has had what was written before");
            return;
        }
        let Some(kept) = state.today.at_the_end() else { return };
        // Nor does anybody begin to.
        state.writing = true;
        drop(state);
        let written = inner.write(kept);
        inner.state().writing = false;
        if let Err(error) = written {
            tracing::warn!(%error, "after a restart today has had a little more of the owner's energy than it had");
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the best instrument that shows something, and counts what attempts were given.
    fn step(&self, state: &mut State, now: Boottime, step: impl FnOnce(&mut Meter, Input<'_>) -> u64) {
        let power = state.power.filter(|(_, until)| now <= *until);
        let power = power.map(|(milliwatts, _)| Reading::Power { milliwatts });
        let reading = power.or_else(|| self.rapl.as_ref().and_then(Rapl::read));
        // Also while an instrument is silent: what it showed before is shared by how busy the computer is by the end of that time.
        let has_instruments = self.rapl.is_some() || self.config.broker.is_some();
        let busy_ms = has_instruments.then(|| rapl::busy_ms(&self.stat)).flatten();
        let input = Input {
            reading: reading.as_ref(),
            busy_ms,
            awake_anyway: self.config.is_awake_anyway(state.plugged_in),
        };
        let given = step(&mut state.meter, input);
        state.source = reading.as_ref().map_or(Source::Model, Reading::source);
        state.today.spend(given, state.price.nanos());
    }

    /// Has the count of today written, if that is due.
    fn keep(self: &Arc<Self>, state: &mut State, now: Boottime) {
        if state.writing || state.again.is_some_and(|again| now < again) {
            return;
        }
        let Some(kept) = state.today.to_keep() else { return };
        state.writing = true;
        let inner = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let written = inner.write(kept);
            let mut state = inner.state();
            state.writing = false;
            inner.written.notify_all();
            match written {
                Ok(()) => {
                    state.today.kept(kept);
                    state.again = None;
                }
                Err(error) => {
                    tracing::error!(%error, "what today has had of the owner's energy is not written; if that goes on, it counts as all");
                    state.again = Some(inner.clock.boottime() + AGAIN);
                }
            }
        });
    }

    fn write(&self, kept: Kept) -> io::Result<()> {
        directory::replace(&self.file, &serde_json::to_vec(&kept)?)
    }
}

/// Watts as a signal says them. Less than nothing, and what is no number, is no power.
fn milliwatts(watts: f64) -> Option<u64> {
    // Thousandths of a second are to a second what these are to a watt, and this is exact and bounded.
    let scaled = Duration::try_from_secs_f64(watts).ok()?;
    u64::try_from(scaled.as_millis()).ok()
}
