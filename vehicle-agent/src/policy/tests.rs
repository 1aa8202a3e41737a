//! The loop with signals, documents and commands from a test, on paused time.

mod secrets;

use std::fs;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kerbside_core::names::reason;
use kerbside_core::owner::{Command, Document, replay};
use kerbside_core::parked::Value;
use kerbside_core::parked::signals::path;
use tokio::sync::oneshot;

use super::*;
use crate::brake::Watched;
use crate::control::{Answer, Ask};
use crate::outlook::Posture;
use crate::signals::scenario::{self, Scenario};
use crate::signals::{OwnerWord, Update};
use crate::testing::{FakeCluster, OWNER, SetClock, TokioClock, consented};

mod consents;
mod disk;
mod network;
mod stalled;

struct Fed(mpsc::UnboundedReceiver<Update>);

impl Signals for Fed {
    fn next(&mut self) -> BoxFuture<'_, Option<Update>> {
        self.0.recv().boxed()
    }
}

struct Fixture {
    temp: tempfile::TempDir,
    clock: Arc<dyn Clock>,
    cluster: FakeCluster,
    feed: mpsc::UnboundedSender<Update>,
    outlook: watch::Receiver<Outlook>,
    brake: watch::Receiver<bool>,
    watched: Watched,
    live: watch::Sender<usize>,
    requests: mpsc::Sender<Request>,
    ending: watch::Sender<bool>,
    receipts: watch::Sender<control::Receipts>,
    energy: Energy,
    connection: watch::Sender<Connection>,
    /// Everything that the owner has said is on the disk.
    kept: watch::Receiver<bool>,
}

fn parked_signals() -> Vec<(String, Value)> {
    let text = |value: &str| Value::Text(value.to_owned());
    let mut signals: Vec<(String, Value)> = Vec::new();
    let mut set = |path: &str, value| signals.push((path.to_owned(), value));
    set(path::SPEED, Value::Number(0.0));
    set(path::IS_MOVING, Value::Bool(false));
    set(path::LOW_VOLTAGE_SYSTEM_STATE, text("LOCK"));
    set(path::SELECTED_GEAR, Value::Number(126.0));
    for door in path::DOORS {
        set(&format!("{door}.IsOpen"), Value::Bool(false));
        set(&format!("{door}.IsLocked"), Value::Bool(true));
    }
    set(path::TRUNK_OPEN, Value::Bool(false));
    for seat in path::SEATS {
        set(&format!("{seat}.OccupancyStatus"), text("EMPTY"));
    }
    set(path::CHARGE, Value::Number(80.0));
    set(
        &format!("{}AnyPosition.IsChargingCableConnected", path::CHARGING_PORTS),
        Value::Bool(true),
    );
    set(path::LOW_VOLTAGE, Value::Number(13.8));
    set(path::BATTERY_TEMPERATURE, Value::Number(22.0));
    set(path::AIR_TEMPERATURE, Value::Number(15.0));
    set(path::CONNECTIVITY, Value::Bool(true));
    signals
}

/// Its signals need not be said each second.
const CAR: &str = "{allocatable: {kerbside.dev/npu: 2}, freeFor: {p50: 60, p90: 15}, parked: {staleAfter: 30s}}";

impl Fixture {
    fn new(owner: Option<&str>) -> Self {
        Self::of(CAR, owner)
    }

