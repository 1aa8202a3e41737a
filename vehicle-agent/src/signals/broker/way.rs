//! The connection to a broker: plain, by TLS, or over a Unix socket.
//!
//! Used by `session`. The broker shows who it is; the agent shows a token. What must never happen: a connection that is dead and that nobody
//! notices, for a broker sends no signs of life by itself.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::stream::Stream;

/// For a connection to be there.
const CONNECT: Duration = Duration::from_secs(5);
/// The agent asks for a sign of life so often, and waits so long for it.
const ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));

type Connect = Arc<dyn Fn() -> BoxFuture<'static, io::Result<Stream>> + Send + Sync>;

/// How a broker is reached.
#[derive(Clone)]
pub(super) struct Way {
    connect: Connect,
}

/// Where a broker is, as the maker wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `unix:/run/kuksa/databroker.sock`
    Unix(PathBuf),
    /// `http://127.0.0.1:55555`: nothing is hidden from whoever is on the way.
    Plain(String, u16),
    /// `https://broker.car:55555`
    Tls(String, u16),
}

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "'{text}' is no broker's address, such as unix:/run/kuksa/databroker.sock or https://broker.car:55555"
            )
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err(refuse())
            };
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(refuse)?;
        let (host, port) = rest.rsplit_once(':').ok_or_else(refuse)?;
        let port = port.parse().map_err(|_| refuse())?;
        if host.is_empty() || host.contains('/') {
            return Err(refuse());
        }
        match scheme {
            "http" => Ok(Self::Plain(host.to_owned(), port)),
            "https" => Ok(Self::Tls(host.to_owned(), port)),
            _ => Err(refuse()),
        }
    }
}

impl Way {
    /// To this address; `authorities`: whose word counts for who the broker is.
    pub(super) fn to(address: &Address, authorities: Option<&Path>) -> Result<Self, String> {
        let connect: Connect = match address.clone() {
            Address::Unix(path) => Arc::new(move || {
                let path = path.clone();
                async move { Ok(Box::pin(UnixStream::connect(path).await?) as Stream) }.boxed()
            }),
            Address::Plain(host, port) => Arc::new(move || {
                let host = host.clone();
                async move { Ok(Box::pin(tcp(&host, port).await?) as Stream) }.boxed()
            }),
            Address::Tls(host, port) => {
                let connector = tls(authorities.ok_or("a broker by https needs caFile")?)?;
                let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(bare).map_err(|e| format!("{host}: {e}"))?;
                Arc::new(move || {
                    let (host, connector, name) = (host.clone(), connector.clone(), name.clone());
                    async move {
                        let stream = connector.connect(name, tcp(&host, port).await?).await?;
                        Ok(Box::pin(stream) as Stream)
                    }
                    .boxed()
                })
            }
        };
        Ok(Self { connect })
    }

    /// By what a test says.
    #[cfg(test)]
    pub(super) fn by<S: crate::stream::Io + 'static>(
        connect: impl Fn() -> io::Result<S> + Send + Sync + 'static,
    ) -> Self {
        Self {
            connect: Arc::new(move || {
                let stream = connect().map(|stream| Box::pin(stream) as Stream);
                std::future::ready(stream).boxed()
            }),
        }
    }

    /// A connection. The error is a sentence.
    pub(super) async fn open(&self) -> Result<Channel, String> {
        let connect = Arc::clone(&self.connect);
        // The address is only said to the other side.
        let endpoint = Endpoint::from_static("http://broker")
            .http2_keep_alive_interval(ALIVE.0)
            .keep_alive_timeout(ALIVE.1)
            .keep_alive_while_idle(true);
        let opened = endpoint.connect_with_connector(service_fn(move |_| {
            let stream = connect();
            async move { Ok::<_, io::Error>(TokioIo::new(stream.await?)) }
        }));
        match timeout(CONNECT, opened).await {
            Ok(opened) => opened.map_err(|e| {
                let cause = std::error::Error::source(&e).map(ToString::to_string);
                cause.unwrap_or_else(|| e.to_string())
            }),
            Err(_) => Err("it does not answer".to_owned()),
        }
    }
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn tls(authorities: &Path) -> Result<TlsConnector, String> {
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", authorities.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authorities).map_err(|e| failed(&e))? {
        roots
            .add(certificate.map_err(|e| failed(&e))?)
            .map_err(|e| failed(&e))?;
    }
    if roots.is_empty() {
        return Err(failed(&"no certificate is in it"));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_one_of_three_kinds_or_says_what_it_should_be() {
        let parse = |text: &str| text.parse::<Address>();
        assert_eq!(parse("unix:/run/b.sock"), Ok(Address::Unix("/run/b.sock".into())));
        assert_eq!(
            parse("http://127.0.0.1:55555"),
            Ok(Address::Plain("127.0.0.1".to_owned(), 55555))
        );
        assert_eq!(
            parse("https://[::1]:55555"),
            Ok(Address::Tls("[::1]".to_owned(), 55555))
        );
        for text in [
            "unix:run/b.sock",
            "broker:55555",
            "https://broker",
            "grpc://broker:1",
            "https://broker:1/x",
            "https://:1",
        ] {
            assert!(parse(text).unwrap_err().contains("no broker's address"), "{text}");
        }
    }

    #[test]
    fn broker_by_tls_needs_to_know_whose_word_counts() {
        let address = Address::Tls("broker".to_owned(), 1);
        assert!(Way::to(&address, None).err().is_some_and(|why| why.contains("caFile")));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        std::fs::write(&path, "nothing").unwrap();
        assert!(
            Way::to(&address, Some(&path))
                .err()
                .is_some_and(|why| why.contains("ca.pem"))
        );
    }
}
