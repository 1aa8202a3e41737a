//! Any bytes, in two pieces: frames or an error, and the same whether they come at once or not. `cargo +nightly fuzz run codec`.
#![no_main]

use bytes::BytesMut;
use kerbside_spdy::codec::Codec;
use kerbside_spdy::frame::Frame;
use libfuzzer_sys::fuzz_target;
use tokio_util::codec::Decoder;

fn read(pieces: &[&[u8]]) -> (Vec<Frame>, bool) {
    let (mut codec, mut buffer, mut frames) = (Codec::default(), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(Frame::Data { .. })) => {}
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

fuzz_target!(|bytes: &[u8]| {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    assert_eq!(read(&[bytes]), read(&[first, second]));
});
