//! What the page asks and is told: each a thin translation onto what the control socket and the command line do, too.
//!
//! Called by [`super::server`] with requests that have passed the gate, and, but for signing in, come from who is signed in. What changes
//! goes to the policy loop, or into the owner's document and consents ([`super::agree`]), which the loop reads. What must never happen: an answer that
//! says something was done that was not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Response, StatusCode};
use jiff::Timestamp;
use kerbside_core::owner::{doubts, explain};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::runtime::Handle;

use super::account::Costs;
use super::door::Refused;
use super::gate::{Refusal, cookie};
use super::{Page, account, agree};
use crate::cli::rights;
use crate::config::{self, ConfigError};
use crate::control::{self, Answer, Ask, Status};
use crate::profiles;
use crate::receipts::show::{self, Shown};
use crate::receipts::terms::Kept;

/// A pause that is longer is one without an end.
const LONGEST_PAUSE: Duration = Duration::from_hours(31 * 24);

pub(super) type Answered = Result<Response<Full<Bytes>>, Refusal>;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    SignIn,
    SignOut,
    Status,
    Pause,
    Resume,
    Withdraw,
    Policy,
    Notice,
    Agree,
    Consents,
    Earnings,
    /// Of receipts before this number.
    History(Option<u64>),
    Export,
}

impl Asked {
    /// What a method and a path, behind `/api/v1/`, ask.
    pub(super) fn find(method: &Method, path: &str, query: Option<&str>) -> Result<Self, Refusal> {
        let known = [
            ("session", Method::POST, Self::SignIn),
            ("session", Method::DELETE, Self::SignOut),
            ("status", Method::GET, Self::Status),
            ("pause", Method::POST, Self::Pause),
            ("resume", Method::POST, Self::Resume),
            ("withdraw", Method::POST, Self::Withdraw),
            ("policy", Method::GET, Self::Policy),
            ("policy", Method::POST, Self::Agree),
            ("notice", Method::POST, Self::Notice),
            ("consents", Method::GET, Self::Consents),
            ("earnings", Method::GET, Self::Earnings),
            ("history", Method::GET, Self::History(None)),
            ("export", Method::GET, Self::Export),
        ];
        let mut here = known.into_iter().filter(|(name, ..)| *name == path).peekable();
        if here.peek().is_none() {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "there is nothing of this name"));
        }
        let found = here.find(|(_, how, _)| how == method).map(|(_, _, asked)| asked);
        let asked = found.ok_or_else(|| Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "not in this way"))?;
        match query {
            Some(query) if asked == Self::History(None) => {
                let before = query.strip_prefix("before=").and_then(|number| number.parse().ok());
                let before = before.ok_or_else(|| bad("before is the number of a receipt"))?;
                Ok(Self::History(Some(before)))
            }
            _ => Ok(asked),
        }
    }

    /// Whether it is for who is not signed in, too.
    pub(super) fn is_open(self) -> bool {
        self == Self::SignIn
    }
}

/// Does what is asked. `token`: the session that asks.
pub(super) async fn answer(page: &Page, asked: Asked, token: Option<&str>, body: &[u8]) -> Answered {
    match asked {
        Asked::SignIn => sign_in(page, body),
        Asked::SignOut => {
            if let Some(token) = token {
                page.door.sign_out(token);
            }
            let mut response = tell(&json!({}))?;
            response.headers_mut().insert(header::SET_COOKIE, cookie(None));
            Ok(response)
        }
        Asked::Status => put(page, Ask::Status).await,
        Asked::Pause => put(page, pause(body, page.clock.wall())?).await,
        Asked::Resume => put(page, Ask::Resume).await,
        Asked::Withdraw => agree::withdraw(page, body).await,
        Asked::Policy => policy(page).await,
        Asked::Notice => agree::notice(page, body).await,
        Asked::Agree => agree::agree(page, body).await,
        Asked::Consents => agree::consents(page).await,
        Asked::Earnings => {
            let now = page.clock.wall();
            let path = page.directory.owner();
            let told = of_receipts(page, move |shown, kept| {
                let owner = config::owner(&path).ok().flatten();
                let usages: Vec<_> = shown.usages().collect();
                let costs = Costs::new(owner.as_ref().map(|owner| &owner.document));
                account::earnings(&usages, now, shown.is_well(), kept, &costs)
            });
            tell(&told.await?)
        }
        Asked::History(before) => {
            let told = of_receipts(page, move |shown, kept| {
                let usages: Vec<_> = shown.usages().collect();
                account::history(&usages, before, shown.is_well(), kept)
            });
            tell(&told.await?)
        }
        Asked::Export => export(page).await,
    }
}

