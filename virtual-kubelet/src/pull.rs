//! Pull secrets stay here: a vehicle is given tokens that read one repository each.
//!
//! One task per repository of an attempt, begun by its provider and ended with it: reads what the Pod's pull secrets say, asks the registry's
//! own giver of tokens, and asks again in time. What must never happen: a pull secret in a message to a vehicle.
//!
//! | file | what |
//! |---|---|
//! | `keyring` | which credential is for which image: pure |
//! | `exchange` | a credential becomes a token |

mod exchange;
mod keyring;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use self::exchange::Answer;
pub(crate) use self::exchange::Exchange;
pub(crate) use self::keyring::Repository;
use self::keyring::{Credential, Keyring};
use crate::gate::{Gate, Lane};
use crate::objects::{Reading, any_news};
use crate::provide::{PART, RETRY};

/// What is known of the tokens of an attempt, by repository. `None`: nobody says that one is needed.
pub(crate) type Pulls = BTreeMap<Repository, Option<Result<String, String>>>;

/// The way to a token for one repository.
pub(crate) struct Puller {
    pub(crate) exchange: Exchange,
    pub(crate) gate: Arc<Gate>,
    pub(crate) repository: Repository,
    /// The Pod's pull secrets by name, in its order.
    pub(crate) secrets: Vec<(String, Reading)>,
}

impl Puller {
    /// Keeps a token that is good, for ever.
    pub(crate) async fn keep(mut self, pulls: watch::Sender<Pulls>) {
        loop {
            for (_, reading) in &mut self.secrets {
                reading.settled().await;
            }
            let (ring, trouble) = self.read();
            let (answer, wait) = self.ask(&ring, trouble).await;
            let repository = self.repository.clone();
            pulls.send_modify(|pulls| {
                pulls.insert(repository, answer);
            });
            tokio::select! {
                () = any_news(self.secrets.iter_mut().map(|(_, reading)| reading)) => {}
                () = async {
                    match wait {
                        Some(wait) => sleep(wait).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
        }
    }

    /// What the secrets say together, and what is wrong with them: the others count all the same, as under a kubelet.
    fn read(&mut self) -> (Keyring, Option<String>) {
        let (mut ring, mut trouble) = (Keyring::default(), None);
        for (name, reading) in &mut self.secrets {
            let Some(read) = reading.now() else { continue };
            let added = match read.as_ref() {
                Ok(data) => ring
                    .add(&data.text)
                    .map_err(|why| format!("pull secret \"{name}\": {why}")),
                Err(missing) => Err(format!("pull secret: {}", missing.why)),
            };
            if trouble.is_none() {
                trouble = added.err();
            }
        }
        (ring, trouble)
    }

    /// What the vehicle is told, and when it is asked again.
    async fn ask(&self, ring: &Keyring, trouble: Option<String>) -> (Option<Result<String, String>>, Option<Duration>) {
        let mut refused = trouble;
        let fitting: Vec<&Credential> = ring.of(&self.repository).collect();
        if fitting.is_empty() {
            // An image that anybody may have needs none. If not, this is why.
            return (refused.map(Err), None);
        }
        for credential in fitting {
            let _place = self.gate.enter(Lane::Registry).await;
            match self.exchange.token(&self.repository, credential).await {
                Ok(Answer::Open) => return (None, None),
                Ok(Answer::Token(token, life)) => return (Some(Ok(token)), Some(life.mul_f64(PART))),
                Err(why) => refused = Some(why),
            }
        }
        let why = refused.unwrap_or_default();
        tracing::warn!(
            registry = self.repository.registry,
            repository = self.repository.name,
            why,
            "no token is given to pull an image"
        );
        (Some(Err(why)), Some(RETRY))
    }
}
