//! What ships with the agent: the profiles, played over the recorded days that ship with it too. `UPDATE=1` rewrites the tables.
//!
//! The files are the agent's (`vehicle-agent/documents`); what they mean is decided here.

use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use rstest::rstest;

use crate::owner::replay::tests::berlin;
use crate::owner::replay::{Car, Day, Recording, replay};
use crate::owner::{Document, doubts, explain};
use crate::parked::Terms;

pub(super) fn document_file(name: &str) -> String {
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vehicle-agent/documents");
    std::fs::read_to_string(documents.join(name)).unwrap()
}

pub(super) const PROFILES: [&str; 5] = [
    "plugged-in-nights",
    "generous-at-work",
    "weekends",
    "whenever-plugged-in",
    "careful",
];

fn profile(name: &str) -> Document {
    let text = document_file(&format!("profiles/{name}.yaml"));
    serde_saphyr::from_str::<Document>(&text)
        .unwrap()
        .check_in(&text)
        .unwrap()
}

fn played(document: &Document) -> Day {
    let recording: Recording = serde_saphyr::from_str(&document_file("recordings/commuter.yaml")).unwrap();
    let recording = recording.check().unwrap();
    let zone = document.time_zone.as_deref().map(|zone| {
        assert_eq!(zone, "Europe/Berlin");
        berlin()
    });
    let car = Car {
        document,
        terms: &Terms::default(),
        zone: zone.as_ref(),
        milliwatts: None,
    };
    replay(&recording, car).unwrap()
}

#[rstest]
fn profile_works_when_it_says_over_two_recorded_days(
    #[values(
        "plugged-in-nights",
        "generous-at-work",
        "weekends",
        "whenever-plugged-in",
        "careful"
    )]
    name: &str,
) {
    let day = played(&profile(name));
    assert!(!day.worked.is_zero(), "a profile that never works is none");
    let zone: TimeZone = berlin();
    let text = day.table(&zone);
    let golden: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/owner/{name}.txt"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert_eq!(
        expected,
        text,
        "{}: review the change, then run with UPDATE=1",
        golden.display()
    );
}

#[test]
fn profiles_are_five_and_each_is_valid_and_gives_nothing_away_by_itself() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vehicle-agent/documents/profiles");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut named = PROFILES.map(|name| format!("{name}.yaml"));
    named.sort();
    assert_eq!(files, named);
    let now = "2026-11-23T00:00:00Z".parse().unwrap();
    for name in PROFILES {
        let document = profile(name);
        assert_eq!(document.consent.classes, Vec::<String>::new(), "{name}");
        assert_eq!(document.egress, None, "{name}");
        assert!(!document.allow_exec, "{name}");
        let doubts = doubts(&document, now);
        let of_classes = doubts.iter().all(|doubt| doubt.starts_with("consent.classes is empty"));
        assert!(doubts.len() == 1 && of_classes, "{name}: {doubts:?}");
        assert!(explain(&document).len() >= 9, "{name}");
    }
}

/// `policy init` writes into these lines, and `policy profiles` reads the first.
#[test]
fn profiles_have_the_lines_that_are_filled_in() {
    for name in PROFILES {
        let text = document_file(&format!("profiles/{name}.yaml"));
        let begin_with = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(
            (begin_with("  givenAt: "), begin_with("  classes: [] ")),
            (1, 1),
            "{name}"
        );
        let zones = usize::from(profile(name).time_zone.is_some());
        assert_eq!(begin_with("timeZone: "), zones, "{name}");
        let first = text.lines().next().unwrap();
        assert!(first.starts_with("# Works ") && first.ends_with('.'), "{name}: {first}");
    }
}

#[test]
fn document_that_explains_is_valid() {
    let text = document_file("owner.yaml");
    let document: Document = serde_saphyr::from_str(&text).unwrap();
    document.check_in(&text).unwrap();
}
