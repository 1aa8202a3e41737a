//! A registry that says what a test has it say, word by word.

use kerbside_core::clock::Clock;
use kerbside_link::SystemClock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::Car;
use crate::directory::Directory;
use crate::images::parse;
use crate::uplink::Seen;

async fn listen() -> (TcpListener, Reference) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let image = format!("{}/app:v1", listener.local_addr().unwrap());
    (listener, parse(&image).unwrap())
}

/// The next who asks, and what he asks for.
async fn asked(listener: &TcpListener) -> (TcpStream, String) {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut request = vec![0; 8192];
    let length = socket.read(&mut request).await.unwrap();
    let text = String::from_utf8_lossy(&request[..length]).into_owned();
    (socket, text)
}

async fn answer(mut socket: TcpStream, status: &str, head: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\n{head}content-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    // Who does not want all of it hangs up.
    let _ = socket.write_all(body).await;
}

fn seen(may_move: bool) -> Seen {
    Seen { date: None, may_move }
}

fn counting(temp: &tempfile::TempDir) -> Uplink {
    let directory = Directory::open(temp.path()).unwrap();
    let clock: std::sync::Arc<dyn Clock> = std::sync::Arc::new(SystemClock);
    let uplink = Uplink::open(&Car::default(), &directory, &clock);
    uplink.look(seen(true));
    uplink
}

#[tokio::test]
async fn answer_is_counted_by_the_piece_and_ends_when_the_owner_says_no() {
    let ((listener, image), temp) = (listen().await, tempfile::tempdir().unwrap());
    let (clients, uplink) = (Clients::new(true).unwrap(), counting(&temp));
    let registry = async {
        let (mut socket, _) = asked(&listener).await;
        socket
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
            .await
            .unwrap();
        while uplink.now(false).moved.bytes == 0 {
            tokio::task::yield_now().await;
        }
        uplink.look(seen(false));
        socket.write_all(b" ").await.unwrap();
        // It would go on.
        socket
    };
    let (_socket, answer) = tokio::join!(registry, clients.ask(&image, "manifests/v1", None, &uplink));
    let message = answer.map(|answer| answer.status).unwrap_err().to_string();
    assert!(message.contains("lets it fetch no images now"), "{message}");
    assert_eq!(uplink.now(false).moved.bytes, 2);
}

#[tokio::test]
async fn answer_that_no_manifest_would_be_is_not_read_to_its_end() {
    let (listener, image) = listen().await;
    let clients = Clients::new(true).unwrap();
    for (length, taken) in [(MOST, true), (MOST + 1, false)] {
        let registry = async {
            let (socket, _) = asked(&listener).await;
            answer(socket, "200 OK", "", &vec![b' '; length]).await;
        };
        let free = Uplink::default();
        let ((), answer) = tokio::join!(registry, clients.ask(&image, "manifests/v1", None, &free));
        match answer {
            Ok(answer) => assert!(taken && answer.given().unwrap().len() == length),
            Err(error) => assert!(!taken && error.to_string().contains("which no manifest has"), "{error}"),
        }
    }
}

#[tokio::test]
async fn token_that_a_registry_gives_to_everybody_is_got_once_and_again_when_it_has_ended() {
    let (listener, image) = listen().await;
    let clients = Clients::new(true).unwrap();
    let realm = format!("http://{}/token", listener.local_addr().unwrap());
    let challenge = format!("www-authenticate: Bearer realm=\"{realm}\",service=\"registry\"\r\n");
    let (mut given, mut ended) = (0, false);
    let mut paths = Vec::new();
    for _ in 0..3 {
        let registry = async {
            loop {
                let (socket, request) = asked(&listener).await;
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                paths.push(path.split('?').next().unwrap_or_default().to_owned());
                let good = !ended && request.contains(&format!("Bearer token-{given}\r\n"));
                if path.starts_with("/token?") {
                    (given, ended) = (given + 1, false);
                    let body = format!("{{\"token\": \"token-{given}\"}}");
                    answer(socket, "200 OK", "", body.as_bytes()).await;
                } else if good {
                    answer(socket, "200 OK", "", b"{}").await;
                    break;
                } else {
                    answer(socket, "401 Unauthorized", &challenge, b"").await;
                }
            }
        };
        let free = Uplink::default();
        let ((), answer) = tokio::join!(registry, clients.ask(&image, "manifests/v1", None, &free));
        assert_eq!(answer.unwrap().given().unwrap(), b"{}");
        // The one after the next asks with a token that counts no more.
        ended = paths.len() == 5;
    }
    let (manifest, known) = ("/v2/app/manifests/v1", "/v2/");
    let got = [manifest, known, "/token", manifest];
    assert_eq!(paths, [&got[..], &[manifest], &got[..]].concat());
}

#[tokio::test]
async fn token_of_a_pod_that_is_refused_is_not_taken_for_nobodys() {
    let (listener, image) = listen().await;
    let clients = Clients::new(true).unwrap();
    let registry = async {
        let (socket, request) = asked(&listener).await;
        answer(socket, "401 Unauthorized", "", b"").await;
        request
    };
    let free = Uplink::default();
    let (request, answer) = tokio::join!(registry, clients.ask(&image, "manifests/v1", Some("the-pods"), &free));
    assert!(request.contains("Bearer the-pods\r\n"), "{request}");
    let error = answer.unwrap().given().unwrap_err();
    assert!(
        matches!(error, OciDistributionError::UnauthorizedError { .. }),
        "{error}"
    );
}
