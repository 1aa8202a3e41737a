//! Prints how often a car's forecast of its own stay holds: a table, and its last line as JSON.
//!
//!     kerbside-forecast [tuning|calibration] [CARS]
//!
//! `calibration`, the default, is what docs/forecast.md says; `tuning` is what the numbers were chosen on.

use kerbside_simulator::forecast::{Slice, changes_a_day, report, slices, tuning};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_else(|| "calibration".to_owned());
    let cars: u32 = arguments.next().and_then(|cars| cars.parse().ok()).unwrap_or(100);
    let chosen = match what.as_str() {
        "tuning" => vec![tuning(cars)],
        "calibration" => slices(cars),
        _ => {
            eprintln!("kerbside-forecast: '{what}' is neither 'tuning' nor 'calibration'");
            std::process::exit(2);
        }
    };
    let measured: Vec<_> = chosen
        .into_iter()
        .map(|slice| {
            let tally = slice.measure();
            (slice, tally)
        })
        .collect();
    let few = Slice {
        cars: cars.min(10),
        ..tuning(1)
    };
    println!("{}", report(&measured, changes_a_day(&few)));
}
