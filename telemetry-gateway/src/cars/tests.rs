//! Who may come, what is written when, and what goes.

use std::sync::LazyLock;

use kerbside_api::v1alpha1::Known;
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::proto::value::Value as Word;
use crate::proto::{Datum, Field, Moment, Payload, Value};
use crate::pseudonym::Pseudonyms;

const START: Boottime = Boottime(Duration::from_secs(100_000));
const EVERY: Duration = Duration::from_mins(5);
const AGES: Ages = Ages {
    stale_after: Duration::from_mins(15),
    good_for: Duration::from_hours(1),
    retain_for: Duration::from_hours(72),
};

fn id(letter: char) -> VehicleId {
    format!("car-{}", String::from(letter).repeat(16)).parse().unwrap()
}

fn slots() -> Slots {
    Pseudonyms::new(&[7; 32]).unwrap().slots(EVERY)
}

/// A slot of the car `a`, which is where the tests begin.
static BEGINNING: LazyLock<Timestamp> = LazyLock::new(|| {
    let noon: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
    slots().newest(&id('a'), noon)
});

/// So many milliseconds after it.
fn at_ms(millis: u64) -> (Boottime, Timestamp) {
    let wall = *BEGINNING + SignedDuration::from_millis(i64::try_from(millis).unwrap());
    (START + Duration::from_millis(millis), wall)
}

fn at(seconds: u64) -> (Boottime, Timestamp) {
    at_ms(seconds * 1000)
}

/// Of these cars, each connected.
fn cars(letters: &str) -> Cars {
    let cars = Cars::new(AGES, slots());
    cars.allow(letters.chars().map(id).collect(), at(0));
    for letter in letters.chars() {
        cars.connect(&id(letter), at(0)).unwrap();
    }
    cars
}

fn payload(created: Timestamp, percent: f64) -> Vec<u8> {
    let payload = Payload {
        data: vec![Datum {
            key: i32::from(Field::BatteryLevel),
            value: Some(Value {
                value: Some(Word::LongReal(percent)),
            }),
        }],
        created_at: Some(Moment {
            seconds: created.as_second(),
            nanos: created.subsec_nanosecond(),
        }),
    };
    payload.encode_to_vec()
}

fn says_charge(cars: &Cars, letter: char, percent: f64, seconds: u64) {
    let message = payload(at(seconds).1, percent);
    assert_eq!(cars.hear(&id(letter), &message, at(seconds)), Ok(1));
}

fn gone(letter: char, uid: &str) -> Work {
    Work::Delete {
        id: id(letter),
        uid: uid.to_owned(),
    }
}

fn uid(id: &VehicleId) -> String {
    format!("uid-{id}")
}

/// Does all that there is to do, as the publisher does when the API server takes it; what Vehicles were made to say.
fn carry_out(cars: &Cars, now: (Boottime, Timestamp)) -> Vec<(VehicleId, Said)> {
    let mut said = Vec::new();
    loop {
        let work = cars.work(now, usize::MAX);
        if work.is_empty() {
            return said;
        }
        for work in work {
            match work {
                Work::Make { id } => cars.made(&id, uid(&id)),
                Work::Publish { id, uid, says } => {
                    cars.published(&id, uid, says);
                    said.push((id, says));
                }
                Work::Delete { id, .. } => cars.absent(&id),
            }
        }
    }
}

/// What was written of a band of charge.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    Nothing,
    Unknown,
    Band(u32),
}

/// As above: the band of charge of the one car that says something.
fn band(cars: &Cars, seconds: u64) -> Written {
    let said = carry_out(cars, at(seconds));
    assert!(said.len() <= 1, "{said:?}");
    match said.first() {
        None => Written::Nothing,
        Some((_, says)) => says
            .telemetry
            .charge
            .map_or(Written::Unknown, |band| Written::Band(u32::from(band))),
    }
}

