//! The machine of [`super`], driven by verdicts; `judge` has its own tests for signals.

use proptest::prelude::*;

use super::*;

mod driver_returns;
mod promises;

/// Every signal of a car that is parked, plugged in and well.
pub(crate) fn parked_car(at: Boottime) -> Snapshot {
    use signals::path;
    let mut snapshot = Snapshot::default();
    let mut set = |path: &str, value| snapshot.set(path, value, at);
    set(path::SPEED, Value::Number(0.0));
    set(path::IS_MOVING, Value::Bool(false));
    set(path::LOW_VOLTAGE_SYSTEM_STATE, Value::Text("LOCK".to_owned()));
    set(path::SELECTED_GEAR, Value::Number(126.0));
    set(path::PARK_LOCK, Value::Bool(true));
    set(path::PARKING_BRAKE, Value::Bool(true));
    set(path::BRAKE_PEDAL, Value::Number(0.0));
    for door in path::DOORS {
        set(&format!("{door}.IsOpen"), Value::Bool(false));
        set(&format!("{door}.IsLocked"), Value::Bool(true));
    }
    set(path::TRUNK_OPEN, Value::Bool(false));
    for seat in path::SEATS {
        set(&format!("{seat}.OccupancyStatus"), Value::Text("EMPTY".to_owned()));
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
    snapshot
}

/// The same, of a car that has every optional signal.
pub(crate) fn equipped_car(at: Boottime) -> Snapshot {
    use signals::path;
    let mut snapshot = parked_car(at);
    for path in Terms::default().optional() {
        let value = match path.as_str() {
            path::AUTONOMY_LEVEL => Value::Text("SAE_0".to_owned()),
            path::POWER_SAVING => Value::Number(0.0),
            _ => Value::Bool(false),
        };
        snapshot.set(&path, value, at);
    }
    snapshot.set(path::MEMORY_SHORT, Value::Bool(false), at);
    snapshot
}

const PARKED: Verdict = Verdict::Parked { may_start: true };
const DOOR: Verdict = Verdict::Attended(Factor::Closed);
const DRIVES: Verdict = Verdict::Going(Factor::Stationary);
const RESUME_WITHIN: Duration = Duration::from_mins(2);

struct Car {
    state: State,
    now: Boottime,
    terms: Terms,
}

impl Car {
    fn new() -> Self {
        Self {
            state: State::initial(),
            now: Boottime(Duration::from_secs(5)),
            terms: Terms::default(),
        }
    }

    /// A car that has been parked for the dwell.
    fn available() -> Self {
        let mut car = Self::new();
        car.sees(0, PARKED, Will::Yes);
        assert_eq!(car.sees(120, PARKED, Will::Yes), [Effect::Announce]);
        car
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        let (state, effects) = step(self.state, event, self.now, &self.terms);
        self.state = state;
        effects
    }

    fn sees(&mut self, after_seconds: u64, verdict: Verdict, will: Will) -> Vec<Effect> {
        self.now = self.now + Duration::from_secs(after_seconds);
        self.step(Event::Judged {
            verdict,
            will,
            resume_within: RESUME_WITHIN,
        })
    }
}

fn is_leaving(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Depart { .. }))
}

#[test]
fn car_parked_for_less_than_the_dwell_stays_away() {
    let mut car = Car::new();
    assert!(car.sees(0, PARKED, Will::Yes).is_empty());
    assert!(car.sees(119, PARKED, Will::Yes).is_empty());
    assert_eq!(
        car.state.deadline(Will::Yes, &car.terms, RESUME_WITHIN),
        Some(car.now + Duration::from_secs(1))
    );
    assert_eq!(car.sees(1, PARKED, Will::Yes), [Effect::Announce]);
    assert!(matches!(car.state, State::Available { .. }));
}

#[test]
fn dwell_starts_again_after_an_interruption() {
    let mut car = Car::new();
    car.sees(0, PARKED, Will::Yes);
    car.sees(100, DOOR, Will::Yes);
    car.sees(1, PARKED, Will::Yes);
    assert!(car.sees(119, PARKED, Will::Yes).is_empty());
    assert_eq!(car.sees(1, PARKED, Will::Yes), [Effect::Announce]);
}

