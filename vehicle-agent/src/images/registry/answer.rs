//! What a registry answers to small questions: manifests, and what refers to one.
//!
//! Asked by `registry`, by requests of our own, for the library that fetches blobs reads such an answer to its end, whatever its length, and
//! tells of it then. Whoever has no token asks without one, and the library gets one if the registry wants it. What must never
//! happen: an answer that fills the memory, a byte that is not counted because the answer was not wanted, or a token for another repository.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oci_client::client::ClientConfig;
use oci_client::errors::{OciDistributionError, OciEnvelope};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use tokio::time::timeout;

use super::{CONNECT, READ, describe, failed, key_of, may_move, new_client, nobody};
use crate::images::ImageError;
use crate::images::manifest::ACCEPTED;
use crate::uplink::Uplink;

/// Bytes; a manifest has some thousand, and no registry takes a larger one.
const MOST: usize = 4 << 20;
/// A registry that answers byte by byte is asked again later.
const PATIENCE: Duration = Duration::from_mins(1);

/// How registries are spoken to, with or without TLS.
#[derive(Clone)]
pub(super) struct Clients {
    /// For blobs, and for tokens.
    pub(super) library: Client,
    http: reqwest::Client,
    scheme: &'static str,
    /// What registries have given to one who has no token, by image name.
    tokens: Arc<Mutex<BTreeMap<String, String>>>,
}

/// What a registry has answered, and to what.
pub(super) struct Answer {
    pub(super) status: u16,
    body: Vec<u8>,
    url: String,
}

impl Clients {
    pub(super) fn new(plain: bool) -> Result<Self, ImageError> {
        let broken = |e: reqwest::Error| ImageError::Pull(describe(&e));
        let mut http = reqwest::Client::builder()
            .user_agent(ClientConfig::default().user_agent)
            .connect_timeout(CONNECT)
            .read_timeout(READ);
        if plain {
            let nobody = reqwest::Certificate::from_der(&nobody()?.data).map_err(broken)?;
            http = http.tls_certs_only([nobody]);
        }
        Ok(Self {
            library: new_client(plain)?,
            http: http.build().map_err(broken)?,
            scheme: if plain { "http" } else { "https" },
            tokens: Arc::default(),
        })
    }

    /// Asks for what is at `path` of an image's repository. `token`: the Pod's own. Every piece counts as it comes, and none comes when
    /// the owner says no.
    pub(super) async fn ask(
        &self,
        image: &Reference,
        path: &str,
        token: Option<&str>,
        uplink: &Uplink,
    ) -> Result<Answer, ImageError> {
        let late = |_| ImageError::Pull(format!("{image}: the registry takes too long to answer"));
        let asked = Box::pin(self.ask_for_long(image, path, token, uplink));
        timeout(PATIENCE, asked).await.map_err(late)?
    }

    async fn ask_for_long(
        &self,
        image: &Reference,
        path: &str,
        token: Option<&str>,
        uplink: &Uplink,
    ) -> Result<Answer, ImageError> {
        let known = token.map(str::to_owned).or_else(|| self.known(image));
        let answer = self.ask_once(image, path, known, uplink).await?;
        if answer.status != 401 || token.is_some() {
            return Ok(answer);
        }
        // It wants a token that it gives to everybody, or has given one that has ended.
        let anybody = &RegistryAuth::Anonymous;
        let given = self.library.auth(image, anybody, RegistryOperation::Pull).await;
        let Some(given) = given.map_err(|e| failed(image, &e))? else {
            return Ok(answer);
        };
        self.keep(image, given.clone());
        self.ask_once(image, path, Some(given), uplink).await
    }

    async fn ask_once(
        &self,
        image: &Reference,
        path: &str,
        token: Option<String>,
        uplink: &Uplink,
    ) -> Result<Answer, ImageError> {
        let (registry, repository) = (image.resolve_registry(), image.repository());
        let url = format!("{}://{registry}/v2/{repository}/{path}", self.scheme);
        let mut request = self.http.get(&url).header("accept", ACCEPTED.join(", "));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let broken = |e: reqwest::Error| failed(image, &OciDistributionError::RequestError(e));
        let mut response = request.send().await.map_err(broken)?;
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(broken)? {
            uplink.count(piece.len());
            may_move(uplink)?;
            if body.len() + piece.len() > MOST {
                return Err(ImageError::Pull(format!(
                    "{image}: the registry answers with more than {MOST} bytes, which no manifest has"
                )));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer {
            status: response.status().as_u16(),
            body,
            url,
        })
    }

    fn known(&self, image: &Reference) -> Option<String> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(&key_of(image)).cloned()
    }

    fn keep(&self, image: &Reference, token: String) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        // They end by themselves, and are got again.
        if tokens.len() >= super::CLIENTS {
            tokens.clear();
        }
        tokens.insert(key_of(image), token);
    }
}

impl Answer {
    /// What was asked for, or what the registry says instead.
    pub(super) fn given(self) -> Result<Vec<u8>, OciDistributionError> {
        let Self { status, body, url } = self;
        if status == 200 {
            return Ok(body);
        }
        if status == 401 {
            return Err(OciDistributionError::UnauthorizedError { url });
        }
        let envelope = serde_json::from_slice::<OciEnvelope>(&body).ok();
        Err(match envelope.filter(|_| (400..500).contains(&status)) {
            Some(envelope) => OciDistributionError::RegistryError { envelope, url },
            None => OciDistributionError::ServerError {
                code: status,
                url,
                message: String::from_utf8_lossy(&body).chars().take(1024).collect(),
            },
        })
    }
}

#[cfg(test)]
mod tests;
