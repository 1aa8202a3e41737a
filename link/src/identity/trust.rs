//! Whether a certificate that is not shown in a handshake leads to the link's CA: those beside receipts, which may have expired long ago.
//!
//! Called by whoever keeps or checks a ledger. A certificate is judged at the time when it began to hold: an expired key has signed nothing
//! less well. What must never happen: a chain that the link itself would not have believed then is believed here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::certificate::not_before;
use super::{IdentityError, chain_from_pem, pem_of, sha256};

/// The certificates of some CAs, PEM, each by its fingerprint: the SHA-256 of its DER, in lower-case hex.
pub fn cas_from_pem(pem: &str) -> Result<BTreeMap<String, String>, IdentityError> {
    let one = |der: &CertificateDer<'static>| (HEXLOWER.encode(&sha256(der)), pem_of(std::slice::from_ref(der)));
    Ok(chain_from_pem(pem)?.iter().map(one).collect())
}

/// Checks that the first certificate of a chain was given out by this CA, both PEM, and for showing on the link.
pub fn check_chain(chain_pem: &str, ca_pem: &str) -> Result<(), IdentityError> {
    let untrusted = |why: String| IdentityError::Untrusted(why);
    let mut roots = RootCertStore::empty();
    for certificate in chain_from_pem(ca_pem)? {
        roots.add(certificate).map_err(|e| untrusted(e.to_string()))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|e| untrusted(e.to_string()))?;
    let chain = chain_from_pem(chain_pem)?;
    let (leaf, issuers) = chain.split_first().ok_or(IdentityError::EmptyChain)?;
    let seconds = u64::try_from(not_before(leaf)?.as_second()).unwrap_or(0);
    let then = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    verifier
        .verify_client_cert(leaf, issuers, then)
        .map(drop)
        .map_err(|e| untrusted(e.to_string()))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use kerbside_core::ids::VehicleId;

    use super::*;
    use crate::identity::{Ca, VEHICLE_VALIDITY, new_key_and_csr};

    fn chain(ca: &Ca, at: i64) -> String {
        let made = new_key_and_csr(&[]).unwrap();
        let vehicle = VehicleId::from_random([1; 10]);
        let at = Timestamp::from_second(at).unwrap();
        ca.sign_vehicle(&made.csr_der, &vehicle, "overnight", VEHICLE_VALIDITY, at)
            .unwrap()
    }

    #[test]
    fn certificate_of_the_ca_is_believed_also_when_it_has_expired() {
        let ca = Ca::generate(Timestamp::from_second(1_500_000_000).unwrap()).unwrap();
        // Years ago: every clock is beyond its end.
        let chain = chain(&ca, 1_510_000_000);
        assert_eq!(check_chain(&chain, &ca.certificate_pem()), Ok(()));
    }

    #[test]
    fn certificate_of_another_ca_is_not() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let (ca, other) = (Ca::generate(now).unwrap(), Ca::generate(now).unwrap());
        let refused = check_chain(&chain(&other, 1_800_000_000), &ca.certificate_pem());
        assert!(matches!(refused, Err(IdentityError::Untrusted(_))), "{refused:?}");
    }

    #[test]
    fn cas_are_known_by_their_fingerprints_each_once() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let (ca, other) = (Ca::generate(now).unwrap(), Ca::generate(now).unwrap());
        let text = [&ca, &other, &ca].map(Ca::certificate_pem).concat();
        let cas = cas_from_pem(&text).unwrap();
        assert_eq!(cas.len(), 2);
        assert_eq!(cas[&HEXLOWER.encode(&ca.sha256())], ca.certificate_pem());
        assert!(cas_from_pem("").is_err());
    }

    #[test]
    fn text_that_is_no_certificate_is_none() {
        let ca = Ca::generate(Timestamp::from_second(1_800_000_000).unwrap()).unwrap();
        assert!(check_chain("", &ca.certificate_pem()).is_err());
        assert!(check_chain(&ca.certificate_pem(), "").is_err());
    }
}
