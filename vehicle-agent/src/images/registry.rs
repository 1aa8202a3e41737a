//! Blobs and manifests from a registry, checked against their digests before anything uses them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::TryStreamExt as _;
use futures::stream::BoxStream;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use sha2::{Digest as _, Sha256};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt as _;

use super::ImageError;
use super::manifest::{ACCEPTED, Descriptor};

/// A registry that does not answer within these is tried again later.
const CONNECT: Duration = Duration::from_secs(10);
const READ: Duration = Duration::from_secs(30);

/// So many clients with a token are kept.
const CLIENTS: usize = 8;

/// The way to registries. A client is made at the first pull that needs it: an idle car does not pay for one.
///
/// A client believes for good what it was told first of a registry, so whoever has a token of his own has a client of his own, and who has
/// none is never let in by another's.
pub(super) struct Registry {
    plain_http: Vec<String>,
    plain: OnceLock<Client>,
    secure: OnceLock<Client>,
    /// By image name and token, the newest last.
    admitted: Mutex<Vec<(String, String, Client)>>,
}

impl Registry {
    pub(super) fn new(plain_http: Vec<String>) -> Self {
        Self {
            plain_http,
            plain: OnceLock::new(),
            secure: OnceLock::new(),
            admitted: Mutex::default(),
        }
    }

    async fn client(&self, image: &Reference, credentials: &BTreeMap<String, String>) -> Result<Client, ImageError> {
        let plain = self.plain_http.iter().any(|host| host == image.resolve_registry());
        let key = key_of(image);
        let Some(token) = credentials.get(&key) else {
            let client = if plain { &self.plain } else { &self.secure };
            if let Some(client) = client.get() {
                return Ok(client.clone());
            }
            let new = new_client(plain)?;
            return Ok(client.get_or_init(|| new).clone());
        };
        let known = |kept: &(String, String, Client)| kept.0 == key && kept.1 == *token;
        let found = {
            let admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
            admitted
                .iter()
                .find(|kept| known(kept))
                .map(|(.., client)| client.clone())
        };
        if let Some(client) = found {
            return Ok(client);
        }
        let client = new_client(plain)?;
        let auth = RegistryAuth::Bearer(token.clone());
        client.store_auth_if_needed(image.resolve_registry(), &auth).await;
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        if admitted.len() >= CLIENTS {
            admitted.remove(0);
        }
        admitted.push((key, token.clone(), client.clone()));
        Ok(client)
    }
}

fn new_client(plain: bool) -> Result<Client, ImageError> {
    let mut config = ClientConfig {
        protocol: ClientProtocol::Https,
        connect_timeout: Some(CONNECT),
        read_timeout: Some(READ),
        ..ClientConfig::default()
    };
    if plain {
        config.protocol = ClientProtocol::Http;
        config.tls_certs_only = vec![nobody()?];
    }
    Client::try_from(config).map_err(|e| ImageError::Pull(describe(&e)))
}

/// By what a token is known that reads the repository of an image.
pub(super) fn key_of(image: &Reference) -> String {
    format!("{}/{}", image.registry(), image.repository())
}

impl Registry {
    /// A manifest and its digest.
    pub(super) async fn manifest(
        &self,
        image: &Reference,
        credentials: &BTreeMap<String, String>,
    ) -> Result<(Vec<u8>, String), ImageError> {
        let client = self.client(image, credentials).await?;
        let auth = auth(image, credentials);
        let (bytes, _) = client
            .pull_manifest_raw(image, &auth, ACCEPTED)
            .await
            .map_err(|e| failed(image, &e))?;
        let digest = digest_of(&bytes);
        match image.digest() {
            Some(wanted) if wanted != digest => Err(ImageError::Pull(format!(
                "the registry gave a manifest with digest {digest} for {image}"
            ))),
            _ => Ok((bytes.to_vec(), digest)),
        }
    }

