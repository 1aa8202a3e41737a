//! The commands as an owner types them.

use std::fs;

use clap::Parser as _;

use super::*;
use crate::cli::{self, Cli};

const DOCUMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/documents");

fn said(line: &[&str]) -> Result<String, String> {
    let typed = Cli::try_parse_from(line.iter().copied()).map_err(|e| e.to_string())?;
    let cli::Verb::Policy { verb } = typed.command else {
        panic!("another command: {line:?}");
    };
    // As main prints it.
    run(verb, now()).map_err(|error| format!("{error:?}"))
}

fn now() -> Timestamp {
    "2026-11-23T10:00:00.123456789Z".parse().unwrap()
}

/// A directory for an agent that has never run, and what is typed beside it.
struct Typed(tempfile::TempDir);

impl Typed {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn policy(&self, words: &[&str]) -> Result<String, String> {
        let dir = self.0.path().to_string_lossy();
        let mut line = vec!["kerbside-agent", "policy"];
        line.extend(words);
        if words != ["profiles"] {
            line.extend(["--dir", &*dir]);
        }
        said(&line)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn profiles_are_listed_with_a_line_each() {
    let said = Typed::new().policy(&["profiles"]).unwrap();
    assert_eq!(said.lines().count(), 5);
    let first = said.lines().next().unwrap();
    assert_eq!(
        first,
        "plugged-in-nights    Works at night while the car is plugged in, and leaves most of the charge alone."
    );
}

#[test]
fn document_that_is_made_is_valid_and_can_be_explained() {
    let typed = Typed::new();
    let line = [
        "init",
        "plugged-in-nights",
        "--class",
        "inference",
        "--class",
        "video",
        "--time-zone",
        "Europe/Berlin",
        "--expires",
        "90d",
    ];
    let made = typed.policy(&line).unwrap();
    assert!(!typed.0.path().join("owner.yaml").exists(), "it is only printed");
    let file = typed.file("mine.yaml", &made);
    assert_eq!(typed.policy(&["check", &file]).unwrap(), "valid\n");
    let said = typed.policy(&["explain", &file]).unwrap();
    assert!(
        said.starts_with("You agree to work of the classes inference and video, from "),
        "{said}"
    );
    assert!(said.contains("There is work only from 22:00 to 06:00 of the next day, by the clock of Europe/Berlin."));
}

#[test]
fn without_a_class_nothing_is_made() {
    let typed = Typed::new();
    let refused = typed.policy(&["init", "careful", "--write"]).unwrap_err();
    assert!(
        refused.contains("no is the default") && refused.contains("--class inference"),
        "{refused}"
    );
    assert!(!typed.0.path().join("owner.yaml").exists());
}

#[test]
fn what_cannot_be_made_is_refused_with_the_reason() {
    let typed = Typed::new();
    for (words, says) in [
        (&["init", "lavish", "--class", "a"][..], "no profile"),
        (&["init", "careful", "--class", "a"], "--time-zone"),
        (
            &["init", "careful", "--class", "a", "--time-zone", "Europe/Nowhere"],
            "Europe/Nowhere",
        ),
        (&["init", "whenever-plugged-in", "--class", "Video"], "not a job class"),
        (
            &["init", "whenever-plugged-in", "--class", "a", "--expires", "soon"],
            "--expires",
        ),
        (
            &["init", "whenever-plugged-in", "--class", "a", "--expires", "0d"],
            "consent.expiresAt",
        ),
        (&["init", "whenever-plugged-in", "--class", "a", "--replace"], "--write"),
    ] {
        let refused = typed.policy(words).unwrap_err();
        assert!(refused.contains(says), "{words:?}: {refused}");
    }
}

#[test]
fn document_that_is_there_is_replaced_only_if_that_is_said() {
    let typed = Typed::new();
    let write = ["init", "whenever-plugged-in", "--class", "inference", "--write"];
    let said = typed.policy(&write).unwrap();
    assert!(said.contains("written to") && said.contains("owner.yaml"), "{said}");
    assert_eq!(typed.policy(&["check"]).unwrap(), "valid\n");
    let own = fs::read_to_string(typed.0.path().join("owner.yaml")).unwrap();
    let refused = typed.policy(&write).unwrap_err();
    assert!(refused.contains("--replace"), "{refused}");
    assert_eq!(fs::read_to_string(typed.0.path().join("owner.yaml")).unwrap(), own);
    let other = [
        "init",
        "whenever-plugged-in",
        "--class",
        "video",
        "--write",
        "--replace",
    ];
    typed.policy(&other).unwrap();
    let own = fs::read_to_string(typed.0.path().join("owner.yaml")).unwrap();
    assert!(own.contains("classes: [\"video\"]"), "{own}");
}

#[test]
fn document_that_is_wrong_is_refused_with_the_place() {
    let typed = Typed::new();
    let missing = typed.policy(&["check"]).unwrap_err();
    assert!(
        missing.contains("there is no") && missing.contains("owner.yaml"),
        "{missing}"
    );
    let document =
        "{consent: {givenAt: 2026-11-01T10:00:00Z, classes: [a]}, requirePluggedIn: false, chargeFloorPercent: 30, ";
    for (terms, says) in [
        ("maxCpus: 1}", "maxCpus"),
        ("maxCpu: 0}", "maxCpu must be more than nothing"),
        (
            "timeZone: Europe/Nowhere, workHours: [{from: '22:00', to: '06:00'}]}",
            "Europe/Nowhere",
        ),
        (
            "timeZone: UTC, quietHours: [{from: '07:00', to: '07:00'}]}",
            "quietHours cover the whole week",
        ),
        (
            "apiVersion: owner.kerbside.dev/v2, kind: OwnerPolicy}",
            "understands owner.kerbside.dev/v1alpha1",
        ),
    ] {
        let file = typed.file("wrong.yaml", &format!("{document}{terms}"));
        for verb in ["check", "simulate"] {
            let recording = format!("{DOCUMENTS}/recordings/commuter.yaml");
            let words = match verb {
                "check" => vec!["check", &file],
                _ => vec!["simulate", "--recording", &recording, "--policy", &file],
            };
            let refused = typed.policy(&words).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
    }
}

#[test]
fn warnings_do_not_make_a_document_less_valid() {
    let typed = Typed::new();
    let careful = format!("{DOCUMENTS}/profiles/careful.yaml");
    let said = typed.policy(&["check", &careful]).unwrap();
    let (first, warnings) = said.split_once('\n').unwrap();
    assert_eq!(first, "valid");
    assert!(warnings.contains("warning: consent.classes is empty"), "{warnings}");
}

#[test]
fn recorded_days_are_shown_as_core_decides_them() {
    let typed = Typed::new();
    let line = [
        "init",
        "plugged-in-nights",
        "--class",
        "inference",
        "--time-zone",
        "Europe/Berlin",
        "--write",
    ];
    typed.policy(&line).unwrap();
    let recording = format!("{DOCUMENTS}/recordings/commuter.yaml");
    let said = typed.policy(&["simulate", "--recording", &recording]).unwrap();
    let (head, table) = said.split_once("\n\n").unwrap();
    assert_eq!(
        table,
        include_str!("../../../../core/testdata/owner/plugged-in-nights.txt")
    );
    assert_eq!(
        head,
        "from 2026-11-06 00:00:00 by the clock of Europe/Berlin\n\
         note: the consent is newer than the recording: shown as if it had been given before\n\
         note: what work moves, and by which network, is not known here: shown as if it cost nothing by the byte"
    );
    let json = typed
        .policy(&["simulate", "--recording", &recording, "--json"])
        .unwrap();
    let day: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&day["lasts"], &day["worked"]), (&"48h".into(), &"15h58m".into()));
    assert_eq!(day["spans"][0]["from"], "2026-11-05T23:00:00Z");
}

#[test]
fn energy_of_a_day_is_played_by_the_figures_of_the_maker() {
    let typed = Typed::new();
    let document = "{consent: {givenAt: 2026-11-01T10:00:00Z, classes: [inference]}, requirePluggedIn: true, chargeFloorPercent: 50, timeZone: UTC, \
                    maxKWhPerDay: 110m, tariff: {currency: EUR, perKWh: '0.3'}, priceFloorPerCPUHour: '0.01'}";
    let file = typed.file("owner.yaml", document);
    let recording = "{startsAt: 2026-11-24T00:00:00Z, lasts: 12h, preset: parked}";
    let recording = typed.file("recording.yaml", recording);
    assert_eq!(typed.policy(&["check", &file]).unwrap().lines().next(), Some("valid"));
    let explained = typed.policy(&["explain", &file]).unwrap();
    assert!(
        explained.contains("at most 0.11 kWh in a day by the clock of UTC"),
        "{explained}"
    );
    let json = ["simulate", "--recording", &recording, "--json"];
    let worked = || {
        let day: serde_json::Value = serde_json::from_str(&typed.policy(&json).unwrap()).unwrap();
        day["worked"].clone()
    };
    assert_eq!(worked(), "0s", "the maker says nothing");
    typed.file("car.yaml", "energy: {model: {wakeWatts: 100, wattsPerCore: 10}}");
    assert_eq!(worked(), "1h");
    let said = typed.policy(&["simulate", "--recording", &recording]).unwrap();
    assert!(
        said.contains("note: energy by the maker's figures") && said.contains("note: what work pays"),
        "{said}"
    );
}

#[test]
fn publishers_are_checked_and_explained_by_name() {
    let typed = Typed::new();
    let with = |key: &str| {
        let publishers = format!("[{{name: our render farm, publicKey: '{key}'}}]");
        let document = "{consent: {givenAt: 2026-11-01T10:00:00Z, classes: [inference]}, requirePluggedIn: true, chargeFloorPercent: 50, publishers: PUBLISHERS}";
        typed.file("owner.yaml", &document.replace("PUBLISHERS", &publishers))
    };
    let key = include_str!("../../../testdata/signatures/alice.pub").replace('\n', " ");
    let file = with(key.trim());
    assert_eq!(typed.policy(&["check", &file]).unwrap().lines().next(), Some("valid"));
    let explained = typed.policy(&["explain", &file]).unwrap();
    assert!(
        explained.contains("images that our render farm has signed"),
        "{explained}"
    );
    let file = with("-----BEGIN EC PRIVATE KEY----- AAAA -----END EC PRIVATE KEY-----");
    let refused = typed.policy(&["check", &file]).unwrap_err();
    assert!(refused.contains("this is a private key"), "{refused}");
}

#[test]
fn expression_is_checked_explained_and_played() {
    let typed = Typed::new();
    let write = |when: &str| {
        let document = format!(
            "{{consent: {{givenAt: 2026-11-01T10:00:00Z, classes: [inference]}}, requirePluggedIn: true, chargeFloorPercent: 50, \
             timeZone: UTC, when: \"{when}\"}}"
        );
        typed.file("owner.yaml", &document)
    };
    let file = write("pluggedIn && hour >= 3 && hour < 5");
    assert_eq!(typed.policy(&["check", &file]).unwrap().lines().next(), Some("valid"));
    assert!(
        typed
            .policy(&["explain", &file])
            .unwrap()
            .contains("pluggedIn && hour >= 3")
    );
    let recording = "{startsAt: 2026-11-24T00:00:00Z, lasts: 12h, preset: parked}";
    let recording = typed.file("recording.yaml", recording);
    let day = typed
        .policy(&["simulate", "--recording", &recording, "--json"])
        .unwrap();
    let day: serde_json::Value = serde_json::from_str(&day).unwrap();
    assert_eq!(day["worked"], "2h");
    for (when, says) in [
        ("pluggedIn &&", "line 1"),
        ("plugged", "it names 'plugged'"),
        ("hour > 23", "never true"),
    ] {
        let file = write(when);
        let error = format!("{:#}", typed.policy(&["check", &file]).unwrap_err());
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn looking_at_a_document_makes_no_directory() {
    let typed = Typed::new();
    let gone = typed.0.path().join("gone");
    let line = ["kerbside-agent", "policy", "check", "--dir", gone.to_str().unwrap()];
    said(&line).unwrap_err();
    assert!(!gone.exists());
}
