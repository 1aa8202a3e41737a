//! What is large: logs and outputs, each in a call of its own beside the session.
//!
//! Called by the agent through [`Client`]. An upload goes on where it stopped, over as many connections as it takes; giving up
//! is the caller's, by dropping it. Never: a byte sent again that the adapter has kept, or a call that outlives its session.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use kerbside_core::ids::PodUid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeek, AsyncSeekExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::Client;
use super::context::Live;
use super::gather::gather;
use super::session::pause;
use crate::CHUNK_LIMIT;
use crate::backoff::Backoff;
use crate::fault::{Fault, FaultKind};
use crate::proto::link_client::LinkClient;
use crate::proto::{LogChunk, OutputChunk, OutputFile, OutputOffsetRequest, PutReceiptRequest, SealOutputRequest};

/// Longer than that no adapter thinks about a small call.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// Why a file did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The file could not be read in the car.
    #[error("failed to read output file")]
    Read(#[source] io::Error),
    /// The file in the car is shorter than was said.
    #[error("failed to upload output file: it has changed since it was hashed")]
    Changed,
    /// The adapter does not want it, and will not.
    #[error("failed to upload output file: {0}")]
    Refused(Fault),
}

impl Client {
    /// Sends the log that was asked for under `request_id`. An item that is an error says why there is nothing (more) to
    /// read, and ends it. Returns when the adapter has it or does not want more of it; a lost connection is a fault, since
    /// the adapter asks again if somebody still waits.
    pub async fn send_logs(
        &self,
        request_id: &str,
        log: impl Stream<Item = Result<Bytes, String>> + Send + 'static,
    ) -> Result<(), Fault> {
        let chunks = log_chunks(request_id.to_owned(), gather(log));
        let live = self.live().await?;
        let mut client = live.client.clone();
        self.call(&live, async move { client.send_logs(chunks).await })
            .await
            .map(|_| ())
    }

    /// Uploads one file of an attempt's output, from where the adapter has it; waits for a connection as long as it takes.
    pub async fn upload<R>(&self, uid: &PodUid, file: &OutputFile, mut reader: R) -> Result<(), UploadError>
    where
        R: AsyncRead + AsyncSeek + Unpin + Send,
    {
        let mut backoff = self.backoff();
        loop {
            match self.upload_rest(uid, file, &mut reader).await {
                Ok(true) => return Ok(()),
                // A part of it arrived.
                Ok(false) => backoff.reset(),
                // A conflict is two of us at once, after a reconnect: the older call ends soon.
                Err(UploadError::Refused(fault)) if fault.is_retryable() || fault.kind() == FaultKind::Conflict => {
                    tracing::debug!(attempt = %uid, error = %fault, "output upload interrupted");
                }
                Err(error) => return Err(error),
            }
            pause(&self.context, backoff.next(rand::random())).await;
        }
    }

    /// Says that every file has arrived; waits for a connection as long as it takes.
    pub async fn seal_output(&self, uid: &PodUid, files: Vec<OutputFile>, logs: Vec<OutputFile>) -> Result<(), Fault> {
        let request = SealOutputRequest {
            uid: uid.to_string(),
            files,
            logs,
        };
        let mut backoff = self.backoff();
        loop {
            let live = self.live().await?;
            let (mut client, request) = (live.client.clone(), request.clone());
            match self
                .call(&live, brief(async move { client.seal_output(request).await }))
                .await
            {
                Ok(_) => return Ok(()),
                Err(fault) if fault.is_retryable() => {
                    tracing::debug!(attempt = %uid, error = %fault, "output not sealed yet");
                }
                Err(fault) => return Err(fault),
            }
            pause(&self.context, backoff.next(rand::random())).await;
        }
    }

    /// Sends a receipt, with the certificate of the key that signed it, and whether the car has no later one; waits for a connection as long as it takes. Returns when it is stored, or
    /// with a fault that no other try will change. An adapter that knows no receipts is waited for: the next one may.
    pub async fn put_receipt(&self, envelope: Bytes, chain_pem: String, newest: bool) -> Result<(), Fault> {
        let request = PutReceiptRequest {
            envelope,
            certificate_chain_pem: chain_pem,
            newest,
        };
        let mut backoff = self.backoff();
        loop {
            let live = self.live().await?;
            let (mut client, request) = (live.client.clone(), request.clone());
            match self
                .call(&live, brief(async move { client.put_receipt(request).await }))
                .await
            {
                Ok(_) => return Ok(()),
                Err(fault) if fault.is_retryable() || fault.kind() == FaultKind::Unsupported => {
                    tracing::debug!(error = %fault, "receipt not stored yet");
                }
                Err(fault) => return Err(fault),
            }
            pause(&self.context, backoff.next(rand::random())).await;
        }
    }