    fn of(car: &str, owner: Option<&str>) -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("car.yaml"), car).unwrap();
        if let Some(owner) = owner {
            fs::write(temp.path().join("owner.yaml"), owner).unwrap();
        }
        Self::start(temp)
    }

    fn start(temp: tempfile::TempDir) -> Self {
        let (feed, source) = mpsc::unbounded_channel();
        Self::hearing(temp, Box::new(Fed(source)), feed)
    }

    /// An agent that hears these signals; what is fed it hears only if they are `Fed`.
    fn hearing(temp: tempfile::TempDir, signals: Box<dyn Signals>, feed: mpsc::UnboundedSender<Update>) -> Self {
        Self::by(Arc::new(TokioClock::new()), temp, signals, feed)
    }

    fn by(
        clock: Arc<dyn Clock>,
        temp: tempfile::TempDir,
        signals: Box<dyn Signals>,
        feed: mpsc::UnboundedSender<Update>,
    ) -> Self {
        let directory = Directory::open(temp.path()).unwrap();
        if directory.owner().exists() && !directory.consents().exists() {
            consented(&directory, &["inference", "video"], long_ago());
        }
        let cluster = FakeCluster::new();
        let (outlook, seen) = watch::channel(Outlook::initial(Arc::new(Terms::default()), Command::None));
        let brake = Brake::pulled();
        let (braked, watched) = (brake.follow(), brake.watched());
        let (live, lives) = watch::channel(0);
        let (requests, requested) = mpsc::channel(1);
        let (ending, ends) = watch::channel(false);
        let (receipts, receipts_seen) = watch::channel(control::Receipts::default());
        let (connection, connected) = watch::channel(Connection::Disconnected {
            why: "never".to_owned(),
        });
        let car = Car::read(&directory.car()).unwrap();
        let energy = Energy::open(&car, &directory, &clock);
        // Most cars here have no network that anybody looks at.
        let uplink = if directory.data().exists() {
            Uplink::open(&car, &directory, &clock)
        } else {
            Uplink::default()
        };
        let wires = Wires {
            outlook,
            brake,
            living: Living::default(),
            live: lives,
            held: watch::channel(Vec::new()).1,
            visits: watch::channel(Vec::new()).1,
            requests: requested,
            containers: watch::channel(false).1,
            connection: connected,
            ending: ends,
            passed: Arc::default(),
            receipts: receipts_seen,
            energy: energy.clone(),
            uplink,
        };
        let consents = Reader::new(&directory, &"car-aaaaaaaaaaaaaaaa".parse().unwrap());
        let policy = Policy::new(car, directory, consents, Arc::clone(&clock), cluster.clone(), wires);
        let kept = policy.kept();
        tokio::spawn(policy.run(signals));
        Self {
            temp,
            clock,
            cluster,
            feed,
            outlook: seen,
            brake: braked,
            watched,
            live,
            requests,
            ending,
            receipts,
            energy,
            connection,
            kept,
        }
    }

    fn set(&self, set: Vec<(String, Value)>) {
        self.feed
            .send(Update {
                set,
                ..Update::default()
            })
            .unwrap();
    }

    fn signal(&self, path: &str, value: Value) {
        self.set(vec![(path.to_owned(), value)]);
    }

    /// Lets the car stand parked for so long, its signals fresh.
    async fn parked_for(&self, seconds: u64) {
        for _ in 0..=(seconds / 10) {
            self.set(parked_signals());
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    }

    async fn available() -> Self {
        let fixture = Self::new(Some(OWNER));
        fixture.parked_for(120).await;
        assert_eq!(fixture.standing(), Standing::Available);
        fixture
    }

    fn directory(&self) -> Directory {
        Directory::open(self.temp.path()).unwrap()
    }

    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    fn said(&self) -> CarState {
        self.cluster.states().pop().unwrap_or_else(nothing_known)
    }

    fn standing(&self) -> Standing {
        self.said().standing()
    }

    fn posture(&self) -> Posture {
        self.outlook.borrow().posture()
    }

    fn refusal(&self) -> Option<String> {
        let outlook = self.outlook.borrow().clone();
        outlook
            .admit("inference", &*self.clock)
            .err()
            .map(|refusal| refusal.reason)
    }

    async fn ask(&self, ask: Ask) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.requests.send((ask, reply)).await.unwrap();
        answer.await.unwrap()
    }
}

/// When the owner of every car here agreed.
fn long_ago() -> Timestamp {
    "2026-11-01T10:00:00Z".parse().unwrap()
}

fn open_door() -> (String, Value) {
    (format!("{}.IsOpen", path::DOORS[0]), Value::Bool(true))
}

