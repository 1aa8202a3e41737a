//! Who may read ledgers, and that what is served checks out.

use std::sync::Arc;

use axum::http::Request;
use data_encoding::HEXLOWER;
use http_body_util::BodyExt;
use kerbside_link::identity::Ca;
use object_store::memory::InMemory;
use prometheus_client::registry::Registry;
use tower::ServiceExt;

use super::super::testing::{Car, start, store};
use super::*;
use crate::signer::{KNOWN_CAS, ensure_ca};
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
    let sha256 = publish(&store, &ca).await;
    let (status, answer) = get_as_alice(&api, &store, "/ledger").await;
    let mut ids = [a.id.to_string(), b.id.to_string()];
    ids.sort();
    let want = json!({
        "vehicles": ids, "ca": ca.certificate_pem(), "cas": { sha256: ca.certificate_pem() }, "casAreKnown": true,
        "operatorKeys": { "0a": "PEM" },
    });
    assert_eq!((status, answer), (200, want));
}

/// Leaves the CA's certificate in the store, as the settler does; its fingerprint.
async fn publish(store: &Store, ca: &Ca) -> String {
    let sha256 = HEXLOWER.encode(&ca.sha256());
    let pem = Bytes::from(ca.certificate_pem());
    store.put(&path::ledger_ca(&sha256), pem).await.unwrap();
    sha256
}

/// Somebody deletes the Secret, and the next leader makes a CA.
async fn make_anew(api: &FakeApi) -> Ca {
    let secret = ("secrets".to_owned(), NAMESPACE.to_owned(), CA.to_owned());
    api.with(|w| w.objects.remove(&secret)).unwrap();
    ensure_ca(&api.client(Fate::Lives), NAMESPACE, start()).await.unwrap()
}

#[tokio::test]
async fn ca_that_the_operator_had_before_is_served_and_a_strangers_is_not() {
    let (api, old, store) = cluster().await;
    let new = make_anew(&api).await;
    let stranger = Ca::generate(start()).unwrap();
    let (of_old, of_new) = (publish(&store, &old).await, publish(&store, &new).await);
    publish(&store, &stranger).await;
    let (status, answer) = get_as_alice(&api, &store, "/ledger").await;
    let want = json!({ of_old: old.certificate_pem(), of_new: new.certificate_pem() });
    assert_eq!((status, &answer["cas"]), (200, &want));
    assert_eq!(answer["ca"], new.certificate_pem());
}

#[tokio::test]
async fn strangers_ca_under_the_name_of_one_that_was_or_beside_it_is_not_served() {
    let (api, old, store) = cluster().await;
    make_anew(&api).await;
    let stranger = Ca::generate(start()).unwrap();
    let sha256 = publish(&store, &old).await;
    let both = format!("{}{}", old.certificate_pem(), stranger.certificate_pem());
    for pem in [stranger.certificate_pem(), both, "rubbish".to_owned()] {
        store.put(&path::ledger_ca(&sha256), pem.into()).await.unwrap();
        let (status, answer) = get_as_alice(&api, &store, "/ledger").await;
        assert_eq!((status, &answer["cas"]), (200, &json!({})));
    }
}

#[tokio::test]
async fn nothing_but_the_present_ca_is_served_while_no_fingerprint_is_on_record() {
    let (api, ca, store) = cluster().await;
    publish(&store, &ca).await;
    let map = ("configmaps".to_owned(), NAMESPACE.to_owned(), CA.to_owned());
    api.change(&map, |map| {
        map["data"].as_object_mut().unwrap().remove(KNOWN_CAS).unwrap();
    });
    let (status, answer) = get_as_alice(&api, &store, "/ledger").await;
    assert_eq!((status, &answer["cas"]), (200, &json!({})));
    assert_eq!(answer["ca"], ca.certificate_pem());
}

#[tokio::test(start_paused = true)]
async fn index_is_served_while_the_api_server_refuses_for_a_moment() {
    let (api, ca, store) = cluster().await;
    api.with(|w| w.busy = true);
    let (status, answer) = get_as_alice(&api, &store, "/ledger").await;
    assert_eq!((status, &answer["ca"]), (200, &json!(ca.certificate_pem())));
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
