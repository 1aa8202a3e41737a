//! The machine of [`super`], case by case.

mod ephemeral;
mod lifecycle;
mod promises;

use rstest::rstest;

use super::*;

fn plan(containers: &[(&str, bool)]) -> Plan {
    let role = |init: bool| if init { Role::Init } else { Role::Main };
    let containers = containers
        .iter()
        .map(|(name, init)| ContainerPlan::new(name, role(*init), Restart::Never));
    Plan {
        containers: containers.collect(),
        grace: Duration::from_secs(30),
        upload: true,
        run_unheard_for: None,
        once: false,
        active_deadline: None,
    }
}

/// What a car knows whose newest heartbeat that was acknowledged was sent then.
fn heard(second: Option<u64>, proven: bool) -> Heard {
    let mut heard = Heard::default();
    if let Some(second) = second {
        heard.acknowledged(now(second).boot, proven);
    }
    heard
}

fn one() -> Plan {
    plan(&[("main", false)])
}

/// One container without output, with this policy.
fn restarting(restart: Restart) -> Plan {
    Plan {
        containers: vec![ContainerPlan::new("main", Role::Main, restart)],
        upload: false,
        ..one()
    }
}

struct Driver {
    plan: Plan,
    attempt: Attempt,
    seconds: u64,
}

impl Driver {
    fn admitted(plan: Plan) -> Self {
        let (attempt, effects) = Attempt::admit(&plan, heard(Some(100), true), now(100));
        assert_eq!(effects, [Effect::Report, Effect::WriteJournal]);
        Self {
            plan,
            attempt,
            seconds: 100,
        }
    }

    fn running(plan: Plan) -> Self {
        let mut driver = Self::admitted(plan);
        assert!(driver.feed(Event::Journaled).contains(&Effect::Prepare(0)));
        assert_eq!(driver.feed(prepared(0)), [Effect::WriteJournal, Effect::Start(0)]);
        assert_eq!(
            driver.feed(Event::Started { container: 0 }),
            [Effect::WriteJournal, Effect::Report]
        );
        driver
    }

    fn feed(&mut self, event: Event) -> Vec<Effect> {
        let (attempt, effects) = step(self.attempt.clone(), &self.plan, event, now(self.seconds));
        self.attempt = attempt;
        effects
    }

    fn after(&mut self, seconds: u64, event: Event) -> Vec<Effect> {
        self.seconds += seconds;
        self.feed(event)
    }

    fn outcome(&self) -> (Kind, &str) {
        let outcome = self.attempt.outcome().expect("the attempt has ended");
        (outcome.kind, &outcome.reason)
    }

    fn waiting(&self, container: usize) -> (&str, &str) {
        match &self.attempt.containers[container].life {
            Life::Waiting { reason, message, .. } => (reason, message),
            other => panic!("{other:?}"),
        }
    }
}

fn now(seconds: u64) -> Now {
    Now {
        boot: Boottime(Duration::from_secs(seconds)),
        wall_ms: i64::try_from(seconds).unwrap() * 1000,
    }
}

fn prepared(container: usize) -> Event {
    Event::Prepared {
        container,
        image_id: format!("registry/image@sha256:{container}"),
    }
}

fn exited(container: usize, code: i32) -> Event {
    let reason = if code == 0 { "Completed" } else { "Error" };
    let exit = Exit {
        code,
        reason: reason.to_owned(),
        message: String::new(),
        started_ms: 1,
        finished_ms: 2,
    };
    Event::Exited { container, exit }
}

fn stop(grace: u64) -> Event {
    Event::Stop {
        grace: Duration::from_secs(grace),
        reason: "Deleted".to_owned(),
        message: "the Pod was deleted".to_owned(),
    }
}

fn depart() -> Event {
    Event::Depart {
        grace: Duration::from_secs(10),
        reason: reason::VEHICLE_DEPARTED.to_owned(),
        message: "the vehicle left".to_owned(),
    }
}

