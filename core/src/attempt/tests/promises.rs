//! What holds for every attempt, whatever happens and in whatever order.

use proptest::prelude::*;

use super::*;

fn said(well: bool) -> Result<(), String> {
    if well {
        Ok(())
    } else {
        Err("connection refused".to_owned())
    }
}

fn events() -> impl Strategy<Value = Event> {
    let which = || 0_usize..4;
    prop_oneof![
        Just(Event::Journaled),
        Just(Event::JournalFailed { message: String::new() }),
        which().prop_map(prepared),
        which().prop_map(prepared),
        Just(pull_failed()),
        which().prop_map(declined),
        which().prop_map(|container| Event::Started { container }),
        which().prop_map(|container| Event::Started { container }),
        (which(), 0..2).prop_map(|(container, code)| exited(container, code)),
        (which(), 0..3_u32, any::<bool>()).prop_map(|(container, run, well)| Event::PostStarted {
            container,
            run,
            result: said(well)
        }),
        (which(), 0..3_u32, any::<bool>()).prop_map(|(container, run, well)| Event::PreStopped {
            container,
            run,
            result: said(well)
        }),
        (0..4_usize, 0..3_u32, 0..3_usize, 1..5_u32, any::<bool>()).prop_map(|(container, run, kind, number, well)| {
            Event::Probed {
                container,
                run,
                kind: [probe::Kind::Startup, probe::Kind::Liveness, probe::Kind::Readiness][kind],
                number,
                result: said(well),
            }
        }),
        Just(Event::Amended),
        Just(Event::Freeze),
        Just(Event::Thaw),
        (0_u64..40).prop_map(stop),
        Just(depart()),
        Just(Event::Fail {
            reason: "Evicted".to_owned(),
            message: String::new()
        }),
        (0_u64..2000).prop_map(|s| Event::Heard { sent: now(s).boot }),
        Just(Event::Tick),
        Just(Event::Uploaded),
        Just(Event::UploadRefused {
            reason: "X".to_owned(),
            message: String::new()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn machine_keeps_its_promises(
        steps in prop::collection::vec((0_u64..30, events()), 1..60),
        restart in prop_oneof![Just(Restart::Never), Just(Restart::OnFailure), Just(Restart::Always)],
        upload in any::<bool>(),
        role in prop_oneof![Just(Role::Init), Just(Role::Sidecar), Just(Role::Main)],
        hooks in any::<bool>(),
        probes in any::<bool>(),
        unheard in prop::option::of(1_u64..200),
        heard in prop::option::of(0_u64..=100),
    ) {
        let probe = probes.then(|| probe::Plan { failures: 1, ..probe::Plan::default() });
        let container = |name, role| ContainerPlan {
            post_start: hooks,
            pre_stop: hooks,
            startup: probe.filter(|_| role != Role::Main),
            liveness: probe,
            ..ContainerPlan::new(name, role, restart)
        };
        let plan = Plan {
            containers: vec![container("a", role), container("b", Role::Main), container("c", Role::Main)],
            upload,
            run_unheard_for: unheard.map(Duration::from_secs),
            ..one()
        };
        let mut driver = Driver::admitted(plan);
        driver.attempt.heard = heard.map(|sent| now(sent).boot);
        let mut live = [false; 4];
        let mut killed = [false; 4];
        let mut stopped = false;
        let mut frozen = false;
        for (after, event) in steps {
            let before = driver.attempt.clone();
            // A container that does not live can neither say that it started nor that it ended.
            if let Event::Started { container } | Event::Exited { container, .. } = &event
                && !live[*container]
            {
                continue;
            }
            if let Event::Exited { container, .. } = &event {
                live[*container] = false;
            }
            if event == Event::Amended && driver.plan.containers.len() == 3 {
                driver.plan.containers.push(ContainerPlan::new("look", Role::Ephemeral, restart));
            }
            let tick = event == Event::Tick;
            let effects = driver.after(after, event);
            if tick {
                let next = driver.attempt.deadline(&driver.plan);
                prop_assert!(next.is_none_or(|at| at > now(driver.seconds).boot), "it would be due again at once");
            }
            if before.outcome().is_some() {
                prop_assert_eq!(&before, &driver.attempt);
                prop_assert!(effects.is_empty());
            }
            let mut reports = 0;
            for (at, effect) in effects.iter().enumerate() {
                match effect {
                    Effect::Start(container) => {
                        prop_assert!(!live[*container] && !stopped && !frozen);
                        let fence = driver.plan.run_unheard_for.zip(driver.attempt.heard);
                        prop_assert!(fence.is_none_or(|(limit, sent)| now(driver.seconds).boot.since(sent) < limit));
                        prop_assert!(driver.plan.run_unheard_for.is_none() || driver.attempt.heard.is_some());
                        prop_assert_eq!(&effects[at - 1], &Effect::WriteJournal);
                        (live[*container], killed[*container]) = (true, false);
                    }
                    Effect::GiveUp => stopped = true,
                    Effect::Ask(container) | Effect::PreStop(container) => prop_assert!(live[*container]),
                    Effect::PostStart(container) => prop_assert!(live[*container] && !stopped && !frozen),
                    Effect::Kill(container) => {
                        prop_assert!(live[*container]);
                        killed[*container] = true;
                    }
                    Effect::Probe { container, .. } => prop_assert!(live[*container] && !stopped && !frozen),
                    Effect::Freeze => frozen = true,
                    Effect::Thaw => frozen = false,
                    Effect::Report => {
                        reports += 1;
                        prop_assert_eq!(&effects[at - 1], &Effect::WriteJournal);
                    }
                    Effect::Prepare(_) => prop_assert!(!stopped && !frozen),
                    Effect::Upload | Effect::WriteJournal => {}
                }
            }
            prop_assert!(reports <= 1);
            prop_assert_eq!(driver.attempt.revision, before.revision + reports);
            if driver.attempt.is_stopped() {
                prop_assert!(live.iter().all(|live| !live));
            }
            let record: Record = serde_json::from_str(&serde_json::to_string(&driver.attempt.record(&driver.plan)).unwrap()).unwrap();
            let end = record.end();
            let (again, _) = Attempt::recover(&driver.plan, record, now(driver.seconds));
            prop_assert_eq!(again.outcome().map(|outcome| outcome.kind), end);
            prop_assert!(again.is_stopped() && again.revision > driver.attempt.revision);
        }
        // Whatever went before: a stop, its grace, the two seconds of who was not asked before.
        for (after, event) in [(0, stop(5)), (5, Event::Tick), (2, Event::Tick), (2, Event::Tick)] {
            for effect in driver.after(after, event) {
                if let Effect::Kill(container) = effect {
                    killed[container] = true;
                }
            }
        }
        prop_assert!(live.iter().zip(killed).all(|(live, killed)| !live || killed), "{:?}", driver.attempt);
    }
}
