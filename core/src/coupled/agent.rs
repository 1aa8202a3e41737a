//! The agent of a car: its policy, its attempts and its session with the adapter, as vehicle-agent and link have them.
//!
//! One life of a process: what is not in the car's journal ends with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::Twist;
use super::attempt::{Actor, GONE, Outlook, Posture};
use super::car::{Machine, backoff};
use super::link::{Arrival, Down, Links, Up};
use super::time::{Ms, NEVER};
use crate::attempt::{Attempt, Event, Exit, Heard};
use crate::clock::Boottime;
use crate::departure::Turn;
use crate::ids::PodUid;
use crate::names::reason;
use crate::parked::{self, State, Terms, Verdict, Will};
use crate::vehicle::{AttemptPhase, HEARTBEAT_BUSY, HEARTBEAT_IDLE, Report, Standing};

/// How long the owner lets work wait.
const RESUME_WITHIN: Duration = Duration::from_secs(20);
/// An adapter that does not welcome the car by then is left.
const PATIENCE: Ms = 10_000;

/// What the cluster is told of one attempt.
#[derive(Debug)]
struct Word {
    report: Report,
    acknowledged: bool,
    heartbeats: u8,
}

/// A session, or the try to have one.
#[derive(Debug)]
struct Session {
    connection: usize,
    opened: Ms,
    hello: Boottime,
    welcome: bool,
    /// What came up before the Welcome.
    waits: Vec<Up>,
    seq: u64,
    last_sent: Boottime,
    unanswered: VecDeque<(u64, Boottime)>,
}

/// The agent.
#[derive(Debug)]
pub(super) struct Agent {
    state: State,
    said: Standing,
    attempts: BTreeMap<PodUid, Actor>,
    taken: BTreeSet<PodUid>,
    words: BTreeMap<PodUid, Word>,
    turn: Turn,
    heard: Heard,
    session: Option<Session>,
    connect_at: Ms,
    tries: u32,
    guarded: Option<Boottime>,
}

fn terms() -> Terms {
    Terms {
        dwell: Duration::from_secs(1),
        ..Terms::default()
    }
}

impl Agent {
    /// Takes up what the journal knows.
    pub(super) fn start(now: Ms, car: &Machine) -> Self {
        let mut agent = Self {
            state: State::initial(),
            said: Standing::Away,
            attempts: BTreeMap::new(),
            taken: BTreeSet::new(),
            words: BTreeMap::new(),
            turn: Turn::default(),
            heard: Heard::default(),
            session: None,
            connect_at: now,
            tries: 0,
            guarded: None,
        };
        for (uid, record) in &car.journal {
            let plan = car.plan();
            let recovered = Attempt::recover(&plan, record.clone(), car.now(now));
            let actor = Actor::new(uid.clone(), plan, recovered);
            agent.keep(&actor.report());
            agent.attempts.insert(uid.clone(), actor);
        }
        agent
    }

    /// The process is gone. `written`: what it was writing is on disk; `said`: its machine ends its connections.
    pub(super) fn die(self, now: Ms, car: &mut Machine, links: &mut Links, written: bool, said: bool) {
        if let Some(session) = &self.session {
            links.leave_up(now, session.connection, said);
        }
        for (uid, actor) in self.attempts {
            if let Some(record) = actor.unfinished().filter(|_| written && !car.journal_broken) {
                car.journal.insert(uid, record);
            }
        }
    }

    pub(super) fn exited(&mut self, uid: &PodUid, exit: Exit) {
        if let Some(actor) = self.attempts.get_mut(uid) {
            actor.inbox.push_back(Event::Exited { container: 0, exit });
        }
    }

    fn outlook(&self) -> Outlook {
        let posture = match self.state {
            State::Available { .. } => Posture::Run,
            State::Paused { .. } => Posture::Freeze,
            State::Leaving { until, cause } if !cause.at_once() => Posture::Leave(until),
            State::Leaving { .. } | State::Away { .. } => GONE,
        };
        Outlook {
            posture,
            heard: self.heard,
        }
    }

    fn live(&self) -> usize {
        self.attempts.values().filter(|actor| !actor.is_stopped()).count()
    }

