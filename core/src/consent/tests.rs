//! What holds of a chain, and that nothing of it does when anything is wrong.

use jiff::SignedDuration;
use proptest::prelude::*;
use rstest::rstest;

use super::testing::{Book, at, notice};
use super::*;
use crate::receipt::testing::{Hashes, change, vehicle};

const DAY: SignedDuration = SignedDuration::from_hours(24);
const NOON: &str = "2026-11-22T12:00:00Z";

/// Given for inference on the 1st, for video on the 2nd and taken back on the 3rd, for render on the 4th for a day.
fn book() -> Book {
    let mut book = Book::default();
    book.give("r-1", "inference", "2026-11-01T10:00:00Z", None);
    book.give("r-2", "video", "2026-11-02T10:00:00Z", None);
    book.end("r-2", EventState::Withdrawn, "2026-11-03T10:00:00Z");
    book.give("r-3", "render", "2026-11-04T10:00:00Z", Some(DAY));
    book
}

fn around<'a>(vehicle: &'a crate::ids::VehicleId, notice: &'a Notice, mark: Option<&'a Mark>) -> Around<'a> {
    Around {
        vehicle,
        notice,
        mark,
        named: None,
    }
}

fn held(bytes: &[u8], mark: Option<&Mark>) -> Consents {
    read(bytes, &Hashes, around(&vehicle(1), &notice(), mark))
}

fn why(consents: &Consents, purpose: &str, wall: &str) -> Lack {
    consents.of(purpose, at(wall)).unwrap_err()
}

#[test]
fn purpose_is_in_force_only_while_its_newest_record_says_so() {
    let book = book();
    let consents = held(&book.bytes(), Some(&book.mark("2026-11-04T10:00:00Z")));
    let record = &consents.of("inference", at(NOON)).unwrap().record;
    assert_eq!((record.id.as_str(), record.sequence), ("r-1", 1));
    assert_eq!(why(&consents, "training", NOON), Lack::Never);
    assert_eq!(
        why(&consents, "video", NOON),
        Lack::Withdrawn(at("2026-11-03T10:00:00Z"))
    );
    assert_eq!(
        why(&consents, "render", NOON),
        Lack::Expired(at("2026-11-05T10:00:00Z"))
    );
    let while_it_lasts = at("2026-11-05T09:59:59Z");
    assert!(consents.of("render", while_it_lasts).is_ok());
    let names = |wall| consents.in_force(wall).into_iter().collect::<Vec<_>>();
    assert_eq!(names(while_it_lasts), ["inference", "render"]);
    assert_eq!(names(at(NOON)), ["inference"]);
    assert_eq!(consents.run_out(at(NOON)), ["render"]);
}

#[test]
fn purpose_that_is_consented_to_again_is_in_force_again() {
    let mut book = book();
    book.give("r-4", "video", "2026-11-06T10:00:00Z", None);
    // The end of the older record comes late, and is not the end of the newer.
    book.end("r-2", EventState::Expired, "2026-11-07T10:00:00Z");
    let consents = held(&book.bytes(), None);
    assert_eq!(consents.of("video", at(NOON)).unwrap().record.id, "r-4");
}

#[test]
fn record_that_was_said_to_have_expired_is_over_whatever_the_clock_shows() {
    let mut book = book();
    book.end("r-3", EventState::Expired, "2026-11-05T10:00:00Z");
    let consents = held(&book.bytes(), None);
    for wall in ["2026-11-04T11:00:00Z", NOON] {
        assert_eq!(
            why(&consents, "render", wall),
            Lack::Expired(at("2026-11-05T10:00:00Z"))
        );
    }
    assert!(consents.run_out(at(NOON)).is_empty());
}

#[test]
fn nothing_holds_in_a_car_that_was_never_told_anything() {
    let consents = held(b"", None);
    assert_eq!(consents, Consents::Known(Known::default()));
    assert_eq!(why(&consents, "inference", NOON), Lack::Never);
    assert_eq!(
        why(&Consents::default(), "inference", NOON),
        Lack::Unusable(Unusable::NotRead)
    );
}

