//! Every endpoint and every refusal, with a policy loop that only notes what it is asked; and the connections, on real sockets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{self, HeaderMap};
use hyper::{Method, Request, StatusCode};
use jiff::Timestamp;
use kerbside_core::attempt::Kind;
use kerbside_core::owner::Command;
use kerbside_core::receipt::Claim;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::control::{Answer, Ask, Status, Visit};
use crate::receipts::Receipts;
use crate::receipts::tests::{TERMS, claim, usage};
use crate::testing::{OWNER, TokioClock, consented};

const HOST: &str = "127.0.0.1:8080";

struct Fixture {
    temp: tempfile::TempDir,
    page: Arc<Page>,
    asked: Arc<Mutex<Vec<Ask>>>,
    /// The loop does not come to read the consents.
    hangs: Arc<AtomicBool>,
    outlook: watch::Sender<Outlook>,
}

/// What came back.
struct Came {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Fixture {
    /// A car whose owner accepts inference, and has done so on record.
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        consented(&directory, &["inference"], "2026-11-01T10:00:00Z".parse().unwrap());
        std::fs::write(directory.owner(), OWNER).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::new());
        let (requests, mut requested) = mpsc::channel::<ToLoop>(4);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let hangs = Arc::new(AtomicBool::new(false));
        let hung = Arc::clone(&hangs);
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            while let Some((ask, reply)) = requested.recv().await {
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(ask);
                if ask == Ask::Consents && hung.load(Ordering::Relaxed) {
                    waiting.push(reply);
                    continue;
                }
                let status = Status {
                    standing: "available".to_owned(),
                    visits: vec![Visit {
                        user: "ann".to_owned(),
                        what: "runs \"sh\" in main".to_owned(),
                        ..Visit::default()
                    }],
                    ..Status::default()
                };
                let text = format!("{ask:?}");
                let _ = reply.send(Answer { text, status });
            }
        });
        let hosts = Hosts::new(&config::Page {
            listen: HOST.parse().unwrap(),
            names: Vec::new(),
        });
        let outlook = watch::Sender::new(Outlook::initial(Arc::default(), Command::None));
        let seen = outlook.subscribe();
        let page = Arc::new(Page {
            directory,
            door: Arc::new(Door::new(Arc::clone(&clock), hosts.origin())),
            clock,
            requests,
            outlook: seen,
            hosts,
            reading: Arc::new(Semaphore::new(1)),
            exporting: Arc::new(Semaphore::new(1)),
        });
        Self {
            temp,
            page,
            asked,
            hangs,
            outlook,
        }
    }

    fn asked(&self) -> Vec<Ask> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Came {
        let response = server::answer(&self.page, request).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Came {
            status: head.status.as_u16(),
            headers: head.headers,
            body: serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into()),
        }
    }

    /// A phone that has typed a code of the car.
    async fn signed_in(&self) -> Phone<'_> {
        let code = self.page.door.new_code().lines().next().unwrap().to_owned();
        let came = self.send(post("session", None, &json!({"code": code}))).await;
        assert_eq!(came.status, 200, "{}", came.body);
        let cookie = came.headers[header::SET_COOKIE].to_str().unwrap();
        assert!(
            cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
            "{cookie}"
        );
        let cookie = cookie.split(';').next().unwrap().to_owned();
        Phone { fixture: self, cookie }
    }
}

struct Phone<'a> {
    fixture: &'a Fixture,
    cookie: String,
}

impl Phone<'_> {
    async fn get(&self, path: &str) -> Came {
        self.fixture.send(get(path, Some(&self.cookie))).await
    }

    async fn post(&self, path: &str, body: &Value) -> Came {
        self.fixture.send(post(path, Some(&self.cookie), body)).await
    }
}

/// HTTP's has the other name.
type ToLoop = crate::control::Request;

fn get(path: &str, cookie: Option<&str>) -> Request<Full<Bytes>> {
    asking(&Method::GET, path, cookie).body(Full::default()).unwrap()
}

