//! Who may come, what is written when, and what goes.

use kerbside_api::v1alpha1::Known;
use prost::Message as _;

use super::*;
use crate::proto::value::Value as Said;
use crate::proto::{Datum, Field, Moment, Payload, Value};

const START: Boottime = Boottime(Duration::from_secs(100_000));
const AGES: Ages = Ages {
    stale_after: Duration::from_mins(15),
    publish_every: Duration::from_mins(5),
    retain_for: Duration::from_hours(72),
};

fn id(letter: char) -> VehicleId {
    format!("car-{}", String::from(letter).repeat(16)).parse().unwrap()
}

/// So many seconds after the start.
fn at(seconds: u64) -> (Boottime, Timestamp) {
    let start: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
    let wall = start + jiff::SignedDuration::from_secs(i64::try_from(seconds).unwrap());
    (START + Duration::from_secs(seconds), wall)
}

fn cars(letters: &str) -> Cars {
    let cars = Cars::new(AGES);
    cars.allow(letters.chars().map(id).collect());
    cars
}

fn says_charge(cars: &Cars, letter: char, percent: f64, seconds: u64) {
    let created = at(seconds).1;
    let payload = Payload {
        data: vec![Datum {
            key: i32::from(Field::BatteryLevel),
            value: Some(Value {
                value: Some(Said::LongReal(percent)),
            }),
        }],
        created_at: Some(Moment {
            seconds: created.as_second(),
            nanos: 0,
        }),
    };
    assert_eq!(cars.hear(&id(letter), &payload.encode_to_vec(), at(seconds)), Ok(1));
}

/// What would be written: the car, and its band of charge.
fn publishes(cars: &Cars, seconds: u64, room: usize) -> Vec<(VehicleId, Option<u32>)> {
    let work = cars.work(at(seconds), room);
    let band = |work| match work {
        Work::Publish { id, says, .. } => (id, says.charge.map(u32::from)),
        Work::Delete { .. } => panic!("nothing should go: {work:?}"),
    };
    work.into_iter().map(band).collect()
}

/// As the publisher does when the API server took it.
fn carry_out(cars: &Cars, seconds: u64) {
    for work in cars.work(at(seconds), usize::MAX) {
        match work {
            Work::Publish { id, says, .. } => cars.published(&id, format!("uid-{id}"), says, at(seconds).0),
            Work::Delete { id, .. } => cars.absent(&id),
        }
    }
}

#[test]
fn car_that_is_not_on_the_list_is_not_let_in() {
    let cars = cars("a");
    assert!(cars.connect(&id('b'), START).is_none());
    assert!(cars.connect(&id('a'), START).is_some());
}

#[test]
fn newest_connection_of_a_car_ends_the_one_before() {
    let cars = cars("a");
    let first = cars.connect(&id('a'), START).unwrap();
    let second = cars.connect(&id('a'), START).unwrap();
    assert!(first.is_cancelled() && !second.is_cancelled());
}

#[test]
fn car_is_shown_when_it_says_something_and_then_only_when_that_changes() {
    let cars = cars("a");
    cars.connect(&id('a'), START).unwrap();
    assert_eq!(publishes(&cars, 0, 9), [], "it has said nothing yet");
    says_charge(&cars, 'a', 71.0, 1);
    assert_eq!(publishes(&cars, 1, 9), [(id('a'), Some(60))]);
    carry_out(&cars, 1);
    says_charge(&cars, 'a', 65.0, 400);
    assert_eq!(publishes(&cars, 400, 9), [], "the same band");
    says_charge(&cars, 'a', 55.0, 500);
    assert_eq!(publishes(&cars, 500, 9), [(id('a'), Some(40))]);
}

#[test]
fn car_is_written_at_most_once_in_its_time_and_then_with_what_is_true() {
    let cars = cars("a");
    cars.connect(&id('a'), START).unwrap();
    says_charge(&cars, 'a', 71.0, 0);
    carry_out(&cars, 0);
    for (seconds, percent) in [(10, 50.0), (20, 30.0), (30, 10.0)] {
        says_charge(&cars, 'a', percent, seconds);
        assert_eq!(publishes(&cars, seconds, 9), []);
    }
    assert_eq!(
        publishes(&cars, 300, 9),
        [(id('a'), Some(0))],
        "nothing waited but the newest"
    );
}

