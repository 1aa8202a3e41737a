//! The `kerbside-testbed` program: see `cli`.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    match kerbside_testbed::cli::run(kerbside_testbed::cli::Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kerbside-testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