/// An image has no signature that counts.
fn declined(container: usize) -> Event {
    let why = Refusal::new(
        reason::SIGNATURE_VALIDATION_FAILED,
        "registry/image@sha256:0 is not signed",
    );
    Event::Declined { container, why }
}

fn pull_failed() -> Event {
    let why = NotReady {
        reason: "ErrImagePull".to_owned(),
        meanwhile: Some("ImagePullBackOff".to_owned()),
        message: "not found".to_owned(),
        retry: true,
    };
    Event::NotReady { container: 0, why }
}

#[test]
fn program_that_ends_well_is_succeeded_only_when_its_output_is_stored() {
    let mut driver = Driver::running(one());
    assert_eq!(
        driver.feed(exited(0, 0)),
        [Effect::WriteJournal, Effect::Report, Effect::Upload]
    );
    assert!(driver.attempt.is_stopped() && driver.attempt.outcome().is_none());
    assert_eq!(driver.feed(Event::Uploaded), [Effect::WriteJournal, Effect::Report]);
    assert_eq!(driver.outcome(), (Kind::Succeeded, ""));
}

#[test]
fn program_without_output_ends_without_an_upload() {
    let mut driver = Driver::running(Plan { upload: false, ..one() });
    assert_eq!(driver.feed(exited(0, 0)), [Effect::WriteJournal, Effect::Report]);
    assert_eq!(driver.outcome(), (Kind::Succeeded, ""));
}

#[test]
fn program_that_ends_badly_is_failed_whatever_becomes_of_its_log() {
    for end in [
        Event::Uploaded,
        Event::UploadRefused {
            reason: "StoreDown".to_owned(),
            message: String::new(),
        },
    ] {
        let mut driver = Driver::running(one());
        driver.feed(exited(0, 3));
        driver.feed(end);
        assert_eq!(driver.outcome(), (Kind::Failed, ""));
        assert!(driver.attempt.outcome().unwrap().message.contains("exit code 3"));
    }
}

#[test]
fn output_that_is_too_large_fails_the_attempt() {
    let mut driver = Driver::running(one());
    driver.feed(exited(0, 0));
    driver.feed(Event::UploadRefused {
        reason: reason::OUTPUT_TOO_LARGE.to_owned(),
        message: String::new(),
    });
    assert_eq!(driver.outcome(), (Kind::Failed, reason::OUTPUT_TOO_LARGE));
}

#[test]
fn refusal_is_journaled_and_told() {
    let (attempt, effects) = Attempt::refuse(&one(), reason::NOT_PARKED, "", now(1));
    assert_eq!(effects, [Effect::WriteJournal, Effect::Report]);
    assert!(attempt.is_stopped());
    assert_eq!(attempt.outcome().unwrap().kind, Kind::Refused);
}

#[test]
fn attempt_that_cannot_be_journaled_never_starts() {
    let mut driver = Driver::admitted(one());
    let effects = driver.feed(Event::JournalFailed {
        message: "no space left".to_owned(),
    });
    assert_eq!(effects, [Effect::WriteJournal, Effect::Report]);
    assert_eq!(driver.outcome(), (Kind::Refused, "JournalUnwritable"));
}

#[test]
fn failed_pull_is_told_and_tried_again_with_the_kubelets_back_off() {
    let mut driver = Driver::admitted(one());
    driver.feed(Event::Journaled);
    for wait in [10, 20, 40, 80, 160, 300, 300] {
        assert_eq!(driver.feed(pull_failed()), [Effect::WriteJournal, Effect::Report]);
        assert_eq!(driver.waiting(0), ("ErrImagePull", "not found"));
        assert_eq!(
            driver.attempt.deadline(&driver.plan),
            Some(now(driver.seconds + 1).boot)
        );
        assert_eq!(driver.after(1, Event::Tick), [Effect::WriteJournal, Effect::Report]);
        assert_eq!(
            driver.waiting(0),
            ("ImagePullBackOff", "back-off before the next try: not found")
        );
        assert!(driver.after(wait - 2, Event::Tick).is_empty());
        assert_eq!(driver.after(1, Event::Tick), [Effect::Prepare(0)], "after {wait} s");
    }
    assert_eq!(driver.feed(prepared(0)), [Effect::WriteJournal, Effect::Start(0)]);
}

