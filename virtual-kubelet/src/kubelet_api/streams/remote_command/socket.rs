//! The channels as messages of a WebSocket: one byte that names the channel, and then its bytes.

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use kerbside_link::TUNNEL_LIMIT;
use kerbside_link::proto::{Streams, TunnelPart};
use tokio::sync::mpsc;

use super::{ERROR, RESIZE, STDERR, STDIN, STDOUT, end, part};

/// In version 5: the channel in the next byte has ended.
const CLOSE: u8 = 255;

/// What a message of a client is.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Bytes(u32, Bytes),
    End(u32),
    /// Of a channel that clients do not write to, or that was not asked for.
    Nothing,
}

pub(super) async fn run(
    socket: WebSocket,
    wanted: Streams,
    closes: bool,
    from_person: mpsc::Sender<TunnelPart>,
    to_person: mpsc::Receiver<TunnelPart>,
) {
    let (to, from) = socket.split();
    tokio::select! {
        () = write(to, wanted, to_person) => {}
        () = read(from, wanted, closes, from_person) => {}
    }
}

/// Until the client hangs up.
async fn read(mut socket: SplitStream<WebSocket>, wanted: Streams, closes: bool, to: mpsc::Sender<TunnelPart>) {
    while let Some(Ok(message)) = socket.next().await {
        let said = match message {
            Message::Binary(bytes) => said(bytes, wanted, closes),
            Message::Close(_) => return,
            // Pings are answered below us.
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) => Said::Nothing,
        };
        match said {
            Said::Bytes(channel, mut bytes) => {
                while !bytes.is_empty() {
                    let piece = bytes.split_to(bytes.len().min(TUNNEL_LIMIT));
                    if to.send(part(channel, piece)).await.is_err() {
                        return;
                    }
                }
            }
            Said::End(channel) => {
                if to.send(end(channel)).await.is_err() {
                    return;
                }
            }
            Said::Nothing => {}
        }
    }
}

fn said(mut bytes: Bytes, wanted: Streams, closes: bool) -> Said {
    if bytes.is_empty() {
        return Said::Nothing;
    }
    let may = |channel: u8| match u32::from(channel) {
        STDIN => wanted.stdin,
        RESIZE => true,
        _ => false,
    };
    let channel = bytes.split_to(1).first().copied().unwrap_or(CLOSE);
    match (channel, bytes.first()) {
        (CLOSE, Some(ended)) if closes && may(*ended) => Said::End(u32::from(*ended)),
        (channel, Some(_)) if may(channel) => Said::Bytes(u32::from(channel), bytes),
        _ => Said::Nothing,
    }
}

/// Everything that comes, and then a good-bye.
async fn write(mut socket: SplitSink<WebSocket, Message>, wanted: Streams, mut parts: mpsc::Receiver<TunnelPart>) {
    // As a container engine does: the client learns that it is connected by an empty message on the first channel that it reads.
    let first = match wanted {
        Streams { stdout: true, .. } => STDOUT,
        Streams { stderr: true, .. } => STDERR,
        _ => ERROR,
    };
    if socket.send(message(first, &Bytes::new())).await.is_err() {
        return;
    }
    while let Some(TunnelPart { channel, data, .. }) = parts.recv().await {
        if !data.is_empty() && socket.send(message(channel, &data)).await.is_err() {
            return;
        }
    }
    let normal = CloseFrame {
        code: close_code::NORMAL,
        reason: "".into(),
    };
    // Nobody to say good-bye to is no matter.
    let _ = socket.send(Message::Close(Some(normal))).await;
    let _ = socket.close().await;
}

fn message(channel: u32, data: &Bytes) -> Message {
    let mut bytes = BytesMut::with_capacity(1 + data.len());
    bytes.put_u8(u8::try_from(channel).unwrap_or(CLOSE));
    bytes.put_slice(data);
    Message::Binary(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case::stdin(b"\x00hello", true, Said::Bytes(STDIN, Bytes::from_static(b"hello")))]
    #[case::stdin_that_nobody_asked_for(b"\x00hello", false, Said::Nothing)]
    #[case::size(b"\x04{}", false, Said::Bytes(RESIZE, Bytes::from_static(b"{}")))]
    #[case::end(b"\xff\x00", true, Said::End(STDIN))]
    #[case::end_of_what_is_not_theirs(b"\xff\x01", true, Said::Nothing)]
    #[case::output(b"\x01x", true, Said::Nothing)]
    #[case::no_bytes(b"\x00", true, Said::Nothing)]
    #[case::nothing(b"", true, Said::Nothing)]
    fn message_is_what_its_first_byte_says(#[case] bytes: &'static [u8], #[case] stdin: bool, #[case] expected: Said) {
        let wanted = Streams {
            stdin,
            ..Streams::default()
        };
        assert_eq!(said(Bytes::from_static(bytes), wanted, true), expected);
    }

    #[test]
    fn older_protocol_has_no_end_of_a_channel() {
        let wanted = Streams {
            stdin: true,
            ..Streams::default()
        };
        assert_eq!(said(Bytes::from_static(b"\xff\x00"), wanted, false), Said::Nothing);
    }
}
