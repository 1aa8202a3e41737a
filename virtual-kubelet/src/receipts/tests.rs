//! Receipts that are good, come again, lie, and stand against others.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kerbside_core::attempt::{Kind, Outcome};
use kerbside_core::receipt::{Claim, Ending, NOTHING};
use kerbside_k8s::store::Store;
use kerbside_link::fault::FaultKind;
use kerbside_link::identity::{Ca, Identity, Signer, VEHICLE_VALIDITY, new_key_and_csr};
use serde_json::Value;

use super::*;
use crate::testing::{World, list, respond};

fn vehicle(n: u8) -> VehicleId {
    VehicleId::from_random([n; 10])
}

fn at() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn signer(ca: &Ca, vehicle: &VehicleId) -> Signer {
    let made = new_key_and_csr(&[]).unwrap();
    let chain = ca
        .sign_vehicle(&made.csr_der, vehicle, "overnight", VEHICLE_VALIDITY, at())
        .unwrap();
    let identity = Identity::from_pem(&made.key_pem, &chain, &ca.certificate_pem()).unwrap();
    Signer::new(&identity).unwrap()
}

fn usage(vehicle: &VehicleId, sequence: u64) -> Usage {
    Usage {
        sequence,
        previous: NOTHING.to_owned(),
        vehicle: vehicle.clone(),
        claim: Claim {
            pod_uid: format!("u-{sequence}").parse().unwrap(),
            images: Vec::new(),
            class: "inference".to_owned(),
            terms_sha256: None,
            consent: None,
            started_at_ms: 1000,
            ended_at_ms: 2000,
            cpu_ms: 7,
            frozen_ms: None,
            output_bytes: 0,
            energy: None,
            outcome: Ending::from(&Outcome::new(Kind::Succeeded, "", "")),
        },
    }
}

fn signed(signer: &Signer, usage: &Usage) -> SignedReceipt {
    let payload = serde_json::to_vec(usage).unwrap();
    let signature = signer.sign(&pae(PAYLOAD_TYPE, &payload)).unwrap();
    let envelope = Envelope::new(&payload, signer.key_id(), &signature);
    SignedReceipt {
        envelope: serde_json::to_vec(&envelope).unwrap().into(),
        chain_pem: signer.chain_pem().to_owned(),
        newest: false,
    }
}

struct Case {
    ca: Ca,
    signer: Signer,
    store: Store,
    receipts: Receipts,
    world: World,
}

impl Case {
    fn new() -> Self {
        let world = World::new();
        let ca = Ca::generate(at()).unwrap();
        Self {
            signer: signer(&ca, &vehicle(1)),
            receipts: Receipts::new(&world.context, &ca.certificate_pem()),
            ca,
            store: world.context.store.clone(),
            world,
        }
    }

    async fn put(&self, receipt: &SignedReceipt) -> Result<(), Fault> {
        self.receipts.put(&vehicle(1), receipt).await
    }

    /// Whether the operator is told of the receipt with this number.
    async fn is_told_of(&self, sequence: u64) -> bool {
        let place = path::ledger_pointer(vehicle(1).as_str(), &format!("u-{sequence}"));
        self.store.size(&place).await.unwrap().is_some()
    }

    async fn close(&self, uid: &str) {
        let place = path::ledger_closing(uid);
        self.store.put(&place, Bytes::from_static(b"{}")).await.unwrap();
    }

    async fn refusal(&self, receipt: &SignedReceipt) -> (FaultKind, String) {
        let fault = self.put(receipt).await.unwrap_err();
        (fault.kind(), fault.message().to_owned())
    }
}

#[tokio::test]
async fn receipt_is_stored_with_its_certificate_and_the_operator_is_told() {
    let case = Case::new();
    let receipt = signed(&case.signer, &usage(&vehicle(1), 12));
    case.put(&receipt).await.unwrap();
    let id = vehicle(1);
    let stored = case.store.get(&path::ledger_usage(id.as_str(), 12)).await.unwrap();
    assert_eq!(stored, receipt.envelope);
    let key = case
        .store
        .get(&path::ledger_key(id.as_str(), case.signer.key_id()))
        .await
        .unwrap();
    assert_eq!(key.as_ref(), receipt.chain_pem.as_bytes());
    let pointer = case
        .store
        .get(&path::ledger_pointer(id.as_str(), "u-12"))
        .await
        .unwrap();
    let pointer: Value = serde_json::from_slice(&pointer).unwrap();
    assert_eq!(
        (&pointer["vehicle"], &pointer["sequence"], &pointer["podUid"]),
        (&json!(id), &json!(12), &json!("u-12"))
    );
}

