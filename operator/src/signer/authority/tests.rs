//! What is published of CAs: the present one, and a fingerprint of each that there was, whoever writes meanwhile.

use serde_json::{Value, json};

use super::*;
use crate::testing::fake_api::{FakeApi, Fate};

const NAMESPACE: &str = "kerbside-system";

fn now() -> Timestamp {
    Timestamp::from_second(1_795_431_600).unwrap()
}

fn ca() -> Ca {
    Ca::generate(now()).unwrap()
}

fn fingerprint(ca: &Ca) -> String {
    HEXLOWER.encode(&ca.sha256())
}

/// As the operator of an older release leaves it, or with fingerprints.
fn config_map(ca: &Ca, known: &[&Ca]) -> Value {
    let known: Vec<String> = known.iter().map(|ca| fingerprint(ca)).collect();
    let mut data = json!({ PUBLISHED: ca.certificate_pem() });
    if !known.is_empty() {
        data[KNOWN] = known.join("\n").into();
    }
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": NAME, "namespace": NAMESPACE }, "data": data,
    })
}

async fn publish_to(api: &FakeApi, ca: &Ca) -> Result<(), AuthorityError> {
    publish(&Api::namespaced(api.client(Fate::Lives), NAMESPACE), ca).await
}

/// That this CA is published, and that these are on record and no other.
fn assert_published(api: &FakeApi, ca: &Ca, known: &[&Ca]) {
    let map: ConfigMap = api.get("configmaps", NAMESPACE, NAME);
    let data = map.data.unwrap();
    assert_eq!(data[PUBLISHED], ca.certificate_pem());
    let want: BTreeSet<String> = known.iter().map(|ca| fingerprint(ca)).collect();
    assert_eq!(known_cas(&data), want);
}

#[tokio::test]
async fn fingerprint_of_each_ca_stays() {
    let (api, a, b) = (FakeApi::new(), ca(), ca());
    publish_to(&api, &a).await.unwrap();
    assert_published(&api, &a, &[&a]);
    publish_to(&api, &b).await.unwrap();
    assert_published(&api, &b, &[&a, &b]);
    // The old Secret is restored.
    publish_to(&api, &a).await.unwrap();
    assert_published(&api, &a, &[&a, &b]);
    let writes = api.with(|w| w.writes.len());
    publish_to(&api, &a).await.unwrap();
    assert_eq!(
        api.with(|w| w.writes.len()),
        writes,
        "what is published is written again"
    );
}

#[tokio::test]
async fn ca_that_an_older_operator_published_is_on_record_before_it_is_replaced() {
    let (api, a, b) = (FakeApi::new(), ca(), ca());
    api.put("configmaps", config_map(&a, &[]));
    publish_to(&api, &b).await.unwrap();
    assert_published(&api, &b, &[&a, &b]);
}

#[tokio::test]
async fn what_somebody_else_puts_on_record_meanwhile_stays() {
    let (a, b, c) = (ca(), ca(), ca());
    // Nothing was there when this one looked.
    let api = FakeApi::new();
    api.with(|w| w.just_before.push(("configmaps".into(), config_map(&c, &[&c]))));
    publish_to(&api, &b).await.unwrap();
    assert_published(&api, &b, &[&b, &c]);

    let api = FakeApi::new();
    api.put("configmaps", config_map(&a, &[&a]));
    api.with(|w| w.just_before.push(("configmaps".into(), config_map(&c, &[&a, &c]))));
    publish_to(&api, &b).await.unwrap();
    assert_published(&api, &b, &[&a, &b, &c]);
}

#[tokio::test]
async fn race_that_never_ends_is_said_to_be_one() {
    let (api, a) = (FakeApi::new(), ca());
    let other = ("configmaps".to_owned(), config_map(&ca(), &[]));
    api.with(|w| w.just_before = vec![other; TRIES]);
    let result = publish_to(&api, &a).await;
    assert!(matches!(result, Err(AuthorityError::Raced)), "{result:?}");
}

#[tokio::test]
async fn what_is_no_certificate_is_replaced_and_leaves_no_fingerprint() {
    let (api, a, b) = (FakeApi::new(), ca(), ca());
    let mut map = config_map(&a, &[&b]);
    map["data"][PUBLISHED] = "rubbish".into();
    api.put("configmaps", map);
    publish_to(&api, &a).await.unwrap();
    assert_published(&api, &a, &[&a, &b]);
}
