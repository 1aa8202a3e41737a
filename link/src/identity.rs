//! Who is who on the link: the CA, cars' and adapters' certificates, enrolment tokens.
//!
//! Called by the operator (signs), the adapter (reads and serves), the car (asks) and `kubectl fleet` (prints tokens). No file,
//! no socket and no clock here: the caller brings bytes and the time. Never: a certificate whose contents come from anything
//! in the request but its public key.

mod ca;
mod certificate;
mod request;
mod signing;
#[cfg(test)]
mod tests;
mod token;
mod trust;

pub use ca::{Ca, SERVER_VALIDITY, VEHICLE_VALIDITY};
pub use certificate::{chain_from_pem, not_after, pem_of, renew_at, sha256, vehicle_of};
pub use request::{KeyAndCsr, csr_from_pem, csr_pem, new_key_and_csr, sans_of_csr};
pub use signing::{PublicKey, Signer, key_id};
pub use token::{EnrolmentToken, TokenError, secret_hash};
pub use trust::{cas_from_pem, check_chain};

use jiff::Timestamp;
use kerbside_core::ids::VehicleId;
use rustls_pki_types::CertificateDer;

/// What can be wrong with a key, a request or a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not PEM, or PEM of something else.
    #[error("failed to read {what} from PEM: {why}")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// What is wrong with the text.
        why: String,
    },
    /// Not an X.509 certificate.
    #[error("failed to parse certificate: {0}")]
    Certificate(String),
    /// Not a PKCS#10 request.
    #[error("failed to parse certificate request: {0}")]
    Request(String),
    /// The request was not signed by the key it carries.
    #[error("failed to verify certificate request: its signature was not made by the key it carries")]
    RequestSignature,
    /// A kind of key that the link does not take.
    #[error("failed to accept key: use ECDSA P-256, ECDSA P-384 or Ed25519")]
    KeyKind,
    /// Certificate and key do not belong together.
    #[error("failed to load identity: the private key does not belong to the certificate")]
    KeyMismatch,
    /// The certificate may not sign others.
    #[error("failed to load CA: the certificate is not a CA certificate")]
    NotACa,
    /// The certificate's subject is not a car.
    #[error("failed to read VehicleId from certificate: {0}")]
    NotAVehicle(String),
    /// Nothing was given where a certificate is needed.
    #[error("failed to read certificate chain: it is empty")]
    EmptyChain,
    /// A certificate does not lead to the link's CA.
    #[error("failed to trust certificate: {0}")]
    Untrusted(String),
    /// The library that makes keys and certificates refused.
    #[error("failed to {verb}")]
    Make {
        /// What was tried.
        verb: &'static str,
        /// Why it failed.
        #[source]
        source: rcgen::Error,
    },
}

/// What a car shows and trusts: its key, its certificate chain and the link's CA, all PEM.
#[derive(Clone)]
pub struct Identity {
    vehicle: VehicleId,
    not_after: Timestamp,
    renew_at: Timestamp,
    key_pem: String,
    chain_pem: String,
    ca_pem: String,
}

impl Identity {
    /// Reads and checks the three PEM texts; the chain begins with the car's own certificate.
    pub fn from_pem(key_pem: &str, chain_pem: &str, ca_pem: &str) -> Result<Self, IdentityError> {
        let chain = chain_from_pem(chain_pem)?;
        let leaf = chain.first().ok_or(IdentityError::EmptyChain)?;
        certificate::check_key(leaf, &request::key_from_pem(key_pem)?)?;
        chain_from_pem(ca_pem)?;
        Ok(Self {
            vehicle: vehicle_of(leaf)?,
            not_after: not_after(leaf)?,
            renew_at: renew_at(leaf)?,
            key_pem: key_pem.to_owned(),
            chain_pem: chain_pem.to_owned(),
            ca_pem: ca_pem.to_owned(),
        })
    }

    /// The car that this identity is.
    pub fn vehicle(&self) -> &VehicleId {
        &self.vehicle
    }

    /// From then on nobody accepts it.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// From then on it should be renewed.
    pub fn renew_at(&self) -> Timestamp {
        self.renew_at
    }

    /// The private key, PKCS#8 PEM. Secret.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The car's certificate and then its issuers.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The link's CA.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("vehicle", &self.vehicle)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What an adapter shows and trusts: its key, its certificate chain and the link's CA, all PEM.
#[derive(Clone)]
pub struct ServerIdentity {
    pub(crate) key_pem: String,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) ca: Vec<CertificateDer<'static>>,
    not_after: Timestamp,
    renew_at: Timestamp,
}

impl ServerIdentity {
    /// Reads and checks the three PEM texts; the CA is added to the chain if it is not there, for cars that enrol know only
    /// its hash and must see it.
    pub fn from_pem(key_pem: &str, chain_pem: &str, ca_pem: &str) -> Result<Self, IdentityError> {
        let mut chain = chain_from_pem(chain_pem)?;
        let ca = chain_from_pem(ca_pem)?;
        let leaf = chain.first().ok_or(IdentityError::EmptyChain)?;
        certificate::check_key(leaf, &request::key_from_pem(key_pem)?)?;
        let (not_after, renew_at) = (not_after(leaf)?, renew_at(leaf)?);
        for issuer in &ca {
            if !chain.contains(issuer) {
                chain.push(issuer.clone());
            }
        }
        Ok(Self {
            key_pem: key_pem.to_owned(),
            chain,
            ca,
            not_after,
            renew_at,
        })
    }

    /// From then on no car accepts it.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// From then on it should be replaced.
    pub fn renew_at(&self) -> Timestamp {
        self.renew_at
    }
}

impl std::fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerIdentity")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}