#[test]
fn car_that_is_not_on_the_list_is_not_let_in() {
    let cars = cars("a");
    assert!(cars.connect(&id('b'), at(0)).is_none());
    assert!(cars.connect(&id('a'), at(0)).is_some());
}

#[test]
fn newest_connection_of_a_car_ends_the_one_before() {
    let cars = cars("a");
    let first = cars.connect(&id('a'), at(0)).unwrap();
    let second = cars.connect(&id('a'), at(0)).unwrap();
    assert!(first.is_cancelled() && !second.is_cancelled());
}

/// A car that stood for an hour, and then its driver comes: nobody sees it before the next slot.
#[test]
fn car_is_written_at_its_slots_only_and_then_with_what_was_true_there() {
    let cars = cars("a");
    says_charge(&cars, 'a', 71.0, 1);
    assert_eq!(band(&cars, 299), Written::Nothing, "it has not come to a slot yet");
    assert_eq!(band(&cars, 300), Written::Band(60));
    says_charge(&cars, 'a', 65.0, 400);
    assert_eq!(band(&cars, 700), Written::Nothing, "the same band");
    for (seconds, percent) in [(1201, 50.0), (1300, 30.0), (1499, 10.0)] {
        says_charge(&cars, 'a', percent, seconds);
        assert_eq!(
            band(&cars, seconds),
            Written::Nothing,
            "after an hour as well as after a second"
        );
    }
    // What comes after the slot and before the look is of the next slot.
    says_charge(&cars, 'a', 90.0, 1501);
    assert_eq!(band(&cars, 1502), Written::Band(0));
    assert_eq!(band(&cars, 1800), Written::Band(80));
}

#[test]
fn vehicle_is_made_first_and_each_write_is_work_of_its_own() {
    let cars = cars("a");
    says_charge(&cars, 'a', 71.0, 1);
    let make = Work::Make { id: id('a') };
    assert_eq!(cars.work(at(300), 9), [make]);
    cars.made(&id('a'), "mine".to_owned());
    let work = cars.work(at(301), 9);
    let [Work::Publish { uid, says, .. }] = &work[..] else {
        panic!("it should say something: {work:?}");
    };
    assert_eq!(
        (uid.as_str(), says.good_until),
        ("mine", Some(at(300 + 3600).1)),
        "the time is the slot's"
    );
}

#[test]
fn what_a_vehicle_says_is_said_anew_before_it_is_good_no_more() {
    let cars = cars("a");
    let mut writes = Vec::new();
    for seconds in 0..7200 {
        if seconds % 300 == 7 {
            says_charge(&cars, 'a', 71.0, seconds);
        }
        if let Some((_, says)) = carry_out(&cars, at(seconds)).pop() {
            writes.push((seconds, says.good_until));
        }
    }
    let want = [300, 2100, 3900, 5700].map(|seconds| (seconds, Some(at(seconds + 3600).1)));
    assert_eq!(writes, want);
}

#[test]
fn what_was_not_taken_is_tried_again_and_who_waits_longest_comes_first() {
    let cars = cars("abc");
    for letter in ['a', 'b', 'c'] {
        says_charge(&cars, letter, 71.0, 1);
    }
    // All have come to a slot by then, each to its own.
    let first: Vec<_> = cars.work(at(599), 2).iter().map(|work| work.id().clone()).collect();
    let mut by_slot = ['a', 'b', 'c'].map(id);
    by_slot.sort_by_key(|id| slots().newest(id, at(599).1));
    assert_eq!(first, by_slot[..2], "the oldest slot comes first");
    let second: Vec<_> = cars.work(at(599), 1).iter().map(|work| work.id().clone()).collect();
    assert_eq!(second, by_slot[2..], "who was not tried comes before who was");
    assert_eq!(cars.work(at(599), 9).len(), 3);
}