#[test]
fn impossible_image_name_is_told_and_not_tried_again() {
    let mut driver = Driver::admitted(one());
    driver.feed(Event::Journaled);
    let reason = "InvalidImageName".to_owned();
    let why = NotReady {
        reason,
        meanwhile: None,
        message: "bad".to_owned(),
        retry: false,
    };
    driver.feed(Event::NotReady { container: 0, why });
    assert_eq!(driver.waiting(0), ("InvalidImageName", "bad"));
    assert_eq!(driver.attempt.deadline(&driver.plan), None);
    assert!(driver.after(10_000, Event::Tick).is_empty());
}

#[test]
fn what_the_owner_does_not_let_begin_is_refused_and_no_failure() {
    let mut driver = Driver::admitted(plan(&[("init", true), ("main", false)]));
    driver.feed(Event::Journaled);
    let effects = driver.feed(declined(0));
    assert_eq!(effects, [Effect::GiveUp, Effect::WriteJournal, Effect::Report]);
    assert_eq!(driver.outcome(), (Kind::Refused, reason::SIGNATURE_VALIDATION_FAILED));
    assert_eq!(
        driver.waiting(0),
        (
            reason::SIGNATURE_VALIDATION_FAILED,
            "registry/image@sha256:0 is not signed"
        )
    );
    assert!(driver.after(10_000, Event::Tick).is_empty(), "it is not tried again");
}

#[test]
fn what_the_owner_does_not_let_go_on_is_a_disruption() {
    let mut driver = Driver::running(plan(&[("init", true), ("main", false)]));
    driver.feed(exited(0, 0));
    assert_eq!(driver.attempt.containers[1].life, Life::Preparing);
    driver.feed(declined(1));
    assert_eq!(driver.outcome(), (Kind::Disrupted, reason::SIGNATURE_VALIDATION_FAILED));
}

#[test]
fn container_that_was_declined_before_it_was_made_ready_is_none() {
    let mut driver = Driver::running(one());
    assert!(driver.feed(declined(0)).is_empty());
    assert!(driver.feed(declined(7)).is_empty());
    assert!(driver.attempt.outcome().is_none());
}

#[test]
fn freeze_holds_back_what_has_not_started() {
    let mut driver = Driver::admitted(one());
    driver.feed(Event::Journaled);
    assert_eq!(
        driver.feed(Event::Freeze),
        [Effect::Freeze, Effect::WriteJournal, Effect::Report]
    );
    assert!(driver.feed(prepared(0)).is_empty());
    assert_eq!(
        driver.feed(Event::Thaw),
        [
            Effect::Thaw,
            Effect::WriteJournal,
            Effect::Start(0),
            Effect::WriteJournal,
            Effect::Report
        ]
    );
}

#[test]
fn freeze_and_thaw_twice_do_nothing_the_second_time() {
    let mut driver = Driver::running(one());
    assert_eq!(driver.feed(Event::Freeze).len(), 3);
    assert!(driver.feed(Event::Freeze).is_empty());
    assert_eq!(driver.feed(Event::Thaw).len(), 3);
    assert!(driver.feed(Event::Thaw).is_empty());
}

#[test]
fn stop_ends_a_running_program_and_kills_it_after_its_grace() {
    let mut driver = Driver::running(one());
    assert_eq!(
        driver.feed(stop(30)),
        [Effect::GiveUp, Effect::Ask(0), Effect::WriteJournal, Effect::Report]
    );
    assert!(driver.after(29, Event::Tick).is_empty());
    assert_eq!(driver.after(1, Event::Tick), [Effect::Kill(0)]);
    assert!(driver.after(1, Event::Tick).is_empty());
    assert!(!driver.attempt.is_stopped());
    assert_eq!(driver.feed(exited(0, 137)), [Effect::WriteJournal, Effect::Report]);
    assert_eq!(driver.outcome(), (Kind::Disrupted, "Deleted"));
}

