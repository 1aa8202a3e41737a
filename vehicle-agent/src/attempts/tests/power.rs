//! A whole life of an agent on a disk that fails at every write, and what the agents after it know, say and run.
//!
//! Each case lives the same life; only the fault differs. What must hold whatever the fault: a program ran only if the next agent knows
//! its attempt, no program runs twice, revisions rise, an end that was told is told the same for ever after,
//! and what ran has one receipt and no other has any.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::journal::testing::{Full, Loss};

/// How the cluster and the program end an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The program ends by itself.
    Exits(i32),
    /// The same, after the car was paused for a while.
    Pauses,
    /// The cluster ends it.
    Stop,
    /// The cluster forgets it while it runs.
    Forget,
    /// The car declines it.
    Refuse,
    /// The program ends, and the cluster cannot be reached from then on.
    Unsent,
}

const LIFE: [(&str, End); 7] = [
    ("u-1", End::Exits(0)),
    ("u-2", End::Stop),
    ("u-3", End::Refuse),
    ("u-4", End::Exits(3)),
    ("u-5", End::Pauses),
    ("u-6", End::Forget),
    ("u-7", End::Unsent),
];

/// Longer than any cause of a wait here: a time-out of a test is a failure of its own.
const STUCK: Duration = Duration::from_mins(1);

/// What the cluster wants, whichever agent is there.
#[derive(Default)]
struct Wants {
    asked: BTreeSet<&'static str>,
    stopped: BTreeSet<&'static str>,
    forgotten: BTreeSet<&'static str>,
}

/// What is known of all agents so far.
#[derive(Default)]
struct Past {
    told: BTreeMap<String, Vec<AttemptStatus>>,
    ran: BTreeSet<String>,
}

fn asked(uid: &str, end: End) -> Event {
    let class = if end == End::Refuse { "video" } else { "inference" };
    Event::Run(Run {
        class: class.to_owned(),
        ..run(uid, |_| {})
    })
}

fn stop(uid: &str) -> Event {
    Event::Stop(Stop {
        uid: uid.to_owned(),
        grace_ms: 0,
        reason: "Deleted".to_owned(),
    })
}

fn is_end(status: &AttemptStatus) -> bool {
    !matches!(
        status.phase(),
        AttemptPhase::Pending | AttemptPhase::Running | AttemptPhase::Frozen
    )
}

fn is_of(process: &FakeProcess, uid: &str) -> bool {
    process.path("/", "").components().any(|part| part.as_os_str() == uid)
}

fn ended(past: &Past, uid: &str) -> bool {
    past.told.get(uid).is_some_and(|told| told.iter().any(is_end))
}

impl Fixture {
    async fn ends(&self, uid: &str) {
        self.cluster.status(|status| status.uid == uid && is_end(status)).await;
    }

    /// Its program, unless it ends before it has one.
    async fn begins(&self, uid: &str) -> Option<FakeProcess> {
        tokio::select! {
            process = self.runtime.starts(|process| is_of(process, uid)) => Some(process),
            () = self.ends(uid) => None,
        }
    }

    async fn is_forgotten(&self, uid: &str) {
        let uid: PodUid = uid.parse().unwrap();
        self.link(Event::Forget(uid.clone())).await;
        self.cluster.forgotten(&uid).await;
    }
}

async fn life(fixture: &Fixture, wants: &RefCell<Wants>) {
    for (uid, end) in LIFE {
        wants.borrow_mut().asked.insert(uid);
        fixture.link(asked(uid, end)).await;
        let Some(process) = fixture.begins(uid).await else {
            continue;
        };
        match end {
            End::Exits(code) => process.exits(code),
            End::Pauses => {
                fixture.car(State::Paused {
                    since: Boottime::default(),
                    parked_since: None,
                    cause: Cause::Owner,
                });
                let paused = |status: &AttemptStatus| status.uid == uid && status.phase() == AttemptPhase::Frozen;
                fixture.cluster.status(paused).await;
                fixture.car(available());
                process.exits(0);
            }
            End::Stop => {
                wants.borrow_mut().stopped.insert(uid);
                fixture.link(stop(uid)).await;
            }
            End::Forget => {
                wants.borrow_mut().forgotten.insert(uid);
                fixture.is_forgotten(uid).await;
                continue;
            }
            End::Refuse => panic!("what is refused has begun"),
            End::Unsent => {
                fixture.cluster.set_reachable(false);
                process.exits(0);
                let unsent = |status: &AttemptStatus| status.uid == uid && (status.stopped || is_end(status));
                fixture.cluster.status(unsent).await;
                continue;
            }
        }
        fixture.ends(uid).await;
    }
    wants.borrow_mut().forgotten.insert("u-1");
    fixture.is_forgotten("u-1").await;
}

