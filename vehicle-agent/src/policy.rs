//! The loop that decides whether this car works: signals, the owner's document and commands in; standing, brake and offer out.
//!
//! The only writer of [`Outlook`] and of the brake. It never waits for the cluster, the disk or an attempt: the order is brake, tell the
//! attempts, forecast, tell the cluster, and what has to be read or written is done by a thread for it, in [`desk`].

mod desk;
mod words;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::consent::{Consents, Mark};
use kerbside_core::energy::Used;
use kerbside_core::forecast::{self, Motion};
use kerbside_core::ledger::Price;
use kerbside_core::names::reason;
use kerbside_core::owner::tariff::decimal;
use kerbside_core::owner::{self, Document, Grounds, Remembered};
use kerbside_core::parked::{Effect, Snapshot, State, Terms, Tri, Verdict, View};
use kerbside_link::client::Connection;
use kerbside_link::proto::{CarState, FreeFor, Offer, Standing};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use self::desk::{Desk, Done, Errand, Read};
use self::words::Words;
use crate::attempts::Living;
use crate::brake::{Brake, Missed};
use crate::cluster::Cluster;
use crate::config::{self, Car, Owner};
use crate::consents::{News, Reader};
use crate::control::{self, Held, Request, Status, Visit};
use crate::directory::Directory;
use crate::egress::{Totals, TotalsNow};
use crate::energy::{self, Energy};
use crate::forget;
use crate::images::manifest::architecture;
use crate::outlook::{FORGETTING, Outlook, RECEIPTS_REFUSED};
use crate::signals::Signals;
use crate::signals::said::Said;
use crate::stays::{self, Stays};
use crate::uplink::{self, Uplink};

/// How often documents are looked at, and the clock for hours and the end of a consent. With [`SETTLE`], an owner's change acts within a
/// second.
const LOOK: Duration = Duration::from_millis(900);
/// For so long a document that changes must stay as it is: an editor may be writing it.
const SETTLE: Duration = Duration::from_millis(100);

/// A disk that is full is no emptier a moment later.
const WRITE_AGAIN: Duration = Duration::from_mins(1);

/// For so long the cluster is told that nobody looked at the car for a while: somebody there may want to see it.
const STALL_IS_TOLD: Duration = Duration::from_mins(10);

/// The ends of the loop's wires.
pub struct Wires {
    /// What everybody else reads.
    pub outlook: watch::Sender<Outlook>,
    /// While it is on, no program gets any processor time.
    pub brake: Brake,
    /// The programs that run: of a class that is taken back, none may.
    pub living: Living,
    /// How many attempts have a live process.
    pub live: watch::Receiver<usize>,
    /// Every attempt in the car, for the owner.
    pub held: watch::Receiver<Vec<Held>>,
    /// Who is in the car's Pods from elsewhere, and who was lately.
    pub visits: watch::Receiver<Vec<Visit>>,
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
    /// The car's way to the world.
    pub uplink: Uplink,
}

/// The loop.
pub struct Policy<C> {
    car: Car,
    clock: Arc<dyn Clock>,
    cluster: C,
    wires: Wires,
    outlook: Outlook,
    remembered: Remembered,
    /// Where everything is read and written.
    desk: Desk,
    /// What is wanted of it next.
    errand: Errand,
    /// The owner's words on their way there, and who waits to hear of them.
    words: Words,
    /// What a forecast goes by; `None`: the maker says how long the car stays.
    stays: Option<Stays>,
    /// How far the consents had come when they were read last.
    mark: Option<Mark>,
    /// From where time is counted.
    counts: Option<Counts>,
    /// What time has done was to be written down: when that is wanted again, if it was not.
    unwritten: Option<Boottime>,
    next_look: Boottime,
    /// When the loop was last back after it had not looked for too long, by both clocks, and for how long it had not.
    stalled: Option<Stalled>,
    /// The disk does not answer, as the log says already.
    hangs: bool,
    said: CarState,
}

#[derive(Debug, Clone, Copy)]
struct Stalled {
    back: Boottime,
    wall: jiff::Timestamp,
    lasted: Duration,
}

