//! The signer against an API server in memory: what it writes, and that a crash between any two writes makes no second car.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kerbside_api::v1alpha1::Vehicle;
use kerbside_core::ids::VehicleId;
use kerbside_k8s::csr::{RENEWS, TOKEN_HASH, TOKEN_ID};
use kerbside_link::identity::{EnrolmentToken, Identity, chain_from_pem, csr_pem, new_key_and_csr, vehicle_of};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use super::*;
use crate::testing::HandClock;
use crate::testing::fake_api::{FakeApi, Fate};

const NAMESPACE: &str = "kerbside-system";
const ADAPTER: &str = "system:serviceaccount:kerbside-system:kerbside-virtual-kubelet";
const CSRS: &str = "certificatesigningrequests";

fn base64(bytes: &[u8]) -> String {
    data_encoding::BASE64.encode(bytes)
}

/// A cluster with a pool and one unused token.
fn cluster() -> (FakeApi, EnrolmentToken) {
    let api = FakeApi::new();
    let token = EnrolmentToken::generate([0; 32]);
    api.put(
        "vehiclepools",
        json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "VehiclePool", "metadata": { "name": "overnight" },
            "spec": { "allowedNamespaces": { "from": "All" } },
        }),
    );
    let data: BTreeMap<&str, String> = [
        ("hash", token.secret_hash()),
        ("pool", "overnight".into()),
        ("labels", r#"{"fleet":"acme"}"#.into()),
        ("expires", "2026-12-01T00:00:00Z".into()),
    ]
    .into_iter()
    .map(|(k, v)| (k, base64(v.as_bytes())))
    .collect();
    api.put(
        "secrets",
        json!({
            "apiVersion": "v1", "kind": "Secret", "data": data,
            "metadata": {
                "name": format!("kerbside-token-{}", token.id()), "namespace": NAMESPACE,
                "labels": { "kerbside.dev/enrolment-token": "true" },
            },
        }),
    );
    (api, token)
}

fn csr(name: &str, signer: &str, usage: &str, der: &[u8], annotations: &Value) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": { "name": name, "annotations": annotations },
        "spec": {
            "request": base64(csr_pem(der).as_bytes()), "signerName": signer, "username": ADAPTER,
            "usages": ["digital signature", usage],
        },
    })
}

fn enrolment(name: &str, token: &EnrolmentToken, der: &[u8]) -> Value {
    let annotations = json!({ TOKEN_ID: token.id(), TOKEN_HASH: token.secret_hash() });
    csr(name, VEHICLE_SIGNER, "client auth", der, &annotations)
}

async fn signer(api: &FakeApi, fate: Fate) -> Result<Signer, AuthorityError> {
    let metrics = Metrics::new(&mut Registry::default());
    Signer::new(api.client(fate), NAMESPACE, ADAPTER, HandClock::new(), metrics).await
}

/// One reconcile of each request, as the server has them now.
async fn reconcile_all(api: &FakeApi, signer: &Signer) -> Result<(), SignerError> {
    for csr in api.all::<CertificateSigningRequest>(CSRS) {
        signer.reconcile(&csr).await?;
    }
    Ok(())
}

fn issued(api: &FakeApi, name: &str) -> String {
    let csr: CertificateSigningRequest = api.get(CSRS, "", name);
    String::from_utf8(csr.status.unwrap().certificate.unwrap().0).unwrap()
}

fn refusal(api: &FakeApi, name: &str) -> (String, String) {
    let csr: CertificateSigningRequest = api.get(CSRS, "", name);
    let condition = csr.status.unwrap().conditions.unwrap().pop().unwrap();
    (condition.type_, condition.reason.unwrap())
}

#[tokio::test]
async fn token_is_traded_for_a_vehicle_and_its_certificate() {
    let (api, token) = cluster();
    let der = new_key_and_csr(&[]).unwrap().csr_der;
    api.put(CSRS, enrolment("a", &token, &der));
    let signer = signer(&api, Fate::Lives).await.unwrap();
    reconcile_all(&api, &signer).await.unwrap();

    let chain = chain_from_pem(&issued(&api, "a")).unwrap();
    let vehicles: Vec<Vehicle> = api.all("vehicles");
    assert_eq!(vehicles.len(), 1);
    assert_eq!(vehicle_of(&chain[0]).unwrap().as_str(), vehicles[0].name_any());
    assert_eq!(vehicles[0].spec.pool, "overnight");
    assert_eq!(vehicles[0].labels()["fleet"], "acme");
    assert_eq!(vehicles[0].labels()["kerbside.dev/pool"], "overnight");

    let published: ConfigMap = api.get("configmaps", NAMESPACE, "kerbside-link-ca");
    assert_eq!(published.data.unwrap()["ca.crt"], signer.ca.certificate_pem());

    let writes = api.with(|w| w.writes.len());
    reconcile_all(&api, &signer).await.unwrap();
    assert_eq!(
        api.with(|w| w.writes.len()),
        writes,
        "an answered request is written again"
    );
}

