//! Events against an API server that answers when it is told to.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::client::Body;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{LAST_WORDS, MOST_WAITING, PATIENCE, Recorder, Severity, cut, queue};

/// What was asked for, and how many answers may be given.
#[derive(Clone)]
struct Api {
    asked: Arc<Mutex<Vec<serde_json::Value>>>,
    answers: Arc<Semaphore>,
}

impl Api {
    fn that_gives(answers: usize) -> Self {
        Self {
            asked: Arc::default(),
            answers: Arc::new(Semaphore::new(answers)),
        }
    }

    fn recorder(&self) -> Recorder {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                api.answers.acquire().await.unwrap().forget();
                let body = request.into_body().collect_bytes().await.unwrap();
                let event: serde_json::Value = serde_json::from_slice(&body).unwrap();
                api.asked.lock().unwrap().push(event);
                Ok::<_, kube::Error>(Response::new(Body::from(body.to_vec())))
            }
        });
        Recorder::new(&Client::new(service, "default"), "test", None)
    }

    fn reasons(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|e| e["reason"].as_str().unwrap().to_owned()).collect()
    }

    /// Each note and how often the server was told that it was said.
    fn notes(&self) -> Vec<(String, u64)> {
        let asked = self.asked.lock().unwrap();
        let count = |e: &serde_json::Value| e["series"]["count"].as_u64().unwrap_or(1);
        asked
            .iter()
            .map(|e| (e["note"].as_str().unwrap().to_owned(), count(e)))
            .collect()
    }
}

fn about(name: &str) -> ObjectReference {
    ObjectReference {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        ..ObjectReference::default()
    }
}

#[test]
fn note_is_cut_between_characters() {
    assert_eq!(cut("aé", 2), "a");
    assert_eq!(cut("aé", 3), "aé");
}

#[tokio::test]
async fn repeat_counts_and_what_is_said_in_other_words_is_an_event_of_its_own() {
    let api = Api::that_gives(4);
    let recorder = api.recorder();
    for (version, note) in [("1", "startup"), ("2", "liveness"), ("3", "startup"), ("4", "startup")] {
        let mut pod = about("a");
        pod.resource_version = Some(version.to_owned());
        recorder
            .publish(&pod, Severity::Warning, "Unhealthy", "Probing", note)
            .await;
    }
    let told = [("startup", 1), ("liveness", 1), ("startup", 2), ("startup", 3)];
    assert_eq!(api.notes(), told.map(|(note, count)| (note.to_owned(), count)));
}

#[tokio::test(start_paused = true)]
async fn events_are_published_in_their_order_and_nobody_waits_for_them() {
    let api = Api::that_gives(0);
    let (events, broadcaster) = queue(api.recorder());
    let running = tokio::spawn(broadcaster.run(CancellationToken::new()));
    let told: Vec<String> = (0..5).map(|i| format!("Reason{i}")).collect();
    for reason in &told {
        events.publish(about("a"), Severity::Normal, reason, "Test", "");
    }
    tokio::time::sleep(PATIENCE / 2).await;
    assert_eq!(api.reasons(), Vec::<String>::new(), "the server has answered nothing");
    api.answers.add_permits(5);
    drop(events);
    running.await.unwrap();
    assert_eq!(api.reasons(), told);
}

#[tokio::test(start_paused = true)]
async fn event_that_gets_no_answer_holds_the_next_ones_up_for_five_seconds_only() {
    let api = Api::that_gives(0);
    let (events, broadcaster) = queue(api.recorder());
    let running = tokio::spawn(broadcaster.run(CancellationToken::new()));
    events.publish(about("a"), Severity::Normal, "Lost", "Test", "");
    tokio::time::sleep(PATIENCE + Duration::from_millis(1)).await;
    api.answers.add_permits(1);
    events.publish(about("a"), Severity::Normal, "Told", "Test", "");
    drop(events);
    running.await.unwrap();
    assert_eq!(api.reasons(), ["Told"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_done_while_the_program_stops_is_told_too() {
    let api = Api::that_gives(2);
    let (events, broadcaster) = queue(api.recorder());
    let stop = CancellationToken::new();
    let running = tokio::spawn(broadcaster.run(stop.clone()));
    events.publish(about("a"), Severity::Normal, "Before", "Test", "");
    stop.cancel();
    tokio::time::sleep(LAST_WORDS / 2).await;
    events.publish(about("a"), Severity::Normal, "After", "Test", "");
    drop(events);
    running.await.unwrap();
    assert_eq!(api.reasons(), ["Before", "After"]);
}

#[tokio::test]
async fn event_that_finds_the_queue_full_is_lost_and_the_others_are_not() {
    let api = Api::that_gives(MOST_WAITING + 10);
    let (events, mut broadcaster) = queue(api.recorder());
    for i in 0..MOST_WAITING + 3 {
        events.publish(about("a"), Severity::Normal, &format!("Reason{i}"), "Test", "");
    }
    broadcaster.drain().await;
    let reasons = api.reasons();
    assert_eq!(reasons.len(), MOST_WAITING);
    assert_eq!(reasons.last().unwrap(), &format!("Reason{}", MOST_WAITING - 1));
}

#[tokio::test(start_paused = true)]
async fn program_that_is_stopped_does_not_wait_for_a_server_that_is_silent() {
    let api = Api::that_gives(0);
    let (events, broadcaster) = queue(api.recorder());
    events.publish(about("a"), Severity::Warning, "Never", "Test", "");
    let stop = CancellationToken::new();
    stop.cancel();
    let before = tokio::time::Instant::now();
    broadcaster.run(stop).await;
    assert_eq!(before.elapsed(), LAST_WORDS);
    events.publish(about("a"), Severity::Warning, "TooLate", "Test", "");
    assert_eq!(api.reasons(), Vec::<String>::new());
}
