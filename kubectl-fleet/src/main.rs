//! `kubectl fleet`: the plugin for whoever runs a fleet or has work for one.

use clap::Parser;
use kubectl_fleet::cli::Cli;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    match kubectl_fleet::run(Cli::parse()).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {:#}", anyhow::Error::from(error));
            std::process::ExitCode::FAILURE
        }
    }
}
