//! What one vehicle's machine does in the cases that its tables name.

use std::time::Duration;

use super::*;
use crate::clock::Boottime;
use crate::names::{reason, taint};

mod braked;
mod fences;
mod flapping;
mod returns;

fn at(seconds: f64) -> Boottime {
    Boottime(Duration::from_secs_f64(seconds))
}

fn uid(text: &str) -> PodUid {
    text.parse().unwrap()
}

fn terms() -> Terms {
    Terms {
        suspect_after: Duration::from_secs(10),
        keep_node_for: Duration::from_mins(10),
        revoked: false,
        eligible: Judgement::Yes,
    }
}

fn pod(name: &str) -> PodFacts {
    PodFacts {
        uid: uid(name),
        kind: PodKind::FleetJob,
        fence: Some(Duration::from_secs(30)),
        grace: Duration::from_secs(30),
        deletion: None,
        phase: PodPhase::Pending,
        disrupted: false,
        stopped: false,
        unheard: false,
        refused: None,
        has_output: false,
    }
}

fn report(name: &str, revision: u64, phase: AttemptPhase, stopped: bool) -> Report {
    Report {
        uid: uid(name),
        revision,
        phase,
        reason: String::new(),
        message: String::new(),
        stopped,
    }
}

/// A car under test, with the actor's habits: settle after each event, and commands are sent as soon as they are wanted.
struct Car {
    facts: Facts,
    now: Boottime,
    sent: Vec<Command>,
}

impl Car {
    fn connected() -> Self {
        let mut car = Self {
            facts: Facts::new(Standing::Away, false, at(0.0)),
            now: at(0.0),
            sent: Vec::new(),
        };
        car.on(Event::Terms(terms()));
        car.on(Event::PodsSynced);
        car.connect(1, vec![]);
        car
    }

    fn connect(&mut self, epoch: u64, reports: Vec<Report>) {
        self.on(Event::Connected {
            epoch,
            standing: Standing::Available,
            reports,
        });
    }

    fn on(&mut self, event: Event) -> &mut Self {
        self.facts.step(event, self.now);
        self.turn();
        self
    }

    fn turn(&mut self) {
        self.facts.settle(self.now, |_| None);
        for command in self.desired().commands {
            self.facts.step(Event::Sent(command.clone()), self.now);
            self.sent.push(command);
        }
    }

    fn at(&mut self, seconds: f64) -> &mut Self {
        self.now = at(seconds);
        self.turn();
        self
    }

    fn desired(&self) -> Desired {
        self.facts.desired(self.now)
    }

    fn pod(&self, name: &str) -> PodReport {
        self.desired().pods.get(&uid(name)).unwrap().clone()
    }

    /// Binds a Pod, admits it and lets the car run it.
    fn running(&mut self, name: &str) {
        self.bound(name);
        self.on(Event::Report(report(name, 1, AttemptPhase::Running, false)));
        self.on(Event::Pod(PodFacts {
            phase: PodPhase::Running,
            ..pod(name)
        }));
    }

    fn bound(&mut self, name: &str) {
        self.on(Event::Pod(pod(name)));
        self.on(Event::Judged(uid(name), None));
    }

    fn take_sent(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.sent)
    }

    fn node(&self) -> NodeState {
        match self.desired().node {
            NodeWish::Present(state) | NodeWish::Keep(state) => state,
            NodeWish::Absent => panic!("the Node should be there"),
        }
    }
}

#[test]
fn vehicle_never_heard_has_no_node() {
    let mut facts = Facts::new(Standing::Away, false, at(0.0));
    facts.step(Event::Terms(terms()), at(0.0));
    facts.settle(at(0.0), |_| None);
    let desired = facts.desired(at(0.0));
    assert_eq!((desired.phase, desired.node), (Phase::Away, NodeWish::Absent));
}

#[test]
fn vehicle_connected_and_willing_is_available_with_a_ready_node() {
    let car = Car::connected();
    assert_eq!(car.desired().phase, Phase::Available);
    let node = car.node();
    assert!(
        node.ready && node.taints.is_empty() && node.eligible.is_yes() && node.heard == Some(Hearing::Heard),
        "{node:?}"
    );
}

