//! What a gateway makes of an API server that is busy, late or says no: while it asks for its own Vehicles, and while it writes.

use jiff::Timestamp;
use kerbside_core::clock::Boottime;
use kube::client::Body;
use serde_json::Value;
use tokio::task::JoinHandle;
use tower_test::mock;

use super::*;
use crate::cars::Ages;
use crate::pseudonym::Pseudonyms;

#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn boottime(&self) -> Boottime {
        Boottime(Duration::from_secs(100_000))
    }

    fn wall(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}

/// An answer of the API server. None: it never comes.
type Answer = Option<(u16, Value)>;

/// A publisher before an API server that gives these answers, one after another; then what it was asked.
fn before(answers: Vec<Answer>) -> (Publisher, JoinHandle<Vec<String>>) {
    let (service, mut server) = mock::pair::<hyper::Request<Body>, hyper::Response<Body>>();
    let asked = tokio::spawn(async move {
        let (mut asked, mut unanswered) = (Vec::new(), Vec::new());
        for answer in answers {
            let Some((request, reply)) = server.next_request().await else {
                break;
            };
            asked.push(request.uri().to_string());
            if let Some((code, body)) = answer {
                let response = hyper::Response::builder().status(code);
                reply.send_response(response.body(Body::from(body.to_string().into_bytes())).unwrap());
            } else {
                unanswered.push(reply);
            }
        }
        asked
    });
    let ages = Ages {
        stale_after: Duration::from_mins(15),
        good_for: Duration::from_hours(1),
        retain_for: Duration::from_hours(72),
    };
    let slots = Pseudonyms::new(&[7; 32]).unwrap().slots(Duration::from_mins(5));
    let names = ("depot-north".parse().unwrap(), "overnight".parse().unwrap());
    let (client, cars) = (Client::new(service, "default"), Arc::new(Cars::new(ages, slots)));
    (
        Publisher::new(client, cars, Arc::new(Still), Metrics::default(), names, 5),
        asked,
    )
}

fn page(name: &str, next: &str) -> (u16, Value) {
    let vehicle = json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": { "name": name, "uid": name },
        "spec": { "pool": "overnight", "source": "Telemetry" },
    });
    let list = json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "VehicleList", "metadata": { "continue": next },
        "items": [vehicle],
    });
    (200, list)
}

fn no(code: u16) -> (u16, Value) {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": "not now", "reason": "x",
    });
    (code, status)
}

const ONE: &str = "car-aaaaaaaaaaaaaaaa";
const OTHER: &str = "car-bbbbbbbbbbbbbbbb";

/// The cars whose Vehicles are to go: none of those that were found is on the list.
fn found(publisher: &Publisher) -> Vec<String> {
    let later = (
        Boottime(Duration::from_secs(104_000)),
        Timestamp::from_second(4_000).unwrap(),
    );
    let work = publisher.cars.work(later, 10);
    let mut found: Vec<_> = work.iter().map(|work| work.id().to_string()).collect();
    found.sort();
    found
}

#[tokio::test(start_paused = true)]
async fn vehicles_of_an_earlier_life_are_listed_by_pages_through_every_answer_that_is_for_now() {
    let (first, last) = (page(ONE, "next"), page(OTHER, ""));
    let mut answers = vec![Some(no(429)), Some(no(503)), None];
    answers.extend([first, no(500), no(401), last].map(Some));
    let (publisher, asked) = before(answers);
    publisher.recall(&CancellationToken::new()).await.unwrap();
    assert_eq!(found(&publisher), [ONE, OTHER]);
    let asked = asked.await.unwrap();
    assert_eq!(asked.len(), 7);
    for (n, uri) in asked.iter().enumerate() {
        assert!(uri.contains("limit=500"), "{uri}");
        assert_eq!(uri.contains("continue=next"), n > 3, "{uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn list_whose_rest_has_expired_is_begun_anew() {
    let answers = [page(ONE, "old"), no(410), page(ONE, "new"), page(OTHER, "")];
    let (publisher, asked) = before(answers.map(Some).into());
    publisher.recall(&CancellationToken::new()).await.unwrap();
    assert_eq!(found(&publisher), [ONE, OTHER]);
    let asked = asked.await.unwrap();
    let continued: Vec<_> = asked.iter().map(|uri| uri.contains("continue=")).collect();
    assert_eq!(continued, [false, true, false, true]);
}

#[tokio::test(start_paused = true)]
async fn answer_that_will_not_change_ends_the_asking() {
    for code in [400, 403, 404] {
        let (publisher, asked) = before([no(429), no(code)].map(Some).into());
        let error = publisher.recall(&CancellationToken::new()).await.unwrap_err();
        assert_eq!(error.code(), Some(code));
        assert_eq!(asked.await.unwrap().len(), 2);
    }
}

/// While it waits for an answer, and while it waits to ask again.
#[tokio::test(start_paused = true)]
async fn stop_ends_the_asking_at_once() {
    for answers in [vec![None, None], vec![Some(no(503)); 9]] {
        let (publisher, asked) = before(answers);
        let stop = CancellationToken::new();
        let began = tokio::time::Instant::now();
        let told = async {
            sleep(Duration::from_secs(5)).await;
            stop.cancel();
        };
        let (recalled, ()) = tokio::join!(publisher.recall(&stop), told);
        recalled.unwrap();
        assert!(began.elapsed() < Duration::from_secs(6));
        asked.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn four_writes_are_on_their_way_at_a_time_and_the_first_failure_ends_the_look() {
    let (publisher, asked) = before(vec![None; 5]);
    // Found an hour ago, and on no list: each is to go.
    let before = (Boottime::default(), Timestamp::from_second(-3_600).unwrap());
    for letter in ["a", "b", "c", "d", "e"] {
        let id = format!("car-{}", letter.repeat(16)).parse().unwrap();
        publisher.cars.found(id, letter.to_owned(), None, before);
    }
    let began = tokio::time::Instant::now();
    let error = publisher.look().await.unwrap_err();
    assert!(matches!(error, PublishError::Silent(_)), "{error}");
    assert!(began.elapsed() < 2 * ANSWER, "one after another it had taken longer");
    drop(publisher);
    assert_eq!(asked.await.unwrap().len(), 4, "the fifth is work of another look");
}