#[test]
fn what_is_refused_waits_longer_each_time_and_keeps_nobody_waiting() {
    let cars = cars("b");
    for letter in ['x', 'y'] {
        cars.found(id(letter), uid(&id(letter)), None, at(0));
    }
    says_charge(&cars, 'b', 71.0, 1);
    let first = cars.work(at(600), 2);
    assert_eq!(first.len(), 2);
    for work in &first {
        assert!(matches!(work, Work::Delete { .. }), "{work:?}");
        cars.refused(work.id(), at(600).0);
    }
    assert_eq!(
        cars.work(at(601), 2),
        [Work::Make { id: id('b') }],
        "their rate is its own now"
    );
    cars.made(&id('b'), "mine".to_owned());
    carry_out_of(&cars, 'b', at(601));
    assert_eq!(cars.work(at(609), 9), []);
    assert_eq!(cars.work(at(610), 9).len(), 2, "they are tried again after 10 s");
    for work in &first {
        cars.refused(work.id(), at(610).0);
    }
    assert_eq!(cars.work(at(629), 9), []);
    assert_eq!(cars.work(at(630), 9).len(), 2, "and then after 20");
}

/// Only what one car is to say.
fn carry_out_of(cars: &Cars, letter: char, now: (Boottime, Timestamp)) {
    for work in cars.work(now, usize::MAX) {
        if let Work::Publish { id: of, uid, says } = work
            && of == id(letter)
        {
            cars.published(&of, uid, says);
        }
    }
}

#[test]
fn silent_car_is_unknown_at_a_slot_and_goes_at_one_after_its_time() {
    let cars = cars("a");
    let connection = cars.connect(&id('a'), at(0)).unwrap();
    says_charge(&cars, 'a', 71.0, 10);
    assert_eq!(band(&cars, 300), Written::Band(60));
    connection.cancel();
    assert_eq!(band(&cars, 1199), Written::Nothing, "its word is old since 910");
    let unknown = vec![(id('a'), Said::default())];
    assert_eq!(carry_out(&cars, at(1200)), unknown);
    let day = 24 * 3600;
    assert_eq!(
        cars.work(at(3 * day + 299), 9),
        [],
        "and nothing is said anew of it, for it holds"
    );
    assert_eq!(cars.work(at(3 * day + 300), 9), [gone('a', &uid(&id('a')))]);
    carry_out(&cars, at(3 * day + 300));
    assert_eq!(cars.work(at(3 * day + 600), 9), [], "it is forgotten");
}

#[test]
fn car_that_was_taken_off_the_list_is_sent_away_and_its_vehicle_goes_at_its_slot() {
    let cars = cars("ab");
    let connection = cars.connect(&id('a'), at(0)).unwrap();
    says_charge(&cars, 'a', 71.0, 1);
    carry_out(&cars, at(300));
    cars.allow([id('b')].into(), at(310));
    assert!(connection.is_cancelled());
    assert_eq!(cars.work(at(599), 9), []);
    assert_eq!(cars.work(at(600), 9), [gone('a', &uid(&id('a')))]);
    carry_out(&cars, at(600));
    assert_eq!(cars.work(at(900), 9), []);
}

#[test]
fn car_that_is_on_the_list_again_before_its_vehicle_went_keeps_it() {
    let cars = cars("a");
    says_charge(&cars, 'a', 71.0, 1);
    carry_out(&cars, at(300));
    cars.allow([id('b')].into(), at(310));
    cars.allow([id('a')].into(), at(320));
    assert_eq!(
        carry_out(&cars, at(600)),
        [(id('a'), Said::default())],
        "nobody has spoken for it since"
    );
}

#[test]
fn vehicle_that_was_written_while_its_car_was_taken_off_the_list_goes_too() {
    let cars = cars("a");
    says_charge(&cars, 'a', 71.0, 1);
    assert_eq!(cars.work(at(300), 9).len(), 1);
    cars.allow([id('b')].into(), at(300));
    cars.made(&id('a'), "late".to_owned());
    assert_eq!(cars.work(at(301), 9), [gone('a', "late")]);
}

