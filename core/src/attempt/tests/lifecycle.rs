//! Sidecars, hooks, probes and policies of single containers, as a kubelet has them.

use super::*;

fn container(name: &str, role: Role) -> ContainerPlan {
    ContainerPlan::new(name, role, Restart::Never)
}

fn of(containers: Vec<ContainerPlan>) -> Plan {
    Plan {
        containers,
        upload: false,
        ..one()
    }
}

fn every(seconds: u64) -> probe::Plan {
    probe::Plan {
        period: Duration::from_secs(seconds),
        ..probe::Plan::default()
    }
}

/// Prepared and started, one after the other.
fn started(plan: Plan) -> Driver {
    let count = plan.containers.len();
    let mut driver = Driver::admitted(plan);
    driver.feed(Event::Journaled);
    for container in 0..count {
        driver.feed(prepared(container));
        driver.feed(Event::Started { container });
    }
    driver
}

impl Driver {
    /// Lets `seconds` pass, and answers the one probe that is asked then.
    fn probed(&mut self, seconds: u64, kind: probe::Kind, result: Result<(), String>) -> Vec<Effect> {
        let effects = self.after(seconds, Event::Tick);
        let asked = effects.iter().find_map(|effect| match effect {
            Effect::Probe {
                container,
                kind: asked,
                number,
            } if *asked == kind => Some((*container, *number)),
            _ => None,
        });
        let (container, number) = asked.unwrap_or_else(|| panic!("{kind:?} is not asked: {effects:?}"));
        let run = self.attempt.containers[container].restarts;
        self.feed(Event::Probed {
            container,
            run,
            kind,
            number,
            result,
        })
    }

    fn is_ready(&self, container: usize) -> bool {
        self.attempt.containers[container].is_ready()
    }

    fn note(&self, container: usize) -> Option<(&str, &str)> {
        let note = self.attempt.containers[container].note.as_ref()?;
        Some((&note.reason, &note.message))
    }
}

fn refused() -> Result<(), String> {
    Err("connection refused".to_owned())
}

#[test]
fn attempt_that_is_told_to_end_while_it_stands_still_is_killed_and_gets_no_time() {
    let mut driver = Driver::running(one());
    assert!(driver.after(1, Event::Freeze).contains(&Effect::Freeze));
    let effects = driver.after(
        1,
        Event::Stop {
            grace: Duration::from_secs(30),
            reason: "Deleted".to_owned(),
            message: String::new(),
        },
    );
    assert!(effects.contains(&Effect::Kill(0)), "{effects:?}");
    assert!(!effects.contains(&Effect::Ask(0)), "{effects:?}");
}

#[test]
fn sidecar_has_started_before_the_next_container_and_stays() {
    let mut driver = Driver::admitted(of(vec![
        ContainerPlan {
            startup: Some(every(1)),
            ..container("proxy", Role::Sidecar)
        },
        container("main", Role::Main),
    ]));
    driver.feed(Event::Journaled);
    driver.feed(prepared(0));
    let effects = driver.feed(Event::Started { container: 0 });
    assert!(
        !effects.contains(&Effect::Prepare(1)),
        "it has not said that it has started"
    );
    let effects = driver.probed(0, probe::Kind::Startup, Ok(()));
    assert!(effects.contains(&Effect::Prepare(1)), "{effects:?}");
    driver.feed(prepared(1));
    driver.feed(Event::Started { container: 1 });
    // Its own end is no end of the Pod, and holds up nobody.
    let effects = driver.feed(exited(0, 1));
    assert!(effects.contains(&Effect::Start(0)), "{effects:?}");
    assert!(driver.attempt.outcome().is_none());
}

#[test]
fn pod_ends_with_its_last_container_that_counts_and_its_sidecars_after_it_the_last_one_first() {
    let sidecars = ["a", "b"].map(|name| container(name, Role::Sidecar));
    let mut containers = sidecars.to_vec();
    containers.push(container("main", Role::Main));
    let mut driver = started(of(containers));
    let effects = driver.feed(exited(2, 0));
    assert!(
        effects.contains(&Effect::Ask(1)) && !effects.contains(&Effect::Ask(0)),
        "{effects:?}"
    );
    assert!(driver.attempt.outcome().is_none());
    let effects = driver.feed(exited(1, 143));
    assert!(effects.contains(&Effect::Ask(0)), "{effects:?}");
    driver.feed(exited(0, 143));
    assert_eq!(
        driver.outcome().0,
        Kind::Succeeded,
        "how a sidecar ends counts for nothing"
    );
}

