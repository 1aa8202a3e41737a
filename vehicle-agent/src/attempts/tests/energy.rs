//! What attempts take, in their receipts; and what pays too little for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kerbside_core::owner::Document;

use super::*;
use crate::energy::Seen;
use crate::receipts::show;

const TERMS: &str =
    r#"{"pool":"overnight","currency":"EUR","perCPUHour":"0.02","perKWh":"0.3","unaccepted":"EnergyOnly"}"#;

/// A car whose maker says that it takes 100 W to be awake, and 10 for a core.
fn metered() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    let car = "energy: {model: {wakeWatts: 100, wattsPerCore: 10}}\n";
    std::fs::write(temp.path().join("car.yaml"), car).unwrap();
    temp
}

async fn energies(temp: &tempfile::TempDir) -> Vec<Option<kerbside_core::receipt::Energy>> {
    let directory = Directory::existing(temp.path()).unwrap();
    let shown = show::read(&directory).await.unwrap();
    assert!(shown.is_well(), "{}", shown.verify());
    shown.usages().map(|usage| usage.claim.energy.clone()).collect()
}

/// Time that goes by without anybody waiting for it.
#[derive(Debug)]
struct Moved {
    time: TokioClock,
    ahead: AtomicU64,
}

impl Moved {
    fn ahead(&self) -> Duration {
        Duration::from_secs(self.ahead.load(Ordering::SeqCst))
    }
}

impl Clock for Moved {
    fn boottime(&self) -> Boottime {
        self.time.boottime() + self.ahead()
    }

    fn wall(&self) -> Timestamp {
        self.time.wall() + self.ahead()
    }
}

/// The car, and its clock.
fn start() -> (Fixture, Arc<Moved>) {
    let temp = metered();
    let clock = Arc::new(Moved {
        time: TokioClock::new(),
        ahead: AtomicU64::new(0),
    });
    let journal = Journal::open(&Directory::open(temp.path()).unwrap().journal()).unwrap();
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
    (Fixture::of(temp, FakeRuntime::new(), shared, journal), clock)
}

#[tokio::test]
async fn receipt_says_what_the_attempt_took_and_its_owner_what_it_pays() {
    let (fixture, clock) = start();
    let paid = Run {
        terms: TERMS.to_owned(),
        ..run("u-1", |_| {})
    };
    fixture.link(Event::Run(paid)).await;
    let process = fixture.runtime.started(0).await;
    fixture.phase("u-1", AttemptPhase::Running).await;
    clock.ahead.store(25, Ordering::SeqCst);
    process.exits(0);
    fixture.phase("u-1", AttemptPhase::Succeeded).await;
    let energies = energies(&fixture.temp).await;
    let [Some(energy)] = &*energies else {
        panic!("{energies:?}")
    };
    // 25 s at 100 W, and what the machine of the test takes.
    assert!((2500..4500).contains(&energy.joules), "{energy:?}");
    assert_eq!((energy.method.as_str(), energy.error_permille), ("model", Some(300)));
    let directory = Directory::existing(fixture.temp.path()).unwrap();
    let list = show::read(&directory).await.unwrap().list();
    assert!(
        list.contains("J (model, ±30.0 %)  pays 0.000") && list.contains("EUR if the fleet agrees"),
        "{list}"
    );
}

#[tokio::test]
async fn energy_of_an_attempt_that_died_with_its_agent_is_what_the_journal_knew() {
    let (fixture, clock) = start();
    let _process = fixture.running("u-1").await;
    clock.ahead.store(25, Ordering::SeqCst);
    fixture.energy.look(Seen::default());
    // What stands still is written down, and with it what it has taken.
    fixture.car(State::Paused {
        since: Boottime::default(),
        parked_since: None,
        cause: Cause::Owner,
    });
    fixture.phase("u-1", AttemptPhase::Frozen).await;
    let fixture = fixture.restart().await;
    let energies = energies(&fixture.temp).await;
    let [Some(energy)] = &*energies else {
        panic!("{energies:?}")
    };
    assert!((2500..4500).contains(&energy.joules), "{energy:?}");
}

#[tokio::test]
async fn car_that_measures_nothing_says_nothing() {
    let fixture = Fixture::new();
    fixture.running("u-1").await.exits(0);
    fixture.phase("u-1", AttemptPhase::Succeeded).await;
    assert_eq!(energies(&fixture.temp).await, [None]);
}

#[tokio::test]
async fn attempt_that_pays_less_than_the_owner_wants_is_refused_with_the_numbers() {
    let fixture = Fixture::start(metered(), FakeRuntime::new());
    let owner = |more: &str| {
        let yaml = OWNER.to_owned() + more;
        let document: Document = serde_saphyr::from_str(&yaml).unwrap();
        let document = document.check().unwrap();
        fixture
            .outlook
            .send_modify(|outlook| outlook.document = Some(Arc::new(document)));
    };
    let refused = async |uid: &str| {
        // A whole core, and nothing else in the car: 110 W.
        let whole = run(uid, |pod| {
            pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}});
        });
        let run = Run {
            terms: TERMS.to_owned(),
            ..whole
        };
        fixture.link(Event::Run(run)).await;
        let status = fixture.phase(uid, AttemptPhase::Refused).await;
        (status.reason, status.message)
    };
    owner("tariff: {currency: EUR, perKWh: '0.4'}\npriceFloorPerCPUHour: '0.01'\n");
    let (reason, message) = refused("u-1").await;
    assert_eq!(reason, reason::PAY_BELOW_FLOOR);
    let numbers = "it pays 0.053 EUR per core hour, energy costs 0.044 at the tariff of now, and the owner wants 0.01 EUR per core hour \
                   after the cost of energy";
    assert_eq!(message, numbers);
    owner("tariff: {currency: CHF, perKWh: '0.4'}\npriceFloorPerCPUHour: '0'\n");
    assert_eq!(refused("u-2").await.0, reason::CURRENCY_DIFFERS);
    assert_eq!(fixture.runtime.count(), 0);
    owner("tariff: {currency: EUR, perKWh: '0.39'}\npriceFloorPerCPUHour: '0.01'\n");
    let run = Run {
        terms: TERMS.to_owned(),
        ..run("u-3", |pod| {
            pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}});
        })
    };
    fixture.link(Event::Run(run)).await;
    fixture.phase("u-3", AttemptPhase::Running).await;
}
