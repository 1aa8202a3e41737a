//! What an owner says of the network, of a month's data and by an expression, in other words.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::*;
use crate::owner::When;
use crate::parked::Will;

/// Expressions of owners; what each means is said again in `World::expression_says_yes`.
pub(super) const EXPRESSIONS: [&str; 4] = [
    "pluggedIn",
    "chargePercent >= 50 && !metered",
    "class == 'inference'",
    "hour < 12 || weekday == 'Mon'",
];
pub(super) static WHENS: LazyLock<[When; 4]> = LazyLock::new(|| EXPRESSIONS.map(|text| When::parse(text).unwrap()));

impl World {
    /// Whether the owner lets work go by the network, if it costs by the byte or not.
    pub(super) fn network_is_allowed(&self, costs: bool) -> bool {
        let Some(document) = &self.document else { return false };
        let left = match &document.data {
            None => true,
            Some(data) if data.metered_only => !costs || self.uplink.moved.metered_bytes < data.per_month,
            Some(data) => self.uplink.moved.bytes < data.per_month,
        };
        left && (!costs || document.network.metered == Metered::Allow)
    }

    /// Whether the owner's expression is true for work of this class, and all that it needs is known.
    pub(super) fn expression_says_yes(&self, class: &str) -> bool {
        let when = self.document.as_ref().and_then(|document| document.when.as_ref());
        let Some(which) = when.map(|when| WHENS.iter().position(|known| known == when).unwrap()) else {
            return true;
        };
        let charged = matches!(self.fresh(path::CHARGE), Some(Value::Number(percent)) if *percent >= 50.0);
        let now = self.zone.as_ref().map(|zone| zone.to_datetime(self.wall()));
        match which {
            0 => self.fresh(&cable()) == Some(&Value::Bool(true)),
            1 => charged && self.uplink.metered == Tri::No,
            2 => class == "inference",
            _ => now.is_some_and(|now| now.hour() < 12 || now.weekday() == Weekday::Monday),
        }
    }
}

/// And so can the network, its data, and the owner's own expression.
#[test]
fn network_and_expression_can_say_no() {
    let ask = Asked {
        class: 0,
        cpu_millis: 1000,
        used_millis: 0,
        pods: 0,
        terms: PAY,
    };
    let data = Data {
        per_month: 2,
        metered_only: false,
    };
    let admits = |uplink: Move, which: Option<usize>| {
        let mut world = World::new();
        world.step(Move::Write(Box::new(Some(Document {
            data: Some(data),
            when: which.map(|which| WHENS[which].clone()),
            ..willing()
        }))));
        world.step(uplink);
        admitted(&world, &ask)
    };
    assert!(admits(Move::Uplink(Tri::No, 1, 0), None));
    for (metered, bytes) in [(Tri::Yes, 0), (Tri::Unknown, 0), (Tri::No, 2)] {
        assert!(!admits(Move::Uplink(metered, bytes, 0), None), "{metered:?} {bytes}");
    }
    assert!(admits(Move::Uplink(Tri::No, 0, 0), Some(2)));
    let mut other = World::new();
    other.step(Move::Write(Box::new(Some(Document {
        when: Some(When::parse("class == 'video'").unwrap()),
        ..willing()
    }))));
    assert!(!admitted(&other, &ask), "an expression for another class");
}

/// One that is true for some of the classes ends work of the others; one that is true for none lets the whole car stand still.
#[test]
fn expression_takes_the_classes_apart_that_it_is_about() {
    let both = || ["inference", "video"].map(str::to_owned);
    let agreed = |when: &str| {
        let mut world = World::new();
        let mut document = willing();
        document.consent.classes = both().to_vec();
        document.when = Some(When::parse(when).unwrap());
        world.step(Move::Write(Box::new(Some(document))));
        world.grounds().agreed(BTreeSet::from(both()))
    };
    assert_eq!(agreed("class == 'video'"), BTreeSet::from(["video".to_owned()]));
    assert_eq!(agreed("class == 'render'"), BTreeSet::from(both()));
}

/// The networks and the data that an expression is about are those of downloads, too.
#[test]
fn expression_about_the_network_or_its_data_holds_downloads() {
    let moves = |when: &str, metered, mebibytes: u64| {
        let mut world = World::new();
        let mut document = willing();
        document.network.metered = Metered::Allow;
        document.when = Some(When::parse(when).unwrap());
        world.step(Move::Write(Box::new(Some(document))));
        world.step(Move::Uplink(metered, mebibytes << 20, 0));
        world.grounds().may_move()
    };
    let data = "mebibytesThisMonth < 100";
    assert!(moves(data, Tri::Yes, 99) && !moves(data, Tri::Yes, 100));
    let by_free_ones = "!metered || chargePercent > 100";
    let by = [Tri::No, Tri::Yes, Tri::Unknown].map(|metered| moves(by_free_ones, metered, 0));
    assert_eq!(by, [true, false, false]);
    assert!(moves("chargePercent > 100", Tri::Yes, 0), "it is about work");
}

/// What cannot be told ends nothing: the whole car stands still, also where it is true for another class.
#[test]
fn expression_that_cannot_be_told_for_one_class_lets_all_stand_still_and_ends_nothing() {
    let both = || ["inference", "video"].map(str::to_owned);
    let mut world = World::new();
    let mut document = willing();
    document.consent.classes = both().to_vec();
    document.when = Some(When::parse("class == 'video' || !metered").unwrap());
    world.step(Move::Write(Box::new(Some(document))));
    for class in 0..2 {
        world.step(Move::Consent(class, true));
    }
    let mut after = |metered| {
        world.step(Move::Uplink(metered, 0, 0));
        let grounds = world.grounds();
        (grounds.agreed(BTreeSet::from(both())), grounds.will().0)
    };
    assert_eq!(after(Tri::No), (BTreeSet::from(both()), Will::Yes));
    assert_eq!(after(Tri::Unknown), (BTreeSet::from(both()), Will::Paused));
}

#[test]
fn expression_that_is_false_by_a_clock_that_was_set_ends_nothing() {
    let both = || BTreeSet::from(["inference", "video"].map(str::to_owned));
    let mut world = World::new();
    let mut document = willing();
    document.consent.classes = both().into_iter().collect();
    document.when = Some(When::parse("class == 'inference' || hour < 13").unwrap());
    world.step(Move::Write(Box::new(Some(document))));
    for class in 0..2 {
        world.step(Move::Consent(class, true));
    }
    world.step(Move::Clock(120));
    assert_eq!(world.grounds().agreed(both()), both());
    assert_eq!(world.grounds().will().0, Will::Paused);
    for _ in 0..2 {
        world.step(Move::Stand(6));
    }
    let inference = BTreeSet::from(["inference".to_owned()]);
    assert_eq!(world.grounds().agreed(both()), inference, "the clock is believed again");
}