fn post(path: &str, cookie: Option<&str>, body: &Value) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from(body.to_string()));
    asking(&Method::POST, path, cookie).body(body).unwrap()
}

fn asking(method: &Method, path: &str, cookie: Option<&str>) -> hyper::http::request::Builder {
    let builder = Request::builder()
        .method(method)
        .uri(format!("/api/v1/{path}"))
        .header("host", HOST)
        .header("origin", format!("http://{HOST}"))
        .header("x-kerbside", "page");
    match cookie {
        Some(cookie) => builder.header("cookie", cookie),
        None => builder,
    }
}

#[tokio::test]
async fn who_is_not_signed_in_is_told_nothing_and_changes_nothing() {
    let fixture = Fixture::new();
    let before = std::fs::read_to_string(fixture.page.directory.owner()).unwrap();
    for path in ["status", "policy", "earnings", "history", "consents", "export"] {
        for cookie in [None, Some("kerbside="), Some("kerbside=0123")] {
            let came = fixture.send(get(path, cookie)).await;
            assert_eq!(came.status, 401, "{path}");
            let told = came.body.as_object().unwrap();
            assert_eq!(told.keys().collect::<Vec<_>>(), ["error"], "{path}");
        }
    }
    for path in ["pause", "resume", "withdraw", "notice", "policy"] {
        assert_eq!(fixture.send(post(path, None, &json!({}))).await.status, 401, "{path}");
    }
    let end = asking(&Method::DELETE, "session", None).body(Full::default()).unwrap();
    assert_eq!(fixture.send(end).await.status, 401);
    assert_eq!(fixture.asked(), Vec::new());
    assert_eq!(std::fs::read_to_string(fixture.page.directory.owner()).unwrap(), before);
}

#[tokio::test]
async fn every_answer_says_what_a_browser_may_do_with_it() {
    let fixture = Fixture::new();
    let page = |path: &str| {
        let request = Request::builder().uri(path).header("host", HOST);
        request.body(Full::default()).unwrap()
    };
    let strange = Request::builder().uri("/").header("host", "evil.example");
    for (request, status) in [
        (page("/"), 200),
        (page("/page.js"), 200),
        (page("/page.css"), 200),
        (page("/texts.json"), 200),
        (page("/icon.svg"), 200),
        (page("/favicon.ico"), 404),
        (page("/../owner.yaml"), 404),
        (get("status", None), 401),
        (strange.body(Full::default()).unwrap(), 421),
    ] {
        let path = request.uri().clone();
        let came = fixture.send(request).await;
        assert_eq!(came.status, status, "{path}");
        let policy = came.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        assert_eq!(came.headers[header::CACHE_CONTROL], "no-store");
        assert_eq!(came.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert!(!came.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN));
    }
}

#[tokio::test(start_paused = true)]
async fn wrong_code_is_told_in_the_same_words_whether_there_is_one_or_not_and_no_cookie_given() {
    let fixture = Fixture::new();
    let mut told = Vec::new();
    for there_is_one in [false, true] {
        if there_is_one {
            fixture.page.door.new_code();
        }
        for said in [json!({"code": "none"}), json!({"code": "none"}), json!({"pin": "1"})] {
            let came = fixture.send(post("session", None, &said)).await;
            assert!(!came.headers.contains_key(header::SET_COOKIE));
            told.push((came.status, came.body.to_string()));
        }
        sleep(Duration::from_secs(1)).await;
    }
    let statuses: Vec<_> = told.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [403, 429, 400, 403, 429, 400]);
    assert_eq!(told[..3], told[3..]);
    assert!(told[0].1.contains("kerbside-agent page code"), "{}", told[0].1);
}

