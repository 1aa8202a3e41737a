//! What holds for any signals, in any order, at any time, whatever the owner wants.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::parked::signals::path;

/// What no policy can lift.
const UNCONDITIONAL: [Factor; 5] = [
    Factor::NotUpdating,
    Factor::NotInService,
    Factor::NotCrashed,
    Factor::Supplied,
    Factor::Cool,
];
/// What only new work needs.
const TO_START: [Factor; 2] = [Factor::Connected, Factor::PowerToStart];

/// What a source may say, and of some signals that it has lost them.
fn words() -> Vec<(&'static str, Option<Value>)> {
    let text = |value: &str| Some(Value::Text(value.to_owned()));
    let (yes, no) = (Some(Value::Bool(true)), Some(Value::Bool(false)));
    let number = |value| Some(Value::Number(value));
    vec![
        (path::SPEED, number(3.0)),
        (path::SPEED, None),
        (path::IS_MOVING, yes.clone()),
        (path::LOW_VOLTAGE_SYSTEM_STATE, text("ACC")),
        (path::LOW_VOLTAGE_SYSTEM_STATE, text("ON")),
        (path::SELECTED_GEAR, number(127.0)),
        (path::BRAKE_PEDAL, number(9.0)),
        ("Vehicle.Cabin.Door.Row1.DriverSide.IsLocked", no.clone()),
        ("Vehicle.Cabin.Door.Row2.DriverSide.IsOpen", yes.clone()),
        ("Vehicle.Cabin.Seat.Row2.Middle.OccupancyStatus", text("OCCUPIED")),
        ("Vehicle.Cabin.Seat.Row2.Middle.OccupancyStatus", text("UNKNOWN")),
        (path::LOW_VOLTAGE, number(12.0)),
        (path::LOW_VOLTAGE, number(13.0)),
        (path::BATTERY_TEMPERATURE, number(42.0)),
        (path::BATTERY_TEMPERATURE, number(50.0)),
        (path::AIR_TEMPERATURE, number(50.0)),
        (path::CONNECTIVITY, no.clone()),
        (path::HOOD_OPEN, yes.clone()),
        (path::HOOD_OPEN, no.clone()),
        (path::HOOD_OPEN, None),
        (path::DRIVER_BELTED, yes.clone()),
        (path::ENGINE_RUNNING, yes.clone()),
        (path::AUTONOMY_LEVEL, text("SAE_4")),
        (path::POWER_SAVING, number(4.0)),
        (path::POWER_SAVING, number(10.0)),
        (path::BROKEN_DOWN, yes.clone()),
        ("Vehicle.Private.ParkedCompute.IsUpdating", yes.clone()),
        ("Vehicle.Private.ParkedCompute.IsUpdating", no.clone()),
        ("Vehicle.Private.ParkedCompute.IsUpdating", None),
        ("Vehicle.Private.ParkedCompute.IsInService", yes.clone()),
        ("Vehicle.Private.ParkedCompute.IsInService", None),
        ("Vehicle.Private.ParkedCompute.HasCrashed", yes.clone()),
        ("Vehicle.Private.ParkedCompute.HasCrashed", None),
        (path::MEMORY_SHORT, yes),
        (path::MEMORY_SHORT, no),
    ]
}

/// What happens next to a car.
#[derive(Debug, Clone)]
struct Turn {
    /// All is as in a parked car again, before anything else.
    well: bool,
    /// The source says this, or loses it.
    word: Option<prop::sample::Index>,
    /// The provider of this dies, and its last word stays.
    dies: Option<prop::sample::Index>,
    /// The source says everything again each second.
    alive: bool,
    will: Will,
    resume_within: Duration,
    /// No attempt is left.
    cleared: bool,
    /// It stays so for so long.
    lasts: Duration,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let will = prop_oneof![6 => Just(Will::Yes), 1 => Just(Will::Paused), 1 => Just(Will::No)];
    let lasts = prop_oneof![1 => Just(0), 2 => 0_u64..3_500, 3 => 3_000_u64..25_000];
    let turn = (
        prop::bool::weighted(0.6),
        prop::option::weighted(0.6, any::<prop::sample::Index>()),
        prop::option::weighted(0.1, any::<prop::sample::Index>()),
        prop::bool::weighted(0.9),
        will,
        0_u64..20,
        any::<bool>(),
        lasts,
    );
    let turn = turn.prop_map(|(well, word, dies, alive, will, resume_within, cleared, lasts)| Turn {
        well,
        word,
        dies,
        alive,
        will,
        resume_within: Duration::from_secs(resume_within),
        cleared,
        lasts: Duration::from_millis(lasts),
    });
    prop::collection::vec(turn, 1..25)
}

/// A car, a source that says again what it knows, and what is known of both from outside.
struct World {
    car: Car,
    snapshot: Snapshot,
    /// What the source says each second.
    source: BTreeMap<String, Value>,
    /// Every optional signal that was ever said.
    ever: BTreeSet<String>,
    /// When the car was last seen not to be parked.
    not_parked: Boottime,
    will: Will,
    resume_within: Duration,
    /// What the machine has ever asked for.
    asked: BTreeSet<&'static str>,
}

impl World {
    fn new() -> Self {
        let mut car = Car::new();
        car.terms.dwell = Duration::from_secs(10);
        Self {
            snapshot: Snapshot::default(),
            source: BTreeMap::new(),
            ever: BTreeSet::new(),
            not_parked: car.now,
            will: Will::Yes,
            resume_within: Duration::ZERO,
            asked: BTreeSet::new(),
            car,
        }
    }