#[tokio::test(start_paused = true)]
async fn parked_car_of_a_willing_owner_becomes_available_and_offers_what_it_has() {
    let fixture = Fixture::new(Some(OWNER));
    fixture.parked_for(100).await;
    assert_eq!(fixture.standing(), Standing::Away);
    assert!(*fixture.brake.borrow());
    fixture.parked_for(20).await;
    let said = fixture.said();
    assert_eq!(said.standing(), Standing::Available);
    let offer = said.offer.unwrap();
    assert_eq!(offer.classes, ["inference"]);
    assert_eq!(
        (
            offer.allocatable["cpu"].as_str(),
            offer.allocatable["kerbside.dev/npu"].as_str()
        ),
        ("1", "2")
    );
    assert_eq!(offer.free_for, Some(FreeFor { p50: 60, p90: 15 }));
    assert_eq!(
        (offer.runtimes, offer.os),
        (vec!["wasm".to_owned()], "linux".to_owned())
    );
    assert!(!*fixture.brake.borrow());
    assert_eq!(fixture.refusal(), None);
}

#[tokio::test(start_paused = true)]
async fn car_whose_maker_does_not_say_how_long_it_stays_remembers_when_it_came_and_promises_nothing_yet() {
    let fixture = Fixture::of("{parked: {staleAfter: 30s}}", Some(OWNER));
    fixture.parked_for(120).await;
    let offer = fixture.said().offer.unwrap();
    assert_eq!(offer.free_for, Some(FreeFor::default()));
    let kept = fs::read(fixture.temp.path().join("stays.json")).unwrap();
    assert!(
        kerbside_core::forecast::History::parse(&kept)
            .unwrap()
            .arrived()
            .is_some()
    );
    let said = Fixture::available().await;
    assert!(
        !said.temp.path().join("stays.json").exists(),
        "what is known for good needs no memory"
    );
}

#[tokio::test(start_paused = true)]
async fn car_without_a_document_never_becomes_available_and_refuses_for_consent() {
    for owner in [None, Some("consent: {}"), Some("consent: [")] {
        let fixture = Fixture::new(owner);
        fixture.parked_for(600).await;
        assert_eq!(fixture.standing(), Standing::Away);
        assert!(fixture.cluster.states().is_empty(), "nothing is said of why");
        assert_eq!(fixture.refusal().as_deref(), Some(reason::OWNER_CONSENT_MISSING));
    }
}

#[tokio::test(start_paused = true)]
async fn car_whose_receipts_the_cluster_refuses_takes_no_work_and_says_why() {
    let fixture = Fixture::available().await;
    fixture
        .receipts
        .send_modify(|receipts| receipts.refused = "another receipt has number 4".to_owned());
    fixture.settle().await;
    assert_eq!(fixture.standing(), Standing::Away);
    assert_eq!(fixture.refusal().as_deref(), Some(crate::outlook::RECEIPTS_REFUSED));
    let answer = fixture.ask(Ask::Status).await;
    assert_eq!(answer.status.owner, "ReceiptsRefused: another receipt has number 4");
}

#[tokio::test(start_paused = true)]
async fn opened_door_brakes_at_once_and_a_car_left_alone_again_goes_on() {
    let fixture = Fixture::available().await;
    fixture.live.send_replace(2);
    fixture.set(vec![open_door()]);
    fixture.settle().await;
    assert!(*fixture.brake.borrow());
    assert_eq!(
        (fixture.standing(), fixture.posture()),
        (Standing::Paused, Posture::Freeze)
    );
    assert_eq!(fixture.refusal().as_deref(), Some(reason::NOT_PARKED));
    fixture.parked_for(130).await;
    assert_eq!(
        (fixture.standing(), fixture.posture()),
        (Standing::Available, Posture::Run)
    );
    assert!(!*fixture.brake.borrow());
}

