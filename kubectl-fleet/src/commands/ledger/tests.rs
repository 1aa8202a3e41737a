//! What is in order is said to be, what is not is found, and an export is as good as the operator's own answer.

use clap::Parser;
use kerbside_core::ledger::ACCEPTANCE_TYPE;
use kerbside_core::receipt::Envelope;
use kerbside_link::identity::Ca;
use serde_json::{Value, json};

use super::testing::{Cluster, envelope};
use super::*;
use crate::cli::{Cli, Command};

/// Runs the command on an export; what it printed, and whether it succeeded.
async fn ledger(export: &Value, args: &[&str]) -> (String, Result<(), Error>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("export.json");
    std::fs::write(&file, export.to_string()).unwrap();
    let args = ["kubectl-fleet", "ledger"].iter().chain(args);
    let Command::Ledger(args) = Cli::try_parse_from(args).unwrap().command else {
        panic!("it is another command");
    };
    let mut out = Vec::new();
    let result = run_on_export(&file, &args.action, &mut out).await;
    (String::from_utf8(out).unwrap(), result)
}

fn findings(result: Result<(), Error>) -> usize {
    match result {
        Ok(()) => 0,
        Err(Error::Findings { findings }) => findings,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn ledgers_in_order_are_said_to_be() {
    let cluster = Cluster::new();
    let export = cluster.export(&[cluster.ledger(1, 3), cluster.ledger(2, 1)]);
    let (text, result) = ledger(&export, &["verify"]).await;
    result.unwrap();
    assert!(
        text.contains("receipts: 3, acceptances: 3, not settled: 0, findings: 0"),
        "{text}"
    );
    assert!(
        text.contains("by its own word, as this file has it; with --ca"),
        "{text}"
    );
    assert!(text.ends_with("vehicles: 2, findings: 0\n"), "{text}");
}

#[tokio::test]
async fn verify_prints_json_too() {
    let cluster = Cluster::new();
    let mut spoilt = cluster.ledger(1, 2);
    spoilt["acceptances"].as_array_mut().unwrap().pop();
    let export = cluster.export(&[spoilt, cluster.ledger(2, 1)]);
    let (text, result) = ledger(&export, &["verify", "-o", "json"]).await;
    result.unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&all["findings"], &all["caIsKnown"]), (&json!(0), &json!(false)));
    assert_eq!(all["vehicles"].as_array().unwrap().len(), 2);
    let unsettled = all["vehicles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["unsettled"].as_u64().unwrap());
    assert_eq!(unsettled.sum::<u64>(), 1, "a receipt that waits is no finding");
}

fn half<'a>(vehicle: &'a mut Value, half: &str) -> &'a mut Vec<Value> {
    vehicle[half].as_array_mut().unwrap()
}

fn say_again(lines: &mut Vec<Value>) {
    lines.push(lines[2].clone());
}

/// Takes the signature of another line.
fn forge(lines: &mut [Value]) {
    lines[0]["signatures"] = lines[2]["signatures"].clone();
}

/// What somebody does to a ledger.
type Spoil = fn(&mut Value);

/// What somebody does to the ledger of one vehicle with three attempts, and what is found of it.
const SPOILT: [(&str, Spoil); 10] = [
    ("receipts, line 2: there is a gap", |v| drop(half(v, "usage").remove(1))),
    ("acceptances, line 2: there is a gap", |v| {
        drop(half(v, "acceptances").remove(1));
    }),
    ("receipts, line 4: it is doubled", |v| say_again(half(v, "usage"))),
    ("acceptances, line 4: it is doubled", |v| {
        say_again(half(v, "acceptances"));
    }),
    ("receipts, line 2: it is out of order", |v| half(v, "usage").swap(0, 1)),
    ("acceptances, line 2: it is out of order", |v| {
        half(v, "acceptances").swap(0, 1);
    }),
    ("receipts, line 1: it is forged", |v| forge(half(v, "usage"))),
    ("acceptances, line 1: it is forged", |v| forge(half(v, "acceptances"))),
    ("receipts, line 2: it is no receipt", |v| {
        half(v, "usage")[1] = "rubbish".into();
    }),
    ("signed by a key that is not known", |v| v["certificates"] = json!({})),
];

