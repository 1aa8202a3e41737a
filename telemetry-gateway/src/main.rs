//! The gateway's program: arguments, logs, signals, and then [`kerbside_telemetry_gateway::run`].

use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use kerbside_k8s::telemetry;
use kerbside_link::SystemClock;
use kerbside_telemetry_gateway::args::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let log_level = telemetry::init(&args.log, args.log_format)?;
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let stopper = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tracing::info!("stopping");
        stopper.cancel();
    });
    kerbside_telemetry_gateway::run(args, log_level, Arc::new(SystemClock), stop).await?;
    Ok(())
}
