//! A chain that is whole, and everything that may be done to it.

use proptest::prelude::*;
use rstest::rstest;

use super::testing::{Hashes, KEY, change, sign, vehicle};
use super::*;
use crate::attempt::{ContainerRecord, Exit, Record};

fn usage(sequence: u64, previous: &str) -> Usage {
    Usage {
        sequence,
        previous: previous.to_owned(),
        vehicle: vehicle(1),
        claim: Claim {
            pod_uid: format!("u-{sequence}").parse().unwrap(),
            images: vec!["sha256:aa".to_owned()],
            class: if sequence.is_multiple_of(2) {
                "video"
            } else {
                "inference"
            }
            .to_owned(),
            terms_sha256: None,
            consent: Some(Consent {
                given_at: "2026-11-01T10:00:00Z".parse().unwrap(),
                document_sha256: "ab".repeat(32),
                record: None,
            }),
            started_at_ms: 1000,
            ended_at_ms: 5000,
            cpu_ms: 10 * sequence,
            frozen_ms: Some(3),
            output_bytes: sequence,
            energy: None,
            outcome: Ending {
                kind: Kind::Succeeded,
                reason: String::new(),
            },
        },
    }
}

fn signed(usage: &Usage, keyid: &str) -> (Vec<u8>, String) {
    let payload = serde_json::to_vec(usage).unwrap();
    let signature = sign(keyid, &pae(PAYLOAD_TYPE, &payload));
    let line = Envelope::new(&payload, keyid, &signature).line().unwrap();
    (line, digest(&payload))
}

/// A chain of so many receipts, changed by `change` before they are signed.
fn chain_of(count: u64, change: impl Fn(&mut Usage)) -> Vec<Vec<u8>> {
    let mut previous = NOTHING.to_owned();
    let mut lines = Vec::new();
    for sequence in 1..=count {
        let mut usage = usage(sequence, &previous);
        change(&mut usage);
        let (line, digest) = signed(&usage, KEY);
        lines.push(line);
        previous = digest;
    }
    lines
}

fn chain(count: u64) -> Vec<Vec<u8>> {
    chain_of(count, |_| {})
}

fn faults(lines: &[Vec<u8>]) -> Vec<(usize, Fault)> {
    let findings = verify(&lines.concat(), &Hashes).findings;
    findings
        .into_iter()
        .map(|finding| (finding.line, finding.fault))
        .collect()
}

fn text(faults: &[(usize, Fault)]) -> Vec<String> {
    faults.iter().map(|(line, fault)| format!("{line}: {fault}")).collect()
}

#[test]
fn whole_chain_has_no_fault_and_its_sums_are_told_by_class() {
    let report = verify(&chain(5).concat(), &Hashes);
    assert_eq!(report.findings, []);
    assert_eq!(
        (
            report.lines,
            report.total.count,
            report.total.cpu_ms,
            report.total.output_bytes
        ),
        (5, 5, 150, 15)
    );
    assert_eq!(report.by_class["video"].cpu_ms, 60);
    assert_eq!(report.by_class["inference"].count, 3);
    assert_eq!(report.head.unwrap().sequence, 5);
    assert_eq!(report.receipts[2].usage.sequence, 3);
    assert!(verify(b"", &Hashes).findings.is_empty());
}

#[test]
fn payload_says_what_it_should_and_names_nobody() {
    let line = &chain(1)[0];
    let envelope = Envelope::parse(line.strip_suffix(b"\n").unwrap()).unwrap();
    let payload = String::from_utf8(envelope.payload().unwrap()).unwrap();
    let zeros = NOTHING;
    let document = "ab".repeat(32);
    assert_eq!(
        payload,
        format!(
            "{{\"sequence\":1,\"previous\":\"{zeros}\",\"vehicle\":\"car-aeaqcaibaeaqcaib\",\"podUid\":\"u-1\",\
             \"images\":[\"sha256:aa\"],\"class\":\"inference\",\"termsSha256\":null,\
             \"consent\":{{\"givenAt\":\"2026-11-01T10:00:00Z\",\"documentSha256\":\"{document}\"}},\
             \"startedAtMs\":1000,\"endedAtMs\":5000,\"cpuMs\":10,\"frozenMs\":3,\"outputBytes\":1,\"energy\":null,\
             \"outcome\":{{\"kind\":\"succeeded\",\"reason\":\"\"}}}}"
        )
    );
    assert_eq!(serde_json::from_str::<Usage>(&payload).unwrap(), usage(1, NOTHING));
    // As agents wrote it that knew of no terms.
    let older = payload.replace("\"termsSha256\":null,", "");
    assert_eq!(serde_json::from_str::<Usage>(&older).unwrap(), usage(1, NOTHING));
}

