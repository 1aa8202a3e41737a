//! Two ways to connect, for programs and for commands: kubeconfig or in-cluster, a user agent per program, no client-side rate limit, and a
//! check of the server's version at the start.
//!
//! Called once by each program's `run`. A program that starts against an unsupported server says so and ends; it never works
//! on half-known ground. Only what looks at a cluster, or cleans it up, may go on: see [`connect_to_any`]. What must never happen: a
//! program's request that the API server has refused for now, made again beneath the program's own back-off, which then knows nothing
//! of it. What has no such back-off says so where it asks: [`insist`], [`insist_for`].

use std::time::Duration;

use kerbside_core::backoff::Backoff;
use kube::{Client, Config};
use tokio::time::Instant;

/// The Kubernetes minor versions (of 1.x) that Kerbside supports, both ends included.
pub const SUPPORTED_MINORS: std::ops::RangeInclusive<u32> = 35..=37;

/// Why a program cannot talk to its cluster.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor an in-cluster environment was usable.
    #[error("failed to find a cluster: set KUBECONFIG, or run inside a Pod with a service account")]
    Config(#[source] Box<kube::config::InferConfigError>),
    /// The user agent is not a valid header value.
    #[error("failed to use the user agent '{0}'")]
    UserAgent(String),
    /// The client could not be built from its configuration.
    #[error("failed to build the API client")]
    Client(#[source] Box<kube::Error>),
    /// The server did not answer the question for its version.
    #[error("failed to read the API server's version")]
    Version(#[source] Box<kube::Error>),
    /// The server's version is outside of what Kerbside supports.
    #[error(
        "the API server is Kubernetes {found}; Kerbside supports 1.{} to 1.{}",
        SUPPORTED_MINORS.start(),
        SUPPORTED_MINORS.end()
    )]
    Unsupported {
        /// What the server calls itself.
        found: String,
    },
}

/// What the client does with a 429, 503 or 504.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// It hands it to its caller, after one request.
    Told,
    /// It asks again, up to 15 times, when the server says or after a growing wait.
    AskedAgain,
}

/// Connects a program with `user_agent` (`program/version replica`), which audit logs show, and checks the server's version.
///
/// The client's own rate limit stays off: the API server's priority and fairness decides. So do its retries: what an API server refuses for
/// now comes back to the program, whose own back-off knows what may wait. Only the question for the version is asked again: a program that
/// came up in a bad second would end over it.
pub async fn connect(user_agent: &str) -> Result<Client, ConnectError> {
    connect_program(find(user_agent).await?).await
}

async fn connect_program(config: Config) -> Result<Client, ConnectError> {
    let asker = client(config.clone(), Refused::AskedAgain)?;
    if let Some(unsupported) = unsupported_version(&asker).await? {
        return Err(unsupported);
    }
    client(config, Refused::Told)
}

/// Connects a command, which somebody waits for: what an API server refuses for now is asked again by the client itself. An unsupported
/// version is the caller's to judge: it comes beside the client.
pub async fn connect_to_any(user_agent: &str) -> Result<(Client, Option<ConnectError>), ConnectError> {
    connect_command(find(user_agent).await?).await
}

async fn connect_command(config: Config) -> Result<(Client, Option<ConnectError>), ConnectError> {
    let client = client(config, Refused::AskedAgain)?;
    let unsupported = unsupported_version(&client).await?;
    Ok((client, unsupported))
}

/// For [`insist_for`], where a person or another program waits for the answer: some five tries.
pub const BRIEFLY: Duration = Duration::from_secs(3);

/// Whether the API server has said that it takes no more at this moment (429, 503, 504): the same request may be good soon.
pub fn is_refused_for_now(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if is_for_now(status))
}

/// The same of an answer that came in a watch.
pub(crate) fn is_for_now(status: &kube::core::Status) -> bool {
    matches!(status.code, 429 | 503 | 504)
}

/// How long to wait before the next try, after `times` refusals in a row. No two callers wait equally long: they were refused together.
pub(crate) fn pause(times: u32) -> Duration {
    Backoff::CALL.jittered(times, rand::random())
}

