//! Protobuf in small buffers: an adapter has a session with every car, and almost all of them say almost nothing.
//!
//! Named in `build.rs`, used by the generated code only. Buffers grow with what a call really carries; tonic's own begin at
//! 8 KiB each.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// A heartbeat has ten bytes, a status some hundred.
const BUFFER: usize = 256;

/// How much of what waits is put together before it is handed on; what is more urgent waits behind no more than this.
const TOGETHER: usize = 16 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER, TOGETHER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(BufferSettings::new(BUFFER, TOGETHER))
    }
}