#[test]
fn message_that_is_signed_is_that_of_dsse() {
    // The example of its specification.
    assert_eq!(
        pae("http://example.com/HelloWorld", b"hello world"),
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    );
}

#[rstest]
#[case::gap(|lines: &mut Vec<Vec<u8>>| { lines.remove(2); }, &["3: there is a gap: receipt 3 should be here, and it is 4"])]
#[case::beginning_gone(|lines: &mut Vec<Vec<u8>>| { lines.remove(0); }, &["1: there is a gap: receipt 1 should be here, and it is 2"])]
#[case::doubled(|lines: &mut Vec<Vec<u8>>| lines.insert(2, lines[1].clone()), &["3: it is doubled: there is a receipt 2 before it"])]
#[case::reordered(|lines: &mut Vec<Vec<u8>>| lines.swap(1, 2), &["3: it is out of order: receipt 2 stands behind a later one"])]
#[case::cut_off(|lines: &mut Vec<Vec<u8>>| lines[4].truncate(100), &["5: it is cut off"])]
#[case::only_the_end_cut_off(|lines: &mut Vec<Vec<u8>>| { lines[4].pop(); }, &["5: it is cut off"])]
#[case::no_json(|lines: &mut Vec<Vec<u8>>| lines[2] = b"hello\n".to_vec(), &["3: it is no receipt: expected value at line 1 column 1"])]
#[case::empty_line(|lines: &mut Vec<Vec<u8>>| lines[2] = b"\n".to_vec(), &["3: it is no receipt: EOF while parsing a value at line 1 column 0"])]
fn lines_that_are_not_as_they_were_are_found(#[case] change: impl Fn(&mut Vec<Vec<u8>>), #[case] says: &[&str]) {
    let mut lines = chain(5);
    change(&mut lines);
    assert_eq!(text(&faults(&lines)), says);
}

/// Changes one envelope of a chain.
fn with_envelope(change: impl Fn(&mut Envelope)) -> Vec<(usize, Fault)> {
    let mut lines = chain(4);
    let mut envelope = Envelope::parse(lines[1].strip_suffix(b"\n").unwrap()).unwrap();
    change(&mut envelope);
    lines[1] = envelope.line().unwrap();
    faults(&lines)
}

#[test]
fn envelope_that_its_car_has_not_signed_is_found() {
    let another = |envelope: &mut Envelope| envelope.payload_type = "text/plain".to_owned();
    let found = "text/plain".to_owned();
    assert_eq!(with_envelope(another), [(2, Fault::WrongType { found })]);

    let forged = Fault::Forged { keyid: KEY.to_owned() };
    let zeros = |envelope: &mut Envelope| {
        envelope.signatures[0].sig = data_encoding::BASE64.encode(&[0; 32]);
    };
    assert_eq!(with_envelope(zeros), [(2, forged.clone())]);

    // More processor time than was signed: the one after it does not follow it either.
    let overstated = |envelope: &mut Envelope| {
        let mut usage: Usage = serde_json::from_slice(&envelope.payload().unwrap()).unwrap();
        usage.claim.cpu_ms += 1;
        envelope.payload = data_encoding::BASE64.encode(&serde_json::to_vec(&usage).unwrap());
    };
    assert_eq!(with_envelope(overstated), [(2, forged), (3, Fault::Broken)]);

    let strange = |envelope: &mut Envelope| envelope.signatures[0].keyid = "key-7".to_owned();
    let keyid = "key-7".to_owned();
    assert_eq!(with_envelope(strange), [(2, Fault::UnknownKey { keyid })]);

    let unsigned = |envelope: &mut Envelope| envelope.signatures.clear();
    let why = "nobody has signed it".to_owned();
    assert_eq!(with_envelope(unsigned), [(2, Fault::Unreadable { why })]);
}

#[test]
fn forged_receipt_counts_for_nothing() {
    let mut lines = chain(3);
    let mut envelope = Envelope::parse(lines[1].strip_suffix(b"\n").unwrap()).unwrap();
    envelope.signatures[0].sig.clear();
    lines[1] = envelope.line().unwrap();
    let report = verify(&lines.concat(), &Hashes);
    assert_eq!((report.total.count, report.total.cpu_ms), (2, 40));
    assert_eq!(report.head.unwrap().sequence, 3);
}

#[test]
fn receipt_of_a_new_key_is_as_good_and_one_of_another_car_is_not() {
    let mut lines = chain(2);
    let previous = verify(&lines.concat(), &Hashes).head.unwrap().digest;
    lines.push(signed(&usage(3, &previous), "key-2").0);
    assert_eq!(faults(&lines), []);
    lines[2] = signed(&usage(3, &previous), "key-of-another").0;
    assert_eq!(faults(&lines), [(3, Fault::KeyOfAnother { owner: vehicle(9) })]);
}