#[tokio::test]
async fn receipt_that_comes_again_is_taken_and_its_pointer_is_mended() {
    let case = Case::new();
    let receipt = signed(&case.signer, &usage(&vehicle(1), 1));
    case.put(&receipt).await.unwrap();
    case.store
        .delete(&path::ledger_pointer(vehicle(1).as_str(), "u-1"))
        .await
        .unwrap();
    case.put(&receipt).await.unwrap();
    assert!(
        case.store
            .get(&path::ledger_pointer(vehicle(1).as_str(), "u-1"))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn receipt_that_was_signed_anew_is_the_same() {
    let case = Case::new();
    let usage = usage(&vehicle(1), 1);
    case.put(&signed(&case.signer, &usage)).await.unwrap();
    // Signatures of this kind differ each time.
    case.put(&signed(&case.signer, &usage)).await.unwrap();
}

#[tokio::test]
async fn another_receipt_under_a_number_that_is_taken_is_a_conflict_and_replaces_nothing() {
    let case = Case::new();
    let first = signed(&case.signer, &usage(&vehicle(1), 1));
    case.put(&first).await.unwrap();
    let mut set_back = usage(&vehicle(1), 1);
    set_back.claim.cpu_ms = 8;
    let (kind, message) = case.refusal(&signed(&case.signer, &set_back)).await;
    assert_eq!(kind, FaultKind::Conflict);
    assert!(
        message.contains("number 1") && message.contains("enrol it anew"),
        "{message}"
    );
    let stored = case
        .store
        .get(&path::ledger_usage(vehicle(1).as_str(), 1))
        .await
        .unwrap();
    assert_eq!(stored, first.envelope);
}

#[tokio::test]
async fn newest_of_a_car_that_had_a_later_one_is_a_conflict() {
    let case = Case::new();
    let newest = |n| SignedReceipt {
        newest: true,
        ..signed(&case.signer, &usage(&vehicle(1), n))
    };
    for n in [1, 2] {
        case.put(&newest(n)).await.unwrap();
    }
    case.put(&newest(2)).await.unwrap();
    let (kind, message) = case.refusal(&newest(1)).await;
    assert_eq!(kind, FaultKind::Conflict);
    assert!(
        message.contains("receipt 2 is stored") && message.contains("set back"),
        "{message}"
    );
    case.put(&signed(&case.signer, &usage(&vehicle(1), 1))).await.unwrap();
}

#[tokio::test]
async fn receipt_of_a_key_that_was_renewed_long_ago_is_taken() {
    let case = Case::new();
    // The certificate of the case is of 2023, and was good for seven days.
    let receipt = signed(&case.signer, &usage(&vehicle(1), 1));
    case.put(&receipt).await.unwrap();
    let renewed = signer(&case.ca, &vehicle(1));
    case.put(&signed(&renewed, &usage(&vehicle(1), 2))).await.unwrap();
}

#[tokio::test]
async fn receipt_that_lies_is_refused_and_says_in_what() {
    let case = Case::new();
    let good = signed(&case.signer, &usage(&vehicle(1), 1));
    let of_another = signer(&case.ca, &vehicle(2));
    let stranger = signer(&Ca::generate(at()).unwrap(), &vehicle(1));
    let mut forged = good.clone();
    let other_key = signer(&case.ca, &vehicle(1));
    forged.chain_pem = other_key.chain_pem().to_owned();
    let mut garbage = good.clone();
    garbage.envelope = Bytes::from_static(b"{}");
    let mut no_chain = good.clone();
    no_chain.chain_pem = String::new();
    let cases = [
        (
            signed(&of_another, &usage(&vehicle(2), 1)),
            "certificate is of another vehicle",
        ),
        (
            signed(&stranger, &usage(&vehicle(1), 1)),
            "was not given out by this cluster",
        ),
        (
            signed(&case.signer, &usage(&vehicle(2), 1)),
            "the receipt is of another vehicle",
        ),
        (signed(&case.signer, &usage(&vehicle(1), 0)), "counted from 1"),
        (forged, "was not signed by the key of its certificate"),
        (garbage, "no DSSE envelope"),
        (no_chain, "certificate cannot be read"),
    ];
    for (receipt, says) in cases {
        let (kind, message) = case.refusal(&receipt).await;
        assert_eq!(kind, FaultKind::Invalid, "{message}");
        assert!(message.contains(says), "{message}");
    }
    assert!(
        case.store
            .get(&path::ledger_usage(vehicle(1).as_str(), 1))
            .await
            .is_err()
    );
    case.put(&good).await.unwrap();
}

/// A Pod on the car, of the attempt that receipt 1 is of.
fn pod(metadata: &Value) -> Pod {
    let mut pod = json!({
        "metadata": {"name": "p", "namespace": "vision", "uid": "u-1", "resourceVersion": "1"},
        "spec": {"nodeName": vehicle(1), "containers": []},
    });
    for (key, value) in metadata.as_object().unwrap() {
        pod["metadata"][key] = value.clone();
    }
    serde_json::from_value(pod).unwrap()
}

#[rstest::rstest]
#[case::held_for_its_ledger(json!({"finalizers": ["kerbside.dev/job-tracking"]}), false, true)]
#[case::of_a_job(json!({"ownerReferences": [{"apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob", "name": "j", "uid": "j"}]}), false, true)]
#[case::let_go_with_a_closing(json!({"finalizers": ["example.com/other"]}), true, true)]
#[case::of_a_deployment(json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r"}]}), false, false)]
#[case::of_nobody(json!({}), false, false)]
#[tokio::test]
async fn operator_is_told_of_a_receipt_of_a_pod_that_it_holds_or_has_closed(
    #[case] metadata: Value,
    #[case] closed: bool,
    #[case] told: bool,
) {
    let case = Case::new();
    list(&case.world.context.pods, vec![pod(&metadata)]);
    if closed {
        case.close("u-1").await;
    }
    case.put(&signed(&case.signer, &usage(&vehicle(1), 1))).await.unwrap();
    assert_eq!(case.is_told_of(1).await, told);
    let stored = case.store.size(&path::ledger_usage(vehicle(1).as_str(), 1)).await;
    assert!(stored.unwrap().is_some(), "the car's half is whole");
}

/// What the API server has on the car.
fn on_the_car(items: &Value) -> Value {
    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": items})
}

#[rstest::rstest]
#[case::gone_and_never_closed(200, on_the_car(&json!([])), false)]
#[case::another(200, on_the_car(&json!([{"metadata": {"name": "p", "uid": "u-2", "finalizers": ["kerbside.dev/job-tracking"]}}])), false)]
#[case::not_shown_by_the_watch_yet(200, on_the_car(&json!([{"metadata": {"name": "p", "uid": "u-1", "finalizers": ["kerbside.dev/job-tracking"]}}])), true)]
#[case::nobody_can_say(500, json!({"kind": "Status", "status": "Failure", "code": 500, "reason": "InternalError", "message": "no"}), true)]
#[tokio::test]
async fn pod_that_no_watch_shows_is_asked_for(#[case] code: u16, #[case] answer: Value, #[case] told: bool) {
    let mut case = Case::new();
    list(&case.world.context.pods, vec![]);
    let receipt = signed(&case.signer, &usage(&vehicle(1), 1));
    let id = vehicle(1);
    let put = case.receipts.put(&id, &receipt);
    let (put, (method, path, _)) = futures::join!(put, respond(&mut case.world.server, code, answer));
    put.unwrap();
    assert_eq!((method.as_str(), path.as_str()), ("GET", "/api/v1/pods"));
    assert_eq!(case.is_told_of(1).await, told);
}

#[tokio::test]
async fn pod_that_is_gone_is_asked_for_once_however_often_its_receipt_comes() {
    let mut case = Case::new();
    list(&case.world.context.pods, vec![]);
    let receipt = signed(&case.signer, &usage(&vehicle(1), 1));
    let id = vehicle(1);
    let put = case.receipts.put(&id, &receipt);
    let answer = on_the_car(&json!([]));
    futures::join!(put, respond(&mut case.world.server, 200, answer))
        .0
        .unwrap();
    // Were it asked for, this would wait for an answer, and then be told of as uncertain.
    case.put(&receipt).await.unwrap();
    assert!(!case.is_told_of(1).await);
    // A closing says more than the memory.
    case.close("u-1").await;
    case.put(&receipt).await.unwrap();
    assert!(case.is_told_of(1).await);
}

#[tokio::test]
async fn look_that_was_in_vain_is_not_remembered() {
    let mut case = Case::new();
    list(&case.world.context.pods, vec![]);
    let receipt = signed(&case.signer, &usage(&vehicle(1), 1));
    let id = vehicle(1);
    let failed =
        json!({"kind": "Status", "status": "Failure", "code": 500, "reason": "InternalError", "message": "no"});
    for (code, answer) in [(500, failed), (200, on_the_car(&json!([])))] {
        let put = case.receipts.put(&id, &receipt);
        let (put, (method, ..)) = futures::join!(put, respond(&mut case.world.server, code, answer));
        put.unwrap();
        assert_eq!(method, "GET");
    }
}

#[tokio::test]
async fn receipt_that_comes_when_its_pod_is_long_gone_is_told_of_without_asking() {
    let case = Case::new();
    list(&case.world.context.pods, vec![]);
    case.close("u-1").await;
    case.put(&signed(&case.signer, &usage(&vehicle(1), 1))).await.unwrap();
    assert!(case.is_told_of(1).await);
}
