//! Signs images as cosign does with a key of one's own: the payload that names a digest, and its signature beside it.
//!
//! Pure but for the making of keys. `push` sends it to the image's own repository, under [`tag`].

use anyhow::{Context, Result};
use data_encoding::BASE64;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey as _};
use serde_json::json;

use super::artifact::{Artifact, Blob, MANIFEST_TYPE, digest};

const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// Somebody who signs.
#[derive(Debug)]
pub struct Signer {
    key: KeyPair,
}

impl Signer {
    /// With a key of their own: ECDSA on P-256.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("failed to make a key")?;
        Ok(Self { key })
    }

    /// What `cosign.pub` would have.
    pub fn public_key(&self) -> String {
        self.key.public_key_pem()
    }

    /// The signature of the image with this digest.
    pub fn sign(&self, image: &str) -> Result<Artifact> {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": ""},
                "image": {"docker-manifest-digest": image},
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let bytes = serde_json::to_vec(&payload).context("failed to render JSON")?;
        let signature = BASE64.encode(&self.key.sign(&bytes).context("failed to sign")?);
        let config = Blob {
            media_type: CONFIG_TYPE,
            bytes: b"{}".to_vec(),
        };
        let payload = Blob {
            media_type: PAYLOAD_TYPE,
            bytes,
        };
        let described = |blob: &Blob| json!({"mediaType": blob.media_type, "digest": digest(&blob.bytes), "size": blob.bytes.len()});
        let mut layer = described(&payload);
        layer["annotations"] = json!({ANNOTATION: signature});
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": described(&config), "layers": [layer],
        });
        Ok(Artifact {
            manifest: serde_json::to_vec(&manifest).context("failed to render JSON")?,
            blobs: vec![config, payload],
        })
    }
}

/// Where the signatures of the image with this digest are.
pub fn tag(image: &str) -> String {
    format!("{}.sig", image.replace(':', "-"))
}