#[test]
fn chain_that_follows_another_receipt_is_broken() {
    let mut lines = chain(2);
    let mut other = usage(3, &digest(b"something else"));
    lines.push(signed(&other, KEY).0);
    assert_eq!(faults(&lines), [(3, Fault::Broken)]);
    // A second beginning within a file is none.
    other.previous = NOTHING.to_owned();
    lines[2] = signed(&other, KEY).0;
    assert_eq!(faults(&lines), [(3, Fault::Broken)]);
}

#[test]
fn receipts_that_contradict_themselves_or_each_other_are_found() {
    let backwards = chain_of(3, |usage| {
        if usage.sequence == 2 {
            usage.claim.ended_at_ms = 999;
        }
    });
    assert_eq!(faults(&backwards), [(2, Fault::Backwards)]);
    let others = chain_of(3, |usage| {
        if usage.sequence == 2 {
            usage.claim.pod_uid = "u-1".parse().unwrap();
        }
    });
    let uid: PodUid = "u-1".parse().unwrap();
    assert_eq!(faults(&others), [(2, Fault::DoubledAttempt { uid, first: 1 })]);
    assert_eq!(verify(&others.concat(), &Hashes).total.count, 2);
    // Its keys are still those of the first.
    let moved = chain_of(2, |usage| {
        if usage.sequence == 2 {
            usage.vehicle = vehicle(2);
        }
    });
    assert_eq!(faults(&moved), [(2, Fault::KeyOfAnother { owner: vehicle(1) })]);
}

#[test]
fn vehicle_that_changes_is_found_by_whoever_does_not_know_whose_the_keys_are() {
    struct Nameless;
    impl Keys for Nameless {
        fn verify(&self, keyid: &str, message: &[u8], signature: &[u8]) -> Verdict {
            Hashes.verify(keyid, message, signature)
        }
    }
    let moved = chain_of(2, |usage| {
        if usage.sequence == 2 {
            usage.vehicle = vehicle(2);
        }
    });
    let findings = verify(&moved.concat(), &Nameless).findings;
    let found = vehicle(2);
    assert_eq!(
        findings,
        [Finding {
            line: 2,
            fault: Fault::OtherVehicle { found }
        }]
    );
}

#[test]
fn chain_that_begins_anew_says_so_and_goes_on() {
    let (first, head) = signed(&usage(8, NOTHING), KEY);
    let second = signed(&usage(9, &head), KEY).0;
    let report = verify(&[first, second].concat(), &Hashes);
    assert_eq!(
        report.findings,
        [Finding {
            line: 1,
            fault: Fault::BeginsLate { sequence: 8 }
        }]
    );
    assert!(report.goes_on());
    assert!(!verify(&chain(3)[1..].concat(), &Hashes).goes_on());
}

#[test]
fn report_as_json_names_each_fault() {
    let mut lines = chain(3);
    lines.remove(1);
    let report = serde_json::to_value(verify(&lines.concat(), &Hashes)).unwrap();
    assert_eq!(
        report["findings"],
        serde_json::json!([{"line": 2, "fault": "gap", "expected": 2, "found": 3}])
    );
}

proptest! {
    #[test]
    fn no_single_change_of_a_chain_goes_unfound(count in 1u64..6, change in change()) {
        if let Some(changed) = change.of(chain(count)) {
            prop_assert!(!verify(&changed, &Hashes).findings.is_empty());
        }
    }

    #[test]
    fn no_bytes_make_the_check_panic(bytes: Vec<u8>) {
        verify(&bytes, &Hashes);
    }
}

#[test]
fn every_bit_of_a_chain_counts_and_every_cut_within_a_line() {
    let whole = chain(2).concat();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            assert!(!verify(&changed, &Hashes).findings.is_empty(), "byte {at}, bit {bit}");
        }
        let at_an_end = at == 0 || whole[at - 1] == b'\n';
        assert_eq!(
            verify(&whole[..at], &Hashes).findings.is_empty(),
            at_an_end,
            "cut at {at}"
        );
    }
}

fn exit(reason: &str, started_ms: i64, finished_ms: i64) -> Exit {
    Exit {
        code: 0,
        reason: reason.to_owned(),
        message: "secret".to_owned(),
        started_ms,
        finished_ms,
    }
}

