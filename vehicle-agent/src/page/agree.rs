//! What the owner agrees to and takes back at the page: a ready policy as the document, and consents on record.
//!
//! Called by [`super::api`]. A consent is recorded only with the notice that was shown: the page names each text by its hash, and where the car
//! would show another one by now, nothing is recorded. What must never happen: a withdrawal that fails and leaves work going on, a consent
//! that its owner has not given by name, or one that stands beside a document that it was not given to.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::StatusCode;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kerbside_core::consent::{Consents, records};
use kerbside_core::owner::is_class;
use kerbside_core::receipt::digest;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Page;
use super::api::{Answered, ask_loop, bad, broken, parse, put, said, stands, tell};
use super::gate::Refusal;
use crate::config;
use crate::consents::{self, Book, ConsentError, Gathered, Giving};
use crate::control::{Answer, Ask};
use crate::directory::{self, Directory};
use crate::identity;
use crate::profiles::{Given, Profile};

/// The most classes that a person means.
const CLASSES: usize = 16;
/// How a record says that the consent was given.
const METHOD: &str =
    "the owner's page in the car's own network, signed in by a code that the car showed, the notice shown there";

/// For so long a withdrawal waits to be written down: longer than for another command that writes there, and then the disk hangs.
const ON_RECORD: Duration = Duration::from_secs(6);
/// For so long it waits until the loop has read it.
const READ: Duration = Duration::from_secs(4);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shown {
    classes: Vec<String>,
}

/// What the owner has to be told for each class before a consent counts.
pub(super) async fn notice(page: &Page, body: &[u8]) -> Answered {
    let Shown { classes } = parse(body)?;
    check(&classes)?;
    let directory = page.directory.clone();
    let read = tokio::task::spawn_blocking(move || consents::notice(&directory));
    let notice = read.await.map_err(broken)?.map_err(broken)?;
    let one = |class: &String| {
        let text = notice.text_for(class);
        json!({"class": class, "sha256": digest(text.as_bytes()), "text": text})
    };
    tell(&json!({"language": notice.language, "notices": classes.iter().map(one).collect::<Vec<_>>()}))
}

fn check(classes: &[String]) -> Result<(), Refusal> {
    if classes.is_empty() {
        return Err(bad("no kind of work is named, and no is the default"));
    }
    if classes.len() > CLASSES {
        return Err(bad("so many kinds of work nobody means"));
    }
    match classes.iter().find(|class| !is_class(class)) {
        Some(other) => Err(bad(&format!(
            "'{other}' is no kind of work: small letters, digits and '-', such as inference"
        ))),
        None => Ok(()),
    }
}

/// A ready policy, and to what its owner agrees.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Agree {
    profile: String,
    /// The hash of the notice that was shown, for each class.
    notices: BTreeMap<String, String>,
    #[serde(default)]
    time_zone: Option<String>,
    #[serde(default)]
    days: Option<u16>,
}

/// What became of an agreement.
enum Became {
    /// All of it is written.
    Agreed,
    /// Nothing is, and nothing has changed.
    Nothing(Refusal),
    /// Something is: what, and what not.
    Part(String),
}

/// The owner agrees.
pub(super) async fn agree(page: &Page, body: &[u8]) -> Answered {
    let wish: Agree = parse(body)?;
    let now = page.clock.wall();
    // Finer than a person reads, and fine enough to be after a withdrawal of a moment ago.
    let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
    let text = document(&wish, now)?;
    let profile = wish.profile.clone();
    let directory = page.directory.clone();
    let written = on_book(page, move |book| Ok(both(book, &directory, &wish, &text, now))).await?;
    match written.map_err(|error| refuse(&error))? {
        Became::Agreed => {
            tracing::info!(profile, "the owner agreed at the page, and the document was replaced");
            put(page, Ask::Consents).await
        }
        Became::Nothing(refusal) => Err(refusal),
        Became::Part(what) => {
            tracing::error!(profile, what, "the owner agreed at the page, and it was done in part");
            // The car goes by what there is.
            ask_loop(page, Ask::Consents).await?;
            Err(Refusal::new(StatusCode::CONFLICT, what))
        }
    }
}

/// First the document, whose hash the records have, then the consents. Between the two, and if it ends there, the car goes by a document that its
/// owner has just agreed to and by consents that were there before: the other way round a new consent would stand beside a document that may allow
/// more. Where no consent can be recorded, the document before takes its place again. Blocks.
fn both(book: &mut Book, directory: &Directory, wish: &Agree, text: &str, now: Timestamp) -> Became {
    let is_other = |(class, sha256): (&String, &String)| digest(book.notice_for(class).as_bytes()) != *sha256;
    if wish.notices.iter().any(is_other) {
        return Became::Nothing(bad("the notice has changed since it was shown: read it again"));
    }
    let owner = directory.owner();
    let unwritten = |error: io::Error| {
        Became::Nothing(broken(format!(
            "failed to write the document, so nothing has changed: {error}"
        )))
    };
    let before = match keep(&owner) {
        Ok(before) => before,
        Err(error) => return unwritten(error),
    };
    let before = before.as_deref();
    if let Err(error) = directory::replace(&owner, text.as_bytes()) {
        return match put_back(&owner, before) {
            Ok(()) => unwritten(error),
            Err(_) => Became::Part(format!(
                "your document may be the new one, and no consent was recorded: {error}"
            )),
        };
    }
    let purposes: Vec<_> = wish.notices.keys().cloned().collect();
    let giving = Giving {
        purposes: &purposes,
        lasts: wish.days.map(lasts),
        method: METHOD,
    };
    match book.give(giving, now) {
        Ok(()) => {
            // Of no use any more; and the next one replaces it.
            let _ = before.map(std::fs::remove_file);
            Became::Agreed
        }
        Err(error) => in_part(directory, before, &purposes, now, &error),
    }
}