#[tokio::test]
async fn words_of_the_owner_go_the_way_that_the_commands_go() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    let came = phone.get("status").await;
    assert_eq!(
        (came.status, &came.body["status"]["standing"]),
        (200, &json!("available"))
    );
    let visit = &came.body["status"]["visits"][0];
    assert_eq!((&visit["user"], &visit["to"]), (&json!("ann"), &json!(null)));
    assert_eq!(visit["what"], "runs \"sh\" in main");
    assert_eq!(phone.post("pause", &json!({})).await.body["said"], "Pause");
    assert_eq!(phone.post("pause", &json!({"minutes": 60})).await.status, 200);
    assert_eq!(phone.post("resume", &json!({})).await.status, 200);
    let until: Timestamp = "2026-11-22T11:00:00Z".parse().unwrap();
    let asked = fixture.asked();
    let [status, pause, hour, resume] = asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!((status, pause, resume), (Ask::Status, Ask::Pause, Ask::Resume));
    let Ask::PauseUntil(at) = hour else { panic!("{hour:?}") };
    assert!(at >= until && at < until + Duration::from_mins(1), "{at}");
}

#[tokio::test]
async fn request_that_another_site_had_a_browser_send_does_nothing_although_the_cookie_is_there() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    for (name, value) in [
        ("origin", "http://evil.example"),
        ("host", "evil.example"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let mut request = post("withdraw", Some(&phone.cookie), &json!({}));
        request.headers_mut().insert(name, value.parse().unwrap());
        assert!([403, 421].contains(&fixture.send(request).await.status), "{name}");
    }
    let mut request = post("withdraw", Some(&phone.cookie), &json!({}));
    request.headers_mut().remove("x-kerbside");
    assert_eq!(fixture.send(request).await.status, 403);
    assert_eq!(fixture.asked(), Vec::new());
}

#[rstest]
#[case::not_json("pause", "soon", 400)]
#[case::nothing("notice", "{\"classes\": []}", 400)]
#[case::odd("notice", "{\"classes\": [\"Not A Class\"]}", 400)]
#[case::unknown("nothing", "{}", 404)]
#[case::only_read("history", "{}", 405)]
#[tokio::test]
async fn request_that_makes_no_sense_is_refused_in_words(#[case] path: &str, #[case] body: &str, #[case] status: u16) {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    let body = Full::new(Bytes::from(body.to_owned()));
    let request = asking(&Method::POST, path, Some(&phone.cookie)).body(body).unwrap();
    let came = fixture.send(request).await;
    assert_eq!(came.status, status, "{}", came.body);
    assert!(came.body["error"].as_str().is_some_and(|why| !why.is_empty()));
    assert_eq!(fixture.asked(), Vec::new());
}

#[tokio::test]
async fn request_that_is_longer_than_any_of_the_page_is_not_read() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    let came = phone
        .post("pause", &json!({"minutes": 5, "more": " ".repeat(5000)}))
        .await;
    assert_eq!(came.status, 413, "{}", came.body);
    assert_eq!(fixture.asked(), Vec::new());
}

