//! Effective is what owner, maker and pool all allow: nothing that comes from the cluster ever turns a no of the owner or of the maker into
//! a yes, and no car's yes ever outweighs the pool's no.
//!
//! The decisions are the ones that run: [`Grounds::look`], [`Grounds::admit`] and [`Grounds::weigh`], which the agent's policy loop and supervisor ask,
//! [`admission::admit`] over what the owner's caps leave, which the supervisor asks next, and [`Facts::desired`], which the adapter
//! writes to the Node. What they are held to is said again here in other words, from the same moves.

mod network;

use std::time::Duration;

use jiff::civil::{DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use proptest::prelude::*;

use crate::admission;
use crate::clock::Boottime;
use crate::consent::Consents;
use crate::data::Moved;
use crate::energy::Used;
use crate::owner::{
    ClockTrust, Command, Consent, Data, Day, Document, Draw, Grounds, Hours, Metered, Network, Remembered, Uplink, Word,
};
use crate::parked::signals::{Value, path};
use crate::parked::tests::parked_car;
use crate::parked::{Snapshot, State, Terms, Tri};
use crate::quantity::{Quantity, Resources};
use crate::vehicle::{self, Event, Facts, Judgement, NodeWish, Standing};
use network::{EXPRESSIONS, WHENS};

const CLASSES: [&str; 4] = ["inference", "video", "unclassified", ""];
/// Terms of attempts. A core hour costs 0.03 EUR in this car, so only the first leave a hundredth.
const TERMS: [&str; 5] = [
    r#"{"pool":"overnight","currency":"EUR","perCPUHour":"0.04","perKWh":"0","unaccepted":"EnergyOnly"}"#,
    r#"{"pool":"overnight","currency":"EUR","perCPUHour":"0.0399","perKWh":"0","unaccepted":"EnergyOnly"}"#,
    r#"{"pool":"overnight","currency":"USD","perCPUHour":"9","perKWh":"0","unaccepted":"EnergyOnly"}"#,
    "{",
    "",
];
/// The ones that pay.
const PAY: usize = 0;
/// Few are withdrawn for good.
const WORDS: [Word; 7] = [
    Word::Pause,
    Word::Pause,
    Word::Resume,
    Word::Resume,
    Word::Resume,
    Word::Resume,
    Word::Withdraw,
];
const DAYS: [Day; 7] = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];

/// Signals of which one alone says that the car is not parked, and the value that says so.
fn telling() -> [(String, Value); 7] {
    let (door, seat) = (path::DOORS[1], path::SEATS[3]);
    [
        (path::IS_MOVING.to_owned(), Value::Bool(true)),
        (path::LOW_VOLTAGE_SYSTEM_STATE.to_owned(), Value::Text("ON".to_owned())),
        (path::LOW_VOLTAGE.to_owned(), Value::Number(12.2)),
        (path::AIR_TEMPERATURE.to_owned(), Value::Number(50.0)),
        (format!("{door}.IsLocked"), Value::Bool(false)),
        (format!("{door}.IsOpen"), Value::Bool(true)),
        (format!("{seat}.OccupancyStatus"), Value::Text("OCCUPIED".to_owned())),
    ]
}

fn cable() -> String {
    format!("{}AnyPosition.IsChargingCableConnected", path::CHARGING_PORTS)
}

/// What an attempt asks for: all of it is the cluster's word.
#[derive(Debug, Clone)]
struct Asked {
    class: usize,
    cpu_millis: i64,
    used_millis: i64,
    pods: u32,
    terms: usize,
}

