//! `when`: an expression of the owner's over what the car knows, for fleets whose terms no field has a word for.
//!
//! It is CEL without functions, macros and fields: names, literals, lists and operators, of bounded length, so that it is over in no time
//! whatever it says. All other terms are asked too: it can say no, and never turns another's no into a yes. A name of which the car does not
//! know the value has none, and what cannot be told is no. Read once, with the document; what is wrong with it is said then, with its place.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use cel::common::ast::Expr;
use cel::{Context, Program, Value};
use jiff::civil::{DateTime, date};
use serde::{Deserialize, Deserializer};

use super::{Document, Refusal, Situation};
use crate::energy::{JOULES_PER_KWH, MICRO};
use crate::ledger::Price;
use crate::names::reason;
use crate::parked::{Tri, Will};

/// The longest expression, in bytes.
pub const LONGEST: usize = 1024;
/// Whoever reads a document waits while an expression is tried: for so many cars at most.
const MOST_TRIED: i64 = 100_000;

const PLUGGED_IN: &str = "pluggedIn";
const CHARGE: &str = "chargePercent";
const HOUR: &str = "hour";
const WEEKDAY: &str = "weekday";
const HOUR_OF_WEEK: &str = "hourOfWeek";
const CLASS: &str = "class";
const METERED: &str = "metered";
const PRICE: &str = "pricePerKWh";
const ENERGY: &str = "whToday";
const DATA: &str = "mebibytesThisMonth";
/// Everything that an expression may name.
pub const NAMES: [&str; 10] = [
    PLUGGED_IN,
    CHARGE,
    HOUR,
    WEEKDAY,
    HOUR_OF_WEEK,
    CLASS,
    METERED,
    PRICE,
    ENERGY,
    DATA,
];
const BY_CLOCK: [&str; 3] = [HOUR, WEEKDAY, HOUR_OF_WEEK];
/// Their values have no end that could be tried.
const WITHOUT_END: [&str; 3] = [PRICE, ENERGY, DATA];
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// What CEL calls its operators.
const OPERATORS: [&str; 16] = [
    "_?_:_", "_&&_", "_||_", "!_", "_-_", "_+_", "_*_", "_/_", "_%_", "_==_", "_!=_", "_>=_", "_<=_", "_>_", "_<_",
    "@in",
];
const NEGATE: &str = "-_";

/// An expression that has been read.
#[derive(Clone)]
pub struct When {
    text: String,
    program: Arc<Program>,
    reads: BTreeSet<&'static str>,
}

impl fmt::Debug for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("When").field(&self.text).finish()
    }
}

impl PartialEq for When {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|why| serde::de::Error::custom(format!("when: {why}")))
    }
}

/// What an expression is held against.
#[derive(Debug, Clone, Copy)]
struct Sight<'a> {
    plugged_in: Tri,
    /// In whole percent.
    charge: Option<i64>,
    civil: Option<DateTime>,
    class: &'a str,
    metered: Tri,
    price: Option<Price>,
    watt_hours: Option<u64>,
    mebibytes: Option<u64>,
}

impl<'a> Sight<'a> {
    fn of(document: &Document, now: &Situation<'_>, class: &'a str) -> Self {
        let tariff = document.tariff.as_ref();
        Self {
            plugged_in: now.view.plugged_in(),
            charge: now.view.charge().and_then(whole),
            civil: now.civil,
            class,
            metered: now.uplink.metered,
            price: tariff.and_then(|tariff| tariff.at(now.civil)),
            // Of a count that is lost nothing is known: it may be all.
            watt_hours: now
                .energy
                .filter(|used| !used.lost)
                .map(|used| used.microjoules / (JOULES_PER_KWH / 1000 * MICRO)),
            mebibytes: Some(now.uplink.moved)
                .filter(|moved| !moved.lost)
                .map(|moved| moved.bytes >> 20),
        }
    }