#[test]
fn car_without_a_connection_or_a_willing_owner_stays_away() {
    for (verdict, will) in [
        (Verdict::Parked { may_start: false }, Will::Yes),
        (PARKED, Will::No),
        (PARKED, Will::Paused),
    ] {
        let mut car = Car::new();
        car.sees(0, verdict, will);
        assert!(car.sees(1000, verdict, will).is_empty());
        assert!(matches!(car.state, State::Away { .. }), "{verdict:?} {will:?}");
    }
}

#[test]
fn available_car_works_on_without_a_connection() {
    let mut car = Car::available();
    assert!(
        car.sees(3600, Verdict::Parked { may_start: false }, Will::Yes)
            .is_empty()
    );
}

#[test]
fn first_return_event_freezes_at_once() {
    let mut car = Car::available();
    let cause = Cause::Factor(Factor::Closed);
    assert_eq!(car.sees(0, DOOR, Will::Yes), [Effect::Freeze(cause), Effect::Announce]);
    assert!(car.sees(60, DOOR, Will::Yes).is_empty());
}

#[test]
fn car_parked_again_in_time_thaws_after_the_dwell() {
    let mut car = Car::available();
    car.sees(0, DOOR, Will::Yes);
    assert!(car.sees(60, PARKED, Will::Yes).is_empty());
    assert_eq!(car.sees(120, PARKED, Will::Yes), [Effect::Thaw, Effect::Announce]);
}

#[test]
fn owner_who_resumes_within_the_time_thaws_at_once_for_the_car_never_stopped_being_parked() {
    let mut car = Car::available();
    assert_eq!(
        car.sees(0, PARKED, Will::Paused),
        [Effect::Freeze(Cause::Owner), Effect::Announce]
    );
    assert_eq!(car.sees(1, PARKED, Will::Yes), [Effect::Thaw, Effect::Announce]);
}

#[test]
fn pause_longer_than_the_owner_allows_ends_work() {
    let mut car = Car::available();
    car.sees(0, PARKED, Will::Paused);
    assert!(car.sees(119, PARKED, Will::Paused).is_empty());
    assert!(is_leaving(&car.sees(1, PARKED, Will::Paused)));
}

#[test]
fn car_parked_again_at_the_last_moment_waits_out_the_dwell_and_is_given_no_second_chance() {
    let paused = |car: &mut Car| {
        car.sees(0, DOOR, Will::Yes);
        assert!(car.sees(120 - 1, PARKED, Will::Yes).is_empty());
        car.now
    };
    let mut car = Car::available();
    let again = paused(&mut car);
    assert_eq!(
        car.state.deadline(Will::Yes, &car.terms, RESUME_WITHIN),
        Some(again + car.terms.dwell)
    );
    assert!(car.sees(119, PARKED, Will::Yes).is_empty());
    assert_eq!(car.sees(1, PARKED, Will::Yes), [Effect::Thaw, Effect::Announce]);
    let mut car = Car::available();
    paused(&mut car);
    assert!(car.sees(30, PARKED, Will::Yes).is_empty());
    assert!(is_leaving(&car.sees(1, DOOR, Will::Yes)));
}

#[test]
fn car_parked_again_whose_owner_is_not_willing_yet_does_not_wait_longer() {
    let mut car = Car::available();
    car.sees(0, DOOR, Will::Paused);
    let over = car.now + RESUME_WITHIN;
    assert!(car.sees(60, PARKED, Will::Paused).is_empty());
    assert_eq!(car.state.deadline(Will::Paused, &car.terms, RESUME_WITHIN), Some(over));
    assert!(is_leaving(&car.sees(60, PARKED, Will::Paused)));
}

#[test]
fn owner_who_lets_nothing_wait_ends_work_at_the_next_look() {
    let mut car = Car::available();
    let judged = |verdict| Event::Judged {
        verdict,
        will: Will::Yes,
        resume_within: Duration::ZERO,
    };
    assert_eq!(car.step(judged(DOOR))[0], Effect::Freeze(Cause::Factor(Factor::Closed)));
    assert_eq!(car.state.deadline(Will::Yes, &car.terms, Duration::ZERO), Some(car.now));
    assert!(is_leaving(&car.step(judged(DOOR))));
}

#[test]
fn drive_off_without_a_pause_ends_work() {
    let mut car = Car::available();
    let cause = Cause::Factor(Factor::Stationary);
    let notice = car.terms.notice;
    assert_eq!(
        car.sees(0, DRIVES, Will::Yes),
        [
            Effect::Freeze(cause),
            Effect::Announce,
            Effect::Depart { notice, cause }
        ]
    );
    assert_eq!(car.step(Event::Cleared), [Effect::Announce]);
    assert_eq!(car.state, State::Away { parked_since: None });
}

