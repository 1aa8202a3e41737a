//! The meter: from readings, and the processor time of attempts, to what each attempt has had.
//!
//! It is stepped every second or so, and whenever an attempt's first program begins or its last one ends; only then is what has passed
//! since divided. What an instrument showed is of the computer, of which it stands for [`Instrument`](super::Instrument)'s idle part and for programs:
//!
//! | of the time | being awake | programs |
//! |---|---|---|
//! | between two readings of one instrument, not further apart than [`GAP`] | what was measured, up to its idle power; the rest of the car by the maker's figures | what was measured beyond, by processor time, the car's own programs included |
//! | any other | by the maker's figures, for [`GAP`] at most: nobody vouches that the car was awake | by the maker's figures for a core |
//!
//! Being awake is shared evenly among the attempts that live, also those that stand still, for the car is awake for them too. It is nobody's while there
//! is none, nor in a car that is awake anyway. What is rounded is rounded down: by a microjoule per attempt, source and division at most,
//! and by a joule where a receipt is made.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Figures, MICRO, Reading, Source, saturated};
use crate::clock::Boottime;
use crate::ids::PodUid;

/// Two readings that are further apart say nothing: the computer may have slept between them.
pub const GAP: Duration = Duration::from_mins(1);
/// So often at least, what has passed is divided.
const DIVIDE: Duration = Duration::from_secs(10);

/// What is seen at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Input<'a> {
    /// What the best instrument shows now, if any does.
    pub reading: Option<&'a Reading>,
    /// Milliseconds for which all cores together were busy since the computer started; `None`: not known.
    pub busy_ms: Option<u64>,
    /// The car is awake now, whether it works or not.
    pub awake_anyway: bool,
}

/// What an attempt has had so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Microjoules, by [`Source::ALL`].
    by_source: [u64; 3],
    /// The same times its error in thousandths, added up.
    error: u128,
}

impl Amount {
    /// All of it.
    pub fn microjoules(&self) -> u64 {
        self.by_source.iter().fold(0, |sum, part| sum.saturating_add(*part))
    }

    /// All of it, in joules, rounded down.
    pub fn joules(&self) -> u64 {
        self.microjoules() / MICRO
    }

    /// Its error in thousandths, rounded up; 0 of nothing.
    pub fn error_permille(&self) -> u32 {
        let whole = u128::from(self.microjoules());
        if whole == 0 {
            return 0;
        }
        u32::try_from(self.error.div_ceil(whole)).unwrap_or(u32::MAX)
    }

    /// How it was found out: the words of its sources with `+` between them.
    pub fn method(&self) -> String {
        let used = Source::ALL
            .into_iter()
            .zip(self.by_source)
            .filter(|(_, part)| *part > 0);
        let words: Vec<_> = used.map(|(source, _)| source.word()).collect();
        if words.is_empty() {
            Source::Model.word().to_owned()
        } else {
            words.join("+")
        }
    }

    fn add(&mut self, source: Source, microjoules: u64, error_permille: u32) {
        if let Some(part) = self.by_source.get_mut(source.place()) {
            *part = part.saturating_add(microjoules);
        }
        let error = u128::from(microjoules) * u128::from(error_permille);
        self.error = self.error.saturating_add(error);
    }
}

#[derive(Debug, Clone, Default)]
struct Account {
    /// It has a process.
    lives: bool,
    /// Milliseconds of processor time, as heard last, and as far as they are divided.
    heard_ms: u64,
    divided_ms: u64,
    had: Amount,
}

impl Account {
    /// What is not divided yet.
    fn used_ms(&self) -> u64 {
        self.heard_ms.saturating_sub(self.divided_ms)
    }
}

/// What one instrument has shown since the last division.
#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    ms: u64,
    microjoules: u64,
}

/// One part of what is divided, all of one source.
#[derive(Debug, Clone, Copy)]
struct Part {
    source: Source,
    error_permille: u32,
    microjoules: u64,
}

/// The meter of one car.
#[derive(Debug, Clone)]
pub struct Meter {
    figures: Figures,
    /// When it was stepped last, in milliseconds of boot time, and what was shown then.
    last: (u64, Option<Reading>),
    /// Since when nothing was divided, and how busy the computer had been by then.
    since: (u64, Option<u64>),
    /// By [`Source::ALL`].
    shown: [Shown; 3],
    /// Of what was divided last nothing was measured.
    modelled: bool,
    accounts: BTreeMap<PodUid, Account>,
    whole: u64,
}

impl Meter {
    /// A meter that has seen nothing.
    pub fn new(figures: Figures, now: Boottime) -> Self {
        Self {
            figures,
            last: (millis(now.0), None),
            since: (millis(now.0), None),
            shown: Default::default(),
            modelled: true,
            accounts: BTreeMap::new(),
            whole: 0,
        }
    }

    /// The maker's figures.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// How many attempts have a process.
    pub fn living(&self) -> u64 {
        self.accounts.values().filter(|account| account.lives).count() as u64
    }

    /// All that was given to attempts, in microjoules.
    pub fn whole(&self) -> u64 {
        self.whole
    }

    /// Takes in what is seen now, and divides if that is due. Returns the microjoules that attempts were given.
    pub fn step(&mut self, now: Boottime, input: Input<'_>) -> u64 {
        let now = millis(now.0);
        self.see(now, input.reading);
        if now.saturating_sub(self.since.0) < millis(DIVIDE) {
            return 0;
        }
        self.divide(now, input)
    }

