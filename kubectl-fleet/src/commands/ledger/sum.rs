//! `kubectl fleet ledger sum`: what is to be paid, exactly and rounded.
//!
//! Sums are of what the operator has signed with a key that is believed, in millionths of the currency's unit, and only a payout is rounded.
//! How many lines are in no sum is said beside them, and where the ledger does not hold: whoever pays should look first.

use std::collections::BTreeMap;
use std::io::Write;

use kerbside_core::ledger::{Line, Standing, Sum};
use serde_json::{Value, json};

use super::book::Book;
use super::check::Checker;
use super::say;
use crate::Error;
use crate::cli::{Format, SumBy};

/// What a row is of: the currency, and what sums are split by. Rows without a currency are of what nobody is paid for.
type Key = (Option<String>, Option<String>);

/// Adds up every ledger of the book.
pub(super) async fn sum(book: &Book, by: Option<SumBy>, format: Format, out: &mut impl Write) -> Result<(), Error> {
    let mut judge = Checker::new(book)?;
    let mut findings = judge.problems.len();
    let mut unsettled = 0_u64;
    let mut left_out = 0;
    let mut sums: BTreeMap<Key, Sum> = BTreeMap::new();
    for vehicle in &book.vehicles {
        let checked = judge.check(&book.ledger(vehicle).await?);
        findings += checked.findings();
        unsettled += checked.report.unsettled;
        left_out += checked.left_out;
        for line in &checked.report.lines {
            add(sums.entry((line.currency.clone(), None)).or_default(), line);
            if let Some(by) = by {
                let key = (line.currency.clone(), Some(part(by, line)));
                add(sums.entry(key).or_default(), line);
            }
        }
    }
    match format {
        Format::Text => {
            say(out, &table(&sums, by))?;
            say(out, &format!("not settled yet: {unsettled} receipts"))?;
            if left_out > 0 {
                let why = "left out, for nobody who is believed here has signed them, or they are there twice";
                say(out, &format!("{why}: {left_out} acceptances"))?;
            }
            if findings > 0 {
                let warning = "the ledger does not hold, so look at 'kubectl fleet ledger verify' before you pay";
                say(out, &format!("{warning}; findings: {findings}"))?;
            }
            Ok(())
        }
        Format::Json => {
            let rows: Vec<Value> = sums.iter().map(row).collect();
            let all = json!({ "sums": rows, "unsettled": unsettled, "leftOut": left_out, "findings": findings });
            say(out, &all.to_string())
        }
    }
}

fn part(by: SumBy, line: &Line) -> String {
    match by {
        SumBy::Vehicle => line.vehicle.to_string(),
        SumBy::Job => line.job_uid.to_string(),
    }
}

fn add(sum: &mut Sum, line: &Line) {
    let accepted = u64::from(line.standing == Standing::Accepted);
    sum.attempts = sum.attempts.saturating_add(1);
    sum.accepted = sum.accepted.saturating_add(accepted);
    sum.cpu_ms = sum.cpu_ms.saturating_add(line.cpu_ms);
    sum.joules = sum.joules.saturating_add(line.joules);
    sum.amount_micro = sum.amount_micro.saturating_add(line.amount_micro);
}

fn row(((currency, part), sum): (&Key, &Sum)) -> Value {
    json!({
        "currency": currency, "part": part, "attempts": sum.attempts, "accepted": sum.accepted, "cpuMs": sum.cpu_ms,
        "joules": sum.joules, "amountMicro": sum.amount_micro, "amount": sum.exact(), "payout": sum.payout(),
    })
}

/// Columns as wide as they must be.
fn table(sums: &BTreeMap<Key, Sum>, by: Option<SumBy>) -> String {
    let split = match by {
        None => "",
        Some(SumBy::Vehicle) => "vehicle",
        Some(SumBy::Job) => "job",
    };
    let head = [
        "currency",
        split,
        "attempts",
        "accepted",
        "core-hours",
        "joules",
        "amount",
        "payout",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for ((currency, part), sum) in sums {
        let paid = currency.is_some();
        rows.push([
            currency.clone().unwrap_or_else(|| "none".to_owned()),
            part.clone().unwrap_or_default(),
            sum.attempts.to_string(),
            sum.accepted.to_string(),
            hours(sum.cpu_ms),
            sum.joules.to_string(),
            if paid { sum.exact() } else { String::new() },
            if paid { sum.payout() } else { String::new() },
        ]);
    }
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(widths).filter(|(_, width)| *width > 0);
        let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Hours with three digits behind the point; the half of the last one is rounded up.
fn hours(ms: u64) -> String {
    let thousandths = (u128::from(ms) * 1_000 + 1_800_000) / 3_600_000;
    format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000)
}

#[cfg(test)]
mod tests {
    use super::hours;

    #[rstest::rstest]
    #[case(0, "0.000")]
    #[case(3_600_000, "1.000")]
    #[case(1_799, "0.000")]
    #[case(1_800, "0.001")]
    #[case(u64::MAX, "5124095576030.431")]
    fn hours_have_three_digits(#[case] ms: u64, #[case] want: &str) {
        assert_eq!(hours(ms), want);
    }
}
