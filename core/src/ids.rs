//! Identifiers that cross parts, parsed once at the edge and carried as types from there on.
//!
//! Called by every crate. A value of these types is always well-formed; nothing here looks anything up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A string that is not the identifier it was read as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{value}' is not a {kind}: {rule}")]
pub struct IdError {
    value: String,
    kind: &'static str,
    rule: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(value: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> bool = $check;
                if check(value) {
                    Ok(Self(value.to_owned()))
                } else {
                    let value = value.chars().take(80).collect();
                    Err(IdError { value, kind: $kind, rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(value: String) -> Result<Self, IdError> {
                value.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

id!(
    /// The random pseudonym of one enrolled car: `car-` and 16 base32 characters (80 bits). Name of its Vehicle and its Node.
    VehicleId,
    "VehicleId",
    "it is 'car-' and 16 characters of a-z and 2-7",
    |s| s.strip_prefix("car-").is_some_and(|r| r.len() == 16 && r.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')))
);
id!(
    /// The UID of a Pod: the identity of one attempt.
    PodUid,
    "Pod UID",
    "it has 1 to 64 characters of a-z, 0-9 and '-'",
    uid
);
id!(
    /// The UID of a FleetJob.
    JobUid,
    "FleetJob UID",
    "it has 1 to 64 characters of a-z, 0-9 and '-'",
    uid
);
id!(
    /// The name of a VehiclePool; short enough for a label value.
    PoolName,
    "pool name",
    "it is a DNS label of at most 63 characters",
    |s| s.len() <= 63 && dns_label(s)
);

impl VehicleId {
    /// The id that 10 random bytes give; the caller brings the randomness.
    pub fn from_random(bytes: [u8; 10]) -> Self {
        Self(format!(
            "car-{}",
            data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
        ))
    }
}

/// UIDs become parts of paths in the store and in the car, so nothing that means something in a path is let in.
fn uid(s: &str) -> bool {
    (1..=64).contains(&s.len())
        && s.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn dns_label(s: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let b = s.as_bytes();
    edge(b.first())
        && edge(b.last())
        && b.iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vehicle_id_from_random_bytes_parses() {
        let id = VehicleId::from_random([7, 1, 2, 3, 4, 5, 6, 255, 254, 253]);
        assert_eq!(id.as_str().parse::<VehicleId>().unwrap(), id);
    }

    #[rstest::rstest]
    #[case("")]
    #[case("car-")]
    #[case("car-aaaaaaaaaaaaaaa")]
    #[case("car-AAAAAAAAAAAAAAAA")]
    #[case("car-aaaaaaaaaaaaaaa1")]
    #[case("van-aaaaaaaaaaaaaaaa")]
    fn vehicle_id_of_another_shape_is_refused(#[case] text: &str) {
        let message = text.parse::<VehicleId>().unwrap_err().to_string();
        assert!(message.contains("16 characters"), "{message}");
    }

    #[rstest::rstest]
    #[case("../../etc")]
    #[case("a/b")]
    #[case("")]
    fn pod_uid_that_means_something_in_a_path_is_refused(#[case] text: &str) {
        assert!(text.parse::<PodUid>().is_err());
    }
}
