//! Blobs and manifests from a registry, checked against their digests before anything uses them.

mod answer;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt as _;

use self::answer::{Answer, Clients};
use super::ImageError;
use super::manifest::Descriptor;
use super::signature::SIGNS;
use crate::uplink::Uplink;

/// A registry that does not answer within these is tried again later.
const CONNECT: Duration = Duration::from_secs(10);
const READ: Duration = Duration::from_secs(30);

/// What a signature in a bundle is, as what refers to an image.
pub(super) const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// Where what refers to an image says which type its statement has.
const SAYS: &str = "dev.sigstore.bundle.predicateType";

/// So many clients with a token are kept.
const CLIENTS: usize = 8;

/// The way to registries. A client is made at the first pull that needs it: an idle car does not pay for one.
///
/// A client believes for good what it was told first of a registry, so whoever has a token of his own has a client of his own, and who has
/// none is never let in by another's.
pub(super) struct Registry {
    plain_http: Vec<String>,
    plain: OnceLock<Clients>,
    secure: OnceLock<Clients>,
    uplink: OnceLock<Uplink>,
    /// By image name and token, the newest last.
    admitted: Mutex<Vec<(String, String, Clients)>>,
}

/// What refers to a manifest.
#[derive(Deserialize)]
struct Referrers {
    manifests: Option<Vec<Referrer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referrer {
    digest: String,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Registry {
    pub(super) fn new(plain_http: Vec<String>) -> Self {
        Self {
            plain_http,
            plain: OnceLock::new(),
            secure: OnceLock::new(),
            uplink: OnceLock::new(),
            admitted: Mutex::default(),
        }
    }

    pub(super) fn count_by(&self, uplink: Uplink) {
        // The first one stays.
        let _ = self.uplink.set(uplink);
    }

    fn uplink(&self) -> Uplink {
        self.uplink.get().cloned().unwrap_or_default()
    }

    async fn clients(&self, image: &Reference, credentials: &BTreeMap<String, String>) -> Result<Clients, ImageError> {
        may_move(&self.uplink())?;
        let plain = self.plain_http.iter().any(|host| host == image.resolve_registry());
        let key = key_of(image);
        let Some(token) = credentials.get(&key) else {
            let shared = if plain { &self.plain } else { &self.secure };
            let clients = if let Some(clients) = shared.get() {
                clients.clone()
            } else {
                let new = Clients::new(plain)?;
                shared.get_or_init(|| new).clone()
            };
            // Without it the library does not ask a registry for the token that it gives to everybody.
            let anybody = &RegistryAuth::Anonymous;
            let registry = image.resolve_registry();
            clients.library.store_auth_if_needed(registry, anybody).await;
            return Ok(clients);
        };
        let known = |kept: &(String, String, Clients)| kept.0 == key && kept.1 == *token;
        let found = {
            let admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
            admitted
                .iter()
                .find(|kept| known(kept))
                .map(|(.., clients)| clients.clone())
        };
        if let Some(clients) = found {
            return Ok(clients);
        }
        let clients = Clients::new(plain)?;
        let auth = RegistryAuth::Bearer(token.clone());
        let registry = image.resolve_registry();
        clients.library.store_auth_if_needed(registry, &auth).await;
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        if admitted.len() >= CLIENTS {
            admitted.remove(0);
        }
        admitted.push((key, token.clone(), clients.clone()));
        Ok(clients)
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
        let answer = self.ask(image, credentials, &manifest_at(image)).await?;
        checked(image, answer.given().map_err(|e| failed(image, &e))?)
    }

    /// What the registry says to a small question about an image's repository.
    async fn ask(
        &self,
        image: &Reference,
        credentials: &BTreeMap<String, String>,
        path: &str,
    ) -> Result<Answer, ImageError> {
        let clients = self.clients(image, credentials).await?;
        let token = credentials.get(&key_of(image)).map(String::as_str);
        clients.ask(image, path, token, &self.uplink()).await
    }

    /// The same of one that need not be there. `None`: the registry says that it is not, and not only that it does not answer.
    pub(super) async fn manifest_if_any(
        &self,
        image: &Reference,
        credentials: &BTreeMap<String, String>,
    ) -> Result<Option<(Vec<u8>, String)>, ImageError> {
        let answer = self.ask(image, credentials, &manifest_at(image)).await?;
        match answer.given() {
            Ok(bytes) => checked(image, bytes).map(Some),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(failed(image, &error)),
        }
    }

    /// The digests of the bundles that refer to a manifest, by its digest. A registry that knows nothing of referring has them under a tag, if
    /// it has any; one that only does not give them has not said that it has none.
    pub(super) async fn bundles(
        &self,
        image: &Reference,
        credentials: &BTreeMap<String, String>,
    ) -> Result<Vec<String>, ImageError> {
        let Some(digest) = image.digest() else {
            return Err(ImageError::Pull(format!(
                "{image} has no digest, so nothing refers to it"
            )));
        };
        let kind = BUNDLE.replace('/', "%2F").replace('+', "%2B");
        let path = format!("referrers/{digest}?artifactType={kind}");
        let answer = self.ask(image, credentials, &path).await?;
        let unknown = answer.status == 404;
        let bytes = match answer.given() {
            Ok(bytes) => Some(bytes),
            Err(error) if unknown || is_missing(&error) => {
                let (registry, repository) = (image.registry().to_owned(), image.repository().to_owned());
                let tag = Reference::with_tag(registry, repository, digest.replace(':', "-"));
                let beside = self.manifest_if_any(&tag, credentials).await?;
                beside.map(|(bytes, _)| bytes)
            }
            Err(error) => return Err(failed(image, &error)),
        };
        bytes.map_or_else(|| Ok(Vec::new()), |bytes| bundles_of(image, &bytes))
    }

    /// The bytes of a small blob, which are as many as `blob` says. Its manifest was fetched before.
    pub(super) async fn small_blob(
        &self,
        image: &Reference,
        blob: &Descriptor,
        credentials: &BTreeMap<String, String>,
    ) -> Result<Vec<u8>, ImageError> {
        hex_of(&blob.digest)?;
        let (_, mut stream) = self.stream(image, &blob.digest, credentials).await?;
        let broken = |e: io::Error| ImageError::Pull(format!("{image}: {e}"));
        let mut bytes = Vec::new();
        while let Some(piece) = stream.try_next().await.map_err(broken)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > blob.size {
                break;
            }
        }
        let digest = digest_of(&bytes);
        if digest == blob.digest {
            Ok(bytes)
        } else {
            Err(ImageError::Pull(format!(
                "the registry gave bytes with digest {digest} for {}",
                blob.digest
            )))
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
        let clients = self.clients(image, credentials).await?;
        let opened = clients.library.pull_blob_stream(image, digest).await;
        let response = opened.map_err(|e| failed(image, &e))?;
        let uplink = self.uplink();
        let counted = response.stream.map(move |piece| {
            let piece = piece?;
            uplink.count(piece.len());
            if uplink.may_move() {
                Ok(piece)
            } else {
                Err(io::Error::other(NOT_NOW))
            }
        });
        Ok((response.content_length, counted.boxed()))
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
        let clients = self.clients(image, credentials).await?;
        let partial = directory.join(format!("{hex}.{:016x}.part", rand::random::<u64>()));
        let fetched = fetch(&clients.library, image, blob, &partial, &self.uplink()).await;
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

/// What the cluster is told, too, so it says nothing of which network the car has.
const NOT_NOW: &str = "the owner of this vehicle lets it fetch no images now";

fn may_move(uplink: &Uplink) -> Result<(), ImageError> {
    let refused = || ImageError::Pull(NOT_NOW.to_owned());
    uplink.may_move().then_some(()).ok_or_else(refused)
}

async fn fetch(
    client: &Client,
    image: &Reference,
    blob: &Descriptor,
    partial: &Path,
    uplink: &Uplink,
) -> Result<(), ImageError> {
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
        uplink.count(bytes.len());
        may_move(uplink)?;
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

/// Where the manifest of an image is, in its repository.
fn manifest_at(image: &Reference) -> String {
    let name = image.digest().or_else(|| image.tag()).unwrap_or("latest");
    format!("manifests/{name}")
}

/// The bundles among what refers to an image, but those that say that they sign nothing. Not every registry leaves out what was not asked for.
fn bundles_of(image: &Reference, index: &[u8]) -> Result<Vec<String>, ImageError> {
    let read: Referrers = serde_json::from_slice(index)
        .map_err(|e| ImageError::Pull(format!("{image}: what refers to it cannot be read: {e}")))?;
    let each = read.manifests.unwrap_or_default().into_iter();
    let bundles = each.filter(|entry| entry.artifact_type.as_deref() == Some(BUNDLE));
    // An image may have more statements than signatures: those that say so are not fetched.
    let other = |entry: &Referrer| {
        let says = entry.annotations.as_ref().and_then(|all| all.get(SAYS));
        says.is_some_and(|predicate| predicate != SIGNS)
    };
    let bundles = bundles.filter(|entry| !other(entry));
    Ok(bundles.map(|entry| entry.digest).collect())
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

/// A manifest as it came, and its digest, which is the one that was asked for if one was.
fn checked(image: &Reference, bytes: Vec<u8>) -> Result<(Vec<u8>, String), ImageError> {
    let digest = digest_of(&bytes);
    match image.digest() {
        Some(wanted) if wanted != digest => Err(ImageError::Pull(format!(
            "the registry gave a manifest with digest {digest} for {image}"
        ))),
        _ => Ok((bytes, digest)),
    }
}

/// Whether a registry has answered, and said that there is no such thing.
fn is_missing(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) | OciDistributionError::ServerError { code: 404, .. } => {
            true
        }
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|error| {
            matches!(
                error.code,
                OciErrorCode::ManifestUnknown
                    | OciErrorCode::NameUnknown
                    | OciErrorCode::NotFound
                    | OciErrorCode::Unsupported
            )
        }),
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn with_code(code: &str) -> OciDistributionError {
        let envelope = json!({"errors": [{"code": code, "message": ""}]});
        OciDistributionError::RegistryError {
            envelope: serde_json::from_value(envelope).unwrap(),
            url: String::new(),
        }
    }

    fn with_status(code: u16) -> OciDistributionError {
        OciDistributionError::ServerError {
            code,
            url: String::new(),
            message: String::new(),
        }
    }

    #[rstest]
    #[case(with_code("MANIFEST_UNKNOWN"), true)]
    #[case(with_code("NAME_UNKNOWN"), true)]
    #[case(with_code("UNSUPPORTED"), true)]
    #[case(with_code("UNAUTHORIZED"), false)]
    #[case(with_code("DENIED"), false)]
    #[case(with_code("TOOMANYREQUESTS"), false)]
    #[case(with_status(404), true)]
    #[case(with_status(500), false)]
    #[case(with_status(503), false)]
    fn only_a_registry_that_says_so_has_nothing(#[case] error: OciDistributionError, #[case] missing: bool) {
        assert_eq!(is_missing(&error), missing, "{error}");
    }
}
