//! The radio of a simulated car: real TCP from an address of the car's own, which falls silent without a word.
//!
//! Given to the link's client as its network. While the radio is silent no byte comes or goes, nothing new connects, and the other side
//! hears no farewell: a connection that is dropped meanwhile stays open, unread, until the radio works again, as the far end of
//! a car in a tunnel does. What must never happen: a silent radio that closes a connection.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kerbside_link::client::{Io, Network};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::sync::watch;

/// A radio; clones are the same.
#[derive(Clone)]
pub struct Radio {
    works: watch::Sender<bool>,
    source: Option<Ipv4Addr>,
    /// Connections that were dropped while the radio was silent.
    unheard: Arc<Mutex<Vec<TcpStream>>>,
}

impl Radio {
    /// A radio that works, and dials from `source` where that is given.
    pub fn new(source: Option<Ipv4Addr>) -> Self {
        Self {
            works: watch::Sender::new(true),
            source,
            unheard: Arc::default(),
        }
    }

    /// Nothing is heard from now on, in either direction.
    pub fn silence(&self) {
        self.works.send_replace(false);
    }

    /// It works again. Connections that were given up meanwhile close now.
    pub fn restore(&self) {
        self.works.send_replace(true);
        self.lock().clear();
    }

    /// Whether it works.
    pub fn works(&self) -> bool {
        *self.works.borrow()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Radio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Radio")
            .field("works", &self.works())
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Network for Radio {
    fn connect(&self, host: String, port: u16) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
        let radio = self.clone();
        async move {
            until_it_works(radio.works.subscribe()).await;
            let to = lookup_host((host, port))
                .await?
                .find(SocketAddr::is_ipv4)
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the adapter has no IPv4 address"))?;
            let socket = TcpSocket::new_v4()?;
            if let Some(source) = radio.source {
                socket.bind(SocketAddr::from((source, 0)))?;
            }
            let tcp = socket.connect(to).await?;
            tcp.set_nodelay(true)?;
            Ok(Box::new(Waves {
                tcp: Some(tcp),
                radio,
                silence: None,
            }) as Box<dyn Io>)
        }
        .boxed()
    }
}

async fn until_it_works(mut works: watch::Receiver<bool>) {
    // An error means that the radio is gone, and with it everybody who waits.
    let _ = works.wait_for(|works| *works).await;
}

/// One connection over a radio.
struct Waves {
    /// Taken when dropped.
    tcp: Option<TcpStream>,
    radio: Radio,
    /// The wait for the end of a silence.
    silence: Option<BoxFuture<'static, ()>>,
}

impl Waves {
    /// The connection, once the radio works.
    fn poll_tcp(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut TcpStream>>> {
        while !self.radio.works() {
            let works = &self.radio.works;
            let silence = self
                .silence
                .get_or_insert_with(|| until_it_works(works.subscribe()).boxed());
            ready!(silence.poll_unpin(cx));
            self.silence = None;
        }
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        Poll::Ready(self.tcp.as_mut().map(Pin::new).ok_or_else(gone))
    }
}

impl Drop for Waves {
    fn drop(&mut self) {
        if !self.radio.works()
            && let Some(tcp) = self.tcp.take()
        {
            self.radio.lock().push(tcp);
        }
    }
}

impl AsyncRead for Waves {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_tcp(cx))?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Waves {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_tcp(cx))?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_tcp(cx))?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_tcp(cx))?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const A_WHILE: Duration = Duration::from_secs(10);

    async fn pair(radio: &Radio) -> (Box<dyn Io>, TcpStream, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (car, far) = tokio::join!(radio.connect("127.0.0.1".to_owned(), port), listener.accept());
        let (far, from) = far.unwrap();
        (car.unwrap(), far, from)
    }

    #[tokio::test]
    async fn car_dials_from_an_address_of_its_own() {
        let radio = Radio::new(Some(Ipv4Addr::new(127, 1, 2, 3)));
        let (_car, _far, from) = pair(&radio).await;
        assert_eq!(from.ip(), Ipv4Addr::new(127, 1, 2, 3));
    }

    #[tokio::test]
    async fn nothing_is_heard_over_a_silent_radio_and_all_of_it_after() {
        let radio = Radio::new(None);
        let (mut car, mut far, _) = pair(&radio).await;
        radio.silence();
        far.write_all(b"hello").await.unwrap();
        let mut byte = [0; 5];
        assert!(futures::poll!(Box::pin(car.read_exact(&mut byte))).is_pending());
        radio.restore();
        timeout(A_WHILE, car.read_exact(&mut byte)).await.unwrap().unwrap();
        assert_eq!(&byte, b"hello");
    }

    #[tokio::test]
    async fn connection_given_up_in_silence_closes_only_when_the_radio_is_back() {
        let radio = Radio::new(None);
        let (car, mut far, _) = pair(&radio).await;
        radio.silence();
        drop(car);
        let mut byte = [0; 1];
        let mut end = Box::pin(far.read(&mut byte));
        assert!(futures::poll!(&mut end).is_pending());
        radio.restore();
        assert_eq!(timeout(A_WHILE, end).await.unwrap().unwrap(), 0);
    }

    #[tokio::test]
    async fn silent_radio_does_not_connect() {
        let radio = Radio::new(None);
        radio.silence();
        let mut connection = radio.connect("127.0.0.1".to_owned(), 9);
        assert!(futures::poll!(&mut connection).is_pending());
    }
}