#[test]
fn later_stop_can_only_shorten_the_grace() {
    let mut driver = Driver::running(one());
    driver.feed(stop(30));
    driver.feed(stop(60));
    assert_eq!(driver.attempt.deadline(&driver.plan), Some(now(130).boot));
    assert_eq!(driver.feed(stop(0)), [Effect::Kill(0)]);
}

#[test]
fn fence_binds_what_is_stopping_however_long_its_grace() {
    let fenced = Plan {
        run_unheard_for: Some(Duration::from_secs(30)),
        ..one()
    };
    let mut driver = Driver::running(fenced);
    driver.feed(stop(600));
    assert_eq!(driver.attempt.deadline(&driver.plan), Some(now(130).boot));
    driver.seconds = 110;
    assert!(driver.feed(Event::Heard { sent: now(108).boot }).is_empty());
    assert_eq!(driver.attempt.fence(&driver.plan), Some(now(138).boot));
    driver.seconds = 137;
    assert!(driver.feed(Event::Tick).is_empty(), "a heartbeat moved the fence");
    driver.seconds = 138;
    assert_eq!(driver.feed(Event::Tick), [Effect::Kill(0)]);
    driver.feed(exited(0, 137));
    assert_eq!(driver.attempt.fence(&driver.plan), None);
}

#[test]
fn attempt_that_comes_to_a_car_long_unheard_has_no_fence_in_the_past() {
    let fenced = Plan {
        run_unheard_for: Some(Duration::from_secs(15)),
        ..one()
    };
    // An idle car is heard every twenty seconds.
    let (attempt, _) = Attempt::admit(&fenced, heard(Some(81), true), now(100));
    assert_eq!(attempt.fence(&fenced), Some(now(115).boot));
    let (attempt, _) = step(attempt, &fenced, Event::Journaled, now(101));
    assert_eq!(
        (&attempt.state, attempt.fence(&fenced)),
        (&State::Waiting, Some(now(115).boot))
    );
}

#[test]
fn attempt_that_may_run_once_only_believes_no_adapter_that_cannot_prove_itself() {
    let often = Plan {
        run_unheard_for: Some(Duration::from_secs(15)),
        ..one()
    };
    let once = Plan {
        once: true,
        ..often.clone()
    };
    let mut heard = heard(Some(90), true);
    assert!(heard.acknowledged(now(99).boot, false));
    assert_eq!(heard.counts_for(&often), Some(now(99).boot));
    assert_eq!(heard.counts_for(&once), Some(now(90).boot));
    assert!(!heard.acknowledged(now(99).boot, false), "no news");
    assert!(heard.acknowledged(now(99).boot, true));
    assert_eq!(heard.counts_for(&once), Some(now(99).boot));
    assert!(!heard.acknowledged(now(95).boot, true), "an older one moves no fence");
}

#[test]
fn stop_before_anything_lives_ends_at_once() {
    let mut driver = Driver::admitted(one());
    driver.feed(Event::Journaled);
    assert_eq!(
        driver.feed(stop(30)),
        [Effect::GiveUp, Effect::WriteJournal, Effect::Report]
    );
    assert_eq!(driver.outcome(), (Kind::Disrupted, "Deleted"));
    assert!(
        driver.feed(prepared(0)).is_empty(),
        "a pull that ends late starts nothing"
    );
}

#[test]
fn departure_stops_programs_but_lets_an_output_arrive() {
    let mut driver = Driver::running(one());
    driver.feed(depart());
    driver.feed(exited(0, 137));
    assert_eq!(driver.outcome(), (Kind::Disrupted, reason::VEHICLE_DEPARTED));

    let mut driver = Driver::running(one());
    driver.feed(exited(0, 0));
    assert!(driver.feed(depart()).is_empty());
    driver.feed(Event::Uploaded);
    assert_eq!(driver.outcome(), (Kind::Succeeded, ""));
}

