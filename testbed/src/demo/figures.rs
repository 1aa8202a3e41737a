//! What the demo measured: the JSON object on its last line.
//!
//! Called at the end of the demo. Every figure is as it was seen: by the job's own ledger, by the watches, by the kernel.

use std::io::Write;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::time::Instant;

use super::board::Board;
use super::cast::Role;
use crate::digits::Verdict;
use crate::fleet::{car, name};
use crate::layout::Layout;
use crate::process::{self, Record};

/// The object, its fields in the order in which they are printed.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    accuracy: f64,
    exact: bool,
    completions: u32,
    attempts: usize,
    disruptions: u32,
    refusals: u32,
    failures: u32,
    pub(super) owner_pauses: u32,
    pub(super) ran_without_consent: usize,
    seconds: f64,
    adapter_rss_mb: f64,
    operator_rss_mb: f64,
    agent_pss_mb: f64,
}

impl Figures {
    pub(super) fn of(board: &Board, verdict: &Verdict, memory: &Memory, seconds: f64) -> Self {
        let (disruptions, refusals, failures) = board.ledger();
        Self {
            accuracy: rounded(verdict.accuracy, 4),
            exact: verdict.exact(),
            completions: board.completed(),
            attempts: board.attempts().len(),
            disruptions,
            refusals,
            failures,
            owner_pauses: board.pauses(Role::Pauses),
            ran_without_consent: board.started_on(Role::NoConsent),
            seconds: rounded(seconds, 1),
            adapter_rss_mb: megabytes(memory.adapter_kb),
            operator_rss_mb: megabytes(memory.operator_kb),
            agent_pss_mb: megabytes(memory.agent_kb),
        }
    }
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[expect(clippy::cast_precision_loss, reason = "memory in kilobytes is far below 2^52")]
fn megabytes(kb: u64) -> f64 {
    rounded(kb as f64 / 1024.0, 1)
}

/// The memory of Kerbside's programs over the run, written to `memory.csv` as it is sampled.
pub(super) struct Memory {
    file: std::fs::File,
    started: Instant,
    /// The most that the adapter had resident.
    adapter_kb: u64,
    /// The most that the operator had resident.
    operator_kb: u64,
    /// The mean over all agents of the most that each had: its proportional share, for they share their program's pages.
    agent_kb: u64,
    most: std::collections::BTreeMap<String, u64>,
}

impl Memory {
    pub(super) fn create(layout: &Layout) -> Result<Self> {
        let path = layout.path("memory.csv");
        let mut file = std::fs::File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
        writeln!(file, "seconds,process,rss_kb,pss_kb").context("failed to write memory.csv")?;
        let most = std::collections::BTreeMap::new();
        Ok(Self {
            file,
            started: Instant::now(),
            adapter_kb: 0,
            operator_kb: 0,
            agent_kb: 0,
            most,
        })
    }

    pub(super) fn sample(&mut self, layout: &Layout) -> Result<()> {
        for record in process::all(layout)?.iter().filter(|r| r.alive()) {
            self.take(record)?;
        }
        let agents: Vec<u64> = self.most.values().copied().collect();
        self.agent_kb = agents.iter().sum::<u64>() / (agents.len() as u64).max(1);
        Ok(())
    }

    fn take(&mut self, record: &Record) -> Result<()> {
        let (Some(rss), Some(pss)) = (record.rss_kb(), record.pss_kb()) else {
            return Ok(());
        };
        let process = record.program.name.as_str();
        let seconds = self.started.elapsed().as_secs_f64();
        writeln!(self.file, "{seconds:.1},{process},{rss},{pss}").context("failed to write memory.csv")?;
        match process {
            name::ADAPTER => self.adapter_kb = self.adapter_kb.max(rss),
            name::OPERATOR => self.operator_kb = self.operator_kb.max(rss),
            _ if process.starts_with(car::PREFIX) => {
                let most = self.most.entry(process.to_owned()).or_default();
                *most = (*most).max(pss);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_rounded_to_what_they_are_worth() {
        assert!((rounded(0.969_949_9, 4) - 0.9699).abs() < 1e-12);
        assert!((megabytes(15_360) - 15.0).abs() < 1e-12);
    }
}
