//! The actor of one attempt in the car: it carries out what the machine in [`crate::attempt`] says, as the agent's actor does.
//!
//! While the journal is written nothing else of the attempt moves. What the guard must know is told before any effect.

use std::collections::VecDeque;
use std::time::Duration;

use super::car::{LONG_AGO, Machine, PREPARING};
use super::time::{Ms, NEVER};
use crate::attempt::{self, Attempt, Effect, Event, Heard, Plan, Record, State, step};
use crate::clock::Boottime;
use crate::departure::Turn;
use crate::ids::PodUid;
use crate::names::reason;
use crate::vehicle::{AttemptPhase, Report};

/// What the car does with its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Posture {
    Run,
    Freeze,
    Leave(Boottime),
}

/// The car's leaving, as the attempt sees it.
#[derive(Debug, Clone, Copy)]
struct Departure {
    began: Boottime,
    until: Boottime,
    promised: Boottime,
    ended: bool,
}

/// What the agent gives its attempts to see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outlook {
    pub(super) posture: Posture,
    pub(super) heard: Heard,
}

/// One attempt.
#[derive(Debug)]
pub(super) struct Actor {
    uid: PodUid,
    plan: Plan,
    attempt: Attempt,
    effects: VecDeque<Effect>,
    events: VecDeque<Event>,
    pub(super) inbox: VecDeque<Event>,
    /// A write to the journal: when it is done, and what it writes.
    writing: Option<(Ms, Record)>,
    ready_at: Option<Ms>,
    /// Its output is to be sent.
    pub(super) uploads: bool,
    /// Over which connection it was.
    pub(super) sent_over: Option<usize>,
    seen: Option<Posture>,
    heard: Heard,
    departure: Option<Departure>,
    /// Everything that the cluster is to be told, and has not been.
    pub(super) reports: Vec<Report>,
    stale: bool,
}