    fn is_busy(&self) -> bool {
        self.words.values().any(|word| !word.report.stopped)
    }

    fn is_settled(&self, verdict: Verdict) -> bool {
        match (self.state, verdict) {
            (State::Available { .. }, Verdict::Parked { .. }) => true,
            (State::Away { parked_since }, Verdict::Parked { .. }) => parked_since.is_some(),
            (State::Away { parked_since }, _) => parked_since.is_none(),
            (State::Paused { parked_since, .. }, Verdict::Parked { .. }) => parked_since.is_some(),
            (State::Paused { parked_since, .. }, Verdict::Attended(_)) => parked_since.is_none(),
            (State::Leaving { .. }, _) => self.live() > 0,
            (State::Available { .. } | State::Paused { .. }, _) => false,
        }
    }

    /// When it has to be looked at again.
    pub(super) fn next(&self, car: &Machine, links: &Links) -> Ms {
        if !self.is_settled(car.verdict) {
            return 0;
        }
        let policy = self.state.deadline(Will::Yes, &terms(), RESUME_WITHIN);
        let policy = policy.map_or(NEVER, |at| car.clock.reaches(at));
        let outlook = self.outlook();
        let attempts = self.attempts.values().map(|actor| actor.next(car, outlook, &self.turn));
        let session = match &self.session {
            None => self.connect_at,
            Some(session) => {
                let timer = if session.welcome {
                    car.clock.reaches(self.beat_at(session))
                } else {
                    session.opened + PATIENCE
                };
                timer.min(links.next_for_car(session.connection))
            }
        };
        attempts.chain([policy, session]).min().unwrap_or(NEVER)
    }

    /// One turn; every change of the first fence, in order, for the guard.
    pub(super) fn turn(&mut self, now: Ms, car: &mut Machine, links: &mut Links) -> Vec<Option<Boottime>> {
        let mut fences = Vec::new();
        loop {
            let judged = self.judge(now, car, links);
            let received = self.receive(now, car, links);
            let moved = self.move_attempts(now, car, links, &mut fences);
            if !(judged || received || moved) {
                break;
            }
        }
        self.connect(now, car, links);
        fences
    }

    fn publish(&mut self, fences: &mut Vec<Option<Boottime>>) {
        let first = self.attempts.values().filter_map(Actor::fence).min();
        if std::mem::replace(&mut self.guarded, first) != first {
            fences.push(first);
        }
    }

    /// Whether the car may work; the cluster is told of every change.
    fn judge(&mut self, now: Ms, car: &Machine, links: &mut Links) -> bool {
        let (boot, before) = (car.clock.at(now), self.state);
        let judged = parked::Event::Judged {
            verdict: car.verdict,
            will: Will::Yes,
            resume_within: RESUME_WITHIN,
        };
        self.state = parked::step(self.state, judged, boot, &terms()).0;
        if self.live() == 0 {
            self.state = parked::step(self.state, parked::Event::Cleared, boot, &terms()).0;
        }
        let standing = match self.state {
            State::Available { .. } => Standing::Available,
            State::Paused { .. } => Standing::Paused,
            State::Leaving { until, .. } => Standing::Leaving {
                notice: until.since(boot),
            },
            State::Away { .. } => Standing::Away,
        };
        // The notice counts down by itself; it is told once.
        if std::mem::discriminant(&standing) != std::mem::discriminant(&self.said) {
            self.said = standing;
            self.send(now, links, Up::State(standing));
        }
        self.state != before
    }

    fn send(&mut self, now: Ms, links: &mut Links, message: Up) {
        match &mut self.session {
            Some(session) if session.welcome => links.send_up(now, session.connection, message),
            Some(session) => session.waits.push(message),
            None => {}
        }
    }

    /// Keeps what is newer than what was said; whether it is.
    fn keep(&mut self, report: &Report) -> bool {
        let known = self.words.get(&report.uid);
        let newer = known.is_none_or(|word| word.report.revision < report.revision);
        if newer {
            let word = Word {
                report: report.clone(),
                acknowledged: false,
                heartbeats: 0,
            };
            self.words.insert(report.uid.clone(), word);
        }
        newer
    }

