//! What holds for every vehicle, whatever its car says and in whatever order things happen.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::Boottime;

const UIDS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Input {
    Wait(u64),
    Bind(usize, u8),
    Delete(usize),
    Remove(usize),
    Connect(Vec<(usize, u64, u8, bool)>, u8),
    Close,
    Heartbeat,
    State(u8),
    Report(usize, u64, u8, bool),
    Seal(usize, bool),
    Refuse(usize),
    Hold(usize),
    FailedByOthers(usize),
    Brake(bool),
    /// The API server takes what the adapter wants to write.
    Write,
}

fn input() -> impl Strategy<Value = Input> {
    let i = 0..UIDS.len();
    let word = (i.clone(), 0..6_u64, 0..7_u8, any::<bool>());
    prop_oneof![
        4 => (1..60_000_u64).prop_map(Input::Wait),
        3 => (i.clone(), 0..3_u8).prop_map(|(i, k)| Input::Bind(i, k)),
        1 => i.clone().prop_map(Input::Delete),
        1 => i.clone().prop_map(Input::Remove),
        2 => (prop::collection::vec(word.clone(), 0..3), 0..4_u8).prop_map(|(r, s)| Input::Connect(r, s)),
        1 => Just(Input::Close),
        3 => Just(Input::Heartbeat),
        2 => (0..4_u8).prop_map(Input::State),
        4 => word.prop_map(|(i, r, p, s)| Input::Report(i, r, p, s)),
        1 => (i.clone(), any::<bool>()).prop_map(|(i, s)| Input::Seal(i, s)),
        1 => i.clone().prop_map(Input::Refuse),
        1 => i.clone().prop_map(Input::Hold),
        1 => i.prop_map(Input::FailedByOthers),
        2 => any::<bool>().prop_map(Input::Brake),
        6 => Just(Input::Write),
    ]
}

fn standing(n: u8) -> Standing {
    match n {
        0 => Standing::Available,
        1 => Standing::Paused,
        2 => Standing::Leaving {
            notice: Duration::from_secs(8),
        },
        _ => Standing::Away,
    }
}

fn report((i, revision, phase, stopped): (usize, u64, u8, bool)) -> Report {
    let phase = match phase {
        0 => AttemptPhase::Pending,
        1 => AttemptPhase::Running,
        2 => AttemptPhase::Frozen,
        3 => AttemptPhase::Succeeded,
        4 => AttemptPhase::Failed,
        5 => AttemptPhase::Disrupted,
        _ => AttemptPhase::Refused,
    };
    Report {
        uid: uid(i),
        revision,
        phase,
        reason: "R".into(),
        message: String::new(),
        stopped,
    }
}

fn uid(i: usize) -> PodUid {
    UIDS[i].parse().unwrap()
}

/// A vehicle, its Pods in the API, and what has been true of them.
struct World {
    facts: Facts,
    now: Boottime,
    epoch: u64,
    api: BTreeMap<PodUid, PodFacts>,
    heard: Boottime,
    promise: Option<Boottime>,
    ran: BTreeMap<PodUid, bool>,
    fenced: std::collections::BTreeSet<PodUid>,
}

impl World {
    fn new() -> Self {
        let mut facts = Facts::new(Standing::Away, false, Boottime::default());
        let terms = Terms {
            suspect_after: Duration::from_secs(10),
            keep_node_for: Duration::from_mins(10),
            revoked: false,
            eligible: Judgement::Yes,
        };
        facts.step(Event::Terms(terms), Boottime::default());
        facts.step(Event::PodsSynced, Boottime::default());
        let now = Boottime::default();
        Self {
            facts,
            now,
            epoch: 0,
            api: BTreeMap::new(),
            heard: now,
            promise: None,
            ran: BTreeMap::new(),
            fenced: std::collections::BTreeSet::default(),
        }
    }

    fn change(&mut self, i: usize, change: impl FnOnce(&mut PodFacts)) {
        if let Some(pod) = self.api.get_mut(&uid(i)) {
            change(pod);
            let pod = pod.clone();
            self.facts.step(Event::Pod(pod), self.now);
        }
    }

    fn said(&mut self, s: Standing) {
        self.heard = self.now;
        self.promise = match s {
            Standing::Available | Standing::Paused => None,
            Standing::Leaving { notice } => Some(self.now + notice),
            Standing::Away => Some(self.promise.map_or(self.now, |p| p.min(self.now))),
        };
    }