#[derive(Debug, Clone)]
enum Move {
    Wait(u64),
    /// So many times 20 s go by, and every signal is said again each time.
    Stand(u8),
    /// Every signal is said again as it is.
    SayAll,
    /// One signal says that the car is not parked, or says nothing any more.
    Break(usize, bool),
    /// The car is parked and well.
    Mend,
    Charge(Option<f64>),
    Cable(Option<bool>),
    Owner(Word),
    Write(Box<Option<Document>>),
    /// A consent to one class is given, or taken back.
    Consent(usize, bool),
    /// The car's meter knows that work has had so many watt-hours today, or knows nothing.
    Energy(Option<u64>),
    /// Whether its network costs by the byte, and how much of the month's data is gone: by any network, and by such ones.
    Uplink(Tri, u64, u64),
    /// Whether the car knows the time zone.
    Zone(bool),
    /// Somebody sets the wall clock, by so many minutes.
    Clock(i64),
    /// From here on it is the cluster's: whether there is a way to it, whether there is work, and what the pool says.
    Connected(bool),
    Live(bool),
    Pool(bool, bool),
    Link(bool),
    Brake(bool),
}

fn hours() -> impl Strategy<Value = Hours> {
    let time =
        (0..24_i8, prop_oneof![Just(0_i8), 0..60_i8]).prop_map(|(hour, minute)| Time::constant(hour, minute, 0, 0));
    let days = prop::option::weighted(0.3, prop::collection::vec(prop::sample::select(&DAYS[..]), 1..7));
    (time.clone(), time, days).prop_map(|(from, to, days)| Hours { from, to, days })
}

/// From a day before `START` to a day after.
fn moment() -> impl Strategy<Value = Timestamp> {
    (-1440..1440_i64).prop_map(|minutes| start() + SignedDuration::from_mins(minutes))
}

fn document() -> impl Strategy<Value = Document> {
    let classes = prop::collection::vec(prop::sample::select(&CLASSES[..2]).prop_map(str::to_owned), 0..3);
    let consent = (moment(), prop::option::of(moment()), classes);
    let charge = (
        prop::sample::select(&[0.0, 50.0, 50.0, 98.0][..]),
        prop::sample::select(&[0.0, 5.0, 20.0][..]),
    );
    let week = (
        prop::option::of(prop::collection::vec(hours(), 0..3)),
        prop::collection::vec(hours(), 0..2),
    );
    let caps = prop::option::of((-10..2000_i64).prop_map(Quantity::from_millis));
    let energy = (
        prop::option::weighted(0.3, (1..3_i64).prop_map(Quantity::from_units)),
        prop::bool::weighted(0.3),
    );
    let network = (
        prop::bool::weighted(0.5),
        prop::option::weighted(0.3, (1..3_u64, any::<bool>())),
        prop::option::weighted(0.3, 0..EXPRESSIONS.len()),
    );
    let generous = prop::bool::weighted(0.7);
    (
        consent,
        charge,
        week,
        prop::option::of(moment()),
        caps,
        any::<bool>(),
        (energy, network),
        generous,
    )
        .prop_map(
            |(
                (given_at, expires_at, classes),
                (floor, margin),
                (work_hours, quiet_hours),
                pause_until,
                max_cpu,
                plug,
                ((max_kwh_per_day, has_floor), (allows, data, when)),
                generous,
            )| {
                let metered = if allows { Metered::Allow } else { Metered::Never };
                let data = data.map(|(per_month, metered_only)| Data {
                    per_month,
                    metered_only,
                });
                let paid = if has_floor { priced() } else { willing() };
                let consent = Consent {
                    given_at,
                    expires_at,
                    classes,
                };
                let document = Document {
                    consent,
                    pause_until,
                    require_plugged_in: plug,
                    charge_floor_percent: floor,
                    charge_resume_margin_percent: margin,
                    work_hours,
                    quiet_hours,
                    max_cpu,
                    max_kwh_per_day,
                    when: when.map(|which| WHENS[which].clone()),
                    network: Network { metered },
                    data,
                    ..paid
                };
                // Most of them have a consent that holds: else no car would ever work.
                if generous {
                    Document {
                        consent: willing().consent,
                        pause_until: None,
                        ..document
                    }
                } else {
                    document
                }
            },
        )
}