#[tokio::test]
async fn token_used_by_another_car_is_denied_and_changes_nothing() {
    let (api, token) = cluster();
    api.put(CSRS, enrolment("a", &token, &new_key_and_csr(&[]).unwrap().csr_der));
    let signer = signer(&api, Fate::Lives).await.unwrap();
    reconcile_all(&api, &signer).await.unwrap();
    api.put(CSRS, enrolment("b", &token, &new_key_and_csr(&[]).unwrap().csr_der));
    reconcile_all(&api, &signer).await.unwrap();
    assert_eq!(refusal(&api, "b"), ("Denied".into(), "TokenUsed".into()));
    assert_eq!(api.all::<Vehicle>("vehicles").len(), 1);
}

#[tokio::test]
async fn request_that_is_garbage_is_denied_before_the_token_is_used() {
    let (api, token) = cluster();
    let mut der = new_key_and_csr(&[]).unwrap().csr_der;
    // The last bytes are the signature.
    *der.last_mut().unwrap() ^= 1;
    api.put(CSRS, enrolment("a", &token, &der));
    reconcile_all(&api, &signer(&api, Fate::Lives).await.unwrap())
        .await
        .unwrap();
    assert_eq!(refusal(&api, "a"), ("Denied".into(), "RequestInvalid".into()));
    let secret: Secret = api.get("secrets", NAMESPACE, &format!("kerbside-token-{}", token.id()));
    assert!(!secret.data.unwrap().contains_key("usedBy"));
}

#[tokio::test]
async fn request_approved_by_hand_without_a_token_fails() {
    let (api, token) = cluster();
    let mut object = enrolment("a", &token, &new_key_and_csr(&[]).unwrap().csr_der);
    object["metadata"]["annotations"] = json!({});
    object["status"] = json!({ "conditions": [{ "type": "Approved", "status": "True", "reason": "ByHand" }] });
    api.put(CSRS, object);
    reconcile_all(&api, &signer(&api, Fate::Lives).await.unwrap())
        .await
        .unwrap();
    assert_eq!(refusal(&api, "a"), ("Failed".into(), "RequestInvalid".into()));
}

#[tokio::test]
async fn revoked_car_gets_no_new_certificate() {
    let (api, token) = cluster();
    api.put(CSRS, enrolment("a", &token, &new_key_and_csr(&[]).unwrap().csr_der));
    let signer = signer(&api, Fate::Lives).await.unwrap();
    reconcile_all(&api, &signer).await.unwrap();
    let id = api.all::<Vehicle>("vehicles")[0].name_any();
    let renewal = |name: &str| {
        let der = new_key_and_csr(&[]).unwrap().csr_der;
        csr(name, VEHICLE_SIGNER, "client auth", &der, &json!({ RENEWS: id }))
    };
    api.put(CSRS, renewal("b"));
    reconcile_all(&api, &signer).await.unwrap();
    assert_eq!(
        vehicle_of(&chain_from_pem(&issued(&api, "b")).unwrap()[0])
            .unwrap()
            .as_str(),
        id
    );

    api.change(&("vehicles".into(), String::new(), id.clone()), |v| {
        v["spec"]["revoked"] = true.into();
    });
    api.put(CSRS, renewal("c"));
    reconcile_all(&api, &signer).await.unwrap();
    assert_eq!(refusal(&api, "c"), ("Denied".into(), "VehicleRevoked".into()));
}

/// As `kerbside-telemetry-gateway` makes it.
fn without_agent(id: &str) -> Value {
    json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": { "name": id },
        "spec": { "pool": "overnight", "source": "Telemetry" },
    })
}

#[tokio::test]
async fn token_whose_vehicle_has_no_agent_gets_no_certificate() {
    let (api, token) = cluster();
    let der = new_key_and_csr(&[]).unwrap().csr_der;
    api.put(CSRS, enrolment("a", &token, &der));
    let signer = signer(&api, Fate::Lives).await.unwrap();
    reconcile_all(&api, &signer).await.unwrap();
    let id = api.all::<Vehicle>("vehicles")[0].name_any();

    // Its Vehicle goes, and a gateway has one of that name; then the car asks once more with the same token and key.
    api.put("vehicles", without_agent(&id));
    api.put(CSRS, enrolment("b", &token, &der));
    reconcile_all(&api, &signer).await.unwrap();
    assert_eq!(refusal(&api, "b"), ("Denied".into(), "VehicleWithoutAgent".into()));
}

/// One that came between the look and the write.
#[tokio::test]
async fn vehicle_without_an_agent_that_has_the_name_already_is_not_taken_for_the_cars_own() {
    let (api, _) = cluster();
    let signer = signer(&api, Fate::Lives).await.unwrap();
    let [shown, enrolled]: [VehicleId; 2] =
        ["car-aaaaaaaaaaaaaaaa", "car-bbbbbbbbbbbbbbbb"].map(|id| id.parse().unwrap());
    api.put("vehicles", without_agent(shown.as_str()));
    let labels = BTreeMap::new();
    let made = signer.create_vehicle(&shown, "overnight", &labels).await;
    assert!(matches!(made, Err(SignerError::Raced)), "{made:?}");
    for _ in 0..2 {
        signer.create_vehicle(&enrolled, "overnight", &labels).await.unwrap();
    }
}

