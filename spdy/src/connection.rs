//! Streams over one connection, for both roles.
//!
//! [`Connection::new`] gives the handle and the driver, a future that does all reading and writing and that its caller spawns. The connection lives as
//! long as somebody has the handle, an [`Opener`] or a [`crate::Writer`]: with the last of them gone the driver says good-bye, waits a
//! moment for the other side to hang up, and ends. What the driver holds: a few parts of data for each stream, and no more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::codec::{FramedRead, FramedWrite};

use crate::codec::Codec;
use crate::frame::{Frame, FrameError, StreamId, status};
use crate::headers::Headers;
use crate::stream::{ROOM, Reader, ResetFlag, Stream, Writer};

/// Frames that wait to be written.
const WAITING: usize = 32;
/// How long the other side may take to hang up after a good-bye.
const LINGER: Duration = Duration::from_secs(5);

/// Which side of the connection this is: the client's streams have odd numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

/// What a connection may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Streams at a time that the other side began; more are refused one by one.
    pub streams: usize,
    /// Without a frame in either direction for this long the connection is ended (a kubelet's is 4 h).
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 128,
            idle: Duration::from_secs(4 * 3600),
        }
    }
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("nothing was said for {0:?}")]
    Idle(Duration),
}

/// Why a stream could not be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("the other side refused the stream")]
    Refused,
    #[error("the connection has ended")]
    Ended,
}

/// What the driver is to write.
#[derive(Debug)]
pub(crate) enum Command {
    Open(Open),
    Reply(StreamId),
    Data { stream: StreamId, fin: bool, bytes: Bytes },
    Reset { stream: StreamId, status: u32 },
    Pong(u32),
}

/// A stream that this side wants to begin.
#[derive(Debug)]
pub(crate) struct Open {
    headers: Headers,
    parts: mpsc::Sender<Bytes>,
    reset: ResetFlag,
    /// Its number, once the other side has it.
    replied: oneshot::Sender<StreamId>,
}

/// One connection: what the other side begins comes out of it.
#[derive(Debug)]
pub struct Connection {
    incoming: mpsc::Receiver<Stream>,
    opener: Opener,
}

/// Begins streams; cheap to clone.
#[derive(Debug, Clone)]
pub struct Opener {
    commands: mpsc::Sender<Command>,
    dropped: mpsc::UnboundedSender<StreamId>,
}

impl Connection {
    /// The handle, and the driver to spawn. Bytes that came with the upgrade belong in front of what `io` reads.
    pub fn new<IO>(
        io: IO,
        role: Role,
        limits: Limits,
    ) -> (Self, impl Future<Output = Result<(), ConnectionError>> + Send)
    where
        IO: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (commands, to_write) = mpsc::channel(WAITING);
        let (dropped, to_reset) = mpsc::unbounded_channel();
        let (accepted, incoming) = mpsc::channel(limits.streams.max(1));
        let (from, to) = tokio::io::split(io);
        let shared = Arc::new(Shared::default());
        let read = ReadSide {
            frames: FramedRead::new(from, Codec::default()),
            role,
            most: limits.streams,
            accepted,
            commands: commands.downgrade(),
            dropped: dropped.downgrade(),
            shared: Arc::clone(&shared),
            last: 0,
        };
        let write = WriteSide {
            frames: FramedWrite::new(to, Codec::default()),
            next: if role == Role::Client { 1 } else { 2 },
            to_write,
            to_reset,
            shared: Arc::clone(&shared),
        };
        let opener = Opener { commands, dropped };
        (Self { incoming, opener }, drive(read, write, shared, limits.idle))
    }

    /// The next stream that the other side begins; None: the connection has ended.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }

    /// Begins streams from this side.
    pub fn opener(&self) -> Opener {
        self.opener.clone()
    }
}

impl Opener {
    /// Begins a stream and waits until the other side has it.
    ///
    /// # Errors
    /// If it is refused, or the connection has ended.
    pub async fn open(&self, headers: Headers) -> Result<Stream, OpenError> {
        let (parts, incoming) = mpsc::channel(ROOM);
        let (replied, reply) = oneshot::channel();
        let reset = ResetFlag::default();
        let open = Open {
            headers: headers.clone(),
            parts,
            reset: reset.clone(),
            replied,
        };
        self.commands
            .send(Command::Open(open))
            .await
            .map_err(|_| OpenError::Ended)?;
        let id = reply.await.map_err(|_| {
            if self.commands.is_closed() {
                OpenError::Ended
            } else {
                OpenError::Refused
            }
        })?;
        let writer = Writer::new(id, self.commands.clone(), self.dropped.clone(), reset.clone());
        Ok(Stream::new(headers, Reader::new(incoming, reset), writer))
    }
}