/// What the cluster does when the car is back, and the life of what it finds there.
async fn return_of_the_car(fixture: &Fixture, wants: &RefCell<Wants>, past: &Past, knows: &BTreeSet<String>) {
    for (uid, end) in LIFE {
        let (asked_for, stopped, forgotten) = {
            let wants = wants.borrow();
            let is = |set: &BTreeSet<&str>| set.contains(uid);
            (is(&wants.asked), is(&wants.stopped), is(&wants.forgotten))
        };
        if forgotten {
            fixture.is_forgotten(uid).await;
        } else if asked_for && (knows.contains(uid) || !ended(past, uid)) {
            let told = || fixture.cluster.statuses().iter().any(|s| s.uid == uid && is_end(s));
            if stopped && !told() {
                fixture.link(stop(uid)).await;
            } else if !told() {
                fixture.link(asked(uid, end)).await;
            }
            if let Some(process) = fixture.begins(uid).await {
                process.exits(0);
            }
            fixture.ends(uid).await;
        }
    }
}

/// The agent is gone: looks at what it said and ran.
fn look_back(case: &str, fixture: &Fixture, past: &mut Past) {
    let began: Vec<_> = fixture
        .runtime
        .all()
        .iter()
        .filter_map(|process| LIFE.iter().find(|(uid, _)| is_of(process, uid)))
        .map(|(uid, _)| (*uid).to_owned())
        .collect();
    assert_eq!(began.len(), fixture.runtime.count());
    for uid in began {
        assert!(!ended(past, &uid), "{case}: {uid} began after its end was told");
        assert!(past.ran.insert(uid.clone()), "{case}: {uid} ran twice");
    }
    for status in fixture.cluster.statuses() {
        let told = past.told.entry(status.uid.clone()).or_default();
        if let Some(last) = told.last() {
            let same = last.phase() == status.phase() && last.stopped == status.stopped;
            assert!(
                last.revision < status.revision || last.revision == status.revision && same,
                "{case}: {last:#?} and then {status:#?}"
            );
            assert!(
                !is_end(last) || last.phase() == status.phase(),
                "{case}: an end that was told is another now: {last:#?} and then {status:#?}"
            );
        }
        told.push(status);
    }
}

/// Opens the journal; None: the power went meanwhile.
async fn open(disk: &Faulty) -> Option<(Journal, Vec<Recovered>)> {
    let same = disk.clone();
    let opening = tokio::task::spawn_blocking(move || Journal::on(same));
    tokio::select! {
        () = disk.lost() => None,
        opened = opening => Some(opened.unwrap().unwrap()),
    }
}

/// Looks at what the next agent finds on the disk, and returns the attempts that it knows.
fn look_at(case: &str, found: &[Recovered], past: &Past, wants: &RefCell<Wants>) -> BTreeSet<String> {
    let knows: BTreeSet<_> = found.iter().map(|recovered| recovered.uid.to_string()).collect();
    let wants = wants.borrow();
    for uid in past.ran.iter().filter(|uid| !wants.forgotten.contains(uid.as_str())) {
        assert!(knows.contains(uid), "{case}: {uid} ran and is not known");
    }
    for (uid, told) in past
        .told
        .iter()
        .filter(|(uid, _)| !wants.forgotten.contains(uid.as_str()))
    {
        // What was declined never began, and who is told so does not ask again.
        let declined =
            |status: &AttemptStatus| status.phase() == AttemptPhase::Refused || status.reason == "NotInVehicle";
        let held = |status: &AttemptStatus| is_end(status) && !declined(status);
        assert!(
            knows.contains(uid) || !told.iter().any(held),
            "{case}: the end of {uid} is not known"
        );
    }
    knows
}