    fn reported(&mut self, r: &Report) {
        self.heard = self.now;
        if r.phase != AttemptPhase::Refused && self.api.contains_key(&r.uid) {
            self.ran.insert(r.uid.clone(), true);
        }
    }

    fn input(&mut self, input: Input) {
        let open = matches!(self.facts.link(), Link::Open { .. });
        match input {
            Input::Wait(ms) => self.now = self.now + Duration::from_millis(ms),
            Input::Bind(i, kind) => {
                if self.api.contains_key(&uid(i)) || self.ran.contains_key(&uid(i)) {
                    return;
                }
                let kind = match kind {
                    0 => PodKind::FleetJob,
                    1 => PodKind::DaemonSet,
                    _ => PodKind::Other { owner: "o".into() },
                };
                let pod = PodFacts {
                    uid: uid(i),
                    kind,
                    fence: (i != 1).then_some(Duration::from_secs(20)),
                    grace: Duration::from_secs(3),
                    deletion: None,
                    phase: PodPhase::Pending,
                    disrupted: false,
                    stopped: false,
                    unheard: false,
                    refused: None,
                    has_output: i == 2,
                };
                self.api.insert(uid(i), pod);
                self.ran.insert(uid(i), false);
                self.change(i, |_| {});
                self.facts.step(Event::Judged(uid(i), None), self.now);
            }
            Input::Delete(i) => self.change(i, |p| p.deletion = Some(p.grace)),
            Input::Remove(i) => {
                if self.api.remove(&uid(i)).is_some() {
                    self.facts.step(Event::PodGone(uid(i)), self.now);
                }
            }
            Input::Connect(reports, s) => {
                self.epoch += 1;
                self.said(standing(s));
                let reports: Vec<_> = reports.into_iter().map(report).collect();
                for r in &reports {
                    self.reported(r);
                }
                self.facts.step(
                    Event::Connected {
                        epoch: self.epoch,
                        standing: standing(s),
                        reports,
                    },
                    self.now,
                );
            }
            Input::Close => self.facts.step(Event::Closed(self.epoch), self.now),
            Input::Heartbeat if open => {
                self.heard = self.now;
                self.facts.step(Event::Heard, self.now);
            }
            Input::State(s) if open => {
                self.said(standing(s));
                self.facts.step(Event::State(standing(s)), self.now);
            }
            Input::Report(i, r, p, s) if open => {
                let report = report((i, r, p, s));
                self.reported(&report);
                self.facts.step(Event::Report(report), self.now);
            }
            Input::Heartbeat | Input::State(_) | Input::Report(..) => {}
            Input::Seal(i, s) => self.facts.step(Event::Sealed(uid(i), s), self.now),
            Input::Refuse(i) => {
                if self
                    .facts
                    .attempts()
                    .get(&uid(i))
                    .is_some_and(|a| a.report.is_none() && !a.maybe_running)
                {
                    let refusal = Refusal {
                        reason: "OutOfcpu".into(),
                        message: String::new(),
                    };
                    self.facts.step(Event::Judged(uid(i), Some(refusal)), self.now);
                }
            }
            Input::Hold(i) => self.facts.step(Event::HeldUntil(uid(i), self.now), self.now),
            Input::FailedByOthers(i) => self.change(i, |p| {
                if !p.phase.is_terminal() {
                    p.phase = PodPhase::Failed;
                }
            }),
            Input::Brake(holds) => self.facts.step(Event::Braked(holds), self.now),
            Input::Write => self.write(),
        }
    }

    fn settle(&mut self) -> Desired {
        self.facts.settle(self.now, |_| None);
        self.facts.desired(self.now)
    }

