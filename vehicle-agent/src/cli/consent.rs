//! `kerbside-agent consent`: what the owner has consented to, on record; the owner's words that give and take back.
//!
//! Called by the command line. It writes the files itself, so that it works with and without an agent and needs no network; an agent that
//! runs is told, and acts before the command ends. What must never happen: a consent that is recorded without its notice having been shown, or a
//! withdrawal that fails and leaves work going on.

use std::fmt::Write as _;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use kerbside_core::consent::{Consents, records};
use kerbside_core::owner::Word;

use super::{Found, Place, Reading, policy};
use crate::consents::{self, Book, Gathered, Giving, sealed};
use crate::control::{self, Ask};
use crate::directory::Directory;
use crate::forget;
use crate::identity;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Shows the notice, and with --agree records your consent
    Give(Give),
    /// Takes a consent back: work of that kind ends
    Withdraw(Withdraw),
    /// Lists what you have consented to, and what holds
    List(Reading),
    /// Checks every signature and the chain; exits with 1 if anything is wrong
    Verify(Reading),
}

#[derive(Debug, Args)]
pub(super) struct Give {
    #[command(flatten)]
    place: Place,
    /// A job class that you agree to; may be given more than once
    #[arg(long = "purpose", value_name = "CLASS", required = true)]
    purposes: Vec<String>,
    /// When it ends: a moment such as 2027-11-01T00:00:00Z, or in so many days, such as 90d; without it, when you withdraw it
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// You have read the notice, and agree
    #[arg(long)]
    agree: bool,
}

#[derive(Debug, Args)]
pub(super) struct Withdraw {
    #[command(flatten)]
    place: Place,
    /// A job class; may be given more than once. Without any, all
    #[arg(long = "purpose", value_name = "CLASS")]
    purposes: Vec<String>,
}

/// Does what was asked; the text is for standard output.
pub(super) async fn run(verb: Verb, now: Timestamp) -> anyhow::Result<String> {
    match verb {
        Verb::Give(give) => self::give(&give, now).await,
        Verb::Withdraw(withdraw) => self::withdraw(&withdraw, now).await,
        Verb::List(reading) => list(&reading, now),
        Verb::Verify(reading) => verify(&reading),
    }
}

async fn give(give: &Give, now: Timestamp) -> anyhow::Result<String> {
    let directory = Directory::open(&give.place.dir)?;
    // Finer than a person reads.
    let now = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
    let lasts = match &give.expires {
        None => None,
        Some(text) => {
            let lasts = policy::expiry(text, now)?.duration_since(now);
            anyhow::ensure!(lasts.is_positive(), "--expires: '{text}' has passed");
            Some(lasts)
        }
    };
    // Before anything is shown that could be agreed to.
    if forget::is_pending(&directory) {
        return Err(consents::ConsentError::Forgetting.into());
    }
    let mut book = Book::open(&directory, true)?;
    let notices: Vec<_> = give.purposes.iter().map(|purpose| book.notice_for(purpose)).collect();
    let mut text = notices.join("\n");
    if !give.agree {
        text.push_str("\nNothing is recorded: if you agree, say so with --agree.\n");
        return Err(Found(text).into());
    }
    let method = "`kerbside-agent consent give --agree`, typed in the car by who may open the agent's directory";
    book.give(
        Giving {
            purposes: &give.purposes,
            lasts,
            method,
        },
        now,
    )?;
    drop(book);
    let answer = control::ask(&directory.socket(), Ask::Consents).await?;
    let purposes = give.purposes.join(", ");
    writeln!(text, "\nRecorded: you agree to {purposes}.").expect("writing to a String cannot fail");
    text.push_str(not_yet(&directory, give).as_str());
    if answer.is_none() {
        text.push_str("No agent runs; this holds when one starts.\n");
    }
    Ok(text)
}

/// What else has to be said before there is work.
fn not_yet(directory: &Directory, give: &Give) -> String {
    let owner = crate::config::owner(&directory.owner()).ok().flatten();
    let document = owner.map(|owner| owner.document);
    let classes = document.as_ref().map_or(&[][..], |document| &document.consent.classes);
    let missing: Vec<_> = give
        .purposes
        .iter()
        .filter(|purpose| !classes.contains(purpose))
        .collect();
    let mut text = String::new();
    for purpose in missing {
        writeln!(
            text,
            "owner.yaml does not accept {purpose} (consent.classes): there is no such work until it does."
        )
        .expect("writing to a String cannot fail");
    }
    let remembered = control::remembered(&directory.command(), Timestamp::MAX);
    if remembered.command(document.as_ref()) == kerbside_core::owner::Command::Withdraw {
        text.push_str("You have withdrawn all: there is no work until owner.yaml has a later consent.givenAt.\n");
    }
    text
}