#[test]
fn what_was_not_taken_is_tried_again_and_who_waits_longest_comes_first() {
    let cars = cars("abc");
    for (letter, seconds) in [('a', 0), ('b', 1)] {
        cars.connect(&id(letter), START).unwrap();
        says_charge(&cars, letter, 71.0, seconds);
        carry_out(&cars, seconds);
    }
    cars.connect(&id('c'), START).unwrap();
    for letter in ['b', 'a', 'c'] {
        says_charge(&cars, letter, 10.0, 600);
    }
    let first: Vec<_> = publishes(&cars, 600, 2).into_iter().map(|(id, _)| id).collect();
    assert_eq!(first, [id('c'), id('a')], "one that was never shown, then the oldest");
    assert_eq!(
        publishes(&cars, 601, 1),
        [(id('b'), Some(0))],
        "who was not tried comes before who was"
    );
    assert_eq!(publishes(&cars, 602, 9).len(), 3);
}

#[test]
fn silent_car_is_unknown_first_and_goes_after_its_time() {
    let cars = cars("a");
    let connection = cars.connect(&id('a'), START).unwrap();
    says_charge(&cars, 'a', 71.0, 0);
    carry_out(&cars, 0);
    connection.cancel();
    let work = cars.work(at(1000), 9);
    let unknown = Work::Publish {
        id: id('a'),
        uid: Some(format!("uid-{}", id('a'))),
        says: Telemetry::default(),
    };
    assert_eq!(work, [unknown]);
    carry_out(&cars, 1000);
    let (last, over) = (72 * 3600, 72 * 3600 + 1);
    assert_eq!(cars.work(at(last), 9), []);
    let gone = Work::Delete {
        id: id('a'),
        uid: format!("uid-{}", id('a')),
    };
    assert_eq!(cars.work(at(over), 9), [gone]);
    carry_out(&cars, over);
    assert_eq!(cars.work(at(over + 1), 9), [], "it is forgotten");
}

#[test]
fn car_that_was_taken_off_the_list_is_sent_away_and_its_vehicle_goes() {
    let cars = cars("ab");
    let connection = cars.connect(&id('a'), START).unwrap();
    says_charge(&cars, 'a', 71.0, 0);
    carry_out(&cars, 0);
    cars.allow([id('b')].into());
    assert!(connection.is_cancelled());
    let gone = Work::Delete {
        id: id('a'),
        uid: format!("uid-{}", id('a')),
    };
    assert_eq!(cars.work(at(1), 9), [gone]);
    carry_out(&cars, 1);
    assert_eq!(cars.work(at(2), 9), []);
}

#[test]
fn vehicle_that_was_written_while_its_car_was_taken_off_the_list_goes_too() {
    let cars = cars("a");
    cars.connect(&id('a'), START).unwrap();
    says_charge(&cars, 'a', 71.0, 0);
    assert_eq!(publishes(&cars, 0, 9).len(), 1);
    cars.allow(HashSet::new());
    cars.published(&id('a'), "late".to_owned(), Telemetry::default(), START);
    let gone = Work::Delete {
        id: id('a'),
        uid: "late".to_owned(),
    };
    assert_eq!(cars.work(at(1), 9), [gone]);
}

/// Also all of them, when the key is another.
#[test]
fn vehicles_of_an_earlier_life_stay_if_they_are_the_fleets_and_go_if_not() {
    let cars = cars("a");
    let says = Telemetry {
        parked: Known::True,
        ..Telemetry::default()
    };
    cars.found(id('a'), "mine".to_owned(), Some(says), START);
    cars.found(id('b'), "other".to_owned(), Some(says), START);
    let gone = Work::Delete {
        id: id('b'),
        uid: "other".to_owned(),
    };
    assert_eq!(cars.work(at(0), 9), std::slice::from_ref(&gone));
    let unknown = Work::Publish {
        id: id('a'),
        uid: Some("mine".to_owned()),
        says: Telemetry::default(),
    };
    assert_eq!(cars.work(at(300), 9), [gone, unknown], "nobody has spoken for it since");
}

#[test]
fn vehicle_that_somebody_deleted_is_made_again() {
    let cars = cars("a");
    cars.connect(&id('a'), START).unwrap();
    says_charge(&cars, 'a', 71.0, 0);
    carry_out(&cars, 0);
    cars.absent(&id('a'));
    assert_eq!(publishes(&cars, 1, 9), [(id('a'), Some(60))]);
}
