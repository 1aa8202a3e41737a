//! The whole life of a certificate, without TLS: made, asked for, signed, read.

use std::time::Duration;

use jiff::Timestamp;
use kerbside_core::ids::VehicleId;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use x509_parser::prelude::FromDer as _;

use super::*;

const DAY: i64 = 24 * 3600;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn days(n: i64) -> Timestamp {
    Timestamp::from_second(now().as_second() + n * DAY).unwrap()
}

fn vehicle() -> VehicleId {
    VehicleId::from_random([9; 10])
}

fn ca() -> Ca {
    Ca::generate(now()).unwrap()
}

fn signed(ca: &Ca, csr: &[u8]) -> Result<String, IdentityError> {
    ca.sign_vehicle(csr, &vehicle(), "overnight", VEHICLE_VALIDITY, now())
}

#[test]
fn ca_written_and_read_signs_for_the_same_root() {
    let first = ca();
    let (certificate, key) = first.to_pem();
    let second = Ca::from_pem(&certificate, &key).unwrap();
    assert_eq!(second.sha256(), first.sha256());
    assert_eq!(second.to_pem(), (certificate, key));
    let csr = new_key_and_csr(&[]).unwrap();
    let chain = chain_from_pem(&signed(&second, &csr.csr_der).unwrap()).unwrap();
    let (_, root) = x509_parser::certificate::X509Certificate::from_der(&chain[1]).unwrap();
    let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(&chain[0]).unwrap();
    leaf.verify_signature(Some(root.public_key())).unwrap();
}

#[test]
fn ca_with_the_key_of_another_is_refused() {
    let (certificate, _) = ca().to_pem();
    let (_, key) = ca().to_pem();
    assert_eq!(
        Ca::from_pem(&certificate, &key).unwrap_err(),
        IdentityError::KeyMismatch
    );
}

#[test]
fn certificate_of_a_car_as_a_ca_is_refused() {
    let csr = new_key_and_csr(&[]).unwrap();
    let chain = signed(&ca(), &csr.csr_der).unwrap();
    assert_eq!(Ca::from_pem(&chain, &csr.key_pem).unwrap_err(), IdentityError::NotACa);
}

#[test]
fn certificate_of_a_car_says_who_it_is_and_is_for_clients_only() {
    let csr = new_key_and_csr(&[]).unwrap();
    let chain = chain_from_pem(&signed(&ca(), &csr.csr_der).unwrap()).unwrap();
    assert_eq!(vehicle_of(&chain[0]).unwrap(), vehicle());
    let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(&chain[0]).unwrap();
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !leaf.is_ca());
    assert_eq!(
        leaf.subject().iter_organization().next().unwrap().as_str().unwrap(),
        "overnight"
    );
}

#[test]
fn request_that_asks_to_be_somebody_else_is_signed_as_who_it_is() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["adapter.example".to_owned()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "car-aaaaaaaaaaaaaaaa");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:masters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&key).unwrap();
    let chain = chain_from_pem(&signed(&ca(), csr.der()).unwrap()).unwrap();
    assert_eq!(vehicle_of(&chain[0]).unwrap(), vehicle());
    let (_, leaf) = x509_parser::certificate::X509Certificate::from_der(&chain[0]).unwrap();
    assert!(!leaf.is_ca() && leaf.subject_alternative_name().unwrap().is_none());
    assert!(!leaf.subject().to_string().contains("masters"));
}

#[test]
fn request_with_a_changed_signature_is_refused() {
    let mut csr = new_key_and_csr(&[]).unwrap().csr_der;
    let last = csr.len() - 1;
    csr[last] ^= 1;
    assert_eq!(signed(&ca(), &csr).unwrap_err(), IdentityError::RequestSignature);
}

#[test]
fn request_with_bytes_after_its_end_is_refused() {
    let mut csr = new_key_and_csr(&[]).unwrap().csr_der;
    csr.push(0);
    assert!(matches!(signed(&ca(), &csr), Err(IdentityError::Request(_))));
}

#[test]
fn request_with_a_key_of_another_kind_is_refused() {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap();
    assert_eq!(signed(&ca(), csr.der()).unwrap_err(), IdentityError::KeyKind);
}