/// The streams that are open, for both sides of the driver.
#[derive(Debug)]
struct Shared {
    streams: Mutex<HashMap<StreamId, Entry>>,
    heard: Mutex<Instant>,
}

#[derive(Debug)]
struct Entry {
    /// None: the other side has said everything.
    parts: Option<mpsc::Sender<Bytes>>,
    reset: ResetFlag,
    /// This side has said everything.
    finished: bool,
    /// Of a stream that this side began, until the other side has it.
    replied: Option<oneshot::Sender<StreamId>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            streams: Mutex::default(),
            heard: Mutex::new(Instant::now()),
        }
    }
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, HashMap<StreamId, Entry>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn heard(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes an entry; one whose both directions are over is gone then.
    fn change(&self, stream: StreamId, change: impl FnOnce(&mut Entry)) {
        let mut streams = self.streams();
        if let Some(entry) = streams.get_mut(&stream) {
            change(entry);
            if entry.finished && entry.parts.is_none() {
                streams.remove(&stream);
            }
        }
    }

    fn parts(&self, stream: StreamId) -> Option<mpsc::Sender<Bytes>> {
        self.streams().get(&stream)?.parts.clone()
    }

    /// Ends a stream at once and in both directions; whether it was open.
    fn reset(&self, stream: StreamId) -> bool {
        let entry = self.streams().remove(&stream);
        entry.inspect(|e| e.reset.set()).is_some()
    }

    /// With the connection. Of a stream on which the other side had said everything nothing is missing.
    fn end(&self) {
        for (_, entry) in self.streams().drain() {
            if entry.parts.is_some() {
                entry.reset.set();
            }
        }
    }
}

async fn drive<IO>(
    read: ReadSide<IO>,
    write: WriteSide<IO>,
    shared: Arc<Shared>,
    idle: Duration,
) -> Result<(), ConnectionError>
where
    IO: AsyncRead + AsyncWrite,
{
    let (mut read, write) = (std::pin::pin!(read.run()), write.run());
    let quiet = async {
        loop {
            let until = shared.heard() + idle;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    };
    let ended = tokio::select! {
        ended = &mut read => ended.map_err(ConnectionError::from),
        () = quiet => Err(ConnectionError::Idle(idle)),
        said = write => match said {
            Ok(()) => {
                // Nobody wants more of this connection; the other side is given a moment to take the last bytes.
                let _ = tokio::time::timeout(LINGER, read).await;
                Ok(())
            }
            Err(error) => Err(error.into()),
        },
    };
    shared.end();
    ended
}

/// Reads frames and hands them on.
struct ReadSide<IO> {
    frames: FramedRead<ReadHalf<IO>, Codec>,
    role: Role,
    most: usize,
    accepted: mpsc::Sender<Stream>,
    commands: mpsc::WeakSender<Command>,
    dropped: mpsc::WeakUnboundedSender<StreamId>,
    shared: Arc<Shared>,
    /// The newest stream of the other side.
    last: StreamId,
}

impl<IO: AsyncRead> ReadSide<IO> {
    /// Until the other side hangs up.
    async fn run(mut self) -> Result<(), FrameError> {
        while let Some(frame) = self.frames.next().await {
            self.shared.note();
            self.take(frame?).await;
        }
        Ok(())
    }

    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream { stream, fin, headers } => self.begun(stream, fin, headers).await,
            Frame::SynReply { stream, fin, .. } => {
                let mut unheard = false;
                self.shared.change(stream, |entry| {
                    unheard = entry.replied.take().is_some_and(|r| r.send(stream).is_err());
                    if fin {
                        entry.parts = None;
                    }
                });
                if unheard {
                    // Whoever wanted it has gone.
                    self.reset(stream, status::CANCEL).await;
                }
            }
            Frame::Data { stream, fin, bytes } => {
                if !bytes.is_empty()
                    && let Some(parts) = self.shared.parts(stream)
                {
                    // Waiting here is the back-pressure. Nobody reads this stream any more: its bytes go nowhere.
                    let _ = parts.send(bytes).await;
                }
                if fin {
                    self.shared.change(stream, |entry| entry.parts = None);
                }
            }
            Frame::RstStream { stream, .. } => {
                self.shared.reset(stream);
            }
            Frame::Headers { stream, fin, .. } if fin => self.shared.change(stream, |entry| entry.parts = None),
            Frame::Ping(number) if self.is_theirs(number) => self.say(Command::Pong(number)).await,
            Frame::Headers { .. }
            | Frame::Ping(_)
            | Frame::Settings
            | Frame::GoAway { .. }
            | Frame::WindowUpdate { .. } => {}
        }
    }

    /// Odd numbers are the client's.
    fn is_theirs(&self, number: u32) -> bool {
        (number % 2 == 1) == (self.role == Role::Server)
    }

    async fn begun(&mut self, stream: StreamId, fin: bool, headers: Headers) {
        if !self.is_theirs(stream) || stream <= self.last {
            return self.reset(stream, status::PROTOCOL_ERROR).await;
        }
        self.last = stream;
        let theirs = self.shared.streams().keys().filter(|s| self.is_theirs(**s)).count();
        let (Some(commands), Some(dropped), true) =
            (self.commands.upgrade(), self.dropped.upgrade(), theirs < self.most)
        else {
            return self.reset(stream, status::REFUSED_STREAM).await;
        };
        let (parts, incoming) = mpsc::channel(ROOM);
        let reset = ResetFlag::default();
        let entry = Entry {
            parts: (!fin).then_some(parts),
            reset: reset.clone(),
            finished: false,
            replied: None,
        };
        self.shared.streams().insert(stream, entry);
        // Before anything else is said on it: the other side throws away what comes before the reply.
        self.say(Command::Reply(stream)).await;
        let writer = Writer::new(stream, commands, dropped, reset.clone());
        let begun = Stream::new(headers, Reader::new(incoming, reset), writer);
        // There is room for as many as may be open, so what fails is that nobody takes any: the stream is dropped, and so reset.
        let _ = self.accepted.try_send(begun);
    }

    async fn reset(&mut self, stream: StreamId, status: u32) {
        self.say(Command::Reset { stream, status }).await;
    }

    async fn say(&mut self, command: Command) {
        // Without a sender nobody has this connection any more, and the driver is about to end.
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.send(command).await;
        }
    }
}

