//! The files, as commands leave and find them.

use jiff::{SignedDuration, Timestamp};
use kerbside_core::consent::{Consents, Lack, Unusable};

use super::*;
use crate::receipts::Receipts;
use crate::testing::{consented, identity, identity_of};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const GIVEN: &str = "2026-11-01T10:00:00Z";
const NOW: &str = "2026-11-22T10:00:00Z";

struct Car {
    _temp: tempfile::TempDir,
    directory: Directory,
}

impl Car {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        identity::write(&directory, &identity()).unwrap();
        Self { _temp: temp, directory }
    }

    fn agrees(&self, purposes: &[&str]) {
        consented(&self.directory, purposes, at(GIVEN));
    }

    fn gathered(&self) -> Gathered {
        let vehicle = identity::read(&self.directory).unwrap().vehicle().clone();
        Gathered::of(&self.directory, &vehicle, named(&self.directory, &vehicle)).unwrap()
    }

    fn holds(&self, purpose: &str) -> Result<(), Lack> {
        self.gathered().consents().of(purpose, at(NOW)).map(|_| ())
    }

    fn chain(&self) -> PathBuf {
        self.directory.consents().join(CHAIN)
    }
}

#[test]
fn consent_is_given_and_taken_back_over_processes_and_new_keys() {
    let car = Car::new();
    car.agrees(&["inference"]);
    // The certificate was renewed.
    identity::write(&car.directory, &identity()).unwrap();
    car.agrees(&["video"]);
    assert_eq!((car.holds("inference"), car.holds("video")), (Ok(()), Ok(())));
    let mut book = Book::open(&car.directory, true).unwrap();
    assert_eq!(
        book.withdraw(Some(&["inference".to_owned()]), at(NOW)).unwrap(),
        ["inference"]
    );
    drop(book);
    assert_eq!(car.holds("inference"), Err(Lack::Withdrawn(at(NOW))));
    let mut book = Book::open(&car.directory, true).unwrap();
    assert_eq!(book.withdraw(None, at(NOW)).unwrap(), ["video"], "the other is over");
    assert!(car.gathered().report().findings.is_empty());
}

#[test]
fn record_says_what_the_standard_asks_for_and_names_nobody() {
    let car = Car::new();
    car.agrees(&["inference"]);
    let report = car.gathered().report();
    let entry = serde_json::to_value(&report.entries[0].0).unwrap();
    let record = &entry["record"];
    for field in [
        "schema_version",
        "lawful_basis",
        "jurisdiction",
        "retention_period",
        "withdrawal_method",
        "method",
        "purpose_type",
    ] {
        assert!(record[field].as_str().is_some_and(|said| !said.is_empty()), "{field}");
    }
    assert_eq!(record["privacy_notice"]["sha256"].as_str().unwrap().len(), 64);
    let signals = record["pii_information"].as_array().unwrap();
    assert!(signals.contains(&"Vehicle.Speed".into()));
    assert!(entry["pii_principal_id"].as_str().unwrap().starts_with("owner-"));
    assert_eq!(entry["event"]["event_state"], "given");
    for name in ["VIN", "Latitude", "Identifier"] {
        assert!(!entry.to_string().contains(name), "{name}");
    }
}

#[test]
fn what_cannot_be_agreed_to_is_refused_by_its_name_and_nothing_is_written() {
    let car = Car::new();
    let give = |purposes: &[String]| {
        let mut book = Book::open(&car.directory, true).unwrap();
        let giving = Giving {
            purposes,
            lasts: None,
            method: "a test",
        };
        book.give(giving, at(NOW)).unwrap_err().to_string()
    };
    assert!(give(&[]).contains("for which purposes"));
    assert!(give(&["fine".to_owned(), "Not A Class".to_owned()]).contains("'Not A Class'"));
    let mut book = Book::open(&car.directory, true).unwrap();
    let never = book.withdraw(Some(&["video".to_owned()]), at(NOW));
    assert!(never.unwrap_err().to_string().contains("no consent to 'video'"));
    assert!(!car.chain().exists());
}

#[test]
fn car_that_has_not_forgotten_yet_takes_no_consent_of_whoever_comes_next() {
    let car = Car::new();
    std::fs::write(car.directory.forgetting(), "{}").unwrap();
    let give = || {
        let giving = Giving {
            purposes: &["inference".to_owned()],
            lasts: None,
            method: "a test",
        };
        Book::open(&car.directory, true).unwrap().give(giving, at(NOW))
    };
    assert!(matches!(give(), Err(ConsentError::Forgetting)));
    assert!(!car.chain().exists());
    std::fs::remove_file(car.directory.forgetting()).unwrap();
    give().unwrap();
    assert_eq!(car.holds("inference"), Ok(()));
}

