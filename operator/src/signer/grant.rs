//! Carries out what the signer decided, in an order that a crash between any two writes does no harm to.
//!
//! | write | a crash after it |
//! |---|---|
//! | token marked with VehicleId and key | the same key goes on with the same id; any other is denied |
//! | Vehicle created | creating it again finds it there; one that no agent was enrolled for is none of ours, and is decided upon anew |
//! | request approved | signing goes on |
//! | certificate written | done |
//!
//! The certificate is made first, in memory: a request that cannot be signed is refused before it costs anybody a token.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kerbside_api::v1alpha1::{Source, Vehicle, VehicleSpec};
use kerbside_core::ids::VehicleId;
use kerbside_core::names::label;
use kerbside_link::identity::{IdentityError, SERVER_VALIDITY, VEHICLE_VALIDITY};
use kube::ResourceExt;
use kube::api::{Api, PostParams};

use super::decide::{Decision, Refusal};
use super::{Signer, SignerError, token};

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

impl Signer {
    /// Carries out `decision`; returns the word for the metric.
    pub(super) async fn carry_out(
        &self,
        csr: &CertificateSigningRequest,
        der: &[u8],
        decision: Decision,
        secret: Option<Secret>,
    ) -> Result<&'static str, SignerError> {
        let now = self.clock.wall();
        let (signed, note) = match &decision {
            Decision::Deny(refusal) => return self.refuse(csr, refusal).await,
            Decision::Enrol {
                vehicle,
                pool,
                labels,
                key,
            } => {
                let id = vehicle
                    .clone()
                    .unwrap_or_else(|| VehicleId::from_random(rand::random()));
                let signed = self.ca.sign_vehicle(der, &id, pool, VEHICLE_VALIDITY, now);
                if signed.is_ok() {
                    if vehicle.is_none() {
                        self.mark(csr, secret, &id, key).await?;
                    }
                    self.create_vehicle(&id, pool, labels).await?;
                }
                (signed, format!("enrolled as {id}"))
            }
            Decision::Renew { vehicle, pool } => (
                self.ca.sign_vehicle(der, vehicle, pool, VEHICLE_VALIDITY, now),
                format!("renewed for {vehicle}"),
            ),
            Decision::Serve { sans } => (
                self.ca.sign_server(der, sans, SERVER_VALIDITY, now),
                format!("for {}", sans.join(", ")),
            ),
        };
        match signed {
            Ok(chain) => {
                let approved = self.approve(csr, &note).await?;
                self.publish(approved, chain).await?;
                tracing::info!(request = csr.name_any(), signer = %csr.spec.signer_name, note, "signed a certificate");
                Ok("signed")
            }
            Err(error) => self.refuse(csr, &unsignable(&error)).await,
        }
    }

    async fn mark(
        &self,
        csr: &CertificateSigningRequest,
        secret: Option<Secret>,
        id: &VehicleId,
        key: &str,
    ) -> Result<(), SignerError> {
        let secret = secret.ok_or(SignerError::Raced)?;
        let name = secret.name_any();
        let marked = token::mark(secret, id, &csr.name_any(), key);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        raced(secrets.replace(&name, &PostParams::default(), &marked).await).map(drop)
    }

    pub(super) async fn create_vehicle(
        &self,
        id: &VehicleId,
        pool: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), SignerError> {
        let spec = VehicleSpec {
            pool: pool.to_owned(),
            suspended: false,
            revoked: false,
            source: Source::Agent,
        };
        let mut vehicle = Vehicle::new(id.as_str(), spec);
        let mut labels = labels.clone();
        labels.insert(label::POOL.to_owned(), pool.to_owned());
        vehicle.metadata.labels = Some(labels);
        let vehicles: Api<Vehicle> = Api::all(self.client.clone());
        match vehicles.create(&PostParams::default(), &vehicle).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(s)) if s.is_already_exists() => {
                // What has this name may be a telemetry gateway's, made since it was looked up: reading anew gives the refusal.
                match vehicles.get_opt(id.as_str()).await? {
                    Some(there) if there.spec.source == Source::Agent => Ok(()),
                    _ => Err(SignerError::Raced),
                }
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn approve(
        &self,
        csr: &CertificateSigningRequest,
        note: &str,
    ) -> Result<CertificateSigningRequest, SignerError> {
        if has(csr, APPROVED) {
            return Ok(csr.clone());
        }
        let next = self.with_condition(csr, APPROVED, "KerbsideApproved", note);
        self.write("approval", &next).await
    }

    async fn publish(&self, csr: CertificateSigningRequest, chain: String) -> Result<(), SignerError> {
        let mut next = csr;
        next.status.get_or_insert_default().certificate = Some(ByteString(chain.into_bytes()));
        self.write("status", &next).await.map(drop)
    }

    async fn refuse(&self, csr: &CertificateSigningRequest, refusal: &Refusal) -> Result<&'static str, SignerError> {
        // What somebody approved by hand cannot be denied any more, but it need not be signed.
        let (subresource, condition) = if has(csr, APPROVED) {
            ("status", FAILED)
        } else {
            ("approval", DENIED)
        };
        let next = self.with_condition(csr, condition, refusal.reason, &refusal.message);
        self.write(subresource, &next).await?;
        tracing::warn!(
            request = csr.name_any(), signer = %csr.spec.signer_name, reason = refusal.reason, message = refusal.message,
            "refused a certificate"
        );
        Ok(refusal.reason)
    }

    fn with_condition(
        &self,
        csr: &CertificateSigningRequest,
        type_: &str,
        reason: &str,
        message: &str,
    ) -> CertificateSigningRequest {
        let mut next = csr.clone();
        let status: &mut CertificateSigningRequestStatus = next.status.get_or_insert_default();
        status
            .conditions
            .get_or_insert_default()
            .push(CertificateSigningRequestCondition {
                type_: type_.to_owned(),
                status: "True".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_update_time: Some(Time(self.clock.wall())),
                ..CertificateSigningRequestCondition::default()
            });
        next
    }

    async fn write(
        &self,
        subresource: &str,
        next: &CertificateSigningRequest,
    ) -> Result<CertificateSigningRequest, SignerError> {
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        raced(
            api.replace_subresource(subresource, &next.name_any(), &PostParams::default(), next)
                .await,
        )
    }
}

/// Whether the request has a condition of this type.
pub(super) fn has(csr: &CertificateSigningRequest, type_: &str) -> bool {
    let conditions = csr.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == type_))
}

/// Whether there is nothing left to do.
pub(super) fn is_answered(csr: &CertificateSigningRequest) -> bool {
    let certificate = csr.status.as_ref().and_then(|s| s.certificate.as_ref());
    certificate.is_some_and(|c| !c.0.is_empty()) || has(csr, DENIED) || has(csr, FAILED)
}

fn unsignable(error: &IdentityError) -> Refusal {
    Refusal {
        reason: "RequestInvalid",
        message: error.to_string(),
    }
}

/// A conflict means that what was read is old; a 404 that the object is gone. Both are read anew.
fn raced<K>(result: Result<K, kube::Error>) -> Result<K, SignerError> {
    match result {
        Err(kube::Error::Api(s)) if s.is_conflict() || s.is_not_found() => Err(SignerError::Raced),
        other => other.map_err(Into::into),
    }
}