#[test]
fn vehicle_that_a_term_excludes_has_no_node_and_a_known_one_is_tainted() {
    let mut car = Car::connected();
    let no = Judgement::no("NotEligible", "leaves within the hour");
    car.at(1.0).on(Event::Terms(Terms {
        eligible: no.clone(),
        ..terms()
    }));
    assert!(matches!(car.desired().node, NodeWish::Keep(_)));
    assert_eq!(car.node().taints, vec![taint::INELIGIBLE]);
    assert_eq!(car.desired().phase, Phase::Available);
    car.facts.step(Event::Heard, at(601.5));
    assert_eq!(car.at(601.5).desired().node, NodeWish::Absent);
    assert_eq!(car.desired().eligible, no);
}

#[test]
fn pod_admitted_is_run_once_per_connection_until_answered() {
    let mut car = Car::connected();
    car.bound("a");
    assert_eq!(car.take_sent(), vec![Command::Run(uid("a"))]);
    car.on(Event::Heard);
    assert_eq!(car.take_sent(), vec![]);
    car.connect(2, vec![]);
    assert_eq!(
        car.take_sent(),
        vec![Command::Run(uid("a"))],
        "not answered, so sent again"
    );
    car.on(Event::Report(report("a", 1, AttemptPhase::Pending, false)));
    car.connect(3, vec![report("a", 1, AttemptPhase::Pending, false)]);
    assert_eq!(car.take_sent(), vec![], "the car knows it");
}

#[test]
fn pod_not_judged_is_not_run() {
    let mut car = Car::connected();
    car.on(Event::Pod(pod("a")));
    assert_eq!(car.desired().judge, vec![uid("a")]);
    assert_eq!(car.take_sent(), vec![]);
}

#[test]
fn attempt_that_succeeds_waits_for_its_output() {
    let mut car = Car::connected();
    car.running("a");
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Running,
        has_output: true,
        ..pod("a")
    }));
    car.on(Event::Report(report("a", 2, AttemptPhase::Succeeded, true)));
    assert_eq!(car.pod("a").phase, PodPhase::Running);
    assert_eq!(car.desired().check_output, vec![uid("a")]);
    car.on(Event::Sealed(uid("a"), true));
    let end = car.pod("a");
    assert_eq!(
        (end.phase, end.stopped),
        (PodPhase::Succeeded, Some(StoppedBy::Reported))
    );
}

#[test]
fn attempt_whose_output_is_missing_is_a_disruption() {
    let mut car = Car::connected();
    car.running("a");
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Running,
        has_output: true,
        ..pod("a")
    }));
    car.on(Event::Report(report("a", 2, AttemptPhase::Succeeded, true)));
    car.on(Event::Sealed(uid("a"), false));
    let end = car.pod("a");
    assert_eq!((end.phase, end.disruption), (PodPhase::Failed, Some("OutputMissing")));
}

#[test]
fn attempt_that_failed_and_still_lives_is_not_failed_yet() {
    let mut car = Car::connected();
    car.running("a");
    car.on(Event::Report(report("a", 2, AttemptPhase::Failed, false)));
    assert_eq!(car.pod("a").phase, PodPhase::Running);
    car.on(Event::Report(report("a", 3, AttemptPhase::Failed, true)));
    let end = car.pod("a");
    assert_eq!(
        (end.phase, end.disruption, end.stopped),
        (PodPhase::Failed, None, Some(StoppedBy::Reported))
    );
}

#[test]
fn attempt_whose_output_is_on_its_way_is_still_running() {
    let mut car = Car::connected();
    car.running("a");
    car.take_sent();
    car.on(Event::Report(report("a", 2, AttemptPhase::Running, true)));
    let pod_report = car.pod("a");
    assert_eq!((pod_report.phase, pod_report.stopped), (PodPhase::Running, None));
    let deleted = PodFacts {
        phase: PodPhase::Running,
        deletion: Some(Duration::from_secs(30)),
        ..pod("a")
    };
    car.on(Event::Pod(deleted));
    assert_eq!(car.take_sent().len(), 1, "a deletion ends the upload");
}

#[test]
fn attempt_lost_with_its_output_on_its_way_is_fenced() {
    let mut car = Car::connected();
    car.running("a");
    car.on(Event::Report(report("a", 2, AttemptPhase::Running, true)));
    car.at(1.0).on(Event::Closed(1));
    assert_eq!(car.at(36.0).pod("a").stopped, Some(StoppedBy::Fenced));
}

