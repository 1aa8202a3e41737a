//! The kubelet port's listener: TLS with a client certificate if the caller has one, HTTP/1.1 behind it.
//!
//! A client certificate counts only if the cluster's client CA signed it; that CA is read from where kube-apiserver publishes it for
//! extension servers. The serving certificate is the link's, and is replaced in flight.

use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Peer;
use super::auth::User;
use crate::identity::Certificate;

/// Where kube-apiserver publishes the CA of its clients.
const CLIENT_CA: (&str, &str, &str) = ("kube-system", "extension-apiserver-authentication", "client-ca-file");
const HANDSHAKE: Duration = Duration::from_secs(10);
/// `kubectl logs -f` holds a connection each.
const MOST_CONNECTIONS: usize = 1024;
/// After a failed accept (out of file descriptors) there is nothing to do but to wait a moment.
const AFTER_FAILURE: Duration = Duration::from_millis(200);

/// Why the port's TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("failed to read a certificate or key")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("failed to use the serving certificate or a client CA")]
    Rustls(#[from] rustls::Error),
    #[error("failed to verify clients by the cluster's client CA")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The cluster's client CA; None: it publishes none, and only tokens count.
pub(crate) async fn client_ca(client: &Client) -> Result<Option<String>, kube::Error> {
    let (namespace, name, key) = CLIENT_CA;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let ca = api.get_opt(name).await?.and_then(|m| m.data?.remove(key));
    if ca.is_none() {
        tracing::warn!("the cluster publishes no client CA; the kubelet port takes tokens only");
    }
    Ok(ca)
}

/// TLS with this certificate, for clients of this CA and for those without a certificate.
pub(crate) fn config(certificate: &Certificate, client_ca: Option<&str>) -> Result<Arc<ServerConfig>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.chain_pem.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for ca in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(ca?)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves `routes` until the future is dropped; `tls` may change in flight.
pub(crate) async fn serve(listener: TcpListener, tls: watch::Receiver<Arc<ServerConfig>>, routes: Router) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the kubelet port cannot accept a connection");
                tokio::time::sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        let (config, routes) = (Arc::clone(&tls.borrow()), routes.clone());
        tokio::spawn(async move {
            connection(stream, config, routes).await;
            drop(permit);
        });
    }
}

async fn connection<S>(stream: S, config: Arc<ServerConfig>, routes: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake on the kubelet port failed"),
        Err(_) => return tracing::debug!("a TLS handshake on the kubelet port took too long"),
    };
    let user = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|c| c.first())
        .and_then(|c| user_of(c));
    let service = TowerToHyperService::new(routes.layer(Extension(Peer(user))));
    let served = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(error = %error, "a connection to the kubelet port broke");
    }
}

/// As kube-apiserver reads a client certificate: the common name is the user, the organisations are the groups.
fn user_of(der: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<_> = subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok())
        .map(str::to_owned)
        .collect();
    groups.push("system:authenticated".to_owned());
    Some(User {
        name,
        groups,
        ..User::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    use rustls::ClientConfig;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;

    /// A CA, and its certificate as PEM.
    fn ca(name: &str) -> (Issuer<'static, KeyPair>, String) {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        (Issuer::new(params, key), pem)
    }

    /// A certificate for `name` and its key, as PEM.
    fn signed(ca: &Issuer<'static, KeyPair>, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let (mut params, key) = (
            CertificateParams::new(["localhost".to_owned()]).unwrap(),
            KeyPair::generate().unwrap(),
        );
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
    }

    async fn who(Extension(Peer(user)): Extension<Peer>) -> String {
        user.map_or_else(|| "nobody".to_owned(), |user| user.name)
    }

    /// What the port, which trusts `client_ca`, says to a client that shows this certificate.
    async fn asked(client_ca: Option<&str>, shown: Option<(String, String)>) -> std::io::Result<String> {
        let (serving_ca, serving_ca_pem) = ca("serving");
        let (chain, key) = signed(&serving_ca, "adapter", ExtendedKeyUsagePurpose::ServerAuth);
        let config = config(&Certificate::fixed(key, chain, serving_ca_pem.clone()), client_ca).unwrap();
        let (near, far) = tokio::io::duplex(64 << 10);
        let served = tokio::spawn(connection(
            far,
            config,
            Router::new().route("/who", axum::routing::get(who)),
        ));
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(serving_ca_pem.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let client = match shown {
            None => client.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                client.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let mut answer = String::new();
        let exchanged = async {
            let mut stream = TlsConnector::from(Arc::new(client))
                .connect("localhost".try_into().unwrap(), near)
                .await?;
            stream
                .write_all(b"GET /who HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                .await?;
            stream.read_to_string(&mut answer).await
        };
        let exchanged = exchanged.await;
        served.await.unwrap();
        exchanged.map(|_| answer)
    }

    #[tokio::test]
    async fn client_certificate_counts_if_the_clusters_client_ca_signed_it_and_is_refused_else() {
        let ((own, own_pem), (foreign, _)) = (ca("cluster"), ca("cluster"));
        let shown = |ca| {
            Some(signed(
                ca,
                "kube-apiserver-kubelet-client",
                ExtendedKeyUsagePurpose::ClientAuth,
            ))
        };
        let answer = asked(Some(&own_pem), shown(&own)).await.unwrap();
        assert!(answer.ends_with("kube-apiserver-kubelet-client"), "{answer}");
        assert!(asked(Some(&own_pem), shown(&foreign)).await.is_err());
        let answer = asked(Some(&own_pem), None).await.unwrap();
        assert!(answer.ends_with("nobody"), "a token may follow: {answer}");
    }

    #[tokio::test]
    async fn client_certificate_counts_for_nothing_where_the_cluster_names_no_client_ca() {
        let (foreign, _) = ca("foreign");
        let shown = signed(&foreign, "admin", ExtendedKeyUsagePurpose::ClientAuth);
        let answer = asked(None, Some(shown)).await.unwrap();
        assert!(answer.ends_with("nobody"), "{answer}");
    }

    #[test]
    fn user_is_the_common_name_and_groups_are_the_organisations() {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "kube-apiserver-kubelet-client");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "kubeadm:cluster-admins");
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let user = user_of(der.der()).unwrap();
        assert_eq!(user.name, "kube-apiserver-kubelet-client");
        assert_eq!(user.groups, ["kubeadm:cluster-admins", "system:authenticated"]);
    }

    #[test]
    fn bytes_that_are_no_certificate_are_nobody() {
        assert_eq!(user_of(b"no"), None);
    }
}
