//! Who is the owner at the page: a code from the car's own console, once, and then a session.
//!
//! Made by [`super::open`]; the control socket asks it for codes, the server asks it about each request. All of it is in memory: an agent
//! that starts again knows nobody. What must never happen: a session without a code that was shown in the car, a code that counts twice, so
//! many tries that one could be guessed, or an answer by which who has no code learns whether there is one.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::receipt::digest;

/// From the car's screen to the phone.
const CODE_LASTS: Duration = Duration::from_mins(10);
/// Wrong tries before a code counts no more: with eight digits one in twenty millions guesses it.
const TRIES: u8 = 5;
/// Between two tries, whoever makes them.
const GAP: Duration = Duration::from_secs(1);
/// After so long without a request somebody signs in anew.
const IDLE: Duration = Duration::from_hours(8);
/// And after so long in any case.
const LONGEST: Duration = Duration::from_hours(7 * 24);
/// Phones at a time; the one that was used least recently goes.
const SESSIONS: usize = 8;

/// The door.
#[derive(Debug)]
pub struct Door {
    clock: Arc<dyn Clock>,
    /// Where the page is, for who asks for a code.
    address: String,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    code: Option<Code>,
    tried: Option<Boottime>,
    sessions: Vec<Session>,
}

#[derive(Debug)]
struct Code {
    digits: String,
    until: Boottime,
    tries: u8,
}

/// Of its token only the digest is kept, so that a look-up tells nothing by the time that it takes.
#[derive(Debug)]
struct Session {
    token: String,
    began: Boottime,
    used: Boottime,
    /// Where its phone was last.
    place: Option<IpAddr>,
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// It is another one; or nobody has asked for one, or it is used, too old, or spoilt: which of these is told to nobody who has none.
    #[error("that is no code that counts: `kerbside-agent page code`, in the car, shows a new one")]
    Wrong,
    /// The last try was a moment ago.
    #[error("one try a second")]
    TooSoon,
}

