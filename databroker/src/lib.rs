//! A databroker with the protocol (`kuksa.val.v2`) and the habits of Eclipse KUKSA's: for tests and demos, and for a look at an agent without a
//! car.
//!
//! No package source has a databroker that could be run, so this is what Kerbside's agent is tried on; PyPI's `kuksa-client`, which others
//! wrote, is tried on it too. It has the habits that are traps for who listens: values outlive whoever provided them, a slow reader loses
//! messages without a word, one unknown path refuses all and one that may not be read is left out in silence, numbers of signals change
//! with each start, the end of a token ends a subscription, and it sends no sign of life. What must never happen: that it is kinder than
//! the real one. In four things it still is: signatures of tokens and the ranges of values are not looked at, all signals are sensors, and
//! a value that is said again unchanged is told again, which the real one does for signals that are declared `continuous` only.
//!
//! | file | what |
//! |---|---|
//! | `service` | the calls |
//! | `token` | who may read and say what |
//! | `vss` | the signals of a car, for each release of VSS, and what they say while it is parked |
//! | `main` | the program |

pub mod proto;
mod service;
mod token;
pub mod vss;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use proto::val_server::ValServer;
use proto::value::TypedValue;
use proto::{DataType, Datapoint, SubscribeRequest, SubscribeResponse};
pub use token::unsigned;
use tokio::sync::broadcast;
use tonic::Status;

/// What time it is, by the broker's clock.
pub type Wall = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A signal that the broker knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// Its VSS path.
    pub path: String,
    /// What values it may have.
    pub data_type: DataType,
    /// `None`: nobody has ever set it.
    pub point: Option<Datapoint>,
}

/// Who is let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Admits {
    /// Everybody, for everything.
    #[default]
    All,
    /// Whoever shows one of these.
    Tokens(Vec<String>),
    /// Whoever shows one that is in this file at the time, one a line.
    File(PathBuf),
}

/// A broker. Cheap to clone: all clones are the same one.
#[derive(Clone)]
pub struct Databroker {
    state: Arc<Mutex<State>>,
    wall: Wall,
}

struct State {
    signals: BTreeMap<String, Signal>,
    /// The number of the first one.
    first: i32,
    readers: Vec<Reader>,
    admits: Admits,
    asked: Vec<SubscribeRequest>,
}

struct Reader {
    paths: BTreeSet<String>,
    tells: broadcast::Sender<SubscribeResponse>,
}

impl Databroker {
    /// One that knows these signals, of which the first has the number `first`, and goes by this clock.
    pub fn new(signals: impl IntoIterator<Item = Signal>, first: i32, wall: Wall) -> Self {
        let signals = signals
            .into_iter()
            .map(|signal| (signal.path.clone(), signal))
            .collect();
        let state = State {
            signals,
            first,
            readers: Vec::new(),
            admits: Admits::All,
            asked: Vec::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            wall,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets these in from now on. Who listens already goes on.
    pub fn admit(&self, admits: Admits) {
        self.state().admits = admits;
    }

    fn now(&self, value: Option<TypedValue>) -> Datapoint {
        let point = said((self.wall)(), TypedValue::Bool(false));
        let value = value.map(|value| proto::Value {
            typed_value: Some(value),
        });
        Datapoint { value, ..point }
    }

    /// What a provider says, with a stamp as it is given: also one that no broker with a right clock would give. A signal that is not known
    /// becomes known.
    pub fn put(&self, path: &str, point: Datapoint) {
        let mut state = self.state();
        let signal = Signal {
            path: path.to_owned(),
            data_type: DataType::Unspecified,
            point: None,
        };
        state.signals.entry(path.to_owned()).or_insert(signal).point = Some(point.clone());
        state.tell(path, &[(path.to_owned(), point)].into());
    }

    /// A provider takes back what it said. Who listens is told so by a message without the signal, as some brokers do.
    pub fn withdraw(&self, path: &str) {
        let mut state = self.state();
        if let Some(signal) = state.signals.get_mut(path) {
            signal.point = None;
        }
        state.tell(path, &HashMap::new());
    }

    /// As if it had been started anew: all subscriptions end, and signals have other numbers.
    pub fn restart(&self) {
        let mut state = self.state();
        state.readers.clear();
        state.first += 1_000;
    }

    /// The subscriptions that were asked for and not refused, the first one first.
    pub fn asked(&self) -> Vec<SubscribeRequest> {
        self.state().asked.clone()
    }

    /// To be given to a server.
    pub fn service(&self) -> ValServer<Self> {
        ValServer::new(self.clone())
    }
}

impl State {
    /// Tells everybody who listens to this signal; who does not listen any more is forgotten.
    fn tell(&mut self, path: &str, entries: &HashMap<String, Datapoint>) {
        self.readers.retain(|reader| reader.tells.receiver_count() > 0);
        for reader in self.readers.iter().filter(|reader| reader.paths.contains(path)) {
            // Gone since.
            let _ = reader.tells.send(SubscribeResponse {
                entries: entries.clone(),
            });
        }
    }

    fn find(&self, signal: Option<&proto::SignalId>) -> Result<&Signal, Status> {
        use proto::signal_id::Signal as By;
        let found = match signal.and_then(|signal| signal.signal.as_ref()) {
            None => return Err(Status::invalid_argument("no signal is named")),
            Some(By::Path(path)) => self.signals.get(path),
            Some(By::Id(id)) => id
                .checked_sub(self.first)
                .and_then(|place| usize::try_from(place).ok())
                .and_then(|place| self.signals.values().nth(place)),
        };
        found.ok_or_else(|| Status::not_found("the signal is not known"))
    }
}

/// A value with the moment at which it was said.
pub fn said(at: Timestamp, value: TypedValue) -> Datapoint {
    Datapoint {
        timestamp: Some(prost_types::Timestamp {
            seconds: at.as_second(),
            nanos: at.subsec_nanosecond(),
        }),
        value: Some(proto::Value {
            typed_value: Some(value),
        }),
    }
}