#[tokio::test(start_paused = true)]
async fn phone_that_signed_out_or_was_signed_out_in_the_car_is_out() {
    let fixture = Fixture::new();
    let one = fixture.signed_in().await;
    // One try a second.
    sleep(Duration::from_secs(1)).await;
    let other = fixture.signed_in().await;
    let end = asking(&Method::DELETE, "session", Some(&one.cookie))
        .body(Full::default())
        .unwrap();
    let came = fixture.send(end).await;
    assert!(came.headers[header::SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(
        (one.get("status").await.status, other.get("status").await.status),
        (401, 200)
    );
    fixture.page.door.sign_all_out();
    assert_eq!(other.get("status").await.status, 401);
}

#[tokio::test]
async fn document_is_told_in_plain_words_and_one_that_is_broken_with_the_reason() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    let told = phone.get("policy").await.body;
    let says = told["says"].to_string();
    assert!(says.contains("inference") && says.contains("charging cable"), "{says}");
    assert_eq!(
        (&told["problem"], &told["classes"]),
        (&Value::Null, &json!(["inference"]))
    );
    assert_eq!(told["profiles"].as_array().unwrap().len(), 5);
    let owner = fixture.page.directory.owner();
    std::fs::write(&owner, "requirePluggedIn: perhaps\n").unwrap();
    let told = phone.get("policy").await.body;
    assert!(
        told["says"].as_array().unwrap().is_empty() && told["problem"].is_string(),
        "{told}"
    );
    std::fs::remove_file(&owner).unwrap();
    assert_eq!(
        phone.get("policy").await.body["problem"],
        Value::Null,
        "none is no mistake"
    );
}

/// An owner's expression may take a while to read, and the brake waits for nobody who reads.
#[tokio::test]
async fn document_is_read_where_nobody_waits_for_it() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    let owner = fixture.page.directory.owner();
    std::fs::remove_file(&owner).unwrap();
    nix::unistd::mkfifo(&owner, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        // Else who reads it on the runtime's thread would wait for ever.
        let in_time = told.recv_timeout(Duration::from_secs(10)).is_ok();
        std::fs::write(owner, OWNER).unwrap();
        in_time
    });
    let (came, _) = tokio::join!(phone.get("policy"), async { tell.send(()) });
    assert_eq!(came.status, 200, "{}", came.body);
    assert!(writer.join().unwrap(), "everything else stood still");
}

/// What a page sends after it has shown the notice.
async fn wish(phone: &Phone<'_>, class: &str) -> Value {
    let told = phone.post("notice", &json!({"classes": [class]})).await.body;
    let notice = &told["notices"][0];
    assert!(notice["text"].as_str().unwrap().contains(class), "{told}");
    json!({
        "profile": "whenever-plugged-in",
        "notices": {class: notice["sha256"]},
        "timeZone": null,
        "days": 90,
    })
}

#[tokio::test]
async fn owner_agrees_after_the_notice_and_it_is_in_the_document_and_on_record() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    let wish = wish(&phone, "video").await;
    let came = phone.post("policy", &wish).await;
    assert_eq!(came.status, 200, "{}", came.body);
    let owner = config::owner(&fixture.page.directory.owner()).unwrap().unwrap();
    assert_eq!(owner.document.consent.classes, ["video"]);
    assert!(owner.document.consent.given_at >= "2026-11-22T10:00:00Z".parse().unwrap());
    let told = phone.get("consents").await.body;
    assert_eq!(told["findings"], json!([]));
    let purposes: Vec<_> = told["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| &record["purpose"])
        .collect();
    assert_eq!(purposes, ["inference", "video"]);
    assert!(
        told["records"][1]["method"].as_str().unwrap().contains("page"),
        "{told}"
    );
    assert_eq!(fixture.asked(), [Ask::Consents], "the car goes by it at once");
}

#[tokio::test]
async fn consent_under_a_notice_that_was_not_shown_is_none() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    let mut wish = wish(&phone, "video").await;
    wish["notices"]["video"] = json!("0".repeat(64));
    let came = phone.post("policy", &wish).await;
    assert!(
        came.status == 400 && came.body["error"].as_str().unwrap().contains("read it again"),
        "{}",
        came.body
    );
    let document = std::fs::read_to_string(fixture.page.directory.owner()).unwrap();
    assert_eq!(document, OWNER);
    assert_eq!(phone.get("consents").await.body["records"].as_array().unwrap().len(), 1);
}

/// The bytes of the owner's document.
fn document(fixture: &Fixture) -> String {
    std::fs::read_to_string(fixture.page.directory.owner()).unwrap()
}

