//! How long to wait before trying again: the one place for it.
//!
//! Called by every controller's error policy. Waits double and are jittered (`core::backoff`), so that an API server or a store
//! that comes back is not met by everybody at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kerbside_core::backoff::Backoff;

/// Counts the failures in a row of each key.
#[derive(Debug)]
pub(crate) struct Failures<K> {
    in_a_row: Mutex<HashMap<K, u32>>,
}

impl<K> Default for Failures<K> {
    fn default() -> Self {
        Self {
            in_a_row: Mutex::default(),
        }
    }
}

impl<K: Hash + Eq> Failures<K> {
    /// The wait after one more failure of `key`.
    pub(crate) fn failed(&self, key: K) -> Duration {
        let mut in_a_row = self.in_a_row.lock().unwrap_or_else(PoisonError::into_inner);
        let times = in_a_row.entry(key).or_default();
        *times = times.saturating_add(1);
        Backoff::CALL.jittered(*times, rand::random())
    }

    /// `key` did not fail, or is gone.
    pub(crate) fn succeeded(&self, key: &K) {
        self.in_a_row.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_grows_per_key_and_begins_anew_after_success() {
        let failures = Failures::default();
        for _ in 0..10 {
            failures.failed("a");
        }
        assert!(failures.failed("a") >= Backoff::CALL.cap / 2);
        assert!(failures.failed("b") <= Backoff::CALL.base);
        failures.succeeded(&"a");
        assert!(failures.failed("a") <= Backoff::CALL.base);
    }
}