#[test]
fn status_is_acknowledged_once_recorded_and_forgotten_once_terminal() {
    let mut car = Car::connected();
    car.running("a");
    car.take_sent();
    car.on(Event::Recorded(uid("a"), 1));
    assert_eq!(
        car.take_sent(),
        vec![Command::Ack {
            uid: uid("a"),
            revision: 1
        }]
    );
    car.on(Event::Report(report("a", 2, AttemptPhase::Succeeded, true)));
    assert_eq!(car.take_sent(), vec![]);
    car.on(Event::Recorded(uid("a"), 2));
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Succeeded,
        stopped: true,
        ..pod("a")
    }));
    assert_eq!(
        car.take_sent(),
        vec![
            Command::Ack {
                uid: uid("a"),
                revision: 2
            },
            Command::Forget(uid("a"))
        ]
    );
    assert_eq!(car.pod("a").phase, PodPhase::Succeeded);
}

#[rstest::rstest]
#[case::idle(false, 49.0, 50.0)]
#[case::busy(true, 9.0, 10.0)]
fn silence_on_an_open_stream_makes_suspect_in_time(#[case] busy: bool, #[case] before: f64, #[case] after: f64) {
    let mut car = Car::connected();
    if busy {
        car.running("a");
    }
    assert!(!car.at(before).facts.suspected());
    assert_eq!(car.desired().wake_at, Some(at(after)));
    assert!(car.at(after).facts.suspected());
    let node = car.node();
    assert!(node.ready, "suspicion is never Ready=False");
    assert_eq!(
        (node.taints, node.heard),
        (vec![taint::SUSPECT], Some(Hearing::Unheard))
    );
}

#[test]
fn closed_stream_makes_suspect_at_once_and_return_reasserts() {
    let mut car = Car::connected();
    car.running("a");
    car.at(1.0).on(Event::Closed(1));
    let unheard = car.pod("a");
    assert_eq!((unheard.phase, unheard.unheard), (PodPhase::Running, Some(true)));
    assert_eq!(unheard.unready, Some(reason::VEHICLE_UNHEARD));
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Running,
        unheard: true,
        ..pod("a")
    }));
    car.at(5.0)
        .connect(2, vec![report("a", 1, AttemptPhase::Running, false)]);
    let back = car.pod("a");
    assert_eq!((back.unheard, back.unready), (Some(false), None));
    assert!(car.at(6.0).node().taints.is_empty());
}

#[test]
fn close_of_an_older_connection_changes_nothing() {
    let mut car = Car::connected();
    car.connect(2, vec![]);
    car.on(Event::Closed(1));
    assert!(!car.facts.suspected());
}

#[test]
fn run_unanswered_makes_suspect_after_three_seconds() {
    let mut car = Car::connected();
    car.at(1.0).bound("a");
    assert!(!car.at(3.9).facts.suspected());
    assert!(car.at(4.0).facts.suspected());
    assert_eq!(car.pod("a").unheard, Some(true));
    car.on(Event::Report(report("a", 1, AttemptPhase::Pending, false)));
    assert!(!car.facts.suspected());
}

#[test]
fn run_never_answered_by_a_heard_car_ends_the_connection() {
    let mut car = Car::connected();
    car.at(1.0).bound("a");
    car.at(3.0).on(Event::Heard);
    assert!(!car.at(5.0).facts.suspected());
    assert_eq!(car.desired().close, None);
    car.facts.step(Event::Heard, at(31.0));
    assert!(car.at(31.0).desired().close.is_some());
}

#[test]
fn adapter_restart_is_not_silence() {
    let mut facts = Facts::new(Standing::Available, true, at(100.0));
    facts.step(Event::Terms(terms()), at(100.0));
    facts.step(
        Event::Pod(PodFacts {
            phase: PodPhase::Running,
            ..pod("a")
        }),
        at(100.0),
    );
    facts.step(Event::PodsSynced, at(100.0));
    facts.settle(at(129.0), |_| None);
    let desired = facts.desired(at(129.0));
    assert_eq!(desired.pods.get(&uid("a")).unwrap().unheard, None);
    assert!(matches!(desired.node, NodeWish::Present(NodeState { ready: true, .. })));
    facts.settle(at(130.0), |_| None);
    assert_eq!(
        facts.desired(at(130.0)).pods.get(&uid("a")).unwrap().unheard,
        Some(true)
    );
}