#[tokio::test]
async fn agreement_of_which_nothing_can_be_recorded_changes_nothing_and_says_so() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    let wish = wish(&phone, "video").await;
    // The key is new, and nobody can write a file where a directory is: nothing can be signed for.
    let renewed = crate::testing::identity();
    crate::identity::write(&fixture.page.directory, &renewed).unwrap();
    let signer = kerbside_link::identity::Signer::new(&renewed).unwrap();
    let key = fixture
        .page
        .directory
        .receipts()
        .join("keys")
        .join(format!("{}.new", signer.key_id()));
    std::fs::create_dir(&key).unwrap();
    let came = phone.post("policy", &wish).await;
    let why = came.body["error"].as_str().unwrap();
    assert!(
        came.status == 500 && why.starts_with("nothing has changed: failed to write"),
        "{why}"
    );
    assert_eq!(document(&fixture), OWNER);
    assert_eq!(phone.get("consents").await.body["records"].as_array().unwrap().len(), 1);
    // The same in a car without a document.
    std::fs::remove_file(fixture.page.directory.owner()).unwrap();
    let came = phone.post("policy", &wish).await;
    assert!(came.body["error"].as_str().unwrap().starts_with("nothing has changed"));
    assert!(!fixture.page.directory.owner().exists());
    // Another time it is as if nothing had been.
    std::fs::write(fixture.page.directory.owner(), OWNER).unwrap();
    std::fs::remove_dir(&key).unwrap();
    assert_eq!(phone.post("policy", &wish).await.status, 200);
    let mut names = std::fs::read_dir(fixture.temp.path()).unwrap();
    assert!(names.all(|entry| entry.unwrap().path() != fixture.temp.path().join("owner.before")));
}

#[tokio::test]
async fn agreement_that_is_recorded_in_part_is_told_as_what_it_is_and_the_car_goes_by_it() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    let wish = wish(&phone, "video").await;
    // The mark, which is written behind all records.
    std::fs::create_dir(fixture.page.directory.receipts().join("consents.new")).unwrap();
    let came = phone.post("policy", &wish).await;
    let why = came.body["error"].as_str().unwrap();
    assert_eq!(came.status, 409, "{why}");
    assert!(
        why.contains("your document is the new one") && why.contains("on record: video (failed to write"),
        "{why}"
    );
    let owner = config::owner(&fixture.page.directory.owner()).unwrap().unwrap();
    assert_eq!(
        owner.document.consent.classes,
        ["video"],
        "no consent stands beside the document before"
    );
    assert_eq!(fixture.asked(), [Ask::Consents]);
}

#[tokio::test]
async fn document_that_cannot_be_written_is_told_and_nothing_is_recorded() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    let wish = wish(&phone, "video").await;
    std::fs::create_dir(fixture.temp.path().join("owner.new")).unwrap();
    let came = phone.post("policy", &wish).await;
    let why = came.body["error"].as_str().unwrap();
    assert!(came.status == 500 && why.contains("so nothing has changed"), "{why}");
    assert_eq!(document(&fixture), OWNER);
    assert_eq!(phone.get("consents").await.body["records"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn consent_is_taken_back_one_by_one_or_all_by_the_word_that_needs_no_record() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    let came = phone.post("withdraw", &json!({"purposes": ["video"]})).await;
    assert!(
        came.status == 400 && came.body["error"].as_str().unwrap().contains("no consent to 'video'"),
        "{}",
        came.body
    );
    assert_eq!(
        phone.post("withdraw", &json!({"purposes": ["inference"]})).await.status,
        200
    );
    assert_eq!(fixture.asked(), [Ask::Consents]);
    let events = phone.get("consents").await.body["records"][0]["events"].clone();
    assert_eq!(events[1]["event_state"], "withdrawn");
    assert_eq!(phone.post("withdraw", &json!({})).await.status, 200);
    assert_eq!(fixture.asked(), [Ask::Consents, Ask::Withdraw, Ask::Consents]);
}

#[tokio::test]
async fn withdrawal_that_cannot_be_written_down_ends_all_work() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    std::fs::remove_file(fixture.page.directory.identity().join("identity.json")).unwrap();
    let came = phone.post("withdraw", &json!({"purposes": ["inference"]})).await;
    assert_eq!(came.status, 200);
    assert!(
        came.body["said"].as_str().unwrap().contains("not on record"),
        "{}",
        came.body
    );
    assert_eq!(fixture.asked()[0], Ask::Withdraw);
}

