//! The driver comes back: signals one after another in the order in which a driver causes them, through judgement and machine.

use rstest::rstest;

use super::*;
use crate::parked::signals::path;

/// What one signal says when the driver does something, and what follows for work that runs.
struct Happens {
    what: &'static str,
    signals: Vec<(String, Value)>,
    verdict: Verdict,
}

/// Earliest first.
fn return_events() -> Vec<Happens> {
    let driver_door = path::DOORS[0];
    let text = |value: &str| Value::Text(value.to_owned());
    let happens = |what, path: &str, value, verdict| Happens {
        what,
        signals: vec![(path.to_owned(), value)],
        verdict,
    };
    let (attended, going) = (Verdict::Attended, Verdict::Going);
    let system = path::LOW_VOLTAGE_SYSTEM_STATE;
    let mut events = vec![
        happens(
            "unlocked",
            &format!("{driver_door}.IsLocked"),
            Value::Bool(false),
            attended(Factor::Locked),
        ),
        happens(
            "door",
            &format!("{driver_door}.IsOpen"),
            Value::Bool(true),
            attended(Factor::Closed),
        ),
        happens(
            "seat",
            &format!("{}.OccupancyStatus", path::SEATS[0]),
            text("OCCUPIED"),
            attended(Factor::Empty),
        ),
        happens(
            "brake pedal",
            path::BRAKE_PEDAL,
            Value::Number(20.0),
            attended(Factor::PedalsFree),
        ),
        happens("accessories", system, text("ACC"), attended(Factor::AccessoriesOff)),
        happens("on", system, text("ON"), going(Factor::NotReadyToDrive)),
        happens(
            "gear",
            path::SELECTED_GEAR,
            Value::Number(127.0),
            going(Factor::HeldInPlace),
        ),
        happens("moving", path::SPEED, Value::Number(5.0), going(Factor::Stationary)),
    ];
    let moving = (path::IS_MOVING.to_owned(), Value::Bool(true));
    events[7].signals.push(moving);
    events
}

/// A car as its signals show it.
struct Seen {
    car: Car,
    snapshot: Snapshot,
}

impl Seen {
    /// Available since this moment, after a dwell of this length.
    fn available(dwell: Duration) -> Self {
        let mut car = Car::new();
        car.terms.dwell = dwell;
        let mut seen = Self {
            snapshot: parked_car(car.now),
            car,
        };
        seen.look(Duration::ZERO);
        seen.look(dwell);
        assert!(matches!(seen.car.state, State::Available { .. }));
        seen
    }

    /// Every signal is said again after so long, and judged.
    fn look(&mut self, after: Duration) -> Vec<Effect> {
        self.car.now = self.car.now + after;
        let now = self.car.now;
        let said: Vec<_> = self
            .snapshot
            .iter()
            .map(|(path, r)| (path.to_owned(), r.value.clone()))
            .collect();
        for (path, value) in said {
            self.snapshot.set(&path, value, now);
        }
        let view = View::new(&self.snapshot, now, self.car.terms.stale_after);
        let verdict = judge(&view, &self.car.terms, self.car.state.held()).verdict();
        self.car.step(Event::Judged {
            verdict,
            will: Will::Yes,
            resume_within: RESUME_WITHIN,
        })
    }

    fn sees(&mut self, after: Duration, signals: &[(String, Value)]) -> Vec<Effect> {
        for (path, value) in signals {
            self.snapshot.set(path, value.clone(), self.car.now);
        }
        self.look(after)
    }
}

/// Neither a dwell nor a level of hysteresis has anything to do with stopping: the length of the dwell changes nothing.
#[rstest]
fn each_return_event_alone_stops_work_in_the_step_that_sees_it(
    #[values(Duration::ZERO, Duration::from_mins(2), Duration::from_hours(1))] dwell: Duration,
) {
    for event in return_events() {
        let mut seen = Seen::available(dwell);
        let effects = seen.sees(Duration::ZERO, &event.signals);
        let (Verdict::Attended(factor) | Verdict::Going(factor)) = event.verdict else {
            panic!("{}: every return event is an objection", event.what)
        };
        let cause = Cause::Factor(factor);
        assert_eq!(
            effects[..2],
            [Effect::Freeze(cause), Effect::Announce],
            "{}",
            event.what
        );
        let ends = matches!(event.verdict, Verdict::Going(_));
        assert_eq!(is_leaving(&effects), ends, "{}", event.what);
        assert_eq!(matches!(seen.car.state, State::Leaving { .. }), ends, "{}", event.what);
    }
}

#[test]
fn driver_who_comes_in_the_moment_in_which_the_owner_wants_no_more_ends_work_at_once() {
    let mut car = Car::available();
    let effects = car.sees(1, DOOR, Will::No);
    let cause = Cause::Factor(Factor::Closed);
    assert!(
        is_leaving(&effects) && effects.contains(&Effect::Freeze(cause)),
        "{effects:?}"
    );
    assert!(matches!(car.state, State::Leaving { cause, .. } if cause.at_once()));
}

