//! The adapter's program: arguments, logs, signals, and then [`kerbside_virtual_kubelet::run`].

use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use kerbside_k8s::{stop, telemetry};
use kerbside_link::SystemClock;
use kerbside_virtual_kubelet::args::Args;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let log_level = telemetry::init(&args.log, args.log_format)?;
    let stop = stop::on_signal().context("failed to listen for SIGTERM")?;
    kerbside_virtual_kubelet::run(args, log_level, Arc::new(SystemClock), stop).await?;
    Ok(())
}