#[tokio::test]
async fn what_somebody_does_to_a_ledger_is_found() {
    let cluster = Cluster::new();
    let vehicle = cluster.ledger(1, 3);
    for (says, spoil) in SPOILT {
        let mut spoilt = vehicle.clone();
        spoil(&mut spoilt);
        let (text, result) = ledger(&cluster.export(&[spoilt]), &["verify"]).await;
        assert!(findings(result) > 0, "{text}");
        assert!(text.contains(says), "{says}: {text}");
    }
}

#[tokio::test]
async fn amount_that_does_not_follow_is_found_though_the_operator_signed_it() {
    let cluster = Cluster::new();
    let mut vehicle = cluster.ledger(1, 1);
    let line = serde_json::to_vec(&vehicle["acceptances"][0]).unwrap();
    let payload = Envelope::parse(&line).unwrap().payload().unwrap();
    let mut acceptance: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(acceptance["amountMicro"], 20_000);
    acceptance["amountMicro"] = 20_001.into();
    let payload = acceptance.to_string().into_bytes();
    vehicle["acceptances"][0] = envelope(ACCEPTANCE_TYPE, &payload, &cluster.operator);
    let (text, result) = ledger(&cluster.export(&[vehicle]), &["verify"]).await;
    assert_eq!(findings(result), 1, "{text}");
    assert!(
        text.contains("its amount is 20001 millionths, and it should be 20000"),
        "{text}"
    );
}

#[tokio::test]
async fn certificates_of_another_ca_are_not_believed() {
    let (cluster, stranger) = (Cluster::new(), Cluster::new());
    // The vehicle's ledger is a stranger's, and then the operator's key.
    let export = cluster.export(&[stranger.ledger(1, 1)]);
    let (text, result) = ledger(&export, &["verify"]).await;
    assert!(
        findings(result) > 0 && text.contains("failed to trust certificate"),
        "{text}"
    );

    let mut export = cluster.export(&[cluster.ledger(1, 1)]);
    let other = stranger.export(&[]);
    export["operatorKeys"] = other["operatorKeys"].clone();
    let (text, result) = ledger(&export, &["verify"]).await;
    assert!(findings(result) > 0 && text.contains("operator: certificate"), "{text}");
}

/// An export of a cluster whose CA was made anew, with a vehicle of each, and the fingerprints of the old and the new CA.
fn renewed() -> (Value, [String; 2]) {
    let (old, new) = (Cluster::new(), Cluster::new());
    let mut export = new.export(&[old.ledger(1, 2), new.ledger(2, 1)]);
    let (before, after) = (old.cas(), new.cas());
    let mut fingerprints = Vec::new();
    for cas in [&before, &after] {
        for (fingerprint, pem) in cas.as_object().unwrap() {
            export["cas"][fingerprint.as_str()] = pem.clone();
            fingerprints.push(fingerprint.clone());
        }
    }
    let keys = old.export(&[])["operatorKeys"].clone();
    for (keyid, chain) in keys.as_object().unwrap() {
        export["operatorKeys"][keyid.as_str()] = chain.clone();
    }
    (export, fingerprints.try_into().unwrap())
}

