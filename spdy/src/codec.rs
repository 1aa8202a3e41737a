//! Frames to bytes and back: [`Codec`] for a [`tokio_util::codec::Framed`].
//!
//! Every block of headers of one direction goes through one zlib stream, so a codec belongs to one connection and no frame with headers
//! can be skipped. Data is handed on in parts as it comes: a frame of 16 MiB, which a client may send, is never held whole.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio_util::codec::{Decoder, Encoder};

use crate::dictionary::DICTIONARY;
use crate::frame::{Frame, FrameError, StreamId};
use crate::headers::Headers;

const VERSION: u16 = 3;
const HEAD: usize = 8;
const FIN: u8 = 1;
/// Far more than the few words that Kubernetes says; also the most that one part of data has.
const MOST_CONTROL: usize = 64 << 10;
/// A block of headers, decompressed.
const MOST_HEADERS: usize = 64 << 10;
/// What fits into the 24 bits of a frame's length.
const MOST_DATA: usize = (1 << 24) - 1;

mod kind {
    pub(super) const SYN_STREAM: u16 = 1;
    pub(super) const SYN_REPLY: u16 = 2;
    pub(super) const RST_STREAM: u16 = 3;
    pub(super) const SETTINGS: u16 = 4;
    pub(super) const PING: u16 = 6;
    pub(super) const GOAWAY: u16 = 7;
    pub(super) const HEADERS: u16 = 8;
    pub(super) const WINDOW_UPDATE: u16 = 9;
}

/// Reads and writes the frames of one connection.
#[derive(Debug)]
pub struct Codec {
    deflate: Option<Compress>,
    inflate: Decompress,
    /// A data frame of which a part has been handed on: stream, whether it ends the stream, bytes still to come.
    data: Option<(StreamId, bool, usize)>,
}

impl Default for Codec {
    fn default() -> Self {
        Self {
            deflate: None,
            inflate: Decompress::new(true),
            data: None,
        }
    }
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if self.data.is_some() {
            return Ok(self.part(source));
        }
        let Some(&[b0, b1, b2, b3, flags, l0, l1, l2]) = source.first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes([0, l0, l1, l2])).unwrap_or(usize::MAX);
        if b0 & 0x80 == 0 {
            let stream = u32::from_be_bytes([b0, b1, b2, b3]);
            if stream == 0 {
                return Err(FrameError::StreamZero);
            }
            source.advance(HEAD);
            self.data = Some((stream, flags & FIN != 0, length));
            return Ok(self.part(source));
        }
        let version = u16::from_be_bytes([b0 & 0x7f, b1]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > MOST_CONTROL {
            let most = MOST_CONTROL;
            return Err(FrameError::TooLong { length, most });
        }
        if source.len() < HEAD + length {
            source.reserve(HEAD + length - source.len());
            return Ok(None);
        }
        source.advance(HEAD);
        let payload = source.split_to(length).freeze();
        self.control(u16::from_be_bytes([b2, b3]), flags, payload).map(Some)
    }
}

