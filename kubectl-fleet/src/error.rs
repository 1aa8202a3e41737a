//! What can go wrong, in words for the person at the terminal.

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no usable cluster.
    #[error(transparent)]
    Connect(#[from] kerbside_k8s::client::ConnectError),
    /// The API server refused or did not answer.
    #[error("failed to {verb}")]
    Api {
        /// What was tried.
        verb: String,
        /// What the API server says.
        #[source]
        source: Box<kube::Error>,
    },
    /// The command's arguments or the cluster's state make it impossible; the text says what to do.
    #[error("{0}")]
    Refused(String),
    /// The operator answered with an error.
    #[error("the operator answered {status}: {message}")]
    Operator {
        /// Of HTTP.
        status: u16,
        /// As the operator says.
        message: String,
    },
    /// The operator could not be reached.
    #[error("failed to reach the operator at {url}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Of the HTTP client.
        #[source]
        source: Box<reqwest::Error>,
    },
    /// What came back is not what was promised.
    #[error("{file} has the SHA-256 {found}, the result says {expected}; it was not written")]
    WrongHash {
        /// Path within the result.
        file: String,
        /// Of what came.
        found: String,
        /// As the accepted result says.
        expected: String,
    },
    /// A file could not be read.
    #[error("failed to read {path}")]
    Read {
        /// Of the file.
        path: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// What was read is not what it should be.
    #[error("failed to read {what}: it is not as the operator writes it")]
    Unreadable {
        /// What was read.
        what: String,
        /// Why it is not.
        #[source]
        source: serde_json::Error,
    },
    /// The CA's certificate is none.
    #[error("failed to read the CA's certificate")]
    Ca(#[source] kerbside_link::identity::IdentityError),
    /// The ledger does not hold; what is wrong was printed.
    #[error("the ledger does not hold; findings: {findings}")]
    Findings {
        /// How many.
        findings: usize,
    },
    /// A file could not be written.
    #[error("failed to write {path}")]
    Write {
        /// Of the file.
        path: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Standard output is gone.
    #[error("failed to print")]
    Print(#[source] std::io::Error),
}

impl Error {
    /// Wraps an API error with what was tried.
    pub fn api(verb: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let verb = verb.into();
        move |e| Self::Api {
            verb,
            source: Box::new(e),
        }
    }
}
