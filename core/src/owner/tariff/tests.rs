//! What a core hour is worth, and what is refused with which numbers.

use jiff::civil::datetime;
use proptest::prelude::*;
use rstest::rstest;

use super::*;

const TERMS: &str =
    r#"{"pool":"overnight","currency":"EUR","perCPUHour":"3.5","perKWh":"0.5","unaccepted":"EnergyOnly"}"#;
/// 200 W for each core.
const DRAW: Draw = Draw {
    per_core_milliwatts: 200_000,
    paid_milliwatts: 200_000,
};

fn document(more: &str) -> Document {
    let yaml = format!(
        "
consent: {{givenAt: 2026-11-01T10:00:00Z, classes: [inference]}}
requirePluggedIn: false
chargeFloorPercent: 30
timeZone: UTC
{more}
"
    );
    serde_saphyr::from_str::<Document>(&yaml).unwrap().check().unwrap()
}

fn owner() -> Document {
    document(
        "
priceFloorPerCPUHour: '2'
tariff: {currency: EUR, perKWh: '8.5', windows: [{from: '22:00', to: '06:00', perKWh: '0.25'}]}
",
    )
}

#[expect(clippy::unnecessary_wraps, reason = "as it is asked for")]
fn noon() -> Option<DateTime> {
    Some(datetime(2026, 11, 24, 12, 0, 0, 0))
}

#[expect(clippy::unnecessary_wraps, reason = "as it is asked for")]
fn night() -> Option<DateTime> {
    Some(datetime(2026, 11, 24, 23, 0, 0, 0))
}

#[test]
fn work_that_pays_less_than_the_floor_at_the_tariff_of_now_is_refused_with_the_numbers() {
    let refusal = weigh(&owner(), TERMS, Some(DRAW), noon()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "PayBelowFloor: it pays 3.6 EUR per core hour, energy costs 1.7 at the tariff of now, and the owner wants 2 EUR per core hour after \
         the cost of energy"
    );
}

#[test]
fn same_work_is_taken_when_energy_is_cheap() {
    assert_eq!(weigh(&owner(), TERMS, Some(DRAW), night()), Ok(()));
}

#[test]
fn energy_that_the_ledger_would_not_believe_is_not_counted_as_paid() {
    let terms: Terms = serde_json::from_str(TERMS).unwrap();
    let draw = Draw {
        per_core_milliwatts: 1_000_000,
        paid_milliwatts: 350_000,
    };
    let worth = Worth::new(&terms, terms.per_kwh, draw);
    assert_eq!((worth.pays, worth.costs), (3_675_000_000, 500_000_000));
}

#[rstest]
#[case::no_terms("", Some(DRAW), night(), "PayBelowFloor: the attempt has no terms and pays nothing")]
#[case::unreadable("{}", Some(DRAW), night(), "PayBelowFloor: the vehicle cannot read the terms")]
#[case::no_meter(TERMS, None, night(), "EnergyTerms: the owner wants 2 EUR per core hour")]
#[case::no_clock(TERMS, Some(DRAW), None, "EnergyTerms: the time zone")]
fn what_is_not_known_is_refused(
    #[case] terms: &str,
    #[case] draw: Option<Draw>,
    #[case] civil: Option<DateTime>,
    #[case] says: &str,
) {
    let said = weigh(&owner(), terms, draw, civil).unwrap_err().to_string();
    assert!(said.starts_with(says), "{said}");
}

#[test]
fn other_currency_is_refused_with_that_reason_whatever_it_pays() {
    let terms = TERMS.replace("EUR", "USD").replace("3.5", "900000");
    let refusal = weigh(&owner(), &terms, Some(DRAW), night()).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "CurrencyDiffers: the pool pays in USD, and the owner reckons in EUR"
    );
}

