//! Keys made by `openssl`: `ecparam -genkey`, `genpkey -algorithm ed25519`, and what is not taken.

use rstest::rstest;

use super::*;

const ALICE: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE89SDSAdCxR0qhnI1slfD2jXI3Umu
Zw4/GWQWPQgc7bGym5SiVM/fuoywuXA6RCmfcPeLvVpa8mKakWIQlczkPQ==
-----END PUBLIC KEY-----
";
const BOB: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAAPmqlBS8i3zkkyVyFQNoZJd1pWcFzW83r5vLsXzH6sM=
-----END PUBLIC KEY-----
";
const P384: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEVY9lIntP668WH0emnsyTNeouvBXSJTqk
XYO8DLe6uYlREWMx6d31hu0QlpHCA+EDkVDgYz2qIFqRDht1rzC3mbHp1pkeCXlj
105n1pc+WPnSY9ZuP3iq51YG0YKGte9H
-----END PUBLIC KEY-----
";

#[test]
fn keys_of_both_kinds_are_read() {
    let Ok(PublicKey::P256(point)) = PublicKey::from_pem(ALICE) else {
        panic!("{:?}", PublicKey::from_pem(ALICE));
    };
    assert_eq!((point[0], point[1], point[64]), (0x04, 0xf3, 0x3d));
    let Ok(PublicKey::Ed25519(key)) = PublicKey::from_pem(BOB) else {
        panic!("{:?}", PublicKey::from_pem(BOB));
    };
    assert_eq!((key[0], key[1], key[31]), (0x00, 0xf9, 0xc3));
    // As a folded scalar of YAML gives it.
    assert_eq!(
        PublicKey::from_pem(&ALICE.replace('\n', " ")),
        PublicKey::from_pem(ALICE)
    );
    assert_eq!(
        PublicKey::from_pem(&ALICE.replace('\n', "\r\n")),
        PublicKey::from_pem(ALICE)
    );
}

#[rstest]
#[case::empty(String::new(), "no public key")]
#[case::private("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n".to_owned(), "private key")]
#[case::certificate("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), "certificate")]
#[case::another_curve(P384.to_owned(), "ECDSA on P-256")]
#[case::cut_off(ALICE.replace(END, ""), "no public key")]
#[case::damaged(ALICE.replace("MFkw", "MF?w"), "not base64")]
#[case::a_byte_less(ALICE.replace("kPQ==", "kA=="), "damaged")]
#[case::two(ALICE.repeat(2), "damaged")]
fn what_is_no_such_key_is_refused_with_the_reason(#[case] text: String, #[case] says: &str) {
    let message = PublicKey::from_pem(&text).unwrap_err();
    assert!(message.contains(says), "{message}");
}

#[test]
fn point_that_is_compressed_or_too_short_is_of_no_kind_that_is_taken() {
    for len in [33, 64, 66] {
        let der = [P256, &vec![2_u8; len][..]].concat();
        let text = format!("{BEGIN}\n{}\n{END}\n", BASE64.encode(&der));
        assert!(PublicKey::from_pem(&text).unwrap_err().contains("not taken"));
    }
    let der = [P256, &[5_u8; 65]].concat();
    let text = format!("{BEGIN}\n{}\n{END}\n", BASE64.encode(&der));
    assert!(PublicKey::from_pem(&text).unwrap_err().contains("not taken"));
}

#[rstest]
#[case::no_name(r#"{"name": " ", "publicKey": KEY}"#, "1 to 63")]
#[case::long(
    r#"{"name": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "publicKey": KEY}"#,
    "1 to 63"
)]
#[case::line(r#"{"name": "a\nb", "publicKey": KEY}"#, "1 to 63")]
#[case::no_key(r#"{"name": "a"}"#, "publicKey")]
#[case::more(r#"{"name": "a", "publicKey": KEY, "until": 1}"#, "until")]
fn publisher_that_says_too_little_or_too_much_is_refused(#[case] json: &str, #[case] says: &str) {
    let key = serde_json::to_string(ALICE).unwrap();
    let message = serde_json::from_str::<Publisher>(&json.replace("KEY", &key))
        .unwrap_err()
        .to_string();
    assert!(message.contains(says), "{message}");
}
