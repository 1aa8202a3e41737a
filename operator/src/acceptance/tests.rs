//! Two attempts of one index, a store that is down, and manifests that are not to be believed.

use super::*;
use crate::testing::{DownStore, store_with_attempt};

fn uid(text: &str) -> PodUid {
    text.parse().unwrap()
}

fn job() -> JobUid {
    "job-1".parse().unwrap()
}

fn candidate<'a>(uid: &'a PodUid, job: &'a JobUid) -> Candidate<'a> {
    Candidate {
        namespace: "ns",
        job,
        index: 4,
        uid,
        vehicle: "car-aaaaaaaaaaaaaaaa",
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

async fn put_manifest(store: &Store, uid: &str, json: &str) {
    store
        .put(&path::attempt_manifest("ns", uid), Bytes::from(json.to_owned()))
        .await
        .unwrap();
}

#[tokio::test]
async fn first_attempt_wins_and_every_later_one_is_superseded_by_it() {
    let store = store_with_attempt("ns", "a", b"one").await;
    put_manifest(&store, "b", r#"{"uid":"b"}"#).await;
    let (a, b, job) = (uid("a"), uid("b"), job());
    assert_eq!(
        accept(&store, candidate(&a, &job), now()).await.unwrap(),
        Acceptance::Won
    );
    let superseded = Acceptance::Superseded { by: "a".into() };
    assert_eq!(accept(&store, candidate(&b, &job), now()).await.unwrap(), superseded);
    let accepted = result(&store, "ns", "job-1", 4).await.unwrap();
    assert_eq!((accepted.uid.as_str(), accepted.files.len()), ("a", 1));
}

#[tokio::test]
async fn acceptance_repeated_after_a_lost_answer_is_won_again() {
    let store = store_with_attempt("ns", "a", b"one").await;
    let (a, job) = (uid("a"), job());
    for _ in 0..2 {
        assert_eq!(
            accept(&store, candidate(&a, &job), now()).await.unwrap(),
            Acceptance::Won
        );
    }
}

#[tokio::test]
async fn two_operators_at_once_accept_one_attempt() {
    let store = store_with_attempt("ns", "a", b"one").await;
    put_manifest(&store, "b", r#"{"uid":"b"}"#).await;
    let (a, b, job) = (uid("a"), uid("b"), job());
    let (x, y) = tokio::join!(
        accept(&store, candidate(&a, &job), now()),
        accept(&store, candidate(&b, &job), now())
    );
    let won = [x.unwrap(), y.unwrap()]
        .into_iter()
        .filter(|o| *o == Acceptance::Won)
        .count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn store_that_is_down_is_worth_another_try() {
    let store = Store::over(std::sync::Arc::new(DownStore::default()));
    let (a, job) = (uid("a"), job());
    let error = accept(&store, candidate(&a, &job), now()).await.unwrap_err();
    assert!(matches!(error, AcceptError::Store { index: 4, .. }), "{error:?}");
}

#[tokio::test]
async fn attempt_without_sealed_output_is_never_accepted() {
    let store = store_with_attempt("ns", "other", b"").await;
    let (a, job) = (uid("a"), job());
    let error = accept(&store, candidate(&a, &job), now()).await.unwrap_err();
    assert!(matches!(error, AcceptError::NoOutput { .. }), "{error:?}");
    assert!(matches!(
        result(&store, "ns", "job-1", 4).await,
        Err(ReadError::Store(StoreError::NotFound { .. }))
    ));
}

#[rstest::rstest]
#[case::of_another_attempt(r#"{"uid":"b"}"#, "of attempt 'b'")]
#[case::not_json("{", "unusable")]
#[case::path_that_climbs(
    r#"{"uid":"a","files":[{"path":"../x","size":1,"sha256":"SHA"}]}"#,
    "plain relative path"
)]
#[case::absolute_path(
    r#"{"uid":"a","files":[{"path":"/x","size":1,"sha256":"SHA"}]}"#,
    "plain relative path"
)]
#[case::hash_that_climbs(
    r#"{"uid":"a","logs":[{"path":"x","size":1,"sha256":"../../b"}]}"#,
    "no valid SHA-256"
)]
#[tokio::test]
async fn manifest_that_is_not_to_be_believed_is_never_accepted(#[case] json: &str, #[case] says: &str) {
    let store = store_with_attempt("ns", "other", b"").await;
    put_manifest(&store, "a", &json.replace("SHA", &"0".repeat(64))).await;
    let (a, job) = (uid("a"), job());
    let error = accept(&store, candidate(&a, &job), now()).await.unwrap_err();
    assert!(matches!(error, AcceptError::Unusable { .. }), "{error:?}");
    assert!(error.to_string().contains(says), "{error}");
}
