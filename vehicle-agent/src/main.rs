//! `kerbside-agent`: see `cli` for what it can be told.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use kerbside_vehicle_agent::cli::{Cli, Found};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let filter: EnvFilter = cli.log().parse().context("--log is not a filter")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    // One provider for the whole process; a second call would be a mistake of ours.
    let installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    anyhow::ensure!(installed.is_ok(), "a TLS provider was installed before");
    // One thread: an idle car needs no more. Programs, downloads' unpacking and the journal have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let said = runtime.block_on(cli.run());
    runtime.shutdown_background();
    let (text, code) = match said {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.downcast::<Found>()?.0, ExitCode::FAILURE),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(code)
}