#[test]
fn sidecar_that_does_not_end_is_killed_after_the_grace_of_the_pod() {
    let mut driver = started(of(vec![container("a", Role::Sidecar), container("main", Role::Main)]));
    driver.feed(exited(1, 1));
    assert!(driver.after(29, Event::Tick).is_empty());
    assert_eq!(driver.after(1, Event::Tick), [Effect::Kill(0)]);
    driver.feed(exited(0, 137));
    assert_eq!(driver.outcome().0, Kind::Failed);
}

#[test]
fn init_container_that_fails_for_good_ends_the_sidecars_before_it() {
    let mut driver = started(of(vec![
        container("a", Role::Sidecar),
        container("init", Role::Init),
        container("main", Role::Main),
    ]));
    let effects = driver.feed(exited(1, 3));
    assert!(effects.contains(&Effect::Ask(0)), "{effects:?}");
    driver.feed(exited(0, 143));
    assert_eq!(driver.outcome().0, Kind::Failed);
    assert!(driver.attempt.outcome().unwrap().message.starts_with("container init "));
}

#[rstest]
#[case::never(Restart::Never, &[], 1, false)]
#[case::rule_in(Restart::Never, &[(true, 42)], 42, true)]
#[case::rule_in_other(Restart::Never, &[(true, 42)], 1, false)]
#[case::rule_not_in(Restart::Never, &[(false, 42)], 1, true)]
#[case::rule_not_in_that(Restart::Never, &[(false, 42)], 42, false)]
#[case::rule_and_success(Restart::Never, &[(false, 42)], 0, true)]
#[case::policy_of_its_own(Restart::OnFailure, &[], 1, true)]
fn container_has_a_policy_of_its_own_and_rules(
    #[case] restart: Restart,
    #[case] rules: &[(bool, i32)],
    #[case] code: i32,
    #[case] again: bool,
) {
    let rules = rules.iter().map(|(among, code)| ExitRule {
        among: *among,
        codes: vec![*code],
    });
    let own = ContainerPlan {
        restart,
        rules: rules.collect(),
        ..container("a", Role::Main)
    };
    let mut driver = started(of(vec![own, container("b", Role::Main)]));
    let effects = driver.feed(exited(0, code));
    assert_eq!(effects.contains(&Effect::Start(0)), again, "{effects:?}");
}

#[test]
fn init_container_that_has_ended_well_is_done_whatever_its_rules_say() {
    let mut driver = Driver::running(of(vec![
        ContainerPlan {
            rules: vec![ExitRule {
                among: false,
                codes: vec![42],
            }],
            ..container("init", Role::Init)
        },
        container("x", Role::Main),
    ]));
    assert!(driver.feed(exited(0, 0)).contains(&Effect::Prepare(1)));
}

#[test]
fn container_that_fails_its_liveness_probe_is_ended_with_its_grace_and_started_again() {
    let liveness = probe::Plan {
        failures: 2,
        ..every(5)
    };
    let mut driver = started(of(vec![ContainerPlan {
        restart: Restart::Always,
        liveness: Some(liveness),
        ..container("a", Role::Main)
    }]));
    assert!(driver.is_ready(0));
    driver.probed(0, probe::Kind::Liveness, refused());
    assert_eq!(
        driver.note(0),
        Some(("Unhealthy", "Liveness probe failed: connection refused"))
    );
    let effects = driver.probed(5, probe::Kind::Liveness, refused());
    assert!(effects.contains(&Effect::Ask(0)), "{effects:?}");
    assert_eq!(
        driver.attempt.deadline(&driver.plan),
        Some(now(135).boot),
        "nobody asks it any more"
    );
    assert_eq!(driver.after(30, Event::Tick), [Effect::Kill(0)]);
    assert!(driver.feed(exited(0, 137)).contains(&Effect::Start(0)));
    assert_eq!(driver.attempt.containers[0].restarts, 1);
}

