//! Whether a certificate request is granted: pure, one function, every refusal with a reason and a sentence for people.
//!
//! Called by the signer with everything that it has read. Never: a grant on the word of the request alone; a name, pool or label
//! that comes from the car.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kerbside_core::ids::VehicleId;
use kerbside_k8s::csr::{LINK_SERVER_SIGNER, VEHICLE_SIGNER};

use super::token::{Token, TokenFault};

/// What is asked, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// `kerbside.dev/vehicle` or `kerbside.dev/link-server`.
    pub(crate) signer: String,
    /// Who made the object, as the API server authenticated it.
    pub(crate) user: String,
    /// What the certificate is to be used for.
    pub(crate) usages: Vec<String>,
    /// When the object was made; a token's expiry is held against it, so that a slow signer does not make a token expire.
    pub(crate) created: Timestamp,
    /// The SHA-256 of the public key, hex, or why there is none.
    pub(crate) key: Result<String, String>,
    /// Host names and addresses in the request; only the adapter's are read.
    pub(crate) sans: Vec<String>,
    /// From the annotations: the token's public half and the hash of its secret half.
    pub(crate) token: Option<(String, String)>,
    /// From the annotations: the car that wants to renew.
    pub(crate) renews: Option<String>,
}

/// What was found for the request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// The token's Secret.
    pub(crate) token: Option<Result<Token, TokenFault>>,
    /// The token's pool exists.
    pub(crate) pool_exists: bool,
    /// The Vehicle that the token made before, or that renews.
    pub(crate) vehicle: Option<KnownVehicle>,
}

/// What matters of a Vehicle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownVehicle {
    pub(crate) id: VehicleId,
    pub(crate) pool: String,
    pub(crate) revoked: bool,
    /// A telemetry gateway shows it: no agent was enrolled.
    pub(crate) without_agent: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// A new car: mark the token with `vehicle` (chosen now if `None`), make its Vehicle, sign.
    Enrol {
        vehicle: Option<VehicleId>,
        pool: String,
        labels: BTreeMap<String, String>,
        key: String,
    },
    /// A known car: sign.
    Renew { vehicle: VehicleId, pool: String },
    /// The adapter: sign for these names.
    Serve { sans: Vec<String> },
    /// No, and why.
    Deny(Refusal),
}

/// A refusal: the CSR's condition, and what the car's owner reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

fn deny(reason: &'static str, message: impl Into<String>) -> Decision {
    Decision::Deny(Refusal {
        reason,
        message: message.into(),
    })
}

/// Decides. `adapter` is the user name of the adapter: nobody else may ask, since it is the adapter that saw the token or the
/// certificate.
pub(crate) fn decide(request: &Request, found: &Found, adapter: &str) -> Decision {
    if request.user != adapter {
        let message = format!(
            "requests for {} are taken from '{adapter}' only, not from '{}'",
            request.signer, request.user
        );
        return deny("RequesterNotAllowed", message);
    }
    let key = match &request.key {
        Ok(key) => key,
        Err(why) => return deny("RequestInvalid", why.clone()),
    };
    match request.signer.as_str() {
        VEHICLE_SIGNER => {
            if let Some(refusal) = usages_refused(request, "client auth") {
                return refusal;
            }
            match (&request.token, &request.renews) {
                (Some((id, hash)), None) => enrol(request, found, id, hash, key),
                (None, Some(vehicle)) => renew(found, vehicle),
                _ => deny(
                    "RequestInvalid",
                    "the request needs either a token or the vehicle that it renews, not both",
                ),
            }
        }
        LINK_SERVER_SIGNER => {
            if let Some(refusal) = usages_refused(request, "server auth") {
                return refusal;
            }
            if request.sans.is_empty() {
                return deny(
                    "NamesMissing",
                    "the request names no host; start the adapter with --link-name",
                );
            }
            Decision::Serve {
                sans: request.sans.clone(),
            }
        }
        other => deny("SignerUnknown", format!("'{other}' is not a signer of Kerbside")),
    }
}

fn usages_refused(request: &Request, purpose: &str) -> Option<Decision> {
    let other = request
        .usages
        .iter()
        .find(|u| *u != "digital signature" && *u != purpose)?;
    let message = format!("the usage '{other}' is not given; ask for 'digital signature' and '{purpose}'");
    Some(deny("UsageNotAllowed", message))
}

fn enrol(request: &Request, found: &Found, id: &str, hash: &str, key: &str) -> Decision {
    let token = match &found.token {
        None => {
            let message = format!("there is no enrolment token '{id}'; it was deleted, or belongs to another cluster");
            return deny("TokenUnknown", message);
        }
        Some(Err(fault)) => {
            return deny(
                "TokenBroken",
                format!("the Secret of token '{id}' cannot be used: {fault}"),
            );
        }
        Some(Ok(token)) => token,
    };
    if !same(token.hash.as_bytes(), hash.as_bytes()) {
        let message = format!("the secret of token '{id}' is wrong; copy the token again as it was printed");
        return deny("TokenInvalid", message);
    }
    if let Some(used) = &token.used {
        // The same key is the same car, whose answer was lost on the way or was not written yet: it gets what it was given.
        if !same(used.key.as_bytes(), key.as_bytes()) {
            return deny(
                "TokenUsed",
                format!("token '{id}' was used before; each car needs a token of its own"),
            );
        }
        if found.vehicle.as_ref().is_some_and(|v| v.revoked) {
            return deny(
                "VehicleRevoked",
                format!("{} was revoked; enrol the car with a new token", used.by),
            );
        }
        if found.vehicle.as_ref().is_some_and(|v| v.without_agent) {
            let message = format!(
                "token '{id}' is marked with {}, which is a Vehicle without an agent; enrol the car with a new token",
                used.by
            );
            return deny("VehicleWithoutAgent", message);
        }
    }
    if request.created > token.expires {
        return deny(
            "TokenExpired",
            format!("token '{id}' expired at {}; make a new one", token.expires),
        );
    }
    if !found.pool_exists {
        let message = format!(
            "the token is for VehiclePool '{}', which does not exist; make it and try again",
            token.pool
        );
        return deny("PoolNotFound", message);
    }
    Decision::Enrol {
        vehicle: token.used.as_ref().map(|u| u.by.clone()),
        pool: token.pool.clone(),
        labels: token.labels.clone(),
        key: key.to_owned(),
    }
}

fn renew(found: &Found, asked: &str) -> Decision {
    match &found.vehicle {
        Some(v) if v.revoked => deny(
            "VehicleRevoked",
            format!("{} was revoked; enrol the car with a new token", v.id),
        ),
        Some(v) if v.without_agent => deny(
            "VehicleWithoutAgent",
            format!(
                "{} is a Vehicle without an agent; enrol the car with a token to get another",
                v.id
            ),
        ),
        Some(v) => Decision::Renew {
            vehicle: v.id.clone(),
            pool: v.pool.clone(),
        },
        None => {
            let asked: String = asked.chars().take(40).collect();
            deny(
                "VehicleUnknown",
                format!("there is no Vehicle '{asked}'; enrol the car with a new token"),
            )
        }
    }
}

/// Compares in a time that does not tell where two texts differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

#[cfg(test)]
mod tests;
