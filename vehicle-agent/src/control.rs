//! The owner's commands in the car: a socket in the agent's directory, and a file that keeps the last command over restarts.
//!
//! Works without any network, and at once. Whoever may open the directory is the owner; nobody else can reach the socket. What must
//! never happen: a pause or a withdrawal that is forgotten because the agent was restarted.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kerbside_core::owner::{Command, Document, Remembered, Word};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::directory;
use crate::page::door::Door;

/// What a car without a page says when it is asked for a code.
const NO_PAGE: &str =
    "this car has no page for its owner: whoever installed it says where with page.listen in car.yaml";
/// Longer than the one second in which a command acts, so that a slow disk is not taken for a dead agent.
const PATIENCE: Duration = Duration::from_secs(5);
/// No request is longer.
const REQUEST_MAX: u64 = 1024;

/// What is asked of a running agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ask {
    /// Not now.
    Pause,
    /// Not before this moment.
    PauseUntil(Timestamp),
    /// Go on.
    Resume,
    /// Never again.
    Withdraw,
    /// The consents are new: read them.
    Consents,
    /// How do things stand?
    Status,
    /// A new code for the owner's page.
    PageCode,
    /// Whoever is signed in at the owner's page is so no longer.
    PageSignOut,
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// One line for people.
    pub text: String,
    /// How things stand.
    pub status: Status,
}

/// How things stand, for the owner: everything that never leaves the car.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// available, paused, leaving or away.
    pub standing: String,
    /// The first reason why the car does not work; empty: it does, or would.
    #[serde(default)]
    pub why_not: String,
    /// What the owner last said, as far as it holds.
    #[serde(default)]
    pub command: Command,
    /// When a pause of the owner's ends by itself.
    #[serde(default)]
    pub paused_until: Option<Timestamp>,
    /// That the agent did not look at the car for a while, and when; empty: it has looked ever since it runs.
    #[serde(default)]
    pub stalled: String,
    /// Whether the owner is willing, and if not, why.
    pub owner: String,
    /// What must hold for the car to be parked, and whether it does: yes, no or unknown.
    pub factors: Vec<(String, String)>,
    /// Attempts with a live process.
    pub attempts: usize,
    /// Every attempt in the car, also one that has ended and that the cluster has not let go yet.
    #[serde(default)]
    pub held: Vec<Held>,
    /// Whether the cluster is reached.
    pub link: String,
    /// What work may reach by the network, and did; `None`: nothing.
    #[serde(default)]
    pub network: Option<Network>,
    /// What the car has signed for.
    #[serde(default)]
    pub receipts: Receipts,
    /// What the owner has consented to, on record.
    #[serde(default)]
    pub consents: Consents,
    /// What work has had of the owner's energy; `None`: nothing measures it in this car.
    #[serde(default)]
    pub energy: Option<Energy>,
    /// Who is in the car's Pods from elsewhere, and who was lately.
    #[serde(default)]
    pub visits: Vec<Visit>,
    /// What this month has had of the owner's data; `None`: nothing counts it.
    #[serde(default)]
    pub data: Option<Data>,
}

/// What has been moved this month, both ways together, and by which network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Data {
    /// Bytes of this month.
    pub month_bytes: u64,
    /// Those of them that went by a network that costs by the byte.
    pub month_metered_bytes: u64,
    /// What this month has had is not known, or would not be after a restart: it counts as all that the owner gives.
    pub lost: bool,
    /// The most bytes that the owner gives for a month.
    pub per_month: Option<u64>,
    /// Only what goes by a network that costs by the byte counts.
    pub metered_only: bool,
    /// The interface by which the cluster was reached last.
    pub interface: Option<String>,
    /// Whether that costs by the byte: yes, no or unknown.
    pub metered: String,
}

/// How the owner's consents stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Consents {
    /// Each job class that there is something to say of.
    pub purposes: Vec<Purpose>,
    /// Why none counts, whatever was given; empty: they can be read.
    pub trouble: String,
}

/// How the consent to one job class stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Purpose {
    /// The job class.
    pub purpose: String,
    /// Whether it holds now.
    pub holds: bool,
    /// Until when, or why not.
    pub says: String,
}

/// How the car's receipts stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipts {
    /// How many are in the ledger.
    pub count: u64,
    /// The newest one's number; 0: there is none.
    pub newest: u64,
    /// Files that are kept because they do not verify.
    pub aside: Vec<String>,
    /// Why the newest could not be written.
    pub trouble: String,
    /// The cluster has them up to this number; 0: none.
    #[serde(default)]
    pub delivered: u64,
    /// Why the cluster will not take the next one; empty: it does. The car takes no work then.
    #[serde(default)]
    pub refused: String,
}