#[test]
fn car_that_is_nobody_records_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let directory = Directory::open(temp.path()).unwrap();
    assert!(matches!(
        Book::open(&directory, true),
        Err(ConsentError::Identity(identity::ReadError::Missing))
    ));
}

#[test]
fn two_writers_do_not_write_at_once() {
    let car = Car::new();
    let _first = Book::open(&car.directory, true).unwrap();
    assert!(matches!(Book::open(&car.directory, false), Err(ConsentError::Busy)));
    // Nor does who waits wait for ever.
    let error = lock(&car.directory.consents(), 2).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("another command is writing them"), "{error}");
}

#[test]
fn withdrawal_while_the_chain_is_broken_counts_when_it_is_whole_again() {
    for one in [true, false] {
        let car = Car::new();
        car.agrees(&["inference", "video"]);
        let whole = std::fs::read(car.chain()).unwrap();
        std::fs::write(car.chain(), &whole[..whole.len() - 9]).unwrap();
        let purposes = ["video".to_owned()];
        let purposes = one.then_some(&purposes[..]);
        let mut book = Book::open(&car.directory, true).unwrap();
        assert!(
            book.withdraw(purposes, at(NOW)).unwrap().is_empty(),
            "nothing was in force"
        );
        drop(book);
        std::fs::write(car.chain(), &whole).unwrap();
        let inference = if one { Ok(()) } else { Err(Lack::Withdrawn(at(NOW))) };
        for _ in 0..2 {
            assert_eq!(
                (car.holds("inference"), car.holds("video")),
                (inference.clone(), Err(Lack::Withdrawn(at(NOW))))
            );
            // And the chain takes it in with the next that is written.
            Book::open(&car.directory, false).unwrap().see(at(NOW)).unwrap();
            assert!(!car.directory.consents_withdrawn().exists());
        }
        assert_eq!(car.gathered().report().entries.len(), if one { 3 } else { 4 });
        car.agrees(&["video"]);
        assert_eq!((car.holds("inference"), car.holds("video")), (inference, Ok(())));
    }
}

#[test]
fn consent_that_is_given_anew_for_a_broken_chain_is_not_taken_back_by_an_older_word() {
    for text in ["{\"all\": \"2026-11-22T10:00:00Z\"}", "{"] {
        let car = Car::new();
        car.agrees(&["inference"]);
        std::fs::write(car.chain(), "no chain").unwrap();
        std::fs::write(car.directory.consents_withdrawn(), text).unwrap();
        assert!(matches!(car.holds("inference"), Err(Lack::Unusable(_))));
        car.agrees(&["inference"]);
        assert_eq!(car.holds("inference"), Ok(()), "{text}");
    }
}

#[test]
fn word_beside_the_chain_that_cannot_be_read_allows_nothing() {
    let car = Car::new();
    car.agrees(&["inference"]);
    std::fs::write(car.directory.consents_withdrawn(), "{").unwrap();
    assert!(matches!(car.holds("inference"), Err(Lack::Unusable(Unusable::Mark(_)))));
}

#[test]
fn chain_cut_off_near_any_line_allows_nothing_until_the_owner_says_it_anew() {
    let car = Car::new();
    car.agrees(&["inference", "video"]);
    let whole = std::fs::read(car.chain()).unwrap();
    let mark = std::fs::read(car.directory.consents_mark()).unwrap();
    for cut in (0..whole.len()).filter(|cut| cut.is_multiple_of(211) || whole.len() - cut < 3) {
        std::fs::write(car.chain(), &whole[..cut]).unwrap();
        assert!(matches!(car.holds("inference"), Err(Lack::Unusable(_))), "cut at {cut}");
    }
    car.agrees(&["inference"]);
    assert_eq!((car.holds("inference"), car.holds("video")), (Ok(()), Err(Lack::Never)));
    let report = car.gathered().report();
    assert!(report.findings.is_empty(), "{report:?}");
    assert_eq!(report.head.unwrap().sequence, 3, "no number is given twice");
    assert!(car.directory.consents().join("consents.jsonl.broken-1").exists());
    std::fs::write(car.directory.consents_mark(), mark).unwrap();
    assert_eq!(car.holds("inference"), Ok(()), "a mark that was not written in time");
}

