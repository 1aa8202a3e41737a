//! What the car signs for when attempts end, whatever becomes of the agent and of the disk under the receipts.

use std::collections::BTreeSet;

use kerbside_core::attempt::Kind;
use kerbside_core::receipt::Claim;

use super::*;
use crate::journal::testing::{Full, Loss};
use crate::receipts::show;

async fn claims(temp: &tempfile::TempDir) -> Vec<Claim> {
    let directory = Directory::existing(temp.path()).unwrap();
    let shown = show::read(&directory).await.unwrap();
    assert!(shown.is_well(), "{}", shown.verify());
    shown.usages().map(|usage| usage.claim.clone()).collect()
}

/// Every attempt that had a process has one receipt, and no other has any.
pub(super) async fn every_process_has_one(case: &str, temp: &tempfile::TempDir, ran: &BTreeSet<String>) {
    let claims = claims(temp).await;
    let uids: BTreeSet<_> = claims.iter().map(|claim| claim.pod_uid.to_string()).collect();
    assert_eq!(uids.len(), claims.len(), "{case}: an attempt has two receipts");
    assert_eq!(&uids, ran, "{case}: not what ran");
}

fn stop(uid: &str) -> Event {
    Event::Stop(Stop {
        uid: uid.to_owned(),
        grace_ms: 0,
        reason: "Deleted".to_owned(),
    })
}

#[tokio::test]
async fn receipt_says_what_was_used_on_whose_word_and_how_it_ended() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    std::fs::write(process.path("/kerbside/out", "result.txt"), "7\n").unwrap();
    process.exits(0);
    fixture.phase("u-1", AttemptPhase::Succeeded).await;
    let claims = claims(&fixture.temp).await;
    let [claim] = &*claims else { panic!("{claims:?}") };
    assert_eq!((claim.cpu_ms, claim.output_bytes, claim.frozen_ms), (7, 2, Some(0)));
    assert_eq!(
        (claim.class.as_str(), claim.outcome.kind),
        ("inference", Kind::Succeeded)
    );
    assert!(claim.ended_at_ms >= claim.started_at_ms);
    assert!(claim.images.iter().all(|image| image.starts_with("sha256:")) && claim.images.len() == 1);
    let consent = claim.consent.as_ref().unwrap();
    assert_eq!(consent.document_sha256, digest(OWNER.as_bytes()));
    // Nothing that it says names the Pod.
    let file = std::fs::read_to_string(fixture.temp.path().join("receipts/usage.jsonl")).unwrap();
    assert_eq!(file.lines().count(), 1);
    let json = serde_json::to_string(claim).unwrap();
    let pod = pod_json();
    for name in ["name", "namespace"] {
        let name = pod["metadata"][name].as_str().unwrap();
        assert!(!json.contains(name), "{name} is in {json}");
    }
}

#[tokio::test]
async fn attempt_that_is_refused_has_no_receipt_and_one_that_is_forgotten_while_it_runs_has_one() {
    let fixture = Fixture::new();
    fixture
        .link(Event::Run(Run {
            class: "video".to_owned(),
            ..run("u-1", |_| {})
        }))
        .await;
    fixture.phase("u-1", AttemptPhase::Refused).await;
    let _process = fixture.running("u-2").await;
    let uid: PodUid = "u-2".parse().unwrap();
    fixture.link(Event::Forget(uid.clone())).await;
    fixture.cluster.forgotten(&uid).await;
    let claims = claims(&fixture.temp).await;
    let [claim] = &*claims else { panic!("{claims:?}") };
    assert_eq!((&claim.pod_uid, claim.outcome.kind), (&uid, Kind::Disrupted));
    assert_eq!((claim.outcome.reason.as_str(), claim.cpu_ms), ("Forgotten", 5));
}

#[tokio::test]
async fn attempt_that_died_with_its_agent_has_its_receipt_before_the_cluster_hears_of_it() {
    let fixture = Fixture::new();
    let _process = fixture.running("u-1").await;
    let temp = fixture.end().await;
    assert!(claims(&temp).await.is_empty());
    let fixture = Fixture::start(temp, FakeRuntime::new());
    // Nothing of the new agent has run yet but what comes before its first word.
    let claims = claims(&fixture.temp).await;
    let [claim] = &*claims else { panic!("{claims:?}") };
    assert_eq!(claim.outcome.reason, "AgentRestarted");
    assert!(claim.ended_at_ms >= claim.started_at_ms && claim.consent.is_some());
    let fixture = fixture.restart().await;
    let ran = BTreeSet::from(["u-1".to_owned()]);
    every_process_has_one("restarted twice", &fixture.temp, &ran).await;
}