#[tokio::test]
async fn what_was_signed_under_an_older_ca_holds_and_is_said_to_be_of_it() {
    let (export, [old, new]) = renewed();
    let (text, result) = ledger(&export, &["verify"]).await;
    assert_eq!(findings(result), 0, "{text}");
    for (ca, count) in [(&old, 2), (&new, 1)] {
        for what in ["receipts", "acceptances"] {
            let says = format!("{what} by keys of the CA {ca}: {count}\n");
            assert!(text.contains(&says), "{says}: {text}");
        }
    }
    assert!(text.contains("the CAs are those that the operator had"), "{text}");

    let (text, _) = ledger(&export, &["verify", "-o", "json"]).await;
    let all: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(all["cas"].as_array().unwrap().len(), 2);
    let of_old = all["vehicles"].as_array().unwrap();
    let of_old = of_old.iter().find(|v| v["receipts"] == 2).unwrap();
    assert_eq!(
        of_old["cas"],
        json!({ "receipts": { old.as_str(): 2 }, "acceptances": { old.as_str(): 2 } })
    );

    // The export of an export has them too.
    let (text, _) = ledger(&export, &["export"]).await;
    let again: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(again["cas"], export["cas"]);
}

/// A cluster's ledger that somebody with the store's credentials has rewritten: one vehicle's acceptances, of more attempts than there were,
/// and a certificate of the key that has signed them, of a CA of his own.
fn rewritten() -> (Cluster, Cluster, Value) {
    let (cluster, stranger) = (Cluster::new(), Cluster::new());
    let mut export = cluster.export(&[cluster.ledger(1, 1), stranger.ledger(2, 3)]);
    let keys = stranger.export(&[])["operatorKeys"].clone();
    for (keyid, chain) in keys.as_object().unwrap() {
        export["operatorKeys"][keyid.as_str()] = chain.clone();
    }
    (cluster, stranger, export)
}

#[tokio::test]
async fn what_is_signed_under_a_strangers_ca_is_found_and_in_no_sum() {
    let (cluster, stranger, mut export) = rewritten();
    // The operator does not name the stranger's CA; an older one, or an older export of it, did, and did not say that it had had it.
    let by_an_older = [cluster.cas(), stranger.cas()];
    for older in [false, true] {
        if older {
            export.as_object_mut().unwrap().remove("casAreKnown");
            for cas in &by_an_older {
                for (fingerprint, pem) in cas.as_object().unwrap() {
                    export["cas"][fingerprint.as_str()] = pem.clone();
                }
            }
        }
        let (text, result) = ledger(&export, &["verify"]).await;
        assert!(findings(result) > 0, "{text}");
        assert!(text.contains("operator: certificate"), "{text}");
        assert!(
            text.contains("acceptances, line 3: it is signed by a key that is not known"),
            "{text}"
        );
        assert_eq!(text.contains("this file does not say which CAs"), older, "{text}");

        let (text, result) = ledger(&export, &["sum"]).await;
        result.unwrap();
        let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["EUR", "1", "1", "1.000", "0", "0.020000", "0.02"], "{text}");
        assert!(text.contains("are there twice: 3 acceptances\n"), "{text}");
        assert!(text.contains("before you pay; findings: "), "{text}");
        let (text, _) = ledger(&export, &["sum", "-o", "json"]).await;
        let all: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(all["leftOut"], 3, "{text}");
    }
}

#[tokio::test]
async fn who_believes_the_other_ca_says_so() {
    let (cluster, other, export) = rewritten();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let both = format!("{}{}", cluster.ca.certificate_pem(), other.ca.certificate_pem());
    std::fs::write(&file, both).unwrap();
    let path = file.to_str().unwrap();
    let (text, result) = ledger(&export, &["verify", "--ca", path]).await;
    assert_eq!(findings(result), 0, "{text}");
    let (text, _) = ledger(&export, &["sum", "--ca", path]).await;
    assert!(text.contains("0.080000") && !text.contains("left out"), "{text}");
}

#[tokio::test]
async fn older_cas_of_which_nobody_says_that_the_operator_had_them_are_not_believed() {
    let (mut export, _) = renewed();
    export["casAreKnown"] = false.into();
    let (text, result) = ledger(&export, &["verify"]).await;
    assert!(findings(result) > 0, "{text}");
    // What nobody has said is not said by an export of it either, and nothing is lost.
    let (text, _) = ledger(&export, &["export"]).await;
    let again: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&again["casAreKnown"], &again["cas"]), (&json!(false), &export["cas"]));
}

