//! Images that were found without a signature that counts, a short while ago: an attempt that wants one again is refused when it comes, and
//! nobody is asked.
//!
//! Kept by `signed`, asked when an attempt is admitted. It may be lost without harm. What must never happen: an image that is declined by keys
//! that the owner has changed meanwhile, or for longer than it takes to sign it and try again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kerbside_core::owner::Publisher;
use tokio::time::Instant;

/// A signature that is put there later is found after this at the latest.
const REMEMBERED: Duration = Duration::from_mins(1);
/// So many images are remembered.
const MOST: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Declined(Mutex<Vec<Entry>>);

#[derive(Debug)]
struct Entry {
    reference: String,
    publishers: Vec<Publisher>,
    why: String,
    until: Instant,
}

impl Declined {
    /// It was found so just now.
    pub(super) fn note(&self, reference: &str, publishers: &[Publisher], why: &str) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        entries.retain(|entry| entry.reference != reference && entry.until > now);
        if entries.len() >= MOST {
            entries.remove(0);
        }
        entries.push(Entry {
            reference: reference.to_owned(),
            publishers: publishers.to_vec(),
            why: why.to_owned(),
            until: now + REMEMBERED,
        });
    }

    /// It was found signed.
    pub(super) fn forget(&self, reference: &str) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|entry| entry.reference != reference);
    }

    /// Why it is declined, if that is known.
    pub(super) fn why(&self, reference: &str, publishers: &[Publisher]) -> Option<String> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let known =
            |entry: &&Entry| entry.reference == reference && entry.publishers == publishers && entry.until > now;
        entries.iter().find(known).map(|entry| entry.why.clone())
    }
}

#[cfg(test)]
mod tests {
    use kerbside_core::owner::PublicKey;
    use tokio::time::advance;

    use super::*;

    fn publisher(name: &str) -> [Publisher; 1] {
        [Publisher {
            name: name.to_owned(),
            public_key: PublicKey::Ed25519([1; 32]),
        }]
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_known_for_a_while_by_the_same_keys_and_no_longer() {
        let (declined, alice) = (Declined::default(), publisher("alice"));
        declined.note("a", &alice, "why");
        assert_eq!(declined.why("a", &alice).as_deref(), Some("why"));
        assert_eq!(declined.why("b", &alice), None);
        assert_eq!(declined.why("a", &publisher("bob")), None);
        advance(REMEMBERED).await;
        assert_eq!(declined.why("a", &alice), None);
        declined.note("a", &alice, "why");
        declined.forget("a");
        assert_eq!(declined.why("a", &alice), None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_are_kept() {
        let (declined, alice) = (Declined::default(), publisher("alice"));
        for reference in 0..=MOST {
            declined.note(&reference.to_string(), &alice, "why");
        }
        assert_eq!(declined.why("0", &alice), None);
        assert!(declined.why("1", &alice).is_some());
    }
}