    /// The bytes of a blob as they come, for somebody who checks them, and how many they are if the registry says it. Its manifest was
    /// fetched before.
    pub(super) async fn stream(
        &self,
        image: &Reference,
        digest: &str,
        credentials: &BTreeMap<String, String>,
    ) -> Result<(Option<u64>, BoxStream<'static, io::Result<Bytes>>), ImageError> {
        let client = self.client(image, credentials).await?;
        let opened = client.pull_blob_stream(image, digest).await;
        let response = opened.map_err(|e| failed(image, &e))?;
        Ok((response.content_length, response.stream))
    }

    /// Puts a blob into `directory` under its digest.
    pub(super) async fn blob(
        &self,
        image: &Reference,
        blob: &Descriptor,
        directory: &Path,
        credentials: &BTreeMap<String, String>,
    ) -> Result<PathBuf, ImageError> {
        let hex = hex_of(&blob.digest)?;
        let place = directory.join(hex);
        if fs::metadata(&place)
            .await
            .is_ok_and(|metadata| metadata.len() == blob.size)
        {
            return Ok(place);
        }
        let client = self.client(image, credentials).await?;
        let partial = directory.join(format!("{hex}.{:016x}.part", rand::random::<u64>()));
        let fetched = fetch(&client, image, blob, &partial).await;
        if fetched.is_ok() {
            fs::rename(&partial, &place).await.map_err(ImageError::Disk)?;
        } else {
            // What is left of a failed download is of no use; that it may stay is no harm.
            let _ = fs::remove_file(&partial).await;
        }
        fetched.map(|()| place)
    }
}

/// A certificate whose key nobody has. Without TLS there is nobody to trust, but a client is not made without a certificate,
/// and a car with such a registry need not have any.
fn nobody() -> Result<Certificate, ImageError> {
    let made = rcgen::generate_simple_self_signed(Vec::new()).map_err(|e| ImageError::Pull(e.to_string()))?;
    Ok(Certificate {
        encoding: CertificateEncoding::Der,
        data: made.cert.der().to_vec(),
    })
}

async fn fetch(client: &Client, image: &Reference, blob: &Descriptor, partial: &Path) -> Result<(), ImageError> {
    let response = client
        .pull_blob_stream(image, blob.digest.as_str())
        .await
        .map_err(|e| failed(image, &e))?;
    let mut stream = response.stream;
    let mut file = File::create(partial).await.map_err(ImageError::Disk)?;
    let mut hash = Sha256::new();
    let mut size = 0_u64;
    while let Some(bytes) = stream
        .try_next()
        .await
        .map_err(|e| ImageError::Pull(format!("{image}: {e}")))?
    {
        size += bytes.len() as u64;
        if size > blob.size {
            break;
        }
        hash.update(&bytes);
        file.write_all(&bytes).await.map_err(ImageError::Disk)?;
    }
    file.flush().await.map_err(ImageError::Disk)?;
    file.sync_data().await.map_err(ImageError::Disk)?;
    if size > blob.size {
        let (digest, said) = (&blob.digest, blob.size);
        return Err(ImageError::Pull(format!(
            "the registry gave more than the {said} bytes of {digest}"
        )));
    }
    let digest = format!("sha256:{}", HEXLOWER.encode(&hash.finalize()));
    if digest != blob.digest {
        return Err(ImageError::Pull(format!(
            "the registry gave bytes with digest {digest} for {}",
            blob.digest
        )));
    }
    Ok(())
}

fn auth(image: &Reference, credentials: &BTreeMap<String, String>) -> RegistryAuth {
    credentials
        .get(&key_of(image))
        .map_or(RegistryAuth::Anonymous, |token| RegistryAuth::Bearer(token.clone()))
}

pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(bytes)))
}

/// The part of a digest that names a file.
pub(super) fn hex_of(digest: &str) -> Result<&str, ImageError> {
    digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
        .ok_or_else(|| {
            ImageError::Pull(format!(
                "'{digest}' is not a SHA-256 digest, the only kind a vehicle takes"
            ))
        })
}

fn failed(image: &Reference, error: &OciDistributionError) -> ImageError {
    ImageError::Pull(match error {
        OciDistributionError::ImageManifestNotFoundError(_) => format!("{image} is not in the registry"),
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            format!("the registry does not let the vehicle read {image}")
        }
        other => format!("{image}: {}", describe(other)),
    })
}

/// An error with its causes: the outermost alone says "error sending request".
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