#[tokio::test(start_paused = true)]
async fn car_that_drives_off_leaves_with_notice_and_is_away_when_all_has_stopped() {
    let fixture = Fixture::available().await;
    fixture.live.send_replace(2);
    fixture.signal(path::IS_MOVING, Value::Bool(true));
    fixture.settle().await;
    let said = fixture.said();
    assert_eq!((said.standing(), said.offer), (Standing::Leaving, None));
    assert!((9_000..=10_000).contains(&said.notice_ms), "{}", said.notice_ms);
    assert!(*fixture.brake.borrow() && matches!(fixture.posture(), Posture::Leave { .. }));
    fixture.live.send_replace(0);
    fixture.settle().await;
    assert_eq!(fixture.standing(), Standing::Away);
    let standings: Vec<_> = fixture.cluster.states().iter().map(CarState::standing).collect();
    assert_eq!(standings, [Standing::Available, Standing::Leaving, Standing::Away]);
}

#[tokio::test(start_paused = true)]
async fn car_whose_signals_fall_silent_freezes_when_they_are_stale() {
    let fixture = Fixture::available().await;
    fixture.set(parked_signals());
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(fixture.posture(), Posture::Run);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(fixture.posture(), Posture::Freeze);
}

#[tokio::test(start_paused = true)]
async fn signals_count_for_three_seconds_if_the_maker_says_nothing_else() {
    let fixture = Fixture::of("{}", Some(OWNER));
    for _ in 0..=120 {
        fixture.set(parked_signals());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    fixture.set(parked_signals());
    tokio::time::sleep(Duration::from_millis(2_900)).await;
    assert_eq!(fixture.posture(), Posture::Run);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(fixture.posture(), Posture::Freeze);
    assert!(*fixture.brake.borrow());
}

#[tokio::test(start_paused = true)]
async fn car_that_saves_power_goes_on_and_takes_no_new_work() {
    let fixture = Fixture::available().await;
    fixture.signal(path::POWER_SAVING, Value::Number(3.0));
    fixture.settle().await;
    assert_eq!(
        (fixture.posture(), fixture.standing()),
        (Posture::Run, Standing::Available)
    );
    assert_eq!(fixture.refusal().as_deref(), Some(reason::ENERGY_TERMS));
    fixture.signal(path::POWER_SAVING, Value::Number(0.0));
    fixture.settle().await;
    assert_eq!(fixture.refusal(), None);
}

#[tokio::test(start_paused = true)]
async fn update_ends_work_and_a_provider_that_dies_in_it_keeps_the_car_away_over_a_restart() {
    let updating = format!("{}.{}", path::OVERLAY, path::UPDATING);
    let fixture = Fixture::available().await;
    fixture.live.send_replace(1);
    fixture.signal(&updating, Value::Bool(true));
    fixture.settle().await;
    assert_eq!(fixture.standing(), Standing::Leaving);
    // All else is said again and again, and the broker that had the last word has forgotten it.
    let again = Fixture::start(fixture.temp);
    again.parked_for(300).await;
    assert_eq!(again.standing(), Standing::Away);
    for _ in 0..=12 {
        again.signal(&updating, Value::Bool(false));
        again.parked_for(0).await;
    }
    assert_eq!(again.standing(), Standing::Available);
}

#[tokio::test(start_paused = true)]
async fn signal_that_was_said_before_anybody_remembers_is_one_that_the_car_has() {
    let fixture = Fixture::new(Some(OWNER));
    fixture
        .feed
        .send(Update {
            had: vec![path::BROKEN_DOWN.to_owned()],
            ..Update::default()
        })
        .unwrap();
    fixture.parked_for(300).await;
    assert_eq!(fixture.standing(), Standing::Away);
}

#[tokio::test(start_paused = true)]
async fn owner_pauses_and_resumes_within_the_second() {
    let fixture = Fixture::available().await;
    let answer = fixture.ask(Ask::Pause).await;
    assert!(answer.text.starts_with("paused") && answer.status.standing == "paused");
    assert!(*fixture.brake.borrow() && fixture.posture() == Posture::Freeze);
    let answer = fixture.ask(Ask::Resume).await;
    assert_eq!(
        (answer.text.as_str(), answer.status.standing.as_str()),
        ("resumed", "available")
    );
    assert!(!*fixture.brake.borrow());
}

#[tokio::test(start_paused = true)]
async fn owner_in_the_scenario_is_obeyed_too() {
    let fixture = Fixture::available().await;
    fixture
        .feed
        .send(Update {
            owner: Some(OwnerWord::Pause),
            ..Update::default()
        })
        .unwrap();
    fixture.settle().await;
    assert_eq!(fixture.posture(), Posture::Freeze);
}

#[tokio::test(start_paused = true)]
async fn pause_holds_over_a_restart() {
    let fixture = Fixture::available().await;
    fixture.ask(Ask::Pause).await;
    let again = Fixture::start(fixture.temp);
    again.parked_for(200).await;
    assert_eq!(again.standing(), Standing::Away);
    assert_eq!(again.refusal().as_deref(), Some(reason::OWNER_PAUSED));
    again.ask(Ask::Resume).await;
    assert_eq!(again.standing(), Standing::Available);
}

#[tokio::test(start_paused = true)]
async fn withdrawal_ends_work_and_only_a_newer_consent_begins_it_again() {
    let fixture = Fixture::available().await;
    fixture.live.send_replace(1);
    let answer = fixture.ask(Ask::Withdraw).await;
    assert_eq!(answer.status.standing, "leaving");
    fixture.live.send_replace(0);
    fixture.parked_for(300).await;
    assert_eq!(fixture.standing(), Standing::Away);
    assert_eq!(fixture.refusal().as_deref(), Some(reason::OWNER_CONSENT_MISSING));
    let newer = OWNER
        .replace("2026-11-01", "2026-11-22")
        .replace("T10:00:00Z", "T10:05:00Z");
    fs::write(fixture.temp.path().join("owner.yaml"), newer).unwrap();
    fixture.parked_for(300).await;
    assert_eq!(fixture.standing(), Standing::Available);
}

#[tokio::test(start_paused = true)]
async fn document_that_changes_is_read_again_and_the_offer_follows() {
    let fixture = Fixture::available().await;
    let path = fixture.temp.path().join("owner.yaml");
    fs::write(
        &path,
        OWNER.replace("[inference]", "[inference, video]") + "maxCpu: 500m\n",
    )
    .unwrap();
    // An owner's change acts within a second, and here nothing else makes the agent look.
    tokio::time::sleep(Duration::from_millis(1010)).await;
    let offer = fixture.said().offer.unwrap();
    assert_eq!((offer.classes.len(), offer.allocatable["cpu"].as_str()), (2, "500m"));
    for _ in 0..10 {
        fs::write(&path, "consent: [").unwrap();
        tokio::time::sleep(Duration::from_millis(80)).await;
        fs::write(&path, OWNER).unwrap();
        tokio::time::sleep(Duration::from_millis(220)).await;
        assert_eq!(
            fixture.standing(),
            Standing::Available,
            "half a document for a moment is an editor at work"
        );
    }
    fs::remove_file(&path).unwrap();
    tokio::time::sleep(Duration::from_millis(1010)).await;
    assert_eq!(fixture.standing(), Standing::Away);
}

#[tokio::test(start_paused = true)]
async fn document_that_is_cut_off_or_broken_for_longer_counts_as_none() {
    let version = "apiVersion: owner.kerbside.dev/v1alpha1\nkind: OwnerPolicy\n";
    let versioned = format!("{version}{}...\n", OWNER.trim_start());
    let fixture = Fixture::available().await;
    let path = fixture.temp.path().join("owner.yaml");
    fs::write(&path, &versioned).unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(fixture.standing(), Standing::Available);
    fs::write(&path, versioned.replace("resumeWithin: 10m\n...\n", "")).unwrap();
    tokio::time::sleep(Duration::from_millis(1010)).await;
    assert_eq!(fixture.standing(), Standing::Away);
    assert_eq!(fixture.refusal().as_deref(), Some(reason::OWNER_CONSENT_MISSING));
}

#[tokio::test(start_paused = true)]
async fn wall_clock_that_is_set_stops_work_until_it_has_gone_evenly_for_a_minute() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("car.yaml"), CAR).unwrap();
    fs::write(temp.path().join("owner.yaml"), OWNER).unwrap();
    let clock = Arc::new(SetClock::new());
    let (feed, source) = mpsc::unbounded_channel();
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
    let fixture = Fixture::by(shared, temp, Box::new(Fed(source)), feed);
    fixture.parked_for(120).await;
    assert_eq!((fixture.standing(), fixture.refusal()), (Standing::Available, None));
    clock.set(3_600_000);
    assert_eq!(
        fixture.refusal().as_deref(),
        Some(reason::OWNER_PAUSED),
        "also before the agent looks"
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        (fixture.standing(), fixture.posture()),
        (Standing::Paused, Posture::Freeze)
    );
    let answer = fixture.ask(Ask::Status).await;
    assert!(answer.status.owner.contains("clock was set"), "{}", answer.status.owner);
    fixture.parked_for(40).await;
    assert_eq!(fixture.standing(), Standing::Paused);
    fixture.parked_for(20).await;
    assert_eq!(
        (fixture.standing(), fixture.posture()),
        (Standing::Available, Posture::Run)
    );
}