fn record(containers: Vec<(&str, Option<i64>, Option<Exit>)>) -> Record {
    let containers = containers
        .into_iter()
        .map(|(image, running_since_ms, exit)| ContainerRecord {
            image_id: image.to_owned(),
            restarts: 0,
            running_since_ms,
            exit,
            last: None,
        });
    Record {
        revision: 1,
        outcome: None,
        ended: false,
        started_ms: 1,
        containers: containers.collect(),
    }
}

fn claim(tally: &Tally, record: &Record) -> Option<Claim> {
    let outcome = Outcome::new(Kind::Disrupted, "VehicleDeparted", "a sentence");
    tally.claim("u-1".parse().unwrap(), "inference", "terms", record, &outcome)
}

#[test]
fn receipt_names_the_terms_of_its_run_by_their_hash() {
    let tally = Tally {
        started_at_ms: Some(1),
        ..Tally::default()
    };
    let record = record(Vec::new());
    assert_eq!(claim(&tally, &record).unwrap().terms_sha256, Some(digest(b"terms")));
    let outcome = Outcome::new(Kind::Succeeded, "", "");
    let without = tally.claim("u-1".parse().unwrap(), "inference", "", &record, &outcome);
    assert_eq!(without.unwrap().terms_sha256, None);
}

#[test]
fn receipt_says_energy_with_its_method_and_error_and_older_ones_are_read_without() {
    let energy = Energy {
        joules: 2048,
        method: "rapl+model".to_owned(),
        error_permille: Some(120),
    };
    let tally = Tally {
        started_at_ms: Some(1),
        energy: Some(energy.clone()),
        ..Tally::default()
    };
    let said = claim(&tally, &record(Vec::new())).unwrap().energy;
    let json = serde_json::to_string(&said).unwrap();
    assert_eq!(json, r#"{"joules":2048,"method":"rapl+model","errorPermille":120}"#);
    let before = r#"{"joules":2048,"method":"rapl+model"}"#;
    let read: Energy = serde_json::from_str(before).unwrap();
    assert_eq!(read.error_permille, None);
    assert_eq!(serde_json::to_string(&read).unwrap(), before, "so that its hash stays");
    assert_eq!(serde_json::from_str::<Tally>("{}").unwrap().energy, None);
}

#[test]
fn attempt_without_a_process_has_no_receipt() {
    let mut tally = Tally::default();
    let none = record(vec![
        ("", None, None),
        ("a@sha256:1", None, Some(exit("StartError", 5, 5))),
    ]);
    tally.see(&none, 9);
    assert_eq!(claim(&tally, &none), None);
}

#[test]
fn receipt_spans_all_programs_and_names_images_by_their_digests_alone() {
    let mut tally = Tally::default();
    let running = record(vec![
        ("registry.home:5000/b@sha256:2", None, Some(exit("Completed", 10, 20))),
        ("registry.home:5000/a@sha256:1", Some(25), None),
        ("registry.home:5000/a@sha256:1", None, None),
        ("not-known-yet", None, None),
    ]);
    tally.see(&running, 40);
    let claim = claim(&tally, &running).unwrap();
    assert_eq!((claim.started_at_ms, claim.ended_at_ms), (10, 40));
    assert_eq!(claim.images, ["sha256:1", "sha256:2"]);
    let json = serde_json::to_string(&claim).unwrap();
    for hidden in ["home", "secret", "sentence"] {
        assert!(!json.contains(hidden), "{json}");
    }
}

#[test]
fn program_that_died_with_its_agent_ran_until_it_was_last_seen() {
    let mut tally = Tally::default();
    tally.see(&record(vec![("", Some(10), None)]), 30);
    let after = record(vec![(
        "",
        None,
        Some(exit(crate::attempt::AGENT_RESTARTED, 10, 99_999)),
    )]);
    let text = serde_json::to_string(&tally).unwrap();
    let mut tally: Tally = serde_json::from_str(&text).unwrap();
    tally.see(&after, 99_999);
    let kept = claim(&tally, &after).unwrap();
    assert_eq!((kept.started_at_ms, kept.ended_at_ms), (10, 30));
    // A journal of an agent that kept no tally.
    let mut tally: Tally = serde_json::from_str("{}").unwrap();
    tally.see(&after, 99_999);
    let kept = claim(&tally, &after).unwrap();
    assert_eq!((kept.started_at_ms, kept.ended_at_ms), (10, 10));
}

#[rstest]
#[case("VehicleDeparted", "VehicleDeparted")]
#[case("", "")]
#[case("alice is at home", "Other")]
fn reason_that_is_no_word_is_not_repeated(#[case] reason: &str, #[case] says: &str) {
    assert_eq!(Ending::from(&Outcome::new(Kind::Failed, reason, "")).reason, says);
}