/// A document that says no to little.
fn willing() -> Document {
    let yaml = "
consent: {givenAt: 2026-11-01T00:00:00Z, classes: [inference]}
requirePluggedIn: false
chargeFloorPercent: 0
resumeWithin: 3m
timeZone: UTC
";
    serde_saphyr::from_str(yaml).unwrap()
}

/// The same of an owner who wants a hundredth for a core hour beyond its energy.
fn priced() -> Document {
    let energy = "{currency: EUR, perKWh: '0.3'}";
    Document {
        tariff: Some(serde_saphyr::from_str(energy).unwrap()),
        price_floor: Some("0.01".parse().unwrap()),
        ..willing()
    }
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => prop::sample::select(&[1, 29, 31, 300][..]).prop_map(Move::Wait),
        8 => prop::sample::select(&[1, 5, 6, 7, 30][..]).prop_map(Move::Stand),
        4 => Just(Move::SayAll),
        2 => (0..7_usize, any::<bool>()).prop_map(|(which, forget)| Move::Break(which, forget)),
        4 => Just(Move::Mend),
        1 => prop::option::of(prop::sample::select(&[10.0, 49.9, 52.0, 99.0][..])).prop_map(Move::Charge),
        1 => prop::option::of(any::<bool>()).prop_map(Move::Cable),
        2 => prop::sample::select(&WORDS[..]).prop_map(Move::Owner),
        6 => prop::option::weighted(0.95, document()).prop_map(|document| Move::Write(Box::new(document))),
        2 => (0..2_usize, prop::bool::weighted(0.8)).prop_map(|(class, given)| Move::Consent(class, given)),
        3 => prop::option::weighted(0.9, prop::sample::select(&[0, 999, 1000, 1999, 2000][..])).prop_map(Move::Energy),
        3 => (prop::sample::select(&[Tri::No, Tri::No, Tri::Unknown, Tri::Yes][..]), 0..3_u64, 0..3_u64)
            .prop_map(|(metered, bytes, metered_bytes)| Move::Uplink(metered, bytes, metered_bytes)),
        1 => prop::bool::weighted(0.8).prop_map(Move::Zone),
        3 => (-600..600_i64).prop_map(Move::Clock),
        1 => prop::bool::weighted(0.8).prop_map(Move::Connected),
        1 => any::<bool>().prop_map(Move::Live),
        1 => (prop::bool::weighted(0.7), prop::bool::weighted(0.1)).prop_map(|(eligible, revoked)| Move::Pool(eligible, revoked)),
        1 => prop::bool::weighted(0.8).prop_map(Move::Link),
        1 => any::<bool>().prop_map(Move::Brake),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    let terms = prop_oneof![2 => Just(PAY), 1 => 0..TERMS.len()];
    (0..CLASSES.len(), 0..2500_i64, 0..1000_i64, 0..9_u32, terms).prop_map(
        |(class, cpu_millis, used_millis, pods, terms)| Asked {
            class,
            cpu_millis,
            used_millis,
            pods,
            terms,
        },
    )
}

/// A Monday at noon.
fn start() -> Timestamp {
    "2026-11-02T12:00:00Z".parse().unwrap()
}

/// A car, the adapter that it is connected to, and what both were told.
struct World {
    boot: Boottime,
    /// By how much the wall clock was set.
    set: SignedDuration,
    /// When it was set last.
    set_at: Option<Boottime>,
    trust: ClockTrust,
    state: State,
    terms: Terms,
    snapshot: Snapshot,
    document: Option<Document>,
    remembered: Remembered,
    /// The classes with a record of consent.
    consented: Vec<String>,
    consents: Consents,
    energy: Option<Used>,
    uplink: Uplink,
    zone: Option<TimeZone>,
    live: bool,
    facts: Facts,
    epoch: u64,
    open: bool,
    told: Standing,
    pool: bool,
    /// When the car was last looked at and not parked.
    interrupted: Boottime,
}