#[test]
fn probe_with_a_grace_of_its_own_ends_the_container_by_that() {
    let liveness = probe::Plan {
        failures: 1,
        grace: Some(Duration::from_secs(3)),
        ..every(5)
    };
    let mut driver = started(of(vec![ContainerPlan {
        liveness: Some(liveness),
        ..container("a", Role::Main)
    }]));
    driver.probed(0, probe::Kind::Liveness, refused());
    assert_eq!(driver.after(3, Event::Tick), [Effect::Kill(0)]);
}

#[test]
fn readiness_follows_its_probe_and_ends_nothing() {
    let mut driver = started(of(vec![ContainerPlan {
        readiness: Some(every(5)),
        ..container("a", Role::Main)
    }]));
    assert!(!driver.is_ready(0), "not before it says so");
    assert!(
        driver
            .probed(0, probe::Kind::Readiness, Ok(()))
            .contains(&Effect::Report)
    );
    assert!(driver.is_ready(0));
    assert!(
        driver.probed(5, probe::Kind::Readiness, Ok(())).is_empty(),
        "what has not changed is not told"
    );
    for _ in 0..3 {
        driver.probed(5, probe::Kind::Readiness, refused());
    }
    assert!(!driver.is_ready(0));
    assert!(matches!(driver.attempt.containers[0].life, Life::Running { .. }));
}

#[test]
fn other_probes_wait_for_the_startup_probe_and_one_that_fails_ends_the_container() {
    let plan = || {
        of(vec![ContainerPlan {
            startup: Some(every(2)),
            liveness: Some(every(2)),
            readiness: Some(every(2)),
            ..container("a", Role::Main)
        }])
    };
    let mut driver = started(plan());
    let asked = |effects: &[Effect]| effects.iter().filter(|e| matches!(e, Effect::Probe { .. })).count();
    driver.probed(0, probe::Kind::Startup, refused());
    assert!(!driver.attempt.containers[0].started);
    driver.probed(2, probe::Kind::Startup, Ok(()));
    assert!(driver.attempt.containers[0].started);
    assert_eq!(asked(&driver.feed(Event::Tick)), 2, "and the startup probe no more");

    let mut driver = started(plan());
    let effects = (0..3)
        .map(|_| driver.probed(2, probe::Kind::Startup, refused()))
        .last()
        .unwrap();
    assert!(effects.contains(&Effect::Ask(0)), "{effects:?}");
}

#[test]
fn probes_rest_while_the_car_is_paused() {
    let mut driver = started(of(vec![ContainerPlan {
        liveness: Some(probe::Plan {
            failures: 1,
            ..every(5)
        }),
        ..container("a", Role::Main)
    }]));
    let asked = driver.feed(Event::Tick);
    let [Effect::Probe { number, .. }] = asked[..] else {
        panic!("{asked:?}")
    };
    driver.feed(Event::Freeze);
    assert_eq!(driver.attempt.deadline(&driver.plan), None);
    driver.feed(Event::Probed {
        container: 0,
        run: 0,
        kind: probe::Kind::Liveness,
        number,
        result: refused(),
    });
    assert!(driver.after(100, Event::Tick).is_empty());
    driver.feed(Event::Thaw);
    assert_eq!(
        driver.attempt.deadline(&driver.plan),
        Some(now(205).boot),
        "a period to catch up"
    );
    assert!(
        driver.is_ready(0),
        "what it did not answer while it stood still counts for nothing"
    );
}

#[test]
fn next_container_waits_for_the_hook_after_the_start_and_a_hook_that_fails_ends_its_container() {
    let hooked = ContainerPlan {
        post_start: true,
        ..container("a", Role::Main)
    };
    let plan = || of(vec![hooked.clone(), container("b", Role::Main)]);
    let mut driver = Driver::admitted(plan());
    driver.feed(Event::Journaled);
    driver.feed(prepared(0));
    let effects = driver.feed(Event::Started { container: 0 });
    assert!(effects.contains(&Effect::PostStart(0)), "{effects:?}");
    assert!(!driver.feed(prepared(1)).contains(&Effect::Start(1)));
    let effects = driver.feed(Event::PostStarted {
        container: 0,
        run: 0,
        result: Ok(()),
    });
    assert!(effects.contains(&Effect::Start(1)), "{effects:?}");

    let mut driver = Driver::admitted(plan());
    driver.feed(Event::Journaled);
    driver.feed(prepared(0));
    driver.feed(Event::Started { container: 0 });
    let effects = driver.feed(Event::PostStarted {
        container: 0,
        run: 0,
        result: Err("no such file".to_owned()),
    });
    assert!(effects.contains(&Effect::Ask(0)), "{effects:?}");
    assert_eq!(driver.note(0), Some(("FailedPostStartHook", "no such file")));
}

