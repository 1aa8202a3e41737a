//! Ledgers with two halves that agree, and everything that may be done to them.

use rstest::rstest;
use serde::Serialize;
use serde_json::json;

use super::*;
use crate::receipt::testing::{Hashes, KEY, change, sign};
use crate::receipt::{Envelope, PAYLOAD_TYPE, digest, pae};

/// A key that is not the car's.
const OPERATOR: &str = "key-of-another";

type Lines = Vec<Vec<u8>>;

fn signed(payload_type: &str, value: &impl Serialize, keyid: &str) -> (Vec<u8>, String) {
    let payload = serde_json::to_vec(value).unwrap();
    let signature = sign(keyid, &pae(payload_type, &payload));
    let line = Envelope::of(payload_type, &payload, keyid, &signature).line().unwrap();
    (line, digest(&payload))
}

/// Both halves of a ledger, the operator's changed by `change` before it is signed.
fn changed(given: &[Given], change: impl Fn(&mut Acceptance)) -> (Lines, Lines) {
    let (mut usages, mut acceptances) = (Lines::new(), Lines::new());
    let (mut usage_head, mut acceptance_head) = (NOTHING.to_owned(), NOTHING.to_owned());
    for (sequence, one) in (1..).zip(given) {
        let usage = one.usage(sequence, &usage_head);
        let (line, name) = signed(PAYLOAD_TYPE, &usage, KEY);
        usages.push(line);
        let place = Place {
            sequence,
            previous: &acceptance_head,
        };
        let mut acceptance = one.closing(sequence).accept(&usage, &name, place).unwrap();
        change(&mut acceptance);
        usage_head = name;
        let (line, name) = signed(ACCEPTANCE_TYPE, &acceptance, OPERATOR);
        acceptances.push(line);
        acceptance_head = name;
    }
    (usages, acceptances)
}

fn both(given: &[Given]) -> (Lines, Lines) {
    changed(given, |_| {})
}

fn report(usages: &[Vec<u8>], acceptances: &[Vec<u8>]) -> Report {
    check(&usages.concat(), &acceptances.concat(), &Hashes, &Hashes)
}

fn said(report: &Report) -> Vec<String> {
    report.findings.iter().map(ToString::to_string).collect()
}

fn three() -> [Given; 3] {
    [honest(), honest(), honest()]
}

#[test]
fn whole_ledger_has_no_fault_and_its_lines_are_added_up_by_currency() {
    let dollars = Terms {
        currency: "USD".to_owned(),
        ..terms()
    };
    let given = [
        honest(),
        Given {
            standing: Standing::Failed,
            ..honest()
        },
        Given {
            terms: Some(dollars),
            ..honest()
        },
        Given {
            terms: None,
            ..honest()
        },
    ];
    let (usages, acceptances) = both(&given);
    let report = report(&usages, &acceptances);
    assert!(report.is_well(), "{report:?}");
    let euros = Sum {
        attempts: 2,
        accepted: 1,
        cpu_ms: 180_000,
        joules: 10_000,
        amount_micro: 917 + 417,
    };
    assert_eq!(report.sums["EUR"], euros);
    assert_eq!(report.sums["USD"].amount_micro, 917);
    assert_eq!((report.sums.len(), report.lines.len(), report.unsettled), (2, 4, 0));
    assert_eq!(report.lines[3].currency, None);
    assert!(check(b"", b"", &Hashes, &Hashes).is_well());
}

#[test]
fn receipts_that_are_not_settled_yet_are_counted_and_no_fault() {
    let (usages, mut acceptances) = both(&three());
    acceptances.truncate(1);
    let report = report(&usages, &acceptances);
    assert!(report.is_well());
    assert_eq!(report.unsettled, 2);
}

#[test]
fn acceptances_may_be_in_another_order_than_their_receipts() {
    let first = honest().usage(1, NOTHING);
    let (first_line, first_name) = signed(PAYLOAD_TYPE, &first, KEY);
    let second = honest().usage(2, &first_name);
    let (second_line, second_name) = signed(PAYLOAD_TYPE, &second, KEY);
    let sooner = honest().closing(2).accept(&second, &second_name, FIRST).unwrap();
    let (sooner_line, head) = signed(ACCEPTANCE_TYPE, &sooner, OPERATOR);
    let place = Place {
        sequence: 2,
        previous: &head,
    };
    let later = honest().closing(1).accept(&first, &first_name, place).unwrap();
    let (later_line, _) = signed(ACCEPTANCE_TYPE, &later, OPERATOR);
    let report = report(&[first_line, second_line], &[sooner_line, later_line]);
    assert!(report.is_well(), "{report:?}");
    assert_eq!((report.lines.len(), report.unsettled), (2, 0));
}

