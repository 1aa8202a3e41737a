//! The command line. Its texts are the plugin's reference.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Looks after a fleet of parked vehicles and the work on them.
#[derive(Debug, Parser)]
#[command(name = "kubectl-fleet", bin_name = "kubectl fleet", version)]
pub struct Cli {
    /// Namespace of the FleetJob; otherwise that of the kubeconfig's context
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Namespace that Kerbside itself runs in
    #[arg(
        long,
        global = true,
        default_value = "kerbside-system",
        env = "KERBSIDE_SYSTEM_NAMESPACE"
    )]
    pub system_namespace: String,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a one-time token for one car and print the line to run in it
    Enrol(Enrol),
    /// Take a car's membership away for good; its connection ends within 10 s
    Revoke(Revoke),
    /// Fetch the accepted results of a FleetJob into a directory
    Results(Results),
    /// Print the log of the accepted attempt of one index
    Logs(Logs),
    /// Check, add up or write out what vehicles have signed for and what was accepted of it
    Ledger(Ledger),
    /// Say why a FleetJob is not (fully) running, with counts
    Why(Why),
    /// Look for what will go wrong in this cluster
    Doctor(Doctor),
    /// Stop all work and release everything that Kerbside holds in this cluster; `helm uninstall` does it first
    Uninstall(Uninstall),
}

/// Arguments of `enrol`.
#[derive(Debug, Args)]
pub struct Enrol {
    /// The VehiclePool that the car joins
    #[arg(long)]
    pub pool: String,
    /// A label for the Vehicle, KEY=VALUE; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// How long the token can be used, for example 30m or 24h
    #[arg(long, default_value = "1h")]
    pub ttl: String,
    /// Address of the link as cars reach it, https://HOST:PORT
    #[arg(long, env = "KERBSIDE_LINK")]
    pub link: String,
    /// Write the token to this file, for `kerbside-agent enrol --token-file`, and print nothing
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// Arguments of `revoke`.
#[derive(Debug, Args)]
pub struct Revoke {
    /// Name of the Vehicle, car-…
    pub vehicle: String,
}

/// How the operator is reached.
#[derive(Debug, Args)]
pub struct OperatorAddress {
    /// Address of the operator; otherwise a port is forwarded to it with kubectl
    #[arg(long, env = "KERBSIDE_OPERATOR", value_name = "URL")]
    pub operator: Option<String>,
}

/// Arguments of `results`.
#[derive(Debug, Args)]
pub struct Results {
    /// Name of the FleetJob
    pub job: String,
    /// Directory to write to; each index gets a folder of its own
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// How the operator is reached
    #[command(flatten)]
    pub operator: OperatorAddress,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Name of the FleetJob
    pub job: String,
    /// The completion index
    #[arg(long)]
    pub index: u32,
    /// How the operator is reached
    #[command(flatten)]
    pub operator: OperatorAddress,
}

/// Arguments of `ledger`.
#[derive(Debug, Args)]
pub struct Ledger {
    /// What to do with it
    #[command(subcommand)]
    pub action: LedgerAction,
}

/// What can be done with a ledger.
#[derive(Debug, Subcommand)]
pub enum LedgerAction {
    /// Check every certificate, signature, chain and amount; the exit code is 1 if anything is wrong
    Verify(LedgerFrom),
    /// Add up what is to be paid
    Sum(LedgerSum),
    /// Write receipts, acceptances and certificates to standard output as one JSON document, for anybody to check with --file
    Export(LedgerFrom),
}

impl LedgerAction {
    /// Which ledger, whatever is done with it.
    pub fn which(&self) -> &LedgerFrom {
        match self {
            Self::Verify(from) | Self::Export(from) => from,
            Self::Sum(sum) => &sum.from,
        }
    }
}

/// Which ledger, and how it is printed.
#[derive(Debug, Args)]
pub struct LedgerFrom {
    /// Only the ledger of this Vehicle, car-…
    #[arg(long, value_name = "NAME")]
    pub vehicle: Option<String>,
    /// Certificates, PEM, of the CAs that are believed; otherwise those that the operator says it has had
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Read an export instead of asking the operator; no cluster is needed
    #[arg(long, value_name = "EXPORT")]
    pub file: Option<PathBuf>,
    /// How to print; an export is always JSON
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Format,
    /// How the operator is reached
    #[command(flatten)]
    pub operator: OperatorAddress,
}

/// How something is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Arguments of `ledger sum`.
#[derive(Debug, Args)]
pub struct LedgerSum {
    /// A line for each vehicle or job, besides one for each currency
    #[arg(long, value_enum)]
    pub by: Option<SumBy>,
    /// Which ledger
    #[command(flatten)]
    pub from: LedgerFrom,
}

/// What sums are split by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SumBy {
    /// By vehicle: what its owner gets
    Vehicle,
    /// By the UID of the FleetJob: what it costs
    Job,
}

/// Arguments of `why`.
#[derive(Debug, Args)]
pub struct Why {
    /// Name of the FleetJob
    pub job: String,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Patch the DaemonSets that would come to vehicles so that they stay away
    #[arg(long)]
    pub fix: bool,
}

/// Arguments of `uninstall`.
#[derive(Debug, Args)]
pub struct Uninstall {
    /// How long to wait for running Pods to stop, for example 2m
    #[arg(long, default_value = "2m")]
    pub drain_timeout: String,
    /// Really do it: every FleetJob is suspended, every car has to be enrolled again
    #[arg(long)]
    pub yes: bool,
}
