//! Signals from a KUKSA databroker, by its protocol `kuksa.val.v2`.
//!
//! A task listens and connects again; the policy loop takes what it has heard. A broker is no witness: it gives out what it was told last,
//! whoever told it may be dead, and it drops what a slow reader does not take. So each value has its age by the broker's own stamp, messages
//! are kept for the agent, signs of life are asked for, and with the end of a session everything that it said is forgotten at once. What must never
//! happen: a value that counts although nobody vouches for it any more.
//!
//! | file | what |
//! |---|---|
//! | `session` | one subscription |
//! | `wanted` | which signals, in each release of VSS: pure |
//! | `age` | how old a value is: pure |
//! | `token` | by which the broker lets the agent in |
//! | `way` | the connection |

mod age;
mod session;
mod token;
mod wanted;
mod way;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, OptionFuture};
use kerbside_core::backoff::Backoff;
use kerbside_core::clock::Clock;
use kerbside_core::parked::Terms;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use self::session::Session;
use self::token::Token;
pub use self::wanted::signals_read;
pub use self::way::Address;
use self::way::Way;
use super::{Signals, Update};
use crate::proto::kuksa as proto;

/// Between two tries to connect. A car that waits for its broker waits for its work.
const RETRY: Backoff = Backoff {
    base: Duration::from_millis(200),
    cap: Duration::from_secs(5),
};
/// Between two looks for a new token when the old one is about to end.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks for signals that the broker did not have: a provider may bring them later.
const MISSING: Duration = Duration::from_mins(1);
/// One that was heard for so long does not come and go.
const STEADY: Duration = Duration::from_secs(10);
/// Updates that the policy loop has not taken yet. Beyond, the broker keeps them.
const WAITING: usize = 64;

/// Where a broker is, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where.
    pub address: Address,
    /// The file of the token that it asks for.
    pub token: Option<PathBuf>,
    /// The file of those whose word counts for who it is: needed with TLS.
    pub authorities: Option<PathBuf>,
}

/// A broker as a source of signals.
#[derive(Debug)]
pub struct Broker {
    heard: mpsc::Receiver<Update>,
    listens: AbortHandle,
}

impl Broker {
    /// Listens to what `terms` judge a car by, from now on. The error is a sentence for who wrote the settings.
    pub fn listen(settings: &Settings, terms: Arc<Terms>, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let way = Way::to(&settings.address, settings.authorities.as_deref())?;
        Ok(Self::listen_by(way, settings.token.clone(), terms, clock))
    }

    fn listen_by(way: Way, token: Option<PathBuf>, terms: Arc<Terms>, clock: Arc<dyn Clock>) -> Self {
        let (tell, heard) = mpsc::channel(WAITING);
        let listener = Listener {
            way,
            token,
            terms,
            clock,
            tell,
            known: BTreeSet::new(),
            unheard: Default::default(),
            tries: 0,
        };
        let listens = tokio::spawn(listener.run()).abort_handle();
        Self { heard, listens }
    }
}

impl Signals for Broker {
    fn next(&mut self) -> BoxFuture<'_, Option<Update>> {
        self.heard.recv().boxed()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.listens.abort();
    }
}

/// What the task owns.
struct Listener {
    way: Way,
    token: Option<PathBuf>,
    terms: Arc<Terms>,
    clock: Arc<dyn Clock>,
    tell: mpsc::Sender<Update>,
    /// What the policy loop was told of.
    known: BTreeSet<String>,
    /// What the broker does not have, and what it does not tell, as it was said in the log.
    unheard: [Vec<String>; 2],
    tries: u32,
}

/// A session that begins; the error is a sentence.
type Opening = BoxFuture<'static, Result<Session, String>>;

/// Nobody listens any more.
struct Unheard;

impl Listener {
    async fn run(mut self) {
        let mut said = String::new();
        loop {
            let began = Instant::now();
            let Ok(why) = self.session().await else { return };
            let forget: Vec<_> = std::mem::take(&mut self.known).into_iter().collect();
            // At once: from now on nobody vouches for it.
            if !forget.is_empty()
                && self
                    .say(Update {
                        forget,
                        ..Update::default()
                    })
                    .await
                    .is_err()
            {
                return;
            }
            if why != said {
                tracing::warn!(why, "the databroker is not heard: its signals are not known");
            }
            said = why;
            self.tries = if began.elapsed() > STEADY {
                1
            } else {
                self.tries.saturating_add(1)
            };
            sleep(RETRY.jittered(self.tries, rand::random())).await;
        }
    }