#[test]
fn attempt_without_fence_is_never_failed_on_silence() {
    let mut car = Car::connected();
    car.running("a");
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Running,
        fence: None,
        ..pod("a")
    }));
    let pod = car.at(1_000_000.0).pod("a");
    assert_eq!((pod.phase, pod.unheard), (PodPhase::Running, Some(true)));
    assert_eq!(car.desired().phase, Phase::Away);
    assert!(
        matches!(car.desired().node, NodeWish::Present(_)),
        "its Node stays as long as it is awaited"
    );
}

#[test]
fn car_back_without_an_attempt_that_ran_has_lost_it() {
    let mut car = Car::connected();
    car.running("a");
    car.take_sent();
    car.connect(2, vec![]);
    let end = car.at(0.1).on(Event::Heard).pod("a");
    assert_eq!(
        (end.phase, end.disruption),
        (PodPhase::Failed, Some(reason::VEHICLE_LOST))
    );
    assert_eq!(end.stopped, Some(StoppedBy::Reported));
    assert_eq!(car.take_sent(), vec![], "what has run is not run again");
}

#[test]
fn attempt_unknown_to_the_cluster_is_stopped_and_forgotten_once_pods_are_known() {
    let mut facts = Facts::new(Standing::Away, false, at(0.0));
    let connected = Event::Connected {
        epoch: 1,
        standing: Standing::Available,
        reports: vec![report("x", 1, AttemptPhase::Running, false)],
    };
    facts.step(connected, at(0.0));
    facts.settle(at(0.0), |_| None);
    assert_eq!(facts.desired(at(0.0)).commands, vec![]);
    facts.step(Event::PodsSynced, at(1.0));
    facts.settle(at(1.0), |_| None);
    let stop = Command::Stop {
        uid: uid("x"),
        grace: Duration::ZERO,
        reason: "PodGone",
    };
    assert_eq!(facts.desired(at(1.0)).commands, vec![stop.clone()]);
    facts.step(Event::Sent(stop), at(1.0));
    facts.step(Event::Report(report("x", 2, AttemptPhase::Disrupted, true)), at(1.1));
    facts.settle(at(1.1), |_| None);
    assert_eq!(facts.desired(at(1.1)).commands, vec![Command::Forget(uid("x"))]);
    facts.step(Event::Sent(Command::Forget(uid("x"))), at(1.1));
    facts.settle(at(1.1), |_| None);
    assert!(facts.attempts().is_empty());
}

#[test]
fn deleted_pod_is_stopped_then_failed_then_confirmed() {
    let mut car = Car::connected();
    car.running("a");
    car.take_sent();
    let deleted = PodFacts {
        phase: PodPhase::Running,
        deletion: Some(Duration::from_secs(30)),
        ..pod("a")
    };
    car.on(Event::Pod(deleted.clone()));
    let stop = |s| Command::Stop {
        uid: uid("a"),
        grace: Duration::from_secs(s),
        reason: "PodDeleted",
    };
    assert_eq!(car.take_sent(), vec![stop(30)]);
    assert_eq!(car.pod("a").delete, Delete::No, "a timer alone never confirms");
    car.on(Event::Pod(PodFacts {
        deletion: Some(Duration::from_secs(5)),
        ..deleted.clone()
    }));
    assert_eq!(car.take_sent(), vec![stop(5)], "a second DELETE may shorten the grace");
    car.on(Event::Report(report("a", 2, AttemptPhase::Disrupted, true)));
    let end = car.pod("a");
    assert_eq!(
        (end.phase, end.disruption, end.delete),
        (PodPhase::Failed, None, Delete::No)
    );
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Failed,
        stopped: true,
        ..deleted
    }));
    assert_eq!(car.pod("a").delete, Delete::Confirm);
}

#[test]
fn deleted_pod_that_was_never_sent_needs_no_car() {
    let mut car = Car::connected();
    car.on(Event::State(Standing::Paused));
    car.on(Event::Pod(PodFacts {
        deletion: Some(Duration::from_secs(30)),
        ..pod("a")
    }));
    assert_eq!(
        (car.pod("a").phase, car.pod("a").stopped),
        (PodPhase::Failed, Some(StoppedBy::Reported))
    );
}

