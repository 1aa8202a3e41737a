//! The files, as the agent leaves and finds them.

use std::os::unix::fs::PermissionsExt as _;

use clap::Parser as _;
use kerbside_core::attempt::{Kind, Outcome};
use kerbside_core::receipt::{Ending, Usage, digest};

use super::*;
use crate::cli::{Cli, Found};
use crate::testing::identity;

pub(crate) fn claim(n: u32) -> Claim {
    Claim {
        pod_uid: format!("u-{n}").parse().unwrap(),
        images: vec!["sha256:aa".to_owned()],
        class: "inference".to_owned(),
        terms_sha256: None,
        consent: None,
        started_at_ms: 1000,
        ended_at_ms: 2000,
        cpu_ms: 7,
        frozen_ms: Some(0),
        output_bytes: 2,
        energy: None,
        outcome: Ending::from(&Outcome::new(Kind::Succeeded, "", "")),
    }
}

/// Terms as an adapter gives them.
pub(crate) const TERMS: &str =
    r#"{"pool":"overnight","currency":"EUR","perCPUHour":"0.02","perKWh":"0.30","unaccepted":"EnergyOnly"}"#;

/// A receipt's content, of an attempt that ran on these terms.
pub(crate) fn usage(n: u32, kind: Kind, cpu_ms: u64, terms: Option<&str>) -> Usage {
    let claim = Claim {
        cpu_ms,
        terms_sha256: terms.map(|terms| digest(terms.as_bytes())),
        outcome: Ending::from(&Outcome::new(kind, "", "")),
        ..claim(n)
    };
    Usage {
        sequence: u64::from(n),
        previous: String::new(),
        vehicle: "car-aaaaaaaaaaaaaaaa".parse().unwrap(),
        claim,
    }
}

struct Car {
    temp: tempfile::TempDir,
    identity: Identity,
}

impl Car {
    fn new() -> Self {
        Self {
            temp: tempfile::tempdir().unwrap(),
            identity: identity(),
        }
    }