#[test]
fn stop_while_uploading_gives_the_output_its_grace() {
    let mut driver = Driver::running(one());
    driver.feed(exited(0, 0));
    assert!(driver.feed(stop(30)).is_empty());
    assert!(driver.after(29, Event::Tick).is_empty());
    let mut in_time = Driver {
        attempt: driver.attempt.clone(),
        plan: driver.plan.clone(),
        ..driver
    };
    in_time.feed(Event::Uploaded);
    assert_eq!(in_time.outcome(), (Kind::Succeeded, ""));
    assert_eq!(
        driver.after(1, Event::Tick),
        [Effect::GiveUp, Effect::WriteJournal, Effect::Report]
    );
    assert_eq!(driver.outcome(), (Kind::Disrupted, "Deleted"));
}

#[test]
fn unheard_attempt_stops_by_itself_counted_from_the_last_acknowledged_heartbeat() {
    let limit = Some(Duration::from_secs(30));
    let mut driver = Driver::running(Plan {
        run_unheard_for: limit,
        ..one()
    });
    assert!(driver.after(20, Event::Heard { sent: now(110).boot }).is_empty());
    assert_eq!(driver.attempt.deadline(&driver.plan), Some(now(140).boot));
    assert!(driver.after(19, Event::Tick).is_empty());
    assert_eq!(
        driver.after(1, Event::Tick),
        [Effect::GiveUp, Effect::Kill(0), Effect::WriteJournal, Effect::Report],
        "before the journal, which may hang"
    );
    driver.feed(exited(0, 137));
    assert_eq!(driver.outcome(), (Kind::Disrupted, reason::VEHICLE_LOST));
}

#[test]
fn acknowledgement_that_comes_with_the_fence_is_too_late_only_if_it_was_sent_too_long_ago() {
    let limit = Some(Duration::from_secs(30));
    let mut driver = Driver::running(Plan {
        run_unheard_for: limit,
        ..one()
    });
    assert!(driver.after(30, Event::Heard { sent: now(125).boot }).is_empty());
    assert!(
        driver
            .after(25, Event::Heard { sent: now(110).boot })
            .contains(&Effect::GiveUp)
    );
}

/// A car that was heard `silent` seconds ago takes an attempt with a fence of 30 s.
fn fenced(silent: Option<u64>) -> Driver {
    let plan = Plan {
        run_unheard_for: Some(Duration::from_secs(30)),
        ..one()
    };
    let heard = heard(silent.map(|seconds| 100 - seconds), true);
    let (attempt, effects) = Attempt::admit(&plan, heard, now(100));
    assert_eq!(effects, [Effect::Report, Effect::WriteJournal]);
    Driver {
        plan,
        attempt,
        seconds: 100,
    }
}

#[rstest]
#[case::just_heard(Some(0), true)]
#[case::half_of_it_is_left(Some(14), true)]
#[case::little_is_left(Some(15), false)]
#[case::it_has_passed(Some(50), false)]
#[case::never_heard(None, false)]
fn attempt_begins_at_once_only_if_enough_of_its_fence_is_left(#[case] silent: Option<u64>, #[case] begins: bool) {
    let mut driver = fenced(silent);
    let effects = driver.feed(Event::Journaled);
    assert_eq!(effects.contains(&Effect::Prepare(0)), begins);
    assert!(
        effects.ends_with(&[Effect::WriteJournal, Effect::Report]),
        "the cluster is told that the car has it"
    );
    assert!(driver.attempt.outcome().is_none());
}

#[test]
fn attempt_that_waits_begins_with_a_heartbeat_that_was_sent_after_it_came() {
    let mut driver = fenced(Some(50));
    driver.feed(Event::Journaled);
    assert!(driver.after(1, Event::Tick).is_empty());
    assert!(
        driver.feed(Event::Heard { sent: now(99).boot }).is_empty(),
        "sent before the attempt came: the cluster may have given it up since"
    );
    assert_eq!(
        driver.feed(Event::Heard { sent: now(100).boot }),
        [Effect::Prepare(0), Effect::WriteJournal, Effect::Report]
    );
    assert_eq!(driver.attempt.deadline(&driver.plan), Some(now(130).boot));
}

