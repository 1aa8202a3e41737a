//! Publishers whose signatures count: names that the owner gives to public keys.
//!
//! Read with the owner's document, which is refused with a key that no signature could be checked by; `vehicle-agent` holds signatures of
//! images against them, for that takes cryptography. What must never happen: a key that is read as another one than was written down.

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer};

/// So many publishers are enough for anybody: each is tried for every signature.
pub(super) const MOST: usize = 16;

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";
/// No key of these kinds takes more text.
const LONGEST: usize = 1024;
/// What comes before the point in the only DER of a P-256 key whose curve is named and whose point is not compressed (RFC 5480).
const P256: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// What comes before the key in the only DER of an Ed25519 key (RFC 8410).
const ED25519: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Somebody whose signature under an image counts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Publisher {
    /// What the owner calls them. It is told with a refusal.
    #[serde(deserialize_with = "name")]
    pub name: String,
    /// Their key, as `cosign.pub` has it.
    #[serde(deserialize_with = "key")]
    pub public_key: PublicKey,
}

/// A public key that signatures are checked by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// ECDSA on P-256 over SHA-256: the point, not compressed.
    P256([u8; 65]),
    /// Ed25519.
    Ed25519([u8; 32]),
}

impl PublicKey {
    /// Reads a key of `BEGIN PUBLIC KEY`. `Err`: what it is instead, if that can be told, and what is taken.
    pub fn from_pem(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.contains("PRIVATE KEY-----") {
            return Err("this is a private key: give the public one, such as cosign.pub, and show this one to nobody");
        }
        if text.contains("-----BEGIN CERTIFICATE-----") {
            return Err("this is a certificate, and only keys are taken: a file that begins with BEGIN PUBLIC KEY");
        }
        let inner = text.strip_prefix(BEGIN).and_then(|text| text.strip_suffix(END));
        let inner = inner.filter(|inner| inner.len() <= LONGEST);
        let inner = inner.ok_or("this is no public key: it begins with BEGIN PUBLIC KEY and ends with END PUBLIC KEY, and nothing is around it")?;
        let base64: String = inner.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let der = BASE64.decode(base64.as_bytes());
        let der =
            der.map_err(|_| "this public key is damaged: what is between its first and last line is not base64")?;
        let p256 = der
            .strip_prefix(P256)
            .and_then(|point| <[u8; 65]>::try_from(point).ok());
        // The first byte says that the point is not compressed.
        if let Some(point) = p256.filter(|point| point.first() == Some(&4)) {
            return Ok(Self::P256(point));
        }
        let ed25519 = der.strip_prefix(ED25519).and_then(|key| <[u8; 32]>::try_from(key).ok());
        ed25519
            .map(Self::Ed25519)
            .ok_or("this public key is of a kind that is not taken: ECDSA on P-256, as `cosign generate-key-pair` makes it, and Ed25519 are")
    }
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let plain = !name.trim().is_empty() && name.trim() == name && !name.chars().any(char::is_control);
    if plain && name.chars().count() <= 63 {
        Ok(name)
    } else {
        Err(serde::de::Error::custom(
            "a publisher's name has 1 to 63 characters, and no space before or after them",
        ))
    }
}

fn key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
    PublicKey::from_pem(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests;
