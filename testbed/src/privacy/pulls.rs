//! Stands between a car and a registry without TLS and records every byte that the car sends there.
//!
//! Started by the test that has the car name its images by this address. The registry is unchanged. What must never happen: a byte passes that is
//! not recorded, or one that is encrypted or packed is taken for one that was looked into.

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::scan::Recordings;

/// Where what is recorded is said to be from.
pub const PLACE: &str = "pulls: what the car sends";

/// What was sent over one connection.
type Sent = Arc<Mutex<Vec<u8>>>;

/// The way to one registry, as long as it is not dropped.
#[derive(Debug)]
pub struct Pulls {
    /// `host:port`, as in image references.
    pub registry: String,
    connections: Arc<Mutex<Vec<Sent>>>,
    carrying: JoinHandle<()>,
}

impl Pulls {
    /// Listens on loopback for who pulls from this registry, `host:port`.
    pub async fn start(registry: &str) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.context("failed to listen for pulls")?;
        let here = listener.local_addr().context("a listener has an address")?;
        let connections = Arc::<Mutex<Vec<Sent>>>::default();
        let carrying = tokio::spawn(accept(listener, registry.to_owned(), Arc::clone(&connections)));
        Ok(Self {
            registry: here.to_string(),
            connections,
            carrying,
        })
    }

    /// Everything that was sent so far. Fails if it was not HTTP/1 as it is.
    pub fn recorded(&self) -> Result<Recordings> {
        let mut all = Recordings::default();
        for sent in locked(&self.connections).iter() {
            let sent = locked(sent);
            let Some(first) = sent.first() else { continue };
            let text = String::from_utf8_lossy(&sent).to_lowercase();
            ensure!(
                first.is_ascii_uppercase() && !sent.starts_with(b"PRI ") && !text.contains("content-encoding:"),
                "what the car sends a registry is encrypted or packed, and nobody looks into that: {text}"
            );
            all.add(PLACE, &*sent);
        }
        Ok(all)
    }
}

impl Drop for Pulls {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, registry: String, connections: Arc<Mutex<Vec<Sent>>>) {
    // An error of a listener on loopback means that nothing works any more; the test then waits in vain and says so.
    while let Ok((near, _)) = listener.accept().await {
        let sent = Sent::default();
        locked(&connections).push(Arc::clone(&sent));
        let registry = registry.clone();
        tokio::spawn(async move {
            // Either side may go away at any time: no failure of ours.
            if let Err(error) = carry(near, &registry, &sent).await {
                eprintln!("a pull's connection ended: {error}");
            }
        });
    }
}

/// One connection, until both sides have said all.
async fn carry(mut near: TcpStream, registry: &str, sent: &Mutex<Vec<u8>>) -> io::Result<()> {
    let mut far = TcpStream::connect(registry).await?;
    let (car, to_car) = near.split();
    let (answers, to_registry) = far.split();
    tokio::try_join!(record(car, to_registry, sent), hand_on(answers, to_car)).map(drop)
}

/// What is read is recorded before it is passed on.
async fn record(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    sent: &Mutex<Vec<u8>>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        let read = buffer.get(..length).unwrap_or_default();
        if read.is_empty() {
            return to.shutdown().await;
        }
        locked(sent).extend_from_slice(read);
        to.write_all(read).await?;
    }
}

async fn hand_on(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::canary::{Canary, needles};
    use crate::privacy::scan::Scanner;

    /// A registry that answers one connection, once, with what it was asked.
    async fn registry() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            socket.read_to_end(&mut asked).await.unwrap();
            socket.write_all(&asked).await.unwrap();
        });
        address
    }

    async fn send(bytes: &[u8]) -> (Pulls, Vec<u8>) {
        let pulls = Pulls::start(&registry().await).await.unwrap();
        let mut car = TcpStream::connect(&pulls.registry).await.unwrap();
        car.write_all(bytes).await.unwrap();
        car.shutdown().await.unwrap();
        let mut answer = Vec::new();
        car.read_to_end(&mut answer).await.unwrap();
        (pulls, answer)
    }

    #[tokio::test]
    async fn what_a_car_sends_a_registry_is_recorded_with_its_token_and_reaches_it() {
        let asked: &[u8] =
            b"GET /v2/app/manifests/v1 HTTP/1.1\r\nauthorization: Bearer token-of-somebody\r\nx: WKB9ZQ7XJ4T508213\r\n\r\n";
        let (pulls, answer) = send(asked).await;
        assert_eq!(answer, asked);
        let canaries = [
            Canary::text("VIN", "WKB9ZQ7XJ4T508213"),
            Canary::text("token", "token-of-somebody"),
        ];
        let scanner = Scanner::new(needles(&canaries)).unwrap();
        let recorded = pulls.recorded().unwrap();
        let found = recorded.search(&scanner);
        for what in ["VIN", "token"] {
            assert!(
                found.iter().any(|(place, f)| *place == PLACE && f.what == what),
                "{what}: {found:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_nobody_looks_into_is_not_taken_for_something_without_secrets() {
        for bytes in [
            b"\x16\x03\x01\x02\x00\x01".as_slice(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(),
            b"POST /v2/ HTTP/1.1\r\nContent-Encoding: gzip\r\n\r\n".as_slice(),
        ] {
            let (pulls, _) = send(bytes).await;
            assert!(
                pulls.recorded().unwrap_err().to_string().contains("nobody looks"),
                "{bytes:?}"
            );
        }
    }
}
