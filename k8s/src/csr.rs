//! Asks for a certificate through the ordinary CertificateSigningRequest API and waits for the answer.
//!
//! Called by the adapter, for its own serving certificate and on behalf of cars. It decides nothing: the operator, which holds the
//! CA, does, and its words come back in [`CsrError::Denied`]. What must never happen: a request that has been made is given up because
//! the API server was busy for a moment; whoever asks anew makes another one, which somebody must answer as well.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};
use kube::runtime::wait::{self, await_condition};
use kube::runtime::watcher;

use crate::client::{insist_for, is_for_now, is_refused_for_now, pause};

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

/// Creates the request and waits up to `timeout` for the certificate chain (PEM). What the API server refuses for now is asked again
/// in that time.
pub async fn request(client: &Client, request: Request, timeout: Duration) -> Result<String, CsrError> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let name = request.name;
    let object = CertificateSigningRequest {
        metadata: ObjectMeta {
            name: Some(name.clone()),
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
    let params = PostParams::default();
    let answered = async {
        match insist_for(timeout, || api.create(&params, &object)).await {
            Ok(_) => {}
            Err(kube::Error::Api(s)) if s.is_already_exists() => {}
            Err(e) => return Err(CsrError::Api(Box::new(e))),
        }
        wait_for_answer(&api, &name).await
    };
    let found = match tokio::time::timeout(timeout, answered).await {
        Err(_) => {
            return Err(CsrError::Timeout { name, timeout });
        }
        Ok(found) => found?,
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

/// The request when it is answered; None: it is gone. A watch that the API server refuses for now is begun anew.
async fn wait_for_answer(
    api: &Api<CertificateSigningRequest>,
    name: &str,
) -> Result<Option<CertificateSigningRequest>, CsrError> {
    let mut times = 0_u32;
    loop {
        let answered = await_condition(api.clone(), name, |c: Option<&CertificateSigningRequest>| {
            c.is_none_or(|c| answer(c).is_some())
        });
        match answered.await {
            Err(error) if is_watch_refused(&error) => {
                times = times.saturating_add(1);
                tracing::info!(%error, times, "the API server refuses for now; waiting on for a certificate");
                tokio::time::sleep(pause(times)).await;
            }
            Err(error) => return Err(CsrError::Wait(Box::new(error))),
            Ok(found) => return Ok(found),
        }
    }
}

fn is_watch_refused(error: &wait::Error) -> bool {
    let wait::Error::ProbeFailed(error) = error;
    match error {
        watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e) | watcher::Error::WatchFailed(e) => {
            is_refused_for_now(e)
        }
        watcher::Error::WatchError(status) => is_for_now(status),
        watcher::Error::NoResourceVersion => false,
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
    use http::{Request as HttpRequest, Response};
    use k8s_openapi::api::certificates::v1::{CertificateSigningRequestCondition, CertificateSigningRequestStatus};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower_test::mock;

    type Server = mock::Handle<HttpRequest<Body>, Response<Body>>;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn wanted() -> Request {
        Request {
            name: "r".into(),
            signer: VEHICLE_SIGNER,
            csr_pem: "CSR".into(),
            usage: "client auth",
            annotations: BTreeMap::new(),
        }
    }

    fn refusal(code: u16) -> Value {
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": "Refused", "message": "not now"})
    }

    /// Answers the next request; its method.
    async fn respond(server: &mut Server, code: u16, body: &Value) -> String {
        let next = tokio::time::timeout(Duration::from_secs(5), server.next_request()).await;
        let (asked, reply) = next.expect("a request in time").expect("a client that is there");
        let body = Body::from(body.to_string().into_bytes());
        reply.send_response(Response::builder().status(code).body(body).unwrap());
        asked.method().to_string()
    }

    /// Refuses whatever is asked, as long as there is a client.
    async fn refuse_all(server: &mut Server) {
        while let Some((_, reply)) = server.next_request().await {
            let body = Body::from(refusal(429).to_string().into_bytes());
            reply.send_response(Response::builder().status(429).body(body).unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn request_that_is_refused_for_now_is_made_again_and_waited_for_again() {
        let (service, mut server) = mock::pair::<HttpRequest<Body>, Response<Body>>();
        let client = Client::new(service, "default");
        let answered = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequestList",
            "metadata": {"resourceVersion": "1"}, "items": [csr(None, Some("PEM"))],
        });
        let made = serde_json::to_value(csr(None, None)).unwrap();
        let answers = async {
            let mut asked = Vec::new();
            for (code, body) in [
                (429, &refusal(429)),
                (503, &refusal(503)),
                (201, &made),
                (429, &refusal(429)),
                (504, &refusal(504)),
                (200, &answered),
            ] {
                asked.push(respond(&mut server, code, body).await);
            }
            asked
        };
        let (pem, asked) = futures::join!(request(&client, wanted(), PATIENCE), answers);
        assert_eq!(pem.unwrap(), "PEM");
        assert_eq!(asked, ["POST", "POST", "POST", "GET", "GET", "GET"], "made once");
    }

    #[tokio::test(start_paused = true)]
    async fn request_that_is_refused_all_the_time_ends_in_time_with_what_the_api_server_said() {
        let (service, mut server) = mock::pair::<HttpRequest<Body>, Response<Body>>();
        let client = Client::new(service, "default");
        let began = tokio::time::Instant::now();
        let error = tokio::select! {
            answer = request(&client, wanted(), PATIENCE) => answer.unwrap_err(),
            () = refuse_all(&mut server) => unreachable!("it refuses for ever"),
        };
        assert!(matches!(&error, CsrError::Api(e) if is_refused_for_now(e)), "{error:?}");
        assert!(began.elapsed() <= PATIENCE + Duration::from_millis(10));
    }

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
