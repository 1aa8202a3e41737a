//! One key, whoever makes it and however often the operator dies over it.

use kerbside_link::identity::PublicKey;
use serde_json::json;

use super::*;
use crate::testing::fake_api::{FakeApi, Fate};

const NAMESPACE: &str = "kerbside-system";

fn now() -> Timestamp {
    Timestamp::from_second(1_795_431_600).unwrap()
}

fn ca() -> Ca {
    Ca::generate(now()).unwrap()
}

async fn key(api: &FakeApi, ca: &Ca, fate: Fate) -> Result<Signer<String>, KeyError> {
    ensure(&api.client(fate), NAMESPACE, ca, now()).await
}

#[tokio::test]
async fn key_is_made_once_and_certified_by_the_ca() {
    let (api, ca) = (FakeApi::new(), ca());
    let first = key(&api, &ca, Fate::Lives).await.unwrap();
    assert_eq!(check_chain(first.chain_pem(), &ca.certificate_pem()), Ok(()));
    let public = PublicKey::named(first.chain_pem(), "kerbside-ledger").unwrap();
    assert!(public.verify(b"message", &first.sign(b"message").unwrap()));
    let second = key(&api, &ca, Fate::Lives).await.unwrap();
    assert_eq!(second.key_id(), first.key_id());
    assert_eq!(api.with(|w| w.writes.len()), 1);
}

#[tokio::test]
async fn operator_that_dies_over_the_key_leaves_one_that_works() {
    let ca = ca();
    for fate in [Fate::DiesBefore(0), Fate::DiesAfter(0)] {
        let api = FakeApi::new();
        assert!(key(&api, &ca, fate).await.is_err());
        let made = key(&api, &ca, Fate::Lives).await.unwrap();
        let again = key(&api, &ca, Fate::Lives).await.unwrap();
        assert_eq!(again.key_id(), made.key_id(), "{fate:?}");
    }
}

#[tokio::test]
async fn key_of_another_ca_is_replaced() {
    let api = FakeApi::new();
    let old = key(&api, &ca(), Fate::Lives).await.unwrap();
    let ca = ca();
    let new = key(&api, &ca, Fate::Lives).await.unwrap();
    assert_ne!(new.key_id(), old.key_id());
    assert_eq!(check_chain(new.chain_pem(), &ca.certificate_pem()), Ok(()));
    assert_eq!(key(&api, &ca, Fate::Lives).await.unwrap().key_id(), new.key_id());
}

#[tokio::test]
async fn secret_that_holds_no_key_is_left_alone() {
    let api = FakeApi::new();
    api.put(
        "secrets",
        json!({
            "apiVersion": "v1", "kind": "Secret", "data": { "tls.crt": "eA==" },
            "metadata": { "name": NAME, "namespace": NAMESPACE },
        }),
    );
    let error = key(&api, &ca(), Fate::Lives).await.unwrap_err();
    assert!(error.to_string().contains("restore it from a backup"), "{error}");
    assert_eq!(api.with(|w| w.writes.len()), 0);
}
