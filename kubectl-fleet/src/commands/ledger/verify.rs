//! `kubectl fleet ledger verify`: everything that is wrong, vehicle by vehicle.

use std::io::Write;

use kerbside_core::ids::VehicleId;
use serde_json::{Value, json};

use super::book::Book;
use super::check::{Checked, Checker};
use super::say;
use crate::Error;
use crate::cli::Format;

/// Checks every ledger of the book; fails if anything is wrong, after it was printed.
pub(super) async fn verify(book: &Book, format: Format, out: &mut impl Write) -> Result<(), Error> {
    let mut judge = Checker::new(book)?;
    let mut findings = judge.problems.len();
    begin(&judge, format, out)?;
    for (n, vehicle) in book.vehicles.iter().enumerate() {
        let checked = judge.check(&book.ledger(vehicle).await?);
        findings += checked.findings();
        match format {
            Format::Text => say(out, &text(vehicle, &checked))?,
            Format::Json => {
                let separator = if n == 0 { "" } else { "," };
                say(out, &format!("{separator}{}", value(vehicle, &checked)))?;
            }
        }
    }
    end(book, findings, format, out)?;
    if findings == 0 {
        Ok(())
    } else {
        Err(Error::Findings { findings })
    }
}

fn begin(judge: &Checker, format: Format, out: &mut impl Write) -> Result<(), Error> {
    match format {
        Format::Json => say(out, &format!("{{\"operator\":{},\"vehicles\":[", json!(judge.problems))),
        Format::Text => {
            for problem in &judge.problems {
                say(out, &format!("operator: {problem}"))?;
            }
            Ok(())
        }
    }
}

fn end(book: &Book, findings: usize, format: Format, out: &mut impl Write) -> Result<(), Error> {
    if format == Format::Json {
        return say(
            out,
            &format!("],\"caIsKnown\":{},\"findings\":{findings}}}", book.ca_is_known),
        );
    }
    if !book.ca_is_known {
        say(
            out,
            "the CA is the one that comes with the ledger; give one that you know with --ca to be sure of it",
        )?;
    }
    say(out, &format!("vehicles: {}, findings: {findings}", book.vehicles.len()))
}

fn text(vehicle: &VehicleId, checked: &Checked) -> String {
    let Checked {
        report,
        problems,
        receipts,
        acceptances,
    } = checked;
    let mut text = format!(
        "{vehicle}: receipts: {receipts}, acceptances: {acceptances}, not settled: {}, findings: {}",
        report.unsettled,
        checked.findings()
    );
    let problems = problems.iter().map(|problem| format!("\n  {problem}"));
    let of_receipts = report.usage.findings.iter().map(|f| format!("\n  receipts, {f}"));
    let of_acceptances = report.findings.iter().map(|f| format!("\n  acceptances, {f}"));
    text.extend(problems.chain(of_receipts).chain(of_acceptances));
    text
}

fn value(vehicle: &VehicleId, checked: &Checked) -> Value {
    json!({
        "vehicle": vehicle,
        "receipts": checked.receipts,
        "acceptances": checked.acceptances,
        "unsettled": checked.report.unsettled,
        "findings": {
            "vehicle": checked.problems,
            "receipts": checked.report.usage.findings,
            "acceptances": checked.report.findings,
        },
    })
}