    fn open(&self) -> Receipts {
        let directory = Directory::open(self.temp.path()).unwrap();
        Receipts::open(&directory, &self.identity).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.temp.path().join("receipts/usage.jsonl")
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    async fn says(&self, verb: &str, json: bool) -> anyhow::Result<String> {
        let dir = self.temp.path().to_str().unwrap();
        let line = ["kerbside-agent", "receipts", verb, "--dir", dir];
        Cli::parse_from(line.into_iter().chain(json.then_some("--json")))
            .run()
            .await
    }
}

#[tokio::test]
async fn receipt_is_given_once_over_restarts_and_new_keys() {
    let mut car = Car::new();
    let receipts = car.open();
    for n in [1, 2, 1] {
        receipts.give(claim(n)).await.unwrap();
    }
    receipts.renew(&identity()).unwrap();
    receipts.give(claim(3)).await.unwrap();
    drop(receipts);
    car.identity = identity();
    let receipts = car.open();
    receipts.give(claim(2)).await.unwrap();
    receipts.give(claim(4)).await.unwrap();
    let standing = receipts.standing().borrow().clone();
    assert_eq!((standing.count, standing.newest, standing.aside.len()), (4, 4, 0));
    let said = car.says("verify", false).await.unwrap();
    assert!(said.contains("all  4 receipts, 28 ms"), "{said}");
    let keys = std::fs::read_dir(car.temp.path().join("receipts/keys")).unwrap();
    assert_eq!(keys.count(), 3);
    let mode = std::fs::metadata(car.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn ledger_cut_within_a_line_or_at_its_end_goes_on_with_every_whole_receipt() {
    let car = Car::new();
    let receipts = car.open();
    for n in 1..=2 {
        receipts.give(claim(n)).await.unwrap();
    }
    drop(receipts);
    let whole = std::fs::read(car.path()).unwrap();
    // Each takes some writes that wait for the disk.
    let near_an_end = |cut: &usize| {
        let around = &whole[cut.saturating_sub(2)..whole.len().min(cut + 2)];
        around.contains(&b'\n') || cut.is_multiple_of(97)
    };
    for cut in (0..=whole.len()).filter(near_an_end) {
        std::fs::write(car.path(), &whole[..cut]).unwrap();
        let receipts = car.open();
        let lines = whole[..cut]
            .split_inclusive(|byte| *byte == b'\n')
            .filter(|line| line.ends_with(b"\n"))
            .count();
        assert_eq!(receipts.standing().borrow().newest, lines as u64, "cut at {cut}");
        for n in 1..=3 {
            receipts.give_now(claim(n)).unwrap();
        }
        drop(receipts);
        let standing = car.open().standing().borrow().clone();
        assert_eq!((standing.count, standing.aside.len()), (3, 0), "cut at {cut}");
    }
}

#[tokio::test]
async fn ledger_that_does_not_verify_is_kept_and_a_new_chain_begins_behind_it() {
    let car = Car::new();
    let receipts = car.open();
    for n in 1..=3 {
        receipts.give(claim(n)).await.unwrap();
    }
    drop(receipts);
    let mut lines = car.lines();
    lines.remove(1);
    let broken = lines.join("\n") + "\n";
    std::fs::write(car.path(), &broken).unwrap();
    // Opened twice: nothing is written between.
    for _ in 0..2 {
        let standing = car.open().standing().borrow().clone();
        assert_eq!((standing.count, standing.newest), (0, 3));
        assert_eq!(standing.aside, ["usage.jsonl.broken-1"]);
    }
    let receipts = car.open();
    receipts.give(claim(1)).await.unwrap();
    receipts.give(claim(4)).await.unwrap();
    drop(receipts);
    let aside = car.temp.path().join("receipts/usage.jsonl.broken-1");
    assert_eq!(std::fs::read_to_string(aside).unwrap(), broken);
    assert_eq!(car.lines().len(), 1, "the first has one, in the file that is kept");
    let standing = car.open().standing().borrow().clone();
    assert_eq!((standing.count, standing.newest, standing.aside.len()), (1, 4, 1));
    let said = car.says("verify", false).await.unwrap_err();
    let said = &said.downcast_ref::<Found>().unwrap().0;
    assert!(said.contains("line 1: the chain begins with receipt 4"), "{said}");
    assert!(said.contains("usage.jsonl.broken-1"), "{said}");
}

#[tokio::test]
async fn ledger_that_was_set_back_goes_on_from_what_it_has() {
    let car = Car::new();
    let receipts = car.open();
    receipts.give(claim(1)).await.unwrap();
    let old = std::fs::read(car.path()).unwrap();
    receipts.give(claim(2)).await.unwrap();
    drop(receipts);
    std::fs::write(car.path(), old).unwrap();
    car.open().give(claim(3)).await.unwrap();
    let said = car.says("verify", true).await.unwrap();
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&report["lines"], &report["head"]["sequence"]), (&2.into(), &2.into()));
}

#[tokio::test]
async fn closed_receipts_take_nothing() {
    let car = Car::new();
    let receipts = car.open();
    receipts.close();
    assert!(matches!(receipts.give(claim(1)).await, Err(ReceiptError::Gone)));
    assert!(car.lines().is_empty());
}

#[tokio::test]
async fn owner_reads_lists_checks_and_takes_away() {
    let car = Car::new();
    assert_eq!(car.says("list", false).await.unwrap(), "no receipts\n");
    assert!(car.says("verify", false).await.unwrap().contains("0 receipts"));
    assert_eq!(
        std::fs::read_dir(car.temp.path()).unwrap().count(),
        0,
        "nothing is made"
    );
    let receipts = car.open();
    receipts.give(claim(1)).await.unwrap();
    assert_eq!(
        car.says("list", false).await.unwrap(),
        "1  1970-01-01T00:00:01Z to 1970-01-01T00:00:02Z  class inference  succeeded  \
         7 ms of processor time, 2 B of output  attempt u-1\n"
    );
    let listed: serde_json::Value = serde_json::from_str(&car.says("list", true).await.unwrap()).unwrap();
    assert_eq!((&listed["sequence"], &listed["podUid"]), (&1.into(), &"u-1".into()));
    let exported: serde_json::Value = serde_json::from_str(&car.says("export", false).await.unwrap()).unwrap();
    let keyid = exported["receipts"][0]["signatures"][0]["keyid"].as_str().unwrap();
    let certificate = exported["certificates"][keyid].as_str().unwrap();
    assert!(certificate.contains("BEGIN CERTIFICATE"));
    assert!(!exported.to_string().contains("PRIVATE KEY"));

    let mut line = std::fs::read_to_string(car.path()).unwrap();
    line = line.replace("\"sig\":\"M", "\"sig\":\"N");
    std::fs::write(car.path(), line).unwrap();
    let said = car.says("verify", false).await.unwrap_err().to_string();
    assert!(said.contains("1 thing is wrong"), "{said}");
    let listed = car.says("list", false).await.unwrap();
    assert!(
        listed.starts_with("no receipts\n") && listed.contains("not all is well"),
        "{listed}"
    );
}
