//! What the law gives an owner beside the consent: `kerbside-agent export`, `forget`, `owner change`.
//!
//! Called by the command line. An export only reads. What must never happen: an export that leaves out something that the car holds on its owner, or
//! one with a private key in it.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use kerbside_core::consent::records;
use kerbside_core::ids::VehicleId;
use kerbside_core::owner::Word;
use kerbside_core::parked::Terms;
use kerbside_core::receipt::Usage;
use serde::Serialize;
use serde_json::{Value, json};

use super::Place;
use crate::agent;
use crate::config::Car;
use crate::consents::{self, Gathered, Sealed, sealed};
use crate::control::{self, Ask, Held, Network};
use crate::directory::Directory;
use crate::forget::{self, Forgetting, Reason};
use crate::identity;
use crate::receipts::show::{self, Shown};
use crate::receipts::terms::Kept;
use crate::signals::broker::signals_read;

/// What the document is; it changes with its fields.
const SCHEMA: &str = "owner.kerbside.dev/export/v1alpha1";

#[derive(Debug, Args)]
pub(super) struct Forget {
    #[command(flatten)]
    place: Place,
    /// You mean it: without it nothing is done
    #[arg(long)]
    yes: bool,
    /// Deletes also receipts that are not delivered: what they earned is lost
    #[arg(long)]
    unpaid_too: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum OwnerVerb {
    /// The car has another owner now: everything of the one before goes, and the car has to be enrolled anew
    Change(Forget),
}

/// Everything that the car holds on its owner. Its JSON is a file format: fields may be added, never changed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Export {
    schema: &'static str,
    exported_at: Timestamp,
    vehicle: Option<VehicleId>,
    /// The owner's document, as it is written.
    policy: Option<String>,
    /// The owner's last command.
    command: Option<String>,
    /// Records with their events, and the chain that shows them; null of a car that is nobody.
    consents: Value,
    sealed_consents: Vec<Sealed>,
    /// What was taken back while that chain could not be gone on with, as it is written.
    withdrawn_beside: Option<String>,
    /// The fleet's or the maker's own notice.
    notice: Option<String>,
    /// What ran, when, on which consent, what it took, what that cost, and what it may earn.
    what_ran: Vec<Value>,
    /// The terms that receipts name, as they came, by their hash.
    terms: BTreeMap<String, String>,
    /// What work has had today of the owner's energy, as it is written.
    energy_of_the_day: Option<String>,
    /// What work has moved this month of the owner's data, likewise.
    data_of_the_month: Option<String>,
    /// When the car stood where it stands, for half a year, as it is written.
    stays: Option<String>,
    /// Names of signals: values are not kept.
    signals_read: Value,
    /// What work sent and received since the agent began that runs now.
    network: Option<Network>,
    in_the_car_now: Vec<Held>,
    attempts_with_files: Vec<String>,
    /// What is accepted is the fleet's to say, signed: in the car are the quantities and the terms that it follows from.
    earnings: Value,
    receipts: Value,
    /// Chains of consents and of receipts that could not be gone on with, as they lie there, by file.
    kept_aside: BTreeMap<String, String>,
    forgetting: Option<Forgetting>,
}

/// Prints it: called by the owner's page, too.
pub(crate) async fn export(dir: &Path, now: Timestamp) -> anyhow::Result<String> {
    let directory = Directory::existing(dir)?;
    let shown = show::read(&directory).await?;
    let vehicle = match identity::read(&directory) {
        Ok(identity) => Some(identity.vehicle().clone()),
        Err(identity::ReadError::Missing) => None,
        Err(error) => return Err(error.into()),
    };
    let undelivered = forget::undelivered(&directory)?;
    let status = match control::ask(&directory.socket(), Ask::Status).await {
        Ok(answer) => answer.map(|answer| answer.status),
        // An agent that hangs has nothing to say; the files have.
        Err(_) => None,
    };
    let consents = match &vehicle {
        None => Value::Null,
        Some(vehicle) => {
            let named = consents::named(&directory, vehicle);
            match Gathered::of(&directory, vehicle, named) {
                Ok(gathered) => on_consents(&gathered)?,
                Err(why) => json!({"unreadable": why.to_string()}),
            }
        }
    };
    let terms = Car::read(&directory.car()).map_or_else(|_| Terms::default(), |car| car.terms());
    let mut kept = shown.kept_terms();
    let (network, in_the_car_now) = status.map(|status| (status.network, status.held)).unwrap_or_default();
    let export = Export {
        schema: SCHEMA,
        exported_at: now,
        vehicle,
        policy: text(&directory.owner())?,
        command: text(&directory.command())?,
        consents,
        sealed_consents: sealed(&directory),
        withdrawn_beside: text(&directory.consents_withdrawn())?,
        notice: text(&directory.notice())?,
        what_ran: shown.usages().map(|usage| ran(usage, &shown, &mut kept)).collect(),
        terms: terms_of(&shown, &kept),
        energy_of_the_day: text(&directory.energy())?,
        data_of_the_month: text(&directory.data())?,
        stays: text(&directory.stays())?,
        signals_read: json!({
            "byName": signals_read(&terms),
            "everSaid": text(&directory.said())?,
            "valuesKept": false,
        }),
        network,
        in_the_car_now,
        attempts_with_files: attempts(&directory)?,
        earnings: json!({
            "receiptsNotDelivered": undelivered,
            "amounts": null,
            "amountsAreIn": "the fleet's ledger: kubectl fleet ledger export",
        }),
        receipts: shown.export_value()?,
        kept_aside: kept_aside(&directory)?,
        forgetting: forget::pending(&directory)?,
    };
    Ok(format!("{}\n", serde_json::to_string_pretty(&export)?))
}