    fn say_all(&mut self) {
        for (path, value) in &self.source {
            self.snapshot.set(path, value.clone(), self.car.now);
            if self.car.terms.optional().any(|optional| optional == *path) {
                self.ever.insert(path.clone());
            }
        }
    }

    fn take(&mut self, turn: &Turn) {
        (self.will, self.resume_within) = (turn.will, turn.resume_within);
        if turn.well {
            let well = equipped_car(self.car.now);
            for (path, reading) in well.iter() {
                // A car without an optional signal does not get it by being well.
                if !self.car.terms.optional().any(|optional| optional == path) || self.ever.contains(path) {
                    self.source.insert(path.to_owned(), reading.value.clone());
                }
            }
        }
        let words = words();
        match turn.word.map(|word| word.get(&words)) {
            Some((path, Some(value))) => {
                self.source.insert((*path).to_owned(), value.clone());
            }
            Some((path, None)) => {
                self.source.remove(*path);
                self.snapshot.remove(path);
            }
            None => {}
        }
        if turn.alive {
            self.say_all();
        }
        if let Some(dead) = turn.dies.map(|word| word.get(&words).0) {
            self.source.remove(dead);
        }
    }

    fn look(&mut self) -> Result<(), TestCaseError> {
        let (now, before, terms) = (self.car.now, self.car.state, self.car.terms.clone());
        let view = View::new(&self.snapshot, now, terms.stale_after);
        let judgement = judge(&view, &terms, before.held());
        let verdict = judgement.verdict();
        let effects = self.car.step(Event::Judged {
            verdict,
            will: self.will,
            resume_within: self.resume_within,
        });
        self.asked.extend(effects.iter().map(|effect| match effect {
            Effect::Freeze(_) => "freeze",
            Effect::Thaw => "thaw",
            Effect::Announce => "announce",
            Effect::Depart { .. } => "depart",
        }));
        let after = self.car.state;
        let gone = matches!(after, State::Leaving { .. } | State::Away { .. });
        if !judgement.parked().is_yes() {
            self.not_parked = now;
        }
        if let State::Available { .. } = after {
            for (factor, tri) in &judgement.0 {
                prop_assert!(tri.is_yes() || TO_START.contains(factor), "{factor:?} is {tri:?}");
            }
            for path in &self.ever {
                let fresh = self.snapshot.fresh(path, now, terms.stale_after);
                prop_assert!(fresh.is_some(), "{path} is silent");
            }
            prop_assert_eq!(self.will, Will::Yes);
        } else if let State::Available { .. } = before {
            prop_assert!(matches!(effects[0], Effect::Freeze(_)));
        }
        for factor in UNCONDITIONAL {
            prop_assert!(judgement.of(factor) != Tri::No || gone, "{factor:?} and {after:?}");
        }
        prop_assert!(!matches!(verdict, Verdict::Going(_)) || gone);
        prop_assert!(self.will != Will::No || gone);
        if effects.contains(&Effect::Thaw) || matches!((before, after), (State::Away { .. }, State::Available { .. })) {
            prop_assert!(now.since(self.not_parked) >= terms.dwell);
        }
        if let State::Paused { since, .. } = after {
            prop_assert!(now.since(since) <= self.resume_within.max(Duration::from_secs(20)) + terms.dwell);
        }
        Ok(())
    }

    /// Time passes: the loop looks when something is said, when a signal grows old and when its state may change.
    fn pass(&mut self, lasts: Duration, alive: bool) -> Result<(), TestCaseError> {
        let (millisecond, second) = (Duration::from_millis(1), Duration::from_secs(1));
        let end = self.car.now + lasts;
        let mut says = self.car.now + second;
        self.look()?;
        while self.car.now < end {
            let now = self.car.now;
            let terms = &self.car.terms;
            let stale = self
                .snapshot
                .next_stale(now, terms.stale_after)
                .map(|at| at + millisecond);
            let due = self.car.state.deadline(self.will, terms, self.resume_within);
            let due = due.filter(|at| *at > now);
            let said = alive.then_some(says);
            self.car.now = [stale, due, said].into_iter().flatten().fold(end, Boottime::min);
            if alive && self.car.now == says {
                says = says + second;
                self.say_all();
            }
            self.look()?;
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn work_runs_only_in_a_car_that_is_certainly_parked_and_nothing_delays_its_stop(turns in turns()) {
        let mut world = World::new();
        for turn in turns {
            world.take(&turn);
            world.pass(turn.lasts, turn.alive)?;
            if turn.cleared {
                world.car.step(Event::Cleared);
            }
        }
    }
}

#[test]
fn worlds_reach_every_state_and_effect_that_something_is_promised_of() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut seen, mut asked) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..200 {
        let mut world = World::new();
        for turn in turns().new_tree(&mut runner).unwrap().current() {
            world.take(&turn);
            world.pass(turn.lasts, turn.alive).unwrap();
            seen.insert(match world.car.state {
                State::Available { .. } => "available",
                State::Paused { .. } => "paused",
                State::Leaving { .. } => "leaving",
                State::Away { .. } => "away",
            });
        }
        asked.append(&mut world.asked);
    }
    assert_eq!((seen.len(), asked.len()), (4, 4), "{seen:?} {asked:?}");
}
