//! One subscription to a broker, from its beginning to its end.
//!
//! Opened by [`super::Broker`], which forgets all that a session said when it ends. What must never happen: a message that is lost without a
//! word (a broker drops what its reader is too slow for), or an end that nobody notices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kerbside_core::clock::{Boottime, Clock};
use kerbside_core::parked::signals::path;
use kerbside_core::parked::{Terms, Value};
use tokio::time::timeout;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status, Streaming};

use super::age::{Age, Ages};
use super::proto;
use super::proto::val_client::ValClient;
use super::token::Token;
use super::wanted::{Wanted, choose};
use super::way::Way;
use crate::signals::Update;

/// For an answer to a question, and for the first values.
const ANSWER: Duration = Duration::from_secs(5);
/// Messages that the broker keeps while the agent does not get the processor; it refuses more than 1,000.
const KEPT: u32 = 1000;
/// Of all signals of a car.
const METADATA: usize = 16 << 20;

/// A subscription.
pub(super) struct Session {
    messages: Streaming<proto::SubscribeResponse>,
    /// What it had when we came, until that is told.
    first: Option<proto::SubscribeResponse>,
    pub(super) wanted: Wanted,
    clock: Arc<dyn Clock>,
    /// Our time when it began, by both clocks: a wall clock that is set changes nothing of it.
    began: (Timestamp, Boottime),
    ages: Ages,
    /// What it had when we came and has not said since.
    kept: BTreeSet<String>,
    /// Later than that no value comes, unless a clock was set.
    late: Duration,
}

/// A broker's refusal as a sentence.
fn said(call: &str, status: &Status) -> String {
    let message = status.message();
    match status.code() {
        Code::Unauthenticated => format!("{call}: it does not take the token, or the token has ended: {message}"),
        Code::PermissionDenied => {
            format!("{call}: the token does not let the agent read what the car is judged by: {message}")
        }
        code => format!("{call}: {}: {message}", code.description()),
    }
}

fn request<T>(message: T, token: Option<&Token>) -> Result<Request<T>, String> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value: AsciiMetadataValue = token.header().parse().map_err(|_| "the token is no text")?;
        request.metadata_mut().insert("authorization", value);
    }
    Ok(request)
}

impl Session {
    /// Finds out what the broker has, and subscribes to what the car is judged by. The error is a sentence.
    pub(super) async fn open(
        way: Way,
        token: Option<Token>,
        terms: Arc<Terms>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        let mut client = ValClient::new(way.open().await?).max_decoding_message_size(METADATA);
        let late = |_| "it does not answer".to_owned();
        let all = proto::ListMetadataRequest {
            root: "Vehicle".to_owned(),
            filter: String::new(),
        };
        let listed = timeout(ANSWER, client.list_metadata(request(all, token.as_ref())?)).await;
        let listed = listed.map_err(late)?.map_err(|status| said("ListMetadata", &status))?;
        // By path: a broker that starts again gives its signals other numbers.
        let known: BTreeSet<_> = listed
            .into_inner()
            .metadata
            .into_iter()
            .map(|signal| signal.path)
            .collect();
        let mut wanted = choose(&known, &terms);
        if wanted.paths.is_empty() {
            return Err("it has none of the signals that a car is judged by".to_owned());
        }
        let subscribe = proto::SubscribeRequest {
            signal_paths: wanted.paths.clone(),
            // Without, it would keep only the newest: a door that is opened and closed again would never have been open.
            buffer_size: KEPT,
        };
        let subscribed = timeout(ANSWER, client.subscribe(request(subscribe, token.as_ref())?)).await;
        let subscribed = subscribed.map_err(late)?.map_err(|status| said("Subscribe", &status))?;
        let mut messages = subscribed.into_inner();
        let first = timeout(ANSWER, message(&mut messages)).await.map_err(late)??;
        // What the token does not let the agent read is left out, and not refused.
        let (told, mut silent): (Vec<_>, Vec<_>) = wanted
            .paths
            .into_iter()
            .partition(|path| first.entries.contains_key(path));
        // An owner whose token keeps plans to itself has nothing amiss, nor has a car that is not told the power of its computer.
        silent.retain(|path| !path::HINTS.contains(&path.as_str()) && !terms.beside.contains(path));
        (wanted.paths, wanted.silent) = (told, silent);
        if wanted.paths.is_empty() {
            return Err(
                "it tells none of the signals that a car is judged by: the token does not let the agent read them"
                    .to_owned(),
            );
        }
        Ok(Self {
            first: Some(first),
            messages,
            wanted,
            began: (clock.wall(), clock.boottime()),
            clock,
            ages: Ages::default(),
            kept: BTreeSet::new(),
            // Of what is still fresh then, half is left: as much as a provider needs to say it again.
            late: terms.stale_after / 2,
        })
    }

