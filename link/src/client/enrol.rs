//! How a car becomes somebody: a one-time token for its first certificate.
//!
//! Called once in a car's life with this owner, by `kerbside-agent enrol`. Never: the token's secret sent to anybody who has
//! not shown the CA that the token names.

use std::time::Duration;

use super::connect::{Address, ConnectError, connect};
use super::network::{Network, Tcp};
use crate::fault::Fault;
use crate::identity::{EnrolmentToken, Identity, IdentityError, chain_from_pem, new_key_and_csr, sha256};
use crate::proto::EnrolRequest;
use crate::proto::enrolment_client::EnrolmentClient;
use crate::tls::{self, TlsError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The operator looks at a request when it comes; longer than this it does not work.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// Why a car could not enrol.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// There is no adapter, or not the right one.
    #[error("failed to enrol")]
    Connect(#[from] ConnectError),
    /// TLS could not be set up.
    #[error("failed to enrol")]
    Tls(#[from] TlsError),
    /// No key could be made, or the adapter's answer is no identity.
    #[error("failed to enrol")]
    Identity(#[from] IdentityError),
    /// The adapter said no.
    #[error("failed to enrol: {0}")]
    Refused(Fault),
    /// The adapter did not answer.
    #[error("failed to enrol: no answer within {} s; the token may be used up, make a new one", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    /// The answer does not fit the token.
    #[error("failed to enrol: the adapter answered with another CA than the token's")]
    OtherCa,
}

impl EnrolError {
    /// Whether the same token may work later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(ConnectError::Unreachable { .. } | ConnectError::Timeout { .. }) => true,
            Self::Refused(fault) => fault.is_retryable(),
            _ => false,
        }
    }
}

/// Makes a key, and trades the token for a certificate at the adapter `url`.
pub async fn enrol(url: &str, token: &EnrolmentToken) -> Result<Identity, EnrolError> {
    enrol_over(&Tcp, url, token).await
}

/// The same over any network.
pub async fn enrol_over(network: &dyn Network, url: &str, token: &EnrolmentToken) -> Result<Identity, EnrolError> {
    let address: Address = url.parse()?;
    let request = new_key_and_csr(&[])?;
    let tls = tls::enrolling(token.ca_sha256())?;
    let (channel, _) = connect(network, &address, tls, CONNECT_TIMEOUT).await?;
    let call = EnrolRequest {
        token_id: token.id().to_owned(),
        token_secret: token.secret_text(),
        csr_der: request.csr_der.into(),
    };
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, EnrolmentClient::new(channel).enrol(call))
        .await
        .map_err(|_| EnrolError::Timeout)?
        .map_err(|status| EnrolError::Refused(status.into()))?
        .into_inner();
    if !chain_from_pem(&answer.ca_pem)?
        .iter()
        .any(|ca| sha256(ca) == token.ca_sha256())
    {
        return Err(EnrolError::OtherCa);
    }
    Ok(Identity::from_pem(
        &request.key_pem,
        &answer.certificate_chain_pem,
        &answer.ca_pem,
    )?)
}