fn on_consents(gathered: &Gathered) -> anyhow::Result<Value> {
    let report = gathered.report();
    let records = serde_json::to_value(records(report.entries.iter().map(|(entry, _)| entry)))?;
    Ok(json!({
        "records": records,
        "findings": report.findings,
        "chain": gathered.envelopes(),
        "certificates": gathered.certificates(),
    }))
}

/// The terms of all receipts that verify.
fn terms_of(shown: &Shown, kept: &Kept) -> BTreeMap<String, String> {
    let of = |usage: &Usage| Some((usage.claim.terms_sha256.clone()?, kept.text(usage)?));
    shown.usages().filter_map(of).collect()
}

/// One attempt, in the words of the law: what ran, when, energy, bytes, on which consent. What it may earn is so if the fleet says the same of its end.
fn ran(usage: &Usage, shown: &Shown, kept: &mut Kept) -> Value {
    let claim = &usage.claim;
    let at = |ms: i64| Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |at| at.to_string());
    json!({
        "receipt": usage.sequence,
        "attempt": claim.pod_uid,
        "class": claim.class,
        "images": claim.images,
        "from": at(claim.started_at_ms),
        "to": at(claim.ended_at_ms),
        "cpuMs": claim.cpu_ms,
        "energyJoules": claim.energy.as_ref().map(|energy| energy.joules),
        "energy": claim.energy,
        "energyCost": shown.cost(usage),
        "mayEarn": kept.worth(usage),
        "outputBytes": claim.output_bytes,
        "outcome": claim.outcome,
        "consent": claim.consent,
        "termsSha256": claim.terms_sha256,
    })
}

fn attempts(directory: &Directory) -> std::io::Result<Vec<String>> {
    match directory.attempts_with_files() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

fn kept_aside(directory: &Directory) -> std::io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for root in [directory.consents(), directory.receipts()] {
        let entries = match std::fs::read_dir(root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains(".broken-") || name.contains(".of-") {
                files.extend(text(&entry.path())?.map(|text| (name, text)));
            }
        }
    }
    Ok(files)
}

fn text(path: &Path) -> std::io::Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Has the car forget its owner, for this reason.
pub(super) async fn forget(forget: &Forget, reason: Reason, now: Timestamp) -> anyhow::Result<String> {
    let directory = Directory::open(&forget.place.dir)?;
    let owed = forget::undelivered(&directory)?;
    if !forget.yes {
        anyhow::bail!(
            "this ends all work and deletes the owner's document, consents, receipts, and who the car is to the fleet; {owed} receipts are not \
             delivered yet, and stay until they are. `kerbside-agent export` first keeps a copy. If you mean it, say --yes"
        );
    }
    // In the agent that runs first: work stands still within this call, whatever the disk says.
    let runs = match control::ask(&directory.socket(), Word::Withdraw.into()).await {
        Ok(answer) => answer.is_some(),
        // One that hangs reads it all the same.
        Err(_) => true,
    };
    let forgetting = Forgetting::new(&directory, reason, now, forget.unpaid_too);
    let unsealed = forget::begin(&directory, &forgetting)?;
    let consents = unsealed.map_or_else(
        || " and the consents are deleted".to_owned(),
        |why| format!(" is deleted, and the consents with the rest ({})", consents::said(&why)),
    );
    let later = format!(
        "the owner's document{consents}, and there is no work any more; the rest follows when nothing lives in the car and what was earned is \
         delivered"
    );
    if runs {
        // An agent that does not answer reads it all the same.
        let _ = control::ask(&directory.socket(), Ask::Consents).await;
        return Ok(format!("{later}: then the agent ends\n"));
    }
    let Some(_lock) = agent::lock_if_free(&directory)? else {
        return Ok(format!("{later}: then the agent ends\n"));
    };
    if forget::finish_if_nothing_is_owed(&directory, &forgetting)? {
        return Ok("forgotten: the car has to be enrolled anew\n".to_owned());
    }
    Ok(format!(
        "{later}: start the agent, which delivers it, or say --unpaid-too and lose it\n"
    ))
}

#[cfg(test)]
mod tests;
