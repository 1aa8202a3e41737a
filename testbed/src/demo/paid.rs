//! What the demo's work is worth, as whoever pays for it finds out: by `kubectl fleet ledger`, which checks every signature and amount.
//!
//! Called at the end of the demo. Receipts come from the cars and are settled by the operator on their own, so it waits for them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::bed::Bed;
use crate::wait;

/// The operator looks for receipts every five seconds.
const DEADLINE: Duration = Duration::from_mins(2);

/// The part of the ledger that is of one job.
#[derive(Debug)]
pub(super) struct Paid {
    currency: String,
    /// Receipts that were settled: of every attempt that had a process.
    pub(super) attempts: u64,
    /// Those of them whose result is that of their index.
    pub(super) accepted: u64,
    /// The energy that counts, of all of them.
    pub(super) joules: u64,
    /// What all of them are worth: 10^-6 of the currency's unit.
    pub(super) amount_micro: u64,
    /// What is wrong with the ledger.
    pub(super) findings: u64,
}

impl Paid {
    /// Waits until every completion of the job is settled, and nothing waits.
    pub(super) async fn read(bed: &Bed, namespace: &str, job: &str, completions: u64) -> Result<Self> {
        let uid = [
            "get",
            "fleetjob",
            job,
            "-n",
            namespace,
            "-o",
            "jsonpath={.metadata.uid}",
        ];
        let uid = bed.kubectl.run(&uid, "").await?;
        let sum = [
            "ledger",
            "sum",
            "--by",
            "job",
            "-o",
            "json",
            "--operator",
            &bed.endpoints.operator,
        ];
        wait::until_ok("the job's receipts to be settled", DEADLINE, async || {
            let text = bed.plugin.run(&sum, "").await?;
            let sums: Value = serde_json::from_str(&text).context("sums are JSON")?;
            let paid = Self::of(&sums, uid.trim())?;
            ensure!(
                paid.accepted >= completions && sums["unsettled"] == 0,
                "{} of {completions} completions are settled, {} receipts wait",
                paid.accepted,
                sums["unsettled"]
            );
            Ok(paid)
        })
        .await
    }

    fn of(sums: &Value, job_uid: &str) -> Result<Self> {
        let rows = sums["sums"].as_array().context("there are sums")?;
        let row = rows.iter().find(|row| row["part"] == job_uid);
        let row = row.context("the job is not in the ledger yet")?;
        let number = |field: &str| row[field].as_u64().with_context(|| format!("a sum has '{field}'"));
        Ok(Self {
            currency: row["currency"].as_str().unwrap_or("no currency").to_owned(),
            attempts: number("attempts")?,
            accepted: number("accepted")?,
            joules: number("joules")?,
            amount_micro: number("amountMicro")?,
            findings: sums["findings"].as_u64().context("findings are counted")?,
        })
    }

    /// The same in words.
    pub(super) fn text(&self) -> String {
        let (whole, parts) = (self.amount_micro / 1_000_000, self.amount_micro % 1_000_000);
        let verdict = match self.findings {
            0 => "every signature and every amount holds".to_owned(),
            findings => format!("and {findings} things are WRONG with the ledger"),
        };
        format!(
            "The cars earned {whole}.{parts:06} {} for {} attempts, {} of them accepted, and {} J of energy; {verdict}.",
            self.currency, self.attempts, self.accepted, self.joules
        )
    }
}

#[cfg(test)]
impl Paid {
    /// So many attempts, all of them accepted.
    pub(super) fn all(attempts: u64) -> Self {
        Self {
            currency: "EUR".to_owned(),
            attempts,
            accepted: attempts,
            joules: 9,
            amount_micro: 42,
            findings: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn row_of_the_job_is_told_to_the_last_unit() {
        let row = |part: Value, amount: u64| json!({"currency": "EUR", "part": part, "attempts": 62, "accepted": 60, "joules": 7, "amountMicro": amount});
        let sums = json!({"sums": [row(Value::Null, 9), row(json!("u-1"), 1_000_042)], "unsettled": 0, "findings": 0});
        let paid = Paid::of(&sums, "u-1").unwrap();
        assert_eq!(
            paid.text(),
            "The cars earned 1.000042 EUR for 62 attempts, 60 of them accepted, and 7 J of energy; every signature and every amount holds."
        );
        let missing = Paid::of(&sums, "u-2").unwrap_err().to_string();
        assert_eq!(missing, "the job is not in the ledger yet");
    }
}