/// Also all of them, when the key is another.
#[test]
fn vehicles_of_an_earlier_life_stay_if_they_are_the_fleets_and_go_if_not() {
    let cars = Cars::new(AGES, slots());
    cars.allow([id('a')].into(), at(0));
    let says = Said {
        telemetry: Telemetry {
            parked: Known::True,
            ..Telemetry::default()
        },
        good_until: Some(at(3600).1),
    };
    cars.found(id('a'), "mine".to_owned(), Some(says), at(0));
    cars.found(id('b'), "other".to_owned(), Some(says), at(0));
    assert_eq!(cars.work(at(0), 9), []);
    let work = cars.work(at(599), 9);
    let unknown = Work::Publish {
        id: id('a'),
        uid: "mine".to_owned(),
        says: Said::default(),
    };
    assert!(work.contains(&unknown), "nobody has spoken for it since: {work:?}");
    assert!(work.contains(&gone('b', "other")) && work.len() == 2, "{work:?}");
}

#[test]
fn vehicle_that_somebody_deleted_is_made_again() {
    let cars = cars("a");
    says_charge(&cars, 'a', 71.0, 1);
    carry_out(&cars, at(300));
    cars.absent(&id('a'));
    assert_eq!(band(&cars, 301), Written::Band(60));
}

#[test]
fn clock_that_is_set_back_a_little_shows_nothing_twice() {
    let cars = cars("a");
    says_charge(&cars, 'a', 71.0, 1);
    assert_eq!(band(&cars, 300), Written::Band(60));
    says_charge(&cars, 'a', 10.0, 301);
    let (now, _) = at(302);
    assert_eq!(carry_out(&cars, (now, at(290).1)), []);
    assert_eq!(carry_out(&cars, (now, at(301).1)), []);
    assert_eq!(band(&cars, 600), Written::Band(0));
}

/// All that becomes of a life, which is when a car says how full it is (milliseconds, percent), with a look each second as the publisher has
/// it: in which second, and what.
fn published(life: &[(u64, f64)], seconds: u64) -> Vec<(u64, Said)> {
    let cars = cars("a");
    let mut life = life.to_vec();
    life.sort_by_key(|(millis, _)| *millis);
    let (mut said, mut words) = (Vec::new(), life.into_iter().peekable());
    for second in 0..seconds {
        while let Some((millis, percent)) = words.next_if(|(millis, _)| *millis <= second * 1000) {
            let now = at_ms(millis);
            cars.hear(&id('a'), &payload(now.1, percent), now).unwrap();
        }
        said.extend(carry_out(&cars, at(second)).into_iter().map(|(_, says)| (second, says)));
    }
    said
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The moment within a slot at which something happens leaves no trace. The car says the same in each slot, once and at any time of it.
    #[test]
    fn lives_that_differ_only_within_their_slots_are_published_the_same_at_the_same_times(
        life in prop::collection::vec((0_u64..300_000, 0_u64..300_000, 0.0..100.0_f64), 8),
    ) {
        let lived = |pick: fn(&(u64, u64, f64)) -> u64| -> Vec<(u64, f64)> {
            let slots = (0_u64..).map(|slot| slot * 300_000);
            slots.zip(&life).map(|(slot, word)| (slot + pick(word), word.2)).collect()
        };
        let (one, other) = (lived(|word| word.0), lived(|word| word.1));
        prop_assert_eq!(published(&one, 2700), published(&other, 2700));
    }

    /// What comes after a slot changes nothing of what is published for it, and all is published at once when a slot comes.
    #[test]
    fn what_is_published_in_a_slot_depends_only_on_what_was_until_then(
        before in prop::collection::vec((0_u64..1_200_000, 0.0..100.0_f64), 0..8),
        after in prop::collection::vec((1_200_001_u64..1_499_999, 0.0..100.0_f64), 0..8),
    ) {
        let whole = [before.clone(), after].concat();
        let (cut, whole) = (published(&before, 1500), published(&whole, 1500));
        prop_assert!(whole.iter().all(|(second, _)| second % 300 == 0), "{:?}", whole);
        prop_assert_eq!(cut, whole);
    }
}
