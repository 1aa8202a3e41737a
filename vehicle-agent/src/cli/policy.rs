//! `kerbside-agent policy`: what an owner's document says, what it means, and when the car would have worked by it.
//!
//! Called by the command line. No agent need run and none is asked, so that all of it works before a document counts, and on any machine.
//! What must never happen: a consent that nobody gave, or a document that is overwritten and nobody said so.

use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kerbside_core::owner::replay::{self, Recording};
use kerbside_core::owner::{Document, Network, doubts, explain};
use kerbside_core::parked::Terms;

use super::Place;
use crate::config::{self, Car, ConfigError};
use crate::directory::{self, Directory};
use crate::outlook;
use crate::profiles::{self, Given, Profile, ProfileError};
use crate::signals::scenario;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Lists the ready policies
    Profiles,
    /// Makes a document of a ready policy, with a consent that you give now, and prints it
    Init(Init),
    /// Says whether a document is valid, and what in it you may not have meant
    Check(OneDocument),
    /// Says in plain words what a document means
    Explain(OneDocument),
    /// Shows when the car would have worked over a recorded day
    Simulate(Simulate),
}

#[derive(Debug, Args)]
pub(super) struct OneDocument {
    #[command(flatten)]
    place: Place,
    /// The document, or - for standard input; without it the agent's owner.yaml
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Init {
    #[command(flatten)]
    place: Place,
    /// One of those that `kerbside-agent policy profiles` lists
    profile: String,
    /// A job class that you agree to; may be given more than once. Without any, nothing is made
    #[arg(long = "class", value_name = "CLASS")]
    classes: Vec<String>,
    /// Your time zone, such as Europe/Berlin
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// When your consent ends: a moment such as 2027-11-01T00:00:00Z, or in so many days, such as 90d; without it, when you withdraw it
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// Writes the document to the agent's owner.yaml, unless there is one
    #[arg(long)]
    write: bool,
    /// Writes it also if there is one
    #[arg(long, requires = "write")]
    replace: bool,
}

#[derive(Debug, Args)]
pub(super) struct Simulate {
    #[command(flatten)]
    place: Place,
    /// The recorded day: a scenario with startsAt and lasts
    #[arg(long, value_name = "FILE")]
    recording: PathBuf,
    /// The document, or - for standard input; without it the agent's owner.yaml
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Does what was asked; the text is for standard output.
pub(super) fn run(verb: Verb, now: Timestamp) -> anyhow::Result<String> {
    match verb {
        Verb::Profiles => Ok(list()),
        Verb::Init(init) => make(&init, now),
        Verb::Check(OneDocument { place, file }) => check(&place, file.as_deref(), now),
        Verb::Explain(OneDocument { place, file }) => {
            let document = read(&place, file.as_deref())?;
            Ok(explain(&document).join("\n") + "\n")
        }
        Verb::Simulate(simulate) => play(&simulate),
    }
}

fn list() -> String {
    let width = profiles::ALL
        .iter()
        .map(|profile| profile.name.len())
        .max()
        .unwrap_or(0);
    profiles::ALL.iter().fold(String::new(), |mut text, profile| {
        writeln!(text, "{:<width$}  {}", profile.name, profile.line()).expect("writing to a String cannot fail");
        text
    })
}

fn make(init: &Init, now: Timestamp) -> anyhow::Result<String> {
    let profile = Profile::find(&init.profile)?;
    if init.classes.is_empty() {
        return Err(ProfileError::NoClass.into());
    }
    if let Some(zone) = &init.time_zone {
        TimeZone::get(zone).with_context(|| format!("--time-zone: '{zone}' is not known here"))?;
    }
    // Finer than a person reads, and fine enough to be after a withdrawal of a moment ago.
    let at = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
    let expires = init.expires.as_deref().map(|text| expiry(text, at)).transpose()?;
    let text = profile.filled_in(&Given {
        at,
        expires,
        classes: &init.classes,
        time_zone: init.time_zone.as_deref(),
    })?;
    config::owner_in(&text, Path::new(profile.name))?;
    if !init.write {
        return Ok(text);
    }
    let path = Directory::open(&init.place.dir)?.owner();
    if std::fs::symlink_metadata(&path).is_ok() && !init.replace {
        anyhow::bail!(
            "{} is there already, and stays as it is; say --replace to replace it",
            path.display()
        );
    }
    directory::replace(&path, text.as_bytes()).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(format!(
        "written to {}; an agent that runs reads it within a second\n",
        path.display()
    ))
}

pub(super) fn expiry(text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u16>().ok());
    let moment = match days {
        Some(days) => now.checked_add(SignedDuration::from_hours(24 * i64::from(days))),
        None => text.parse(),
    };
    moment.with_context(|| {
        format!("--expires: '{text}' is neither a moment such as 2027-11-01T00:00:00Z nor a number of days such as 90d")
    })
}

fn check(place: &Place, file: Option<&Path>, now: Timestamp) -> anyhow::Result<String> {
    let document = read(place, file)?;
    zone_of_hours(&document)?;
    let valid = "valid\n".to_owned();
    let doubts = doubts(&document, now).into_iter();
    Ok(doubts.fold(valid, |text, doubt| text + "warning: " + &doubt + "\n"))
}

fn play(simulate: &Simulate) -> anyhow::Result<String> {
    let (_, recording) = scenario::read(&simulate.recording)?;
    let mut document = read(&simulate.place, simulate.policy.as_deref())?;
    let zone = zone_of_hours(&document)?;
    let mut notes = Vec::new();
    // A day that is past is looked at to decide what to write now: that the consent is newer says nothing of it.
    if let Some(start) = recording
        .starts_at
        .as_ref()
        .filter(|start| document.consent.given_at > start.at)
    {
        document.consent.given_at = start.at;
        notes.push("the consent is newer than the recording: shown as if it had been given before");
    }
    if document.consent.classes.is_empty() {
        notes.push("the document accepts no job class: there would have been no work, whatever is shown");
    }
    let maker = maker(&simulate.place)?;
    let milliwatts = milliwatts(&maker, &document);
    if document.max_kwh_per_day.is_some() && milliwatts.is_some() {
        notes.push("energy by the maker's figures, with all that the car gives at work whenever it may be");
    }
    if document.price_floor.is_some() {
        notes.push("what work pays is not known here: shown as if all of it paid enough");
    }
    if document.data.is_some() || document.network != Network::default() {
        notes.push("what work moves, and by which network, is not known here: shown as if it cost nothing by the byte");
    }
    let car = replay::Car {
        document: &document,
        terms: &Terms::from(maker.parked),
        zone: zone.as_ref(),
        milliwatts,
    };
    let day = replay::replay(&recording, car)?;
    if simulate.json {
        for note in notes {
            tracing::warn!("{note}");
        }
        return Ok(format!("{}\n", serde_json::to_string(&day)?));
    }
    let clock = clock_of(&recording)?.or(zone).unwrap_or(TimeZone::UTC);
    let from = day
        .from
        .to_zoned(clock.clone())
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string();
    let name = clock.iana_name().unwrap_or("UTC");
    let notes = notes
        .into_iter()
        .fold(String::new(), |text, note| text + "note: " + note + "\n");
    Ok(format!(
        "from {from} by the clock of {name}\n{notes}\n{}",
        day.table(&clock)
    ))
}

/// The zone of the clock that the recording began by, if it names one.
fn clock_of(recording: &Recording) -> anyhow::Result<Option<TimeZone>> {
    let name = recording.starts_at.as_ref().and_then(|start| start.zone.as_deref());
    name.map(|name| TimeZone::get(name).with_context(|| format!("startsAt: the time zone '{name}' is not known here")))
        .transpose()
}

/// The document in a file, from standard input, or the agent's own.
fn read(place: &Place, file: Option<&Path>) -> anyhow::Result<Document> {
    if let Some(path) = file.filter(|path| path.as_os_str() == "-") {
        let mut text = String::new();
        io::stdin()
            .read_to_string(&mut text)
            .context("failed to read standard input")?;
        return Ok(config::owner_in(&text, path)?);
    }
    let path = match file {
        Some(path) => path.to_owned(),
        None => Directory::at(&place.dir)?.owner(),
    };
    config::owner(&path)?.map(|owner| owner.document).with_context(|| {
        format!(
            "there is no {}, and without an owner's document the car accepts no work; `kerbside-agent policy init` makes one",
            path.display()
        )
    })
}

/// The zone of the document's hours, days and tariff. Where it is not known, hours are never.
fn zone_of_hours(document: &Document) -> anyhow::Result<Option<TimeZone>> {
    let zone = outlook::zone(document);
    if let (None, true, Some(name)) = (&zone, document.needs_zone(), &document.time_zone) {
        anyhow::bail!(
            "timeZone: '{name}' is not known here, and with hours or energy by an unknown clock there is never work"
        );
    }
    Ok(zone)
}

/// What the maker says of the car in this directory.
fn maker(place: &Place) -> anyhow::Result<Car> {
    match Car::read(&Directory::at(&place.dir)?.car()) {
        Ok(car) => Ok(car),
        // Who may not look into the agent's directory looks at a document on some other machine, or as somebody else.
        Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => Ok(Car::default()),
        Err(error) => Err(error.into()),
    }
}

/// What the car takes with all at work that it gives under this document; `None`: its maker does not say.
fn milliwatts(car: &Car, document: &Document) -> Option<u64> {
    let energy = car.energy.as_ref()?;
    let cpu = car.allocatable(Some(document)).get("cpu").millis();
    let anyway = energy.is_awake_anyway(document.require_plugged_in);
    Some(energy.figures().at_work(u64::try_from(cpu).unwrap_or(0), anyway))
}

#[cfg(test)]
mod tests;