#[tokio::test]
async fn renewal_is_signed_for_the_new_key_of_the_same_car() {
    let (api, token) = cluster();
    let first = new_key_and_csr(&[]).unwrap();
    api.put(CSRS, enrolment("a", &token, &first.csr_der));
    let clock = HandClock::new();
    let metrics = Metrics::new(&mut Registry::default());
    let signer = Signer::new(
        api.client(Fate::Lives),
        NAMESPACE,
        ADAPTER,
        Arc::clone(&clock) as Arc<dyn Clock>,
        metrics,
    );
    let signer = signer.await.unwrap();
    reconcile_all(&api, &signer).await.unwrap();
    let ca = signer.ca.certificate_pem();
    let old = Identity::from_pem(&first.key_pem, &issued(&api, "a"), &ca).unwrap();
    let vehicles = || api.all::<Value>("vehicles");
    let before = vehicles();

    clock.advance(3_600);
    let second = new_key_and_csr(&[]).unwrap();
    let renews = json!({ RENEWS: old.vehicle() });
    api.put(CSRS, csr("b", VEHICLE_SIGNER, "client auth", &second.csr_der, &renews));
    reconcile_all(&api, &signer).await.unwrap();
    let new = Identity::from_pem(&second.key_pem, &issued(&api, "b"), &ca).unwrap();
    assert_eq!(new.vehicle(), old.vehicle());
    assert_eq!(new.not_after().duration_since(old.not_after()).as_secs(), 3_600);
    let csr: CertificateSigningRequest = api.get(CSRS, "", "b");
    let condition = csr.status.unwrap().conditions.unwrap().pop().unwrap();
    assert_eq!(
        (condition.type_.as_str(), condition.message),
        ("Approved", Some(format!("renewed for {}", old.vehicle())))
    );
    assert_eq!(vehicles(), before, "a renewal makes and changes no Vehicle");
}

#[tokio::test]
async fn adapter_gets_a_serving_certificate() {
    let (api, _) = cluster();
    let der = new_key_and_csr(&["link.example".into()]).unwrap().csr_der;
    api.put(
        CSRS,
        csr("adapter", LINK_SERVER_SIGNER, "server auth", &der, &json!({})),
    );
    reconcile_all(&api, &signer(&api, Fate::Lives).await.unwrap())
        .await
        .unwrap();
    assert_eq!(chain_from_pem(&issued(&api, "adapter")).unwrap().len(), 2);
}

/// The operator dies before or after each of its writes, is started again, and goes on: one CA, one car, one certificate.
#[tokio::test]
async fn enrolment_interrupted_at_any_write_ends_with_one_car() {
    for n in 0.. {
        let mut died = false;
        for fate in [Fate::DiesBefore(n), Fate::DiesAfter(n)] {
            let (api, token) = cluster();
            let der = new_key_and_csr(&[]).unwrap().csr_der;
            api.put(CSRS, enrolment("a", &token, &der));
            if let Ok(first) = signer(&api, fate).await {
                let _ = reconcile_all(&api, &first).await;
            }
            died |= api.died();
            let second = signer(&api, Fate::Lives).await.unwrap();
            reconcile_all(&api, &second).await.unwrap();

            let vehicles: Vec<Vehicle> = api.all("vehicles");
            assert_eq!(vehicles.len(), 1, "{fate:?}");
            let chain = chain_from_pem(&issued(&api, "a")).unwrap();
            assert_eq!(
                vehicle_of(&chain[0]).unwrap().as_str(),
                vehicles[0].name_any(),
                "{fate:?}"
            );
            let secret: Secret = api.get("secrets", NAMESPACE, &format!("kerbside-token-{}", token.id()));
            let used_by = ByteString(vehicles[0].name_any().into_bytes());
            assert_eq!(secret.data.unwrap()["usedBy"], used_by, "{fate:?}");
        }
        if !died {
            assert!(
                n >= 6,
                "only {n} writes: CA, its ConfigMap, token, Vehicle, approval, certificate were expected"
            );
            return;
        }
    }
}

#[tokio::test]
async fn broken_ca_is_never_replaced() {
    let (api, _) = cluster();
    api.put(
        "secrets",
        json!({
            "apiVersion": "v1", "kind": "Secret", "data": { "tls.crt": "eA==" },
            "metadata": { "name": "kerbside-link-ca", "namespace": NAMESPACE },
        }),
    );
    let error = signer(&api, Fate::Lives).await.err().unwrap();
    assert!(error.to_string().contains("restore it from a backup"), "{error}");
    assert_eq!(api.with(|w| w.writes.len()), 0);
}
