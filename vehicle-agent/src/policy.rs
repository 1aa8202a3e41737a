//! The loop that decides whether this car works: signals, the owner's document and commands in; standing, brake and offer out.
//!
//! The only writer of [`Outlook`] and of the brake. It never waits for the cluster, the disk or an attempt before it brakes: the order
//! is brake, tell the attempts, tell the cluster, write down.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::owner;
use kerbside_core::parked::{self, Effect, Event, State, Terms, Tri, View, Will, judge};
use kerbside_link::client::Connection;
use kerbside_link::proto::{CarState, FreeFor, Offer, Standing};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::config::{self, Car};
use crate::control::{self, Answer, Ask, Held, Remembered, Request, Status};
use crate::directory::Directory;
use crate::egress::{Totals, TotalsNow};
use crate::images::manifest::architecture;
use crate::outlook::Outlook;
use crate::signals::Signals;
use crate::signals::said::Said;

/// How often documents are looked at, and the clock for quiet hours and the end of a consent.
const LOOK: Duration = Duration::from_secs(2);
/// Without a document nothing is frozen that could wait for anything.
const NO_WAIT: Duration = Duration::ZERO;

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
    /// What the owner said when that was judged last.
    will: Will,
    /// The owner's document as it was read last.
    seen: Option<Stamp>,
    /// A missing or broken one that may be about to change.
    doubted: Option<Stamp>,
    next_look: Boottime,
    said: CarState,
}

/// What tells one content of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stamp {
    Missing,
    File {
        inode: u64,
        modified: (i64, i64),
        size: u64,
    },
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
    pub fn new(car: Car, directory: Directory, clock: Arc<dyn Clock>, cluster: C, wires: Wires) -> Self {
        let terms = Arc::new(Terms::from(car.parked.clone()));
        let remembered = Remembered::read(&directory.command(), clock.wall());
        let optional = Said::read(directory.said(), &terms);
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
            will: Will::No,
            seen: None,
            doubted: None,
            next_look,
            said,
        }
    }

    /// Runs until the agent ends.
    pub async fn run(mut self, mut signals: Box<dyn Signals>) {
        let mut source_ended = false;
        loop {
            self.look();
            self.optional.keep(&self.outlook.snapshot);
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
                            self.obey(word.into());
                        }
                    }
                },
                Ok(()) = self.wires.live.changed() => {}
                Ok(()) = self.wires.ending.changed() => {}
                Ok(()) = self.wires.containers.changed() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// When the next look is due although nothing is heard.
    fn next_time(&self) -> Boottime {
        let now = self.clock.boottime();
        let due = self
            .outlook
            .state
            .deadline(self.will, &self.outlook.terms, self.resume_within());
        let unknown = self.outlook.snapshot.next_stale(now, self.outlook.terms.stale_after);
        // A reading is stale when it is older than its age, not when it is as old.
        let unknown = unknown.map(|at| at + Duration::from_millis(1));
        // What is due was looked at just now: a time that has passed and changed nothing waits for something to be heard.
        let due = due.filter(|at| *at > now);
        [due, unknown].into_iter().flatten().fold(self.next_look, Boottime::min)
    }

    fn resume_within(&self) -> Duration {
        self.outlook
            .document
            .as_ref()
            .map_or(NO_WAIT, |document| document.resume_within)
    }

    /// Judges everything anew and does what follows.
    fn look(&mut self) {
        self.read_documents();
        let now = self.clock.boottime();
        let event = self.judged(now);
        if let Event::Judged { will, .. } = event {
            self.will = will;
        }
        let mut effects = self.step(event, now);
        if *self.wires.live.borrow_and_update() == 0 {
            let cleared = self.step(Event::Cleared, now);
            effects.extend(cleared);
        }
        // The brake first: nothing below may hold it up.
        let brake = !matches!(self.outlook.state, State::Available { .. });
        self.wires
            .brake
            .send_if_modified(|known| std::mem::replace(known, brake) != brake);
        self.wires.outlook.send_replace(self.outlook.clone());
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
    }

    fn step(&mut self, event: Event, now: Boottime) -> Vec<Effect> {
        let (state, effects) = parked::step(self.outlook.state, event, now, &self.outlook.terms);
        self.outlook.state = state;
        effects
    }

    fn judged(&self, now: Boottime) -> Event {
        let Outlook {
            state,
            terms,
            snapshot,
            document,
            command,
            ..
        } = &self.outlook;
        let view = View::new(snapshot, now, terms.stale_after);
        let verdict = judge(&view, terms, state.held()).verdict();
        let (will, _) = self
            .outlook
            .situation(&*self.clock, |now| owner::willing(document.as_deref(), *command, now));
        // An agent that ends takes no work, whatever the owner says.
        let will = if *self.wires.ending.borrow() { Will::No } else { will };
        Event::Judged {
            verdict,
            will,
            resume_within: self.resume_within(),
        }
    }

    fn read_documents(&mut self) {
        let now = self.clock.boottime();
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK;
        let path = self.directory.owner();
        let stamp = std::fs::metadata(&path).map_or(Stamp::Missing, |file| Stamp::File {
            inode: file.ino(),
            modified: (file.mtime(), file.mtime_nsec()),
            size: file.size(),
        });
        if self.seen.as_ref() == Some(&stamp) {
            return;
        }
        let read = config::owner(&path);
        // An editor may be writing it at this moment: what is gone or broken counts when it still is at the next look.
        let usable = matches!(&read, Ok(Some(_)));
        if !usable && self.outlook.document.is_some() && self.doubted.as_ref() != Some(&stamp) {
            self.doubted = Some(stamp);
            return;
        }
        self.doubted = None;
        self.seen = Some(stamp);
        let document = read.unwrap_or_else(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, "the owner's document counts as none");
            None
        });
        tracing::info!(usable, "owner's document read");
        self.outlook.command = self.remembered.command(document.as_ref());
        self.outlook.allocatable = self.car.allocatable(document.as_ref());
        self.outlook.document = document.map(Arc::new);
    }

    fn obey(&mut self, ask: Ask) -> &'static str {
        let (remembered, says) = self.remembered.after(ask, self.clock.wall());
        if remembered != self.remembered {
            self.remembered = remembered;
            self.outlook.command = remembered.command(self.outlook.document.as_deref());
            self.look();
            if let Err(error) = remembered.write(&self.directory.command()) {
                tracing::error!(%error, "the owner's command holds, but would not survive a restart");
            }
        }
        says
    }

    fn answer(&mut self, ask: Ask) -> Answer {
        let text = self.obey(ask).to_owned();
        let now = self.clock.boottime();
        let Outlook {
            state,
            terms,
            snapshot,
            document,
            command,
            ..
        } = &self.outlook;
        let judgement = judge(&View::new(snapshot, now, terms.stale_after), terms, state.held());
        let (_, refusal) = self
            .outlook
            .situation(&*self.clock, |now| owner::willing(document.as_deref(), *command, now));
        let standing = match state {
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
            owner: refusal.map_or_else(|| "willing".to_owned(), |refusal| refusal.to_string()),
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
        };
        Answer { text, status }
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
        }
    }

    fn runtimes(&self) -> Vec<String> {
        let containers = self.wires.containers.borrow().then_some("container");
        ["wasm"].into_iter().chain(containers).map(str::to_owned).collect()
    }

    fn offer(&self) -> Offer {
        let config::FreeFor { p50, p90 } = self.car.free_for;
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
                .map(|document| document.consent.classes.clone())
                .unwrap_or_default(),
            free_for: Some(FreeFor { p50, p90 }),
        }
    }
}

#[cfg(test)]
mod tests;