/// Lives it, loses the agent where the fault says or at the end, and goes on with two more: the second may lose power too.
async fn case(name: String, disk: Faulty, again: Option<Loss>) {
    let (wants, mut past) = (RefCell::new(Wants::default()), Past::default());
    let fixture = Fixture::on(&disk);
    let lived = async {
        tokio::select! {
            () = disk.lost() => {}
            () = life(&fixture, &wants) => {}
        }
    };
    assert!(tokio::time::timeout(STUCK, lived).await.is_ok(), "{name}: stuck");
    let (mut disk, mut fixture) = (disk, fixture);
    for again in [again, None] {
        look_back(&name, &fixture, &mut past);
        let temp = fixture.end().await;
        disk = disk.restarted().loses_power(again);
        let mut opened = open(&disk).await;
        if opened.is_none() {
            disk = disk.restarted();
            opened = open(&disk).await;
        }
        let opened = opened.unwrap();
        let knows = look_at(&name, &opened.1, &past, &wants);
        fixture = Fixture::of(temp, FakeRuntime::new(), Arc::new(TokioClock::new()), opened);
        let lived = async {
            tokio::select! {
                () = disk.lost() => {}
                () = return_of_the_car(&fixture, &wants, &past, &knows) => {}
            }
        };
        assert!(
            tokio::time::timeout(STUCK, lived).await.is_ok(),
            "{name}: stuck after a restart"
        );
    }
    look_back(&name, &fixture, &mut past);
    let temp = fixture.end().await;
    super::receipts::every_process_has_one(&name, &temp, &past.ran).await;
    let (_journal, found) = open(&disk.restarted()).await.unwrap();
    look_at(&name, &found, &past, &wants);
    for uid in LIFE.iter().map(|(uid, _)| *uid).filter(|uid| *uid != "u-6") {
        assert!(
            !wants.borrow().asked.contains(uid) || ended(&past, uid),
            "{name}: {uid} has no end"
        );
    }
}

async fn all(cases: impl Iterator<Item = (String, Faulty, Option<Loss>)>) {
    let lives = stream::iter(cases).map(|(name, disk, again)| case(name, disk, again));
    let count = lives.buffer_unordered(32).count().await;
    assert!(count > 20, "{count} cases");
}

/// How many writes a life without a fault takes.
async fn writes() -> usize {
    let disk = Faulty::new();
    let fixture = Fixture::on(&disk);
    life(&fixture, &RefCell::new(Wants::default())).await;
    disk.writes()
}

/// A write of two records has so many places where it may be cut, by what that means.
const CUTS: usize = 5;

#[tokio::test]
async fn agent_that_loses_power_anywhere_in_a_write_comes_back_knowing_what_it_ran() {
    let cases = (0..writes().await).flat_map(|write| {
        (0..CUTS).map(move |cut| {
            let loss = Loss { write, cut };
            // The next one loses it too, while it says what it has found, or a little later.
            let again = (cut % 2 == 0).then_some(Loss {
                write: write % 4,
                cut: write % CUTS,
            });
            (
                format!("{loss:?}, {again:?}"),
                Faulty::new().loses_power(Some(loss)),
                again,
            )
        })
    });
    all(cases).await;
}

#[tokio::test]
async fn agent_whose_disk_is_full_for_a_while_goes_on_and_tells_no_end_that_it_may_forget() {
    let cases = (0..writes().await).flat_map(|write| {
        [(1, false), (1, true), (3, false)].map(move |(count, liar)| {
            let full = Full {
                writes: write..write + count,
                liar,
            };
            (format!("{full:?}"), Faulty::new().fills_up(full), None)
        })
    });
    all(cases).await;
}

#[tokio::test]
async fn agent_whose_disk_was_full_when_it_lost_power_never_takes_back_what_it_told() {
    let cases = (0..writes().await).flat_map(|write| {
        [false, true].map(move |liar| {
            let full = Full {
                writes: write..usize::MAX,
                liar,
            };
            let loss = Loss {
                write: write + 3,
                cut: 0,
            };
            (
                format!("{full:?}, {loss:?}"),
                Faulty::new().fills_up(full).loses_power(Some(loss)),
                None,
            )
        })
    });
    all(cases).await;
}
