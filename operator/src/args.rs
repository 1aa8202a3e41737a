//! What the operator is started with.

use std::net::SocketAddr;

use kerbside_k8s::telemetry::Format;

/// Reconciles VehiclePools and FleetJobs, signs vehicles' certificates, accepts results and serves them.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "kerbside-operator", version)]
pub struct Args {
    /// The operator's own namespace: for its Lease, the link's CA, the ledger's key and enrolment tokens.
    #[arg(long, env = "KERBSIDE_NAMESPACE", default_value = "kerbside-system")]
    pub namespace: String,
    /// The result store: file:///DIRECTORY or s3://BUCKET/PREFIX. S3 is configured by the usual AWS_* variables.
    #[arg(long, env = "KERBSIDE_STORE_URL")]
    pub store_url: String,
    /// Where /healthz, /readyz, /metrics, /loglevel, /results, /logs and /ledger are served.
    #[arg(long, env = "KERBSIDE_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// The user name of the adapter's ServiceAccount; certificate requests of others are refused.
    #[arg(long, env = "KERBSIDE_ADAPTER_USER")]
    pub adapter_user: Option<String>,
    /// This replica's name in the leader election; its Pod's name in a cluster.
    #[arg(long, env = "KERBSIDE_REPLICA")]
    pub replica: Option<String>,
    /// FleetJobs worked on at a time.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,
    /// Log filter: a level (info) or directives (info,kerbside_operator=debug).
    #[arg(long, env = "KERBSIDE_LOG", default_value = "info")]
    pub log: String,
    /// How log lines are written.
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: Format,
}

impl Args {
    /// The adapter's user name: as given, or that of the chart's ServiceAccount in the operator's namespace.
    pub fn adapter_user(&self) -> String {
        let default = || format!("system:serviceaccount:{}:kerbside-virtual-kubelet", self.namespace);
        self.adapter_user.clone().unwrap_or_else(default)
    }

    /// This replica's name in the leader election.
    pub fn identity(&self) -> String {
        let default = || format!("kerbside-operator-{:08x}", rand::random::<u32>());
        self.replica.clone().unwrap_or_else(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn adapter_user_follows_the_namespace_unless_given() {
        let args = |more: &[&str]| {
            let all = ["kerbside-operator", "--store-url", "file:///tmp/x"].iter().chain(more);
            Args::try_parse_from(all).unwrap()
        };
        let want = "system:serviceaccount:kerbside-system:kerbside-virtual-kubelet";
        assert_eq!(args(&[]).adapter_user(), want);
        assert_eq!(
            args(&["--namespace", "a"]).adapter_user(),
            want.replace("kerbside-system", "a")
        );
        assert_eq!(args(&["--adapter-user", "x"]).adapter_user(), "x");
    }
}