    fn tell(&mut self, now: Ms, report: Report, links: &mut Links) {
        if self.keep(&report) {
            self.send(now, links, Up::Status(report));
        }
    }

    fn move_attempts(
        &mut self,
        now: Ms,
        car: &mut Machine,
        links: &mut Links,
        fences: &mut Vec<Option<Boottime>>,
    ) -> bool {
        let (outlook, mut moved) = (self.outlook(), false);
        let uids: Vec<_> = self.attempts.keys().cloned().collect();
        for uid in uids {
            let Some(actor) = self.attempts.get_mut(&uid) else {
                continue;
            };
            moved |= actor.step(now, car, outlook, &self.turn);
            let reports = std::mem::take(&mut actor.reports);
            for report in reports {
                self.tell(now, report, links);
            }
            self.publish(fences);
        }
        let live: BTreeSet<_> = (self.live() > 0).then_some(0).into_iter().collect();
        if self.turn.live != live {
            self.turn = Turn {
                live,
                since: car.clock.at(now),
            };
            moved = true;
        }
        let session = self.session.as_ref().filter(|session| session.welcome);
        let Some(over) = session.map(|session| session.connection) else {
            return moved;
        };
        for (uid, actor) in &mut self.attempts {
            if actor.uploads && actor.sent_over != Some(over) {
                actor.sent_over = Some(over);
                links.send_up(now, over, Up::Output(uid.clone()));
            }
        }
        moved
    }

    fn receive(&mut self, now: Ms, car: &mut Machine, links: &mut Links) -> bool {
        let mut any = false;
        while let Some(over) = self.session.as_ref().map(|session| session.connection) {
            let Some(arrival) = links.reaches_car(now, over) else {
                break;
            };
            any = true;
            match arrival {
                Arrival::End => self.leave(now, links),
                Arrival::Message(message) => self.take(now, car, links, message),
            }
        }
        any
    }

    fn take(&mut self, now: Ms, car: &mut Machine, links: &mut Links, message: Down) {
        let receipt = car.clock.at(now);
        let counts_receipt = car.twist == Some(Twist::CarCountsFromReceipt);
        let from = |sent: Boottime| if counts_receipt { receipt } else { sent };
        match message {
            Down::Welcome => {
                let Some(session) = &mut self.session else { return };
                session.welcome = true;
                let (waits, over) = (std::mem::take(&mut session.waits), session.connection);
                for message in waits {
                    links.send_up(now, over, message);
                }
                // In truth by an acknowledgement that comes with it.
                self.heard.acknowledged(from(session.hello), true);
                self.tries = 0;
                self.beat(receipt, now, links);
            }
            Down::HeartbeatAck(seq, proven) => {
                let Some(session) = &mut self.session else { return };
                while let Some((first, sent)) = session.unanswered.front().copied().filter(|(first, _)| *first <= seq) {
                    session.unanswered.pop_front();
                    if first == seq {
                        self.heard.acknowledged(from(sent), proven);
                    }
                }
            }
            Down::Run(uid) => self.admit(now, car, links, uid),
            Down::Stop(uid, grace, reason) => self.stop(now, car, links, uid, grace, reason),
            Down::Forget(uid) => {
                // While the journal is written the actor does not take it; it has ended, so nothing else is written.
                car.journal.remove(&uid);
                // Programs end when nobody holds them.
                car.programs.remove(&uid);
                self.attempts.remove(&uid);
                self.words.remove(&uid);
                self.taken.insert(uid);
            }
            Down::StatusAck(uid, revision) => {
                if let Some(word) = self.words.get_mut(&uid).filter(|word| word.report.revision == revision) {
                    word.acknowledged = true;
                }
            }
            Down::Stored(uid, stored) => {
                let Some(actor) = self.attempts.get_mut(&uid) else {
                    return;
                };
                if !std::mem::take(&mut actor.uploads) {
                    return;
                }
                actor.inbox.push_back(if stored {
                    Event::Uploaded
                } else {
                    Event::UploadRefused {
                        reason: "OutputRefused".to_owned(),
                        message: String::new(),
                    }
                });
            }
        }
    }