#[test]
fn owner_without_a_floor_asks_for_nothing() {
    for more in ["", "tariff: {currency: EUR, perKWh: '9'}"] {
        assert_eq!(weigh(&document(more), "", None, None), Ok(()));
    }
}

#[test]
fn first_window_that_contains_the_moment_has_the_price() {
    let document = document(
        "tariff: {currency: EUR, perKWh: '0.3', windows: [{from: '22:00', to: '06:00', days: [Tue], perKWh: '0.1'}, {from: '23:00', to: '01:00', perKWh: '0.2'}]}",
    );
    let tariff = document.tariff.unwrap();
    let at = |day, hour| {
        tariff
            .at(Some(datetime(2026, 11, day, hour, 30, 0, 0)))
            .unwrap()
            .to_string()
    };
    // The 24th is a Tuesday.
    assert_eq!(
        [at(24, 21), at(24, 23), at(25, 0), at(25, 5)],
        ["0.3", "0.1", "0.1", "0.1"]
    );
    assert_eq!(
        [at(25, 22), at(25, 23), at(26, 0), at(26, 1)],
        ["0.3", "0.2", "0.2", "0.3"]
    );
    assert_eq!(
        (tariff.at(None), tariff.highest().to_string()),
        (None, "0.3".to_owned())
    );
}

#[test]
fn energy_over_two_prices_costs_their_mean_by_the_minute() {
    let tariff = owner().tariff.unwrap();
    let ms = |text: &str| text.parse::<Timestamp>().unwrap().as_millisecond();
    let (from, to) = (ms("2026-11-24T21:30:00Z"), ms("2026-11-24T22:29:59Z"));
    // A kilowatt-hour, for half an hour at 8.5 and half an hour at 0.25.
    assert_eq!(
        tariff.cost_micro(JOULES_PER_KWH, from, to, Some(&TimeZone::UTC)),
        Some(4_375_000)
    );
    assert_eq!(
        tariff.cost_micro(JOULES_PER_KWH, from, from, Some(&TimeZone::UTC)),
        Some(8_500_000)
    );
    assert_eq!(tariff.cost_micro(JOULES_PER_KWH, from, to, None), None);
    let flat = Tariff {
        windows: Vec::new(),
        ..tariff
    };
    assert_eq!(flat.cost_micro(1, from, to, None), Some(2), "2.36, rounded once");
    assert_eq!(flat.cost_micro(u64::MAX, from, to, None), None, "no number says it");
}

#[rstest]
#[case(0, "0")]
#[case(999, "0")]
#[case(1000, "0.000001")]
#[case(1_600_000_000, "1.6")]
#[case(u64::MAX, "18446744073.709551")]
fn number_is_as_short_as_it_can_be(#[case] nanos: u64, #[case] text: &str) {
    assert_eq!(decimal(nanos), text);
}

proptest! {
    #[test]
    fn dearer_energy_or_a_higher_floor_never_lets_in_what_was_refused(
        per_hour in 0..10_000_u32,
        kwh in 0..10_000_u32,
        dearer in 0..10_000_u32,
        floor in 0..10_000_u32,
        higher in 0..10_000_u32,
        watts in 0..2000_u64,
    ) {
        let price = |cents: u32| format!("{}.{:02}", cents / 100, cents % 100).parse::<Price>().unwrap();
        let terms = Terms { per_cpu_hour: price(per_hour), ..serde_json::from_str(TERMS).unwrap() };
        let draw = Draw { per_core_milliwatts: watts * 1000, paid_milliwatts: watts * 1000 };
        let taken = |kwh, floor| Worth::new(&terms, price(kwh), draw).leaves(price(floor));
        if !taken(kwh, floor) {
            prop_assert!(!taken(kwh + dearer, floor));
            prop_assert!(!taken(kwh, floor + higher));
        }
        let worth = Worth::new(&terms, price(kwh), draw);
        prop_assert_eq!(taken(kwh, floor), worth.pays >= worth.costs + price(floor).nanos());
    }
}
