//! One signal after another against a car that is parked; [`crate::parked::tests`] has the machine.

use rstest::rstest;

use super::*;
use crate::clock::Boottime;
use crate::parked::signals::{Snapshot, Value};
use crate::parked::tests::{equipped_car, parked_car};

const NOW: Boottime = Boottime(Duration::from_secs(1000));

fn judged(change: impl FnOnce(&mut Snapshot), held: bool) -> (Tri, Verdict) {
    judged_of(parked_car(NOW), change, held)
}

fn judged_of(mut snapshot: Snapshot, change: impl FnOnce(&mut Snapshot), held: bool) -> (Tri, Verdict) {
    let terms = Terms::default();
    change(&mut snapshot);
    let judgement = judge(&View::new(&snapshot, NOW, terms.stale_after), &terms, held);
    (judgement.parked(), judgement.verdict())
}

#[test]
fn parked_car_is_parked() {
    let parked = (Tri::Yes, Verdict::Parked { may_start: true });
    assert_eq!(judged(|_| {}, false), parked, "and has never said an optional signal");
    assert_eq!(judged_of(equipped_car(NOW), |_| {}, false), parked);
}

#[rstest]
#[case::speed(path::SPEED, Value::Number(3.0), Verdict::Going(Factor::Stationary))]
#[case::reversing(path::SPEED, Value::Number(-3.0), Verdict::Going(Factor::Stationary))]
#[case::moving(path::IS_MOVING, Value::Bool(true), Verdict::Going(Factor::Stationary))]
#[case::on(path::LOW_VOLTAGE_SYSTEM_STATE, Value::Text("ON".into()), Verdict::Going(Factor::NotReadyToDrive))]
#[case::start(path::LOW_VOLTAGE_SYSTEM_STATE, Value::Text("START".into()), Verdict::Going(Factor::NotReadyToDrive))]
#[case::drive(path::SELECTED_GEAR, Value::Number(127.0), Verdict::Going(Factor::HeldInPlace))]
#[case::reverse(path::SELECTED_GEAR, Value::Number(-1.0), Verdict::Going(Factor::HeldInPlace))]
#[case::hot(path::BATTERY_TEMPERATURE, Value::Number(46.0), Verdict::Going(Factor::Cool))]
#[case::low(path::LOW_VOLTAGE, Value::Number(12.2), Verdict::Going(Factor::Supplied))]
#[case::unlocked(
    "Vehicle.Cabin.Door.Row1.DriverSide.IsLocked",
    Value::Bool(false),
    Verdict::Attended(Factor::Locked)
)]
#[case::open(
    "Vehicle.Cabin.Door.Row2.PassengerSide.IsOpen",
    Value::Bool(true),
    Verdict::Attended(Factor::Closed)
)]
#[case::trunk(path::TRUNK_OPEN, Value::Bool(true), Verdict::Attended(Factor::Closed))]
#[case::sitting("Vehicle.Cabin.Seat.Row1.DriverSide.OccupancyStatus", Value::Text("OCCUPIED".into()), Verdict::Attended(Factor::Empty))]
#[case::seat_unknown("Vehicle.Cabin.Seat.Row2.Middle.OccupancyStatus", Value::Text("UNKNOWN".into()), Verdict::Attended(Factor::Empty))]
#[case::brake(path::BRAKE_PEDAL, Value::Number(12.0), Verdict::Attended(Factor::PedalsFree))]
#[case::accessories(path::LOW_VOLTAGE_SYSTEM_STATE, Value::Text("ACC".into()), Verdict::Attended(Factor::AccessoriesOff))]
#[case::undefined(path::LOW_VOLTAGE_SYSTEM_STATE, Value::Text("UNDEFINED".into()), Verdict::Attended(Factor::NotReadyToDrive))]
#[case::front_trunk(path::FRONT_TRUNK_OPEN, Value::Bool(true), Verdict::Attended(Factor::Closed))]
#[case::hood(path::HOOD_OPEN, Value::Bool(true), Verdict::Attended(Factor::Closed))]
#[case::belted(path::DRIVER_BELTED, Value::Bool(true), Verdict::Attended(Factor::Empty))]
#[case::engine(path::ENGINE_RUNNING, Value::Bool(true), Verdict::Going(Factor::NotReadyToDrive))]
#[case::summoned(path::AUTONOMY_LEVEL, Value::Text("SAE_4".into()), Verdict::Going(Factor::NotDrivingItself))]
#[case::disengaging(path::AUTONOMY_LEVEL, Value::Text("SAE_2_DISENGAGING".into()), Verdict::Going(Factor::NotDrivingItself))]
#[case::autonomy_unknown(path::AUTONOMY_LEVEL, Value::Text("UNSPECIFIED".into()), Verdict::Attended(Factor::NotDrivingItself))]
#[case::broken_down(path::BROKEN_DOWN, Value::Bool(true), Verdict::Going(Factor::NotBrokenDown))]
#[case::updating(
    "Vehicle.Private.ParkedCompute.IsUpdating",
    Value::Bool(true),
    Verdict::Going(Factor::NotUpdating)
)]
#[case::in_service(
    "Vehicle.Private.ParkedCompute.IsInService",
    Value::Bool(true),
    Verdict::Going(Factor::NotInService)
)]
#[case::crashed(
    "Vehicle.Private.ParkedCompute.HasCrashed",
    Value::Bool(true),
    Verdict::Going(Factor::NotCrashed)
)]
#[case::memory(path::MEMORY_SHORT, Value::Bool(true), Verdict::Going(Factor::MemoryFree))]
#[case::saves_power(path::POWER_SAVING, Value::Number(1.0), Verdict::Parked { may_start: false })]
#[case::saves_more(path::POWER_SAVING, Value::Number(9.0), Verdict::Parked { may_start: false })]
#[case::saves_all_power(path::POWER_SAVING, Value::Number(10.0), Verdict::Going(Factor::PowerToRun))]
#[case::wrong_type(path::HOOD_OPEN, Value::Text("false".into()), Verdict::Attended(Factor::Closed))]
#[case::offline(path::CONNECTIVITY, Value::Bool(false), Verdict::Parked { may_start: false })]
fn one_signal_that_says_no_decides(#[case] path: &str, #[case] value: Value, #[case] expected: Verdict) {
    for car in [parked_car(NOW), equipped_car(NOW)] {
        let judged = judged_of(car, |snapshot| snapshot.set(path, value.clone(), NOW), true);
        assert_eq!(judged.1, expected);
    }
}

