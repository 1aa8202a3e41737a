//! `kubectl fleet`: enrol, revoke, why, results, logs, ledger, doctor, uninstall.
//!
//! It meets the operator only through Kubernetes objects and the operator's `/results`, `/logs` and `/ledger`. It holds no state and never
//! writes anything that its command does not name.

use std::io::Write;

pub mod cli;
pub mod commands;
mod error;
mod operator_client;

pub use error::Error;

use cli::{Cli, Command};
use kerbside_k8s::client::ConnectError;

/// Carries out one command, printing to standard output.
pub async fn run(cli: Cli) -> Result<(), Error> {
    if let Command::Ledger(args) = &cli.command
        && let Some(file) = &args.action.which().file
    {
        let mut out = std::io::stdout().lock();
        commands::ledger::run_on_export(file, &args.action, &mut out).await?;
        return out.flush().map_err(Error::Print);
    }
    let agent = concat!("kubectl-fleet/", env!("CARGO_PKG_VERSION"));
    let (client, unsupported) = kerbside_k8s::client::connect_to_any(agent).await?;
    let unsupported = refuse_unless_allowed(&cli.command, unsupported)?;
    let namespace = cli.namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let system = cli.system_namespace;
    let mut out = std::io::stdout().lock();
    match cli.command {
        Command::Enrol(args) => commands::enrol::run(&client, &system, &args, &mut out).await?,
        Command::Revoke(args) => commands::revoke::run(&client, &args, &mut out).await?,
        Command::Results(args) => commands::results::run(&client, &system, &namespace, &args, &mut out).await?,
        Command::Logs(args) => commands::logs::run(&client, &system, &namespace, &args, &mut out).await?,
        Command::Ledger(args) => commands::ledger::run(&client, &system, &args.action, &mut out).await?,
        Command::Why(args) => commands::why::run(&client, &namespace, &args, &mut out).await?,
        Command::Doctor(args) => commands::doctor::run(&client, unsupported.as_ref(), &args, &mut out).await?,
        Command::Uninstall(args) => {
            if let Some(version) = unsupported {
                writeln!(out, "{version}; going on").map_err(Error::Print)?;
            }
            commands::uninstall::run(&client, &system, &args, &mut out).await?;
        }
    }
    out.flush().map_err(Error::Print)
}

/// Refuses a version that is not supported, but to the commands for a cluster in trouble, which is what an upgrade can make of one:
/// looking for what is wrong, and getting rid of Kerbside.
fn refuse_unless_allowed(command: &Command, unsupported: Option<ConnectError>) -> Result<Option<ConnectError>, Error> {
    match (command, unsupported) {
        (Command::Doctor(_) | Command::Uninstall(_), unsupported) => Ok(unsupported),
        (_, Some(unsupported)) => Err(unsupported.into()),
        (_, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[tokio::test]
    async fn export_is_read_without_a_cluster() {
        let args = ["kubectl-fleet", "ledger", "verify", "--file", "/nonexistent/export"];
        let error = run(Cli::parse_from(args)).await.unwrap_err();
        assert!(matches!(error, Error::Read { .. }), "{error:?}");
    }

    #[rstest::rstest]
    #[case(&["doctor"], true)]
    #[case(&["uninstall", "--yes"], true)]
    #[case(&["why", "digits"], false)]
    #[case(&["ledger", "verify"], false)]
    #[case(&["revoke", "car-a"], false)]
    fn unsupported_version_stops_all_but_doctor_and_uninstall(#[case] args: &[&str], #[case] goes_on: bool) {
        let cli = Cli::parse_from(std::iter::once("kubectl-fleet").chain(args.iter().copied()));
        let unsupported = ConnectError::Unsupported { found: "1.38".into() };
        let result = refuse_unless_allowed(&cli.command, Some(unsupported));
        assert_eq!(result.is_ok_and(|u| u.is_some()), goes_on);
        assert!(refuse_unless_allowed(&cli.command, None).is_ok());
    }
}
