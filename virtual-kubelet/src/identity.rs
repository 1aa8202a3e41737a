//! The adapter's serving certificate, for the link and for the kubelet port: asked for at start, renewed before it expires.
//!
//! The key is made here and never leaves the process. The certificate comes from the operator's CA through the ordinary
//! CertificateSigningRequest API; the CA itself is read from the ConfigMap that the operator keeps for everyone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kerbside_core::clock::Clock;
use kerbside_k8s::csr::{self, CsrError, LINK_SERVER_SIGNER};
use kerbside_link::identity::{IdentityError, ServerIdentity, chain_from_pem, csr_pem, new_key_and_csr, renew_at};
use kube::{Api, Client};
use tokio::sync::watch;

/// Where the operator puts the link's CA.
const CA_CONFIG_MAP: &str = "kerbside-link-ca";
const CA_KEY: &str = "ca.crt";
/// The operator may start after the adapter; each question waits this long and is then asked anew.
const PATIENCE: Duration = Duration::from_secs(20);
const RETRY: Duration = Duration::from_secs(2);

/// Why there is no serving certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("failed to read the link's CA from ConfigMap '{CA_CONFIG_MAP}'")]
    Ca(#[source] Box<kube::Error>),
    #[error("the ConfigMap '{CA_CONFIG_MAP}' has no '{CA_KEY}' yet; is the operator running?")]
    NoCa,
    #[error("failed to get a serving certificate")]
    Csr(#[from] CsrError),
    #[error("failed to use the serving certificate")]
    Identity(#[from] IdentityError),
}

/// A serving certificate with its key, PEM.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) key_pem: String,
    pub(crate) chain_pem: String,
    pub(crate) ca_pem: String,
    renew_at: Timestamp,
}

impl Certificate {
    /// One that is there already; it is never renewed.
    #[cfg(test)]
    pub(crate) fn fixed(key_pem: String, chain_pem: String, ca_pem: String) -> Self {
        Self {
            key_pem,
            chain_pem,
            ca_pem,
            renew_at: Timestamp::MAX,
        }
    }

    /// For the link.
    pub(crate) fn link(&self) -> Result<ServerIdentity, IdentityError> {
        ServerIdentity::from_pem(&self.key_pem, &self.chain_pem, &self.ca_pem)
    }
}

/// Who asks, and for which names.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) client: Client,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) namespace: String,
    pub(crate) replica: String,
    /// DNS names and addresses under which cars and kube-apiserver reach this adapter.
    pub(crate) names: Vec<String>,
}

impl Asker {
    async fn ca(&self) -> Result<String, CertificateError> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let map = api
            .get_opt(CA_CONFIG_MAP)
            .await
            .map_err(|e| CertificateError::Ca(Box::new(e)))?;
        map.and_then(|m| m.data?.remove(CA_KEY)).ok_or(CertificateError::NoCa)
    }

    async fn once(&self) -> Result<Certificate, CertificateError> {
        let made = new_key_and_csr(&self.names)?;
        let request = csr::Request {
            name: format!(
                "kerbside-link-{}-{:08x}",
                name_part(&self.replica),
                rand::random::<u32>()
            ),
            signer: LINK_SERVER_SIGNER,
            csr_pem: csr_pem(&made.csr_der),
            usage: "server auth",
            annotations: BTreeMap::new(),
        };
        let ca_pem = self.ca().await?;
        let chain_pem = csr::request(&self.client, request, PATIENCE).await?;
        let chain = chain_from_pem(&chain_pem)?;
        let renew_at = chain.first().map_or_else(|| Ok(self.clock.wall()), |c| renew_at(c))?;
        Ok(Certificate {
            key_pem: made.key_pem,
            chain_pem,
            ca_pem,
            renew_at,
        })
    }

    /// Asks until there is an answer: without a certificate the adapter has nothing to do.
    pub(crate) async fn certificate(&self) -> Certificate {
        loop {
            match self.once().await {
                Ok(certificate) => return certificate,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "no serving certificate yet; asking again"
                    );
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Renews for ever; each new certificate is sent to `current`.
    pub(crate) async fn keep(self, current: watch::Sender<Certificate>) {
        loop {
            let left = current.borrow().renew_at.duration_since(self.clock.wall());
            // In pieces, so that a machine that was suspended notices in time.
            let pause = Duration::try_from(left)
                .unwrap_or(Duration::ZERO)
                .min(Duration::from_hours(1));
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
                continue;
            }
            let renewed = self.certificate().await;
            tracing::info!(renew_at = %renewed.renew_at, "the serving certificate is renewed");
            current.send_replace(renewed);
        }
    }
}

/// A replica's name as part of an object's name.
fn name_part(replica: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            c
        } else {
            '-'
        }
    };
    let name: String = replica.to_ascii_lowercase().chars().map(plain).take(60).collect();
    name.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_name_becomes_a_part_of_an_object_name() {
        assert_eq!(name_part("Kubelet_7.local-"), "kubelet-7-local");
    }
}