    /// Whether the file is complete now.
    async fn upload_rest<R>(&self, uid: &PodUid, file: &OutputFile, reader: &mut R) -> Result<bool, UploadError>
    where
        R: AsyncRead + AsyncSeek + Unpin + Send,
    {
        let live = self.live().await.map_err(UploadError::Refused)?;
        let offset = self.offset(&live, uid, file).await.map_err(UploadError::Refused)?;
        // An empty file is sent all the same: nothing else tells it from one that never came.
        if offset == file.size && file.size > 0 {
            return Ok(true);
        }
        reader
            .seek(io::SeekFrom::Start(offset))
            .await
            .map_err(UploadError::Read)?;
        let (chunks, receiver) = mpsc::channel(1);
        let mut client: LinkClient<Channel> = live.client.clone();
        let call = self.call(
            &live,
            async move { client.put_output(ReceiverStream::new(receiver)).await },
        );
        let (fed, answer) = tokio::join!(feed(uid, file, offset, reader, chunks), call);
        fed?;
        let receipt = answer.map_err(UploadError::Refused)?.into_inner();
        if !receipt.complete && receipt.offset >= file.size {
            let fault = Fault::invalid("the adapter has every byte and does not call the file complete");
            return Err(UploadError::Refused(fault));
        }
        Ok(receipt.complete)
    }

    async fn offset(&self, live: &Live, uid: &PodUid, file: &OutputFile) -> Result<u64, Fault> {
        if file.size == 0 {
            return Ok(0);
        }
        let request = OutputOffsetRequest {
            uid: uid.to_string(),
            file: Some(file.clone()),
        };
        let mut client = live.client.clone();
        let answer = self
            .call(live, brief(async move { client.output_offset(request).await }))
            .await?;
        let offset = answer.into_inner().offset;
        if offset > file.size {
            return Err(Fault::invalid("the adapter has more bytes than the file"));
        }
        Ok(offset)
    }

    /// The connection to use, as soon as there is one.
    pub(super) async fn live(&self) -> Result<Live, Fault> {
        let mut live = self.context.live.subscribe();
        tokio::select! {
            () = self.context.stopped() => Err(Fault::invalid("the client has been shut down")),
            // An error would mean that the sender is gone, which the context holds.
            live = live.wait_for(Option::is_some) => {
                live.ok().and_then(|live| live.clone()).ok_or_else(|| Fault::unavailable("not connected"))
            }
        }
    }

    /// A call that ends with the session it was made beside: a dead connection is noticed there.
    pub(super) async fn call<T>(
        &self,
        live: &Live,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Response<T>, Fault> {
        let mut current = self.context.live.subscribe();
        let epoch = live.epoch;
        tokio::select! {
            answer = call => answer.map_err(Fault::from),
            _ = current.wait_for(|live| live.as_ref().is_none_or(|live| live.epoch != epoch)) => {
                Err(Fault::unavailable("the connection was lost or replaced"))
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(self.context.pace.first, self.context.pace.longest)
    }
}

async fn brief<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<Response<T>, Status> {
    tokio::time::timeout(ANSWER_TIMEOUT, call)
        .await
        .unwrap_or_else(|_| Err(Status::unavailable("no answer")))
}

/// Reads the file from `offset` into `chunks`. Ends early, without an error, when nobody takes them any more.
async fn feed<R>(
    uid: &PodUid,
    file: &OutputFile,
    offset: u64,
    reader: &mut R,
    chunks: mpsc::Sender<OutputChunk>,
) -> Result<(), UploadError>
where
    R: AsyncRead + Unpin + Send,
{
    let mut next = OutputChunk {
        uid: uid.to_string(),
        file: Some(file.clone()),
        offset,
        data: Bytes::new(),
    };
    let mut left = file.size - offset;
    loop {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_LIMIT);
        let mut data = BytesMut::with_capacity(want);
        while data.len() < want {
            let mut rest = (&mut *reader).take((want - data.len()) as u64);
            if rest.read_buf(&mut data).await.map_err(UploadError::Read)? == 0 {
                return Err(UploadError::Changed);
            }
        }
        left -= data.len() as u64;
        next.data = data.freeze();
        if chunks.send(std::mem::take(&mut next)).await.is_err() || left == 0 {
            return Ok(());
        }
    }
}

/// The messages of one log, fed by a task: the stream is a plain type, so the future of `send_logs` is `Send` wherever it is
/// awaited.
fn log_chunks(
    request_id: String,
    log: impl Stream<Item = Result<Bytes, String>> + Send + 'static,
) -> ReceiverStream<LogChunk> {
    let (chunks, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            // Nobody wants more of it.
            () = chunks.closed() => {}
            () = feed_log(request_id, log, &chunks) => {}
        }
    });
    ReceiverStream::new(stream)
}