#[test]
fn chain_that_is_cut_off_at_any_byte_allows_nothing() {
    let book = book();
    let (whole, mark) = (book.bytes(), book.mark(NOON));
    for cut in 0..whole.len() {
        let consents = held(&whole[..cut], Some(&mark));
        assert!(
            matches!(
                consents,
                Consents::Unusable(Unusable::CutOff | Unusable::SetBack { .. })
            ),
            "cut at {cut}: {consents:?}"
        );
        assert!(consents.in_force(at(NOON)).is_empty(), "cut at {cut}");
    }
    assert!(!held(&whole, Some(&mark)).in_force(at(NOON)).is_empty());
}

#[test]
fn chain_that_was_cut_off_within_a_line_allows_nothing_also_where_nothing_is_known_of_it() {
    let book = book();
    let whole = book.bytes();
    let first = book.lines[0].len();
    for cut in (first + 1)..(first + book.lines[1].len()) {
        assert_eq!(held(&whole[..cut], None), Consents::Unusable(Unusable::CutOff), "{cut}");
    }
}

#[test]
fn chain_that_was_set_back_is_found_by_its_mark_and_by_what_receipts_name() {
    let mut book = book();
    let old = book.bytes();
    book.end("r-1", EventState::Withdrawn, "2026-11-20T10:00:00Z");
    let set_back = Consents::Unusable(Unusable::SetBack { known: 5, found: 4 });
    assert_eq!(held(&old, Some(&book.mark(NOON))), set_back);
    let (car, notice) = (vehicle(1), notice());
    let named = Place {
        sequence: book.sequence,
        sha256: book.previous.clone(),
    };
    let around = Around {
        named: Some(&named),
        ..around(&car, &notice, None)
    };
    assert_eq!(read(&old, &Hashes, around), set_back);
    assert!(matches!(read(&book.bytes(), &Hashes, around), Consents::Known(_)));
}

#[test]
fn chain_with_other_words_in_the_same_place_is_found() {
    let kept = book().mark(NOON);
    let mut other = Book::default();
    for id in ["r-1", "r-2", "r-3", "r-4"] {
        other.give(id, "inference", "2026-11-01T10:00:00Z", None);
    }
    assert_eq!(
        held(&other.bytes(), Some(&kept)),
        Consents::Unusable(Unusable::Exchanged(4))
    );
}

#[test]
fn chain_of_another_vehicle_or_of_two_owners_allows_nothing() {
    let book = book();
    let (other, notice) = (vehicle(2), notice());
    assert_eq!(
        read(&book.bytes(), &Hashes, around(&other, &notice, None)),
        Consents::Unusable(Unusable::OfAnother(vehicle(1)))
    );
    let mut two = book;
    two.owner = "owner-2";
    two.give("r-9", "inference", NOON, None);
    assert!(matches!(
        held(&two.bytes(), None),
        Consents::Unusable(Unusable::Broken { line: 5, .. })
    ));
}

#[test]
fn entry_that_ends_nothing_or_gives_twice_is_none() {
    let mut ends = Book::default();
    ends.end("r-1", EventState::Withdrawn, NOON);
    let mut twice = Book::default();
    twice.give("r-1", "inference", NOON, None);
    twice.give("r-1", "video", NOON, None);
    for (book, at_line) in [(ends, 1), (twice, 2)] {
        let consents = held(&book.bytes(), None);
        assert!(
            matches!(consents, Consents::Unusable(Unusable::Broken { line, .. }) if line == at_line),
            "{consents:?}"
        );
    }
}

