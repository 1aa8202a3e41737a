//! The channels as streams of SPDY/3.1, each begun by the client with its name.

use std::time::Duration;

use kerbside_link::proto::{Streams, TunnelPart};
use kerbside_spdy::{Connection, Limits, Reader, Role, Stream, Writer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::{ERROR, RESIZE, STDERR, STDIN, STDOUT, end, part};

/// As a kubelet's: a client that does not begin its streams by then is not waited for.
const CREATION: Duration = Duration::from_secs(30);

/// The streams of one session. Of those that only come in, the other direction is kept to the end: to give it up would reset the stream.
#[derive(Default)]
struct Session {
    stdin: Option<(Reader, Writer)>,
    stdout: Option<(Reader, Writer)>,
    stderr: Option<(Reader, Writer)>,
    error: Option<(Reader, Writer)>,
    resize: Option<(Reader, Writer)>,
}

impl Session {
    fn take(&mut self, stream: Stream) {
        let place = match stream.headers().get("streamtype") {
            Some("stdin") => &mut self.stdin,
            Some("stdout") => &mut self.stdout,
            Some("stderr") => &mut self.stderr,
            Some("error") => &mut self.error,
            Some("resize") => &mut self.resize,
            // Dropped, and so reset.
            _ => return,
        };
        place.get_or_insert_with(|| stream.split());
    }

    fn has(&self, wanted: Streams) -> bool {
        self.error.is_some()
            && (self.stdin.is_some() || !wanted.stdin)
            && (self.stdout.is_some() || !wanted.stdout)
            && (self.stderr.is_some() || !wanted.stderr)
            && (self.resize.is_some() || !wanted.tty)
    }
}

pub(super) async fn run<IO>(
    io: IO,
    wanted: Streams,
    from_person: mpsc::Sender<TunnelPart>,
    to_person: mpsc::Receiver<TunnelPart>,
) where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut connection, driver) = Connection::new(io, Role::Server, Limits::default());
    let driver = tokio::spawn(driver);
    let session = tokio::time::timeout(CREATION, begun(&mut connection, wanted)).await;
    if let Ok(Some(session)) = session {
        flow(&mut connection, session, from_person, to_person).await;
    } else {
        tracing::debug!("a client began a session and not its streams");
        drop((from_person, to_person));
    }
    // Says good-bye, and lets the last bytes out.
    drop(connection);
    if let Ok(Err(error)) = driver.await {
        tracing::debug!(%error, "a session's connection broke");
    }
}

/// None: the client hung up before.
async fn begun(connection: &mut Connection, wanted: Streams) -> Option<Session> {
    let mut session = Session::default();
    while !session.has(wanted) {
        session.take(connection.accept().await?);
    }
    Some(session)
}

/// Until there is nothing more for the person, or they have gone.
async fn flow(
    connection: &mut Connection,
    session: Session,
    from_person: mpsc::Sender<TunnelPart>,
    to_person: mpsc::Receiver<TunnelPart>,
) {
    let (stdin, _stdin) = parted(session.stdin);
    let (resize, _resize) = parted(session.resize);
    let (_stdout, stdout) = parted(session.stdout);
    let (_stderr, stderr) = parted(session.stderr);
    let (_error, error) = parted(session.error);
    let up = async {
        futures::join!(
            read(stdin, STDIN, from_person.clone()),
            read(resize, RESIZE, from_person.clone())
        );
        // What they send has ended; whether they are still there the connection knows.
        std::future::pending::<()>().await;
    };
    let gone = async { while connection.accept().await.is_some() {} };
    tokio::select! {
        () = write([(STDOUT, stdout), (STDERR, stderr), (ERROR, error)], to_person) => {}
        () = up => {}
        () = gone => {}
    }
}

fn parted(stream: Option<(Reader, Writer)>) -> (Option<Reader>, Option<Writer>) {
    stream.map_or((None, None), |(reader, writer)| (Some(reader), Some(writer)))
}

async fn read(reader: Option<Reader>, channel: u32, to: mpsc::Sender<TunnelPart>) {
    let Some(mut reader) = reader else { return };
    while let Some(bytes) = reader.read().await {
        if to.send(part(channel, bytes)).await.is_err() {
            return;
        }
    }
    // Also of a stream that was reset: kubectl resets what it closes.
    let _ = to.send(end(channel)).await;
}

/// Everything that comes, each on its stream, and then the ends of those that had none.
async fn write(mut writers: [(u32, Option<Writer>); 3], mut parts: mpsc::Receiver<TunnelPart>) {
    while let Some(TunnelPart { channel, data, end, .. }) = parts.recv().await {
        let Some((_, place)) = writers.iter_mut().find(|(c, _)| *c == channel) else {
            continue;
        };
        if let Some(writer) = place {
            // What one stream does not take any more says nothing of the others.
            let _ = writer.write(data).await;
        }
        if end {
            finish(place.take()).await;
        }
    }
    for (_, writer) in &mut writers {
        finish(writer.take()).await;
    }
}

async fn finish(writer: Option<Writer>) {
    if let Some(writer) = writer {
        let _ = writer.finish().await;
    }
}