#[test]
fn hook_before_the_end_has_the_grace_first_and_the_program_the_rest() {
    let hooked = || {
        of(vec![ContainerPlan {
            pre_stop: true,
            ..container("a", Role::Main)
        }])
    };
    let mut driver = started(hooked());
    let effects = driver.feed(stop(30));
    assert!(
        effects.contains(&Effect::PreStop(0)) && !effects.contains(&Effect::Ask(0)),
        "{effects:?}"
    );
    let ended = Event::PreStopped {
        container: 0,
        run: 0,
        result: Ok(()),
    };
    assert_eq!(driver.after(10, ended.clone()), [Effect::Ask(0)]);
    assert!(driver.feed(ended).is_empty(), "once");
    assert_eq!(driver.after(20, Event::Tick), [Effect::Kill(0)]);

    let mut driver = started(hooked());
    driver.feed(stop(30));
    assert_eq!(
        driver.after(30, Event::Tick),
        [Effect::Ask(0)],
        "the hook has taken all of it"
    );
    assert!(driver.after(1, Event::Tick).is_empty());
    assert_eq!(driver.after(1, Event::Tick), [Effect::Kill(0)]);

    let mut driver = started(hooked());
    let effects = driver.feed(Event::Fail {
        reason: "Evicted".to_owned(),
        message: String::new(),
    });
    assert!(
        effects.contains(&Effect::Kill(0)) && !effects.contains(&Effect::PreStop(0)),
        "{effects:?}"
    );

    // Not in a car that is paused, where somebody may be; in one that leaves, within its notice, which binds.
    let mut driver = started(hooked());
    driver.feed(Event::Freeze);
    let effects = driver.feed(stop(30));
    assert!(
        effects.contains(&Effect::Kill(0)) && !effects.contains(&Effect::PreStop(0)),
        "{effects:?}"
    );
    let mut driver = started(hooked());
    assert!(driver.feed(depart()).contains(&Effect::PreStop(0)));
    assert_eq!(
        driver.after(10, Event::Tick),
        [Effect::Kill(0)],
        "it is not asked any more"
    );
}

#[test]
fn containers_that_count_end_side_by_side_and_the_sidecar_has_what_they_left_of_the_grace() {
    let mut driver = started(of(vec![
        container("a", Role::Sidecar),
        container("x", Role::Main),
        container("y", Role::Main),
    ]));
    let effects = driver.feed(stop(20));
    let asked: Vec<_> = effects.iter().filter(|e| matches!(e, Effect::Ask(_))).collect();
    assert_eq!(asked, [&Effect::Ask(1), &Effect::Ask(2)]);
    driver.feed(exited(1, 143));
    assert!(driver.after(5, exited(2, 143)).contains(&Effect::Ask(0)));
    assert_eq!(driver.after(15, Event::Tick), [Effect::Kill(0)]);
}

#[test]
fn container_whose_turn_is_due_does_not_wait_for_one_before_it_that_waits() {
    let hooked = ContainerPlan {
        restart: Restart::Always,
        post_start: true,
        ..container("a", Role::Main)
    };
    let again = ContainerPlan {
        restart: Restart::Always,
        ..container("c", Role::Main)
    };
    let mut driver = Driver::admitted(of(vec![hooked, container("b", Role::Main), again]));
    driver.feed(Event::Journaled);
    for container in 0..3 {
        driver.feed(prepared(container));
        driver.feed(Event::Started { container });
        if container == 0 {
            driver.feed(Event::PostStarted {
                container,
                run: 0,
                result: Ok(()),
            });
        }
    }
    for _ in 0..2 {
        driver.feed(exited(2, 1));
        driver.feed(Event::Started { container: 2 });
    }
    driver.feed(exited(2, 1));
    driver.feed(exited(0, 1));
    driver.feed(Event::Started { container: 0 });
    let due = driver.attempt.deadline(&driver.plan).unwrap();
    let effects = driver.after(due.since(now(driver.seconds).boot).as_secs(), Event::Tick);
    assert!(effects.contains(&Effect::Start(2)), "{effects:?}");
}

