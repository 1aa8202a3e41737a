//! TLS as the link uses it: version 1.3 only, HTTP/2 only, one authority, no resumption.
//!
//! Made by client and server from identities. TLS 1.3 because the older one shows a car's certificate to everybody on the way.
//! No resumption because a resumed session skips the check of the certificate, and a car must not outlive its certificate.

mod pinned;
#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use crate::identity::{Identity, IdentityError, ServerIdentity, chain_from_pem};
pub(crate) use pinned::OtherCa;

const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
const ALPN: &[u8] = b"h2";

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// An identity that TLS cannot use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Its texts are wrong.
    #[error("failed to use identity for TLS")]
    Identity(#[from] IdentityError),
    /// Its private key is wrong.
    #[error("failed to read private key: {0}")]
    Key(String),
    /// Its CA cannot be used to check peers.
    #[error("failed to use the link's CA to check peers: {0}")]
    Ca(String),
    /// Anything else that TLS finds wrong.
    #[error("failed to set up TLS")]
    Tls(#[from] rustls::Error),
}

/// For a car that enrols: it has no certificate, and knows of the adapter only the hash of its CA.
pub(crate) fn enrolling(ca_sha256: [u8; 32]) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = pinned::PinnedCa::new(ca_sha256, Arc::clone(&PROVIDER));
    let config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(finish(config)))
}

/// For an enrolled car.
pub(crate) fn enrolled(identity: &Identity) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = roots(&chain_from_pem(identity.ca_pem())?)?;
    let config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(VERSIONS)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain_from_pem(identity.chain_pem())?, key(identity.key_pem())?)?;
    Ok(Arc::new(finish(config)))
}

fn finish(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config
}

/// What an adapter shows to cars; replaceable while it serves.
#[derive(Debug, Clone)]
pub struct ServerTls {
    config: Arc<watch::Sender<Arc<ServerConfig>>>,
}

impl ServerTls {
    /// Serves with this identity.
    pub fn new(identity: &ServerIdentity) -> Result<Self, TlsError> {
        Ok(Self {
            config: Arc::new(watch::Sender::new(server_config(identity)?)),
        })
    }

    /// From the next connection on, serves with this identity. Connections that stand are not touched.
    pub fn replace(&self, identity: &ServerIdentity) -> Result<(), TlsError> {
        self.config.send_replace(server_config(identity)?);
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.borrow())
    }
}

/// Certificates of cars are optional here, since a car that enrols has none, and verified when they are shown; each call then
/// decides whether it needs one.
fn server_config(identity: &ServerIdentity) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&identity.ca)?), Arc::clone(&PROVIDER))
        .allow_unauthenticated()
        .build()
        .map_err(|e| TlsError::Ca(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&PROVIDER))
        .with_protocol_versions(VERSIONS)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), key(&identity.key_pem)?)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn roots(ca: &[CertificateDer<'static>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots
            .add(certificate.clone())
            .map_err(|e| TlsError::Ca(e.to_string()))?;
    }
    Ok(roots)
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| TlsError::Key(e.to_string()))
}