/// Before [`NOW`], and longer than any signal counts.
fn stale() -> Boottime {
    Boottime(
        NOW.0
            .saturating_sub(Terms::default().stale_after + Duration::from_millis(1)),
    )
}

#[test]
fn every_signal_of_a_parked_car_that_is_missing_or_stale_means_not_parked() {
    let holding = [path::SELECTED_GEAR, path::PARK_LOCK, path::PARKING_BRAKE];
    let pedals = [path::BRAKE_PEDAL, path::ACCELERATOR_PEDAL];
    let car: Vec<_> = equipped_car(NOW)
        .iter()
        .map(|(path, reading)| (path.to_owned(), reading.value.clone()))
        .collect();
    for (path, value) in car {
        // What only the owner's terms read is judged there.
        let owners = path == path::CHARGE || path.starts_with(path::CHARGING_PORTS);
        if owners || holding.contains(&path.as_str()) || pedals.contains(&path.as_str()) {
            continue;
        }
        for held in [false, true] {
            let gone = judged_of(equipped_car(NOW), |car| car.remove(&path), held);
            assert_ne!(gone.1, Verdict::Parked { may_start: true }, "{path} is missing");
            let old = judged_of(equipped_car(NOW), |car| car.set(&path, value.clone(), stale()), held);
            assert_ne!(old.1, Verdict::Parked { may_start: true }, "{path} is stale");
        }
    }
    let none = judged(|snapshot| holding.iter().for_each(|path| snapshot.remove(path)), false);
    assert_eq!(none, (Tri::Unknown, Verdict::Attended(Factor::HeldInPlace)));
}

#[test]
fn optional_signal_is_unknown_when_it_is_silent_if_it_was_said_remembered_or_promised() {
    let never = Terms::default();
    let mut all: Vec<_> = never.optional().collect();
    assert_eq!(all.len(), 10);
    all.push(path::MEMORY_SHORT.to_owned());
    for path in all {
        let parked =
            |car: &Snapshot, terms: &Terms| judge(&View::new(car, NOW, terms.stale_after), terms, true).verdict();
        let yes = Verdict::Parked { may_start: true };
        let mut car = parked_car(NOW);
        car.remove(&path);
        assert_eq!(parked(&car, &never), yes, "{path} was never said");
        let promised = Terms {
            has: vec![path.clone()],
            ..Terms::default()
        };
        assert_ne!(parked(&car, &promised), yes, "{path} is promised");
        car.remember(&path);
        assert_ne!(parked(&car, &never), yes, "{path} was said in another life");
        // The last word was an objection, and whoever said it has died: also when the broker has forgotten it.
        let mut car = parked_car(NOW);
        car.set(&path, Value::Bool(true), stale());
        assert_ne!(parked(&car, &never), yes, "{path} is stale");
        car.remove(&path);
        assert_ne!(parked(&car, &never), yes, "{path} is forgotten");
    }
}