#[test]
fn chain_and_mark_that_were_set_back_together_are_found_by_what_the_receipts_name() {
    let car = Car::new();
    car.agrees(&["inference"]);
    let files = [car.chain(), car.directory.consents_mark()];
    let old = files.clone().map(|file| std::fs::read(file).unwrap());
    car.agrees(&["inference"]);
    let named = car
        .gathered()
        .consents()
        .of("inference", at(NOW))
        .unwrap()
        .record
        .clone();
    let mut claim = crate::receipts::tests::claim(1);
    claim.consent = Some(kerbside_core::receipt::Consent {
        given_at: at(GIVEN),
        document_sha256: String::new(),
        record: Some(named),
    });
    let receipts = Receipts::open(&car.directory, &identity::read(&car.directory).unwrap()).unwrap();
    receipts.give_now(claim).unwrap();
    for (file, old) in files.iter().zip(old) {
        std::fs::write(file, old).unwrap();
    }
    assert_eq!(
        car.holds("inference"),
        Err(Lack::Unusable(Unusable::SetBack { known: 2, found: 1 }))
    );
    car.agrees(&["inference"]);
    assert_eq!(car.holds("inference"), Ok(()));
}

#[test]
fn mark_that_cannot_be_read_allows_nothing_until_the_owner_says_it_anew() {
    let car = Car::new();
    car.agrees(&["inference"]);
    std::fs::write(car.directory.consents_mark(), "{").unwrap();
    assert!(matches!(car.holds("inference"), Err(Lack::Unusable(Unusable::Mark(_)))));
    assert!(!car.gathered().report().findings.is_empty());
    car.agrees(&["inference"]);
    assert_eq!(car.holds("inference"), Ok(()));
}

#[test]
fn car_that_was_enrolled_anew_has_no_consent_and_keeps_none_of_the_old() {
    let car = Car::new();
    car.agrees(&["inference"]);
    let old = std::fs::read_to_string(car.chain()).unwrap();
    identity::write(&car.directory, &identity_of("car-bbbbbbbbbbbbbbbb")).unwrap();
    assert!(matches!(
        car.holds("inference"),
        Err(Lack::Unusable(Unusable::OfAnother(_)))
    ));
    car.agrees(&["video"]);
    assert_eq!((car.holds("inference"), car.holds("video")), (Err(Lack::Never), Ok(())));
    let report = car.gathered().report();
    assert_eq!(report.head.unwrap().sequence, 1);
    assert!(!std::fs::read_to_string(car.chain()).unwrap().contains(old.trim_end()));
    let sealed = sealed(&car.directory);
    assert_eq!(
        (sealed.len(), sealed[0].entries, sealed[0].reason.as_str()),
        (1, 1, "vehicleChanged")
    );
    assert_eq!(sealed[0].vehicle.as_str(), "car-aaaaaaaaaaaaaaaa");
}

#[test]
fn what_time_has_done_is_written_down_once() {
    let car = Car::new();
    let giving = Giving {
        purposes: &["inference".to_owned()],
        lasts: Some(SignedDuration::from_hours(1)),
        method: "a test",
    };
    Book::open(&car.directory, true)
        .unwrap()
        .give(giving, at(GIVEN))
        .unwrap();
    for _ in 0..2 {
        Book::open(&car.directory, false).unwrap().see(at(NOW)).unwrap();
    }
    let consents = car.gathered().consents();
    assert_eq!(consents.of("inference", at(GIVEN)).unwrap_err(), Lack::Expired(at(NOW)));
    assert_eq!(car.gathered().report().entries.len(), 2);
    assert!(matches!(consents, Consents::Known(known) if known.seen == Some(at(NOW))));
}

#[test]
fn what_is_taken_back_by_an_earlier_clock_makes_the_mark_no_younger() {
    let car = Car::new();
    car.agrees(&["inference", "video"]);
    Book::open(&car.directory, false).unwrap().see(at(NOW)).unwrap();
    // The clock was set back, and the owner takes one of them back.
    let earlier = at("2026-11-10T10:00:00Z");
    let mut book = Book::open(&car.directory, true).unwrap();
    let video = ["video".to_owned()];
    assert_eq!(book.withdraw(Some(&video[..]), earlier).unwrap(), ["video"]);
    drop(book);
    let gathered = car.gathered();
    assert_eq!(gathered.mark.as_ref().map(|mark| mark.seen), Some(at(NOW)));
    // What else is held goes by the latest time that was ever seen.
    let held = gathered.consents().of("inference", earlier).map(|_| ());
    assert_eq!(held, Err(Lack::ClockBehind(at(NOW))));
    assert_eq!(car.holds("inference"), Ok(()));
    assert_eq!(car.holds("video"), Err(Lack::Withdrawn(earlier)));
}

#[test]
fn mark_that_is_no_file_is_told_to_whoever_says_something() {
    let car = Car::new();
    car.agrees(&["inference"]);
    // Nobody can write a file where a directory is.
    std::fs::remove_file(car.directory.consents_mark()).unwrap();
    std::fs::create_dir(car.directory.consents_mark()).unwrap();
    assert!(matches!(
        Book::open(&car.directory, true).map(|_| ()),
        Err(ConsentError::Unusable(Unusable::Unreadable(_)))
    ));
}
