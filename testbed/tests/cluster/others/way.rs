//! The way between a car and the adapter, as a mobile network is one, or between a program and the API server: it can be slow, it can be
//! cut, and it can swallow all there is without a word.
//!
//! Called by tests of what the cluster sees in the time between two words of a car, and of partitions. On a slow way each word comes by
//! itself, in the order in which it was said, so what follows from one is seen before the next one comes, however quick the car is. What
//! comes back on a slow way is never held up.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use kerbside_testbed::bed::Bed;
use kerbside_testbed::fleet::car::{Car, Plan};
use kerbside_testbed::world::{self, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

/// Between two words of a car on a slow way: long against what the adapter does about one, short against a notice.
const APART: Duration = Duration::from_millis(500);
/// Before the content of a record of TLS: its type, its version, its length.
const HEAD: usize = 5;
/// As much as is passed on at a time.
const PIECE: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Slow,
    Held,
    Cut,
}

/// A way to one server for any number of its clients.
pub(crate) struct Way {
    url: String,
    /// Where new connections go: the address of an adapter's link, or of the API server.
    to: watch::Sender<String>,
    state: watch::Sender<State>,
    task: AbortHandle,
}

/// Runs a test in a world of its own, with a way that is there until the world has been cleared away.
pub(crate) async fn run<F>(name: &str, test: F) -> Result<()>
where
    F: AsyncFnOnce(&mut World, &Way) -> Result<()>,
{
    let way = Way::to(&adapter(&Bed::from_environment().await?)?).await?;
    world::run(name, async |world| {
        let result = test(world, &way).await;
        // Whatever its end: a car that is not reached keeps its Pods.
        way.free();
        result
    })
    .await
}

impl Way {
    /// A way to the server that listens on this address.
    pub(crate) async fn to(address: &str) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("failed to listen for those who go this way")?;
        let port = listener.local_addr().context("a listener has an address")?.port();
        let (state, seen) = watch::channel(State::Free);
        let (to, leads_to) = watch::channel(address.to_owned());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                // One that breaks is seen by both of its ends.
                let to = leads_to.borrow().clone();
                connections.spawn(connection(near, to, seen.clone()));
            }
        });
        Ok(Self {
            url: format!("https://127.0.0.1:{port}"),
            to,
            state,
            task: task.abort_handle(),
        })
    }

    /// What its clients dial.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A new car of the test, as they come by default, that knows no other way.
    pub(crate) async fn car(&self, world: &mut World) -> Result<Car> {
        self.car_as(world, &Plan::default()).await
    }

    /// Likewise, made as `plan` says.
    pub(crate) async fn car_as(&self, world: &mut World, plan: &Plan) -> Result<Car> {
        let straight = std::mem::replace(&mut world.bed.endpoints.link, self.url.clone());
        let car = world.car(plan).await;
        world.bed.endpoints.link = straight;
        car
    }

    /// New connections go to this address, as behind one address for many adapters when one of them is gone.
    pub(crate) fn leads_to(&self, address: &str) {
        self.to.send_replace(address.to_owned());
    }

    /// New connections go to the testbed's adapter.
    pub(crate) fn leads_to_the_adapter(&self, bed: &Bed) -> Result<()> {
        self.to.send_replace(adapter(bed)?);
        Ok(())
    }

    /// From now on there is a pause after each word of a car.
    pub(crate) fn slow(&self) {
        self.state.send_replace(State::Slow);
    }

    /// Nothing passes any more in either direction, and nothing breaks: no end of a connection is told of the other's silence. What was
    /// sent meanwhile goes on when the way is free, as TCP sends it again after a partition.
    pub(crate) fn hold(&self) {
        self.state.send_replace(State::Held);
    }

    /// Every connection breaks, and none comes about.
    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Neither slow nor held nor cut.
    pub(crate) fn free(&self) {
        self.state.send_replace(State::Free);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where the testbed's adapter listens for cars.
fn adapter(bed: &Bed) -> Result<String> {
    let link = &bed.endpoints.link;
    let address = link.strip_prefix("https://");
    Ok(address
        .with_context(|| format!("the link {link} does not begin with https://"))?
        .to_owned())
}

async fn connection(near: TcpStream, to: String, mut state: watch::Receiver<State>) -> io::Result<()> {
    if *state.borrow() == State::Cut {
        return Ok(());
    }
    let both_ways = {
        let mut state = state.clone();
        async move {
            passable(&mut state).await;
            let far = TcpStream::connect(to).await?;
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            let (from_near, to_near) = near.into_split();
            let (from_far, to_far) = far.into_split();
            tokio::select! {
                said = records(from_near, to_far, state.clone()) => said,
                said = pieces(from_far, to_near, state) => said,
            }
        }
    };
    tokio::select! {
        passed = both_ways => passed,
        () = until(&mut state, |s| s == State::Cut) => Ok(()),
    }
}

/// One record of TLS after the other: each word of a car is one.
async fn records(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) -> io::Result<()> {
    loop {
        let record = record(&mut from).await;
        passable(&mut state).await;
        to.write_all(&record?).await?;
        if *state.borrow() == State::Slow {
            sleep(APART).await;
        }
    }
}

async fn record(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut record = vec![0; HEAD];
    from.read_exact(&mut record).await?;
    let length = u16::from_be_bytes([record[3], record[4]]);
    record.resize(HEAD + usize::from(length), 0);
    from.read_exact(&mut record[HEAD..]).await?;
    Ok(record)
}

/// What comes, as it comes.
async fn pieces(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await;
        passable(&mut state).await;
        match read? {
            0 => return Ok(()),
            length => to.write_all(&piece[..length]).await?,
        }
    }
}

/// Also the end of a connection is not told on a way that is held.
async fn passable(state: &mut watch::Receiver<State>) {
    until(state, |s| s != State::Held).await;
}

async fn until(state: &mut watch::Receiver<State>, is: impl Fn(State) -> bool) {
    // Without a sender the way is gone, and its connections with it.
    let _ = state.wait_for(|s| is(*s)).await;
}