#[tokio::test(start_paused = true)]
async fn withdrawal_that_the_loop_does_not_read_in_time_ends_all_work() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    fixture.hangs.store(true, Ordering::Relaxed);
    let came = phone.post("withdraw", &json!({"purposes": ["inference"]})).await;
    let said = came.body["said"].as_str().unwrap();
    assert!(
        came.status == 200 && said.contains("on record, but not read yet") && said.contains("Withdraw"),
        "{said}"
    );
    assert_eq!(fixture.asked(), [Ask::Consents, Ask::Withdraw]);
    assert_eq!(phone.post("withdraw", &json!({})).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn withdrawal_that_a_disk_does_not_take_in_time_ends_all_work() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    // Who reads a pipe waits for who writes to it.
    let pipe = fixture.page.directory.identity().join("identity.json");
    std::fs::remove_file(&pipe).unwrap();
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let body = json!({"purposes": ["inference"]});
    let mut posted = Box::pin(phone.post("withdraw", &body));
    // A paused clock does not advance by itself while a thread hangs.
    let came = loop {
        tokio::select! {
            biased;
            came = &mut posted => break came,
            () = tokio::time::advance(Duration::from_millis(100)) => {}
        }
    };
    // Lets go who hangs: a test waits for its threads.
    drop(std::fs::OpenOptions::new().write(true).open(&pipe).unwrap());
    let said = came.body["said"].as_str().unwrap();
    assert!(
        came.status == 200 && said.contains("the disk does not answer"),
        "{said}"
    );
    assert_eq!(fixture.asked(), [Ask::Withdraw]);
}

#[tokio::test]
async fn receipts_are_told_as_history_and_as_what_they_may_earn() {
    let fixture = Fixture::new();
    let identity = crate::identity::read(&fixture.page.directory).unwrap();
    let receipts = Receipts::open(&fixture.page.directory, &identity).unwrap();
    receipts.keep_terms(TERMS).await;
    receipts
        .give(usage(1, Kind::Succeeded, 3_600_000, Some(TERMS)).claim)
        .await
        .unwrap();
    receipts.give(Claim { cpu_ms: 5, ..claim(2) }).await.unwrap();
    let phone = fixture.signed_in().await;
    let told = phone.get("earnings").await.body;
    assert_eq!(told["ever"]["most"], json!([{"currency": "EUR", "micro": 20_000}]));
    assert_eq!(
        (&told["ever"]["count"], &told["ever"]["unpriced"]),
        (&json!(2), &json!(1))
    );
    assert_eq!((&told["ever"]["joules"], &told["well"]), (&Value::Null, &json!(true)));
    let told = phone.get("history").await.body;
    let numbers: Vec<_> = told["done"]
        .as_array()
        .unwrap()
        .iter()
        .map(|done| &done["sequence"])
        .collect();
    assert_eq!(numbers, [2, 1]);
    assert_eq!(
        (&told["done"][0]["worth"], &told["done"][0]["energy"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(phone.get("history?before=2").await.body["done"][0]["sequence"], 1);
    assert_eq!(phone.get("history?before=soon").await.status, 400);

    let path = fixture.temp.path().join("receipts/usage.jsonl");
    let lines = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, lines.replacen('\n', "x\n", 1)).unwrap();
    assert_eq!(phone.get("earnings").await.body["well"], json!(false));
}

#[tokio::test]
async fn export_is_a_file_with_everything_and_no_key() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    let came = phone.get("export").await;
    assert!(
        came.headers[header::CONTENT_DISPOSITION]
            .to_str()
            .unwrap()
            .starts_with("attachment")
    );
    assert_eq!(came.body["policy"], OWNER);
    assert_eq!(came.body["consents"]["records"][0]["purpose"], "inference");
    assert!(!came.body.to_string().contains("PRIVATE KEY"));
}

#[tokio::test]
async fn everything_is_made_into_a_file_for_one_at_a_time_and_the_second_is_told_so() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    let (first, second) = tokio::join!(phone.get("export"), phone.get("export"));
    assert_eq!((first.status, second.status), (200, 429));
    let why = second.body["error"].as_str().unwrap();
    assert!(why.contains("is being made already"), "{why}");
    assert!(!second.headers.contains_key(header::CONTENT_DISPOSITION));
    assert_eq!(phone.get("export").await.status, 200, "and then again");
}

