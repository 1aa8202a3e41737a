//! Signatures as cosign makes them and where it puts them, by keys that are made here.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use data_encoding::BASE64;
use kerbside_core::owner::{PublicKey, Publisher};
use serde_json::json;

use super::FakeRegistry;

pub(crate) struct Signer {
    pair: EcdsaKeyPair,
}

impl Signer {
    pub(crate) fn new() -> Self {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref()).unwrap();
        Self { pair }
    }

    pub(crate) fn as_publisher(&self, name: &str) -> Publisher {
        let point: &[u8] = self.pair.public_key().as_ref();
        Publisher {
            name: name.to_owned(),
            public_key: PublicKey::P256(point.try_into().unwrap()),
        }
    }

    pub(crate) fn sign(&self, bytes: &[u8]) -> String {
        let signature = self.pair.sign(&SystemRandom::new(), bytes).unwrap();
        BASE64.encode(signature.as_ref())
    }

    /// A layer with a payload, as cosign has it.
    pub(crate) fn layer(&self, registry: &FakeRegistry, digest: &str) -> serde_json::Value {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": ""},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let payload = serde_json::to_vec(&payload).unwrap();
        let mut layer = registry.blob(&payload);
        layer["mediaType"] = json!("application/vnd.dev.cosign.simplesigning.v1+json");
        layer["annotations"] = json!({"dev.cosignproject.cosign/signature": self.sign(&payload)});
        layer
    }
}

/// Where cosign puts what signs the image with this digest.
pub(crate) fn beside(digest: &str) -> String {
    format!("/v2/app/manifests/{}.sig", digest.replace(':', "-"))
}

/// Puts signatures beside an image.
pub(crate) fn put(registry: &FakeRegistry, digest: &str, layers: &[serde_json::Value]) {
    let manifest = json!({"schemaVersion": 2, "config": {"digest": "sha256:00", "size": 2}, "layers": layers});
    registry.answer(&beside(digest), &serde_json::to_vec(&manifest).unwrap());
}