impl Door {
    pub(super) fn new(clock: Arc<dyn Clock>, address: String) -> Self {
        Self {
            clock,
            address,
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a new code, and what to say of it. One that was made before counts no more.
    pub fn new_code(&self) -> String {
        let digits = format!("{:08}", rand::random_range(0..100_000_000_u32));
        let (first, second) = digits.split_at(4);
        let says = format!(
            "{first} {second}\nfor ten minutes, and once: open {} on a phone in the car's own network and type it there",
            self.address
        );
        self.inner().code = Some(Code {
            digits,
            until: self.clock.boottime() + CODE_LASTS,
            tries: TRIES,
        });
        says
    }

    /// Lets nobody in any more who was; what to say of it.
    pub fn sign_all_out(&self) -> String {
        let mut inner = self.inner();
        inner.code = None;
        let count = std::mem::take(&mut inner.sessions).len();
        format!("signed out: {count}; a code that was not used counts no more")
    }

    /// Lets in who has the code; the token of the session.
    pub(super) fn sign_in(&self, code: &str) -> Result<String, Refused> {
        let now = self.clock.boottime();
        let mut guard = self.inner();
        let inner = &mut *guard;
        // Whether there is a code or not: nobody finds that out by what is said, or by when.
        if inner.tried.is_some_and(|before| now.since(before) < GAP) {
            return Err(Refused::TooSoon);
        }
        inner.tried = Some(now);
        let said: String = code.chars().filter(|c| !c.is_whitespace()).collect();
        let known = inner.code.as_mut().filter(|known| now < known.until);
        let digits = known.as_ref().map_or("", |known| known.digits.as_str());
        // By their digests: how far the two agree is not to be seen by the time that it takes.
        let is_it = digest(said.as_bytes()) == digest(digits.as_bytes());
        match known {
            Some(_) if is_it => inner.code = None,
            Some(known) => {
                known.tries -= 1;
                if known.tries == 0 {
                    inner.code = None;
                    tracing::warn!("wrong codes at the owner's page: the code counts no more");
                }
                return Err(Refused::Wrong);
            }
            None => return Err(Refused::Wrong),
        }
        let token = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        inner.expire(now);
        while inner.sessions.len() >= SESSIONS {
            let oldest = inner
                .sessions
                .iter()
                .enumerate()
                .min_by_key(|(_, session)| session.used);
            let Some((at, _)) = oldest else { break };
            inner.sessions.remove(at);
        }
        inner.sessions.push(Session {
            token: digest(token.as_bytes()),
            began: now,
            used: now,
            place: None,
        });
        tracing::info!("somebody signed in at the owner's page with a code of the car");
        Ok(token)
    }

    /// Whether a token is that of a session; it is used by being asked for.
    pub(super) fn knows(&self, token: &str) -> bool {
        let now = self.clock.boottime();
        let mut inner = self.inner();
        inner.expire(now);
        let token = digest(token.as_bytes());
        let session = inner.sessions.iter_mut().find(|session| session.token == token);
        match session {
            Some(session) => {
                session.used = now;
                true
            }
            None => false,
        }
    }

    /// A request with this token came from there.
    pub(super) fn seen_at(&self, token: &str, place: IpAddr) {
        let token = digest(token.as_bytes());
        let mut inner = self.inner();
        if let Some(session) = inner.sessions.iter_mut().find(|session| session.token == token) {
            session.place = Some(place);
        }
    }

    /// Whether somebody there is signed in.
    pub(super) fn is_home(&self, place: IpAddr) -> bool {
        let now = self.clock.boottime();
        let mut inner = self.inner();
        inner.expire(now);
        inner.sessions.iter().any(|session| session.place == Some(place))
    }

    /// No code that was shown lets anybody in any more.
    pub(super) fn spoil(&self) {
        self.inner().code = None;
    }

    /// Ends a session.
    pub(super) fn sign_out(&self, token: &str) {
        let token = digest(token.as_bytes());
        self.inner().sessions.retain(|session| session.token != token);
    }
}

impl Inner {
    fn expire(&mut self, now: Boottime) {
        self.sessions
            .retain(|session| now.since(session.used) < IDLE && now.since(session.began) < LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TokioClock;

    fn door() -> Door {
        Door::new(Arc::new(TokioClock::new()), "http://car.local:8080/".to_owned())
    }

    fn code(door: &Door) -> String {
        let says = door.new_code();
        assert!(says.contains("http://car.local:8080/"), "{says}");
        says.lines().next().unwrap().to_owned()
    }

    async fn wait(time: Duration) {
        tokio::time::advance(time).await;
    }

    /// One that is certainly not it.
    fn other(code: &str) -> String {
        let first = if code.starts_with('0') { "1" } else { "0" };
        format!("{first}{}", &code[1..])
    }

    #[tokio::test(start_paused = true)]
    async fn code_of_the_car_lets_in_once_with_or_without_its_space() {
        let door = door();
        let first = code(&door);
        assert_eq!(first.len(), 9, "two times four digits");
        let token = door.sign_in(&first).unwrap();
        assert!(door.knows(&token) && !door.knows(&first) && !door.knows(""));
        wait(GAP).await;
        assert_eq!(door.sign_in(&first), Err(Refused::Wrong), "it counts once");
        wait(GAP).await;
        let second = code(&door).replace(' ', "");
        let other = door.sign_in(&second).unwrap();
        assert_ne!(other, token);
        door.sign_out(&token);
        assert!(!door.knows(&token) && door.knows(&other));
        assert!(door.sign_all_out().contains("signed out: 1"));
        assert!(!door.knows(&other));
    }

    #[tokio::test(start_paused = true)]
    async fn code_that_is_too_old_or_was_replaced_counts_no_more() {
        let door = door();
        let old = code(&door);
        let new = code(&door);
        if old != new {
            assert_eq!(door.sign_in(&old), Err(Refused::Wrong));
        }
        wait(CODE_LASTS).await;
        assert_eq!(door.sign_in(&new), Err(Refused::Wrong));
        wait(GAP).await;
        let last = code(&door);
        door.sign_all_out();
        assert_eq!(door.sign_in(&last), Err(Refused::Wrong));
        wait(GAP).await;
        let spoilt = code(&door);
        door.spoil();
        assert_eq!(door.sign_in(&spoilt), Err(Refused::Wrong));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_no_code_does_not_learn_whether_there_is_one() {
        let (without, with) = (door(), door());
        let wrong = other(&code(&with));
        for said in [wrong.as_str(), "", "12", "no code"] {
            // Twice at once, and again when it may be tried.
            for _ in 0..2 {
                assert_eq!(without.sign_in(said), with.sign_in(said), "{said}");
            }
            wait(GAP).await;
        }
        assert!(with.sign_in(&wrong).is_err() && without.sign_in(&wrong).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn somebody_is_where_a_session_was_used_last_and_as_long_as_it_is_one() {
        let door = door();
        let (here, there) = (IpAddr::from([192, 168, 7, 2]), IpAddr::from([192, 168, 7, 3]));
        let token = door.sign_in(&code(&door)).unwrap();
        assert!(!door.is_home(here));
        door.seen_at("another", here);
        assert!(!door.is_home(here), "not by any token");
        door.seen_at(&token, here);
        assert!(door.is_home(here) && !door.is_home(there));
        door.seen_at(&token, there);
        assert!(door.is_home(there) && !door.is_home(here));
        wait(IDLE).await;
        assert!(!door.is_home(there));
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_codes_are_slow_and_spoil_the_right_one() {
        let door = door();
        let right = code(&door);
        let wrong = other(&right);
        assert_eq!(door.sign_in(&wrong), Err(Refused::Wrong));
        assert_eq!(door.sign_in(&right), Err(Refused::TooSoon), "also for who has it");
        for _ in 1..TRIES {
            wait(GAP).await;
            assert_eq!(door.sign_in(&wrong), Err(Refused::Wrong));
        }
        wait(GAP).await;
        assert_eq!(door.sign_in(&right), Err(Refused::Wrong));
    }

    #[tokio::test(start_paused = true)]
    async fn session_ends_when_nobody_uses_it_and_some_day_in_any_case() {
        let door = door();
        let enter = || door.sign_in(&code(&door)).unwrap();
        let idle = enter();
        wait(IDLE).await;
        assert!(!door.knows(&idle));
        let busy = enter();
        let mut hours = 0;
        while door.knows(&busy) {
            wait(Duration::from_hours(1)).await;
            hours += 1;
        }
        assert_eq!(hours, 7 * 24);
    }

    #[tokio::test(start_paused = true)]
    async fn phone_too_many_ends_the_one_that_was_used_least_recently() {
        let door = door();
        let mut tokens = Vec::new();
        for _ in 0..SESSIONS {
            tokens.push(door.sign_in(&code(&door)).unwrap());
            wait(GAP).await;
        }
        assert!(door.knows(&tokens[0]));
        door.sign_in(&code(&door)).unwrap();
        let known: Vec<_> = tokens.iter().map(|token| door.knows(token)).collect();
        assert_eq!(known.iter().filter(|known| !**known).count(), 1);
        assert!(known[0] && !known[1]);
    }
}
