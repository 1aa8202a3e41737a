//! `kubectl fleet ledger verify`: everything that is wrong, vehicle by vehicle.

use std::collections::BTreeMap;
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
            Format::Text => say(out, &text(vehicle, &checked, judge.cas.len() > 1))?,
            Format::Json => {
                let separator = if n == 0 { "" } else { "," };
                say(out, &format!("{separator}{}", value(vehicle, &checked)))?;
            }
        }
    }
    end(book, &judge, findings, format, out)?;
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

fn end(book: &Book, judge: &Checker, findings: usize, format: Format, out: &mut impl Write) -> Result<(), Error> {
    if format == Format::Json {
        let (cas, known) = (json!(judge.cas.keys().collect::<Vec<_>>()), book.ca_is_known);
        let had = book.cas_are_known;
        return say(
            out,
            &format!("],\"cas\":{cas},\"caIsKnown\":{known},\"casAreKnown\":{had},\"findings\":{findings}}}"),
        );
    }
    if !book.ca_is_known {
        say(out, word(book))?;
    }
    say(out, &format!("vehicles: {}, findings: {findings}", book.vehicles.len()))
}

/// Whose word it is which CAs are the cluster's.
fn word(book: &Book) -> &'static str {
    match (book.is_export(), book.cas_are_known) {
        (false, true) => {
            "the CAs are those that the operator says it has had; give those that you know with --ca to be sure of them"
        }
        (false, false) => {
            "the operator is older and does not say which CAs it has had, so the present one alone is believed; give those that you know with --ca"
        }
        (true, true) => {
            "the CAs are those that the operator had by its own word, as this file has it; with --ca, and those that you know, it is a proof"
        }
        (true, false) => {
            "this file does not say which CAs the operator has had, so the one that was the present one is believed alone, by the operator's word \
             as this file has it; with --ca, and those that you know, it is a proof"
        }
    }
}

/// With what each CA stands for where there are several.
fn text(vehicle: &VehicleId, checked: &Checked, several: bool) -> String {
    let Checked {
        report,
        problems,
        receipts,
        acceptances,
        left_out: _,
        receipts_by_ca,
        acceptances_by_ca,
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
    if several {
        text.extend(by_ca("receipts", receipts_by_ca));
        text.extend(by_ca("acceptances", acceptances_by_ca));
    }
    text
}

fn by_ca<'a>(what: &'a str, lines: &'a BTreeMap<String, usize>) -> impl Iterator<Item = String> + 'a {
    lines
        .iter()
        .map(move |(ca, count)| format!("\n  {what} by keys of the CA {ca}: {count}"))
}

fn value(vehicle: &VehicleId, checked: &Checked) -> Value {
    json!({
        "vehicle": vehicle,
        "receipts": checked.receipts,
        "acceptances": checked.acceptances,
        "unsettled": checked.report.unsettled,
        "cas": { "receipts": checked.receipts_by_ca, "acceptances": checked.acceptances_by_ca },
        "findings": {
            "vehicle": checked.problems,
            "receipts": checked.report.usage.findings,
            "acceptances": checked.report.findings,
        },
    })
}
