//! What is spoken with programs, and with whom they ask.

use rstest::rstest;

use super::*;

const GET: &str = "GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n";
/// Of a body in chunks.
const LAST: &str = "0\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn request_is_asked_anew_without_what_is_the_proxys() {
    let mut car = public();
    let mut program = car.program();
    let request = "POST http://example.org/a?b=c HTTP/1.1\r\nHost: else.example\r\nProxy-Authorization: Basic eA==\r\n\
                   Proxy-Connection: keep-alive\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nX-Yours: 2\r\n\
                   Content-Length: 4\r\n\r\nbody";
    program.write_all(request.as_bytes()).await.unwrap();
    let (address, mut server) = car.peer().await;
    assert_eq!(address, SocketAddr::new(PUBLIC.parse().unwrap(), 80));
    let asked = until(&mut server, "body").await.to_lowercase();
    assert!(asked.starts_with("post /a?b=c http/1.1\r\n"), "{asked}");
    for is in [
        "host: example.org\r\n",
        "x-yours: 2\r\n",
        "content-length: 4\r\n",
        "connection: close\r\n",
    ] {
        assert!(asked.contains(is), "{is}: {asked}");
    }
    for is_not in ["else.example", "proxy", "x-mine", "via", "forwarded"] {
        assert!(!asked.contains(is_not), "{is_not}: {asked}");
    }
    let answer = "HTTP/1.1 201 Created\r\nContent-Length: 3\r\nConnection: X-Own\r\nX-Own: 1\r\nX-Told: 2\r\n\r\nok\n";
    server.write_all(answer.as_bytes()).await.unwrap();
    let told = head(&mut program).await;
    assert!(told.starts_with("HTTP/1.1 201"), "{told}");
    assert!(
        told.contains("x-told: 2") && !told.contains("x-own") && told.ends_with("\r\n\r\nok\n"),
        "{told}"
    );
}

#[tokio::test(start_paused = true)]
async fn connection_of_a_program_serves_one_request_after_the_other() {
    let mut car = played("egress: {allow: [public]}", &[("example.org", &[&[PUBLIC], &[PUBLIC]])]);
    let mut program = car.program();
    for _ in 0..2 {
        program.write_all(GET.as_bytes()).await.unwrap();
        let (_, mut server) = car.peer().await;
        head(&mut server).await;
        // Of no known length: until its end.
        server.write_all(b"HTTP/1.0 200 OK\r\n\r\nall\n").await.unwrap();
        drop(server);
        let told = until(&mut program, LAST).await;
        assert!(told.starts_with("HTTP/1.1 200") && told.contains("all\n"), "{told}");
    }
}

#[rstest]
#[case::own_path("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "400", "this is a vehicle's proxy")]
#[case::other_scheme(
    "GET https://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "400",
    "by http only"
)]
#[case::no_port("CONNECT example.org HTTP/1.1\r\n\r\n", "400", "a name and a port")]
#[case::user(
    "GET http://user:word@example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "400",
    "with a user"
)]
#[case::private(
    "GET http://192.168.178.1/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "403",
    "does not let work reach 192.168.178.1:80"
)]
#[case::octal(
    "GET http://0177.0.0.1/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "403",
    "does not let work reach 0177.0.0.1:80"
)]
#[case::local_name(
    "CONNECT localhost:443 HTTP/1.1\r\n\r\n",
    "403",
    "does not let work reach localhost:443"
)]
#[tokio::test(start_paused = true)]
async fn program_that_asks_for_what_there_is_not_is_told_why(
    #[case] says: &str,
    #[case] status: &str,
    #[case] why: &str,
) {
    let mut car = played(
        "egress: {allow: [public]}",
        &[
            ("localhost", &[&["127.0.0.1", "::1"]]),
            ("0177.0.0.1", &[&["127.0.0.1"]]),
        ],
    );
    let told = car.told(says).await;
    assert!(
        told.starts_with(&format!("HTTP/1.1 {status}")) && told.contains(why),
        "{told}"
    );
    assert!(car.reached.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn server_that_is_not_there_or_breaks_off_is_told() {
    let mut car = played("egress: {allow: [public]}", &[("example.org", &[&[PUBLIC], &[PUBLIC]])]);
    let (mut program, server) = car.asks(GET).await;
    drop(server);
    let told = head(&mut program).await;
    assert!(
        told.starts_with("HTTP/1.1 502") && told.contains("example.org:80 does not answer"),
        "{told}"
    );
    car.reached.close();
    let told = car.told("CONNECT example.org:443 HTTP/1.1\r\n\r\n").await;
    assert!(
        told.starts_with("HTTP/1.1 502") && told.contains("example.org:443 does not answer"),
        "{told}"
    );
}

#[tokio::test(start_paused = true)]
async fn program_that_says_nothing_or_too_much_is_not_waited_for() {
    let car = public();
    let mut silent = car.program();
    silent.write_all(b"GET http://exam").await.unwrap();
    assert!(ends(&mut silent).await);
    let mut long = car.program();
    let words = format!(
        "GET http://example.org/ HTTP/1.1\r\nX: {}\r\n\r\n",
        "x".repeat(48 << 10)
    );
    // It may be told no before it has said all.
    let _ = long.write_all(words.as_bytes()).await;
    let told = head(&mut long).await;
    assert!(told.starts_with("HTTP/1.1 431"), "{told}");
    assert!(car.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn body_in_chunks_stays_one_whatever_the_method() {
    let mut car = public();
    let request = "GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    let (mut program, mut server) = car.asks(request).await;
    let asked = until(&mut server, LAST).await;
    assert!(
        asked.to_lowercase().contains("transfer-encoding: chunked") && asked.contains("\r\nbody\r\n"),
        "{asked}"
    );
    // Two lengths: only the chunks count.
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n5\r\nwhole\r\n0\r\n\r\n";
    server.write_all(answer.as_bytes()).await.unwrap();
    let told = until(&mut program, LAST).await;
    assert!(
        told.contains("whole") && !told.to_lowercase().contains("content-length"),
        "{told}"
    );
}

#[tokio::test(start_paused = true)]
async fn answer_that_breaks_off_does_not_look_like_all_of_it() {
    let mut car = public();
    let (mut program, mut server) = car.asks(GET).await;
    head(&mut server).await;
    server.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf of it").await.unwrap();
    // In a chunk of its own.
    until(&mut program, "half of it\r\n").await;
    // The owner takes it back in the middle.
    car.amend("");
    let mut rest = String::new();
    // A connection that is broken off may say so, or only end.
    let _ = timeout(LONG, program.read_to_string(&mut rest)).await.unwrap();
    assert!(!rest.contains(LAST), "{rest}");
}

#[tokio::test(start_paused = true)]
async fn server_that_changes_the_protocol_unasked_is_told_as_none() {
    let mut car = public();
    let request = "GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let (mut program, mut server) = car.asks(request).await;
    let asked = head(&mut server).await;
    assert!(!asked.to_lowercase().contains("upgrade"), "{asked}");
    server
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut program).await.starts_with("HTTP/1.1 502"));
}
