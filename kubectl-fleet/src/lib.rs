//! `kubectl fleet`: enrol, revoke, why, results, logs, doctor, uninstall.
//!
//! It meets the operator only through Kubernetes objects and the operator's `/results` and `/logs`. It holds no state and never writes
//! anything that its command does not name.

use std::io::Write;

pub mod cli;
pub mod commands;
mod error;
mod operator_client;

pub use error::Error;

use cli::{Cli, Command};

/// Carries out one command, printing to standard output.
pub async fn run(cli: Cli) -> Result<(), Error> {
    let client = kerbside_k8s::client::connect(concat!("kubectl-fleet/", env!("CARGO_PKG_VERSION"))).await?;
    let namespace = cli.namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let system = cli.system_namespace;
    let mut out = std::io::stdout().lock();
    match cli.command {
        Command::Enrol(args) => commands::enrol::run(&client, &system, &args, &mut out).await?,
        Command::Revoke(args) => commands::revoke::run(&client, &args, &mut out).await?,
        Command::Results(args) => commands::results::run(&client, &system, &namespace, &args, &mut out).await?,
        Command::Logs(args) => commands::logs::run(&client, &system, &namespace, &args, &mut out).await?,
        Command::Why(args) => commands::why::run(&client, &namespace, &args, &mut out).await?,
        Command::Doctor(args) => commands::doctor::run(&client, &args, &mut out).await?,
        Command::Uninstall(args) => commands::uninstall::run(&client, &system, &args, &mut out).await?,
    }
    out.flush().map_err(Error::Print)
}
