//! Receipts on their way to a cluster that is away, that refuses, and that has others.

use kerbside_core::receipt::Claim;

use super::*;
use crate::directory::Directory;
use crate::receipts::tests::claim;
use crate::testing::{FakeCluster, identity};

struct Car {
    temp: tempfile::TempDir,
    identity: kerbside_link::identity::Identity,
    cluster: FakeCluster,
}

impl Car {
    fn new() -> Self {
        Self {
            temp: tempfile::tempdir().unwrap(),
            identity: identity(),
            cluster: FakeCluster::new(),
        }
    }

    /// An agent's life: its receipts, and their delivery until it is dropped.
    fn boot(&self) -> (Receipts, Life) {
        let directory = Directory::open(self.temp.path()).unwrap();
        let receipts = Receipts::open(&directory, &self.identity).unwrap();
        let delivery = tokio::spawn(deliver(receipts.clone(), self.cluster.clone()));
        (receipts, Life(delivery))
    }

    fn marker(&self) -> PathBuf {
        self.temp.path().join("receipts").join(DELIVERED)
    }

    async fn numbers(&self, count: usize) -> Vec<u64> {
        let stored = self.cluster.receipts(count).await;
        stored.iter().map(|(line, _)| place(line).unwrap().0).collect()
    }
}

struct Life(tokio::task::JoinHandle<()>);

