//! The open form of a receipt: DSSE, <https://github.com/secure-systems-lab/dsse>, one envelope a line.
//!
//! The payload is kept as the bytes that were signed, so nobody has to write JSON in one way only to check a signature.

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What the payload of a receipt is.
pub const PAYLOAD_TYPE: &str = "application/vnd.kerbside.usage.v1alpha1+json";

/// An envelope, as of DSSE 1.0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// What the payload is.
    pub payload_type: String,
    /// The bytes that were signed, in base64.
    pub payload: String,
    /// At least one.
    pub signatures: Vec<Signature>,
}

/// A signature over the pre-authentication encoding ([`pae`]) of type and payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Which key made it: the SHA-256 of its `SubjectPublicKeyInfo` in DER, in lower-case hex.
    pub keyid: String,
    /// In base64.
    pub sig: String,
}

/// A line that is no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Envelope {
    /// An envelope of a receipt's payload and the one signature over it.
    pub fn new(payload: &[u8], keyid: &str, signature: &[u8]) -> Self {
        Self::of(PAYLOAD_TYPE, payload, keyid, signature)
    }

    /// An envelope of a payload of any type and the one signature over it.
    pub fn of(payload_type: &str, payload: &[u8], keyid: &str, signature: &[u8]) -> Self {
        Self {
            payload_type: payload_type.to_owned(),
            payload: BASE64.encode(payload),
            signatures: vec![Signature {
                keyid: keyid.to_owned(),
                sig: BASE64.encode(signature),
            }],
        }
    }

    /// Reads a line, without its end.
    pub fn parse(line: &[u8]) -> Result<Self, Malformed> {
        serde_json::from_slice(line).map_err(|error| Malformed(error.to_string()))
    }

    /// The line, with its end.
    pub fn line(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }

    /// The bytes that were signed.
    pub fn payload(&self) -> Result<Vec<u8>, Malformed> {
        BASE64
            .decode(self.payload.as_bytes())
            .map_err(|error| Malformed(format!("its payload is not base64: {error}")))
    }
}

impl Signature {
    /// The bytes of the signature.
    pub fn bytes(&self) -> Result<Vec<u8>, Malformed> {
        BASE64
            .decode(self.sig.as_bytes())
            .map_err(|error| Malformed(format!("its signature is not base64: {error}")))
    }
}

/// What is signed: DSSE's pre-authentication encoding.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend(payload);
    message
}

/// The name of a payload in the chain: its SHA-256 in hex.
pub fn digest(payload: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(payload))
}
