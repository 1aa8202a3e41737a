//! What an owner takes away, and what is left, with no agent that runs.

use clap::Parser as _;
use kerbside_core::attempt::Kind;
use kerbside_core::receipt::{Energy, digest};

use super::*;
use crate::cli::Cli;
use crate::receipts::Receipts;
use crate::receipts::tests::{TERMS, claim, usage};
use crate::testing::{OWNER, consented};

struct Typed {
    temp: tempfile::TempDir,
    directory: Directory,
}

impl Typed {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        consented(&directory, &["inference"], "2026-11-01T10:00:00Z".parse().unwrap());
        std::fs::write(directory.owner(), OWNER).unwrap();
        let identity = identity::read(&directory).unwrap();
        let receipts = Receipts::open(&directory, &identity).unwrap();
        receipts.give_now(claim(1)).unwrap();
        Self { temp, directory }
    }

    async fn says(&self, words: &[&str]) -> Result<String, String> {
        let dir = self.temp.path().to_str().unwrap();
        let line = [&["kerbside-agent"][..], words, &["--dir", dir]].concat();
        Cli::parse_from(line).run().await.map_err(|error| format!("{error:#}"))
    }
}

#[tokio::test]
async fn export_has_everything_that_the_car_holds_on_its_owner_and_no_key() {
    let typed = Typed::new();
    let text = typed.says(&["export"]).await.unwrap();
    let export: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(export["schema"], SCHEMA);
    assert_eq!(export["policy"], OWNER);
    assert_eq!(export["consents"]["records"][0]["purpose"], "inference");
    assert_eq!(export["consents"]["chain"].as_array().unwrap().len(), 1);
    let ran = &export["whatRan"][0];
    assert_eq!(
        (&ran["attempt"], &ran["cpuMs"], &ran["outputBytes"]),
        (&"u-1".into(), &7.into(), &2.into())
    );
    assert_eq!(
        (&ran["from"], &ran["energyJoules"]),
        (&"1970-01-01T00:00:01Z".into(), &Value::Null)
    );
    assert_eq!(export["earnings"]["receiptsNotDelivered"], 1);
    let signals = export["signalsRead"]["byName"].as_array().unwrap();
    assert!(signals.contains(&"Vehicle.Speed".into()));
    assert!(export["receipts"]["receipts"][0]["payload"].is_string());
    assert!(!text.contains("PRIVATE KEY"));
}

#[tokio::test]
async fn export_says_what_work_took_and_cost_and_has_the_terms() {
    let typed = Typed::new();
    let tariff = "tariff: {currency: EUR, perKWh: '0.34'}\n";
    std::fs::write(typed.directory.owner(), OWNER.to_owned() + tariff).unwrap();
    std::fs::write(typed.directory.energy(), "{\"of\":\"today\"}").unwrap();
    std::fs::write(typed.directory.data(), "{\"of\":\"this month\"}").unwrap();
    std::fs::write(typed.directory.stays(), "stays").unwrap();
    std::fs::write(typed.directory.consents_withdrawn(), "{}").unwrap();
    let receipts = Receipts::open(&typed.directory, &identity::read(&typed.directory).unwrap()).unwrap();
    receipts.keep_terms_now(TERMS);
    let mut paid = usage(2, Kind::Succeeded, 3_600_000, Some(TERMS)).claim;
    paid.energy = Some(Energy {
        joules: 360_000,
        method: "model".to_owned(),
        error_permille: Some(300),
    });
    receipts.give_now(paid).unwrap();
    let export: Value = serde_json::from_str(&typed.says(&["export"]).await.unwrap()).unwrap();
    let euro = |micro: u64| json!({"currency": "EUR", "micro": micro});
    let ran = &export["whatRan"][1];
    assert_eq!(
        (&ran["energyJoules"], &ran["energyCost"]),
        (&360_000.into(), &euro(34_000))
    );
    assert_eq!(
        (&ran["energy"]["method"], &ran["mayEarn"]),
        (&"model".into(), &euro(50_000))
    );
    // Of what was not measured there is no number.
    let ran = &export["whatRan"][0];
    assert_eq!((&ran["energyCost"], &ran["mayEarn"]), (&Value::Null, &Value::Null));
    let hash = digest(TERMS.as_bytes());
    assert_eq!(export["terms"], json!({hash: TERMS}));
    assert_eq!(
        (&export["energyOfTheDay"], &export["stays"]),
        (&"{\"of\":\"today\"}".into(), &"stays".into())
    );
    assert_eq!(export["withdrawnBeside"], "{}");
    assert_eq!(export["dataOfTheMonth"], "{\"of\":\"this month\"}");
}