#[test]
fn deleted_pod_of_an_unheard_car_waits_for_the_fence() {
    let mut car = Car::connected();
    car.running("a");
    car.at(1.0).on(Event::Closed(1));
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Running,
        deletion: Some(Duration::from_secs(1)),
        ..pod("a")
    }));
    assert_eq!(car.at(30.0).pod("a").phase, PodPhase::Running);
    assert_eq!(car.at(35.1).pod("a").stopped, Some(StoppedBy::Fenced));
}

#[test]
fn departure_goes_in_its_order() {
    let mut car = Car::connected();
    car.running("a");
    car.take_sent();
    car.at(1.0).on(Event::State(Standing::Leaving {
        notice: Duration::from_secs(10),
    }));
    let node = car.node();
    assert!(!node.ready);
    assert!(node.taints.contains(&taint::LEAVING));
    let notice = car.pod("a");
    assert_eq!(
        (notice.disruption, notice.unready),
        (Some(reason::VEHICLE_DEPARTED), Some(reason::VEHICLE_LEAVING))
    );
    assert_eq!((notice.phase, notice.delete), (PodPhase::Running, Delete::No));
    let disrupted = PodFacts {
        phase: PodPhase::Running,
        disrupted: true,
        ..pod("a")
    };
    car.at(2.0).on(Event::Pod(disrupted.clone()));
    assert_eq!(car.pod("a").delete, Delete::Graceful(Duration::from_secs(9)));
    let deleted = PodFacts {
        deletion: Some(Duration::from_secs(9)),
        ..disrupted
    };
    car.on(Event::Pod(deleted.clone()));
    assert_eq!(car.take_sent(), vec![], "the car stops its work by itself");
    car.on(Event::Report(report("a", 2, AttemptPhase::Disrupted, true)));
    let end = car.pod("a");
    assert_eq!(
        (end.phase, end.disruption),
        (PodPhase::Failed, Some(reason::VEHICLE_DEPARTED))
    );
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Failed,
        stopped: true,
        ..deleted
    }));
    assert_eq!(car.pod("a").delete, Delete::Confirm);
    car.on(Event::State(Standing::Away));
    assert_eq!(car.desired().phase, Phase::Away);
    assert!(car.node().ready, "Ready=False is only for a car that is leaving");
}

#[test]
fn departure_that_ends_in_silence_is_over_with_its_notice() {
    let mut car = Car::connected();
    car.running("a");
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Running,
        fence: None,
        ..pod("a")
    }));
    car.at(1.0).on(Event::State(Standing::Leaving {
        notice: Duration::from_secs(10),
    }));
    car.on(Event::Closed(1));
    assert_eq!(car.at(15.0).desired().phase, Phase::Leaving);
    assert_eq!(car.pod("a").phase, PodPhase::Running);
    let end = car.at(16.0).pod("a");
    assert_eq!((end.phase, end.stopped), (PodPhase::Failed, Some(StoppedBy::Fenced)));
    assert_eq!(car.desired().phase, Phase::Away);
}

#[test]
fn paused_car_stays_available_and_its_pods_are_not_ready() {
    let mut car = Car::connected();
    car.running("a");
    car.on(Event::State(Standing::Paused));
    assert_eq!(car.desired().phase, Phase::Available);
    assert_eq!(car.node().taints, vec![taint::PAUSED]);
    let pod = car.pod("a");
    assert_eq!((pod.unready, pod.disruption), (Some(reason::VEHICLE_PAUSED), None));
}

#[test]
fn refusal_of_a_fleet_job_pod_fails_at_once() {
    let mut car = Car::connected();
    car.bound("a");
    let refused = Report {
        reason: reason::OWNER_CONSENT_MISSING.into(),
        ..report("a", 1, AttemptPhase::Refused, false)
    };
    car.on(Event::Report(refused));
    let end = car.pod("a");
    assert_eq!(
        (end.phase, end.disruption, end.stopped),
        (PodPhase::Failed, None, Some(StoppedBy::Reported))
    );
    assert_eq!(end.refused.unwrap().reason, reason::OWNER_CONSENT_MISSING);
    assert_eq!(end.reason.as_deref(), Some(reason::OWNER_CONSENT_MISSING));
}

