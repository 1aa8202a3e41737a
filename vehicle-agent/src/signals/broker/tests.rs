//! A broker with the habits of the real one, at the other end of a pipe.

use std::io;
use std::path::Path;

use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;
use kerbside_core::parked::Value;
use kerbside_core::parked::signals::path;
use kerbside_databroker::proto::value::TypedValue;
use kerbside_databroker::proto::{DataType, Datapoint};
use kerbside_databroker::{Admits, Databroker, Signal, said, unsigned};
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Server;

use super::*;
use crate::testing::TokioClock;

/// Longer than anything takes but what never happens: time is paused.
const LONG: Duration = Duration::from_hours(1);
const SEAT: &str = "Vehicle.Cabin.Seat.Row1.DriverSide.IsOccupied";

/// A broker and a car that listens to it.
struct Played {
    other: Databroker,
    broker: Broker,
    /// True: no byte moves between them, and no end is noticed.
    hangs: watch::Sender<bool>,
    clock: Arc<TokioClock>,
}

impl Played {
    fn start(signals: &[(&str, Option<Datapoint>)], demands: Option<&str>, token: Option<&Path>) -> Self {
        let clock = Arc::new(TokioClock::new());
        let known = signals.iter().map(|(path, point)| Signal {
            path: (*path).to_owned(),
            data_type: DataType::Unspecified,
            point: point.clone(),
        });
        let wall = Arc::clone(&clock);
        let other = Databroker::new(known, 1, Arc::new(move || wall.wall()));
        if let Some(token) = demands {
            other.admit(Admits::Tokens(vec![token.to_owned()]));
        }
        let hangs = watch::Sender::new(false);
        let (served, hung) = (other.clone(), hangs.subscribe());
        let way = Way::by(move || Ok::<_, io::Error>(connection(&served, hung.clone())));
        let broker = Broker::listen_by(
            way,
            token.map(Path::to_owned),
            Arc::default(),
            Arc::<TokioClock>::clone(&clock),
        );
        Self {
            other,
            broker,
            hangs,
            clock,
        }
    }

    /// A broker that knows one thing of a car: that it stands.
    fn standing() -> Self {
        Self::start(
            &[(path::SPEED, Some(said(start(), TypedValue::Float(0.0))))],
            None,
            None,
        )
    }

    /// What is heard next.
    async fn hears(&mut self) -> Update {
        timeout(LONG, self.broker.next()).await.unwrap().unwrap()
    }

