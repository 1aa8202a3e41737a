//! What the owner agrees to and takes back at the page: a ready policy as the document, and consents on record.
//!
//! Called by [`super::api`]. A consent is recorded only with the notice that was shown: the page names each text by its hash, and where the car
//! would show another one by now, nothing is recorded. What must never happen: a withdrawal that fails and leaves work going on, or a consent
//! that its owner has not given by name.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kerbside_core::consent::records;
use kerbside_core::owner::is_class;
use kerbside_core::receipt::digest;
use serde::Deserialize;
use serde_json::{Value, json};

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shown {
    classes: Vec<String>,
}

/// What the owner has to be told for each class before a consent counts.
pub(super) fn notice(page: &Page, body: &[u8]) -> Answered {
    let Shown { classes } = parse(body)?;
    check(&classes)?;
    let notice = consents::notice(&page.directory).map_err(broken)?;
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

/// The owner agrees: first the document, whose hash the records have, then the consents. One without the other allows nothing.
pub(super) async fn agree(page: &Page, body: &[u8]) -> Answered {
    let wish: Agree = parse(body)?;
    let now = page.clock.wall();
    // Finer than a person reads, and fine enough to be after a withdrawal of a moment ago.
    let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
    let text = document(&wish, now)?;
    let profile = wish.profile.clone();
    let directory = page.directory.clone();
    on_book(page, move |book| {
        let changed = wish
            .notices
            .iter()
            .any(|(class, sha256)| digest(book.notice_for(class).as_bytes()) != *sha256);
        if changed {
            return Ok(Err(bad("the notice has changed since it was shown: read it again")));
        }
        if let Err(error) = directory::replace(&directory.owner(), text.as_bytes()) {
            return Ok(Err(broken(format!(
                "failed to write the document, so nothing has changed: {error}"
            ))));
        }
        let purposes: Vec<_> = wish.notices.into_keys().collect();
        let giving = Giving {
            purposes: &purposes,
            lasts: wish.days.map(lasts),
            method: METHOD,
        };
        book.give(giving, now).map(Ok)
    })
    .await?
    .map_err(|error| refuse(&error))??;
    tracing::info!(profile, "the owner agreed at the page, and the document was replaced");
    put(page, Ask::Consents).await
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
    match on_book(page, move |book| book.withdraw(Some(purposes.as_slice()), now)).await? {
        Ok(_) => put(page, Ask::Consents).await,
        Err(error @ ConsentError::NotGiven(_)) => Err(refuse(&error)),
        Err(error) => {
            // It holds all the same: for everything, for what cannot be written down cannot be told apart after a restart.
            let why = format!("not on record ({}), so all work ends: ", consents::said(&error));
            withdraw_all(page, &why).await
        }
    }
}

async fn withdraw_all(page: &Page, why: &str) -> Answered {
    let Answer { text, .. } = ask_loop(page, Ask::Withdraw).await?;
    // Work stands still already; what follows is for the record.
    let now = page.clock.wall();
    let record = match on_book(page, move |book| book.withdraw(None, now)).await? {
        Ok(written) if written.is_empty() => String::new(),
        Ok(written) => format!("; on record: {}", written.join(", ")),
        Err(error) => format!("; not on record: {}", consents::said(&error)),
    };
    let Answer { status, .. } = ask_loop(page, Ask::Consents).await?;
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
    use hyper::StatusCode;
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
