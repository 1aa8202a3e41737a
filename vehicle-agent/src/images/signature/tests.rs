//! Signatures made by `openssl`: see `testdata/signatures/README.md`.

use rstest::rstest;

use super::super::registry::digest_of;
use super::*;

macro_rules! made {
    ($name:literal) => {
        include_str!(concat!("../../../testdata/signatures/", $name))
    };
}

const PAYLOAD: &str = made!("payload.json");

fn publisher(name: &str, pem: &str) -> Publisher {
    Publisher {
        name: name.to_owned(),
        public_key: PublicKey::from_pem(pem).unwrap(),
    }
}

fn alice_and_bob() -> Vec<Publisher> {
    vec![
        publisher("alice", made!("alice.pub")),
        publisher("bob", made!("bob.pub")),
    ]
}

fn judge(signature: &Signature, publishers: &[Publisher]) -> Result<String, Fault> {
    let judged = signature.judge(&digest_of(b"an image"), publishers);
    judged.map(|publisher| publisher.name.clone())
}

#[rstest]
#[case(made!("alice.sig"), Ok("alice"))]
#[case(made!("bob.sig"), Ok("bob"))]
#[case(made!("mallory.sig"), Err(Fault::OtherKey))]
#[case(made!("alice-other-type.sig"), Err(Fault::OtherKey))]
#[case("", Err(Fault::OtherKey))]
#[case(&made!("alice.sig")[..95], Err(Fault::Encoding))]
#[case(&made!("alice.sig")[..92], Err(Fault::OtherKey))]
#[case("not base64!", Err(Fault::Encoding))]
fn signature_counts_if_it_is_by_one_of_the_keys(#[case] text: &str, #[case] counts: Result<&str, Fault>) {
    let signature = Signature::of_payload(PAYLOAD.as_bytes(), text);
    assert_eq!(judge(&signature, &alice_and_bob()), counts.map(str::to_owned));
}

#[test]
fn signature_of_somebody_whom_the_owner_no_longer_names_does_not_count() {
    let signature = Signature::of_payload(PAYLOAD.as_bytes(), made!("alice.sig"));
    let mut publishers = alice_and_bob();
    publishers.remove(0);
    assert_eq!(judge(&signature, &publishers), Err(Fault::OtherKey));
    assert_eq!(judge(&signature, &[]), Err(Fault::OtherKey));
}

#[test]
fn payload_that_was_changed_is_nobodys() {
    let changed = PAYLOAD.replace("registry.example", "registry.invalid");
    let signature = Signature::of_payload(changed.as_bytes(), made!("alice.sig"));
    assert_eq!(judge(&signature, &alice_and_bob()), Err(Fault::OtherKey));
}

#[test]
fn signature_of_another_image_does_not_count_for_this_one() {
    let payload = made!("payload-other-digest.json");
    let signature = Signature::of_payload(payload.as_bytes(), made!("alice-other-digest.sig"));
    let other = digest_of(b"another image");
    assert_eq!(
        judge(&signature, &alice_and_bob()),
        Err(Fault::OtherDigest(other.clone()))
    );
    assert!(signature.judge(&other, &alice_and_bob()).is_ok());
}

#[test]
fn what_is_signed_and_no_signature_of_an_image_does_not_count() {
    let payload = made!("payload-other-type.json");
    let signature = Signature::of_payload(payload.as_bytes(), made!("alice-other-type.sig"));
    assert_eq!(judge(&signature, &alice_and_bob()), Err(Fault::OtherClaim));
}

#[test]
fn endless_signature_is_not_even_decoded() {
    let signature = Signature::of_payload(PAYLOAD.as_bytes(), &"A".repeat(LONGEST + 4));
    assert_eq!(judge(&signature, &alice_and_bob()), Err(Fault::Encoding));
}

#[rstest]
#[case(made!("bundle.json"), Ok("alice"))]
#[case(made!("bundle-attestation.json"), Err(Fault::OtherClaim))]
#[case(made!("bundle-other-digest.json"), Err(Fault::OtherDigest(digest_of(b"another image"))))]
fn bundle_counts_if_it_signs_this_image(#[case] bundle: &str, #[case] counts: Result<&str, Fault>) {
    let signatures = Signature::of_bundle(bundle.as_bytes()).unwrap();
    let [signature] = signatures.as_slice() else {
        panic!("{signatures:?}");
    };
    assert_eq!(judge(signature, &alice_and_bob()), counts.map(str::to_owned));
    let mallory = [publisher("mallory", made!("mallory.pub"))];
    assert_eq!(judge(signature, &mallory), Err(Fault::OtherKey));
}

#[rstest]
#[case::nothing("")]
#[case::no_envelope(r#"{"messageSignature": {"signature": "AAAA"}}"#)]
#[case::another_type(
    r#"{"dsseEnvelope": {"payload": "e30=", "payloadType": "text/plain", "signatures": [{"sig": "AAAA"}]}}"#
)]
fn bundle_of_another_form_is_not_read(#[case] bundle: &str) {
    assert_eq!(Signature::of_bundle(bundle.as_bytes()), Err(Fault::Form));
}

#[test]
fn of_an_envelope_with_many_signatures_the_first_are_tried() {
    let sig = r#"{"sig": "AAAA"}"#;
    let sigs = vec![sig; 1000].join(",");
    let bundle = format!(
        r#"{{"dsseEnvelope": {{"payload": "e30=", "payloadType": "{STATEMENT_IN}", "signatures": [{sigs}]}}}}"#
    );
    assert_eq!(Signature::of_bundle(bundle.as_bytes()).unwrap().len(), MOST);
}
