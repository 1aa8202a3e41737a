//! Signs cars' and adapters' certificates: a controller for CertificateSigningRequests of our two signers.
//!
//! Run by the leader alone. Reads, decides (pure), carries out. Never: a certificate without a token or a Vehicle behind it; a
//! name that the requester chose; a token that makes two cars.

mod authority;
mod decide;
mod grant;
mod look_up;
mod token;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kerbside_core::clock::Clock;
use kerbside_k8s::csr::{LINK_SERVER_SIGNER, VEHICLE_SIGNER};
use kerbside_link::identity::Ca;
use kube::api::Api;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

#[cfg(test)]
pub(crate) use authority::KNOWN as KNOWN_CAS;
pub(crate) use authority::{
    AuthorityError, NAME as CA, PUBLISHED as CA_CERTIFICATE, Published, ensure as ensure_ca, known_cas,
};

use crate::metrics::Metrics;
use crate::retry::Failures;

/// Requests worked on at a time. A fleet that enrols at once is thousands; each costs a handful of API calls.
const CONCURRENCY: u16 = 8;
/// Reading anew after a conflict needs the watch to have caught up.
const AFTER_A_RACE: Duration = Duration::from_millis(500);

/// The signer: the CA and what it needs to decide.
pub(crate) struct Signer {
    client: Client,
    namespace: String,
    adapter: String,
    ca: Ca,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    failures: Failures<String>,
}

/// Why a request was not answered yet. All of it is worth another try: what is final is a refusal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignerError {
    #[error("failed to answer a certificate request")]
    Api(#[source] Box<kube::Error>),
    #[error("failed to answer a certificate request: something changed while it was read")]
    Raced,
}

impl From<kube::Error> for SignerError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

impl SignerError {
    fn category(&self) -> &'static str {
        match self {
            Self::Api(_) => "ApiError",
            Self::Raced => "Raced",
        }
    }
}

impl Signer {
    /// Reads or makes the CA in `namespace`. `adapter` is the user name of the adapter's ServiceAccount.
    pub(crate) async fn new(
        client: Client,
        namespace: &str,
        adapter: &str,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> Result<Self, AuthorityError> {
        let ca = authority::ensure(&client, namespace, clock.wall()).await?;
        Ok(Self {
            client,
            namespace: namespace.to_owned(),
            adapter: adapter.to_owned(),
            ca,
            clock,
            metrics,
            failures: Failures::default(),
        })
    }

    /// Answers requests until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let signer = Arc::new(self);
        let run = |name: &'static str| {
            let config = watcher::Config::default().fields(&format!("spec.signerName={name}"));
            let stop = stop.clone();
            Controller::new(Api::<CertificateSigningRequest>::all(signer.client.clone()), config)
                .with_config(controller::Config::default().concurrency(CONCURRENCY))
                .graceful_shutdown_on(async move { stop.cancelled().await })
                .run(
                    |csr, signer| async move { signer.reconcile(&csr).await },
                    |csr, e, signer| on_error(&csr, e, &signer),
                    Arc::clone(&signer),
                )
                .for_each(move |result| {
                    if let Err(error) = result {
                        tracing::debug!(signer = name, %error, "a certificate request was not answered yet");
                    }
                    std::future::ready(())
                })
        };
        futures::join!(run(VEHICLE_SIGNER), run(LINK_SERVER_SIGNER));
    }

    async fn reconcile(&self, csr: &CertificateSigningRequest) -> Result<Action, SignerError> {
        if grant::is_answered(csr) {
            return Ok(Action::await_change());
        }
        let (request, der) = look_up::request(csr);
        let (found, secret) = look_up::found(&self.client, &self.namespace, &request).await?;
        let decision = decide::decide(&request, &found, &self.adapter);
        let outcome = self.carry_out(csr, &der, decision, secret).await?;
        self.metrics.certificate(&csr.spec.signer_name, outcome);
        self.failures.succeeded(&csr.name_any());
        Ok(Action::await_change())
    }
}

fn on_error(csr: &CertificateSigningRequest, error: &SignerError, signer: &Signer) -> Action {
    signer
        .metrics
        .reconciled("CertificateSigningRequest", error.category(), Duration::ZERO);
    match error {
        SignerError::Raced => Action::requeue(AFTER_A_RACE),
        SignerError::Api(source) => {
            tracing::warn!(request = csr.name_any(), error = %source, "failed to answer a certificate request");
            Action::requeue(signer.failures.failed(csr.name_any()))
        }
    }
}

#[cfg(test)]
mod tests;