/// What there is where not every consent could be recorded.
fn in_part(
    directory: &Directory,
    before: Option<&Path>,
    purposes: &[String],
    now: Timestamp,
    error: &ConsentError,
) -> Became {
    let why = consents::said(error);
    let held = held(directory);
    let is_new = |purpose: &&String| held.of(purpose, now).is_ok_and(|held| held.given_at == now);
    let recorded: Vec<_> = purposes.iter().filter(is_new).cloned().collect();
    // What was agreed to beside the new document never stands beside the old one.
    if recorded.is_empty() && put_back(&directory.owner(), before).is_ok() {
        return match &held {
            Consents::Known(_) => Became::Nothing(Refusal {
                why: format!("nothing has changed: {why}"),
                ..refuse(error)
            }),
            Consents::Unusable(unusable) => Became::Part(format!(
                "your document is as it was, and none of your consents counts ({unusable}): {why}"
            )),
        };
    }
    let recorded = if recorded.is_empty() {
        "nothing".to_owned()
    } else {
        recorded.join(", ")
    };
    Became::Part(format!(
        "your document is the new one; of what you agreed to now is on record: {recorded} ({why})"
    ))
}

/// Keeps the document beside itself, for a disk that has no room for it a second time; `None`: there is none.
fn keep(owner: &Path) -> io::Result<Option<PathBuf>> {
    let before = owner.with_extension("before");
    match std::fs::copy(owner, &before) {
        Ok(_) => Ok(Some(before)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives the document the place again that it had before.
fn put_back(owner: &Path, before: Option<&Path>) -> io::Result<()> {
    match before {
        Some(before) => std::fs::rename(before, owner)?,
        None => match std::fs::remove_file(owner) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        },
    }
    owner.parent().map_or(Ok(()), directory::sync_directory)
}

fn lasts(days: u16) -> SignedDuration {
    SignedDuration::from_hours(24 * i64::from(days))
}

/// The document that a wish becomes.
fn document(wish: &Agree, now: Timestamp) -> Result<String, Refusal> {
    let classes: Vec<_> = wish.notices.keys().cloned().collect();
    check(&classes)?;
    if wish.days == Some(0) {
        return Err(bad("a consent for no day is none"));
    }
    let profile = Profile::find(&wish.profile).map_err(|error| bad(&error.to_string()))?;
    if let Some(zone) = &wish.time_zone {
        TimeZone::get(zone).map_err(|_| bad(&format!("the time zone '{zone}' is not known in the car")))?;
    }
    let text = profile.filled_in(&Given {
        at: now,
        expires: wish.days.and_then(|days| now.checked_add(lasts(days)).ok()),
        classes: &classes,
        time_zone: wish.time_zone.as_deref(),
    });
    let text = text.map_err(|error| bad(&error.to_string()))?;
    config::owner_in(&text, Path::new(profile.name)).map_err(|error| bad(&said(&error)))?;
    Ok(text)
}

/// What is taken back: these, or all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Withdraw {
    #[serde(default)]
    purposes: Option<Vec<String>>,
}

/// The owner takes consents back. What is for all holds before anything is written.
pub(super) async fn withdraw(page: &Page, body: &[u8]) -> Answered {
    let Withdraw { purposes } = parse(body)?;
    let Some(purposes) = purposes else {
        return withdraw_all(page, "").await;
    };
    let now = page.clock.wall();
    let written = on_book(page, move |book| book.withdraw(Some(purposes.as_slice()), now));
    let Ok(written) = timeout(ON_RECORD, written).await else {
        return end_all(
            page,
            "not on record yet, for the disk does not answer, so all work ends: ",
        )
        .await;
    };
    match written? {
        Ok(_) => match timeout(READ, put(page, Ask::Consents)).await {
            Ok(answered) => answered,
            Err(_) => {
                end_all(
                    page,
                    "on record, but not read yet, for the disk does not answer, so all work ends: ",
                )
                .await
            }
        },
        Err(error @ ConsentError::NotGiven(_)) => Err(refuse(&error)),
        Err(error) => {
            // It holds all the same: for everything, for what cannot be written down cannot be told apart after a restart.
            let why = format!("not on record ({}), so all work ends: ", consents::said(&error));
            withdraw_all(page, &why).await
        }
    }
}

/// Where the disk hangs: by the word alone, which needs none.
async fn end_all(page: &Page, why: &str) -> Answered {
    let Answer { text, status } = ask_loop(page, Ask::Withdraw).await?;
    stands(page, &format!("{why}{text}"), &status)
}

async fn withdraw_all(page: &Page, why: &str) -> Answered {
    let Answer { text, status } = ask_loop(page, Ask::Withdraw).await?;
    // Work stands still already; what follows is for the record.
    let now = page.clock.wall();
    let Ok(written) = timeout(ON_RECORD, on_book(page, move |book| book.withdraw(None, now))).await else {
        return stands(
            page,
            &format!("{why}{text}; not on record yet: the disk does not answer"),
            &status,
        );
    };
    let record = match written? {
        Ok(written) if written.is_empty() => String::new(),
        Ok(written) => format!("; on record: {}", written.join(", ")),
        Err(error) => format!("; not on record: {}", consents::said(&error)),
    };
    // How things stood before is true enough where they cannot be read anew.
    let status = match timeout(READ, ask_loop(page, Ask::Consents)).await {
        Ok(answer) => answer?.status,
        Err(_) => status,
    };
    stands(page, &format!("{why}{text}{record}"), &status)
}

/// Does something with the book of consents, on a thread that may wait for it.
async fn on_book<T: Send + 'static>(
    page: &Page,
    ask: impl FnOnce(&mut Book) -> Result<T, ConsentError> + Send + 'static,
) -> Result<Result<T, ConsentError>, Refusal> {
    let directory = page.directory.clone();
    let done = tokio::task::spawn_blocking(move || {
        let mut book = Book::open(&directory, true)?;
        ask(&mut book)
    });
    done.await.map_err(broken)
}

