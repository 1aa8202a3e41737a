//! The link's certificate authority: made once, kept by the operator, signs cars, adapters and the operator's own ledger key.
//!
//! Called by the operator's signer and by tests. Never: a certificate that can sign another, or that lives longer than the CA.

use std::time::Duration;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use kerbside_core::ids::VehicleId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rustls_pki_types::CertificateDer;

use super::{IdentityError, certificate, chain_from_pem, not_after, pem_of, request, sha256};

/// How long a car's certificate holds: short enough that a lost car is soon nobody, long enough for a week underground.
pub const VEHICLE_VALIDITY: Duration = Duration::from_hours(7 * 24);

/// How long an adapter's certificate holds.
pub const SERVER_VALIDITY: Duration = Duration::from_hours(30 * 24);

const CA_VALIDITY: Duration = Duration::from_hours(10 * 365 * 24);

/// Certificates are valid from a little before they are made: cars' clocks are not ours.
const BACKDATE: Duration = Duration::from_hours(1);

/// A certificate authority with its key.
#[derive(Debug)]
pub struct Ca {
    certificate: CertificateDer<'static>,
    not_after: Timestamp,
    key_pem: Secret,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// Makes a CA that is valid for ten years.
    pub fn generate(now: Timestamp) -> Result<Self, IdentityError> {
        let key = KeyPair::generate().map_err(|source| IdentityError::Make {
            verb: "generate CA key",
            source,
        })?;
        // Two CAs of one name would make "signed by another CA" look like a broken signature.
        let name = format!("kerbside link CA {}", HEXLOWER.encode(&rand::random::<[u8; 4]>()));
        let mut params = params(&name, CA_VALIDITY, now, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(|source| IdentityError::Make {
            verb: "sign CA certificate",
            source,
        })?;
        Self::from_parts(certificate.der().clone(), key)
    }

    /// Reads a CA as [`Ca::to_pem`] wrote it.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let certificate = chain_from_pem(certificate_pem)?
            .into_iter()
            .next()
            .ok_or(IdentityError::EmptyChain)?;
        Self::from_parts(certificate, request::key_from_pem(key_pem)?)
    }

    fn from_parts(der: CertificateDer<'static>, key: KeyPair) -> Result<Self, IdentityError> {
        certificate::check_key(&der, &key)?;
        if !certificate::parse(&der)?.is_ca() {
            return Err(IdentityError::NotACa);
        }
        let key_pem = Secret(key.serialize_pem());
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|source| IdentityError::Make {
            verb: "read CA certificate",
            source,
        })?;
        Ok(Self {
            not_after: not_after(&der)?,
            certificate: der,
            key_pem,
            issuer,
        })
    }

    /// Certificate and private key as PEM, for the Secret that holds them.
    pub fn to_pem(&self) -> (String, String) {
        (self.certificate_pem(), self.key_pem.0.clone())
    }

    /// The certificate alone, for everybody.
    pub fn certificate_pem(&self) -> String {
        pem_of(std::slice::from_ref(&self.certificate))
    }

    /// What an enrolment token says about this CA.
    pub fn sha256(&self) -> [u8; 32] {
        sha256(&self.certificate)
    }

    /// The end of the CA's lifetime; no certificate that it signs lives longer.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Signs a car's certificate: common name `vehicle`, organisation `pool`, for TLS clients only. Of the request only the
    /// public key is used, and its own signature is verified. Returns the chain as PEM, the car's certificate first.
    pub fn sign_vehicle(
        &self,
        csr_der: &[u8],
        vehicle: &VehicleId,
        pool: &str,
        validity: Duration,
        now: Timestamp,
    ) -> Result<String, IdentityError> {
        let mut params = params(vehicle.as_str(), validity, now, Some(self.not_after));
        params.distinguished_name.push(DnType::OrganizationName, pool);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(csr_der, params)
    }

    /// The common name in the certificate of the key by which the operator signs what it accepts. No car has it: a VehicleId begins
    /// with `car-`.
    pub const LEDGER: &'static str = "kerbside-ledger";

    /// Signs the certificate of the operator's ledger key, named [`Ca::LEDGER`], until the end of the CA's lifetime: what it has
    /// signed is to be believed for as long as anything of this CA. Returns the chain as PEM, the key's certificate first.
    pub fn sign_ledger(&self, csr_der: &[u8], now: Timestamp) -> Result<String, IdentityError> {
        let mut params = params(Self::LEDGER, CA_VALIDITY, now, Some(self.not_after));
        // No car would dial it, and as a client it is nobody: its name is no VehicleId.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(csr_der, params)
    }

    /// Signs an adapter's serving certificate for the host names and IP addresses in `sans`; the caller has checked that it
    /// may have them. Returns the chain as PEM, the adapter's certificate first.
    pub fn sign_server(
        &self,
        csr_der: &[u8],
        sans: &[String],
        validity: Duration,
        now: Timestamp,
    ) -> Result<String, IdentityError> {
        let mut params = params("kerbside adapter", validity, now, Some(self.not_after));
        params.subject_alt_names = CertificateParams::new(sans.to_vec())
            .map_err(|source| IdentityError::Make {
                verb: "read subject alternative names",
                source,
            })?
            .subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(csr_der, params)
    }

    fn sign(&self, csr_der: &[u8], mut params: CertificateParams) -> Result<String, IdentityError> {
        let key = request::verified_key(csr_der)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
        let leaf = params
            .signed_by(&key, &self.issuer)
            .map_err(|source| IdentityError::Make {
                verb: "sign certificate",
                source,
            })?;
        Ok(pem_of(&[leaf.der().clone(), self.certificate.clone()]))
    }
}

/// Kept out of `Debug`.
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

fn params(name: &str, validity: Duration, now: Timestamp, ends_with: Option<Timestamp>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = u64::try_from(now.as_second()).unwrap_or_default();
    let end = now.saturating_add(validity.as_secs());
    let end = ends_with
        .and_then(|t| u64::try_from(t.as_second()).ok())
        .map_or(end, |limit| end.min(limit));
    params.not_before = epoch + Duration::from_secs(now.saturating_sub(BACKDATE.as_secs()));
    params.not_after = epoch + Duration::from_secs(end);
    params
}
