//! Prices, terms and amounts, most of all at their bounds.

use rstest::rstest;

use super::*;

#[rstest]
#[case("0.02", 20_000_000, "0.02")]
#[case("0", 0, "0")]
#[case("0.0", 0, "0")]
#[case("1", 1_000_000_000, "1")]
#[case("1.0", 1_000_000_000, "1")]
#[case("0.30", 300_000_000, "0.3")]
#[case("007.50", 7_500_000_000, "7.5")]
#[case("10.01", 10_010_000_000, "10.01")]
#[case("0.000000001", 1, "0.000000001")]
#[case("999999999.999999999", 999_999_999_999_999_999, "999999999.999999999")]
fn price_is_read_exactly_and_printed_in_one_way(#[case] text: &str, #[case] nanos: u64, #[case] printed: &str) {
    let price: Price = text.parse().unwrap();
    assert_eq!(price.nanos(), nanos);
    assert_eq!(price.to_string(), printed);
    assert_eq!(serde_json::to_string(&price).unwrap(), format!("\"{printed}\""));
}

#[rstest]
#[case("")]
#[case(".")]
#[case(".5")]
#[case("5.")]
#[case("-1")]
#[case("+1")]
#[case("1e3")]
#[case(" 1")]
#[case("1,5")]
#[case("1.2.3")]
#[case("0.+1")]
#[case("1234567890")]
#[case("0.1234567890")]
#[case("٣")]
fn text_that_is_no_price_is_refused(#[case] text: &str) {
    let message = text.parse::<Price>().unwrap_err().to_string();
    assert!(message.starts_with(&format!("'{text}' is not a price")), "{message}");
    let json = serde_json::to_string(text).unwrap();
    assert!(serde_json::from_str::<Price>(&json).is_err());
}

#[test]
fn number_in_json_is_no_price() {
    assert!(serde_json::from_str::<Price>("0.02").is_err());
}

#[test]
fn terms_have_one_text_and_the_car_signs_for_its_hash() {
    assert_eq!(terms().text(), TERMS);
    let hash = "fc849189647545175956f3b1e4d11455ee364849994449d9d7bc45db6bdf4898";
    assert_eq!(terms().digest(), hash);
    // However they were written.
    let spaced = TERMS.replace(',', " , ").replace("0.3", "0.300");
    let again: Terms = serde_json::from_str(&spaced).unwrap();
    assert_eq!(again.digest(), hash);
}

#[test]
fn annotation_has_the_terms_of_every_pool_and_is_not_there_without_any() {
    assert_eq!(terms_annotation(&[]), None);
    let daily = Terms {
        pool: "daily".to_owned(),
        ..terms()
    };
    let text = terms_annotation(&[terms(), daily.clone()]).unwrap();
    let other = TERMS.replace("overnight", "daily");
    assert_eq!(text, format!("{{\"daily\":{other},\"overnight\":{TERMS}}}"));
    let read = terms_of_annotation(&text).unwrap();
    assert_eq!(read["daily"], daily);
    assert_eq!(read["overnight"].text(), TERMS);
    assert_eq!(read.len(), 2);
}

#[test]
fn annotation_that_contradicts_itself_or_is_none_is_refused() {
    let error = terms_of_annotation(&format!("{{\"daily\":{TERMS}}}")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to read terms: those of pool 'daily' say that they are of pool 'overnight'"
    );
    assert!(terms_of_annotation("").is_err());
    let priceless = TERMS.replace("0.02", "cheap");
    assert!(terms_of_annotation(&format!("{{\"overnight\":{priceless}}}")).is_err());
}

fn at(per_cpu_hour: &str, per_kwh: &str) -> Terms {
    Terms {
        per_cpu_hour: per_cpu_hour.parse().unwrap(),
        per_kwh: per_kwh.parse().unwrap(),
        ..terms()
    }
}

const MOST: &str = "999999999.999999999";