/// What work has had of the owner's energy today, in words: numbers are decimal, amounts have their currency.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Energy {
    /// Kilowatt-hours of today.
    pub today_kwh: String,
    /// What today has had is not known, or would not be after a restart: it counts as all that the owner gives.
    pub lost: bool,
    /// The most that the owner gives for a day.
    pub max_kwh: Option<String>,
    /// What today's has cost by the owner's tariff.
    pub cost: Option<String>,
    /// What a kilowatt-hour costs now.
    pub price: Option<String>,
    /// By what it is known now: broker, rapl or model.
    pub source: String,
}

/// The owner's terms for the network, and what has passed by them since the agent began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// `public`, and networks.
    pub allow: Vec<String>,
    /// TCP ports.
    pub ports: Vec<u16>,
    /// The most in each direction.
    pub max_bytes_per_second: u64,
    /// Bytes that work has sent.
    pub sent: u64,
    /// Bytes that work has received.
    pub received: u64,
    /// Connections that were not allowed.
    pub refused: u64,
}

/// One attempt in the car, for the owner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// The Pod's namespace and name, `namespace/name`.
    pub pod: String,
    /// The FleetJob; empty for a plain Pod.
    pub job: String,
    /// The job class.
    pub class: String,
    /// What runs in it.
    pub images: Vec<String>,
    /// Pending, Running, Frozen, Succeeded, Failed, Disrupted or Refused.
    pub state: String,
    /// Why, where there is something to say.
    pub reason: String,
}

/// Somebody who is not in the car and was in one of its Pods, or wanted to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Visit {
    /// Who, as the cluster knows them.
    pub user: String,
    /// Where: `namespace/name`.
    pub pod: String,
    /// What they do.
    pub what: String,
    /// Since when.
    pub from: Timestamp,
    /// Until when; `None`: they are there.
    pub to: Option<Timestamp>,
    /// Why they were not let in; empty: they were.
    pub refused: String,
}

/// A question and where the answer goes.
pub type Request = (Ask, oneshot::Sender<Answer>);

impl From<Word> for Ask {
    fn from(word: Word) -> Self {
        match word {
            Word::Pause => Self::Pause,
            Word::PauseUntil(until) => Self::PauseUntil(until),
            Word::Resume => Self::Resume,
            Word::Withdraw => Self::Withdraw,
        }
    }
}

impl Ask {
    /// What the owner says by it, if anything.
    pub fn word(self) -> Option<Word> {
        match self {
            Self::Pause => Some(Word::Pause),
            Self::PauseUntil(until) => Some(Word::PauseUntil(until)),
            Self::Resume => Some(Word::Resume),
            Self::Withdraw => Some(Word::Withdraw),
            Self::Consents | Self::Status | Self::PageCode | Self::PageSignOut => None,
        }
    }
}

/// Reads the owner's last command. A file that cannot be read is a withdrawal: what it said is not known, and no is the default. It is
/// one of the last moment of all, so that no consent that was given before is newer, whatever the clock shows; withdrawing in words ends it.
pub fn remembered(path: &Path, now: Timestamp) -> Remembered {
    let withdrawn = Remembered {
        command: Command::Withdraw,
        at: Timestamp::MAX,
        until: None,
    };
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or(withdrawn),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Remembered {
            command: Command::None,
            at: now,
            until: None,
        },
        Err(_) => withdrawn,
    }
}

/// When a word of the owner was said, beside this document: a withdrawal is never older than the consent that it takes back, also in a
/// car whose clock has not been set since it was made.
pub fn said_at(now: Timestamp, document: Option<&Document>) -> Timestamp {
    document.map_or(now, |document| now.max(document.consent.given_at))
}

/// Keeps the owner's last command.
pub fn remember(path: &Path, remembered: Remembered) -> io::Result<()> {
    directory::replace(path, &serde_json::to_vec(&remembered)?)
}