/// A new chain behind one that could not be gone on with: what was before it does not count, and is not missed.
#[test]
fn chain_that_begins_late_counts_by_what_is_in_it() {
    let mut book = Book {
        sequence: 4,
        ..Book::default()
    };
    book.give("r-9", "inference", "2026-11-10T10:00:00Z", None);
    let mark = book.mark("2026-11-10T10:00:00Z");
    assert!(held(&book.bytes(), Some(&mark)).of("inference", at(NOON)).is_ok());
    let older = Mark {
        sequence: 4,
        sha256: "00".repeat(32),
        ..mark
    };
    assert!(held(&book.bytes(), Some(&older)).of("inference", at(NOON)).is_ok());
}

#[test]
fn new_notice_of_a_purpose_needs_a_new_consent_to_it_alone() {
    let mut new = notice();
    new.purposes.insert(
        "inference".to_owned(),
        "It may now also be a person's photograph.".to_owned(),
    );
    let mut book = Book::default();
    book.give("r-1", "inference", "2026-11-01T10:00:00Z", None);
    book.give("r-2", "video", "2026-11-01T10:00:00Z", None);
    let car = vehicle(1);
    let read_now = |book: &Book| read(&book.bytes(), &Hashes, around(&car, &new, None));
    assert_eq!(why(&read_now(&book), "inference", NOON), Lack::NewNotice);
    assert!(read_now(&book).of("video", at(NOON)).is_ok());
    book.give_under("r-3", &new, "inference", "2026-11-02T10:00:00Z", None);
    assert!(read_now(&book).of("inference", at(NOON)).is_ok());
}

#[rstest]
#[case::before_it_was_given("2026-10-31T10:00:00Z", None, false)]
#[case::a_little_before("2026-11-01T09:59:40Z", None, true)]
#[case::before_what_it_has_shown("2026-11-10T10:00:00Z", Some("2026-11-20T10:00:00Z"), false)]
#[case::after_what_it_has_shown("2026-11-20T10:00:00Z", Some("2026-11-20T10:00:20Z"), true)]
fn clock_that_shows_less_than_it_has_shown_allows_nothing(
    #[case] wall: &str,
    #[case] seen: Option<&str>,
    #[case] holds: bool,
) {
    let mut book = Book::default();
    book.give("r-1", "inference", "2026-11-01T10:00:00Z", None);
    let mark = seen.map(|seen| book.mark(seen));
    let consents = held(&book.bytes(), mark.as_ref());
    assert_eq!(consents.of("inference", at(wall)).is_ok(), holds);
}

#[test]
fn consent_that_is_given_anew_ends_the_reign_of_a_clock_that_was_years_ahead() {
    let mut book = Book::default();
    book.give("r-1", "inference", "2036-11-01T10:00:00Z", None);
    let ahead = book.mark("2036-11-02T10:00:00Z");
    assert!(matches!(
        why(&held(&book.bytes(), Some(&ahead)), "inference", NOON),
        Lack::ClockBehind(_)
    ));
    book.give("r-2", "inference", "2026-11-22T11:00:00Z", None);
    // Written with it, or not any more: the power went.
    for mark in [book.mark("2026-11-22T11:00:00Z"), ahead] {
        assert!(held(&book.bytes(), Some(&mark)).of("inference", at(NOON)).is_ok());
    }
}

#[test]
fn mark_is_written_for_time_alone_once_in_an_hour() {
    let mark = Book::default().mark(NOON);
    assert_eq!(mark.later(at("2026-11-22T12:59:59Z")), None);
    assert_eq!(mark.later(at("2026-11-22T11:00:00Z")), None);
    let later = mark.later(at("2026-11-22T13:00:00Z")).unwrap();
    assert_eq!(
        (later.seen, later.sequence),
        (at("2026-11-22T13:00:00Z"), mark.sequence)
    );
}