impl Codec {
    /// What there is of the data frame that is being read; None: nothing yet.
    fn part(&mut self, source: &mut BytesMut) -> Option<Frame> {
        let (stream, fin, left) = self.data.take()?;
        let ready = left.min(source.len()).min(MOST_CONTROL);
        if ready == 0 && left > 0 {
            self.data = Some((stream, fin, left));
            return None;
        }
        let bytes = source.split_to(ready).freeze();
        let left = left - ready;
        if left > 0 {
            self.data = Some((stream, fin, left));
        }
        let fin = fin && left == 0;
        Some(Frame::Data { stream, fin, bytes })
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, FrameError> {
        let size = || FrameError::Size(kind);
        let fin = flags & FIN != 0;
        let frame = match kind {
            kind::SYN_STREAM => {
                let stream = stream_id(&mut payload, kind)?;
                // The stream it belongs to, a priority and a slot: Kubernetes uses none of them.
                if payload.len() < 6 {
                    return Err(size());
                }
                payload.advance(6);
                let headers = self.headers(&payload)?;
                Frame::SynStream { stream, fin, headers }
            }
            kind::SYN_REPLY => Frame::SynReply {
                stream: stream_id(&mut payload, kind)?,
                fin,
                headers: self.headers(&payload)?,
            },
            kind::HEADERS => Frame::Headers {
                stream: stream_id(&mut payload, kind)?,
                fin,
                headers: self.headers(&payload)?,
            },
            kind::RST_STREAM => Frame::RstStream {
                stream: stream_id(&mut payload, kind)?,
                status: payload.try_get_u32().map_err(|_| size())?,
            },
            kind::SETTINGS => Frame::Settings,
            kind::PING => Frame::Ping(payload.try_get_u32().map_err(|_| size())?),
            kind::GOAWAY => Frame::GoAway {
                last: payload.try_get_u32().map_err(|_| size())? & 0x7fff_ffff,
            },
            kind::WINDOW_UPDATE => Frame::WindowUpdate {
                stream: payload.try_get_u32().map_err(|_| size())? & 0x7fff_ffff,
                more: payload.try_get_u32().map_err(|_| size())? & 0x7fff_ffff,
            },
            other => return Err(FrameError::Unknown(other)),
        };
        Ok(frame)
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        read_block(&self.decompress(block)?)
    }

    fn decompress(&mut self, mut block: &[u8]) -> Result<Bytes, FrameError> {
        let mut out = Vec::with_capacity(1024);
        loop {
            if out.len() == out.capacity() {
                if out.len() >= MOST_HEADERS {
                    return Err(FrameError::HeadersTooLong(MOST_HEADERS));
                }
                out.reserve(out.len());
            }
            let (before_in, before_out) = (self.inflate.total_in(), out.len());
            let done = self.inflate.decompress_vec(block, &mut out, FlushDecompress::Sync);
            let used = usize::try_from(self.inflate.total_in() - before_in).unwrap_or(usize::MAX);
            block = block.get(used..).unwrap_or_default();
            match done {
                Ok(Status::StreamEnd) => return Err(FrameError::Compression),
                // Everything is read, and there was room for more than came.
                Ok(_) if block.is_empty() && out.len() < out.capacity() => return Ok(out.into()),
                Ok(_) if used == 0 && out.len() == before_out && out.len() < out.capacity() => {
                    return Err(FrameError::Compression);
                }
                Ok(_) => {}
                // The first block of a connection names the dictionary.
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| FrameError::Compression)?;
                }
                Err(_) => return Err(FrameError::Compression),
            }
        }
    }

    fn compress(&mut self, block: &[u8], into: &mut Vec<u8>) -> Result<(), FrameError> {
        let deflate = match &mut self.deflate {
            Some(deflate) => deflate,
            none => {
                let mut deflate = Compress::new(Compression::best(), true);
                deflate
                    .set_dictionary(&DICTIONARY)
                    .map_err(|_| FrameError::Compression)?;
                none.insert(deflate)
            }
        };
        let mut rest = block;
        loop {
            into.reserve(256);
            let before = deflate.total_in();
            deflate
                .compress_vec(rest, into, FlushCompress::Sync)
                .map_err(|_| FrameError::Compression)?;
            let used = usize::try_from(deflate.total_in() - before).unwrap_or(usize::MAX);
            rest = rest.get(used..).unwrap_or_default();
            if rest.is_empty() && into.len() < into.capacity() {
                return Ok(());
            }
        }
    }

    fn with_headers(
        &mut self,
        kind: u16,
        fin: bool,
        mut head: Vec<u8>,
        headers: &Headers,
        target: &mut BytesMut,
    ) -> Result<(), FrameError> {
        let block = write_block(headers)?;
        self.compress(&block, &mut head)?;
        put_control(target, kind, if fin { FIN } else { 0 }, &head)
    }
}