/// Writes what is to be said.
struct WriteSide<IO> {
    frames: FramedWrite<WriteHalf<IO>, Codec>,
    next: StreamId,
    to_write: mpsc::Receiver<Command>,
    to_reset: mpsc::UnboundedReceiver<StreamId>,
    shared: Arc<Shared>,
}

impl<IO: AsyncWrite> WriteSide<IO> {
    /// Until nobody has the connection any more.
    async fn run(mut self) -> Result<(), FrameError> {
        while let Some(command) = self.next().await {
            self.feed(command).await?;
            while let Ok(command) = self.to_write.try_recv() {
                self.feed(command).await?;
            }
            self.frames.flush().await?;
            self.shared.note();
        }
        while let Ok(stream) = self.to_reset.try_recv() {
            let status = status::CANCEL;
            self.feed(Command::Reset { stream, status }).await?;
        }
        self.frames.feed(Frame::GoAway { last: 0 }).await?;
        self.frames.close().await
    }

    async fn next(&mut self) -> Option<Command> {
        let status = status::CANCEL;
        tokio::select! {
            // What was written goes before what was given up.
            biased;
            command = self.to_write.recv() => command,
            Some(stream) = self.to_reset.recv() => Some(Command::Reset { stream, status }),
        }
    }

    async fn feed(&mut self, command: Command) -> Result<(), FrameError> {
        let frame = match command {
            Command::Open(open) => {
                let stream = self.next;
                self.next += 2;
                let entry = Entry {
                    parts: Some(open.parts),
                    reset: open.reset,
                    finished: false,
                    replied: Some(open.replied),
                };
                self.shared.streams().insert(stream, entry);
                let (fin, headers) = (false, open.headers);
                Frame::SynStream { stream, fin, headers }
            }
            Command::Reply(stream) => Frame::SynReply {
                stream,
                fin: false,
                headers: Headers::default(),
            },
            Command::Data { stream, fin, bytes } => {
                // Of a stream that is reset the other side wants nothing more.
                if !self.shared.streams().contains_key(&stream) {
                    return Ok(());
                }
                if fin {
                    self.shared.change(stream, |entry| entry.finished = true);
                }
                Frame::Data { stream, fin, bytes }
            }
            Command::Reset { stream, status } => {
                // Of what this side gives up and that is over already there is nothing to say; a stream that was not taken is told.
                if !self.shared.reset(stream) && status == status::CANCEL {
                    return Ok(());
                }
                Frame::RstStream { stream, status }
            }
            Command::Pong(number) => Frame::Ping(number),
        };
        self.frames.feed(frame).await
    }
}
