//! Programs that are asked, on this machine's loopback.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use futures::FutureExt as _;
use rstest::rstest;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::proto::health_check_response::ServingStatus;
use super::proto::health_server::{Health, HealthServer};
use super::*;
use crate::pod::HttpGet;
use crate::runtime::Usage;

const LIMIT: Duration = Duration::from_secs(10);

/// A program that answers on this machine, and whose commands end as they say.
struct Here;

impl Process for Here {
    fn freeze(&self) {}
    fn thaw(&self) {}
    fn stop(&self) {}
    fn kill(&self) {}
    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn exec(&self, command: Vec<String>, _limit: Duration) -> BoxFuture<'static, Result<Executed, String>> {
        let (code, output) = (command[0].parse().unwrap(), command[1].clone());
        std::future::ready(Ok(Executed { code, output })).boxed()
    }

    fn connect(&self, port: u16, limit: Duration) -> BoxFuture<'static, Result<TcpStream, String>> {
        let address = ([127, 0, 0, 1], port).into();
        let connected = TcpStream::connect_timeout(&address, limit).map_err(|e| e.to_string());
        std::future::ready(connected).boxed()
    }
}

/// A server that gives these answers, one for each request, on one connection; what it was asked.
fn server(answers: &'static [&'static str]) -> (u16, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        for answer in answers {
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap() == 0 {
                    return asked;
                }
                request.push(byte[0].into());
            }
            asked.push(request);
            stream.write_all(answer.as_bytes()).unwrap();
        }
        asked
    });
    (port, thread)
}

fn get(port: u16, path: &str) -> Handler {
    Handler::Http(HttpGet {
        tls: false,
        port,
        path: path.to_owned(),
        headers: vec![("X-Test".to_owned(), "yes".to_owned())],
    })
}

#[tokio::test]
async fn request_says_who_asks_and_what_the_probe_adds() {
    let (port, server) = server(&["HTTP/1.1 204 No Content\r\n\r\n"]);
    assert_eq!(ask(&Here, get(port, "/livez?verbose"), LIMIT).await, Ok(()));
    let asked = server.join().unwrap().remove(0).to_lowercase();
    assert!(asked.starts_with("get /livez?verbose http/1.1\r\n"), "{asked}");
    for header in [
        "user-agent: kube-probe/1.37\r\n",
        "x-test: yes\r\n",
        &format!("host: 127.0.0.1:{port}\r\n"),
    ] {
        assert!(asked.contains(header), "no {header} in {asked}");
    }
}

#[tokio::test]
async fn redirect_within_the_server_is_followed_and_another_is_an_answer() {
    let (port, first) = server(&[
        "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 500 Oh\r\nContent-Length: 6\r\n\r\nbroken",
    ]);
    let failed = ask(&Here, get(port, "/"), LIMIT).await.unwrap_err();
    assert_eq!(failed, "HTTP probe failed with statuscode: 500: broken");
    assert!(first.join().unwrap()[1].starts_with("GET /login "));
    let (port, second) = server(&["HTTP/1.1 302 Found\r\nLocation: https://example.com/\r\nContent-Length: 0\r\n\r\n"]);
    assert_eq!(ask(&Here, get(port, "/"), LIMIT).await, Ok(()));
    second.join().unwrap();
}

#[tokio::test]
async fn server_that_says_nothing_is_given_up_after_the_limit() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let failed = ask(&Here, get(port, "/"), Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(failed, "no answer within 0.05 s");
    assert_eq!(
        ask(&Here, Handler::Tcp(port), LIMIT).await,
        Ok(()),
        "it takes connections"
    );
    drop(silent);
    assert!(
        ask(&Here, Handler::Tcp(port), LIMIT)
            .await
            .unwrap_err()
            .contains("refused")
    );
}

#[rstest]
#[case("0", "", Ok(()))]
#[case("1", "no such file", Err("no such file".to_owned()))]
#[case("2", "", Err("the command ended with code 2".to_owned()))]
#[tokio::test]
async fn command_answers_with_its_code_and_says_why(
    #[case] code: &str,
    #[case] output: &str,
    #[case] expected: Result<(), String>,
) {
    let command = Handler::Exec(vec![code.to_owned(), output.to_owned()]);
    assert_eq!(ask(&Here, command, LIMIT).await, expected);
}

struct Half;

#[tonic::async_trait]
impl Health for Half {
    async fn check(
        &self,
        request: Request<proto::HealthCheckRequest>,
    ) -> Result<Response<proto::HealthCheckResponse>, Status> {
        let status = match request.into_inner().service.as_str() {
            "" => ServingStatus::Serving,
            "slow" => ServingStatus::NotServing,
            other => return Err(Status::not_found(other.to_owned())),
        };
        Ok(Response::new(proto::HealthCheckResponse { status: status.into() }))
    }
}

#[tokio::test]
async fn server_with_the_health_protocol_is_asked_for_its_services() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(
        Server::builder()
            .add_service(HealthServer::new(Half))
            .serve_with_incoming(incoming),
    );
    let of = |service: &str| Handler::Grpc {
        port,
        service: service.to_owned(),
    };
    assert_eq!(ask(&Here, of(""), LIMIT).await, Ok(()));
    assert_eq!(
        ask(&Here, of("slow"), LIMIT).await.unwrap_err(),
        "the service says NOT_SERVING"
    );
    assert!(ask(&Here, of("other"), LIMIT).await.unwrap_err().contains("other"));
    let (plain, server) = server(&["HTTP/1.1 400 Bad Request\r\n\r\n"]);
    assert!(
        ask(
            &Here,
            Handler::Grpc {
                port: plain,
                service: String::new()
            },
            LIMIT
        )
        .await
        .is_err()
    );
    drop(server);
}