fn refuse(error: &ConsentError) -> Refusal {
    match error {
        ConsentError::NotGiven(_) | ConsentError::Purpose(_) | ConsentError::NoPurpose => bad(&consents::said(error)),
        _ => broken(consents::said(error)),
    }
}

/// Everything that is on record, and what is wrong with it.
pub(super) async fn consents(page: &Page) -> Answered {
    let directory = page.directory.clone();
    let read = tokio::task::spawn_blocking(move || on_record(&directory));
    tell(&read.await.map_err(broken)??)
}

/// What is in force by the files.
fn held(directory: &Directory) -> Consents {
    let Ok(identity) = identity::read(directory) else {
        return Consents::default();
    };
    let named = consents::named(directory, identity.vehicle());
    let gathered = Gathered::of(directory, identity.vehicle(), named);
    gathered.map_or_else(Consents::Unusable, |gathered| gathered.consents())
}

fn on_record(directory: &Directory) -> Result<Value, Refusal> {
    let identity = identity::read(directory).map_err(broken)?;
    let named = consents::named(directory, identity.vehicle());
    let gathered = Gathered::of(directory, identity.vehicle(), named).map_err(broken)?;
    let report = gathered.report();
    let records = serde_json::to_value(records(report.entries.iter().map(|(entry, _)| entry))).map_err(broken)?;
    Ok(json!({"records": records, "findings": report.findings}))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().unwrap()
    }

    fn wish(profile: &str, classes: &[&str], zone: Option<&str>) -> Agree {
        let shown = |class: &&str| ((*class).to_owned(), String::new());
        Agree {
            profile: profile.to_owned(),
            notices: classes.iter().map(shown).collect(),
            time_zone: zone.map(str::to_owned),
            days: Some(365),
        }
    }

    #[test]
    fn profile_becomes_a_document_with_what_its_owner_agreed_to_now() {
        let text = document(&wish("whenever-plugged-in", &["inference"], None), now()).unwrap();
        let consent = config::owner_in(&text, Path::new("page")).unwrap().consent;
        assert_eq!(
            (consent.given_at, consent.classes),
            (now(), vec!["inference".to_owned()])
        );
        assert_eq!(consent.expires_at, Some("2027-11-22T10:00:00Z".parse().unwrap()));
    }

    #[rstest]
    #[case::unknown("generous", &["inference"], None, "is no profile")]
    #[case::no_class("careful", &[], Some("Europe/Berlin"), "no is the default")]
    #[case::no_zone("careful", &["inference"], None, "time-zone")]
    #[case::odd_zone("careful", &["inference"], Some("Moon/Base"), "not known in the car")]
    #[case::breaks_out("whenever-plugged-in", &["a\"]\nchargeFloorPercent: 0\nx: [\"b"], None, "is no kind of work")]
    fn wish_that_is_none_writes_nothing_and_says_why(
        #[case] profile: &str,
        #[case] classes: &[&str],
        #[case] zone: Option<&str>,
        #[case] says: &str,
    ) {
        let refusal = document(&wish(profile, classes, zone), now()).unwrap_err();
        assert!(
            refusal.status == StatusCode::BAD_REQUEST && refusal.why.contains(says),
            "{}",
            refusal.why
        );
    }
}
