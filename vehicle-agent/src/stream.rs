//! A connection of any kind, where only what is carried by it counts.
//!
//! Used by whoever speaks over plain, encrypted, local or played connections alike.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// Both directions.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

/// One that can be moved around.
pub(crate) type Stream = Pin<Box<dyn Io>>;