/// Some drivers are seen late: a door that was not locked, or a car that has no signal for it.
#[rstest]
fn return_events_in_their_order_freeze_at_the_first_and_end_work_when_the_car_is_ready_to_drive(
    #[values(0, 1, 2, 3, 4)] first: usize,
    #[values(Duration::ZERO, Duration::from_secs(20))] between: Duration,
) {
    let mut seen = Seen::available(Duration::from_mins(2));
    let mut ended = false;
    for (place, event) in return_events().iter().enumerate().skip(first) {
        let effects = seen.sees(between, &event.signals);
        assert!(!effects.contains(&Effect::Thaw), "{}", event.what);
        if place == first {
            assert!(matches!(effects[0], Effect::Freeze(_)), "{}", event.what);
            assert!(matches!(seen.car.state, State::Paused { .. }), "{}", event.what);
        } else if !ended && matches!(event.verdict, Verdict::Going(_)) {
            ended = true;
            assert!(
                matches!(effects[..], [Effect::Announce, Effect::Depart { .. }]),
                "{}: {effects:?}",
                event.what
            );
        } else if !ended {
            assert_eq!(effects, [], "{}", event.what);
            assert!(matches!(seen.car.state, State::Paused { .. }), "{}", event.what);
        } else {
            assert!(
                matches!(seen.car.state, State::Leaving { .. } | State::Away { .. }),
                "{}",
                event.what
            );
        }
    }
    assert!(ended);
}

#[test]
fn driver_who_only_fetches_something_costs_no_work() {
    let mut seen = Seen::available(Duration::from_mins(2));
    let events = return_events();
    let second = Duration::from_secs(1);
    assert!(matches!(seen.sees(second, &events[0].signals)[0], Effect::Freeze(_)));
    seen.sees(second, &events[1].signals);
    // Twenty seconds later it is locked again.
    seen.snapshot = parked_car(seen.car.now);
    assert_eq!(seen.look(Duration::from_secs(20)), []);
    assert_eq!(seen.look(Duration::from_secs(119)), []);
    assert_eq!(seen.look(second), [Effect::Thaw, Effect::Announce]);
}

#[rstest]
#[case::moving(path::IS_MOVING, Value::Bool(true))]
#[case::speed(path::SPEED, Value::Number(1.0))]
#[case::gear(path::SELECTED_GEAR, Value::Number(-1.0))]
#[case::on(path::LOW_VOLTAGE_SYSTEM_STATE, Value::Text("ON".into()))]
#[case::start(path::LOW_VOLTAGE_SYSTEM_STATE, Value::Text("START".into()))]
#[case::engine(path::ENGINE_RUNNING, Value::Bool(true))]
#[case::summoned(path::AUTONOMY_LEVEL, Value::Text("SAE_3".into()))]
#[case::battery_hot(path::BATTERY_TEMPERATURE, Value::Number(45.0))]
#[case::air_hot(path::AIR_TEMPERATURE, Value::Number(45.0))]
#[case::low(path::LOW_VOLTAGE, Value::Number(12.8))]
#[case::memory(path::MEMORY_SHORT, Value::Bool(true))]
#[case::power(path::POWER_SAVING, Value::Number(10.0))]
#[case::broken_down(path::BROKEN_DOWN, Value::Bool(true))]
#[case::updating("Vehicle.Private.ParkedCompute.IsUpdating", Value::Bool(true))]
#[case::in_service("Vehicle.Private.ParkedCompute.IsInService", Value::Bool(true))]
#[case::crashed("Vehicle.Private.ParkedCompute.HasCrashed", Value::Bool(true))]
fn what_ends_work_ends_it_at_once_whether_it_runs_or_is_frozen(#[case] path: &str, #[case] value: Value) {
    let signals = [(path.to_owned(), value)];
    let mut runs = Seen::available(Duration::from_mins(2));
    let effects = runs.sees(Duration::ZERO, &signals);
    assert!(matches!(
        effects[..],
        [Effect::Freeze(_), Effect::Announce, Effect::Depart { .. }]
    ));
    let mut frozen = Seen::available(Duration::from_mins(2));
    frozen.sees(Duration::ZERO, &return_events()[0].signals);
    let effects = frozen.sees(Duration::ZERO, &signals);
    assert!(matches!(effects[..], [Effect::Announce, Effect::Depart { .. }]));
    // And while it waits, parked again, for the dwell.
    let mut waits = Seen::available(Duration::from_mins(2));
    waits.sees(Duration::ZERO, &return_events()[0].signals);
    waits.snapshot = parked_car(waits.car.now);
    waits.look(Duration::from_secs(1));
    let effects = waits.sees(Duration::ZERO, &signals);
    assert!(matches!(effects[..], [Effect::Announce, Effect::Depart { .. }]));
}

#[test]
fn time_that_is_over_ends_frozen_work_at_its_moment() {
    let mut seen = Seen::available(Duration::from_mins(2));
    seen.sees(Duration::ZERO, &return_events()[0].signals);
    let over = seen.car.state.deadline(Will::Yes, &seen.car.terms, RESUME_WITHIN);
    assert_eq!(over, Some(seen.car.now + RESUME_WITHIN));
    assert_eq!(seen.look(RESUME_WITHIN.saturating_sub(Duration::from_millis(1))), []);
    let effects = seen.look(Duration::from_millis(1));
    let cause = Cause::PausedTooLong;
    let notice = seen.car.terms.notice;
    assert_eq!(effects, [Effect::Announce, Effect::Depart { notice, cause }]);
}

#[test]
fn car_whose_signals_fall_silent_freezes_when_they_are_as_old_as_they_may_be() {
    let seen = Seen::available(Duration::from_mins(2));
    let snapshot = seen.snapshot.clone();
    let limit = seen.car.terms.stale_after;
    assert_eq!(limit, Duration::from_secs(3));
    let at = |age: Duration| {
        let now = seen.car.now + age;
        let view = View::new(&snapshot, now, limit);
        let verdict = judge(&view, &seen.car.terms, true).verdict();
        let judged = Event::Judged {
            verdict,
            will: Will::Yes,
            resume_within: RESUME_WITHIN,
        };
        step(seen.car.state, judged, now, &seen.car.terms).1
    };
    assert_eq!(at(limit), []);
    assert!(matches!(at(limit + Duration::from_millis(1))[0], Effect::Freeze(_)));
}
