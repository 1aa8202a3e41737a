//! The key by which the operator signs what it accepts: made once by the leader, certified by the link's CA, kept in a Secret.
//!
//! Called by the settler when its replica becomes leader. Its certificate is in the store too, so that what it has signed can be checked
//! when the Secret is gone. Never: a key that is there replaced, but by one that the present CA has certified after the CA was made anew.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kerbside_k8s::store::StoreError;
use kerbside_link::identity::{Ca, IdentityError, Signer, check_chain, new_key_and_csr};
use kube::Client;
use kube::api::{Api, PostParams};

use crate::signer::AuthorityError;

/// Of the Secret (`tls.crt`, `tls.key`).
pub(super) const NAME: &str = "kerbside-ledger-key";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    #[error(transparent)]
    Ca(#[from] AuthorityError),
    #[error("failed to read or write the ledger's key")]
    Api(#[source] Box<kube::Error>),
    #[error("failed to make the ledger's key")]
    Make(#[source] IdentityError),
    #[error(
        "the Secret '{NAME}' does not hold the ledger's key; restore it from a backup, or delete it to go on with a new key: \
         what the old one has signed stays good"
    )]
    Broken(#[source] IdentityError),
    #[error("failed to put the certificates of the CA and of the ledger's key into the store")]
    Publish(#[source] StoreError),
}

impl From<kube::Error> for KeyError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

/// Reads the key, or makes it if there is none that this CA has certified.
pub(super) async fn ensure(
    client: &Client,
    namespace: &str,
    ca: &Ca,
    now: Timestamp,
) -> Result<Signer<String>, KeyError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let there = secrets.get_opt(NAME).await?;
    if let Some(secret) = &there {
        let signer = load(secret)?;
        if check_chain(signer.chain_pem(), &ca.certificate_pem()).is_ok() {
            return Ok(signer);
        }
        tracing::warn!(secret = NAME, "the CA was made anew, so the ledger gets a new key");
    }
    let (signer, data) = make(ca, now)?;
    let written = match there {
        // Its resourceVersion makes this fail if anybody wrote in between.
        Some(secret) => {
            let next = Secret {
                data: Some(data),
                ..secret
            };
            secrets.replace(NAME, &PostParams::default(), &next).await
        }
        None => secrets.create(&PostParams::default(), &new(data)).await,
    };
    match written {
        Ok(_) => {
            tracing::info!(secret = NAME, key = signer.key_id(), "made the ledger's key");
            Ok(signer)
        }
        Err(kube::Error::Api(s)) if s.is_already_exists() || s.is_conflict() => load(&secrets.get(NAME).await?),
        Err(e) => Err(e.into()),
    }
}

type Data = BTreeMap<String, ByteString>;

fn make(ca: &Ca, now: Timestamp) -> Result<(Signer<String>, Data), KeyError> {
    let made = new_key_and_csr(&[]).map_err(KeyError::Make)?;
    let chain = ca.sign_ledger(&made.csr_der, now).map_err(KeyError::Make)?;
    let signer = Signer::named(&made.key_pem, &chain, Ca::LEDGER).map_err(KeyError::Make)?;
    let data = [(CERTIFICATE, chain), (KEY, made.key_pem)];
    let data = data.map(|(k, v)| (k.to_owned(), ByteString(v.into_bytes())));
    Ok((signer, data.into()))
}

fn new(data: Data) -> Secret {
    let labels = [("app.kubernetes.io/part-of".to_owned(), "kerbside".to_owned())].into();
    Secret {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

fn load(secret: &Secret) -> Result<Signer<String>, KeyError> {
    let text = |key| {
        let bytes = secret.data.as_ref().and_then(|data: &Data| data.get(key));
        bytes
            .map(|b| String::from_utf8_lossy(&b.0).into_owned())
            .unwrap_or_default()
    };
    Signer::named(&text(KEY), &text(CERTIFICATE), Ca::LEDGER).map_err(KeyError::Broken)
}

#[cfg(test)]
mod tests;
