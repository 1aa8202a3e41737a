//! What the gateway is started with.

use std::path::PathBuf;

use kerbside_k8s::telemetry::Format;

/// Hears the telemetry of a fleet's cars without an agent, and shows them as Vehicles under pseudonyms: bands and yes or no.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "kerbside-telemetry-gateway", version)]
pub struct Args {
    /// The configuration (docs/telemetry-gateway.md). The cluster is that of KUBECONFIG, or the one it runs in.
    #[arg(long, env = "KERBSIDE_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// Log filter: a level (info) or directives (info,kerbside_telemetry_gateway=debug).
    #[arg(long, env = "KERBSIDE_LOG", default_value = "info")]
    pub log: String,
    /// How log lines are written.
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: Format,
}