    /// What is heard until something is not known any more.
    async fn forgets(&mut self) -> Vec<String> {
        loop {
            let update = self.hears().await;
            if !update.forget.is_empty() {
                return update.forget;
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.wall()
    }
}

/// A connection that can hang, to a server of its own.
fn connection(served: &Databroker, mut hung: watch::Receiver<bool>) -> DuplexStream {
    let (near, mut middle) = duplex(1 << 20);
    let (mut other, far) = duplex(1 << 20);
    tokio::spawn(async move {
        let hangs = async { hung.wait_for(|hangs| *hangs).await.is_ok() };
        let hangs = tokio::select! {
            _ = copy_bidirectional(&mut middle, &mut other) => false,
            hangs = hangs => hangs,
        };
        if hangs {
            // Held, and neither read nor closed.
            tokio::time::sleep(LONG * 10).await;
        }
        drop((middle, other));
    });
    let incoming = stream::iter([Ok::<_, io::Error>(far)]).chain(stream::pending());
    tokio::spawn(
        Server::builder()
            .add_service(served.service())
            .serve_with_incoming(incoming),
    );
    near
}

fn start() -> Timestamp {
    TokioClock::new().wall()
}

#[tokio::test(start_paused = true)]
async fn values_that_are_there_come_with_their_age_and_in_their_kind() {
    let now = start();
    let yesterday = now - Duration::from_hours(24);
    let mut car = Played::start(
        &[
            (path::SPEED, Some(said(now, TypedValue::Float(0.5)))),
            (path::SELECTED_GEAR, Some(said(now, TypedValue::Int32(126)))),
            (path::BRAKE_PEDAL, Some(said(now, TypedValue::Uint32(7)))),
            (
                path::LOW_VOLTAGE_SYSTEM_STATE,
                Some(said(now, TypedValue::String("OFF".to_owned()))),
            ),
            (SEAT, Some(said(yesterday, TypedValue::Bool(false)))),
            (
                path::CHARGE,
                Some(said(now - Duration::from_mins(10), TypedValue::Float(80.0))),
            ),
            (path::IS_MOVING, None),
            (
                "Vehicle.CurrentLocation.Latitude",
                Some(said(now, TypedValue::Double(52.5))),
            ),
        ],
        None,
        None,
    );
    // The provider of the seat has been dead for a day, longer than this computer has been there; the broker does not say so.
    let first = car.hears().await;
    let mut forgotten = first.forget;
    forgotten.sort();
    assert_eq!(forgotten, [SEAT, path::IS_MOVING]);
    assert_eq!(first.had, [SEAT], "nobody has ever said the other one");
    let old = car.hears().await;
    assert_eq!(old.set, [(path::CHARGE.to_owned(), Value::Number(80.0))]);
    assert_eq!(old.at.map(|at| car.clock.boottime().since(at).as_secs()), Some(600));
    let new = car.hears().await;
    assert_eq!(new.at.map(|at| car.clock.boottime().since(at).as_secs()), Some(0));
    let mut set = new.set.clone();
    set.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        set,
        [
            (path::BRAKE_PEDAL.to_owned(), Value::Number(7.0)),
            (path::LOW_VOLTAGE_SYSTEM_STATE.to_owned(), Value::Text("OFF".to_owned())),
            (path::SELECTED_GEAR.to_owned(), Value::Number(126.0)),
            (path::SPEED.to_owned(), Value::Number(0.5)),
        ]
    );
    let subscription = car.other.asked().remove(0);
    assert!(!subscription.signal_paths.iter().any(|path| path.contains("Location")));
    assert_eq!(subscription.buffer_size, 1000);
}

#[tokio::test(start_paused = true)]
async fn door_that_is_opened_and_closed_again_was_open() {
    let door = "Vehicle.Cabin.Door.Row1.DriverSide.IsOpen";
    let mut car = Played::start(&[(door, Some(said(start(), TypedValue::Bool(false))))], None, None);
    car.hears().await;
    for open in [true, false] {
        car.other.put(door, said(car.now(), TypedValue::Bool(open)));
    }
    for open in [true, false] {
        let update = car.hears().await;
        let at = Some(car.clock.boottime());
        assert_eq!(
            (update.set, update.at),
            (vec![(door.to_owned(), Value::Bool(open))], at)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn broker_that_ends_starts_again_or_hangs_vouches_for_nothing_any_more() {
    let mut car = Played::standing();
    assert_eq!(car.hears().await.set.len(), 1);
    car.other.restart();
    assert_eq!(car.hears().await.forget, [path::SPEED]);
    // Its signals have other numbers now, and one more is there.
    car.other.put(path::IS_MOVING, said(car.now(), TypedValue::Bool(false)));
    let mut back = Vec::new();
    while back.len() < 2 {
        back.extend(car.hears().await.set);
    }
    let begin = Instant::now();
    car.hangs.send_replace(true);
    let mut forgotten = car.forgets().await;
    forgotten.sort();
    assert_eq!(forgotten, [path::IS_MOVING, path::SPEED]);
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn broker_without_our_signals_is_asked_again_until_it_has_some() {
    let mut car = Played::start(&[("Vehicle.Cabin.Sunroof.Position", None)], None, None);
    assert!(timeout(Duration::from_mins(1), car.broker.next()).await.is_err());
    car.other.put(path::SPEED, said(car.now(), TypedValue::Float(0.0)));
    assert_eq!(car.hears().await.set.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn clock_of_the_broker_that_is_set_back_ends_what_it_said() {
    let mut car = Played::standing();
    car.hears().await;
    car.other.put(path::SPEED, said(car.now(), TypedValue::Float(0.0)));
    car.hears().await;
    car.other.put(
        path::SPEED,
        said(car.now() - Duration::from_hours(1), TypedValue::Float(0.0)),
    );
    assert_eq!(car.hears().await.forget, [path::SPEED]);
}

#[tokio::test(start_paused = true)]
async fn next_token_is_used_before_the_old_one_ends_and_nothing_is_unknown_in_between() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let ends = (start() + Duration::from_secs(100)).as_second();
    let (old, new) = (unsigned("old", Some(ends), "read"), unsigned("new", None, "read"));
    std::fs::write(&file, &old).unwrap();
    // All that a car is judged by, so that there is nothing else to look for.
    let all = wanted::choose(&BTreeSet::new(), &Terms::default()).missing;
    let all: Vec<_> = all.iter().map(|path| path.replace('*', "AnyPosition")).collect();
    let value = || Some(said(start(), TypedValue::Float(0.0)));
    let signals: Vec<_> = all.iter().map(|path| (path.as_str(), value())).collect();
    let mut car = Played::start(&signals, Some(&old), Some(&file));
    car.hears().await;
    // Whoever renews it has done so; the broker takes the new one from now on.
    std::fs::write(&file, format!("{new}\n")).unwrap();
    car.other.admit(Admits::Tokens(vec![new]));
    let begin = Instant::now();
    let again = car.hears().await;
    assert_eq!(
        (again.set.len(), again.forget.len()),
        (all.len(), 0),
        "a new session, and nothing forgotten"
    );
    let waited = begin.elapsed().as_secs();
    assert!((79..=86).contains(&waited), "{waited} s");
    assert_eq!(car.other.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn token_that_is_refused_is_read_again_until_it_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let signals = [(path::SPEED, Some(said(start(), TypedValue::Float(0.0))))];
    let [right, wrong] = ["right", "wrong"].map(|name| unsigned(name, None, "read"));
    let mut car = Played::start(&signals, Some(&right), Some(&file));
    assert!(
        timeout(Duration::from_mins(1), car.broker.next()).await.is_err(),
        "there is no file"
    );
    std::fs::write(&file, wrong).unwrap();
    assert!(timeout(Duration::from_mins(1), car.broker.next()).await.is_err());
    assert!(car.other.asked().is_empty());
    std::fs::write(&file, right).unwrap();
    assert_eq!(car.hears().await.set.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_token_does_not_let_the_agent_read_is_heard_with_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let less = unsigned("less", None, "read:Vehicle.Speed");
    let more = unsigned("more", None, "read:Vehicle.Speed read:Vehicle.IsMoving");
    std::fs::write(&file, &less).unwrap();
    let signals = [
        (path::SPEED, Some(said(start(), TypedValue::Float(0.0)))),
        (path::IS_MOVING, Some(said(start(), TypedValue::Bool(false)))),
    ];
    let mut car = Played::start(&signals, None, Some(&file));
    car.other.admit(Admits::Tokens(vec![less, more.clone()]));
    // Nobody refuses anything.
    assert_eq!(car.hears().await.set.len(), 1);
    std::fs::write(&file, more).unwrap();
    let begin = Instant::now();
    assert_eq!(car.hears().await.set.len(), 2);
    assert!(begin.elapsed() <= LOOK * 2, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn broker_that_tells_nothing_of_what_the_car_is_judged_by_is_asked_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let [none, some] =
        ["Vehicle.Cabin.Sunroof", "Vehicle.Speed"].map(|path| unsigned("car", None, &format!("read:{path}")));
    std::fs::write(&file, &none).unwrap();
    let signals = [(path::SPEED, Some(said(start(), TypedValue::Float(0.0))))];
    let mut car = Played::start(&signals, None, Some(&file));
    car.other.admit(Admits::Tokens(vec![none, some.clone()]));
    assert!(timeout(Duration::from_mins(1), car.broker.next()).await.is_err());
    std::fs::write(&file, some).unwrap();
    assert_eq!(car.hears().await.set.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn value_that_its_provider_takes_back_is_not_known_any_more() {
    let mut car = Played::standing();
    car.hears().await;
    car.other.withdraw(path::SPEED);
    assert_eq!(car.hears().await.forget, [path::SPEED]);
}

#[tokio::test(start_paused = true)]
async fn signal_that_comes_later_is_found_and_nothing_is_unknown_meanwhile() {
    let mut car = Played::standing();
    car.hears().await;
    car.other.put(path::IS_MOVING, said(car.now(), TypedValue::Bool(false)));
    loop {
        let update = car.hears().await;
        assert_eq!(update.forget, Vec::<String>::new());
        if update.set.iter().any(|(path, _)| path == path::IS_MOVING) {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn broker_whose_clock_is_ahead_is_heard_by_what_it_says_from_now_on() {
    let ahead = Duration::from_mins(5);
    // Old, but by its stamp only half a minute.
    let old = said(start() + ahead - Duration::from_secs(330), TypedValue::Float(80.0));
    let mut car = Played::start(&[(path::SPEED, None), (path::CHARGE, Some(old))], None, None);
    assert_eq!(car.hears().await.forget, [path::SPEED]);
    assert_eq!(car.hears().await.set.len(), 1);
    car.other
        .put(path::SPEED, said(car.now() + ahead, TypedValue::Float(0.0)));
    assert_eq!(car.hears().await.forget, [path::CHARGE], "it is older than it seemed");
    let update = car.hears().await;
    assert_eq!((update.set.len(), update.at), (1, Some(car.clock.boottime())));
}
