//! Events, one recorder per program.
//!
//! A recorder is made once and cloned: it remembers what it published and turns repeats into a series, which a new one per
//! reconcile would defeat. Publishing never fails its caller: an Event is a courtesy, and a lost one is logged.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder as KubeRecorder, Reporter};

/// Publishes Events under one program's name. Cheap to clone.
#[derive(Clone)]
pub struct Recorder(KubeRecorder);

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
    pub fn new(client: Client, program: &str, instance: Option<&str>) -> Self {
        let reporter = Reporter {
            controller: program.to_owned(),
            instance: instance.map(str::to_owned),
        };
        Self(KubeRecorder::new(client, reporter))
    }

    /// Publishes one Event about `object`; `note` is cut to the API's 1,024 bytes.
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
        if let Err(error) = self.0.publish(&event, object).await {
            tracing::warn!(%error, reason, object = object.name.as_deref(), "failed to publish an event");
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
mod tests {
    use super::cut;

    #[test]
    fn note_is_cut_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
    }
}
