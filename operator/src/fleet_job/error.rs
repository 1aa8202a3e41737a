//! Why a turn was not completed, and what that means for the next one: permanent or retryable is in the type.

use super::validate::ParseError;
use crate::ledger::CloseError;

/// Why a turn was not completed. What is permanent waits for a change of the job, the rest is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to read FleetJob: {0}")]
    Unreadable(String),
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error("failed to try the job's first Pod on the API server")]
    TryTemplate(#[source] Box<kube::Error>),
    #[error("failed to update the status of FleetJob")]
    Status(#[source] Box<kube::Error>),
    #[error("failed to create Pod")]
    Create(#[source] Box<kube::Error>),
    #[error("failed to create Pod: '{0}' exists and is not the job's; delete it")]
    NameTaken(String),
    #[error("failed to delete Pod")]
    Delete(#[source] Box<kube::Error>),
    #[error("failed to let Pod go")]
    Close(#[source] CloseError),
    #[error("failed to take the finalizer off Pod")]
    Release(#[source] Box<kube::Error>),
    #[error("failed to delete FleetJob after its time to live")]
    Expire(#[source] Box<kube::Error>),
}

impl Error {
    /// Reason of the Event and label of the metric.
    pub(crate) fn category(&self) -> &'static str {
        match self {
            Self::Unreadable(_) | Self::Parse(_) => "ObjectUnreadable",
            Self::TryTemplate(_) => "TemplateNotTried",
            Self::Status(_) => "StatusUpdateFailed",
            Self::Create(_) => "FailedCreate",
            Self::NameTaken(_) => "PodNameTaken",
            Self::Delete(_) => "FailedDelete",
            Self::Close(_) => "FailedClosing",
            Self::Release(_) => "FailedRelease",
            Self::Expire(_) => "FailedExpire",
        }
    }

    /// Only a change of the object helps.
    pub(super) fn is_permanent(&self) -> bool {
        matches!(self, Self::Unreadable(_) | Self::Parse(_))
    }

    /// The API server understood and said no; asking again at once would only be noise.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Create(e) => matches!(&**e, kube::Error::Api(s) if s.is_forbidden() || s.is_invalid()),
            Self::NameTaken(_) => true,
            _ => false,
        }
    }
}