    fn context(&self) -> Context<'static> {
        let mut context = Context::empty();
        let mut know = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                context.add_variable_from_value(name, value);
            }
        };
        let tri = |tri: Tri| match tri {
            Tri::Yes => Some(Value::Bool(true)),
            Tri::No => Some(Value::Bool(false)),
            Tri::Unknown => None,
        };
        let text = |text: &str| Value::String(Arc::new(text.to_owned()));
        let count = |count: u64| Value::Int(i64::try_from(count).unwrap_or(i64::MAX));
        know(PLUGGED_IN, tri(self.plugged_in));
        know(CHARGE, self.charge.map(Value::Int));
        if let Some(at) = self.civil {
            let day = at.weekday().to_monday_zero_offset();
            let name = usize::try_from(day).ok().and_then(|day| DAYS.get(day));
            know(HOUR, Some(Value::Int(i64::from(at.hour()))));
            know(WEEKDAY, name.map(|name| text(name)));
            know(
                HOUR_OF_WEEK,
                Some(Value::Int(i64::from(day) * 24 + i64::from(at.hour()))),
            );
        }
        know(CLASS, Some(text(self.class)));
        know(METERED, tri(self.metered));
        let price = self.price.and_then(|price| price.to_string().parse().ok());
        know(PRICE, price.map(Value::Float));
        know(ENERGY, self.watt_hours.map(count));
        know(DATA, self.mebibytes.map(count));
        context
    }
}

/// Percent without their fraction, as the car displays them.
fn whole(percent: f64) -> Option<i64> {
    // Exact, and without a cast that could lose: it is from 0 to 100.
    format!("{:.0}", percent.floor()).parse().ok()
}