#[test]
fn attempt_that_waits_in_vain_is_refused_after_its_fence() {
    let mut driver = fenced(Some(50));
    driver.feed(Event::Journaled);
    assert_eq!(driver.attempt.deadline(&driver.plan), Some(now(130).boot));
    assert!(driver.after(29, Event::Tick).is_empty());
    assert_eq!(driver.after(1, Event::Tick), [Effect::WriteJournal, Effect::Report]);
    assert_eq!(driver.outcome(), (Kind::Refused, reason::VEHICLE_UNHEARD));
}

#[test]
fn acknowledgement_that_took_as_long_as_the_fence_begins_nothing() {
    let mut driver = fenced(Some(50));
    driver.feed(Event::Journaled);
    assert_eq!(
        driver.after(31, Event::Heard { sent: now(101).boot }),
        [Effect::WriteJournal, Effect::Report]
    );
    assert_eq!(driver.outcome(), (Kind::Refused, reason::VEHICLE_UNHEARD));
}

#[rstest]
#[case(stop(30))]
#[case(depart())]
fn attempt_that_waits_ends_with_the_car_or_the_cluster(#[case] event: Event) {
    let mut driver = fenced(Some(50));
    driver.feed(Event::Journaled);
    assert_eq!(driver.feed(event), [Effect::WriteJournal, Effect::Report]);
    assert_eq!(
        driver.attempt.outcome().map(|outcome| outcome.kind),
        Some(Kind::Disrupted)
    );
    assert!(driver.feed(Event::Heard { sent: now(100).boot }).is_empty());
}

#[test]
fn attempt_that_waits_in_a_paused_car_begins_when_it_thaws() {
    let mut driver = fenced(Some(50));
    driver.feed(Event::Journaled);
    driver.feed(Event::Freeze);
    assert_eq!(
        driver.feed(Event::Heard { sent: now(100).boot }),
        [Effect::WriteJournal, Effect::Report]
    );
    assert!(driver.feed(Event::Thaw).contains(&Effect::Prepare(0)));
}

#[test]
fn attempt_that_waits_does_not_survive_the_agent() {
    let mut driver = fenced(Some(50));
    driver.feed(Event::Journaled);
    let (attempt, _) = Attempt::recover(&driver.plan, driver.attempt.record(&driver.plan), now(500));
    assert_eq!(
        attempt.outcome().map(|outcome| outcome.reason.as_str()),
        Some(AGENT_RESTARTED)
    );
}

#[test]
fn pod_that_is_active_for_too_long_fails() {
    let mut driver = Driver::running(Plan {
        active_deadline: Some(Duration::from_secs(60)),
        ..one()
    });
    assert_eq!(driver.after(60, Event::Tick)[0], Effect::GiveUp);
    driver.feed(exited(0, 137));
    driver.feed(Event::Uploaded);
    assert_eq!(driver.outcome(), (Kind::Failed, "DeadlineExceeded"));
}

#[test]
fn init_containers_run_one_after_the_other_before_the_rest() {
    let mut driver = Driver::admitted(plan(&[("a", true), ("b", true), ("x", false), ("y", false)]));
    assert_eq!(driver.feed(Event::Journaled)[0], Effect::Prepare(0));
    assert_eq!(driver.waiting(2).0, "PodInitializing");
    driver.feed(prepared(0));
    driver.feed(Event::Started { container: 0 });
    assert_eq!(driver.feed(exited(0, 0))[0], Effect::Prepare(1));
    driver.feed(prepared(1));
    driver.feed(Event::Started { container: 1 });
    assert_eq!(driver.feed(exited(1, 0))[..2], [Effect::Prepare(2), Effect::Prepare(3)]);
}

#[test]
fn init_container_that_fails_fails_the_pod() {
    let mut driver = Driver::running(plan(&[("a", true), ("x", false)]));
    driver.feed(exited(0, 1));
    driver.feed(Event::Uploaded);
    assert_eq!(driver.outcome(), (Kind::Failed, ""));
    assert!(driver.attempt.outcome().unwrap().message.starts_with("container a "));
}

