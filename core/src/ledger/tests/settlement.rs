//! What the operator makes of a closing and a receipt.

use rstest::rstest;

use super::*;

#[test]
fn acceptance_says_what_it_should() {
    let json = serde_json::to_string(&honest().settled()).unwrap();
    let expected = r#"{"sequence":1,"previous":"ZEROS","vehicle":"car-aeaqcaibaeaqcaib","usageSequence":1,"usageSha256":"aa",
        "podUid":"u-1","jobUid":"job-1","index":7,"acceptedUid":"u-1","standing":"accepted","terms":TERMS,"termsSha256":"HASH",
        "runningMs":61000,"milliCpu":2000,"cpuMs":90000,"joules":5000,"amountMicro":917,"dispute":null}"#;
    let expected = expected
        .replace("\n        ", "")
        .replace("ZEROS", NOTHING)
        .replace("TERMS", TERMS)
        .replace("HASH", &terms().digest());
    assert_eq!(json, expected);
    assert_eq!(serde_json::from_str::<Acceptance>(&json).unwrap(), honest().settled());
}

#[test]
fn closing_says_what_it_should() {
    let closing = Given {
        standing: Standing::Superseded,
        ..honest()
    }
    .closing(3);
    let json = serde_json::to_string(&closing).unwrap();
    let expected = r#"{"jobUid":"job-1","index":7,"podUid":"u-3","vehicle":"car-aeaqcaibaeaqcaib","standing":"superseded",
        "acceptedUid":"u-of-another","terms":{"overnight":TERMS},"runningMs":61000,"milliCpu":2000}"#;
    assert_eq!(json, expected.replace("\n        ", "").replace("TERMS", TERMS));
    assert_eq!(serde_json::from_str::<Closing>(&json).unwrap(), closing);
}

#[rstest]
#[case(Standing::Accepted, Unaccepted::EnergyOnly, 917)]
#[case(Standing::Accepted, Unaccepted::Nothing, 917)]
#[case(Standing::Superseded, Unaccepted::EnergyOnly, 417)]
#[case(Standing::Superseded, Unaccepted::Nothing, 0)]
#[case(Standing::Failed, Unaccepted::EnergyOnly, 417)]
#[case(Standing::Failed, Unaccepted::Nothing, 0)]
#[case(Standing::Disrupted, Unaccepted::EnergyOnly, 417)]
#[case(Standing::Disrupted, Unaccepted::Nothing, 0)]
fn attempt_is_paid_as_its_terms_say(#[case] standing: Standing, #[case] unaccepted: Unaccepted, #[case] micro: u64) {
    let terms = Terms { unaccepted, ..terms() };
    let given = Given {
        terms: Some(terms.clone()),
        standing,
        ..honest()
    };
    let settled = given.settled();
    assert_eq!(settled.amount_micro, micro);
    // What was used is told, paid or not.
    assert_eq!((settled.cpu_ms, settled.joules), (90_000, 5000));
    assert_eq!((settled.terms, settled.dispute), (Some(terms), None));
}

/// What was seen: how long, and with how much processor; what is claimed: how long, processor time and energy; what counts.
#[rstest]
#[case::claimed_as_seen((61_000, 2000), (60_000, 90_000, 5000), (90_000, 5000))]
#[case::all_that_can_have_been((61_000, 2000), (61_000, 122_000, 5000), (122_000, 5000))]
#[case::more_processor_time((61_000, 2000), (61_000, 122_001, 5000), (122_000, 5000))]
#[case::twice_as_long((61_000, 2000), (122_000, 90_000, 5000), (90_000, 2500))]
#[case::a_little_longer((61_000, 2000), (61_001, 90_000, 5000), (90_000, 4999))]
#[case::never_seen((0, 2000), (60_000, 90_000, 5000), (0, 0))]
#[case::never_seen_and_in_no_time((0, 2000), (0, 90_000, 5000), (0, 0))]
#[case::without_a_processor((61_000, 0), (60_000, 90_000, 5000), (0, 5000))]
#[case::less_than_a_millisecond((1, 999), (1, 90_000, 5000), (0, 0))]
#[case::all_the_energy_that_can_have_been((61_000, 2000), (60_000, 90_000, 24_400), (90_000, 24_400))]
#[case::more_energy((61_000, 2000), (60_000, 90_000, 24_401), (90_000, 24_400))]
#[case::more_energy_twice_as_long((61_000, 2000), (122_000, 90_000, 60_000), (90_000, 24_400))]
#[case::in_no_time((61_000, 2000), (0, 1, 5000), (1, 5000))]
#[case::the_most((u64::MAX, u64::MAX), (u32::MAX, u64::MAX, u64::MAX), (u64::MAX, u64::MAX))]
#[case::the_most_in_a_second((1000, 1000), (u32::MAX, u64::MAX, u64::MAX), (1000, 350))]
fn claim_is_clipped_to_what_was_seen(
    #[case] seen: (u64, u64),
    #[case] claimed: (u32, u64, u64),
    #[case] counts: (u64, u64),
) {
    let given = Given {
        running_ms: seen.0,
        milli_cpu: seen.1,
        duration_ms: claimed.0,
        cpu_ms: claimed.1,
        joules: claimed.2,
        ..honest()
    };
    let settled = given.settled();
    assert_eq!((settled.cpu_ms, settled.joules), counts);
    let amount = amount(&terms(), Standing::Accepted, counts.0, counts.1);
    assert_eq!(settled.amount_micro, amount);
}

