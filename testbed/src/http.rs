//! A plain GET, for the readiness of servers that have certificates of their own making.
//!
//! Called while starting things; never used where it matters who answers.

use anyhow::{Context, Result};
use kube::{Client, Config};

/// A client for one server, which may present any certificate.
pub fn client(base: &str) -> Result<Client> {
    let mut config = Config::new(base.parse().with_context(|| format!("'{base}' is not a URL"))?);
    config.accept_invalid_certs = true;
    Client::try_from(config).context("failed to build an HTTP client")
}

/// The body of `GET base + path`; an error for anything but success.
pub async fn get(base: &str, path: &str) -> Result<String> {
    let request = ::http::Request::get(path)
        .body(Vec::new())
        .context("failed to build a request")?;
    client(base)?
        .request_text(request)
        .await
        .with_context(|| format!("failed to GET {base}{path}"))
}
