//! What is gone, what stays until it is paid, and what an agent does that is told to forget.

use kerbside_core::owner::Command;

use super::*;
use crate::receipts::Receipts;
use crate::receipts::tests::claim;
use crate::testing::{OWNER, consented};

fn now() -> Timestamp {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

const FORGOTTEN: Reason = Reason::Forgotten;

struct Car {
    temp: tempfile::TempDir,
    directory: Directory,
}

impl Car {
    /// A car with everything that a car may have of its owner.
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        consented(&directory, &["inference"], now());
        for (path, text) in [
            (directory.owner(), OWNER),
            (directory.car(), "{}"),
            (directory.said(), "[]"),
            (directory.stays(), "{}"),
            (directory.energy(), "{}"),
        ] {
            std::fs::write(path, text).unwrap();
        }
        std::fs::create_dir_all(temp.path().join("attempts/u-1/logs")).unwrap();
        Self { temp, directory }
    }

    fn earns(&self) {
        let identity = crate::identity::read(&self.directory).unwrap();
        let receipts = Receipts::open(&self.directory, &identity).unwrap();
        receipts.give_now(claim(1)).unwrap();
    }

    fn is_paid(&self) {
        let text = r#"{"vehicle":"car-aaaaaaaaaaaaaaaa","sequence":1}"#;
        std::fs::write(self.directory.receipts().join("delivered.json"), text).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.temp.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn forgetting(unpaid_too: bool) -> Forgetting {
    Forgetting {
        reason: FORGOTTEN,
        since: now(),
        unpaid_too,
    }
}

#[test]
fn car_that_owes_nothing_forgets_all_but_that_there_was_a_consent() {
    let car = Car::new();
    begin(&car.directory, forgetting(false)).unwrap();
    assert!(finish_if_nothing_is_owed(&car.directory, forgetting(false)).unwrap());
    assert_eq!(car.names(), ["car.yaml", "consents"]);
    let left: Vec<_> = std::fs::read_dir(car.directory.consents()).unwrap().collect();
    assert_eq!(left.len(), 1);
    let sealed = crate::consents::sealed(&car.directory);
    assert_eq!(
        (sealed.len(), sealed[0].entries, sealed[0].reason.as_str()),
        (1, 1, "forgotten")
    );
    assert_eq!(pending(&car.directory), None);
}

#[test]
fn what_was_earned_stays_until_it_is_delivered_and_nothing_is_worked_for() {
    let car = Car::new();
    car.earns();
    begin(&car.directory, forgetting(false)).unwrap();
    assert!(!finish_if_nothing_is_owed(&car.directory, forgetting(false)).unwrap());
    assert_eq!(undelivered(&car.directory).unwrap(), 1);
    assert!(!car.directory.owner().exists());
    assert!(crate::identity::exists(&car.directory), "who else could deliver it");
    let word = control::remembered(&car.directory.command(), now()).command(None);
    assert_eq!(word, Command::Withdraw);
    car.is_paid();
    assert!(finish_if_nothing_is_owed(&car.directory, forgetting(false)).unwrap());
    assert_eq!(car.names(), ["car.yaml", "consents"]);
}

#[test]
fn owner_may_have_it_all_gone_at_once_and_lose_what_was_earned() {
    let car = Car::new();
    car.earns();
    begin(&car.directory, forgetting(true)).unwrap();
    assert!(finish_if_nothing_is_owed(&car.directory, forgetting(true)).unwrap());
    assert!(!car.directory.receipts().exists());
}

#[test]
fn word_to_forget_that_cannot_be_read_is_one_that_loses_nothing() {
    let car = Car::new();
    std::fs::write(car.directory.forgetting(), "{").unwrap();
    let pending = pending(&car.directory).unwrap();
    assert!(!pending.unpaid_too);
}

#[tokio::test(start_paused = true)]
async fn agent_forgets_when_nothing_lives_and_all_is_delivered() {
    let car = Car::new();
    let (live, lives) = watch::channel(1);
    let receipts = control::Receipts {
        newest: 2,
        delivered: 1,
        ..control::Receipts::default()
    };
    let (standing, stands) = watch::channel(receipts);
    let (held, holds) = watch::channel(vec![control::Held::default()]);
    let owes = Owes {
        live: lives,
        held: holds,
        standing: stands,
    };
    let mut due = Box::pin(due(&car.directory, &owes));
    let mut in_a_while = async || tokio::time::timeout(Duration::from_secs(5), &mut due).await.is_ok();
    assert!(!in_a_while().await, "nobody told it");
    begin(&car.directory, forgetting(false)).unwrap();
    assert!(!in_a_while().await, "something lives");
    live.send_replace(0);
    assert!(!in_a_while().await, "something is owed");
    standing.send_modify(|standing| standing.delivered = 2);
    assert!(!in_a_while().await, "a result is still on its way");
    held.send_replace(Vec::new());
    assert!(in_a_while().await);
}