impl Drop for Life {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn until(receipts: &Receipts, wanted: impl Fn(&crate::control::Receipts) -> bool) -> crate::control::Receipts {
    let mut standing = receipts.standing();
    let there = tokio::time::timeout(Duration::from_secs(20), standing.wait_for(|s| wanted(s))).await;
    there.expect("it becomes so").unwrap().clone()
}

async fn give(receipts: &Receipts, numbers: impl IntoIterator<Item = u32>) {
    for n in numbers {
        let claim: Claim = claim(n);
        receipts.give(claim).await.unwrap();
    }
}

#[tokio::test]
async fn receipts_arrive_in_order_with_their_certificates_and_once_over_a_restart() {
    let car = Car::new();
    let (receipts, life) = car.boot();
    give(&receipts, 1..=3).await;
    until(&receipts, |s| s.delivered == 3).await;
    let stored = car.cluster.receipts(3).await;
    assert_eq!(stored[0].1, car.identity.chain_pem());
    // Its file is written a moment after it is told.
    while !std::fs::read(car.marker()).is_ok_and(|text| String::from_utf8_lossy(&text).contains(":3")) {
        tokio::task::yield_now().await;
    }
    drop((receipts, life));

    let (receipts, _life) = car.boot();
    assert_eq!(until(&receipts, |s| s.delivered == 3).await.newest, 3);
    give(&receipts, [4]).await;
    assert_eq!(car.numbers(4).await, [1, 2, 3, 4]);
}

#[test]
fn file_that_says_how_far_it_has_come_is_cut_off_or_another_cars_and_all_is_sent_again() {
    let whole = serde_json::to_vec(&Delivered {
        vehicle: identity().vehicle().clone(),
        sequence: 2,
    })
    .unwrap();
    let mut others = (0..whole.len())
        .map(|length| whole[..length].to_vec())
        .collect::<Vec<_>>();
    others.push(br#"{"vehicle":"car-bbbbbbbbbbbbbbbb","sequence":2}"#.to_vec());
    let car = Car::new();
    std::fs::create_dir(car.temp.path().join("receipts")).unwrap();
    for text in others {
        std::fs::write(car.marker(), text).unwrap();
        let delivery = Delivery::new(car.temp.path().join("receipts"), identity().vehicle().clone());
        assert_eq!(delivery.known.sequence, 0);
    }
    std::fs::write(car.marker(), whole).unwrap();
    let delivery = Delivery::new(car.temp.path().join("receipts"), identity().vehicle().clone());
    assert_eq!(delivery.known.sequence, 2);
}

#[tokio::test]
async fn car_that_is_not_let_in_tries_again_later() {
    let car = Car::new();
    let directory = Directory::open(car.temp.path()).unwrap();
    let receipts = Receipts::open(&directory, &car.identity).unwrap();
    give(&receipts, [1, 2]).await;
    let mut delivery = Delivery::new(directory.receipts(), car.identity.vehicle().clone());
    car.cluster.refuse_receipt(Fault::denied("revoked"));
    assert!(!delivery.send(2, &receipts, &car.cluster).await.unwrap(), "not now");
    assert_eq!(delivery.known.sequence, 0);
    assert!(delivery.send(2, &receipts, &car.cluster).await.unwrap());
    assert_eq!(car.numbers(2).await, [1, 2]);
    assert_eq!(receipts.standing().borrow().refused, "");
}

#[tokio::test]
async fn receipt_that_the_cluster_will_never_take_is_said_and_not_sent_again() {
    let car = Car::new();
    car.cluster
        .refuse_receipt(Fault::conflict("another receipt has number 1"));
    let (receipts, life) = car.boot();
    give(&receipts, [1, 2]).await;
    let standing = until(&receipts, |s| !s.refused.is_empty()).await;
    assert_eq!(
        standing.refused,
        "the cluster does not take receipt 1: another receipt has number 1"
    );
    assert_eq!(standing.delivered, 0);
    // It has ended by itself.
    let Life(ref delivery) = life;
    while !delivery.is_finished() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn car_that_starts_asks_whether_the_cluster_has_a_later_one() {
    let car = Car::new();
    let (receipts, life) = car.boot();
    give(&receipts, [1, 2]).await;
    until(&receipts, |s| s.delivered == 2).await;
    while !std::fs::read(car.marker()).is_ok_and(|text| String::from_utf8_lossy(&text).contains(":2")) {
        tokio::task::yield_now().await;
    }
    drop((receipts, life));
    car.cluster.refuse_receipt(Fault::conflict("receipt 3 is stored"));
    let (receipts, _life) = car.boot();
    let standing = until(&receipts, |s| !s.refused.is_empty()).await;
    assert_eq!(
        standing.refused,
        "the cluster does not take receipt 2: receipt 3 is stored"
    );
    assert_eq!((standing.count, standing.delivered), (2, 2), "what was earned is kept");
}

#[test]
fn line_that_is_being_written_waits() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join(LEDGER), "{\"payloadType").unwrap();
    let none = Delivered {
        vehicle: identity().vehicle().clone(),
        sequence: 0,
    };
    let (waiting, end) = waiting(temp.path(), 0, &none, 9).unwrap();
    assert_eq!((waiting.len(), end), (0, 0));
}

#[tokio::test]
async fn receipt_that_is_not_durable_yet_stays_in_the_car() {
    let car = Car::new();
    let directory = Directory::open(car.temp.path()).unwrap();
    let receipts = Receipts::open(&directory, &car.identity).unwrap();
    give(&receipts, [1, 2]).await;
    let mut delivery = Delivery::new(directory.receipts(), car.identity.vehicle().clone());
    assert!(delivery.send(1, &receipts, &car.cluster).await.unwrap());
    assert_eq!(car.numbers(1).await, [1]);
    assert!(delivery.send(2, &receipts, &car.cluster).await.unwrap());
    assert_eq!(car.numbers(2).await, [1, 2]);
}

#[tokio::test]
async fn car_that_is_enrolled_anew_begins_anew_and_sends_nothing_of_the_one_before() {
    let mut car = Car::new();
    let (receipts, life) = car.boot();
    give(&receipts, [1, 2]).await;
    until(&receipts, |s| s.delivered == 2).await;
    drop((receipts, life));
    car.identity = crate::testing::identity_of("car-bbbbbbbbbbbbbbbb");
    car.cluster = FakeCluster::new();
    let (receipts, _life) = car.boot();
    assert_eq!(receipts.standing().borrow().aside, Vec::<String>::new());
    give(&receipts, [3]).await;
    assert_eq!(car.numbers(1).await, [1]);
    let kept = car.temp.path().join("receipts/usage.jsonl.of-car-aaaaaaaaaaaaaaaa-1");
    assert_eq!(std::fs::read_to_string(kept).unwrap().lines().count(), 2);
}
