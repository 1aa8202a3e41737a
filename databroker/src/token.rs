//! Who may read and say what: the claims of a token, as the real broker reads them. Pure.
//!
//! The signature is not looked at: a token counts when it is one of those that the broker was told of.

use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use serde::Deserialize;
use tonic::Status;

use crate::Admits;

/// What a token lets somebody do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Read,
    Provide,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Provide => "provide",
        }
    }
}

/// What whoever asks may do, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rights {
    /// `None`: everything.
    scopes: Option<Vec<String>>,
    pub(crate) end: Option<Timestamp>,
}

/// All of them are needed, as with the real broker; it reads the others too.
#[derive(Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    scope: String,
}

/// Who the tokens are for.
const AUDIENCE: &str = "kuksa.val";
/// The end of a token of which none is wanted: the year 2100.
const LATE: i64 = 4_102_444_800;

impl Rights {
    /// Of whoever shows this header.
    pub(crate) fn of(admits: &Admits, shown: Option<&str>, now: Timestamp) -> Result<Self, Status> {
        let refuse = |why: &str| Err(Status::unauthenticated(why));
        let known = match admits {
            Admits::All => {
                return Ok(Self {
                    scopes: None,
                    end: None,
                });
            }
            Admits::Tokens(tokens) => tokens.clone(),
            Admits::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| Status::internal(e.to_string()))?;
                text.split_whitespace().map(str::to_owned).collect()
            }
        };
        let Some(token) = shown.and_then(|shown| shown.strip_prefix("Bearer ")) else {
            return refuse("a token is needed");
        };
        if !known.iter().any(|known| known == token) {
            return refuse("the token is not valid");
        }
        let Some(claims) = claims(token) else {
            return refuse("the token is no JWT, or lacks a claim");
        };
        if !claims.aud.iter().any(|aud| aud == AUDIENCE) {
            return refuse("the token is for somebody else");
        }
        let end = Timestamp::from_second(claims.exp).ok();
        if end.is_none_or(|end| end <= now) {
            return refuse("the token has ended");
        }
        Ok(Self {
            scopes: Some(claims.scope.split(' ').map(str::to_owned).collect()),
            end,
        })
    }

    /// Whether this may be done with a signal.
    pub(crate) fn check(&self, verb: Verb, path: &str) -> Result<(), Status> {
        let Some(scopes) = &self.scopes else {
            return Ok(());
        };
        let lets = |scope: &String| match scope.split_once(':') {
            None => scope == verb.word(),
            Some((word, within)) => word == verb.word() && covers(within, path),
        };
        if scopes.iter().any(lets) {
            return Ok(());
        }
        let word = verb.word();
        Err(Status::permission_denied(format!(
            "the token does not let {word} {path}"
        )))
    }
}

/// A scope is for its path and all below it; `*` is any one name.
fn covers(scope: &str, path: &str) -> bool {
    let mut names = path.split('.');
    scope
        .split('.')
        .all(|wanted| names.next().is_some_and(|name| wanted == "*" || wanted == name))
}

fn claims(token: &str) -> Option<Claims> {
    let json = BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?;
    serde_json::from_slice(&json).ok()
}

/// A token for `scope`, such as `read:Vehicle.Speed provide`, which nobody signed. `end`: in seconds since 1970; without it, far away.
pub fn unsigned(name: &str, end: Option<i64>, scope: &str) -> String {
    let claims = serde_json::json!({
        "sub": name, "iss": "kerbside-databroker", "aud": [AUDIENCE], "iat": 0, "exp": end.unwrap_or(LATE), "scope": scope,
    });
    format!("{name}.{}.c2ln", BASE64URL_NOPAD.encode(claims.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn rights(token: &str, now: Timestamp) -> Result<Rights, Code> {
        let admits = Admits::Tokens(vec![token.to_owned()]);
        Rights::of(&admits, Some(&format!("Bearer {token}")), now).map_err(|status| status.code())
    }

    #[test]
    fn token_lets_until_its_end_what_it_says() {
        let token = unsigned("car", Some(100), "read:Vehicle.Cabin.Door read:Vehicle.*.Brake provide");
        let rights = rights(&token, second(99)).unwrap();
        assert_eq!(rights.end, Some(second(100)));
        for (verb, path, may) in [
            (Verb::Read, "Vehicle.Cabin.Door", true),
            (Verb::Read, "Vehicle.Cabin.Door.Row1.IsOpen", true),
            (Verb::Read, "Vehicle.Cabin.DoorCount", false),
            (Verb::Read, "Vehicle.Chassis.Brake.PedalPosition", true),
            (Verb::Read, "Vehicle.Speed", false),
            (Verb::Read, "Vehicle", false),
            (Verb::Provide, "Vehicle.Speed", true),
        ] {
            let checked = rights.check(verb, path).map_err(|status| status.code());
            let expected = if may { Ok(()) } else { Err(Code::PermissionDenied) };
            assert_eq!(checked, expected, "{verb:?} {path}");
        }
    }

    #[test]
    fn token_that_has_ended_or_is_not_known_lets_nobody_in() {
        let token = unsigned("car", Some(100), "read");
        assert_eq!(rights(&token, second(100)), Err(Code::Unauthenticated));
        let now = second(0);
        let admits = Admits::Tokens(vec![token]);
        for shown in [None, Some("Bearer other"), Some("Basic x")] {
            let refused = Rights::of(&admits, shown, now).unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{shown:?}");
        }
    }

    #[test]
    fn token_without_a_claim_or_for_somebody_else_lets_nobody_in() {
        for claims in [
            r#"{"aud": ["kuksa.val"], "exp": 100}"#,
            r#"{"aud": ["kuksa.val"], "scope": "read"}"#,
            r#"{"aud": ["other"], "exp": 100, "scope": "read"}"#,
            "{}",
        ] {
            let token = format!("x.{}.y", BASE64URL_NOPAD.encode(claims.as_bytes()));
            assert_eq!(rights(&token, second(0)), Err(Code::Unauthenticated), "{claims}");
        }
        assert_eq!(rights("opaque", second(0)), Err(Code::Unauthenticated));
    }

    #[test]
    fn file_is_read_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let (admits, now) = (Admits::File(path.clone()), second(0));
        let (old, new) = (unsigned("old", None, "read"), unsigned("new", None, "read"));
        let of = || Rights::of(&admits, Some(&format!("Bearer {new}")), now).map_err(|status| status.code());
        assert_eq!(of(), Err(Code::Internal));
        std::fs::write(&path, format!("{old}\n")).unwrap();
        assert_eq!(of(), Err(Code::Unauthenticated));
        std::fs::write(&path, format!("{old}\n{new}\n")).unwrap();
        assert!(of().is_ok());
    }
}
