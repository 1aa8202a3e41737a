//! Who may read what: tokens, rights, and nothing but what accepted manifests name.

use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use jiff::Timestamp;
use kerbside_core::ids::{JobUid, PodUid};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::acceptance::{Candidate, accept};
use crate::testing::fake_api::{FakeApi, Fate};
use crate::testing::{DownStore, seal, store_with_attempt};

/// A job of three indexes: 1 has the accepted attempt `a`, 0 and 2 have none; attempt `b` is sealed and not accepted.
async fn cluster() -> (FakeApi, Store) {
    let api = FakeApi::new();
    api.put("fleetjobs", job("1"));
    api.with(|w| {
        w.tokens.insert("t-alice".into(), "alice".into());
        w.tokens.insert("t-bob".into(), "bob".into());
        w.allowed.push("alice".into());
    });
    let store = store_with_attempt("ns", "a", b"seven\n").await;
    seal(&store, "ns", "b", b"not accepted\n").await;
    let (job, uid): (JobUid, PodUid) = ("job-uid".parse().unwrap(), "a".parse().unwrap());
    let candidate = Candidate {
        namespace: "ns",
        job: &job,
        index: 1,
        uid: &uid,
        vehicle: "car-x",
    };
    accept(&store, candidate, Timestamp::UNIX_EPOCH).await.unwrap();
    (api, store)
}

fn job(completed: &str) -> Value {
    json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob",
        "metadata": { "name": "digits", "namespace": "ns", "uid": "job-uid" },
        "spec": {
            "pools": ["overnight"], "class": "inference", "completions": 3,
            "template": { "spec": { "containers": [{ "name": "main", "image": "x" }] } },
        },
        "status": { "completedIndexes": completed },
    })
}

fn server(api: &FakeApi, store: &Store) -> Router {
    let metrics = Metrics::new(&mut Registry::default());
    Results::new(api.client(Fate::Lives), store.clone(), metrics).routes()
}

async fn get_with(server: Router, path: &str, authorization: Option<&str>) -> (Response<()>, String) {
    let mut request = Request::get(path);
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    let response = server.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (
        Response::from_parts(parts, ()),
        String::from_utf8(bytes.to_vec()).unwrap(),
    )
}

async fn get_as_alice(path: &str) -> (u16, String) {
    let (api, store) = cluster().await;
    let (response, text) = get_with(server(&api, &store), path, Some("Bearer t-alice")).await;
    (response.status().as_u16(), text)
}

#[rstest::rstest]
#[case::no_header(None, 401, "send a token")]
#[case::another_scheme(Some("Basic t-alice"), 401, "send a token")]
#[case::empty(Some("Bearer "), 401, "send a token")]
#[case::unknown(Some("Bearer t-eve"), 401, "does not accept the token")]
#[case::without_the_right(Some("Bearer t-bob"), 403, "'bob' may not read results in namespace 'ns'")]
#[tokio::test]
async fn stranger_is_turned_away_on_every_path(#[case] auth: Option<&str>, #[case] status: u16, #[case] says: &str) {
    for path in [
        "/results/ns/digits",
        "/results/ns/none",
        "/results/ns/digits/1/out.txt",
        "/logs/ns/digits/1",
    ] {
        let (api, store) = cluster().await;
        let (response, text) = get_with(server(&api, &store), path, auth).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert!(text.contains(says), "{path}: {text}");
        assert_eq!(
            response.headers().contains_key("www-authenticate"),
            status == 401,
            "{path}"
        );
    }
}

#[tokio::test]
async fn token_is_reviewed_once_for_many_requests() {
    let (api, store) = cluster().await;
    let server = server(&api, &store);
    for _ in 0..5 {
        get_with(server.clone(), "/results/ns/digits/1/out.txt", Some("bearer t-alice")).await;
    }
    assert_eq!(
        api.with(|w| w.reviews),
        2,
        "one TokenReview and one SubjectAccessReview"
    );
}

#[tokio::test(start_paused = true)]
async fn api_server_that_refuses_for_a_moment_costs_nobody_an_answer() {
    let (api, store) = cluster().await;
    api.with(|w| w.busy = true);
    let (response, text) = get_with(server(&api, &store), "/results/ns/digits", Some("Bearer t-alice")).await;
    assert_eq!(response.status().as_u16(), 200, "{text}");
    assert_eq!(api.with(|w| w.reviews), 2, "each was made once");
}

