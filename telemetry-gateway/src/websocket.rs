//! As much of WebSocket (RFC 6455) as a car and this gateway need: the answer to a handshake, and frames.
//!
//! The server side of a connection whose HTTP is over; `car` has the other one. It trusts nothing that came: a message has a bound, which
//! is checked before its bytes are read, and memory grows only with what has really come.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use data_encoding::BASE64;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What the protocol mixes into a handshake.
const HANDSHAKE: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The most bytes of a control frame's content.
const CONTROL: u64 = 125;
/// The most frames of one message: empty ones that never end it would be work without a bound.
const FRAMES: usize = 1024;

const CONTINUED: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Why a connection is ended, as the other side is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// It is over.
    Normal,
    /// The gateway stops, and will be back.
    GoingAway,
    /// The protocol was broken.
    Protocol,
    /// Something that is not binary.
    Unsupported,
    /// The car is not one of the fleet, any more, or comes far too fast.
    Policy,
    /// A message has more bytes than one may have.
    TooBig,
}

/// A connection that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// It broke.
    #[error("failed to read or write a connection")]
    Io(#[from] std::io::Error),
    /// What came is not what the protocol allows.
    #[error("failed to go on with a connection: {0:?}")]
    Ended(Code),
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    /// A whole message.
    Message(Vec<u8>),
    /// A question for a sign of life, to be given back.
    Ping(Vec<u8>),
    /// An answer to one.
    Pong,
    /// The other side ends it.
    Close,
}

/// What proves that a handshake was understood; None: the key is none.
pub fn accept(key: &[u8]) -> Option<String> {
    let nonce = BASE64.decode(key).ok()?;
    let proof = || BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, HANDSHAKE].concat()).as_ref());
    (nonce.len() == 16).then(proof)
}

/// What has come of a message whose end has not.
#[derive(Debug, Default)]
pub struct Incoming {
    begun: Option<Vec<u8>>,
}