impl World {
    fn new() -> Self {
        let boot = Boottime(Duration::from_secs(1000));
        let mut facts = Facts::new(Standing::Away, false, boot);
        facts.step(Event::PodsSynced, boot);
        let mut world = Self {
            boot,
            set: SignedDuration::ZERO,
            set_at: None,
            trust: ClockTrust::default(),
            state: State::initial(),
            // Long enough for a wait that makes nothing old, and one that does.
            terms: Terms {
                stale_after: Duration::from_secs(30),
                ..Terms::default()
            },
            snapshot: parked_car(boot),
            document: Some(willing()),
            remembered: Remembered {
                command: Command::None,
                at: start(),
                until: None,
            },
            consented: Vec::new(),
            consents: Consents::default(),
            energy: None,
            uplink: Uplink::free(),
            zone: Some(TimeZone::UTC),
            live: false,
            facts,
            epoch: 0,
            open: false,
            told: Standing::Away,
            pool: false,
            interrupted: boot,
        };
        for step in [
            Move::Consent(0, true),
            Move::Pool(true, false),
            Move::Link(true),
            Move::Stand(7),
        ] {
            world.step(step);
        }
        world
    }

    fn wall(&self) -> Timestamp {
        start() + self.set + SignedDuration::try_from(self.boot.0).unwrap()
    }