#[rstest]
#[case::gap(|lines: &mut Lines| { lines.remove(1); }, &["line 2: there is a gap: acceptance 2 should be here, and it is 3"], 1)]
#[case::doubled(|lines: &mut Lines| lines.insert(2, lines[1].clone()), &["line 3: it is doubled: there is an acceptance 2 before it"], 0)]
#[case::reordered(|lines: &mut Lines| lines.swap(1, 2), &["line 3: it is out of order: acceptance 2 stands behind a later one"], 0)]
#[case::cut_off(|lines: &mut Lines| { lines[2].pop(); }, &["line 3: it is cut off"], 1)]
#[case::no_json(|lines: &mut Lines| lines[2] = b"hello\n".to_vec(), &["line 3: it is no acceptance: expected value at line 1 column 1"], 1)]
#[case::the_last_gone(|lines: &mut Lines| { lines.pop(); }, &[], 1)]
fn lines_that_are_not_as_they_were_are_found(
    #[case] change: impl Fn(&mut Lines),
    #[case] says: &[&str],
    #[case] unsettled: u64,
) {
    let (usages, mut acceptances) = both(&three());
    change(&mut acceptances);
    let report = report(&usages, &acceptances);
    assert_eq!(said(&report), says);
    assert_eq!(report.unsettled, unsettled);
}

#[test]
fn acceptance_that_the_operator_has_not_signed_is_found_and_counts_for_nothing() {
    let (usages, acceptances) = both(&three());
    let mut envelope = Envelope::parse(acceptances[2].strip_suffix(b"\n").unwrap()).unwrap();
    let with = |envelope: &Envelope| vec![acceptances[0].clone(), acceptances[1].clone(), envelope.line().unwrap()];
    envelope.signatures[0].sig = data_encoding::BASE64.encode(&[0; 32]);
    let forged = report(&usages, &with(&envelope));
    assert_eq!(
        said(&forged),
        ["line 3: it is forged: the key key-of-another has not signed it"]
    );
    assert_eq!(forged.sums["EUR"].attempts, 2);
    envelope.signatures[0].keyid = "key-7".to_owned();
    let strange = report(&usages, &with(&envelope));
    assert_eq!(
        said(&strange),
        ["line 3: it is signed by a key that is not known, key-7"]
    );
}

#[test]
fn receipt_in_the_place_of_an_acceptance_is_found() {
    let (usages, mut acceptances) = both(&three());
    acceptances[1] = usages[1].clone();
    let report = report(&usages, &acceptances);
    assert_eq!(
        said(&report),
        [
            format!("line 2: its payload is of another type, \"{PAYLOAD_TYPE}\""),
            "line 3: the chain is broken: it follows another acceptance than the one before it".to_owned(),
        ]
    );
}

#[rstest]
#[case::amount(|a: &mut Acceptance| a.amount_micro += 1, &["its amount is 918 millionths, and it should be 917"])]
#[case::processor_time(|a: &mut Acceptance| a.cpu_ms -= 1, &["it counts 89999 ms of processor time, and it should be 90000"])]
#[case::energy(|a: &mut Acceptance| a.joules = 0, &["it counts 0 J, and it should be 5000"])]
#[case::standing(|a: &mut Acceptance| a.standing = Standing::Failed, &["its amount is 917 millionths, and it should be 417"])]
#[case::accepted(|a: &mut Acceptance| a.accepted_uid = None, &["it is accepted, and the result of its index is that of nobody"])]
#[case::dispute(|a: &mut Acceptance| a.dispute = Some(Dispute::NoTerms), &["its dispute is NoTerms, and it should be none"])]
#[case::no_such_usage(|a: &mut Acceptance| a.usage_sha256 = "bb".to_owned(), &["it is of a receipt that is not here: 2, with SHA-256 bb"])]
#[case::another_attempt(
    |a: &mut Acceptance| a.pod_uid = uid(9),
    &["it is of another attempt than the receipt that it names, which is receipt 2, for u-2"]
)]
#[case::another_number(
    |a: &mut Acceptance| a.usage_sequence = 3,
    &["it is of another attempt than the receipt that it names, which is receipt 2, for u-2"]
)]
#[case::doubled_attempt(
    |a: &mut Acceptance| a.pod_uid = uid(1),
    &[
        "its attempt is doubled: line 1 has an acceptance for u-1 too",
        "it is of another attempt than the receipt that it names, which is receipt 2, for u-2",
    ]
)]
#[case::less_seen(
    |a: &mut Acceptance| a.running_ms = 1000,
    &[
        "receipt 2 is overstated: it claims 60000 ms of running, and at most 1000 were seen",
        "receipt 2 is overstated: it claims 90000 ms of processor time, and at most 2000 were seen",
        "receipt 2 is overstated: it claims 5000 J, and at most 400 were seen",
        "it counts 90000 ms of processor time, and it should be 2000",
        "it counts 5000 J, and it should be 83",
        "its amount is 917 millionths, and it should be 18",
    ]
)]
fn acceptance_that_does_not_follow_is_found_though_it_is_signed(
    #[case] change: impl Fn(&mut Acceptance),
    #[case] says: &[&str],
) {
    let (usages, acceptances) = changed(&three(), |acceptance| {
        if acceptance.sequence == 2 {
            change(acceptance);
        }
    });
    let says: Vec<_> = says.iter().map(|fault| format!("line 2: {fault}")).collect();
    assert_eq!(said(&report(&usages, &acceptances)), says);
}

