//! What can go wrong with a call over the link, the same on both sides: a kind that says whether to try again, and a sentence.
//!
//! Adapters return it, cars receive it. On the wire it is a gRPC status. Never: a decision taken from the sentence.

use tonic::{Code, Status};

/// Longer sentences are cut: they travel in a header.
const MESSAGE_LIMIT: usize = 1024;

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// There is no valid certificate or token.
    Unauthenticated,
    /// There is, and what it names may not do this: it is revoked, or the thing belongs to somebody else.
    Denied,
    /// The request makes no sense.
    Invalid,
    /// What the request is about does not exist (any more).
    NotFound,
    /// Something newer stands against it.
    Conflict,
    /// Larger than it may be.
    TooLarge,
    /// The peers do not speak the same version, or this peer does not know this call.
    Unsupported,
    /// Asked too often.
    RateLimited,
    /// Not now: the peer, its store or its cluster is not reachable.
    Unavailable,
    /// The peer does not know what went wrong.
    Internal,
}

/// Why a call over the link failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    kind: FaultKind,
    message: String,
}

macro_rules! constructors {
    ($($name:ident, $kind:ident, $doc:literal;)*) => {
        $(
            #[doc = $doc]
            pub fn $name(message: impl Into<String>) -> Self {
                Self::new(FaultKind::$kind, message)
            }
        )*
    };
}

impl Fault {
    /// A fault of this kind; the message says what is wrong and what to do.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_LIMIT {
            let end = (0..=MESSAGE_LIMIT)
                .rev()
                .find(|end| message.is_char_boundary(*end))
                .unwrap_or(0);
            message.truncate(end);
        }
        Self { kind, message }
    }

    constructors! {
        unauthenticated, Unauthenticated, "There is no valid certificate or token.";
        denied, Denied, "Revoked, or somebody else's.";
        invalid, Invalid, "The request makes no sense.";
        not_found, NotFound, "What the request is about does not exist.";
        conflict, Conflict, "Something newer stands against it.";
        too_large, TooLarge, "Larger than it may be.";
        unsupported, Unsupported, "Not in a version that both speak.";
        rate_limited, RateLimited, "Asked too often.";
        unavailable, Unavailable, "Not now.";
        internal, Internal, "Nobody knows why.";
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            FaultKind::RateLimited | FaultKind::Unavailable | FaultKind::Internal
        )
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let code = match fault.kind {
            FaultKind::Unauthenticated => Code::Unauthenticated,
            FaultKind::Denied => Code::PermissionDenied,
            FaultKind::Invalid => Code::InvalidArgument,
            FaultKind::NotFound => Code::NotFound,
            FaultKind::Conflict => Code::Aborted,
            FaultKind::TooLarge => Code::OutOfRange,
            FaultKind::Unsupported => Code::FailedPrecondition,
            FaultKind::RateLimited => Code::ResourceExhausted,
            FaultKind::Unavailable => Code::Unavailable,
            FaultKind::Internal => Code::Internal,
        };
        Self::new(code, fault.message)
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        let kind = match status.code() {
            Code::Unauthenticated => FaultKind::Unauthenticated,
            Code::PermissionDenied => FaultKind::Denied,
            Code::InvalidArgument => FaultKind::Invalid,
            Code::NotFound => FaultKind::NotFound,
            Code::Aborted | Code::AlreadyExists => FaultKind::Conflict,
            Code::OutOfRange => FaultKind::TooLarge,
            Code::FailedPrecondition | Code::Unimplemented => FaultKind::Unsupported,
            Code::ResourceExhausted => FaultKind::RateLimited,
            Code::Internal | Code::DataLoss => FaultKind::Internal,
            // Ok is no fault; a peer that calls it one is as good as gone. Cancelled, Unknown and DeadlineExceeded are what
            // the transport says when a connection breaks.
            Code::Ok | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded | Code::Unavailable => {
                FaultKind::Unavailable
            }
        };
        let message = if status.message().is_empty() {
            status.code().description()
        } else {
            status.message()
        };
        // The transport says "transport error" and means what is below it.
        let message = match std::error::Error::source(&status) {
            Some(source) => format!("{message}: {}", with_sources(source)),
            None => message.to_owned(),
        };
        Self::new(kind, message)
    }
}

/// An error with its causes, in one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(FaultKind::Unauthenticated, false)]
    #[case(FaultKind::Denied, false)]
    #[case(FaultKind::Invalid, false)]
    #[case(FaultKind::NotFound, false)]
    #[case(FaultKind::Conflict, false)]
    #[case(FaultKind::TooLarge, false)]
    #[case(FaultKind::Unsupported, false)]
    #[case(FaultKind::RateLimited, true)]
    #[case(FaultKind::Unavailable, true)]
    #[case(FaultKind::Internal, true)]
    fn fault_over_the_wire_is_the_same(#[case] kind: FaultKind, #[case] retryable: bool) {
        let fault = Fault::new(kind, "the store is away");
        assert_eq!(fault.is_retryable(), retryable);
        assert_eq!(Fault::from(Status::from(fault.clone())), fault);
    }

    #[test]
    fn fault_with_an_endless_message_is_cut_at_a_character() {
        let fault = Fault::internal("ä".repeat(4000));
        assert_eq!(fault.message().len(), 1024);
        let fault = Fault::internal(format!("x{}", "ä".repeat(4000)));
        assert_eq!(fault.message().len(), 1023);
    }
}
