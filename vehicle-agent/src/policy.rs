//! The loop that decides whether this car works: signals, the owner's document and commands in; standing, brake and offer out.
//!
//! The only writer of [`Outlook`] and of the brake. It never waits for the cluster, the disk or an attempt before it brakes: the order
//! is brake, tell the attempts, forecast, tell the cluster, write down.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::consent::Consents;
use kerbside_core::energy::Used;
use kerbside_core::forecast::{self, Motion};
use kerbside_core::ledger::Price;
use kerbside_core::owner::tariff::decimal;
use kerbside_core::owner::{Document, Grounds, Remembered, Word};
use kerbside_core::parked::{Effect, State, Terms, Tri, View};
use kerbside_link::client::Connection;
use kerbside_link::proto::{CarState, FreeFor, Offer, Standing};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::config::{self, Car};
use crate::consents::{self, Book, ConsentError, News, Reader};
use crate::control::{self, Answer, Ask, Held, Request, Status};
use crate::directory::Directory;
use crate::egress::{Totals, TotalsNow};
use crate::energy::{self, Energy};
use crate::images::manifest::architecture;
use crate::outlook::{Outlook, RECEIPTS_REFUSED};
use crate::signals::Signals;
use crate::signals::said::Said;
use crate::stamp::Stamp;
use crate::stays::{self, Stays};

/// How often documents are looked at, and the clock for hours and the end of a consent. With [`SETTLE`], an owner's change acts within a
/// second.
const LOOK: Duration = Duration::from_millis(900);
/// For so long a document that changes must stay as it is: an editor may be writing it.
const SETTLE: Duration = Duration::from_millis(100);

/// A disk that is full is no emptier a moment later.
const WRITE_AGAIN: Duration = Duration::from_mins(1);

/// The ends of the loop's wires.
pub struct Wires {
    /// What everybody else reads.
    pub outlook: watch::Sender<Outlook>,
    /// True: no program gets any processor time.
    pub brake: watch::Sender<bool>,
    /// How many attempts have a live process.
    pub live: watch::Receiver<usize>,
    /// Every attempt in the car, for the owner.
    pub held: watch::Receiver<Vec<Held>>,
    /// The owner's commands.
    pub requests: mpsc::Receiver<Request>,
    /// Whether the car can run containers.
    pub containers: watch::Receiver<bool>,
    /// Whether the cluster is reached.
    pub connection: watch::Receiver<Connection>,
    /// True: the agent ends.
    pub ending: watch::Receiver<bool>,
    /// What Pods have sent and received.
    pub passed: Arc<Totals>,
    /// How the car's receipts stand.
    pub receipts: watch::Receiver<control::Receipts>,
    /// What measures the car's energy.
    pub energy: Energy,
}

/// The loop.
pub struct Policy<C> {
    car: Car,
    directory: Directory,
    clock: Arc<dyn Clock>,
    cluster: C,
    wires: Wires,
    outlook: Outlook,
    remembered: Remembered,
    optional: Said,
    /// What a forecast goes by; `None`: the maker says how long the car stays.
    stays: Option<Stays>,
    consents: Reader,
    /// What time has done could not be written down: when that is tried again.
    unwritten: Option<Boottime>,
    /// The owner's document as it was read last.
    seen: Option<Stamp>,
    /// Another one, that may be about to change again.
    changing: Option<Stamp>,
    next_look: Boottime,
    said: CarState,
}

/// What a kilowatt-hour costs the owner now; the most that it may, if the clock is not known. `None`: the owner does not say.
fn price(grounds: &Grounds<'_>) -> Option<Price> {
    let tariff = grounds.document?.tariff.as_ref()?;
    let civil = grounds.zone.map(|zone| zone.to_datetime(grounds.wall));
    Some(tariff.at(civil).unwrap_or_else(|| tariff.highest()))
}

/// What the cluster is told before anything is known.
pub fn nothing_known() -> CarState {
    CarState {
        standing: Standing::Away.into(),
        ..CarState::default()
    }
}

