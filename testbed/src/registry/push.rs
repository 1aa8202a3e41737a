//! Sends artefacts to a registry.
//!
//! Called after the registry is ready. A blob that is already there is sent again: the registry keeps one of each.

use anyhow::{Context, Result};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};

use super::artifact::{Artifact, MANIFEST_TYPE, digest};

/// Pushes `artifact` as `host/repository:tag` over plain HTTP; gives `host/repository@digest`.
pub async fn push(host: &str, repository: &str, tag: &str, artifact: &Artifact) -> Result<String> {
    let name = format!("{host}/{repository}:{tag}");
    let reference: Reference = name
        .parse()
        .with_context(|| format!("'{name}' is not an image reference"))?;
    let client = Client::new(ClientConfig {
        protocol: ClientProtocol::Http,
        ..ClientConfig::default()
    });
    client
        .auth(&reference, &RegistryAuth::Anonymous, RegistryOperation::Push)
        .await
        .with_context(|| format!("failed to reach the registry {host}"))?;
    for blob in &artifact.blobs {
        client
            .push_blob(&reference, blob.bytes.clone(), &digest(&blob.bytes))
            .await
            .with_context(|| format!("failed to push a layer of {name}"))?;
    }
    let media_type = MANIFEST_TYPE.parse().context("a media type is a header value")?;
    client
        .push_manifest_raw(&reference, artifact.manifest.clone(), media_type)
        .await
        .with_context(|| format!("failed to push the manifest of {name}"))?;
    Ok(format!("{host}/{repository}@{}", artifact.digest()))
}
