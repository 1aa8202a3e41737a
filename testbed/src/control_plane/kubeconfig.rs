//! Kubeconfigs: written for each part and program of a testbed, and turned into clients.
//!
//! They are JSON, which every reader of YAML reads.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use data_encoding::BASE64;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use super::pki::Identity;

/// A kubeconfig that signs in with a certificate, and carries a token if there is one.
pub fn with_certificate(server: &str, authority: &str, identity: &Identity, token: Option<&str>) -> Result<String> {
    let mut user = json!({
        "client-certificate-data": BASE64.encode(identity.certificate.as_bytes()),
        "client-key-data": BASE64.encode(identity.key.as_bytes()),
    });
    if let Some(token) = token {
        user["token"] = token.into();
    }
    let authority = BASE64.encode(authority.as_bytes());
    render(
        &json!({"server": server, "certificate-authority-data": authority}),
        &user,
    )
}

/// A kubeconfig for the cluster of `other` that signs in with a bearer token. How the cluster is reached stays as it is there:
/// authority, proxy, the name in its certificate.
pub fn with_token(other: &Path, token: &str) -> Result<String> {
    let config = Kubeconfig::read_from(other).with_context(|| format!("failed to read {}", other.display()))?;
    let current = config.current_context.as_deref().unwrap_or_default();
    let context = config
        .contexts
        .iter()
        .find(|c| c.name == current)
        .and_then(|c| c.context.as_ref());
    let name = context
        .map(|c| c.cluster.as_str())
        .with_context(|| format!("{} has no context", other.display()))?;
    let cluster = config
        .clusters
        .iter()
        .find(|c| c.name == name)
        .and_then(|c| c.cluster.as_ref());
    let cluster = cluster.with_context(|| format!("{} has no cluster '{name}'", other.display()))?;
    ensure!(cluster.server.is_some(), "{} names no server", other.display());
    // Paths in it are absolute since it was read.
    let cluster = serde_json::to_value(cluster).context("failed to render a cluster")?;
    render(&cluster, &json!({ "token": token }))
}

fn render(cluster: &Value, user: &Value) -> Result<String> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "kerbside",
        "clusters": [{"name": "kerbside", "cluster": cluster}],
        "users": [{"name": "kerbside", "user": user}],
        "contexts": [{"name": "kerbside", "context": {"cluster": "kerbside", "user": "kerbside"}}],
    });
    serde_json::to_string_pretty(&config).context("failed to render a kubeconfig")
}

/// A client for the cluster of a kubeconfig.
pub async fn client(path: &Path) -> Result<Client> {
    // Two TLS providers in one process make rustls refuse to choose; the first call wins and a second is harmless.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("failed to read {}", path.display()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("failed to use {}", path.display()))?;
    Client::try_from(config).context("failed to build the API client")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control_plane::pki::{Authority, Usage};

    #[test]
    fn token_kubeconfig_keeps_server_and_authority_of_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new("test").unwrap();
        let identity = authority.issue("admin", &["system:masters"], Usage::Client).unwrap();
        let admin = dir.path().join("admin");
        let written = with_certificate("https://127.0.0.1:1", &authority.pem(), &identity, None).unwrap();
        std::fs::write(&admin, written).unwrap();
        let text = with_token(&admin, "secret").unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["users"][0]["user"], json!({"token": "secret"}));
        let cluster = &config["clusters"][0]["cluster"];
        assert_eq!(cluster["server"], "https://127.0.0.1:1");
        assert_eq!(
            cluster["certificate-authority-data"],
            BASE64.encode(authority.pem().as_bytes())
        );
    }

    #[test]
    fn token_kubeconfig_keeps_how_the_cluster_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let admin = dir.path().join("admin");
        let cluster = json!({
            "server": "https://10.0.0.1:6443", "certificate-authority": dir.path().join("ca.crt"),
            "insecure-skip-tls-verify": false, "tls-server-name": "kubernetes", "proxy-url": "http://127.0.0.1:3128",
        });
        std::fs::write(&admin, render(&cluster, &json!({"username": "me"})).unwrap()).unwrap();
        let config: Value = serde_json::from_str(&with_token(&admin, "secret").unwrap()).unwrap();
        assert_eq!(config["clusters"][0]["cluster"], cluster);
        assert_eq!(config["users"][0]["user"], json!({"token": "secret"}));
    }
}
