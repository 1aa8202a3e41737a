//! Who may read ledgers, and that what is served checks out.

use std::sync::Arc;

use axum::http::Request;
use http_body_util::BodyExt;
use kerbside_link::identity::Ca;
use object_store::memory::InMemory;
use prometheus_client::registry::Registry;
use tower::ServiceExt;

use super::super::testing::{Car, start, store};
use super::*;
use crate::signer::ensure_ca;
use crate::testing::DownStore;
use crate::testing::fake_api::{FakeApi, Fate};

const NAMESPACE: &str = "kerbside-system";

async fn cluster() -> (FakeApi, Ca, Store) {
    let api = FakeApi::new();
    api.with(|w| {
        w.tokens.insert("t-alice".into(), "alice".into());
        w.tokens.insert("t-bob".into(), "bob".into());
        w.allowed.push("alice".into());
    });
    let ca = ensure_ca(&api.client(Fate::Lives), NAMESPACE, start()).await.unwrap();
    (api, ca, store(&Arc::new(InMemory::new())))
}

async fn get_with(api: &FakeApi, store: &Store, path: &str, token: Option<&str>) -> (u16, String) {
    let metrics = Metrics::new(&mut Registry::default());
    let server = Ledgers::new(api.client(Fate::Lives), NAMESPACE, store.clone(), metrics).routes();
    let mut request = Request::get(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = server.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn get_as_alice(api: &FakeApi, store: &Store, path: &str) -> (u16, Value) {
    let (status, text) = get_with(api, store, path, Some("t-alice")).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[rstest::rstest]
#[case::no_token(None, 401, "send a token")]
#[case::unknown(Some("t-eve"), 401, "does not accept the token")]
#[case::without_the_right(Some("t-bob"), 403, "'get' on 'vehicles/ledger'")]
#[tokio::test]
async fn stranger_is_turned_away(#[case] token: Option<&str>, #[case] status: u16, #[case] says: &str) {
    for path in ["/ledger", "/ledger/car-aaaaaaaaaaaaaaaa"] {
        let (api, _, store) = cluster().await;
        let (found, text) = get_with(&api, &store, path, token).await;
        assert_eq!(found, status, "{path}");
        assert!(text.contains(says), "{path}: {text}");
    }
}

#[tokio::test]
async fn right_is_asked_for_on_the_subresource_of_vehicles_in_no_namespace() {
    let (api, _, store) = cluster().await;
    get_with(&api, &store, "/ledger/car-aaaaaaaaaaaaaaaa", Some("t-bob")).await;
    let asked = api.with(|w| w.asked.clone());
    let all = json!({ "group": "kerbside.dev", "resource": "vehicles", "subresource": "ledger", "verb": "get" });
    let mut one = all.clone();
    one["name"] = "car-aaaaaaaaaaaaaaaa".into();
    assert_eq!(asked, [all, one], "who may read all is not asked about each");
}

#[tokio::test]
async fn index_has_the_vehicles_the_ca_and_the_operators_keys() {
    let (api, ca, store) = cluster().await;
    let (mut a, mut b) = (Car::new(&ca, 1), Car::new(&ca, 2));
    b.deliver(&store, "b").await;
    a.deliver(&store, "a").await;
    let place = path::ledger_operator_key("0a");
    store.put(&place, Bytes::from_static(b"PEM")).await.unwrap();
    let (status, answer) = get_as_alice(&api, &store, "/ledger").await;
    let mut ids = [a.id.to_string(), b.id.to_string()];
    ids.sort();
    let want = json!({ "vehicles": ids, "ca": ca.certificate_pem(), "operatorKeys": { "0a": "PEM" } });
    assert_eq!((status, answer), (200, want));
}

#[tokio::test]
async fn ledger_of_a_vehicle_is_served_as_it_lies_in_the_store() {
    let (api, ca, store) = cluster().await;
    let mut car = Car::new(&ca, 1);
    for n in 0..40 {
        car.deliver(&store, &format!("a-{n}")).await;
    }
    // What is no JSON is served too, and found by whoever checks.
    let place = path::ledger_acceptance(car.id.as_str(), 1);
    store.put(&place, Bytes::from_static(b"no JSON \"")).await.unwrap();
    let (status, answer) = get_as_alice(&api, &store, &format!("/ledger/{}", car.id)).await;
    assert_eq!((status, &answer["vehicle"]), (200, &json!(car.id)));
    assert_eq!(answer["certificates"][car.signer.key_id()], car.signer.chain_pem());
    assert_eq!(answer["acceptances"], json!(["no JSON \""]));
    let usage = answer["usage"].as_array().unwrap();
    let places = store.list(&path::ledger_usages(car.id.as_str())).await.unwrap();
    assert_eq!((usage.len(), places.len()), (40, 40));
    for (line, place) in usage.iter().zip(&places) {
        let stored: Value = serde_json::from_slice(&store.get(place).await.unwrap()).unwrap();
        assert_eq!(*line, stored, "{place}");
    }
}

#[rstest::rstest]
#[case("/ledger/car-aaaaaaaaaaaaaaaa", 404, "there is no ledger of car-aaaaaaaaaaaaaaaa")]
#[case("/ledger/..%2Fresults", 400, "is not a VehicleId")]
#[tokio::test]
async fn what_is_no_ledger_is_said_so(#[case] path: &str, #[case] status: u16, #[case] says: &str) {
    let (api, _, store) = cluster().await;
    let (found, text) = get_with(&api, &store, path, Some("t-alice")).await;
    assert_eq!(found, status, "{text}");
    assert!(text.contains(says), "{text}");
}

#[tokio::test]
async fn store_that_is_down_is_said_to_be_down() {
    for path in ["/ledger", "/ledger/car-aaaaaaaaaaaaaaaa"] {
        let (api, _, _) = cluster().await;
        let down = store(&Arc::new(DownStore::default()));
        let (status, text) = get_with(&api, &down, path, Some("t-alice")).await;
        assert_eq!(status, 503, "{path}");
        assert!(text.contains("store did not answer"), "{text}");
    }
}