#[tokio::test(start_paused = true)]
async fn car_that_forgets_its_owner_takes_no_word_of_who_was_signed_in_and_lets_nobody_in() {
    let fixture = Fixture::new();
    let phone = fixture.signed_in().await;
    let code = fixture.page.door.new_code().lines().next().unwrap().to_owned();
    fixture.outlook.send_modify(|outlook| outlook.forgetting = true);
    assert_eq!(phone.get("status").await.status, 410);
    assert_eq!(phone.post("resume", &json!({})).await.status, 410);
    assert_eq!(fixture.asked(), Vec::new());
    // Who is nobody does not learn why.
    sleep(Duration::from_secs(1)).await;
    let came = fixture.send(post("session", None, &json!({"code": code}))).await;
    assert_eq!(came.status, 403, "{}", came.body);
    assert!(!came.body.to_string().contains("forget"), "{}", came.body);
}

#[tokio::test]
async fn agent_that_ends_is_told_as_that() {
    let fixture = Fixture::new();
    let (gone, _) = mpsc::channel(1);
    let page = Page {
        requests: gone,
        outlook: fixture.page.outlook.clone(),
        directory: fixture.page.directory.clone(),
        clock: Arc::clone(&fixture.page.clock),
        door: Arc::clone(&fixture.page.door),
        hosts: fixture.page.hosts.clone(),
        reading: Arc::new(Semaphore::new(1)),
        exporting: Arc::new(Semaphore::new(1)),
    };
    let phone = fixture.signed_in().await;
    let response = server::answer(&page, get("status", Some(&phone.cookie))).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

/// On a real socket; says what came until the connection ended.
async fn heard(mut stream: TcpStream, said: &str) -> String {
    let mut text = Vec::new();
    // What is broken off had its answer before.
    let _ = stream.write_all(said.as_bytes()).await;
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

async fn listening(fixture: &Fixture) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server::serve(listener, Arc::clone(&fixture.page)));
    address
}

#[tokio::test]
async fn page_is_served_over_a_connection_and_a_head_that_is_too_long_is_not() {
    let fixture = Fixture::new();
    let address = listening(&fixture).await;
    let connect = || TcpStream::connect(address);
    let ask = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    let came = heard(connect().await.unwrap(), &ask).await;
    assert!(came.starts_with("HTTP/1.1 200") && came.contains("</html>"), "{came}");
    let long = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nx: {}\r\n\r\n", "y".repeat(64 << 10));
    let came = heard(connect().await.unwrap(), &long).await;
    assert!(!came.contains("</html>"), "{came}");
}

/// A connection from another address of this machine.
async fn connected(from: u8, address: std::net::SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, from], 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test]
async fn strangers_who_take_every_place_make_room_for_who_comes() {
    let fixture = Fixture::new();
    let address = listening(&fixture).await;
    let mut idle = Vec::new();
    for from in 2..=5 {
        for _ in 0..8 {
            idle.push(connected(from, address).await);
        }
    }
    let ask = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    let came = heard(connected(6, address).await, &ask).await;
    assert!(came.starts_with("HTTP/1.1 200"), "{came}");
    // The oldest of them was broken off for it, without an answer.
    let came = heard(idle.remove(0), "").await;
    assert_eq!(came, "");
}

#[tokio::test(start_paused = true)]
async fn connection_on_which_nothing_is_asked_ends() {
    let fixture = Fixture::new();
    let address = listening(&fixture).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let came = heard(stream, "GET / HTTP/1.1\r\nhost: ").await;
    assert!(!came.contains("</html>"), "{came}");
}
