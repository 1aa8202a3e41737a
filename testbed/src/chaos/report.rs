//! The figures of a chaos run: a table for people, one line of JSON for machines, and what they were computed from.
//!
//! A figure that was not measured is null in the JSON and a dash in the table, never a guess.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::score::percentile;

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Indexes with a result.
    pub completions: usize,
    /// Attempts that were made for them.
    pub attempts: usize,
    /// Indexes that were worked on after their success, live programs beside another of a WhenFenced index, results that are
    /// missing, wrong or too many. Must be 0.
    pub duplicates: usize,
    /// Attempts that count as failures of the program, which never failed. Must be 0.
    pub failures_charged: usize,
    /// Disruptions of the night, by reason.
    pub disruptions: BTreeMap<String, usize>,
    /// Seconds of work that came to nothing.
    pub work_lost_s: Option<f64>,
    /// Which share of the large job's work counted.
    pub goodput_share: Option<f64>,
    /// Seconds from the start of the night to the last completion, in our time.
    pub night_seconds: Option<f64>,
    /// Kerbside's own writes in the night.
    pub writes_per_vehicle_hour: Option<f64>,
    /// Renewals of Leases while nothing happens.
    pub idle_lease_writes_per_vehicle_minute: Option<f64>,
    /// Anybody's other writes while nothing happens.
    pub idle_other_writes_per_vehicle_minute: Option<f64>,
    /// At the IP layer, both directions.
    pub idle_link_bytes_per_vehicle_hour: Option<f64>,
    /// From the start of the new adapter to the last car.
    pub reconnect_s: Option<f64>,
    /// Nodes of another pool that turned NotReady meanwhile. Must be 0.
    pub bystanders_not_ready: Option<usize>,
    notice: Vec<i64>,
    stopped: Vec<i64>,
    loss: Vec<i64>,
}

impl Figures {
    /// Times from notice to the binding of the replacement: FleetJob (WhenSuspected) and Deployment.
    pub(super) fn notice_replace_ms(&mut self, waits: Vec<i64>) {
        self.notice = sorted(waits);
    }

    /// Times from the end of the last program: FleetJob (WhenFenced) and StatefulSet.
    pub(super) fn stopped_replace_ms(&mut self, waits: Vec<i64>) {
        self.stopped = sorted(waits);
    }

    /// Times from the loss of power: FleetJob (WhenSuspected).
    pub(super) fn loss_replace_ms(&mut self, waits: Vec<i64>) {
        self.loss = sorted(waits);
    }

    /// The last line.
    pub fn json(&self) -> Value {
        json!({
            "completions": self.completions,
            "attempts": self.attempts,
            "duplicates": self.duplicates,
            "failures_charged": self.failures_charged,
            "notice_replace_p50_ms": at(&self.notice, 0.5),
            "notice_replace_p99_ms": at(&self.notice, 0.99),
            "stopped_replace_p50_ms": at(&self.stopped, 0.5),
            "stopped_replace_p99_ms": at(&self.stopped, 0.99),
            "loss_replace_p50_ms": at(&self.loss, 0.5),
            "loss_replace_p99_ms": at(&self.loss, 0.99),
            "idle_lease_writes_per_vehicle_minute": rounded(self.idle_lease_writes_per_vehicle_minute),
            "idle_other_writes_per_vehicle_minute": rounded(self.idle_other_writes_per_vehicle_minute),
            "idle_link_bytes_per_vehicle_hour": rounded(self.idle_link_bytes_per_vehicle_hour),
            "reconnect_5000_s": rounded(self.reconnect_s),
            "bystanders_not_ready": self.bystanders_not_ready,
            "goodput_share": rounded(self.goodput_share),
            "work_lost_s": rounded(self.work_lost_s),
            "disruptions": self.disruptions,
            "writes_per_vehicle_hour": rounded(self.writes_per_vehicle_hour),
            "night_s": rounded(self.night_seconds),
        })
    }

