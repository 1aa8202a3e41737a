//! The link's CA: made once by the leader, kept in a Secret, its certificate published in a ConfigMap beside it.
//!
//! Called when a replica becomes leader, by the signer and by the settler, whoever comes first. Never: a CA that is there replaced,
//! however broken: every enrolled car trusts it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kerbside_link::identity::{Ca, IdentityError};
use kube::Client;
use kube::api::{Api, PostParams};

/// Of the Secret (`tls.crt`, `tls.key`) and of the ConfigMap (`ca.crt`).
pub(crate) const NAME: &str = "kerbside-link-ca";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
pub(crate) const PUBLISHED: &str = "ca.crt";

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

async fn publish(config_maps: &Api<ConfigMap>, ca: &Ca) -> Result<(), AuthorityError> {
    let data: BTreeMap<_, _> = [(PUBLISHED.to_owned(), ca.certificate_pem())].into();
    match config_maps.get_opt(NAME).await? {
        Some(there) if there.data.as_ref() == Some(&data) => {}
        Some(there) => {
            let changed = ConfigMap {
                data: Some(data),
                ..there
            };
            config_maps.replace(NAME, &PostParams::default(), &changed).await?;
        }
        None => {
            let new = ConfigMap {
                metadata: named(),
                data: Some(data),
                ..ConfigMap::default()
            };
            match config_maps.create(&PostParams::default(), &new).await {
                Ok(_) => {}
                Err(kube::Error::Api(s)) if s.is_already_exists() => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

fn named() -> ObjectMeta {
    let labels = [("app.kubernetes.io/part-of".to_owned(), "kerbside".to_owned())].into();
    ObjectMeta {
        name: Some(NAME.to_owned()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}