#[tokio::test]
async fn older_ca_is_not_believed_where_somebody_brings_his_own_or_under_anothers_name() {
    let (export, [old, new]) = renewed();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let path = file.to_str().unwrap();
    let (of_old, of_new) = (&export["cas"][old.as_str()], &export["cas"][new.as_str()]);
    std::fs::write(&file, of_new.as_str().unwrap()).unwrap();
    let (text, result) = ledger(&export, &["verify", "--ca", path]).await;
    assert!(findings(result) > 0, "{text}");
    let both = format!("{}{}", of_old.as_str().unwrap(), of_new.as_str().unwrap());
    std::fs::write(&file, both).unwrap();
    let (text, result) = ledger(&export, &["verify", "--ca", path]).await;
    assert_eq!(findings(result), 0, "{text}");

    let mut swapped = export.clone();
    swapped["cas"] = json!({ new.as_str(): of_old });
    let (text, result) = ledger(&swapped, &["verify"]).await;
    assert!(findings(result) > 0, "{text}");
    assert!(text.contains("it is another certificate"), "{text}");
}

#[tokio::test]
async fn car_that_signs_acceptances_itself_is_found() {
    let cluster = Cluster::new();
    let vehicle = cluster.ledger(1, 1);
    let mut export = cluster.export(std::slice::from_ref(&vehicle));
    // A certificate of the right CA, but a car's.
    export["operatorKeys"] = vehicle["certificates"].clone();
    let (text, result) = ledger(&export, &["verify"]).await;
    assert!(findings(result) > 0, "{text}");
    assert!(text.contains("and not of 'kerbside-ledger'"), "{text}");
}

#[tokio::test]
async fn certificate_under_the_name_of_another_key_or_vehicle_is_found() {
    let cluster = Cluster::new();
    let (mut one, two) = (cluster.ledger(1, 1), cluster.ledger(2, 1));
    let (keyid, _) = one["certificates"].as_object().unwrap().iter().next().unwrap();
    let keyid = keyid.clone();
    let (_, foreign) = two["certificates"].as_object().unwrap().iter().next().unwrap();
    one["certificates"][keyid.as_str()] = foreign.clone();
    let (text, result) = ledger(&cluster.export(&[one]), &["verify"]).await;
    assert!(findings(result) > 0 && text.contains("it is of car-"), "{text}");
}

#[tokio::test]
async fn attempt_that_is_accepted_for_two_vehicles_is_found() {
    let cluster = Cluster::new();
    let (one, mut two) = (cluster.ledger(1, 1), cluster.ledger(2, 1));
    let line = serde_json::to_vec(&one["acceptances"][0]).unwrap();
    let payload = Envelope::parse(&line).unwrap().payload().unwrap();
    let mut acceptance: Value = serde_json::from_slice(&payload).unwrap();
    acceptance["vehicle"] = two["vehicle"].clone();
    let payload = acceptance.to_string().into_bytes();
    two["acceptances"][0] = envelope(ACCEPTANCE_TYPE, &payload, &cluster.operator);
    let (text, result) = ledger(&cluster.export(&[one, two]), &["verify"]).await;
    assert!(findings(result) > 0 && text.contains("is accepted for car-"), "{text}");
}