    async fn say(&self, update: Update) -> Result<(), Unheard> {
        self.tell.send(update).await.map_err(|_| Unheard)
    }

    fn read_token(&self) -> Result<Option<Token>, String> {
        self.token.as_deref().map(Token::read).transpose()
    }

    fn open(&self, token: Option<Token>) -> Opening {
        let (way, terms, clock) = (self.way.clone(), Arc::clone(&self.terms), Arc::clone(&self.clock));
        Session::open(way, token, terms, clock).boxed()
    }

    /// When to look for the token that comes after this one, or for signals that are not heard: another token may let the agent read them.
    fn renew_at(&self, token: Option<&Token>, session: &Session) -> Option<Instant> {
        let token = token.and_then(|token| token.renew_in(self.clock.wall()));
        let unheard = (!session.wanted.is_whole()).then_some(LOOK);
        let wait = [token.map(|wait| wait.max(LOOK)), unheard]
            .into_iter()
            .flatten()
            .min()?;
        Some(Instant::now() + wait)
    }

    /// Listens until the broker is not heard any more, and says why.
    async fn session(&mut self) -> Result<String, Unheard> {
        let mut token = match self.read_token() {
            Ok(token) => token,
            Err(why) => return Ok(why),
        };
        let mut session = match self.open(token.clone()).await {
            Ok(session) => session,
            Err(why) => return Ok(why),
        };
        self.begun(&session);
        let mut began = Instant::now();
        let mut renew = self.renew_at(token.as_ref(), &session);
        // A session by the next token begins before this one ends, so that nothing is unknown in between.
        let mut next: Option<(Option<Token>, Opening)> = None;
        loop {
            let due = OptionFuture::from(renew.filter(|_| next.is_none()).map(sleep_until));
            let opened = OptionFuture::from(next.as_mut().map(|(_, opening)| opening));
            tokio::select! {
                biased;
                // What is rare comes first: signals may come without end.
                Some(opened) = opened => {
                    let new = next.take().and_then(|(new, _)| new);
                    match opened {
                        Ok(mut opened) => {
                            // What is on its way still was said, too.
                            while let Some(heard) = session.next().now_or_never() {
                                match heard {
                                    Ok(updates) => self.take(updates).await?,
                                    Err(_) => break,
                                }
                            }
                            opened.follow(&session);
                            let gone = self.known.iter().filter(|path| !opened.has(path));
                            let forget: Vec<_> = gone.cloned().collect();
                            self.known.retain(|path| !forget.contains(path));
                            if !forget.is_empty() {
                                self.say(Update { forget, ..Update::default() }).await?;
                            }
                            self.begun(&opened);
                            (session, token, began) = (opened, new, Instant::now());
                            renew = self.renew_at(token.as_ref(), &session);
                        }
                        Err(why) => {
                            tracing::warn!(why, "the databroker does not take the next token yet");
                            renew = Some(Instant::now() + LOOK);
                        }
                    }
                }
                Some(()) = due => match self.read_token() {
                    // Signals may come later too.
                    Ok(new) if new != token || (!session.wanted.is_whole() && began.elapsed() >= MISSING) => {
                        next = Some((new.clone(), self.open(new)));
                    }
                    Ok(_) => renew = Some(Instant::now() + LOOK),
                    Err(why) => {
                        tracing::warn!(why, "there is no next token for the databroker");
                        renew = Some(Instant::now() + LOOK);
                    }
                },
                heard = session.next() => match heard {
                    Ok(updates) => self.take(updates).await?,
                    Err(why) => return Ok(why),
                },
            }
        }
    }

    async fn take(&mut self, updates: Vec<Update>) -> Result<(), Unheard> {
        for update in updates {
            self.known.extend(update.set.iter().map(|(path, _)| path.clone()));
            self.say(update).await?;
        }
        Ok(())
    }

    fn begun(&mut self, session: &Session) {
        tracing::info!(signals = session.wanted.paths.len(), "the databroker is heard");
        let unheard = [session.wanted.missing.clone(), session.wanted.silent.clone()];
        if unheard == self.unheard {
            return;
        }
        let why = [
            "the databroker does not have signals that the car is judged by",
            "the databroker does not tell signals that the car is judged by: the token does not let the agent read them",
        ];
        for (signals, why) in unheard.iter().zip(why).filter(|(signals, _)| !signals.is_empty()) {
            tracing::warn!(signals = signals.join(" "), "{why}");
        }
        self.unheard = unheard;
    }
}

#[cfg(test)]
mod tests;