#[test]
fn stop_of_what_has_ended_well_bounds_its_output_also_while_a_sidecar_ends() {
    let mut driver = started(Plan {
        upload: true,
        ..sidecar_and_work()
    });
    driver.feed(exited(1, 0));
    driver.feed(stop(10));
    driver.feed(exited(0, 143));
    assert_eq!(driver.attempt.deadline(&driver.plan), Some(now(110).boot));
    driver.after(10, Event::Tick);
    assert_eq!(driver.outcome(), (Kind::Disrupted, "Deleted"));
}

#[test]
fn sidecar_of_a_car_that_leaves_meanwhile_runs_its_hook_within_the_notice() {
    let mut plan = sidecar_and_work();
    plan.containers[0].pre_stop = true;
    let mut driver = started(plan);
    driver.feed(stop(60));
    driver.feed(depart());
    let effects = driver.feed(exited(1, 143));
    assert!(effects.contains(&Effect::PreStop(0)), "{effects:?}");
    assert_eq!(driver.after(10, Event::Tick), [Effect::Kill(0)]);
}

fn sidecar_and_work() -> Plan {
    of(vec![container("a", Role::Sidecar), container("x", Role::Main)])
}

#[test]
fn sidecar_whose_turn_has_not_come_by_the_end_of_the_grace_is_asked_and_gets_two_seconds() {
    let mut driver = started(sidecar_and_work());
    driver.feed(stop(20));
    assert_eq!(driver.after(20, Event::Tick), [Effect::Ask(0), Effect::Kill(1)]);
    assert_eq!(driver.after(2, Event::Tick), [Effect::Kill(0)]);
}

#[test]
fn notice_of_a_car_that_leaves_and_a_fence_bind_sidecars_too() {
    let mut driver = started(sidecar_and_work());
    driver.feed(depart());
    assert_eq!(driver.after(30, Event::Tick), [Effect::Kill(0), Effect::Kill(1)]);

    let mut driver = started(Plan {
        run_unheard_for: Some(Duration::from_secs(15)),
        ..sidecar_and_work()
    });
    let effects = driver.after(15, Event::Tick);
    assert_eq!(effects[..3], [Effect::GiveUp, Effect::Kill(0), Effect::Kill(1)]);
}

#[test]
fn work_that_has_ended_well_has_ended_well_though_the_agent_dies_before_its_sidecars_end() {
    for upload in [false, true] {
        let mut driver = started(Plan {
            upload,
            ..sidecar_and_work()
        });
        driver.feed(exited(1, 0));
        assert!(matches!(driver.attempt.state, State::Stopping { .. }));
        let (again, effects) = Attempt::recover(&driver.plan, driver.attempt.record(&driver.plan), now(500));
        assert_eq!(effects.contains(&Effect::Upload), upload);
        assert_eq!(again.outcome().is_none(), upload);
    }
}

#[test]
fn answer_of_a_run_that_is_over_counts_for_nothing() {
    let mut driver = started(of(vec![ContainerPlan {
        restart: Restart::Always,
        post_start: true,
        liveness: Some(probe::Plan {
            failures: 1,
            ..every(5)
        }),
        ..container("a", Role::Main)
    }]));
    let hook = |run| Event::PostStarted {
        container: 0,
        run,
        result: Ok(()),
    };
    driver.feed(exited(0, 1));
    driver.feed(Event::Started { container: 0 });
    driver.feed(hook(0));
    assert!(!driver.is_ready(0), "its own hook has not ended");
    driver.feed(hook(1));
    assert!(driver.is_ready(0));
}

