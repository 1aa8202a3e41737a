//! What the demo measured: the JSON object on its last line.
//!
//! Called at the end of the demo. Every figure is as it was seen: by the job's own ledger, by the watches, by the kernel.

use std::io::Write;

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::time::Instant;

use super::board::Board;
use super::cast::{CAST, Role};
use super::paid::Paid;
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
    owner_pauses: u32,
    ran_without_consent: usize,
    paid_attempts: u64,
    paid_accepted: u64,
    paid_micro: u64,
    ledger_findings: u64,
    paid_joules: u64,
    cars_on_databroker: usize,
    seconds: f64,
    adapter_rss_mb: f64,
    operator_rss_mb: f64,
    agent_pss_mb: f64,
}

impl Figures {
    /// `heard`: so many cars hear a databroker.
    pub(super) fn of(
        board: &Board,
        verdict: &Verdict,
        memory: &Memory,
        paid: &Paid,
        heard: usize,
        seconds: f64,
    ) -> Self {
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
            paid_attempts: paid.attempts,
            paid_accepted: paid.accepted,
            paid_micro: paid.amount_micro,
            ledger_findings: paid.findings,
            paid_joules: paid.joules,
            cars_on_databroker: heard,
            seconds: rounded(seconds, 1),
            adapter_rss_mb: megabytes(memory.adapter_kb),
            operator_rss_mb: megabytes(memory.operator_kb),
            agent_pss_mb: megabytes(memory.agent_kb),
        }
    }

    /// What the demo promises and did not show, in words; nothing if it showed everything.
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let mut demand = |holds: bool, text: String| {
            if !holds {
                missing.push(text);
            }
        };
        demand(self.exact, "the results are not as expected".to_owned());
        demand(self.disruptions >= 1, "no attempt was disrupted".to_owned());
        demand(
            self.owner_pauses == 1,
            format!("an owner had to pause once, and {} pauses were seen", self.owner_pauses),
        );
        demand(self.failures == 0, format!("{} attempts failed", self.failures));
        demand(
            self.ran_without_consent == 0,
            format!("{} attempts ran on the car without consent", self.ran_without_consent),
        );
        demand(
            self.paid_accepted == u64::from(self.completions) && self.paid_micro > 0,
            format!(
                "{} of {} completions are paid, with {} millionths",
                self.paid_accepted, self.completions, self.paid_micro
            ),
        );
        demand(
            self.ledger_findings == 0,
            format!("{} things are wrong with the ledger", self.ledger_findings),
        );
        demand(
            self.paid_joules > 0,
            "no attempt is paid for the energy that it took".to_owned(),
        );
        demand(
            self.cars_on_databroker == CAST.len(),
            format!(
                "{} of {} cars hear their databroker",
                self.cars_on_databroker,
                CAST.len()
            ),
        );
        missing
    }

    /// By what the cars knew how they stand, in words.
    pub(super) fn about_signals(&self) -> String {
        format!(
            "{} of {} cars hear their signals from a databroker, in the names of VSS 4, 5 and 6.",
            self.cars_on_databroker,
            CAST.len()
        )
    }

    /// What was seen of the owners' will, in words.
    pub(super) fn about_owners(&self) -> String {
        let paused = match self.owner_pauses {
            0 => "No owner paused.".to_owned(),
            1 => "One owner paused the car for a while; the job went on.".to_owned(),
            many => format!("Owners paused {many} times."),
        };
        let consent = match self.ran_without_consent {
            0 => "Nothing ran on the car without consent.".to_owned(),
            count => format!("{count} attempts ran on the car WITHOUT CONSENT."),
        };
        format!("{paused} {consent}")
    }

    /// The last line of the demo.
    pub(super) fn line(&self) -> Result<String> {
        serde_json::to_string(self).context("failed to render JSON")
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
    use crate::demo::board::tests::{board, complete, pause, run_on};

    /// The figures of a run in which everything was seen that has to be.
    fn figures() -> Figures {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::create(&Layout::create(dir.path()).unwrap()).unwrap();
        let mut board = board(&["bo", "cem"]);
        run_on(&mut board, "bo");
        pause(&mut board, "cem");
        complete(&mut board, 60);
        let verdict = Verdict {
            expected: 1,
            differences: Vec::new(),
            accuracy: 0.97,
            held_back: 1,
        };
        Figures::of(&board, &verdict, &memory, &Paid::all(60), CAST.len(), 1.0)
    }

    #[test]
    fn last_line_has_its_nineteen_keys_and_no_other() {
        let line = figures().line().unwrap();
        let keys: Vec<&str> = line
            .trim_matches(['{', '}'])
            .split(',')
            .filter_map(|field| field.split(':').next())
            .map(|key| key.trim_matches('"'))
            .collect();
        let want = [
            "accuracy",
            "exact",
            "completions",
            "attempts",
            "disruptions",
            "refusals",
            "failures",
            "owner_pauses",
            "ran_without_consent",
            "paid_attempts",
            "paid_accepted",
            "paid_micro",
            "ledger_findings",
            "paid_joules",
            "cars_on_databroker",
            "seconds",
            "adapter_rss_mb",
            "operator_rss_mb",
            "agent_pss_mb",
        ];
        assert_eq!(keys, want);
        assert!(serde_json::from_str::<serde_json::Value>(&line).unwrap().is_object());
    }

    #[test]
    fn run_that_showed_everything_misses_nothing() {
        assert!(figures().missing().is_empty(), "{:?}", figures().missing());
        assert_eq!(
            figures().about_owners(),
            "One owner paused the car for a while; the job went on. Nothing ran on the car without consent."
        );
    }

    #[rstest::rstest]
    #[case::differs(Figures { exact: false, ..figures() }, "not as expected")]
    #[case::nobody_drove_off(Figures { disruptions: 0, ..figures() }, "no attempt was disrupted")]
    #[case::nobody_paused(Figures { owner_pauses: 0, ..figures() }, "0 pauses")]
    #[case::paused_twice(Figures { owner_pauses: 2, ..figures() }, "2 pauses")]
    #[case::failed(Figures { failures: 3, ..figures() }, "3 attempts failed")]
    #[case::without_consent(Figures { ran_without_consent: 1, ..figures() }, "1 attempts ran on the car without consent")]
    #[case::unpaid(Figures { paid_accepted: 59, ..figures() }, "59 of 60 completions are paid")]
    #[case::for_nothing(Figures { paid_micro: 0, ..figures() }, "60 of 60 completions are paid")]
    #[case::no_energy(Figures { paid_joules: 0, ..figures() }, "no attempt is paid for the energy")]
    #[case::unheard(Figures { cars_on_databroker: 7, ..figures() }, "7 of 8 cars hear")]
    #[case::wrong_ledger(Figures { ledger_findings: 1, ..figures() }, "1 things are wrong")]
    fn run_that_did_not_show_something_misses_it(#[case] figures: Figures, #[case] says: &str) {
        let missing = figures.missing();
        assert!(missing.len() == 1 && missing[0].contains(says), "{missing:?}");
    }

    #[test]
    fn sentences_say_only_what_was_seen() {
        let told = Figures {
            owner_pauses: 0,
            ran_without_consent: 2,
            ..figures()
        };
        assert_eq!(
            told.about_owners(),
            "No owner paused. 2 attempts ran on the car WITHOUT CONSENT."
        );
    }

    #[test]
    fn sources_of_signals_are_told_as_they_were_seen() {
        let told = Figures {
            cars_on_databroker: 3,
            ..figures()
        };
        assert!(
            told.about_signals().starts_with("3 of 8 cars hear"),
            "{}",
            told.about_signals()
        );
    }

    #[test]
    fn figures_are_rounded_to_what_they_are_worth() {
        assert!((rounded(0.969_949_9, 4) - 0.9699).abs() < 1e-12);
        assert!((megabytes(15_360) - 15.0).abs() < 1e-12);
    }
}