    /// Takes over from another session with the same broker, which has not ended.
    pub(super) fn follow(&mut self, old: &Self) {
        (self.began, self.ages) = (old.began, old.ages.clone());
    }

    /// Whether it says something of this signal.
    pub(super) fn has(&self, path: &str) -> bool {
        let first = self.first.as_ref().and_then(|first| first.entries.get(path));
        first.is_some_and(|point| point.value.is_some())
    }

    /// What is heard next, the oldest first. `Err`: it has ended, and why. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Vec<Update>, String> {
        if let Some(first) = self.first.take() {
            return Ok(self.take_first(first));
        }
        let message = message(&mut self.messages).await?;
        if message.entries.is_empty() {
            // So some brokers say that a value is not known any more, and not which one.
            return Err("it has lost a value".to_owned());
        }
        let now = self.now();
        let mut heard = Heard::new(&*self.clock);
        for (path, point) in message.entries {
            self.kept.remove(&path);
            match self.ages.live(now, stamp(&point)) {
                Age::Known(age) if age > self.late => return Err("its clock was set, or it is far behind".to_owned()),
                Age::Known(age) => heard.add(path, point, Some(age)),
                Age::Ahead => {
                    heard.forget.extend(std::mem::take(&mut self.kept));
                    heard.add(path, point, Some(Duration::ZERO));
                }
                Age::Unknown => heard.add(path, point, None),
            }
        }
        Ok(heard.updates())
    }

    fn take_first(&mut self, first: proto::SubscribeResponse) -> Vec<Update> {
        let now = self.now();
        let entries: Vec<_> = first.entries.into_iter().collect();
        let stamps: Vec<_> = entries.iter().map(|(_, point)| stamp(point)).collect();
        let ages = self.ages.kept(now, &stamps);
        let mut heard = Heard::new(&*self.clock);
        for ((path, point), age) in entries.into_iter().zip(ages) {
            self.kept.insert(path.clone());
            heard.add(path, point, age);
        }
        heard.updates()
    }

    fn now(&self) -> Timestamp {
        let (wall, boottime) = self.began;
        let passed = self.clock.boottime().since(boottime);
        wall.saturating_add(passed).unwrap_or(wall)
    }
}

async fn message(messages: &mut Streaming<proto::SubscribeResponse>) -> Result<proto::SubscribeResponse, String> {
    match messages.message().await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err("it has ended the subscription".to_owned()),
        Err(status) => Err(said("Subscribe", &status)),
    }
}

fn stamp(point: &proto::Datapoint) -> Option<Timestamp> {
    let stamp = point.timestamp.as_ref()?;
    Timestamp::new(stamp.seconds, stamp.nanos).ok()
}

/// What one message says.
struct Heard {
    now: Boottime,
    set: BTreeMap<Boottime, Vec<(String, Value)>>,
    forget: Vec<String>,
    had: Vec<String>,
}

impl Heard {
    fn new(clock: &dyn Clock) -> Self {
        Self {
            now: clock.boottime(),
            set: BTreeMap::new(),
            forget: Vec::new(),
            had: Vec::new(),
        }
    }

    fn add(&mut self, path: String, point: proto::Datapoint, age: Option<Duration>) {
        // Whatever it is worth, somebody has said it: the car has the signal.
        let said = point.value.is_some();
        // Arrays are none of ours, and are not known here.
        let value = point.value.and_then(|value| value.typed_value).map(value);
        // What was said before the car's computer was there is too old for anything.
        let at = age.and_then(|age| self.now.0.checked_sub(age));
        if let Some((value, at)) = value.zip(at) {
            self.set.entry(Boottime(at)).or_default().push((path, value));
        } else {
            self.had.extend(said.then(|| path.clone()));
            self.forget.push(path);
        }
    }

    /// What is forgotten first, then what was said, the oldest first.
    fn updates(self) -> Vec<Update> {
        let forget = Update {
            forget: self.forget,
            had: self.had,
            ..Update::default()
        };
        let set = self.set.into_iter().map(|(at, set)| Update {
            set,
            at: Some(at),
            ..Update::default()
        });
        let forget = Some(forget).filter(|update| !update.forget.is_empty());
        forget.into_iter().chain(set).collect()
    }
}

fn value(value: proto::value::TypedValue) -> Value {
    use proto::value::TypedValue as Typed;
    #[expect(
        clippy::cast_precision_loss,
        reason = "exact up to 2^53, which no signal of ours comes near"
    )]
    match value {
        Typed::String(text) => Value::Text(text),
        Typed::Bool(is) => Value::Bool(is),
        Typed::Int32(number) => Value::Number(number.into()),
        Typed::Uint32(number) => Value::Number(number.into()),
        Typed::Int64(number) => Value::Number(number as f64),
        Typed::Uint64(number) => Value::Number(number as f64),
        Typed::Float(number) => Value::Number(number.into()),
        Typed::Double(number) => Value::Number(number),
    }
}
