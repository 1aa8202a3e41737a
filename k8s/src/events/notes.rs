//! Which of the things said about an object something is: the first, the second. Owned by the [`Recorder`](super::Recorder); pure.
//!
//! The numbers must never run past [`MOST`]: each is an object in the API.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use tokio::time::Instant;

/// Different notes about one object with one reason that are told apart; client-go's correlator begins to combine at as many.
pub(super) const MOST: usize = 10;
/// For so long after it was last said a note has its number. Longer than kube's recorder remembers its series (6 minutes), so that no number
/// goes to another note while its recorder still counts the old one.
const MEMORY: Duration = Duration::from_mins(10);

/// What was said lately.
#[derive(Debug, Default)]
pub(super) struct Notes(HashMap<About, Said>);

/// The object, the place within it, and the reason.
#[derive(Debug, PartialEq, Eq, Hash)]
struct About([Option<String>; 5], String);

#[derive(Debug)]
struct Said {
    /// A digest of each note, in the order of their first time.
    notes: Vec<u64>,
    last: Instant,
}

impl Notes {
    /// The number of `note` among those with this `reason` about this `object`, from 0 to [`MOST`] - 1; the last is shared.
    pub(super) fn number(&mut self, object: &ObjectReference, reason: &str, note: &str, now: Instant) -> usize {
        self.0
            .retain(|_, said| now.saturating_duration_since(said.last) < MEMORY);
        let of = |text: &Option<String>| text.clone();
        let about = About(
            [
                of(&object.uid),
                of(&object.kind),
                of(&object.namespace),
                of(&object.name),
                of(&object.field_path),
            ],
            reason.to_owned(),
        );
        let mut digest = DefaultHasher::new();
        note.hash(&mut digest);
        let digest = digest.finish();
        let said = self.0.entry(about).or_insert_with(|| Said {
            notes: Vec::new(),
            last: now,
        });
        said.last = now;
        if let Some(number) = said.notes.iter().position(|known| *known == digest) {
            return number;
        }
        if said.notes.len() < MOST {
            said.notes.push(digest);
        }
        said.notes.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(name: &str) -> ObjectReference {
        ObjectReference {
            name: Some(name.to_owned()),
            ..ObjectReference::default()
        }
    }

    #[test]
    fn what_is_said_again_has_its_number_and_other_words_the_next() {
        let (mut notes, now) = (Notes::default(), Instant::now());
        let mut say = |name: &str, reason: &str, note: &str| notes.number(&about(name), reason, note, now);
        assert_eq!(say("a", "Unhealthy", "Startup probe failed"), 0);
        assert_eq!(say("a", "Unhealthy", "Liveness probe failed"), 1);
        assert_eq!(say("a", "Unhealthy", "Startup probe failed"), 0);
        assert_eq!(say("a", "Failed", "Liveness probe failed"), 0, "another reason");
        assert_eq!(say("b", "Unhealthy", "Liveness probe failed"), 0, "another object");
    }

    #[test]
    fn containers_of_a_pod_are_told_apart() {
        let (mut notes, now) = (Notes::default(), Instant::now());
        let mut one = about("a");
        notes.number(&one, "Started", "one", now);
        one.field_path = Some("spec.containers{two}".into());
        assert_eq!(notes.number(&one, "Started", "two", now), 0);
    }

    #[test]
    fn last_number_stands_for_all_that_follow() {
        let (mut notes, now) = (Notes::default(), Instant::now());
        let numbers: Vec<_> = (0..MOST + 5)
            .map(|i| notes.number(&about("a"), "Unhealthy", &format!("{i}"), now))
            .collect();
        assert_eq!(numbers[..MOST], (0..MOST).collect::<Vec<_>>());
        assert_eq!(numbers[MOST..], [MOST - 1; 5]);
    }

    #[test]
    fn what_was_not_said_for_long_is_forgotten() {
        let (mut notes, now) = (Notes::default(), Instant::now());
        notes.number(&about("a"), "Unhealthy", "one", now);
        assert_eq!(notes.number(&about("a"), "Unhealthy", "two", now + MEMORY / 2), 1);
        assert_eq!(
            notes.number(&about("a"), "Unhealthy", "one", now + MEMORY),
            0,
            "heard half the time ago"
        );
        assert_eq!(notes.number(&about("a"), "Unhealthy", "two", now + MEMORY * 2), 0);
        assert_eq!(notes.0.len(), 1);
    }
}
