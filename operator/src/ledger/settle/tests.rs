//! One acceptance for each receipt, whoever dies, comes twice or lies, and both halves check out.

use kerbside_core::ledger::check;
use kerbside_core::receipt::{Keys, Verdict};
use kerbside_link::identity::{Ca, PublicKey};
use prometheus_client::registry::Registry;

use super::super::desk::KEPT_FOR;
use super::super::testing::{Car, start, store};
use super::*;
use crate::testing::fake_api::{FakeApi, Fate};
use crate::testing::{DownStore, HandClock};

const NAMESPACE: &str = "kerbside-system";

/// A cluster with a CA, and a store that can fail.
struct Cluster {
    api: FakeApi,
    ca: Ca,
    inner: Arc<DownStore>,
    store: Store,
    clock: Arc<HandClock>,
}

impl Cluster {
    async fn new() -> Self {
        let (api, inner, clock) = (FakeApi::new(), Arc::new(DownStore::default()), HandClock::new());
        inner.set_down(false);
        let ca = ensure_ca(&api.client(Fate::Lives), NAMESPACE, start()).await.unwrap();
        Self {
            api,
            ca,
            store: store(&inner),
            inner,
            clock,
        }
    }

    fn office(&self) -> Office {
        Office {
            client: self.api.client(Fate::Lives),
            namespace: NAMESPACE.to_owned(),
            store: self.store.clone(),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            metrics: Metrics::new(&mut Registry::default()),
        }
    }

    /// A replica that has become leader.
    async fn settler(&self) -> Settler {
        Settler::open(&self.office()).await.unwrap()
    }

    /// The attempts to which pointers lead.
    async fn unsettled(&self) -> usize {
        self.store.list(path::LEDGER_POINTERS).await.unwrap().len()
    }

    /// Both halves of the car's ledger, as whoever holds nothing but the store checks them.
    async fn checked(&self, car: &Car) -> kerbside_core::ledger::Report {
        let operator = self.store.list(path::LEDGER_OPERATOR_KEYS).await.unwrap();
        let operator = self.store.get(&operator[0]).await.unwrap();
        let operator = PublicKey::named(std::str::from_utf8(&operator).unwrap(), Ca::LEDGER).unwrap();
        let usage = Car::half(&self.store, &path::ledger_usages(car.id.as_str())).await;
        let acceptances = Car::half(&self.store, &path::ledger_acceptances(car.id.as_str())).await;
        let key = PublicKey::from_chain_pem(car.signer.chain_pem()).unwrap();
        check(&usage, &acceptances, &OneKey(key), &OneKey(operator))
    }
}

struct OneKey<O>(PublicKey<O>);

impl<O> Keys for OneKey<O> {
    fn verify(&self, keyid: &str, message: &[u8], signature: &[u8]) -> Verdict {
        if keyid != self.0.key_id() {
            Verdict::UnknownKey
        } else if self.0.verify(message, signature) {
            Verdict::Good
        } else {
            Verdict::Forged
        }
    }
}

