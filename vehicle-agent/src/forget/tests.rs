//! What is gone, what stays until it is paid, and what an agent does that is told to forget.

use std::sync::Arc;

use kerbside_core::owner::Command;

use super::*;
use crate::receipts::Receipts;
use crate::receipts::tests::claim;
use crate::testing::{OWNER, consented, identity_of};

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
            (directory.data(), "{}"),
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

    /// Is told to forget; why its consents lie there still.
    fn begins(&self, unpaid_too: bool) -> Option<ConsentError> {
        let forgetting = Forgetting::new(&self.directory, FORGOTTEN, now(), unpaid_too);
        begin(&self.directory, &forgetting).unwrap()
    }

    fn finishes(&self) -> bool {
        let forgetting = pending(&self.directory).unwrap().unwrap();
        finish_if_nothing_is_owed(&self.directory, &forgetting).unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.root().join(name), text).unwrap();
    }

    fn names(&self) -> Vec<String> {
        self.names_in("")
    }

    fn names_in(&self, name: &str) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.temp.path().join(name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

#[test]
fn car_that_owes_nothing_forgets_all_but_that_there_was_a_consent() {
    let car = Car::new();
    assert!(car.begins(false).is_none());
    assert!(car.finishes());
    assert_eq!(car.names(), ["car.yaml", "consents"]);
    let left: Vec<_> = std::fs::read_dir(car.directory.consents()).unwrap().collect();
    assert_eq!(left.len(), 1);
    let sealed = crate::consents::sealed(&car.directory);
    assert_eq!(
        (sealed.len(), sealed[0].entries, sealed[0].reason.as_str()),
        (1, 1, "forgotten")
    );
    assert_eq!(pending(&car.directory).unwrap(), None);
}

#[test]
fn what_was_earned_stays_until_it_is_delivered_and_nothing_is_worked_for() {
    let car = Car::new();
    car.earns();
    assert!(car.begins(false).is_none());
    assert!(!car.finishes());
    assert_eq!(undelivered(&car.directory).unwrap(), 1);
    assert!(!car.directory.owner().exists());
    assert!(crate::identity::exists(&car.directory), "who else could deliver it");
    let word = control::remembered(&car.directory.command(), now()).command(None);
    assert_eq!(word, Command::Withdraw);
    car.is_paid();
    assert!(car.finishes());
    assert_eq!(car.names(), ["car.yaml", "consents"]);
}

#[test]
fn owner_may_have_it_all_gone_at_once_and_lose_what_was_earned() {
    let car = Car::new();
    car.earns();
    assert!(car.begins(true).is_none());
    assert!(car.finishes());
    assert!(!car.directory.receipts().exists());
}

#[test]
fn notice_that_is_broken_keeps_nobodys_consents() {
    let car = Car::new();
    car.write("notice.yaml", "{version: '3'");
    assert!(car.begins(false).is_none());
    assert!(!car.names_in("consents").contains(&"consents.jsonl".to_owned()));
    assert!(car.finishes());
    assert_eq!(car.names(), ["car.yaml", "consents", "notice.yaml"]);
    assert_eq!(car.names_in("consents"), ["sealed.jsonl"]);
    assert_eq!(crate::consents::sealed(&car.directory)[0].entries, 1);
}

#[test]
fn disk_that_is_full_keeps_nobody_from_being_forgotten() {
    let car = Car::new();
    car.earns();
    // What replaces a file writes another one first, which nobody can where a directory is.
    for name in ["forget.new", "command.new"] {
        std::fs::create_dir(car.directory.root().join(name)).unwrap();
    }
    assert!(car.begins(true).is_none());
    assert!(!car.directory.owner().exists());
    let word = control::remembered(&car.directory.command(), now()).command(None);
    assert_eq!(word, Command::Withdraw);
    let pending = pending(&car.directory).unwrap().unwrap();
    assert_eq!(
        (pending.vehicle, pending.unpaid_too),
        (None, false),
        "what could not be written"
    );
    assert!(!car.finishes(), "so nothing is lost");
    car.is_paid();
    assert!(car.finishes());
    assert_eq!(car.names(), ["car.yaml", "consents"]);
}

#[test]
fn consents_that_cannot_be_sealed_at_once_are_sealed_at_the_end() {
    let car = Car::new();
    // Nobody can write a file where a directory is.
    std::fs::create_dir(car.directory.sealed()).unwrap();
    assert!(matches!(car.begins(false), Some(ConsentError::Write(_))));
    assert!(car.names_in("consents").contains(&"consents.jsonl".to_owned()));
    std::fs::remove_dir(car.directory.sealed()).unwrap();
    assert!(car.finishes());
    assert_eq!(car.names_in("consents"), ["sealed.jsonl"]);
    assert_eq!(crate::consents::sealed(&car.directory)[0].reason, "forgotten");
}

#[test]
fn consents_that_nobody_can_seal_are_deleted_all_the_same() {
    let car = Car::new();
    car.write("identity/identity.json", "{");
    assert!(matches!(car.begins(false), Some(ConsentError::Identity(_))));
    assert!(car.finishes());
    assert_eq!(car.names(), ["car.yaml"]);
}

#[test]
fn everything_goes_that_lies_in_the_directory_but_what_is_the_makers() {
    let car = Car::new();
    let token = car.directory.root().join("broker.token");
    let broker = format!(
        "{{signals: {{broker: 'http://127.0.0.1:55555', tokenFile: '{}'}}}}",
        token.display()
    );
    car.write("car.yaml", &broker);
    for name in [
        "broker.token",
        "lock",
        "owner.new",
        "command.new",
        "said.new",
        "notes-of-the-owner.txt",
        "consents/consents.jsonl.broken-1",
        "consents/consents.jsonl.torn",
    ] {
        car.write(name, "something");
    }
    assert!(car.begins(false).is_none());
    assert!(
        !car.names().contains(&"owner.new".to_owned()),
        "at once, as the document"
    );
    assert!(car.finishes());
    assert_eq!(car.names(), ["broker.token", "car.yaml", "consents", "lock"]);
    assert_eq!(car.names_in("consents"), ["sealed.jsonl"]);
}

#[test]
fn car_that_has_become_somebody_else_stays_that_and_forgets_the_one_before() {
    let car = Car::new();
    assert!(car.begins(false).is_none());
    let vehicle = pending(&car.directory).unwrap().unwrap().vehicle.unwrap();
    assert_eq!(vehicle.as_str(), "car-aaaaaaaaaaaaaaaa");
    identity::write(&car.directory, &identity_of("car-bbbbbbbbbbbbbbbb")).unwrap();
    assert!(car.finishes());
    assert_eq!(car.names(), ["car.yaml", "consents", "identity"]);
    let now = identity::read(&car.directory).unwrap();
    assert_eq!(now.vehicle().as_str(), "car-bbbbbbbbbbbbbbbb");
    assert!(!is_pending(&car.directory));
}

#[test]
fn word_of_before_that_names_no_vehicle_is_understood_and_what_is_new_is_in_it() {
    let car = Car::new();
    car.write(
        "forget.json",
        r#"{"reason":"ownerChanged","since":"2026-11-22T10:00:00Z"}"#,
    );
    let before = pending(&car.directory).unwrap().unwrap();
    assert_eq!((before.vehicle, before.reason), (None, Reason::OwnerChanged));
    assert!(car.finishes());
    assert_eq!(car.names(), ["car.yaml", "consents"]);
}

#[test]
fn word_to_forget_that_cannot_be_read_is_one_that_loses_nothing() {
    let car = Car::new();
    std::fs::write(car.directory.forgetting(), "{").unwrap();
    let pending = pending(&car.directory).unwrap().unwrap();
    assert!(!pending.unpaid_too);
}

#[tokio::test(start_paused = true)]
async fn word_to_forget_that_the_disk_does_not_give_stops_work_and_deletes_nothing() {
    let car = Car::new();
    let before = car.names();
    // A directory is there, and cannot be read as a file is.
    std::fs::create_dir(car.directory.forgetting()).unwrap();
    assert!(is_pending(&car.directory), "it may be there");
    assert!(pending(&car.directory).is_err());
    let nothing = owes_nothing();
    let due = due(&car.directory, &nothing);
    let in_a_while = tokio::time::timeout(Duration::from_secs(60), due).await;
    assert!(in_a_while.is_err(), "nobody told it");
    assert!(finish(&car.directory).is_err());
    std::fs::remove_dir(car.directory.forgetting()).unwrap();
    assert!(!finish(&car.directory).unwrap(), "nothing tells it to");
    assert_eq!(car.names(), before);
    assert!(car.names_in("consents").contains(&"consents.jsonl".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn word_to_forget_that_is_empty_is_one() {
    let car = Car::new();
    std::fs::write(car.directory.forgetting(), "").unwrap();
    let mut owes = owes_nothing();
    owes.outlook = forgets(false);
    let in_vain = tokio::time::timeout(Duration::from_secs(5), due(&car.directory, &owes));
    assert!(in_vain.await.is_err(), "the loop does not say so");
    owes.outlook = forgets(true);
    due(&car.directory, &owes).await;
    assert!(finish(&car.directory).unwrap());
    assert_eq!(car.names(), ["car.yaml", "consents"]);
}

/// What the loop says of it.
fn forgets(forgetting: bool) -> watch::Receiver<Outlook> {
    let outlook = Outlook::initial(Arc::default(), Command::None);
    watch::channel(Outlook { forgetting, ..outlook }).1
}

/// An agent in which nothing lives, and that owes nothing to anybody.
fn owes_nothing() -> Owes {
    Owes {
        outlook: forgets(true),
        live: watch::channel(0).1,
        held: watch::channel(Vec::new()).1,
        standing: watch::channel(control::Receipts::default()).1,
    }
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
        outlook: forgets(true),
        live: lives,
        held: holds,
        standing: stands,
    };
    let mut due = Box::pin(due(&car.directory, &owes));
    let mut in_a_while = async || tokio::time::timeout(Duration::from_secs(5), &mut due).await.is_ok();
    assert!(!in_a_while().await, "nobody told it");
    assert!(car.begins(false).is_none());
    assert!(!in_a_while().await, "something lives");
    live.send_replace(0);
    assert!(!in_a_while().await, "something is owed");
    standing.send_modify(|standing| standing.delivered = 2);
    assert!(!in_a_while().await, "a result is still on its way");
    held.send_replace(Vec::new());
    assert!(in_a_while().await);
}
