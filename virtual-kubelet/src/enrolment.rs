//! Certificates for cars: an enrolment or a renewal becomes an ordinary CertificateSigningRequest, and its answer the car's.
//!
//! Called by the link service. The adapter decides nothing: whether a token is good and what the certificate says is the operator's;
//! its words come back to the car.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kerbside_core::ids::VehicleId;
use kerbside_k8s::csr::{self, CsrError, RENEWS, TOKEN_HASH, TOKEN_ID, VEHICLE_SIGNER};
use kerbside_link::fault::Fault;
use kerbside_link::identity::{chain_from_pem, csr_pem, vehicle_of};
use kerbside_link::server::{EnrolmentRequest, Issued};
use kube::Client;

/// The operator answers within a second; a restart of it takes a few more.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks for cars' certificates.
pub(crate) struct Enrolment {
    client: Client,
    ca_pem: String,
}

impl Enrolment {
    /// `ca_pem`: the link's CA, which cars get with their certificate.
    pub(crate) fn new(client: Client, ca_pem: String) -> Self {
        Self { client, ca_pem }
    }

    /// Trades a token for a car's first certificate.
    pub(crate) async fn enrol(&self, request: EnrolmentRequest) -> Result<Issued, Fault> {
        let EnrolmentRequest {
            token_id,
            secret_hash,
            csr_der,
        } = request;
        let name = format!("kerbside-{}-{:08x}", name_part(&token_id)?, rand::random::<u32>());
        let annotations = BTreeMap::from([(TOKEN_ID.to_owned(), token_id), (TOKEN_HASH.to_owned(), secret_hash)]);
        tracing::info!(csr = name, "a car asks to be enrolled");
        let chain_pem = self.request(name, &csr_der, annotations).await?;
        let vehicle = issued_to(&chain_pem)?;
        Ok(Issued {
            vehicle,
            chain_pem,
            ca_pem: self.ca_pem.clone(),
        })
    }

    /// A new certificate for a car that has one.
    pub(crate) async fn renew(&self, vehicle: &VehicleId, csr_der: &Bytes) -> Result<String, Fault> {
        let name = format!("kerbside-{vehicle}-{:08x}", rand::random::<u32>());
        let annotations = BTreeMap::from([(RENEWS.to_owned(), vehicle.to_string())]);
        let chain = self.request(name, csr_der, annotations).await?;
        if issued_to(&chain)? != *vehicle {
            return Err(Fault::internal("the signer renewed the certificate of another vehicle"));
        }
        Ok(chain)
    }

    async fn request(&self, name: String, der: &[u8], annotations: BTreeMap<String, String>) -> Result<String, Fault> {
        let request = csr::Request {
            name,
            signer: VEHICLE_SIGNER,
            csr_pem: csr_pem(der),
            usage: "client auth",
            annotations,
        };
        csr::request(&self.client, request, PATIENCE)
            .await
            .map_err(|error| fault(&error))
    }
}

fn issued_to(chain_pem: &str) -> Result<VehicleId, Fault> {
    let broken = |_| Fault::internal("the signer's answer is not a certificate of a vehicle");
    let chain = chain_from_pem(chain_pem).map_err(broken)?;
    let first = chain
        .first()
        .ok_or_else(|| Fault::internal("the signer's answer is empty"))?;
    vehicle_of(first).map_err(broken)
}

/// A token's id becomes part of an object's name; anything else a stranger might send does not.
fn name_part(token_id: &str) -> Result<&str, Fault> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let good = (1..=63).contains(&token_id.len()) && token_id.bytes().all(plain);
    if good {
        Ok(token_id)
    } else {
        Err(Fault::unauthenticated("this is not a token of this cluster"))
    }
}

fn fault(error: &CsrError) -> Fault {
    match error {
        CsrError::Denied { .. } => Fault::denied(error.to_string()),
        CsrError::Api(source) if matches!(source.as_ref(), kube::Error::Api(s) if s.is_invalid() || s.code == 400) => {
            Fault::invalid("the certificate request is not one: send PKCS#10, DER")
        }
        CsrError::Timeout { .. } | CsrError::Api(_) | CsrError::Wait(_) | CsrError::NotPem => {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "a certificate could not be got"
            );
            Fault::unavailable("the cluster does not answer at the moment; try again")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kerbside_link::fault::FaultKind;

    #[rstest::rstest]
    #[case("abc234", true)]
    #[case("", false)]
    #[case("a/b", false)]
    #[case("A", false)]
    fn token_id_is_let_into_a_name_only_if_plain(#[case] id: &str, #[case] good: bool) {
        assert_eq!(name_part(id).is_ok(), good);
    }

    #[test]
    fn denial_keeps_the_signers_words_and_an_outage_can_be_tried_again() {
        let denied = CsrError::Denied {
            reason: "TokenUsed".into(),
            message: "the token was used".into(),
        };
        let denied = fault(&denied);
        assert_eq!(denied.kind(), FaultKind::Denied);
        assert!(denied.message().contains("TokenUsed") && denied.message().contains("the token was used"));
        let late = CsrError::Timeout {
            name: "x".into(),
            timeout: Duration::from_secs(1),
        };
        assert!(fault(&late).is_retryable());
    }
}
