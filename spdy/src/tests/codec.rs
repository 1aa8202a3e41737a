use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tokio_util::codec::{Decoder, Encoder};

use crate::codec::Codec;
use crate::frame::{Frame, FrameError};
use crate::headers::Headers;

/// All frames of these bytes, which come in pieces of `step`.
fn read(bytes: &[u8], step: usize) -> Result<Vec<Frame>, FrameError> {
    let (mut codec, mut buffer, mut frames) = (Codec::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step.max(1)) {
        buffer.extend_from_slice(piece);
        while let Some(frame) = codec.decode(&mut buffer)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

fn write(frames: &[Frame]) -> BytesMut {
    let (mut codec, mut bytes) = (Codec::default(), BytesMut::new());
    for frame in frames {
        codec.encode(frame.clone(), &mut bytes).unwrap();
    }
    bytes
}

/// Data as one frame, however it came.
fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut joined: Vec<Frame> = Vec::new();
    for frame in frames {
        match (joined.last_mut(), frame) {
            (
                Some(Frame::Data {
                    stream,
                    fin: fin @ false,
                    bytes,
                }),
                Frame::Data {
                    stream: same,
                    fin: end,
                    bytes: more,
                },
            ) if *stream == same => {
                *bytes = [bytes.as_ref(), &more].concat().into();
                *fin = end;
            }
            (_, frame) => joined.push(frame),
        }
    }
    joined
}

fn headers() -> impl Strategy<Value = Headers> {
    prop::collection::vec(("[a-z-]{1,12}", "[ -~äß]{0,40}"), 0..6).prop_map(Headers::from_iter)
}

fn frame() -> impl Strategy<Value = Frame> {
    let stream = 1_u32..0x7fff_ffff;
    prop_oneof![
        (stream.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynStream {
            stream,
            fin,
            headers
        }),
        (stream.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynReply {
            stream,
            fin,
            headers
        }),
        (stream.clone(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::Headers {
            stream,
            fin,
            headers
        }),
        (stream.clone(), 1_u32..12).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
        any::<u32>().prop_map(Frame::Ping),
        Just(Frame::Settings),
        (0_u32..0x7fff_ffff).prop_map(|last| Frame::GoAway { last }),
        (stream.clone(), 1_u32..0x7fff_ffff).prop_map(|(stream, more)| Frame::WindowUpdate { stream, more }),
        (stream, any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(stream, fin, bytes)| {
            Frame::Data {
                stream,
                fin,
                bytes: bytes.into(),
            }
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_however_it_is_cut(frames in prop::collection::vec(frame(), 0..12), step in 1_usize..400) {
        let bytes = write(&frames);
        prop_assert_eq!(joined(read(&bytes, step).unwrap()), joined(frames));
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2000), step in 1_usize..100) {
        let _ = read(&bytes, step);
    }

    #[test]
    fn one_changed_byte_is_frames_or_an_error(frames in prop::collection::vec(frame(), 1..6), at: prop::sample::Index, by in 1_u8..) {
        let mut bytes = write(&frames);
        let at = at.index(bytes.len());
        bytes[at] ^= by;
        let _ = read(&bytes, bytes.len());
    }
}

/// Written by moby/spdystream, the implementation in kube-apiserver and kubectl (testdata/README.md).
#[test]
fn frames_of_kubernetes_own_implementation_are_read() {
    let hex: String = include_str!("../../testdata/spdystream.hex")
        .split_whitespace()
        .collect();
    let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
    let stdin = Headers::new().with("streamtype", "stdin");
    let two = Headers::new().with("streamtype", "error").with("x", "1").with("x", "2");
    let frames = [
        Frame::SynStream {
            stream: 1,
            fin: false,
            headers: two.clone(),
        },
        Frame::SynStream {
            stream: 3,
            fin: true,
            headers: stdin.clone(),
        },
        Frame::SynReply {
            stream: 1,
            fin: false,
            headers: Headers::new(),
        },
        Frame::Data {
            stream: 1,
            fin: false,
            bytes: Bytes::from_static(b"hello"),
        },
        Frame::Ping(7),
        Frame::Data {
            stream: 1,
            fin: true,
            bytes: Bytes::new(),
        },
        Frame::RstStream { stream: 3, status: 5 },
        Frame::Headers {
            stream: 1,
            fin: false,
            headers: two,
        },
        Frame::GoAway { last: 3 },
    ];
    let sorted = |frame: Frame| match frame {
        // Go writes the names in whatever order its map has.
        Frame::SynStream { stream, fin, headers } => Frame::SynStream {
            stream,
            fin,
            headers: in_order(&headers),
        },
        Frame::Headers { stream, fin, headers } => Frame::Headers {
            stream,
            fin,
            headers: in_order(&headers),
        },
        other => other,
    };
    for step in [1, 7, bytes.len()] {
        let read: Vec<_> = read(&bytes, step).unwrap().into_iter().map(sorted).collect();
        assert_eq!(joined(read), frames, "in steps of {step}");
    }
}

fn in_order(headers: &Headers) -> Headers {
    let mut pairs: Vec<_> = headers.iter().collect();
    pairs.sort_unstable();
    pairs.into_iter().collect()
}

#[test]
fn long_data_is_handed_on_in_parts_and_ends_once() {
    let bytes = Bytes::from(vec![7_u8; 300_000]);
    let written = write(&[Frame::Data {
        stream: 1,
        fin: true,
        bytes: bytes.clone(),
    }]);
    let parts = read(&written, written.len()).unwrap();
    let ends = parts
        .iter()
        .filter(|f| matches!(f, Frame::Data { fin: true, .. }))
        .count();
    assert!(parts.len() > 4, "{} parts", parts.len());
    assert_eq!(ends, 1);
    let whole = Frame::Data {
        stream: 1,
        fin: true,
        bytes,
    };
    assert_eq!(joined(parts), [whole]);
}

#[rstest::rstest]
#[case::version_2(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1], "version 2")]
#[case::unknown(&[0x80, 3, 0, 99, 0, 0, 0, 0], "type 99")]
#[case::stream_zero(&[0, 0, 0, 0, 0, 0, 0, 1, 1], "stream 0")]
#[case::reset_of_stream_zero(&[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1], "stream 0")]
#[case::long(&[0x80, 3, 0, 1, 0, 2, 0, 0], "131072 bytes, at most 65536")]
#[case::short(&[0x80, 3, 0, 6, 0, 0, 0, 2, 0, 0], "too short")]
#[case::no_zlib(&[0x80, 3, 0, 2, 0, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3, 4], "decompressed")]
fn what_is_no_spdy_is_named(#[case] bytes: &[u8], #[case] message: &str) {
    let error = read(bytes, bytes.len()).unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

/// A block of 40 KiB on the wire that would be 40 MiB of headers.
#[test]
fn bomb_of_headers_is_refused() {
    use flate2::{Compress, Compression, FlushCompress};
    let mut deflate = Compress::new(Compression::best(), true);
    deflate.set_dictionary(&crate::dictionary::DICTIONARY).unwrap();
    let mut payload = 1_u32.to_be_bytes().to_vec();
    payload.reserve(60_000);
    deflate
        .compress_vec(&vec![0_u8; 40 << 20], &mut payload, FlushCompress::Sync)
        .unwrap();
    let length = u32::try_from(payload.len()).unwrap();
    let frame = [&[0x80, 3, 0, 2][..], &length.to_be_bytes(), &payload].concat();
    assert!(matches!(read(&frame, frame.len()), Err(FrameError::HeadersTooLong(_))));
}

#[test]
fn header_in_upper_case_or_named_twice_is_refused() {
    for names in [&["A"][..], &["a", "a"], &[""]] {
        let mut block = u32::try_from(names.len()).unwrap().to_be_bytes().to_vec();
        for name in names {
            block.extend_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
            block.extend_from_slice(name.as_bytes());
            block.extend_from_slice(&[0, 0, 0, 1, b'v']);
        }
        assert!(
            matches!(crate::codec::read_block(&block), Err(FrameError::Headers)),
            "{names:?}"
        );
    }
}