impl<C: Cluster> Policy<C> {
    /// A loop that knows nothing yet: the car is away.
    pub fn new(
        car: Car,
        directory: Directory,
        consents: Reader,
        clock: Arc<dyn Clock>,
        cluster: C,
        wires: Wires,
    ) -> Self {
        let terms = Arc::new(Terms::from(car.parked.clone()));
        let remembered = control::remembered(&directory.command(), clock.wall());
        let optional = Said::read(directory.said(), &terms);
        let stays = car.free_for.is_none().then(|| Stays::read(directory.stays(), &*clock));
        let mut outlook = Outlook::initial(terms, remembered.command(None));
        optional.recall(Arc::make_mut(&mut outlook.snapshot));
        let next_look = Boottime::default();
        let said = nothing_known();
        Self {
            car,
            directory,
            clock,
            cluster,
            wires,
            outlook,
            remembered,
            optional,
            stays,
            consents,
            unwritten: None,
            seen: None,
            changing: None,
            next_look,
            said,
        }
    }

    /// Runs until the agent ends.
    pub async fn run(mut self, mut signals: Box<dyn Signals>) {
        let mut source_ended = false;
        loop {
            self.look();
            // After the brake: a disk that is slow must not hold it up.
            if self.read_documents() {
                self.look();
            }
            self.write_down_what_time_has_done();
            self.optional.keep(&self.outlook.snapshot, self.clock.boottime());
            self.measure();
            let wait = self.next_time().since(self.clock.boottime());
            tokio::select! {
                biased;
                // The owner first: signals may come without end.
                request = self.wires.requests.recv() => {
                    let Some((ask, reply)) = request else { return };
                    let answer = self.answer(ask);
                    // Whoever asked may not wait for the answer.
                    let _ = reply.send(answer);
                }
                update = signals.next(), if !source_ended => match update {
                    None => {
                        source_ended = true;
                        tracing::warn!("there is no source of signals: the car stays away");
                    }
                    Some(update) => {
                        let at = update.at.unwrap_or_else(|| self.clock.boottime());
                        let snapshot = Arc::make_mut(&mut self.outlook.snapshot);
                        update.had.iter().for_each(|path| snapshot.remember(path));
                        update.forget.iter().for_each(|path| snapshot.remove(path));
                        update.set.into_iter().for_each(|(path, value)| snapshot.set(&path, value, at));
                        if let Some(word) = update.owner {
                            self.obey(word);
                        }
                    }
                },
                Ok(()) = self.wires.live.changed() => {}
                Ok(()) = self.wires.ending.changed() => {}
                Ok(()) = self.wires.containers.changed() => {}
                Ok(()) = self.wires.receipts.changed() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// When the next look is due although nothing is heard.
    fn next_time(&self) -> Boottime {
        let (due, unknown) = self
            .outlook
            .weigh(&*self.clock, |grounds| (grounds.due(), grounds.next_unknown()));
        [due, unknown].into_iter().flatten().fold(self.next_look, Boottime::min)
    }

    /// Judges everything anew and does what follows.
    fn look(&mut self) {
        let in_force = self.outlook.consents.in_force(self.clock.wall());
        if *self.outlook.consented != in_force {
            self.outlook.consented = Arc::new(in_force);
        }
        self.outlook.energy = self.wires.energy.today();
        self.outlook.unpaid = !self.wires.receipts.borrow().refused.is_empty();
        let live = *self.wires.live.borrow_and_update() > 0;
        // Nor is there more work for a car that the cluster will not pay.
        let ending = *self.wires.ending.borrow() || self.outlook.unpaid;
        let now = self.clock.boottime();
        if self.outlook.trust.look(now, self.clock.wall()) {
            tracing::warn!("the wall clock was set: until it has gone evenly for a while nothing works by it");
        }
        self.end_pause(now);
        let (motion, (state, effects)) = self.outlook.weigh(&*self.clock, |grounds| {
            let judgement = grounds.judgement();
            (Motion::from(&judgement), grounds.look(&judgement, ending, live))
        });
        self.outlook.state = state;
        // The brake first: nothing below may hold it up.
        let brake = !matches!(self.outlook.state, State::Available { .. });
        self.wires
            .brake
            .send_if_modified(|known| std::mem::replace(known, brake) != brake);
        self.wires.outlook.send_replace(self.outlook.clone());
        if let Some(stays) = &mut self.stays {
            stays.look(&stays::Seen {
                motion,
                snapshot: &self.outlook.snapshot,
                stale_after: self.outlook.terms.stale_after,
                document: self.outlook.document.as_deref(),
                now,
                wall: self.clock.wall(),
                clock_holds: self.outlook.trust.holds(now, self.clock.wall()),
            });
        }
        for effect in effects {
            match effect {
                Effect::Freeze(cause) => tracing::info!(?cause, "work is frozen"),
                Effect::Thaw => tracing::info!("work goes on"),
                Effect::Depart { notice, cause } => tracing::info!(?cause, ?notice, "work ends"),
                // Said below, by what is different from what was said before.
                Effect::Announce => {}
            }
        }
        let state = self.car_state(now);
        // The notice counts down by itself; it is told once.
        let changed = CarState {
            notice_ms: self.said.notice_ms,
            ..state.clone()
        } != self.said;
        if changed {
            tracing::info!(standing = state.standing().as_str_name(), "standing changed");
            self.said = state.clone();
            self.cluster.set_state(state);
        }
        // It blocks, and containers are braked by this same thread.
        if let Some(stays) = self.stays.as_mut().filter(|_| !live) {
            stays.keep();
        }
    }

    /// Ends a pause whose time is over, by a clock that can be believed. It is not written down: whoever reads the file knows the end, too.
    fn end_pause(&mut self, now: Boottime) {
        let wall = self.clock.wall();
        if !self.outlook.trust.holds(now, wall) {
            return;
        }
        if let Some(over) = self.remembered.elapsed(wall) {
            tracing::info!("the owner's pause is over");
            self.remembered = over;
            self.outlook.command = over.command(self.outlook.document.as_deref());
        }
    }

    /// Looks at the owner's document and consents when that is due; whether there is something new.
    fn read_documents(&mut self) -> bool {
        let now = self.clock.boottime();
        if now < self.next_look {
            return false;
        }
        self.next_look = now + LOOK;
        let consents = self.read_consents(false);
        self.read_document(now) || consents
    }

    /// `at_once`: a command says that there is something new.
    fn read_consents(&mut self, at_once: bool) -> bool {
        match self.consents.look(at_once) {
            News::None => false,
            News::Settling => {
                self.next_look = self.clock.boottime() + SETTLE;
                false
            }
            News::Read(consents) => {
                match &consents {
                    Consents::Known(_) => tracing::info!("consents read"),
                    Consents::Unusable(why) => tracing::error!(%why, "no consent of the owner counts"),
                }
                self.outlook.consents = Arc::new(consents);
                true
            }
        }
    }

    /// A consent that has run out is over for good, whatever a clock shows later; and what a clock has shown is kept. After the brake: it waits
    /// for the disk.
    fn write_down_what_time_has_done(&mut self) {
        let (now, wall) = (self.clock.boottime(), self.clock.wall());
        // By a clock that was set a moment ago nothing is over for good.
        if !self.outlook.trust.holds(now, wall) || self.unwritten.is_some_and(|at| now < at) {
            return;
        }
        self.unwritten = None;
        if self.outlook.consents.run_out(wall).is_empty() && !self.consents.has_to_keep(wall) {
            return;
        }
        self.unwritten = Some(now + WRITE_AGAIN);
        match Book::open(&self.directory, false).and_then(|mut book| book.see(wall)) {
            Ok(()) => {
                // What was written is read at once: else it would be written again.
                if self.read_consents(true) {
                    self.look();
                }
            }
            // Whoever writes will be read.
            Err(ConsentError::Busy) => {}
            Err(error) => tracing::warn!(
                error = consents::said(&error),
                "not written down that a consent has expired"
            ),
        }
    }

    fn read_document(&mut self, now: Boottime) -> bool {
        let path = self.directory.owner();
        let stamp = Stamp::of(&path);
        if self.seen.as_ref() == Some(&stamp) {
            self.changing = None;
            return false;
        }
        // An editor may be writing it at this moment, and half of it may say less than the whole.
        if self.seen.is_some() && self.changing.as_ref() != Some(&stamp) {
            self.changing = Some(stamp);
            self.next_look = now + SETTLE;
            return false;
        }
        self.changing = None;
        self.seen = Some(stamp);
        let read = config::owner(&path);
        let usable = matches!(&read, Ok(Some(_)));
        let owner = read.unwrap_or_else(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, "the owner's document counts as none");
            None
        });
        tracing::info!(usable, "owner's document read");
        let (document, consent) = owner.map(|owner| (owner.document, owner.consent)).unzip();
        self.outlook.command = self.remembered.command(document.as_ref());
        self.outlook.allocatable = self.car.allocatable(document.as_ref());
        self.outlook.document = document.map(Arc::new);
        self.outlook.consent = consent;
        true
    }

    /// Brings the meter what the signals and the owner's document say.
    fn measure(&self) {
        let energy = &self.wires.energy;
        if !energy.is_there() {
            return;
        }
        let seen = self.outlook.weigh(&*self.clock, |grounds| {
            let view = View::new(grounds.snapshot, grounds.boot, grounds.terms.stale_after);
            let utc = TimeZone::UTC;
            let zone = grounds.zone.unwrap_or(&utc);
            let believed = grounds.trust.holds(grounds.boot, grounds.wall);
            energy::Seen {
                watts: energy.signal().and_then(|signal| view.number(signal)),
                plugged_in: view.plugged_in().is_yes(),
                date: believed.then(|| zone.to_datetime(grounds.wall).date()),
                price: price(grounds).unwrap_or_default(),
            }
        });
        energy.look(seen);
    }

    /// What work has had of the owner's energy, for the owner.
    fn energy(&self) -> Option<control::Energy> {
        let Used {
            microjoules,
            cost_nanos,
            lost,
        } = self.wires.energy.today()?;
        let source = self.wires.energy.source()?;
        let document = self.outlook.document.as_deref();
        let tariff = document.and_then(|document| document.tariff.as_ref());
        let price = self.outlook.weigh(&*self.clock, price);
        let in_currency = |number: String| tariff.map(|tariff| format!("{number} {}", tariff.currency));
        Some(control::Energy {
            // A billionth of a kilowatt-hour is 3,600 microjoules.
            today_kwh: decimal(microjoules / 3600),
            lost,
            max_kwh: document
                .and_then(Document::max_microjoules_per_day)
                .map(|most| decimal(most / 3600)),
            cost: in_currency(decimal(cost_nanos)),
            price: price.and_then(|price| in_currency(price.to_string())),
            source: source.word().to_owned(),
        })
    }

    /// Why the cluster does not take the car's receipts, if it refuses them.
    fn unpaid(&self) -> Option<String> {
        let receipts = self.wires.receipts.borrow();
        let why = &receipts.refused;
        (!why.is_empty()).then(|| format!("{RECEIPTS_REFUSED}: {why}"))
    }

    fn obey(&mut self, word: Word) -> &'static str {
        let at = control::said_at(self.clock.wall(), self.outlook.document.as_deref());
        let (remembered, says) = self.remembered.after(word, at);
        if remembered != self.remembered {
            self.remembered = remembered;
            self.outlook.command = remembered.command(self.outlook.document.as_deref());
            self.look();
            if let Err(error) = control::remember(&self.directory.command(), remembered) {
                tracing::error!(%error, "the owner's command holds, but could not be written down");
                // What cannot be read is a withdrawal, and to empty a file takes no room on a disk that is full.
                if word != Word::Resume
                    && let Err(error) = std::fs::File::create(self.directory.command())
                {
                    tracing::error!(%error, "the owner's command would not survive a restart");
                }
            }
        }
        says
    }