/// A time that has surely been, and since when more of it is counted: nobody sets the clock by which it is.
#[derive(Debug, Clone, Copy)]
struct Counts {
    /// Of the entry of the consents with which it came.
    sequence: u64,
    from: jiff::Timestamp,
    since: Boottime,
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
        outlook.forgetting = forget::is_pending(&directory);
        let next_look = Boottime::default();
        let said = nothing_known();
        Self {
            car,
            clock,
            cluster,
            wires,
            outlook,
            remembered,
            desk: Desk::new(directory, consents, optional),
            errand: Errand::default(),
            words: Words::new(),
            stays,
            mark: None,
            counts: None,
            unwritten: None,
            next_look,
            stalled: None,
            hangs: false,
            said,
        }
    }

    /// Runs until the agent ends.
    pub async fn run(mut self, mut signals: Box<dyn Signals>) {
        let mut source_ended = false;
        loop {
            self.look();
            self.see_to_papers();
            self.see_to_words();
            self.measure();
            let wait = self.next_time().since(self.clock.boottime());
            tokio::select! {
                biased;
                // The owner first: signals may come without end.
                request = self.wires.requests.recv() => {
                    let Some((ask, reply)) = request else { return };
                    self.answer(ask, reply);
                }
                done = self.desk.done() => {
                    let Some(done) = done else { return };
                    self.hear(done);
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
                // By which interface the cluster is reached is known by then.
                Ok(()) = self.wires.connection.changed() => {}
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
        let next = [due, unknown, self.words.next_answer()];
        next.into_iter().flatten().fold(self.next_look, Boottime::min)
    }

    /// Judges everything anew and does what follows.
    fn look(&mut self) {
        let now = self.clock.boottime();
        let missed = self.wires.brake.looks(now, self.clock.awake());
        if let Some(Missed::Slept(lasted)) = missed {
            tracing::info!(?lasted, "the computer slept: nothing that was said before counts");
        }
        if let Some(Missed::Hung(lasted)) = missed {
            let wall = self.clock.wall();
            tracing::error!(?lasted, "nobody looked at the car, so all work stood still");
            self.stalled = Some(Stalled {
                back: now,
                wall,
                lasted,
            });
        }
        self.outlook.energy = self.wires.energy.today();
        let connected = matches!(&*self.wires.connection.borrow(), Connection::Connected { .. });
        self.outlook.uplink = self.wires.uplink.now(connected);
        let mut in_force = self.outlook.consents.in_force(self.clock.wall());
        for over in self.outlook.consents.run_out(self.counted(now)) {
            in_force.remove(&over);
        }
        let agreed = self
            .outlook
            .weigh(&*self.clock, |grounds| grounds.agreed(in_force.clone()));
        let held_off: BTreeSet<String> = in_force.difference(&agreed).cloned().collect();
        if *self.outlook.consented != agreed {
            self.outlook.consented = Arc::new(agreed);
        }
        if *self.outlook.held_off != held_off {
            self.outlook.held_off = Arc::new(held_off);
        }
        self.outlook.unpaid = !self.wires.receipts.borrow().refused.is_empty();
        let live = *self.wires.live.borrow_and_update() > 0;
        // Nor is there more work for a car that the cluster will not pay, or that is to forget whose it is.
        let ending = *self.wires.ending.borrow() || self.outlook.unpaid || self.outlook.forgetting;
        if self.outlook.trust.look(now, self.clock.wall()) {
            tracing::warn!("the wall clock was set: until it has gone evenly for a while nothing works by it");
        }
        self.end_pause(now);
        let hangs = self.notice_a_disk_that_hangs();
        let (motion, (state, effects)) = self.outlook.weigh(&*self.clock, |grounds| {
            let snapshot = &Snapshot::default();
            let blind = Grounds { snapshot, ..*grounds };
            let seen = if missed.is_some() {
                // What was said meanwhile still waits to be heard, and what was said before is no proof of anything.
                blind.judgement()
            } else {
                grounds.judgement()
            };
            let motion = Motion::from(&seen);
            // What the owner takes back by a file is not heard. A car that is about to drive leaves all the same.
            let judgement = if hangs && matches!(seen.verdict(), Verdict::Parked { .. }) {
                blind.judgement()
            } else {
                seen
            };
            (motion, grounds.look(&judgement, ending, live))
        });
        self.outlook.state = state;
        // The brake first: nothing below may hold it up.
        let brake = !matches!(self.outlook.state, State::Available { .. });
        self.wires.brake.set(brake);
        self.wires.outlook.send_replace(self.outlook.clone());
        // After the outlook, so that an actor which hears of the end knows why. It may hang, and is not waited for.
        self.wires.living.end(&self.outlook);
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
        if let Some(kept) = self.stays.as_mut().filter(|_| !live).and_then(Stays::learn) {
            self.errand.stays = Some(kept);
        }
    }

    /// Whether the disk does not answer; says once that it does not, or does again.
    fn notice_a_disk_that_hangs(&mut self) -> bool {
        let hangs = self.desk.hangs(self.clock.awake()).is_some();
        if std::mem::replace(&mut self.hangs, hangs) != hangs {
            if hangs {
                tracing::error!("the disk does not answer, so all work stands still");
            } else {
                tracing::info!("the disk answers again");
            }
        }
        hangs
    }

    /// That the disk does not answer, for the owner.
    fn hanging(&self) -> Option<String> {
        let lasts = self.desk.hangs(self.clock.awake())?.as_secs();
        Some(format!(
            "the disk has not answered for {lasts} s, and all work stands still until it does: what you change or take back by a file is not seen meanwhile"
        ))
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

    /// Has read and written what is due, by the thread for it.
    fn see_to_papers(&mut self) {
        let (now, wall) = (self.clock.boottime(), self.clock.wall());
        if now >= self.next_look {
            self.next_look = now + LOOK;
            self.errand.look = true;
            self.errand.word = self.words.again(self.errand.word);
        }
        if self.has_to_write_down_what_time_has_done(now, wall) {
            self.unwritten = Some(now + WRITE_AGAIN);
            self.errand.see = Some((wall, self.counted(now)));
        }
        let (somebody_waits, word) = (self.words.somebody_waits(), self.errand.word.is_some());
        self.desk.awake = self.clock.awake();
        if self
            .desk
            .send(&mut self.errand, somebody_waits, &self.outlook.snapshot, now)
        {
            self.words.go_out(word);
        }
    }

    /// Whether a consent has run out that the chain still shows, or a clock has shown so much more that it is to be kept. What has run out is
    /// stopped by the look, and does not wait for this.
    fn has_to_write_down_what_time_has_done(&self, now: Boottime, wall: jiff::Timestamp) -> bool {
        let counted = self.counted(now);
        // By a clock that was set a moment ago nothing is over for good.
        self.outlook.trust.holds(now, wall)
            && self.unwritten.is_none_or(|at| now >= at)
            && (self
                .mark
                .as_ref()
                .is_some_and(|mark| mark.later(wall).is_some() || mark.counts_more(counted))
                || !self.outlook.consents.run_out(counted).is_empty())
    }

    /// How late it is at least: by the wall clock, or by what has passed since a time that is known to have been. Who sets a clock back again and
    /// again does not keep a consent from its end by it.
    fn counted(&self, now: Boottime) -> jiff::Timestamp {
        let wall = self.clock.wall();
        let counts = |counts: Counts| counts.from.checked_add(now.since(counts.since)).ok();
        let counted = self.counts.and_then(counts);
        counted.map_or(wall, |counted| counted.max(wall))
    }

    /// Takes the mark as it was read, and counts on from it if it is later, or of another word of the owner's: that says what time it is.
    fn take_mark(&mut self, mark: Option<Mark>) {
        let now = self.clock.boottime();
        if let Some(mark) = &mark {
            let (sequence, from) = (mark.sequence, mark.counted_from());
            let another = self.counts.is_none_or(|counts| counts.sequence != sequence);
            if another || from > self.counted(now) {
                let since = now;
                self.counts = Some(Counts { sequence, from, since });
            }
        }
        if mark != self.mark {
            // It was written down: what is over next is, too, as soon as it is.
            self.unwritten = None;
        }
        self.mark = mark;
    }

    /// Takes what came of an errand, and tells whoever waited for it.
    fn hear(&mut self, done: Done) {
        let Done {
            document,
            consents,
            mark,
            forgetting,
            untaken,
        } = done;
        self.outlook.forgetting = forgetting.unwrap_or(self.outlook.forgetting);
        self.take_mark(mark);
        if matches!(document, Read::Settling) || consents == News::Settling {
            self.next_look = self.clock.boottime() + SETTLE;
        }
        if let Read::Document(owner) = document {
            self.take_document(owner.map(|owner| *owner));
        }
        if let News::Read(consents) = consents {
            self.take_consents(consents);
        }
        self.hear_of_words(untaken);
    }

    fn take_consents(&mut self, consents: Consents) {
        // What cannot be read is read again with each look.
        if *self.outlook.consents == consents {
            return;
        }
        match &consents {
            Consents::Known(_) => tracing::info!("consents read"),
            Consents::Unusable(why) => tracing::error!(%why, "no consent of the owner counts"),
        }
        self.outlook.consents = Arc::new(consents);
    }

    fn take_document(&mut self, owner: Option<Owner>) {
        let (document, consent) = owner.map(|owner| (owner.document, owner.consent)).unzip();
        self.outlook.command = self.remembered.command(document.as_ref());
        self.outlook.allocatable = self.car.allocatable(document.as_ref());
        self.outlook.document = document.map(Arc::new);
        self.outlook.consent = consent;
    }

    /// Brings the meters what the signals and the owner's document say.
    fn measure(&self) {
        self.count();
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

    /// Brings the count of the month its date, and whoever moves data the owner's word.
    fn count(&self) {
        let seen = self.outlook.weigh(&*self.clock, |grounds| {
            let utc = TimeZone::UTC;
            let zone = grounds.zone.unwrap_or(&utc);
            let believed = grounds.trust.holds(grounds.boot, grounds.wall);
            uplink::Seen {
                date: believed.then(|| zone.to_datetime(grounds.wall).date()),
                may_move: grounds.may_move(),
            }
        });
        self.wires.uplink.look(seen);
    }

    /// What this month has had of the owner's data, for the owner; `None`: nothing counts it.
    fn data(&self) -> Option<control::Data> {
        if !self.wires.uplink.is_there() {
            return None;
        }
        let owner::Uplink { metered, moved } = self.outlook.uplink;
        let data = self.outlook.document.as_ref().and_then(|document| document.data);
        Some(control::Data {
            month_bytes: moved.bytes,
            month_metered_bytes: moved.metered_bytes,
            lost: moved.lost,
            per_month: data.map(|data| data.per_month),
            metered_only: data.is_some_and(|data| data.metered_only),
            interface: self.wires.uplink.interface(),
            metered: value(metered).to_owned(),
        })
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

    /// That the car is to forget its owner, if it is.
    fn forgetting(&self) -> Option<String> {
        self.outlook.forgetting.then(|| FORGETTING.to_owned())
    }

    /// How things stand, for the owner.
    fn status(&self) -> Status {
        let says = |grounds: &Grounds<'_>| (grounds.judgement(), grounds.will().1, grounds.why_not());
        let (judgement, refusal, why_not) = self.outlook.weigh(&*self.clock, says);
        let standing = match self.outlook.state {
            State::Available { .. } => "available",
            State::Paused { .. } => "paused",
            State::Leaving { .. } => "leaving",
            State::Away { .. } => "away",
        };
        Status {
            standing: standing.to_owned(),
            why_not: (self.forgetting())
                .or_else(|| self.unpaid())
                .or_else(|| self.hanging())
                .or(why_not)
                .unwrap_or_default(),
            command: self.outlook.command,
            paused_until: self.remembered.until,
            stalled: self.hanging().unwrap_or_else(|| self.stalled()),
            owner: (self.forgetting())
                .or_else(|| refusal.map(|refusal| refusal.to_string()))
                .or_else(|| self.unpaid())
                .unwrap_or_else(|| "willing".to_owned()),
            factors: judgement
                .0
                .iter()
                .map(|(factor, tri)| (factor.describe().to_owned(), value(*tri).to_owned()))
                .collect(),
            attempts: *self.wires.live.borrow(),
            held: self.wires.held.borrow().clone(),
            visits: self.wires.visits.borrow().clone(),
            link: match &*self.wires.connection.borrow() {
                Connection::Connected { .. } => "connected".to_owned(),
                Connection::Disconnected { why } => format!("not connected: {why}"),
            },
            network: self.network(),
            receipts: self.wires.receipts.borrow().clone(),
            consents: self.on_record(),
            energy: self.energy(),
            data: self.data(),
        }
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
            fault: self.fault(now).to_owned(),
        }
    }

    /// What is wrong with the car's own state, so that the cluster should know.
    fn fault(&self, now: Boottime) -> &'static str {
        let fault = self.outlook.fault(&*self.clock);
        let stalled = self
            .stalled
            .is_some_and(|stalled| now.since(stalled.back) < STALL_IS_TOLD);
        if fault.is_empty() && (stalled || self.hangs) {
            reason::AGENT_STALLED
        } else {
            fault
        }
    }

    /// That nobody looked at the car for a while, for the owner.
    fn stalled(&self) -> String {
        self.stalled.map_or_else(String::new, |Stalled { wall, lasted, .. }| {
            let seconds = lasted.as_secs();
            format!("the agent did not look at the car for {seconds} s until {wall:.0}, and all work stood still; a disk that hangs may be the cause")
        })
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

fn value(tri: Tri) -> &'static str {
    match tri {
        Tri::Yes => "yes",
        Tri::No => "no",
        Tri::Unknown => "unknown",
    }
}

fn until(expires: Option<jiff::Timestamp>) -> String {
    expires.map_or_else(|| "until you withdraw it".to_owned(), |at| format!("until {at}"))
}

#[cfg(test)]
mod tests;
