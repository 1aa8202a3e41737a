//! The link's CA: made once by the leader, kept in a Secret, its certificate published in a ConfigMap beside it.
//!
//! Called when a replica becomes leader, by the signer and by the settler, whoever comes first. The ConfigMap has the fingerprints of all CAs that
//! there were, too: the result store has their certificates, and others may write there. Never: a CA that is there replaced, however broken: every
//! enrolled car trusts it. Nor a fingerprint taken away: what was signed under that CA would not be believed any more.

use std::collections::{BTreeMap, BTreeSet};

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kerbside_link::identity::{Ca, IdentityError, cas_from_pem};
use kube::Client;
use kube::api::{Api, PostParams};

/// Of the Secret (`tls.crt`, `tls.key`) and of the ConfigMap (`ca.crt`, `known-cas`).
pub(crate) const NAME: &str = "kerbside-link-ca";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
pub(crate) const PUBLISHED: &str = "ca.crt";
/// The SHA-256 of the DER of every CA that there was, hexadecimal, one a line. Only ever added to.
pub(crate) const KNOWN: &str = "known-cas";
/// Nobody but a leader writes the ConfigMap, and there are two of them for moments only.
const TRIES: usize = 5;

/// What is in the ConfigMap.
pub(crate) type Published = BTreeMap<String, String>;

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("failed to read or write the link's CA")]
    Api(#[source] Box<kube::Error>),
    #[error("failed to make the link's CA")]
    Make(#[source] IdentityError),
    #[error(
        "the Secret '{NAME}' does not hold a CA; restore it from a backup, or delete it to start with a new CA, after which every car must enrol again"
    )]
    Broken(#[source] IdentityError),
    #[error("failed to publish the link's CA: each time the ConfigMap '{NAME}' was written by somebody else meanwhile")]
    Raced,
}

impl From<kube::Error> for AuthorityError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

/// Reads the CA, or makes it if there is none, and publishes its certificate.
pub(crate) async fn ensure(client: &Client, namespace: &str, now: Timestamp) -> Result<Ca, AuthorityError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let ca = match secrets.get_opt(NAME).await? {
        Some(secret) => load(&secret)?,
        None => make(&secrets, now).await?,
    };
    publish(&Api::namespaced(client.clone(), namespace), &ca).await?;
    Ok(ca)
}

async fn make(secrets: &Api<Secret>, now: Timestamp) -> Result<Ca, AuthorityError> {
    let ca = Ca::generate(now).map_err(AuthorityError::Make)?;
    let (certificate, key) = ca.to_pem();
    let data = [(CERTIFICATE, certificate), (KEY, key)].map(|(k, v)| (k.to_owned(), ByteString(v.into_bytes())));
    let secret = Secret {
        metadata: named(),
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data.into()),
        ..Secret::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(_) => {
            tracing::info!(secret = NAME, "made the link's CA");
            Ok(ca)
        }
        Err(kube::Error::Api(s)) if s.is_already_exists() => load(&secrets.get(NAME).await?),
        Err(e) => Err(e.into()),
    }
}

fn load(secret: &Secret) -> Result<Ca, AuthorityError> {
    let text = |key| {
        let bytes = secret
            .data
            .as_ref()
            .and_then(|d: &BTreeMap<String, ByteString>| d.get(key));
        bytes
            .map(|b| String::from_utf8_lossy(&b.0).into_owned())
            .unwrap_or_default()
    };
    Ca::from_pem(&text(CERTIFICATE), &text(KEY)).map_err(AuthorityError::Broken)
}

/// Publishes the certificate. The fingerprint of the one that it replaces is put on record by the same write.
async fn publish(config_maps: &Api<ConfigMap>, ca: &Ca) -> Result<(), AuthorityError> {
    for _ in 0..TRIES {
        let written = if let Some(there) = config_maps.get_opt(NAME).await? {
            let before = there.data.clone().unwrap_or_default();
            let data = next(&before, ca);
            if data == before {
                return Ok(());
            }
            // Its resourceVersion makes this fail if anybody wrote in between.
            let changed = ConfigMap {
                data: Some(data),
                ..there
            };
            config_maps.replace(NAME, &PostParams::default(), &changed).await
        } else {
            let new = ConfigMap {
                metadata: named(),
                data: Some(next(&Published::new(), ca)),
                ..ConfigMap::default()
            };
            config_maps.create(&PostParams::default(), &new).await
        };
        match written {
            Ok(_) => return Ok(()),
            // What somebody else has put on record there must be read before it is written again.
            Err(kube::Error::Api(s)) if s.is_already_exists() || s.is_conflict() => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(AuthorityError::Raced)
}

/// What is to be published where `before` is: this certificate, and every fingerprint that is known by then.
fn next(before: &Published, ca: &Ca) -> Published {
    let mut known = known_cas(before);
    if let Some(certificate) = before.get(PUBLISHED) {
        match cas_from_pem(certificate) {
            Ok(cas) => known.extend(cas.into_keys()),
            Err(error) => {
                tracing::warn!(config_map = NAME, %error, "the CA that was published cannot be read, so it is not on record");
            }
        }
    }
    known.insert(HEXLOWER.encode(&ca.sha256()));
    let known = known.into_iter().collect::<Vec<_>>().join("\n");
    [(PUBLISHED.to_owned(), ca.certificate_pem()), (KNOWN.to_owned(), known)].into()
}

/// The fingerprints of all CAs that there were, of what is published.
pub(crate) fn known_cas(published: &Published) -> BTreeSet<String> {
    let lines = published.get(KNOWN).map(String::as_str).unwrap_or_default().lines();
    let lines = lines.map(str::trim).filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

fn named() -> ObjectMeta {
    let labels = [("app.kubernetes.io/part-of".to_owned(), "kerbside".to_owned())].into();
    ObjectMeta {
        name: Some(NAME.to_owned()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests;
