//! SPDY/3.1, as far as Kubernetes speaks it: many streams over one connection.
//!
//! kube-apiserver asks a kubelet for exec, attach and port-forward by an HTTP/1.1 upgrade to `SPDY/3.1` (always before 1.36), and a container
//! engine's streaming server is asked the same way. The adapter is the server of the one and the agent is the client of the other. The
//! upgrade itself is HTTP and not here; what is spoken after it is: [`frame`] says what there is to say, [`codec`] reads and writes
//! it, [`connection`] makes streams of it. Source: the draft `draft-mbelshe-httpbis-spdy-00` with the changes of 3.1, and what
//! `moby/spdystream`, the one implementation at the other end, does of it.
//!
//! SPDY/3.1 has windows for flow control. `spdystream` sends no window updates and takes none, so neither does this: a stream that nobody
//! reads stops its connection, and a caller who wants another outcome reads.
//!
//! Never: memory that grows by what the other side sends; a stream whose bytes are dropped or reordered; a panic for any input.

pub mod codec;
pub mod connection;
mod dictionary;
pub mod frame;
mod headers;
mod stream;

#[cfg(test)]
mod tests;

pub use connection::{Connection, ConnectionError, Limits, Opener, Role};
pub use headers::Headers;
pub use stream::{Reader, Stream, Writer, WriterClosed};