/// Passes until every pointer that waits is due again.
async fn pass_later(settler: &mut Settler) {
    tokio::time::advance(PATIENCE.cap).await;
    settler.pass().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn receipt_is_settled_once_its_closing_is_there() {
    let cluster = Cluster::new().await;
    let mut car = Car::new(&cluster.ca, 1);
    let mut settler = cluster.settler().await;
    car.deliver(&cluster.store, "a").await;
    settler.pass().await.unwrap();
    assert_eq!(
        (car.acceptances(&cluster.store).await.len(), cluster.unsettled().await),
        (0, 1)
    );

    car.close(&cluster.store, "a").await;
    settler.pass().await.unwrap();
    assert_eq!(cluster.unsettled().await, 1, "it is not looked at in every pass");
    pass_later(&mut settler).await;
    let acceptances = car.acceptances(&cluster.store).await;
    assert_eq!(cluster.unsettled().await, 0);
    assert_eq!(acceptances.len(), 1);
    assert_eq!((acceptances[0].sequence, acceptances[0].amount_micro), (1, 20_000));
}

#[tokio::test(start_paused = true)]
async fn chains_of_many_cars_check_out() {
    let cluster = Cluster::new().await;
    let mut cars: Vec<Car> = (1..=20).map(|n| Car::new(&cluster.ca, n)).collect();
    for (n, car) in cars.iter_mut().enumerate() {
        for k in 0..3 {
            let attempt = format!("a-{n}-{k}");
            car.deliver(&cluster.store, &attempt).await;
            car.close(&cluster.store, &attempt).await;
        }
    }
    cluster.settler().await.pass().await.unwrap();
    assert_eq!(cluster.unsettled().await, 0);
    for car in &cars {
        let report = cluster.checked(car).await;
        assert!(report.is_well(), "{report:#?}");
        assert_eq!((report.unsettled, report.sums["EUR"].amount_micro), (0, 60_000));
        let order: Vec<u64> = car
            .acceptances(&cluster.store)
            .await
            .iter()
            .map(|a| a.usage_sequence)
            .collect();
        assert_eq!(order, [1, 2, 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn crash_between_acceptance_and_pointer_makes_no_second_acceptance() {
    let cluster = Cluster::new().await;
    let mut car = Car::new(&cluster.ca, 1);
    car.deliver(&cluster.store, "a").await;
    car.close(&cluster.store, "a").await;
    cluster.inner.set_keeps(true);
    cluster.settler().await.pass().await.unwrap();
    assert_eq!(cluster.unsettled().await, 1);

    cluster.inner.set_keeps(false);
    cluster.settler().await.pass().await.unwrap();
    assert_eq!(
        (cluster.unsettled().await, car.acceptances(&cluster.store).await.len()),
        (0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn pointer_that_comes_again_is_settled_by_what_is_there() {
    let cluster = Cluster::new().await;
    let mut car = Car::new(&cluster.ca, 1);
    let mut settler = cluster.settler().await;
    car.deliver(&cluster.store, "a").await;
    car.close(&cluster.store, "a").await;
    settler.pass().await.unwrap();
    for _ in 0..2 {
        car.point(&cluster.store, "a").await;
        settler.pass().await.unwrap();
        assert_eq!(cluster.unsettled().await, 0);
    }
    assert_eq!(car.acceptances(&cluster.store).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_leaders_at_once_make_one_chain() {
    let cluster = Cluster::new().await;
    let mut car = Car::new(&cluster.ca, 1);
    let (mut one, mut two) = (cluster.settler().await, cluster.settler().await);
    for attempt in ["a", "b", "c", "d"] {
        car.deliver(&cluster.store, attempt).await;
        car.close(&cluster.store, attempt).await;
        // Each believes that the chain ends where it left it, and the one that comes second finds the number taken.
        one.pass().await.unwrap();
        car.point(&cluster.store, attempt).await;
        two.pass().await.unwrap();
        std::mem::swap(&mut one, &mut two);
    }
    car.deliver(&cluster.store, "e").await;
    car.close(&cluster.store, "e").await;
    let (first, second) = futures::join!(one.pass(), two.pass());
    first.unwrap();
    second.unwrap();
    let report = cluster.checked(&car).await;
    assert!(report.is_well(), "{report:#?}");
    assert_eq!((report.lines.len(), cluster.unsettled().await), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn store_that_is_down_loses_nothing() {
    let cluster = Cluster::new().await;
    let mut car = Car::new(&cluster.ca, 1);
    let mut settler = cluster.settler().await;
    car.deliver(&cluster.store, "a").await;
    car.close(&cluster.store, "a").await;
    cluster.inner.set_down(true);
    assert!(settler.pass().await.is_err());
    cluster.inner.set_down(false);
    pass_later(&mut settler).await;
    assert!(cluster.checked(&car).await.is_well());
    assert_eq!(cluster.unsettled().await, 0);
}

#[tokio::test(start_paused = true)]
async fn receipt_whose_attempt_nobody_closes_is_dropped_after_a_month() {
    let cluster = Cluster::new().await;
    let mut car = Car::new(&cluster.ca, 1);
    let mut settler = cluster.settler().await;
    car.deliver(&cluster.store, "a").await;
    let month = i64::try_from(KEPT_FOR.as_secs()).unwrap();
    cluster.clock.advance(month);
    settler.pass().await.unwrap();
    assert_eq!(cluster.unsettled().await, 1);
    cluster.clock.advance(1);
    pass_later(&mut settler).await;
    assert_eq!(
        (cluster.unsettled().await, car.acceptances(&cluster.store).await.len()),
        (0, 0)
    );
    let usage = cluster.store.list(&path::ledger_usages(car.id.as_str())).await.unwrap();
    assert_eq!(usage.len(), 1, "the receipt stays");
}

#[tokio::test(start_paused = true)]
async fn receipt_of_an_attempt_on_another_car_is_refused() {
    let cluster = Cluster::new().await;
    let (mut honest, mut thief) = (Car::new(&cluster.ca, 1), Car::new(&cluster.ca, 2));
    honest.close(&cluster.store, "a").await;
    thief.deliver(&cluster.store, "a").await;
    let mut settler = cluster.settler().await;
    settler.pass().await.unwrap();
    assert_eq!(
        (cluster.unsettled().await, thief.acceptances(&cluster.store).await.len()),
        (0, 0)
    );
    honest.deliver(&cluster.store, "a").await;
    settler.pass().await.unwrap();
    assert_eq!(honest.acceptances(&cluster.store).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn receipt_that_no_car_of_this_ca_has_signed_is_refused() {
    let cluster = Cluster::new().await;
    let mut stranger = Car::new(&Ca::generate(start()).unwrap(), 1);
    stranger.deliver(&cluster.store, "a").await;
    stranger.close(&cluster.store, "a").await;
    // Of the right CA, but its line is another car's.
    let (mut car, mut other) = (Car::new(&cluster.ca, 2), Car::new(&cluster.ca, 3));
    let line = other.sign("b");
    cluster
        .store
        .put(&path::ledger_usage(car.id.as_str(), 1), line)
        .await
        .unwrap();
    car.deliver(&cluster.store, "b").await;
    car.close(&cluster.store, "b").await;
    let mut settler = cluster.settler().await;
    settler.pass().await.unwrap();
    assert_eq!(
        cluster.unsettled().await,
        1,
        "of what nobody can judge the pointer waits"
    );
    cluster.clock.advance(i64::try_from(KEPT_FOR.as_secs()).unwrap() + 1);
    pass_later(&mut settler).await;
    assert_eq!(cluster.unsettled().await, 0, "and no longer than for a closing");
    for car in [&stranger, &car] {
        assert!(car.acceptances(&cluster.store).await.is_empty(), "{}", car.id);
    }
}

#[tokio::test(start_paused = true)]
async fn flood_of_one_car_keeps_no_other_from_being_settled() {
    let cluster = Cluster::new().await;
    let mut cars = [
        Car::new(&cluster.ca, 1),
        Car::new(&cluster.ca, 2),
        Car::new(&cluster.ca, 3),
    ];
    cars.sort_by_cached_key(|car| car.id.clone());
    let [flood, first, last] = &mut cars;
    for n in 0..=MOST_A_PASS {
        flood.point(&cluster.store, &format!("f-{n}")).await;
    }
    for car in [&mut *first, &mut *last] {
        let attempt = car.id.to_string();
        car.deliver(&cluster.store, &attempt).await;
        car.close(&cluster.store, &attempt).await;
    }
    cluster.settler().await.pass().await.unwrap();
    for car in [first, last] {
        assert_eq!(car.acceptances(&cluster.store).await.len(), 1, "{}", car.id);
    }
}

#[tokio::test(start_paused = true)]
async fn pointers_of_one_car_come_round_those_that_wait_longest_first() {
    let cluster = Cluster::new().await;
    let car = Car::new(&cluster.ca, 1);
    let mut settler = cluster.settler().await;
    for attempt in ["a", "b", "c"] {
        car.point(&cluster.store, attempt).await;
    }
    let places = cluster.store.list(path::LEDGER_POINTERS).await.unwrap();
    let now = Instant::now();
    settler.waiting.insert(places[0].clone(), Wait { times: 1, until: now });
    tokio::time::advance(EVERY).await;
    let until = Instant::now();
    settler.waiting.insert(places[1].clone(), Wait { times: 1, until });
    let due = settler.due(places.clone());
    let due: Vec<&String> = due[car.id.as_str()].iter().collect();
    assert_eq!(due, [&places[2], &places[0], &places[1]]);
}

#[tokio::test(start_paused = true)]
async fn chains_used_longest_ago_are_forgotten_first_and_one_always_stays() {
    let cluster = Cluster::new().await;
    let mut settler = cluster.settler().await;
    let mut cars: Vec<Car> = (1..=3).map(|n| Car::new(&cluster.ca, n)).collect();
    for (n, car) in cars.iter_mut().enumerate() {
        let attempt = format!("a-{n}");
        car.deliver(&cluster.store, &attempt).await;
        car.close(&cluster.store, &attempt).await;
        settler.pass().await.unwrap();
    }
    assert_eq!(settler.chains.len(), 3);
    settler.forget(2);
    assert!(!settler.chains.contains_key(&cars[0].id));
    assert_eq!(settler.chains.len(), 2);
    settler.forget(0);
    assert!(settler.chains.contains_key(&cars[2].id));
    assert_eq!(settler.chains.len(), 1);
    // What was forgotten is read anew, and nothing is accepted twice.
    cars[0].point(&cluster.store, "a-0").await;
    settler.pass().await.unwrap();
    assert_eq!(cars[0].acceptances(&cluster.store).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn acceptance_that_cannot_be_read_stops_its_chain_and_no_other() {
    let cluster = Cluster::new().await;
    let (mut broken, mut car) = (Car::new(&cluster.ca, 1), Car::new(&cluster.ca, 2));
    let place = path::ledger_acceptance(broken.id.as_str(), 1);
    cluster.store.put(&place, Bytes::from_static(b"{}")).await.unwrap();
    for (car, attempt) in [(&mut broken, "a"), (&mut car, "b")] {
        car.deliver(&cluster.store, attempt).await;
        car.close(&cluster.store, attempt).await;
    }
    cluster.settler().await.pass().await.unwrap();
    assert_eq!(cluster.unsettled().await, 1);
    assert_eq!(car.acceptances(&cluster.store).await.len(), 1);
    let chain = cluster.store.list(&path::ledger_acceptances(broken.id.as_str())).await;
    assert_eq!(chain.unwrap().len(), 1, "nobody signs beyond what cannot be read");
}

#[tokio::test(start_paused = true)]
async fn settler_works_until_it_is_stopped() {
    let cluster = Cluster::new().await;
    let mut car = Car::new(&cluster.ca, 1);
    let stop = CancellationToken::new();
    let task = tokio::spawn(settle(cluster.office(), stop.clone()));
    car.close(&cluster.store, "a").await;
    car.deliver(&cluster.store, "a").await;
    while cluster.unsettled().await > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    stop.cancel();
    task.await.unwrap();
    assert_eq!(car.acceptances(&cluster.store).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn receipt_for_terms_that_nobody_offered_is_accepted_and_paid_nothing() {
    let cluster = Cluster::new().await;
    let mut car = Car::new(&cluster.ca, 1);
    let mut closing = car.closing("a");
    closing.terms.clear();
    let closing = serde_json::to_vec(&closing).unwrap();
    let place = path::ledger_closing("a");
    cluster.store.put(&place, closing.into()).await.unwrap();
    car.deliver(&cluster.store, "a").await;
    cluster.settler().await.pass().await.unwrap();
    let acceptances = car.acceptances(&cluster.store).await;
    assert_eq!(
        (acceptances[0].amount_micro, acceptances[0].dispute.is_some()),
        (0, true)
    );
}

#[tokio::test(start_paused = true)]
async fn certificate_of_each_ca_that_there_was_is_in_the_store() {
    let mut cluster = Cluster::new().await;
    cluster.settler().await;
    let old = cluster.ca.certificate_pem();
    // Somebody deletes the Secret, and the operator makes a CA anew.
    cluster.api = FakeApi::new();
    cluster.settler().await;
    let places = cluster.store.list(path::LEDGER_CAS).await.unwrap();
    assert_eq!(places.len(), 2, "{places:?}");
    let place = path::ledger_ca(&HEXLOWER.encode(&cluster.ca.sha256()));
    assert_eq!(cluster.store.get(&place).await.unwrap(), old);
}