#[test]
fn refusal_of_a_plain_pod_is_held_until_its_back_off() {
    let mut car = Car::connected();
    let plain = PodFacts {
        kind: PodKind::Other { owner: "rs".into() },
        ..pod("a")
    };
    car.on(Event::Pod(plain));
    car.on(Event::Judged(
        uid("a"),
        Some(Refusal {
            reason: "OutOfcpu".into(),
            message: "too big".into(),
        }),
    ));
    assert_eq!(car.desired().hold, vec![uid("a")]);
    car.on(Event::HeldUntil(uid("a"), at(10.0)));
    assert_eq!(car.pod("a").phase, PodPhase::Pending);
    assert!(car.pod("a").refused.is_some());
    car.facts.step(Event::Heard, at(9.0));
    assert_eq!(car.at(9.0).pod("a").phase, PodPhase::Pending);
    assert_eq!(car.at(10.0).pod("a").phase, PodPhase::Failed);
    assert_eq!(car.take_sent(), vec![]);
}

#[test]
fn refusal_of_a_daemon_set_pod_is_held_for_good() {
    let mut car = Car::connected();
    car.on(Event::Pod(PodFacts {
        kind: PodKind::DaemonSet,
        ..pod("a")
    }));
    car.on(Event::Judged(
        uid("a"),
        Some(Refusal {
            reason: "ClassNotAccepted".into(),
            message: String::new(),
        }),
    ));
    assert_eq!(car.at(1_000.0).pod("a").phase, PodPhase::Pending);
    assert_eq!(car.desired().hold, vec![]);
}

#[test]
fn pod_bound_while_the_car_leaves_is_refused() {
    let mut car = Car::connected();
    car.on(Event::State(Standing::Leaving {
        notice: Duration::from_secs(5),
    }));
    car.bound("a");
    let end = car.pod("a");
    assert_eq!(end.refused.unwrap().reason, reason::NOT_PARKED);
    assert_eq!((end.phase, end.disruption), (PodPhase::Failed, None));
}

#[test]
fn pod_bound_to_an_unheard_car_is_given_back() {
    let mut car = Car::connected();
    car.at(1.0).on(Event::Closed(1));
    car.bound("a");
    let end = car.pod("a");
    assert_eq!((end.phase, end.stopped), (PodPhase::Failed, Some(StoppedBy::Reported)));
    assert_eq!(end.refused.unwrap().reason, reason::VEHICLE_UNHEARD);
}

#[test]
fn pod_ended_by_another_is_stopped_in_the_car_and_keeps_its_end() {
    let mut car = Car::connected();
    car.running("a");
    car.take_sent();
    car.on(Event::Pod(PodFacts {
        phase: PodPhase::Failed,
        ..pod("a")
    }));
    assert_eq!(
        car.take_sent(),
        vec![Command::Stop {
            uid: uid("a"),
            grace: Duration::ZERO,
            reason: "PodEnded"
        }]
    );
    assert_eq!(car.pod("a").stopped, None, "a terminal phase is no proof of death");
    car.on(Event::Report(report("a", 2, AttemptPhase::Disrupted, true)));
    let end = car.pod("a");
    assert_eq!(
        (end.phase, end.stopped, end.disruption),
        (PodPhase::Failed, Some(StoppedBy::Reported), None)
    );
}

#[test]
fn revoked_vehicle_is_closed_and_away() {
    let mut car = Car::connected();
    car.running("a");
    car.on(Event::Terms(Terms {
        revoked: true,
        ..terms()
    }));
    assert!(car.desired().close.is_some());
    assert_eq!(car.desired().phase, Phase::Away);
    car.at(1.0).on(Event::Closed(1));
    assert_eq!(car.pod("a").unheard, Some(true));
}

#[test]
fn away_looks_the_same_whether_told_or_silent() {
    let mut told = Car::connected();
    told.on(Event::State(Standing::Away));
    let mut silent = Car::connected();
    silent.at(1.0).on(Event::Closed(1));
    silent.at(602.0);
    told.facts.step(Event::Heard, at(599.0));
    told.at(599.0);
    assert_eq!(
        (told.desired().phase, told.desired().heard),
        (silent.desired().phase, silent.desired().heard)
    );
    assert_eq!(told.node().taints, vec![taint::INELIGIBLE]);
}
