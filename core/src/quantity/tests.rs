use super::*;
use proptest::prelude::*;

fn q(text: &str) -> Quantity {
    text.parse().unwrap()
}

/// Read and printed again, as the API server prints it.
#[rstest::rstest]
#[case("0", "0")]
#[case("0Ki", "0")]
#[case("-0", "0")]
#[case("0e3", "0")]
#[case("1", "1")]
#[case("+1", "1")]
#[case("5.", "5")]
#[case(".5", "500m")]
#[case("0.5", "500m")]
#[case("1000m", "1")]
#[case("1500m", "1500m")]
#[case("1000", "1k")]
#[case("100000", "100k")]
#[case("1200000", "1200k")]
#[case("1234567", "1234567")]
#[case("0.0000001", "100n")]
#[case("0.1n", "1n")]
#[case("-0.1n", "-1n")]
#[case("0.00000000000000000000000001", "1n")]
#[case("1.0000000001", "1000000001n")]
#[case("5u", "5u")]
#[case("3G", "3G")]
#[case("2E", "2E")]
#[case("100E", "100E")]
#[case("1000E", "1000E")]
#[case("1Ki", "1Ki")]
#[case("1024", "1024")]
#[case("1024Ki", "1Mi")]
#[case("1.5Gi", "1536Mi")]
#[case("0.5Ki", "512")]
#[case("0.0001Ki", "102400u")]
#[case("1.1Ki", "1126400m")]
#[case("100Ki", "100Ki")]
#[case("-2Mi", "-2Mi")]
#[case("16Ei", "9223372036854775807")]
#[case("-16Ei", "-9223372036854775807")]
#[case("99999999999999999999999999999999Ei", "9223372036854775807")]
#[case("12e6", "12e6")]
#[case("12E6", "12e6")]
#[case("1e3", "1e3")]
#[case("100e1", "1e3")]
#[case("1e0", "1")]
#[case("1e-3", "1e-3")]
#[case("1E+2", "100")]
#[case("1e-100", "1e-9")]
#[case("0e1000000", "0")]
fn quantity_read_and_printed_is_canonical(#[case] text: &str, #[case] canonical: &str) {
    assert_eq!(q(text).to_string(), canonical);
    assert_eq!(q(canonical), q(text));
}

#[rstest::rstest]
#[case("")]
#[case("-")]
#[case(".")]
#[case("m")]
#[case("1 ")]
#[case(" 1")]
#[case("1e")]
#[case("1KB")]
#[case("1ki")]
#[case("1K")]
#[case("1mi")]
#[case("--1")]
#[case("1.2.3")]
#[case("1e1.5")]
#[case("0x10")]
#[case("1e99999999999")]
#[case("é")]
fn quantity_of_another_form_is_refused_with_advice(#[case] text: &str) {
    let message = text.parse::<Quantity>().unwrap_err().to_string();
    assert!(message.contains("such as 500m"), "{message}");
}

#[rstest::rstest]
#[case("1e100")]
#[case("1e2147483647")]
#[case("999999999999999999999E")]
fn quantity_beyond_128_bits_is_refused(#[case] text: &str) {
    assert_eq!(text.parse::<Quantity>(), Err(QuantityError::TooLarge(text.to_owned())));
}

#[test]
fn quantity_is_rounded_up_to_wholes_and_thousandths() {
    assert_eq!((q("1500u").millis(), q("1500u").units()), (2, 1));
    assert_eq!((q("-1500u").millis(), q("-1500m").units()), (-1, -1));
    assert_eq!(q("1e25").units(), i64::MAX);
}

#[test]
fn quantity_sum_beyond_128_bits_is_nothing_or_held() {
    let most = Quantity::from_nanos(i128::MAX, Format::DecimalSi);
    assert_eq!(most.checked_add(q("1n")), None);
    assert_eq!(most.saturating_add(q("1n")), most);
    assert_eq!(q("1Gi").checked_add(q("512Mi")).unwrap().to_string(), "1536Mi");
    assert_eq!(Quantity::ZERO.checked_add(q("512Mi")).unwrap().to_string(), "512Mi");
}

