//! A pull secret becomes a token that reads one repository: the registry says who gives tokens, and that one is asked.
//!
//! Called by [`super`]. The protocol is that of the distribution specification. What must never happen: a credential that goes to a place
//! without TLS when the registry has TLS, one that follows a redirect, or one in a message.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use url::form_urlencoded;

use super::keyring::{Credential, Repository};

/// A registry that takes longer is asked again later.
const PATIENCE: Duration = Duration::from_secs(10);
/// A token that does not say how long it lives, as by the specification.
const LIFE: Duration = Duration::from_mins(1);
/// No answer is larger.
const ANSWER: usize = 64 << 10;
/// Where docker.io answers.
const HUB: &str = "registry-1.docker.io";
/// Who asks, by the protocol.
const CLIENT: &str = "kerbside";

/// The way to registries.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exchange(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Made when it is needed first: few clusters have pull secrets.
    client: OnceLock<Client>,
    /// Registries without TLS.
    plain_http: Vec<String>,
}

/// What a registry has said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It asks nobody who he is.
    Open,
    /// A token, and how long it lives.
    Token(String, Duration),
}

#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: String,
}

#[derive(Deserialize)]
struct Given {
    #[serde(alias = "access_token")]
    token: Option<String>,
    expires_in: Option<u64>,
}

impl Exchange {
    /// `plain_http`: registries, by host and port, that have no TLS.
    pub(crate) fn new(plain_http: Vec<String>) -> Self {
        let client = OnceLock::new();
        Self(Arc::new(Inner { client, plain_http }))
    }

    fn client(&self) -> Result<&Client, String> {
        if let Some(client) = self.0.client.get() {
            return Ok(client);
        }
        let builder = Client::builder().redirect(Policy::none()).timeout(PATIENCE);
        let client = builder.user_agent(CLIENT).build();
        let client = client.map_err(|e| format!("the adapter can reach no registry: {}", cause(&e)))?;
        Ok(self.0.client.get_or_init(|| client))
    }

    /// Asks for a token for a repository, with a credential. The error is a sentence.
    pub(super) async fn token(&self, repository: &Repository, credential: &Credential) -> Result<Answer, String> {
        let registry = &repository.registry;
        let client = self.client()?;
        let plain = self.0.plain_http.contains(registry);
        let host = if registry == "docker.io" { HUB } else { registry };
        let scheme = if plain { "http" } else { "https" };
        let asked = client.get(format!("{scheme}://{host}/v2/")).send().await;
        let response = asked.map_err(|e| format!("the registry {registry} does not answer: {}", cause(&e)))?;
        if response.status().is_success() {
            return Ok(Answer::Open);
        }
        let said = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let said: Vec<_> = said.filter_map(|value| value.to_str().ok()).collect();
        let challenge = said.iter().find_map(|text| challenge(text)).ok_or_else(|| {
            format!("the registry {registry} offers no bearer token; a pull secret itself is not sent to a vehicle")
        })?;
        let realm = realm(&challenge, plain).map_err(|why| format!("the registry {registry} {why}"))?;
        let request = request(client, realm, &challenge.service, &repository.name, credential);
        let response = request.send().await;
        let response =
            response.map_err(|e| format!("who gives tokens for {registry} does not answer: {}", cause(&e)))?;
        match response.status() {
            StatusCode::OK => given(response)
                .await
                .map_err(|why| format!("who gives tokens for {registry} {why}")),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(format!("the registry {registry} does not accept the pull secret"))
            }
            other => Err(format!("who gives tokens for {registry} answers {other}")),
        }
    }
}

fn request(client: &Client, realm: Url, service: &str, name: &str, credential: &Credential) -> RequestBuilder {
    let scope = format!("repository:{name}:pull");
    match credential {
        Credential::Basic { user, password } => {
            let mut realm = realm;
            realm
                .query_pairs_mut()
                .append_pair("service", service)
                .append_pair("scope", &scope)
                .append_pair("client_id", CLIENT);
            client.get(realm).basic_auth(user, Some(password.expose_secret()))
        }
        Credential::Identity(token) => {
            let body = form_urlencoded::Serializer::new(String::new())
                .append_pair("grant_type", "refresh_token")
                .append_pair("service", service)
                .append_pair("scope", &scope)
                .append_pair("client_id", CLIENT)
                .append_pair("refresh_token", token.expose_secret())
                .finish();
            let form = "application/x-www-form-urlencoded";
            client.post(realm).header(CONTENT_TYPE, form).body(body)
        }
    }
}

