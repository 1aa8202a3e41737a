//! Reads certificates: whose they are, how long they hold.
//!
//! Called wherever a certificate arrives. It reads only: whether a certificate is to be believed is decided by the TLS
//! handshake against the link's CA before anything here is asked.

use data_encoding::BASE64;
use jiff::Timestamp;
use kerbside_core::ids::VehicleId;
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::IdentityError;

/// The certificates of a PEM text, in order; at least one.
pub fn chain_from_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| IdentityError::Pem {
            what: "certificates",
            why: e.to_string(),
        })?;
    if chain.is_empty() {
        return Err(IdentityError::EmptyChain);
    }
    Ok(chain)
}

/// Certificates as PEM, in order.
pub fn pem_of(chain: &[CertificateDer<'_>]) -> String {
    chain.iter().map(|der| encode_pem("CERTIFICATE", der)).collect()
}

pub(super) fn encode_pem(label: &str, der: &[u8]) -> String {
    let body = BASE64.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII, so every index is a character's.
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END ");
    pem.push_str(label);
    pem.push_str("-----\n");
    pem
}

/// The SHA-256 of a certificate's DER.
pub fn sha256(der: &[u8]) -> [u8; 32] {
    Sha256::digest(der).into()
}

/// The car whose certificate this is: the one common name of its subject.
pub fn vehicle_of(der: &[u8]) -> Result<VehicleId, IdentityError> {
    let certificate = parse(der)?;
    let mut names = certificate.subject().iter_common_name();
    let name = names
        .next()
        .ok_or_else(|| IdentityError::NotAVehicle("the subject has no common name".to_owned()))?;
    if names.next().is_some() {
        return Err(IdentityError::NotAVehicle(
            "the subject has more than one common name".to_owned(),
        ));
    }
    let name = name.as_str().map_err(|e| IdentityError::NotAVehicle(e.to_string()))?;
    name.parse()
        .map_err(|e: kerbside_core::ids::IdError| IdentityError::NotAVehicle(e.to_string()))
}

/// The end of a certificate's lifetime.
pub fn not_after(der: &[u8]) -> Result<Timestamp, IdentityError> {
    Ok(lifetime(der)?.1)
}

/// When two thirds of a certificate's lifetime are over: the time to ask for the next.
pub fn renew_at(der: &[u8]) -> Result<Timestamp, IdentityError> {
    let (from, to) = lifetime(der)?;
    let length = to.as_second().saturating_sub(from.as_second());
    seconds(from.as_second().saturating_add(length / 3 * 2))
}

/// The beginning of a certificate's lifetime.
pub(super) fn not_before(der: &[u8]) -> Result<Timestamp, IdentityError> {
    Ok(lifetime(der)?.0)
}

fn lifetime(der: &[u8]) -> Result<(Timestamp, Timestamp), IdentityError> {
    let certificate = parse(der)?;
    let validity = certificate.validity();
    Ok((
        seconds(validity.not_before.timestamp())?,
        seconds(validity.not_after.timestamp())?,
    ))
}

fn seconds(second: i64) -> Result<Timestamp, IdentityError> {
    Timestamp::from_second(second).map_err(|e| IdentityError::Certificate(e.to_string()))
}

pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|e| IdentityError::Certificate(e.to_string()))?;
    if !rest.is_empty() {
        return Err(IdentityError::Certificate("there are bytes after its end".to_owned()));
    }
    Ok(certificate)
}

pub(super) fn check_key(der: &[u8], key: &KeyPair) -> Result<(), IdentityError> {
    if parse(der)?.public_key().subject_public_key.data.as_ref() == key.public_key_raw() {
        Ok(())
    } else {
        Err(IdentityError::KeyMismatch)
    }
}