    fn answer(&mut self, ask: Ask) -> Answer {
        let text = ask.word().map_or("", |word| self.obey(word)).to_owned();
        if ask == Ask::Consents && self.read_consents(true) {
            self.look();
        }
        let says = |grounds: &Grounds<'_>| (grounds.judgement(), grounds.will().1, grounds.why_not());
        let (judgement, refusal, why_not) = self.outlook.weigh(&*self.clock, says);
        let standing = match self.outlook.state {
            State::Available { .. } => "available",
            State::Paused { .. } => "paused",
            State::Leaving { .. } => "leaving",
            State::Away { .. } => "away",
        };
        let value = |tri: Tri| match tri {
            Tri::Yes => "yes",
            Tri::No => "no",
            Tri::Unknown => "unknown",
        };
        let status = Status {
            standing: standing.to_owned(),
            why_not: self.unpaid().or(why_not).unwrap_or_default(),
            command: self.outlook.command,
            paused_until: self.remembered.until,
            owner: (refusal.map(|refusal| refusal.to_string()))
                .or_else(|| self.unpaid())
                .unwrap_or_else(|| "willing".to_owned()),
            factors: judgement
                .0
                .iter()
                .map(|(factor, tri)| (factor.describe().to_owned(), value(*tri).to_owned()))
                .collect(),
            attempts: *self.wires.live.borrow(),
            held: self.wires.held.borrow().clone(),
            link: match &*self.wires.connection.borrow() {
                Connection::Connected { .. } => "connected".to_owned(),
                Connection::Disconnected { why } => format!("not connected: {why}"),
            },
            network: self.network(),
            receipts: self.wires.receipts.borrow().clone(),
            consents: self.on_record(),
            energy: self.energy(),
        };
        Answer { text, status }
    }