pub(super) fn bad(why: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, why)
}

pub(super) fn broken(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why.to_string())
}

pub(super) fn tell(told: &impl Serialize) -> Answered {
    let text = serde_json::to_vec(told).map_err(broken)?;
    let mut response = Response::new(Full::new(Bytes::from(text)));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| bad(&format!("this is not what is expected here: {error}")))
}

/// Asks the policy loop, as a command in the car does.
pub(super) async fn put(page: &Page, ask: Ask) -> Answered {
    let Answer { text, status } = ask_loop(page, ask).await?;
    stands(page, &text, &status)
}

/// What was said, and how things stand.
pub(super) fn stands(page: &Page, said: &str, status: &Status) -> Answered {
    tell(&json!({"said": said, "now": page.clock.wall(), "status": status}))
}

pub(super) async fn ask_loop(page: &Page, ask: Ask) -> Result<Answer, Refusal> {
    control::put(&page.requests, ask)
        .await
        .map_err(|gone| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, gone.to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    code: String,
}

fn sign_in(page: &Page, body: &[u8]) -> Answered {
    let SignIn { code } = parse(body)?;
    let token = page.door.sign_in(&code).map_err(|refused| {
        let status = match refused {
            Refused::TooSoon => StatusCode::TOO_MANY_REQUESTS,
            Refused::Wrong => StatusCode::FORBIDDEN,
        };
        Refusal::new(status, refused.to_string())
    })?;
    let mut response = tell(&json!({}))?;
    response.headers_mut().insert(header::SET_COOKIE, cookie(Some(&token)));
    Ok(response)
}

/// How long to pause: neither is until the owner resumes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Pause {
    #[serde(default)]
    minutes: Option<u32>,
    #[serde(default)]
    until: Option<Timestamp>,
}

fn pause(body: &[u8], now: Timestamp) -> Result<Ask, Refusal> {
    let until = match parse::<Pause>(body)? {
        Pause {
            minutes: None,
            until: None,
        } => return Ok(Ask::Pause),
        Pause {
            minutes: Some(minutes),
            until: None,
        } => control::after(now, Duration::from_mins(u64::from(minutes))),
        Pause {
            minutes: None,
            until: Some(until),
        } => until,
        Pause { .. } => return Err(bad("say minutes or until, and not both")),
    };
    if until <= now || until > control::after(now, LONGEST_PAUSE) {
        return Err(bad(&format!(
            "a pause ends later than now and within 31 days, and the car's clock says {now}"
        )));
    }
    Ok(Ask::PauseUntil(until))
}

/// What the owner's document says.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Policy {
    /// In plain words.
    says: Vec<String>,
    /// What its owner may not have meant.
    doubts: Vec<String>,
    /// Why it counts as none.
    problem: Option<String>,
    given_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    classes: Vec<String>,
    profiles: Vec<Ready>,
}

/// A ready policy.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ready {
    name: &'static str,
    line: &'static str,
    has_hours: bool,
}

async fn policy(page: &Page) -> Answered {
    let path = page.directory.owner();
    // To read it may take a while: its expression is tried on many cars, and everything else in the agent would wait.
    let read = tokio::task::spawn_blocking(move || config::owner(&path));
    let (document, problem) = match read.await.map_err(broken)? {
        Ok(owner) => (owner.map(|owner| owner.document), None),
        Err(error) => (None, Some(said(&error))),
    };
    let consent = document.as_ref().map(|document| &document.consent);
    tell(&Policy {
        says: document.as_ref().map(explain).unwrap_or_default(),
        doubts: document
            .as_ref()
            .map(|document| doubts(document, page.clock.wall()))
            .unwrap_or_default(),
        problem,
        given_at: consent.map(|consent| consent.given_at),
        expires_at: consent.and_then(|consent| consent.expires_at),
        classes: consent.map(|consent| consent.classes.clone()).unwrap_or_default(),
        profiles: profiles::ALL
            .iter()
            .map(|profile| Ready {
                name: profile.name,
                line: profile.line(),
                has_hours: profile.has_hours(),
            })
            .collect(),
    })
}

