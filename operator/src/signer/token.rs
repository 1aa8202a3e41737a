//! An enrolment token as its Secret holds it: a hash, a pool, labels, an expiry, and who used it.
//!
//! Written by `kubectl fleet enrol`; the operator reads it by name and marks it used. Nothing in it lets anybody enrol a car
//! without being the adapter.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kerbside_core::ids::{PoolName, VehicleId};
use kerbside_core::names::label;

/// Keys of the Secret's data.
pub(crate) mod key {
    /// Lower-case hex SHA-256 of the token's secret half.
    pub(crate) const HASH: &str = "hash";
    /// Name of the VehiclePool.
    pub(crate) const POOL: &str = "pool";
    /// Labels for the Vehicle: a JSON object of strings.
    pub(crate) const LABELS: &str = "labels";
    /// The end of its life, RFC 3339.
    pub(crate) const EXPIRES: &str = "expires";
    /// The car that it made.
    pub(crate) const USED_BY: &str = "usedBy";
    /// The certificate request that it was used by; for people.
    pub(crate) const USED_BY_REQUEST: &str = "usedByRequest";
    /// Hex SHA-256 of the public key of the car that used it.
    pub(crate) const USED_BY_KEY: &str = "usedByKey";
}

/// The name of a token's Secret.
pub(crate) fn secret_name(id: &str) -> String {
    format!("kerbside-token-{id}")
}

/// A token's public half as it may become part of an object's name.
pub(crate) fn is_id(id: &str) -> bool {
    (1..=40).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) hash: String,
    pub(crate) pool: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) expires: Timestamp,
    pub(crate) used: Option<Used>,
}

/// Who used a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) by: VehicleId,
    pub(crate) key: String,
}

/// What is wrong with a token's Secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenFault {
    #[error("it lacks the label {}=true", label::ENROLMENT_TOKEN)]
    NotLabelled,
    #[error("its '{0}' is missing")]
    Missing(&'static str),
    #[error("its '{key}' cannot be read: {why}")]
    Unreadable { key: &'static str, why: String },
}

/// Reads a token's Secret.
pub(crate) fn parse(secret: &Secret) -> Result<Token, TokenFault> {
    let labelled = secret
        .metadata
        .labels
        .as_ref()
        .and_then(|l| l.get(label::ENROLMENT_TOKEN));
    if labelled.map(String::as_str) != Some("true") {
        return Err(TokenFault::NotLabelled);
    }
    let pool = required(secret, key::POOL)?;
    pool.parse::<PoolName>().map_err(|e| TokenFault::Unreadable {
        key: key::POOL,
        why: e.to_string(),
    })?;
    let expires = required(secret, key::EXPIRES)?
        .parse()
        .map_err(|e: jiff::Error| TokenFault::Unreadable {
            key: key::EXPIRES,
            why: e.to_string(),
        })?;
    let labels = match text(secret, key::LABELS)? {
        None => BTreeMap::new(),
        Some(json) => serde_json::from_str(&json).map_err(|e| TokenFault::Unreadable {
            key: key::LABELS,
            why: e.to_string(),
        })?,
    };
    let used = match text(secret, key::USED_BY)? {
        None => None,
        Some(by) => {
            let by = by
                .parse()
                .map_err(|e: kerbside_core::ids::IdError| TokenFault::Unreadable {
                    key: key::USED_BY,
                    why: e.to_string(),
                })?;
            // Without the key nobody is the same car, so a mark made by hand closes the token for all.
            Some(Used {
                by,
                key: text(secret, key::USED_BY_KEY)?.unwrap_or_default(),
            })
        }
    };
    Ok(Token {
        hash: required(secret, key::HASH)?,
        pool,
        labels,
        expires,
        used,
    })
}

/// `secret` marked as used; its resourceVersion stays, so that only one of two writers can win.
pub(crate) fn mark(mut secret: Secret, by: &VehicleId, request: &str, public_key: &str) -> Secret {
    let data = secret.data.get_or_insert_default();
    let mut put = |k: &str, v: &str| data.insert(k.to_owned(), ByteString(v.as_bytes().to_vec()));
    put(key::USED_BY, by.as_str());
    put(key::USED_BY_REQUEST, request);
    put(key::USED_BY_KEY, public_key);
    secret
}

fn required(secret: &Secret, key: &'static str) -> Result<String, TokenFault> {
    text(secret, key)?
        .filter(|t| !t.is_empty())
        .ok_or(TokenFault::Missing(key))
}

fn text(secret: &Secret, key: &'static str) -> Result<Option<String>, TokenFault> {
    let Some(bytes) = secret.data.as_ref().and_then(|d| d.get(key)) else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes.0.clone()).map_err(|e| TokenFault::Unreadable {
        key,
        why: e.to_string(),
    })?;
    Ok(Some(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(changes: &[(&str, Option<&str>)]) -> Secret {
        let mut data: BTreeMap<String, ByteString> = [
            (key::HASH, "ab12"),
            (key::POOL, "overnight"),
            (key::LABELS, r#"{"fleet":"acme"}"#),
            (key::EXPIRES, "2026-11-23T12:00:00Z"),
        ]
        .map(|(k, v)| (k.to_owned(), ByteString(v.into())))
        .into();
        for (k, v) in changes {
            match v {
                Some(v) => data.insert((*k).to_owned(), ByteString((*v).into())),
                None => data.remove(*k),
            };
        }
        let mut secret = Secret {
            data: Some(data),
            ..Secret::default()
        };
        secret.metadata.labels = Some([(label::ENROLMENT_TOKEN.to_owned(), "true".to_owned())].into());
        secret
    }

    #[test]
    fn token_is_read_whole() {
        let token = parse(&secret(&[])).unwrap();
        assert_eq!(
            (token.pool.as_str(), token.hash.as_str(), token.used),
            ("overnight", "ab12", None)
        );
        assert_eq!(token.labels["fleet"], "acme");
    }

    #[test]
    fn token_marked_is_read_as_used_by_that_car_and_key() {
        let id = VehicleId::from_random([3; 10]);
        let token = parse(&mark(secret(&[]), &id, "kerbside-x", "cafe")).unwrap();
        assert_eq!(
            token.used,
            Some(Used {
                by: id,
                key: "cafe".into()
            })
        );
    }

    #[rstest::rstest]
    #[case(key::HASH, None, "'hash' is missing")]
    #[case(key::HASH, Some(""), "'hash' is missing")]
    #[case(key::POOL, Some("a/b"), "'pool' cannot be read")]
    #[case(key::EXPIRES, Some("soon"), "'expires' cannot be read")]
    #[case(key::LABELS, Some("[]"), "'labels' cannot be read")]
    #[case(key::USED_BY, Some("me"), "'usedBy' cannot be read")]
    fn token_with_a_broken_field_names_it(#[case] key: &str, #[case] value: Option<&str>, #[case] says: &str) {
        let text = parse(&secret(&[(key, value)])).unwrap_err().to_string();
        assert!(text.contains(says), "{text}");
    }

    #[test]
    fn secret_that_is_not_labelled_is_no_token() {
        let mut s = secret(&[]);
        s.metadata.labels = None;
        assert_eq!(parse(&s).unwrap_err(), TokenFault::NotLabelled);
    }
}