    /// For people.
    pub fn table(&self) -> String {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let times = |waits: &[i64]| match (at(waits, 0.5), at(waits, 0.99)) {
            (Some(half), Some(most)) => format!("{half} / {most} ms, of {}", waits.len()),
            _ => "-".to_owned(),
        };
        let disruptions: Vec<String> = self
            .disruptions
            .iter()
            .map(|(reason, count)| format!("{reason} {count}"))
            .collect();
        let count = |value: Option<usize>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let rows = [
            ("completions", self.completions.to_string()),
            ("attempts", self.attempts.to_string()),
            ("disruptions", disruptions.join(", ")),
            ("duplicates", self.duplicates.to_string()),
            ("failures charged", self.failures_charged.to_string()),
            ("work lost, s", number(self.work_lost_s)),
            ("goodput", number(self.goodput_share)),
            ("bound elsewhere after notice, p50 / p99", times(&self.notice)),
            ("bound elsewhere after the last stop, p50 / p99", times(&self.stopped)),
            ("bound elsewhere after loss, p50 / p99", times(&self.loss)),
            (
                "writes per vehicle and hour at night",
                number(self.writes_per_vehicle_hour),
            ),
            (
                "lease renewals per idle vehicle and minute",
                number(self.idle_lease_writes_per_vehicle_minute),
            ),
            (
                "other writes per idle vehicle and minute",
                number(self.idle_other_writes_per_vehicle_minute),
            ),
            (
                "bytes on the link per idle vehicle and hour",
                number(self.idle_link_bytes_per_vehicle_hour),
            ),
            ("all cars back after, s", number(self.reconnect_s)),
            (
                "Nodes of another pool NotReady meanwhile",
                count(self.bystanders_not_ready),
            ),
        ];
        let mut table = String::new();
        for (what, value) in rows {
            // Into a String it never fails.
            let _ = writeln!(table, "{what:48} {value}");
        }
        table
    }

    /// What must hold whatever the machine.
    pub fn check(&self) -> Result<()> {
        ensure!(self.duplicates == 0, "{} duplicates", self.duplicates);
        ensure!(
            self.failures_charged == 0,
            "{} failures were charged to programs that never fail",
            self.failures_charged
        );
        ensure!(
            self.bystanders_not_ready.unwrap_or(0) == 0,
            "Nodes of another pool turned NotReady"
        );
        Ok(())
    }

    /// Keeps them beside what they were computed from.
    pub(super) fn write(&self, out: &Path) -> Result<()> {
        keep(out, "figures.json", &self.json())?;
        let waits = json!({"notice": self.notice, "stopped": self.stopped, "loss": self.loss});
        keep(out, "waits.json", &waits)
    }
}

/// Keeps raw data.
pub(super) fn keep<T: Serialize + ?Sized>(out: &Path, name: &str, data: &T) -> Result<()> {
    let path = out.join(name);
    let text = serde_json::to_vec(data).context("failed to render JSON")?;
    std::fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))
}

fn sorted(mut waits: Vec<i64>) -> Vec<i64> {
    waits.sort_unstable();
    waits
}

fn at(sorted: &[i64], share: f64) -> Option<i64> {
    (!sorted.is_empty()).then(|| percentile(sorted, share))
}

/// To the thousandth: what lies beyond is noise.
fn rounded(value: Option<f64>) -> Option<f64> {
    value.map(|value| (value * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_null_and_a_dash() {
        let figures = Figures::default();
        assert_eq!(figures.json()["reconnect_5000_s"], Value::Null);
        assert_eq!(figures.json()["notice_replace_p99_ms"], Value::Null);
        assert!(
            figures
                .table()
                .contains("all cars back after, s                           -")
        );
        figures.check().unwrap();
    }

    #[test]
    fn one_duplicate_or_one_charged_failure_fails_the_run() {
        let wrong = [
            Figures {
                duplicates: 1,
                ..Figures::default()
            },
            Figures {
                failures_charged: 1,
                ..Figures::default()
            },
            Figures {
                bystanders_not_ready: Some(1),
                ..Figures::default()
            },
        ];
        for figures in wrong {
            assert!(figures.check().is_err(), "{figures:?}");
        }
    }

    #[test]
    fn times_are_sorted_before_they_are_read() {
        let mut figures = Figures::default();
        figures.notice_replace_ms(vec![30, 10, 20]);
        assert_eq!(figures.json()["notice_replace_p50_ms"], 20);
        assert_eq!(figures.json()["notice_replace_p99_ms"], 30);
    }
}