/// An error with its cause.
pub(super) fn said(error: &ConfigError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Reads the receipts and asks them something, on a thread that has the time: every signature is checked.
async fn of_receipts<T: Send + 'static>(
    page: &Page,
    ask: impl FnOnce(&Shown, &mut Kept) -> T + Send + 'static,
) -> Result<T, Refusal> {
    // Never closed.
    let turn = Arc::clone(&page.reading).acquire_owned().await.map_err(broken)?;
    let directory = page.directory.clone();
    let read = tokio::task::spawn_blocking(move || {
        let shown = Handle::current().block_on(show::read(&directory))?;
        let told = ask(&shown, &mut Kept::new(&directory.receipts()));
        // Held until it is over, also if nobody waits for it any more.
        drop(turn);
        Ok::<_, std::io::Error>(told)
    });
    read.await.map_err(broken)?.map_err(broken)
}

/// Everything that the car holds on its owner, as one file: what `kerbside-agent export` prints. One at a time, for it may be large, and who is
/// second is told so at once.
async fn export(page: &Page) -> Answered {
    let Ok(alone) = Arc::clone(&page.exporting).try_acquire_owned() else {
        let why = "the file is being made already, for you or for another phone: ask again when it is there";
        return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, why));
    };
    let turn = Arc::clone(&page.reading).acquire_owned().await.map_err(broken)?;
    let (directory, now) = (page.directory.clone(), page.clock.wall());
    // Every signature is checked.
    let read = tokio::task::spawn_blocking(move || {
        let text = Handle::current().block_on(rights::export(directory.root(), now));
        // Held until it is over, also if nobody waits for it any more.
        drop((turn, alone));
        text
    });
    let text = read.await.map_err(broken)?;
    let text = text.map_err(|error| broken(format!("{error:#}")))?;
    let mut response = Response::new(Full::new(Bytes::from(text)));
    for (name, value) in [
        (header::CONTENT_TYPE, "application/json"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"kerbside.json\""),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().unwrap()
    }

    #[rstest]
    #[case("{}", Ask::Pause)]
    #[case(r#"{"minutes": 60}"#, Ask::PauseUntil("2026-11-22T11:00:00Z".parse().unwrap()))]
    #[case(r#"{"until": "2026-11-23T08:00:00Z"}"#, Ask::PauseUntil("2026-11-23T08:00:00Z".parse().unwrap()))]
    fn pause_is_for_a_time_or_until_the_owner_resumes(#[case] body: &str, #[case] ask: Ask) {
        assert_eq!(pause(body.as_bytes(), now()), Ok(ask));
    }

    #[rstest]
    #[case::nothing("")]
    #[case::no_time(r#"{"minutes": 0}"#)]
    #[case::both(r#"{"minutes": 5, "until": "2026-11-23T08:00:00Z"}"#)]
    #[case::past(r#"{"until": "2026-11-22T10:00:00Z"}"#)]
    #[case::too_long(r#"{"minutes": 44641}"#)]
    #[case::next_year(r#"{"until": "2027-11-22T10:00:00Z"}"#)]
    #[case::misspelt(r#"{"minute": 5}"#)]
    #[case::no_moment(r#"{"until": "tomorrow"}"#)]
    fn pause_that_says_nothing_clear_is_refused(#[case] body: &str) {
        assert_eq!(
            pause(body.as_bytes(), now()).unwrap_err().status,
            StatusCode::BAD_REQUEST
        );
    }

    #[test]
    fn path_asks_what_it_says_in_one_way_only() {
        let find =
            |method: Method, path, query| Asked::find(&method, path, query).map_err(|refusal| refusal.status.as_u16());
        assert_eq!(find(Method::GET, "status", None), Ok(Asked::Status));
        assert_eq!(find(Method::DELETE, "session", None), Ok(Asked::SignOut));
        assert_eq!(
            find(Method::GET, "history", Some("before=7")),
            Ok(Asked::History(Some(7)))
        );
        assert_eq!(find(Method::GET, "history", Some("before=x")), Err(400));
        assert_eq!(find(Method::POST, "policy", None), Ok(Asked::Agree));
        assert_eq!(find(Method::GET, "policy", None), Ok(Asked::Policy));
        assert_eq!(find(Method::GET, "pause", None), Err(405));
        assert_eq!(find(Method::POST, "status", None), Err(405));
        assert_eq!(find(Method::GET, "status/", None), Err(404));
        assert_eq!(find(Method::GET, "", None), Err(404));
    }
}
