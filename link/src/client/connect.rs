//! One connection to one adapter: TCP, TLS, HTTP/2.
//!
//! Used by sessions and by enrolment. The TLS handshake is done here and not by tonic, so that what is wrong with a
//! certificate is known and not guessed. Never: a channel that connects again by itself; who lost a connection must say
//! `Hello` anew.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use super::network::{Io, Network};
use crate::tls::OtherCa;

/// Where an adapter is: `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    host: String,
    port: u16,
}

impl FromStr for Address {
    type Err = ConnectError;

    fn from_str(url: &str) -> Result<Self, ConnectError> {
        let wrong = |why: &'static str| ConnectError::Address {
            url: url.chars().take(200).collect(),
            why,
        };
        let uri: Uri = url.parse().map_err(|_| wrong("it is not a URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(wrong("it does not begin with https://"));
        }
        if uri.path().len() > 1 || uri.query().is_some() || uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err(wrong("it has more than a host and a port"));
        }
        let host = uri
            .host()
            .unwrap_or_default()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        if ServerName::try_from(host.as_str()).is_err() {
            return Err(wrong("its host is neither a name nor an IP address"));
        }
        Ok(Self {
            host,
            port: uri.port_u16().unwrap_or(443),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not an address of an adapter.
    #[error("failed to read adapter address '{url}': {why}; it must be https://host:port")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nobody listens there, or the way there is cut.
    #[error("failed to reach {address}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer.
    #[error("failed to reach {address}: no answer within {} s", after.as_secs())]
    Timeout {
        /// Where.
        address: String,
        /// After how long.
        after: Duration,
    },
    /// Another CA than the token's.
    #[error(
        "failed to trust {address}: its CA is not the one that the token was made for; \
         either the address is wrong or somebody is in between"
    )]
    OtherCa {
        /// Who.
        address: String,
    },
    /// A certificate that does not prove who the adapter is, or no TLS as the link wants it.
    #[error("failed to trust {address}")]
    Untrusted {
        /// Who.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TLS stands, HTTP/2 does not.
    #[error("failed to speak HTTP/2 with {address}")]
    Http {
        /// With whom.
        address: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// What the adapter found wrong with our certificate. With TLS 1.3 it says so only after we believe to be connected.
#[derive(Debug, Clone, Default)]
pub(super) struct Alert(Arc<OnceLock<AlertDescription>>);

impl Alert {
    /// In words, if the adapter has refused the certificate.
    pub(super) fn refusal(&self) -> Option<String> {
        let what = match self.0.get()? {
            AlertDescription::CertificateExpired => "it has expired (or this machine's clock is wrong): enrol again",
            // The second: another CA of the same name.
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                "it was not signed by the CA of this link: enrol with a token of this cluster"
            }
            AlertDescription::CertificateRequired => "none was shown: enrol first",
            other => return Some(format!("the adapter refused this car's certificate: {other:?}")),
        };
        Some(format!("the adapter refused this car's certificate: {what}"))
    }

    fn note(&self, error: &io::Error) {
        if let Some(rustls::Error::AlertReceived(alert)) = rustls_error(error) {
            // The first one counts.
            let _ = self.0.set(*alert);
        }
    }
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Connects within `limit`.
pub(super) async fn connect(
    network: &dyn Network,
    address: &Address,
    tls: Arc<ClientConfig>,
    limit: Duration,
) -> Result<(Channel, Alert), ConnectError> {
    timeout(limit, connect_now(network, address, tls))
        .await
        .map_err(|_| ConnectError::Timeout {
            address: address.to_string(),
            after: limit,
        })?
}

async fn connect_now(
    network: &dyn Network,
    address: &Address,
    tls: Arc<ClientConfig>,
) -> Result<(Channel, Alert), ConnectError> {
    let to = || address.to_string();
    let unreachable = |source| ConnectError::Unreachable { address: to(), source };
    let tcp = network
        .connect(address.host.clone(), address.port)
        .await
        .map_err(unreachable)?;
    let name = ServerName::try_from(address.host.clone()).expect("an Address holds only hosts that are server names");
    let io = TlsConnector::from(tls)
        .connect(name, tcp)
        .await
        .map_err(|source| untrusted(to(), source))?;
    let alert = Alert::default();
    let io = Watched {
        io,
        alert: alert.clone(),
    };
    let once = Arc::new(Mutex::new(Some(TokioIo::new(io))));
    let connector = tower::service_fn(move |_: Uri| {
        let io = once.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { io.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection was lost")) }
    });
    // tonic sees plain HTTP, for the encryption is below; the peer sees https.
    let endpoint = |scheme: &str| format!("{scheme}{}", to().trim_start_matches("https"));
    let origin: Uri = to().parse().expect("an Address prints as a URL");
    let channel = Endpoint::from_shared(endpoint("http"))
        .map_err(|source| ConnectError::Http { address: to(), source })?
        .origin(origin)
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Http { address: to(), source })?;
    Ok((channel, alert))
}

fn untrusted(address: String, source: io::Error) -> ConnectError {
    match rustls_error(&source) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
            if other.0.downcast_ref::<OtherCa>().is_some() =>
        {
            ConnectError::OtherCa { address }
        }
        Some(_) => ConnectError::Untrusted { address, source },
        None => ConnectError::Unreachable { address, source },
    }
}

/// Notes the alert with which the adapter ends a connection, before hyper makes "connection error" of it.
struct Watched {
    io: TlsStream<Box<dyn Io>>,
    alert: Alert,
}

impl Watched {
    fn note<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled {
            self.alert.note(error);
        }
        polled
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.note(polled)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.note(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("https://adapter.example:7443", "https://adapter.example:7443")]
    #[case("https://10.0.0.1:7443/", "https://10.0.0.1:7443")]
    #[case("https://[::1]:7443", "https://[::1]:7443")]
    #[case("https://adapter", "https://adapter:443")]
    fn address_of_an_adapter_is_read(#[case] url: &str, #[case] is: &str) {
        assert_eq!(url.parse::<Address>().unwrap().to_string(), is);
    }

    #[rstest::rstest]
    #[case("", "not a URL")]
    #[case("adapter:7443", "https://")]
    #[case("http://adapter:7443", "https://")]
    #[case("https://adapter:7443/path", "more than")]
    #[case("https://user@adapter:7443", "more than")]
    #[case("https://adapter:7443/?a=b", "more than")]
    fn address_of_another_shape_is_refused(#[case] url: &str, #[case] says: &str) {
        let message = url.parse::<Address>().unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
}