#[tokio::test(start_paused = true)]
async fn charge_below_the_floor_ends_work() {
    let fixture = Fixture::available().await;
    fixture.signal(path::CHARGE, Value::Number(49.0));
    fixture.settle().await;
    assert_eq!(fixture.standing(), Standing::Away);
    assert_eq!(fixture.refusal().as_deref(), Some(reason::ENERGY_TERMS));
}

#[tokio::test(start_paused = true)]
async fn agent_that_ends_leaves() {
    let fixture = Fixture::available().await;
    fixture.live.send_replace(1);
    fixture.ending.send_replace(true);
    fixture.settle().await;
    assert_eq!(fixture.standing(), Standing::Leaving);
    fixture.live.send_replace(0);
    fixture.parked_for(200).await;
    assert_eq!(fixture.standing(), Standing::Away);
}

#[tokio::test(start_paused = true)]
async fn status_says_what_is_missing() {
    let fixture = Fixture::available().await;
    fixture.set(vec![open_door()]);
    fixture.settle().await;
    let status = fixture.ask(Ask::Status).await.status;
    assert_eq!((status.standing.as_str(), status.owner.as_str()), ("paused", "willing"));
    let no: Vec<_> = status
        .factors
        .iter()
        .filter(|(_, value)| value == "no")
        .map(|(factor, _)| factor.as_str())
        .collect();
    assert_eq!(no, ["doors, trunks and hood are closed"]);
    assert!(status.link.contains("never"));
}