/// Asks until the API server does not refuse for now, later each time. For what a program asks once, at its start, where nobody else asks
/// again: it would end over one busy second, and starting again costs the API server more. It never ends by itself: whoever calls it drops it
/// when the program is to stop.
///
/// # Errors
/// Any other answer that is none.
pub async fn insist<T, F>(ask: impl FnMut() -> F) -> Result<T, kube::Error>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    insist_while(Duration::MAX, || true, ask).await
}

/// Asks until the API server does not refuse for now, later each time, but begins no try later than `limit` after the first. For what is
/// asked once and not again by its caller. A request without an answer is the caller's to bound.
///
/// # Errors
/// Any other answer that is none; the last refusal.
pub async fn insist_for<T, F>(limit: Duration, ask: impl FnMut() -> F) -> Result<T, kube::Error>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    insist_while(limit, || true, ask).await
}

/// As [`insist_for`], and only as long as somebody still wants the answer.
///
/// # Errors
/// Any other answer that is none; the last refusal.
pub async fn insist_while<T, F>(
    limit: Duration,
    is_wanted: impl Fn() -> bool,
    mut ask: impl FnMut() -> F,
) -> Result<T, kube::Error>
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let began = Instant::now();
    let mut times = 0_u32;
    loop {
        let error = match ask().await {
            Err(error) if is_refused_for_now(&error) => error,
            answer => return answer,
        };
        times = times.saturating_add(1);
        let pause = pause(times);
        if began.elapsed().saturating_add(pause) > limit || !is_wanted() {
            return Err(error);
        }
        tracing::info!(%error, times, "the API server refuses for now; asking again");
        tokio::time::sleep(pause).await;
        if !is_wanted() {
            return Err(error);
        }
    }
}

/// Where the cluster is, and who asks.
async fn find(user_agent: &str) -> Result<Config, ConnectError> {
    let mut config = Config::infer().await.map_err(|e| ConnectError::Config(Box::new(e)))?;
    let agent = user_agent
        .parse()
        .map_err(|_| ConnectError::UserAgent(user_agent.to_owned()))?;
    config.headers.push((http::header::USER_AGENT, agent));
    Ok(config)
}

fn client(mut config: Config, refused: Refused) -> Result<Client, ConnectError> {
    // Two TLS providers in one process make rustls refuse to choose; the first call wins and a second is harmless.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    config.default_retry = refused == Refused::AskedAgain;
    Client::try_from(config).map_err(|e| ConnectError::Client(Box::new(e)))
}

/// What is wrong with the server's version, if anything is.
async fn unsupported_version(client: &Client) -> Result<Option<ConnectError>, ConnectError> {
    let version = client
        .apiserver_version()
        .await
        .map_err(|e| ConnectError::Version(Box::new(e)))?;
    Ok(check_version(&version.major, &version.minor).err())
}

