//! What the signer reads before it decides: the request itself, the token's Secret, the pool, the Vehicle.
//!
//! The only step of the signer that reads. Secrets are read by name, one per enrolment; nothing is listed or watched.

use data_encoding::HEXLOWER;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use kerbside_api::v1alpha1::{Source, Vehicle, VehiclePool};
use kerbside_core::ids::VehicleId;
use kerbside_k8s::csr::{RENEWS, TOKEN_HASH, TOKEN_ID};
use kerbside_link::identity;
use kube::api::{Api, ObjectMeta};
use kube::{Client, ResourceExt};
use sha2::{Digest, Sha256};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::decide::{Found, KnownVehicle, Request};
use super::token;

/// The request as the decision needs it, and its DER for signing.
pub(super) fn request(csr: &CertificateSigningRequest) -> (Request, Vec<u8>) {
    let annotation = |key: &str| csr.annotations().get(key).cloned();
    let der = identity::csr_from_pem(&csr.spec.request.0).map_err(|e| e.to_string());
    let key = der.as_deref().map_err(Clone::clone).and_then(public_key);
    let sans = der
        .as_deref()
        .ok()
        .and_then(|der| identity::sans_of_csr(der).ok())
        .unwrap_or_default();
    let request = Request {
        signer: csr.spec.signer_name.clone(),
        user: csr.spec.username.clone().unwrap_or_default(),
        usages: csr.spec.usages.clone().unwrap_or_default(),
        created: created(&csr.metadata),
        key,
        sans,
        token: annotation(TOKEN_ID).map(|id| (id, annotation(TOKEN_HASH).unwrap_or_default())),
        renews: annotation(RENEWS),
    };
    (request, der.unwrap_or_default())
}

/// An object that the API server made always says when; without a time it counts as too late for every token.
fn created(metadata: &ObjectMeta) -> jiff::Timestamp {
    metadata
        .creation_timestamp
        .as_ref()
        .map_or(jiff::Timestamp::MAX, |t| t.0)
}

fn public_key(der: &[u8]) -> Result<String, String> {
    let (_, csr) = X509CertificationRequest::from_der(der).map_err(|e| format!("failed to parse the request: {e}"))?;
    Ok(HEXLOWER.encode(&Sha256::digest(csr.certification_request_info.subject_pki.raw)))
}

/// What there is for the request, and the token's Secret as read, for marking.
pub(super) async fn found(
    client: &Client,
    namespace: &str,
    request: &Request,
) -> Result<(Found, Option<Secret>), kube::Error> {
    let mut found = Found::default();
    if let Some(vehicle) = &request.renews {
        found.vehicle = known(client, vehicle).await?;
        return Ok((found, None));
    }
    let Some((id, _)) = request.token.as_ref().filter(|(id, _)| token::is_id(id)) else {
        return Ok((found, None));
    };
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let Some(secret) = secrets.get_opt(&token::secret_name(id)).await? else {
        return Ok((found, None));
    };
    let parsed = token::parse(&secret);
    if let Ok(token) = &parsed {
        let pools: Api<VehiclePool> = Api::all(client.clone());
        found.pool_exists = pools.get_metadata_opt(&token.pool).await?.is_some();
        if let Some(used) = &token.used {
            found.vehicle = known(client, used.by.as_str()).await?;
        }
    }
    found.token = Some(parsed);
    Ok((found, Some(secret)))
}

async fn known(client: &Client, name: &str) -> Result<Option<KnownVehicle>, kube::Error> {
    let Ok(id) = name.parse::<VehicleId>() else {
        return Ok(None);
    };
    let vehicles: Api<Vehicle> = Api::all(client.clone());
    let vehicle = vehicles
        .get_opt(id.as_str())
        .await?
        .filter(|v| v.metadata.deletion_timestamp.is_none());
    Ok(vehicle.map(|v| KnownVehicle {
        id,
        pool: v.spec.pool,
        revoked: v.spec.revoked,
        without_agent: v.spec.source == Source::Telemetry,
    }))
}