/// A failed send means that nobody takes the chunks any more.
async fn feed_log(request_id: String, log: impl Stream<Item = Result<Bytes, String>>, chunks: &mpsc::Sender<LogChunk>) {
    let first = LogChunk {
        request_id,
        ..LogChunk::default()
    };
    if chunks.send(first).await.is_err() {
        return;
    }
    let mut log = std::pin::pin!(log);
    while let Some(item) = log.next().await {
        match item {
            Ok(data) => {
                for data in pieces(data) {
                    let chunk = LogChunk {
                        data,
                        ..LogChunk::default()
                    };
                    if chunks.send(chunk).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                let chunk = LogChunk {
                    error,
                    ..LogChunk::default()
                };
                let _ = chunks.send(chunk).await;
                return;
            }
        }
    }
    let last = LogChunk {
        end: true,
        ..LogChunk::default()
    };
    let _ = chunks.send(last).await;
}

fn pieces(mut data: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || (!data.is_empty()).then(|| data.split_to(data.len().min(CHUNK_LIMIT))))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fed(size: u64, offset: u64, content: &[u8]) -> (Result<(), UploadError>, Vec<OutputChunk>) {
        let file = OutputFile {
            path: "a".into(),
            size,
            sha256: String::new(),
        };
        let mut reader = content.get(usize::try_from(offset).unwrap()..).unwrap();
        let (sender, mut receiver) = mpsc::channel(64);
        let fed = feed(&"u".parse().unwrap(), &file, offset, &mut reader, sender).await;
        let mut chunks = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            chunks.push(chunk);
        }
        (fed, chunks)
    }

    #[tokio::test]
    async fn file_from_an_offset_is_sent_to_its_end_in_chunks_and_named_once() {
        let content: Vec<u8> = (0..=255).cycle().take(CHUNK_LIMIT * 2 + 10).collect();
        let (fed, chunks) = fed(content.len() as u64, 5, &content).await;
        fed.unwrap();
        assert_eq!(
            chunks.iter().map(|c| c.data.len()).collect::<Vec<_>>(),
            [CHUNK_LIMIT, CHUNK_LIMIT, 5]
        );
        assert_eq!((chunks[0].offset, chunks[0].uid.as_str()), (5, "u"));
        assert!(chunks[1].file.is_none() && chunks[1].uid.is_empty());
        let sent: Vec<u8> = chunks.iter().flat_map(|c| c.data.to_vec()).collect();
        assert_eq!(sent, content[5..]);
    }

    #[tokio::test]
    async fn empty_file_is_one_empty_chunk() {
        let (fed, chunks) = fed(0, 0, b"").await;
        fed.unwrap();
        assert_eq!(chunks.len(), 1);
    }

    #[tokio::test]
    async fn file_shorter_than_was_said_has_changed() {
        let (fed, _) = fed(10, 0, b"12345").await;
        assert!(matches!(fed, Err(UploadError::Changed)));
    }

    #[tokio::test]
    async fn file_that_has_grown_is_sent_as_long_as_was_said() {
        let (fed, chunks) = fed(3, 0, b"12345").await;
        fed.unwrap();
        assert_eq!(chunks[0].data.as_ref(), b"123");
    }

    #[test]
    fn log_in_large_pieces_is_sent_in_small_ones() {
        let sizes: Vec<usize> = pieces(Bytes::from(vec![0; CHUNK_LIMIT + 1])).map(|p| p.len()).collect();
        assert_eq!(sizes, [CHUNK_LIMIT, 1]);
        assert_eq!(pieces(Bytes::new()).count(), 0);
    }
}
