//! One way to connect: kubeconfig or in-cluster, a user agent per program, no client-side rate limit, and a check of the
//! server's version at the start.
//!
//! Called once by each program's `run`. A program that starts against an unsupported server says so and ends; it never works
//! on half-known ground. Only what looks at a cluster, or cleans it up, may go on: see [`connect_to_any`].

use kube::{Client, Config};

/// The Kubernetes minor versions (of 1.x) that Kerbside supports, both ends included.
pub const SUPPORTED_MINORS: std::ops::RangeInclusive<u32> = 35..=37;

/// Why a program cannot talk to its cluster.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor an in-cluster environment was usable.
    #[error("failed to find a cluster: set KUBECONFIG, or run inside a Pod with a service account")]
    Config(#[source] Box<kube::config::InferConfigError>),
    /// The user agent is not a valid header value.
    #[error("failed to use the user agent '{0}'")]
    UserAgent(String),
    /// The client could not be built from its configuration.
    #[error("failed to build the API client")]
    Client(#[source] Box<kube::Error>),
    /// The server did not answer the question for its version.
    #[error("failed to read the API server's version")]
    Version(#[source] Box<kube::Error>),
    /// The server's version is outside of what Kerbside supports.
    #[error(
        "the API server is Kubernetes {found}; Kerbside supports 1.{} to 1.{}",
        SUPPORTED_MINORS.start(),
        SUPPORTED_MINORS.end()
    )]
    Unsupported {
        /// What the server calls itself.
        found: String,
    },
}

/// Connects with `user_agent` (`program/version replica`), which audit logs show, and checks the server's version.
///
/// The client's own rate limit stays off: the API server's priority and fairness decides.
pub async fn connect(user_agent: &str) -> Result<Client, ConnectError> {
    match connect_to_any(user_agent).await? {
        (client, None) => Ok(client),
        (_, Some(unsupported)) => Err(unsupported),
    }
}

/// Like [`connect`], but an unsupported version is the caller's to judge: it comes beside the client.
pub async fn connect_to_any(user_agent: &str) -> Result<(Client, Option<ConnectError>), ConnectError> {
    // Two TLS providers in one process make rustls refuse to choose; the first call wins and a second is harmless.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut config = Config::infer().await.map_err(|e| ConnectError::Config(Box::new(e)))?;
    let agent = user_agent
        .parse()
        .map_err(|_| ConnectError::UserAgent(user_agent.to_owned()))?;
    config.headers.push((http::header::USER_AGENT, agent));
    let client = Client::try_from(config).map_err(|e| ConnectError::Client(Box::new(e)))?;
    let version = client
        .apiserver_version()
        .await
        .map_err(|e| ConnectError::Version(Box::new(e)))?;
    let unsupported = check_version(&version.major, &version.minor).err();
    Ok((client, unsupported))
}

/// Accepts the versions in [`SUPPORTED_MINORS`]. Some vendors write the minor as `36+`.
fn check_version(major: &str, minor: &str) -> Result<(), ConnectError> {
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse::<u32>() {
        Ok(m) if major == "1" && SUPPORTED_MINORS.contains(&m) => Ok(()),
        _ => Err(ConnectError::Unsupported {
            found: format!("{major}.{minor}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("1", "35")]
    #[case("1", "36+")]
    #[case("1", "37")]
    fn version_in_range_is_accepted(#[case] major: &str, #[case] minor: &str) {
        check_version(major, minor).unwrap();
    }

    #[rstest::rstest]
    #[case("1", "34")]
    #[case("1", "38")]
    #[case("2", "36")]
    #[case("1", "")]
    fn version_out_of_range_is_refused_with_both_numbers(#[case] major: &str, #[case] minor: &str) {
        let text = check_version(major, minor).unwrap_err().to_string();
        assert!(
            text.contains("1.35 to 1.37") && text.contains(&format!("{major}.{minor}")),
            "{text}"
        );
    }
}
