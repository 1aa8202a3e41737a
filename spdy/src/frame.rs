//! What is said on a connection, without how it looks on the wire.

use bytes::Bytes;

use crate::headers::Headers;

/// A stream's number: odd ones are the client's, even ones the server's, never 0.
pub type StreamId = u32;

/// One frame. What Kubernetes' implementation sends and reads; credentials are not among it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A stream begins.
    SynStream {
        stream: StreamId,
        /// The sender will say no more on it.
        fin: bool,
        headers: Headers,
    },
    /// The other side has it.
    SynReply {
        stream: StreamId,
        fin: bool,
        headers: Headers,
    },
    /// A stream ends at once, in both directions.
    RstStream { stream: StreamId, status: u32 },
    /// Bounds that the sender would like, which Kubernetes' implementation neither has nor heeds.
    Settings,
    /// Is somebody there? The same number comes back.
    Ping(u32),
    /// No stream after this one was or will be taken.
    GoAway { last: StreamId },
    /// More headers for a stream.
    Headers {
        stream: StreamId,
        fin: bool,
        headers: Headers,
    },
    /// The other side may send more; not used by Kubernetes' implementation.
    WindowUpdate { stream: StreamId, more: u32 },
    /// Bytes of a stream: a whole frame of the wire or, where that is long, a part of it.
    Data { stream: StreamId, fin: bool, bytes: Bytes },
}

/// Why a stream was ended at once; numbers of the protocol.
pub mod status {
    pub const PROTOCOL_ERROR: u32 = 1;
    pub const INVALID_STREAM: u32 = 2;
    pub const REFUSED_STREAM: u32 = 3;
    pub const CANCEL: u32 = 5;
}

/// Bytes that are no SPDY/3.1, or more of it than anybody needs. The connection cannot go on: both sides' compression would differ.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("failed to read or write the connection")]
    Io(#[from] std::io::Error),
    #[error("a frame of SPDY version {0} instead of 3")]
    Version(u16),
    #[error("a control frame of type {0}, which SPDY/3.1 does not have")]
    Unknown(u16),
    #[error("a frame of {length} bytes, at most {most} are taken")]
    TooLong { length: usize, most: usize },
    #[error("a frame of type {0} that is too short or too long for what it is")]
    Size(u16),
    #[error("stream 0, which cannot be")]
    StreamZero,
    #[error("headers that cannot be decompressed")]
    Compression,
    #[error("headers of more than {0} bytes")]
    HeadersTooLong(usize),
    #[error("headers that end before they say everything, or name one twice, or not in lower case, or are no UTF-8")]
    Headers,
}
