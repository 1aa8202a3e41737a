//! Whether a signature under an image counts: pure, but for the cryptography of it.
//!
//! Asked by `signed`, which fetches. Two forms are known, both cosign's with a key of one's own: a *payload* that names the image's digest, and
//! a *statement* within an envelope (DSSE) that does. What must never happen: a signature that counts for another digest than the one that is
//! to run, one by a key that the owner has not named, or anything that is read of what nobody has signed.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, UnparsedPublicKey};
use data_encoding::BASE64;
use kerbside_core::owner::{PublicKey, Publisher};
use serde::{Deserialize, Serialize};

/// No signature of these kinds takes more base64.
const LONGEST: usize = 1024;
/// An envelope with more signatures than these is not searched further.
const MOST: usize = 8;
/// What a payload calls itself.
const PAYLOAD_TYPE: &str = "cosign container image signature";
/// What a statement is in.
const STATEMENT_IN: &str = "application/vnd.in-toto+json";
/// What a statement says that is a signature and nothing else: one that tells of an image's faults is signed as well.
pub(super) const SIGNS: &str = "https://sigstore.dev/cosign/sign/v1";

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("one cannot be read: it is not base64, or cut off")]
    Encoding,
    #[error("one is by none of their keys")]
    OtherKey,
    #[error("one is theirs and says something that is not the signature of an image")]
    OtherClaim,
    #[error("one is theirs and for another image, {0}")]
    OtherDigest(String),
    #[error("one is in a form that is not known, or too large")]
    Form,
}

/// A signature and what it is under, as they came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Signature {
    form: Form,
    /// In base64.
    payload: String,
    /// In base64.
    bytes: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Form {
    /// Under the payload.
    Payload,
    /// Under the envelope's encoding of the statement.
    Statement,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signed>,
}

#[derive(Deserialize)]
struct Signed {
    sig: String,
}

impl Signature {
    /// One under a payload, with the text of its annotation.
    pub(super) fn of_payload(payload: &[u8], signature: &str) -> Self {
        Self {
            form: Form::Payload,
            payload: BASE64.encode(payload),
            bytes: signature.to_owned(),
        }
    }

    /// Those of a bundle.
    pub(super) fn of_bundle(bundle: &[u8]) -> Result<Vec<Self>, Fault> {
        let Bundle { dsse_envelope } = serde_json::from_slice(bundle).map_err(|_| Fault::Form)?;
        let Envelope {
            payload,
            payload_type,
            signatures,
        } = dsse_envelope;
        if payload_type != STATEMENT_IN {
            return Err(Fault::Form);
        }
        let each = signatures.into_iter().take(MOST).map(|signed| Self {
            form: Form::Statement,
            payload: payload.clone(),
            bytes: signed.sig,
        });
        Ok(each.collect())
    }

    /// Whose it is, if it counts for the image with this digest.
    pub(super) fn judge<'a>(&self, digest: &str, publishers: &'a [Publisher]) -> Result<&'a Publisher, Fault> {
        if self.bytes.len() > LONGEST {
            return Err(Fault::Encoding);
        }
        let decode = |text: &str| BASE64.decode(text.as_bytes()).map_err(|_| Fault::Encoding);
        let (payload, signature) = (decode(&self.payload)?, decode(&self.bytes)?);
        let signed = match self.form {
            Form::Payload => payload.clone(),
            Form::Statement => encoded(&payload),
        };
        let mut known = publishers.iter();
        let publisher = known
            .find(|publisher| verifies(&publisher.public_key, &signed, &signature))
            .ok_or(Fault::OtherKey)?;
        // Only now is anything of it read.
        let named = match self.form {
            Form::Payload => of_payload(&payload)?,
            Form::Statement => of_statement(&payload, digest)?,
        };
        if named == digest {
            Ok(publisher)
        } else {
            Err(Fault::OtherDigest(named.chars().take(80).collect()))
        }
    }
}

/// Whether any signature could be checked by a key: that it has the right length says nothing of whether it is a point of its curve.
pub(crate) fn is_usable(key: &PublicKey) -> bool {
    let parsed = match key {
        PublicKey::P256(point) => ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point),
        PublicKey::Ed25519(key) => ParsedPublicKey::new(&ED25519, key),
    };
    parsed.is_ok()
}

fn verifies(key: &PublicKey, signed: &[u8], signature: &[u8]) -> bool {
    let verified = match key {
        PublicKey::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(signed, signature),
        PublicKey::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(signed, signature),
    };
    verified.is_ok()
}

/// What an envelope's signature is under (DSSE's pre-authentication encoding).
fn encoded(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {STATEMENT_IN} {} ", STATEMENT_IN.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// The digest that a payload names.
fn of_payload(payload: &[u8]) -> Result<String, Fault> {
    let Payload { critical } = serde_json::from_slice(payload).map_err(|_| Fault::OtherClaim)?;
    if critical.kind == PAYLOAD_TYPE {
        Ok(critical.image.digest)
    } else {
        Err(Fault::OtherClaim)
    }
}

/// The digest that a statement names: the one that is looked for if it is among them, else the first.
fn of_statement(statement: &[u8], digest: &str) -> Result<String, Fault> {
    let statement: Statement = serde_json::from_slice(statement).map_err(|_| Fault::OtherClaim)?;
    if statement.predicate_type != SIGNS {
        return Err(Fault::OtherClaim);
    }
    let subjects = statement.subject.iter();
    let named: Vec<_> = subjects
        .filter_map(|subject| Some(format!("sha256:{}", subject.digest.get("sha256")?)))
        .collect();
    let (wanted, first) = (named.iter().find(|named| *named == digest), named.first());
    wanted.or(first).cloned().ok_or(Fault::OtherClaim)
}

#[cfg(test)]
mod tests;
