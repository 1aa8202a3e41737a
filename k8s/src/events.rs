//! Events, one recorder per program.
//!
//! A recorder is made once and cloned: it remembers what it published and turns repeats into a series, which a new one per
//! reconcile would defeat. What is said in other words is an Event of its own, as from a kubelet: who waits for "Liveness probe
//! failed" must not get the startup probe's failure with a higher count. Publishing never fails its caller: an Event is a courtesy,
//! and a lost one is logged. Nor does it delay one that has something better to wait for: [`queue`] takes the waiting over, as
//! client-go's event broadcaster does.

mod notes;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder as KubeRecorder, Reporter};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use notes::Notes;

/// Events that wait to be published. A program that has more to tell than this is in more trouble than they could explain.
const MOST_WAITING: usize = 1_000;
/// How long a program that is stopped goes on telling what waits.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// An API server that takes longer has lost the Event: the next ones wait behind it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Publishes Events under one program's name. Cheap to clone.
#[derive(Clone)]
pub struct Recorder(Arc<Variants>);

/// kube's recorder takes all Events of one object and reason for repeats of the first, whatever they say. So the first thing that is said
/// of them has a recorder, the second another, and so on.
struct Variants {
    recorders: [KubeRecorder; notes::MOST],
    said: Mutex<Notes>,
}

/// Whether an Event tells of something to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Somebody may want to look.
    Warning,
}

impl Recorder {
    /// A recorder for `program` (shown as the Event's source), running as `instance`.
    pub fn new(client: &Client, program: &str, instance: Option<&str>) -> Self {
        let reporter = Reporter {
            controller: program.to_owned(),
            instance: instance.map(str::to_owned),
        };
        Self(Arc::new(Variants {
            recorders: std::array::from_fn(|_| KubeRecorder::new(client.clone(), reporter.clone())),
            said: Mutex::default(),
        }))
    }

    /// Publishes one Event about `object`; `note` is cut to the API's 1,024 bytes. When the same was said within the last minutes, that Event
    /// counts one more. Of ten different notes with one reason the tenth stands for all that follow.
    pub async fn publish(&self, object: &ObjectReference, severity: Severity, reason: &str, action: &str, note: &str) {
        let event = Event {
            type_: match severity {
                Severity::Normal => EventType::Normal,
                Severity::Warning => EventType::Warning,
            },
            reason: reason.to_owned(),
            note: Some(cut(note, 1_024).to_owned()),
            action: action.to_owned(),
            secondary: None,
        };
        // Every write gives the object another version: what differs in that alone is the same.
        let object = &ObjectReference {
            resource_version: None,
            ..object.clone()
        };
        let variant = {
            let mut said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.number(object, reason, note, Instant::now())
        };
        let Some(recorder) = self.0.recorders.get(variant) else {
            return;
        };
        if let Err(error) = recorder.publish(&event, object).await {
            tracing::warn!(%error, reason, object = object.name.as_deref(), "failed to publish an event");
        }
    }
}

/// Where Events wait until they are published, in their order. Cheap to clone.
#[derive(Clone)]
pub struct EventQueue(mpsc::Sender<Waiting>);

/// Publishes what waits, one after the other.
pub struct Broadcaster {
    recorder: Recorder,
    waiting: mpsc::Receiver<Waiting>,
}

struct Waiting {
    object: ObjectReference,
    severity: Severity,
    reason: String,
    action: String,
    note: String,
}

/// A queue of at most 1,000 Events, and who publishes them by `recorder`.
pub fn queue(recorder: Recorder) -> (EventQueue, Broadcaster) {
    let (sender, waiting) = mpsc::channel(MOST_WAITING);
    (EventQueue(sender), Broadcaster { recorder, waiting })
}

impl EventQueue {
    /// Leaves one Event about `object` to be published, without waiting. When the queue is full, or its broadcaster has ended, the
    /// Event is lost and logged.
    pub fn publish(&self, object: ObjectReference, severity: Severity, reason: &str, action: &str, note: &str) {
        let waiting = Waiting {
            object,
            severity,
            reason: reason.to_owned(),
            action: action.to_owned(),
            note: note.to_owned(),
        };
        if let Err(error) = self.0.try_send(waiting) {
            let why = match &error {
                mpsc::error::TrySendError::Full(_) => "too many wait",
                mpsc::error::TrySendError::Closed(_) => "the program is stopping",
            };
            tracing::warn!(why, reason, note, "an event was not published");
        }
    }
}

impl Broadcaster {
    /// Publishes until every queue is gone; after `stop`, for at most two seconds more. What is done while the program stops is told too.
    pub async fn run(mut self, stop: CancellationToken) {
        let over = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        let all = async {
            while let Some(next) = self.waiting.recv().await {
                self.recorder.tell(next).await;
            }
        };
        tokio::select! {
            () = all => return,
            () = over => {}
        }
        let lost = self.waiting.len();
        if lost > 0 {
            tracing::warn!(lost, "events were not published before the end");
        }
    }

    /// Publishes what waits now, and returns.
    pub async fn drain(&mut self) {
        while let Ok(next) = self.waiting.try_recv() {
            self.recorder.tell(next).await;
        }
    }
}

impl Recorder {
    async fn tell(&self, next: Waiting) {
        let Waiting {
            object,
            severity,
            reason,
            action,
            note,
        } = next;
        let told = self.publish(&object, severity, &reason, &action, &note);
        if tokio::time::timeout(PATIENCE, told).await.is_err() {
            tracing::warn!(
                reason,
                note,
                "an event was not published: the API server does not answer"
            );
        }
    }
}

/// The longest prefix of at most `max` bytes that ends between characters.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or(text)
}

#[cfg(test)]
mod tests;
