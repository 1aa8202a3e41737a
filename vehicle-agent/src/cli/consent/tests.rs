//! The commands as an owner types them, with no agent that runs.

use clap::Parser as _;

use super::*;
use crate::cli::Cli;
use crate::testing::{OWNER, identity};

struct Typed(tempfile::TempDir);

impl Typed {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        crate::identity::write(&directory, &identity()).unwrap();
        Self(temp)
    }

    /// What is printed; an error where the command fails.
    async fn says(&self, words: &[&str]) -> Result<String, String> {
        let dir = self.0.path().to_str().unwrap();
        let line = [&["kerbside-agent"][..], words, &["--dir", dir]].concat();
        let said = Cli::parse_from(line).run().await;
        said.map_err(|error| match error.downcast::<Found>() {
            Ok(found) => found.0,
            Err(error) => format!("{error:#}"),
        })
    }
}

#[tokio::test]
async fn notice_is_shown_first_and_only_agreement_is_recorded() {
    let typed = Typed::new();
    let shown = typed
        .says(&["consent", "give", "--purpose", "inference"])
        .await
        .unwrap_err();
    assert!(
        shown.contains("Kind of work: inference") && shown.contains("Nothing is recorded"),
        "{shown}"
    );
    assert_eq!(
        typed.says(&["consent", "list"]).await.unwrap(),
        "no consent was given\n"
    );
    let given = typed
        .says(&[
            "consent",
            "give",
            "--purpose",
            "inference",
            "--agree",
            "--expires",
            "90d",
        ])
        .await
        .unwrap();
    assert!(
        given.contains("Kind of work: inference") && given.contains("Recorded"),
        "{given}"
    );
    assert!(given.contains("owner.yaml does not accept inference"), "{given}");
    let list = typed.says(&["consent", "list"]).await.unwrap();
    assert!(list.starts_with("inference  holds since "), "{list}");
    let well = typed.says(&["consent", "verify"]).await.unwrap();
    assert!(
        well.contains("the newest is entry 1") && well.contains("in its place"),
        "{well}"
    );
    let json = typed.says(&["consent", "list", "--json"]).await.unwrap();
    let records: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&records[0]["purpose"], &records[0]["events"][0]["event_state"]),
        (&"inference".into(), &"given".into())
    );
}

#[tokio::test]
async fn consent_that_would_be_over_or_is_for_nothing_is_refused() {
    let typed = Typed::new();
    let give = async |more: &[&str]| {
        let words = [&["consent", "give", "--agree", "--purpose", "inference"][..], more].concat();
        typed.says(&words).await.unwrap_err()
    };
    assert!(
        give(&["--expires", "2020-01-01T00:00:00Z"])
            .await
            .contains("has passed")
    );
    assert!(give(&["--expires", "soon"]).await.contains("--expires"));
    assert!(give(&["--purpose", "Not A Class"]).await.contains("'Not A Class'"));
}

#[tokio::test]
async fn withdrawal_is_on_record_whichever_command_says_it() {
    let typed = Typed::new();
    std::fs::write(typed.0.path().join("owner.yaml"), OWNER).unwrap();
    let give = [
        "consent",
        "give",
        "--agree",
        "--purpose",
        "inference",
        "--purpose",
        "video",
    ];
    typed.says(&give).await.unwrap();
    let one = typed
        .says(&["consent", "withdraw", "--purpose", "video"])
        .await
        .unwrap();
    assert!(
        one.contains("withdrawn: video") && one.contains("No agent runs"),
        "{one}"
    );
    let never = typed
        .says(&["consent", "withdraw", "--purpose", "training"])
        .await
        .unwrap_err();
    assert!(never.contains("no consent to 'training'"), "{never}");
    let all = typed.says(&["withdraw"]).await.unwrap();
    assert!(all.contains("on record: inference"), "{all}");
    let list = typed.says(&["consent", "list"]).await.unwrap();
    assert_eq!(list.matches("does not hold: it was withdrawn").count(), 2, "{list}");
    let again = typed.says(&give).await.unwrap();
    assert!(again.contains("You have withdrawn all"), "{again}");
}

#[tokio::test]
async fn withdrawal_that_cannot_be_recorded_ends_all_work_instead() {
    let typed = Typed::new();
    typed
        .says(&["consent", "give", "--agree", "--purpose", "inference"])
        .await
        .unwrap();
    // Nobody can lock a file where a directory is.
    let lock = typed.0.path().join("consents/lock");
    std::fs::remove_file(&lock).unwrap();
    std::fs::create_dir(&lock).unwrap();
    let said = typed.says(&["consent", "withdraw"]).await.unwrap_err();
    assert!(
        said.contains("so all work ends") && said.contains("withdrawn"),
        "{said}"
    );
    let command = std::fs::read_to_string(typed.0.path().join("command.json")).unwrap();
    assert!(command.contains("withdraw"), "{command}");
}

#[tokio::test(start_paused = true)]
async fn withdrawal_that_the_agent_does_not_say_it_knows_ends_all_work_by_the_word() {
    let typed = Typed::new();
    let give = [
        "consent",
        "give",
        "--agree",
        "--purpose",
        "inference",
        "--purpose",
        "video",
    ];
    typed.says(&give).await.unwrap();
    let directory = Directory::open(typed.0.path()).unwrap();
    let _deaf = control::listen(&directory.socket()).unwrap();
    let said = typed
        .says(&["consent", "withdraw", "--purpose", "video"])
        .await
        .unwrap_err();
    assert!(
        said.contains("is on record") && said.contains("so all work ends: withdrawn"),
        "{said}"
    );
    let command = std::fs::read_to_string(directory.command()).unwrap();
    assert!(command.contains("withdraw"), "{command}");
}

#[tokio::test]
async fn withdrawal_while_the_chain_is_broken_is_kept_beside_it_and_said_to_be() {
    let typed = Typed::new();
    typed
        .says(&["consent", "give", "--agree", "--purpose", "inference"])
        .await
        .unwrap();
    let chain = typed.0.path().join("consents/consents.jsonl");
    let whole = std::fs::read(&chain).unwrap();
    std::fs::write(&chain, "broken").unwrap();
    let said = typed.says(&["consent", "withdraw"]).await.unwrap();
    assert!(said.contains("is kept beside it"), "{said}");
    std::fs::write(&chain, whole).unwrap();
    let list = typed.says(&["consent", "list"]).await.unwrap();
    assert!(list.contains("does not hold: it was withdrawn"), "{list}");
    let said = typed.says(&["consent", "withdraw"]).await.unwrap();
    assert!(said.starts_with("there was no consent that holds\n"), "{said}");
}

#[tokio::test]
async fn chain_that_was_changed_is_found_by_verify() {
    let typed = Typed::new();
    typed
        .says(&["consent", "give", "--agree", "--purpose", "inference"])
        .await
        .unwrap();
    let chain = typed.0.path().join("consents/consents.jsonl");
    let text = std::fs::read_to_string(&chain).unwrap();
    std::fs::write(&chain, text.replace("\"sig\":\"M", "\"sig\":\"N")).unwrap();
    let said = typed.says(&["consent", "verify"]).await.unwrap_err();
    assert!(said.starts_with("line 1: "), "{said}");
    let list = typed.says(&["consent", "list"]).await.unwrap();
    assert!(list.starts_with("none counts: line 1"), "{list}");
}