#[test]
fn pedals_may_be_silent_unless_they_are_promised() {
    for pedal in [path::BRAKE_PEDAL, path::ACCELERATOR_PEDAL] {
        let silent = |car: &mut Snapshot| car.remove(pedal);
        assert_eq!(judged(silent, true).1, Verdict::Parked { may_start: true });
        let terms = Terms {
            has: vec![pedal.to_owned()],
            ..Terms::default()
        };
        let mut car = parked_car(NOW);
        silent(&mut car);
        let judgement = judge(&View::new(&car, NOW, terms.stale_after), &terms, true);
        assert_eq!(judgement.verdict(), Verdict::Attended(Factor::PedalsFree));
    }
}

#[test]
fn maker_has_the_overlay_in_a_branch_of_its_own() {
    let terms = Terms {
        overlay: "Vehicle.Acme".to_owned(),
        ..Terms::default()
    };
    let mut car = parked_car(NOW);
    car.set("Vehicle.Acme.IsUpdating", Value::Bool(true), NOW);
    let judgement = judge(&View::new(&car, NOW, terms.stale_after), &terms, true);
    assert_eq!(judgement.verdict(), Verdict::Going(Factor::NotUpdating));
    assert!(terms.optional().any(|path| path == "Vehicle.Acme.HasCrashed"));
}

#[test]
fn judgement_has_every_factor_in_its_order_and_words_for_each() {
    let factors: Vec<_> = judge(
        &View::new(&parked_car(NOW), NOW, Terms::default().stale_after),
        &Terms::default(),
        false,
    )
    .0
    .into_iter()
    .map(|(factor, _)| factor)
    .collect();
    assert_eq!(factors, Factor::ALL);
    assert!(factors.is_sorted());
    let words: std::collections::BTreeSet<_> = factors.iter().map(|factor| factor.describe()).collect();
    assert_eq!(words.len(), factors.len());
}

#[test]
fn engaged_gear_with_the_brake_on_is_going() {
    let verdict = judged(
        |snapshot| {
            snapshot.set(path::PARKING_BRAKE, Value::Bool(true), NOW);
            snapshot.set(path::SELECTED_GEAR, Value::Number(127.0), NOW);
        },
        true,
    );
    assert_eq!(verdict.1, Verdict::Going(Factor::HeldInPlace));
}

#[test]
fn neutral_with_the_brake_on_is_held() {
    let verdict = judged(
        |snapshot| {
            snapshot.set(path::PARK_LOCK, Value::Bool(false), NOW);
            snapshot.set(path::PARKING_BRAKE, Value::Bool(true), NOW);
            snapshot.set(path::SELECTED_GEAR, Value::Number(0.0), NOW);
        },
        true,
    );
    assert_eq!(verdict.1, Verdict::Parked { may_start: true });
}

#[test]
fn value_between_the_two_levels_keeps_what_was() {
    for (path, value) in [(path::LOW_VOLTAGE, 13.0), (path::BATTERY_TEMPERATURE, 42.0)] {
        let between = |snapshot: &mut Snapshot| snapshot.set(path, Value::Number(value), NOW);
        assert_eq!(
            judged(between, true).1,
            Verdict::Parked { may_start: true },
            "{path} held"
        );
        assert!(matches!(judged(between, false).1, Verdict::Going(_)), "{path} not held");
    }
}

#[test]
fn movement_goes_before_an_open_door() {
    let verdict = judged(
        |snapshot| {
            snapshot.set("Vehicle.Cabin.Door.Row1.DriverSide.IsOpen", Value::Bool(true), NOW);
            snapshot.set(path::IS_MOVING, Value::Bool(true), NOW);
        },
        true,
    );
    assert_eq!(verdict.1, Verdict::Going(Factor::Stationary));
}

#[rstest]
#[case::gear(path::SELECTED_GEAR, 127.0, 126.0, Factor::HeldInPlace)]
#[case::brake_pedal(path::BRAKE_PEDAL, 30.0, 0.0, Factor::PedalsFree)]
#[case::accelerator(path::ACCELERATOR_PEDAL, 4.0, 0.0, Factor::PedalsFree)]
fn last_word_of_a_driver_holds_until_there_is_another(
    #[case] path: &str,
    #[case] driven: f64,
    #[case] free: f64,
    #[case] factor: Factor,
) {
    for held in [false, true] {
        let silent = judged_of(
            equipped_car(NOW),
            |car| car.set(path, Value::Number(driven), stale()),
            held,
        );
        assert_eq!(
            silent.1,
            Verdict::Attended(factor),
            "it fell silent with a driver at it"
        );
        let free = judged_of(
            equipped_car(NOW),
            |car| car.set(path, Value::Number(free), stale()),
            held,
        );
        assert_ne!(free.1, Verdict::Attended(factor), "it fell silent with nobody at it");
    }
}