async fn withdraw(withdraw: &Withdraw, now: Timestamp) -> anyhow::Result<String> {
    let directory = Directory::open(&withdraw.place.dir)?;
    let purposes = Some(&withdraw.purposes[..]).filter(|purposes| !purposes.is_empty());
    let written = Book::open(&directory, true).and_then(|mut book| book.withdraw(purposes, now));
    let written = match written {
        Ok(written) => written,
        Err(error @ consents::ConsentError::NotGiven(_)) => return Err(error.into()),
        Err(error) => {
            // It holds all the same: for everything, for what cannot be written down cannot be told apart after a restart.
            let text = super::tell(directory.root(), Word::Withdraw).await;
            let said = consents::said(&error);
            let text =
                text.with_context(|| format!("failed to record the withdrawal ({said}), and to end all work instead"))?;
            anyhow::bail!(
                "failed to record the withdrawal ({said}); so all work ends: {}",
                text.trim_end()
            );
        }
    };
    let answer = match control::ask(&directory.socket(), Ask::Consents).await {
        Ok(answer) => answer,
        Err(error) => {
            // It is on record, and the agent may not be able to read that: the word needs no disk.
            let text = super::tell(directory.root(), Word::Withdraw).await;
            let text = text.with_context(|| {
                format!("the withdrawal is on record, and the agent has not said that it knows ({error}); nor can all work be ended instead")
            })?;
            anyhow::bail!(
                "the withdrawal is on record, and the agent has not said that it knows ({error}); so all work ends: {}",
                text.trim_end()
            );
        }
    };
    let mut text = if !written.is_empty() {
        format!("withdrawn: {}; work of that kind ends\n", written.join(", "))
    } else if directory.consents_withdrawn().exists() {
        "there was no consent that holds, for the file of the consents is broken; that you take it back is kept beside it\n"
            .to_owned()
    } else {
        "there was no consent that holds\n".to_owned()
    };
    if answer.is_none() {
        text.push_str("No agent runs; this holds when one starts.\n");
    }
    Ok(text)
}

/// After all was withdrawn by one word: the same, on record. That word holds whether this can be written or not.
pub(super) async fn record_withdrawal(directory: &Directory, now: Timestamp) -> String {
    if !identity::exists(directory) {
        return String::new();
    }
    let written = Book::open(directory, true).and_then(|mut book| book.withdraw(None, now));
    match written {
        Ok(written) if written.is_empty() => String::new(),
        Ok(written) => {
            // An agent that does not answer reads it all the same.
            let _ = control::ask(&directory.socket(), Ask::Consents).await;
            format!("; on record: {}", written.join(", "))
        }
        Err(error) => format!("; not on record: {}", consents::said(&error)),
    }
}

fn list(reading: &Reading, now: Timestamp) -> anyhow::Result<String> {
    let (directory, gathered) = gathered(reading)?;
    let report = gathered.report();
    if reading.json {
        let records = records(report.entries.iter().map(|(entry, _)| entry));
        return Ok(format!("{}\n", serde_json::to_string(&records)?));
    }
    let consents = gathered.consents();
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    match &consents {
        Consents::Unusable(why) => line(format!("none counts: {why}")),
        Consents::Known(known) if known.held.is_empty() => line("no consent was given".to_owned()),
        Consents::Known(known) => {
            for (purpose, held) in &known.held {
                let id = &held.record.id;
                line(match consents.of(purpose, now) {
                    Ok(held) => {
                        let until = held
                            .expires_at
                            .map_or_else(|| "until you withdraw it".to_owned(), |at| format!("until {at}"));
                        format!("{purpose}  holds since {} {until}  {id}", held.given_at)
                    }
                    Err(why) => format!("{purpose}  does not hold: {why}  {id}"),
                });
            }
        }
    }
    for sealed in sealed(&directory) {
        line(format!(
            "a chain of {} entries of {} was deleted at {} ({})",
            sealed.entries, sealed.vehicle, sealed.sealed_at, sealed.reason
        ));
    }
    Ok(text)
}

fn verify(reading: &Reading) -> anyhow::Result<String> {
    let (_, gathered) = gathered(reading)?;
    let report = gathered.report();
    let is_well = report.findings.is_empty();
    let text = if reading.json {
        format!("{}\n", serde_json::to_string(&report)?)
    } else {
        let mut text = report
            .findings
            .iter()
            .fold(String::new(), |text, finding| text + finding + "\n");
        if let Some(head) = &report.head {
            writeln!(text, "the newest is entry {}, {}", head.sequence, head.digest)?;
        }
        if is_well {
            text.push_str("every entry is signed and in its place\n");
        }
        text
    };
    if is_well { Ok(text) } else { Err(Found(text).into()) }
}

fn gathered(reading: &Reading) -> anyhow::Result<(Directory, Gathered)> {
    let directory = Directory::existing(&reading.place.dir)?;
    let identity = identity::read(&directory)?;
    let named = consents::named(&directory, identity.vehicle());
    let gathered = Gathered::of(&directory, identity.vehicle(), named)?;
    Ok((directory, gathered))
}

#[cfg(test)]
mod tests;