    fn grounds(&self) -> Grounds<'_> {
        Grounds {
            state: self.state,
            snapshot: &self.snapshot,
            terms: &self.terms,
            document: self.document.as_ref(),
            consents: &self.consents,
            command: self.remembered.command(self.document.as_ref()),
            zone: self.zone.as_ref(),
            boot: self.boot,
            wall: self.wall(),
            trust: self.trust,
            energy: self.energy,
            uplink: self.uplink,
        }
    }

    /// What a core takes, where it is known: 100 W.
    fn draw(&self) -> Option<Draw> {
        self.energy.map(|_| Draw {
            per_core_milliwatts: 100_000,
            paid_milliwatts: 100_000,
        })
    }

    fn say(&mut self, path: &str, value: Option<Value>) {
        match value {
            Some(value) => self.snapshot.set(path, value, self.boot),
            None => self.snapshot.remove(path),
        }
    }

    fn step(&mut self, step: Move) {
        match step {
            Move::Wait(seconds) => self.boot = self.boot + Duration::from_secs(seconds),
            Move::Stand(times) => {
                for _ in 0..times {
                    self.boot = self.boot + Duration::from_secs(20);
                    self.step(Move::SayAll);
                }
            }
            Move::SayAll => {
                let all: Vec<_> = self
                    .snapshot
                    .iter()
                    .map(|(path, reading)| (path.to_owned(), reading.value.clone()))
                    .collect();
                for (path, value) in all {
                    self.say(&path, Some(value));
                }
            }
            Move::Break(which, forget) => {
                let (path, value) = telling()[which].clone();
                self.say(&path, (!forget).then_some(value));
            }
            Move::Mend => self.snapshot = parked_car(self.boot),
            Move::Charge(percent) => self.say(path::CHARGE, percent.map(Value::Number)),
            Move::Cable(connected) => self.say(&cable(), connected.map(Value::Bool)),
            Move::Owner(word) => self.remembered = self.remembered.after(word, self.wall()).0,
            Move::Write(document) => self.document = *document,
            Move::Consent(class, given) => {
                self.consented.retain(|consented| consented != CLASSES[class]);
                if given {
                    self.consented.push(CLASSES[class].to_owned());
                }
                let since = "2000-01-01T00:00:00Z".parse().unwrap();
                self.consents = Consents::as_if_given(&self.consented, since);
            }
            Move::Energy(watt_hours) => {
                self.energy = watt_hours.map(|watt_hours| Used {
                    microjoules: watt_hours * 3_600_000_000,
                    ..Used::default()
                });
            }
            Move::Uplink(metered, bytes, metered_bytes) => {
                let moved = Moved {
                    bytes,
                    metered_bytes,
                    lost: false,
                };
                self.uplink = Uplink { metered, moved };
            }
            Move::Zone(known) => self.zone = known.then_some(TimeZone::UTC),
            Move::Clock(minutes) => {
                self.set += SignedDuration::from_mins(minutes);
                if minutes != 0 {
                    self.set_at = Some(self.boot);
                }
            }
            Move::Connected(connected) => self.say(path::CONNECTIVITY, Some(Value::Bool(connected))),
            Move::Live(live) => self.live = live,
            Move::Pool(eligible, revoked) => {
                self.pool = eligible && !revoked;
                let eligible = if eligible {
                    Judgement::Yes
                } else {
                    Judgement::no("LeavesSoon", "leaves within the hour")
                };
                let terms = vehicle::Terms {
                    suspect_after: Duration::from_secs(10),
                    keep_node_for: Duration::from_mins(10),
                    revoked,
                    eligible,
                };
                self.facts.step(Event::Terms(terms), self.boot);
            }
            Move::Link(open) => {
                if open && !self.open {
                    self.epoch += 1;
                    self.told = self.standing();
                    let (epoch, standing) = (self.epoch, self.told);
                    let reports = Vec::new();
                    self.facts.step(
                        Event::Connected {
                            epoch,
                            standing,
                            reports,
                        },
                        self.boot,
                    );
                } else if !open {
                    self.facts.step(Event::Closed(self.epoch), self.boot);
                }
                self.open = open;
            }
            Move::Brake(holds) => self.facts.step(Event::Braked(holds), self.boot),
        }
        self.look();
    }

    /// The agent's loop, and its word to the adapter.
    fn look(&mut self) {
        self.trust.look(self.boot, self.wall());
        let grounds = self.grounds();
        let (state, _) = grounds.look(&grounds.judgement(), false, self.live);
        self.state = state;
        if !self.is_parked() {
            self.interrupted = self.boot;
        }
        let standing = self.standing();
        if self.open {
            self.facts.step(Event::Heard, self.boot);
            if standing != self.told {
                self.told = standing;
                self.facts.step(Event::State(standing), self.boot);
            }
        }
    }

    fn standing(&self) -> Standing {
        match self.state {
            State::Available { .. } => Standing::Available,
            State::Paused { .. } => Standing::Paused,
            State::Leaving { until, .. } => Standing::Leaving {
                notice: until.since(self.boot),
            },
            State::Away { .. } => Standing::Away,
        }
    }

    fn fresh(&self, path: &str) -> Option<&Value> {
        self.snapshot
            .iter()
            .find(|(p, reading)| *p == path && self.boot.since(reading.at) <= Duration::from_secs(30))
            .map(|(_, reading)| &reading.value)
    }

    /// Whether every signal that alone says that the car is not parked was heard lately, and says that it is.
    fn is_parked(&self) -> bool {
        let parked = parked_car(self.boot);
        let well = |wanted: &str| {
            parked
                .iter()
                .find(|(path, _)| *path == wanted)
                .map(|(_, reading)| &reading.value)
        };
        telling()
            .iter()
            .all(|(path, _)| self.fresh(path).is_some() && self.fresh(path) == well(path))
    }

    /// Whether the owner says yes to work of this class.
    fn owner_says_yes(&self, class: &str) -> bool {
        let classes = self.document.as_ref().map(|document| &document.consent.classes);
        let recorded = self.consented.iter().any(|consented| consented == class);
        self.owner_is_willing()
            && self.network_is_allowed(self.uplink.metered != Tri::No)
            && self.expression_says_yes(class)
            && recorded
            && classes.is_some_and(|classes| classes.iter().any(|accepted| accepted == class))
    }

    /// Whether the owner says yes to work of some class.
    fn owner_is_willing(&self) -> bool {
        let (Some(document), wall) = (&self.document, self.wall()) else {
            return false;
        };
        let consent = &document.consent;
        let clock_was_set = self
            .set_at
            .is_some_and(|at| self.boot.since(at) < Duration::from_mins(1));
        let withdrawn = self.remembered.command == Command::Withdraw && consent.given_at <= self.remembered.at;
        let number = |path| match self.fresh(path) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        };
        let recorded = consent.classes.is_empty() || consent.classes.iter().any(|class| self.consented.contains(class));
        !withdrawn
            && recorded
            && !clock_was_set
            && self.remembered.command != Command::Pause
            && consent.given_at <= wall
            && consent.expires_at.is_none_or(|expires| wall < expires)
            && document.pause_until.is_none_or(|until| until <= wall)
            && number(path::CHARGE).is_some_and(|percent| percent >= document.charge_floor_percent)
            && (!document.require_plugged_in || self.fresh(&cable()) == Some(&Value::Bool(true)))
            && self.hours_say_yes(document)
            && self.day_has_energy(document)
            && self.network_is_allowed(self.uplink.metered == Tri::Yes)
            && (consent.classes.is_empty() || consent.classes.iter().any(|class| self.expression_says_yes(class)))
    }

    fn day_has_energy(&self, document: &Document) -> bool {
        let Some(most) = document.max_kwh_per_day else {
            return true;
        };
        let Some(used) = self.energy else { return false };
        // A microjoule is the 3,600th part of a billionth of a kilowatt-hour.
        self.zone.is_some() && i128::from(used.microjoules) < most.nanos() * 3600
    }

    /// Whether an attempt on these terms pays what the owner wants.
    fn pays(&self, terms: usize) -> bool {
        let wants = self
            .document
            .as_ref()
            .is_some_and(|document| document.price_floor.is_some());
        !wants || (terms == PAY && self.energy.is_some())
    }

    fn hours_say_yes(&self, document: &Document) -> bool {
        let works = document.work_hours.as_deref();
        if works.is_none() && document.quiet_hours.is_empty() {
            return true;
        }
        let Some(zone) = &self.zone else { return false };
        let now = zone.to_datetime(self.wall());
        !document.quiet_hours.iter().any(|hours| began(hours, now))
            && works.is_none_or(|works| works.iter().any(|hours| began(hours, now)))
    }
}