impl Encoder<Frame> for Codec {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, target: &mut BytesMut) -> Result<(), FrameError> {
        match frame {
            Frame::SynStream { stream, fin, headers } => {
                let mut head = stream.to_be_bytes().to_vec();
                head.extend_from_slice(&[0; 6]);
                self.with_headers(kind::SYN_STREAM, fin, head, &headers, target)
            }
            Frame::SynReply { stream, fin, headers } => {
                self.with_headers(kind::SYN_REPLY, fin, stream.to_be_bytes().to_vec(), &headers, target)
            }
            Frame::Headers { stream, fin, headers } => {
                self.with_headers(kind::HEADERS, fin, stream.to_be_bytes().to_vec(), &headers, target)
            }
            Frame::RstStream { stream, status } => put_control(target, kind::RST_STREAM, 0, &pair(stream, status)),
            // None of them.
            Frame::Settings => put_control(target, kind::SETTINGS, 0, &0_u32.to_be_bytes()),
            Frame::Ping(number) => put_control(target, kind::PING, 0, &number.to_be_bytes()),
            Frame::GoAway { last } => put_control(target, kind::GOAWAY, 0, &pair(last, 0)),
            Frame::WindowUpdate { stream, more } => put_control(target, kind::WINDOW_UPDATE, 0, &pair(stream, more)),
            Frame::Data { stream, fin, bytes } => put_data(target, stream, fin, bytes),
        }
    }
}

fn stream_id(payload: &mut Bytes, kind: u16) -> Result<StreamId, FrameError> {
    let stream = payload.try_get_u32().map_err(|_| FrameError::Size(kind))? & 0x7fff_ffff;
    if stream == 0 {
        return Err(FrameError::StreamZero);
    }
    Ok(stream)
}

fn pair(first: u32, second: u32) -> [u8; 8] {
    ((u64::from(first) << 32) | u64::from(second)).to_be_bytes()
}

fn put_control(target: &mut BytesMut, kind: u16, flags: u8, payload: &[u8]) -> Result<(), FrameError> {
    let most = MOST_CONTROL;
    let length = payload.len();
    let long = || FrameError::TooLong { length, most };
    let size = u32::try_from(length).ok().filter(|_| length <= most).ok_or_else(long)?;
    target.reserve(HEAD + length);
    target.put_u16(0x8000 | VERSION);
    target.put_u16(kind);
    target.put_u32((u32::from(flags) << 24) | size);
    target.put_slice(payload);
    Ok(())
}

fn put_data(target: &mut BytesMut, stream: StreamId, fin: bool, mut bytes: Bytes) -> Result<(), FrameError> {
    if stream == 0 {
        return Err(FrameError::StreamZero);
    }
    loop {
        let part = bytes.split_to(bytes.len().min(MOST_DATA));
        let last = bytes.is_empty();
        let flags = if fin && last { u32::from(FIN) << 24 } else { 0 };
        target.reserve(HEAD + part.len());
        target.put_u32(stream & 0x7fff_ffff);
        target.put_u32(flags | u32::try_from(part.len()).unwrap_or_default());
        target.put_slice(&part);
        if last {
            return Ok(());
        }
    }
}

/// Names and values out of a decompressed block. A name comes once; its values are parted by a zero.
pub(crate) fn read_block(block: &[u8]) -> Result<Headers, FrameError> {
    let mut rest = block;
    let pairs = rest.try_get_u32().map_err(|_| FrameError::Headers)?;
    let mut headers = Headers::default();
    for _ in 0..pairs {
        let name = text(&mut rest)?;
        if name.is_empty() || name.chars().any(|c| c.is_ascii_uppercase()) || headers.has(name) {
            return Err(FrameError::Headers);
        }
        for value in text(&mut rest)?.split('\0') {
            headers.push(name.to_owned(), value.to_owned());
        }
    }
    if rest.is_empty() {
        Ok(headers)
    } else {
        Err(FrameError::Headers)
    }
}

fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, FrameError> {
    let length = rest.try_get_u32().map_err(|_| FrameError::Headers)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let (text, behind) = rest.split_at_checked(length).ok_or(FrameError::Headers)?;
    *rest = behind;
    std::str::from_utf8(text).map_err(|_| FrameError::Headers)
}

fn write_block(headers: &Headers) -> Result<Vec<u8>, FrameError> {
    let groups = headers.grouped();
    let mut block = Vec::new();
    let number = |n: usize| u32::try_from(n).map_err(|_| FrameError::HeadersTooLong(MOST_HEADERS));
    block.put_u32(number(groups.len())?);
    for (name, values) in groups {
        let value = values.join("\0");
        for text in [name, &value] {
            block.put_u32(number(text.len())?);
            block.put_slice(text.as_bytes());
        }
    }
    if block.len() > MOST_HEADERS {
        return Err(FrameError::HeadersTooLong(MOST_HEADERS));
    }
    Ok(block)
}