/// A short life: three attempts that end in three ways.
async fn life(fixture: &Fixture) {
    for (uid, code) in [("u-1", 0), ("u-2", 3)] {
        fixture.running(uid).await.exits(code);
        let ended = |status: &AttemptStatus| {
            status.uid == uid && matches!(status.phase(), AttemptPhase::Succeeded | AttemptPhase::Failed)
        };
        fixture.cluster.status(ended).await;
    }
    fixture.running("u-3").await;
    fixture.link(stop("u-3")).await;
    fixture.phase("u-3", AttemptPhase::Disrupted).await;
}

fn signing_on(temp: tempfile::TempDir, disk: &Faulty) -> Fixture {
    let directory = Directory::open(temp.path()).unwrap();
    let journal = Journal::open(&directory.journal()).unwrap();
    std::fs::create_dir_all(directory.receipts()).unwrap();
    let receipts = Receipts::on(Box::new(disk.clone()), &directory.receipts(), &identity());
    let clock = Arc::new(TokioClock::new());
    Fixture::signing(temp, FakeRuntime::new(), clock, journal, receipts)
}

fn ran(fixture: &Fixture) -> BTreeSet<String> {
    let uids = ["u-1", "u-2", "u-3"].into_iter();
    let all = fixture.runtime.all();
    let has = |uid: &&str| all.iter().any(|process| process.spec.attempt == **uid);
    uids.filter(has).map(str::to_owned).collect()
}

/// Puts what is on the disk where receipts are read.
async fn check(case: &str, temp: &tempfile::TempDir, disk: &Faulty, ran: &BTreeSet<String>) {
    std::fs::write(temp.path().join("receipts/usage.jsonl"), disk.bytes()).unwrap();
    every_process_has_one(case, temp, ran).await;
}

#[tokio::test]
async fn agent_that_loses_power_anywhere_in_a_receipt_has_signed_once_for_all_that_ran() {
    for write in 0..3 {
        for cut in 0..4 {
            let case = format!("write {write}, cut {cut}");
            let disk = Faulty::of_lines().loses_power(Some(Loss { write, cut }));
            let fixture = signing_on(tempfile::tempdir().unwrap(), &disk);
            tokio::select! {
                () = disk.lost() => {}
                () = life(&fixture) => panic!("{case}: the power was not lost"),
            }
            let (ran, told) = (ran(&fixture), fixture.cluster.statuses());
            let disk = disk.restarted();
            let temp = fixture.end().await;
            let before = disk.bytes();
            let fixture = signing_on(temp, &disk);
            check(&case, &fixture.temp, &disk, &ran).await;
            // What was whole stays as it was, and no end was told of what was not.
            let lines: Vec<_> = before.split_inclusive(|byte| *byte == b'\n').collect();
            let whole = lines.iter().filter(|line| line.ends_with(b"\n")).count();
            assert!(disk.bytes().starts_with(&lines[..whole].concat()), "{case}");
            let ends: BTreeSet<_> = told.iter().filter(|s| ended(s)).map(|s| s.uid.clone()).collect();
            assert!(ends.len() <= whole, "{case}: {ends:?} were told, {whole} receipts");
            drop(fixture.end().await);
        }
    }
}

fn ended(status: &AttemptStatus) -> bool {
    matches!(
        status.phase(),
        AttemptPhase::Succeeded | AttemptPhase::Failed | AttemptPhase::Disrupted
    )
}

#[tokio::test]
async fn end_is_told_when_a_disk_that_was_full_has_taken_the_receipt() {
    for liar in [false, true] {
        let full = Full { writes: 0..2, liar };
        let case = format!("{full:?}");
        let disk = Faulty::of_lines().fills_up(full);
        let fixture = signing_on(tempfile::tempdir().unwrap(), &disk);
        life(&fixture).await;
        assert!(disk.writes() >= 5, "two were in vain");
        let ran = ran(&fixture);
        let temp = fixture.end().await;
        check(&case, &temp, &disk, &ran).await;
    }
}

#[tokio::test]
async fn attempt_whose_class_is_withdrawn_ends_at_once_while_the_car_works_on() {
    let fixture = Fixture::new();
    let process = fixture.running("u-1").await;
    process.becomes_obstinate();
    fixture
        .outlook
        .send_modify(|outlook| outlook.consented = Arc::default());
    let ended = fixture.phase("u-1", AttemptPhase::Disrupted).await;
    assert_eq!(
        (ended.reason.as_str(), ended.stopped),
        (reason::OWNER_CONSENT_MISSING, true)
    );
    // What was earned is kept.
    let claims = claims(&fixture.temp).await;
    let [claim] = &*claims else { panic!("{claims:?}") };
    assert_eq!(claim.outcome.reason, reason::OWNER_CONSENT_MISSING);
    assert!(claim.consent.as_ref().unwrap().record.is_some());
}