    /// Hears how much processor time an attempt has had in all, and whether it has a process. Returns as [`Self::step`] does.
    pub fn hear(&mut self, now: Boottime, input: Input<'_>, uid: &PodUid, cpu_ms: u64, lives: bool) -> u64 {
        let now = millis(now.0);
        self.see(now, input.reading);
        let account = self.accounts.entry(uid.clone()).or_default();
        account.heard_ms = account.heard_ms.max(cpu_ms);
        if account.lives == lives {
            return 0;
        }
        // What has passed was shared by those that lived.
        let given = self.divide(now, input);
        if let Some(account) = self.accounts.get_mut(uid) {
            account.lives = lives;
        }
        given
    }

    /// What an attempt has had, up to the last division.
    pub fn of(&self, uid: &PodUid) -> Option<Amount> {
        self.accounts.get(uid).map(|account| account.had)
    }

    /// Forgets an attempt that has ended.
    pub fn forget(&mut self, uid: &PodUid) {
        self.accounts.remove(uid);
    }

    fn see(&mut self, now: u64, reading: Option<&Reading>) {
        let ms = now.saturating_sub(self.last.0);
        let shown = match (&self.last.1, reading) {
            (Some(before), Some(reading)) if ms <= millis(GAP) => reading
                .since(before, ms, &self.figures)
                .map(|microjoules| (reading.source(), microjoules)),
            _ => None,
        };
        if let Some((source, microjoules)) = shown
            && let Some(shown) = self.shown.get_mut(source.place())
        {
            shown.ms = shown.ms.saturating_add(ms);
            shown.microjoules = shown.microjoules.saturating_add(microjoules);
        }
        self.last = (now, reading.cloned());
    }

    /// Divides what has passed since the last time.
    fn divide(&mut self, now: u64, input: Input<'_>) -> u64 {
        let span = now.saturating_sub(self.since.0);
        if span == 0 && !self.modelled {
            // What was measured is divided, and its programs are heard of too late.
            return 0;
        }
        let (awake, programs) = self.parts(span, input.awake_anyway);
        let covered: u64 = self.shown.iter().fold(0, |sum, shown| sum.saturating_add(shown.ms));
        // Of no time at all, nothing was measured.
        let (unseen, of_span) = match span {
            0 => (1, 1),
            span => (span.saturating_sub(covered), span),
        };
        let ours = self.accounts.values().map(Account::used_ms);
        let ours = ours.fold(0, u64::saturating_add);
        let busy = match (self.since.1, input.busy_ms) {
            (Some(before), Some(busy)) => busy.saturating_sub(before),
            _ => 0,
        };
        // The car's own programs have their part of it, too.
        let busy = ours.max(busy).max(1);
        let living = self.living().max(1);
        let figures = self.figures;
        let mut given = 0_u64;
        for account in self.accounts.values_mut() {
            let used_ms = account.used_ms();
            account.divided_ms = account.heard_ms;
            let before = account.had.microjoules();
            if account.lives {
                for part in &awake {
                    account
                        .had
                        .add(part.source, part.microjoules / living, part.error_permille);
                }
            }
            for part in &programs {
                let share = u128::from(part.microjoules) * u128::from(used_ms) / u128::from(busy);
                account.had.add(part.source, saturated(share), part.error_permille);
            }
            let stated = u128::from(figures.core_milliwatts) * u128::from(used_ms);
            let stated = saturated(stated.saturating_mul(u128::from(unseen)) / u128::from(of_span));
            account.had.add(Source::Model, stated, figures.error_permille);
            given = given.saturating_add(account.had.microjoules().saturating_sub(before));
        }
        if span > 0 {
            self.modelled = covered == 0;
        }
        self.shown = Default::default();
        self.since = (now, input.busy_ms);
        self.whole = self.whole.saturating_add(given);
        given
    }

    /// What was taken to be awake, and what was measured of programs.
    fn parts(&self, span: u64, awake_anyway: bool) -> (Vec<Part>, Vec<Part>) {
        let figures = &self.figures;
        let (mut awake, mut programs) = (Vec::new(), Vec::new());
        let mut covered = 0_u64;
        // Of the whole car, in milliwatts for milliseconds, beside what was measured.
        let mut stated = 0_u64;
        for (source, shown) in Source::ALL.into_iter().zip(self.shown) {
            let instrument = figures.instrument(source);
            let part = |microjoules| Part {
                source,
                error_permille: instrument.error_permille,
                microjoules,
            };
            let idle = instrument
                .idle_milliwatts
                .saturating_mul(shown.ms)
                .min(shown.microjoules);
            awake.push(part(idle));
            programs.push(part(shown.microjoules - idle));
            let beside = figures.wake_milliwatts.saturating_sub(instrument.idle_milliwatts);
            stated = stated.saturating_add(beside.saturating_mul(shown.ms));
            covered = covered.saturating_add(shown.ms);
        }
        let unseen = span.saturating_sub(covered).min(millis(GAP));
        stated = stated.saturating_add(figures.wake_milliwatts.saturating_mul(unseen));
        awake.push(Part {
            source: Source::Model,
            error_permille: figures.error_permille,
            microjoules: stated,
        });
        if awake_anyway {
            awake.clear();
        }
        (awake, programs)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