#[test]
fn pod_ends_when_its_last_container_does_and_fails_if_one_failed() {
    let mut driver = Driver::admitted(Plan {
        upload: false,
        ..plan(&[("x", false), ("y", false)])
    });
    driver.feed(Event::Journaled);
    for container in [0, 1] {
        driver.feed(prepared(container));
        driver.feed(Event::Started { container });
    }
    driver.feed(exited(0, 1));
    assert!(driver.attempt.outcome().is_none());
    driver.feed(exited(1, 0));
    assert_eq!(driver.outcome(), (Kind::Failed, ""));
}

#[test]
fn container_that_is_always_restarted_waits_longer_each_time() {
    let mut driver = Driver::running(restarting(Restart::Always));
    let effects = driver.feed(exited(0, 0));
    assert_eq!(
        effects[..2],
        [Effect::WriteJournal, Effect::Start(0)],
        "the first time at once"
    );
    for wait in [10, 20, 40] {
        driver.feed(Event::Started { container: 0 });
        driver.feed(exited(0, 1));
        assert_eq!(driver.waiting(0).0, "CrashLoopBackOff");
        assert!(driver.after(wait - 1, Event::Tick).is_empty());
        assert_eq!(driver.after(1, Event::Tick), [Effect::WriteJournal, Effect::Start(0)]);
    }
    driver.feed(Event::Started { container: 0 });
    let effects = driver.after(600, exited(0, 1));
    assert_eq!(
        effects[..2],
        [Effect::WriteJournal, Effect::Start(0)],
        "at once after ten good minutes"
    );
    assert_eq!(driver.attempt.containers[0].restarts, 5);
}

#[rstest]
#[case(0, false)]
#[case(1, true)]
fn restart_on_failure_restarts_only_failures(#[case] code: i32, #[case] restarts: bool) {
    let mut driver = Driver::running(restarting(Restart::OnFailure));
    driver.feed(exited(0, code));
    assert_eq!(driver.attempt.outcome().is_none(), restarts);
}

#[test]
fn restarted_agent_reports_what_ran_as_disrupted() {
    let driver = Driver::running(one());
    let record: Record =
        serde_json::from_str(&serde_json::to_string(&driver.attempt.record(&driver.plan)).unwrap()).unwrap();
    let (attempt, effects) = Attempt::recover(&driver.plan, record, now(500));
    assert_eq!(effects, [Effect::WriteJournal, Effect::Report]);
    assert!(attempt.is_stopped() && attempt.revision > driver.attempt.revision);
    let outcome = attempt.outcome().unwrap();
    assert_eq!(
        (outcome.kind, outcome.reason.as_str()),
        (Kind::Disrupted, AGENT_RESTARTED)
    );
    assert!(
        matches!(&attempt.containers[0].life, Life::Terminated(exit) if exit.code == 137 && exit.started_ms == 100_000)
    );
}

#[test]
fn program_of_an_agent_that_was_restarted_with_an_earlier_wall_clock_did_not_end_before_it_began() {
    let driver = Driver::running(one());
    let (attempt, _) = Attempt::recover(&driver.plan, driver.attempt.record(&driver.plan), now(20));
    assert!(
        matches!(&attempt.containers[0].life, Life::Terminated(exit) if (exit.started_ms, exit.finished_ms) == (100_000, 100_000))
    );
}

#[test]
fn restarted_agent_goes_on_with_an_upload_and_tells_an_end_again() {
    let mut driver = Driver::running(one());
    driver.feed(exited(0, 0));
    let (attempt, effects) = Attempt::recover(&driver.plan, driver.attempt.record(&driver.plan), now(500));
    assert_eq!(effects, [Effect::Upload, Effect::WriteJournal, Effect::Report]);
    assert!(matches!(attempt.state, State::Uploading { .. }));

    driver.feed(Event::Uploaded);
    let (attempt, effects) = Attempt::recover(&driver.plan, driver.attempt.record(&driver.plan), now(500));
    assert_eq!(effects, [Effect::WriteJournal, Effect::Report]);
    assert_eq!(attempt.outcome(), driver.attempt.outcome());
}