#[tokio::test]
async fn list_has_the_manifest_of_each_completed_index() {
    let (status, text) = get_as_alice("/results/ns/digits").await;
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, &list["uid"], &list["errors"]),
        (200, &json!("job-uid"), &json!([]))
    );
    let results = list["results"].as_array().unwrap();
    assert_eq!(results.len(), 1);
    assert_eq!((&results[0]["index"], &results[0]["uid"]), (&json!(1), &json!("a")));
    assert_eq!(results[0]["files"][0]["path"], "out.txt");
}

#[tokio::test]
async fn list_goes_on_where_a_manifest_is_lost_and_names_it() {
    let (api, store) = cluster().await;
    api.put("fleetjobs", job("0-1"));
    let (_, text) = get_with(server(&api, &store), "/results/ns/digits", Some("Bearer t-alice")).await;
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["results"][0]["uid"], "a");
    assert_eq!(list["errors"][0]["index"], 0);
    assert!(
        list["errors"][0]["error"].as_str().unwrap().contains("there is no"),
        "{text}"
    );
}

#[tokio::test]
async fn list_of_a_job_without_results_is_empty() {
    let (api, store) = cluster().await;
    api.put("fleetjobs", job(""));
    let (_, text) = get_with(server(&api, &store), "/results/ns/digits", Some("Bearer t-alice")).await;
    assert_eq!(text, "{\"uid\":\"job-uid\",\"results\":[],\"errors\":[]}\n");
}

#[tokio::test]
async fn file_and_log_of_the_accepted_attempt_are_served() {
    assert_eq!(
        get_as_alice("/results/ns/digits/1/out.txt").await,
        (200, "seven\n".into())
    );
    assert_eq!(get_as_alice("/logs/ns/digits/1").await, (200, "seven\n".into()));
    assert_eq!(
        get_as_alice("/logs/ns/digits/1?container=main").await,
        (200, "seven\n".into())
    );
}

#[rstest::rstest]
#[case::job("/results/ns/nope", 404, "no FleetJob 'nope' in namespace 'ns'")]
#[case::index_not_done(
    "/results/ns/digits/0/out.txt",
    404,
    "index 0 of FleetJob 'digits' has no accepted result"
)]
#[case::index_not_a_number("/results/ns/digits/x/out.txt", 400, "'x' is not a completion index")]
#[case::file("/results/ns/digits/1/other.txt", 404, "has no file 'other.txt'")]
#[case::file_that_climbs("/results/ns/digits/1/..%2F..%2Fb%2Fmanifest.json", 404, "has no file")]
#[case::manifest_itself("/results/ns/digits/1/manifest.json", 404, "has no file")]
#[case::container("/logs/ns/digits/1?container=x", 404, "there is no log of 'x'; there are main")]
#[case::log_not_done("/logs/ns/digits/2", 404, "no accepted result")]
#[tokio::test]
async fn what_no_accepted_manifest_names_is_not_found(#[case] path: &str, #[case] status: u16, #[case] says: &str) {
    let (found, text) = get_as_alice(path).await;
    assert_eq!(found, status, "{text}");
    assert!(text.contains(says), "{text}");
}

#[tokio::test]
async fn store_that_is_down_is_said_to_be_down() {
    for path in [
        "/results/ns/digits",
        "/results/ns/digits/1/out.txt",
        "/logs/ns/digits/1",
    ] {
        let (api, _) = cluster().await;
        let store = Store::over(std::sync::Arc::new(DownStore::default()));
        let (response, text) = get_with(server(&api, &store), path, Some("Bearer t-alice")).await;
        assert_eq!(response.status().as_u16(), 503, "{path}");
        assert!(text.contains("store did not answer"), "{text}");
    }
}

#[test]
fn log_of_several_containers_must_be_chosen() {
    let file = |path: &str| crate::acceptance::File {
        path: path.into(),
        size: 0,
        sha256: "0".repeat(64),
    };
    let logs = [file("a"), file("b")];
    assert!(matches!(serve::choose(&logs, None), Err(Problem::BadRequest(m)) if m.contains("a, b")));
    assert_eq!(serve::choose(&logs, Some("b")).unwrap().path, "b");
    assert!(matches!(serve::choose(&[], None), Err(Problem::NotFound(_))));
}