#[test]
fn what_is_wrong_is_said_line_by_line_and_a_sound_chain_has_nothing() {
    let book = book();
    let (car, notice, mark) = (vehicle(1), notice(), book.mark(NOON));
    let whole = verify(&book.bytes(), &Hashes, around(&car, &notice, Some(&mark)));
    assert!(whole.findings.is_empty() && whole.entries.len() == 4, "{whole:?}");
    assert_eq!(whole.head.unwrap().sequence, 4);
    let mut lines = book.lines.clone();
    lines.remove(1);
    let gap = verify(&lines.concat(), &Hashes, around(&car, &notice, Some(&mark)));
    assert_eq!(
        gap.findings,
        ["line 2: there is a gap: entry 2 should be here, and it is 3"]
    );
    let short = verify(&book.lines[0], &Hashes, around(&car, &notice, Some(&mark)));
    assert_eq!(
        short.findings,
        ["the consents were set back to an old state: there were 4 entries, and there are 1; give the consent anew"]
    );
}

#[test]
fn records_are_handed_on_with_all_that_happened_to_them() {
    let book = book();
    let (car, notice) = (vehicle(1), notice());
    let report = verify(&book.bytes(), &Hashes, around(&car, &notice, None));
    let full = records(report.entries.iter().map(|(entry, _)| entry));
    assert_eq!(full.len(), 3);
    let video = serde_json::to_value(&full[1]).unwrap();
    assert_eq!(
        (&video["purpose"], &video["schema_version"]),
        (&"video".into(), &SCHEMA_VERSION.into())
    );
    let states: Vec<_> = video["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["event_state"])
        .collect();
    assert_eq!(states, ["given", "withdrawn"]);
    let render = serde_json::to_value(&full[2]).unwrap();
    assert_eq!(render["events"][0]["validity_duration"], "PT24H");
}

#[test]
fn notice_that_leaves_something_out_is_none() {
    assert!(notice().check().is_ok());
    let silent = Notice {
        controller: " ".to_owned(),
        ..notice()
    };
    assert_eq!(
        silent.check().unwrap_err().to_string(),
        "controller of the notice is empty"
    );
}

#[test]
fn notice_says_everything_that_it_is_made_of() {
    let mut notice = notice();
    notice.purposes.insert("video".to_owned(), "Films.".to_owned());
    let text = notice.text_for("video");
    for said in [
        &notice.version,
        &notice.controller,
        &notice.jurisdiction,
        &notice.retention,
    ] {
        assert!(text.contains(said.as_str()), "{text}");
    }
    assert!(text.contains("Films.") && text.contains("Kind of work: video"));
    assert_ne!(notice.shown_for("video").sha256, notice.shown_for("inference").sha256);
}

proptest! {
    /// Whatever single thing is done to the file, nothing more is in force than was.
    #[test]
    fn no_single_change_of_a_chain_allows_more(change in change()) {
        let book = book();
        let mark = book.mark(NOON);
        if let Some(bytes) = change.of(book.lines.clone()) {
            prop_assert!(held(&bytes, Some(&mark)).in_force(at(NOON)).is_empty());
        }
    }
}

#[test]
fn time_that_is_counted_is_worth_a_write_once_in_an_hour() {
    let mark = Book::default().mark("2026-11-20T10:00:00Z");
    assert!(!mark.counts_more(at("2026-11-20T10:59:59Z")) && mark.counts_more(at("2026-11-20T11:00:00Z")));
    let mark = Mark {
        counted: Some(at("2026-11-20T11:00:00Z")),
        ..mark
    };
    assert_eq!(mark.counted_from(), at("2026-11-20T11:00:00Z"));
    assert!(!mark.counts_more(at("2026-11-20T11:30:00Z")) && !mark.counts_more(at("2026-11-20T09:00:00Z")));
    // One of an agent that did not count yet.
    let text = serde_json::to_string(&Book::default().mark("2026-11-20T10:00:00Z")).unwrap();
    assert!(!text.contains("counted"));
    assert_eq!(serde_json::from_str::<Mark>(&text).unwrap().counted, None);
}