#[test]
fn container_that_is_ended_for_a_probe_is_started_again_however_it_ends() {
    for (restart, again) in [(Restart::OnFailure, true), (Restart::Never, false)] {
        let mut driver = started(of(vec![ContainerPlan {
            restart,
            liveness: Some(probe::Plan {
                failures: 1,
                ..every(5)
            }),
            ..container("a", Role::Main)
        }]));
        driver.probed(0, probe::Kind::Liveness, refused());
        assert_eq!(
            driver.feed(exited(0, 0)).contains(&Effect::Start(0)),
            again,
            "{restart:?}"
        );
    }
}

#[test]
fn what_starts_in_a_car_that_stands_still_runs_its_hook_and_is_asked_when_it_goes_on() {
    let mut driver = Driver::admitted(of(vec![ContainerPlan {
        post_start: true,
        ..container("a", Role::Main)
    }]));
    driver.feed(Event::Journaled);
    driver.feed(prepared(0));
    driver.feed(Event::Freeze);
    assert!(
        !driver
            .feed(Event::Started { container: 0 })
            .contains(&Effect::PostStart(0))
    );
    assert!(driver.feed(Event::Thaw).contains(&Effect::PostStart(0)));
}

#[test]
fn container_that_has_run_waits_for_no_sidecar_before_it_starts_again() {
    let mut driver = started(of(vec![
        container("a", Role::Sidecar),
        ContainerPlan {
            restart: Restart::OnFailure,
            ..container("init", Role::Init)
        },
        container("x", Role::Main),
    ]));
    // Twice, for the first time is at once.
    for _ in 0..2 {
        driver.feed(exited(1, 1));
        driver.feed(Event::Started { container: 1 });
    }
    driver.feed(exited(0, 1));
    driver.feed(Event::Started { container: 0 });
    driver.feed(exited(0, 1));
    driver.feed(exited(1, 1));
    assert!(driver.after(20, Event::Tick).contains(&Effect::Start(1)));
}

#[test]
fn container_that_is_told_to_end_while_it_starts_is_told_again_when_it_runs() {
    let mut driver = Driver::admitted(one());
    driver.feed(Event::Journaled);
    driver.feed(prepared(0));
    driver.feed(stop(30));
    assert_eq!(driver.feed(Event::Started { container: 0 }), [Effect::Ask(0)]);
    driver.after(30, Event::Tick);
    assert_eq!(driver.feed(exited(0, 137)), [Effect::WriteJournal, Effect::Report]);
}

#[test]
fn what_waits_for_something_that_the_pod_refers_to_is_made_ready_anew_when_that_is_there() {
    let mut driver = Driver::admitted(of(vec![container("main", Role::Main)]));
    driver.feed(Event::Journaled);
    let missing = || NotReady {
        reason: "CreateContainerConfigError".to_owned(),
        meanwhile: None,
        message: "configmap \"c\" not found".to_owned(),
        retry: true,
    };
    driver.feed(Event::NotReady {
        container: 0,
        why: missing(),
    });
    assert_eq!(driver.waiting(0).0, "CreateContainerConfigError");
    assert_eq!(driver.feed(Event::Tick), [], "its back-off is not over");
    assert!(driver.feed(Event::Provided).contains(&Effect::Prepare(0)));
    // Once more: it is being made ready already.
    assert!(!driver.feed(Event::Provided).contains(&Effect::Prepare(0)));
    driver.feed(prepared(0));
    assert_eq!(driver.attempt.containers[0].life, Life::Starting);
    // It was taken away in between.
    driver.feed(Event::NotStarted {
        container: 0,
        why: missing(),
    });
    assert_eq!(driver.waiting(0).1, "configmap \"c\" not found");
    assert!(driver.feed(Event::Provided).contains(&Effect::Prepare(0)));
}

#[test]
fn container_that_could_not_start_holds_up_no_end() {
    let mut driver = Driver::admitted(of(vec![container("main", Role::Main)]));
    driver.feed(Event::Journaled);
    driver.feed(prepared(0));
    driver.feed(stop(30));
    driver.feed(Event::NotStarted {
        container: 0,
        why: NotReady {
            reason: "CreateContainerConfigError".to_owned(),
            meanwhile: None,
            message: String::new(),
            retry: true,
        },
    });
    assert!(driver.attempt.is_stopped());
}
