//! A way between car and adapter that counts, and that can be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    target: watch::Sender<SocketAddr>,
    way: Arc<Way>,
}

struct Way {
    cut: watch::Sender<u64>,
    cut_after: u64,
    up: Counter,
    down: Counter,
}

#[derive(Default)]
struct Counter {
    bytes: AtomicU64,
    packets: AtomicU64,
}

/// What has gone over the way, as the sockets gave it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
}

impl Proxy {
    /// Leads to `target`. Everything is cut once when `cut_after` bytes have gone from cars to it.
    pub(crate) async fn start(target: SocketAddr, cut_after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = watch::Sender::new(target);
        let way = Way {
            cut: watch::Sender::new(0),
            cut_after,
            up: Counter::default(),
            down: Counter::default(),
        };
        let way = Arc::new(way);
        let proxy = Self {
            address,
            way: Arc::clone(&way),
            target: target.clone(),
        };
        tokio::spawn(async move {
            while let Ok((car, _)) = listener.accept().await {
                let to = *target.borrow();
                tokio::spawn(pass(car, to, Arc::clone(&way)));
            }
        });
        proxy
    }

    /// Cuts what stands. What comes after it passes.
    pub(crate) fn cut(&self) {
        self.way.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Leads whoever comes from now on elsewhere.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let both = |count: fn(&Counter) -> &AtomicU64| {
            count(&self.way.up).load(Ordering::SeqCst) + count(&self.way.down).load(Ordering::SeqCst)
        };
        Traffic {
            bytes: both(|c| &c.bytes),
            packets: both(|c| &c.packets),
        }
    }
}

async fn pass(mut car: TcpStream, to: SocketAddr, way: Arc<Way>) {
    let mut cuts = way.cut.subscribe();
    let Ok(mut adapter) = TcpStream::connect(to).await else {
        return;
    };
    let (from_car, to_car) = car.split();
    let (from_adapter, to_adapter) = adapter.split();
    let up = copy(from_car, to_adapter, &way.up, |bytes| {
        if bytes >= way.cut_after {
            way.cut
                .send_if_modified(|cuts| std::mem::replace(cuts, (*cuts).max(1)) == 0);
        }
    });
    tokio::select! {
        _ = cuts.changed() => {}
        () = up => {}
        () = copy(from_adapter, to_car, &way.down, |_| {}) => {}
    }
}

async fn copy(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, counter: &Counter, passed: impl Fn(u64)) {
    let mut buffer = vec![0; 8192];
    loop {
        let n = from.read(&mut buffer).await.unwrap_or(0);
        if n == 0 {
            return;
        }
        counter.packets.fetch_add(1, Ordering::SeqCst);
        let bytes = counter.bytes.fetch_add(n as u64, Ordering::SeqCst) + n as u64;
        passed(bytes);
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        // A cut takes effect before the next read.
        tokio::task::yield_now().await;
    }
}
