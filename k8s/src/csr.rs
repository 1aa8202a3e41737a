//! Asks for a certificate through the ordinary CertificateSigningRequest API and waits for the answer.
//!
//! Called by the adapter, for its own serving certificate and on behalf of cars. It decides nothing: the operator, which holds the
//! CA, does, and its words come back in [`CsrError::Denied`].

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};
use kube::runtime::wait::await_condition;

/// The signer of cars' client certificates.
pub const VEHICLE_SIGNER: &str = "kerbside.dev/vehicle";
/// The signer of the adapter's serving certificate.
pub const LINK_SERVER_SIGNER: &str = "kerbside.dev/link-server";
/// On a request: the public half of the enrolment token.
pub const TOKEN_ID: &str = "kerbside.dev/token-id";
/// On a request: lower-case hex SHA-256 of the token's secret half.
pub const TOKEN_HASH: &str = "kerbside.dev/token-hash";
/// On a request: the car, already authenticated, whose certificate is renewed.
pub const RENEWS: &str = "kerbside.dev/renews";

/// One request for a certificate.
#[derive(Debug, Clone)]
pub struct Request {
    /// Of the object; the same name again continues the same request.
    pub name: String,
    /// [`VEHICLE_SIGNER`] or [`LINK_SERVER_SIGNER`].
    pub signer: &'static str,
    /// PKCS#10, PEM.
    pub csr_pem: String,
    /// `client auth` or `server auth`.
    pub usage: &'static str,
    /// What the signer needs to decide.
    pub annotations: BTreeMap<String, String>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// The signer said no, and why.
    #[error("the certificate request was denied: {message} ({reason})")]
    Denied {
        /// A word in CamelCase.
        reason: String,
        /// A sentence for the car's owner.
        message: String,
    },
    /// Nobody answered in time: is the operator running?
    #[error("no answer to the certificate request '{name}' within {} s; is the operator running?", timeout.as_secs())]
    Timeout {
        /// Of the request.
        name: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// The request could not be created or read.
    #[error("failed to request a certificate")]
    Api(#[source] Box<kube::Error>),
    /// The request could not be watched.
    #[error("failed to wait for a certificate")]
    Wait(#[source] Box<kube::runtime::wait::Error>),
    /// The certificate is not text.
    #[error("the signer's answer is not PEM")]
    NotPem,
}

/// Creates the request and waits up to `timeout` for the certificate chain (PEM).
pub async fn request(client: &Client, request: Request, timeout: Duration) -> Result<String, CsrError> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let object = CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some(request.name.clone()),
            annotations: Some(request.annotations),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.csr_pem.into_bytes()),
            signer_name: request.signer.to_owned(),
            usages: Some(vec!["digital signature".into(), request.usage.into()]),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    match api.create(&PostParams::default(), &object).await {
        Ok(_) => {}
        Err(kube::Error::Api(s)) if s.is_already_exists() => {}
        Err(e) => return Err(CsrError::Api(Box::new(e))),
    }
    let answered = await_condition(api, &request.name, |c: Option<&CertificateSigningRequest>| {
        c.is_none_or(|c| answer(c).is_some())
    });
    let found = match tokio::time::timeout(timeout, answered).await {
        Err(_) => {
            return Err(CsrError::Timeout {
                name: request.name,
                timeout,
            });
        }
        Ok(Err(e)) => return Err(CsrError::Wait(Box::new(e))),
        Ok(Ok(found)) => found,
    };
    match found.as_ref().and_then(answer) {
        Some(Ok(pem)) => String::from_utf8(pem).map_err(|_| CsrError::NotPem),
        Some(Err((reason, message))) => Err(CsrError::Denied { reason, message }),
        None => Err(CsrError::Denied {
            reason: "Deleted".into(),
            message: "somebody deleted the request before it was answered".into(),
        }),
    }
}

/// The certificate, or reason and message of a refusal, or nothing yet.
fn answer(csr: &CertificateSigningRequest) -> Option<Result<Vec<u8>, (String, String)>> {
    let status = csr.status.as_ref()?;
    let refusal = status
        .conditions
        .iter()
        .flatten()
        .find(|c| matches!(c.type_.as_str(), "Denied" | "Failed"));
    if let Some(c) = refusal {
        let message = c.message.clone().unwrap_or_else(|| "no reason was given".into());
        return Some(Err((c.reason.clone().unwrap_or_else(|| c.type_.clone()), message)));
    }
    status
        .certificate
        .as_ref()
        .filter(|c| !c.0.is_empty())
        .map(|c| Ok(c.0.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::certificates::v1::{CertificateSigningRequestCondition, CertificateSigningRequestStatus};

    fn csr(condition: Option<(&str, &str)>, certificate: Option<&str>) -> CertificateSigningRequest {
        let conditions = condition.map(|(type_, reason)| {
            vec![CertificateSigningRequestCondition {
                type_: type_.into(),
                status: "True".into(),
                reason: Some(reason.into()),
                ..CertificateSigningRequestCondition::default()
            }]
        });
        CertificateSigningRequest {
            status: Some(CertificateSigningRequestStatus {
                conditions,
                certificate: certificate.map(|c| ByteString(c.as_bytes().to_vec())),
            }),
            ..CertificateSigningRequest::default()
        }
    }

    #[test]
    fn request_without_certificate_or_refusal_is_unanswered() {
        assert_eq!(answer(&CertificateSigningRequest::default()), None);
        assert_eq!(answer(&csr(Some(("Approved", "x")), None)), None);
        assert_eq!(answer(&csr(None, Some(""))), None);
    }

    #[test]
    fn refusal_wins_over_a_certificate() {
        let (reason, message) = answer(&csr(Some(("Denied", "TokenUsed")), Some("PEM")))
            .unwrap()
            .unwrap_err();
        assert_eq!(
            (reason.as_str(), message.as_str()),
            ("TokenUsed", "no reason was given")
        );
    }

    #[test]
    fn certificate_is_the_answer() {
        assert_eq!(
            answer(&csr(Some(("Approved", "x")), Some("PEM"))).unwrap().unwrap(),
            b"PEM"
        );
    }
}