    /// What the adapter's writers do, and the API server after them.
    fn write(&mut self) {
        let desired = self.settle();
        for (uid, report) in &desired.pods {
            let Some(pod) = self.api.get_mut(uid) else { continue };
            *pod = written(pod, report);
            let pod = pod.clone();
            self.facts.step(Event::Pod(pod), self.now);
            if let Some(revision) = report.revision {
                self.facts.step(Event::Recorded(uid.clone(), revision), self.now);
            }
            match report.delete {
                Delete::No => {}
                Delete::Graceful(grace) => {
                    let i = UIDS.iter().position(|u| *u == uid.as_str()).unwrap();
                    self.change(i, |p| p.deletion = Some(grace));
                }
                Delete::Confirm => {
                    self.api.remove(uid);
                    self.facts.step(Event::PodGone(uid.clone()), self.now);
                }
            }
        }
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let desired = self.settle();
        prop_assert_eq!(&desired, &self.facts.desired(self.now), "asking changes nothing");
        if let Some(wake) = desired.wake_at {
            prop_assert!(wake > self.now, "it never wakes in the past");
        }
        if self.facts.held() {
            prop_assert!(!self.facts.suspected(), "held or suspected, never both");
            prop_assert!(
                self.facts.quiet(self.now).is_some_and(|q| q.silent && q.at_stake),
                "only a silent car with something at stake is held"
            );
        } else if self.facts.quiet(self.now).is_some_and(|q| q.silent) {
            prop_assert!(self.facts.suspected(), "a silent car that is not held is suspected");
        }
        for (uid, report) in &desired.pods {
            let pod = &self.api[uid];
            if self.facts.held() && !pod.unheard {
                prop_assert_eq!(report.unheard, None, "nothing is given up while it is held");
            }
            if pod.phase.is_terminal() {
                prop_assert_eq!(report.phase, pod.phase, "terminal stays terminal");
            }
            if pod.phase == PodPhase::Running {
                prop_assert!(
                    report.phase != PodPhase::Pending || report.refused.is_some(),
                    "a phase never goes back"
                );
            }
            if report.stopped == Some(StoppedBy::Fenced) && self.fenced.insert(uid.clone()) {
                let own = pod.fence.map(|f| self.heard + f);
                let earliest = [own, self.promise].into_iter().flatten().min();
                prop_assert!(
                    earliest.is_some_and(|e| self.now >= e + FENCE_MARGIN),
                    "fenced before the fence and its margin"
                );
            }
            if report.phase.is_terminal() && !pod.phase.is_terminal() {
                prop_assert!(
                    report.stopped.is_some(),
                    "our own end comes with the word that nothing is alive"
                );
            }
            if report.delete == Delete::Confirm {
                prop_assert!(
                    pod.phase.is_terminal() && pod.stopped,
                    "only what is recorded as stopped is confirmed"
                );
            }
            if report.refused.is_some() {
                prop_assert_eq!(report.disruption, None, "a refusal is no disruption");
            }
            let once = written(pod, report);
            prop_assert_eq!(&once, &written(&once, report), "the same write again changes nothing");
        }
        for command in &desired.commands {
            if let Command::Run(uid) = command {
                prop_assert_eq!(self.ran.get(uid), Some(&false), "what has run is never run again");
                prop_assert!(!self.api[uid].phase.is_terminal());
            }
        }
        for command in desired.commands {
            self.facts.step(Event::Sent(command), self.now);
        }
        prop_assert_eq!(self.settle().commands, vec![], "what has been told is not told again");
        Ok(())
    }
}

/// The Pod as it stands after its status was written.
fn written(pod: &PodFacts, report: &PodReport) -> PodFacts {
    PodFacts {
        phase: report.phase,
        stopped: pod.stopped || report.stopped.is_some(),
        unheard: report.unheard.unwrap_or(pod.unheard),
        disrupted: pod.disrupted || report.disruption.is_some(),
        refused: report.refused.clone().or_else(|| pod.refused.clone()),
        ..pod.clone()
    }
}

proptest! {
    #[test]
    fn vehicle_keeps_its_promises(inputs in prop::collection::vec(input(), 1..60)) {
        let mut world = World::new();
        for input in inputs {
            world.input(input);
            world.check()?;
        }
    }
}

/// Found by the property: with its Pod goes the Run whose missing answer made the car silent.
#[test]
fn run_that_nobody_waits_for_any_more_holds_no_car() {
    let inputs = [
        Input::Connect(vec![(0, 1, 0, true)], 0),
        Input::Bind(0, 0),
        Input::Connect(Vec::new(), 0),
        Input::Brake(true),
        Input::Bind(2, 0),
        Input::Wait(3000),
        Input::Remove(2),
    ];
    let mut world = World::new();
    for input in inputs {
        world.input(input);
        world.check().unwrap();
    }
}