impl Actor {
    pub(super) fn new(uid: PodUid, plan: Plan, (attempt, effects): (Attempt, Vec<Effect>)) -> Self {
        Self {
            uid,
            plan,
            attempt,
            effects: effects.into(),
            events: VecDeque::new(),
            inbox: VecDeque::new(),
            writing: None,
            ready_at: None,
            uploads: false,
            sent_over: None,
            seen: None,
            heard: Heard::default(),
            departure: None,
            reports: Vec::new(),
            stale: true,
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.attempt.is_stopped()
    }

    /// When nothing of it may be alive any more.
    pub(super) fn fence(&self) -> Option<Boottime> {
        let notice = self
            .departure
            .filter(|_| !self.attempt.is_stopped())
            .map(|d| d.promised);
        self.attempt.fence(&self.plan).into_iter().chain(notice).min()
    }

    /// What was being written when the agent died.
    pub(super) fn unfinished(self) -> Option<Record> {
        self.writing.map(|(_, record)| record)
    }

    /// What the cluster is told of it.
    pub(super) fn report(&self) -> Report {
        use attempt::Kind;
        let started = self
            .attempt
            .containers
            .iter()
            .any(|c| c.restarts > 0 || c.is_alive() || matches!(c.life, attempt::Life::Terminated(_)));
        let phase = match &self.attempt.state {
            State::Ended { outcome } => match outcome.kind {
                Kind::Succeeded => AttemptPhase::Succeeded,
                Kind::Failed => AttemptPhase::Failed,
                Kind::Disrupted => AttemptPhase::Disrupted,
                Kind::Refused => AttemptPhase::Refused,
            },
            State::Uploading { .. } | State::Stopping { .. } => AttemptPhase::Running,
            State::Active if started && self.attempt.frozen => AttemptPhase::Frozen,
            State::Active if started => AttemptPhase::Running,
            State::Active | State::Waiting | State::Admitted => AttemptPhase::Pending,
        };
        Report {
            uid: self.uid.clone(),
            revision: self.attempt.revision,
            phase,
            reason: self.attempt.outcome().map(|o| o.reason.clone()).unwrap_or_default(),
            message: String::new(),
            stopped: self.attempt.is_stopped(),
        }
    }

    /// When it has to be looked at again.
    pub(super) fn next(&self, car: &Machine, outlook: Outlook, turn: &Turn) -> Ms {
        if let Some((until, _)) = &self.writing {
            return *until;
        }
        let unseen = self.seen != Some(outlook.posture) || self.heard != outlook.heard;
        if self.stale || unseen || !self.inbox.is_empty() {
            return 0;
        }
        let deadline = self.attempt.deadline(&self.plan);
        let window = self.departure.filter(|d| !d.ended);
        let window = window.map(|d| turn.window(0, d.began, d.until).from);
        let clock = deadline.into_iter().chain(window).min();
        clock
            .map_or(NEVER, |at| car.clock.reaches(at))
            .min(self.ready_at.unwrap_or(NEVER))
    }

    /// Moves on as far as it can; whether anything moved.
    pub(super) fn step(&mut self, now: Ms, car: &mut Machine, outlook: Outlook, turn: &Turn) -> bool {
        let mut moved = std::mem::take(&mut self.stale);
        while self.carry_out(now, car) {
            if self.seen != Some(outlook.posture) {
                self.seen = Some(outlook.posture);
                self.take_posture(now, car, outlook.posture, turn);
            } else if let Some(event) = self.inbox.pop_front() {
                self.feed(now, car, event);
            } else if self.heard != outlook.heard {
                self.heard = outlook.heard;
                if let Some(sent) = outlook.heard.counts_for(&self.plan) {
                    self.feed(now, car, Event::Heard { sent });
                }
            } else if self.ready_at.is_some_and(|at| at <= now) {
                self.ready_at = None;
                let image_id = "image".to_owned();
                self.feed(now, car, Event::Prepared { container: 0, image_id });
            } else if self.depart_in_turn(now, car, turn) {
            } else if self.is_due(now, car) {
                self.feed(now, car, Event::Tick);
                assert!(
                    !self.effects.is_empty() || !self.is_due(now, car),
                    "a Tick for which nothing changes comes again at once: {:?}",
                    self.attempt
                );
            } else {
                break;
            }
            moved = true;
        }
        moved
    }

    fn is_due(&self, now: Ms, car: &Machine) -> bool {
        self.attempt
            .deadline(&self.plan)
            .is_some_and(|at| at <= car.clock.at(now))
    }

    fn feed(&mut self, now: Ms, car: &Machine, event: Event) {
        let (attempt, effects) = step(self.attempt.clone(), &self.plan, event, car.now(now));
        self.attempt = attempt;
        self.effects.extend(effects);
    }

    fn take_posture(&mut self, now: Ms, car: &Machine, posture: Posture, turn: &Turn) {
        match posture {
            Posture::Run => {
                self.departure = None;
                self.feed(now, car, Event::Thaw);
            }
            Posture::Freeze => {
                self.departure = None;
                self.feed(now, car, Event::Freeze);
            }
            Posture::Leave(until) => {
                let (known, boot) = (self.departure, car.clock.at(now));
                let promised = until.max(boot);
                self.departure = Some(Departure {
                    began: known.map_or(boot, |d| d.began),
                    until,
                    promised: known.map_or(promised, |d| d.promised.min(promised)),
                    ended: false,
                });
                let waits = self
                    .departure
                    .is_some_and(|d| turn.window(0, d.began, d.until).from > boot);
                if waits {
                    self.feed(now, car, Event::Freeze);
                }
            }
        }
    }

    fn depart_in_turn(&mut self, now: Ms, car: &Machine, turn: &Turn) -> bool {
        let boot = car.clock.at(now);
        let Some(departure) = self.departure.as_mut().filter(|d| !d.ended) else {
            return false;
        };
        let window = turn.window(0, departure.began, departure.until);
        if boot < window.from {
            return false;
        }
        departure.ended = true;
        let grace = Duration::from_secs(3).min(window.until.since(boot));
        let (reason, message) = (reason::VEHICLE_DEPARTED.to_owned(), String::new());
        self.feed(now, car, Event::Depart { grace, reason, message });
        true
    }

    /// Effects in their order, and what follows from them after them. False: it waits for the journal.
    fn carry_out(&mut self, now: Ms, car: &mut Machine) -> bool {
        if let Some((until, record)) = self.writing.take() {
            if now < until {
                self.writing = Some((until, record));
                return false;
            }
            self.written(car, record);
        }
        loop {
            let Some(effect) = self.effects.pop_front() else {
                let Some(event) = self.events.pop_front() else {
                    return true;
                };
                self.feed(now, car, event);
                continue;
            };
            match effect {
                Effect::WriteJournal => {
                    let record = self.attempt.record(&self.plan);
                    if car.journal_takes > 0 {
                        self.writing = Some((now + car.journal_takes, record));
                        return false;
                    }
                    self.written(car, record);
                }
                Effect::Prepare(_) => self.ready_at = Some(now + PREPARING),
                Effect::Start(container) => {
                    car.start(now, &self.uid);
                    self.events.push_back(Event::Started { container });
                }
                Effect::Freeze | Effect::Thaw => {}
                Effect::GiveUp => (self.ready_at, self.uploads) = (None, false),
                Effect::Ask(_) => car.ask_to_end(now, &self.uid),
                Effect::Kill(_) => car.kill(now, &self.uid),
                // Its program has neither hooks nor probes.
                Effect::PostStart(_) | Effect::PreStop(_) | Effect::Probe { .. } => {}
                Effect::Upload => (self.uploads, self.sent_over) = (true, None),
                Effect::Report => self.reports.push(self.report()),
            }
        }
    }

    fn written(&mut self, car: &mut Machine, record: Record) {
        let first = self.attempt.state == State::Admitted;
        let broken = car.journal_broken;
        if !broken {
            car.journal.insert(self.uid.clone(), record);
        }
        if first {
            let message = "the disk is full".to_owned();
            let event = if broken {
                Event::JournalFailed { message }
            } else {
                Event::Journaled
            };
            self.events.push_back(event);
        }
    }
}

/// A departure that is over binds at once.
pub(super) const GONE: Posture = Posture::Leave(LONG_AGO);
