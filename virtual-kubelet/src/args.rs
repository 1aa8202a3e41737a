//! What the adapter is started with.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kerbside_k8s::telemetry::Format;

/// Presents every connected vehicle as a Node: serves the link to the cars and the kubelet port to the cluster.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "kerbside-kubelet", version)]
pub struct Args {
    /// The adapter's own namespace: where the operator keeps the link's CA, and where this replica's Lease is.
    #[arg(long, env = "KERBSIDE_NAMESPACE", default_value = "kerbside-system")]
    pub namespace: String,
    /// The result store: file:///DIRECTORY or s3://BUCKET/PREFIX. S3 is configured by the usual AWS_* variables.
    #[arg(long, env = "KERBSIDE_STORE_URL")]
    pub store_url: String,
    /// Where cars connect.
    #[arg(long, env = "KERBSIDE_LINK_LISTEN", default_value = "0.0.0.0:7443")]
    pub link_listen: SocketAddr,
    /// Names and addresses under which cars reach this adapter, for its certificate. Repeat or separate by commas.
    #[arg(long, env = "KERBSIDE_LINK_NAME", value_delimiter = ',', required = true)]
    pub link_name: Vec<String>,
    /// The kubelet port: where kube-apiserver asks for logs.
    #[arg(long, env = "KERBSIDE_KUBELET_LISTEN", default_value = "0.0.0.0:10250")]
    pub kubelet_listen: SocketAddr,
    /// The address under which kube-apiserver reaches the kubelet port; the InternalIP of every vehicle's Node.
    #[arg(long, env = "KERBSIDE_NODE_ADDRESS")]
    pub node_address: IpAddr,
    /// This replica's name, unique among the adapters; its Pod's name in a cluster.
    #[arg(long, env = "KERBSIDE_REPLICA")]
    pub replica: String,
    /// Where /healthz, /readyz, /metrics and /loglevel are served.
    #[arg(long, env = "KERBSIDE_LISTEN", default_value = "0.0.0.0:8081")]
    pub listen: SocketAddr,
    /// In front of the VehicleId in a Node's spec.providerID.
    #[arg(long, env = "KERBSIDE_PROVIDER_ID_PREFIX", default_value = "kerbside://")]
    pub provider_id_prefix: String,
    /// Directory for outputs on their way into the store; emptied at start. Without it, a temporary one.
    #[arg(long, env = "KERBSIDE_SPOOL")]
    pub spool: Option<std::path::PathBuf>,
    /// How long cars have to connect elsewhere when the adapter ends, such as 5s.
    #[arg(long, env = "KERBSIDE_DRAIN", default_value = "5s", value_parser = kerbside_core::duration::parse)]
    pub drain: Duration,
    /// How many cars may enrol in a second, all together; so many in 30 s may come at once. What it protects is the API server.
    #[arg(long, env = "KERBSIDE_ENROLMENTS_PER_SECOND", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub enrolments_per_second: u32,
    /// Registries without TLS, as host:port, for the tokens by which vehicles pull images. Repeat or separate by commas.
    #[arg(long, env = "KERBSIDE_REGISTRY_HTTP", value_delimiter = ',')]
    pub registry_http: Vec<String>,
    /// Log filter: a level (info) or directives (info,kerbside_virtual_kubelet=debug).
    #[arg(long, env = "KERBSIDE_LOG", default_value = "info")]
    pub log: String,
    /// How log lines are written.
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: Format,
}

impl Args {
    /// The names of the serving certificate: the link's, and the address that kube-apiserver dials.
    pub fn certificate_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .link_name
            .iter()
            .map(|n| n.trim().to_owned())
            .filter(|n| !n.is_empty())
            .collect();
        names.push(self.node_address.to_string());
        names.sort_unstable();
        names.dedup();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn certificate_is_for_the_links_names_and_the_nodes_address() {
        let line = "kerbside-kubelet --store-url file:///x --link-name link.example,10.0.0.2 --node-address 10.0.0.1 --replica r";
        let args = Args::try_parse_from(line.split(' ')).unwrap();
        assert_eq!(args.certificate_names(), ["10.0.0.1", "10.0.0.2", "link.example"]);
        assert_eq!(args.drain, Duration::from_secs(5));
        assert_eq!(args.enrolments_per_second, 10);
    }
}