/// Whether one of the windows that begin today or yesterday has begun and is not over.
fn began(hours: &Hours, now: DateTime) -> bool {
    let weekdays = hours.days.as_ref().map(|days| {
        let number = |day: &Day| i8::try_from(DAYS.iter().position(|d| d == day).unwrap()).unwrap();
        days.iter()
            .map(|day| Weekday::from_monday_zero_offset(number(day)).unwrap())
            .collect::<Vec<_>>()
    });
    [0, 1].into_iter().any(|days_ago: i64| {
        let day = now.date() - days_ago.days();
        let begins = day.to_datetime(hours.from);
        let ends = day.to_datetime(hours.to);
        let ends = if ends <= begins { ends + 1.day() } else { ends };
        begins <= now && now < ends && weekdays.as_ref().is_none_or(|days| days.contains(&day.weekday()))
    })
}

/// What the agent's supervisor asks of an attempt, in its order.
fn admitted(world: &World, asked: &Asked) -> bool {
    let gives = [
        ("cpu", Quantity::from_millis(2000)),
        ("memory", Quantity::from_bytes(1 << 30)),
        ("pods", Quantity::from_units(8)),
    ];
    let gives = Resources(gives.map(|(name, amount)| (name.to_owned(), amount)).into());
    let allocatable = match &world.document {
        Some(document) => document.narrowed(gives),
        None => gives,
    };
    let cpu = |millis| Resources([("cpu".to_owned(), Quantity::from_millis(millis))].into());
    let (used, request) = (cpu(asked.used_millis), cpu(asked.cpu_millis));
    world.grounds().admit(CLASSES[asked.class]).is_ok()
        && world.grounds().weigh(TERMS[asked.terms], world.draw()).is_ok()
        && admission::admit(&allocatable, &used, asked.pods, &request).is_ok()
}