#[test]
fn terms_that_the_car_has_not_signed_for_are_found() {
    let dearer = Terms {
        per_cpu_hour: "0.03".parse().unwrap(),
        ..terms()
    };
    let (usages, acceptances) = changed(&[honest()], |acceptance| {
        acceptance.terms = Some(dearer.clone());
        acceptance.amount_micro = amount(&dearer, Standing::Accepted, 90_000, 5000);
    });
    let fault = Fault::TermsDiffer {
        signed: Some(terms().digest()),
        settled: Some(dearer.digest()),
    };
    assert_eq!(report(&usages, &acceptances).findings, [Finding { line: 1, fault }]);
}

#[test]
fn terms_that_were_never_offered_are_found_too() {
    let usage = honest().usage(1, NOTHING);
    let (usage_line, name) = signed(PAYLOAD_TYPE, &usage, KEY);
    let closing = Given {
        terms: None,
        ..honest()
    }
    .closing(1);
    let acceptance = closing.accept(&usage, &name, FIRST).unwrap();
    assert_eq!(acceptance.dispute, Some(Dispute::TermsDiffer));
    let (acceptance_line, _) = signed(ACCEPTANCE_TYPE, &acceptance, OPERATOR);
    let fault = Fault::TermsDiffer {
        signed: Some(terms().digest()),
        settled: None,
    };
    let report = report(&[usage_line], &[acceptance_line]);
    assert_eq!(report.findings, [Finding { line: 1, fault }]);
}

#[test]
fn overstated_receipt_is_found_and_paid_as_far_as_it_was_seen() {
    let overstated = Given {
        duration_ms: 70_000,
        cpu_ms: 200_000,
        ..honest()
    };
    let (usages, acceptances) = both(&[honest(), overstated]);
    let report = report(&usages, &acceptances);
    assert_eq!(
        said(&report),
        [
            "line 2: receipt 2 is overstated: it claims 70000 ms of running, and at most 61000 were seen",
            "line 2: receipt 2 is overstated: it claims 200000 ms of processor time, and at most 122000 were seen",
        ]
    );
    assert_eq!((report.lines[1].cpu_ms, report.lines[1].joules), (122_000, 4357));
}

/// A car's own word of its energy is paid no further than a car can have taken.
#[test]
fn energy_that_no_car_takes_is_found_and_paid_as_far_as_it_can_have_been() {
    let overstated = Given {
        standing: Standing::Failed,
        joules: 1_000_000_000,
        ..honest()
    };
    let (usages, acceptances) = both(&[overstated]);
    let report = report(&usages, &acceptances);
    // 61 s at 300 W and 50 W for each of two cores.
    assert_eq!(
        said(&report),
        ["line 1: receipt 1 is overstated: it claims 1000000000 J, and at most 24400 were seen"]
    );
    assert_eq!((report.lines[0].joules, report.lines[0].amount_micro), (24_400, 2033));
}

#[test]
fn receipt_that_is_gone_is_found_in_both_halves() {
    let (mut usages, acceptances) = both(&three());
    usages.remove(1);
    let report = report(&usages, &acceptances);
    assert_eq!(
        report.usage.findings[0].to_string(),
        "line 2: there is a gap: receipt 2 should be here, and it is 3"
    );
    let missing = |finding: &Finding| matches!(finding.fault, Fault::NoSuchUsage { usage_sequence: 2, .. });
    assert_eq!((report.findings.len(), missing(&report.findings[0])), (1, true));
    // The newest one, too: the acceptance of it is there.
    let (mut usages, acceptances) = both(&three());
    usages.pop();
    assert!(!self::report(&usages, &acceptances).is_well());
}

#[test]
fn report_as_json_names_each_fault() {
    let overstated = Given {
        cpu_ms: 122_001,
        ..honest()
    };
    let (usages, mut acceptances) = both(&[overstated, honest(), honest()]);
    acceptances.remove(1);
    let json = serde_json::to_value(report(&usages, &acceptances)).unwrap();
    assert_eq!(
        json["findings"],
        json!([
            {"line": 1, "fault": "overstated", "usageSequence": 1, "measure": "processorTime", "claimed": 122_001, "seen": 122_000},
            {"line": 2, "fault": "gap", "expected": 2, "found": 3},
        ])
    );
    assert_eq!(json["sums"]["EUR"]["attempts"], 2);
    assert_eq!(json["lines"][0]["podUid"], "u-1");
    assert_eq!(json["unsettled"], 1);
}

