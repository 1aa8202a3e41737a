//! A car with a world of its own: programs speak to the proxy over a pipe, and so does whoever they reach.

mod exchange;
mod terms;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use ipnet::IpNet;
use kerbside_core::clock::Boottime;
use kerbside_core::owner::{Command, Document};
use kerbside_core::parked::{Cause, State};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::world::World;
use super::*;
use crate::stream::Stream;
use crate::uplink::Uplink;

/// Somewhere public.
const PUBLIC: &str = "93.184.216.34";
/// The car's own address, a public one.
const OWN: &str = "93.184.216.1";
const NOW: Boottime = Boottime(Duration::from_secs(100));
/// Longer than anything takes but what never happens: time is paused.
const LONG: Duration = Duration::from_hours(1);

/// What a test does with its car.
struct Played {
    pod: Arc<Pod>,
    /// Another one in the same car.
    other: Arc<Pod>,
    outlook: watch::Sender<Outlook>,
    brake: watch::Sender<bool>,
    totals: Arc<Totals>,
    /// Who was connected to, and its end of the connection.
    reached: mpsc::UnboundedReceiver<(SocketAddr, DuplexStream)>,
    asked: Arc<Mutex<Vec<String>>>,
}

struct Fake {
    /// What a name means, each time that somebody asks.
    names: Mutex<HashMap<String, Vec<Vec<IpAddr>>>>,
    asked: Arc<Mutex<Vec<String>>>,
    reached: mpsc::UnboundedSender<(SocketAddr, DuplexStream)>,
}

impl World for Fake {
    fn look_up(&self, name: &str) -> BoxFuture<'_, Vec<IpAddr>> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(name.to_owned());
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let known = names.get_mut(name).filter(|answers| !answers.is_empty());
        std::future::ready(known.map(|answers| answers.remove(0)).unwrap_or_default()).boxed()
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Stream>> {
        let (near, far) = duplex(1 << 10);
        let sent = self.reached.send((address, far));
        let answer = sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused));
        std::future::ready(answer.map(|()| Box::pin(near) as Stream)).boxed()
    }

    fn own_addresses(&self) -> io::Result<Vec<IpNet>> {
        let own = OWN.parse::<IpAddr>().map_err(io::Error::other)?;
        Ok(vec![own.into()])
    }
}

fn document(egress: &str) -> Document {
    let yaml = format!(
        "{{consent: {{givenAt: 2026-11-01T10:00:00Z, classes: []}}, requirePluggedIn: false, chargeFloorPercent: 30, {egress}}}"
    );
    serde_saphyr::from_str(&yaml).unwrap()
}

/// A car at work whose owner's document has this.
fn played(egress: &str, names: &[(&str, &[&[&str]])]) -> Played {
    played_by(Uplink::default(), egress, names)
}

/// The same, by this way to the world.
fn played_by(uplink: Uplink, egress: &str, names: &[(&str, &[&[&str]])]) -> Played {
    let mut first = Outlook::initial(Arc::default(), Command::None);
    first.state = State::Available { parked_since: NOW };
    first.document = Some(Arc::new(document(egress)));
    let (outlook, seen) = watch::channel(first);
    let (brake, braked) = watch::channel(false);
    let totals = Arc::new(Totals::by(uplink));
    let (tell, reached) = mpsc::unbounded_channel();
    let asked = Arc::new(Mutex::default());
    let addresses = |list: &&[&str]| list.iter().map(|address| address.parse().unwrap()).collect();
    let names = names
        .iter()
        .map(|(name, answers)| ((*name).to_owned(), answers.iter().map(addresses).collect()));
    let world = Fake {
        names: Mutex::new(names.collect()),
        asked: Arc::clone(&asked),
        reached: tell,
    };
    let car = Car::new(Gate::new(seen, braked, Arc::clone(&totals)), Box::new(world));
    let car = Arc::new(car);
    Played {
        pod: Arc::new(Pod::new(&car, "attempt")),
        other: Arc::new(Pod::new(&car, "other")),
        outlook,
        brake,
        totals,
        reached,
        asked,
    }
}

/// One that lets work reach the internet.
fn public() -> Played {
    played("egress: {allow: [public]}", &[("example.org", &[&[PUBLIC]])])
}

impl Played {
    /// A program's connection to the proxy.
    fn program(&self) -> DuplexStream {
        program_of(&self.pod)
    }

    /// What a program is told that says this.
    async fn told(&self, words: &str) -> String {
        let mut program = self.program();
        program.write_all(words.as_bytes()).await.unwrap();
        head(&mut program).await
    }

    /// A program that asks this, and the server that is asked.
    async fn asks(&mut self, words: &str) -> (DuplexStream, DuplexStream) {
        let mut program = self.program();
        program.write_all(words.as_bytes()).await.unwrap();
        (program, self.peer().await.1)
    }

    /// A program's tunnel to example.org, and the other end.
    async fn tunnel(&mut self) -> (DuplexStream, DuplexStream) {
        self.tunnel_of(self.program()).await
    }

    async fn tunnel_of(&mut self, mut program: DuplexStream) -> (DuplexStream, DuplexStream) {
        program.write_all(&connect("example.org:443")).await.unwrap();
        let answer = head(&mut program).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        (program, self.peer().await.1)
    }

    async fn peer(&mut self) -> (SocketAddr, DuplexStream) {
        timeout(LONG, self.reached.recv()).await.unwrap().unwrap()
    }

    fn amend(&self, egress: &str) {
        let document = Arc::new(document(egress));
        self.outlook.send_modify(|outlook| outlook.document = Some(document));
    }

    fn stands(&self, state: State) {
        self.outlook.send_modify(|outlook| outlook.state = state);
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn program_of(pod: &Arc<Pod>) -> DuplexStream {
    let (near, far) = duplex(64 << 10);
    tokio::spawn(proxy::speak(far, Arc::clone(pod)));
    near
}

fn connect(to: &str) -> Vec<u8> {
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").into_bytes()
}

fn paused() -> State {
    State::Paused {
        since: NOW,
        parked_since: None,
        cause: Cause::Owner,
    }
}

/// Up to the end of a head, or of a refusal.
async fn head(from: &mut DuplexStream) -> String {
    until(from, "\n").await
}

/// Until what has come ends with this.
async fn until(from: &mut DuplexStream, end: &str) -> String {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    while !text.ends_with(end.as_bytes()) {
        let read = timeout(LONG, from.read(&mut piece)).await.unwrap().unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..read]);
    }
    String::from_utf8(text).unwrap()
}

/// Whether anything comes, ever.
async fn hears(from: &mut DuplexStream) -> bool {
    let mut piece = [0; 1];
    timeout(LONG, from.read_exact(&mut piece))
        .await
        .is_ok_and(|read| read.is_ok())
}

/// Whether it ends.
async fn ends(from: &mut DuplexStream) -> bool {
    let mut rest = Vec::new();
    timeout(LONG, from.read_to_end(&mut rest)).await.is_ok()
}