#[rstest]
#[case::a_core_hour("0.02", "0", 3_600_000, 0, 20_000)]
#[case::a_kilowatt_hour("0", "0.3", 0, 3_600_000, 300_000)]
#[case::both("0.02", "0.3", 3_600_000, 3_600_000, 320_000)]
#[case::nothing("0.02", "0.3", 0, 0, 0)]
#[case::for_nothing("0", "0", u64::MAX, u64::MAX, 0)]
#[case::a_half_goes_up("1.8", "0", 1, 0, 1)]
#[case::less_than_a_half_goes_down("1.799999999", "0", 1, 0, 0)]
#[case::one_and_a_half_goes_up("5.4", "0", 1, 0, 2)]
#[case::two_parts_are_rounded_as_one("0.9", "0.9", 1, 1, 1)]
#[case::the_cheapest("0.000000001", "0", u64::MAX, 0, 5_124_095_576)]
#[case::the_most(MOST, "0", u64::MAX, 0, u64::MAX)]
#[case::the_most_of_both(MOST, MOST, u64::MAX, u64::MAX, u64::MAX)]
fn amount_is_exact_and_rounded_once(
    #[case] per_cpu_hour: &str,
    #[case] per_kwh: &str,
    #[case] cpu_ms: u64,
    #[case] joules: u64,
    #[case] micro: u64,
) {
    let terms = at(per_cpu_hour, per_kwh);
    assert_eq!(amount(&terms, Standing::Accepted, cpu_ms, joules), micro);
}

proptest! {
    #[test]
    fn price_that_is_printed_and_read_is_the_same(nanos in 0u64..1_000_000_000_000_000_000) {
        let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
        let price: Price = text.parse().unwrap();
        prop_assert_eq!(price.nanos(), nanos);
        prop_assert_eq!(price.to_string().parse::<Price>().unwrap(), price);
        prop_assert!(price.to_string().len() <= text.len());
    }

    #[test]
    fn no_text_makes_the_reading_of_a_price_panic(text: String) {
        let _ = text.parse::<Price>();
    }

    #[test]
    fn terms_that_are_written_and_read_have_the_same_hash(terms in any_terms(1_000_000_000_000_000_000)) {
        let again: Terms = serde_json::from_str(&terms.text()).unwrap();
        prop_assert_eq!(again.digest(), terms.digest());
        prop_assert_eq!(again, terms);
    }

    #[test]
    fn more_is_never_worth_less(
        terms in any_terms(1_000_000_000_000_000_000),
        standing in any_standing(),
        cpu_ms in any::<u64>(),
        joules in any::<u64>(),
        more in any::<(u64, u64)>(),
    ) {
        let less = amount(&terms, standing, cpu_ms, joules);
        let more = amount(&terms, standing, cpu_ms.saturating_add(more.0), joules.saturating_add(more.1));
        prop_assert!(less <= more);
        prop_assert!(less <= amount(&terms, Standing::Accepted, cpu_ms, joules));
    }

    #[test]
    fn amount_is_within_a_half_of_what_is_due(
        terms in any_terms(1_000_000_000_000_000_000),
        standing in any_standing(),
        cpu_ms in 0u64..10_000_000_000,
        joules in 0u64..10_000_000_000,
    ) {
        let energy = u128::from(terms.per_kwh.nanos()) * u128::from(joules);
        let due = match (standing, terms.unaccepted) {
            (Standing::Accepted, _) => u128::from(terms.per_cpu_hour.nanos()) * u128::from(cpu_ms) + energy,
            (_, Unaccepted::EnergyOnly) => energy,
            (_, Unaccepted::Nothing) => 0,
        };
        let paid = u128::from(amount(&terms, standing, cpu_ms, joules)) * 3_600_000_000;
        prop_assert!(paid <= due + 1_800_000_000 && due < paid + 1_800_000_000, "{paid} for {due}");
    }
}
