//! One stream of a connection: its headers, what comes in on it, what goes out.
//!
//! Handed out by [`crate::Connection`] (the other side began it) or [`crate::Opener`] (this side did). A [`Reader`] that is not read stops the
//! connection after a few parts; one that is dropped lets the rest of its bytes be thrown away. A [`Writer`] that is dropped before it
//! has finished resets the stream, in both directions: the other side learns that the bytes are not all. So who only reads from a stream
//! keeps its writer until the end, or finishes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::connection::Command;
use crate::frame::StreamId;
use crate::headers::Headers;

/// The parts of data that wait to be read, at most 64 KiB each.
pub(crate) const ROOM: usize = 16;

/// What [`Reader`] and [`Writer`] have in common: whether the other side has ended the stream at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct ResetFlag(Arc<AtomicBool>);

impl ResetFlag {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A stream in both directions.
#[derive(Debug)]
pub struct Stream {
    headers: Headers,
    reader: Reader,
    writer: Writer,
}

/// What comes in.
#[derive(Debug)]
pub struct Reader {
    parts: mpsc::Receiver<Bytes>,
    reset: ResetFlag,
}

/// What goes out.
#[derive(Debug)]
pub struct Writer {
    id: StreamId,
    commands: mpsc::Sender<Command>,
    dropped: mpsc::UnboundedSender<StreamId>,
    reset: ResetFlag,
    finished: bool,
}

/// The stream was reset, or its connection has ended: nobody will read what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended")]
pub struct WriterClosed;

impl Stream {
    pub(crate) fn new(headers: Headers, reader: Reader, writer: Writer) -> Self {
        Self {
            headers,
            reader,
            writer,
        }
    }

    /// What it was begun with.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Its number on the connection.
    pub fn id(&self) -> StreamId {
        self.writer.id
    }

    /// Both directions apart.
    pub fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }
}

impl Reader {
    pub(crate) fn new(parts: mpsc::Receiver<Bytes>, reset: ResetFlag) -> Self {
        Self { parts, reset }
    }

    /// The next bytes, never none of them; None: the other side has finished or reset the stream, or the connection has ended.
    pub async fn read(&mut self) -> Option<Bytes> {
        self.parts.recv().await
    }

    /// Whether the other side has given the stream up instead of finishing it.
    pub fn is_reset(&self) -> bool {
        self.reset.is_set()
    }

    /// All bytes to the end, at most `most`; None: there are more.
    pub async fn read_to_end(&mut self, most: usize) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(part) = self.read().await {
            if all.len() + part.len() > most {
                return None;
            }
            all.extend_from_slice(&part);
        }
        Some(all)
    }
}

impl Writer {
    pub(crate) fn new(
        id: StreamId,
        commands: mpsc::Sender<Command>,
        dropped: mpsc::UnboundedSender<StreamId>,
        reset: ResetFlag,
    ) -> Self {
        Self {
            id,
            commands,
            dropped,
            reset,
            finished: false,
        }
    }

    /// Sends bytes; waits while the connection cannot take more.
    ///
    /// # Errors
    /// If nobody will read them.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), WriterClosed> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.send(bytes, false).await
    }

    /// Says that there is no more.
    ///
    /// # Errors
    /// If nobody will hear it.
    pub async fn finish(mut self) -> Result<(), WriterClosed> {
        self.send(Bytes::new(), true).await?;
        self.finished = true;
        Ok(())
    }

    async fn send(&self, bytes: Bytes, fin: bool) -> Result<(), WriterClosed> {
        if self.reset.is_set() {
            return Err(WriterClosed);
        }
        let stream = self.id;
        let data = Command::Data { stream, fin, bytes };
        self.commands.send(data).await.map_err(|_| WriterClosed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // Nobody to tell: the connection has ended.
            let _ = self.dropped.send(self.id);
        }
    }
}
