//! What a car signs beside TLS: its receipts. What the operator signs: what it accepts of them. And how such a signature is checked
//! against a certificate.
//!
//! Called by the agent, by the operator, and by whoever reads a ledger. It says only whether the key in a certificate has made a
//! signature: whether that certificate is to be believed is the caller's to decide. Never: a private key in `Debug`; a car's key
//! where the operator's is meant, or the other way round, which is why their types differ.

use std::fmt;

use data_encoding::HEXLOWER;
use kerbside_core::ids::VehicleId;
use rcgen::{KeyPair, SigningKey as _};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs;

use super::{Identity, IdentityError, certificate, chain_from_pem, request, sha256, vehicle_of};

/// The kinds of keys that the link takes, each with its one way to sign.
const SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ED25519,
];

/// A key, ready to sign: a car's, or one whose certificate gives it a name that is no car's ([`String`]).
pub struct Signer<O = VehicleId> {
    key: KeyPair,
    key_id: String,
    owner: O,
    chain_pem: String,
}

impl Signer {
    /// The key of an identity.
    pub fn new(identity: &Identity) -> Result<Self, IdentityError> {
        let chain = chain_from_pem(identity.chain_pem())?;
        let leaf = chain.first().ok_or(IdentityError::EmptyChain)?;
        Ok(Self {
            key: request::key_from_pem(identity.key_pem())?,
            key_id: key_id(leaf)?,
            owner: identity.vehicle().clone(),
            chain_pem: identity.chain_pem().to_owned(),
        })
    }

    /// Whose.
    pub fn vehicle(&self) -> &VehicleId {
        &self.owner
    }
}

impl Signer<String> {
    /// A private key and the chain whose first certificate says that it is `name`'s, both PEM.
    pub fn named(key_pem: &str, chain_pem: &str, name: &str) -> Result<Self, IdentityError> {
        let key = request::key_from_pem(key_pem)?;
        let chain = chain_from_pem(chain_pem)?;
        let leaf = chain.first().ok_or(IdentityError::EmptyChain)?;
        certificate::check_key(leaf, &key)?;
        check_name(leaf, name)?;
        Ok(Self {
            key,
            key_id: key_id(leaf)?,
            owner: name.to_owned(),
            chain_pem: chain_pem.to_owned(),
        })
    }
}

impl<O> Signer<O> {
    /// Which key it is: see [`key_id`].
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The certificate that says so, and its issuers.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// Signs a message: ECDSA in DER with the hash of its curve's size, or Ed25519.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        self.key.sign(message).map_err(|source| IdentityError::Make {
            verb: "sign message",
            source,
        })
    }
}

impl<O: fmt::Debug> fmt::Debug for Signer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("key_id", &self.key_id)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

/// The name of the key in a certificate: the SHA-256 of its `SubjectPublicKeyInfo` in DER, in lower-case hex.
pub fn key_id(der: &[u8]) -> Result<String, IdentityError> {
    let certificate = certificate::parse(der)?;
    Ok(HEXLOWER.encode(&sha256(certificate.public_key().raw)))
}

/// That the one common name in a certificate's subject is `name`.
fn check_name(der: &[u8], name: &str) -> Result<(), IdentityError> {
    let certificate = certificate::parse(der)?;
    let names: Vec<&str> = certificate
        .subject()
        .iter_common_name()
        .filter_map(|found| found.as_str().ok())
        .collect();
    if names == [name] {
        return Ok(());
    }
    let names = names.join("', '");
    Err(IdentityError::Untrusted(format!(
        "it is of '{names}' and not of '{name}'"
    )))
}

/// A public key, taken from a certificate: a car's, or one with a name that is no car's ([`String`]).
#[derive(Debug, Clone)]
pub struct PublicKey<O = VehicleId> {
    /// The `subjectPublicKey` within its `SubjectPublicKeyInfo`.
    key: Vec<u8>,
    key_id: String,
    owner: O,
}

impl PublicKey {
    /// The key of the first certificate of a chain in PEM.
    pub fn from_chain_pem(pem: &str) -> Result<Self, IdentityError> {
        let chain = chain_from_pem(pem)?;
        let leaf = chain.first().ok_or(IdentityError::EmptyChain)?;
        Self::read(leaf, vehicle_of(leaf)?)
    }

    /// Whose, as its certificate says.
    pub fn vehicle(&self) -> &VehicleId {
        &self.owner
    }
}

impl PublicKey<String> {
    /// The key of the first certificate of a chain in PEM, which must say that it is `name`'s.
    pub fn named(pem: &str, name: &str) -> Result<Self, IdentityError> {
        let chain = chain_from_pem(pem)?;
        let leaf = chain.first().ok_or(IdentityError::EmptyChain)?;
        check_name(leaf, name)?;
        Self::read(leaf, name.to_owned())
    }
}

