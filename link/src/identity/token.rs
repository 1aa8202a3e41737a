//! Enrolment tokens: what `kubectl fleet enrol` prints and a car trades for its first certificate.
//!
//! `kb1.<id>.<secret, base32>.<SHA-256 of the link's CA, hex>`. The cluster keeps the secret's hash only, the car needs nothing
//! else to know whom it talks to. Never: a secret in a log; neither `Debug` nor an error shows it.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use sha2::{Digest as _, Sha256};

/// A string that is not an enrolment token. It does not repeat the token, which is a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failed to read enrolment token: {0}; copy it again as `kubectl fleet enrol` printed it")]
pub struct TokenError(&'static str);

/// A one-time enrolment token.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentToken {
    id: String,
    secret: [u8; 32],
    ca_sha256: [u8; 32],
}

impl EnrolmentToken {
    /// A new random token for the link whose CA has this hash.
    pub fn generate(ca_sha256: [u8; 32]) -> Self {
        // 50 bits name the Secret, the other 256 protect it.
        let id = BASE32_NOPAD.encode(&rand::random::<[u8; 10]>()).to_ascii_lowercase();
        let id = id.chars().take(10).collect();
        Self {
            id,
            secret: rand::random(),
            ca_sha256,
        }
    }

    /// The public half: part of the name of the Secret that holds the hash.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The secret half as it goes over the link: base32.
    pub fn secret_text(&self) -> String {
        BASE32_NOPAD.encode(&self.secret).to_ascii_lowercase()
    }

    /// What the cluster keeps of the secret: the SHA-256 of its 32 bytes, lower-case hex.
    pub fn secret_hash(&self) -> String {
        HEXLOWER.encode(&Sha256::digest(self.secret))
    }

    /// The SHA-256 of the DER of the link's CA.
    pub fn ca_sha256(&self) -> [u8; 32] {
        self.ca_sha256
    }
}

/// The hash of a secret as it came over the link in base32: the SHA-256 of its 32 bytes, lower-case hex.
pub fn secret_hash(secret_text: &str) -> Result<String, TokenError> {
    Ok(HEXLOWER.encode(&Sha256::digest(decode_secret(secret_text)?)))
}

fn decode_secret(text: &str) -> Result<[u8; 32], TokenError> {
    const WRONG: TokenError = TokenError("its secret is not 32 bytes in base32");
    let bytes = BASE32_NOPAD
        .decode(text.to_ascii_uppercase().as_bytes())
        .map_err(|_| WRONG)?;
    bytes.try_into().map_err(|_| WRONG)
}

/// The id names a Kubernetes object.
fn is_id(id: &str) -> bool {
    (1..=40).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

impl fmt::Display for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kb1.{}.{}.{}",
            self.id,
            self.secret_text(),
            HEXLOWER.encode(&self.ca_sha256)
        )
    }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl FromStr for EnrolmentToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        if parts.next() != Some("kb1") {
            return Err(TokenError("it does not begin with 'kb1.'"));
        }
        let (Some(id), Some(secret), Some(ca), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(TokenError("it has not four parts"));
        };
        if !is_id(id) {
            return Err(TokenError("its id is not 1 to 40 of a-z and 0-9"));
        }
        let ca_sha256 = HEXLOWER
            .decode(ca.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(TokenError("its last part is not a SHA-256 in hex"))?;
        Ok(Self {
            id: id.to_owned(),
            secret: decode_secret(secret)?,
            ca_sha256,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn token_printed_and_parsed_is_the_same(ca: [u8; 32]) {
            let token = EnrolmentToken::generate(ca);
            prop_assert_eq!(&token.to_string().parse::<EnrolmentToken>().unwrap(), &token);
            prop_assert_eq!(secret_hash(&token.secret_text()).unwrap(), token.secret_hash());
        }

        #[test]
        fn token_of_any_text_never_panics(text: String) {
            let _ = text.parse::<EnrolmentToken>();
        }

        #[test]
        fn token_with_a_character_changed_is_another_or_none(at in 0usize..129, to in "[a-z2-7.]") {
            let token = EnrolmentToken::generate([7; 32]);
            let mut text = token.to_string();
            let at = at.min(text.len() - 1);
            let same = text[at..=at] == to;
            text.replace_range(at..=at, &to);
            prop_assert!(same || text.parse::<EnrolmentToken>().as_ref() != Ok(&token));
        }
    }

    #[rstest::rstest]
    #[case("", "begin")]
    #[case("kb2.a.b.c", "begin")]
    #[case("kb1.a.b", "four parts")]
    #[case("kb1.a.b.c.d", "four parts")]
    #[case("kb1.A.b.c", "id")]
    #[case("kb1.a.b.c", "SHA-256")]
    fn token_of_another_shape_is_refused(#[case] text: &str, #[case] says: &str) {
        let message = text.parse::<EnrolmentToken>().unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }

    #[test]
    fn token_in_debug_shows_no_secret() {
        let token = EnrolmentToken::generate([1; 32]);
        assert!(!format!("{token:?}").contains(&token.secret_text()));
    }
}