fn check(world: &mut World, asked: &[Asked]) -> Result<(), TestCaseError> {
    let maker = world.is_parked() && world.boot.since(world.interrupted) >= world.terms.dwell;
    for class in CLASSES {
        if world.grounds().admit(class).is_ok() {
            prop_assert!(world.owner_says_yes(class), "the owner said no to '{}'", class);
            prop_assert!(maker, "the maker said no");
        }
    }
    for attempt in asked.iter().filter(|attempt| admitted(world, attempt)) {
        let most = world
            .document
            .as_ref()
            .and_then(|document| document.max_cpu)
            .map_or(2000, Quantity::millis);
        prop_assert!(
            attempt.cpu_millis == 0 || attempt.used_millis + attempt.cpu_millis <= most.min(2000),
            "more than the owner gives"
        );
        prop_assert!(world.pays(attempt.terms), "less than the owner wants");
    }
    if let State::Available { .. } = world.state {
        prop_assert!(maker, "it offers itself, and is not parked");
        prop_assert!(world.owner_is_willing(), "it offers itself, and its owner says no");
    }
    world.facts.settle(world.boot, |_| None);
    let desired = world.facts.desired(world.boot);
    if let NodeWish::Present(node) | NodeWish::Keep(node) = &desired.node
        && node.taints.is_empty()
    {
        prop_assert!(world.pool, "work may come, and the pool says no");
        prop_assert_eq!(world.told, Standing::Available, "work may come, and the car says no");
        prop_assert!(
            !world.open || world.standing() == Standing::Available,
            "the adapter knows better than the car"
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn nothing_that_the_cluster_says_turns_a_no_into_a_yes(
        moves in prop::collection::vec(moves(), 1..40),
        asked in prop::collection::vec(asked(), 1..6),
        first in document(),
    ) {
        let mut world = World::new();
        world.step(Move::Write(Box::new(Some(first))));
        check(&mut world, &asked)?;
        for step in moves {
            world.step(step);
            check(&mut world, &asked)?;
        }
    }
}

/// Else the property would say nothing: there is a yes to begin with, of the car and of the Node, and each of the three can end it.
#[test]
fn each_of_the_three_can_say_no() {
    let ask = Asked {
        class: 0,
        cpu_millis: 1000,
        used_millis: 0,
        pods: 0,
        terms: PAY,
    };
    let schedulable = |world: &mut World| {
        world.facts.settle(world.boot, |_| None);
        let desired = world.facts.desired(world.boot);
        matches!(desired.node, NodeWish::Present(node) if node.taints.is_empty())
    };
    let mut world = World::new();
    assert!(admitted(&world, &ask) && schedulable(&mut world));
    assert_eq!(world.grounds().judgement().parked(), Tri::Yes);
    for (no, car, node) in [
        (Move::Owner(Word::Pause), false, false),
        (Move::Consent(0, false), false, false),
        (Move::Break(4, false), false, false),
        (Move::Pool(false, false), true, false),
    ] {
        let mut world = World::new();
        world.step(no);
        assert_eq!((admitted(&world, &ask), schedulable(&mut world)), (car, node));
    }
}

/// And so can the energy of the day, and what work pays.
#[test]
fn energy_and_pay_can_say_no() {
    let ask = |terms| Asked {
        class: 0,
        cpu_millis: 1000,
        used_millis: 0,
        pods: 0,
        terms,
    };
    let world = |watt_hours| {
        let mut world = World::new();
        world.step(Move::Energy(watt_hours));
        world.step(Move::Write(Box::new(Some(Document {
            max_kwh_per_day: Some(Quantity::from_units(1)),
            ..priced()
        }))));
        world
    };
    let metered = world(Some(999));
    for (terms, text) in TERMS.iter().enumerate() {
        assert_eq!(admitted(&metered, &ask(terms)), terms == PAY, "{text}");
    }
    for used in [None, Some(1000)] {
        assert!(!admitted(&world(used), &ask(PAY)), "{used:?}");
    }
}