    /// How the consents stand: every class that the document names, and every purpose that there is a record for.
    fn on_record(&self) -> control::Consents {
        let (consents, wall) = (&self.outlook.consents, self.clock.wall());
        let document = self.outlook.document.as_deref();
        let classes = document.into_iter().flat_map(|document| &document.consent.classes);
        let mut purposes: BTreeSet<&String> = classes.collect();
        if let Consents::Known(known) = &**consents {
            purposes.extend(known.held.keys());
        }
        let purpose = |purpose: &String| {
            let (holds, says) = match consents.of(purpose, wall) {
                Ok(held) => (true, until(held.expires_at)),
                Err(why) => (false, why.to_string()),
            };
            let purpose = purpose.clone();
            control::Purpose { purpose, holds, says }
        };
        control::Consents {
            purposes: purposes.into_iter().map(purpose).collect(),
            trouble: match &**consents {
                Consents::Known(_) => String::new(),
                Consents::Unusable(why) => why.to_string(),
            },
        }
    }

    fn network(&self) -> Option<control::Network> {
        let terms = self.outlook.document.as_ref()?.egress.as_ref()?;
        let TotalsNow {
            sent,
            received,
            refused,
        } = self.wires.passed.now();
        Some(control::Network {
            allow: terms.allow.iter().map(ToString::to_string).collect(),
            ports: terms.ports.clone(),
            max_bytes_per_second: terms.max_bytes_per_second,
            sent,
            received,
            refused,
        })
    }