/// Opens the socket. One that a dead agent left is replaced; the caller holds the lock that says there is no other agent.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Takes commands until the policy loop is gone. `page`: the owner's page, if the car has one.
pub async fn serve(listener: UnixListener, requests: mpsc::Sender<Request>, page: Option<Arc<Door>>) {
    while !requests.is_closed() {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (requests, page) = (requests.clone(), page.clone());
                tokio::spawn(async move {
                    match timeout(PATIENCE, answer(stream, requests, page)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!(%error, "command not answered"),
                        Err(_) => tracing::debug!("command not answered in time"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no command can be taken");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, requests: mpsc::Sender<Request>, page: Option<Arc<Door>>) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    BufReader::new(read.take(REQUEST_MAX)).read_line(&mut line).await?;
    let ask: Ask = serde_json::from_str(&line)?;
    let answer = match (ask, page) {
        (Ask::PageCode | Ask::PageSignOut, None) => Answer {
            text: NO_PAGE.to_owned(),
            status: Status::default(),
        },
        (Ask::PageCode, Some(door)) => Answer {
            text: door.new_code(),
            status: Status::default(),
        },
        (Ask::PageSignOut, Some(door)) => Answer {
            text: door.sign_all_out(),
            status: Status::default(),
        },
        _ => put(&requests, ask).await?,
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    write.write_all(&text).await
}

/// Asks the policy loop.
pub async fn put(requests: &mpsc::Sender<Request>, ask: Ask) -> io::Result<Answer> {
    let (reply, answer) = oneshot::channel();
    let gone = || io::Error::other("the agent is ending");
    requests.send((ask, reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}

/// The moment that is so long after this one.
pub fn after(now: Timestamp, lasting: Duration) -> Timestamp {
    let lasting = SignedDuration::try_from(lasting).unwrap_or(SignedDuration::MAX);
    now.saturating_add(lasting).unwrap_or(Timestamp::MAX)
}

/// Asks a running agent. `None` if none runs.
pub async fn ask(path: &Path, ask: Ask) -> io::Result<Option<Answer>> {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(e) => return Err(e),
    };
    let exchange = async {
        let mut line = serde_json::to_vec(&ask)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(Some(serde_json::from_slice(&answer)?))
    };
    timeout(PATIENCE, exchange)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the agent does not answer"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().unwrap()
    }

    #[test]
    fn command_that_was_given_is_there_after_a_restart() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("command.json");
        assert_eq!(remembered(&path, now()).command(None), Command::None);
        let (paused, _) = remembered(&path, now()).after(Word::Pause, now());
        remember(&path, paused).unwrap();
        assert_eq!(remembered(&path, now()).command(None), Command::Pause);
    }

    fn document(given_at: &str) -> Document {
        let yaml = format!(
            "{{consent: {{givenAt: {given_at}, classes: []}}, requirePluggedIn: false, chargeFloorPercent: 0}}"
        );
        serde_saphyr::from_str(&yaml).unwrap()
    }

    #[test]
    fn withdrawal_in_a_car_whose_clock_was_never_set_holds() {
        let document = document("2026-11-01T10:00:00Z");
        let unset: Timestamp = "1970-01-01T00:01:00Z".parse().unwrap();
        let at = said_at(unset, Some(&document));
        let nothing = Remembered {
            command: Command::None,
            at: unset,
            until: None,
        };
        let (withdrawn, _) = nothing.after(Word::Withdraw, at);
        assert_eq!(withdrawn.command(Some(&document)), Command::Withdraw);
        assert_eq!(said_at(now(), Some(&document)), now());
        assert_eq!(said_at(unset, None), unset);
    }

    /// Agents of before wrote it, and its words stay.
    #[test]
    fn command_is_kept_in_the_same_words() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("command.json");
        let (withdrawn, _) = remembered(&path, now()).after(Word::Withdraw, now());
        remember(&path, withdrawn).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, r#"{"command":"withdraw","at":"2026-11-22T10:00:00Z"}"#);
    }

    #[test]
    fn file_that_cannot_be_read_is_a_withdrawal() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("command.json");
        std::fs::write(&path, "{").unwrap();
        assert_eq!(remembered(&path, now()).command(None), Command::Withdraw);
        let later = document("2030-01-01T00:00:00Z");
        assert_eq!(remembered(&path, now()).command(Some(&later)), Command::Withdraw);
    }

    #[tokio::test]
    async fn question_over_the_socket_is_answered() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("control.sock");
        assert!(ask(&path, Ask::Status).await.unwrap().is_none(), "no agent runs");
        let (requests, mut asked) = mpsc::channel::<Request>(1);
        tokio::spawn(serve(listen(&path).unwrap(), requests, None));
        tokio::spawn(async move {
            while let Some((ask, reply)) = asked.recv().await {
                let status = Status {
                    attempts: 3,
                    ..Status::default()
                };
                reply
                    .send(Answer {
                        text: format!("{ask:?}"),
                        status,
                    })
                    .unwrap();
            }
        });
        let answer = ask(&path, Ask::Pause).await.unwrap().unwrap();
        assert_eq!((answer.text.as_str(), answer.status.attempts), ("Pause", 3));
        let none = ask(&path, Ask::PageCode).await.unwrap().unwrap();
        assert!(none.text.contains("page.listen"), "{}", none.text);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(listen(&path).unwrap());
        assert!(
            ask(&path, Ask::Status).await.unwrap().is_none(),
            "a socket without an agent is none"
        );
    }
}
