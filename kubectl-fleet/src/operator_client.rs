//! Talks to the operator's `/results`, `/logs` and `/ledger` as the person at the terminal.
//!
//! The operator asks the API server who a bearer token belongs to and whether they may `get fleetjobs/results` or `vehicles/ledger`. A
//! kubeconfig with a token is used as it is; one with a client certificate has none, so a short-lived token of the account
//! `kerbside-results-reader` is asked for. Where no address is given, `kubectl port-forward` opens the way and is ended with this value.

use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use kube::{Client, Config};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::Error;

/// The account whose token stands in for a kubeconfig without one.
const READER: &str = "kerbside-results-reader";

/// One way to the operator.
pub(crate) struct OperatorClient {
    base: String,
    token: String,
    http: reqwest::Client,
    /// Ends with this value.
    _forward: Option<Child>,
}

impl OperatorClient {
    /// Reaches the operator at `address`, or by a forwarded port.
    pub(crate) async fn connect(client: &Client, system: &str, address: Option<&str>) -> Result<Self, Error> {
        let (base, forward) = if let Some(address) = address {
            (address.trim_end_matches('/').to_owned(), None)
        } else {
            let (base, child) = forward("kubectl", system).await?;
            (base, Some(child))
        };
        let token = match own_token().await {
            Some(t) => t,
            None => reader_token(client, system).await?,
        };
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .build()
            .map_err(|e| Error::Unreachable {
                url: base.clone(),
                source: Box::new(e),
            })?;
        Ok(Self {
            base,
            token,
            http,
            _forward: forward,
        })
    }

    /// GET of a path under the operator's address; an answer that is not 2xx is an error with the operator's words.
    pub(crate) async fn get(&self, path: &str) -> Result<reqwest::Response, Error> {
        let url = format!("{}{path}", self.base);
        let unreachable = |e| Error::Unreachable {
            url: url.clone(),
            source: Box::new(e),
        };
        let response = self
            .http
            .get(&url)
            .bearer_auth(&self.token)
            .send()
            .await
            .map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let message = response.text().await.map_err(unreachable)?;
        Err(Error::Operator {
            status: status.as_u16(),
            message: message.trim().to_owned(),
        })
    }

    /// GET of a JSON document.
    pub(crate) async fn get_json<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let unreachable = |e| Error::Unreachable {
            url: format!("{}{path}", self.base),
            source: Box::new(e),
        };
        let bytes = self.get(path).await?.bytes().await.map_err(unreachable)?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Unreadable {
            what: path.to_owned(),
            source,
        })
    }
}

/// The bearer token of the kubeconfig's user, if it has one.
async fn own_token() -> Option<String> {
    use secrecy::ExposeSecret;
    let config = Config::infer().await.ok()?;
    if let Some(token) = config.auth_info.token {
        return Some(token.expose_secret().to_owned());
    }
    let file = config.auth_info.token_file?;
    tokio::fs::read_to_string(file).await.ok().map(|t| t.trim().to_owned())
}

async fn reader_token(client: &Client, system: &str) -> Result<String, Error> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), system);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(600),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let verb = format!("get a token of the account {READER}; your kubeconfig has none of its own");
    let answer = accounts
        .create_token_request(READER, &PostParams::default(), &request)
        .await
        .map_err(Error::api(verb))?;
    answer
        .status
        .and_then(|s| s.token)
        .ok_or_else(|| Error::Refused("the API server gave no token".into()))
}

/// Forwards a free local port to the operator's Service; kubectl prints which one it took.
async fn forward(kubectl: &str, system: &str) -> Result<(String, Child), Error> {
    let failed = |e: std::io::Error| {
        Error::Refused(format!(
            "failed to run 'kubectl port-forward' ({e}); give the operator's address with --operator"
        ))
    };
    let mut child = Command::new(kubectl)
        .args(["-n", system, "port-forward", "service/kerbside-operator", ":8080"])
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let Some(stdout) = child.stdout.take() else {
        return Err(Error::Refused("kubectl port-forward has no output".into()));
    };
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        if let Some(port) = forwarded_port(&line) {
            // kubectl prints a line for each connection, and is ended by the first one that nobody can read.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok((format!("http://127.0.0.1:{port}"), child));
        }
    }
    Err(Error::Refused(format!(
        "'kubectl port-forward' could not reach the Service kerbside-operator in namespace '{system}' (its message is above)"
    )))
}

/// The local port in `Forwarding from 127.0.0.1:40123 -> 8080`.
fn forwarded_port(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("Forwarding from 127.0.0.1:")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{forward, forwarded_port};

    #[test]
    fn port_is_read_from_kubectls_line() {
        assert_eq!(forwarded_port("Forwarding from 127.0.0.1:40123 -> 8080"), Some(40123));
        assert_eq!(forwarded_port("Forwarding from [::1]:40123 -> 8080"), None);
    }

    /// Instead of kubectl: says where it listens, then far more than a pipe holds, as kubectl does of each connection.
    const TALKER: &str = "#!/bin/sh
echo 'Forwarding from 127.0.0.1:40123 -> 8080'
i=0
while [ $i -lt 10000 ]; do echo 'Handling connection for 40123' || exit 1; i=$((i+1)); done
";

    #[tokio::test]
    async fn kubectl_that_tells_of_each_connection_is_heard_out() {
        let folder = tempfile::tempdir().unwrap();
        let kubectl = folder.path().join("kubectl");
        std::fs::write(&kubectl, TALKER).unwrap();
        std::fs::set_permissions(&kubectl, std::fs::Permissions::from_mode(0o755)).unwrap();

        let (base, mut child) = forward(kubectl.to_str().unwrap(), "kerbside-system").await.unwrap();

        assert_eq!(base, "http://127.0.0.1:40123");
        let ended = child.wait().await.unwrap();
        assert!(ended.success(), "kubectl ended with {ended}");
    }

    #[tokio::test]
    async fn kubectl_that_ends_without_a_port_is_told_of() {
        let refused = forward("false", "kerbside-system").await.unwrap_err().to_string();
        assert!(refused.contains("kerbside-operator"), "{refused}");
        let missing = forward("/nonexistent/kubectl", "kerbside-system")
            .await
            .unwrap_err()
            .to_string();
        assert!(missing.contains("--operator"), "{missing}");
    }
}