#[tokio::test]
async fn export_of_a_car_that_is_nobody_is_empty_and_no_failure() {
    let temp = tempfile::tempdir().unwrap();
    let line = ["kerbside-agent", "export", "--dir", temp.path().to_str().unwrap()];
    let text = Cli::parse_from(line).run().await.unwrap();
    let export: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&export["vehicle"], &export["policy"]), (&Value::Null, &Value::Null));
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0, "nothing is made");
}

#[tokio::test]
async fn nothing_is_forgotten_by_mistake_or_before_it_is_delivered() {
    let typed = Typed::new();
    let asked = typed.says(&["forget"]).await.unwrap_err();
    assert!(
        asked.contains("1 receipts are not delivered") && asked.contains("--yes"),
        "{asked}"
    );
    assert!(typed.directory.owner().exists());
    let begun = typed.says(&["forget", "--yes"]).await.unwrap();
    assert!(begun.contains("start the agent"), "{begun}");
    assert!(!typed.directory.owner().exists() && identity::exists(&typed.directory));
    let lost = typed.says(&["forget", "--yes", "--unpaid-too"]).await.unwrap();
    assert!(lost.starts_with("forgotten"), "{lost}");
    assert!(!identity::exists(&typed.directory));
}

#[tokio::test]
async fn new_owner_begins_with_nothing() {
    let typed = Typed::new();
    let delivered = r#"{"vehicle":"car-aaaaaaaaaaaaaaaa","sequence":1}"#;
    std::fs::write(typed.directory.receipts().join("delivered.json"), delivered).unwrap();
    typed.says(&["owner", "change", "--yes"]).await.unwrap();
    assert_eq!(sealed(&typed.directory)[0].reason, "ownerChanged");
    // Somebody enrols the car again, and the first one's word counts for nothing.
    let new = crate::testing::identity_of("car-bbbbbbbbbbbbbbbb");
    identity::write(&typed.directory, &new).unwrap();
    let list = typed.says(&["consent", "list"]).await.unwrap();
    assert!(list.starts_with("no consent was given\n"), "{list}");
    assert!(!typed.directory.command().exists());
}

#[tokio::test]
async fn car_that_has_not_forgotten_yet_takes_no_consent_and_is_not_enrolled() {
    let typed = Typed::new();
    typed.says(&["forget", "--yes"]).await.unwrap();
    assert!(forget::is_pending(&typed.directory), "a receipt is not delivered");
    let enrol = ["enrol", "--link", "https://x:1", "--token", "not a token"];
    for words in [
        &["consent", "give", "--purpose", "inference", "--agree"][..],
        &["consent", "give", "--purpose", "inference"],
        &enrol,
    ] {
        let said = typed.says(words).await.unwrap_err();
        assert!(
            said.contains("is to forget its owner") && said.contains("forget --yes"),
            "{said}"
        );
    }
    // A service that enrols before it runs has to come as far as the agent, which delivers.
    let service = [&enrol[..], &["--unless-enrolled"]].concat();
    assert_eq!(typed.says(&service).await.unwrap(), "enrolled already\n");
    // Also one that was nobody any more when its power was cut, just before the end.
    std::fs::remove_dir_all(typed.directory.identity()).unwrap();
    assert!(
        typed
            .says(&service)
            .await
            .unwrap_err()
            .contains("is to forget its owner")
    );
    typed.says(&["forget", "--yes", "--unpaid-too"]).await.unwrap();
    let said = typed.says(&enrol).await.unwrap_err();
    assert!(
        said.starts_with("failed to enrol") && !said.contains("forget"),
        "{said}"
    );
}

#[tokio::test]
async fn consents_that_cannot_be_sealed_are_deleted_with_the_rest_and_the_owner_is_told() {
    let typed = Typed::new();
    std::fs::create_dir(typed.directory.sealed()).unwrap();
    let said = typed.says(&["forget", "--yes"]).await.unwrap();
    assert!(
        said.contains("the consents with the rest (failed to write the consents"),
        "{said}"
    );
    let lost = typed.says(&["forget", "--yes", "--unpaid-too"]).await.unwrap();
    assert!(lost.starts_with("forgotten"), "{lost}");
    assert!(!typed.directory.consents().join("consents.jsonl").exists());
}

#[tokio::test]
async fn car_in_which_an_agent_runs_is_left_to_it() {
    let typed = Typed::new();
    let _agent = agent::lock_if_free(&typed.directory).unwrap().unwrap();
    let begun = typed.says(&["forget", "--yes", "--unpaid-too"]).await.unwrap();
    assert!(begun.contains("then the agent ends"), "{begun}");
    assert!(
        forget::pending(&typed.directory)
            .unwrap()
            .is_some_and(|pending| pending.unpaid_too)
    );
    assert!(identity::exists(&typed.directory));
}
