//! Keys and certificate requests: made by cars and adapters, checked by whoever signs.
//!
//! Never: a request taken at its word. What a request asks for (subject, extensions) is not read for a car at all.

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SubjectPublicKeyInfo};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::IdentityError;
use super::certificate::encode_pem;

/// A new private key and the request that asks for its certificate.
#[derive(Clone)]
pub struct KeyAndCsr {
    /// PKCS#8 PEM. Secret.
    pub key_pem: String,
    /// PKCS#10 DER.
    pub csr_der: Vec<u8>,
}

impl std::fmt::Debug for KeyAndCsr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyAndCsr").finish_non_exhaustive()
    }
}

/// Makes an ECDSA P-256 key and a request for it. Cars give no `sans`; an adapter gives the host names and IP addresses by
/// which it is reached.
pub fn new_key_and_csr(sans: &[String]) -> Result<KeyAndCsr, IdentityError> {
    let key = KeyPair::generate().map_err(|source| IdentityError::Make {
        verb: "generate key",
        source,
    })?;
    let mut params = CertificateParams::new(sans.to_vec()).map_err(|source| IdentityError::Make {
        verb: "read subject alternative names",
        source,
    })?;
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key).map_err(|source| IdentityError::Make {
        verb: "write certificate request",
        source,
    })?;
    Ok(KeyAndCsr {
        key_pem: key.serialize_pem(),
        csr_der: csr.der().to_vec(),
    })
}

/// A request as PEM, as Kubernetes' `CertificateSigningRequest` wants it.
pub fn csr_pem(csr_der: &[u8]) -> String {
    encode_pem("CERTIFICATE REQUEST", csr_der)
}

/// The request in a PEM text.
pub fn csr_from_pem(pem: &[u8]) -> Result<Vec<u8>, IdentityError> {
    CertificateSigningRequestDer::from_pem_slice(pem)
        .map(|der| der.to_vec())
        .map_err(|e| IdentityError::Pem {
            what: "a certificate request",
            why: e.to_string(),
        })
}

/// The host names and IP addresses that an adapter's request asks for. Whoever signs decides whether it may have them.
pub fn sans_of_csr(csr_der: &[u8]) -> Result<Vec<String>, IdentityError> {
    let csr = parse(csr_der)?;
    let mut sans = Vec::new();
    for extension in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else {
            continue;
        };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => sans.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => sans.push(ip(bytes)?.to_string()),
                other => {
                    return Err(IdentityError::Request(format!(
                        "{other} is neither a host name nor an IP address"
                    )));
                }
            }
        }
    }
    Ok(sans)
}

fn ip(bytes: &[u8]) -> Result<std::net::IpAddr, IdentityError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    <[u8; 16]>::try_from(bytes)
        .map(Into::into)
        .map_err(|_| IdentityError::Request("an IP address in it has neither 4 nor 16 bytes".to_owned()))
}

fn parse(csr_der: &[u8]) -> Result<X509CertificationRequest<'_>, IdentityError> {
    let (rest, csr) = X509CertificationRequest::from_der(csr_der).map_err(|e| IdentityError::Request(e.to_string()))?;
    if !rest.is_empty() {
        return Err(IdentityError::Request("there are bytes after its end".to_owned()));
    }
    Ok(csr)
}

/// The public key of a request, once it is certain that whoever made the request holds the private one.
pub(super) fn verified_key(csr_der: &[u8]) -> Result<SubjectPublicKeyInfo, IdentityError> {
    let csr = parse(csr_der)?;
    let spki = csr.certification_request_info.subject_pki.raw;
    let key = SubjectPublicKeyInfo::from_der(spki).map_err(|_| IdentityError::KeyKind)?;
    let taken = [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
    ];
    if !taken.contains(&rcgen::PublicKeyData::algorithm(&key)) {
        return Err(IdentityError::KeyKind);
    }
    csr.verify_signature().map_err(|_| IdentityError::RequestSignature)?;
    Ok(key)
}

pub(super) fn key_from_pem(pem: &str) -> Result<KeyPair, IdentityError> {
    KeyPair::from_pem(pem).map_err(|e| IdentityError::Pem {
        what: "a private key",
        why: e.to_string(),
    })
}