/// Without the address, which may hold what nobody else should read.
fn cause(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() {
        "it took too long"
    } else {
        "no connection"
    }
    .to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    text
}

/// Where tokens are given. A registry with TLS sends nobody to a place without.
fn realm(challenge: &Challenge, plain: bool) -> Result<Url, String> {
    let url = Url::parse(&challenge.realm).map_err(|_| "names no address that gives tokens".to_owned())?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if plain => Ok(url),
        _ => Err("would have the pull secret sent without TLS".to_owned()),
    }
}

/// `Bearer realm="…",service="…"`; `None`: it is another scheme, or names no realm.
fn challenge(text: &str) -> Option<Challenge> {
    let (scheme, mut rest) = text.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, String::new());
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        let Some((key, value)) = rest.split_once('=') else {
            break;
        };
        let (value, after) = value_of(value)?;
        match key.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = value,
            _ => {}
        }
        rest = after;
    }
    Some(Challenge { realm: realm?, service })
}

/// A value with or without quotes, and what comes after it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return Some((text[..end].trim().to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    // It is not closed.
    None
}

async fn given(mut response: Response) -> Result<Answer, String> {
    let mut text = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|e| format!("breaks off: {}", cause(&e)))?
    {
        text.extend_from_slice(&chunk);
        if text.len() > ANSWER {
            return Err("says more than a token".to_owned());
        }
    }
    // What serde says may quote what it read.
    let given: Given = serde_json::from_slice(&text).map_err(|_| "answers with no JSON that is a token".to_owned())?;
    let token = given.token.filter(|token| !token.is_empty());
    let token = token.ok_or("gives no token")?;
    let life = given
        .expires_in
        .map_or(LIFE, |seconds| Duration::from_secs(seconds.max(1)));
    Ok(Answer::Token(token, life))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::extract::{Request, State};
    use axum::http::HeaderMap;
    use axum::response::IntoResponse;
    use reqwest::header::AUTHORIZATION;
    use rstest::rstest;
    use tokio::net::TcpListener;

    use super::*;

    #[rstest]
    #[case(
        r#"Bearer realm="https://auth.example/token",service="registry.example""#,
        "https://auth.example/token",
        "registry.example"
    )]
    #[case(r#"bearer service=x, realm="https://a/\"t\"",scope="a,b""#, r#"https://a/"t""#, "x")]
    #[case(r#"Bearer realm="https://a""#, "https://a", "")]
    fn challenge_names_a_realm_and_a_service(#[case] text: &str, #[case] realm: &str, #[case] service: &str) {
        let found = challenge(text).unwrap();
        assert_eq!((found.realm.as_str(), found.service.as_str()), (realm, service));
    }

    #[rstest]
    #[case::basic(r#"Basic realm="x""#)]
    #[case::no_realm(r#"Bearer service="x""#)]
    #[case::not_closed(r#"Bearer realm="https://a"#)]
    #[case::nothing("Bearer")]
    fn challenge_without_a_realm_is_none(#[case] text: &str) {
        assert_eq!(challenge(text), None);
    }

    #[rstest]
    #[case("https://a/t", false, true)]
    #[case("http://a/t", false, false)]
    #[case("http://a/t", true, true)]
    #[case("file:///etc/passwd", true, false)]
    #[case("not an address", true, false)]
    fn pull_secret_goes_nowhere_without_tls(#[case] address: &str, #[case] plain: bool, #[case] goes: bool) {
        let challenge = Challenge {
            realm: address.to_owned(),
            service: String::new(),
        };
        assert_eq!(realm(&challenge, plain).is_ok(), goes);
    }

    /// A registry on loopback, whose realm answers with this; and what the realm was asked.
    #[derive(Clone)]
    struct Played {
        realm: String,
        answer: (u16, &'static str),
        asked: Arc<Mutex<Vec<String>>>,
    }

    async fn answer(State(played): State<Played>, headers: HeaderMap, request: Request) -> impl IntoResponse {
        let path = request.uri().to_string();
        if path == "/v2/" {
            return (
                StatusCode::UNAUTHORIZED,
                [("www-authenticate", played.realm.clone())],
                "",
            )
                .into_response();
        }
        let who = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let line = format!("{} {path} {who}", request.method());
        let body = axum::body::to_bytes(request.into_body(), 1 << 16)
            .await
            .unwrap_or_default();
        played
            .asked
            .lock()
            .unwrap()
            .push(format!("{line} {}", String::from_utf8_lossy(&body)));
        let code = StatusCode::from_u16(played.answer.0).unwrap();
        (code, played.answer.1).into_response()
    }

    async fn play(realm: &str, answer_with: (u16, &'static str)) -> (Exchange, Repository, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = listener.local_addr().unwrap().to_string();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let played = Played {
            realm: realm.replace("HERE", &format!("http://{registry}")),
            answer: answer_with,
            asked: Arc::clone(&asked),
        };
        let routes = Router::new().fallback(answer).with_state(played);
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let repository = Repository {
            registry: registry.clone(),
            name: "team/app".to_owned(),
        };
        (Exchange::new(vec![registry]), repository, asked)
    }

    fn basic() -> Credential {
        Credential::Basic {
            user: "ann".to_owned(),
            password: "hush".to_owned().into(),
        }
    }

    const BEARER: &str = r#"Bearer realm="HERE/token",service="here""#;

    #[tokio::test]
    async fn token_is_asked_for_one_repository_to_be_read() {
        let (exchange, repository, asked) = play(BEARER, (200, r#"{"token": "t", "expires_in": 300}"#)).await;
        let answer = exchange.token(&repository, &basic()).await.unwrap();
        assert_eq!(answer, Answer::Token("t".to_owned(), Duration::from_secs(300)));
        let asked = asked.lock().unwrap().clone();
        assert_eq!(
            asked,
            ["GET /token?service=here&scope=repository%3Ateam%2Fapp%3Apull&client_id=kerbside Basic YW5uOmh1c2g= "]
        );
    }

    #[tokio::test]
    async fn token_of_an_identity_is_asked_for_by_post() {
        let (exchange, repository, asked) = play(BEARER, (200, r#"{"access_token": "t"}"#)).await;
        let identity = Credential::Identity("hush".to_owned().into());
        let answer = exchange.token(&repository, &identity).await.unwrap();
        assert_eq!(answer, Answer::Token("t".to_owned(), LIFE));
        let asked = asked.lock().unwrap().clone();
        assert!(
            asked[0].starts_with("POST /token  grant_type=refresh_token&service=here"),
            "{asked:?}"
        );
        assert!(asked[0].ends_with("&refresh_token=hush"), "{asked:?}");
    }

    #[rstest]
    #[case::basic_only(r#"Basic realm="here""#, (200, ""), "offers no bearer token")]
    #[case::refused(BEARER, (401, ""), "does not accept the pull secret")]
    #[case::forbidden(BEARER, (403, ""), "does not accept the pull secret")]
    #[case::broken(BEARER, (500, ""), "500")]
    #[case::redirected(BEARER, (307, ""), "307")]
    #[case::no_json(BEARER, (200, "hush"), "no JSON")]
    #[case::no_token(BEARER, (200, "{}"), "gives no token")]
    #[case::nowhere(r#"Bearer realm="ftp://x""#, (200, ""), "without TLS")]
    #[tokio::test]
    async fn failure_says_who_failed_and_nothing_that_is_secret(
        #[case] realm: &str,
        #[case] answer: (u16, &'static str),
        #[case] says: &str,
    ) {
        let (exchange, repository, _) = play(realm, answer).await;
        let message = exchange.token(&repository, &basic()).await.unwrap_err();
        assert!(message.contains(says) && !message.contains("hush"), "{message}");
        assert!(message.contains(&repository.registry), "{message}");
    }

    #[tokio::test]
    async fn registry_that_is_not_there_is_named() {
        let repository = Repository {
            registry: "127.0.0.1:1".to_owned(),
            name: "x".to_owned(),
        };
        let exchange = Exchange::new(vec![repository.registry.clone()]);
        let message = exchange.token(&repository, &basic()).await.unwrap_err();
        assert!(message.contains("127.0.0.1:1 does not answer"), "{message}");
    }
}