impl Incoming {
    /// Waits for the next thing that is whole; a message has at most `limit` bytes.
    pub async fn next(&mut self, from: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Came, SocketError> {
        for _ in 0..FRAMES {
            let head = head(from).await?;
            let control = head.opcode >= CLOSE;
            let so_far = self.begun.as_ref().map_or(0, Vec::len);
            let room = if control {
                CONTROL
            } else {
                u64::try_from(limit.saturating_sub(so_far)).unwrap_or(0)
            };
            if head.length > room {
                return Err(SocketError::Ended(if control { Code::Protocol } else { Code::TooBig }));
            }
            if control && !head.last {
                return Err(SocketError::Ended(Code::Protocol));
            }
            let content = content(from, &head).await?;
            match (head.opcode, self.begun.take()) {
                (BINARY, None) if head.last => return Ok(Came::Message(content)),
                (BINARY, None) => self.begun = Some(content),
                (CONTINUED, Some(mut begun)) => {
                    begun.extend(content);
                    if head.last {
                        return Ok(Came::Message(begun));
                    }
                    self.begun = Some(begun);
                }
                (CLOSE, _) => return Ok(Came::Close),
                (PING, begun) => {
                    self.begun = begun;
                    return Ok(Came::Ping(content));
                }
                (PONG, begun) => {
                    self.begun = begun;
                    return Ok(Came::Pong);
                }
                (1, None) => return Err(SocketError::Ended(Code::Unsupported)),
                _ => return Err(SocketError::Ended(Code::Protocol)),
            }
        }
        Err(SocketError::Ended(Code::Policy))
    }
}

struct Head {
    last: bool,
    opcode: u8,
    length: u64,
    mask: [u8; 4],
}

async fn head(from: &mut (impl AsyncRead + Unpin)) -> Result<Head, SocketError> {
    let [first, second] = taken(from).await?;
    // No extension was agreed on, and what a client sends is masked.
    if first & 0x70 != 0 || second & MASKED == 0 {
        return Err(SocketError::Ended(Code::Protocol));
    }
    let length = match second & !MASKED {
        126 => u64::from(u16::from_be_bytes(taken(from).await?)),
        127 => u64::from_be_bytes(taken(from).await?),
        short => u64::from(short),
    };
    Ok(Head {
        last: first & FIN != 0,
        opcode: first & 0x0f,
        length,
        mask: taken(from).await?,
    })
}

async fn taken<const N: usize>(from: &mut (impl AsyncRead + Unpin)) -> Result<[u8; N], std::io::Error> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn content(from: &mut (impl AsyncRead + Unpin), head: &Head) -> Result<Vec<u8>, SocketError> {
    let mut content = Vec::new();
    from.take(head.length).read_to_end(&mut content).await?;
    if u64::try_from(content.len()).ok() != Some(head.length) {
        return Err(SocketError::Io(std::io::ErrorKind::UnexpectedEof.into()));
    }
    mask(&mut content, head.mask);
    Ok(content)
}

/// Puts a mask on, or takes it off.
pub(crate) fn mask(content: &mut [u8], mask: [u8; 4]) {
    for (byte, mask) in content.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// A frame of its own; `key` is a client's mask.
pub(crate) fn frame(opcode: u8, content: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if key.is_some() { MASKED } else { 0 };
    let mut frame = vec![FIN | opcode];
    match (u8::try_from(content.len()), u16::try_from(content.len())) {
        (Ok(length), _) if length < 126 => frame.push(masked | length),
        (_, Ok(length)) => {
            frame.push(masked | 0x7e);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(masked | 0x7f);
            frame.extend(u64::try_from(content.len()).unwrap_or(u64::MAX).to_be_bytes());
        }
    }
    let start = frame.len() + key.map_or(0, |key| key.len());
    frame.extend(key.iter().flatten());
    frame.extend(content);
    if let (Some(key), Some(content)) = (key, frame.get_mut(start..)) {
        mask(content, key);
    }
    frame
}

/// Sends a message.
pub async fn send(to: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> std::io::Result<()> {
    write(to, BINARY, message).await
}

/// Answers a ping.
pub async fn pong(to: &mut (impl AsyncWrite + Unpin), content: &[u8]) -> std::io::Result<()> {
    write(to, PONG, content).await
}

/// Says that it is over, and why.
pub async fn close(to: &mut (impl AsyncWrite + Unpin), code: Code) -> std::io::Result<()> {
    write(to, CLOSE, &code.number().to_be_bytes()).await?;
    to.shutdown().await
}

impl Code {
    /// Its number in the protocol.
    pub fn number(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::Protocol => 1002,
            Self::Unsupported => 1003,
            Self::Policy => 1008,
            Self::TooBig => 1009,
        }
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), opcode: u8, content: &[u8]) -> std::io::Result<()> {
    to.write_all(&frame(opcode, content, None)).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Option<[u8; 4]> = Some([7, 77, 177, 250]);

    async fn came(bytes: &[u8], limit: usize) -> Result<Vec<Came>, SocketError> {
        let (mut incoming, mut from, mut all) = (Incoming::default(), bytes, Vec::new());
        while !from.is_empty() {
            all.push(incoming.next(&mut from, limit).await?);
        }
        Ok(all)
    }

    /// Not the last of its message, or one that goes on with it.
    fn piece(opcode: u8, last: bool, content: &[u8]) -> Vec<u8> {
        let mut frame = frame(opcode, content, KEY);
        if !last {
            frame[0] &= !FIN;
        }
        frame
    }

    /// The example of RFC 6455, 1.3.
    #[test]
    fn handshake_is_answered_with_its_proof() {
        let proof = accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(proof.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert_eq!(accept(b"c2hvcnQ="), None);
        assert_eq!(accept(b"no base64!"), None);
    }

    #[tokio::test]
    async fn messages_of_each_length_arrive_whole() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
            let message: Vec<u8> = (0..=250_u8).cycle().take(length).collect();
            let got = came(&frame(BINARY, &message, KEY), 100_000).await.unwrap();
            assert_eq!(got, [Came::Message(message)], "{length}");
        }
    }

    #[tokio::test]
    async fn message_in_pieces_with_a_ping_between_is_one() {
        let frames = [
            piece(BINARY, false, b"one "),
            frame(PING, b"there?", KEY),
            piece(CONTINUED, false, b"two "),
            piece(CONTINUED, true, b"three"),
            frame(CLOSE, &[], KEY),
        ];
        let want = [
            Came::Ping(b"there?".to_vec()),
            Came::Message(b"one two three".to_vec()),
            Came::Close,
        ];
        assert_eq!(came(&frames.concat(), 13).await.unwrap(), want);
    }

    async fn ended(frames: &[Vec<u8>], limit: usize) -> Code {
        match came(&frames.concat(), limit).await {
            Err(SocketError::Ended(code)) => code,
            other => panic!("it should have been ended: {other:?}"),
        }
    }

    #[tokio::test]
    async fn message_beyond_the_bound_is_too_big_whole_or_in_pieces() {
        assert_eq!(ended(&[frame(BINARY, &[1; 14], KEY)], 13).await, Code::TooBig);
        let pieces = [piece(BINARY, false, &[1; 7]), piece(CONTINUED, true, &[1; 7])];
        assert_eq!(ended(&pieces, 13).await, Code::TooBig);
        // It says so many bytes that no memory has them.
        let mut lies = vec![FIN | BINARY, MASKED | 127];
        lies.extend(u64::MAX.to_be_bytes());
        lies.extend([0; 4]);
        assert_eq!(ended(&[lies], 1_000_000).await, Code::TooBig);
    }

    #[tokio::test]
    async fn message_in_pieces_without_end_is_ended() {
        let mut pieces = vec![piece(BINARY, false, b"begun")];
        pieces.extend((0..FRAMES).map(|_| piece(CONTINUED, false, b"")));
        assert_eq!(ended(&pieces, 99).await, Code::Policy);
    }

    #[tokio::test]
    async fn what_the_protocol_does_not_allow_ends_it() {
        assert_eq!(ended(&[frame(1, b"text", KEY)], 99).await, Code::Unsupported);
        assert_eq!(ended(&[frame(BINARY, b"no mask", None)], 99).await, Code::Protocol);
        assert_eq!(ended(&[piece(CONTINUED, true, b"of what?")], 99).await, Code::Protocol);
        let twice = [piece(BINARY, false, b"a"), frame(BINARY, b"b", KEY)];
        assert_eq!(ended(&twice, 99).await, Code::Protocol);
        assert_eq!(ended(&[piece(PING, false, b"")], 99).await, Code::Protocol);
        assert_eq!(ended(&[frame(PING, &[0; 126], KEY)], 999).await, Code::Protocol);
        assert_eq!(ended(&[frame(11, b"", KEY)], 99).await, Code::Protocol);
        let mut reserved = frame(BINARY, b"compressed", KEY);
        reserved[0] |= 0x40;
        assert_eq!(ended(&[reserved], 99).await, Code::Protocol);
    }

    #[tokio::test]
    async fn message_that_is_cut_anywhere_is_a_broken_connection() {
        let whole = frame(BINARY, &[1; 300], KEY);
        for cut in 1..whole.len() {
            let end = came(&whole[..cut], 999).await;
            assert!(matches!(end, Err(SocketError::Io(_))), "cut at {cut}: {end:?}");
        }
    }
}