#[test]
fn quantity_is_read_from_text_and_from_numbers() {
    let read: Vec<Quantity> = serde_json::from_str(r#"["1.5Gi", 2, -3, 0.5, 18446744073709551615]"#).unwrap();
    assert_eq!(
        read,
        [q("1.5Gi"), q("2"), q("-3"), q("500m"), q("18446744073709551615")]
    );
    assert_eq!(
        serde_json::to_string(&read[..4]).unwrap(),
        r#"["1536Mi","2","-3","500m"]"#
    );
}

fn resources(pairs: &[(&str, &str)]) -> Resources {
    Resources(pairs.iter().map(|(name, text)| ((*name).to_owned(), q(text))).collect())
}

#[test]
fn resources_that_are_short_are_all_named() {
    let capacity = resources(&[("cpu", "2"), ("memory", "1Gi")]);
    let used = resources(&[("cpu", "1500m"), ("memory", "100Mi")]);
    let request = resources(&[("cpu", "600m"), ("memory", "100Mi"), ("kerbside.dev/npu", "1")]);
    let short = capacity.fits(&used, &request).unwrap_err();
    let names: Vec<_> = short.iter().map(|s| s.resource.as_str()).collect();
    assert_eq!(names, ["cpu", "kerbside.dev/npu"]);
    assert_eq!(short[0].capacity, q("2"));
    assert_eq!(capacity.fits(&used, &resources(&[("cpu", "500m")])), Ok(()));
}

#[test]
fn resources_not_asked_for_are_never_short() {
    let used = resources(&[("cpu", "3")]);
    assert_eq!(
        resources(&[("cpu", "2")]).fits(&used, &resources(&[("cpu", "0"), ("npu", "0")])),
        Ok(())
    );
}

#[test]
fn resources_total_too_large_changes_nothing() {
    let mut sum = resources(&[("cpu", "1")]);
    let most = Resources::from([("x", Quantity::from_nanos(i128::MAX, Format::DecimalSi))]);
    sum.add(&most).unwrap();
    let before = sum.clone();
    assert_eq!(
        sum.add(&most),
        Err(QuantityError::Overflow {
            resource: "x".to_owned()
        })
    );
    assert_eq!(sum, before);
}

fn quantity() -> impl Strategy<Value = Quantity> {
    let format = prop_oneof![
        Just(Format::DecimalSi),
        Just(Format::BinarySi),
        Just(Format::DecimalExponent)
    ];
    let nano = prop_oneof![
        any::<i128>(),
        any::<i64>().prop_map(i128::from),
        (any::<i32>(), 0u32..6).prop_map(|(n, p)| i128::from(n) * NANO * 1024i128.pow(p)),
        (any::<i32>(), 0u32..9).prop_map(|(n, p)| i128::from(n) * 1000i128.pow(p)),
    ];
    (nano, format).prop_map(|(nano, format)| Quantity::from_nanos(nano, format))
}

proptest! {
    #[test]
    fn quantity_printed_and_read_is_the_same(x in quantity()) {
        prop_assume!(x.nanos() != i128::MIN);
        let read: Quantity = x.to_string().parse().unwrap();
        prop_assert_eq!(read, x);
        // A text without a suffix does not say that it was binary.
        prop_assume!(x.format != Format::BinarySi);
        prop_assert_eq!(read.to_string(), x.to_string());
    }

    #[test]
    fn quantity_order_is_the_order_of_amounts(x in quantity(), y in quantity()) {
        prop_assert_eq!(x.cmp(&y), x.nanos().cmp(&y.nanos()));
        if let Some(sum) = x.checked_add(y) {
            prop_assert_eq!(sum.checked_sub(y), Some(x));
        }
    }

    #[test]
    fn quantity_of_any_text_never_panics(text in "[-+]?[0-9.]{0,45}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,12}") {
        if let Ok(x) = text.parse::<Quantity>() {
            prop_assert_eq!(x.to_string().parse(), Ok(x));
        }
    }

    #[test]
    fn resources_added_and_taken_away_are_the_same(x in quantity(), y in quantity()) {
        let (a, b) = (Resources::from([("cpu", x)]), Resources::from([("cpu", y)]));
        let mut sum = a.clone();
        if sum.add(&b).is_ok() {
            sum.sub(&b).unwrap();
            prop_assert_eq!(sum, a);
        }
    }
}