    fn admit(&mut self, now: Ms, car: &Machine, links: &mut Links, uid: PodUid) {
        if self.attempts.contains_key(&uid) {
            return;
        }
        if self.taken.contains(&uid) {
            return self.disown(now, car, links, uid);
        }
        let plan = car.plan();
        let begun = if self.outlook().posture == Posture::Run {
            Attempt::admit(&plan, self.heard, car.now(now))
        } else {
            Attempt::refuse(&plan, reason::NOT_PARKED, "", car.now(now))
        };
        let actor = Actor::new(uid.clone(), plan, begun);
        self.attempts.insert(uid, actor);
    }

    fn stop(&mut self, now: Ms, car: &Machine, links: &mut Links, uid: PodUid, grace: Duration, reason: &str) {
        let (reason, message) = (reason.to_owned(), String::new());
        if let Some(actor) = self.attempts.get_mut(&uid) {
            actor.inbox.push_back(Event::Stop { grace, reason, message });
            return;
        }
        self.taken.insert(uid.clone());
        self.disown(now, car, links, uid);
    }

    fn disown(&mut self, now: Ms, car: &Machine, links: &mut Links, uid: PodUid) {
        let report = Report {
            uid,
            revision: u64::try_from(car.now(now).wall_ms).unwrap_or(1),
            phase: AttemptPhase::Disrupted,
            reason: "NotInVehicle".to_owned(),
            message: String::new(),
            stopped: true,
        };
        self.tell(now, report, links);
    }

    fn leave(&mut self, now: Ms, links: &mut Links) {
        if let Some(session) = self.session.take() {
            links.leave_up(now, session.connection, true);
            self.connect_at = now + backoff(self.tries) / 2;
            self.tries += 1;
        }
    }

    fn interval(&self) -> Duration {
        if self.is_busy() { HEARTBEAT_BUSY } else { HEARTBEAT_IDLE }
    }

    fn patience(&self) -> Duration {
        if self.is_busy() {
            HEARTBEAT_BUSY * 3 / 2
        } else {
            HEARTBEAT_IDLE / 2
        }
    }

    /// When the next heartbeat is due, or the session is given up.
    fn beat_at(&self, session: &Session) -> Boottime {
        let due = session.last_sent + self.interval();
        let given_up = session.unanswered.front().map(|(_, sent)| *sent + self.patience());
        given_up.map_or(due, |at| at.min(due))
    }

    /// Keeps a session, and in it the heartbeats.
    fn connect(&mut self, now: Ms, car: &Machine, links: &mut Links) {
        let boot = car.clock.at(now);
        let Some(session) = &self.session else {
            if now >= self.connect_at {
                self.open(now, boot, car, links);
            }
            return;
        };
        let given_up = session.unanswered.front().map(|(_, sent)| *sent + self.patience());
        let late = !session.welcome && now >= session.opened + PATIENCE;
        if late || given_up.is_some_and(|at| boot >= at) {
            return self.leave(now, links);
        }
        if !session.welcome || boot < session.last_sent + self.interval() {
            return;
        }
        self.beat(boot, now, links);
    }

    fn beat(&mut self, boot: Boottime, now: Ms, links: &mut Links) {
        let Some(session) = &mut self.session else { return };
        session.seq += 1;
        session.last_sent = boot;
        session.unanswered.push_back((session.seq, boot));
        let over = session.connection;
        links.send_up(now, over, Up::Heartbeat(session.seq));
        for word in self.words.values_mut().filter(|word| !word.acknowledged) {
            word.heartbeats += 1;
            if word.heartbeats >= 2 {
                word.heartbeats = 0;
                links.send_up(now, over, Up::Status(word.report.clone()));
            }
        }
    }

    fn open(&mut self, now: Ms, boot: Boottime, car: &Machine, links: &mut Links) {
        let connection = links.open(now, car.n, car.route);
        let reports = self.words.values().map(|word| word.report.clone()).collect();
        links.send_up(now, connection, Up::Hello(self.said, reports));
        self.session = Some(Session {
            connection,
            opened: now,
            hello: boot,
            welcome: false,
            waits: Vec::new(),
            seq: 0,
            last_sent: boot,
            unanswered: VecDeque::new(),
        });
    }
}