#[tokio::test(start_paused = true)]
async fn idle_car_says_nothing_while_nothing_changes() {
    let fixture = Fixture::available().await;
    let said = fixture.cluster.states().len();
    fixture.parked_for(3600).await;
    assert_eq!(fixture.cluster.states().len(), said);
}

/// A little of everything, from the moment at which `TokioClock` begins.
const RECORDING: &str = "
startsAt: 2026-11-22T10:00:00Z
lasts: 40m
preset: parked
steps:
- {at: 5m, set: {Vehicle.Cabin.Door.Row1.DriverSide.IsLocked: false}}
- {at: 7m, set: {Vehicle.Cabin.Door.Row1.DriverSide.IsLocked: true}}
- {at: 11m, set: {Vehicle.Powertrain.TractionBattery.Charging.ChargingPort.AnyPosition.IsChargingCableConnected: false}}
- {at: 12m, set: {Vehicle.Powertrain.TractionBattery.Charging.ChargingPort.AnyPosition.IsChargingCableConnected: true}}
- {at: 13m, owner: pause}
- {at: 17m30s, owner: resume}
- {at: 28m, preset: driverReturns}
- {at: 28m20s, preset: driving}
- {at: 31m, preset: parked}
- {at: 35m, forget: [Vehicle.Speed]}
- {at: 36m, set: {Vehicle.Speed: 0}}
- {at: 39m, owner: withdraw}
";