#[rstest]
#[case(0, "0.00", "0.000000")]
#[case(12_340_001, "12.34", "12.340001")]
#[case(4999, "0.00", "0.004999")]
#[case(5000, "0.00", "0.005000")]
#[case(5001, "0.01", "0.005001")]
#[case(15_000, "0.02", "0.015000")]
#[case(25_000, "0.02", "0.025000")]
#[case(999_995_000, "1000.00", "999.995000")]
#[case(u64::MAX, "18446744073709.55", "18446744073709.551615")]
fn payout_is_rounded_once_and_a_half_to_the_even_one(#[case] micro: u64, #[case] payout: &str, #[case] exact: &str) {
    let sum = Sum {
        amount_micro: micro,
        ..Sum::default()
    };
    assert_eq!((sum.payout(), sum.exact()), (payout.to_owned(), exact.to_owned()));
}

proptest! {
    #[test]
    fn no_single_change_of_either_half_goes_unfound(
        given in prop::collection::vec(any_honest(), 1..5),
        change in change(),
        of_the_car in any::<bool>(),
    ) {
        let (usages, acceptances) = both(&given);
        let whole = report(&usages, &acceptances);
        prop_assert!(whole.is_well() && whole.unsettled == 0, "{:?}", said(&whole));
        let half = if of_the_car { &usages } else { &acceptances };
        if let Some(bytes) = change.of(half.clone()) {
            let bytes = [bytes];
            let report = if of_the_car { report(&bytes, &acceptances) } else { report(&usages, &bytes) };
            prop_assert!(!report.is_well());
        }
    }

    #[test]
    fn amount_that_was_changed_is_found_though_it_is_signed(
        given in prop::collection::vec(any_given(), 1..4),
        which in any::<prop::sample::Index>(),
        amount_micro in any::<u64>(),
    ) {
        let at = which.index(given.len()) as u64 + 1;
        let due = given[which.index(given.len())].settled().amount_micro;
        let (usages, acceptances) = changed(&given, |acceptance| {
            if acceptance.sequence == at {
                acceptance.amount_micro = amount_micro;
            }
        });
        let wrong = |finding: &Finding| matches!(finding.fault, Fault::WrongAmount { .. });
        let found = report(&usages, &acceptances).findings.iter().any(wrong);
        prop_assert_eq!(found, amount_micro != due);
    }

    #[test]
    fn overstated_use_is_found_and_nothing_else_is(given in any_given()) {
        let seen = u128::from(given.running_ms) * u128::from(given.milli_cpu) / 1000;
        let longer = u64::from(given.duration_ms) > given.running_ms;
        let more = u128::from(given.cpu_ms) > seen;
        let hotter = given.joules > most_joules(given.running_ms, given.milli_cpu);
        let (usages, acceptances) = both(&[given]);
        let report = report(&usages, &acceptances);
        let overstated = |finding: &&Finding| matches!(finding.fault, Fault::Overstated { .. });
        let found = report.findings.iter().filter(overstated).count();
        prop_assert_eq!(found, usize::from(longer) + usize::from(more) + usize::from(hotter));
        prop_assert_eq!(report.findings.len(), found);
        prop_assert!(report.usage.findings.is_empty());
    }

    #[test]
    fn sums_are_those_of_the_lines(given in prop::collection::vec(any_honest(), 0..12)) {
        let (usages, acceptances) = both(&given);
        let report = report(&usages, &acceptances);
        prop_assert_eq!(report.lines.len(), given.len());
        for (currency, sum) in &report.sums {
            let of_it = |line: &&Line| line.currency.as_ref() == Some(currency);
            let lines: Vec<&Line> = report.lines.iter().filter(of_it).collect();
            prop_assert_eq!(sum.attempts, lines.len() as u64);
            prop_assert_eq!(sum.amount_micro, lines.iter().map(|line| line.amount_micro).sum::<u64>());
            prop_assert_eq!(sum.cpu_ms, lines.iter().map(|line| line.cpu_ms).sum::<u64>());
            prop_assert_eq!(sum.joules, lines.iter().map(|line| line.joules).sum::<u64>());
        }
        let total: u64 = report.lines.iter().map(|line| line.amount_micro).sum();
        let summed: u64 = report.sums.values().map(|sum| sum.amount_micro).sum();
        prop_assert_eq!(summed, total);
    }

    #[test]
    fn no_bytes_make_the_check_panic(usages: Vec<u8>, acceptances: Vec<u8>) {
        check(&usages, &acceptances, &Hashes, &Hashes);
    }
}