#[rstest]
#[case::backwards(5000, 4999, 0)]
#[case::for_ever(i64::MIN, i64::MAX, 0)]
#[case::at_once(5000, 5000, 5000)]
fn energy_of_a_time_that_cannot_have_been_does_not_count(
    #[case] started_at_ms: i64,
    #[case] ended_at_ms: i64,
    #[case] joules: u64,
) {
    let mut usage = honest().usage(1, NOTHING);
    usage.claim.started_at_ms = started_at_ms;
    usage.claim.ended_at_ms = ended_at_ms;
    let settled = honest().closing(1).accept(&usage, "aa", FIRST).unwrap();
    assert_eq!((settled.cpu_ms, settled.joules), (90_000, joules));
}

/// For what the car has signed, what was offered, and whether something was used.
#[rstest]
#[case::other_terms(Some("ab"), true, true, Some(Dispute::TermsDiffer))]
#[case::terms_where_none_were_offered(Some("ab"), false, true, Some(Dispute::TermsDiffer))]
#[case::none_where_some_were_offered(None, true, true, Some(Dispute::NoTerms))]
#[case::none_at_all(None, false, true, Some(Dispute::NoTerms))]
#[case::other_terms_and_nothing_used(Some("ab"), true, false, None)]
#[case::no_terms_and_nothing_used(None, false, false, None)]
fn nothing_is_paid_without_terms_that_both_know(
    #[case] signed: Option<&str>,
    #[case] offered: bool,
    #[case] used: bool,
    #[case] dispute: Option<Dispute>,
) {
    let given = Given {
        terms: offered.then(terms),
        cpu_ms: if used { 90_000 } else { 0 },
        joules: 0,
        ..honest()
    };
    let mut usage = given.usage(1, NOTHING);
    usage.claim.terms_sha256 = signed.map(str::to_owned);
    let settled = given.closing(1).accept(&usage, "aa", FIRST).unwrap();
    assert_eq!(settled.amount_micro, 0);
    assert_eq!(settled.dispute, dispute);
    assert_eq!((settled.terms, settled.terms_sha256.as_deref()), (None, signed));
}

#[test]
fn terms_are_those_among_the_offered_that_the_car_has_signed_for() {
    let dear = Terms {
        pool: "daily".to_owned(),
        per_cpu_hour: "2".parse().unwrap(),
        ..terms()
    };
    let mut closing = honest().closing(1);
    closing.terms.insert(dear.pool.clone(), dear.clone());
    let mut usage = honest().usage(1, NOTHING);
    let settled = closing.accept(&usage, "aa", FIRST).unwrap();
    assert_eq!(settled.terms, Some(terms()));
    usage.claim.terms_sha256 = Some(dear.digest());
    let settled = closing.accept(&usage, "aa", FIRST).unwrap();
    assert_eq!((settled.terms, settled.amount_micro), (Some(dear), 50_417));
}

#[test]
fn receipt_of_another_attempt_or_vehicle_is_not_settled() {
    let closing = honest().closing(1);
    let other = honest().usage(2, NOTHING);
    let error = closing.accept(&other, "aa", FIRST).unwrap_err();
    assert_eq!(error.to_string(), "failed to settle u-1: the receipt is of attempt u-2");
    let mut moved = honest().usage(1, NOTHING);
    moved.vehicle = vehicle(2);
    let (closed, found) = (vehicle(1), vehicle(2));
    let error = closing.accept(&moved, "aa", FIRST).unwrap_err();
    assert_eq!(error, Mismatch::Vehicle { closed, found });
}

proptest! {
    #[test]
    fn settlement_pays_for_no_more_than_is_claimed_and_was_seen(given in any_given()) {
        let settled = given.settled();
        let seen = u128::from(given.running_ms) * u128::from(given.milli_cpu) / 1000;
        prop_assert!(settled.cpu_ms <= given.cpu_ms && u128::from(settled.cpu_ms) <= seen);
        prop_assert!(settled.joules <= given.joules);
        prop_assert!(settled.joules <= most_joules(given.running_ms, given.milli_cpu));
        let energy = u128::from(given.joules) * u128::from(given.running_ms);
        prop_assert!(u128::from(settled.joules) * u128::from(given.duration_ms) <= energy);
        let most = given.terms.as_ref().map(|terms| {
            amount(terms, Standing::Accepted, settled.cpu_ms, settled.joules)
        });
        prop_assert!(settled.amount_micro <= most.unwrap_or_default());
        prop_assert_eq!(settled.terms, given.terms);
    }

    #[test]
    fn whose_result_is_that_of_the_index_changes_nothing_of_what_an_attempt_is_worth(given in any_given()) {
        let late = given.closing(1);
        let early = Closing { accepted_uid: None, ..late.clone() };
        let usage = given.usage(1, NOTHING);
        let settle = |closing: &Closing| closing.accept(&usage, "aa", FIRST).unwrap();
        let early = Acceptance { accepted_uid: late.accepted_uid.clone(), ..settle(&early) };
        prop_assert_eq!(early, settle(&late));
    }

    #[test]
    fn settlement_is_the_same_each_time(given in any_given()) {
        prop_assert_eq!(given.settled(), given.settled());
    }
}