/// Its maker says that it takes 100 W to be awake, 60 of them its computer.
const METERED: &str =
    "{parked: {staleAfter: 30s}, energy: {model: {wakeWatts: 100, wattsPerCore: 10}, broker: {idleWatts: 60}}}";
const POWER: &str = "Vehicle.ControlUnit.Central.Health.Resources.Power";

/// A hundredth of a kilowatt-hour is six minutes at 100 W.
#[tokio::test(start_paused = true)]
async fn energy_of_the_day_that_is_used_up_ends_work_in_good_order_until_the_next_day() {
    let terms = "maxKWhPerDay: 10m\ntimeZone: UTC\ntariff: {currency: EUR, perKWh: '0.5'}\n";
    let fixture = Fixture::of(METERED, Some(&(OWNER.to_owned() + terms)));
    fixture.parked_for(120).await;
    assert_eq!(fixture.standing(), Standing::Available);
    fixture.energy.hear(&"u-1".parse().unwrap(), 0, true);
    fixture.live.send_replace(1);
    fixture.parked_for(340).await;
    assert_eq!(fixture.standing(), Standing::Available);
    fixture.parked_for(20).await;
    let leaves = |state: &CarState| state.standing() == Standing::Leaving;
    assert!(fixture.cluster.states().iter().any(leaves), "within the notice");
    fixture.energy.hear(&"u-1".parse().unwrap(), 0, false);
    fixture.live.send_replace(0);
    fixture.settle().await;
    assert_eq!(fixture.standing(), Standing::Away);
    assert_eq!(fixture.refusal().as_deref(), Some(reason::ENERGY_TERMS));
    let energy = fixture.ask(Ask::Status).await.status.energy.unwrap();
    assert_eq!(energy.max_kwh.as_deref(), Some("0.01"));
    assert!(energy.today_kwh.starts_with("0.01") && !energy.lost, "{energy:?}");
    assert!(energy.cost.unwrap().starts_with("0.005"));
    assert_eq!(
        (energy.price.as_deref(), energy.source.as_str()),
        (Some("0.5 EUR"), "model")
    );
    // From ten in the morning to midnight.
    fixture.parked_for(14 * 3600).await;
    assert_eq!((fixture.standing(), fixture.refusal()), (Standing::Available, None));
}

#[tokio::test(start_paused = true)]
async fn power_that_the_car_says_is_measured_while_it_is_said() {
    let fixture = Fixture::of(METERED, Some(OWNER));
    fixture.parked_for(120).await;
    let uid = "u-1".parse().unwrap();
    fixture.signal(POWER, Value::Number(150.0));
    fixture.settle().await;
    fixture.energy.hear(&uid, 0, true);
    for _ in 0..3 {
        fixture.signal(POWER, Value::Number(150.0));
        fixture.parked_for(0).await;
    }
    fixture.energy.hear(&uid, 20_000, false);
    let had = fixture.energy.of(&uid).unwrap();
    assert_eq!(had.method, "broker+model");
    assert_eq!(fixture.ask(Ask::Status).await.status.energy.unwrap().source, "broker");
    assert_eq!(fixture.standing(), Standing::Available, "the car is not judged by it");
}

#[tokio::test(start_paused = true)]
async fn owner_who_bounds_energy_gets_no_work_in_a_car_that_does_not_measure_it() {
    let terms = "maxKWhPerDay: 100\ntimeZone: UTC\n";
    let fixture = Fixture::new(Some(&(OWNER.to_owned() + terms)));
    fixture.parked_for(200).await;
    assert_eq!(fixture.standing(), Standing::Away);
    assert_eq!(fixture.refusal().as_deref(), Some(reason::ENERGY_TERMS));
    assert_eq!(fixture.ask(Ask::Status).await.status.energy, None);
}