#[test]
fn drive_off_after_a_pause_ends_work() {
    let mut car = Car::available();
    car.sees(0, DOOR, Will::Yes);
    assert!(is_leaving(&car.sees(5, DRIVES, Will::Yes)));
}

fn ends_at_once(car: &Car) -> bool {
    let State::Leaving { cause, .. } = car.state else {
        panic!("the car does not leave: {:?}", car.state);
    };
    cause.at_once()
}

#[test]
fn withdrawal_ends_work_in_good_order_while_nobody_is_there() {
    let mut car = Car::available();
    assert!(is_leaving(&car.sees(0, PARKED, Will::No)));
    assert!(!ends_at_once(&car));
    assert!(car.sees(1, PARKED, Will::No).is_empty());
    let until = car.state.deadline(Will::No, &car.terms, RESUME_WITHIN);
    assert!(is_leaving(&car.sees(1, DOOR, Will::No)), "somebody comes");
    assert!(ends_at_once(&car));
    assert_eq!(
        car.state.deadline(Will::No, &car.terms, RESUME_WITHIN),
        until,
        "nobody gets more time"
    );
    assert!(car.sees(1, PARKED, Will::No).is_empty(), "nor anything back");
    assert!(ends_at_once(&car));
}

#[test]
fn whoever_is_at_the_car_ends_work_at_once_whatever_ends_it() {
    let frozen = |first: Will, verdict: Verdict, last: Will| {
        let mut car = Car::available();
        car.sees(0, if first == Will::Yes { DOOR } else { PARKED }, first);
        assert!(
            is_leaving(&car.sees(1, verdict, last)),
            "{first:?} {verdict:?} {last:?}"
        );
        ends_at_once(&car)
    };
    assert!(frozen(Will::Yes, DOOR, Will::No));
    assert!(frozen(Will::Yes, DRIVES, Will::Yes));
    assert!(frozen(Will::Paused, DOOR, Will::No));
    assert!(!frozen(Will::Paused, PARKED, Will::No), "nobody is there");
    let mut car = Car::available();
    car.sees(0, DOOR, Will::Yes);
    car.sees(120, DOOR, Will::Yes);
    assert!(ends_at_once(&car), "it waited too long");
}

#[test]
fn leaving_ends_with_the_notice_even_if_something_does_not_stop() {
    let mut car = Car::available();
    car.sees(0, DRIVES, Will::Yes);
    assert!(car.sees(9, DRIVES, Will::Yes).is_empty());
    assert_eq!(car.sees(1, DRIVES, Will::Yes), [Effect::Announce]);
    assert_eq!(car.state, State::Away { parked_since: None });
}

#[test]
fn cleared_changes_nothing_while_the_car_does_not_leave() {
    let mut car = Car::available();
    let before = car.state;
    assert!(car.step(Event::Cleared).is_empty());
    assert_eq!(car.state, before);
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        4 => Just(PARKED),
        1 => Just(Verdict::Parked { may_start: false }),
        2 => Just(DOOR),
        1 => Just(DRIVES),
    ]
}

proptest! {
    #[test]
    fn work_goes_on_only_while_parked_and_willing_and_starts_at_most_once_per_dwell(
        steps in prop::collection::vec(
            (0_u64..90, verdicts(), prop_oneof![4 => Just(Will::Yes), 1 => Just(Will::Paused), 1 => Just(Will::No)], any::<bool>()),
            1..200,
        )
    ) {
        let mut car = Car::new();
        let mut last_interruption = Boottime::default();
        for (after, verdict, will, cleared) in steps {
            let effects = car.sees(after, verdict, will);
            let parked = matches!(verdict, Verdict::Parked { .. });
            if !parked {
                last_interruption = car.now;
            }
            if let State::Available { .. } = car.state {
                prop_assert!(parked && will == Will::Yes);
                if effects.contains(&Effect::Announce) {
                    prop_assert!(car.now.since(last_interruption) >= car.terms.dwell || effects.contains(&Effect::Thaw));
                    prop_assert!(car.now.since(last_interruption) >= car.terms.dwell);
                }
            }
            if cleared {
                car.step(Event::Cleared);
            }
        }
    }
}
