//! How well a test attacker knows when cars leave, by what it holds of the cluster's data: `make bench-privacy`. Pure: from traces.
//!
//! What the rows mean, and the limits that follow: docs/privacy.md.

use anyhow::{Result, ensure};
use kerbside_simulator::privacy::{self, Row, held::SOURCES};
use serde_json::{Value, json};

/// What it is run with.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many cars
    #[arg(long, default_value_t = 500)]
    cars: u32,
    /// On which share of its days a car leaves at its own hour, from 0 to 1; nobody has published one
    #[arg(long, default_value_t = 0.7)]
    regularity: f64,
    /// Owners let their cars work only while plugged in
    #[arg(long)]
    needs_cable: bool,
    /// The same seed gives the same fleet
    #[arg(long, default_value_t = 7)]
    seed: u64,
}

/// Prints a table, and in the last line one JSON object of figures.
pub fn command(options: &Options) -> Result<()> {
    ensure!(
        (0.0..=1.0).contains(&options.regularity),
        "--regularity is a share, from 0 to 1, and not {}",
        options.regularity
    );
    ensure!(options.cars > 0, "--cars is at least 1");
    let fleet = privacy::fleet(options.seed, options.regularity);
    let rows = privacy::try_all(&fleet, options.cars, options.needs_cable, &SOURCES);
    for line in table(&rows) {
        println!("{line}");
    }
    println!("{}", figures(options, &rows));
    Ok(())
}

/// As docs/privacy.md has it.
fn table(rows: &[Row]) -> Vec<String> {
    let head = ["| had | within 30 min | within 1 h | mean error |", "|---|---|---|---|"].map(str::to_owned);
    let line = |row: &Row| {
        let score = row.score;
        format!(
            "| {} | {:.0} % | {:.0} % | {:.0} min |",
            row.source.says,
            score.within_half_an_hour * 100.0,
            score.within_an_hour * 100.0,
            score.mean_error_minutes
        )
    };
    head.into_iter().chain(rows.iter().map(line)).collect()
}

fn figures(options: &Options, rows: &[Row]) -> Value {
    let rounded = |share: f64| (share * 1000.0).round() / 1000.0;
    let scores = rows.iter().map(|row| {
        let values = json!({
            "within_30_min": rounded(row.score.within_half_an_hour),
            "within_1_h": rounded(row.score.within_an_hour),
            "mean_error_min": row.score.mean_error_minutes.round(),
        });
        (row.source.name.to_owned(), values)
    });
    json!({
        "figure": "bench-privacy",
        "cars": options.cars,
        "regularity": options.regularity,
        "needs_cable": options.needs_cable,
        "seed": options.seed,
        "departures": rows.first().map_or(0, |row| row.score.days),
        "scores": Value::Object(scores.collect()),
    })
}

#[cfg(test)]
mod tests {
    use kerbside_simulator::privacy::score::Score;

    use super::*;

    fn options() -> Options {
        Options {
            cars: 2,
            regularity: 0.7,
            needs_cable: false,
            seed: 7,
        }
    }

    #[test]
    fn row_is_said_in_the_table_and_in_the_figures() {
        let score = Score {
            days: 10,
            within_half_an_hour: 0.6249,
            within_an_hour: 0.75,
            mean_error_minutes: 61.4,
        };
        let rows = [Row {
            source: SOURCES[0],
            score,
        }];
        assert!(
            table(&rows)[2].ends_with("| 62 % | 75 % | 61 min |"),
            "{:?}",
            table(&rows)
        );
        let figures = figures(&options(), &rows);
        assert_eq!(figures["departures"], 10);
        assert_eq!(figures["scores"]["published"]["within_30_min"], 0.625);
    }

    #[test]
    fn share_that_is_none_is_refused() {
        let error = command(&Options {
            regularity: 1.5,
            ..options()
        });
        assert!(error.unwrap_err().to_string().contains("from 0 to 1"));
        let error = command(&Options { cars: 0, ..options() });
        assert!(error.unwrap_err().to_string().contains("at least 1"));
    }
}