impl<O> PublicKey<O> {
    fn read(leaf: &[u8], owner: O) -> Result<Self, IdentityError> {
        let parsed = certificate::parse(leaf)?;
        Ok(Self {
            key: parsed.public_key().subject_public_key.data.to_vec(),
            key_id: key_id(leaf)?,
            owner,
        })
    }

    /// Which key it is: see [`key_id`].
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Whether it has made this signature.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let provider = aws_lc_rs::default_provider();
        let mapping = provider.signature_verification_algorithms.mapping;
        // Of each kind the first is the way in which the link signs; a key of another kind fits none of them.
        let ways = mapping.iter().filter(|(scheme, _)| SCHEMES.contains(scheme));
        ways.filter_map(|(_, algorithms)| algorithms.first())
            .any(|algorithm| algorithm.verify_signature(&self.key, message, signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use rcgen::{CertificateParams, DistinguishedName};

    use super::*;
    use crate::identity::{Ca, VEHICLE_VALIDITY, check_chain, new_key_and_csr, not_after};

    fn identity(key_pem: &str, csr_der: &[u8]) -> Identity {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let ca = Ca::generate(now).unwrap();
        let vehicle = VehicleId::from_random([9; 10]);
        let chain = ca
            .sign_vehicle(csr_der, &vehicle, "overnight", VEHICLE_VALIDITY, now)
            .unwrap();
        Identity::from_pem(key_pem, &chain, &ca.certificate_pem()).unwrap()
    }

    fn of_kind(algorithm: &'static rcgen::SignatureAlgorithm) -> Identity {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).unwrap();
        identity(&key.serialize_pem(), csr.der())
    }

    #[test]
    fn signature_of_each_kind_of_key_is_checked_by_its_certificate() {
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ED25519,
        ] {
            let identity = of_kind(algorithm);
            let signer = Signer::new(&identity).unwrap();
            let public = PublicKey::from_chain_pem(signer.chain_pem()).unwrap();
            assert_eq!(
                (public.key_id(), public.vehicle()),
                (signer.key_id(), identity.vehicle())
            );
            assert_eq!(signer.key_id().len(), 64);
            let mut signature = signer.sign(b"message").unwrap();
            assert!(public.verify(b"message", &signature));
            assert!(!public.verify(b"massage", &signature));
            *signature.last_mut().unwrap() ^= 1;
            assert!(!public.verify(b"message", &signature));
            assert!(!public.verify(b"message", b""));
        }
    }

    #[test]
    fn signature_of_one_key_is_not_that_of_another() {
        let (one, two) = (new_key_and_csr(&[]).unwrap(), new_key_and_csr(&[]).unwrap());
        let one = Signer::new(&identity(&one.key_pem, &one.csr_der)).unwrap();
        let two = Signer::new(&identity(&two.key_pem, &two.csr_der)).unwrap();
        assert_ne!(one.key_id(), two.key_id());
        let public = PublicKey::from_chain_pem(two.chain_pem()).unwrap();
        assert!(!public.verify(b"message", &one.sign(b"message").unwrap()));
    }

    #[test]
    fn private_key_is_not_in_debug() {
        let made = new_key_and_csr(&[]).unwrap();
        let signer = Signer::new(&identity(&made.key_pem, &made.csr_der)).unwrap();
        assert!(!format!("{signer:?}").contains("PRIVATE"));
    }

    #[test]
    fn ledger_key_signs_under_its_name_and_is_no_cars() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let ca = Ca::generate(now).unwrap();
        let made = new_key_and_csr(&[]).unwrap();
        let chain = ca.sign_ledger(&made.csr_der, now).unwrap();
        let signer = Signer::named(&made.key_pem, &chain, Ca::LEDGER).unwrap();
        let public = PublicKey::named(signer.chain_pem(), Ca::LEDGER).unwrap();
        assert_eq!(public.key_id(), signer.key_id());
        assert!(public.verify(b"message", &signer.sign(b"message").unwrap()));
        assert_eq!(check_chain(&chain, &ca.certificate_pem()), Ok(()));
        let leaf = chain_from_pem(&chain).unwrap().remove(0);
        assert_eq!(not_after(&leaf).unwrap(), ca.not_after());
        assert!(PublicKey::from_chain_pem(&chain).is_err());
    }

    #[test]
    fn key_of_a_car_is_not_taken_for_the_ledgers() {
        let made = new_key_and_csr(&[]).unwrap();
        let of_car = identity(&made.key_pem, &made.csr_der);
        let refused = PublicKey::named(of_car.chain_pem(), Ca::LEDGER)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains(of_car.vehicle().as_str()) && refused.contains(Ca::LEDGER),
            "{refused}"
        );
        assert!(Signer::named(of_car.key_pem(), of_car.chain_pem(), Ca::LEDGER).is_err());
        let other = new_key_and_csr(&[]).unwrap();
        let mismatch = Signer::named(&other.key_pem, of_car.chain_pem(), of_car.vehicle().as_str());
        assert_eq!(mismatch.unwrap_err(), IdentityError::KeyMismatch);
    }
}