#[tokio::test]
async fn sums_are_exact_and_payouts_rounded() {
    let cluster = Cluster::new();
    let export = cluster.export(&[cluster.ledger(1, 2), cluster.ledger(2, 1)]);
    let (text, result) = ledger(&export, &["sum"]).await;
    result.unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(
        lines[0],
        [
            "currency",
            "attempts",
            "accepted",
            "core-hours",
            "joules",
            "amount",
            "payout"
        ]
    );
    assert_eq!(lines[1], ["EUR", "3", "3", "3.000", "0", "0.060000", "0.06"]);

    let (text, _) = ledger(&export, &["sum", "--by", "vehicle"]).await;
    assert_eq!(text.matches("car-").count(), 2, "{text}");
    assert_eq!(text.matches("0.040000").count(), 1, "{text}");
    let (text, _) = ledger(&export, &["sum", "--by", "job", "-o", "json"]).await;
    let all: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(all["sums"][1]["part"], "job-1");
    assert_eq!(
        (&all["sums"][1]["amountMicro"], &all["findings"]),
        (&json!(60_000), &json!(0))
    );
}

#[tokio::test]
async fn sum_of_a_ledger_that_does_not_hold_says_so() {
    let cluster = Cluster::new();
    let mut vehicle = cluster.ledger(1, 2);
    vehicle["usage"].as_array_mut().unwrap().remove(0);
    let (text, result) = ledger(&cluster.export(&[vehicle]), &["sum"]).await;
    result.unwrap();
    assert!(text.contains("before you pay; findings: "), "{text}");
}

#[tokio::test]
async fn export_of_an_export_is_the_same_and_can_be_of_one_vehicle() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.ledger(1, 2), cluster.ledger(2, 1));
    let export = cluster.export(&[one.clone(), two]);
    let (text, result) = ledger(&export, &["export"]).await;
    result.unwrap();
    let again: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(sorted(&again), sorted(&export));

    let vehicle = one["vehicle"].as_str().unwrap();
    let (text, _) = ledger(&export, &["export", "--vehicle", vehicle]).await;
    let only: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(only["vehicles"], json!([one]));
}

/// With the vehicles in the order of their names.
fn sorted(export: &Value) -> Value {
    let mut export = export.clone();
    let vehicles = export["vehicles"].as_array_mut().unwrap();
    vehicles.sort_by_key(|v| v["vehicle"].to_string());
    export
}

#[tokio::test]
async fn ca_that_is_known_is_believed_and_no_other() {
    let cluster = Cluster::new();
    let export = cluster.export(&[cluster.ledger(1, 1)]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let path = file.to_str().unwrap();
    std::fs::write(&file, cluster.ca.certificate_pem()).unwrap();
    let (text, result) = ledger(&export, &["verify", "--ca", path]).await;
    result.unwrap();
    assert!(!text.contains("--ca"), "{text}");

    let other = Ca::generate(jiff::Timestamp::UNIX_EPOCH).unwrap();
    std::fs::write(&file, other.certificate_pem()).unwrap();
    let (text, result) = ledger(&export, &["verify", "--ca", path]).await;
    assert!(findings(result) > 0, "{text}");

    std::fs::write(&file, "no certificate").unwrap();
    let (_, result) = ledger(&export, &["verify", "--ca", path]).await;
    assert!(matches!(result, Err(Error::Ca(_))), "{result:?}");
}

#[tokio::test]
async fn what_is_no_ledger_is_said_so() {
    let cluster = Cluster::new();
    let ledgers = [cluster.ledger(1, 1), cluster.ledger(1, 1)];
    let (_, result) = ledger(&cluster.export(&ledgers), &["verify"]).await;
    assert!(result.unwrap_err().to_string().contains("twice"));
    let (_, result) = ledger(&json!({ "results": [] }), &["verify"]).await;
    assert!(matches!(result, Err(Error::Unreadable { .. })), "{result:?}");
    let export = cluster.export(&[]);
    for (vehicle, says) in [
        ("car-aaaaaaaaaaaaaaaa", "there is no ledger"),
        ("van", "is not a VehicleId"),
    ] {
        let (_, result) = ledger(&export, &["verify", "--vehicle", vehicle]).await;
        let text = result.unwrap_err().to_string();
        assert!(text.contains(says), "{text}");
    }
}