/// Accepts the versions in [`SUPPORTED_MINORS`]. Some vendors write the minor as `36+`.
fn check_version(major: &str, minor: &str) -> Result<(), ConnectError> {
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse::<u32>() {
        Ok(m) if major == "1" && SUPPORTED_MINORS.contains(&m) => Ok(()),
        _ => Err(ConnectError::Unsupported {
            found: format!("{major}.{minor}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use axum::Router;
    use axum::http::StatusCode;
    use k8s_openapi::api::core::v1::Node;
    use kube::Api;
    use serde_json::json;

    use super::*;

    /// An API server of 1.36 that answers with `code` what `is_refused` says, counted from 0; how many it was asked, and where it is.
    async fn server(code: u16, is_refused: fn(u32) -> bool) -> (Arc<AtomicU32>, Config) {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let answer = move || {
            let (code, body) = if is_refused(count.fetch_add(1, Ordering::SeqCst)) {
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "not now", "reason": "Refused",
                });
                (StatusCode::from_u16(code).unwrap(), status)
            } else {
                let version = json!({
                    "major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "clean", "buildDate": "",
                    "goVersion": "", "compiler": "gc", "platform": "linux/amd64",
                });
                (StatusCode::OK, version)
            };
            std::future::ready((code, axum::Json(body)))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (asked, Config::new(format!("http://{address}").parse().unwrap()))
    }

    #[rstest::rstest]
    #[case(429)]
    #[case(503)]
    #[case(504)]
    #[tokio::test]
    async fn program_asks_for_the_version_again_and_then_hears_of_each_refusal_after_one_request(#[case] code: u16) {
        let (asked, config) = server(code, |n| n != 2).await;
        let client = connect_program(config).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 3, "twice in vain");
        let nodes: Api<Node> = Api::all(client);
        let error = nodes.get("car-aaaaaaaaaaaaaaaa").await.unwrap_err();
        assert!(
            matches!(&error, kube::Error::Api(status) if status.code == code),
            "{error:?}"
        );
        assert_eq!(asked.load(Ordering::SeqCst), 4);
    }

    #[rstest::rstest]
    #[case(429)]
    #[case(503)]
    #[case(504)]
    #[tokio::test]
    async fn command_asks_again_by_itself(#[case] code: u16) {
        let (asked, config) = server(code, |n| n != 1 && n != 4).await;
        let (client, unsupported) = connect_command(config).await.unwrap();
        assert!(unsupported.is_none(), "{unsupported:?}");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        client.apiserver_version().await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 5, "twice in vain");
    }

    fn refusal(code: u16) -> kube::Error {
        let status = kube::core::Status {
            code,
            ..kube::core::Status::default()
        };
        kube::Error::Api(Box::new(status))
    }

    fn code(error: &kube::Error) -> u16 {
        match error {
            kube::Error::Api(status) => status.code,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_once_is_asked_until_it_is_not_refused_for_now() {
        let mut answers = [429, 503, 504, 403].into_iter();
        let ask = || std::future::ready(Err::<(), _>(refusal(answers.next().unwrap())));
        let began = Instant::now();
        let error = insist(ask).await.unwrap_err();
        assert_eq!(code(&error), 403);
        let longest: Duration = [1, 2, 3].map(|times| Backoff::CALL.delay(times)).iter().sum();
        let waited = began.elapsed();
        // A timer may be late by a millisecond.
        let late = Duration::from_millis(10);
        assert!(waited >= longest / 2 && waited <= longest + late, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_waits_for_is_given_up_in_time_with_what_the_api_server_said() {
        let began = Instant::now();
        let mut tries = 0;
        let error = insist_for(BRIEFLY, || {
            tries += 1;
            std::future::ready(Err::<(), _>(refusal(429)))
        })
        .await
        .unwrap_err();
        assert_eq!(code(&error), 429);
        assert!((4..=5).contains(&tries), "{tries}");
        assert!(
            began.elapsed() <= BRIEFLY + Duration::from_millis(10),
            "{:?}",
            began.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_were_refused_together_do_not_come_back_together() {
        let mut waits = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let mut refusals = [429].into_iter();
            let began = Instant::now();
            let answer = insist_for(BRIEFLY, || {
                std::future::ready(refusals.next().map_or(Ok(()), |code| Err(refusal(code))))
            });
            answer.await.unwrap();
            waits.insert(began.elapsed());
        }
        assert!(waits.len() > 5, "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_wants_any_more_is_not_asked_again() {
        let wanted = std::cell::Cell::new(true);
        let mut tries = 0;
        let ask = || {
            tries += 1;
            wanted.set(tries < 2);
            std::future::ready(Err::<(), _>(refusal(503)))
        };
        let error = insist_while(Duration::MAX, || wanted.get(), ask).await.unwrap_err();
        assert_eq!((code(&error), tries), (503, 2));
    }

    #[rstest::rstest]
    #[case("1", "35")]
    #[case("1", "36+")]
    #[case("1", "37")]
    fn version_in_range_is_accepted(#[case] major: &str, #[case] minor: &str) {
        check_version(major, minor).unwrap();
    }

    #[rstest::rstest]
    #[case("1", "34")]
    #[case("1", "38")]
    #[case("2", "36")]
    #[case("1", "")]
    fn version_out_of_range_is_refused_with_both_numbers(#[case] major: &str, #[case] minor: &str) {
        let text = check_version(major, minor).unwrap_err().to_string();
        assert!(
            text.contains("1.35 to 1.37") && text.contains(&format!("{major}.{minor}")),
            "{text}"
        );
    }
}
