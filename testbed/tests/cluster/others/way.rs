//! The way between a car and the adapter, as a mobile network is one: it can be slow, and it can be cut.
//!
//! Called by tests of what the cluster sees in the time between two words of a car. On a slow way each word comes by itself, in the order
//! in which it was said, so what follows from one is seen before the next one comes, however quick the car is. What comes to the car is
//! never held up.

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Slow,
    Cut,
}

/// A way to the adapter for any number of cars.
pub(crate) struct Way {
    url: String,
    /// Where new connections go: the address of an adapter's link.
    to: watch::Sender<String>,
    state: watch::Sender<State>,
    task: AbortHandle,
}

/// Runs a test in a world of its own, with a way that is there until the world has been cleared away.
pub(crate) async fn run<F>(name: &str, test: F) -> Result<()>
where
    F: AsyncFnOnce(&mut World, &Way) -> Result<()>,
{
    let way = Way::open().await?;
    world::run(name, async |world| {
        let result = test(world, &way).await;
        // Whatever its end: a car that is not reached keeps its Pods.
        way.free();
        result
    })
    .await
}

impl Way {
    async fn open() -> Result<Self> {
        let adapter = adapter(&Bed::from_environment().await?)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("failed to listen for cars")?;
        let port = listener.local_addr().context("a listener has an address")?.port();
        let (state, seen) = watch::channel(State::Free);
        let (to, leads_to) = watch::channel(adapter);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((car, _)) = listener.accept().await {
                // One that breaks is seen by both of its ends.
                let to = leads_to.borrow().clone();
                connections.spawn(connection(car, to, seen.clone()));
            }
        });
        Ok(Self {
            url: format!("https://127.0.0.1:{port}"),
            to,
            state,
            task: task.abort_handle(),
        })
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

    /// Every connection breaks, and none comes about.
    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Neither slow nor cut.
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

async fn connection(car: TcpStream, to: String, state: watch::Receiver<State>) -> io::Result<()> {
    if *state.borrow() == State::Cut {
        return Ok(());
    }
    let adapter = TcpStream::connect(to).await?;
    car.set_nodelay(true)?;
    adapter.set_nodelay(true)?;
    let (from_car, mut to_car) = car.into_split();
    let (mut from_adapter, to_adapter) = adapter.into_split();
    tokio::select! {
        said = records(from_car, to_adapter, state.clone()) => said,
        said = tokio::io::copy(&mut from_adapter, &mut to_car) => said.map(drop),
        () = cut(state) => Ok(()),
    }
}

/// One record of TLS after the other: each word of a car is one.
async fn records(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: watch::Receiver<State>) -> io::Result<()> {
    loop {
        let mut record = vec![0; HEAD];
        from.read_exact(&mut record).await?;
        let length = u16::from_be_bytes([record[3], record[4]]);
        record.resize(HEAD + usize::from(length), 0);
        from.read_exact(&mut record[HEAD..]).await?;
        to.write_all(&record).await?;
        if *state.borrow() == State::Slow {
            sleep(APART).await;
        }
    }
}

async fn cut(mut state: watch::Receiver<State>) {
    while *state.borrow_and_update() != State::Cut {
        if state.changed().await.is_err() {
            return;
        }
    }
}