#[test]
fn request_of_an_adapter_carries_its_names_there_and_back() {
    let names = ["adapter.example".to_owned(), "10.0.0.1".to_owned(), "::1".to_owned()];
    let csr = new_key_and_csr(&names).unwrap();
    let der = csr_from_pem(csr_pem(&csr.csr_der).as_bytes()).unwrap();
    assert_eq!(der, csr.csr_der);
    assert_eq!(sans_of_csr(&der).unwrap(), names);
    let ca = ca();
    let chain = ca.sign_server(&der, &names, SERVER_VALIDITY, now()).unwrap();
    let identity = ServerIdentity::from_pem(&csr.key_pem, &chain, &ca.certificate_pem()).unwrap();
    assert_eq!(identity.not_after(), days(30));
}

#[test]
fn server_identity_without_its_ca_in_the_chain_gets_it() {
    let ca = ca();
    let csr = new_key_and_csr(&["a.example".to_owned()]).unwrap();
    let chain = ca
        .sign_server(&csr.csr_der, &["a.example".to_owned()], SERVER_VALIDITY, now())
        .unwrap();
    let leaf = pem_of(&chain_from_pem(&chain).unwrap()[..1]);
    let identity = ServerIdentity::from_pem(&csr.key_pem, &leaf, &ca.certificate_pem()).unwrap();
    assert_eq!(identity.chain.len(), 2);
}

#[test]
fn certificate_is_renewed_at_two_thirds_and_never_outlives_its_ca() {
    let csr = new_key_and_csr(&[]).unwrap();
    let ca = ca();
    let identity =
        Identity::from_pem(&csr.key_pem, &signed(&ca, &csr.csr_der).unwrap(), &ca.certificate_pem()).unwrap();
    assert_eq!(identity.vehicle(), &vehicle());
    assert_eq!(identity.not_after(), days(7));
    assert!(identity.renew_at() > days(4) && identity.renew_at() < days(5));
    let long = Duration::from_hours(24 * 365 * 20);
    let chain = ca.sign_vehicle(&csr.csr_der, &vehicle(), "p", long, now()).unwrap();
    assert_eq!(not_after(&chain_from_pem(&chain).unwrap()[0]).unwrap(), ca.not_after());
}

#[test]
fn identity_with_the_key_of_another_is_refused() {
    let ca = ca();
    let (one, two) = (new_key_and_csr(&[]).unwrap(), new_key_and_csr(&[]).unwrap());
    let chain = signed(&ca, &one.csr_der).unwrap();
    let refused = Identity::from_pem(&two.key_pem, &chain, &ca.certificate_pem()).unwrap_err();
    assert_eq!(refused, IdentityError::KeyMismatch);
}

#[test]
fn identity_of_no_car_is_refused() {
    let ca = ca();
    let csr = new_key_and_csr(&[]).unwrap();
    let chain = ca
        .sign_server(&csr.csr_der, &["a.example".to_owned()], SERVER_VALIDITY, now())
        .unwrap();
    let refused = Identity::from_pem(&csr.key_pem, &chain, &ca.certificate_pem()).unwrap_err();
    assert!(refused.to_string().contains("VehicleId"), "{refused}");
}

#[rstest::rstest]
#[case("")]
#[case("not pem at all")]
#[case("-----BEGIN CERTIFICATE-----\nAAAA")]
fn text_that_holds_no_certificate_is_refused(#[case] text: &str) {
    assert!(chain_from_pem(text).is_err());
}

#[test]
fn bytes_that_are_no_certificate_are_refused() {
    assert!(vehicle_of(b"\x30\x03\x02\x01\x01").is_err());
    assert!(not_after(b"").is_err());
}

#[test]
fn secrets_are_not_in_debug() {
    let ca = ca();
    let csr = new_key_and_csr(&[]).unwrap();
    let identity =
        Identity::from_pem(&csr.key_pem, &signed(&ca, &csr.csr_der).unwrap(), &ca.certificate_pem()).unwrap();
    let shown = format!("{ca:?} {csr:?} {identity:?}");
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
}