    fn car_state(&self, now: Boottime) -> CarState {
        let (standing, notice) = match self.outlook.state {
            State::Available { .. } => (Standing::Available, Duration::ZERO),
            State::Paused { .. } => (Standing::Paused, Duration::ZERO),
            State::Leaving { until, .. } => (Standing::Leaving, until.since(now)),
            State::Away { .. } => (Standing::Away, Duration::ZERO),
        };
        let offers = matches!(standing, Standing::Available | Standing::Paused);
        CarState {
            standing: standing.into(),
            notice_ms: u32::try_from(notice.as_millis()).unwrap_or(u32::MAX),
            offer: offers.then(|| self.offer()),
            fault: self.outlook.fault(&*self.clock).to_owned(),
        }
    }

    /// The classes of the document for which there is a record.
    fn consented_of(&self, classes: &[String]) -> Vec<String> {
        let consented = &self.outlook.consented;
        classes
            .iter()
            .filter(|class| consented.contains(*class))
            .cloned()
            .collect()
    }

    fn runtimes(&self) -> Vec<String> {
        let containers = self.wires.containers.borrow().then_some("container");
        ["wasm"].into_iter().chain(containers).map(str::to_owned).collect()
    }

    fn offer(&self) -> Offer {
        let said = self
            .car
            .free_for
            .map(|config::FreeFor { p50, p90 }| FreeFor { p50, p90 });
        let forecast = self.stays.as_ref().map(|stays| {
            let forecast::FreeFor { p50, p90 } = stays.free_for();
            FreeFor { p50, p90 }
        });
        Offer {
            allocatable: self
                .outlook
                .allocatable
                .0
                .iter()
                .map(|(name, amount)| (name.clone(), amount.to_string()))
                .collect(),
            runtimes: self.runtimes(),
            arch: architecture().to_owned(),
            os: "linux".to_owned(),
            classes: self
                .outlook
                .document
                .as_ref()
                .map(|document| self.consented_of(&document.consent.classes))
                .unwrap_or_default(),
            free_for: said.or(forecast),
        }
    }
}

fn until(expires: Option<jiff::Timestamp>) -> String {
    expires.map_or_else(|| "until you withdraw it".to_owned(), |at| format!("until {at}"))
}

#[cfg(test)]
mod tests;