/// What `kerbside-agent policy simulate` shows is what the agent does: the same recording, live and in no time.
#[tokio::test(start_paused = true)]
async fn recording_that_is_played_live_goes_as_it_is_simulated() {
    let temp = tempfile::tempdir().unwrap();
    let terms = "quietHours: [{from: '10:20', to: '10:25'}]\ntimeZone: UTC\n";
    // Shorter than the pause.
    let owner = OWNER.replace("resumeWithin: 10m", "resumeWithin: 4m") + terms;
    fs::write(temp.path().join("owner.yaml"), &owner).unwrap();
    let file = temp.path().join("recording.yaml");
    fs::write(&file, RECORDING).unwrap();
    let document: Document = serde_saphyr::from_str(&owner).unwrap();
    let (_, recording) = scenario::read(&file).unwrap();
    let car = replay::Car {
        document: &document,
        terms: &Terms::default(),
        zone: Some(&TimeZone::UTC),
        milliwatts: None,
    };
    let day = replay::replay(&recording, car).unwrap();
    let simulated = |at: Timestamp| {
        let span = day.spans.iter().find(|span| span.from <= at && at < span.to)?;
        Some(match span.standing {
            replay::Standing::Available => Standing::Available,
            replay::Standing::Paused => Standing::Paused,
            replay::Standing::Away => Standing::Away,
        })
    };
    let (feed, _) = mpsc::unbounded_channel();
    let fixture = Fixture::hearing(temp, Box::new(Scenario::open(file).unwrap()), feed);
    let mut seen = Vec::new();
    tokio::time::sleep(Duration::from_millis(500)).await;
    for second in 0..recording.lasts.as_secs() {
        let at = day.from + Duration::from_millis(second * 1000 + 500);
        // The agent looks at the clock once a second: whatever changed a moment ago it may not have seen.
        let now = simulated(at);
        if now == simulated(at - Duration::from_secs(1)) {
            assert_eq!(Some(fixture.standing()), now, "at {at}");
            seen.extend(now.filter(|now| seen.last() != Some(now)));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(seen.len() >= 12, "it went through little: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn pause_with_an_end_is_over_within_a_second_of_it_and_says_until_when_it_is() {
    let fixture = Fixture::available().await;
    let until = fixture.clock.wall() + Duration::from_secs(60);
    let told = fixture.ask(Ask::PauseUntil(until)).await.status;
    assert_eq!((told.standing.as_str(), told.command), ("paused", Command::Pause));
    assert_eq!(told.paused_until, Some(until));
    assert_eq!(told.why_not, "the owner has paused the car");
    fixture.parked_for(40).await;
    assert_eq!(fixture.standing(), Standing::Paused);
    fixture.parked_for(10).await;
    assert_eq!(fixture.standing(), Standing::Available);
    let told = fixture.ask(Ask::Status).await.status;
    assert_eq!((told.command, told.paused_until), (Command::None, None));
    assert_eq!(told.why_not, "");
}

#[tokio::test(start_paused = true)]
async fn clock_that_was_set_ends_no_pause_before_it_has_gone_evenly() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("car.yaml"), CAR).unwrap();
    fs::write(temp.path().join("owner.yaml"), OWNER).unwrap();
    let clock = Arc::new(SetClock::new());
    let (feed, source) = mpsc::unbounded_channel();
    let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
    let fixture = Fixture::by(shared, temp, Box::new(Fed(source)), feed);
    fixture.parked_for(120).await;
    let until = fixture.clock.wall() + Duration::from_secs(3600);
    fixture.ask(Ask::PauseUntil(until)).await;
    clock.set(2 * 3_600_000);
    fixture.parked_for(10).await;
    let told = fixture.ask(Ask::Status).await.status;
    assert_eq!((told.command, told.paused_until), (Command::Pause, Some(until)));
}
