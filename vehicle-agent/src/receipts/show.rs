//! The receipts for the owner: a list in words, a check, and everything as one document for others to check.
//!
//! Called by the command line. It only reads files, so it works beside an agent that runs and after one that does not. What must never
//! happen: a receipt that does not verify is listed as one.

mod reckoning;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use kerbside_core::attempt::Kind;
use kerbside_core::receipt::{PAYLOAD_TYPE, Report, Totals, Usage, verify};
use serde::Serialize;

use self::reckoning::Reckoning;
use super::keys::KnownKeys;
use super::terms::{Kept, Worth};
use super::{LEDGER, files_aside};
use crate::directory::Directory;

/// An agent that runs may be within a write: that long it is waited for the end of a line.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(50);

/// What a car has of receipts.
pub struct Shown {
    lines: Vec<u8>,
    keys: KnownKeys,
    report: Report,
    /// Names of files that did not verify.
    aside: Vec<String>,
    reckoning: Reckoning,
}

/// The receipts of a car as one JSON document: everything that is needed to check them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Export<'a> {
    /// What their payloads are.
    payload_type: &'static str,
    /// The envelopes, in their order.
    receipts: Vec<serde_json::Value>,
    /// Lines that are no JSON, by their number.
    unreadable: BTreeMap<usize, String>,
    /// The certificates of every key, in PEM, by the key's id.
    certificates: BTreeMap<&'a str, &'a str>,
    /// Files that did not verify, and are not in here.
    aside: &'a [String],
}

/// Reads what is there. A car without receipts has none.
pub async fn read(directory: &Directory) -> io::Result<Shown> {
    let root = directory.receipts();
    let lines = lines(&root.join(LEDGER)).await?;
    // After the lines: a key is kept before it signs.
    let keys = KnownKeys::read(&root)?;
    let report = verify(&lines, &keys);
    let aside = match files_aside(&root) {
        Ok(files) => files,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e),
    };
    let name = |path: &std::path::PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
    Ok(Shown {
        aside: aside.iter().filter_map(name).collect(),
        lines,
        keys,
        report,
        reckoning: Reckoning::read(directory),
    })
}

async fn lines(path: &Path) -> io::Result<Vec<u8>> {
    let mut waited = Duration::ZERO;
    loop {
        let lines = match std::fs::read(path) {
            Ok(lines) => lines,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let whole = lines.last().is_none_or(|last| *last == b'\n');
        if whole || waited >= PATIENCE {
            return Ok(lines);
        }
        tokio::time::sleep(LOOK).await;
        waited += LOOK;
    }
}

impl Shown {
    /// One line per receipt that verifies, in words.
    pub fn list(&self) -> String {
        let mut text = String::new();
        let mut kept = self.reckoning.kept();
        for usage in self.usages() {
            writeln!(text, "{}{}", in_words(usage), self.reckoning.in_words(usage, &mut kept))
                .expect("writing to a String cannot fail");
        }
        if self.report.receipts.is_empty() {
            text.push_str("no receipts\n");
        }
        if !self.is_well() {
            text.push_str("not all is well: see `kerbside-agent receipts verify`\n");
        }
        text
    }

    /// The same as JSON, one a line.
    pub fn list_json(&self) -> serde_json::Result<String> {
        let mut text = String::new();
        for usage in self.usages() {
            text.push_str(&serde_json::to_string(usage)?);
            text.push('\n');
        }
        Ok(text)
    }

    /// What the receipts that verify say.
    pub fn usages(&self) -> impl Iterator<Item = &Usage> {
        self.report.receipts.iter().map(|read| &read.usage)
    }

    /// What the energy of one cost its owner, by the tariff of today; `None`: it was not measured, or nobody knows.
    pub fn cost(&self, usage: &Usage) -> Option<Worth> {
        self.reckoning.cost(usage)
    }

    /// The terms that they name.
    pub fn kept_terms(&self) -> Kept {
        self.reckoning.kept()
    }

    /// Whether nothing is wrong.
    pub fn is_well(&self) -> bool {
        self.report.findings.is_empty()
    }

    /// What the check has found, and the sums.
    pub fn verify(&self) -> String {
        let Report {
            findings,
            head,
            total,
            by_class,
            ..
        } = &self.report;
        let mut text = String::new();
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        for finding in findings {
            line(finding.to_string());
        }
        for name in &self.aside {
            line(format!("kept aside, for it did not verify: {name}"));
        }
        line(format!("all  {}", sums(*total)));
        for (class, totals) in by_class {
            line(format!("class {class}  {}", sums(*totals)));
        }
        if let Some(head) = head {
            line(format!("the newest is receipt {}, {}", head.sequence, head.digest));
        }
        line(match findings.len() {
            0 => "every receipt is signed and in its place".to_owned(),
            1 => "1 thing is wrong".to_owned(),
            count => format!("{count} things are wrong"),
        });
        text
    }

    /// The same as JSON.
    pub fn verify_json(&self) -> serde_json::Result<String> {
        Ok(format!("{}\n", serde_json::to_string(&self.report)?))
    }

    /// Everything that is needed to check the receipts elsewhere, as one JSON document.
    pub fn export(&self) -> serde_json::Result<String> {
        Ok(format!("{}\n", serde_json::to_string_pretty(&self.export_value()?)?))
    }

    /// The same as a value.
    pub fn export_value(&self) -> serde_json::Result<serde_json::Value> {
        let mut receipts = Vec::new();
        let mut unreadable = BTreeMap::new();
        for (index, line) in self.lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
            match serde_json::from_slice(line) {
                Ok(envelope) => receipts.push(envelope),
                Err(_) => {
                    unreadable.insert(index + 1, String::from_utf8_lossy(line).into_owned());
                }
            }
        }
        let export = Export {
            payload_type: PAYLOAD_TYPE,
            receipts,
            unreadable,
            certificates: self.keys.certificates(),
            aside: &self.aside,
        };
        serde_json::to_value(&export)
    }
}

fn sums(totals: Totals) -> String {
    let Totals {
        count,
        cpu_ms,
        output_bytes,
    } = totals;
    format!("{count} receipts, {cpu_ms} ms of processor time, {output_bytes} B of output")
}

fn in_words(usage: &Usage) -> String {
    let claim = &usage.claim;
    let at = |ms: i64| Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |at| at.to_string());
    let outcome = match claim.outcome.kind {
        Kind::Succeeded => "succeeded",
        Kind::Failed => "failed",
        Kind::Disrupted => "was disrupted",
        Kind::Refused => "was refused",
    };
    let mut text = format!(
        "{}  {} to {}  class {}  {outcome}",
        usage.sequence,
        at(claim.started_at_ms),
        at(claim.ended_at_ms),
        claim.class
    );
    if !claim.outcome.reason.is_empty() {
        write!(text, " ({})", claim.outcome.reason).expect("writing to a String cannot fail");
    }
    write!(
        text,
        "  {} ms of processor time, {} B of output  attempt {}",
        claim.cpu_ms, claim.output_bytes, claim.pod_uid
    )
    .expect("writing to a String cannot fail");
    text
}
