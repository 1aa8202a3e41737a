//! The token by which a broker lets the agent in: read from a file that somebody else renews.
//!
//! Nobody checks it here: that is the broker's. Its end is read, so that a new one is used before the old one has ended, for a broker that
//! notices an end breaks the subscription off.

use std::path::Path;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use serde::Deserialize;

/// A token, as it is shown. Its text is in no log.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token {
    text: String,
    expires: Option<Timestamp>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<i64>,
}

impl Token {
    /// Reads one. The error is a sentence, without the token.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!("{} holds no token", path.display()));
        }
        Ok(Self {
            text: text.to_owned(),
            expires: expires(text),
        })
    }

    /// The value of the header.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.text)
    }

    /// After which time a new one should be looked for: four fifths of what is left. `None`: it does not say when it ends.
    pub(super) fn renew_in(&self, now: Timestamp) -> Option<Duration> {
        let left = self.expires?.duration_since(now);
        Some(Duration::try_from(left).unwrap_or_default().mul_f64(0.8))
    }
}

/// A token in another form than JWT, or without an end, has none that is known.
fn expires(text: &str) -> Option<Timestamp> {
    let payload = text.split('.').nth(1)?;
    let json = BASE64URL_NOPAD.decode(payload.trim_end_matches('=').as_bytes()).ok()?;
    let claims: Claims = serde_json::from_slice(&json).ok()?;
    Timestamp::from_second(claims.exp?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token that ends then; nobody signed it.
    fn token(name: &str, expires: Option<i64>) -> String {
        let payload = expires.map_or_else(|| "{}".to_owned(), |exp| format!("{{\"exp\":{exp}}}"));
        format!("{name}.{}.c2ln", BASE64URL_NOPAD.encode(payload.as_bytes()))
    }

    #[expect(
        clippy::unwrap_in_result,
        reason = "a temporary directory that cannot be made fails the test"
    )]
    fn read(text: &str) -> Result<Token, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, text).unwrap();
        Token::read(&path)
    }

    #[test]
    fn token_is_renewed_at_four_fifths_of_what_is_left_of_it() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let read = read(&format!("{}\n", token("a", Some(1_800_000_100)))).unwrap();
        assert_eq!(read.renew_in(now), Some(Duration::from_secs(80)));
        let late = Timestamp::from_second(1_800_000_200).unwrap();
        assert_eq!(read.renew_in(late), Some(Duration::ZERO));
        assert!(read.header().starts_with("Bearer a."));
        assert!(!format!("{read:?}").contains("a."), "it is in no log");
    }

    #[test]
    fn token_without_a_known_end_is_used_until_it_is_refused() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        for text in ["opaque", &token("a", None), "a.%%%.b", "a.e30.b"] {
            assert_eq!(read(text).unwrap().renew_in(now), None, "{text}");
        }
    }

    #[test]
    fn file_without_a_token_says_so() {
        assert!(read(" \n").unwrap_err().contains("holds no token"));
        assert!(read("two words").unwrap_err().contains("holds no token"));
        assert!(
            Token::read(Path::new("/nonexistent/token"))
                .unwrap_err()
                .contains("/nonexistent/token")
        );
    }
}