impl When {
    /// Reads an expression; the error is a sentence, with the place if there is one.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("it has {} bytes, and may have {LONGEST}", text.len()));
        }
        let program = Program::compile(text).map_err(|errors| {
            errors.errors.first().map_or_else(
                || "it is no expression".to_owned(),
                |first| format!("line {}, column {}: {}", first.pos.0, first.pos.1, first.msg),
            )
        })?;
        let mut reads = BTreeSet::new();
        walk(&program.expression().expr, &mut reads)?;
        let when = Self {
            text: text.to_owned(),
            program: Arc::new(program),
            reads,
        };
        for sample in samples() {
            when.tell(&sample)?;
        }
        Ok(when)
    }

    /// As it is written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it depends on the clock.
    pub fn is_by_clock(&self) -> bool {
        BY_CLOCK.iter().any(|name| self.reads.contains(name))
    }

    /// Whether it is about what is moved, and by which network.
    pub(super) fn is_about_data(&self) -> bool {
        [METERED, DATA].iter().any(|name| self.reads.contains(name))
    }

    fn tell(&self, sight: &Sight<'_>) -> Result<bool, String> {
        match self.program.execute(&sight.context()) {
            Ok(Value::Bool(is_so)) => Ok(is_so),
            Ok(_) => Err("it is neither true nor false".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Whether it is certain that it is never true, for work of none of these classes.
    pub(super) fn is_never(&self, classes: &[String]) -> bool {
        let reads = |name: &str| self.reads.contains(name);
        if WITHOUT_END.into_iter().any(reads) || (reads(CLASS) && classes.is_empty()) {
            return false;
        }
        let values = |name: &str, all: i64| if reads(name) { 0..all } else { 0..1 };
        let none = [String::new()];
        let classes = if reads(CLASS) { classes } else { &none[..] };
        let hours = if self.is_by_clock() { 0..7 * 24 } else { 0..1 };
        let all = [
            values(CHARGE, 101),
            values(PLUGGED_IN, 2),
            values(METERED, 2),
            hours.clone(),
        ];
        let each = all.iter().map(|all| all.end).product::<i64>();
        if each > MOST_TRIED / i64::try_from(classes.len()).unwrap_or(i64::MAX).max(1) {
            return false;
        }
        !classes.iter().any(|class| {
            hours.clone().any(|hour| {
                values(CHARGE, 101).any(|charge| {
                    values(PLUGGED_IN, 2).any(|plugged| {
                        values(METERED, 2).any(|metered| {
                            let sight = known(hour, charge, plugged == 0, metered == 0, class);
                            self.tell(&sight) == Ok(true)
                        })
                    })
                })
            })
        })
    }
}

/// Takes in the names of an expression, and refuses what is more than names, literals, lists and operators.
fn walk(expression: &Expr, reads: &mut BTreeSet<&'static str>) -> Result<(), String> {
    match expression {
        Expr::Literal(_) => Ok(()),
        Expr::Ident(name) => {
            let known = NAMES.into_iter().find(|known| known == name);
            let known = known.ok_or_else(|| format!("it names '{name}', and there are: {}", NAMES.join(", ")))?;
            reads.insert(known);
            Ok(())
        }
        Expr::List(list) => list.elements.iter().try_for_each(|element| walk(&element.expr, reads)),
        Expr::Call(call) => {
            let name = call.func_name.as_str();
            if call.target.is_some() || !(OPERATORS.contains(&name) || name == NEGATE) {
                return Err(format!("it calls '{name}', and there are operators only"));
            }
            call.args.iter().try_for_each(|argument| walk(&argument.expr, reads))
        }
        _ => Err("it may have names, literals, lists and operators, and no fields or macros".to_owned()),
    }
}

/// A car of which everything is known, at an hour of the week counted from Monday.
fn known(hour: i64, charge: i64, plugged_in: bool, metered: bool, class: &str) -> Sight<'_> {
    let tri = |is_so| if is_so { Tri::Yes } else { Tri::No };
    let (day, hour) = (
        i8::try_from(hour / 24).unwrap_or(0),
        i8::try_from(hour % 24).unwrap_or(0),
    );
    Sight {
        plugged_in: tri(plugged_in),
        charge: Some(charge),
        // The second of November is a Monday.
        civil: Some(date(2026, 11, 2 + day).at(hour, 0, 0, 0)),
        class,
        metered: tri(metered),
        price: "0.3".parse().ok(),
        watt_hours: Some(0),
        mebibytes: Some(0),
    }
}

/// Cars that are unlike in everything, so that most of an expression is gone through.
fn samples() -> [Sight<'static>; 4] {
    [
        known(0, 0, false, false, "inference"),
        known(0, 100, true, true, "video"),
        known(167, 100, true, false, "inference"),
        known(167, 0, false, true, "video"),
    ]
}

/// Whether the owner's expression is true for work of this class.
pub(super) fn holds(document: &Document, now: &Situation<'_>, class: &str) -> Result<(), (Will, Refusal)> {
    let Some(when) = &document.when else { return Ok(()) };
    let why = match when.tell(&Sight::of(document, now, class)) {
        Ok(true) => return Ok(()),
        Ok(false) => "the owner's expression, when, is not true".to_owned(),
        Err(why) => format!("whether the owner's expression, when, is true cannot be told: {why}"),
    };
    Err((Will::Paused, Refusal::new(reason::OWNER_TERMS, why)))
}

/// What the owner's expression says of work of this class; unknown: it cannot be told.
pub(super) fn says(document: &Document, now: &Situation<'_>, class: &str) -> Tri {
    let Some(when) = &document.when else { return Tri::Yes };
    match when.tell(&Sight::of(document, now, class)) {
        Ok(true) => Tri::Yes,
        Ok(false) => Tri::No,
        Err(_) => Tri::Unknown,
    }
}

/// Whether it is for work of some class that the document names and for which there is a record. If it cannot be told for one of them the whole
/// car stands still: what runs of that class may not go on, and is not to end before it is known.
pub(super) fn holds_for_any(document: &Document, now: &Situation<'_>) -> Result<(), (Will, Refusal)> {
    let recorded = |class: &&String| now.consents.of(class, now.wall).is_ok();
    let (mut is_so, mut other) = (false, None);
    for class in document.consent.classes.iter().filter(recorded) {
        match says(document, now, class) {
            Tri::Yes => is_so = true,
            Tri::No => other = Some(class),
            Tri::Unknown => return holds(document, now, class),
        }
    }
    match other {
        Some(class) if !is_so => holds(document, now, class),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn when(text: &str) -> When {
        When::parse(text).unwrap()
    }

    #[rstest]
    #[case::cable("pluggedIn", true)]
    #[case::charge("chargePercent >= 60 && chargePercent < 80", true)]
    #[case::not_metered("!metered || mebibytesThisMonth > 100", true)]
    #[case::weekday("weekday in ['Sat', 'Sun']", false)]
    #[case::hour("hour >= 22 || hour < 6", false)]
    #[case::hour_of_week("hourOfWeek == 26", false)]
    #[case::class("class == 'inference' ? chargePercent > 50 : chargePercent > 90", true)]
    #[case::price("pricePerKWh < 0.31", true)]
    #[case::energy("whToday + 1 < 2", true)]
    fn expression_is_over_what_the_car_knows(#[case] text: &str, #[case] is_so: bool) {
        // A Wednesday, at noon.
        let sight = known(60, 70, true, false, "inference");
        assert_eq!(when(text).tell(&sight), Ok(is_so));
    }

    #[rstest]
    #[case::cable("!pluggedIn")]
    #[case::charge("chargePercent < 50")]
    #[case::clock("hour < 24")]
    #[case::network("metered == false")]
    #[case::price("pricePerKWh < 9000.0")]
    #[case::energy("whToday < 1000")]
    #[case::data("mebibytesThisMonth < 1000")]
    fn what_is_not_known_is_never_a_yes(#[case] text: &str) {
        let nothing = Sight {
            plugged_in: Tri::Unknown,
            charge: None,
            civil: None,
            metered: Tri::Unknown,
            price: None,
            watt_hours: None,
            mebibytes: None,
            ..known(0, 0, false, false, "inference")
        };
        assert!(when(text).tell(&nothing).is_err());
    }

    #[rstest]
    #[case::no_end("pluggedIn &&", "line 1")]
    #[case::nothing("", "")]
    #[case::name("pluggedin", "it names 'pluggedin'")]
    #[case::number("chargePercent", "neither true nor false")]
    #[case::types("chargePercent > 'much'", "")]
    #[case::function("size(class) > 3", "it calls 'size'")]
    #[case::method("class.startsWith('in')", "it calls 'startsWith'")]
    #[case::field("class.name == 'x'", "no fields or macros")]
    #[case::macros("[1, 2].all(n, n > 0)", "no fields or macros")]
    fn expression_that_is_none_is_refused_with_its_fault(#[case] text: &str, #[case] says: &str) {
        let why = When::parse(text).unwrap_err();
        assert!(why.contains(says), "{why}");
    }

    #[test]
    fn expression_without_end_is_refused() {
        let long = "pluggedIn && ".repeat(100) + "pluggedIn";
        assert!(When::parse(&long).unwrap_err().contains("may have 1024"));
        let deep = format!("{}pluggedIn{}", "(".repeat(500), ")".repeat(500));
        assert!(When::parse(&deep).is_err());
    }

    #[rstest]
    #[case::constant("false", true)]
    #[case::charge("chargePercent > 100", true)]
    #[case::misspelt("weekday == 'Saturday'", true)]
    #[case::both("pluggedIn && !pluggedIn", true)]
    #[case::class("class == 'render'", true)]
    #[case::one_hour("hourOfWeek == 167 && chargePercent == 100 && class == 'video'", false)]
    #[case::undecided("whToday > 1000 && pricePerKWh > 9000.0", false)]
    fn expression_that_is_never_true_is_found(#[case] text: &str, #[case] never: bool) {
        let classes = ["inference", "video"].map(str::to_owned);
        assert_eq!(when(text).is_never(&classes), never);
        assert!(!when("class == 'render'").is_never(&[]), "classes come later");
    }
}
